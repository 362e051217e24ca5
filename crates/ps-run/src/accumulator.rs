//! Adds steps up to the lines of the metrics file.

use crate::events;
use crate::lines::{EpochLine, EventLine, Length, Line, ProbeLine, StepLine};
use crate::measures::Measures;
use crate::observer::StepMade;
use crate::window::Window;
use ps_core::control::{Event, Probe, State};
use ps_core::{MetricSums, StepReport};
use ps_plan::BatchPlan;
use std::time::Instant;

/// Adds steps up to lines of metrics, and keeps the sums that a checkpoint and the summary need.
///
/// A driver reports each step after it is made, and the validation of an epoch with the step after the
/// epoch's last one. Each report produces [`Record`]s, which are passed to the caller's closure in order.
/// Nothing here reads a clock or a file.
pub(crate) struct Accumulator {
    plan: BatchPlan,
    length: Length,
    class_names: Vec<String>,
    /// When training began in this process.
    started: Instant,
    /// Seconds that earlier processes of the run spent training.
    before: f64,
    samples: u64,
    /// The steps since the last [`StepLine`].
    recent: Window,
    epoch: Window,
    /// The last epoch, while its validation is pending.
    ended: Option<EpochLine>,
    /// Number of lines of metrics so far.
    lines: u64,
    cut: Option<Cut>,
    findings: Findings,
}

/// A consequence of a report, for the observers.
#[derive(Debug)]
pub(crate) enum Record<'a> {
    Step(&'a StepMade<'a>),
    /// An event, after the number of steps that were made before it.
    Event(u64, &'a Event),
    Line(&'a Line),
}

/// The parts of the summary that follow from the steps.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Metrics of the last complete epoch, or of the steps of an incomplete one.
    pub(crate) train: Option<Measures>,
    /// The last validation, and the number of steps before it.
    pub(crate) validated: Option<(u64, Measures)>,
    /// Whether a policy ended the run before all steps were made.
    pub(crate) is_concluded: bool,
    /// Whether the final weights are the best ones, of an earlier step.
    pub(crate) is_restored: bool,
    pub(crate) probes: Vec<ProbeLine>,
}

/// The state of a longer run after the last step of this one, if that step does not end an epoch.
struct Cut {
    lines: u64,
    epoch: MetricSums,
    recent: MetricSums,
}

impl Accumulator {
    /// Creates the accumulator of a run. If `from` is a saved run's progress, `lines` are its lines.
    pub(crate) fn new(
        plan: BatchPlan,
        class_names: &[String],
        classes: usize,
        from: &ps_checkpoint::Progress,
        lines: &[Line],
        now: Instant,
    ) -> Self {
        let (length, empty) = (Length::of(&plan), || Window::new(MetricSums::new(classes), now));
        let mut accumulator = Accumulator {
            plan,
            length,
            class_names: class_names.to_vec(),
            started: now,
            before: from.seconds,
            samples: 0,
            recent: empty(),
            epoch: empty(),
            ended: None,
            lines: 0,
            cut: None,
            findings: Findings::default(),
        };
        accumulator.resume(from, lines, now);
        let ended = accumulator.ended.as_ref().or_else(|| last_epoch(lines));
        accumulator.findings.train = ended.map(|line| line.train.clone());
        accumulator
    }

    /// Restarts the clock: the time before training begins does not count.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.started = now;
        self.epoch.begin(now);
        self.recent.begin(now);
    }

    /// Continues from a saved state whose lines of metrics are `lines`. Later steps are dropped, but the time
    /// that they took still counts.
    pub(crate) fn resume(&mut self, from: &ps_checkpoint::Progress, lines: &[Line], now: Instant) {
        let empty = MetricSums::new(self.epoch.sums().classes.len());
        // The progress at step 0 is the default one, whose metric sums have no classes.
        let of_epoch = if from.step == 0 { empty.clone() } else { from.metric_sums.clone() };
        self.epoch = Window::new(of_epoch, now);
        self.recent = Window::new(from.recent.clone().unwrap_or(empty), now);
        self.samples = from.samples;
        self.lines = from.lines;
        self.ended = pending(from, self.length);
        self.cut = None;
        self.findings.validated = None;
        // The judgement of the learning rate at the end also covers the steps before an interruption.
        self.findings.probes = probes(lines);
    }

    /// Adds a step, to which `workers` workers contributed.
    pub(crate) fn step(
        &mut self,
        report: &StepReport,
        workers: usize,
        now: Instant,
        out: &mut impl FnMut(Record<'_>),
    ) {
        // First, because the report of a step brings the validation of the epoch that ended before it.
        self.end_wait(report.validation.as_ref(), out);
        self.recent.add(&report.metric_sums);
        self.epoch.add(&report.metric_sums);
        self.samples += report.metric_sums.samples;
        self.findings.is_concluded |= report.is_last;
        report.events.iter().for_each(|event| self.event(report.step, event, out));
        if let Some(probe) = &report.probe {
            self.probe(probe, out);
        }
        let step = StepMade {
            workers,
            ..self.made(report.step, report.epoch, report.rate, &report.metric_sums, now)
        };
        out(Record::Step(&step));
        if StepLine::is_due(step.step) {
            self.close_recent(&step, out);
        }
        if self.plan.ends_epoch(report.step) {
            self.end_epoch(&step, out);
        }
    }

    /// Describes step `step`, counted from 0, made by a single worker.
    fn made<'a>(
        &self,
        step: u64,
        epoch: u32,
        rate: f32,
        batch: &'a MetricSums,
        now: Instant,
    ) -> StepMade<'a> {
        StepMade {
            step: step + 1,
            steps: self.length.steps,
            epoch: epoch + 1,
            epochs: self.length.epochs,
            learning_rate: rate,
            batch,
            samples: self.samples,
            workers: 1,
            seconds: self.seconds(now),
            at: now,
        }
    }

    /// Ends the last epoch, which the end of the run cuts short. This is called if the saved state that the
    /// run resumes from already includes all `steps` steps. `rate` is the learning rate of the last one.
    pub(crate) fn end_cut_epoch(
        &mut self,
        steps: u64,
        rate: f32,
        now: Instant,
        out: &mut impl FnMut(Record<'_>),
    ) {
        if !self.epoch.is_empty() {
            let (batch, last) = (MetricSums::default(), self.plan.step(steps - 1));
            let step = self.made(last.step, last.epoch, rate, &batch, now);
            self.end_epoch(&step, out);
        }
    }

    /// Ends an epoch after its last step or after the last step of the run.
    fn end_epoch(&mut self, step: &StepMade<'_>, out: &mut impl FnMut(Record<'_>)) {
        if !step.step.is_multiple_of(self.plan.steps_per_epoch()) {
            let (epoch, recent) = (self.epoch.sums().clone(), self.recent.sums().clone());
            self.cut = Some(Cut { lines: self.lines, epoch, recent });
        }
        if !self.recent.is_empty() {
            self.close_recent(step, out);
        }
        let train = Measures::new(self.epoch.sums(), &self.class_names);
        self.findings.train = Some(train.clone());
        self.ended = Some(EpochLine {
            epoch: step.epoch,
            epochs: step.epochs,
            step: step.step,
            steps: step.steps,
            samples_per_second: self.epoch.speed(step.at),
            train,
            validation: None,
            learning_rate: step.learning_rate,
            workers: step.workers,
            seconds: step.seconds,
        });
        self.epoch.restart(step.at);
        if self.plan.validation == 0 {
            self.end_wait(None, out);
        }
    }

    /// Returns whether an epoch is complete except for its validation.
    pub(crate) fn awaits_validation(&self) -> bool {
        self.ended.is_some()
    }

    /// Adds the validation to the epoch that waits for it, if there is one.
    pub(crate) fn end_wait(&mut self, validation: Option<&MetricSums>, out: &mut impl FnMut(Record<'_>)) {
        let Some(mut line) = self.ended.take() else { return };
        line.validation = validation.map(|sums| Measures::new(sums, &self.class_names));
        self.findings.validated = line.validation.clone().map(|measures| (line.step, measures));
        self.line(&Line::Epoch(line), out);
    }

    /// Records that a policy intervened after `step` steps.
    pub(crate) fn event(&mut self, step: u64, event: &Event, out: &mut impl FnMut(Record<'_>)) {
        if let Event::Restored { .. } = event {
            // The last validation was of the weights that have just been replaced.
            self.findings.validated = None;
            self.findings.is_restored = true;
        }
        out(Record::Event(step, event));
        let line = EventLine { step, event: event.name().into(), text: events::text(event) };
        self.line(&Line::Event(line), out);
    }

    fn probe(&mut self, probe: &Probe, out: &mut impl FnMut(Record<'_>)) {
        let line = ProbeLine {
            step: probe.step + 1,
            learning_rate: probe.rate,
            loss: probe.loss,
            gradient_norm: probe.gradient_norm,
            predicted_decrease: probe.predicted,
            actual_decrease: probe.actual,
            update_ratios: probe.ratios.clone(),
        };
        self.findings.probes.push(line.clone());
        self.line(&Line::Probe(line), out);
    }

    fn close_recent(&mut self, step: &StepMade<'_>, out: &mut impl FnMut(Record<'_>)) {
        let line = self.recent.close(step);
        self.line(&Line::Step(line), out);
    }

    /// Counts a line of metrics and passes it on.
    pub(crate) fn line(&mut self, line: &Line, out: &mut impl FnMut(Record<'_>)) {
        self.lines = self.lines.saturating_add(1);
        out(Record::Line(line));
    }

    /// Seconds of training, including those of earlier processes.
    pub(crate) fn seconds(&self, now: Instant) -> f64 {
        self.before + (now - self.started).as_secs_f64()
    }

    /// Number of training samples seen; a sample counts once per epoch.
    pub(crate) fn samples(&self) -> u64 {
        self.samples
    }

    /// Returns whether a policy ended the run before all steps were made.
    pub(crate) fn is_concluded(&self) -> bool {
        self.findings.is_concluded
    }

    /// Returns the progress that a checkpoint after `step` steps saves. All of these steps must have been
    /// reported. The caller fills in the contributors.
    pub(crate) fn progress(&self, step: u64, control: State, now: Instant) -> ps_checkpoint::Progress {
        let pending = || self.ended.iter().map(|line| Line::Epoch(line.clone()).to_json()).collect();
        let (lines, pending, metric_sums, recent) = match &self.cut {
            Some(Cut { lines, epoch, recent }) => (*lines, Vec::new(), epoch, recent),
            None => (self.lines, pending(), self.epoch.sums(), self.recent.sums()),
        };
        ps_checkpoint::Progress {
            control,
            lines,
            pending,
            step,
            epoch: self.plan.step(step).epoch,
            seconds: self.seconds(now),
            samples: self.samples,
            metric_sums: metric_sums.clone(),
            recent: (recent.samples > 0).then(|| recent.clone()),
            contributors: Default::default(),
        }
    }

    /// Returns the findings for the summary. If the last epoch is incomplete, its steps so far take the place
    /// of the last complete one.
    pub(crate) fn take_findings(&mut self) -> Findings {
        let mut findings = std::mem::take(&mut self.findings);
        if !self.epoch.is_empty() {
            findings.train = Some(Measures::new(self.epoch.sums(), &self.class_names));
        }
        findings
    }
}

/// Returns the epoch that was waiting for its validation when the progress was saved.
fn pending(from: &ps_checkpoint::Progress, length: Length) -> Option<EpochLine> {
    from.pending.iter().find_map(|json| {
        match serde_json::from_str(json).map(|line: Line| line.of_length(length)) {
            Ok(Line::Epoch(line)) => Some(line),
            _ => None,
        }
    })
}

/// Returns the last complete epoch.
fn last_epoch(lines: &[Line]) -> Option<&EpochLine> {
    lines.iter().rev().find_map(|line| match line {
        Line::Epoch(line) => Some(line),
        _ => None,
    })
}

/// Returns the probed steps.
fn probes(lines: &[Line]) -> Vec<ProbeLine> {
    let probe = |line: &Line| match line {
        Line::Probe(probe) => Some(probe.clone()),
        _ => None,
    };
    lines.iter().filter_map(probe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ps_core::control::{Monitor, Stop};
    use std::time::Duration;

    /// A plan with four steps per epoch and `steps` steps in total.
    fn plan(steps: u64, validation: usize) -> BatchPlan {
        BatchPlan::new(1, 40, 10, 5, 9, Some(steps)).watching(validation, 0)
    }

    fn fresh(plan: BatchPlan, now: Instant) -> Accumulator {
        Accumulator::new(plan, &[], 2, &ps_checkpoint::Progress::default(), &[], now)
    }

    /// Step `step` of ten samples, each with a loss of `step`.
    fn report(plan: BatchPlan, step: u64) -> StepReport {
        let sums = |samples: u64| MetricSums {
            samples,
            loss: (samples * step) as f64,
            correct: 4,
            ..MetricSums::new(2)
        };
        let place = plan.step(step);
        StepReport {
            step,
            epoch: place.epoch,
            rate: 0.5,
            metric_sums: sums(10),
            validation: (place.validation > 0).then(|| sums(place.validation as u64)),
            is_last: false,
            events: Vec::new(),
            probe: None,
        }
    }

    /// Reports steps and returns the resulting lines, with their speeds, which depend on time, set to 0.
    fn run(accumulator: &mut Accumulator, steps: std::ops::Range<u64>, now: Instant) -> Vec<Line> {
        let mut lines = Vec::new();
        for step in steps {
            let report = report(accumulator.plan, step);
            accumulator.step(&report, 1, now, &mut |record| collect(&mut lines, record));
        }
        lines
    }

    fn collect(lines: &mut Vec<Line>, record: Record<'_>) {
        if let Record::Line(line) = record {
            lines.push(match line.clone() {
                Line::Step(line) => Line::Step(StepLine { samples_per_second: 0.0, ..line }),
                Line::Epoch(line) => Line::Epoch(EpochLine { samples_per_second: 0.0, ..line }),
                line => line,
            });
        }
    }

    fn epochs(lines: &[Line]) -> Vec<&EpochLine> {
        lines.iter().filter_map(|line| if let Line::Epoch(line) = line { Some(line) } else { None }).collect()
    }

    #[test]
    fn an_epoch_waits_for_its_validation_which_comes_with_the_next_step() {
        let now = Instant::now();
        let mut accumulator = fresh(plan(8, 20), now);
        let lines = run(&mut accumulator, 0..4, now);
        assert!(epochs(&lines).is_empty() && accumulator.awaits_validation());
        let lines = run(&mut accumulator, 4..5, now);
        let epoch = epochs(&lines)[0];
        // Steps 0 to 3 of training, and the validation that step 4 has made of the weights before it.
        assert_eq!((epoch.epoch, epoch.step, epoch.train.samples, epoch.train.loss), (1, 4, 40, 1.5));
        assert_eq!(epoch.validation.as_ref().map(|it| (it.samples, it.loss)), Some((20, 4.0)));
        assert!(matches!(lines[..], [Line::Epoch(_), Line::Step(_)]));
        assert!(!accumulator.awaits_validation());
    }

    #[test]
    fn an_epoch_without_validation_is_over_with_its_last_step() {
        let now = Instant::now();
        let mut accumulator = fresh(plan(8, 0), now);
        let lines = run(&mut accumulator, 0..8, now);
        assert_eq!(epochs(&lines).iter().map(|line| line.step).collect::<Vec<_>>(), [4, 8]);
        assert!(!accumulator.awaits_validation());
    }

    #[test]
    fn a_run_resumed_after_any_step_writes_the_same_lines() {
        let now = Instant::now();
        // In a long run, late steps do not all have a line.
        let long = BatchPlan::new(1, 20_000, 10, 5, 1, Some(1040));
        for (plan, resumed) in [(plan(11, 20), 1..11), (long, 1028..1034)] {
            let mut whole = fresh(plan, now);
            let expected = run(&mut whole, 0..plan.steps, now);
            for step in resumed {
                let mut first = fresh(plan, now);
                let mut lines = run(&mut first, 0..step, now);
                let saved = first.progress(step, State::default(), now);
                let mut second = Accumulator::new(plan, &[], 2, &saved, &lines, now);
                lines.extend(run(&mut second, step..plan.steps, now));
                assert_eq!(lines, expected, "resumed after {step} steps");
                let [saved, expected] =
                    [&second, &whole].map(|it| it.progress(plan.steps, State::default(), now));
                assert_eq!((saved.lines, saved.samples), (expected.lines, expected.samples));
            }
        }
    }

    #[test]
    fn a_run_that_ends_within_an_epoch_saves_what_a_longer_one_would() {
        let now = Instant::now();
        for steps in [6, 8] {
            let (mut short, mut long) = (fresh(plan(steps, 20), now), fresh(plan(11, 20), now));
            let lines = run(&mut short, 0..steps, now);
            run(&mut long, 0..steps, now);
            let [saved, expected] =
                [&short, &long].map(|accumulator| accumulator.progress(steps, State::default(), now));
            let pending = |saved: &ps_checkpoint::Progress| pending(saved, Length::of(&plan(11, 20)));
            assert_eq!(pending(&saved), pending(&expected));
            let saved = ps_checkpoint::Progress { pending: expected.pending.clone(), ..saved };
            assert_eq!(saved, expected);
            assert!(lines.len() as u64 >= saved.lines);
        }
    }

    #[test]
    fn going_back_discards_later_lines_but_keeps_their_time() {
        let begun = Instant::now();
        let plan = plan(11, 20);
        let mut accumulator = fresh(plan, begun);
        let lines = run(&mut accumulator, 0..3, begun);
        let saved = accumulator.progress(3, State::default(), begun);
        let later = begun + Duration::from_secs(9);
        let expected = run(&mut accumulator, 3..6, later);
        assert!(accumulator.findings.validated.is_some());
        accumulator.resume(&saved, &lines, later);
        assert!(accumulator.findings.validated.is_none());
        assert_eq!((accumulator.samples(), accumulator.seconds(later)), (30, 9.0));
        assert_eq!(run(&mut accumulator, 3..6, later), expected);
    }

    #[test]
    fn the_validation_of_weights_that_are_replaced_is_not_that_of_the_run() {
        let now = Instant::now();
        let mut accumulator = fresh(plan(4, 20), now);
        run(&mut accumulator, 0..4, now);
        let mut lines = Vec::new();
        accumulator
            .end_wait(Some(&report(plan(8, 20), 4).metric_sums), &mut |record| collect(&mut lines, record));
        assert_eq!(accumulator.findings.validated.as_ref().map(|it| it.0), Some(4));
        let restored = Event::Restored { monitor: Monitor::Loss, value: 4.0, best: 1.0, step: 2 };
        accumulator.event(4, &restored, &mut |record| collect(&mut lines, record));
        assert!(matches!(&lines[..], [Line::Epoch(_), Line::Event(line)] if line.event == "restored"));
        let findings = accumulator.take_findings();
        assert!(findings.validated.is_none() && findings.is_restored && !findings.is_concluded);
    }

    #[test]
    fn events_of_a_step_are_reported_before_it() {
        let now = Instant::now();
        let mut accumulator = fresh(plan(8, 0), now);
        let stop = Event::Stopped(Stop::NoImprovement {
            monitor: Monitor::Loss,
            best: 0.5,
            validations: 2,
            step: 0,
        });
        let report = StepReport { is_last: true, events: vec![stop], ..report(plan(8, 0), 0) };
        let mut order = Vec::new();
        accumulator.step(&report, 1, now, &mut |record| {
            order.push(match record {
                Record::Event(step, event) => format!("{step} {}", event.name()),
                Record::Line(Line::Event(_)) => "its line".into(),
                Record::Step(step) => format!("step {}", step.step),
                Record::Line(_) => "its line".into(),
            });
        });
        assert_eq!(order, ["0 stopped", "its line", "step 1", "its line"]);
        assert!(accumulator.is_concluded());
    }
}
