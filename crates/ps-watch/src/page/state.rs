//! The state that the dashboard shows, as JSON.

use super::Dashboard;
use crate::curves::{Course, panels};
use ps_run::{Ban, Ending, EventLine, Line, Phase, Seen, grouped, seconds};
use serde_json::{Value, json};
use std::time::Duration;

/// Number of rounds in the timeline.
const ROUNDS: usize = 10;
/// Maximum number of events that are shown.
const EVENTS: usize = 30;
/// Shortest wait of a step that is shown. Shorter ones are over before anybody can read about them.
const WORTH_TELLING: Duration = Duration::from_secs(1);

/// Formats the state of the run.
pub(super) fn json(dashboard: &Dashboard) -> String {
    let files = match dashboard.board.read(|seen| seen.phase.is_over()) {
        true => dashboard.results(),
        false => Vec::new(),
    };
    dashboard.board.read(|seen| of(seen, &files)).to_string()
}

fn of(seen: &Seen, files: &[&str]) -> Value {
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
    // The time per step is known only after the first line of metrics.
    let per_step = last.map(|line| line.seconds / line.step.max(1) as f64);
    let seconds_left = per_step.filter(|_| seen.phase == Phase::Training).map(|pace| pace * remaining);
    json!({
        // Lets an open page notice that another process now serves the same address.
        "process": std::process::id(),
        "about": seen.about,
        "step": seen.steps,
        "epoch": seen.epoch,
        "samples": seen.samples,
        "loss": finite(seen.loss),
        "accuracy": seen.accuracy,
        "learning_rate": finite(seen.learning_rate.into()),
        "samples_per_second": last.map(|line| line.samples_per_second),
        "seconds": last.map(|line| line.seconds),
        "seconds_left": seconds_left,
        "validation": seen.validation,
        "phase": seen.phase,
        "over": seen.phase.is_over(),
        "state": state(seen),
        "workers": seen.workers,
        "rescued": seen.rescued,
        "bans": seen.bans.iter().map(Ban::line).collect::<Vec<_>>(),
        "tainted": seen.bans.iter().any(Ban::is_tainting),
        "checkpoint": seen.checkpoint.map(|(step, since)| json!({
            "step": step, "age": since.elapsed().as_secs(),
        })),
        "rounds": rounds,
        "confusion": seen.confusion,
        "events": events.take(EVENTS).collect::<Vec<_>>(),
        "charts": charts,
        "drawn": seen.lines.len(),
        "summary": seen.summary,
        "files": files,
    })
}

/// Describes the state of the run, as a continuation of the name of its phase.
fn state(seen: &Seen) -> String {
    let waiting = || match seen.waited >= WORTH_TELLING {
        true => format!("{}, for {}", seen.activity, seconds(seen.waited.as_secs_f64())),
        false => seen.activity.clone(),
    };
    let [made, planned] = [seen.steps, seen.about.steps].map(|steps| grouped(steps as f64));
    match seen.phase {
        Phase::Starting if seen.activity.is_empty() => "the first step has not begun yet".into(),
        Phase::Starting | Phase::Finishing => waiting(),
        Phase::Training => {
            let resumed = (seen.resumed_at > 0)
                .then(|| format!("resumed after step {}", grouped(seen.resumed_at as f64)));
            let waiting = (seen.waited >= WORTH_TELLING && !seen.activity.is_empty()).then(waiting);
            resumed.into_iter().chain(waiting).collect::<Vec<_>>().join("; ")
        }
        Phase::Done if seen.steps < seen.about.steps => {
            let stopped = seen.lines.iter().rev().find_map(|line| match line {
                Line::Event(line) if line.event == "stopped" => Some(line.text.as_str()),
                _ => None,
            });
            let why = stopped.map_or_else(String::new, |why| format!("; {why}"));
            format!("completed {made} of at most {planned} steps{why}")
        }
        Phase::Done => format!("completed all {planned} steps"),
        Phase::Stopped => match (&seen.about.folder, seen.checkpoint) {
            (Some(folder), Some(_)) => {
                let is_ended = seen.summary.as_ref().is_some_and(|summary| summary.outcome == Ending::Ended);
                let resume = if is_ended { " --resume" } else { "" };
                format!(
                    "completed {made} of {planned} steps; to resume, start the run again with --out {folder}{resume}"
                )
            }
            _ => format!("completed {made} of {planned} steps"),
        },
        Phase::Failed => {
            format!(
                "{} ({made} of {planned} steps completed)",
                seen.failure.as_deref().unwrap_or("no reason is known")
            )
        }
    }
}

/// Replaces NaN and infinities, which JSON does not have, by `null`.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ps_run::{About, Board};

    fn words(change: impl FnOnce(&mut Seen)) -> String {
        let about = About { steps: 12_000, folder: Some("/runs/a".into()), ..About::default() };
        let board = Board::new(about, &[]);
        board.tell(change);
        board.read(state)
    }

    #[test]
    fn the_state_says_what_happens_and_how_the_run_ended() {
        assert_eq!(words(|_| ()), "the first step has not begun yet");
        let starting = words(|seen| {
            (seen.activity, seen.waited) = ("step 0 waits for workers".into(), Duration::from_secs(75));
        });
        assert_eq!(starting, "step 0 waits for workers, for 75.0 s");
        assert_eq!(words(|seen| seen.phase = Phase::Training), "");
        let quick = words(|seen| {
            (seen.phase, seen.activity, seen.resumed_at) = (Phase::Training, "step 4 waits".into(), 6000);
        });
        assert_eq!(quick, "resumed after step 6,000");
        let slow = words(|seen| {
            (seen.phase, seen.activity) = (Phase::Training, "step 4 waits".into());
            seen.waited = Duration::from_millis(2500);
        });
        assert_eq!(slow, "step 4 waits, for 2.50 s");
        let done = words(|seen| (seen.phase, seen.steps) = (Phase::Done, 12_000));
        assert_eq!(done, "completed all 12,000 steps");
        let early = words(|seen| {
            (seen.phase, seen.steps) = (Phase::Done, 3000);
            let text = "stopped early: no progress".into();
            seen.lines.push(Line::Event(EventLine { step: 3000, event: "stopped".into(), text }));
        });
        assert_eq!(early, "completed 3,000 of at most 12,000 steps; stopped early: no progress");
        let stopped = words(|seen| {
            (seen.phase, seen.steps) = (Phase::Stopped, 3000);
            seen.checkpoint = Some((3000, std::time::Instant::now()));
        });
        assert_eq!(
            stopped,
            "completed 3,000 of 12,000 steps; to resume, start the run again with --out /runs/a"
        );
    }

    #[test]
    fn a_failed_run_says_why_and_no_later_report_hides_it() {
        let board = Board::new(About { steps: 9, ..About::default() }, &[]);
        board.begin();
        board.fail(&"step 3: the loss is not finite");
        board.fail(&"something else");
        board.begin();
        let (phase, text) = board.read(|seen| (seen.phase, state(seen)));
        assert_eq!(
            (phase, &text[..]),
            (Phase::Failed, "step 3: the loss is not finite (0 of 9 steps completed)")
        );
    }

    #[test]
    fn banned_workers_are_shown_and_whether_their_sums_remain() {
        let board = Board::new(About::default(), &[]);
        assert_eq!(board.read(|seen| of(seen, &[]))["tainted"], false);
        board.tell(|seen| seen.bans = vec![Ban { worker: "liar".into(), since: Some(3), ..Ban::default() }]);
        let state = board.read(|seen| of(seen, &[]));
        assert!(state["bans"][0].as_str().is_some_and(|line| line.starts_with("liar at")), "{state}");
        assert_eq!(state["tainted"], true);
    }

    #[test]
    fn time_left_is_estimated_only_while_steps_are_made() {
        let board = Board::new(About { steps: 9, ..About::default() }, &[]);
        let line = r#"{"kind":"step","step":3,"steps":9,"epoch":1,"epochs":1,"loss":0.5,"learning_rate":0.1,
                       "samples_per_second":8.0,"workers":1,"seconds":6.0}"#;
        board.tell(|seen| {
            seen.lines.push(serde_json::from_str(line).unwrap());
            seen.steps = 3;
        });
        assert_eq!(board.read(|seen| of(seen, &[]))["seconds_left"], Value::Null);
        board.begin();
        assert_eq!(board.read(|seen| of(seen, &[]))["seconds_left"], 12.0);
        board.fail(&"lost");
        assert_eq!(board.read(|seen| of(seen, &[]))["seconds_left"], Value::Null);
    }
}
