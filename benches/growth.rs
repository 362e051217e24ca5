//! How the time of a training step grows with the batch and with the model, compared with its floating-point
//! operations and the bytes that it moves.
//!
//! `cargo bench -p downhill-benches --bench growth -- --svg docs/step-time.svg` measures for less than a
//! minute, which needs an idle machine, prints all points and draws them.

mod plot;

use plot::{Panel, Series};
use ps_core::optim::Sgd;
use ps_core::{Activation, Gradients, Head, Kernel, LearningRate, Model, NodeSum, Samples, Trainer};
use ps_plan::BatchPlan;
use rayon::prelude::*;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

const FEATURES: usize = 784;
const CLASSES: usize = 10;
const SAMPLES: usize = 8192;
const LEAF: usize = 32;
/// The batch size with which the model grows.
const BATCH: usize = 128;
const THREADS: [usize; 2] = [1, 2];
/// Number of measurements of every point. All points take turns, and the median counts.
const ROUNDS: usize = 7;
/// A measurement repeats the step until it takes this long.
const MIN_SECONDS: f64 = 0.02;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        // Run as a test, this only checks that the code builds: timings beside other tests would be
        // meaningless.
        return ExitCode::SUCCESS;
    }
    let svg = arguments.iter().position(|argument| argument == "--svg").map(|at| arguments.get(at + 1));
    if svg == Some(None) {
        eprintln!("--svg needs a path, such as --svg docs/step-time.svg");
        return ExitCode::FAILURE;
    }
    let samples = Pixels::new();
    let mut by_batch = Vec::new();
    let mut by_width = Vec::new();
    for threads in THREADS {
        for hidden in [&[][..], &[128], &[512, 256]] {
            let sizes = (4..=12).map(|power| 1 << power);
            let cases = sizes.map(|batch| (batch as f64, Case::new(hidden, batch, threads)));
            by_batch.push(measure(name(hidden), cases.collect(), &samples));
        }
        let sizes = (4..=11).map(|power| 1 << power);
        let cases = sizes.map(|width| (width as f64, Case::new(&[width, width], BATCH, threads)));
        by_width.push(measure(format!("{FEATURES}-w-w-{CLASSES}"), cases.collect(), &samples));
    }
    println!(
        "growth of the time over growth of the work, most of any two points of a series (1: as the work):"
    );
    for series in by_batch.iter().chain(&by_width) {
        println!("{:>20} threads={}: {:.2}", series.name, series.threads, series.excess());
    }
    let panels = [
        Panel { title: "A growing batch".into(), x: "samples in the batch".into(), series: by_batch },
        Panel {
            title: format!("A growing model, batches of {BATCH}"),
            x: "width w of the hidden layers".into(),
            series: by_width,
        },
    ];
    let Some(Some(path)) = svg else { return ExitCode::SUCCESS };
    match std::fs::write(path, plot::svg(&panels)) {
        Ok(()) => {
            println!("{path} is written");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{path}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A point of a series, with the operations and bytes that a step needs.
struct Case {
    model: Model,
    batch: usize,
    threads: usize,
}

impl Case {
    fn new(hidden: &[usize], batch: usize, threads: usize) -> Self {
        let model = Model::new(FEATURES, hidden, Activation::Relu, Head::Softmax, CLASSES);
        Case { model, batch, threads }
    }

    /// Floating-point operations of a step: forward pass, weight gradients, and gradients of all inputs
    /// except the samples. Each takes one multiplication and one addition per weight and sample.
    fn operations(&self) -> f64 {
        let per_sample = |layer: usize, weights: usize| if layer == 0 { 4 * weights } else { 6 * weights };
        let layers = self.model.dense_layers().enumerate();
        layers.map(|(l, layer)| per_sample(l, layer.inputs * layer.outputs) * self.batch).sum::<usize>()
            as f64
    }

    /// Bytes that a step moves if nothing stays in a cache. Each parameter is read forward and backward, its
    /// gradient is written, and the update reads gradient, weight and velocity and writes the last two. Each
    /// sample is read, rearranged, and read again forward and for the gradient. Each hidden unit is written
    /// and read forward, read and written backward, and read twice for the gradient.
    fn bytes(&self) -> f64 {
        let hidden: usize = self.model.dense_layers().skip(1).map(|layer| layer.inputs).sum();
        (4 * (8 * self.model.parameters() + (4 * FEATURES + 6 * hidden) * self.batch)) as f64
    }
}

/// Measures all cases, which must have the same number of threads, in turn.
fn measure(name: String, cases: Vec<(f64, Case)>, samples: &Pixels) -> Series {
    let threads = cases[0].1.threads;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
    let bandwidth = pool.install(bandwidth);
    let mut steps: Vec<_> = cases.iter().map(|(_, case)| step(case, samples)).collect();
    let mut times = vec![Vec::new(); cases.len()];
    pool.install(|| {
        let mut repeats = Vec::new();
        for step in &mut steps {
            // The first step allocates buffers.
            step();
            let once = seconds(&mut *step, 1);
            repeats.push((MIN_SECONDS / once).ceil().clamp(1.0, 1000.0) as usize);
        }
        for _ in 0..ROUNDS {
            for ((step, times), &repeat) in steps.iter_mut().zip(&mut times).zip(&repeats) {
                times.push(seconds(&mut *step, repeat));
            }
        }
    });
    let times: Vec<f64> = times.into_iter().map(median).collect();
    // The highest rate of the series.
    let rates = cases.iter().zip(&times).map(|((_, case), time)| case.operations() / time);
    let rate = rates.fold(0.0, f64::max);
    println!(
        "{name}, threads={threads}: at most {:.1} GFLOP/s; memory {:.1} GB/s",
        rate / 1e9,
        bandwidth / 1e9
    );
    let points = cases.iter().zip(&times).map(|((at, case), &measured)| {
        let (operations, bytes) = (case.operations(), case.bytes());
        let predicted = operations / rate + bytes / bandwidth;
        println!(
            "{at:>8} {:>10.3} MFLOP {:>10.3} MB {:>10.3} ms, predicted {:>10.3} ms",
            operations / 1e6,
            bytes / 1e6,
            measured * 1e3,
            predicted * 1e3
        );
        plot::Point { at: *at, operations, bytes, measured, predicted }
    });
    Series { points: points.collect(), name, threads }
}

/// Returns a function that makes the next step on each call.
fn step<'a>(case: &Case, samples: &'a Pixels) -> Box<dyn FnMut() + Send + 'a> {
    let plan = BatchPlan::new(1, SAMPLES, case.batch, LEAF.min(case.batch), 1_000_000, None);
    let momentum = Sgd { momentum: 0.9, ..Sgd::default() };
    let mut trainer = Trainer::new(&case.model, plan, momentum, LearningRate::constant(1e-4));
    let kernel = Kernel::chosen().unwrap_or_else(|error| panic!("{error}"));
    let mut gradients = Gradients::new(case.model.clone(), plan, kernel);
    Box::new(move || {
        let version = trainer.version();
        let leaves = plan.step(version).tree().leaves();
        let mut root = gradients.compute(trainer.weights(), samples, version, 0..leaves).remove(0);
        let report = trainer.finish(&mut root).expect("so small a rate does not diverge");
        gradients.recycle(NodeSum { metric_sums: report.metric_sums, ..root });
    })
}

/// Measures the bytes per second that the threads of this pool read and write in memory that does not fit
/// into any cache.
fn bandwidth() -> f64 {
    const ELEMENTS: usize = 1 << 24;
    let from = vec![1.0_f32; ELEMENTS];
    let mut to = vec![0.0_f32; ELEMENTS];
    let part = ELEMENTS / rayon::current_num_threads();
    let mut copy = || {
        to.par_chunks_mut(part).zip(from.par_chunks(part)).for_each(|(to, from)| to.copy_from_slice(from));
        black_box(&mut to);
    };
    copy();
    let times = (0..ROUNDS).map(|_| seconds(&mut copy, 1));
    (2 * 4 * ELEMENTS) as f64 / median(times.collect())
}

fn seconds(work: &mut (impl FnMut() + ?Sized), repeat: usize) -> f64 {
    let start = Instant::now();
    (0..repeat).for_each(|_| work());
    start.elapsed().as_secs_f64() / repeat as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn name(hidden: &[usize]) -> String {
    let widths = [&[FEATURES], hidden, &[CLASSES]].concat();
    widths.iter().map(ToString::to_string).collect::<Vec<_>>().join("-")
}

/// Samples in memory, enough for the largest batch.
struct Pixels(Vec<f32>);

impl Pixels {
    fn new() -> Self {
        Pixels((0..SAMPLES * FEATURES).map(|at| f32::from((at * 31 + at / 7) as u8) / 255.0).collect())
    }
}

impl Samples for Pixels {
    fn len(&self) -> usize {
        SAMPLES
    }
    fn features(&self) -> usize {
        FEATURES
    }
    fn write_row(&self, index: usize, row: &mut [f32]) {
        row.copy_from_slice(&self.0[index * FEATURES..][..FEATURES]);
    }
    fn target(&self, index: usize) -> f32 {
        (index % CLASSES) as f32
    }
}
