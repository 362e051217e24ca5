//! Writes models as ONNX graphs, with the preprocessing of their input.
//!
//! [`to_onnx`] returns the bytes of an `.onnx` file. Almost all operators are standard ones of an old
//! version, which every runtime has; only strings as categories need `CategoryMapper` of `ai.onnx.ml`. The
//! graph computes in binary32 like Downhill, but a runtime adds in another order, so results agree to about
//! 1e-6 rather than bit by bit.
//!
//! This crate does no I/O.

mod graph;
mod input;
mod network;

pub use input::Input;

use graph::{Graph, ML_DOMAIN, property};
use prost::Message;
use proto::{ModelProto, OperatorSetIdProto};
use ps_core::Model;
use ps_data::Encoder;
use std::fmt;

/// The code generated from `proto/onnx.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used, unused_qualifications)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

/// Versions that are old enough for all runtimes in use: those of ONNX 1.8, from 2020.
const IR_VERSION: i64 = 7;
const OPSET: i64 = 13;
const ML_OPSET: i64 = 2;

/// Readers of protobuf refuse longer messages.
const MAX_BYTES: usize = (1 << 31) - 1;

/// A model that cannot be written as ONNX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnnxError {
    /// The number of weights, which take more bytes than a file can have.
    TooLarge(usize),
    /// A column of dates, which no operator of ONNX takes apart.
    Date {
        /// The name of the column.
        column: String,
    },
}

impl OnnxError {
    /// Whether the caller can get the model by asking for something else.
    pub fn is_usage(&self) -> bool {
        match self {
            OnnxError::TooLarge(_) => false,
            OnnxError::Date { .. } => true,
        }
    }
}

impl fmt::Display for OnnxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OnnxError::Date { column } => write!(
                f,
                "column `{column}`: ONNX has no operator that takes dates apart; export the model with --input \
                 features, and pass the parts of the dates to it as numbers"
            ),
            OnnxError::TooLarge(weights) => write!(
                f,
                "the model has {weights} weights, and an ONNX file holds at most 2 GiB; use the safetensors file"
            ),
        }
    }
}

impl std::error::Error for OnnxError {}

/// Writes a model as an `.onnx` file: the network with `weights` (`[parameters]`), and the encoding and
/// preprocessing of its `input`. Equal models give equal bytes.
///
/// # Errors
/// ONNX cannot express the model.
pub fn to_onnx(
    network: &Model,
    weights: &[f32],
    encoder: &Encoder,
    input: Input,
) -> Result<Vec<u8>, OnnxError> {
    // Before anything is copied.
    if weights.len() > MAX_BYTES / 4 {
        return Err(OnnxError::TooLarge(weights.len()));
    }
    let head = network.head();
    let mut graph = Graph::new(network::outputs(head));
    let features = input::add_input(&mut graph, encoder, input)?;
    let features = input::add_preprocessing(&mut graph, encoder, features);
    let last = network::add_layers(&mut graph, network, weights, features);
    network::add_head(&mut graph, head, &last, encoder);

    let opset =
        |domain: &str, version| OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) };
    let ml = graph.uses_ml().then(|| opset(ML_DOMAIN, ML_OPSET));
    let model = ModelProto {
        ir_version: Some(IR_VERSION),
        opset_import: std::iter::once(opset("", OPSET)).chain(ml).collect(),
        producer_name: Some("downhill".into()),
        producer_version: Some(env!("CARGO_PKG_VERSION").into()),
        graph: Some(graph.finish()),
        metadata_props: vec![property("weights_sha256", &ps_core::weights_hash(weights))],
        ..ModelProto::default()
    };
    match model.encoded_len() {
        0..=MAX_BYTES => Ok(model.encode_to_vec()),
        _ => Err(OnnxError::TooLarge(weights.len())),
    }
}
