//! Server and workers on one thread in virtual time, with seeded faults.
//!
//! The state machines of [`ps_coord`] and the planes of [`ps_plane`] that run over gRPC run here over a network that
//! delays, loses, repeats and reorders messages and breaks connections, among workers that crash, stall, leave and join. The
//! weights may be cut among several servers, each with a connection to every worker and to the coordinator; servers crash,
//! too, and resume from checkpoints on a simulated disk. The numbers are real ([`ps_core`]'s), so a run must end with the
//! reference trainer's weights to the last bit. All chance comes from one seed: a failing run is replayed by its number.

mod checks;
mod cluster;
mod disk;
mod faults;
mod lies;
mod network;
pub mod seeds;
mod server_side;
mod shard_side;
mod ties;
pub mod tiny;
mod worker_side;

pub use faults::{Counts, Faults};

use cluster::Cluster;
use ps_coord::Outcome;
use ps_core::control::Event;
use ps_core::trainer::Diverged;
use ps_core::{
    Control, ControlConfig, Gradients, Kernel, Model, NodeSum, OptimizerConfig, Rules, Samples, Schedule,
    StepReport, Trainer, reference, weights_hash,
};
use ps_plan::BatchPlan;
use ps_plan::planted::Planted;
use ps_plan::{Node, Section};
use ps_plane::{Plane, Recompute};
use std::collections::VecDeque;
use std::ops::Range;

/// What is trained, and by how many workers at the start.
pub struct SimJob<'a> {
    /// The model.
    pub model: Model,
    /// Its steps and leaves.
    pub plan: BatchPlan,
    /// The optimizer.
    pub optimizer: OptimizerConfig,
    /// The learning rate.
    pub rate: Schedule,
    /// The policies that decide about steps.
    pub control: ControlConfig,
    /// The training samples.
    pub samples: &'a dyn Samples,
    /// The validation part, of as many samples as the plan says.
    pub validation: &'a dyn Samples,
    /// The kernel that gradients are computed with.
    pub kernel: Kernel,
    /// Workers at the start; faults may add more.
    pub workers: u32,
    /// Servers that keep a part of the weights each, the coordinator among them: at least 1, and few enough that the
    /// model has something for each.
    pub servers: u32,
    /// Steps between two checkpoints.
    pub checkpoint_every: u64,
    /// The share of nodes that are audited: only with one server; workers may lie unless it is 0.
    pub audit: f64,
    /// The hash that the weights of a finished run must have, where it is known.
    pub expected: Option<String>,
    /// The defect that the code has, where a test wants one.
    pub planted: Planted,
}

/// Chunks that the weights are cut into: more than there can be servers, so that each has some.
const CHUNKS: usize = 8;

impl SimJob<'_> {
    /// The chunks of the flat vector. Norms are summed over pieces that are the same however the vector is cut, and a chunk of
    /// a real run consists of whole pieces; where norms are needed, so does each of these: a tensor this small is one piece.
    fn chunks(&self) -> Vec<Range<usize>> {
        if self.plan.probe_every > 0 || self.control().watches() {
            let tensors = self.model.layout().tensors().iter();
            return tensors.map(|tensor| tensor.offset..tensor.offset + tensor.len()).collect();
        }
        let parameters = self.model.parameters();
        let size = parameters.div_ceil(CHUNKS);
        (0..parameters).step_by(size).map(|start| start..parameters.min(start + size)).collect()
    }

    /// The indices of the chunks that a server keeps; 0 is the coordinator.
    fn kept(&self, server: usize) -> Range<usize> {
        let (chunks, servers) = (self.chunks().len(), self.servers as usize);
        assert!(servers <= chunks, "each server keeps a chunk");
        chunks * server / servers..chunks * (server + 1) / servers
    }

    /// What decides about steps, without a defect.
    pub(crate) fn control(&self) -> Control {
        let rules = Rules::new(self.optimizer.clone(), &self.model, self.plan.seed);
        Control::new(self.control.clone(), rules, self.plan, self.rate.clone())
    }

    /// Hash of the weights that the reference trainer ends with, and the events of its steps.
    ///
    /// # Errors
    /// The run diverges.
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
        let control = self.control().planted(self.planted);
        let plane = Plane::new(self.model.clone(), control, kept, chunks).planted(self.planted);
        if server > 0 { plane.keep_previous() } else { plane }
    }

    /// The sums of the nodes that cover `leaves`, with gradients or without.
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
        let tallies = gradients.evaluate_leaves(weights, [self.samples, self.validation], step, leaves);
        let sum = |(node, tally)| NodeSum { node, gradient: Vec::new(), tally };
        tallies.into_iter().map(sum).collect()
    }
}

/// What the coordinator computes by itself.
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

/// A run that kept all invariants.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// How it ended: `Done` or `Diverged`.
    pub outcome: Outcome,
    /// SHA-256 of the final weights.
    pub hash: String,
    /// Steps made.
    pub steps: u64,
    /// Events handled.
    pub events: u64,
    /// Virtual time until the server finished.
    pub virtual_ms: u64,
    /// What befell it.
    pub counts: Counts,
}

/// A run that broke an invariant.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The seed that replays it.
    pub seed: u64,
    /// Which invariant, and how.
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

/// Lines of the log that a [`Violation`] keeps.
const LOG_LINES: usize = 200;

/// Runs a job under faults drawn from `seed`. A run that breaks an invariant is run once more to record it.
pub fn simulate(job: &SimJob<'_>, faults: &Faults, seed: u64) -> Result<Report, Violation> {
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

/// Like [`simulate`], with every event and action as a line of text to `trace`.
pub fn simulate_traced(
    job: &SimJob<'_>,
    faults: &Faults,
    seed: u64,
    trace: &mut dyn FnMut(String),
) -> Result<Report, Violation> {
    let run = Cluster::new(job, faults, seed, Some(trace)).run();
    run.map_err(|what| Violation { seed, what, log: Vec::new() })
}
