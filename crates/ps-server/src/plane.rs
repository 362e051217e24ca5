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
use ps_core::control::{Decided, NotFinite, Verdict};
use ps_core::optim::{Moved, Norms, PieceSums};
use ps_core::precision::encode_bf16;
use ps_core::trainer::Diverged;
use ps_core::{BatchPlan, ChunkFold, Control, Fold, Gradients, Node, NodeSum, Observed, Precision, Section};
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
    /// Decides about the steps, where this is the only server or their coordinator.
    control: Control,
    /// What was decided about the step in hand.
    verdict: Option<Verdict>,
    /// What is told of it.
    decided: Option<Decided>,
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
    /// What they came to, once the step was decided about.
    observed: Option<Observed>,
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
    /// Whether the state may be asked for in the middle of a step. It costs a copy of it in each.
    keeps_state: bool,
    /// Made when a worker first claims that a gradient is not finite.
    own: Option<Gradients>,
    /// A step of which such a claim was found to be true.
    confirmed: Option<u64>,
}

struct Chunk {
    /// Its first element in the flat vector.
    offset: usize,
    fold: ChunkFold,
    /// `[vectors, elements]`, see [`Control::vectors`].
    state: Vec<f32>,
    /// The state that belongs to the weights, once the next ones are made.
    state_before: Vec<f32>,
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

/// A chunk of a vector of the run's state.
#[derive(Clone, Debug)]
pub(crate) struct StatePart {
    /// Which vector.
    pub vector: usize,
    /// Its first element in it.
    pub offset: usize,
    /// Its elements: binary32, little-endian.
    pub bytes: Bytes,
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
        let (control, precision) = (job.control(), job.run.wire.weights);
        let vectors = control.vectors().len();
        let pool = Pool::default();
        let initial = job.model.initial(plan.seed);
        let size = chunk_elements(initial.len());
        let chunks = kept
            .clone()
            .step_by(size)
            .map(|offset| {
                let values = &initial[offset..kept.end.min(offset + size)];
                Chunk {
                    offset,
                    fold: ChunkFold::new(tree.training()),
                    state: vec![0.0; vectors * values.len()],
                    state_before: Vec::new(),
                    weights: Served::of(values, &pool, precision),
                    next: None,
                    previous: None,
                }
            })
            .collect();
        Plane {
            plan,
            control,
            verdict: None,
            decided: None,
            precision,
            kept,
            version: 0,
            chunks,
            made: 0,
            diverged: false,
            tallies: Fold::new(tree),
            observed: None,
            arrived: BTreeMap::new(),
            audits: false,
            pool,
            keeps_previous: false,
            has_previous: false,
            keeps_state: false,
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

    /// Keeps the state that belongs to the weights while chunks are already a step ahead.
    pub fn keep_state(&mut self) {
        self.keeps_state = true;
    }

    /// Goes on after `version` steps, with the weights and state of then, `[kept]` and `[vectors, kept]`, of the elements
    /// that are kept here. Whatever was gathered is forgotten.
    pub fn resume(&mut self, version: u64, weights: &[f32], state: &[f32]) {
        let tree = self.plan.step(version.min(self.plan.steps - 1)).tree();
        self.made = 0;
        self.diverged = false;
        (self.verdict, self.decided, self.observed) = (None, None, None);
        self.confirmed = None;
        self.has_previous = false;
        self.arrived.clear();
        for chunk in &mut self.chunks {
            let at = chunk.offset - self.kept.start;
            let at = at..at + chunk.weights.kept.len() / 4;
            chunk.weights = Served::of(&weights[at.clone()], &self.pool, self.precision);
            let vectors = state.chunks(weights.len().max(1)).map(|vector| &vector[at.clone()]);
            chunk.state = vectors.collect::<Vec<_>>().concat();
            chunk.state_before.clear();
            chunk.next = None;
            chunk.previous = None;
            chunk.fold = ChunkFold::new(tree.training());
        }
        self.tallies = Fold::new(tree);
        self.version = version;
    }

    /// The same from the whole weights and state, `[parameters]` and `[vectors, parameters]`.
    pub fn resume_from(&mut self, start: &Snapshot) {
        let vectors = start.state.chunks(start.weights.len()).map(|vector| &vector[self.kept.clone()]);
        let state = vectors.collect::<Vec<_>>().concat();
        self.resume(start.progress.step, &start.weights[self.kept.clone()], &state);
        self.control.resume(start.progress.control.clone());
    }

    /// Goes on from the beginning.
    pub fn begin(&mut self, job: &Job) {
        let initial = job.model.initial(self.plan.seed);
        let at_rest = vec![0.0; self.control.vectors().len() * self.kept.len()];
        self.resume(0, &initial[self.kept.clone()], &at_rest);
        self.control.resume(Default::default());
    }

    /// The elements that are kept here.
    pub fn kept(&self) -> Range<usize> {
        self.kept.clone()
    }

    /// The vectors of the state at `version`, for those that [`Plane::parts_at`] has: vector by vector, by first element.
    /// They must have been kept, unless no chunk is a step ahead.
    pub fn state_at(&self, version: u64) -> Vec<StatePart> {
        let is_before = version < self.version;
        let part = |chunk: &Chunk, vector: usize| {
            let before = is_before || chunk.next.is_some();
            let state = if before { &chunk.state_before } else { &chunk.state };
            let size = chunk.weights.kept.len() / 4;
            let values = state[vector * size..(vector + 1) * size].to_vec();
            StatePart { vector, offset: chunk.offset, bytes: ps_proto::tensor::share(values) }
        };
        let vectors = 0..self.control.vectors().len();
        vectors.flat_map(|vector| self.chunks.iter().map(move |chunk| part(chunk, vector))).collect()
    }

    /// What decides about the steps.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The same, for whoever is told what is decided, and for the end of the run.
    pub fn control_mut(&mut self) -> &mut Control {
        &mut self.control
    }

    /// Whether the step in hand waits to be decided about.
    pub fn is_held(&self) -> bool {
        self.verdict.is_none() && self.control.holds(self.version)
    }

    /// Whether all leaves of all chunks that are kept here are in.
    pub fn is_gathered(&self) -> bool {
        self.chunks.iter().all(|chunk| chunk.fold.is_complete())
    }

    /// Whether all tallies of the step are in, too.
    pub fn is_seen(&self) -> bool {
        self.tallies.is_complete()
    }

    /// The sums over the pieces that are kept here, of which all leaves are in.
    pub fn measure(&self) -> Vec<PieceSums> {
        let stride = self.control.plain(self.plan.step(self.version)).stride;
        let mut sums = Vec::new();
        for chunk in &self.chunks {
            let old = chunk.weights.kept.as_chunks().0;
            chunk.fold.measure(self.control.rules(), &stride, chunk.offset, old, &chunk.state, &mut sums);
        }
        sums
    }

    /// Decides about the step in hand, of which all is seen, by the sums over all pieces of all servers, in order.
    pub fn decide(&mut self, sums: &[PieceSums]) -> Option<&Verdict> {
        let step = self.plan.step(self.version);
        let observed = self.observed.get_or_insert_with(|| observed(&mut self.tallies));
        let norms: Norms = self.control.rules().norms(sums);
        match self.control.decide(step, observed, &norms) {
            Ok((verdict, decided)) => {
                self.decided = Some(decided);
                Some(self.verdict.insert(verdict))
            }
            Err(NotFinite) => {
                self.diverged = true;
                self.verdict = Some(self.control.plain(step));
                None
            }
        }
    }

    /// Takes what another has decided about the step in hand.
    pub fn follow(&mut self, verdict: Verdict) {
        self.verdict = Some(verdict);
    }

    /// How far the weights that are kept here go in the step in hand, of which all chunks are made; nothing if that is not
    /// looked at.
    pub fn measure_way(&self) -> Vec<Moved> {
        let mut sums = Vec::new();
        if !self.verdict.as_ref().is_some_and(|verdict| verdict.measures) {
            return sums;
        }
        let samples = self.plan.step(self.version).samples;
        for chunk in &self.chunks {
            let Some(next) = &chunk.next else { continue };
            let ways = [&chunk.weights, next].map(|served| served.kept.as_chunks().0);
            chunk.fold.measure_way(self.control.rules(), samples, chunk.offset, ways, &mut sums);
        }
        sums
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
        Ok(if self.audits || self.is_held() { None } else { self.advance(index) })
    }

    /// Makes all chunks of the step, whose leaves are all covered, as far as they are not made yet.
    pub fn release(&mut self) -> Vec<WeightsPart> {
        (0..self.chunks.len()).filter_map(|index| self.advance(index)).collect()
    }

    /// Forgets what was gathered of the step in hand, of which no chunk is made.
    pub fn start_over(&mut self) {
        let tree = self.plan.step(self.version).tree();
        self.chunks.iter_mut().for_each(|chunk| chunk.fold = ChunkFold::new(tree.training()));
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
        let is_evaluated = self.plan.step(step).tree().section_of(node) != Section::Training;
        let chunks = if is_evaluated { 0 } else { self.chunks.len() };
        let arrived = self.arrived.remove(&(worker, node)).unwrap_or_else(|| vec![None; chunks]);
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
        if self.keeps_state {
            chunk.state_before.clone_from(&chunk.state);
        }
        let verdict = self.verdict.get_or_insert_with(|| self.control.plain(step));
        let finite = chunk.fold.update(&self.control, verdict, chunk.offset, old, &mut chunk.state, &mut new);
        let served = Served::new(new.share(), self.precision);
        chunk.next = Some(served.clone());
        self.made += 1;
        // A weight that overflows shows in the next step's loss; after the last step nobody would look.
        let is_last = self.version + 1 >= self.plan.steps
            || self.decided.as_ref().is_some_and(|decided| decided.is_last);
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
    /// tallies, so its report counts nothing. `moved` is [`Plane::measure_way`] of all servers, in order.
    ///
    /// # Errors
    /// The loss or an element is not finite; the weights stay as they are.
    pub fn commit(&mut self, moved: &[Moved]) -> Result<StepReport, Diverged> {
        let observed = self.observed.take().unwrap_or_else(|| observed(&mut self.tallies));
        let step = self.plan.step(self.version);
        let verdict = self.verdict.take().unwrap_or_else(|| self.control.plain(step));
        let rate = verdict.stride.rate;
        let decided = self.decided.take();
        if self.diverged || decided.is_none() && !observed.train.loss.is_finite() {
            return Err(Diverged { step: step.step, rate, loss: observed.train.mean_loss() });
        }
        if verdict.measures && !moved.is_empty() {
            self.control.measured(moved);
        }
        // Where another has decided, only the count is known here.
        self.control.follow(verdict.count);
        let decided = decided.unwrap_or_else(|| self.control.made_plain(&verdict, &observed));
        self.version += 1;
        let tree = self.plan.step(self.version.min(self.plan.steps - 1)).tree();
        let keeps_previous = self.keeps_previous;
        for chunk in &mut self.chunks {
            let next = chunk.next.take().expect("all chunks are made before a step is committed");
            chunk.previous = Some(std::mem::replace(&mut chunk.weights, next)).filter(|_| keeps_previous);
            chunk.fold = ChunkFold::new(tree.training());
        }
        self.has_previous = keeps_previous;
        self.made = 0;
        self.tallies = Fold::new(tree);
        self.arrived.clear();
        Ok(StepReport::new(step, rate, observed, decided))
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
        let tree = self.plan.step(self.version).tree();
        let leaves = tree.leaves_of(node);
        let own = self.own.get_or_insert_with(|| job.gradients());
        if tree.section_of(node) == Section::Training {
            return own.compute(&weights, samples, self.version, leaves).remove(0);
        }
        let (node, tally) = own.evaluate_leaves(&weights, job.parts(), self.version, leaves).remove(0);
        NodeSum { node, gradient: Vec::new(), tally }
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

/// What the tallies of a step came to.
fn observed(tallies: &mut Fold) -> Observed {
    let train = tallies.take_root().map_or_else(Tally::default, |root| root.tally);
    let [last_batch, validation] =
        [Section::LastBatch, Section::Validation].map(|section| tallies.take_tally(section));
    Observed { train, last_batch, validation }
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
