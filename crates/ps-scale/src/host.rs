//! Hosts, whose threads share cores.
//!
//! Each thread processes its jobs in order. While more threads are busy than there are cores, all of them run
//! at the same, reduced speed. The integral of the speed over time is the host's progress: a job ends when
//! the progress since its start equals its work, so the simulation need not visit the host in between.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};

/// Index of a thread, unique among all hosts.
pub(crate) type Thread = usize;

/// Work of one thread, and its effect.
#[derive(Debug)]
pub(crate) struct Job<T> {
    /// Seconds of work on an otherwise idle core.
    pub work: f64,
    /// The effect, once the work is done.
    pub then: T,
}

#[derive(Debug)]
struct ThreadState<T> {
    host: usize,
    jobs: VecDeque<Job<T>>,
    /// When the thread is awake. Before that, it is asleep or about to wake up.
    awake_at: f64,
}

#[derive(Debug)]
struct Host {
    cores: usize,
    crowding: f64,
    /// Seconds of work that each busy thread has done since the beginning.
    progress: f64,
    updated_at: f64,
    /// The busy threads, with the progress at which the current job of each ends.
    busy: BinaryHeap<Ending>,
    /// Counts changes of the set of busy threads, which invalidate earlier predictions.
    changes: u64,
}

#[derive(Debug, PartialEq)]
struct Ending {
    at: f64,
    thread: Thread,
}

/// A prediction of when the next job of a host ends, valid unless the host changes before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PredictedEnd {
    /// The predicted time, in seconds.
    pub at: f64,
    host: usize,
    change: u64,
}

/// All hosts and their threads.
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
    /// Adds a host, on which everything takes `crowding` times as long while all cores are busy.
    pub(crate) fn add_host(&mut self, cores: usize, crowding: f64) -> usize {
        let busy = BinaryHeap::new();
        self.hosts.push(Host { cores, crowding, progress: 0.0, updated_at: 0.0, busy, changes: 0 });
        self.hosts.len() - 1
    }

    /// Adds a sleeping thread to a host.
    pub(crate) fn add_thread(&mut self, host: usize) -> Thread {
        self.threads.push(ThreadState { host, jobs: VecDeque::new(), awake_at: 0.0 });
        self.threads.len() - 1
    }

    /// Returns when a job handed to a thread at `now` reaches it, if waking takes `wake` seconds.
    pub(crate) fn reaches(&mut self, thread: Thread, now: f64, wake: f64) -> f64 {
        let state = &mut self.threads[thread];
        if state.jobs.is_empty() && state.awake_at <= now {
            state.awake_at = now + wake;
        }
        state.awake_at.max(now)
    }

    /// Adds a job to a thread. If this returns a prediction, it replaces earlier ones for the thread's host.
    pub(crate) fn give(&mut self, thread: Thread, now: f64, job: Job<T>) -> Option<PredictedEnd> {
        let state = &mut self.threads[thread];
        state.jobs.push_back(job);
        if state.jobs.len() > 1 {
            return None;
        }
        let (number, work) = (state.host, state.jobs[0].work);
        let host = &mut self.hosts[number];
        // Before the set of busy threads changes, because the time until now passed at the old speed.
        host.advance(now);
        host.busy.push(Ending { at: host.progress + work, thread });
        host.predict(number, now)
    }

    /// Returns the effect of a thread's current job, if it has one.
    pub(crate) fn next(&self, thread: Thread) -> Option<&T> {
        self.threads[thread].jobs.front().map(|job| &job.then)
    }

    /// Endpoint the job that was predicted to end now. Returns the thread, the effect of the job and the next
    /// prediction; `None` if the prediction is outdated.
    pub(crate) fn end(&mut self, foreseen: PredictedEnd) -> Option<(Thread, T, Option<PredictedEnd>)> {
        let PredictedEnd { at: now, host: number, change } = foreseen;
        let host = &mut self.hosts[number];
        // Predictions cannot be removed from the queue, so outdated ones are recognised here.
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
        Some((thread, job.then, host.predict(number, now)))
    }
}

impl Host {
    fn advance(&mut self, now: f64) {
        self.progress += (now - self.updated_at) * self.speed();
        self.updated_at = now;
    }

    /// Seconds of work that each busy thread does per second.
    fn speed(&self) -> f64 {
        let busy = self.busy.len().min(self.cores);
        // Crowding was measured with all cores busy; for fewer, it is interpolated.
        let crowded = if self.cores > 1 { (busy.max(1) - 1) as f64 / (self.cores - 1) as f64 } else { 0.0 };
        let share = (self.cores as f64 / self.busy.len().max(1) as f64).min(1.0);
        share / (1.0 + (self.crowding - 1.0) * crowded)
    }

    fn predict(&mut self, host: usize, now: f64) -> Option<PredictedEnd> {
        self.changes += 1;
        let next = self.busy.peek()?;
        // Rounding may put the end of a job slightly before the present.
        let at = now + (next.at - self.progress).max(0.0) / self.speed();
        Some(PredictedEnd { at, host, change: self.changes })
    }
}

impl Eq for Ending {}

impl PartialOrd for Ending {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// `BinaryHeap` returns the greatest entry first, so the earliest ending is the greatest.
impl Ord for Ending {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.total_cmp(&self.at).then(other.thread.cmp(&self.thread))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns when each of these jobs ends. Each is on its own thread of a host with this number of cores.
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
    fn a_thread_processes_its_jobs_in_order() {
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
