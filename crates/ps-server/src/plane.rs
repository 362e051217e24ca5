//! The data plane: chunks of gradients in, chunks of new weights out.
//!
//! Each chunk goes its own way: it is folded as nodes arrive, updated as soon as all leaves are covered, and can be
//! sent at once. The weights before the step stay until all chunks are made and the step is committed, so a step
//! that diverges or is broken off leaves them whole.
//!
//! It runs on the driver's own thread, never on the one that serves connections.

use bytes::Bytes;
use ps_checkpoint::Snapshot;
use ps_coord::{Digest, WorkerId};
use ps_core::chunk::{Element, Pool};
use ps_core::precision::encode_bf16;
use ps_core::trainer::Diverged;
use ps_core::{BatchPlan, ChunkFold, Fold, Gradients, Node, NodeSum, Precision, Schedule, SgdConfig};
use ps_core::{Samples, StepReport, Tally};
use ps_proto::Nonsense;
use ps_proto::convert::{NodeDone, NodePart};
use ps_proto::limits::chunk_elements;
use ps_run::Job;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::ops::Range;

/// The weights that one server keeps, and the sums of the step in hand.
pub(crate) struct Plane {
    plan: BatchPlan,
    rate: Schedule,
    optimizer: SgdConfig,
    precision: Precision,
    /// Elements of the flat vector that are kept here, in whole chunks.
    kept: Range<usize>,
    /// Steps applied to the weights.
    version: u64,
    chunks: Vec<Chunk>,
    /// Chunks of which the next weights are made.
    made: usize,
    /// Whether an element of this step's gradient is not finite, or of the last step's weights.
    diverged: bool,
    /// The nodes' tallies: sums without a gradient.
    tallies: Fold,
    /// Chunks that each worker has sent of a node of this step: of each its hash, where nodes are audited.
    arrived: BTreeMap<(WorkerId, Node), Vec<Option<[u8; 32]>>>,
    /// Whether chunks wait until the whole step is found good, and nodes are hashed.
    audits: bool,
    pool: Pool,
    /// Whether the weights before the last step are kept until the next one begins: a shard may be a step ahead of the
    /// others, and of a run that is stopped.
    keeps_previous: bool,
    /// Whether they are there.
    has_previous: bool,
    /// Whether the velocity may be asked for in the middle of a step. It costs a copy of it in each.
    keeps_velocity: bool,
    /// Made when a worker first claims that a gradient is not finite.
    own: Option<Gradients>,
    /// A step of which such a claim was found to be true.
    confirmed: Option<u64>,
}

struct Chunk {
    /// Its first element in the flat vector.
    offset: usize,
    fold: ChunkFold,
    velocity: Vec<f32>,
    /// The velocity that belongs to the weights, once the next ones are made.
    velocity_before: Vec<f32>,
    weights: Served,
    next: Option<Served>,
    /// The weights before the last step, where they may be needed.
    previous: Option<Served>,
}

/// A chunk of weights: as it is kept, and as it travels to workers.
#[derive(Clone)]
struct Served {
    kept: Bytes,
    sent: Bytes,
}

/// A chunk of weights as it travels.
#[derive(Clone, Debug)]
pub(crate) struct WeightsPart {
    /// Steps applied to it.
    pub version: u64,
    /// Its first element.
    pub offset: usize,
    /// Its elements, of the run's precision.
    pub bytes: Bytes,
}

impl Plane {
    /// The initial weights of `job`, of which `kept` is kept here.
    pub fn new(job: &Job, kept: Range<usize>) -> Self {
        let plan = job.plan;
        let tree = plan.step(0).tree();
        let (optimizer, precision) = (job.optimizer, job.run.wire.weights);
        let pool = Pool::default();
        let initial = job.model.initial(plan.seed);
        let size = chunk_elements(initial.len());
        let chunks = kept
            .clone()
            .step_by(size)
            .map(|offset| {
                let values = &initial[offset..kept.end.min(offset + size)];
                let moves = optimizer.momentum != 0.0;
                Chunk {
                    offset,
                    fold: ChunkFold::new(tree),
                    velocity: if moves { vec![0.0; values.len()] } else { Vec::new() },
                    velocity_before: Vec::new(),
                    weights: Served::of(values, &pool, precision),
                    next: None,
                    previous: None,
                }
            })
            .collect();
        Plane {
            plan,
            rate: job.rate.clone(),
            optimizer,
            precision,
            kept,
            version: 0,
            chunks,
            made: 0,
            diverged: false,
            tallies: Fold::new(tree),
            arrived: BTreeMap::new(),
            audits: false,
            pool,
            keeps_previous: false,
            has_previous: false,
            keeps_velocity: false,
            own: None,
            confirmed: None,
        }
    }

    /// Keeps the weights before the last step, too, until a chunk of the next one comes: whoever sends that was told
    /// that the last step is made everywhere.
    pub fn keep_previous(mut self) -> Self {
        self.keeps_previous = true;
        self
    }

    /// Hashes what comes, and makes no chunk before [`Plane::release`].
    pub fn audit(&mut self) {
        self.audits = true;
    }

    /// Keeps the velocity that belongs to the weights while chunks are already a step ahead.
    pub fn keep_velocity(&mut self) {
        self.keeps_velocity = true;
    }

    /// Goes on after `version` steps, with the weights and velocity of then, of the elements that are kept here.
    /// Whatever was gathered is forgotten.
    pub fn resume(&mut self, version: u64, weights: &[f32], velocity: &[f32]) {
        let tree = self.plan.step(version.min(self.plan.steps - 1)).tree();
        self.made = 0;
        self.diverged = false;
        self.confirmed = None;
        self.has_previous = false;
        self.arrived.clear();
        for chunk in &mut self.chunks {
            let at = chunk.offset - self.kept.start;
            let at = at..at + chunk.weights.kept.len() / 4;
            chunk.weights = Served::of(&weights[at.clone()], &self.pool, self.precision);
            if !chunk.velocity.is_empty() {
                chunk.velocity.copy_from_slice(&velocity[at]);
            }
            chunk.velocity_before.clear();
            chunk.next = None;
            chunk.previous = None;
            chunk.fold = ChunkFold::new(tree);
        }
        self.tallies = Fold::new(tree);
        self.version = version;
    }

    /// The same from the whole weights and velocity.
    pub fn resume_from(&mut self, start: &Snapshot) {
        let velocity = start.velocity.get(self.kept.clone()).unwrap_or_default();
        self.resume(start.progress.step, &start.weights[self.kept.clone()], velocity);
    }

    /// Goes on from the beginning.
    pub fn begin(&mut self, job: &Job) {
        let initial = job.model.initial(self.plan.seed);
        let at_rest = if self.optimizer.momentum == 0.0 { Vec::new() } else { vec![0.0; self.kept.len()] };
        self.resume(0, &initial[self.kept.clone()], &at_rest);
    }

    /// The elements that are kept here.
    pub fn kept(&self) -> Range<usize> {
        self.kept.clone()
    }

    /// The optimizer's velocity at `version`, for those that [`Plane::parts_at`] has, by first element; empty without
    /// momentum. It must have been kept, unless no chunk is a step ahead.
    pub fn velocity_at(&self, version: u64) -> Vec<(usize, Bytes)> {
        let is_before = version < self.version;
        let part = |chunk: &Chunk| {
            let before = is_before || chunk.next.is_some();
            let velocity = if before { &chunk.velocity_before } else { &chunk.velocity };
            (chunk.offset, ps_proto::tensor::share(velocity.clone()))
        };
        if self.optimizer.momentum == 0.0 { Vec::new() } else { self.chunks.iter().map(part).collect() }
    }

    /// Steps applied to the weights.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The version of the oldest weights that a worker may need.
    pub fn oldest(&self) -> u64 {
        self.version - u64::from(self.has_previous)
    }

    /// Takes a chunk of a step and node that exist. Gives the chunk of new weights that it completes, if it does.
    pub fn take(
        &mut self,
        job: &Job,
        worker: WorkerId,
        part: NodePart,
    ) -> Result<Option<WeightsPart>, Nonsense> {
        let NodePart { step, node, offset, bytes } = part;
        self.check_open(step, node)?;
        if !self.kept.contains(&offset) {
            return Err(Nonsense::new(format!(
                "chunk at element {offset} of node {node}; kept here are {}..{}",
                self.kept.start, self.kept.end
            )));
        }
        if step < self.version {
            return Ok(None);
        }
        if std::mem::take(&mut self.has_previous) {
            self.chunks.iter_mut().for_each(|chunk| chunk.previous = None);
        }
        let index = (offset - self.kept.start) / chunk_elements(job.model.parameters());
        let hash: Option<[u8; 32]> = self.audits.then(|| Sha256::digest(&bytes).into());
        if !self.chunks[index].fold.covers(node) {
            if self.can_confirm(job) && !is_finite(&bytes) {
                self.confirm_divergence(job, node)?;
            }
            self.chunks[index].fold.insert(node, bytes, &self.pool);
        }
        let chunks = self.chunks.len();
        let hash = hash.unwrap_or_default();
        self.arrived.entry((worker, node)).or_insert_with(|| vec![None; chunks])[index] = Some(hash);
        Ok(if self.audits { None } else { self.advance(index) })
    }

    /// Makes all chunks of the step, whose leaves are all covered, as far as they are not made yet.
    pub fn release(&mut self) -> Vec<WeightsPart> {
        (0..self.chunks.len()).filter_map(|index| self.advance(index)).collect()
    }

    /// Forgets what was gathered of the step in hand, of which no chunk is made.
    pub fn start_over(&mut self) {
        let tree = self.plan.step(self.version).tree();
        self.chunks.iter_mut().for_each(|chunk| chunk.fold = ChunkFold::new(tree));
        self.tallies = Fold::new(tree);
        self.arrived.clear();
    }

    /// What a node of the step in hand is, computed here.
    pub fn judge(&mut self, job: &Job, node: Node) -> Digest {
        let sum = self.compute(job, node);
        let size = 4 * chunk_elements(sum.gradient.len());
        let bytes = ps_proto::tensor::share(sum.gradient);
        digest(bytes.chunks(size).map(|chunk| Sha256::digest(chunk).into()), &sum.tally)
    }

    /// Takes the end of a node whose chunks must all have come before. Gives its hash, where nodes are audited.
    pub fn take_end(
        &mut self,
        job: &Job,
        worker: WorkerId,
        done: NodeDone,
    ) -> Result<Option<Digest>, Nonsense> {
        let NodeDone { step, node, tally } = done;
        self.check_open(step, node)?;
        if step < self.version {
            return Ok(None);
        }
        let arrived = self.arrived.remove(&(worker, node)).unwrap_or_else(|| vec![None; self.chunks.len()]);
        let missing = arrived.iter().filter(|chunk| chunk.is_none()).count();
        if missing > 0 {
            return Err(Nonsense::new(format!(
                "node {node} of step {step} ends, and {missing} chunks are missing"
            )));
        }
        if self.can_confirm(job) && !is_finite_tally(&tally) {
            self.confirm_divergence(job, node)?;
        }
        let digest = self.audits.then(|| digest(arrived.into_iter().flatten(), &tally));
        self.tallies.insert(NodeSum { node, gradient: Vec::new(), tally });
        Ok(digest)
    }

    fn check_open(&self, step: u64, node: Node) -> Result<(), Nonsense> {
        if step > self.version {
            let version = self.version;
            return Err(Nonsense::new(format!(
                "node {node} of step {step}, which is not open: the weights are of version {version}"
            )));
        }
        Ok(())
    }

    /// Updates a chunk if all leaves are covered and it is not updated yet.
    fn advance(&mut self, index: usize) -> Option<WeightsPart> {
        let chunk = &mut self.chunks[index];
        if chunk.next.is_some() || !chunk.fold.is_complete() {
            return None;
        }
        let step = self.plan.step(self.version);
        let old: &[Element] = chunk.weights.kept.as_chunks().0;
        let mut new = self.pool.take(old.len());
        if self.keeps_velocity {
            chunk.velocity_before.clone_from(&chunk.velocity);
        }
        let finite = chunk.fold.update(
            &self.optimizer,
            step.samples,
            self.rate.at(step.step),
            old,
            &mut chunk.velocity,
            &mut new,
        );
        let served = Served::new(new.share(), self.precision);
        chunk.next = Some(served.clone());
        self.made += 1;
        // A weight that overflows shows in the next step's loss; after the last step nobody would look.
        let is_last = self.version + 1 >= self.plan.steps;
        self.diverged |= !finite.gradient || is_last && !finite.weights;
        let part = WeightsPart { version: self.version + 1, offset: chunk.offset, bytes: served.sent };
        (!self.diverged).then_some(part)
    }

    /// The worker is gone; what is known of its nodes goes with it.
    pub fn forget(&mut self, worker: WorkerId) {
        self.arrived.retain(|&(sender, _), _| sender != worker);
    }

    /// Whether the next weights of all chunks are made.
    pub fn is_complete(&self) -> bool {
        self.made == self.chunks.len()
    }

    /// Another shard cannot make `step`.
    pub fn diverge(&mut self, step: u64) {
        self.diverged |= step == self.version;
    }

    /// Makes the step, of which all chunks are made: their next weights become the weights. A shard hears of no
    /// tallies, so its report counts nothing.
    ///
    /// # Errors
    /// The loss or an element is not finite; the weights stay as they are.
    pub fn commit(&mut self) -> Result<StepReport, Diverged> {
        let tally = self.tallies.take_root().map_or_else(Tally::default, |root| root.tally);
        let step = self.plan.step(self.version);
        let rate = self.rate.at(step.step);
        if self.diverged || !tally.loss.is_finite() {
            return Err(Diverged { step: step.step, rate, loss: tally.mean_loss() });
        }
        self.version += 1;
        let tree = self.plan.step(self.version.min(self.plan.steps - 1)).tree();
        let keeps_previous = self.keeps_previous;
        for chunk in &mut self.chunks {
            let next = chunk.next.take().expect("all chunks are made before a step is committed");
            chunk.previous = Some(std::mem::replace(&mut chunk.weights, next)).filter(|_| keeps_previous);
            chunk.fold = ChunkFold::new(tree);
        }
        self.has_previous = keeps_previous;
        self.made = 0;
        self.tallies = Fold::new(tree);
        self.arrived.clear();
        Ok(StepReport { step: step.step, epoch: step.epoch, rate, tally })
    }

    /// The weights as they travel, those of the next version that are made already, and those of the version before
    /// as long as that step may not be made everywhere: its leaves may still be given to a worker that has just come.
    pub fn parts(&self) -> impl Iterator<Item = WeightsPart> {
        let version = self.version;
        let part =
            |version, offset, served: &Served| WeightsPart { version, offset, bytes: served.sent.clone() };
        let previous = self.chunks.iter().filter_map(move |chunk| {
            chunk.previous.as_ref().map(|previous| part(version - 1, chunk.offset, previous))
        });
        let current = self.chunks.iter().map(move |chunk| part(version, chunk.offset, &chunk.weights));
        let next =
            self.chunks.iter().filter(|_| !self.diverged).filter_map(move |chunk| {
                chunk.next.as_ref().map(|next| part(version + 1, chunk.offset, next))
            });
        previous.chain(current).chain(next)
    }

    /// The weights as they are kept, by ascending offset: binary32, little-endian.
    pub fn kept_parts(&self) -> Vec<(usize, Bytes)> {
        self.chunks.iter().map(|chunk| (chunk.offset, chunk.weights.kept.clone())).collect()
    }

    /// The same as they were at `version`, if that is the current one or the one before it and that is kept.
    pub fn parts_at(&self, version: u64) -> Option<Vec<(usize, Bytes)>> {
        if version == self.version {
            return Some(self.kept_parts());
        }
        if version + 1 != self.version {
            return None;
        }
        let previous = |chunk: &Chunk| Some((chunk.offset, chunk.previous.as_ref()?.kept.clone()));
        self.chunks.iter().map(previous).collect()
    }

    /// Whether a gradient can be computed here. Where other shards keep a part of the weights nobody can tell who is
    /// broken, so nobody looks at what comes; the update sees whether its sum is finite.
    fn can_confirm(&self, job: &Job) -> bool {
        self.kept.len() == job.model.parameters()
    }

    /// A worker sent values that are not finite. Either training diverges, then the same leaves are not finite
    /// here either and the step's end will say so; or the worker is broken and must not end the run.
    fn confirm_divergence(&mut self, job: &Job, node: Node) -> Result<(), Nonsense> {
        let step = self.version;
        if self.confirmed == Some(step) {
            // One such node is enough for the step to fail: no need to look at each chunk of each.
            return Ok(());
        }
        let sum = self.compute(job, node);
        if is_finite_tally(&sum.tally) && sum.gradient.iter().all(|value| value.is_finite()) {
            return Err(Nonsense::new(format!(
                "node {node} of step {step} holds values that are not finite; computed here, all are"
            )));
        }
        self.confirmed = Some(step);
        Ok(())
    }

    /// The sum of a node of the step in hand.
    fn compute(&mut self, job: &Job, node: Node) -> NodeSum {
        let mut weights = vec![0.0; job.model.parameters()];
        for (offset, bytes) in self.kept_parts() {
            let values = &mut weights[offset..offset + bytes.len() / 4];
            ps_proto::tensor::read(&bytes, values);
        }
        // As workers get them.
        let weights = job.model.precision().round(&weights);
        let samples: &dyn Samples = &job.data.train;
        let leaves = self.plan.step(self.version).tree().leaves_of(node);
        let own = self.own.get_or_insert_with(|| job.gradients());
        own.compute(&weights, samples, self.version, leaves).remove(0)
    }
}

impl Served {
    fn of(values: &[f32], pool: &Pool, precision: Precision) -> Self {
        let mut buffer = pool.take(values.len());
        for (element, value) in buffer.elements_mut().iter_mut().zip(values) {
            *element = value.to_le_bytes();
        }
        Served::new(buffer.share(), precision)
    }

    fn new(kept: Bytes, precision: Precision) -> Self {
        let sent = match precision {
            Precision::F32 => kept.clone(),
            Precision::Bf16 => {
                let elements: &[Element] = kept.as_chunks().0;
                let mut sent = vec![0; 2 * elements.len()];
                encode_bf16(elements, &mut sent);
                sent.into()
            }
        };
        Served { kept, sent }
    }
}

/// The hash of a node: of the hashes of its chunks, in order, and its tally.
fn digest(chunks: impl Iterator<Item = [u8; 32]>, tally: &Tally) -> Digest {
    let mut hash = Sha256::new();
    chunks.for_each(|chunk| hash.update(chunk));
    for sum in [tally.loss, tally.target, tally.target_squared, tally.residual_squared] {
        hash.update(sum.to_bits().to_le_bytes());
    }
    for count in [tally.samples, tally.correct].iter().chain(tally.classes.iter().flatten()) {
        hash.update(count.to_le_bytes());
    }
    Digest(hash.finalize().into())
}

/// Whether no element is NaN or infinite.
fn is_finite(bytes: &[u8]) -> bool {
    let (elements, _) = bytes.as_chunks::<4>();
    let is_finite = |element: &Element| f32::from_le_bytes(*element).is_finite();
    elements.chunks(4096).all(|run| run.iter().fold(true, |finite, element| finite & is_finite(element)))
}

fn is_finite_tally(tally: &Tally) -> bool {
    [tally.loss, tally.target, tally.target_squared, tally.residual_squared].iter().all(|sum| sum.is_finite())
}
