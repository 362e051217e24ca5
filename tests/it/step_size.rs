//! What finding, checking and rescuing the step size comes to on real data.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use downhill_tests::{Ended, downhill, root, run, shared};
use ps_run::{Line, METRICS_FILE};
use serde_json::Value;
use std::fs;
use std::path::Path;

fn summary(out: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(out.join("summary.json")).unwrap()).unwrap()
}

fn events(out: &Path) -> Vec<(u64, String, String)> {
    let event = |line| match line {
        Line::Event(event) => Some((event.step, event.event, event.text)),
        _ => None,
    };
    Line::read_all(&out.join(METRICS_FILE)).unwrap().into_iter().filter_map(event).collect()
}

fn train(file: &str, sets: &[&str], out: &Path) -> Ended {
    run(downhill(&["train", file]).args(sets.iter().flat_map(|set| ["--set", set])).arg("--out").arg(out))
}

#[test]
fn with_the_proposed_rate_mnist_is_learned_and_with_thirty_times_that_the_guard_brings_it_back() {
    if shared("mnist/train-images-idx3-ubyte.gz").is_none() {
        return;
    }
    let file = "examples/mnist.toml";
    let found = run(&mut downhill(&["find-lr", file, "--quiet"]));
    assert!(found.status.success(), "{found}");
    let set = found.stdout.trim_end().strip_prefix("--set ").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("proposed");
    train(file, &[set], &out).hash();
    let accuracy = |out: &Path| summary(out)["test"]["accuracy"].as_f64().unwrap();
    assert!(accuracy(&out) > 0.98, "{set}: {}", accuracy(&out));

    let rate: f64 = set.rsplit('=').next().unwrap().parse().unwrap();
    let set = format!("learning_rate.initial={}", 30.0 * rate);
    let (lost, saved) = (folder.path().join("lost"), folder.path().join("saved"));
    let ended = train(file, &[&set, "train.epochs=2"], &lost);
    assert!(!ended.status.success() || accuracy(&lost) < 0.5, "it is not too large\n{ended}");
    train(file, &[&set, "train.epochs=5", "guard.mode=recover", "train.probe_every=100"], &saved).hash();
    assert!(accuracy(&saved) > 0.97, "{set}: {}", accuracy(&saved));
    let events = events(&saved);
    assert!(!events.is_empty() && events.iter().all(|(_, event, _)| event == "recovered"), "{events:?}");
}

#[test]
fn a_descent_that_checks_itself_finds_the_optimum_that_lbfgs_finds() {
    if shared("a9a/a9a").is_none() {
        return;
    }
    let truth = fs::read_to_string(root().join("tests/truth/sklearn_a9a.json")).unwrap();
    let truth: Value = serde_json::from_str(&truth).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let decay = format!("optimizer.weight_decay={}", truth["weight_decay"]);
    let ended = train("examples/a9a-descent.toml", &[&decay], &out);
    ended.hash();
    let events = events(&out);
    let [(steps, event, text)] = &events[..] else { panic!("{events:?}\n{ended}") };
    assert!(*steps < 10_000 && event == "stopped" && text.contains("not above"), "{events:?}");
    // "the descent has arrived at loss L: …", of the objective, decay included.
    let loss: f64 = text.split("at loss ").nth(1).unwrap().split(':').next().unwrap().parse().unwrap();
    let wanted = truth["objective"].as_f64().unwrap();
    assert!((loss - wanted).abs() < 5e-7 && loss > wanted - 1e-8, "{loss} {wanted}");
}
