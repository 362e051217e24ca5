//! What shards and their coordinator say to each other, checked.

use super::from_server::dismissal;
use super::from_worker::{fingerprints, printable};
use super::{Nonsense, Shape, check_chunk, ensure};
use crate::limits::{MAX_NAME_BYTES, MAX_TEXT_BYTES, PROTOCOL_VERSION, chunk_elements};
use crate::status::Refusal;
use crate::v1::{self, from_shard, to_shard};
use bytes::Bytes;
use ps_coord::Dismissal;
use ps_core::control::{Action, Verdict};
use ps_core::optim::{Moved, PieceSums, Stride};
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
    Applied {
        /// The step.
        step: u64,
        /// How far its weights went, piece by piece, where that is looked at.
        moved: Vec<Moved>,
    },
    /// It has all leaves of a step, and waits for the verdict.
    Measured {
        /// The step.
        step: u64,
        /// The sums over its pieces.
        sums: Vec<PieceSums>,
    },
    /// It cannot make a step.
    Diverged(u64),
    /// A chunk of its weights.
    Weights(StateChunk),
    /// A chunk of one of its vectors of state.
    State(usize, StateChunk),
    /// It holds what it was given by the order of this number.
    Restored(u64),
    /// It has refused a worker of which some chunks are part of its sums, or of a step that not all have applied.
    Tainted {
        /// The step that it was gathering.
        step: u64,
        /// What the worker sent, printable.
        reason: String,
    },
    /// Leaves of a step of which it lacks some chunk: ranges that exist, ascending and disjoint.
    Missing {
        /// The step.
        step: u64,
        /// Which.
        leaves: Vec<Range<u32>>,
    },
}

/// A chunk of weights or state between servers.
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
    /// It wants the weights of a version, and perhaps the state.
    WeightsWanted {
        /// The version.
        version: u64,
        /// Whether it wants the state.
        state: bool,
    },
    /// The shard is to go on from what follows.
    Restore {
        /// After so many steps.
        version: u64,
        /// The number of the order.
        number: u64,
        /// Steps that the optimizer's state has seen.
        count: u64,
    },
    /// A chunk of the weights of then.
    Weights(StateChunk),
    /// A chunk of one of the vectors of the state of then.
    State(usize, StateChunk),
    /// What is decided about a step.
    Verdict(Verdict),
    /// It wants to know which leaves of a step the shard lacks.
    MissingWanted(u64),
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
        Some(from_shard::Message::Applied(v1::ShardApplied { step, way, weights, predicted })) => {
            let sums = zip(way, weights, predicted)?;
            let moved = sums.map(|[way, weights, predicted]| Moved { way, weights, predicted });
            Ok(ShardMessage::Applied { step, moved: moved.collect() })
        }
        Some(from_shard::Message::Measured(v1::ShardMeasured { step, gradient, weights, steps })) => {
            let sums = zip(gradient, weights, steps)?;
            let sums = sums.map(|[gradient, weights, step]| PieceSums { gradient, weights, step });
            Ok(ShardMessage::Measured { step, sums: sums.collect() })
        }
        Some(from_shard::Message::Diverged(v1::ShardDiverged { step })) => Ok(ShardMessage::Diverged(step)),
        Some(from_shard::Message::Weights(chunk)) => {
            state_chunk(chunk, shape.parameters, kept).map(ShardMessage::Weights)
        }
        Some(from_shard::Message::State(chunk)) => {
            let (vector, chunk) = vector_chunk(chunk, shape.parameters, kept)?;
            Ok(ShardMessage::State(vector, chunk))
        }
        Some(from_shard::Message::Restored(restored)) => Ok(ShardMessage::Restored(restored.number)),
        Some(from_shard::Message::Tainted(v1::ShardTainted { step, reason })) => {
            Ok(ShardMessage::Tainted { step, reason: printable("reason", reason, MAX_TEXT_BYTES)? })
        }
        Some(from_shard::Message::Missing(v1::ShardMissing { step, starts, ends })) => {
            Ok(ShardMessage::Missing { step, leaves: ranges(step, &starts, &ends, shape)? })
        }
        Some(from_shard::Message::Hello(_)) => Err(Nonsense::new("hello came twice")),
        None => Err(Nonsense::new("a message without content, or of a kind that this version does not know")),
    }
}

/// Ranges of leaves of the batch of a step.
fn ranges(step: u64, starts: &[u32], ends: &[u32], shape: &Shape) -> Result<Vec<Range<u32>>, Nonsense> {
    ensure!(step < shape.plan.steps, "step {step} of a run of {} steps", shape.plan.steps);
    ensure!(starts.len() == ends.len(), "{} ranges begin and {} end", starts.len(), ends.len());
    let leaves = shape.plan.step(step).tree().leaves();
    let mut last = 0;
    for (&start, &end) in starts.iter().zip(ends) {
        ensure!(
            last <= start && start < end && end <= leaves,
            "leaves {start}..{end} after leaf {last} of step {step}, which has {leaves}"
        );
        last = end;
    }
    Ok(starts.iter().zip(ends).map(|(&start, &end)| start..end).collect())
}

/// Which leaves a shard lacks.
pub fn missing(step: u64, leaves: &[Range<u32>]) -> v1::ShardMissing {
    v1::ShardMissing {
        step,
        starts: leaves.iter().map(|leaves| leaves.start).collect(),
        ends: leaves.iter().map(|leaves| leaves.end).collect(),
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

fn vector_chunk(
    chunk: v1::StateChunk,
    parameters: usize,
    kept: &Range<usize>,
) -> Result<(usize, StateChunk), Nonsense> {
    let v1::StateChunk { version, vector, offset, total, values } = chunk;
    let chunk = v1::WeightsChunk { version, offset, total, weights: values };
    Ok((vector as usize, state_chunk(chunk, parameters, kept)?))
}

/// Three lists of the same length.
fn zip(a: Vec<f64>, b: Vec<f64>, c: Vec<f64>) -> Result<impl Iterator<Item = [f64; 3]>, Nonsense> {
    ensure!(
        a.len() == b.len() && b.len() == c.len(),
        "sums of {}, {} and {} pieces, which must be as many",
        a.len(),
        b.len(),
        c.len()
    );
    Ok(a.into_iter().zip(b).zip(c).map(|((a, b), c)| [a, b, c]))
}

/// The sums over a shard's pieces.
pub fn measured(step: u64, sums: &[PieceSums]) -> v1::ShardMeasured {
    v1::ShardMeasured {
        step,
        gradient: sums.iter().map(|sums| sums.gradient).collect(),
        weights: sums.iter().map(|sums| sums.weights).collect(),
        steps: sums.iter().map(|sums| sums.step).collect(),
    }
}

/// A step that a shard has applied.
pub fn applied(step: u64, moved: &[Moved]) -> v1::ShardApplied {
    v1::ShardApplied {
        step,
        way: moved.iter().map(|moved| moved.way).collect(),
        weights: moved.iter().map(|moved| moved.weights).collect(),
        predicted: moved.iter().map(|moved| moved.predicted).collect(),
    }
}

/// A chunk of a vector of state.
pub fn state_part(
    version: u64,
    vector: usize,
    offset: usize,
    parameters: usize,
    values: Bytes,
) -> v1::StateChunk {
    v1::StateChunk { version, vector: vector as u32, offset: offset as u64, total: parameters as u64, values }
}

const ACTIONS: [(Action, v1::ShardAction); 7] = [
    (Action::Step, v1::ShardAction::Step),
    (Action::Recover, v1::ShardAction::Recover),
    (Action::Stay, v1::ShardAction::Stay),
    (Action::Best, v1::ShardAction::Best),
    (Action::Accept, v1::ShardAction::Accept),
    (Action::Retry, v1::ShardAction::Retry),
    (Action::Base, v1::ShardAction::Base),
];

/// What is decided about a step.
pub fn verdict_to_wire(verdict: &Verdict) -> v1::ShardVerdict {
    let action = ACTIONS.iter().find(|(action, _)| *action == verdict.action);
    let Stride { step, count, samples, rate, scale, ref trust } = verdict.stride;
    v1::ShardVerdict {
        step,
        action: action.map_or(v1::ShardAction::Unspecified, |(_, action)| *action).into(),
        samples: samples as u64,
        rate,
        scale,
        trust: trust.clone(),
        count,
        count_after: verdict.count,
        keep_best: verdict.keep_best,
        keep_good: verdict.keep_good,
        measures: verdict.measures,
    }
}

fn verdict(verdict: v1::ShardVerdict) -> Result<Verdict, Nonsense> {
    let number = verdict.action;
    let action = ACTIONS.iter().find(|(_, action)| *action as i32 == number);
    let Some(&(action, _)) = action else {
        return Err(Nonsense::new(format!(
            "a verdict with action {number}, which this version does not know"
        )));
    };
    let v1::ShardVerdict { step, samples, rate, scale, trust, count, count_after, .. } = verdict;
    ensure!(
        samples > 0 && count > 0,
        "a verdict about a step of {samples} samples, the optimizer's step {count}"
    );
    let stride = Stride { step, count, samples: samples as usize, rate, scale, trust };
    let (keep_best, keep_good, measures) = (verdict.keep_best, verdict.keep_good, verdict.measures);
    Ok(Verdict { stride, action, keep_best, keep_good, measures, count: count_after })
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
        Some(to_shard::Message::WeightsWanted(v1::ShardWeightsWanted { version, state })) => {
            Ok(ToShardMessage::WeightsWanted { version, state })
        }
        Some(to_shard::Message::Restore(v1::ShardRestore { version, number, count })) => {
            Ok(ToShardMessage::Restore { version, number, count })
        }
        Some(to_shard::Message::MissingWanted(v1::ShardMissingWanted { step })) => {
            Ok(ToShardMessage::MissingWanted(step))
        }
        Some(to_shard::Message::Verdict(message)) => verdict(message).map(ToShardMessage::Verdict),
        Some(to_shard::Message::Weights(chunk)) => {
            state_chunk(chunk, parameters, kept).map(ToShardMessage::Weights)
        }
        Some(to_shard::Message::State(chunk)) => {
            let (vector, chunk) = vector_chunk(chunk, parameters, kept)?;
            Ok(ToShardMessage::State(vector, chunk))
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
