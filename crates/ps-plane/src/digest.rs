//! The hash of a node's sum, by which audits compare the results of two workers for the same samples.

use ps_coord::Digest;
use ps_core::MetricSums;
use ps_plan::mutation::{ActiveMutation, Mutation};
use sha2::{Digest as _, Sha256};

/// The hash of a chunk.
pub(crate) fn of_chunk(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The hash of a node: of the hashes of its chunks, in order, and of its metric sums.
pub(crate) fn of_node(
    chunks: impl Iterator<Item = [u8; 32]>,
    metric_sums: &MetricSums,
    mutation: ActiveMutation,
) -> Digest {
    let mut hash = Sha256::new();
    chunks.for_each(|chunk| hash.update(chunk));
    if mutation.is(Mutation::DigestOmitsMetrics) {
        return Digest(hash.finalize().into());
    }
    for sum in metric_sums.floats() {
        // The two workers may run on machines of different byte order.
        hash.update(sum.to_bits().to_le_bytes());
    }
    for count in [metric_sums.samples, metric_sums.correct]
        .iter()
        .chain(metric_sums.classes.iter().flatten())
        .chain(&metric_sums.predicted)
    {
        hash.update(count.to_le_bytes());
    }
    Digest(hash.finalize().into())
}
