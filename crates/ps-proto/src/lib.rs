//! The wire contract: types generated from `proto/downhill/v1`, the checks that everything from the network
//! passes ([`convert`]), faults as gRPC statuses ([`status`]), the framing of streams of tensors ([`stream`]), how
//! servers are reached ([`address`], [`mod@line`], [`network`]), what protects connections ([`security`]), how many of them there may
//! be ([`connections`]), and every size and wait of the wire and of all ports ([`limits`]).
//!
//! Generated types appear here and in the two gRPC shells, nowhere else.

pub mod address;
pub mod allocator;
mod attempts;
pub mod connections;
pub mod convert;
pub mod limits;
pub mod line;
pub mod network;
pub mod security;
pub mod status;
pub mod stream;
pub mod tensor;

pub use address::{Address, Listener};
pub use attempts::Attempts;
pub use convert::{Nonsense, Shape};
pub use line::Line;
pub use security::Security;
pub use status::{Refusal, Verdict};

/// What was generated from `proto/downhill/v1`.
#[allow(missing_docs, clippy::all, clippy::unwrap_used, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("downhill.v1");

    /// The contract itself, for the reflection service.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
