//! The wire contract: types generated from `proto/downhill/v1`, the checks of everything that arrives from
//! the network ([`convert`]), faults as gRPC statuses ([`status`]), the framing of tensor streams
//! ([`stream`], [`tensor`]), and the sizes of messages ([`limits`]). How peers reach each other is in
//! `ps-net`.
//!
//! The generated types are used in this crate and in the two gRPC shells, and nowhere else.

pub mod convert;
pub mod limits;
pub mod status;
pub mod stream;
pub mod tensor;

pub use convert::{InvalidMessage, Shape};
pub use status::{CallFailure, Refusal};

/// The code generated from `proto/downhill/v1`.
#[allow(missing_docs, clippy::all, clippy::unwrap_used, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("downhill.v1");

    /// The contract itself, for the reflection service.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
