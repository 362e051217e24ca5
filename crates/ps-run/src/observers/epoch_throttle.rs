//! Limits how often a run with many short epochs reports one.

use crate::lines::EpochLine;
use std::time::{Duration, Instant};

/// A run with more epochs than this does not report all of the short ones.
const MIN_THROTTLED_EPOCHS: u32 = 50;
const MIN_EPOCH_INTERVAL: Duration = Duration::from_millis(200);

/// When the last epoch was reported.
#[derive(Default)]
pub(super) struct EpochThrottle {
    last: Option<Instant>,
}

impl EpochThrottle {
    /// Returns whether an epoch that ends at `now` is reported. The last epoch always is.
    pub(super) fn admits(&mut self, epoch: &EpochLine, now: Instant) -> bool {
        let is_quick = self.last.is_some_and(|last| now - last < MIN_EPOCH_INTERVAL);
        let is_admitted = !is_quick || epoch.epochs <= MIN_THROTTLED_EPOCHS || epoch.epoch == epoch.epochs;
        if is_admitted {
            self.last = Some(now);
        }
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measures::Measures;
    use ps_core::MetricSums;

    #[test]
    fn quick_epochs_are_skipped_where_there_are_many_but_not_the_last() {
        let begun = Instant::now();
        let admitted = |epochs: u32| -> Vec<u32> {
            let mut throttle = EpochThrottle::default();
            let epoch = |epoch| EpochLine {
                epoch,
                epochs,
                step: 0,
                steps: 0,
                train: Measures::new(&MetricSums::new(2), &[]),
                validation: None,
                learning_rate: 0.1,
                samples_per_second: 0.0,
                workers: 1,
                seconds: 0.0,
            };
            let at = |number: u32| begun + MIN_EPOCH_INTERVAL / 2 * number;
            (1..=epochs).filter(|&number| throttle.admits(&epoch(number), at(number))).collect()
        };
        assert_eq!(admitted(MIN_THROTTLED_EPOCHS), (1..=MIN_THROTTLED_EPOCHS).collect::<Vec<_>>());
        let expected: Vec<u32> = (1..=52).filter(|number| number % 2 == 1).chain([52]).collect();
        assert_eq!(admitted(52), expected);
    }
}
