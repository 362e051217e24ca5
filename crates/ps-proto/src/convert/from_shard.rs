//! Checks of messages between shards and their coordinator.

use super::from_server::dismissal;
use super::from_worker::{fingerprints, printable};
use super::{InvalidMessage, Shape, check_chunk, ensure};
use crate::limits::{MAX_NAME_BYTES, MAX_TEXT_BYTES, PROTOCOL_VERSION, chunk_elements};
use crate::status::Refusal;
use crate::v1::{self, from_shard, to_shard};
use bytes::Bytes;
use ps_coord::Dismissal;
use ps_core::control::{Action, Verdict};
use ps_core::optim::{PieceSums, StepParams, UpdateNorms};
use std::ops::Range;

/// A shard's request to join the run, in this version of the protocol.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardGreeting {
    /// Name and version of its program; printable.
    pub build: String,
    /// The fingerprints of its run file, data and machine.
    pub fingerprints: v1::Fingerprints,
    /// The shard it wants to be; `None` if the coordinator chooses.
    pub index: Option<u32>,
    /// Address at which workers reach it.
    pub address: String,
}

/// A checked message from an admitted shard.
#[derive(Clone, Debug, PartialEq)]
pub enum ShardMessage {
    /// It has applied a step.
    Applied {
        /// The step, as the shard counts it.
        step: u64,
        /// How far its weights moved, piece by piece, if the verdict asked for it.
        update_norms: Vec<UpdateNorms>,
    },
    /// It has all leaves of a step, and waits for the verdict.
    Measured {
        /// The step, as the shard counts it.
        step: u64,
        /// The sums over its pieces, in order.
        sums: Vec<PieceSums>,
    },
    /// It cannot make this step because the result is not finite.
    Diverged(u64),
    /// A chunk of its weights.
    Weights(StateChunk),
    /// A chunk of one of its vectors of state; holds the vector's index.
    State(usize, StateChunk),
    /// It holds the weights of the `Restore` with this number.
    Restored(u64),
    /// It refused a worker whose chunks are part of its sums, or of a step that not all servers have applied.
    Tainted {
        /// The step that it was gathering.
        step: u64,
        /// What was wrong with the worker's message; printable.
        reason: String,
    },
    /// It lacks leaves of a step.
    Missing {
        /// The step that the coordinator asked about.
        step: u64,
        /// Leaves of which it lacks at least one chunk: existing ranges, ascending and disjoint.
        leaves: Vec<Range<u32>>,
    },
}

/// A chunk of weights or state between servers.
#[derive(Clone, Debug, PartialEq)]
pub struct StateChunk {
    /// Steps applied to it.
    pub version: u64,
    /// Index of the first element in the flat vector.
    pub offset: usize,
    /// Its elements: binary32, little-endian.
    pub bytes: Bytes,
}

/// A checked message from the coordinator to an admitted shard.
#[derive(Clone, Debug, PartialEq)]
pub enum ToShardMessage {
    /// A request for the weights of a version.
    WeightsWanted {
        /// Version to send: the shard's current one, or the one before.
        version: u64,
        /// Whether to send the optimizer's state, too.
        state: bool,
    },
    /// The shard must resume from the weights that follow.
    Restore {
        /// Steps applied to these weights; at 0 none follow.
        version: u64,
        /// Number of the restore, which the shard returns.
        number: u64,
        /// Number of steps behind the optimizer's state.
        count: u64,
    },
    /// A chunk of these weights.
    Weights(StateChunk),
    /// A chunk of a vector of their state; holds the vector's index.
    State(usize, StateChunk),
    /// The decision about a step.
    Verdict(Verdict),
    /// A request for the leaves of this step that the shard lacks.
    MissingWanted(u64),
    /// The run is over.
    Dismissed(Dismissal),
}

/// The answer to a shard's request to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The shard's number, from 0 without the coordinator.
    pub index: u32,
    /// The elements that it keeps.
    pub kept: Range<usize>,
}

/// Checks the first message of a shard, which must be `ShardHello`.
pub fn shard_greeting(message: v1::FromShard) -> Result<ShardGreeting, Refusal> {
    let Some(from_shard::Message::Hello(hello)) = message.message else {
        return Err(InvalidMessage::new("a shard's first message must be hello").into());
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
) -> Result<ShardMessage, InvalidMessage> {
    match message.message {
        Some(from_shard::Message::Applied(v1::ShardApplied { step, way, weights, predicted })) => {
            let sums = zip(way, weights, predicted)?;
            let update_norms =
                sums.map(|[way, weights, predicted]| UpdateNorms { change: way, weights, predicted });
            Ok(ShardMessage::Applied { step, update_norms: update_norms.collect() })
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
        Some(from_shard::Message::Hello(_)) => Err(InvalidMessage::new("hello came twice")),
        None => {
            Err(InvalidMessage::new("the message is empty, or of a kind that this version does not know"))
        }
    }
}

/// Checks ranges of leaves of a step's batch.
fn ranges(step: u64, starts: &[u32], ends: &[u32], shape: &Shape) -> Result<Vec<Range<u32>>, InvalidMessage> {
    ensure!(step < shape.plan.steps, "step {step} of a run of {} steps", shape.plan.steps);
    ensure!(
        starts.len() == ends.len(),
        "there are {} starts and {} ends of ranges",
        starts.len(),
        ends.len()
    );
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

/// The message that lists the leaves a shard lacks.
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
) -> Result<StateChunk, InvalidMessage> {
    let v1::WeightsChunk { version, offset, total, weights: bytes } = chunk;
    let offset = check_chunk(offset, total, &bytes, 4, parameters)?;
    ensure!(kept.contains(&offset), "a chunk at element {offset} of a shard that holds {kept:?}");
    Ok(StateChunk { version, offset, bytes })
}

fn vector_chunk(
    chunk: v1::StateChunk,
    parameters: usize,
    kept: &Range<usize>,
) -> Result<(usize, StateChunk), InvalidMessage> {
    let v1::StateChunk { version, vector, offset, total, values } = chunk;
    let chunk = v1::WeightsChunk { version, offset, total, weights: values };
    Ok((vector as usize, state_chunk(chunk, parameters, kept)?))
}

/// Combines three lists, which must have the same length.
fn zip(a: Vec<f64>, b: Vec<f64>, c: Vec<f64>) -> Result<impl Iterator<Item = [f64; 3]>, InvalidMessage> {
    ensure!(
        a.len() == b.len() && b.len() == c.len(),
        "sums of {}, {} and {} pieces, which must be as many",
        a.len(),
        b.len(),
        c.len()
    );
    Ok(a.into_iter().zip(b).zip(c).map(|((a, b), c)| [a, b, c]))
}

/// The message with the sums over a shard's pieces.
pub fn measured(step: u64, sums: &[PieceSums]) -> v1::ShardMeasured {
    v1::ShardMeasured {
        step,
        gradient: sums.iter().map(|sums| sums.gradient).collect(),
        weights: sums.iter().map(|sums| sums.weights).collect(),
        steps: sums.iter().map(|sums| sums.step).collect(),
    }
}

/// The message that reports an applied step.
pub fn applied(step: u64, update_norms: &[UpdateNorms]) -> v1::ShardApplied {
    v1::ShardApplied {
        step,
        way: update_norms.iter().map(|norms| norms.change).collect(),
        weights: update_norms.iter().map(|norms| norms.weights).collect(),
        predicted: update_norms.iter().map(|norms| norms.predicted).collect(),
    }
}

/// The message of a chunk of a vector of state.
pub fn optimizer_state_chunk(
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

/// The message with the decision about a step.
pub fn verdict_to_wire(verdict: &Verdict) -> v1::ShardVerdict {
    let action = ACTIONS.iter().find(|(action, _)| *action == verdict.action);
    let StepParams { step, count, samples, rate, scale, ref trust } = verdict.step_params;
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

fn verdict(verdict: v1::ShardVerdict) -> Result<Verdict, InvalidMessage> {
    let number = verdict.action;
    let action = ACTIONS.iter().find(|(_, action)| *action as i32 == number);
    let Some(&(action, _)) = action else {
        return Err(InvalidMessage::new(format!(
            "a verdict with action {number}, which this version does not know"
        )));
    };
    let v1::ShardVerdict { step, samples, rate, scale, trust, count, count_after, .. } = verdict;
    ensure!(
        samples > 0 && count > 0,
        "a verdict about a step of {samples} samples, the optimizer's step {count}"
    );
    let step_params = StepParams { step, count, samples: samples as usize, rate, scale, trust };
    let (keep_best, keep_good, measures) = (verdict.keep_best, verdict.keep_good, verdict.measures);
    Ok(Verdict { step_params, action, keep_best, keep_good, measures, count: count_after })
}

/// Checks the first message of a coordinator.
pub fn attached(message: v1::ToShard, parameters: usize) -> Result<Attached, InvalidMessage> {
    let Some(to_shard::Message::Admitted(admitted)) = message.message else {
        return Err(InvalidMessage::new("the coordinator's first message does not admit this shard"));
    };
    let v1::ShardAdmitted { index, start, end } = admitted;
    Ok(Attached { index, kept: kept(start, end, parameters)? })
}

/// Checks a later message of a coordinator to a shard that keeps `kept`.
pub fn to_shard(
    message: v1::ToShard,
    parameters: usize,
    kept: &Range<usize>,
) -> Result<ToShardMessage, InvalidMessage> {
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
        Some(to_shard::Message::Admitted(_)) => Err(InvalidMessage::new("it admitted this shard twice")),
        None => {
            Err(InvalidMessage::new("the message is empty, or of a kind that this version does not know"))
        }
    }
}

/// Checks the list of shards: the index, address and elements of each.
pub fn shard_addresses(
    reply: v1::ShardsReply,
    parameters: usize,
) -> Result<Vec<(u32, String, Range<usize>)>, InvalidMessage> {
    reply
        .shards
        .into_iter()
        .map(|place| {
            let address = printable("address", place.address, MAX_NAME_BYTES)?;
            Ok((place.index, address, kept(place.start, place.end, parameters)?))
        })
        .collect()
}

/// Checks that a range of elements consists of whole chunks of the model.
pub(super) fn kept(start: u64, end: u64, parameters: usize) -> Result<Range<usize>, InvalidMessage> {
    let chunk = chunk_elements(parameters) as u64;
    let total = parameters as u64;
    let on_the_grid = |at: u64| at.is_multiple_of(chunk) || at == total;
    ensure!(
        start <= end && end <= total && on_the_grid(start) && on_the_grid(end),
        "elements {start}..{end} are not whole chunks of the model's {total} elements"
    );
    Ok(start as usize..end as usize)
}
