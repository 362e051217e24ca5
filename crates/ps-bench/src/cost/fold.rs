//! Costs of a chunk in the process that holds the weights (check for finite values, fold, update) and of a
//! worker's copy.

use crate::cost::time::median_seconds;
use crate::fold_update::FoldBench;
use bytes::Bytes;
use ps_core::precision::Element;
use ps_proto::tensor;
use ps_run::Job;
use ps_scale::Costs;

const TURNS: usize = 7;

pub(crate) fn measure(job: &Job, costs: &mut Costs) {
    let elements = job.model.parameters();
    let bytes = 4.0 * elements as f64;
    let nodes: Vec<Bytes> = (0..4).map(|_| tensor::share(vec![0.001; elements])).collect();
    let mut kept = FoldBench::new(elements, job.optimizer.params);
    // The update adds the last two nodes; earlier ones are added before.
    let [two, four] = [2, 4].map(|count| median_seconds(TURNS, || kept.step(&nodes[..count])));
    costs.update_byte = two / bytes;
    costs.add_byte = ((four - two) / 2.0).max(0.0) / bytes;
    let finite = |node: &Bytes| {
        let (elements, _) = node.as_chunks::<4>();
        let is_finite = |element: &Element| f32::from_le_bytes(*element).is_finite();
        elements.chunks(4096).all(|run| run.iter().fold(true, |finite, element| finite & is_finite(element)))
    };
    costs.check_byte = median_seconds(TURNS, || {
        std::hint::black_box(finite(&nodes[0]));
    }) / bytes;
    let mut copy = vec![0.0; elements];
    costs.take_byte = median_seconds(TURNS, || {
        tensor::read(&nodes[1], &mut copy);
        std::hint::black_box(&copy);
    }) / bytes;
}
