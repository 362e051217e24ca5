//! The coordinator's view of the other shards: who keeps what, where they are, and fetching their weights.

use bytes::Bytes;
use ps_coord::Dismissal;
use ps_proto::convert::{self, Nonsense, ShardGreeting, ShardMessage};
use ps_proto::{Refusal, limits, v1};
use std::ops::Range;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use tracing::{info, warn};

/// Messages that wait for one shard: there are two in the life of a run.
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
}

struct Seat {
    kept: Range<usize>,
    shard: Option<Shard>,
}

struct Shard {
    address: String,
    sender: mpsc::Sender<Result<v1::ToShard, Status>>,
}

impl Shards {
    /// For shards that keep these elements, in order.
    pub fn new(parameters: usize, kept: Vec<Range<usize>>) -> Self {
        let seats = kept.into_iter().map(|kept| Seat { kept, shard: None }).collect();
        Shards { parameters, seats }
    }

    pub fn len(&self) -> usize {
        self.seats.len()
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
        info!(shard = index, address = greeting.address, elements = ?seat.kept, "shard attached");
        seat.shard = Some(Shard { address: greeting.address, sender });
        Ok((index as u32, seat.kept.clone(), receiver))
    }

    /// Where all are, once all are there.
    pub fn places(&self) -> Result<v1::ShardsReply, Refusal> {
        let place = |(index, seat): (usize, &Seat)| {
            let shard = seat.shard.as_ref()?;
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

    /// Which shard this is, in words.
    pub fn name(&self, index: u32) -> String {
        let address = self.seats.get(index as usize).and_then(|seat| seat.shard.as_ref());
        format!("shard {index} at {}", address.map_or("an unknown address", |shard| &shard.address))
    }

    /// Asks all for their weights of `version`.
    pub fn want_weights(&self, version: u64) -> Fetch {
        let wanted = v1::ShardWeightsWanted { version };
        self.tell(v1::to_shard::Message::WeightsWanted(wanted));
        let mut missing = Vec::new();
        for seat in &self.seats {
            missing.extend(seat.kept.clone().step_by(limits::chunk_elements(self.parameters)));
        }
        Fetch { version, missing, parts: Vec::new() }
    }

    /// Sends all away.
    pub fn dismiss(&self, reason: &Dismissal) {
        self.tell(v1::to_shard::Message::Dismissed(convert::dismissal_to_wire(reason)));
    }

    fn tell(&self, message: v1::to_shard::Message) {
        for (index, seat) in self.seats.iter().enumerate() {
            if let Some(shard) = &seat.shard
                && shard.sender.try_send(Ok(to_shard(message.clone()))).is_err()
            {
                warn!(shard = index, address = shard.address, "shard does not read what it is sent");
            }
        }
    }
}

/// The weights of all shards on their way here.
pub(crate) struct Fetch {
    pub version: u64,
    missing: Vec<usize>,
    pub parts: Vec<(usize, Bytes)>,
}

impl Fetch {
    /// Takes a chunk.
    pub fn take(&mut self, version: u64, offset: usize, bytes: Bytes) {
        if version == self.version
            && let Some(place) = self.missing.iter().position(|&missing| missing == offset)
        {
            self.missing.swap_remove(place);
            self.parts.push((offset, bytes));
        }
    }

    /// Whether all are here.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}

fn to_shard(message: v1::to_shard::Message) -> v1::ToShard {
    v1::ToShard { message: Some(message) }
}
