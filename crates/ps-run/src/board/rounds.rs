//! The last rounds, and who did what in them.

use crate::trace::Trace;
use serde::Serialize;
use std::collections::VecDeque;
use std::collections::vec_deque::Iter;

/// Rounds that are kept.
const MAX_ROUNDS: usize = 48;

/// A step, and who did what in it. Times are seconds since the process began to watch.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Round {
    /// The step.
    pub step: u64,
    /// When its first work was given out.
    pub began: f64,
    /// When it was made.
    pub ended: f64,
    /// What was done.
    pub spans: Vec<Span>,
}

/// Something that took its time.
#[derive(Clone, Debug, Serialize)]
pub struct Span {
    /// Who did it.
    pub lane: String,
    /// What.
    pub what: &'static str,
    /// From when.
    pub from: f64,
    /// Until when.
    pub until: f64,
    /// More about it.
    pub detail: String,
}

/// The last rounds that are over, and the open one.
#[derive(Debug, Default)]
pub struct Rounds {
    closed: VecDeque<Round>,
    open: Round,
    trace: Option<Trace>,
}

impl Rounds {
    /// Those that are over, in order.
    pub fn iter(&self) -> Iter<'_, Round> {
        self.closed.iter()
    }

    /// Writes rounds that are over to a file, too.
    pub(super) fn trace(&mut self, trace: Trace) {
        self.trace = Some(trace);
    }

    /// The worker on `lane` was given work of `step`.
    pub(super) fn assign(&mut self, lane: String, step: u64, detail: String, now: f64) {
        if self.open.step != step || self.open.spans.is_empty() {
            self.open = Round { step, began: now, ended: now, spans: Vec::new() };
        }
        // Empty until something comes of it.
        self.open.spans.push(Span { lane, what: "gradient", from: now, until: now, detail });
    }

    /// Something came from the worker on `lane`.
    pub(super) fn contribute(&mut self, lane: &str, now: f64) {
        if let Some(span) = self.open.spans.iter_mut().rev().find(|span| span.lane == lane) {
            span.until = now;
        }
    }

    /// The open round is over; `holder` has updated the weights since `from`.
    pub(super) fn close(&mut self, holder: &str, from: f64, now: f64) {
        let mut round = std::mem::take(&mut self.open);
        let detail = String::new();
        round.spans.push(Span { lane: holder.into(), what: "update", from, until: now, detail });
        round.ended = now;
        // Work that nothing came of was not awaited.
        round.spans.retain(|span| span.until > span.from);
        if let Some(trace) = &mut self.trace {
            trace.round(&round);
        }
        self.closed.push_back(round);
        if self.closed.len() > MAX_ROUNDS {
            self.closed.pop_front();
        }
    }

    /// Something was done beside the rounds.
    pub(super) fn beside(&mut self, lane: &str, what: &'static str, from: f64, until: f64) {
        if let Some(trace) = &mut self.trace {
            trace.span(&Span { lane: lane.into(), what, from, until, detail: String::new() });
        }
    }

    /// Writes what is not in the file yet.
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
    fn a_round_keeps_the_work_that_something_came_of() {
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
