//! The connections to the other shards, the messages to them, and the sums that they have sent.

use bytes::Bytes;
use ps_coord::Dismissal;
use ps_core::control::Verdict;
use ps_core::optim::{PieceSums, UpdateNorms};
use ps_proto::convert;
use ps_proto::{Refusal, limits, v1};
use ps_shard::requests::AttachRequest;
use std::collections::BTreeMap;
use std::ops::Range;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Status;
use tracing::{info, warn};

/// Bound of the queue to one shard: a few chunks of the weights to resume from, and few other messages.
const WAITING_MESSAGES: usize = 16;

/// The other shards of a run, by index.
pub(crate) struct Shards {
    kept: Vec<Range<usize>>,
    links: BTreeMap<u32, Link>,
    /// The number by which users know the first of them.
    first: u32,
    /// The last step that each shard has measured, with the sums over its pieces.
    pub measured: BTreeMap<u32, (u64, Vec<PieceSums>)>,
    /// The last step that each shard has applied, with how far its weights moved.
    pub update_norms: BTreeMap<u32, (u64, Vec<UpdateNorms>)>,
    /// Tasks that send the shards the weights to resume from.
    tasks: JoinSet<()>,
}

/// The connection to a shard.
struct Link {
    address: String,
    sender: mpsc::Sender<Result<v1::ToShard, Status>>,
}

impl Shards {
    /// Creates the state for shards that keep these elements, in order. Users know the first of them by
    /// the number `first`.
    pub(crate) fn new(kept: Vec<Range<usize>>, first: u32) -> Self {
        Shards {
            kept,
            links: BTreeMap::new(),
            first,
            measured: BTreeMap::new(),
            update_norms: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// The number of shards that keep a part of the weights; these come first.
    pub(crate) fn keepers(&self) -> u32 {
        self.kept.iter().filter(|kept| !kept.is_empty()).count() as u32
    }

    /// The elements that a shard keeps.
    pub(crate) fn kept(&self, shard: u32) -> Range<usize> {
        self.kept.get(shard as usize).cloned().unwrap_or_default()
    }

    /// Admits the process that asked.
    pub(crate) fn admit(&mut self, shard: u32, request: AttachRequest) {
        let AttachRequest { greeting, reply } = request;
        let (sender, receiver) = mpsc::channel(WAITING_MESSAGES);
        let kept = self.kept(shard);
        let admitted = v1::ShardAdmitted { index: shard, start: kept.start as u64, end: kept.end as u64 };
        // A new queue has room for one message.
        let _ = sender.try_send(Ok(to_shard(v1::to_shard::Message::Admitted(admitted))));
        info!(shard = shard + self.first, address = greeting.address, elements = ?kept, "shard attached");
        self.links.insert(shard, Link { address: greeting.address, sender });
        // The process that asked may be gone.
        let _ = reply.send(Ok((shard, kept, receiver)));
    }

    /// Forgets the connection to a shard that can no longer be reached.
    pub(crate) fn remove(&mut self, shard: u32) {
        self.links.remove(&shard);
    }

    /// Sends all shards the weights and state after `version` steps to resume from; `count` is the number of
    /// steps behind the optimizer's state. Without `state`, they start from the initial weights.
    pub(crate) fn restore(&mut self, number: u64, version: u64, count: u64, state: Option<(&[f32], &[f32])>) {
        for (&shard, link) in &self.links {
            let Some(kept) = self.kept.get(shard as usize).filter(|kept| !kept.is_empty()) else { continue };
            let restore = v1::ShardRestore { version, number, count };
            let mut messages = vec![to_shard(v1::to_shard::Message::Restore(restore))];
            if let Some((weights, state)) = state {
                let total = weights.len();
                messages.extend(chunks(weights, kept).map(|(offset, bytes)| {
                    let chunk = convert::weights_chunk(version, offset, total, bytes);
                    to_shard(v1::to_shard::Message::Weights(chunk))
                }));
                for (vector, values) in state.chunks(total).enumerate() {
                    messages.extend(chunks(values, kept).map(|(offset, bytes)| {
                        let chunk = convert::optimizer_state_chunk(version, vector, offset, total, bytes);
                        to_shard(v1::to_shard::Message::State(chunk))
                    }));
                }
            }
            let sender = link.sender.clone();
            // In a task, because the queue is shorter than the list of chunks and the driver must not wait
            // for a shard's link.
            self.tasks.spawn(async move {
                for message in messages {
                    // If the shard is gone, the end of its stream reports it.
                    if sender.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
            });
        }
    }

    /// The addresses of all shards, once all are present and `is_ready`.
    pub(crate) fn addresses(&self, is_ready: impl Fn(u32) -> bool) -> Result<v1::ShardsReply, Refusal> {
        let ready = self.links.iter().filter(|&(&shard, _)| is_ready(shard));
        let place = |(&index, link): (&u32, &Link)| {
            let kept = self.kept(index);
            let address = link.address.clone();
            v1::ShardPlace { index, address, start: kept.start as u64, end: kept.end as u64 }
        };
        let shards: Vec<_> = ready.map(place).collect();
        match shards.len() == self.kept.len() {
            true => Ok(v1::ShardsReply { shards }),
            false => Err(Refusal::ShardsMissing { present: shards.len(), needed: self.kept.len() }),
        }
    }

    /// A shard's number and address, in words.
    pub(crate) fn name(&self, shard: u32) -> String {
        let address = self.links.get(&shard).map_or("an unknown address", |link| &link.address);
        format!("shard {} at {address}", shard + self.first)
    }

    /// The sums over the pieces of all shards, by the first element that each keeps.
    pub(crate) fn measured_at(&self, step: u64) -> impl Iterator<Item = (usize, Vec<PieceSums>)> + use<'_> {
        let of_step = move |(&shard, (measured, sums)): (&u32, &(u64, Vec<PieceSums>))| {
            (*measured == step).then(|| (self.kept(shard).start, sums.clone()))
        };
        self.measured.iter().filter_map(of_step)
    }

    /// How far the weights of all shards moved, by the first element that each keeps.
    pub(crate) fn update_norms_at(
        &self,
        step: u64,
    ) -> impl Iterator<Item = (usize, Vec<UpdateNorms>)> + use<'_> {
        let of_step = move |(&shard, (update_norms, sums)): (&u32, &(u64, Vec<UpdateNorms>))| {
            (*update_norms == step).then(|| (self.kept(shard).start, sums.clone()))
        };
        self.update_norms.iter().filter_map(of_step)
    }

    /// Asks all shards for their weights, and for the optimizer's state if `state`.
    pub(crate) fn fetch(&self, version: u64, state: bool) {
        self.broadcast(v1::to_shard::Message::WeightsWanted(v1::ShardWeightsWanted { version, state }));
    }

    /// Sends all shards the decision about a step.
    pub(crate) fn decide(&self, verdict: &Verdict) {
        self.broadcast(v1::to_shard::Message::Verdict(convert::verdict_to_wire(verdict)));
    }

    /// Sends all shards away.
    pub(crate) fn dismiss(&self, reason: &Dismissal) {
        self.broadcast(v1::to_shard::Message::Dismissed(convert::dismissal_to_wire(reason)));
    }

    /// Asks all shards which leaves of a step they lack.
    pub(crate) fn request_missing(&self, step: u64) {
        self.broadcast(v1::to_shard::Message::MissingWanted(v1::ShardMissingWanted { step }));
    }

    fn broadcast(&self, message: v1::to_shard::Message) {
        for (&shard, link) in &self.links {
            // Never waits: one shard that reads nothing must not stop the driver and thereby all workers.
            if link.sender.try_send(Ok(to_shard(message.clone()))).is_err() {
                let shard = shard + self.first;
                warn!(shard, address = link.address, "shard does not read what it is sent");
            }
        }
    }
}

/// The chunks of `values`, `[parameters]`, within `kept`, with their first elements.
fn chunks(values: &[f32], kept: &Range<usize>) -> impl Iterator<Item = (usize, Bytes)> + use<> {
    let kept = kept.clone();
    let size = limits::chunk_elements(values.len());
    let bytes = ps_proto::tensor::share(values[kept.clone()].to_vec());
    kept.clone().step_by(size).map(move |offset| {
        let at = 4 * (offset - kept.start)..4 * (kept.end.min(offset + size) - kept.start);
        (offset, bytes.slice(at))
    })
}

fn to_shard(message: v1::to_shard::Message) -> v1::ToShard {
    v1::ToShard { message: Some(message) }
}
