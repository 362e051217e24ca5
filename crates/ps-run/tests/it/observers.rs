//! Observers of a run by the reference trainer, and the effects of their requests.

use ps_config::{CheckpointArgs, RunConfig};
use ps_core::control::Event;
use ps_core::reference;
use ps_data::NoProgress;
use ps_run::{
    EpochLine, Job, Line, Observer, Phase, Recorder, Requests, Resumed, RunFolder, StepMade, StepWeights,
    Style, Summary,
};
use std::fmt::Display;
use std::path::Path;
use std::sync::{Arc, Mutex};

pub(crate) fn job(keys: &str) -> Job {
    let text = format!(
        "data.train = 'digits:40'\nmodel.kind = 'softmax'\ntrain.batch = 20\nlearning_rate.initial = 0.1\n{keys}"
    );
    let run = RunConfig::parse(&text, "test", &[]).unwrap();
    Job::load(run, Path::new("."), &NoProgress).unwrap()
}

/// Reports steps of the reference trainer to `recorder` until the end, or until an observer requests a stop.
/// Returns the weights and the number of steps.
fn train(job: &Job, recorder: &mut Recorder) -> (Vec<f32>, u64) {
    recorder.begin();
    let [train, validation] = job.parts();
    let validation = job.validates().then_some(validation);
    let mut made = (job.model.initial(job.plan.seed), 0);
    let mut report = |report: &ps_core::StepReport, weights: &[f32]| {
        if recorder.is_stop_requested() {
            return;
        }
        recorder.step(report, 1);
        if recorder.needs(report.step + 1).unwrap().inspect {
            recorder.inspect(report.step + 1, weights);
        }
        made = (weights.to_vec(), report.step + 1);
    };
    reference::run(&job.model, job.trainer(), train, validation, &mut report).unwrap();
    if made.1 == job.plan.steps {
        recorder.validate(job, &made.0);
    }
    made
}

/// Records all reports in order.
#[derive(Clone, Default)]
struct Protocol(Arc<Mutex<Vec<String>>>);

impl Protocol {
    fn add(&self, entry: impl Into<String>) {
        self.0.lock().unwrap().push(entry.into());
    }

    fn entries(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Observer for Protocol {
    fn on_resume(&mut self, from: &Resumed<'_>) {
        self.add(format!("resume {} samples={}", from.step, from.samples));
    }

    fn on_phase(&mut self, phase: Phase, activity: &str) {
        self.add(format!("{phase:?} {activity}").trim_end());
    }

    fn on_step(&mut self, step: &StepMade<'_>, _: &mut Requests) {
        assert!(step.loss().is_finite() && step.accuracy().is_some() && step.seconds >= 0.0);
        self.add(format!(
            "step {}/{} epoch {}/{} samples={}",
            step.step, step.steps, step.epoch, step.epochs, step.samples
        ));
    }

    fn on_epoch(&mut self, epoch: &EpochLine, _: &mut Requests) {
        let validated = epoch.validation.as_ref().map(|measures| measures.samples);
        self.add(format!("epoch {} validated={validated:?}", epoch.epoch));
    }

    fn on_event(&mut self, step: u64, event: &Event, _: &mut Requests) {
        self.add(format!("event {step} {}", event.name()));
    }

    fn on_line(&mut self, line: &Line) {
        let kind = serde_json::to_value(line).unwrap()["kind"].clone();
        self.add(format!("line {}", kind.as_str().unwrap()));
    }

    fn on_note(&mut self, text: &str) {
        self.add(format!("note {text}"));
    }

    fn on_warning(&mut self, text: &str) {
        self.add(format!("warning {text}"));
    }

    fn wants_weights(&self, step: u64) -> bool {
        step == 2
    }

    fn on_weights(&mut self, weights: &StepWeights<'_>) {
        self.add(format!("weights {} len={}", weights.step, weights.values.len()));
    }

    fn on_finish(&mut self, summary: &Summary) {
        self.add(format!("finish {}", summary.steps));
    }

    fn on_failure(&mut self, reason: &dyn Display) {
        self.add(format!("failure {reason}"));
    }
}

#[test]
fn an_observer_sees_all_of_a_run_in_order() {
    let job = job("data.validation = 'digits:10,seed=5'\ntrain.epochs = 2");
    let mut recorder = Recorder::new(&job, None, Style::Quiet).unwrap();
    let protocol = Protocol::default();
    recorder.observe(Box::new(protocol.clone()));
    let (weights, version) = train(&job, &mut recorder);
    recorder.finish(&job, Path::new("."), &weights, version).unwrap();
    assert_eq!(
        protocol.entries(),
        [
            "Training",
            "step 1/4 epoch 1/2 samples=20",
            "line step",
            "step 2/4 epoch 1/2 samples=40",
            "line step",
            "weights 2 len=7850",
            // The validation of an epoch arrives with the next step.
            "epoch 1 validated=Some(10)",
            "line epoch",
            "step 3/4 epoch 2/2 samples=60",
            "line step",
            "step 4/4 epoch 2/2 samples=80",
            "line step",
            "Finishing evaluating the final weights",
            "epoch 2 validated=Some(10)",
            "line epoch",
            "Finishing writing the results",
            "finish 4",
        ]
    );
}

struct StopAfterEpoch(u32);

impl Observer for StopAfterEpoch {
    fn on_epoch(&mut self, epoch: &EpochLine, requests: &mut Requests) {
        if epoch.epoch == self.0 {
            requests.stop();
        }
    }
}

#[test]
fn an_observer_ends_a_run_after_the_step_in_hand() {
    let job = job("train.epochs = 5");
    let mut recorder = Recorder::new(&job, None, Style::Quiet).unwrap();
    recorder.observe(Box::new(StopAfterEpoch(2)));
    let (weights, version) = train(&job, &mut recorder);
    let summary = recorder.finish(&job, Path::new("."), &weights, version).unwrap();
    assert_eq!((summary.steps, summary.is_done()), (4, false));
}

struct SaveEachEpoch;

impl Observer for SaveEachEpoch {
    fn on_epoch(&mut self, _: &EpochLine, requests: &mut Requests) {
        requests.checkpoint();
    }
}

/// Opens a run of `job` in `folder` that saves checkpoints only on request.
fn open(job: &Job, folder: &Path, allow_fresh: bool) -> Recorder {
    let wanted =
        CheckpointArgs { checkpoint_every: None, checkpoint_seconds: 0, checkpoint_keep: 2, allow_fresh };
    let folder = RunFolder::create(Some(folder), "test", Some(&job.run)).unwrap();
    Recorder::with_checkpoints(job, folder, Style::Silent, &wanted).unwrap()
}

/// Makes three steps of a run in `folder`, observed by [`SaveEachEpoch`], and drops it without ending it.
fn make_three_steps(job: &Job, folder: &Path) {
    let mut recorder = open(job, folder, false);
    recorder.observe(Box::new(SaveEachEpoch));
    let mut steps = 0;
    let mut report = |report: &ps_core::StepReport, weights: &[f32]| {
        if steps == 3 {
            return;
        }
        steps = report.step + 1;
        recorder.step(report, 1);
        if recorder.needs(steps).unwrap().save {
            let progress = recorder.progress(steps, job.control().state().clone());
            recorder.checkpoint(progress, weights.to_vec(), Vec::new()).unwrap();
        }
    };
    reference::run(&job.model, job.trainer(), job.parts()[0], None, &mut report).unwrap();
}

#[test]
fn an_observer_can_request_a_checkpoint_and_sees_the_resumed_step() {
    let place = tempfile::tempdir().unwrap();
    let (job, folder) = (job("train.epochs = 3"), place.path().join("out"));
    make_three_steps(&job, &folder);
    let mut resumed = open(&job, &folder, false);
    let protocol = Protocol::default();
    resumed.observe(Box::new(protocol.clone()));
    assert_eq!(resumed.take_start().unwrap().progress.step, 2);
    resumed.rewind().unwrap();
    resumed.note("the page is elsewhere");
    resumed.abandon(&"the disk is full");
    assert_eq!(
        protocol.entries(),
        [
            "resume 2 samples=40",
            "note resuming after 2 of 6 steps, from the checkpoint",
            "resume 2 samples=40",
            // The hash of the weights from which the run resumes.
            "line hash",
            "note the page is elsewhere",
            "failure the disk is full",
        ]
    );
}

#[test]
fn an_observer_receives_warnings_from_before_it_was_added() {
    let place = tempfile::tempdir().unwrap();
    let (job, folder) = (job("train.epochs = 3"), place.path().join("out"));
    make_three_steps(&job, &folder);
    let weights = folder.join("checkpoints/step-000000000002/weights.safetensors");
    std::fs::write(weights, "damaged").unwrap();
    let mut begun = open(&job, &folder, true);
    let protocol = Protocol::default();
    begun.observe(Box::new(protocol.clone()));
    assert!(begun.take_start().is_none());
    let entries = protocol.entries();
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert!(entries[0].starts_with("warning damaged checkpoint: "), "{entries:?}");
}
