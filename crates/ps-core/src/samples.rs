//! The data set as this crate sees it.

/// Samples in memory, addressed by index. Implemented by the splits of `ps-data`.
///
/// Indices run from 0 to `len() - 1`, and the same index always gives the same sample: batches refer to
/// samples by index, on every machine of a run.
pub trait Samples: Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// Whether there are no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of features per sample.
    fn features(&self) -> usize;

    /// Writes the features of sample `index`, preprocessed, to `row` (`[features]`).
    fn write_row(&self, index: usize, row: &mut [f32]);

    /// Prefetches the features of sample `index`, which will be read soon. Does nothing by default.
    fn prefetch(&self, _index: usize) {}

    /// Target of sample `index`: a class number (0, 1, …) for logistic and softmax heads, otherwise a value.
    fn target(&self, index: usize) -> f32;
}
