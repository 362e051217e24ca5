//! All that the page shows, as JSON.

use super::Dashboard;
use crate::curves::{Course, panels};
use ps_run::{EventLine, Line, Seen};
use serde_json::{Value, json};
use std::time::Duration;

/// Rounds of the timeline.
const ROUNDS: usize = 10;
/// Events that are shown.
const EVENTS: usize = 30;

/// The state of the run of `dashboard`.
pub(super) fn json(dashboard: &Dashboard) -> String {
    dashboard.board.read(|seen| of(seen, dashboard.folder.is_some())).to_string()
}

fn of(seen: &Seen, has_results: bool) -> Value {
    let last = seen.lines.iter().rev().find_map(|line| match line {
        Line::Step(line) => Some(line),
        _ => None,
    });
    let events = seen.lines.iter().rev().filter_map(|line| match line {
        Line::Event(EventLine { step, event, text }) => {
            Some(json!({ "step": step, "event": event, "text": text }))
        }
        _ => None,
    });
    let charts: Vec<String> = panels(&[Course::new("run".into(), seen.lines.clone())])
        .into_iter()
        .map(|panel| panel.title)
        .collect();
    let rounds: Vec<_> = seen.rounds.iter().rev().take(ROUNDS).rev().collect();
    let remaining = (seen.about.steps - seen.steps.min(seen.about.steps)) as f64;
    // Of the last line, which is of some steps; a run that has just begun knows nothing yet.
    let per_step = last.map(|line| line.seconds / line.step.max(1) as f64);
    json!({
        "about": seen.about,
        "step": seen.steps,
        "epoch": seen.epoch,
        "samples": seen.samples,
        "loss": finite(seen.loss),
        "accuracy": seen.accuracy,
        "learning_rate": finite(seen.learning_rate.into()),
        "samples_per_second": last.map(|line| line.samples_per_second),
        "seconds": last.map(|line| line.seconds),
        "seconds_left": per_step.map(|seconds| seconds * remaining),
        "validation": seen.validation,
        "state": seen.state,
        "waited": seen.waited.as_secs_f64(),
        "ended": seen.ended,
        "workers": seen.workers,
        "rescued": seen.rescued,
        "checkpoint": seen.checkpoint.map(|(step, since)| json!({
            "step": step, "age": rounded(since.elapsed()),
        })),
        "rounds": rounds,
        "confusion": seen.confusion,
        "events": events.take(EVENTS).collect::<Vec<_>>(),
        "charts": charts,
        "drawn": seen.lines.len(),
        "results": has_results && seen.ended.is_some(),
    })
}

/// JSON has no other numbers.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

fn rounded(age: Duration) -> u64 {
    age.as_secs()
}
