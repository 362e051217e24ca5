//! The network: each process has a full-duplex link, which all its connections share.
//!
//! Messages from one process to another are sent in order, one after the other. Messages to different
//! receivers share the sender's outgoing bandwidth. A message occupies the sender's outgoing link and the
//! receiver's incoming link for the time that its bytes take; the two overlap, since packets are forwarded
//! before the message is complete. The network between the links is assumed to be faster than they are.
//!
//! If several processes send to one receiver, TCP does not share its incoming bandwidth evenly. Of eight
//! workers that sent to one server over links of 200 Mbit/s, some had twice the mean rate and some half of
//! it, and the same ones for seconds ([`Link::unevenness`]). A round that waits for all of them waits for the
//! slowest.

use crate::cluster::Link;
use std::collections::{BTreeMap, VecDeque};

/// Index of a process.
pub(crate) type Process = usize;

/// A message in transit.
#[derive(Debug)]
pub(crate) struct Transfer<T> {
    /// The receiving process.
    pub to: Process,
    /// Size of the message, including headers.
    pub bytes: f64,
    /// The event that its arrival causes.
    pub content: T,
}

#[derive(Debug)]
struct Endpoint<T> {
    link: Link,
    /// The processes to which a message is being sent, each with the messages that wait behind it.
    sends: BTreeMap<Process, VecDeque<Transfer<T>>>,
    /// Number of processes that are sending to this one.
    senders: usize,
    /// When the incoming link is free.
    free_at: f64,
}

/// The links of all processes.
#[derive(Debug)]
pub(crate) struct Network<T> {
    latency: f64,
    ends: Vec<Endpoint<T>>,
}

/// A message whose transmission has begun.
#[derive(Debug)]
pub(crate) struct Departure<T> {
    /// When the next message to the same process can begin.
    pub out_at: f64,
    /// When the message has arrived.
    pub there_at: f64,
    /// The message itself.
    pub transfer: Transfer<T>,
}

impl<T> Network<T> {
    /// Creates a network without processes.
    pub(crate) fn new(latency: f64) -> Self {
        Network { latency, ends: Vec::new() }
    }

    /// Adds a process with its link.
    pub(crate) fn add(&mut self, link: Link) -> Process {
        self.ends.push(Endpoint { link, sends: BTreeMap::new(), senders: 0, free_at: 0.0 });
        self.ends.len() - 1
    }

    /// Sends a message, immediately unless another message to the same process is being sent.
    pub(crate) fn send(&mut self, now: f64, from: Process, transfer: Transfer<T>) -> Option<Departure<T>> {
        if let Some(waiting) = self.ends[from].sends.get_mut(&transfer.to) {
            waiting.push_back(transfer);
            return None;
        }
        self.ends[from].sends.insert(transfer.to, VecDeque::new());
        self.ends[transfer.to].senders += 1;
        Some(self.depart(now, from, transfer))
    }

    /// Begins the transmission of the next message to a process, after the previous one has left.
    pub(crate) fn next(&mut self, now: f64, from: Process, to: Process) -> Option<Departure<T>> {
        let transfer = self.ends[from].sends.get_mut(&to)?.pop_front();
        if transfer.is_none() {
            self.ends[from].sends.remove(&to);
            self.ends[to].senders -= 1;
        }
        Some(self.depart(now, from, transfer?))
    }

    fn depart(&mut self, now: f64, from: Process, transfer: Transfer<T>) -> Departure<T> {
        let mut rate = self.ends[from].link.bandwidth / self.ends[from].sends.len() as f64;
        let receiver = &mut self.ends[transfer.to];
        if receiver.senders > 1 {
            let share = receiver.link.bandwidth / receiver.senders as f64;
            // The senders to a receiver have consecutive numbers, which spreads their rates evenly. With the
            // receiver in the sum, a sender is not equally slow to all receivers.
            rate = rate.min(share * priority(from + transfer.to, receiver.link.unevenness));
        }
        let out_at = now + transfer.bytes / rate;
        receiver.free_at =
            receiver.free_at.max(now + self.latency) + transfer.bytes / receiver.link.bandwidth;
        let there_at = receiver.free_at.max(out_at + self.latency);
        Departure { out_at, there_at, transfer }
    }
}

/// Returns a sender's rate relative to an even share. The values are the van der Corput sequence (the digits
/// of `number` in binary, reversed behind the point), so that any few consecutive numbers are spread evenly.
fn priority(number: usize, unevenness: f64) -> f64 {
    let backwards = (number as u64 + 1).reverse_bits() as f64 / 2.0_f64.powi(64);
    1.0 + unevenness * (2.0 * backwards - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(processes: usize) -> Network<()> {
        uneven(processes, 0.0)
    }

    fn uneven(processes: usize, unevenness: f64) -> Network<()> {
        let mut network = Network::new(0.5);
        for _ in 0..processes {
            network.add(Link { bandwidth: 8.0, latency: 0.5, unevenness });
        }
        network
    }

    fn transfer(to: Process) -> Transfer<()> {
        Transfer { to, bytes: 16.0, content: () }
    }

    #[test]
    fn a_message_takes_its_bytes_time_once_and_the_latency() {
        assert_eq!(network(2).send(1.0, 0, transfer(1)).unwrap().there_at, 3.5);
    }

    #[test]
    fn messages_wait_for_the_senders_outgoing_link() {
        let mut network = network(3);
        let first = network.send(0.0, 0, transfer(1)).unwrap();
        assert!(network.send(0.0, 0, transfer(1)).is_none());
        assert_eq!(network.next(first.out_at, 0, 1).unwrap().there_at, 4.5);
        assert!(network.next(4.0, 0, 1).is_none());
    }

    #[test]
    fn messages_wait_for_the_receivers_incoming_link() {
        let mut network = network(3);
        let [first, second] = [0, 1].map(|from| network.send(0.0, from, transfer(2)).unwrap().there_at);
        assert_eq!([first, second], [2.5, 4.5]);
    }

    #[test]
    fn messages_to_different_receivers_share_the_outgoing_link() {
        let mut network = network(3);
        let [first, second] = [1, 2].map(|to| network.send(0.0, 0, transfer(to)).unwrap().there_at);
        assert_eq!([first, second], [2.5, 4.5]);
    }

    #[test]
    fn senders_to_one_receiver_have_uneven_rates() {
        let rates: Vec<f64> = (0..8).map(|number| priority(number, 0.6)).collect();
        let mean = rates.iter().sum::<f64>() / 8.0;
        assert!((0.9..1.1).contains(&mean), "{rates:?}");
        let mut network = uneven(9, 0.6);
        let times: Vec<f64> =
            (0..8).map(|from| network.send(0.0, from, transfer(8)).unwrap().out_at).collect();
        assert!(times[1] < times[7] && times[7] > 16.0 / (8.0 / 8.0), "{times:?}");
    }
}
