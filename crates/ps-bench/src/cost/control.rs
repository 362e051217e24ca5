//! Costs of the round logic, in which every event involves a loop over all workers.

use ps_coord::{ServerAction, ServerConfig, ServerCore, ServerEvent, WorkerId};
use ps_plan::BatchPlan;
use ps_scale::Costs;
use std::time::Instant;

/// Two numbers of workers. The difference of their costs gives the cost per worker.
const FEW: u32 = 8;
const MANY: u32 = 256;
const ROUNDS: u32 = 20;

pub(crate) fn measure(plan: BatchPlan, costs: &mut Costs) {
    let [few, many] = [FEW, MANY].map(|workers| message_seconds(plan, workers));
    // Noise may make a difference negative, but a cost is not.
    costs.control_worker = ((many - few) / f64::from(MANY - FEW)).max(0.0);
    costs.control = (few - costs.control_worker * f64::from(FEW)).max(0.0);
}

/// Seconds per message from or to one of `workers` workers, each of which has a few leaves.
fn message_seconds(plan: BatchPlan, workers: u32) -> f64 {
    let leaves = 4 * workers as usize;
    let plan = BatchPlan::new(plan.seed, leaves, leaves, 1, ROUNDS + 2, None);
    let config = ServerConfig {
        plan,
        start_version: 0,
        min_workers: workers,
        join_timeout_ms: 1_000_000,
        contact_timeout_ms: 1_000_000,
        work_timeout_ms: 1_000_000,
        notice_every_ms: 1_000_000,
        shards: 0,
        first_shard: 0,
        audit: 0.0,
        audit_seed: 0,
    };
    let mut core = ServerCore::new(0, config);
    let mut actions = Vec::new();
    (0..workers).for_each(|id| core.step(0, ServerEvent::Joined { worker: WorkerId(id) }, &mut actions));
    let (mut messages, mut begun) = (0_u32, Instant::now());
    for step in 0..u64::from(ROUNDS) {
        if step == 1 {
            (messages, begun) = (0, Instant::now());
        }
        let given = std::mem::take(&mut actions);
        for action in given {
            let ServerAction::Assign { worker, step, leaves } = action else { continue };
            messages += 1;
            for node in plan.step(step).tree().cover(leaves) {
                messages += 1;
                core.step(0, ServerEvent::Contributed { worker, step, node, digest: None }, &mut actions);
            }
        }
        actions.clear();
        core.step(0, ServerEvent::Updated { step }, &mut actions);
    }
    begun.elapsed().as_secs_f64() / f64::from(messages.max(1))
}
