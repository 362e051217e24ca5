//! Limits on the connections of a port, and the log of those that are refused. Every port uses them: calls,
//! the health service, the metrics and the dashboard.

use crate::limits::Capacity;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tracing::info;

/// Pause after an error of `accept`, for example because too many files are open.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The open connections of one port.
#[derive(Debug)]
pub struct Connections {
    capacity: Capacity,
    open: Mutex<Open>,
    throttled_log: Arc<ThrottledLog>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    /// Addresses with at least one connection.
    by_address: BTreeMap<IpAddr, usize>,
}

/// Permission for one open connection; dropping it makes room for another.
#[derive(Debug)]
pub struct Permit {
    connections: Arc<Connections>,
    address: Option<IpAddr>,
}

impl Connections {
    /// Allows at most `capacity` connections.
    pub fn new(capacity: Capacity) -> Arc<Self> {
        Arc::new(Connections { capacity, open: Mutex::default(), throttled_log: Arc::default() })
    }

    /// Admits one more connection, from `address` if it has one.
    ///
    /// # Errors
    /// The limit that is reached; the caller closes the connection.
    pub fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Permit, String> {
        let Capacity { all, of_one_address } = self.capacity;
        // One machine can appear as 10.0.0.1 and as ::ffff:10.0.0.1.
        let address = address.map(|address| address.to_canonical());
        let mut open = lock(&self.open);
        if open.all >= all {
            return Err(format!("the limit of {all} connections is reached"));
        }
        if let Some(address) = address {
            let count = open.by_address.entry(address).or_default();
            if *count >= of_one_address {
                return Err(format!("the limit of {of_one_address} connections from one address is reached"));
            }
            *count += 1;
        }
        open.all += 1;
        drop(open);
        Ok(Permit { connections: Arc::clone(self), address })
    }

    /// The number of open connections.
    pub fn count(&self) -> usize {
        lock(&self.open).all
    }

    /// The log of refused peers of this port.
    pub fn throttled_log(&self) -> &Arc<ThrottledLog> {
        &self.throttled_log
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = lock(&self.connections.open);
        open.all -= 1;
        if let Some(address) = self.address
            && let Some(count) = open.by_address.get_mut(&address)
        {
            *count -= 1;
            // Otherwise the map would keep an entry for every address that has ever connected.
            if *count == 0 {
                open.by_address.remove(&address);
            }
        }
    }
}

/// Logs refused peers, at most one line per second, so that no peer can fill a disk.
#[derive(Debug, Default)]
pub struct ThrottledLog(Mutex<(Option<Instant>, u64)>);

impl ThrottledLog {
    const EVERY: Duration = Duration::from_secs(1);

    /// Logs `what`, or only counts it if the last line is too recent; the next line has the count.
    pub fn log(&self, what: impl FnOnce() -> String) {
        match self.due() {
            None => {}
            Some(0) => info!("{}", what()),
            Some(left_out) => info!(left_out, "{}", what()),
        }
    }

    /// If a line is due, the number of lines left out since the previous one.
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

/// Ignores poisoning: every critical section leaves the state consistent, wherever it panics.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_limited_in_total_and_by_address() {
        let connections = Connections::new(Capacity { all: 5, of_one_address: 3 });
        let address = |last| Some(IpAddr::from([10, 0, 0, last]));
        let mut held: Vec<Permit> = (0..2).map(|_| connections.admit(address(1)).unwrap()).collect();
        // The same address, mapped to IPv6.
        held.push(connections.admit(Some("::ffff:10.0.0.1".parse().unwrap())).unwrap());
        assert!(connections.admit(address(1)).unwrap_err().contains("limit of 3 connections from one"));
        let other = connections.admit(address(2)).unwrap();
        drop(held);
        assert_eq!((connections.count(), lock(&connections.open).by_address.len()), (1, 1));
        drop(other);
        let all: Vec<Permit> = (0..5).map(|_| connections.admit(None).unwrap()).collect();
        assert!(connections.admit(address(1)).unwrap_err().contains("limit of 5 connections"));
        drop(all);
        assert_eq!((connections.count(), lock(&connections.open).by_address.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn messages_are_logged_at_most_once_a_second() {
        let throttled_log = ThrottledLog::default();
        assert_eq!(throttled_log.due(), Some(0));
        (0..100).for_each(|_| assert_eq!(throttled_log.due(), None));
        tokio::time::advance(ThrottledLog::EVERY).await;
        assert_eq!(throttled_log.due(), Some(100));
        assert_eq!(throttled_log.due(), None);
    }
}
