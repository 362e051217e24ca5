//! The data plane: chunks to nodes, nodes to the root, the root to new weights, weights to bytes.
//!
//! It runs on the driver's own thread, never on the one that serves connections.

use crate::outbox::Weights;
use ps_coord::WorkerId;
use ps_core::{Fold, Gradients, Node, NodeSum, StepReport, Tally, Tree, trainer::Diverged};
use ps_core::{Samples, Trainer};
use ps_proto::convert::NodePart;
use ps_proto::{Nonsense, Pool, tensor};
use ps_run::Job;
use std::collections::BTreeMap;
use tracing::debug;

/// The weights and the sums of the step in hand.
pub(crate) struct Plane {
    trainer: Trainer,
    /// Nodes of the step that the trainer's version names.
    fold: Fold,
    /// The node that each worker is sending.
    arriving: BTreeMap<WorkerId, Arriving>,
    /// The weights as they travel, made when first asked for.
    serialised: Option<Weights>,
    pool: Pool,
    /// Made when a worker first claims that a gradient is not finite.
    own: Option<Gradients>,
}

/// A node of which some chunks are here.
struct Arriving {
    step: u64,
    node: Node,
    /// Elements seen so far.
    next: usize,
    /// The elements, unless the node is of no use.
    values: Option<Vec<f32>>,
    finite: bool,
}

/// What a chunk amounts to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// More chunks of its node are to come.
    Part,
    /// Its node is whole, and folded if it was of use.
    Whole,
}

impl Plane {
    pub fn new(trainer: Trainer) -> Self {
        let tree = trainer.plan().step(trainer.version()).tree();
        Plane {
            trainer,
            fold: Fold::new(tree),
            arriving: BTreeMap::new(),
            serialised: None,
            pool: Pool::default(),
            own: None,
        }
    }

    /// Steps applied so far.
    pub fn version(&self) -> u64 {
        self.trainer.version()
    }

    /// The current weights, `[parameters]`.
    pub fn weights(&self) -> &[f32] {
        self.trainer.weights()
    }

    /// The current weights as they travel; copied once, whoever asks.
    pub fn serialised(&mut self) -> Weights {
        let (trainer, pool) = (&self.trainer, &self.pool);
        let fresh =
            || Weights { version: trainer.version(), bytes: pool.share(pool.copy(trainer.weights())) };
        self.serialised.get_or_insert_with(fresh).clone()
    }

    /// Takes a chunk, of a step and node that exist.
    pub fn take(&mut self, job: &Job, worker: WorkerId, part: NodePart) -> Result<Taken, Nonsense> {
        let version = self.version();
        let NodePart { step, node, offset, bytes, tally } = part;
        if step > version {
            return Err(Nonsense::new(format!(
                "node {node} of step {step}, which is not open: the weights are of version {version}"
            )));
        }
        let arriving = if offset == 0 {
            // Memory is taken only for what counts; a worker sends one node at a time, so this bounds it.
            let counts = step == version && !self.fold.coverage().covers(node);
            let values = counts.then(|| Vec::with_capacity(self.trainer.weights().len()));
            self.arriving.insert(worker, Arriving { step, node, next: 0, values, finite: true });
            self.arriving.get_mut(&worker)
        } else {
            self.arriving.get_mut(&worker)
        };
        let expected =
            |arriving: &Arriving| arriving.step == step && arriving.node == node && arriving.next == offset;
        let Some(arriving) = arriving.filter(|arriving| expected(arriving)) else {
            return Err(Nonsense::new(format!(
                "chunk at element {offset} of node {node} of step {step} does not follow the chunk before it"
            )));
        };
        if arriving.step != version {
            arriving.values = None;
        }
        arriving.next += bytes.len() / 4;
        if let Some(values) = &mut arriving.values {
            tensor::append(&bytes, values);
            arriving.finite &= values[offset..].iter().all(|value| value.is_finite());
        }
        let Some(tally) = tally else { return Ok(Taken::Part) };
        let whole = self.arriving.remove(&worker);
        if let Some(Arriving { values: Some(gradient), finite, .. }) = whole {
            let finite = finite && is_finite(&tally);
            let sum = NodeSum { node, gradient, tally };
            if !finite {
                self.confirm_divergence(job, node)?;
            }
            let counted = self.fold.insert(sum);
            debug!(step, %node, counted, "node arrived");
        }
        Ok(Taken::Whole)
    }

    /// The worker is gone; what it was sending goes with it.
    pub fn forget(&mut self, worker: WorkerId) {
        self.arriving.remove(&worker);
    }

    /// Makes the step. All leaves must be covered, which the round logic sees to by the same rule.
    pub fn update(&mut self) -> Result<StepReport, Diverged> {
        let root = self.fold.take_root().expect("the round closes when all leaves are covered");
        let report = self.trainer.finish(&root)?;
        self.serialised = None;
        let next = self.trainer.version().min(self.trainer.plan().steps - 1);
        self.fold = Fold::new(self.trainer.plan().step(next).tree());
        Ok(report)
    }

    /// A worker sent values that are not finite. Either training diverges, then the same leaves are not finite
    /// here either and the step's end will say so; or the worker is broken and must not end the run.
    fn confirm_divergence(&mut self, job: &Job, node: Node) -> Result<(), Nonsense> {
        let step = self.version();
        let tree: Tree = self.trainer.plan().step(step).tree();
        let own = self.own.get_or_insert_with(|| job.gradients());
        let samples: &dyn Samples = &job.data.train;
        let sums = own.compute(self.trainer.weights(), samples, step, tree.leaves_of(node));
        let finite =
            |sum: &NodeSum| is_finite(&sum.tally) && sum.gradient.iter().all(|value| value.is_finite());
        if sums.iter().all(finite) {
            return Err(Nonsense::new(format!(
                "node {node} of step {step} holds values that are not finite; computed here, all are"
            )));
        }
        Ok(())
    }
}

fn is_finite(tally: &Tally) -> bool {
    [tally.loss, tally.target, tally.target_squared, tally.residual_squared].iter().all(|sum| sum.is_finite())
}
