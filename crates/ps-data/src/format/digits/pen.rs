//! Rasterisation of strokes: the darkness of a pixel depends on its distance to the stroke.

use super::shapes::Point;

/// Width and height of a drawing, in pixels.
pub(super) const SIDE: usize = 28;

/// For each pixel, the distance of its centre from the edge of the nearest stroke, negative
/// inside the stroke.
pub(super) struct Canvas {
    distance: [f32; SIDE * SIDE],
    /// Width of the edge over which ink fades, in pixels.
    fade: f32,
}

impl Canvas {
    /// Creates an empty canvas.
    pub(super) fn new(fade: f32) -> Self {
        Canvas { distance: [f32::MAX; SIDE * SIDE], fade }
    }

    /// Draws a chain of straight segments with a pen whose radius changes linearly from `start` to `end`.
    pub(super) fn stroke(&mut self, chain: &[Point], start: f32, end: f32) {
        let pieces = (chain.len() - 1) as f32;
        for (number, pair) in chain.windows(2).enumerate() {
            let radius = start + (end - start) * (number as f32 / pieces);
            self.piece(pair[0], pair[1], radius);
        }
    }

    fn piece(&mut self, from: Point, to: Point, radius: f32) {
        let reach = radius + self.fade * 0.5;
        let range = |a: f32, b: f32| {
            let bound = |v: f32| v.clamp(0.0, SIDE as f32) as usize;
            bound((a.min(b) - reach - 0.5).floor())..bound((a.max(b) + reach + 0.5).floor())
        };
        let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
        let square = dx * dx + dy * dy;
        let scale = if square > 0.0 { 1.0 / square } else { 0.0 };
        for row in range(from[1], to[1]) {
            for column in range(from[0], to[0]) {
                let (x, y) = (column as f32 + 0.5 - from[0], row as f32 + 0.5 - from[1]);
                let along = ((x * dx + y * dy) * scale).clamp(0.0, 1.0);
                let (x, y) = (x - along * dx, y - along * dy);
                let distance = (x * x + y * y).sqrt() - radius;
                let slot = &mut self.distance[row * SIDE + column];
                *slot = slot.min(distance);
            }
        }
    }

    /// Fills the strokes with ink of darkness `level` (0 to 1).
    pub(super) fn ink(&self, level: f32, image: &mut [u8]) {
        for (byte, &distance) in image.iter_mut().zip(&self.distance) {
            let covered = (0.5 - distance / self.fade).clamp(0.0, 1.0);
            *byte = (covered * level * 255.0 + 0.5).floor() as u8;
        }
    }
}
