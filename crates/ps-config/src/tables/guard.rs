//! The `[guard]` table: how the run reacts when the loss explodes.

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
    /// The reaction to an explosion of the loss.
    pub mode: GuardMode,
    /// How far the running mean of the loss may rise above its best value before that counts as an explosion.
    pub rise: f64,
    /// Factor by which a recovery multiplies the learning rate.
    pub factor: f64,
    /// Maximum number of recoveries in a run.
    pub retries: u32,
    /// Time between two copies of the weights that a recovery can return to.
    pub every: Time,
}

/// The reaction to an explosion of the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardMode {
    /// The loss is not watched.
    Off,
    /// A warning is reported, and the run continues.
    Warn,
    /// The run returns to earlier weights and continues with a lower rate.
    Recover,
}

named!(GuardMode { "off" = GuardMode::Off, "warn" = GuardMode::Warn, "recover" = GuardMode::Recover, });

const WATCHES: Use = When("guard.mode", &["warn", "recover"]);
const RECOVERS: Use = When("guard.mode", &["recover"]);

#[rustfmt::skip]
pub(crate) static FIELDS: &[Field<GuardConfig>] = &[
    field!(mode, "guard.mode", Name(GuardMode::NAMES), Value("\"off\""), Always,
        "Reaction to a loss that explodes or is NaN: `off` ignores an explosion and fails on NaN, `warn` \
         also reports an explosion, and `recover` returns to the last good weights and lowers the learning \
         rate."),
    field!(rise, "guard.rise", Double(Excluded(1.0), Unbounded), Value("3.0"), WATCHES,
        "The loss counts as exploded when its running mean exceeds the best mean by more than (rise - 1) · \
         max(|best mean|, |first loss| / 10)."),
    field!(factor, "guard.factor", BETWEEN, Value("0.5"), RECOVERS,
        "Factor by which each recovery multiplies the learning rate."),
    field!(retries, "guard.retries", Integer(1, 1000), Value("10"), RECOVERS,
        "Maximum number of recoveries."),
    field!(every, "guard.every", Accepts::Time(1), Value("100"), RECOVERS,
        "Time between two copies of the weights that a recovery can return to."),
];

/// Reads the table. Settings that the mode does not use get values that have no effect.
pub(crate) fn read(document: &Document) -> Result<GuardConfig, ConfigError> {
    let mut guard =
        GuardConfig { mode: GuardMode::Off, rise: f64::MAX, factor: 1.0, retries: 0, every: Time::Steps(1) };
    document.read(FIELDS, &mut guard)?;
    Ok(guard)
}
