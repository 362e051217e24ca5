//! Learning rates as pure functions of the step, computed in `f64` and rounded once.

use crate::function;
use serde::{Deserialize, Serialize};

/// The shape of a learning-rate schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// The initial rate throughout.
    #[default]
    Constant,
    /// Multiplied by `factor` every `every` steps.
    Step,
    /// `initial * factor^(step / every)`, smoothly.
    Exponential,
    /// `initial / (1 + factor * step / every)`.
    InverseTime,
    /// From initial to final along `(1 - progress)^power`.
    Polynomial,
    /// From initial to final along half a cosine.
    Cosine,
    /// The same again and again, each `stretch` times as long as the one before (SGDR, Loshchilov and Hutter 2017).
    CosineRestarts,
    /// The initial rate, multiplied by `factor` whenever the validation loss has got no better for a while.
    Plateau,
    /// Up to `initial` and down again along half cosines (Smith and Topin 2018).
    OneCycle,
}

/// A learning-rate schedule. Times are in steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LearningRate {
    /// The rate a schedule starts from; the peak of `one-cycle`.
    pub initial: f64,
    /// The shape.
    pub schedule: ScheduleKind,
    /// Steps of linear warm-up before the schedule starts: step t of them has rate `initial * (t + 1) / warmup`.
    pub warmup: u64,
    /// Period of `step`, `exponential` and `inverse-time`, first period of `cosine-restarts`, in steps; at least 1.
    pub every: u64,
    /// Factor of `step`, `exponential` and `plateau`, decay of `inverse-time`.
    pub factor: f64,
    /// How many times as long as the one before each period of `cosine-restarts` is; at least 1.
    pub stretch: u64,
    /// Exponent of `polynomial`.
    pub power: f64,
    /// Validations that are no better than the best before `plateau` lowers the rate: one more lowers it.
    pub patience: u64,
    /// By how much a loss must be below the best to be better, of `plateau`: a share of the best, or, where
    /// `is_absolute`, a loss.
    pub threshold: f64,
    /// Which of them.
    pub is_absolute: bool,
    /// Validations after a change that do not count as bad, of `plateau`.
    pub cooldown: u64,
    /// The rate that `polynomial`, `cosine`, `one-cycle` and each period of `cosine-restarts` end at, and the least of
    /// `plateau`.
    pub end: f64,
    /// Steps of the whole schedule, warm-up included.
    pub steps: u64,
}

/// Where `one-cycle` starts, as a share of its peak.
const ONE_CYCLE_START: f64 = 1.0 / 25.0;
/// Share of the steps in which `one-cycle` rises.
const ONE_CYCLE_RISE: f64 = 0.3;

impl LearningRate {
    /// A constant rate.
    pub fn constant(initial: f64) -> Self {
        LearningRate {
            initial,
            schedule: ScheduleKind::Constant,
            warmup: 0,
            every: 1,
            factor: 1.0,
            stretch: 1,
            power: 1.0,
            patience: 10,
            threshold: 1e-4,
            is_absolute: false,
            cooldown: 0,
            end: 0.0,
            steps: 1,
        }
    }

    /// The rate of step `step` (from 0), rounded to binary32.
    pub fn at(&self, step: u64) -> f32 {
        self.exact(step) as f32
    }

    /// Whether validation decides the rate of the schedule's step `step`.
    pub(crate) fn is_watching(&self, step: u64) -> bool {
        self.schedule == ScheduleKind::Plateau && step >= self.warmup
    }

    /// The rate of step `step` before it is rounded.
    pub(crate) fn exact(&self, step: u64) -> f64 {
        let initial = self.initial;
        if step < self.warmup {
            return initial * (step + 1) as f64 / self.warmup as f64;
        }
        let t = (step - self.warmup) as f64;
        let periods = t / self.every as f64;
        let progress = t / self.steps.saturating_sub(self.warmup).max(1) as f64;
        match self.schedule {
            ScheduleKind::Constant | ScheduleKind::Plateau => initial,
            ScheduleKind::Step => initial * function::pow(self.factor, periods.floor()),
            ScheduleKind::Exponential => initial * function::pow(self.factor, periods),
            ScheduleKind::InverseTime => initial / (1.0 + self.factor * periods),
            ScheduleKind::Polynomial => {
                self.end + (initial - self.end) * function::pow((1.0 - progress).max(0.0), self.power)
            }
            ScheduleKind::Cosine => cosine(initial, self.end, progress),
            ScheduleKind::CosineRestarts => cosine(initial, self.end, self.since_restart(step - self.warmup)),
            ScheduleKind::OneCycle if progress < ONE_CYCLE_RISE => {
                cosine(initial * ONE_CYCLE_START, initial, progress / ONE_CYCLE_RISE)
            }
            ScheduleKind::OneCycle => {
                cosine(initial, self.end, (progress - ONE_CYCLE_RISE) / (1.0 - ONE_CYCLE_RISE))
            }
        }
    }

    /// How much of its period has passed `t` steps after the first one began.
    fn since_restart(&self, t: u64) -> f64 {
        let (mut t, mut period) = (t, self.every);
        if self.stretch == 1 {
            t %= period;
        }
        while t >= period {
            t -= period;
            period = period.saturating_mul(self.stretch);
        }
        t as f64 / period as f64
    }
}

/// Schedules, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    first: LearningRate,
    /// Those that follow, each with the step at which it begins, in order.
    then: Vec<(u64, LearningRate)>,
}

impl Schedule {
    /// `first`, and from each step of `then` on the one that is named with it; the steps must increase, from at least 1.
    pub fn new(first: LearningRate, then: Vec<(u64, LearningRate)>) -> Self {
        let begins = then.iter().map(|(step, _)| *step);
        assert!(std::iter::once(0).chain(begins).is_sorted_by(|a, b| a < b), "schedules follow one another");
        Schedule { first, then }
    }

    /// The rate of step `step` (from 0), rounded to binary32: that of the schedule it belongs to, whose steps count from
    /// its beginning.
    pub fn at(&self, step: u64) -> f32 {
        let (begin, rate) = self.phase(step);
        rate.at(step - begin)
    }

    /// The schedule that step `step` belongs to, and the step at which it begins.
    pub(crate) fn phase(&self, step: u64) -> (u64, &LearningRate) {
        let begun = self.then.iter().rev().find(|(begin, _)| *begin <= step);
        begun.map_or((0, &self.first), |(begin, rate)| (*begin, rate))
    }

    /// The first step below `steps` whose rate is not the same under `other`: either it has other bits before it is
    /// rounded, or a plateau decides it by other rules.
    pub fn first_difference(&self, other: &Schedule, steps: u64) -> Option<u64> {
        if self == other {
            return None;
        }
        (0..steps).find(|&step| self.rule_of(step) != other.rule_of(step))
    }

    /// What decides the rate of step `step`: the bits that it has without validation, and, within a plateau, the step at
    /// which the plateau begins and its settings.
    fn rule_of(&self, step: u64) -> (u64, Option<(u64, LearningRate)>) {
        let (begin, rate) = self.phase(step);
        // How long a plateau lasts decides nothing.
        let plateau = || (begin, LearningRate { steps: 0, ..*rate });
        let is_plateau = rate.schedule == ScheduleKind::Plateau;
        (rate.exact(step - begin).to_bits(), is_plateau.then(plateau))
    }

    /// Whether validation decides any rate.
    pub fn watches(&self) -> bool {
        let rates = self.then.iter().map(|(_, rate)| rate);
        std::iter::once(&self.first).chain(rates).any(|rate| rate.schedule == ScheduleKind::Plateau)
    }
}

impl From<LearningRate> for Schedule {
    fn from(rate: LearningRate) -> Self {
        Schedule::new(rate, Vec::new())
    }
}

impl From<&Schedule> for Schedule {
    fn from(schedule: &Schedule) -> Self {
        schedule.clone()
    }
}

/// Half a cosine from `from` (progress 0) to `to` (progress 1).
fn cosine(from: f64, to: f64, progress: f64) -> f64 {
    to + (from - to) * (0.5 * (1.0 + function::cos_pi(progress.clamp(0.0, 1.0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(schedule: ScheduleKind, steps: u64) -> Schedule {
        LearningRate { schedule, steps, every: 7, factor: 0.5, end: 0.01, ..LearningRate::constant(0.1) }
            .into()
    }

    #[test]
    fn only_schedules_that_are_stretched_over_the_run_differ_with_its_length() {
        use ScheduleKind::*;
        for kind in [Constant, Step, Exponential, InverseTime, CosineRestarts, Plateau] {
            assert_eq!(of(kind, 100).first_difference(&of(kind, 200), 100), None, "{kind:?}");
        }
        for (kind, first) in [(Polynomial, 1), (Cosine, 1), (OneCycle, 1)] {
            assert_eq!(of(kind, 100).first_difference(&of(kind, 100), 100), None, "{kind:?}");
            assert_eq!(of(kind, 100).first_difference(&of(kind, 200), 100), Some(first), "{kind:?}");
            // Before that step the two are the same.
            assert_eq!(of(kind, 100).first_difference(&of(kind, 200), first), None, "{kind:?}");
        }
    }

    #[test]
    fn a_phase_that_begins_elsewhere_differs_from_the_step_where_it_first_matters() {
        let with = |begin, kind| {
            let then = LearningRate { schedule: kind, ..LearningRate::constant(0.1) };
            Schedule::new(LearningRate::constant(0.1), vec![(begin, then)])
        };
        // A phase of the same rate makes no difference, but a plateau counts from its beginning.
        let constant = |begin| with(begin, ScheduleKind::Constant);
        assert_eq!(constant(50).first_difference(&constant(60), 100), None);
        let plateau = |begin| with(begin, ScheduleKind::Plateau);
        assert_eq!(plateau(50).first_difference(&plateau(60), 100), Some(50));
        assert_eq!(plateau(50).first_difference(&plateau(60), 50), None);
    }
}
