//! What the numbers need of a data set.

/// Samples in memory, addressed by index. Implemented by `ps-data`'s splits.
pub trait Samples: Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Features of every sample.
    fn features(&self) -> usize;

    /// Writes the features of sample `index`, preprocessed, to `row` (`[features]`).
    fn write_row(&self, index: usize, row: &mut [f32]);

    /// Sample `index` will be wanted soon: a chance to bring its features nearer.
    fn prefetch(&self, _index: usize) {}

    /// Target of sample `index`: a class number (0, 1, …) for logistic and softmax heads, a value otherwise.
    fn target(&self, index: usize) -> f32;
}
