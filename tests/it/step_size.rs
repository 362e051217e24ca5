//! The effects of finding, checking and recovering the step size on real data.

use downhill_tests::{Ended, downhill, root, run, shared};
use ps_plan::seed::{Purpose, Stream};
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
fn mnist_learns_at_the_proposed_rate_and_the_guard_recovers_at_thirty_times_it() {
    if shared("mnist/train-images-idx3-ubyte.gz").is_none() {
        return;
    }
    let file = "examples/mnist.toml";
    let found = run(&mut downhill(&["find-lr", file, "--quiet"]));
    assert!(found.status.success(), "{found}");
    let set = found.stdout.trim_end().strip_prefix("--set ").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("proposed");
    train(file, &[set, "train.epochs=3"], &out).hash();
    let accuracy = |out: &Path| summary(out)["test"]["accuracy"].as_f64().unwrap();
    assert!(accuracy(&out) > 0.975, "{set}: {}", accuracy(&out));

    let rate: f64 = set.rsplit('=').next().unwrap().parse().unwrap();
    let set = format!("learning_rate.initial={}", 30.0 * rate);
    let (lost, saved) = (folder.path().join("lost"), folder.path().join("saved"));
    let ended = train(file, &[&set, "train.epochs=1"], &lost);
    assert!(!ended.status.success() || accuracy(&lost) < 0.5, "it is not too large\n{ended}");
    train(file, &[&set, "train.epochs=2", "guard.mode=recover", "train.probe_every=100"], &saved).hash();
    assert!(accuracy(&saved) > 0.96, "{set}: {}", accuracy(&saved));
    let events = events(&saved);
    assert!(!events.is_empty() && events.iter().all(|(_, event, _)| event == "recovered"), "{events:?}");
}

/// A run that learns for 60 steps, diverges in a single step, and learns for 67 more.
const THROWN: &str = r#"
[data]
train = "digits:1024"
[model]
kind = "softmax"
[train]
epochs = 8
batch = 64
[learning_rate]
initial = 0.5
schedule = "piecewise"
at = [60, 61]
rates = [300, 0.5]
[guard]
mode = "recover"
"#;

#[test]
fn a_single_explosion_costs_a_single_recovery() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("run.toml"), folder.path().join("out"));
    fs::write(&file, THROWN).unwrap();
    let ended = train(file.to_str().unwrap(), &[], &out);
    ended.hash();
    let events = events(&out);
    let [(step, event, text)] = &events[..] else { panic!("{events:?}\n{ended}") };
    assert_eq!((*step, &event[..]), (61, "recovered"), "{text}");
    assert!(text.contains("back to the weights of step 0, learning rate 0.25"), "{text}");
    let epoch = |line| match line {
        Line::Epoch(line) => Some((line.learning_rate, line.train.loss)),
        _ => None,
    };
    let mut epochs = Line::read_all(&out.join(METRICS_FILE)).unwrap().into_iter().filter_map(epoch);
    let (rate, loss) = epochs.next_back().unwrap();
    assert!(rate == 0.25 && loss < 1.0, "{rate} {loss}");
}

/// Counts of about 50 with some noise, so that losses are about -140.
fn counts(path: &Path) {
    let mut stream = Stream::new(3, Purpose::Simulation, 0);
    let mut csv = String::from("a,b,count\n");
    for _ in 0..400 {
        let [a, b] = [0, 1].map(|_| f64::from(stream.unit()) - 0.5);
        let count = (50.0 * (a + 0.5 * b).exp() * (0.9 + 0.2 * f64::from(stream.unit()))).round();
        csv += &format!("{a},{b},{count}\n");
    }
    fs::write(path, csv).unwrap();
}

#[test]
fn negative_losses_are_guarded_and_have_plateaus_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.toml");
    counts(&folder.path().join("counts.csv"));
    fs::write(
        &file,
        "[data]\ntrain = \"csv:counts.csv\"\nvalidation = 0.2\n[model]\nkind = \"poisson\"\n[train]\nepochs = 60\nbatch = 32\n\
         [learning_rate]\ninitial = 0.002\n",
    )
    .unwrap();
    let trained = |name: &str, sets: &[&str]| {
        let out = folder.path().join(name);
        let hash = train(file.to_str().unwrap(), sets, &out).hash();
        let loss = summary(&out)["train"]["loss"].as_f64().unwrap();
        assert!(loss < -100.0, "{name}: {loss}");
        (hash, events(&out))
    };
    let (plain, _) = trained("plain", &[]);
    let (guarded, acted) = trained("guarded", &["guard.mode=recover", "guard.rise=1.2", "guard.every=5"]);
    assert_eq!(
        (guarded, acted),
        (plain, vec![]),
        "the loss falls, and a guard that never acts changes no bit"
    );
    let plateau = ["schedule=plateau", "factor=0.5", "patience=2", "threshold=0.01"]
        .map(|set| format!("learning_rate.{set}"));
    let (_, lowered) = trained("plateau", &plateau.each_ref().map(String::as_str));
    assert!(!lowered.is_empty() && lowered.iter().all(|(_, event, _)| event == "lowered"), "{lowered:?}");
}

#[test]
fn a_descent_with_line_search_finds_the_optimum_of_lbfgs() {
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
    assert!(*steps < 10_000 && event == "stopped" && text.contains("at most"), "{events:?}");
    // "the descent has arrived at loss L: …", the loss of the objective including weight decay.
    let loss: f64 = text.split("at loss ").nth(1).unwrap().split(':').next().unwrap().parse().unwrap();
    let wanted = truth["objective"].as_f64().unwrap();
    // A loss below the optimum by more than rounding would belong to another objective.
    assert!((loss - wanted).abs() < 5e-7 && loss > wanted - 1e-8, "{loss} {wanted}");
}
