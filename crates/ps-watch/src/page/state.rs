//! The state that the dashboard shows, as JSON.

use super::Dashboard;
use crate::curves::{RunCurves, panels};
use ps_run::{Ban, Ending, EventLine, Line, Phase, RunSnapshot, grouped, seconds};
use serde_json::{Value, json};
use std::time::Duration;

/// Number of rounds in the timeline.
const MAX_ROUNDS: usize = 10;
/// Maximum number of events that are shown.
const MAX_EVENTS: usize = 30;
/// Shortest wait of a step that is shown. Shorter ones are over before anybody can read about them.
const MIN_SHOWN_WAIT: Duration = Duration::from_secs(1);

/// Formats the state of the run.
pub(super) fn json(dashboard: &Dashboard) -> String {
    // The results are looked up outside of the lock, so that training never waits for the file system.
    let files = match dashboard.run_state.read(|snapshot| snapshot.phase.is_over()) {
        true => dashboard.results(),
        false => Vec::new(),
    };
    dashboard.run_state.read(|snapshot| of(snapshot, &files)).to_string()
}

fn of(snapshot: &RunSnapshot, files: &[&str]) -> Value {
    let last = snapshot.lines.iter().rev().find_map(|line| match line {
        Line::Step(line) => Some(line),
        _ => None,
    });
    let events = snapshot.lines.iter().rev().filter_map(|line| match line {
        Line::Event(EventLine { step, event, text }) => {
            Some(json!({ "step": step, "event": event, "text": text }))
        }
        _ => None,
    });
    let charts: Vec<String> = panels(&[RunCurves::new("run".into(), snapshot.lines.clone())])
        .into_iter()
        .map(|panel| panel.title)
        .collect();
    let rounds: Vec<_> = snapshot.rounds.iter().rev().take(MAX_ROUNDS).rev().collect();
    let remaining = (snapshot.about.steps - snapshot.steps.min(snapshot.about.steps)) as f64;
    // The time per step is known only after the first line of metrics.
    let per_step = last.map(|line| line.seconds / line.step.max(1) as f64);
    let seconds_left = per_step.filter(|_| snapshot.phase == Phase::Training).map(|pace| pace * remaining);
    json!({
        // Lets an open page notice that another process now serves the same address.
        "process": std::process::id(),
        "about": snapshot.about,
        "step": snapshot.steps,
        "epoch": snapshot.epoch,
        "samples": snapshot.samples,
        "loss": finite(snapshot.loss),
        "accuracy": snapshot.accuracy,
        "learning_rate": finite(snapshot.learning_rate.into()),
        "samples_per_second": last.map(|line| line.samples_per_second),
        "seconds": last.map(|line| line.seconds),
        "seconds_left": seconds_left,
        "validation": snapshot.validation,
        "phase": snapshot.phase,
        "over": snapshot.phase.is_over(),
        "state": state(snapshot),
        "workers": snapshot.workers,
        "rescued": snapshot.reassigned,
        "bans": snapshot.bans.iter().map(Ban::line).collect::<Vec<_>>(),
        "tainted": snapshot.bans.iter().any(Ban::is_tainting),
        "checkpoint": snapshot.checkpoint.map(|(step, since)| json!({
            "step": step, "age": since.elapsed().as_secs(),
        })),
        "rounds": rounds,
        "confusion": snapshot.confusion,
        "events": events.take(MAX_EVENTS).collect::<Vec<_>>(),
        "charts": charts,
        "drawn": snapshot.lines.len(),
        "summary": snapshot.summary,
        "files": files,
    })
}

/// Describes the state of the run, as a continuation of the name of its phase.
fn state(snapshot: &RunSnapshot) -> String {
    let waiting = || match snapshot.waited >= MIN_SHOWN_WAIT {
        true => format!("{}, for {}", snapshot.activity, seconds(snapshot.waited.as_secs_f64())),
        false => snapshot.activity.clone(),
    };
    let [made, planned] = [snapshot.steps, snapshot.about.steps].map(|steps| grouped(steps as f64));
    match snapshot.phase {
        Phase::Starting if snapshot.activity.is_empty() => "the first step has not started yet".into(),
        Phase::Starting | Phase::Finishing => waiting(),
        Phase::Training => {
            let resumed = (snapshot.resumed_at > 0)
                .then(|| format!("resumed after step {}", grouped(snapshot.resumed_at as f64)));
            let waiting = (snapshot.waited >= MIN_SHOWN_WAIT && !snapshot.activity.is_empty()).then(waiting);
            resumed.into_iter().chain(waiting).collect::<Vec<_>>().join("; ")
        }
        Phase::Done if snapshot.steps < snapshot.about.steps => {
            let stopped = snapshot.lines.iter().rev().find_map(|line| match line {
                Line::Event(line) if line.event == "stopped" => Some(line.text.as_str()),
                _ => None,
            });
            let why = stopped.map_or_else(String::new, |why| format!("; {why}"));
            format!("completed {made} of at most {planned} steps{why}")
        }
        Phase::Done => format!("completed all {planned} steps"),
        Phase::Stopped => match (&snapshot.about.folder, snapshot.checkpoint) {
            (Some(folder), Some(_)) => {
                let is_ended =
                    snapshot.summary.as_ref().is_some_and(|summary| summary.outcome == Ending::Ended);
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
                snapshot.failure.as_deref().unwrap_or("unknown reason")
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
    use ps_run::{About, RunState};

    fn words(change: impl FnOnce(&mut RunSnapshot)) -> String {
        let about = About { steps: 12_000, folder: Some("/runs/a".into()), ..About::default() };
        let run_state = RunState::new(about, &[]);
        run_state.update(change);
        run_state.read(state)
    }

    #[test]
    fn the_state_text_describes_progress_and_ending() {
        assert_eq!(words(|_| ()), "the first step has not started yet");
        let starting = words(|snapshot| {
            (snapshot.activity, snapshot.waited) =
                ("step 0 waits for workers".into(), Duration::from_secs(75));
        });
        assert_eq!(starting, "step 0 waits for workers, for 75.0 s");
        assert_eq!(words(|snapshot| snapshot.phase = Phase::Training), "");
        let quick = words(|snapshot| {
            (snapshot.phase, snapshot.activity, snapshot.resumed_at) =
                (Phase::Training, "step 4 waits".into(), 6000);
        });
        assert_eq!(quick, "resumed after step 6,000");
        let slow = words(|snapshot| {
            (snapshot.phase, snapshot.activity) = (Phase::Training, "step 4 waits".into());
            snapshot.waited = Duration::from_millis(2500);
        });
        assert_eq!(slow, "step 4 waits, for 2.50 s");
        let done = words(|snapshot| (snapshot.phase, snapshot.steps) = (Phase::Done, 12_000));
        assert_eq!(done, "completed all 12,000 steps");
        let early = words(|snapshot| {
            (snapshot.phase, snapshot.steps) = (Phase::Done, 3000);
            let text = "stopped early: no progress".into();
            snapshot.lines.push(Line::Event(EventLine { step: 3000, event: "stopped".into(), text }));
        });
        assert_eq!(early, "completed 3,000 of at most 12,000 steps; stopped early: no progress");
        let stopped = words(|snapshot| {
            (snapshot.phase, snapshot.steps) = (Phase::Stopped, 3000);
            snapshot.checkpoint = Some((3000, std::time::Instant::now()));
        });
        assert_eq!(
            stopped,
            "completed 3,000 of 12,000 steps; to resume, start the run again with --out /runs/a"
        );
    }

    #[test]
    fn a_failed_run_keeps_its_reason_despite_later_reports() {
        let run_state = RunState::new(About { steps: 9, ..About::default() }, &[]);
        run_state.begin();
        run_state.fail(&"step 3: the loss is not finite");
        run_state.fail(&"something else");
        run_state.begin();
        let (phase, text) = run_state.read(|snapshot| (snapshot.phase, state(snapshot)));
        assert_eq!(
            (phase, &text[..]),
            (Phase::Failed, "step 3: the loss is not finite (0 of 9 steps completed)")
        );
    }

    #[test]
    fn banned_workers_are_shown_and_whether_their_sums_remain() {
        let run_state = RunState::new(About::default(), &[]);
        assert_eq!(run_state.read(|snapshot| of(snapshot, &[]))["tainted"], false);
        run_state.update(|snapshot| {
            snapshot.bans = vec![Ban { worker: "liar".into(), since: Some(3), ..Ban::default() }]
        });
        let state = run_state.read(|snapshot| of(snapshot, &[]));
        assert!(state["bans"][0].as_str().is_some_and(|line| line.starts_with("liar at")), "{state}");
        assert_eq!(state["tainted"], true);
    }

    #[test]
    fn time_left_is_estimated_only_while_steps_are_made() {
        let run_state = RunState::new(About { steps: 9, ..About::default() }, &[]);
        let line = r#"{"kind":"step","step":3,"steps":9,"epoch":1,"epochs":1,"loss":0.5,"learning_rate":0.1,
                       "samples_per_second":8.0,"workers":1,"seconds":6.0}"#;
        run_state.update(|snapshot| {
            snapshot.lines.push(serde_json::from_str(line).unwrap());
            snapshot.steps = 3;
        });
        assert_eq!(run_state.read(|snapshot| of(snapshot, &[]))["seconds_left"], Value::Null);
        run_state.begin();
        assert_eq!(run_state.read(|snapshot| of(snapshot, &[]))["seconds_left"], 12.0);
        run_state.fail(&"lost");
        assert_eq!(run_state.read(|snapshot| of(snapshot, &[]))["seconds_left"], Value::Null);
    }
}
