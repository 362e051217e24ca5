//! The queue of future events.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A queue of events, ordered by time. Events at the same time come in the order in which they were added.
#[derive(Debug)]
pub(crate) struct EventQueue<T> {
    entries: BinaryHeap<Entry<T>>,
    put: u64,
}

#[derive(Debug)]
struct Entry<T> {
    at: f64,
    order: u64,
    event: T,
}

impl<T> Default for EventQueue<T> {
    fn default() -> Self {
        EventQueue { entries: BinaryHeap::new(), put: 0 }
    }
}

impl<T> EventQueue<T> {
    /// Adds an event that happens at `at`, in seconds.
    pub(crate) fn put(&mut self, at: f64, event: T) {
        self.put += 1;
        self.entries.push(Entry { at, order: self.put, event });
    }

    /// Removes and returns the next event and its time.
    pub(crate) fn next(&mut self) -> Option<(f64, T)> {
        self.entries.pop().map(|entry| (entry.at, entry.event))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// `BinaryHeap` returns the greatest entry first, so the earliest entry is the greatest.
impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.total_cmp(&self.at).then(other.order.cmp(&self.order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_ordered_by_time() {
        let mut queue = EventQueue::default();
        for (at, event) in [(2.0, 'c'), (1.0, 'a'), (2.0, 'd'), (1.5, 'b')] {
            queue.put(at, event);
        }
        let order: Vec<char> = std::iter::from_fn(|| queue.next().map(|(_, event)| event)).collect();
        assert_eq!(order, ['a', 'b', 'c', 'd']);
    }
}
