//! Times within a run, in steps, epochs or shares of the run.

use ps_plan::BatchPlan;
use std::fmt;

/// A moment of a run, or a duration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Time {
    /// A number of steps.
    Steps(u64),
    /// A number of passes over the training samples; need not be whole.
    Epochs(f64),
    /// A percentage of the run's steps, from 0 to 100.
    Percent(f64),
}

impl Time {
    /// Parses `N epochs` or `N%`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
        if let Some(percent) = text.strip_suffix('%') {
            return number(percent).filter(|percent| (0.0..=100.0).contains(percent)).map(Time::Percent);
        }
        let epochs = text.strip_suffix("epochs").or_else(|| text.strip_suffix("epoch"))?;
        number(epochs).filter(|epochs| (0.0..=1e9).contains(epochs)).map(Time::Epochs)
    }

    /// Converts to steps of the run that `plan` describes, rounded to the nearest.
    pub(crate) fn steps(self, plan: &BatchPlan) -> u64 {
        match self {
            Time::Steps(steps) => steps,
            Time::Epochs(epochs) => (epochs * plan.steps_per_epoch() as f64).round() as u64,
            Time::Percent(percent) => (percent / 100.0 * plan.steps as f64).round() as u64,
        }
    }
}

impl fmt::Display for Time {
    /// Formats the time in TOML, as a value of the run file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Time::Steps(steps) => write!(f, "{steps}"),
            Time::Epochs(epochs) => write!(f, "\"{epochs} epochs\""),
            Time::Percent(percent) => write!(f, "\"{percent}%\""),
        }
    }
}
