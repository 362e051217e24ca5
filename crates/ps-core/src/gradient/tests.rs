//! Compares the fast path with the plain loops.

use super::*;
use crate::layer::{Activation, KINDS, LayerSpec};
use crate::model::{Head, chain};
use crate::reference;
use ps_plan::seed::{Purpose, Stream};

struct Table {
    rows: Vec<Vec<f32>>,
    targets: Vec<f32>,
}

impl Samples for Table {
    fn len(&self) -> usize {
        self.rows.len()
    }
    fn features(&self) -> usize {
        self.rows[0].len()
    }
    fn write_row(&self, index: usize, row: &mut [f32]) {
        row.copy_from_slice(&self.rows[index]);
    }
    fn target(&self, index: usize) -> f32 {
        self.targets[index]
    }
}

fn table(samples: usize, features: usize, classes: u32) -> Table {
    let mut stream = Stream::new(5, Purpose::Probe, 0);
    Table {
        rows: (0..samples).map(|_| (0..features).map(|_| 2.0 * stream.unit() - 1.0).collect()).collect(),
        targets: (0..samples).map(|_| stream.below(classes) as f32).collect(),
    }
}

fn same(left: &NodeSum, right: &NodeSum, what: &str) {
    assert_eq!(left.metric_sums, right.metric_sums, "{what}");
    for (at, (l, r)) in left.gradient.iter().zip(&right.gradient).enumerate() {
        assert_eq!(l.to_bits(), r.to_bits(), "{what}: parameter {at}: {l} and {r}");
    }
}

#[test]
fn every_kernel_thread_count_and_shape_gives_the_bits_of_the_reference() {
    // Features, layers, head, classes, batch, leaf.
    let cases = [
        (7, vec![], Head::SquaredError, 1, 20, 4),
        (33, vec![], Head::Logistic, 2, 64, 8),
        (70, vec![], Head::Softmax, 10, 128, 32),
        (5, vec![], Head::Poisson, 4, 31, 7),
        (40, chain(&[50], Activation::Relu), Head::Softmax, 10, 200, 32),
        (100, chain(&[70, 33], Activation::Tanh), Head::Softmax, 40, 150, 16),
        (17, chain(&[16, 16], Activation::Sigmoid), Head::SquaredError, 1, 97, 13),
        (3, chain(&[1], Activation::Tanh), Head::Logistic, 2, 13, 1),
        (300, chain(&[200], Activation::Relu), Head::Softmax, 3, 300, 150),
        (8, vec![LayerSpec::Activation(Activation::Relu)], Head::Softmax, 3, 30, 15),
    ];
    // The example of each kind of layer, as the first layers and after others.
    let of_kinds = KINDS.into_iter().flat_map(|kind| {
        let dense = [LayerSpec::Dense { units: 40 }, LayerSpec::Activation(Activation::Tanh)];
        let lists = [kind.example.to_vec(), [&dense, kind.example].concat()];
        lists.map(|layers| (21, layers, Head::Softmax, 40, 130, 9))
    });
    for (features, layers, head, classes, batch, leaf) in cases.into_iter().chain(of_kinds) {
        let samples = table(batch + batch / 2, features, classes as u32);
        let model = Model::of_layers(features, &layers, head, classes);
        let plan = BatchPlan::new(3, samples.len(), batch, leaf, 1, None);
        let mut weights = model.initial(1);
        let mut stream = Stream::new(9, Purpose::Probe, 0);
        weights.iter_mut().for_each(|w| *w += 0.1 * (stream.unit() - 0.5));
        for step in 0..plan.steps {
            let place = plan.step(step);
            let wanted = reference::batch_sum(&model, &weights, &samples, plan, place);
            for kernel in Kernel::available() {
                for threads in [1, 3] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let mut gradients = Gradients::new(model.clone(), plan, kernel);
                    let tree = place.tree();
                    let what = format!("{features} {layers:?} {head:?} step {step} {}", kernel.name());
                    let got = pool.install(|| gradients.compute(&weights, &samples, step, 0..tree.leaves()));
                    assert_eq!(got.len(), 1);
                    same(&got[0], &wanted, &what);
                    // The same gradient, folded from two ranges.
                    let cut = tree.leaves() / 3;
                    let mut fold = Fold::new(tree);
                    for leaves in [cut..tree.leaves(), 0..cut] {
                        let sums =
                            pool.install(|| gradients.compute(&weights, &samples, step, leaves.clone()));
                        sums.into_iter().for_each(|sum| assert!(fold.insert(sum)));
                    }
                    same(&fold.take_root().unwrap(), &wanted, &what);
                }
            }
        }
    }
}

#[test]
fn evaluation_and_prediction_agree_with_the_plain_forward_pass() {
    let samples = table(700, 20, 5);
    let model = Model::new(20, &[35], Activation::Tanh, Head::Softmax, 5);
    let weights = model.initial(4);
    let plan = BatchPlan::new(1, 700, 64, 8, 1, None);
    for kernel in Kernel::available() {
        let mut gradients = Gradients::new(model.clone(), plan, kernel);
        let total = gradients.evaluate(&weights, &samples);
        let predictions = gradients.predict(&weights, &samples);
        let mut plain = Vec::new();
        let mut correct = 0;
        for (index, row) in samples.rows.iter().enumerate() {
            let mut z = reference::dense_inputs(&model, &weights, row).pop().unwrap();
            Head::Softmax.predict(&mut z);
            assert_eq!(&predictions[index * 5..][..5], z);
            let mut z = reference::dense_inputs(&model, &weights, row).pop().unwrap();
            let outcome = Head::Softmax.backward(&mut z, samples.targets[index]);
            correct += u64::from(outcome.detail == samples.targets[index]);
            plain.push(outcome);
        }
        let leaves = samples.targets.chunks(256).zip(plain.chunks(256)).map(|(t, o)| metric_sums(5, t, o));
        assert_eq!(Some(total.clone()), fold_metric_sums(leaves.collect()));
        assert_eq!((total.samples, total.correct), (700, correct));
    }
}

#[test]
fn dropout_is_repeated_for_a_probed_batch_and_off_for_validation() {
    let samples = table(90, 20, 5);
    let layers = [LayerSpec::Dense { units: 30 }, LayerSpec::Dropout { rate: 0.5 }];
    let model = Model::of_layers(20, &layers, Head::Softmax, 5);
    let without = Model::of_layers(20, &layers[..1], Head::Softmax, 5);
    let weights = model.initial(4);
    let plan = BatchPlan::new(1, 90, 40, 8, 2, None).watching(90, 1);
    for kernel in Kernel::available() {
        let mut gradients = Gradients::new(model.clone(), plan, kernel);
        // The step after the first epoch.
        let tree = plan.step(3).tree();
        let mut metric_sums = |section: Section| {
            let parts: [&dyn Samples; 2] = [&samples, &samples];
            let mut sums = gradients.evaluate_leaves(&weights, parts, 3, tree.section(section));
            sums.pop().unwrap().1
        };
        let again = metric_sums(Section::LastBatch);
        assert_eq!(again, reference::batch_sum(&model, &weights, &samples, plan, plan.step(2)).metric_sums);
        assert_ne!(again, reference::batch_sum(&without, &weights, &samples, plan, plan.step(2)).metric_sums);
        let validation = reference::evaluate(&without, &weights, &samples);
        assert_eq!(metric_sums(Section::Validation), validation);
        assert_eq!(gradients.evaluate(&weights, &samples), validation);
        // Gradients without dropout, as explanations need them.
        let mut evaluated = Gradients::new(model.clone(), plan, kernel).of_evaluation();
        let leaves = plan.step(2).tree().leaves();
        let sum = evaluated.compute(&weights, &samples, 2, 0..leaves).pop().unwrap();
        same(&sum, &reference::batch_sum(&without, &weights, &samples, plan, plan.step(2)), "an evaluation");
    }
}

#[test]
fn in_place_steps_have_the_bits_of_separate_gradients_and_updates() {
    use crate::optim::{OptimizerParams, Sgd};
    use crate::reference;
    use crate::schedule::LearningRate;
    let sgd = |momentum, nesterov| OptimizerParams::from(Sgd { momentum, nesterov });
    let (plain, momentum) = (sgd(0.0, false), sgd(0.9, false));
    let all = OptimizerParams { weight_decay: 0.01, l1: 0.001, clip: Some(0.05), ..sgd(0.9, true) };
    // Features, hidden widths, classes, batch, leaf; the last batch of an epoch is short.
    let cases: [(usize, &[usize], usize, usize, usize); 4] = [
        (33, &[40], 10, 40, 8),
        (70, &[96, 20], 3, 64, 32),
        (20, &[17, 100], 40, 25, 10),
        (9, &[], 5, 16, 16),
    ];
    for (features, hidden, classes, batch, leaf) in cases {
        let samples = table(batch + batch / 3, features, classes as u32);
        let model = Model::new(features, hidden, Activation::Relu, Head::Softmax, classes);
        let plan = BatchPlan::new(3, samples.len(), batch, leaf, 2, None);
        let rate = LearningRate::constant(0.1);
        for optimizer in [plain, momentum, all] {
            let wanted = reference::train(&model, plan, optimizer, rate, &samples, |_, _| {}).unwrap();
            for (kernel, threads) in
                Kernel::available().into_iter().flat_map(|kernel| [(kernel, 1), (kernel, 3)])
            {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut holder = InPlace::new(&model, plan, optimizer, kernel);
                pool.install(|| {
                    for step in (0..plan.steps).map(|step| plan.step(step)) {
                        holder.compute(&samples, step);
                        assert!(holder.update(step, 0.1).gradient);
                    }
                });
                let what = format!("{features} {hidden:?} {optimizer:?} {}", kernel.name());
                for (at, (got, wanted)) in holder.weights().iter().zip(&wanted).enumerate() {
                    assert_eq!(got.to_bits(), wanted.to_bits(), "{what}: parameter {at}: {got} and {wanted}");
                }
            }
        }
    }
}

/// A [`Flow`] whose weights arrive layer by layer, each only when it is waited for. Unfinished parts of its
/// sums are NaN.
struct Slow {
    ends: Vec<usize>,
    arriving: Vec<f32>,
    all: Vec<f32>,
    /// Number of layers that arrive before the flow ends.
    come: usize,
    nodes: Vec<(Node, MetricSums, Vec<f32>)>,
    /// A log of the calls, in order.
    said: Vec<String>,
}

impl Slow {
    fn new(model: &Model, all: &[f32]) -> Self {
        Slow {
            ends: model.dense_layers().map(|dense| dense.bias_range().end).collect(),
            arriving: vec![f32::NAN; all.len()],
            all: all.to_vec(),
            come: usize::MAX,
            nodes: Vec::new(),
            said: Vec::new(),
        }
    }
}

impl Flow for Slow {
    fn weights(&mut self, needed: usize) -> Option<(usize, &[f32])> {
        let layer = self.ends.iter().position(|&end| end == needed).unwrap();
        if layer >= self.come {
            return None;
        }
        self.said.push(format!("forward {layer}"));
        // One parameter of the next layer arrives with it.
        let here = self.all.len().min(needed + 1);
        self.arriving[..here].copy_from_slice(&self.all[..here]);
        Some((here, &self.arriving))
    }

    fn node(&mut self, node: Node) -> &mut MetricSums {
        self.nodes.push((node, MetricSums::new(10), vec![f32::NAN; self.all.len()]));
        &mut self.nodes.last_mut().unwrap().1
    }

    fn gradient(&mut self, number: usize) -> &mut [f32] {
        &mut self.nodes[number].2
    }

    fn finished(&mut self, number: usize, from: usize) {
        let (open, done) = self.nodes[number].2.split_at(from);
        assert!(open.iter().all(|value| value.is_nan()), "an earlier layer's gradient is computed before");
        assert!(done.iter().all(|value| value.is_finite()), "what is said to be final is not computed");
        self.said.push(format!(
            "gradient {} of node {number}",
            self.ends.iter().filter(|&&end| end <= from).count()
        ));
    }
}

fn slow_case() -> (Table, Model, BatchPlan, Vec<f32>) {
    let samples = table(150, 40, 10);
    // More parameters than a small model has.
    let model = Model::new(40, &[600, 70], Activation::Relu, Head::Softmax, 10);
    let plan = BatchPlan::new(3, samples.len(), 150, 16, 1, None);
    let weights = model.initial(1);
    (samples, model, plan, weights)
}

#[test]
fn a_forward_pass_starts_before_all_weights_arrive_and_sends_gradients_early() {
    let (samples, model, plan, weights) = slow_case();
    assert!(model.parameters() > SMALL_MODEL);
    for (kernel, threads) in Kernel::available().into_iter().flat_map(|kernel| [(kernel, 1), (kernel, 3)]) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut gradients = Gradients::new(model.clone(), plan, kernel);
        let mut slow = Slow::new(&model, &weights);
        // Leaves 1 to 3 of ten are covered by the nodes (0, 1) and (1, 1).
        assert!(pool.install(|| gradients.compute_flowing(&mut slow, &samples, 0, 1..4)));
        let expected = [
            "forward 0",
            "forward 1",
            "forward 2",
            "gradient 2 of node 0",
            "gradient 2 of node 1",
            "gradient 1 of node 0",
            "gradient 1 of node 1",
            "gradient 0 of node 0",
            "gradient 0 of node 1",
        ];
        assert_eq!(slow.said, expected);
        let wanted = pool.install(|| gradients.compute(&weights, &samples, 0, 1..4));
        for ((node, metric_sums, gradient), wanted) in slow.nodes.into_iter().zip(&wanted) {
            let what = format!("{}, {threads} threads, node {node}", kernel.name());
            assert_eq!(node, wanted.node, "{what}");
            same(&NodeSum { node, gradient, metric_sums }, wanted, &what);
        }
    }
}

#[test]
fn missing_weights_end_a_computation_before_anything_is_sent() {
    let (samples, model, plan, weights) = slow_case();
    let mut gradients = Gradients::new(model.clone(), plan, Kernel::detect());
    let mut slow = Slow { come: 1, ..Slow::new(&model, &weights) };
    assert!(!gradients.compute_flowing(&mut slow, &samples, 0, 0..10));
    assert_eq!((slow.said.len(), slow.nodes.len()), (1, 0));
}

#[test]
fn a_small_model_is_passed_to_the_flow_as_a_whole() {
    let samples = table(400, 20, 10);
    let model = Model::new(20, &[16], Activation::Relu, Head::Softmax, 10);
    let plan = BatchPlan::new(3, samples.len(), 400, 16, 1, None);
    let weights = model.initial(1);
    let mut gradients = Gradients::new(model.clone(), plan, Kernel::detect());
    let wanted = gradients.compute(&weights, &samples, 0, 0..25);
    let mut slow = Slow { ends: vec![weights.len()], ..Slow::new(&model, &weights) };
    assert!(gradients.compute_flowing(&mut slow, &samples, 0, 0..25));
    assert_eq!(slow.said, ["forward 0", "gradient 0 of node 0"]);
    let (node, metric_sums, gradient) = slow.nodes.remove(0);
    same(&NodeSum { node, gradient, metric_sums }, &wanted[0], "a small model");
}
