//! Servers and workers on one thread in virtual time, with seeded faults.
//!
//! The state machines of [`ps_coord`] and the data planes of [`ps_plane`] that run over gRPC run here over a
//! network that delays, loses, duplicates and reorders messages and breaks connections, among workers that
//! crash, stall, leave and join. The weights may be sharded over several servers, each connected to every
//! worker and to the coordinator. Servers crash as well and resume from checkpoints on a simulated disk. The
//! arithmetic is that of [`ps_core`], so a run must end with the same bits of the weights as the reference
//! trainer. All randomness comes from one seed, so the seed of a failing run reproduces it.

mod checks;
mod cluster;
mod disk;
mod faults;
mod lies;
mod network;
pub mod seeds;
mod server_side;
mod shard_links;
mod shard_side;
pub mod tiny;
mod worker_side;

pub use faults::{Counts, Faults};

use cluster::Cluster;
use ps_coord::Outcome;
use ps_core::control::Event;
use ps_core::trainer::Diverged;
use ps_core::{
    Control, ControlConfig, Gradients, Kernel, Model, ModelOptimizer, NodeSum, OptimizerConfig, Samples,
    Schedule, StepReport, Trainer, reference, weights_hash,
};
use ps_plan::BatchPlan;
use ps_plan::mutation::ActiveMutation;
use ps_plan::{Node, Section};
use ps_plane::{Plane, Recompute};
use std::collections::VecDeque;
use std::ops::Range;

/// A training job, and the numbers of workers and servers that run it.
///
/// [`tiny::tiny_job`] creates a small one. Pass it to [`simulate`] with [`Faults`] and a seed; the same job,
/// faults and seed always give the same run.
pub struct SimJob<'a> {
    /// The model that is trained.
    pub model: Model,
    /// How the run is divided into steps and leaves.
    pub plan: BatchPlan,
    /// The optimizer and its settings, such as momentum and weight decay.
    pub optimizer: OptimizerConfig,
    /// The learning-rate schedule.
    pub rate: Schedule,
    /// The policies that decide about steps.
    pub control: ControlConfig,
    /// The training samples.
    pub samples: &'a dyn Samples,
    /// The validation set, with the number of samples that the plan gives.
    pub validation: &'a dyn Samples,
    /// The instruction set with which gradients are computed.
    pub kernel: Kernel,
    /// Number of workers at the start. Faults may add more.
    pub workers: u32,
    /// Number of servers that hold a part of the weights, including the coordinator: at least 1, and at most
    /// the number of chunks.
    pub servers: u32,
    /// Interval between two checkpoints, in steps.
    pub checkpoint_every: u64,
    /// Fraction of the nodes that are audited. Requires a single server. Workers lie only if this is above 0.
    pub audit: f64,
    /// Hash that the weights of a finished run must have, if known.
    pub expected: Option<String>,
    /// Mutations of the code, for tests that must detect them.
    pub mutation: ActiveMutation,
}

/// Number of chunks: more than there can be servers, so that each server has several.
const CHUNKS: usize = 8;

impl SimJob<'_> {
    /// The chunks of the flat vector. Norms are summed over pieces that do not depend on how the vector is
    /// divided, and a chunk of a real run consists of whole pieces. Where norms are needed, each chunk here
    /// is therefore a whole tensor, which is one piece because it is small.
    fn chunks(&self) -> Vec<Range<usize>> {
        if self.plan.probe_every > 0 || self.control().watches() {
            let tensors = self.model.layout().tensors().iter();
            return tensors.map(|tensor| tensor.offset..tensor.offset + tensor.len()).collect();
        }
        let parameters = self.model.parameters();
        let size = parameters.div_ceil(CHUNKS);
        (0..parameters).step_by(size).map(|start| start..parameters.min(start + size)).collect()
    }

    /// Indices of the chunks that a server holds; server 0 is the coordinator.
    fn kept(&self, server: usize) -> Range<usize> {
        let (chunks, servers) = (self.chunks().len(), self.servers as usize);
        assert!(servers <= chunks, "each server keeps a chunk");
        chunks * server / servers..chunks * (server + 1) / servers
    }

    /// The policies that decide about steps, without mutations.
    pub(crate) fn control(&self) -> Control {
        let optimizer = ModelOptimizer::new(self.optimizer.clone(), &self.model, self.plan.seed);
        Control::new(self.control.clone(), optimizer, self.plan, self.rate.clone())
    }

    /// The hash of the weights with which the reference trainer ends, and the events of its steps.
    ///
    /// # Errors
    /// Returns an error if the run diverges.
    pub fn reference(&self) -> Result<(String, Vec<Event>), Diverged> {
        let trainer = Trainer::controlled(&self.model, self.control());
        let validation = (self.plan.validation > 0).then_some(self.validation);
        let mut events = Vec::new();
        let mut report = |report: &StepReport, _: &[f32]| events.extend(report.events.iter().cloned());
        let trained = reference::run(&self.model, trainer, self.samples, validation, &mut report)?;
        Ok((weights_hash(trained.weights()), events))
    }

    fn plane(&self, server: usize) -> Plane {
        let chunks = self.chunks()[self.kept(server)].to_vec();
        let kept = chunks[0].start..chunks[chunks.len() - 1].end;
        let control = self.control().with_mutation(self.mutation);
        let plane = Plane::new(self.model.clone(), control, kept, chunks).with_mutation(self.mutation);
        if server > 0 { plane.keep_previous() } else { plane }
    }

    /// The sums of the nodes that cover `leaves`, with or without gradients.
    fn sums(
        &self,
        gradients: &mut Gradients,
        weights: &[f32],
        step: u64,
        leaves: Range<u32>,
    ) -> Vec<NodeSum> {
        if Section::of(leaves.start) == Section::Training {
            return gradients.compute(weights, self.samples, step, leaves);
        }
        let metric_sums = gradients.evaluate_leaves(weights, [self.samples, self.validation], step, leaves);
        let sum = |(node, metric_sums)| NodeSum { node, gradient: Vec::new(), metric_sums };
        metric_sums.into_iter().map(sum).collect()
    }
}

/// Computes the leaves that the coordinator checks itself.
struct OwnGradients<'a> {
    job: &'a SimJob<'a>,
    gradients: &'a mut Gradients,
}

impl Recompute for OwnGradients<'_> {
    fn node_sum(&mut self, weights: &[f32], step: u64, node: Node) -> NodeSum {
        let leaves = self.job.plan.step(step).tree().leaves_of(node);
        self.job.sums(self.gradients, weights, step, leaves).remove(0)
    }
}

/// The result of a run that kept all invariants.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// How it ended: `Done` or `Diverged`.
    pub outcome: Outcome,
    /// SHA-256 of the final weights.
    pub hash: String,
    /// Number of steps applied when the run ended.
    pub steps: u64,
    /// Number of events handled.
    pub events: u64,
    /// Virtual time until the server finished, in ms.
    pub virtual_ms: u64,
    /// How often each fault occurred.
    pub counts: Counts,
}

/// A broken invariant.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The seed that reproduces the run.
    pub seed: u64,
    /// The invariant, and how it was broken.
    pub what: String,
    /// The last events before it, oldest first.
    pub log: Vec<String>,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seed {}: {}", self.seed, self.what)
    }
}

impl std::error::Error for Violation {}

/// Maximum number of log lines in a [`Violation`].
const LOG_LINES: usize = 200;

/// Runs a job under faults drawn from `seed`.
///
/// # Errors
/// Returns the broken invariant. The run is repeated once to record its last events.
pub fn simulate(job: &SimJob<'_>, faults: &Faults, seed: u64) -> Result<Report, Violation> {
    // The log is kept only by a second run, which also shows whether the seed replays.
    Cluster::new(job, faults, seed, None).run().map_err(|what| {
        let mut log = VecDeque::new();
        let mut keep = |line: String| {
            if log.len() == LOG_LINES {
                log.pop_front();
            }
            log.push_back(line);
        };
        let again = Cluster::new(job, faults, seed, Some(&mut keep)).run();
        let what = match again {
            Err(again) if again == what => what,
            _ => format!("the run differs from replay to replay; at first: {what}"),
        };
        Violation { seed, what, log: log.into() }
    })
}

/// Like [`simulate`], but passes every event and action to `trace` as a line of text.
pub fn simulate_traced(
    job: &SimJob<'_>,
    faults: &Faults,
    seed: u64,
    trace: &mut dyn FnMut(String),
) -> Result<Report, Violation> {
    let run = Cluster::new(job, faults, seed, Some(trace)).run();
    run.map_err(|what| Violation { seed, what, log: Vec::new() })
}
