//! The invariants that are checked after every event, under any faults.

use crate::server_side::Server;
use crate::shard_side::Shard;
use ps_coord::{ServerAction, WaitsFor, WorkerState};
use ps_core::{MetricSums, weights_hash};
use ps_plan::BatchPlan;
use std::ops::Range;

/// Virtual time that a run may take after the last fault to recover from it: every timeout once.
pub(crate) const MAX_MS: u64 = 20_000;
/// Virtual time that each step may take in addition: the slowest worker, and a round trip of messages.
pub(crate) const MAX_STEP_MS: u64 = 1_000;
/// Virtual time within which all workers must end after the server has ended. Workers that missed its goodbye
/// keep trying until they give up.
pub(crate) const MAX_GOODBYE_MS: u64 = 60_000;

/// Versions grow one by one, except when the run resumes from a checkpoint. The core's version is that of the
/// data plane, and no shard is behind or more than one step ahead.
pub(crate) fn versions(before: Option<u64>, server: &Server, shards: &[Shard]) -> Result<(), String> {
    let (after, own) = (server.core.version(), server.plane.version());
    if let Some(before) = before
        && after != before
        && after != before + 1
    {
        return Err(format!("the version went from {before} to {after}"));
    }
    // While the coordinator collects the shards' weights, the step has been made but not yet reported.
    if after != own && !(server.is_updating() && own == after + 1) {
        return Err(format!("the core is at version {after}, the weights are at {own}"));
    }
    for (index, shard) in shards.iter().enumerate() {
        let version = shard.plane.version();
        let is_known = shard.era == Some(server.era);
        if is_known && version != after && version != after + 1 {
            return Err(format!("the core is at version {after}, shard {index} at {version}"));
        }
    }
    Ok(())
}

/// The leaves that the core counts as missing are those that the data plane lacks, and live workers, if there
/// are any, hold each of them. With other shards, the core may count more leaves as missing: the
/// contributions of lost workers.
pub(crate) fn round(server: &Server, shards: &[Shard]) -> Result<(), String> {
    let status = server.core.status();
    let (step, missing) = match &status.waits_for {
        WaitsFor::Leaves { step, missing } => (step, missing),
        WaitsFor::Shards { step, shards: waited } => return completed(*step, waited, server, shards),
        _ => return Ok(()),
    };
    let is_live = |state: &WorkerState| matches!(state, WorkerState::Joining | WorkerState::Training);
    let mut ranges: Vec<Range<u32>> = Vec::new();
    for part in missing {
        if part.holders.is_empty() {
            return Err(format!("step {step}: nobody holds {:?} while workers are there", part.leaves));
        }
        for holder in &part.holders {
            if !status.workers.iter().any(|w| w.worker == *holder && is_live(&w.state)) {
                return Err(format!("step {step}: {:?} is held by {holder}, who is gone", part.leaves));
            }
        }
        match ranges.last_mut() {
            Some(last) if last.end == part.leaves.start => last.end = part.leaves.end,
            _ => ranges.push(part.leaves.clone()),
        }
    }
    let lacking = server.plane.missing_metrics();
    let within = |lacking: &Range<u32>| {
        ranges.iter().any(|range| range.start <= lacking.start && lacking.end <= range.end)
    };
    let agree = if shards.is_empty() { ranges == lacking } else { lacking.iter().all(within) };
    let agree = agree && server.plane.missing().iter().all(within);
    match agree {
        true => Ok(()),
        false => Err(format!("step {step}: the core misses leaves {ranges:?}, the data plane {lacking:?}")),
    }
}

/// Every shard that the coordinator does not wait for has completed the step.
fn completed(step: u64, waited: &[u32], server: &Server, shards: &[Shard]) -> Result<(), String> {
    for (index, shard) in shards.iter().enumerate() {
        // A shard whose crash has not been noticed yet has lost its state.
        let is_known = shard.era == Some(server.era);
        if is_known && !waited.contains(&(index as u32)) && !shard.core.has_completed(step) {
            return Err(format!("step {step} does not wait for shard {index}, which has not applied it"));
        }
    }
    Ok(())
}

/// An action must fit the state of the data plane.
pub(crate) fn action(
    server: &Server,
    shards: &[Shard],
    plan: &BatchPlan,
    action: &ServerAction,
) -> Result<(), String> {
    let version = server.plane.version();
    match action {
        _ if server.outcome.is_some() => Err(format!("{action:?} after the end")),
        ServerAction::Update { step } if *step != version => {
            Err(format!("update of step {step} at {version}"))
        }
        ServerAction::Update { step } if !(server.plane.has_all_metrics() && server.plane.is_gathered()) => {
            Err(format!(
                "update of step {step} while leaves {:?} are missing",
                server.plane.missing_metrics()
            ))
        }
        ServerAction::Update { step } => completed(*step, &[], server, shards),
        ServerAction::SendWeights { version: sent, .. } if *sent != version => {
            Err(format!("weights of version {sent} sent at {version}"))
        }
        ServerAction::Assign { step, leaves, .. }
            if *step != version || !plan.step(*step).tree().has_leaves(leaves) =>
        {
            Err(format!("leaves {leaves:?} of step {step} given out at version {version}"))
        }
        _ => Ok(()),
    }
}

/// No leaf is counted twice or left out: the metric sums cover exactly the step's samples.
pub(crate) fn samples(plan: &BatchPlan, step: u64, metric_sums: &MetricSums) -> Result<(), String> {
    let (summed, samples) = (metric_sums.samples, plan.step(step).samples as u64);
    match summed == samples {
        true => Ok(()),
        false => Err(format!("the metrics of step {step} are of {summed} samples, not {samples}")),
    }
}

/// A finished run has the expected weights.
pub(crate) fn weights(expected: Option<&str>, weights: &[f32]) -> Result<String, String> {
    let hash = weights_hash(weights);
    match expected {
        Some(expected) if expected != hash => Err(format!("the weights are {hash}, expected {expected}")),
        _ => Ok(hash),
    }
}

/// Every shard that the coordinator can reach holds the weights that it received last.
pub(crate) fn restored(server: &Server, shards: &[Shard]) -> Result<(), String> {
    for (index, shard) in shards.iter().enumerate() {
        // The shard or its connection has failed, and the coordinator has not noticed yet.
        let is_reached = shard.is_up && shard.link.is_some() && shard.link == server.seats[index];
        if is_reached && shard.era != Some(server.era) {
            return Err(format!("the run resumes before shard {index} does"));
        }
    }
    Ok(())
}

/// A shard has applied the step, unless it has crashed since.
pub(crate) fn applied(server: &Server, shard: &Shard, step: u64) -> Result<(), String> {
    match shard.era == Some(server.era) && !shard.core.has_completed(step) {
        true => Err(format!("that a shard applied step {step} counts, though it went back since")),
        false => Ok(()),
    }
}

/// Weights assembled from chunks have the expected bits.
pub(crate) fn same(what: &str, found: &[f32], expected: &[f32]) -> Result<(), String> {
    let [found, expected] = [found, expected].map(weights_hash);
    match found == expected {
        true => Ok(()),
        false => Err(format!("{what} has weights {found}, not {expected}")),
    }
}
