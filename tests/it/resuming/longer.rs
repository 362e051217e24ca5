//! A run that is resumed with another run file becomes longer or shorter, with the same result as a run of
//! that length from the start, or it is refused with a reason.

use super::{RUN, TestDir, WATCHING, seeded};
use downhill_tests::{Ended, Running, downhill, program, run};
use serde_json::Value;
use std::fs;
use std::time::Duration;

/// A rate that does not depend on the length of the run, and momentum, so that the optimizer has state.
fn steady() -> String {
    let schedule = "schedule = \"step\"\nevery = \"2 epochs\"\nfactor = 0.7";
    RUN.replace("schedule = \"cosine\"", schedule)
}

/// Like [`steady`], but without a validation part, so that an epoch is complete after its last step.
fn unvalidated() -> String {
    steady().replace("validation = 0.1\n", "")
}

/// A run that keeps weights aside, and restores them at the end for any length.
fn restoring() -> String {
    WATCHING.replace("early_stopping = 50", "early_stopping = 50\nmin_delta = 10.0")
}

/// Armijo descent, which checks each step. The last step of a run moves no weight.
const DESCENT: &str = r#"
[data]
train = "digits:500"
[model]
kind = "softmax"
[train]
epochs = 40
batch = "full"
[learning_rate]
initial = 0.1
schedule = "armijo"
"#;

/// A run of more steps than have a line of metrics each.
const MANY_STEPS: &str = r#"
[data]
train = "digits:500"
validation = 0.1
[model]
kind = "softmax"
[train]
epochs = 100
batch = 10
[learning_rate]
initial = 0.1
"#;

const LONG: [&str; 2] = ["--set", "train.epochs=6"];
const SHORT: [&str; 2] = ["--set", "train.epochs=3"];

fn assert_refused(ended: &Ended, expected: &str) {
    assert_eq!(ended.status.code(), Some(2), "{ended}");
    let text = ended.stderr.lines().last().unwrap_or_default();
    assert!(text.contains(expected) && text.contains("--out"), "{expected}\n{ended}");
}

/// Returns the state of a run, as `downhill runs` prints it.
fn state(dir: &TestDir, out: &str) -> Value {
    let ended = run(downhill(&["runs", "--json"]).arg(dir.path(out)));
    serde_json::from_str::<Value>(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended}"))
}

#[test]
fn an_extended_run_equals_one_that_was_longer_from_the_start() {
    for file in [steady(), unvalidated(), WATCHING.into(), restoring()] {
        let dir = TestDir::of(&file);
        let wanted = run(&mut dir.train("whole", &LONG)).hash();
        run(&mut dir.train("longer", &[&SHORT[..], &["--threads", "1"]].concat())).hash();
        let ended = run(&mut dir.train("longer", &[&LONG[..], &["--workers", "2"]].concat()));
        assert_eq!(ended.hash(), wanted, "{ended}");
        assert!(ended.stderr.contains("resuming after"), "{ended}");
        assert_eq!(dir.records("longer"), dir.records("whole"), "{file}");

        // Lengths that end within an epoch.
        for steps in ["train.steps=40", "train.steps=101"] {
            let hash = run(&mut dir.train("cut", &["--set", steps])).hash();
            assert_eq!(run(&mut dir.train(steps, &["--set", steps])).hash(), hash, "{steps}");
            assert_eq!(dir.records("cut"), dir.records(steps), "{file}");
        }
        assert_eq!(run(&mut dir.train("cut", &LONG)).hash(), wanted);
        assert_eq!(dir.records("cut"), dir.records("whole"), "{file}");
    }
}

#[test]
fn a_descent_is_extended_from_before_its_last_step() {
    let dir = TestDir::of(DESCENT);
    let wanted = run(&mut dir.train("whole", &[])).hash();
    // No regular checkpoint is due in this run, so the only one is the extra checkpoint before its last step.
    let short = ["--set", "train.epochs=22", "--checkpoint-every", "1000"];
    run(downhill(&["train"]).arg(dir.path("run.toml")).arg("--out").arg(dir.path("longer")).args(short))
        .hash();
    assert_eq!(dir.checkpoints("longer"), [21]);
    assert_eq!(run(&mut dir.train("longer", &[])).hash(), wanted);
    assert_eq!(dir.records("longer"), dir.records("whole"));
}

#[test]
fn an_interrupted_run_can_be_extended_or_shortened_and_interrupted_again() {
    for file in [steady(), WATCHING.into()] {
        let (dir, mut random) = (TestDir::of(&file), seeded());
        let mut kill = |flags: &[&str]| {
            let mut process = Running::start(&mut dir.train("killed", flags));
            assert!(dir.let_run("killed", &mut process, &mut random), "{}", process.finish());
            process.kill();
            process.finish();
        };
        kill(&["--set", "train.epochs=60"]);
        kill(&["--set", "train.epochs=80", "--workers", "2"]);
        let shorter = ["--set", &dir.epochs_beyond("killed")];
        let wanted = run(&mut dir.train("whole", &shorter)).hash();
        assert_eq!(run(&mut dir.train("killed", &shorter)).hash(), wanted);
        assert_eq!(dir.records("killed"), dir.records("whole"));

        // The results of the shorter run are kept until those of the longer one are written.
        kill(&["--set", "train.epochs=80"]);
        assert_eq!(state(&dir, "killed")["state"], "unfinished");
        assert_eq!(run(downhill(&["evaluate"]).arg(dir.path("killed"))).hash(), wanted);
        assert_refused(&run(&mut dir.train("killed", &shorter)), "contains the results of a finished run");
        let longer = ["--set", &dir.epochs_beyond("killed")];
        let wanted = run(&mut dir.train("longer", &longer)).hash();
        assert_eq!(run(&mut dir.train("killed", &longer)).hash(), wanted);
        assert_eq!(dir.records("killed"), dir.records("longer"));
        assert_eq!(state(&dir, "killed")["state"], "done");
    }
}

#[test]
fn a_run_shortened_below_its_progress_finishes_without_another_step() {
    for (file, steps) in [(steady(), 145), (steady(), 45), (unvalidated(), 45), (restoring(), 45)] {
        let dir = TestDir::of(&file);
        let shorter = ["--set", &format!("train.steps={steps}")];
        let wanted = run(&mut dir.train("whole", &shorter)).hash();
        let every = steps.to_string();
        let mut longer = downhill(&["train", "--set", "train.epochs=200", "--checkpoint-every", &every]);
        longer.arg(dir.path("run.toml")).arg("--out").arg(dir.path("stopped"));
        let mut longer = Running::start(longer.args(["--checkpoint-keep", "1000"]));
        while !dir.checkpoints("stopped").contains(&steps) {
            assert!(!longer.ends_within(Duration::from_millis(1)), "{}", longer.finish());
        }
        longer.kill();
        longer.finish();
        // Simulates a process that was killed right after that step.
        for step in dir.checkpoints("stopped").into_iter().filter(|step| *step > steps) {
            fs::remove_dir_all(dir.path(&format!("stopped/checkpoints/step-{step:012}"))).unwrap();
        }
        let ended = run(dir.server("stopped").args(shorter));
        assert_eq!(ended.hash(), wanted, "{ended}");
        assert_eq!(dir.records("stopped"), dir.records("whole"), "{file}");
    }
}

#[test]
fn the_line_interval_of_an_extended_run_continues_where_it_was() {
    let dir = TestDir::of(MANY_STEPS);
    let [short, long] = [["--set", "train.steps=1101"], ["--set", "train.steps=1501"]];
    let wanted = run(&mut dir.train("whole", &long)).hash();
    run(&mut dir.train("longer", &short)).hash();
    // The process is killed after an odd number of steps, in the middle of the interval of a line.
    let mut process = Running::start(&mut dir.train("longer", &long));
    while !process.ends_within(Duration::from_millis(1)) && dir.checkpoints("longer").pop() == Some(1101) {}
    process.kill();
    process.finish();
    if !state(&dir, "longer")["state"].as_str().unwrap().contains("done") {
        assert_eq!(run(&mut dir.train("longer", &long)).hash(), wanted);
    }
    assert_eq!(dir.records("longer"), dir.records("whole"));
}

#[test]
fn servers_extend_a_run_finished_by_one_process_and_vice_versa() {
    let dir = TestDir::of(&steady());
    let wanted = run(&mut dir.train("whole", &LONG)).hash();
    let launch = |out: &str, flags: &[&str]| {
        let mut command = downhill(&["launch", "--workers", "2", "--threads", "1"]);
        command.arg(dir.path("run.toml")).arg("--out").arg(dir.path(out));
        run(command.args(flags)).hash()
    };
    for (number, how) in
        [&["--shards", "1"][..], &["--shards", "2"], &["--shards", "beside"]].iter().enumerate()
    {
        let out = format!("launched-{number}");
        let short = run(&mut dir.train(&out, &SHORT)).hash();
        assert_eq!(launch(&out, &[&LONG[..], how].concat()), wanted, "{how:?}");
        assert_eq!(dir.records(&out), dir.records("whole"), "{how:?}");

        let out = format!("trained-{number}");
        assert_eq!(launch(&out, &[&SHORT[..], how].concat()), short, "{how:?}");
        assert_eq!(run(&mut dir.train(&out, &LONG)).hash(), wanted, "{how:?}");
        assert_eq!(dir.records(&out), dir.records("whole"), "{how:?}");
    }
    // A server whose run is already finished says so, as before.
    let ended = run(dir.server("launched-0").args(LONG));
    assert_eq!(ended.hash(), wanted);
    assert!(ended.stderr.contains("this run is finished"), "{ended}");
}

#[test]
fn workers_rejoin_a_server_restarted_with_other_epochs() {
    let (dir, mut random) = (TestDir::of(&steady()), seeded());
    let beside = ["--shards-colocated", "2"];
    for (out, server, worker) in [("plain", &[][..], &[][..]), ("beside", &beside[..], &["--host-shard"][..])]
    {
        let mut workers = [0, 1].map(|_| {
            let mut command = program("ps-worker");
            command.args(["--threads", "1", "--server", &dir.address()]).args(worker);
            Running::start(&mut command)
        });
        let mut first = Running::start(dir.server(out).args(["--set", "train.epochs=60"]).args(server));
        assert!(dir.let_run(out, &mut first, &mut random), "{}", first.finish());
        first.kill();
        first.finish();
        let epochs = ["--set", &dir.epochs_beyond(out)];
        let ended = run(dir.server(out).args(epochs).args(server));
        let whole = format!("whole-{out}");
        assert_eq!(run(&mut dir.train(&whole, &epochs)).hash(), ended.hash(), "{ended}");
        assert_eq!(dir.records(out), dir.records(&whole));
        for worker in &mut workers {
            let ended = worker.finish();
            assert!(ended.status.success() && ended.stderr.contains("joining again"), "{ended}");
        }
    }
}

#[test]
fn a_refused_shard_learns_which_key_differs() {
    let dir = TestDir::of(&steady());
    let mut coordinator = Running::start(dir.server("out").args(LONG).args(["--shard", "0/2"]));
    coordinator.line(|line| line.starts_with("listening on"));
    let mut shard = program("ps-server");
    shard.arg(dir.path("run.toml")).args(["--shard", "1/2", "--coordinator", &dir.address()]);
    let ended = run(shard.args(SHORT).args(["--listen", &format!("unix:{}", dir.path("shard").display())]));
    assert_eq!(ended.status.code(), Some(42), "{ended}");
    assert!(ended.stderr.contains("train.epochs is 6 at the coordinator and 3 here"), "{ended}");
}

#[test]
fn a_run_file_with_different_past_steps_is_refused_without_side_effects() {
    let (dir, mut random) = (TestDir::new(), seeded());
    let wanted = run(&mut dir.train("whole", &[])).hash();
    dir.kill_once("killed", &mut random);
    let before = fs::read(dir.path("killed/metrics.jsonl")).unwrap();
    let stretched = "learning_rate.schedule = \"cosine\" spans the whole run, so with train.epochs = 9 instead of 8 the steps already made would have had different learning rates (step 2: ";
    let cases: [(&[&str], &str); 5] = [
        (&["train.epochs=9"], stretched),
        (
            &["optimizer.momentum=0.5"],
            "has optimizer.momentum = 0.9, but the run file has 0.5; restore the value",
        ),
        (&["seed=2", "optimizer.momentum=0.5"], "has seed = 1 (now 2), optimizer.momentum = 0.9 (now 0.5)"),
        (&["data.train=digits:4000"], r#"data.train was "digits:4096" and is "digits:4000""#),
        (&["train.steps=3"], "with train.steps = 3 it would end after 3; raise the number"),
    ];
    for (sets, expected) in cases {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        assert_refused(&run(&mut dir.train("killed", &sets)), expected);
        assert_refused(&run(dir.server("killed").args(&sets)), expected);
    }
    assert_eq!(fs::read(dir.path("killed/metrics.jsonl")).unwrap(), before);
    assert_eq!(run(&mut dir.train("killed", &[])).hash(), wanted);
    assert_eq!(dir.records("killed"), dir.records("whole"));

    // The run can be made longer after its end, too, also by `launch`.
    let longer = ["--set", "train.epochs=9"];
    assert_refused(&run(&mut dir.train("killed", &longer)), stretched);
    let mut launch = downhill(&["launch"]);
    launch.arg(dir.path("run.toml")).arg("--out").arg(dir.path("killed")).args(longer);
    let ended = run(&mut launch);
    assert!(ended.status.code() == Some(2) && ended.stderr.contains(stretched), "{ended}");
    assert_eq!(dir.records("killed"), dir.records("whole"));
}

#[test]
fn a_run_that_stopped_early_or_has_no_checkpoint_is_not_extended() {
    let stopping = steady().replace("leaf = 16", "leaf = 16\nearly_stopping = 2\nmin_delta = 10.0");
    let dir = TestDir::of(&stopping);
    let hash = run(&mut dir.train("out", &[])).hash();
    let ended = run(&mut dir.train("out", &["--set", "train.epochs=9"]));
    assert_refused(&ended, "ended by itself after 88 of 232 steps");
    assert!(ended.stderr.contains("stopped early: the validation loss did not fall below"), "{ended}");
    assert_eq!(run(downhill(&["evaluate"]).arg(dir.path("out"))).hash(), hash);

    let dir = TestDir::of(&steady());
    let mut unsaved = downhill(&["train"]);
    unsaved.arg(dir.path("run.toml")).arg("--out").arg(dir.path("out"));
    run(unsaved.args(SHORT).args(["--checkpoint-seconds", "0"])).hash();
    assert_refused(&run(&mut dir.train("out", &LONG)), "no checkpoint to resume from");
    let ended = run(&mut dir.train("out", &SHORT));
    assert_refused(&ended, "to continue training, raise train.epochs");
    // The run is refused even if a fresh start is permitted.
    assert_refused(&run(&mut dir.train("out", &[&LONG[..], &["--allow-fresh"]].concat())), "no checkpoint");
}

#[test]
fn a_checkpoint_without_its_run_file_is_compared_with_the_one_in_the_folder() {
    let (dir, mut random) = (TestDir::of(&steady()), seeded());
    let longer = ["--set", "train.epochs=9"];
    let wanted = run(&mut dir.train("whole", &longer)).hash();
    dir.kill_once("old", &mut random);
    // Earlier releases wrote checkpoints without the run file.
    for step in dir.checkpoints("old") {
        let path = dir.path(&format!("old/checkpoints/step-{step:012}/manifest.json"));
        let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert!(manifest.as_object_mut().unwrap().remove("run_file").is_some());
        let manifest: ps_checkpoint::Manifest = serde_json::from_value(manifest).unwrap();
        fs::write(&path, manifest.seal().unwrap()).unwrap();
    }
    let momentum = ["--set", "optimizer.momentum=0.5"];
    assert_refused(
        &run(&mut dir.train("old", &momentum)),
        "has optimizer.momentum = 0.9, but the run file has 0.5",
    );
    let file = fs::read(dir.path("old/run.toml")).unwrap();
    fs::remove_file(dir.path("old/run.toml")).unwrap();
    assert_refused(&run(&mut dir.train("old", &momentum)), "its checkpoint does not contain it");
    fs::write(dir.path("old/run.toml"), file).unwrap();
    assert_eq!(run(&mut dir.train("old", &longer)).hash(), wanted);
    assert_eq!(dir.records("old"), dir.records("whole"));
}
