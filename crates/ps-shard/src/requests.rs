//! Requests from a server's connections to its driver.

use crate::peers::Peer;
use bytes::Bytes;
use ps_coord::{AttachRefusal, Departure, WorkerId};
use ps_proto::convert::{ShardGreeting, ShardMessage, WorkerMessage};
use ps_proto::{InvalidMessage, Refusal, v1};
use std::ops::Range;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

/// An event or a request from a connection.
pub enum Incoming {
    /// A worker was admitted.
    Joined {
        /// Unique for the lifetime of the server.
        worker: WorkerId,
        /// The connection to it.
        peer: Peer,
    },
    /// A worker sent a message that passed the checks.
    Message {
        /// The worker that sent it.
        worker: WorkerId,
        /// The checked message.
        message: WorkerMessage,
    },
    /// A worker's stream has ended, or one of its messages failed the checks.
    Left {
        /// The worker that has left.
        worker: WorkerId,
        /// For the log and the status.
        reason: Departure,
    },
    /// A client asks for a checkpoint. The answer is the number of steps that it will contain at least.
    Checkpoint(oneshot::Sender<Result<u64, Refusal>>),
    /// A client asks for the status of the run.
    Status(oneshot::Sender<v1::StatusReply>),
    /// A client asks for the weights of this server. The answer is their version, with the first element and
    /// the bytes of each chunk.
    Weights(oneshot::Sender<(u64, Vec<(usize, Bytes)>)>),
    /// A worker asks for the addresses of the shards.
    ShardAddresses(oneshot::Sender<Result<v1::ShardsReply, Refusal>>),
    /// A shard asks to join the run.
    Attach(AttachRequest),
    /// A shard sent a message, or is gone.
    Shard {
        /// Its index among the shards other than the coordinator.
        index: u32,
        /// The message, or the end of the stream.
        input: ShardInput,
    },
    /// This process must stop; the run resumes when a server is started again.
    Stop,
    /// An administrator asks to end the run for good. The answer comes once the run is saved:
    /// the steps applied.
    End(oneshot::Sender<Result<u64, Refusal>>),
}

/// A request from a shard to join the run.
pub struct AttachRequest {
    /// What the shard states about itself.
    pub greeting: ShardGreeting,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<ShardAdmission, Refusal>>,
}

/// A shard's index, the elements that it keeps, and the messages to it.
pub type ShardAdmission = (u32, Range<usize>, mpsc::Receiver<Result<v1::ToShard, Status>>);

/// What arrived on a shard's stream.
pub enum ShardInput {
    /// A message that passed the checks.
    Message(ShardMessage),
    /// The stream has ended; holds the reason.
    Gone(String),
}

impl AttachRequest {
    /// Answers that the shard cannot join.
    pub fn refuse(self, why: AttachRefusal) {
        let refusal = match why {
            AttachRefusal::Unknown { shard, shards } => {
                InvalidMessage::new(format!("shard {shard} of a run with {shards} other shards")).into()
            }
            AttachRefusal::Taken => Refusal::ShardTaken,
        };
        // The process that asked may be gone.
        let _ = self.reply.send(Err(refusal));
    }
}
