//! What shards and their coordinator say to each other, checked.

use super::from_server::dismissal;
use super::from_worker::{fingerprints, printable};
use super::{Nonsense, Shape, check_chunk, ensure};
use crate::limits::{MAX_NAME_BYTES, PROTOCOL_VERSION, chunk_elements};
use crate::status::Refusal;
use crate::v1::{self, from_shard, to_shard};
use bytes::Bytes;
use ps_coord::Dismissal;
use std::ops::Range;

/// A shard that asks to take part; it speaks our version of the contract.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardGreeting {
    /// Its program, printable.
    pub build: String,
    /// What it has loaded and computed.
    pub fingerprints: v1::Fingerprints,
    /// Which shard it is; nothing if that is for the coordinator to say.
    pub index: Option<u32>,
    /// Where workers reach it.
    pub address: String,
}

/// What a shard that takes part says.
#[derive(Clone, Debug, PartialEq)]
pub enum ShardMessage {
    /// It has applied a step.
    Applied(u64),
    /// It cannot make a step.
    Diverged(u64),
    /// A chunk of its weights.
    Weights(StateChunk),
    /// A chunk of its velocity.
    Velocity(StateChunk),
    /// It holds what it was given by the order of this number.
    Restored(u64),
}

/// A chunk of weights or velocity between servers.
#[derive(Clone, Debug, PartialEq)]
pub struct StateChunk {
    /// After how many steps.
    pub version: u64,
    /// Its first element in the flat vector.
    pub offset: usize,
    /// Its elements: binary32, little-endian.
    pub bytes: Bytes,
}

/// What a coordinator says to a shard that takes part.
#[derive(Clone, Debug, PartialEq)]
pub enum ToShardMessage {
    /// It wants the weights of a version, and perhaps the velocity.
    WeightsWanted {
        /// The version.
        version: u64,
        /// Whether it wants the velocity.
        velocity: bool,
    },
    /// The shard is to go on from what follows.
    Restore {
        /// After so many steps.
        version: u64,
        /// The number of the order.
        number: u64,
    },
    /// A chunk of the weights of then.
    Weights(StateChunk),
    /// A chunk of the velocity of then.
    Velocity(StateChunk),
    /// The run is over.
    Dismissed(Dismissal),
}

/// A shard as it takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Which.
    pub index: u32,
    /// The elements that it keeps.
    pub kept: Range<usize>,
}

/// Checks the first message of a shard, which must be `ShardHello`.
pub fn shard_greeting(message: v1::FromShard) -> Result<ShardGreeting, Refusal> {
    let Some(from_shard::Message::Hello(hello)) = message.message else {
        return Err(Nonsense::new("a shard's first message must be hello").into());
    };
    let build = printable("build", hello.build, MAX_NAME_BYTES)?;
    if hello.protocol_version != PROTOCOL_VERSION {
        return Err(Refusal::Protocol { theirs: hello.protocol_version, build });
    }
    let fingerprints = fingerprints(hello.fingerprints)?;
    let address = printable("address", hello.address, MAX_NAME_BYTES)?;
    Ok(ShardGreeting { build, fingerprints, index: hello.index, address })
}

/// Checks a later message of a shard that keeps `kept`.
pub fn shard_message(
    message: v1::FromShard,
    shape: &Shape,
    kept: &Range<usize>,
) -> Result<ShardMessage, Nonsense> {
    match message.message {
        Some(from_shard::Message::Applied(v1::ShardApplied { step })) => Ok(ShardMessage::Applied(step)),
        Some(from_shard::Message::Diverged(v1::ShardDiverged { step })) => Ok(ShardMessage::Diverged(step)),
        Some(from_shard::Message::Weights(chunk)) => {
            state_chunk(chunk, shape.parameters, kept).map(ShardMessage::Weights)
        }
        Some(from_shard::Message::Velocity(chunk)) => {
            state_chunk(chunk, shape.parameters, kept).map(ShardMessage::Velocity)
        }
        Some(from_shard::Message::Restored(restored)) => Ok(ShardMessage::Restored(restored.number)),
        Some(from_shard::Message::Hello(_)) => Err(Nonsense::new("hello came twice")),
        None => Err(Nonsense::new("a message without content, or of a kind that this version does not know")),
    }
}

fn state_chunk(
    chunk: v1::WeightsChunk,
    parameters: usize,
    kept: &Range<usize>,
) -> Result<StateChunk, Nonsense> {
    let v1::WeightsChunk { version, offset, total, weights: bytes } = chunk;
    let offset = check_chunk(offset, total, &bytes, 4, parameters)?;
    ensure!(kept.contains(&offset), "a chunk at element {offset} of a shard that keeps {kept:?}");
    Ok(StateChunk { version, offset, bytes })
}

/// Checks the first message of a coordinator.
pub fn attached(message: v1::ToShard, parameters: usize) -> Result<Attached, Nonsense> {
    let Some(to_shard::Message::Admitted(admitted)) = message.message else {
        return Err(Nonsense::new("the coordinator's first message does not admit us"));
    };
    let v1::ShardAdmitted { index, start, end } = admitted;
    Ok(Attached { index, kept: kept(start, end, parameters)? })
}

/// Checks a later message of a coordinator to a shard that keeps `kept`.
pub fn to_shard(
    message: v1::ToShard,
    parameters: usize,
    kept: &Range<usize>,
) -> Result<ToShardMessage, Nonsense> {
    match message.message {
        Some(to_shard::Message::WeightsWanted(v1::ShardWeightsWanted { version, velocity })) => {
            Ok(ToShardMessage::WeightsWanted { version, velocity })
        }
        Some(to_shard::Message::Restore(v1::ShardRestore { version, number })) => {
            Ok(ToShardMessage::Restore { version, number })
        }
        Some(to_shard::Message::Weights(chunk)) => {
            state_chunk(chunk, parameters, kept).map(ToShardMessage::Weights)
        }
        Some(to_shard::Message::Velocity(chunk)) => {
            state_chunk(chunk, parameters, kept).map(ToShardMessage::Velocity)
        }
        Some(to_shard::Message::Dismissed(dismissed)) => dismissal(dismissed).map(ToShardMessage::Dismissed),
        Some(to_shard::Message::Admitted(_)) => Err(Nonsense::new("it admitted us twice")),
        None => Err(Nonsense::new("a message without content, or of a kind that this version does not know")),
    }
}

/// Checks where the shards are: each one's index, address and elements.
pub fn places(
    reply: v1::ShardsReply,
    parameters: usize,
) -> Result<Vec<(u32, String, Range<usize>)>, Nonsense> {
    reply
        .shards
        .into_iter()
        .map(|place| {
            let address = printable("address", place.address, MAX_NAME_BYTES)?;
            Ok((place.index, address, kept(place.start, place.end, parameters)?))
        })
        .collect()
}

/// Elements that are whole chunks of the model.
pub(super) fn kept(start: u64, end: u64, parameters: usize) -> Result<Range<usize>, Nonsense> {
    let chunk = chunk_elements(parameters) as u64;
    let total = parameters as u64;
    let on_the_grid = |at: u64| at.is_multiple_of(chunk) || at == total;
    ensure!(
        start <= end && end <= total && on_the_grid(start) && on_the_grid(end),
        "elements {start}..{end} are kept, which are no whole chunks of the model's {total}"
    );
    Ok(start as usize..end as usize)
}
