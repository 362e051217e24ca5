//! Runs share no state, and errors name the cause.

use crate::short;
use downhill::{Error, ErrorKind, Observer, Requests, Run, StepMade, Trained};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Waits after each step until another run has made as many steps, or has ended.
struct InStep(Sender<()>, Receiver<()>);

impl Observer for InStep {
    fn on_step(&mut self, _: &StepMade<'_>, _: &mut Requests) {
        let _ = self.0.send(());
        let _ = self.1.recv();
    }
}

fn on_digits() -> Run {
    let run =
        Run::new().set("data.train", "digits:300").set("model.kind", "mlp").set("model.hidden", [70, 30]);
    run.set("train.batch", 100).set("train.epochs", 4).set("learning_rate.initial", 0.1)
}

#[test]
#[allow(clippy::disallowed_methods, reason = "it shows that nothing else has built the pool")]
fn runs_side_by_side_give_what_they_give_alone_and_leave_the_global_pool_alone() {
    let runs = [on_digits().threads(1), on_digits().threads(3).set("seed", 2)];
    let alone = runs.clone().map(|run| run.train().unwrap().summary.weights_sha256);
    assert_ne!(alone[0], alone[1]);
    let ((to_second, from_first), (to_first, from_second)) = (channel(), channel());
    let observers = [InStep(to_second, from_second), InStep(to_first, from_first)];
    let threads: Vec<_> = runs
        .into_iter()
        .zip(observers)
        .map(|(run, observer)| std::thread::spawn(move || run.train_observed(vec![Box::new(observer)])))
        .collect();
    let hash =
        |thread: JoinHandle<Result<Trained, Error>>| thread.join().unwrap().unwrap().summary.weights_sha256;
    let beside: Vec<String> = threads.into_iter().map(hash).collect();
    assert_eq!(beside, alone);
    assert_eq!(on_digits().threads(3).train().unwrap().summary.weights_sha256, alone[0]);
    // The global pool can be built only once, so this fails if the library has built it.
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().unwrap();
}

/// Stops after a number of steps, and forwards warnings.
struct Stop(u64, Sender<String>);

impl Observer for Stop {
    fn on_step(&mut self, step: &StepMade<'_>, requests: &mut Requests) {
        if step.step == self.0 {
            requests.stop();
        }
    }

    fn on_warning(&mut self, text: &str) {
        let _ = self.1.send(text.into());
    }
}

#[test]
fn a_run_that_was_stopped_is_resumed_with_other_threads() {
    let folder = tempfile::tempdir().unwrap();
    let run = on_digits().out(folder.path());
    let stopped =
        run.clone().threads(1).train_observed(vec![Box::new(Stop(5, channel().0))]).unwrap().summary;
    assert_eq!((stopped.steps, stopped.steps_planned), (5, 12));
    let resumed = run.threads(2).train().unwrap().summary;
    assert_eq!(resumed.weights_sha256, on_digits().train().unwrap().summary.weights_sha256);
}

#[test]
fn observers_are_warned_of_a_damaged_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let run = on_digits().out(folder.path());
    let (warnings, warned) = channel();
    let train = |until| run.train_observed(vec![Box::new(Stop(until, warnings.clone()))]).unwrap();
    train(5);
    train(8);
    let checkpoints = std::fs::read_dir(folder.path().join("checkpoints")).unwrap();
    let newest = checkpoints.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).max().unwrap();
    std::fs::write(newest.join("weights.safetensors"), "damaged").unwrap();
    assert_eq!(train(12).summary.weights_sha256, on_digits().train().unwrap().summary.weights_sha256);
    drop(warnings);
    let warned: Vec<String> = warned.iter().collect();
    assert!(matches!(&warned[..], [one] if one.starts_with("damaged checkpoint: ")), "{warned:?}");
}

#[test]
fn settings_override_a_run_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    std::fs::write(
        &path,
        "data.train = \"digits:60\"\nmodel.kind = \"softmax\"\n[train]\nepochs = 7\nsteps = 9\n",
    )
    .unwrap();
    let run = Run::from_file(&path)
        .unwrap()
        .set("train.epochs", 2)
        .unset("train.steps")
        .set("learning_rate.initial", 1e-3);
    let resolved = run.resolved().unwrap();
    assert!(resolved.contains("\nepochs = 2\n") && !resolved.contains("steps ="), "{resolved}");
    assert!(resolved.contains("\ninitial = 0.001\n"), "{resolved}");
    assert_eq!(Run::from_toml(&resolved).resolved().unwrap(), resolved);
}

#[test]
fn errors_say_what_is_wrong_and_where() {
    let refused = |run: Run| {
        let error = run.train().unwrap_err();
        (error.kind(), error.to_string())
    };
    let (kind, text) = refused(short());
    assert_eq!(kind, ErrorKind::Config);
    assert!(text.starts_with("run: data.train is missing: "), "{text}");
    let (kind, text) = refused(short().set("data.train", "csv:absent.csv"));
    assert_eq!(kind, ErrorKind::Data);
    assert!(text.contains("absent.csv: No such file"), "{text}");
    let (kind, text) = refused(short().set("data.train", "csv:https://example.com/a.csv"));
    assert_eq!(
        (kind, text.as_str()),
        (
            ErrorKind::Data,
            "https://example.com/a.csv: the library fetches nothing; download the file and name its path",
        )
    );
    let (kind, _) = refused(on_digits().set("learning_rate.initial", 1e30));
    assert_eq!(kind, ErrorKind::Diverged);
    let error = Run::from_file("absent.toml").unwrap_err();
    assert!(error.to_string().starts_with("absent.toml: No such file"), "{error}");
}
