//! The holder of the weights: gradients in, new weights out.
//!
//! A [`Plane`] keeps all weights or a range of them, in chunks. Each chunk passes through a step
//! independently: nodes are folded as they arrive, the chunk is updated as soon as all leaves are covered,
//! and it can be sent at once. The weights before the step stay until all chunks are updated and the step is
//! committed, so a step that diverges, starts over or is abandoned leaves them intact.
//!
//! The server and its shards, the simulator and training inside one process use the same plane. It is pure
//! and synchronous: bytes in, bytes out. It knows no connection, no run file, no checkpoint and no clock.
//! Where it needs the true gradient of a node, it asks a [`Recompute`].

mod chunk;
mod digest;
mod gather;
mod message;
mod plane;
mod serve;
mod step;
mod whole;

pub use message::{
    GradientChunk, NodeDone, NodeMetrics, OptimizerStateChunk, Recompute, Rejected, WeightsChunk,
};
pub use plane::Plane;
