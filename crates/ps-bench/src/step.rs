//! Training steps in a single process.

use crate::{Bench, Entrant, Error, Measurement, race};
use ps_core::gradient::InPlace;
use ps_core::optim::Sgd;
use ps_core::{
    Activation, Control, ControlConfig, Gradients, Head, Kernel, LearningRate, Model, ModelOptimizer,
    NodeSum, Samples,
};
use ps_plan::BatchPlan;
use ps_plane::Plane;

/// The default number of samples of a leaf.
const LEAF: usize = 32;

/// The models by their hidden layers, with the batches that each is measured with.
const WORKS: [(&[usize], &[usize]); 5] = [
    (&[], &[64, 1024]),
    (&[16, 16], &[64]),
    (&[128], &[128]),
    (&[512, 256], &[64, 1024]),
    (&[2048, 2048], &[64, 1024]),
];

pub(crate) fn measure(bench: &mut Bench, kernel: Kernel) -> Result<(), Error> {
    if !["tree/step", "step"].iter().any(|name| bench.is_selected(name)) {
        return Ok(());
    }
    let text = "data.train = \"digits:2048\"\nmodel.kind = \"softmax\"\nlearning_rate.initial = 0.1\n";
    let job = crate::built_in(text)?;
    let samples: &dyn Samples = &job.data.train;
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let mut threads = vec![1, all];
    threads.dedup();
    tree(bench, kernel, samples, &[512, 256], 128)?;
    for (hidden, batches) in WORKS {
        for &batch in batches {
            for &threads in &threads {
                steps(bench, kernel, samples, hidden, batch, threads)?;
            }
        }
    }
    Ok(())
}

/// Measures steps with `threads` threads.
fn steps(
    bench: &mut Bench,
    kernel: Kernel,
    samples: &dyn Samples,
    hidden: &[usize],
    batch: usize,
    threads: usize,
) -> Result<(), Error> {
    let name = format!("step/{}/b{batch}/t{threads}", name(hidden));
    if !bench.is_selected(&name) {
        return Ok(());
    }
    let effort = bench.effort();
    let time =
        pool(threads)?.install(|| race(&mut [step(&name, kernel, samples, hidden, batch, LEAF)], effort)[0]);
    bench.report(Measurement::new(name, batch as f64 / time, "samples/s"))
}

/// Measures a step with leaves against one without, on one thread.
fn tree(
    bench: &mut Bench,
    kernel: Kernel,
    samples: &dyn Samples,
    hidden: &[usize],
    batch: usize,
) -> Result<(), Error> {
    let group = format!("tree/step/{}/b{batch}", name(hidden));
    if !bench.is_selected(&group) {
        return Ok(());
    }
    let labels = [("no-leaves", batch), ("leaf-32", 32), ("leaf-64", 64)];
    let names = labels.map(|(label, _)| format!("{group}/{label}"));
    let effort = bench.effort();
    let times = pool(1)?.install(|| {
        let mut entrants = labels.map(|(label, leaf)| step(label, kernel, samples, hidden, batch, leaf));
        race(&mut entrants, effort)
    });
    bench.report(Measurement::new(&names[0], times[0] * 1e6, "us"))?;
    for (name, time) in names.iter().zip(&times).skip(1) {
        bench.report(Measurement::new(name, time * 1e6, "us").against(&names[0], times[0] * 1e6))?;
    }
    Ok(())
}

/// Computes the gradient of all leaves and updates, repeatedly, like `downhill train` with one worker.
fn step<'a>(
    name: &str,
    kernel: Kernel,
    samples: &'a dyn Samples,
    hidden: &[usize],
    batch: usize,
    leaf: usize,
) -> Entrant<'a> {
    let (model, plan) = (model(samples, hidden), plan(samples, batch, leaf));
    let momentum = Sgd { momentum: 0.9, ..Sgd::default() };
    let rate = LearningRate::constant(0.001);
    let suits = InPlace::suits(&model, &momentum.into());
    let control =
        Control::new(ControlConfig::default(), ModelOptimizer::new(momentum, &model, plan.seed), plan, rate);
    if suits {
        let mut plane = Plane::fused(model, control, kernel);
        return Entrant::new(name, move || {
            plane.compute(samples);
            plane.finish().expect("so small a rate does not diverge");
        });
    }
    let mut plane = Plane::shared(model.clone(), control);
    let mut gradients = Gradients::new(model, plan, kernel);
    Entrant::new(name, move || {
        let version = plane.version();
        let leaves = plan.step(version).tree().leaves();
        let root = gradients.compute(plane.weights(), samples, version, 0..leaves).remove(0);
        let node = root.node;
        plane.take_sum(root);
        let report = plane.finish().expect("so small a rate does not diverge");
        gradients.recycle(NodeSum { node, gradient: plane.take_gradient(), metric_sums: report.metric_sums });
    })
}

fn model(samples: &dyn Samples, hidden: &[usize]) -> Model {
    Model::new(samples.features(), hidden, Activation::Relu, Head::Softmax, 10)
}

/// Returns a plan that practically never ends.
fn plan(samples: &dyn Samples, batch: usize, leaf: usize) -> BatchPlan {
    BatchPlan::new(1, samples.len(), batch, leaf, 1_000_000, None)
}

fn pool(threads: usize) -> Result<rayon::ThreadPool, Error> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|error| Error::failed("a step", format!("starting threads: {error}")))
}

/// Formats the widths of a model as its name.
fn name(hidden: &[usize]) -> String {
    let widths: Vec<String> = [784].iter().chain(hidden).chain(&[10]).map(ToString::to_string).collect();
    widths.join("-")
}
