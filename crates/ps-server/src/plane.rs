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
use ps_core::chunk::Pool;
use ps_core::control::{Decided, NotFinite, Verdict};
use ps_core::optim::{Moved, Norms, PieceSums};
use ps_core::precision::Element;
use ps_core::precision::encode_bf16;
use ps_core::trainer::Diverged;
use ps_core::{ChunkFold, Control, Fold, Gradients, NodeSum, Observed, Precision};
use ps_core::{Samples, StepReport, Tally};
use ps_plan::{BatchPlan, Node, Section};
use ps_proto::Nonsense;
use ps_proto::convert::{NodeDone, NodeMetrics, NodePart};
use ps_proto::limits::chunk_elements;
use ps_run::Job;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Nodes that a worker may have begun and not ended: those that cover its leaves, at most two for each level of a tree of
/// 2^32 leaves. What each takes here is bounded by the model, so this bounds what one worker can have a server hold.
const MAX_OPEN_NODES: usize = 64;

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
    /// What each worker has sent of a node of this step that it has not ended.
    pushed: BTreeMap<(WorkerId, Node), Pushed>,
    /// Workers of whom something is part of this step's sums.
    counted: BTreeSet<WorkerId>,
    /// Likewise of the last step, while its weights before are kept: it may not be applied everywhere yet.
    counted_before: BTreeSet<WorkerId>,
    /// Whether a node's chunks enter the sums only when it ends, and weights are made only when the whole step is
    /// found good. Nodes are hashed then.
    audits: bool,
    pool: Pool,
    /// Whether the weights before the last step are kept until the next one begins: a shard may be a step ahead of the
    /// others, and of a run that is stopped.
    keeps_previous: bool,
    /// Whether they are there.
    has_previous: bool,
    /// Made when a worker first claims that a gradient is not finite.
    own: Option<Gradients>,
    /// A step of which such a claim was found to be true.
    confirmed: Option<u64>,
}

/// A node that a worker is sending: no chunk of it is taken before its metric sums.
struct Pushed {
    tally: Tally,
    /// Of each chunk whether it has come; where nodes are audited, its bytes and their hash.
    chunks: Vec<Option<Arrived>>,
}

/// A chunk of a node.
struct Arrived {
    hash: [u8; 32],
    /// What waits for the node's end to enter the sums; nothing where it has entered them.
    bytes: Bytes,
}

struct Chunk {
    /// Its first element in the flat vector.
    offset: usize,
    fold: ChunkFold,
    /// `[vectors, elements]`, see [`Control::vectors`].
    state: Vec<f32>,
    /// The state that belongs to the weights, once the next ones are made: the step may have to start over.
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
            pushed: BTreeMap::new(),
            counted: BTreeSet::new(),
            counted_before: BTreeSet::new(),
            audits: false,
            pool,
            keeps_previous: false,
            has_previous: false,
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

    /// Goes on after `version` steps, with the weights and state of then, `[kept]` and `[vectors, kept]`, of the elements
    /// that are kept here. Whatever was gathered is forgotten.
    pub fn resume(&mut self, version: u64, weights: &[f32], state: &[f32]) {
        let tree = self.plan.step(version.min(self.plan.steps - 1)).tree();
        self.made = 0;
        self.diverged = false;
        (self.verdict, self.decided, self.observed) = (None, None, None);
        self.confirmed = None;
        self.has_previous = false;
        self.pushed.clear();
        self.counted.clear();
        self.counted_before.clear();
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

    /// Takes the metric sums of a node that exists: from now on its chunks are taken.
    pub fn take_metrics(
        &mut self,
        job: &Job,
        worker: WorkerId,
        metrics: NodeMetrics,
    ) -> Result<(), Nonsense> {
        let NodeMetrics { step, node, tally } = metrics;
        self.check_open(step, node)?;
        if step < self.version {
            return Ok(());
        }
        if self.can_confirm(job) && !is_finite_tally(&tally) {
            self.confirm_divergence(job, node)?;
        }
        if self.kept.len() < job.model.parameters() {
            // Its chunks may be part of the sums of other shards.
            self.counted.insert(worker);
        }
        let open = self.pushed.keys().filter(|&&(sender, _)| sender == worker).count();
        if open >= MAX_OPEN_NODES {
            return Err(Nonsense::new(format!("{open} nodes of step {step} are begun and not ended")));
        }
        let is_evaluated = self.plan.step(step).tree().section_of(node) != Section::Training;
        let chunks = if is_evaluated { 0 } else { self.chunks.len() };
        let chunks = (0..chunks).map(|_| None).collect();
        self.pushed.insert((worker, node), Pushed { tally, chunks });
        Ok(())
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
        if !self.pushed.contains_key(&(worker, node)) {
            return Err(Nonsense::new(format!(
                "a chunk of node {node} of step {step}, whose metric sums have not come"
            )));
        }
        if std::mem::take(&mut self.has_previous) {
            self.chunks.iter_mut().for_each(|chunk| chunk.previous = None);
            self.counted_before.clear();
        }
        let index = (offset - self.kept.start) / chunk_elements(job.model.parameters());
        let is_covered = self.chunks[index].fold.covers(node);
        if !is_covered && self.can_confirm(job) && !is_finite(&bytes) {
            self.confirm_divergence(job, node)?;
        }
        let arrived = match self.audits {
            true => Arrived { hash: Sha256::digest(&bytes).into(), bytes },
            false => {
                if !is_covered {
                    self.chunks[index].fold.insert(node, bytes, &self.pool);
                    self.counted.insert(worker);
                }
                Arrived { hash: Default::default(), bytes: Bytes::new() }
            }
        };
        if let Some(pushed) = self.pushed.get_mut(&(worker, node)) {
            pushed.chunks[index] = Some(arrived);
        }
        Ok(if self.audits || self.is_held() { None } else { self.advance(index) })
    }

    /// Whether something that `worker` has sent is part of the sums of the step in hand.
    pub fn counts_on(&self, worker: WorkerId) -> bool {
        self.counted.contains(&worker)
    }

    /// The step of which something that `worker` has sent is part: the one in hand, or the last one, while that may not be
    /// applied everywhere.
    pub fn counted_at(&self, worker: WorkerId) -> Option<u64> {
        let is_before = self.counted_before.contains(&worker);
        let last = is_before.then(|| self.version.saturating_sub(1));
        last.or(self.counts_on(worker).then_some(self.version))
    }

    /// Makes all chunks of the step, whose leaves are all covered, as far as they are not made yet.
    pub fn release(&mut self) -> Vec<WeightsPart> {
        (0..self.chunks.len()).filter_map(|index| self.advance(index)).collect()
    }

    /// Forgets what was gathered of the step in hand, and takes back the chunks that were made of it.
    pub fn start_over(&mut self) {
        let tree = self.plan.step(self.version).tree();
        for chunk in &mut self.chunks {
            chunk.fold = ChunkFold::new(tree.training());
            if chunk.next.take().is_some() {
                std::mem::swap(&mut chunk.state, &mut chunk.state_before);
            }
        }
        self.made = 0;
        self.diverged = false;
        (self.verdict, self.decided, self.observed) = (None, None, None);
        self.tallies = Fold::new(tree);
        self.pushed.clear();
        self.counted.clear();
    }

    /// What a node of the step in hand is, computed here.
    pub fn judge(&mut self, job: &Job, node: Node) -> Digest {
        let sum = self.compute(job, node);
        let size = 4 * chunk_elements(sum.gradient.len());
        let bytes = ps_proto::tensor::share(sum.gradient);
        digest(bytes.chunks(size).map(|chunk| Sha256::digest(chunk).into()), &sum.tally)
    }

    /// Takes the end of a node whose chunks must all have come before. Gives its hash, where nodes are audited.
    pub fn take_end(&mut self, worker: WorkerId, done: NodeDone) -> Result<Option<Digest>, Nonsense> {
        let NodeDone { step, node } = done;
        self.check_open(step, node)?;
        if step < self.version {
            return Ok(None);
        }
        let Some(Pushed { tally, chunks }) = self.pushed.remove(&(worker, node)) else {
            return Err(Nonsense::new(format!(
                "node {node} of step {step} ends, and its metric sums have not come"
            )));
        };
        let missing = chunks.iter().filter(|chunk| chunk.is_none()).count();
        if missing > 0 {
            return Err(Nonsense::new(format!(
                "node {node} of step {step} ends, and {missing} chunks are missing"
            )));
        }
        let digest = self.audits.then(|| digest(chunks.iter().flatten().map(|chunk| chunk.hash), &tally));
        if self.audits {
            for (chunk, arrived) in self.chunks.iter_mut().zip(chunks.into_iter().flatten()) {
                chunk.fold.insert(node, arrived.bytes, &self.pool);
            }
        }
        self.counted.insert(worker);
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
        chunk.state_before.clone_from(&chunk.state);
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

    /// The worker is gone; what is known of its nodes goes with it. Where nodes are not audited, chunks that have come stay
    /// in the sums.
    pub fn forget(&mut self, worker: WorkerId) {
        self.pushed.retain(|&(sender, _), _| sender != worker);
    }

    /// Leaves of the open step's batch of which some chunk is missing, ascending.
    pub fn missing(&self) -> Vec<Range<u32>> {
        let leaves = self.plan.step(self.version.min(self.plan.steps - 1)).tree().leaves();
        let mut is_missing = vec![false; leaves as usize];
        for chunk in self.chunks.iter().filter(|chunk| chunk.next.is_none()) {
            for range in chunk.fold.missing() {
                is_missing[range.start as usize..range.end as usize].fill(true);
            }
        }
        let mut ranges: Vec<Range<u32>> = Vec::new();
        for leaf in (0..leaves).filter(|&leaf| is_missing[leaf as usize]) {
            match ranges.last_mut() {
                Some(last) if last.end == leaf => last.end += 1,
                _ => ranges.push(leaf..leaf + 1),
            }
        }
        ranges
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
        self.pushed.clear();
        let counted = std::mem::take(&mut self.counted);
        self.counted_before = if keeps_previous { counted } else { BTreeSet::new() };
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
