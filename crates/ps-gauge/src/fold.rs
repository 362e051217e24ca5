//! What the keeper of weights does with a chunk: look whether it is finite, add, update; and a worker's copying.

use crate::time::median_seconds;
use bytes::Bytes;
use ps_core::chunk::{Element, Pool};
use ps_core::{ChunkFold, Node, Tree};
use ps_proto::limits::chunk_elements;
use ps_proto::tensor;
use ps_run::Job;
use ps_scale::Costs;

const TURNS: usize = 7;

pub(crate) fn measure(job: &Job, costs: &mut Costs) {
    let elements = job.model.parameters();
    let size = chunk_elements(elements);
    let bytes = 4.0 * elements as f64;
    let nodes: Vec<Bytes> = (0..4).map(|_| tensor::share(vec![0.001; elements])).collect();
    let pool = Pool::default();
    let old: Vec<Element> = vec![1.0_f32.to_le_bytes(); elements];
    let mut new = old.clone();
    let mut velocity = vec![0.0; if job.optimizer.momentum == 0.0 { 0 } else { elements }];
    let mut step = |count: u32| {
        median_seconds(TURNS, || {
            for first in (0..elements).step_by(size) {
                let range = first..elements.min(first + size);
                let mut fold = ChunkFold::new(Tree::new(count));
                for (index, node) in (0..count).zip(&nodes) {
                    fold.insert(Node::leaf(index), node.slice(4 * range.start..4 * range.end), &pool);
                }
                let velocity = if velocity.is_empty() { &mut [] } else { &mut velocity[range.clone()] };
                fold.update(&job.optimizer, 1, 0.001, &old[range.clone()], velocity, &mut new[range]);
            }
        })
    };
    // The last two nodes are added by the update, the others before.
    let (two, four) = (step(2), step(4));
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
