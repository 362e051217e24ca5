//! The `[wire]` table: the format of tensors that processes exchange.

use crate::document::Document;
use crate::error::ConfigError;
use crate::field::{Field, field};
use crate::key::*;
use crate::setting::{Named, named};
use ps_core::Precision;

/// The `[wire]` table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireConfig {
    /// The precision to which weights are rounded before gradients are computed.
    pub weights: Precision,
}

named!(Precision { "f32" = Precision::F32, "bf16" = Precision::Bf16, });

#[rustfmt::skip]
pub(crate) static FIELDS: &[Field<WireConfig>] = &[
    field!(weights, "wire.weights", Name(Precision::NAMES), Value("\"f32\""), Always,
        "Precision to which weights are rounded before gradients are computed; bf16 halves the bytes of \
         weights on the wire. The weights themselves are kept in f32, and every mode uses the same rounded \
         weights."),
];

pub(crate) fn read(document: &Document) -> Result<WireConfig, ConfigError> {
    let mut wire = WireConfig::default();
    document.read(FIELDS, &mut wire)?;
    Ok(wire)
}
