//! Confusion matrices.

use serde::Serialize;

/// A confusion matrix of a validation.
#[derive(Clone, Debug, Serialize)]
pub struct Confusion {
    /// Number of steps applied to the weights.
    pub step: u64,
    /// Samples by true class (row) and predicted class (column): `[classes, classes]`.
    pub counts: Vec<Vec<u64>>,
}

impl Confusion {
    /// Counts predictions, `[samples, outputs]`; a single output is the probability of the second class.
    pub(crate) fn new(
        step: u64,
        classes: usize,
        outputs: usize,
        targets: impl Iterator<Item = f32>,
        said: &[f32],
    ) -> Self {
        let mut counts = vec![vec![0; classes]; classes];
        for (target, said) in targets.zip(said.chunks(outputs)) {
            let best = match said {
                [positive] => usize::from(*positive > 0.5),
                _ => {
                    (1..said.len()).fold(0, |best, class| if said[class] > said[best] { class } else { best })
                }
            };
            counts[target as usize][best] += 1;
        }
        Confusion { step, counts }
    }
}
