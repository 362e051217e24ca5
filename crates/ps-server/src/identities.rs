//! Who workers are, as far as that can be known, and whom a ban keeps out.
//!
//! A name is what a client says of itself, so it proves nothing: a liar may use the name of an honest worker. Where each worker
//! has a credential of its own, it is known by that, and bans follow it. Elsewhere a worker that comes back under another
//! name cannot be told from a new one, and a ban only ends its connection; its name and host still serve to find what it has
//! contributed before, which at worst undoes more than necessary.

use ps_coord::{Contributor, WorkerId};
use ps_proto::Refusal;
use ps_run::Ban;
use ps_shard::peers::Peer;
use std::collections::{BTreeMap, BTreeSet};

/// All workers that ever were admitted, by what they are known by.
pub(crate) struct Identities {
    /// Whether each worker has a credential of its own.
    are_individual: bool,
    /// What contributors are known by, in the order of their numbers.
    names: Vec<String>,
    numbers: BTreeMap<String, Contributor>,
    workers: BTreeMap<WorkerId, Contributor>,
    banned: BTreeSet<String>,
}

impl Identities {
    /// Nobody yet, but for whom these bans keep out.
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

    /// Why a worker is not to be admitted beside the `present` ones.
    pub(crate) fn refusal<'a>(
        &self,
        peer: &Peer,
        mut present: impl Iterator<Item = &'a Peer>,
    ) -> Option<Refusal> {
        match self.are_individual {
            false => None,
            true if !peer.credential.is_known() => Some(Refusal::Unidentified),
            true if self.banned.contains(&self.name_of(peer)) => Some(Refusal::Banned),
            true => present
                .any(|present| present.credential == peer.credential)
                .then_some(Refusal::CredentialInUse),
        }
    }

    /// A worker is admitted; who it is.
    pub(crate) fn admit(&mut self, worker: WorkerId, peer: &Peer) -> Contributor {
        let contributor = self.contributor(self.name_of(peer));
        self.workers.insert(worker, contributor);
        contributor
    }

    /// Bans a worker. Gives the credential that the ban follows, if it can be enforced.
    pub(crate) fn ban(&mut self, worker: WorkerId) -> Option<String> {
        let name = self.name(*self.workers.get(&worker).filter(|_| self.are_individual)?)?.to_owned();
        self.banned.insert(name.clone());
        Some(name)
    }

    /// The number of the contributor that is known by this name.
    pub(crate) fn contributor(&mut self, name: String) -> Contributor {
        let next = Contributor(self.names.len() as u32);
        *self.numbers.entry(name).or_insert_with_key(|name| {
            self.names.push(name.clone());
            next
        })
    }

    /// What a contributor is known by.
    pub(crate) fn name(&self, contributor: Contributor) -> Option<&str> {
        self.names.get(contributor.0 as usize).map(String::as_str)
    }

    fn name_of(&self, peer: &Peer) -> String {
        if self.are_individual {
            return peer.credential.to_string();
        }
        let host = peer.address.rsplit_once(':').map_or(&*peer.address, |(host, _)| host);
        format!("{} at {host}", peer.name)
    }
}
