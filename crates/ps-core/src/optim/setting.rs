//! Settings of optimizers: keys of the run file's `[optimizer]` table that only some optimizers have.

use std::ops::Bound::{self, Excluded, Included, Unbounded};

/// A setting that one or more optimizers have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// The key in the `[optimizer]` table.
    pub name: &'static str,
    /// Type and range of the value.
    pub accepts: Accepts,
    /// Description, as shown in the table of keys in `docs/run-file.md`.
    pub help: &'static str,
}

/// Type and range of a [`Setting`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Accepts {
    /// A [`Value::Flag`], on or off.
    Flag,
    /// A [`Value::Number`] between these bounds.
    Number(Bound<f64>, Bound<f64>),
}

/// Value of a [`Setting`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// The value of a setting that is on or off.
    Flag(bool),
    /// The value of a numeric setting.
    Number(f32),
}

/// Why an optimizer refuses its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Name of the setting that must change.
    pub setting: &'static str,
    /// What is wrong and what to do, as shown to users.
    pub reason: &'static str,
}

pub(super) const POSITIVE: (Bound<f64>, Bound<f64>) = (Excluded(0.0), Unbounded);
/// The range of a fraction that is kept from step to step.
const SHARE: Accepts = Accepts::Number(Included(0.0), Excluded(1.0));

pub(super) static MOMENTUM: Setting = Setting {
    name: "momentum",
    accepts: SHARE,
    help: "Momentum: the share of the velocity that each step \
                                                       keeps.",
};
pub(super) static BETA1: Setting =
    Setting { name: "beta1", accepts: SHARE, help: "Decay of the running mean of gradients." };
pub(super) static BETA2: Setting =
    Setting { name: "beta2", accepts: SHARE, help: "Decay of the running mean of squared gradients." };
pub(super) static EPSILON: Setting = Setting {
    name: "epsilon",
    accepts: Accepts::Number(POSITIVE.0, POSITIVE.1),
    help: "Added to the root of the running mean or sum of squared gradients; for ftrl, its beta.",
};

/// Where an optimizer of type `O` stores a setting. Optimizers are `Copy`, so one accessor serves for
/// reading and writing.
pub(super) struct Field<O> {
    pub setting: &'static Setting,
    accessor: Accessor<O>,
}

enum Accessor<O> {
    Flag(fn(&mut O) -> &mut bool),
    Number(fn(&mut O) -> &mut f32),
}

impl Setting {
    pub(super) const fn flag<O>(&'static self, access: fn(&mut O) -> &mut bool) -> Field<O> {
        Field { setting: self, accessor: Accessor::Flag(access) }
    }

    pub(super) const fn number<O>(&'static self, access: fn(&mut O) -> &mut f32) -> Field<O> {
        Field { setting: self, accessor: Accessor::Number(access) }
    }
}

impl<O: Copy> Field<O> {
    pub(super) fn get(&self, mut optimizer: O) -> Value {
        match self.accessor {
            Accessor::Flag(access) => Value::Flag(*access(&mut optimizer)),
            Accessor::Number(access) => Value::Number(*access(&mut optimizer)),
        }
    }

    /// Sets the value. Has no effect if the value has another type.
    pub(super) fn set(&self, optimizer: &mut O, value: Value) {
        match (&self.accessor, value) {
            (Accessor::Flag(access), Value::Flag(value)) => *access(optimizer) = value,
            (Accessor::Number(access), Value::Number(value)) => *access(optimizer) = value,
            _ => {}
        }
    }
}
