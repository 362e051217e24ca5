//! Data from workers: metric sums and gradient chunks of nodes.

use crate::digest;
use crate::message::{GradientChunk, NodeDone, NodeMetrics, Recompute, Rejected, WeightsChunk};
use crate::plane::{IncomingNode, Plane, ReceivedChunk};
use bytes::Bytes;
use ps_coord::{Digest, WorkerId};
use ps_core::chunk::{read, share};
use ps_core::precision::Element;
use ps_core::{MetricSums, NodeSum};
use ps_plan::mutation::Mutation;
use ps_plan::{Node, Section};
use std::ops::Range;

/// Maximum number of nodes that a worker may have begun but not ended: those that cover its leaves, at most
/// two per level of a tree of 2^32 leaves. The memory for each is bounded by the model, so this bounds the
/// memory that one worker can occupy on a server.
const MAX_OPEN_NODES: usize = 64;

impl Plane {
    /// Takes the metric sums of an existing node. From now on chunks of the node are accepted.
    ///
    /// # Errors
    /// The message is invalid; the sender's connection should be closed.
    pub fn take_metrics(
        &mut self,
        worker: WorkerId,
        metrics: NodeMetrics,
        recompute: &mut dyn Recompute,
    ) -> Result<(), Rejected> {
        let NodeMetrics { step, node, metric_sums } = metrics;
        self.check_open(step, node)?;
        // A copy that arrives after the step is made is normal: its sender may not know that yet.
        if self.is_over(step, node) {
            return Ok(());
        }
        if self.can_confirm() && !are_finite(&metric_sums) {
            self.confirm_divergence(node, recompute)?;
        }
        if self.kept.len() < self.model.parameters() {
            // Its chunks may be part of the sums of other shards.
            self.count(worker);
        }
        let of_worker = (worker, Node::leaf(0))..;
        let open = self.incoming.range(of_worker).take_while(|((sender, _), _)| *sender == worker).count();
        if open >= MAX_OPEN_NODES {
            return Err(Rejected::TooManyNodes { step, open });
        }
        let is_evaluated = self.tree_of(self.version).section_of(node) != Section::Training;
        let chunks = if is_evaluated { 0 } else { self.chunks.len() };
        let chunks = (0..chunks).map(|_| None).collect();
        self.incoming.insert((worker, node), IncomingNode { metric_sums, chunks });
        Ok(())
    }

    /// Takes a chunk of an existing step and node. Returns the chunk of new weights that it
    /// completes, if any.
    ///
    /// # Errors
    /// The message is invalid; the sender's connection should be closed.
    pub fn take(
        &mut self,
        worker: WorkerId,
        chunk: GradientChunk,
        recompute: &mut dyn Recompute,
    ) -> Result<Option<WeightsChunk>, Rejected> {
        let GradientChunk { step, node, offset, bytes } = chunk;
        self.check_open(step, node)?;
        if !self.kept.contains(&offset) {
            return Err(Rejected::NotKept { node, offset, kept: self.kept.clone() });
        }
        if self.is_over(step, node) {
            return Ok(None);
        }
        if !self.incoming.contains_key(&(worker, node)) {
            return Err(Rejected::ChunkBeforeMetrics { step, node });
        }
        // A chunk of the open step proves that every server has applied the last one. A late chunk of the
        // last step proves nothing, so `is_over` is checked first.
        if std::mem::take(&mut self.has_previous) {
            self.chunks.iter_mut().for_each(|chunk| chunk.previous = None);
            self.counted_before.clear();
        }
        let index = self.index_of(offset);
        let is_covered = self.chunks[index].fold.covers(node);
        // A covered chunk does not enter the sums, so its values do not matter.
        if !is_covered && self.can_confirm() && !is_finite(&bytes) {
            self.confirm_divergence(node, recompute)?;
        }
        // With audits, chunks wait for the end of their node. Otherwise, a worker could leave a wrong chunk
        // in the sums by never ending the node.
        let arrived = if self.audits {
            if self.mutation.is(Mutation::IncompleteNodeCounts) {
                self.chunks[index].fold.insert(node, bytes.clone(), &self.pool);
            }
            ReceivedChunk { hash: digest::of_chunk(&bytes), bytes }
        } else {
            if !is_covered {
                self.chunks[index].fold.insert(node, bytes, &self.pool);
                self.count(worker);
            }
            ReceivedChunk { hash: Default::default(), bytes: Bytes::new() }
        };
        if let Some(incoming) = self.incoming.get_mut(&(worker, node))
            && let Some(place) = incoming.chunks.get_mut(index)
        {
            *place = Some(arrived);
        }
        Ok(if self.audits || self.awaits_decision() { None } else { self.advance(index) })
    }

    /// Takes the end of a node, all of whose chunks must have arrived. Returns the node's hash if
    /// nodes are audited.
    ///
    /// # Errors
    /// The message is invalid; the sender's connection should be closed.
    pub fn take_end(&mut self, worker: WorkerId, done: NodeDone) -> Result<Option<Digest>, Rejected> {
        let NodeDone { step, node } = done;
        self.check_open(step, node)?;
        if self.is_over(step, node) {
            return Ok(None);
        }
        let Some(IncomingNode { metric_sums, chunks }) = self.incoming.remove(&(worker, node)) else {
            return Err(Rejected::DoneBeforeMetrics { step, node });
        };
        let missing = chunks.iter().filter(|chunk| chunk.is_none()).count();
        if missing > 0 {
            return Err(Rejected::Incomplete { step, node, missing });
        }
        let hashes = chunks.iter().flatten().map(|chunk| chunk.hash);
        let digest = self.audits.then(|| digest::of_node(hashes, &metric_sums, self.mutation));
        if self.audits {
            for (chunk, arrived) in self.chunks.iter_mut().zip(chunks.into_iter().flatten()) {
                chunk.fold.insert(node, arrived.bytes, &self.pool);
            }
        }
        self.count(worker);
        self.metrics.insert(NodeSum { node, gradient: Vec::new(), metric_sums });
        Ok(digest)
    }

    /// Discards the data of nodes that a departed worker has not ended. Without audits, chunks that have
    /// arrived stay in the sums.
    pub fn forget(&mut self, worker: WorkerId) {
        // Chunks in the sums may stay, because another worker's would have the same bits.
        self.incoming.retain(|&(sender, _), _| sender != worker);
    }

    /// Whether the leaves of `node` are already covered in the chunk at `offset`, which must be kept here.
    pub fn covers(&self, offset: usize, node: Node) -> bool {
        self.chunks[self.index_of(offset)].fold.covers(node)
    }

    /// Whether the sums of the open step contain data from `worker`.
    pub fn counts_on(&self, worker: WorkerId) -> bool {
        self.counted.contains(&worker)
    }

    /// The step whose sums contain data from `worker`: the open one, or the last one while some server may
    /// not have applied it.
    pub fn counted_at(&self, worker: WorkerId) -> Option<u64> {
        let is_before = self.counted_before.contains(&worker);
        let last = is_before.then(|| self.version.saturating_sub(1));
        last.or(self.counts_on(worker).then_some(self.version))
    }

    /// Whether all leaves of all chunks that are kept here have arrived.
    pub fn is_gathered(&self) -> bool {
        self.chunks.iter().all(|chunk| chunk.fold.is_complete())
    }

    /// Whether all metric sums of the step have arrived.
    pub fn has_all_metrics(&self) -> bool {
        self.metrics.is_complete()
    }

    /// Leaves of all sections of the open step whose metric sums are missing, ascending.
    pub fn missing_metrics(&self) -> Vec<Range<u32>> {
        self.metrics.coverage().missing()
    }

    /// Leaves of the open step's batch that lack at least one chunk, ascending.
    pub fn missing(&self) -> Vec<Range<u32>> {
        let leaves = self.tree_of(self.version).leaves();
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

    /// The hash of a node of the open step, computed here. Requires that all weights are kept here.
    pub fn recompute_digest(&self, node: Node, recompute: &mut dyn Recompute) -> Digest {
        let NodeSum { gradient, metric_sums, .. } = self.recompute(node, recompute);
        let bytes = share(gradient);
        // A node of a section that is only evaluated has no gradient.
        let ranges =
            self.chunks.iter().map(|chunk| chunk.range()).filter(|range| range.end <= bytes.len() / 4);
        let hashes = ranges.map(|range| digest::of_chunk(&bytes[4 * range.start..4 * range.end]));
        digest::of_node(hashes, &metric_sums, self.mutation)
    }

    /// Records that this step's sums contain data from `worker`.
    fn count(&mut self, worker: WorkerId) {
        if !self.mutation.is(Mutation::ContributorNotRecorded) {
            self.counted.insert(worker);
        }
    }

    /// The chunk that contains an element kept here.
    fn index_of(&self, element: usize) -> usize {
        self.chunks.partition_point(|chunk| chunk.offset <= element) - 1
    }

    /// Whether the step is committed, so that further sums of it are ignored.
    fn is_over(&self, step: u64, node: Node) -> bool {
        let counts =
            || self.mutation.is(Mutation::StaleSumCounts) && self.tree_of(self.version).training().has(node);
        step < self.version && !counts()
    }

    fn check_open(&self, step: u64, node: Node) -> Result<(), Rejected> {
        let version = self.version;
        if step > version { Err(Rejected::NotOpen { step, node, version }) } else { Ok(()) }
    }

    /// Whether a gradient can be recomputed here. If other shards keep a part of the weights, no server can
    /// tell a diverging run from a broken worker, so values are not checked on arrival; the update finds out
    /// whether their sum is finite.
    fn can_confirm(&self) -> bool {
        self.kept.len() == self.model.parameters()
    }

    /// A worker sent values that are not finite. If training diverges, the same leaves are not finite here
    /// either, and the end of the step reports it. Otherwise the worker is broken and must not end the run.
    fn confirm_divergence(&mut self, node: Node, recompute: &mut dyn Recompute) -> Result<(), Rejected> {
        let step = self.version;
        if self.confirmed == Some(step) {
            // One such node is enough to make the step fail, so further nodes need not be recomputed.
            return Ok(());
        }
        let sum = self.recompute(node, recompute);
        if are_finite(&sum.metric_sums) && sum.gradient.iter().all(|value| value.is_finite()) {
            return Err(Rejected::NotFinite { step, node });
        }
        self.confirmed = Some(step);
        Ok(())
    }

    /// Recomputes the sum of a node of the open step.
    fn recompute(&self, node: Node, recompute: &mut dyn Recompute) -> NodeSum {
        let mut weights = vec![0.0; self.model.parameters()];
        for chunk in &self.chunks {
            read(chunk.weights.elements(), &mut weights[chunk.range()]);
        }
        recompute.node_sum(&self.model.precision().round(&weights), self.version, node)
    }
}

/// Whether no element is NaN or infinite.
fn is_finite(bytes: &[u8]) -> bool {
    let (elements, _) = bytes.as_chunks::<4>();
    let is_finite = |element: &Element| f32::from_le_bytes(*element).is_finite();
    elements.chunks(4096).all(|run| run.iter().fold(true, |finite, element| finite & is_finite(element)))
}

fn are_finite(metric_sums: &MetricSums) -> bool {
    metric_sums.floats().iter().all(|sum| sum.is_finite())
}
