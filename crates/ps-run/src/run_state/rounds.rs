//! The timeline of the last rounds.

use crate::trace::Trace;
use serde::Serialize;
use std::collections::VecDeque;
use std::collections::vec_deque::Iter;

/// Number of complete rounds that are kept.
const MAX_ROUNDS: usize = 48;

/// The timeline of a round. Times are seconds since the run state was created.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Round {
    /// The step that the round makes, counted from 0.
    pub step: u64,
    /// When its first leaves were assigned.
    pub began: f64,
    /// When its update was complete.
    pub ended: f64,
    /// The activities of workers and weight holders, in the order in which they began.
    pub spans: Vec<Span>,
}

/// An activity with its duration.
#[derive(Clone, Debug, Serialize)]
pub struct Span {
    /// The process that did it.
    pub lane: String,
    /// The activity: `gradient`, `update`, or one outside of the rounds.
    pub what: &'static str,
    /// When it began, in seconds.
    pub from: f64,
    /// When it ended, in seconds.
    pub until: f64,
    /// Details such as the leaves of a gradient; may be empty.
    pub detail: String,
}

/// The last complete rounds, and the open one.
#[derive(Debug, Default)]
pub struct Rounds {
    closed: VecDeque<Round>,
    open: Round,
    trace: Option<Trace>,
}

impl Rounds {
    /// The complete rounds, oldest first.
    pub fn iter(&self) -> Iter<'_, Round> {
        self.closed.iter()
    }

    /// Also writes complete rounds to a trace file.
    pub(super) fn trace(&mut self, trace: Trace) {
        self.trace = Some(trace);
    }

    /// Records that the worker on `lane` was assigned leaves of `step`.
    pub(super) fn assign(&mut self, lane: String, step: u64, detail: String, now: f64) {
        if self.open.step != step || self.open.spans.is_empty() {
            self.open = Round { step, began: now, ended: now, spans: Vec::new() };
        }
        // The span has no length until a sum of it arrives.
        self.open.spans.push(Span { lane, what: "gradient", from: now, until: now, detail });
    }

    /// Extends the last span of the worker on `lane` up to a sum that has just arrived.
    pub(super) fn contribute(&mut self, lane: &str, now: f64) {
        if let Some(span) = self.open.spans.iter_mut().rev().find(|span| span.lane == lane) {
            span.until = now;
        }
    }

    /// Closes the open round; `holder` has been updating the weights since `from`.
    pub(super) fn close(&mut self, holder: &str, from: f64, now: f64) {
        let mut round = std::mem::take(&mut self.open);
        let detail = String::new();
        round.spans.push(Span { lane: holder.into(), what: "update", from, until: now, detail });
        round.ended = now;
        // A span without length produced no sum, so the round did not wait for it.
        round.spans.retain(|span| span.until > span.from);
        if let Some(trace) = &mut self.trace {
            trace.round(&round);
        }
        self.closed.push_back(round);
        if self.closed.len() > MAX_ROUNDS {
            self.closed.pop_front();
        }
    }

    /// Traces an activity outside of the rounds.
    pub(super) fn add_span(&mut self, lane: &str, what: &'static str, from: f64, until: f64) {
        if let Some(trace) = &mut self.trace {
            trace.span(&Span { lane: lane.into(), what, from, until, detail: String::new() });
        }
    }

    /// Writes buffered output to the trace file.
    pub(super) fn flush(&mut self) {
        if let Some(trace) = &mut self.trace {
            trace.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_keeps_only_work_that_contributed() {
        let mut rounds = Rounds::default();
        rounds.assign("a".into(), 3, "leaves 0 to 4".into(), 1.0);
        rounds.assign("b".into(), 3, "leaves 4 to 8".into(), 1.5);
        rounds.contribute("a", 2.0);
        rounds.close("update", 2.5, 3.0);
        let round = rounds.iter().next().unwrap();
        assert_eq!((round.step, round.began, round.ended), (3, 1.0, 3.0));
        let spans: Vec<_> = round.spans.iter().map(|span| (&span.lane[..], span.from, span.until)).collect();
        assert_eq!(spans, [("a", 1.0, 2.0), ("update", 2.5, 3.0)]);
        for step in 4..=60 {
            rounds.assign("a".into(), step, String::new(), 4.0);
            rounds.close("update", 5.0, 6.0);
        }
        let steps: Vec<u64> = rounds.iter().map(|round| round.step).collect();
        assert_eq!(steps, (60 - MAX_ROUNDS as u64 + 1..=60).collect::<Vec<_>>());
    }
}
