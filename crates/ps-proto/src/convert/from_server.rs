//! Checks of messages from the server to a worker.

use super::from_shard::kept;
use super::from_worker::printable;
use super::{InvalidMessage, Shape, check_chunk, ensure};
use crate::limits::{MAX_NAME_BYTES, MAX_TEXT_BYTES, PROTOCOL_VERSION, chunk_elements};
use crate::v1::{self, from_server::Message};
use bytes::Bytes;
use ps_coord::{Dismissal, WorkerId};
use std::ops::Range;
use std::time::Duration;

/// A checked message from the server.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerMessage {
    /// This worker is admitted under this id, and the server keeps these elements.
    Admitted(WorkerId, Range<usize>),
    /// A chunk of the weights.
    Weights(WeightsChunk),
    /// An assignment of leaves.
    Assign {
        /// The step, which is also the version of the weights to compute with.
        step: u64,
        /// At least one leaf, all of one section of the step's tree.
        leaves: Range<u32>,
    },
    /// This worker is sent away.
    Dismissed(Dismissal),
    /// The server is alive.
    Heartbeat,
}

/// The server's answer to `Join`.
#[derive(Clone, Debug, PartialEq)]
pub struct Invitation {
    /// Name and version of the server's program; printable.
    pub build: String,
    /// The run file as TOML.
    pub run_toml: String,
    /// Maximum time between two messages in each direction; never zero.
    pub heartbeat: Duration,
    /// Either side counts as lost after this much silence; longer than `heartbeat`.
    pub silence: Duration,
    /// Number of other shards; `Shards` returns their addresses.
    pub shards: u32,
}

/// A chunk of the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightsChunk {
    /// Steps applied to them.
    pub version: u64,
    /// Index of the first element.
    pub offset: usize,
    /// Its elements, little-endian, in the precision of the run file.
    pub bytes: Bytes,
}

/// Checks a message from the server.
pub fn server_message(message: v1::FromServer, shape: &Shape) -> Result<ServerMessage, InvalidMessage> {
    match message.message {
        Some(Message::Weights(chunk)) => Ok(ServerMessage::Weights(received_weights_chunk(chunk, shape)?)),
        Some(Message::Assign(assign)) => self::assign(assign, shape),
        Some(Message::Heartbeat(_)) => Ok(ServerMessage::Heartbeat),
        Some(Message::Dismissed(dismissed)) => dismissal(dismissed).map(ServerMessage::Dismissed),
        Some(Message::Admitted(admitted)) => admission(admitted, shape),
        None => {
            Err(InvalidMessage::new("the message is empty, or of a kind that this version does not know"))
        }
    }
}

fn received_weights_chunk(chunk: v1::WeightsChunk, shape: &Shape) -> Result<WeightsChunk, InvalidMessage> {
    let v1::WeightsChunk { version, offset, total, weights } = chunk;
    let steps = shape.plan.steps;
    ensure!(version <= steps, "weights of version {version} of a run of {steps} steps");
    let offset = check_chunk(offset, total, &weights, shape.weights.bytes(), shape.parameters)?;
    Ok(WeightsChunk { version, offset, bytes: weights })
}

fn assign(assign: v1::Assign, shape: &Shape) -> Result<ServerMessage, InvalidMessage> {
    let v1::Assign { step, leaf_start, leaf_end } = assign;
    ensure!(step < shape.plan.steps, "step {step} of a run of {} steps", shape.plan.steps);
    let tree = shape.plan.step(step).tree();
    ensure!(
        tree.has_leaves(&(leaf_start..leaf_end)),
        "leaves {leaf_start}..{leaf_end} of step {step}, which has {}",
        tree.leaves()
    );
    Ok(ServerMessage::Assign { step, leaves: leaf_start..leaf_end })
}

pub(super) fn dismissal(dismissed: v1::Dismissed) -> Result<Dismissal, InvalidMessage> {
    let reason = printable("reason", dismissed.reason, MAX_TEXT_BYTES)?;
    match v1::DismissalKind::try_from(dismissed.kind) {
        Ok(v1::DismissalKind::Done) => Ok(Dismissal::Done),
        Ok(v1::DismissalKind::Ended) => Ok(Dismissal::Ended(reason)),
        Ok(v1::DismissalKind::Stopped) => Ok(Dismissal::Stopped(reason)),
        Ok(v1::DismissalKind::Failed) => Ok(Dismissal::Failed(reason)),
        Ok(v1::DismissalKind::Rewound) => Ok(Dismissal::Rewound(reason)),
        Ok(v1::DismissalKind::Banned) => Ok(Dismissal::Banned(reason)),
        Ok(v1::DismissalKind::Silent) => Ok(Dismissal::Silent { silent_ms: dismissed.silent_ms }),
        Ok(v1::DismissalKind::Stuck) => Ok(Dismissal::Stuck { held_ms: dismissed.held_ms }),
        _ => Err(InvalidMessage::new(format!("dismissal of kind {}", dismissed.kind))),
    }
}

fn admission(admitted: v1::Admitted, shape: &Shape) -> Result<ServerMessage, InvalidMessage> {
    let v1::Admitted { worker_id, parameters, chunk, start, end } = admitted;
    ensure!(
        parameters == shape.parameters as u64,
        "the server's model has {parameters} parameters, but this worker's has {}",
        shape.parameters
    );
    let ours = chunk_elements(shape.parameters) as u64;
    ensure!(chunk == ours, "the server uses chunks of {chunk} elements, but this worker uses {ours}");
    Ok(ServerMessage::Admitted(WorkerId(worker_id), kept(start, end, shape.parameters)?))
}

/// Checks the answer to `Join`. If the server has another protocol version, nothing else is checked.
pub fn invitation(reply: v1::JoinReply) -> Result<Invitation, InvalidMessage> {
    let v1::JoinReply {
        protocol_version,
        build,
        run_toml,
        heartbeat_interval_ms,
        silence_timeout_ms,
        shards,
        ..
    } = reply;
    let build = printable("build", build, MAX_NAME_BYTES)?;
    ensure!(
        protocol_version == PROTOCOL_VERSION,
        "the server ({build}) speaks protocol version {protocol_version}, but this worker speaks \
         {PROTOCOL_VERSION}"
    );
    ensure!(
        heartbeat_interval_ms > 0 && silence_timeout_ms > heartbeat_interval_ms,
        "a heartbeat interval of {heartbeat_interval_ms} ms with a timeout of {silence_timeout_ms} ms"
    );
    Ok(Invitation {
        build,
        run_toml,
        heartbeat: Duration::from_millis(heartbeat_interval_ms),
        silence: Duration::from_millis(silence_timeout_ms),
        shards,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::{admitted, dismissed, weights_chunk};
    use ps_core::Precision;
    use ps_plan::BatchPlan;

    fn shape() -> Shape {
        let plan = BatchPlan::new(1, 100, 40, 4, 2, None);
        Shape { plan, parameters: 7, classes: 3, weights: Precision::F32 }
    }

    fn assign_of(step: u64, leaf_start: u32, leaf_end: u32) -> Result<ServerMessage, InvalidMessage> {
        assign(v1::Assign { step, leaf_start, leaf_end }, &shape())
    }

    #[test]
    fn assignments_outside_the_run_are_refused() {
        assert_eq!(assign_of(2, 0, 5), Ok(ServerMessage::Assign { step: 2, leaves: 0..5 }));
        for (step, start, end) in [(6, 0, 1), (2, 0, 6), (0, 3, 3), (0, 4, 3)] {
            assert!(assign_of(step, start, end).is_err(), "{step} {start} {end}");
        }
    }

    #[test]
    fn weights_are_sent_in_chunks_and_invalid_chunks_refused() {
        let bytes = crate::tensor::share(vec![1.0; 7]);
        let chunk = weights_chunk(3, 0, 7, bytes);
        let part = received_weights_chunk(chunk.clone(), &shape()).unwrap();
        assert_eq!((part.version, part.offset, part.bytes.len()), (3, 0, 28));
        let halves = Shape { weights: Precision::Bf16, ..shape() };
        assert!(received_weights_chunk(chunk.clone(), &halves).is_err());
        let half = v1::WeightsChunk { weights: chunk.weights.slice(..14), ..chunk.clone() };
        assert!(received_weights_chunk(half, &halves).is_ok());
        assert!(received_weights_chunk(v1::WeightsChunk { version: 7, ..chunk.clone() }, &shape()).is_err());
        assert!(received_weights_chunk(v1::WeightsChunk { offset: 1, ..chunk.clone() }, &shape()).is_err());
        assert!(received_weights_chunk(v1::WeightsChunk { total: 6, ..chunk }, &shape()).is_err());
    }

    #[test]
    fn control_messages_round_trip() {
        let send = |message| server_message(v1::FromServer { message }, &shape());
        for dismissal in [
            Dismissal::Done,
            Dismissal::Ended("on request".into()),
            Dismissal::Stopped("stopped".into()),
            Dismissal::Failed("diverged".into()),
            Dismissal::Silent { silent_ms: 9 },
            Dismissal::Stuck { held_ms: 9 },
            Dismissal::Rewound("again".into()),
            Dismissal::Banned("wrong".into()),
        ] {
            assert_eq!(send(Some(dismissed(&dismissal))), Ok(ServerMessage::Dismissed(dismissal)));
        }
        let admission = send(Some(admitted(WorkerId(4), 7, 0..7)));
        assert_eq!(admission, Ok(ServerMessage::Admitted(WorkerId(4), 0..7)));
        assert!(send(Some(admitted(WorkerId(4), 8, 0..8))).is_err());
        assert!(send(Some(admitted(WorkerId(4), 7, 1..7))).is_err());
        assert!(send(None).is_err());
    }

    #[test]
    fn an_invitation_is_checked_for_version_and_plausible_times() {
        let reply = v1::JoinReply {
            protocol_version: PROTOCOL_VERSION,
            heartbeat_interval_ms: 100,
            silence_timeout_ms: 500,
            ..v1::JoinReply::default()
        };
        assert_eq!(invitation(reply.clone()).unwrap().silence, Duration::from_millis(500));
        assert!(invitation(v1::JoinReply { protocol_version: 1, ..reply.clone() }).is_err());
        assert!(invitation(v1::JoinReply { heartbeat_interval_ms: 0, ..reply.clone() }).is_err());
        assert!(invitation(v1::JoinReply { silence_timeout_ms: 100, ..reply }).is_err());
    }
}
