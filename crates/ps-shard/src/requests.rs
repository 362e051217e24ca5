//! What the connections of a server ask of its driver.

use crate::peers::Peer;
use bytes::Bytes;
use ps_coord::{Departure, NoSeat, WorkerId};
use ps_proto::convert::{ShardGreeting, ShardMessage, WorkerMessage};
use ps_proto::{Nonsense, Refusal, v1};
use std::ops::Range;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

/// An event or a request from a connection.
pub enum Incoming {
    /// A worker was admitted.
    Joined {
        /// Unique for the life of the server.
        worker: WorkerId,
        /// How to reach it.
        peer: Peer,
    },
    /// A worker sent a message that passed the checks.
    Message {
        /// The sender.
        worker: WorkerId,
        /// What it sent.
        message: WorkerMessage,
    },
    /// A worker's stream has ended, or a message of it did not pass the checks.
    Left {
        /// The worker that has left.
        worker: WorkerId,
        /// For the log and the status.
        reason: Departure,
    },
    /// Somebody asks for a checkpoint.
    Checkpoint(oneshot::Sender<Result<u64, Refusal>>),
    /// Somebody asks how far the run is.
    Status(oneshot::Sender<v1::StatusReply>),
    /// Somebody asks for the weights that are kept here: their version, and each chunk's first element and bytes.
    Weights(oneshot::Sender<(u64, Vec<(usize, Bytes)>)>),
    /// Somebody asks where the shards are.
    Places(oneshot::Sender<Result<v1::ShardsReply, Refusal>>),
    /// A shard asks to take part.
    Attach(AttachRequest),
    /// A shard has said something, or is gone.
    Shard {
        /// Its index among the shards that are not the coordinator.
        index: u32,
        /// The message, or the end.
        said: ShardSaid,
    },
    /// This process is asked to stop; the run resumes when a server is started again.
    Stop,
    /// An administrator asks to end the run for good. The answer, once it is saved: its steps.
    End(oneshot::Sender<Result<u64, Refusal>>),
}

/// A shard asks to take part; the answer is its index, what it keeps, and what is sent to it.
pub struct AttachRequest {
    /// What the shard says of itself.
    pub greeting: ShardGreeting,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Admission, Refusal>>,
}

/// A shard's index, the elements that it keeps, and the messages to it.
pub type Admission = (u32, Range<usize>, mpsc::Receiver<Result<v1::ToShard, Status>>);

/// What came of a shard.
pub enum ShardSaid {
    /// It sent a message that passed the checks.
    Message(ShardMessage),
    /// Its stream has ended; why.
    Gone(String),
}

impl AttachRequest {
    /// Answers that the run has no place for the shard.
    pub fn refuse(self, why: NoSeat) {
        let refusal = match why {
            NoSeat::Unknown { shard, shards } => {
                Nonsense::new(format!("shard {shard} of a run with {shards} other shards")).into()
            }
            NoSeat::Taken => Refusal::ShardTaken,
        };
        // The process that asked may be gone.
        let _ = self.reply.send(Err(refusal));
    }
}
