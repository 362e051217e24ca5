//! Hosts: threads that share cores.
//!
//! Each thread works off its jobs in turn. While more threads have work than there are cores, all of them go on at
//! the same, lower speed. Speed times time is the host's progress: a job ends when the progress since it began is
//! its work, so nothing needs to be looked at in between.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};

/// A thread, by its number.
pub(crate) type Thread = usize;

/// Work of one thread, and what comes of it.
#[derive(Debug)]
pub(crate) struct Job<T> {
    /// Seconds of a core.
    pub work: f64,
    /// What has happened when it is done.
    pub then: T,
}

#[derive(Debug)]
struct ThreadState<T> {
    host: usize,
    jobs: VecDeque<Job<T>>,
    /// When it is awake; before that it was asleep or is waking.
    awake_at: f64,
}

#[derive(Debug)]
struct Host {
    cores: usize,
    crowding: f64,
    /// Seconds that each busy thread has had since the beginning.
    progress: f64,
    updated_at: f64,
    /// Threads at work, by the progress at which their job ends.
    busy: BinaryHeap<Ending>,
    /// Counts changes, so that what was foreseen before one is recognised.
    changes: u64,
}

#[derive(Debug, PartialEq)]
struct Ending {
    at: f64,
    thread: Thread,
}

/// When the next job of a host will end, if nothing changes before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Foreseen {
    /// The time.
    pub at: f64,
    host: usize,
    change: u64,
}

/// All hosts and threads.
#[derive(Debug)]
pub(crate) struct Hosts<T> {
    hosts: Vec<Host>,
    threads: Vec<ThreadState<T>>,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Hosts { hosts: Vec::new(), threads: Vec::new() }
    }
}

impl<T> Hosts<T> {
    /// Another host, on which everything takes `crowding` times as long while all cores are busy.
    pub(crate) fn add_host(&mut self, cores: usize, crowding: f64) -> usize {
        let busy = BinaryHeap::new();
        self.hosts.push(Host { cores, crowding, progress: 0.0, updated_at: 0.0, busy, changes: 0 });
        self.hosts.len() - 1
    }

    /// Another thread of a host, asleep.
    pub(crate) fn add_thread(&mut self, host: usize) -> Thread {
        self.threads.push(ThreadState { host, jobs: VecDeque::new(), awake_at: 0.0 });
        self.threads.len() - 1
    }

    /// When a job that is handed to a thread at `now` reaches it, if waking it takes `wake` seconds.
    pub(crate) fn reaches(&mut self, thread: Thread, now: f64, wake: f64) -> f64 {
        let state = &mut self.threads[thread];
        if state.jobs.is_empty() && state.awake_at <= now {
            state.awake_at = now + wake;
        }
        state.awake_at.max(now)
    }

    /// Gives a thread a job. Whatever was foreseen for its host is void if something is returned.
    pub(crate) fn give(&mut self, thread: Thread, now: f64, job: Job<T>) -> Option<Foreseen> {
        let state = &mut self.threads[thread];
        state.jobs.push_back(job);
        if state.jobs.len() > 1 {
            return None;
        }
        let (number, work) = (state.host, state.jobs[0].work);
        let host = &mut self.hosts[number];
        host.advance(now);
        host.busy.push(Ending { at: host.progress + work, thread });
        host.foresee(number, now)
    }

    /// What the next job of a thread brings about, if it has one.
    pub(crate) fn next(&self, thread: Thread) -> Option<&T> {
        self.threads[thread].jobs.front().map(|job| &job.then)
    }

    /// What was foreseen has come: the thread and what its job brings about, unless something changed in between; and
    /// what is foreseen now.
    pub(crate) fn end(&mut self, foreseen: Foreseen) -> Option<(Thread, T, Option<Foreseen>)> {
        let Foreseen { at: now, host: number, change } = foreseen;
        let host = &mut self.hosts[number];
        if host.changes != change {
            return None;
        }
        host.advance(now);
        let Ending { thread, .. } = host.busy.pop()?;
        let state = &mut self.threads[thread];
        let job = state.jobs.pop_front()?;
        match state.jobs.front() {
            Some(next) => host.busy.push(Ending { at: host.progress + next.work, thread }),
            None => state.awake_at = now,
        }
        Some((thread, job.then, host.foresee(number, now)))
    }
}

impl Host {
    fn advance(&mut self, now: f64) {
        self.progress += (now - self.updated_at) * self.speed();
        self.updated_at = now;
    }

    /// Seconds of work that each busy thread does in a second.
    fn speed(&self) -> f64 {
        let busy = self.busy.len().min(self.cores);
        let crowded = if self.cores > 1 { (busy.max(1) - 1) as f64 / (self.cores - 1) as f64 } else { 0.0 };
        let share = (self.cores as f64 / self.busy.len().max(1) as f64).min(1.0);
        share / (1.0 + (self.crowding - 1.0) * crowded)
    }

    fn foresee(&mut self, host: usize, now: f64) -> Option<Foreseen> {
        self.changes += 1;
        let next = self.busy.peek()?;
        let at = now + (next.at - self.progress).max(0.0) / self.speed();
        Some(Foreseen { at, host, change: self.changes })
    }
}

impl Eq for Ending {}

impl PartialOrd for Ending {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The one that ends first is the greatest.
impl Ord for Ending {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.total_cmp(&self.at).then(other.thread.cmp(&self.thread))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When each of these jobs ends, each on a thread of its own, on a host of `cores`.
    fn ends(cores: usize, crowding: f64, work: &[f64]) -> Vec<f64> {
        let mut hosts = Hosts::default();
        let host = hosts.add_host(cores, crowding);
        let mut next = None;
        for (then, &work) in work.iter().enumerate() {
            let thread = hosts.add_thread(host);
            next = hosts.give(thread, 0.0, Job { work, then }).or(next);
        }
        let mut ends = vec![0.0; work.len()];
        while let Some(foreseen) = next {
            let (_, then, after) = hosts.end(foreseen).unwrap();
            ends[then] = foreseen.at;
            next = after;
        }
        ends
    }

    #[test]
    fn threads_share_cores_fairly() {
        assert_eq!(ends(2, 1.0, &[1.0, 2.0]), [1.0, 2.0]);
        assert_eq!(ends(1, 1.0, &[1.0, 2.0]), [2.0, 3.0]);
        assert_eq!(ends(2, 1.0, &[1.0, 1.0, 1.0, 1.0]), [2.0; 4]);
        assert_eq!(ends(2, 1.0, &[2.0, 2.0, 2.0]), [3.0; 3]);
    }

    #[test]
    fn busy_neighbours_slow_a_thread_down() {
        assert_eq!(ends(2, 1.5, &[1.0]), [1.0]);
        assert_eq!(ends(2, 1.5, &[1.0, 2.0]), [1.5, 2.5]);
    }

    #[test]
    fn a_thread_works_off_its_jobs_in_turn() {
        let mut hosts = Hosts::default();
        let host = hosts.add_host(2, 1.0);
        let thread = hosts.add_thread(host);
        let first = hosts.give(thread, 1.0, Job { work: 1.0, then: 'a' }).unwrap();
        assert_eq!(hosts.give(thread, 1.5, Job { work: 3.0, then: 'b' }), None);
        let (_, then, second) = hosts.end(first).unwrap();
        assert_eq!((first.at, then), (2.0, 'a'));
        let second = second.unwrap();
        assert_eq!((second.at, hosts.end(second).unwrap().1), (5.0, 'b'));
    }

    #[test]
    fn only_a_thread_that_sleeps_has_to_be_woken() {
        let mut hosts = Hosts::default();
        let host = hosts.add_host(1, 1.0);
        let thread = hosts.add_thread(host);
        assert_eq!(hosts.reaches(thread, 1.0, 0.25), 1.25);
        assert_eq!(hosts.reaches(thread, 1.125, 0.25), 1.25);
        let end = hosts.give(thread, 1.25, Job { work: 1.0, then: () }).unwrap();
        assert_eq!(hosts.reaches(thread, 1.5, 0.25), 1.5);
        hosts.end(end);
        assert_eq!(hosts.reaches(thread, 3.0, 0.25), 3.25);
    }
}
