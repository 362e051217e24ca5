//! The `[guard]` table: what happens when the loss explodes.

use crate::document::Document;
use crate::error::ConfigError;
use crate::field::{Field, field};
use crate::key::*;
use crate::setting::{Named, named};
use crate::time::Time;
use std::ops::Bound::{Excluded, Unbounded};

/// The `[guard]` table; see [`ps_core::control::Guard`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GuardConfig {
    /// What an explosion leads to.
    pub mode: GuardMode,
    /// How far the running mean of the loss may rise.
    pub rise: f64,
    /// Factor of the rate at each recovery.
    pub factor: f64,
    /// Recoveries allowed in one run.
    pub retries: u32,
    /// Time between two copies of the weights.
    pub every: Time,
}

/// What happens when the loss explodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardMode {
    /// Nothing.
    Off,
    /// It is reported.
    Warn,
    /// The run returns to earlier weights and lowers the rate.
    Recover,
}

named!(GuardMode { "off" = GuardMode::Off, "warn" = GuardMode::Warn, "recover" = GuardMode::Recover, });

const WATCHES: Use = When("guard.mode", &["warn", "recover"]);
const RECOVERS: Use = When("guard.mode", &["recover"]);

#[rustfmt::skip]
pub(crate) static FIELDS: &[Field<GuardConfig>] = &[
    field!(mode, "guard.mode", Name(GuardMode::NAMES), Value("\"off\""), Always,
        "What happens when the loss explodes or is NaN: the run continues or fails, warns, or returns to the last good weights \
         and lowers the rate."),
    field!(rise, "guard.rise", Double(Excluded(1.0), Unbounded), Value("3.0"), WATCHES,
        "The loss has exploded when its running mean exceeds the best mean by more than (rise - 1) times the magnitude of that, or \
         of a tenth of the first loss if that is larger."),
    field!(factor, "guard.factor", BETWEEN, Value("0.5"), RECOVERS,
        "Factor of the rate at each recovery."),
    field!(retries, "guard.retries", Integer(1, 1000), Value("10"), RECOVERS,
        "Maximum number of recoveries."),
    field!(every, "guard.every", Accepts::Time(1), Value("100"), RECOVERS,
        "Time between two copies of the weights to return to."),
];

/// Settings that a mode does not use have the values that change nothing.
pub(crate) fn read(document: &Document) -> Result<GuardConfig, ConfigError> {
    let mut guard =
        GuardConfig { mode: GuardMode::Off, rise: f64::MAX, factor: 1.0, retries: 0, every: Time::Steps(1) };
    document.read(FIELDS, &mut guard)?;
    Ok(guard)
}
