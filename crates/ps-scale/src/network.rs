//! The network: each process has a link, whose two directions it shares among all it talks with.
//!
//! A message takes its bytes' time on the sender's way out and as long on the receiver's way in; the two overlap, as
//! packets are passed on before the message is whole. Messages wait for each other in the order in which they were
//! sent. What lies between the links is faster than they are.

use crate::cluster::Link;
use std::collections::VecDeque;

/// A process, by its number.
pub type Process = usize;

/// A message under way.
#[derive(Debug)]
pub struct Parcel<T> {
    /// To whom.
    pub to: Process,
    /// How long.
    pub bytes: f64,
    /// What its arrival means.
    pub content: T,
}

#[derive(Debug)]
struct Ends<T> {
    bandwidth: f64,
    /// What waits for the way out, and whether that is in use.
    waiting: VecDeque<Parcel<T>>,
    is_sending: bool,
    /// When the way in is free.
    free_at: f64,
}

/// All links.
#[derive(Debug)]
pub struct Network<T> {
    latency: f64,
    ends: Vec<Ends<T>>,
}

/// A message that has set out.
#[derive(Debug)]
pub struct Departure<T> {
    /// When the way out is free again.
    pub out_at: f64,
    /// When the message is there.
    pub there_at: f64,
    /// The message.
    pub parcel: Parcel<T>,
}

impl<T> Network<T> {
    /// A network without processes.
    pub fn new(latency: f64) -> Self {
        Network { latency, ends: Vec::new() }
    }

    /// A process with its link.
    pub fn add(&mut self, link: Link) -> Process {
        let waiting = VecDeque::new();
        self.ends.push(Ends { bandwidth: link.bandwidth, waiting, is_sending: false, free_at: 0.0 });
        self.ends.len() - 1
    }

    /// Sends a message; it departs at once if nothing else is on the way out.
    pub fn send(&mut self, now: f64, from: Process, parcel: Parcel<T>) -> Option<Departure<T>> {
        if std::mem::replace(&mut self.ends[from].is_sending, true) {
            self.ends[from].waiting.push_back(parcel);
            return None;
        }
        Some(self.depart(now, from, parcel))
    }

    /// The way out is free: the next message departs.
    pub fn next(&mut self, now: f64, from: Process) -> Option<Departure<T>> {
        match self.ends[from].waiting.pop_front() {
            Some(parcel) => Some(self.depart(now, from, parcel)),
            None => {
                self.ends[from].is_sending = false;
                None
            }
        }
    }

    fn depart(&mut self, now: f64, from: Process, parcel: Parcel<T>) -> Departure<T> {
        let out_at = now + parcel.bytes / self.ends[from].bandwidth;
        let receiver = &mut self.ends[parcel.to];
        receiver.free_at = receiver.free_at.max(now + self.latency) + parcel.bytes / receiver.bandwidth;
        let there_at = receiver.free_at.max(out_at + self.latency);
        Departure { out_at, there_at, parcel }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(processes: usize) -> Network<()> {
        let mut network = Network::new(0.5);
        for _ in 0..processes {
            network.add(Link { bandwidth: 8.0, latency: 0.5 });
        }
        network
    }

    fn parcel(to: Process) -> Parcel<()> {
        Parcel { to, bytes: 16.0, content: () }
    }

    #[test]
    fn a_message_takes_its_bytes_time_once_and_the_latency() {
        assert_eq!(network(2).send(1.0, 0, parcel(1)).unwrap().there_at, 3.5);
    }

    #[test]
    fn messages_wait_for_the_senders_way_out() {
        let mut network = network(3);
        let first = network.send(0.0, 0, parcel(1)).unwrap();
        assert!(network.send(0.0, 0, parcel(2)).is_none());
        assert_eq!(network.next(first.out_at, 0).unwrap().there_at, 4.5);
        assert!(network.next(4.0, 0).is_none());
    }

    #[test]
    fn messages_wait_for_the_receivers_way_in() {
        let mut network = network(3);
        let times = [0, 1].map(|from| network.send(0.0, from, parcel(2)).unwrap().there_at);
        assert_eq!(times, [2.5, 4.5]);
    }
}
