//! The connected workers, and the messages to them.

use crate::outbox::{Outbox, Undeliverable};
use ps_coord::{Departure, WorkerId};
use ps_net::security::Credential;
use ps_plane::{Plane, WeightsChunk};
use ps_proto::{Refusal, v1};
use ps_run::Meter;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::oneshot;
use tracing::{info, warn};

/// A connected worker.
pub struct Peer {
    /// The name that the worker gave.
    pub name: String,
    /// Its address, or a phrase if it has none.
    pub address: String,
    /// What the worker has proved about its identity.
    pub credential: Credential,
    /// The queue of messages to the worker.
    pub outbox: Outbox,
    /// Whether it has been sent all weights, so that new chunks are sent to it as they are computed.
    pub is_served: bool,
    /// Dropped together with the peer, which ends the task that reads from the worker.
    pub _disconnector: oneshot::Sender<()>,
}

/// All connected workers. Workers that stop reading are dropped and reported by [`Peers::take_dropped`].
pub struct Peers {
    meter: Arc<Meter>,
    peers: BTreeMap<WorkerId, Peer>,
    dropped: Vec<(WorkerId, Departure)>,
}

impl Peers {
    /// Creates an empty set.
    pub fn new(meter: Arc<Meter>) -> Self {
        Peers { meter, peers: BTreeMap::new(), dropped: Vec::new() }
    }

    /// Number of workers.
    pub fn count(&self) -> usize {
        self.peers.len()
    }

    /// The worker, if it is still connected.
    pub fn get(&self, worker: WorkerId) -> Option<&Peer> {
        self.peers.get(&worker)
    }

    /// All workers, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    /// The ids of all workers, ascending.
    pub fn ids(&self) -> impl Iterator<Item = WorkerId> {
        self.peers.keys().copied()
    }

    /// Adds a worker.
    pub fn admit(&mut self, worker: WorkerId, peer: Peer) {
        info!(%worker, name = peer.name, address = peer.address, "worker admitted");
        self.peers.insert(worker, peer);
    }

    /// Queues a message.
    pub fn message(&mut self, worker: WorkerId, message: v1::from_server::Message) {
        self.send(worker, |peer| peer.outbox.message(message));
    }

    /// Queues a chunk of new weights for every worker that has the other weights.
    pub fn broadcast(&mut self, part: &WeightsChunk) {
        let served: Vec<WorkerId> =
            self.peers.iter().filter(|(_, peer)| peer.is_served).map(|(&worker, _)| worker).collect();
        self.meter.send(served.len() * part.bytes.len());
        for worker in served {
            self.send(worker, |peer| peer.outbox.weights(part.clone()));
        }
    }

    /// Makes sure that a worker gets all current weights. Weights that no worker needs any more are dropped
    /// from its queue.
    pub fn serve(&mut self, worker: WorkerId, plane: &Plane) {
        let meter = Arc::clone(&self.meter);
        self.send(worker, |peer| {
            peer.outbox.discard_before(plane.oldest());
            // A worker that was served before gets every new chunk by `broadcast`.
            if std::mem::replace(&mut peer.is_served, true) {
                return Ok(());
            }
            plane.weights_chunks().try_for_each(|part| {
                meter.send(part.bytes.len());
                peer.outbox.weights(part)
            })
        });
    }

    /// Notes that the worker lacks weights: the next [`Peers::serve`] sends all of them again.
    pub fn lacks_weights(&mut self, worker: WorkerId) {
        if let Some(peer) = self.peers.get_mut(&worker) {
            peer.is_served = false;
        }
    }

    /// Queues something for a worker, and drops the worker if that fails.
    fn send(&mut self, worker: WorkerId, push: impl FnOnce(&mut Peer) -> Result<(), Undeliverable>) {
        let Some(peer) = self.peers.get_mut(&worker) else { return };
        let reason = match push(peer) {
            Ok(()) => return,
            Err(Undeliverable::Closed) => Departure::Disconnected("the stream was closed".into()),
            Err(Undeliverable::Full) => {
                warn!(%worker, name = peer.name, "worker does not read its messages and is disconnected");
                Departure::Disconnected(Refusal::NotDraining.to_string())
            }
        };
        self.disconnect(worker, Some(Refusal::NotDraining));
        // Reported later, because the caller is in the middle of carrying out actions of the round logic.
        self.dropped.push((worker, reason));
    }

    /// Ends the stream to a worker: after the queued messages, or at once with a refusal.
    pub fn disconnect(&mut self, worker: WorkerId, refusal: Option<Refusal>) {
        let Some(peer) = self.peers.remove(&worker) else { return };
        match refusal {
            Some(refusal) => peer.outbox.abandon(refusal.into()),
            None => peer.outbox.finish(),
        }
    }

    /// Returns the workers that were dropped since the last call.
    pub fn take_dropped(&mut self) -> Vec<(WorkerId, Departure)> {
        std::mem::take(&mut self.dropped)
    }
}
