//! The phases of a run, as its process reports them.

use serde::Serialize;

/// Where a run stands. Phases are ordered, and a run only moves forward through them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// No step has begun: the process prepares the run or waits for workers.
    #[default]
    Starting,
    /// Steps are made.
    Training,
    /// No step follows: the final weights are evaluated and the results written.
    Finishing,
    /// All steps were made, or early stopping found that enough were; the results are written.
    Done,
    /// The user stopped the run; the results so far are written.
    Stopped,
    /// An error ended the run; there are no results.
    Failed,
}

impl Phase {
    /// Whether the run has ended.
    pub fn is_over(self) -> bool {
        self >= Phase::Done
    }

    /// Moves on to `next`, unless that lies behind or the run is over: the first end to be reported stays.
    pub(crate) fn advance(&mut self, next: Phase) {
        if !self.is_over() && *self < next {
            *self = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Phase; 6] =
        [Phase::Starting, Phase::Training, Phase::Finishing, Phase::Done, Phase::Stopped, Phase::Failed];

    #[test]
    fn a_run_moves_forward_only_and_its_first_end_stays() {
        for from in ALL {
            for next in ALL {
                let mut phase = from;
                phase.advance(next);
                let expected = if from.is_over() { from } else { from.max(next) };
                assert_eq!(phase, expected, "from {from:?} to {next:?}");
            }
        }
        assert_eq!(ALL.map(Phase::is_over), [false, false, false, true, true, true]);
    }
}
