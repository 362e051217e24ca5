//! Learning rates as pure functions of the step, computed in `f64` and rounded once.

use crate::function;
use serde::{Deserialize, Serialize};

/// The shape of a learning-rate schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// The initial rate in every step.
    #[default]
    Constant,
    /// The rate is multiplied by `factor` every `every` steps.
    Step,
    /// `initial * factor^(step / every)`, changing in every step.
    Exponential,
    /// `initial / (1 + factor * step / every)`.
    InverseTime,
    /// From `initial` to `end` along `(1 - progress)^power`.
    Polynomial,
    /// From `initial` to `end` along half a cosine.
    Cosine,
    /// Half cosines that restart, each `stretch` times as long as the previous one (SGDR, Loshchilov
    /// and Hutter 2017).
    CosineRestarts,
    /// The initial rate, multiplied by `factor` whenever the validation loss stops improving.
    Plateau,
    /// Up to `initial` and down again along half cosines (Smith and Topin 2018).
    OneCycle,
}

/// A learning-rate schedule, a pure function of the step. All times are in steps.
/// [`Schedule`] chains several.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LearningRate {
    /// The rate a schedule starts from; the peak of `one-cycle`.
    pub initial: f64,
    /// How the rate depends on the step.
    pub schedule: ScheduleKind,
    /// Steps of linear warm-up before the schedule starts: step t of the warm-up has rate `initial * (t +
    /// 1) / warmup`.
    pub warmup: u64,
    /// Period of `step`, `exponential` and `inverse-time`, and first period of `cosine-restarts`, in steps;
    /// at least 1.
    pub every: u64,
    /// Factor of `step`, `exponential` and `plateau`, and decay of `inverse-time`.
    pub factor: f64,
    /// Ratio of each period of `cosine-restarts` to the previous one; at least 1.
    pub stretch: u64,
    /// Exponent of `polynomial`.
    pub power: f64,
    /// Consecutive validations without improvement that `plateau` tolerates; one more lowers the rate.
    pub patience: u64,
    /// How far a loss must be below the best to count as an improvement for `plateau`: a fraction of the best
    /// loss, or a difference of losses if `is_absolute`.
    pub threshold: f64,
    /// Whether `threshold` is a difference of losses instead of a fraction.
    pub is_absolute: bool,
    /// Validations that `plateau` ignores after each change of the rate.
    pub cooldown: u64,
    /// The final rate of `polynomial`, `cosine`, `one-cycle` and each period of `cosine-restarts`, and the
    /// minimum of `plateau`.
    pub end: f64,
    /// Total steps of the schedule, warm-up included.
    pub steps: u64,
}

/// The first rate of `one-cycle` as a fraction of its peak.
const ONE_CYCLE_START: f64 = 1.0 / 25.0;
/// Fraction of the steps in which `one-cycle` rises.
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

    /// Whether validation determines the rate of the schedule's step `step`.
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
        // The warm-up may be longer than the schedule.
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

    /// Fraction of the current period that has passed `t` steps after the first one began.
    fn since_restart(&self, t: u64) -> f64 {
        let (mut t, mut period) = (t, self.every);
        // Periods that do not grow would take the loop one turn for each that has passed.
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

/// Consecutive learning-rate schedules, one phase after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    first: LearningRate,
    /// The later phases in order, each with the step at which it begins.
    then: Vec<(u64, LearningRate)>,
}

impl Schedule {
    /// Starts with `first` and switches to each schedule of `then` at its step. The steps must be at least
    /// 1 and increase.
    pub fn new(first: LearningRate, then: Vec<(u64, LearningRate)>) -> Self {
        let begins = then.iter().map(|(step, _)| *step);
        assert!(std::iter::once(0).chain(begins).is_sorted_by(|a, b| a < b), "schedules follow one another");
        Schedule { first, then }
    }

    /// The rate of step `step` (from 0), rounded to binary32. Each phase counts its steps from its beginning.
    pub fn at(&self, step: u64) -> f32 {
        let (begin, rate) = self.phase(step);
        rate.at(step - begin)
    }

    /// The phase that step `step` belongs to, and the step at which it begins.
    pub(crate) fn phase(&self, step: u64) -> (u64, &LearningRate) {
        let begun = self.then.iter().rev().find(|(begin, _)| *begin <= step);
        begun.map_or((0, &self.first), |(begin, rate)| (*begin, rate))
    }

    /// The first step below `steps` whose rate differs under `other`: either its unrounded bits differ, or a
    /// plateau determines it with different settings.
    pub fn first_difference(&self, other: &Schedule, steps: u64) -> Option<u64> {
        if self == other {
            return None;
        }
        (0..steps).find(|&step| self.rule_of(step) != other.rule_of(step))
    }

    /// What determines the rate of step `step`: its bits without validation and, within a plateau, the
    /// plateau's first step and settings.
    fn rule_of(&self, step: u64) -> (u64, Option<(u64, LearningRate)>) {
        let (begin, rate) = self.phase(step);
        // The length of a plateau has no influence on its rates.
        let plateau = || (begin, LearningRate { steps: 0, ..*rate });
        let is_plateau = rate.schedule == ScheduleKind::Plateau;
        (rate.exact(step - begin).to_bits(), is_plateau.then(plateau))
    }

    /// Whether validation determines any rate.
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
            // The two schedules are the same before that step.
            assert_eq!(of(kind, 100).first_difference(&of(kind, 200), first), None, "{kind:?}");
        }
    }

    #[test]
    fn a_moved_phase_differs_from_its_first_affected_step() {
        let with = |begin, kind| {
            let then = LearningRate { schedule: kind, ..LearningRate::constant(0.1) };
            Schedule::new(LearningRate::constant(0.1), vec![(begin, then)])
        };
        // A phase with the same rate makes no difference, but a plateau counts from its beginning.
        let constant = |begin| with(begin, ScheduleKind::Constant);
        assert_eq!(constant(50).first_difference(&constant(60), 100), None);
        let plateau = |begin| with(begin, ScheduleKind::Plateau);
        assert_eq!(plateau(50).first_difference(&plateau(60), 100), Some(50));
        assert_eq!(plateau(50).first_difference(&plateau(60), 50), None);
    }
}
