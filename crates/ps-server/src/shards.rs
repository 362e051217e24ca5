//! The coordinator's view of the other shards: who keeps what, where they are, what they go on from, and fetching what
//! they keep.

use bytes::Bytes;
use ps_coord::Dismissal;
use ps_core::control::Verdict;
use ps_proto::convert::{self, Nonsense, ShardGreeting, ShardMessage, StateChunk};
use ps_proto::{Refusal, limits, v1};
use std::ops::Range;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tonic::Status;
use tracing::{info, warn};

/// Messages that wait for one shard: a few chunks of what it goes on from, and hardly any others.
const WAITING_MESSAGES: usize = 16;

/// A shard asks to take part; the answer is its index, what it keeps, and what is sent to it.
pub(crate) struct AttachRequest {
    pub greeting: ShardGreeting,
    pub reply: oneshot::Sender<Result<Admission, Refusal>>,
}

type Admission = (u32, Range<usize>, mpsc::Receiver<Result<v1::ToShard, Status>>);

/// What came of a shard.
pub(crate) enum ShardSaid {
    Message(ShardMessage),
    /// Its stream has ended; why.
    Gone(String),
}

/// The other shards of a run.
pub(crate) struct Shards {
    parameters: usize,
    seats: Vec<Seat>,
    /// What the first of them is called.
    first: u32,
    /// Counts the times that all were given what the run goes on from.
    order: u64,
    /// What gives it to them.
    tasks: JoinSet<()>,
}

struct Seat {
    kept: Range<usize>,
    shard: Option<Shard>,
    /// Whether it holds what the run goes on from.
    is_restored: bool,
}

struct Shard {
    address: String,
    sender: mpsc::Sender<Result<v1::ToShard, Status>>,
}

impl Shards {
    /// For shards that keep these elements, in order, of which the first is called `first`.
    pub fn new(parameters: usize, kept: Vec<Range<usize>>, first: u32) -> Self {
        let seats = kept.into_iter().map(|kept| Seat { kept, shard: None, is_restored: false }).collect();
        Shards { parameters, seats, first, order: 0, tasks: JoinSet::new() }
    }

    /// How many of them keep anything: these come first.
    pub fn keepers(&self) -> u32 {
        self.seats.iter().filter(|seat| !seat.kept.is_empty()).count() as u32
    }

    /// Seats a shard where it asks to be, or where there is room.
    pub fn attach(&mut self, request: AttachRequest) {
        let AttachRequest { greeting, reply } = request;
        // Whoever asked may be gone.
        let _ = reply.send(self.seat(greeting));
    }

    /// A shard is gone; whether it kept anything.
    pub fn lose(&mut self, index: u32) -> bool {
        let Some(seat) = self.seats.get_mut(index as usize) else { return false };
        seat.shard = None;
        seat.is_restored = false;
        !seat.kept.is_empty()
    }

    /// Whether all are there.
    pub fn are_there(&self) -> bool {
        self.seats.iter().all(|seat| seat.shard.is_some())
    }

    /// Whether all are there and those that keep anything are to be given what the run goes on from.
    pub fn is_to_be_restored(&self) -> bool {
        self.are_there() && self.seats.iter().any(|seat| !seat.kept.is_empty() && !seat.is_restored)
    }

    /// Gives all what the run goes on from: the whole weights and state after `version` steps, of which the optimizer's state
    /// has seen `count`.
    pub fn restore(&mut self, version: u64, count: u64, state: Option<(&[f32], &[f32])>) {
        self.order += 1;
        for seat in &mut self.seats {
            seat.is_restored = false;
            let Some(shard) = seat.shard.as_ref().filter(|_| !seat.kept.is_empty()) else { continue };
            let restore = v1::ShardRestore { version, number: self.order, count };
            let mut messages = vec![to_shard(v1::to_shard::Message::Restore(restore))];
            if let Some((weights, state)) = state {
                let total = weights.len();
                messages.extend(chunks(weights, &seat.kept).map(|(offset, bytes)| {
                    let chunk = convert::weights_chunk(version, offset, total, bytes);
                    to_shard(v1::to_shard::Message::Weights(chunk))
                }));
                for (vector, values) in state.chunks(total).enumerate() {
                    messages.extend(chunks(values, &seat.kept).map(|(offset, bytes)| {
                        let chunk = convert::state_part(version, vector, offset, total, bytes);
                        to_shard(v1::to_shard::Message::State(chunk))
                    }));
                }
            }
            let sender = shard.sender.clone();
            self.tasks.spawn(async move {
                for message in messages {
                    // If the shard is gone, its stream's end says so.
                    if sender.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
            });
        }
    }

    /// A shard holds what it was given by this order; whether now all do.
    pub fn note_restored(&mut self, index: u32, order: u64) -> bool {
        match self.seats.get_mut(index as usize) {
            Some(seat) if order == self.order && !seat.is_restored => seat.is_restored = seat.shard.is_some(),
            _ => return false,
        }
        self.are_restored()
    }

    /// Whether all that keep anything hold what the run goes on from, or what was made of it.
    pub fn are_restored(&self) -> bool {
        self.seats.iter().all(|seat| seat.is_restored || seat.kept.is_empty())
    }

    fn seat(&mut self, greeting: ShardGreeting) -> Result<Admission, Refusal> {
        let count = self.seats.len();
        let index = match greeting.index {
            Some(index) if (index as usize) < count => index as usize,
            Some(index) => {
                let what = format!("shard {index} of a run with {count} other shards");
                return Err(Nonsense::new(what).into());
            }
            None => self.seats.iter().position(|seat| seat.shard.is_none()).ok_or(Refusal::ShardTaken)?,
        };
        let seat = &mut self.seats[index];
        if seat.shard.is_some() {
            return Err(Refusal::ShardTaken);
        }
        let (sender, receiver) = mpsc::channel(WAITING_MESSAGES);
        let admitted = v1::ShardAdmitted {
            index: index as u32,
            start: seat.kept.start as u64,
            end: seat.kept.end as u64,
        };
        // A new queue has room for one message.
        let _ = sender.try_send(Ok(to_shard(v1::to_shard::Message::Admitted(admitted))));
        let shard = index as u32 + self.first;
        info!(shard, address = greeting.address, elements = ?seat.kept, "shard attached");
        seat.shard = Some(Shard { address: greeting.address, sender });
        Ok((index as u32, seat.kept.clone(), receiver))
    }

    /// Where all are, once all are there and hold their weights.
    pub fn places(&self) -> Result<v1::ShardsReply, Refusal> {
        let place = |(index, seat): (usize, &Seat)| {
            let shard = seat.shard.as_ref().filter(|_| seat.is_restored || seat.kept.is_empty())?;
            Some(v1::ShardPlace {
                index: index as u32,
                address: shard.address.clone(),
                start: seat.kept.start as u64,
                end: seat.kept.end as u64,
            })
        };
        let shards: Vec<_> = self.seats.iter().enumerate().filter_map(place).collect();
        match shards.len() == self.seats.len() {
            true => Ok(v1::ShardsReply { shards }),
            false => Err(Refusal::ShardsMissing { present: shards.len(), needed: self.seats.len() }),
        }
    }

    /// A shard's number among all servers.
    pub fn number(&self, index: u32) -> u32 {
        index + self.first
    }

    /// Which shard this is, in words.
    pub fn name(&self, index: u32) -> String {
        let address = self.seats.get(index as usize).and_then(|seat| seat.shard.as_ref());
        format!(
            "shard {} at {}",
            index + self.first,
            address.map_or("an unknown address", |shard| &shard.address)
        )
    }

    /// Asks all for their weights of `version`, and so many vectors of state.
    pub fn want_weights(&self, version: u64, vectors: usize) -> Fetch {
        let wanted = v1::ShardWeightsWanted { version, state: vectors > 0 };
        self.tell(v1::to_shard::Message::WeightsWanted(wanted));
        let (mut missing, mut first) = (Vec::new(), Vec::new());
        for seat in self.seats.iter().filter(|seat| !seat.kept.is_empty()) {
            first.push(seat.kept.start);
            missing.extend(seat.kept.clone().step_by(limits::chunk_elements(self.parameters)));
        }
        Fetch {
            version,
            first,
            // The weights, and then each vector of state.
            missing: vec![missing; 1 + vectors],
            parts: vec![Vec::new(); 1 + vectors],
        }
    }

    /// Tells all what is decided about a step.
    pub fn decide(&self, verdict: &Verdict) {
        self.tell(v1::to_shard::Message::Verdict(convert::verdict_to_wire(verdict)));
    }

    /// What each shard that keeps anything keeps, with its index.
    pub fn kept(&self) -> impl Iterator<Item = (u32, Range<usize>)> {
        let kept = (0..).zip(&self.seats).map(|(index, seat)| (index, seat.kept.clone()));
        kept.filter(|(_, kept)| !kept.is_empty())
    }

    /// Sends all away.
    pub fn dismiss(&self, reason: &Dismissal) {
        self.tell(v1::to_shard::Message::Dismissed(convert::dismissal_to_wire(reason)));
    }

    /// Asks all which leaves of a step they lack.
    pub fn ask_missing(&self, step: u64) {
        self.tell(v1::to_shard::Message::MissingWanted(v1::ShardMissingWanted { step }));
    }

    fn tell(&self, message: v1::to_shard::Message) {
        for (index, seat) in self.seats.iter().enumerate() {
            if let Some(shard) = &seat.shard
                && shard.sender.try_send(Ok(to_shard(message.clone()))).is_err()
            {
                let number = index as u32 + self.first;
                warn!(shard = number, address = shard.address, "shard does not read what it is sent");
            }
        }
    }
}

/// The weights, and perhaps the state, of all shards on their way here.
pub(crate) struct Fetch {
    pub version: u64,
    /// What each shard sends first: from then on it has a copy, and may change what it keeps.
    first: Vec<usize>,
    /// First elements of chunks of the weights and of each vector of state.
    missing: Vec<Vec<usize>>,
    parts: Vec<Vec<(usize, Bytes)>>,
}

impl Fetch {
    pub fn take_weights(&mut self, chunk: StateChunk) {
        self.take(0, chunk);
    }

    pub fn take_state(&mut self, vector: usize, chunk: StateChunk) {
        self.take(1 + vector, chunk);
    }

    fn take(&mut self, which: usize, chunk: StateChunk) {
        let StateChunk { version, offset, bytes } = chunk;
        if version == self.version
            && let Some(all) = self.missing.get_mut(which)
            && let Some(place) = all.iter().position(|&missing| missing == offset)
        {
            all.swap_remove(place);
            self.parts[which].push((offset, bytes));
        }
    }

    /// Whether all shards have begun to send.
    pub fn is_begun(&self) -> bool {
        self.first.iter().all(|first| !self.missing[0].contains(first))
    }

    /// Whether all are here.
    pub fn is_complete(&self) -> bool {
        self.missing.iter().all(Vec::is_empty)
    }

    /// Chunks of the weights that are here, with their first elements.
    pub fn weights(&self) -> &[(usize, Bytes)] {
        &self.parts[0]
    }

    /// Whether the state was asked for, too.
    pub fn has_state(&self) -> bool {
        self.parts.len() > 1
    }

    /// Chunks of a vector of state that are here.
    pub fn state(&self, vector: usize) -> &[(usize, Bytes)] {
        self.parts.get(1 + vector).map_or(&[], |parts| parts)
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
