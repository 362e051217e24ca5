//! Samples per second of a training step in one process: gradient of all leaves and update.

use downhill_benches::{Entrant, race};
use ps_core::model::{Activation, Head};
use ps_core::{BatchPlan, Gradients, Kernel, LearningRate, Model, NodeSum, Samples, SgdConfig, Trainer};

struct Pixels(usize);

impl Samples for Pixels {
    fn len(&self) -> usize {
        4096
    }
    fn features(&self) -> usize {
        self.0
    }
    fn write_row(&self, index: usize, row: &mut [f32]) {
        for (at, value) in row.iter_mut().enumerate() {
            *value = f32::from((index * 31 + at * 7) as u8) / 255.0;
        }
    }
    fn target(&self, index: usize) -> f32 {
        (index % 10) as f32
    }
}

fn main() {
    println!("{:>24} {:>6} {:>6} {:>8} {:>14}", "model", "batch", "leaf", "threads", "samples/s");
    for (hidden, batch) in [
        (&[][..], 64),
        (&[], 1024),
        (&[16, 16], 64),
        (&[128], 128),
        (&[512, 256], 64),
        (&[512, 256], 128),
        (&[512, 256], 1024),
        (&[2048, 2048], 64),
    ] {
        for (leaf, threads) in [(32, 1), (64, 1), (32, 2), (64, 2)] {
            step(hidden, batch, leaf, threads);
        }
    }
}

fn step(hidden: &[usize], batch: usize, leaf: usize, threads: usize) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    let samples = Pixels(784);
    let model = Model::new(784, hidden, Activation::Relu, Head::Softmax, 10);
    let plan = BatchPlan::new(1, samples.len(), batch, leaf, 1_000_000, None);
    let momentum = SgdConfig { momentum: 0.9, ..SgdConfig::default() };
    let mut trainer = Trainer::new(&model, plan, momentum, LearningRate::constant(0.001));
    let mut gradients = Gradients::new(model.clone(), plan, Kernel::chosen().expect("a known kernel"));
    let work = model.parameters() * batch * 6;
    let repeat = (400_000_000 / work).clamp(1, 200);
    let mut entrants = [Entrant::new("step", || {
        for _ in 0..repeat {
            let version = trainer.version();
            let leaves = plan.step(version).tree().leaves();
            let mut root =
                pool.install(|| gradients.compute(trainer.weights(), &samples, version, 0..leaves)).remove(0);
            let report = pool.install(|| trainer.finish(&mut root)).expect("it converges");
            gradients.recycle(NodeSum { tally: report.tally, ..root });
        }
    })];
    let time = race(&mut entrants, 15)[0] / repeat as f64;
    let name: Vec<String> = [784].iter().chain(hidden).chain(&[10]).map(ToString::to_string).collect();
    println!("{:>24} {batch:>6} {leaf:>6} {threads:>8} {:>14.0}", name.join("-"), batch as f64 / time);
}
