//! Decides whether a run may resume from a checkpoint that was saved under a different run file.
//!
//! The run file may differ only in the length of the run, and only if every step already made would have been
//! the same. The result is then, bit for bit, that of a run of the new length from the start. Everything else
//! is refused, and the message names the keys or the schedule that prevent it.

use crate::folder::RUN_FILE;
use crate::job::Job;
use ps_checkpoint::{Fingerprint, Manifest, ResumeCheck};
use ps_config::{ConfigError, Difference, RunConfig};
use ps_core::control::Guard;
use ps_core::{ControlConfig, Schedule};
use ps_host::Ceiling;
use ps_plan::BatchPlan;
use std::path::Path;

/// The keys that set the length of a run.
const LENGTH_KEYS: [&str; 2] = ["train.epochs", "train.steps"];
/// Maximum number of differing keys that a message names; beyond that, it gives their number.
const NAMED_KEYS: usize = 5;
/// Number of hexadecimal digits of a hash that a message shows.
const HASH_DIGITS: usize = 12;
const ELSEWHERE: &str = "or choose another folder with --out";

/// Decides whether `job` may resume from checkpoints in `folder`.
pub(crate) fn resume_check(job: &Job, folder: Option<&Path>) -> ResumeCheck {
    // The file is about to be replaced, so it is read now. It is needed for checkpoints that do not contain
    // their run file.
    let text = folder.and_then(|folder| ps_host::read_text(&folder.join(RUN_FILE), Ceiling::TEXT).ok());
    let written = text.and_then(|text| RunConfig::parse(&text, RUN_FILE, &[]).ok());
    let run = Timeline {
        run: job.run.clone(),
        plan: job.plan,
        rate: job.rate.clone(),
        control: job.control.clone(),
    };
    let fingerprint = job.fingerprint.clone();
    ResumeCheck::new(move |manifest| {
        let saved = saved_run(manifest, written.as_ref(), &run.run, &fingerprint);
        check(saved, &manifest.fingerprint, manifest.progress.step, &run, &fingerprint)
    })
}

/// Returns the run file that a checkpoint was saved under, if it is known.
fn saved_run(
    manifest: &Manifest,
    written: Option<&RunConfig>,
    ours: &RunConfig,
    fingerprint: &Fingerprint,
) -> Option<RunConfig> {
    let saved = &manifest.fingerprint.run;
    let parse = |text: &String| RunConfig::parse(text, "the run file of the checkpoint", &[]).ok();
    let written = || written.filter(|run| run.fingerprint() == *saved).cloned();
    let same = || (fingerprint.run == *saved).then(|| ours.clone());
    manifest.run_file.as_ref().and_then(parse).or_else(written).or_else(same)
}

/// What follows from the length of a run.
struct Timeline {
    run: RunConfig,
    plan: BatchPlan,
    rate: Schedule,
    control: ControlConfig,
}

impl Timeline {
    /// Computes the timeline of `run`, with as much data as in `plan`.
    fn of(run: RunConfig, plan: &BatchPlan) -> Result<Self, ConfigError> {
        let plan = run.plan(plan.samples, plan.validation);
        let (rate, control) = (run.rate(&plan)?, run.control(&plan));
        Ok(Timeline { run, plan, rate, control })
    }
}

/// Checks whether `run` may resume after `made` steps of the run `saved`. The error says why not.
fn check(
    saved: Option<RunConfig>,
    saved_as: &Fingerprint,
    made: u64,
    run: &Timeline,
    fingerprint: &Fingerprint,
) -> Result<(), String> {
    if saved_as.numerics != fingerprint.numerics {
        return Err(format!(
            "the run in this folder was computed with numerics version {}, but this release computes other \
             bits, with version {}; finish the run with the release that started it, {ELSEWHERE}",
            saved_as.numerics, fingerprint.numerics
        ));
    }
    let Some(saved) = saved else {
        return Err(format!(
            "the run in this folder has another run file (fingerprint {}, this one {}), and its checkpoint \
             does not contain it; resume with the run file it was started with, {ELSEWHERE}",
            short(&saved_as.run),
            short(&fingerprint.run)
        ));
    };
    // The data may have moved. Whether it is the same is decided by the hash of its content below.
    let (places, keys): (Vec<_>, Vec<_>) =
        saved.differences(&run.run).into_iter().partition(|difference| difference.is_data_source);
    let (lengths, keys): (Vec<_>, Vec<_>) =
        keys.into_iter().partition(|difference| LENGTH_KEYS.contains(&difference.key.as_str()));
    if !keys.is_empty() {
        return Err(other_keys(&keys));
    }
    if saved_as.data != fingerprint.data {
        return Err(other_data([&saved_as.data, &fingerprint.data], &places));
    }
    if lengths.is_empty() {
        return Ok(());
    }
    let saved = Timeline::of(saved, &run.plan)
        .map_err(|error| format!("the run file of the run in this folder: {error}"))?;
    check_length(&saved, run, made, &lengths)
}

fn other_keys(keys: &[Difference]) -> String {
    if let [Difference { key, values: [saved, ours], .. }] = keys {
        let had = saved.as_ref().map_or_else(|| format!("no {key}"), |value| format!("{key} = {value}"));
        let has = ours.as_ref().map_or("does not set it".into(), |value| format!("has {value}"));
        return format!(
            "the run in this folder has {had}, but the run file {has}; restore the value, {ELSEWHERE}"
        );
    }
    let named = keys.iter().take(NAMED_KEYS).map(|Difference { key, values: [saved, ours], .. }| {
        let had = saved.as_ref().map_or_else(|| format!("no {key}"), |value| format!("{key} = {value}"));
        format!("{had} (now {})", ours.as_deref().unwrap_or("not set"))
    });
    let named = named.collect::<Vec<_>>().join(", ");
    let more = match keys.len().saturating_sub(NAMED_KEYS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("the run in this folder has {named}{more}; restore the values, {ELSEWHERE}")
}

fn other_data([saved, ours]: [&str; 2], places: &[Difference]) -> String {
    let place = |Difference { key, values, .. }: &Difference| {
        let [was, is] = values.each_ref().map(|value| value.as_deref().unwrap_or("not set"));
        format!("; {key} was {was} and is {is}")
    };
    format!(
        "the data has changed since the run in this folder was started: the hash of its content was {}… and \
         is {}…{}; restore the data, {ELSEWHERE}",
        short(saved),
        short(ours),
        places.iter().map(place).collect::<String>()
    )
}

/// Like [`check`], for runs that differ in length alone.
fn check_length(saved: &Timeline, run: &Timeline, made: u64, lengths: &[Difference]) -> Result<(), String> {
    let (changes, restored) = (changes(lengths), restored(lengths));
    if made > run.plan.steps {
        return Err(format!(
            "the run in this folder has made {made} steps, but with {changes} it would end after {}; raise \
             the number, {ELSEWHERE}",
            run.plan.steps
        ));
    }
    let refused = |why: String| Err(format!("{why}; {restored}, {ELSEWHERE}"));
    let ends_within = saved.plan.steps != run.plan.steps && made >= saved.plan.steps.min(run.plan.steps);
    if run.control.descent.is_some() && ends_within {
        return refused(format!(
            "learning_rate.schedule = \"armijo\" does not change weights in the last step of a run, so with \
             {changes} the steps already made would have been different"
        ));
    }
    // Compares the rates of all steps made instead of listing the schedules that depend on the length,
    // because only the bits of these steps matter.
    if let Some(step) = saved.rate.first_difference(&run.rate, made) {
        let [was, would_be] = [saved, run].map(|timeline| timeline.rate.at(step));
        let example = match was == would_be {
            true => String::new(),
            false => format!(" (step {}: {would_be} instead of {was})", step + 1),
        };
        let why = run.run.rate_depends_on_length().join(" and ");
        return refused(format!(
            "{why}, so with {changes} the steps already made would have had different learning rates{example}"
        ));
    }
    let share = |key: &str, value: String| format!("{key} = {value} is a share of the whole run");
    if (0..made).any(|step| saved.plan.probes(step) != run.plan.probes(step)) {
        let every = run.run.train.probe_every.map(|every| every.to_string()).unwrap_or_default();
        let why = share("train.probe_every", every);
        return refused(format!("{why}, so with {changes} different steps would have been probed"));
    }
    let every = |timeline: &Timeline| {
        timeline.control.guard.filter(|guard| guard.can_recover).map(|Guard { every, .. }| every)
    };
    let [was, would_be] = [saved, run].map(every);
    // Before either has passed, only the initial weights are kept aside.
    if was != would_be && Some(made) > was.min(would_be) {
        let why = share("guard.every", run.run.guard.every.to_string());
        return refused(format!(
            "{why}, so with {changes} the guard would have kept the weights of different steps"
        ));
    }
    Ok(())
}

/// Lists the changes: `train.epochs = 20 instead of 10`.
fn changes(lengths: &[Difference]) -> String {
    let change = |Difference { key, values: [was, is], .. }: &Difference| match (was, is) {
        (Some(was), Some(is)) => format!("{key} = {is} instead of {was}"),
        (None, Some(is)) => format!("{key} = {is}"),
        _ => format!("no {key}"),
    };
    lengths.iter().map(change).collect::<Vec<_>>().join(" and ")
}

/// Lists how to undo the changes: `restore train.epochs = 10`.
fn restored(lengths: &[Difference]) -> String {
    let restore = |Difference { key, values: [was, _], .. }: &Difference| match was {
        Some(was) => format!("restore {key} = {was}"),
        None => format!("remove {key}"),
    };
    lengths.iter().map(restore).collect::<Vec<_>>().join(" and ")
}

fn short(hash: &str) -> String {
    hash.chars().take(HASH_DIGITS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = r#"
[data]
train = "digits:1000"
validation = 0.1
[model]
kind = "softmax"
[train]
epochs = 4
batch = 90
[learning_rate]
initial = 0.1
"#;

    /// Steps per epoch, with 900 training samples.
    const EPOCH: u64 = 10;

    fn run(sets: &[&str]) -> RunConfig {
        let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
        RunConfig::parse(RUN, "run.toml", &sets).unwrap()
    }

    fn fingerprint(run: &RunConfig) -> Fingerprint {
        Fingerprint { run: run.fingerprint(), data: "d".repeat(64), numerics: 1 }
    }

    /// Returns why a run with settings `ours` may not resume after `made` steps of one with `saved`.
    fn refusal(saved: &[&str], made: u64, ours: &[&str]) -> Option<String> {
        let (saved, ours) = (run(saved), run(ours));
        let fingerprints = [&saved, &ours].map(fingerprint);
        let plan = ours.plan(900, 100);
        let ours = Timeline::of(ours, &plan).unwrap();
        check(Some(saved), &fingerprints[0], made, &ours, &fingerprints[1]).err()
    }

    #[track_caller]
    fn refused(saved: &[&str], made: u64, ours: &[&str], expected: &str) {
        let text = refusal(saved, made, ours).unwrap_or_else(|| panic!("{ours:?} is not refused"));
        assert!(text.contains(expected), "{text}");
        assert!(text.ends_with(ELSEWHERE), "{text}");
    }

    #[test]
    fn keys_that_differ_are_named_with_both_values() {
        refused(
            &["optimizer.momentum=0.9", "train.epochs=9"],
            0,
            &["optimizer.momentum=0.5"],
            "the run in this folder has optimizer.momentum = 0.9, but the run file has 0.5; restore the value",
        );
        refused(&[], 3, &["optimizer.clip=1"], "has no optimizer.clip, but the run file has 1.0");
        refused(&["optimizer.clip=1"], 3, &[], "has optimizer.clip = 1.0, but the run file does not set it");
        refused(
            &["seed=7"],
            3,
            &["train.early_stopping=2"],
            "has seed = 7 (now 1), no train.early_stopping (now 2); restore the values",
        );
        let many = [
            "seed=2",
            "train.batch=100",
            "optimizer.kind=adam",
            "learning_rate.initial=1",
            "wire.weights=bf16",
            "data.standardize=true",
        ];
        let text = refusal(&[], 3, &many).unwrap();
        assert!(text.contains(" more; ") && text.matches("(now ").count() == NAMED_KEYS, "{text}");
    }

    #[test]
    fn differing_data_and_numerics_are_reported_but_not_differing_paths() {
        let same = run(&[]);
        let plan = same.plan(900, 100);
        let ours = Timeline::of(same.clone(), &plan).unwrap();
        let told = |saved: RunConfig, saved_as: Fingerprint| {
            check(Some(saved), &saved_as, 5, &ours, &fingerprint(&same)).unwrap_err()
        };
        let other = Fingerprint { data: "e".repeat(64), ..fingerprint(&same) };
        let text = told(same.clone(), other.clone());
        assert!(text.contains("content was eeeeeeeeeeee… and is dddddddddddd…; restore the data"), "{text}");
        let moved = run(&["data.train=csv:a"]);
        let text = told(moved.clone(), other);
        assert!(text.contains(r#"data.train was "csv:a" and is "digits:1000""#), "{text}");
        assert_eq!(check(Some(moved), &fingerprint(&same), 5, &ours, &fingerprint(&same)), Ok(()));
        let numerics = Fingerprint { numerics: 7, run: "other".into(), ..fingerprint(&same) };
        let text = told(same.clone(), numerics);
        assert!(text.contains("numerics version 7") && text.contains("version 1"), "{text}");
        // A checkpoint that does not contain its run file.
        let unknown = Fingerprint { run: "x".repeat(64), ..fingerprint(&same) };
        let text = check(None, &unknown, 5, &ours, &fingerprint(&same)).unwrap_err();
        assert!(text.contains("fingerprint xxxxxxxxxxxx") && text.contains("does not contain it"), "{text}");
    }

    #[test]
    fn the_length_may_change_if_no_completed_step_is_affected() {
        let longer = ["train.epochs=8"];
        let schedules: [&[&str]; 6] = [
            &[],
            &["learning_rate.schedule=step", "learning_rate.every=1 epoch", "learning_rate.factor=0.5"],
            &["learning_rate.schedule=plateau", "learning_rate.factor=0.5", "learning_rate.warmup=7"],
            &["learning_rate.schedule=cosine-restarts", "learning_rate.every=9"],
            &["train.early_stopping=3", "train.probe_every=7", "optimizer.noise=0.1"],
            &["guard.mode=recover", "guard.every=1 epoch"],
        ];
        for sets in schedules {
            let with = |length: &[&'static str]| [sets, length].concat();
            for made in [0, 1, 25, 4 * EPOCH] {
                assert_eq!(refusal(sets, made, &with(&longer)), None, "{sets:?} {made}");
            }
            assert_eq!(refusal(&with(&["train.steps=25"]), 25, &with(&["train.steps=33"])), None, "{sets:?}");
            assert_eq!(refusal(sets, 2 * EPOCH, &with(&["train.epochs=2"])), None, "{sets:?}");
        }
    }

    #[test]
    fn a_run_cannot_be_shortened_below_its_completed_steps() {
        refused(
            &[],
            21,
            &["train.epochs=2"],
            "has made 21 steps, but with train.epochs = 2 instead of 4 it would end after 20; raise the number",
        );
        refused(&[], 21, &["train.steps=20"], "with train.steps = 20 it would end after 20");
    }

    #[test]
    fn length_dependent_settings_are_refused_from_the_first_affected_step() {
        let cosine = ["learning_rate.schedule=cosine"];
        let longer = ["learning_rate.schedule=cosine", "train.epochs=8"];
        // The first step has the initial rate under both schedules.
        assert_eq!(refusal(&cosine, 1, &longer), None);
        refused(
            &cosine,
            2,
            &longer,
            "learning_rate.schedule = \"cosine\" spans the whole run, so with train.epochs = 8 instead of 4 \
             the steps already made would have had different learning rates (step 2: 0.09",
        );
        refused(&cosine, 2, &longer, "; restore train.epochs = 4, or");
        let shorter = [&cosine[..], &["train.steps=30"]].concat();
        refused(&cosine, 2, &shorter, "; remove train.steps, or");
        let cases: [(&str, u64, &str); 4] = [
            ("learning_rate.warmup=25%", 1, r#"learning_rate.warmup = "25%" is a share of the whole run"#),
            (
                r#"learning_rate.then=[{ from = "50%", initial = 0.01 }]"#,
                21,
                r#"learning_rate.then.0.from = "50%" is a share of the whole run"#,
            ),
            ("train.probe_every=25%", 11, r#"train.probe_every = "25%" is a share of the whole run"#),
            ("guard.every=25%", 11, r#"guard.every = "25%" is a share of the whole run"#),
        ];
        for (set, first, expected) in cases {
            let guard = if set.starts_with("guard") { vec!["guard.mode=recover"] } else { vec![] };
            let saved = [&guard[..], &[set]].concat();
            let ours = [&saved[..], &["train.epochs=8"]].concat();
            assert_eq!(refusal(&saved, first - 1, &ours), None, "{set}");
            refused(&saved, first, &ours, expected);
        }
    }

    #[test]
    fn a_descent_that_has_made_its_last_step_is_refused() {
        let saved = ["train.batch=full", "learning_rate.schedule=armijo", "optimizer.momentum=0"];
        let longer = [&saved[..], &["train.epochs=8"]].concat();
        assert_eq!(refusal(&saved, 3, &longer), None);
        refused(&saved, 4, &longer, "does not change weights in the last step");
    }
}
