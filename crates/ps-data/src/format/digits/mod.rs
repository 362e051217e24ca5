//! `digits:COUNT,seed=N`: the built-in data set of handwritten-looking digits with 28x28 pixels,
//! drawn by code.
//!
//! Drawing i of a series depends only on the seed of the series and on i. All arithmetic consists of
//! additions, multiplications, divisions, square roots and comparisons in binary32, so every platform draws
//! the same bytes.

mod pen;
mod shapes;

use super::{Format, Reader, csv};
use crate::dataset::Image;
use crate::error::DataError;
use crate::progress::{ReadContext, ReadProgress};
use crate::raw::{Pixels, Raw};
use ndarray::Array2;
use pen::{Canvas, SIDE};
use ps_host::Ceiling;
use ps_plan::seed::{Purpose, random};
use rayon::prelude::*;
use shapes::{Point, SHAPES};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// Number of drawings if a source does not give one.
const DIGITS_COUNT: usize = 20_000;
/// Seed of the series if a source does not give one.
const DIGITS_SEED: u64 = 1;

pub(super) const FORMAT: Format = Format {
    prefix: "digits",
    name: "digits",
    usage: "digits:COUNT",
    reads_stdin: false,
    parse: |rest| Ok(Box::new(parse(rest)?)),
};

/// The first `count` drawings of the series with this seed.
struct Digits {
    count: usize,
    seed: u64,
}

impl Reader for Digits {
    fn files(&self) -> Vec<&str> {
        Vec::new()
    }

    fn read(&self, _: &[PathBuf], from: ReadContext<'_>, _: &csv::Options) -> Result<Raw, DataError> {
        check_size(self.count)?;
        Ok(Raw::Pixels(draw(self.count, self.seed, from.progress)))
    }
}

fn parse(rest: &str) -> Result<Digits, String> {
    let (count, seed) = match rest.split_once(',') {
        Some((count, seed)) => (count.trim(), Some(seed.trim())),
        None => (rest.trim(), None),
    };
    let count = match count {
        "" => DIGITS_COUNT,
        text => match text.parse() {
            Ok(count @ 1..=10_000_000) => count,
            _ => return Err(format!("expected a number of drawings from 1 to 10000000, found `{text}`")),
        },
    };
    let seed = match seed {
        None => DIGITS_SEED,
        Some(text) => text
            .strip_prefix("seed=")
            .and_then(|number| number.trim().parse().ok())
            .ok_or_else(|| format!("expected seed=N, found `{text}`"))?,
    };
    Ok(Digits { count, seed })
}

/// Number of drawings that a thread makes at a time.
const BLOCK: usize = 64;
/// Number of straight segments between two points of a stroke.
const PIECES: usize = 6;
/// Number of times that each point of a curve is averaged with its neighbours.
const ROUNDING: usize = 14;
/// Number of vectors along each side of the grid that distorts a drawing.
const GRID: usize = 4;

/// Refuses a number of drawings that would not fit into memory.
fn check_size(count: usize) -> Result<(), DataError> {
    let (size, ceiling) = (count as u64 * (SIDE * SIDE + 1) as u64, Ceiling::memory(1));
    if size <= ceiling.bytes() {
        return Ok(());
    }
    let size = ps_host::bytes(size.into());
    Err(DataError::unfit(format!("digits:{count}"), format!("the drawings need {size}; {ceiling}")))
}

/// Draws the first `count` drawings of the series `seed`.
fn draw(count: usize, seed: u64, progress: &dyn ReadProgress) -> Pixels {
    let mut pixels = Array2::zeros((count, SIDE * SIDE));
    let mut labels = vec![0; count];
    let total = (count * SIDE * SIDE) as u64;
    let done = AtomicU64::new(0);
    let bytes = pixels.as_slice_mut().expect("features are row-major");
    bytes.par_chunks_mut(BLOCK * SIDE * SIDE).zip(labels.par_chunks_mut(BLOCK)).enumerate().for_each(
        |(block, (bytes, labels))| {
            let images = bytes.chunks_exact_mut(SIDE * SIDE).zip(labels.iter_mut());
            for (index, (image, label)) in (block * BLOCK..).zip(images) {
                *label = class(seed, index as u64);
                draw_one(*label, Chance::new(seed, index as u64), image);
            }
            let size = bytes.len() as u64;
            progress.file("digits:", done.fetch_add(size, Ordering::Relaxed) + size, total);
        },
    );
    let place = || format!("digits:{count},seed={seed}");
    Pixels {
        location: place(),
        labels_location: place(),
        pixels,
        image: Some(Image { height: SIDE, width: SIDE }),
        labels: Some(labels),
        classes: Some(10),
    }
}

/// The digit of drawing `index`. Every ten drawings contain all ten digits in random order.
fn class(seed: u64, index: u64) -> u8 {
    let mut digits = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    for place in (1..10_u64).rev() {
        // The nine swaps of ten drawings take nine words, from three counters of four words each.
        let word = random(seed, Purpose::Digits, 1, index / 10 * 3 + place / 4)[place as usize % 4];
        digits.swap(place as usize, ((u64::from(word) * (place + 1)) >> 32) as usize);
    }
    digits[(index % 10) as usize]
}

/// The random numbers of one drawing: the words at counter `256 * index` and above.
struct Chance {
    seed: u64,
    counter: u64,
    words: [u32; 4],
    used: usize,
}

impl Chance {
    fn new(seed: u64, index: u64) -> Self {
        Chance { seed, counter: 256 * index, words: [0; 4], used: 4 }
    }

    fn word(&mut self) -> u32 {
        if self.used == 4 {
            self.words = random(self.seed, Purpose::Digits, 0, self.counter);
            self.counter += 1;
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// Draws uniformly from `low..high`.
    fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * ((self.word() >> 8) as f32 * (1.0 / 16_777_216.0))
    }

    /// Draws a number around 0 that is rarely near ±`size`: the mean of three uniform numbers.
    fn around(&mut self, size: f32) -> f32 {
        (self.uniform(-size, size) + self.uniform(-size, size) + self.uniform(-size, size)) * (1.0 / 3.0)
    }

    fn below(&mut self, bound: usize) -> usize {
        ((u64::from(self.word()) * bound as u64) >> 32) as usize
    }
}

/// Draws one digit into `image`, `[SIDE * SIDE]`.
fn draw_one(digit: u8, mut chance: Chance, image: &mut [u8]) {
    let shapes = SHAPES[usize::from(digit)];
    let shape = shapes[chance.below(shapes.len())];
    let hand = Handwriting::new(&mut chance);
    let mut moved: Vec<(Point, Point)> = Vec::new();
    let mut curves: Vec<Vec<Point>> = Vec::with_capacity(shape.len());
    for stroke in shape {
        let points: Vec<Point> = stroke.iter().map(|&point| jitter(point, &mut moved, &mut chance)).collect();
        curves.push(smooth(&points).into_iter().map(|point| hand.place(point)).collect());
    }
    centre(&mut curves, [chance.around(2.2), chance.around(2.2)]);

    let mut canvas = Canvas::new(chance.uniform(0.9, 1.7));
    let radius = hand.size * chance.uniform(0.7, 1.6);
    for curve in &curves {
        // Pen pressure varies: the radius changes linearly from start to end.
        let (start, end) = (radius * (1.0 + chance.around(0.35)), radius * (1.0 + chance.around(0.35)));
        canvas.stroke(curve, start, end);
    }
    canvas.ink(chance.uniform(0.75, 1.0), image);
}

/// Moves a point of a shape slightly. The same point always moves the same way.
fn jitter(point: Point, moved: &mut Vec<(Point, Point)>, chance: &mut Chance) -> Point {
    if let Some((_, to)) = moved.iter().find(|(from, _)| *from == point) {
        return *to;
    }
    let to = [point[0] + chance.around(0.055), point[1] + chance.around(0.055)];
    moved.push((point, to));
    to
}

/// A Catmull-Rom curve through `points` as a chain of short straight segments, with its corners rounded like
/// those of a moving hand.
fn smooth(points: &[Point]) -> Vec<Point> {
    let last = points.len() - 1;
    let mut chain = vec![points[0]];
    for span in 0..last {
        let [a, b, c, d] = [span.saturating_sub(1), span, span + 1, (span + 2).min(last)].map(|i| points[i]);
        for piece in 1..=PIECES {
            let t = piece as f32 / PIECES as f32;
            let at = |axis: usize| {
                let (a, b, c, d) = (a[axis], b[axis], c[axis], d[axis]);
                let (slope, bend) = (c - a, 2.0 * a - 5.0 * b + 4.0 * c - d);
                let twist = 3.0 * (b - c) + d - a;
                b + 0.5 * t * (slope + t * (bend + t * twist))
            };
            chain.push([at(0), at(1)]);
        }
    }
    for _ in 0..ROUNDING {
        let mut before = chain[0];
        for index in 1..chain.len() - 1 {
            let (here, after) = (chain[index], chain[index + 1]);
            chain[index] = [0, 1].map(|axis| 0.25 * (before[axis] + after[axis]) + 0.5 * here[axis]);
            before = here;
        }
    }
    chain
}

/// The handwriting of one drawing: a smooth distortion and an affine map to pixels.
struct Handwriting {
    grid: [[Point; GRID]; GRID],
    /// Rows of the 2x2 matrix that maps the box around 0 to pixels.
    matrix: [Point; 2],
    /// Relative size of the drawing, about 1.
    size: f32,
}

impl Handwriting {
    fn new(chance: &mut Chance) -> Self {
        let mut grid = [[[0.0; 2]; GRID]; GRID];
        grid.iter_mut().flatten().for_each(|vector| *vector = [chance.around(0.14), chance.around(0.14)]);
        // A rotation by twice the arc tangent of t.
        let t = chance.around(0.2);
        let (cos, sin) = ((1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t));
        let size = chance.uniform(0.84, 1.08);
        let height = 19.0 * size;
        let width = height * chance.uniform(0.75, 1.25);
        // Most handwriting leans to the right.
        let shear = 0.12 + chance.around(0.45);
        let (x, y) = ([width, -shear * height], [0.0, height]);
        let matrix = [
            [cos * x[0] - sin * y[0], cos * x[1] - sin * y[1]],
            [sin * x[0] + cos * y[0], sin * x[1] + cos * y[1]],
        ];
        Handwriting { grid, matrix, size }
    }

    /// Maps a point from the box of the shapes to pixels around 0.
    fn place(&self, [x, y]: Point) -> Point {
        let ([dx, dy], [a, b]) = (self.distortion(x, y), self.matrix);
        let (x, y) = (x + dx - 0.5, y + dy - 0.5);
        [a[0] * x + a[1] * y, b[0] * x + b[1] * y]
    }

    /// Interpolates the vectors of the grid smoothly.
    fn distortion(&self, x: f32, y: f32) -> Point {
        let cell = |v: f32| {
            let v = v.clamp(0.0, 1.0) * (GRID - 1) as f32;
            let low = v.floor().min((GRID - 2) as f32);
            let t = v - low;
            (low as usize, t * t * (3.0 - 2.0 * t))
        };
        let ((i, s), (j, t)) = (cell(y), cell(x));
        let blend = |axis: usize| {
            let top = self.grid[i][j][axis] * (1.0 - t) + self.grid[i][j + 1][axis] * t;
            let bottom = self.grid[i + 1][j][axis] * (1.0 - t) + self.grid[i + 1][j + 1][axis] * t;
            top * (1.0 - s) + bottom * s
        };
        [blend(0), blend(1)]
    }
}

/// Moves the centre of the drawing to the centre of the image plus `shift`.
fn centre(curves: &mut [Vec<Point>], shift: Point) {
    for (axis, shift) in shift.into_iter().enumerate() {
        let values = curves.iter().flatten().map(|point| point[axis]);
        let (low, high) = values.fold((f32::MAX, f32::MIN), |(low, high), v| (low.min(v), high.max(v)));
        let offset = SIDE as f32 * 0.5 + shift - (low + high) * 0.5;
        curves.iter_mut().flatten().for_each(|point| point[axis] += offset);
    }
}
