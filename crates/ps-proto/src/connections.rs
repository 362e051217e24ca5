//! The connections of a port: how many there may be, and what is logged about those that are refused. All ports count their
//! connections here: those of calls, the health service, the metrics and the page.

use crate::limits::Capacity;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tracing::info;

/// Pause after accepting a connection has failed, for example because too many files are open.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The connections of one port.
#[derive(Debug)]
pub struct Connections {
    capacity: Capacity,
    held: Mutex<Held>,
    complaints: Arc<Complaints>,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    /// Of each address that has any.
    of: BTreeMap<IpAddr, usize>,
}

/// A connection's place among those of its port, free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    connections: Arc<Connections>,
    address: Option<IpAddr>,
}

impl Connections {
    /// Allows at most `capacity` connections.
    pub fn new(capacity: Capacity) -> Arc<Self> {
        Arc::new(Connections { capacity, held: Mutex::default(), complaints: Arc::default() })
    }

    /// Takes a place for one more connection, from `address` if it has one.
    ///
    /// # Errors
    /// The limit that is reached; the caller closes the connection.
    pub fn take(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Place, String> {
        let Capacity { all, of_one_address } = self.capacity;
        // The same machine may come as 10.0.0.1 and as ::ffff:10.0.0.1.
        let address = address.map(|address| address.to_canonical());
        let mut held = lock(&self.held);
        if held.all >= all {
            return Err(format!("there are {all} connections, which is the limit"));
        }
        if let Some(address) = address {
            let count = held.of.entry(address).or_default();
            if *count >= of_one_address {
                return Err(format!("there are {of_one_address} connections from there, which is the limit"));
            }
            *count += 1;
        }
        held.all += 1;
        drop(held);
        Ok(Place { connections: Arc::clone(self), address })
    }

    /// The number of open connections.
    pub fn count(&self) -> usize {
        lock(&self.held).all
    }

    /// The log of peers of this port that are refused.
    pub fn complaints(&self) -> &Arc<Complaints> {
        &self.complaints
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = lock(&self.connections.held);
        held.all -= 1;
        if let Some(address) = self.address
            && let Some(count) = held.of.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                held.of.remove(&address);
            }
        }
    }
}

/// Logs refused peers, at most one line per second, so that no peer can fill a disk.
#[derive(Debug, Default)]
pub struct Complaints(Mutex<(Option<Instant>, u64)>);

impl Complaints {
    const EVERY: Duration = Duration::from_secs(1);

    /// Logs `what`, or counts it as left out; the next line says how many were.
    pub fn log(&self, what: impl FnOnce() -> String) {
        match self.due() {
            None => {}
            Some(0) => info!("{}", what()),
            Some(left_out) => info!(left_out, "{}", what()),
        }
    }

    /// If a line is due, the number of lines left out since the last one.
    fn due(&self) -> Option<u64> {
        let mut last = lock(&self.0);
        if last.0.is_some_and(|last| last.elapsed() < Self::EVERY) {
            last.1 += 1;
            return None;
        }
        let left_out = last.1;
        *last = (Some(Instant::now()), 0);
        Some(left_out)
    }
}

/// The state is consistent between any two statements, so a panic elsewhere does not spoil it.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_address_and_given_back() {
        let connections = Connections::new(Capacity { all: 5, of_one_address: 3 });
        let address = |last| Some(IpAddr::from([10, 0, 0, last]));
        let mut held: Vec<Place> = (0..2).map(|_| connections.take(address(1)).unwrap()).collect();
        // The same address in its other form.
        held.push(connections.take(Some("::ffff:10.0.0.1".parse().unwrap())).unwrap());
        assert!(connections.take(address(1)).unwrap_err().contains("3 connections from there"));
        let other = connections.take(address(2)).unwrap();
        drop(held);
        assert_eq!((connections.count(), lock(&connections.held).of.len()), (1, 1));
        drop(other);
        let all: Vec<Place> = (0..5).map(|_| connections.take(None).unwrap()).collect();
        assert!(connections.take(address(1)).unwrap_err().contains("5 connections, which is the limit"));
        drop(all);
        assert_eq!((connections.count(), lock(&connections.held).of.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn complaints_are_logged_once_a_second() {
        let complaints = Complaints::default();
        assert_eq!(complaints.due(), Some(0));
        (0..100).for_each(|_| assert_eq!(complaints.due(), None));
        tokio::time::advance(Complaints::EVERY).await;
        assert_eq!(complaints.due(), Some(100));
        assert_eq!(complaints.due(), None);
    }
}
