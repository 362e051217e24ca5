//! The phases of a run.

use serde::Serialize;

/// The phase of a run. Phases are ordered, and a run only moves forward through them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// No step has begun: the process prepares the run or waits for workers.
    #[default]
    Starting,
    /// The run makes steps.
    Training,
    /// All steps are made; the final weights are evaluated and the results written.
    Finishing,
    /// The run has ended because all steps were made or a policy ended it. The results are written.
    Done,
    /// The user stopped the run. The results so far are written.
    Stopped,
    /// An error ended the run; there are no results.
    Failed,
}

impl Phase {
    /// Returns whether the run has ended.
    pub fn is_over(self) -> bool {
        self >= Phase::Done
    }

    /// Moves on to `next`. Does nothing if `next` is earlier or the run has ended: the first end wins.
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
