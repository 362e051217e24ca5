//! The identities of workers, as far as they can be known, and bans.
//!
//! A name proves nothing, because a client chooses it: a dishonest worker may use the name of an honest one.
//! If each worker has an individual credential, that credential is its identity, and bans follow it.
//! Otherwise a worker that returns under another name cannot be distinguished from a new one, and a ban only
//! ends its connection. Its name and host are then only used to find its earlier contributions; a mistake
//! there undoes more than necessary, never less.

use ps_coord::{Contributor, WorkerId};
use ps_proto::Refusal;
use ps_run::Ban;
use ps_shard::peers::Peer;
use std::collections::{BTreeMap, BTreeSet};

/// All workers that were ever admitted, by identity.
pub(crate) struct Identities {
    /// Whether each worker has an individual credential.
    are_individual: bool,
    /// The identities of contributors, in the order of their numbers.
    names: Vec<String>,
    numbers: BTreeMap<String, Contributor>,
    workers: BTreeMap<WorkerId, Contributor>,
    banned: BTreeSet<String>,
}

impl Identities {
    /// Knows no worker yet, but enforces `bans`.
    pub(crate) fn new(are_individual: bool, bans: &[Ban]) -> Self {
        let banned = bans.iter().filter_map(|ban| ban.credential.clone()).filter(|_| are_individual);
        Identities {
            are_individual,
            names: Vec::new(),
            numbers: BTreeMap::new(),
            workers: BTreeMap::new(),
            banned: banned.collect(),
        }
    }

    /// Why a worker may not be admitted while the `present` ones are connected; `None` if it may.
    pub(crate) fn refusal<'a>(
        &self,
        peer: &Peer,
        mut present: impl Iterator<Item = &'a Peer>,
    ) -> Option<Refusal> {
        match self.are_individual {
            false => None,
            true if !peer.credential.is_known() => Some(Refusal::Unidentified),
            true if self.banned.contains(&self.name_of(peer)) => Some(Refusal::Banned),
            // A ban follows the credential, so workers that share one must be noticed at once.
            true => present
                .any(|present| present.credential == peer.credential)
                .then_some(Refusal::CredentialInUse),
        }
    }

    /// Records an admitted worker and returns its identity.
    pub(crate) fn admit(&mut self, worker: WorkerId, peer: &Peer) -> Contributor {
        let contributor = self.contributor(self.name_of(peer));
        self.workers.insert(worker, contributor);
        contributor
    }

    /// Bans a worker. Returns the credential that the ban follows, if it can be enforced.
    pub(crate) fn ban(&mut self, worker: WorkerId) -> Option<String> {
        let name = self.name(*self.workers.get(&worker).filter(|_| self.are_individual)?)?.to_owned();
        self.banned.insert(name.clone());
        Some(name)
    }

    /// The number of the contributor with this identity.
    pub(crate) fn contributor(&mut self, name: String) -> Contributor {
        let next = Contributor(self.names.len() as u32);
        *self.numbers.entry(name).or_insert_with_key(|name| {
            self.names.push(name.clone());
            next
        })
    }

    /// The identity of a contributor.
    pub(crate) fn name(&self, contributor: Contributor) -> Option<&str> {
        self.names.get(contributor.0 as usize).map(String::as_str)
    }

    fn name_of(&self, peer: &Peer) -> String {
        if self.are_individual {
            return peer.credential.to_string();
        }
        // Without the port, which is another one for every connection.
        let host = peer.address.rsplit_once(':').map_or(&*peer.address, |(host, _)| host);
        format!("{} at {host}", peer.name)
    }
}
