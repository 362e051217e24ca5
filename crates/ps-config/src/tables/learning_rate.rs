//! The `[learning_rate]` table, and the phases `[[learning_rate.then]]` with the same keys.

use crate::document::{Document, Value as Toml};
use crate::error::ConfigError;
use crate::field::{Field, field};
use crate::key::*;
use crate::setting::{Named, Setting, filled, list, named};
use crate::time::Time;
use ps_core::ScheduleKind;
use ps_core::control::Descent;
use std::ops::Bound::{Included, Unbounded};

/// The `[learning_rate]` table, or one of the phases that follow it. [`ps_core::LearningRate`] describes the
/// formula behind each key.
#[derive(Clone, Debug, PartialEq)]
pub struct RateConfig {
    /// When the phase begins; 0 for the table itself.
    pub from: Time,
    /// Rate that the schedule starts from (one-cycle: its peak).
    pub initial: f64,
    /// Shape of the schedule.
    pub schedule: Shape,
    /// The batch size for which the rates are given, if they are to be scaled to the actual one.
    pub for_batch: Option<usize>,
    /// Duration of the linear warm-up before the schedule.
    pub warmup: Time,
    /// The times at which the rate changes (piecewise).
    pub at: Vec<Time>,
    /// The rates from these times on (piecewise).
    pub rates: Vec<f64>,
    /// Period of step, exponential and inverse-time; first period of cosine-restarts.
    pub every: Time,
    /// Ratio of each period's length to the previous one's (cosine-restarts).
    pub stretch: u64,
    /// Factor of step, exponential and plateau; decay of inverse-time.
    pub factor: f64,
    /// Number of validations without improvement that are tolerated (plateau).
    pub patience: u64,
    /// How far below the best loss another loss must be to count as an improvement (plateau).
    pub threshold: f64,
    /// Whether the threshold is relative or absolute (plateau).
    pub threshold_mode: ThresholdMode,
    /// Number of validations that are ignored after the rate was lowered (plateau).
    pub cooldown: u64,
    /// Parameters of the line search (armijo).
    pub descent: Descent,
    /// Exponent of the decay (polynomial).
    pub power: f64,
    /// Final rate of polynomial, cosine, cosine-restarts and one-cycle; minimum rate of plateau.
    pub end: f64,
    /// The phases that follow; empty for a phase.
    pub then: Vec<RateConfig>,
}

/// The shape of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A function of the step; plateau also depends on validations.
    Is(ScheduleKind),
    /// A rate that changes at given times (piecewise).
    Pieces,
    /// Rates found by a line search, which checks each step (armijo).
    Armijo,
}

/// The unit of a plateau's threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThresholdMode {
    /// A share of the magnitude of the best loss.
    Relative,
    /// An absolute difference of losses.
    Absolute,
}

named!(Shape {
    "constant" = Shape::Is(ScheduleKind::Constant),
    "piecewise" = Shape::Pieces,
    "step" = Shape::Is(ScheduleKind::Step),
    "exponential" = Shape::Is(ScheduleKind::Exponential),
    "inverse-time" = Shape::Is(ScheduleKind::InverseTime),
    "polynomial" = Shape::Is(ScheduleKind::Polynomial),
    "cosine" = Shape::Is(ScheduleKind::Cosine),
    "cosine-restarts" = Shape::Is(ScheduleKind::CosineRestarts),
    "one-cycle" = Shape::Is(ScheduleKind::OneCycle),
    "plateau" = Shape::Is(ScheduleKind::Plateau),
    "armijo" = Shape::Armijo,
});
named!(ThresholdMode { "relative" = ThresholdMode::Relative, "absolute" = ThresholdMode::Absolute, });

const SCHEDULE: &str = "learning_rate.schedule";
const PERIODIC: Use = When(SCHEDULE, &["step", "exponential", "inverse-time", "cosine-restarts"]);
const FACTORED: Use = When(SCHEDULE, &["step", "exponential", "inverse-time", "plateau"]);
const PIECEWISE: Use = When(SCHEDULE, &["piecewise"]);
const PLATEAU: Use = When(SCHEDULE, &["plateau"]);
const ARMIJO: Use = When(SCHEDULE, &["armijo"]);

#[rustfmt::skip]
pub(crate) static FIELDS: &[Field<RateConfig>] = &[
    field!(from, "learning_rate.from", Accepts::Time(1), Required("\"50%\""), InPhases,
        "When this phase begins. It ends where the next one begins, and its schedule starts here."),
    field!(initial, "learning_rate.initial", POSITIVE, Required("0.1"), Always,
        "Initial learning rate; for one-cycle, the peak."),
    field!(schedule, "learning_rate.schedule", Name(Shape::NAMES), Value("\"constant\""), Always,
        "How the learning rate changes over the run."),
    field!(for_batch, "learning_rate.for_batch", Integer(1, MAX_SAMPLES), Described("train.batch"), BeforePhases,
        "Batch size for which the rates are given. Each rate is multiplied by train.batch / for_batch \
         (Goyal et al. 2017)."),
    field!(warmup, "learning_rate.warmup", Accepts::Time(0), Value("0"), Always,
        "Duration of the linear warm-up before the schedule starts."),
    field!(at, "learning_rate.at", Times, Required("[\"30%\", \"60%\"]"), PIECEWISE,
        "Times at which the rate changes, in ascending order."),
    field!(rates, "learning_rate.rates", Rates, Required("[0.01, 0.001]"), PIECEWISE,
        "Rate from each of the times in `at` on."),
    field!(every, "learning_rate.every", Accepts::Time(1), Required("1000"), PERIODIC,
        "Length of a period; for cosine-restarts, of the first one."),
    field!(stretch, "learning_rate.stretch", Integer(1, 1 << 20), Value("1"), When(SCHEDULE, &["cosine-restarts"]),
        "Ratio of each period's length to that of the previous one."),
    field!(factor, "learning_rate.factor", POSITIVE, Required("0.5"), FACTORED,
        "Factor by which each period or plateau multiplies the rate; for inverse-time, the rate is initial \
         / (1 + factor · periods)."),
    field!(patience, "learning_rate.patience", Integer(0, MAX_INTEGER), Value("10"), PLATEAU,
        "Number of consecutive validations without improvement to tolerate; one more lowers the rate."),
    field!(threshold, "learning_rate.threshold", NOT_NEGATIVE, Value("0.0001"), PLATEAU,
        "Minimum decrease of the best validation loss that counts as an improvement."),
    field!(threshold_mode, "learning_rate.threshold_mode", Name(ThresholdMode::NAMES), Value("\"relative\""), PLATEAU,
        "Whether `threshold` is relative to the magnitude of the best loss, or absolute."),
    field!(cooldown, "learning_rate.cooldown", Integer(0, MAX_INTEGER), Value("0"), PLATEAU,
        "Number of validations to ignore after the rate was lowered."),
    field!(descent.sufficient, "learning_rate.sufficient", BETWEEN, Value("0.0001"), ARMIJO,
        "A step is accepted if the loss falls by at least this share of the decrease predicted to first \
         order."),
    field!(descent.shrink, "learning_rate.shrink", BETWEEN, Value("0.5"), ARMIJO,
        "Factor of the rate after a rejected step."),
    field!(descent.grow, "learning_rate.grow", Double(Included(1.0), Unbounded), Value("2.0"), ARMIJO,
        "Factor of the rate after an accepted step."),
    field!(descent.tolerance, "learning_rate.tolerance", NOT_NEGATIVE, Value("1e-9"), ARMIJO,
        "End the run when the actual or predicted decrease of the loss is at most this."),
    field!(descent.gradient_tolerance, "learning_rate.gradient_tolerance", NOT_NEGATIVE, Value("1e-6"), ARMIJO,
        "End the run when the norm of the gradient is at most this."),
    field!(power, "learning_rate.power", POSITIVE, Value("1.0"), When(SCHEDULE, &["polynomial"]),
        "Exponent of the decay: the rate depends on the remaining share of the run, raised to this power."),
    field!(end, "learning_rate.end", NOT_NEGATIVE, Value("0.0"),
        When(SCHEDULE, &["polynomial", "cosine", "cosine-restarts", "one-cycle", "plateau"]),
        "Rate at the end of the run, phase or period; for plateau, the minimum."),
    Field {
        key: Key {
            path: "learning_rate.then",
            accepts: Phases,
            default: Described("none"),
            used: BeforePhases,
            help: "Later phases, each a table `[[learning_rate.then]]` with `from` and the keys of \
                   `[learning_rate]`.",
        },
        // Phases are written as separate tables, after this one.
        get: |_, _| None,
        set: |_, _, value| matches!(value, Toml::Phases(_)),
    },
];

pub(crate) fn read(document: &Document) -> Result<RateConfig, ConfigError> {
    let mut rate = phase(document)?;
    let phases = document.phases("learning_rate.then");
    let phases = phases.iter().map(|document| {
        let rate = phase(document)?;
        let expected = match rate.schedule {
            Shape::Pieces => "piecewise is not supported in a phase; write each piece as a separate phase",
            Shape::Armijo => {
                "armijo is not supported in a phase; set it under [learning_rate], for the \
                              whole run"
            }
            Shape::Is(_) => return Ok(rate),
        };
        Err(document.bad_value(SCHEDULE, expected.into()))
    });
    rate.then = phases.collect::<Result<Vec<_>, ConfigError>>()?;
    if !rate.then.is_empty() && rate.schedule == Shape::Pieces {
        let expected = "piecewise cannot be combined with phases; write each piece as a phase \
                        [[learning_rate.then]], or remove the phases";
        return Err(document.bad_value("learning_rate.at", expected.into()));
    }
    Ok(rate)
}

/// Reads one schedule. Settings that it does not use get values that have no effect.
fn phase(document: &Document) -> Result<RateConfig, ConfigError> {
    let mut rate = RateConfig {
        from: Time::Steps(0),
        initial: 0.0,
        schedule: Shape::Is(ScheduleKind::Constant),
        for_batch: None,
        warmup: Time::Steps(0),
        at: Vec::new(),
        rates: Vec::new(),
        every: Time::Steps(1),
        stretch: 1,
        factor: 1.0,
        patience: 0,
        threshold: 0.0,
        threshold_mode: ThresholdMode::Relative,
        cooldown: 0,
        descent: Descent { sufficient: 0.0, shrink: 0.0, grow: 0.0, tolerance: 0.0, gradient_tolerance: 0.0 },
        power: 1.0,
        end: 0.0,
        then: Vec::new(),
    };
    document.read(FIELDS, &mut rate)?;
    if rate.at.len() != rate.rates.len() {
        let expected = format!("expected {} rates, one for each time in learning_rate.at", rate.at.len());
        return Err(document.bad_value("learning_rate.rates", expected));
    }
    Ok(rate)
}

impl Setting for Time {
    fn read(accepts: Accepts, value: &Toml) -> Option<Self> {
        match (accepts, value) {
            (Accepts::Time(low), Toml::Integer(steps)) => {
                u64::try_from(*steps).ok().filter(|steps| *steps >= low).map(Time::Steps)
            }
            (_, Toml::Text(text)) => Time::parse(text),
            _ => None,
        }
    }

    fn write(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for Vec<Time> {
    fn read(_: Accepts, value: &Toml) -> Option<Self> {
        filled(value, |item| Time::read(Accepts::Time(1), item))
    }

    fn write(&self) -> Option<String> {
        Some(list(self))
    }
}
