//! The parts of a process that serves weights: admission of connections ([`transport`]), the gRPC service
//! that turns calls into [`requests`], the workers and the messages to them ([`peers`], [`outbox`]), and a
//! complete [`shard`].
//!
//! The coordinator, in `ps-server`, adds the round logic and the other shards; a worker can host a shard with
//! this crate alone. No flag is parsed here, and no port bound.

mod admission;
mod error;
mod options;
pub mod outbox;
pub mod peers;
pub mod plane;
pub mod requests;
pub mod service;
pub mod serving;
pub mod shard;
pub mod signals;
pub mod transport;

pub use error::{ENDED, ServerError};
pub use options::{ServerOptions, ShardLayout};

/// Name and version of the server, as peers see it.
pub const BUILD: &str = concat!("ps-server ", env!("CARGO_PKG_VERSION"));
