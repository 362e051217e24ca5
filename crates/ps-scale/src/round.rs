//! Rounds in virtual time: the threads and messages by which the state machines of all processes communicate.
//!
//! The state machines of `ps_coord` make all decisions, and `servers` and `worker` carry them out. This
//! module adds the costs.

use crate::cluster::{Cluster, Link, Placement, WeightHolders};
use crate::costs::Costs;
use crate::host::{Hosts, Job, PredictedEnd, Thread};
use crate::network::{Departure, Network, Process, Transfer};
use crate::queue::EventQueue;
use crate::servers::{Coordinator, WeightShard};
use crate::worker::{Stage, Worker, stages};
use ps_coord::{CoordinatorEvent, Millis, ServerEvent, ShardEvent};
use ps_plan::{Gathered, Node, Tree};
use std::collections::BTreeMap;
use std::ops::Range;

/// Number of steps before a steady state is measured, and number of measured steps, if all steps are alike.
const STEPS: [u64; 2] = [2, 4];
/// Number of measured steps if stragglers or jitter make them differ, with few and with many workers. With
/// many workers the slowest of them is about equally late in every step, so few steps are enough.
const UNEVEN_STEPS: [u64; 2] = [30, 5];
/// The number of workers from which on they count as many.
const MANY_WORKERS: usize = 128;
/// Size of the headers of a message besides its chunk: ours, and those of HTTP/2 and gRPC.
const HEADER_BYTES: f64 = 64.0;

/// Returns the mean seconds of a step in the steady state.
pub fn step_seconds(cluster: &Cluster, costs: &Costs) -> f64 {
    let [before, mut steps] = STEPS;
    if cluster.stragglers.is_some() || costs.jitter > 0.0 {
        steps = UNEVEN_STEPS[usize::from(cluster.workers >= MANY_WORKERS)];
    }
    let mut rounds = Rounds::new(cluster, costs);
    let begun = rounds.run(before);
    (rounds.run(before + steps) - begun) / steps as f64
}

/// A message between threads of different processes. Shards (`part`) and workers are identified by index.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    /// A chunk of a node's gradient, from a worker to a shard.
    Gradient { step: u64, node: Node, part: usize, chunk: usize },
    /// A chunk of weights; a shard sends it to every worker.
    Weights { version: u64, worker: usize, part: usize, chunk: usize },
    /// From a worker to the coordinator. Boxed to keep the far more frequent chunks small.
    ToServer(Box<ServerEvent>),
    /// From a shard to the coordinator.
    ToCoordinator(Box<CoordinatorEvent>),
    /// The coordinator assigns leaves to a worker.
    Assign { worker: usize, step: u64, leaves: Range<u32> },
    /// The coordinator asks a shard which leaves it lacks.
    RequestMissing { part: usize, step: u64 },
}

/// The effect of a completed job.
#[derive(Debug)]
pub(crate) enum Done {
    Sent {
        from: Process,
        message: Message,
    },
    Received {
        from: Process,
        message: Message,
    },
    Folded {
        part: usize,
        chunk: usize,
        is_last: bool,
    },
    /// The coordinator has processed a message.
    Handled(Message),
    /// The coordinator has decided to send a message.
    Decided(Message),
    /// A worker has received an assignment of leaves.
    Given {
        worker: usize,
        step: u64,
        leaves: Range<u32>,
    },
    /// A worker has copied a chunk of weights; `chunk` is its index among all chunks of all shards.
    Taken {
        version: u64,
        worker: usize,
        chunk: usize,
    },
    /// One of a worker's threads has finished its computation.
    Computed {
        worker: usize,
    },
}

#[derive(Debug)]
enum SimEvent {
    JobEnds(PredictedEnd),
    /// A job reaches a thread, after it was woken or after a transmission over the network.
    Reaches(Thread, Job<Done>),
    /// A message from the first to the second process has left the sender.
    Left(Process, Process),
    /// A message from this process has arrived.
    Arrives(Process, Message),
    /// A deadline of the round logic may have passed.
    Timer,
}

struct Threads {
    io: Vec<Thread>,
    /// The thread of the weights or of the round logic; `None` in workers that hold no weights.
    plane: Option<Thread>,
}

/// All processes, and everything in transit between them.
pub(crate) struct Rounds<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) costs: &'a Costs,
    now: f64,
    queue: EventQueue<SimEvent>,
    hosts: Hosts<Done>,
    network: Network<Message>,
    processes: Vec<Threads>,
    pub(crate) coordinator: Coordinator,
    pub(crate) parts: Vec<WeightShard>,
    pub(crate) workers: Vec<Worker>,
    /// The stages of a worker's computation.
    pub(crate) stages: Vec<Stage>,
    pub(crate) tree: Tree,
    /// Effects of jobs on a connection that become visible only at the end of a burst; see `finish`.
    held: BTreeMap<Thread, Vec<Done>>,
}

impl<'a> Rounds<'a> {
    /// Creates the state before the first step: all weights are where they are needed, and the processes are
    /// about to connect.
    fn new(cluster: &'a Cluster, costs: &'a Costs) -> Self {
        let parts_for = if cluster.holders == WeightHolders::Workers { cluster.workers } else { usize::MAX };
        assert!(
            (1..=parts_for).contains(&cluster.parts.len()),
            "each part has a holder, and there is one at least"
        );
        let mut hosts = Hosts::default();
        let mut network = Network::new(cluster.link.latency);
        // With a single chunk, a step needs the chunk of every worker, so the order in which they arrive does
        // not matter.
        let is_one_chunk = cluster.parts.iter().map(Vec::len).sum::<usize>() == 1;
        let unevenness = if is_one_chunk { 0.0 } else { cluster.link.unevenness };
        let link = Link { unevenness, ..cluster.link };
        let crowding = costs.crowding;
        let together =
            (cluster.placement == Placement::SharedHost).then(|| hosts.add_host(cluster.cores, crowding));
        let first_worker = match cluster.holders {
            WeightHolders::Servers => cluster.parts.len(),
            WeightHolders::Workers => 1,
        };
        let first_holder = match cluster.holders {
            WeightHolders::Servers => 0,
            WeightHolders::Workers => first_worker,
        };
        let mut processes = Vec::new();
        let mut workers = Vec::new();
        for process in 0..first_worker + cluster.workers {
            network.add(link);
            let host = together.unwrap_or_else(|| hosts.add_host(cluster.cores, crowding));
            let is_worker = process >= first_worker;
            let keeps = process >= first_holder && process - first_holder < cluster.parts.len();
            let io = if is_worker { 1 } else { serving_threads(cluster.cores) };
            let io = (0..io).map(|_| hosts.add_thread(host)).collect();
            let plane = (process == 0 || keeps).then(|| hosts.add_thread(host));
            processes.push(Threads { io, plane });
            if is_worker {
                let compute = (0..cluster.threads).map(|_| hosts.add_thread(host)).collect();
                workers.push(Worker::new(process, compute, cluster));
            }
        }
        let tree = Tree::new(cluster.leaves);
        let mut rounds = Rounds {
            cluster,
            costs,
            now: 0.0,
            queue: EventQueue::default(),
            hosts,
            network,
            processes,
            coordinator: Coordinator::new(cluster),
            parts: WeightShard::all(cluster, first_holder, tree),
            workers,
            stages: stages(cluster, costs),
            tree,
            held: BTreeMap::new(),
        };
        rounds.start_workers();
        rounds.start_shards();
        rounds
    }

    /// Simulates until `steps` steps are made. Returns the time of the last one, in seconds.
    fn run(&mut self, steps: u64) -> f64 {
        while self.coordinator.version() < steps {
            let (at, event) = self.queue.next().expect("a round goes on until it is closed");
            self.now = at;
            match event {
                SimEvent::JobEnds(foreseen) => {
                    if let Some((thread, done, next)) = self.hosts.end(foreseen) {
                        self.predict(next);
                        self.finish(thread, done);
                    }
                }
                SimEvent::Reaches(thread, job) => {
                    let next = self.hosts.give(thread, self.now, job);
                    self.predict(next);
                }
                SimEvent::Left(from, to) => {
                    let departure = self.network.next(self.now, from, to);
                    self.depart(from, departure);
                }
                SimEvent::Arrives(from, message) => self.arrive(from, message),
                SimEvent::Timer => self.coordinator_timer(),
            }
        }
        self.now
    }

    /// The time as the state machines see it.
    pub(crate) fn millis(&self) -> Millis {
        (self.now * 1e3) as Millis
    }

    /// Schedules a call of [`Rounds::coordinator_timer`] at this time.
    pub(crate) fn set_timer(&mut self, at: Millis) {
        // The margin keeps rounding from making the time too early.
        self.queue.put(self.now.max((at as f64 + 1e-3) / 1e3), SimEvent::Timer);
    }

    /// Handles the end of a job. A thread that serves a connection continues with it for as long as it can,
    /// and only then do its effects become visible to others: a receiver reads its socket until it is empty
    /// before it passes anything on. On a single machine it does not even start before the sender pauses,
    /// because the system wakes it on the sender's core.
    fn finish(&mut self, thread: Thread, done: Done) {
        let Some(burst) = self.burst(&done) else { return self.follow(done) };
        let goes_on = self.hosts.next(thread).and_then(|next| self.burst(next)) == Some(burst);
        self.held.entry(thread).or_default().push(done);
        if !goes_on {
            for done in self.held.remove(&thread).into_iter().flatten() {
                self.follow(done);
            }
        }
    }

    /// Returns the connection, by sender and receiver, on which a job is part of a burst; `None` if its
    /// effect is visible immediately.
    fn burst(&self, done: &Done) -> Option<(Process, Process)> {
        match done {
            Done::Sent { from, message } if self.cluster.link.bandwidth.is_infinite() => {
                Some((*from, self.receiver(message)))
            }
            Done::Received { from, message } => Some((*from, self.receiver(message))),
            _ => None,
        }
    }

    fn follow(&mut self, done: Done) {
        match done {
            Done::Sent { from, message } => self.sent(from, message),
            Done::Received { message, .. } => self.received(message),
            Done::Folded { part, chunk, is_last } => {
                if is_last {
                    self.updated(part, chunk);
                }
            }
            Done::Handled(Message::ToServer(event)) => self.server_steps(*event),
            Done::Handled(Message::ToCoordinator(event)) => self.coordinator_steps(*event),
            Done::Handled(_) => {}
            Done::Decided(message) => self.send(0, message),
            Done::Given { worker, step, leaves } => self.worker_is_given(worker, step, leaves),
            Done::Taken { version, worker, chunk } => {
                self.workers[worker].received[chunk] = version;
                self.compute(worker);
            }
            Done::Computed { worker } => {
                self.workers[worker].computing -= 1;
                self.compute(worker);
            }
        }
    }

    /// Sends a message from a process. Within a process, it is only passed to another thread.
    pub(crate) fn send(&mut self, from: Process, message: Message) {
        let to = self.receiver(&message);
        let work = if from == to { self.costs.switch } else { self.work(&message, self.costs.send_byte) };
        let thread = self.io_thread(from, to);
        self.hand(thread, self.costs.handoff, work, Done::Sent { from, message });
    }

    fn sent(&mut self, from: Process, message: Message) {
        let to = self.receiver(&message);
        if from == to {
            self.received(message);
        } else if self.cluster.link.bandwidth.is_finite() {
            let bytes = self.bytes(&message) + HEADER_BYTES;
            let departure = self.network.send(self.now, from, Transfer { to, bytes, content: message });
            self.depart(from, departure);
        } else {
            self.queue.put(self.now + self.cluster.link.latency, SimEvent::Arrives(from, message));
        }
    }

    fn depart(&mut self, from: Process, departure: Option<Departure<Message>>) {
        let Some(Departure { out_at, there_at, transfer }) = departure else { return };
        self.queue.put(out_at, SimEvent::Left(from, transfer.to));
        self.queue.put(there_at, SimEvent::Arrives(from, transfer.content));
    }

    fn arrive(&mut self, from: Process, message: Message) {
        let to = self.receiver(&message);
        let work = self.work(&message, self.costs.receive_byte);
        let thread = self.io_thread(to, from);
        self.hand(thread, self.costs.wire_wake, work, Done::Received { from, message });
    }

    fn received(&mut self, message: Message) {
        match message {
            Message::Gradient { step, node, part: number, chunk } => {
                let is_only_part = self.parts.len() == 1;
                let part = &mut self.parts[number];
                let holder = part.holder;
                let is_first = part.covered[chunk].covered() == 0;
                let is_new =
                    step == part.version && matches!(part.covered[chunk].gather(node), Gathered::New { .. });
                let is_last = is_new && part.covered[chunk].is_complete();
                let bytes = f64::from(part.chunks[chunk]);
                // With several shards, no single one can attribute a value that is not finite to a worker, so
                // shards do not check for them.
                let mut byte = if is_only_part { self.costs.check_byte } else { 0.0 };
                // The first node is only stored, and the last one is added by the update.
                if is_new && !is_first && !is_last {
                    byte += self.costs.add_byte;
                }
                if is_last {
                    byte += self.costs.update_byte;
                }
                let work = bytes * byte + self.control();
                self.plane(holder, work, Done::Folded { part: number, chunk, is_last });
            }
            Message::Weights { version, worker, part, chunk } => {
                let work = self.costs.switch + self.bytes(&message) * self.costs.take_byte;
                let chunk = self.parts[part].first + chunk;
                let thread = self.workers[worker].compute[0];
                self.hand(thread, self.costs.handoff, work, Done::Taken { version, worker, chunk });
            }
            Message::ToServer(_) | Message::ToCoordinator(_) => self.coordinate(Done::Handled(message)),
            Message::RequestMissing { part, step } => {
                self.shard_steps(part, ShardEvent::MissingRequested { step })
            }
            Message::Assign { worker, step, leaves } => {
                let thread = self.workers[worker].compute[0];
                let done = Done::Given { worker, step, leaves };
                self.hand(thread, self.costs.handoff, self.costs.switch, done);
            }
        }
    }

    fn receiver(&self, message: &Message) -> Process {
        match message {
            Message::Gradient { part, .. } | Message::RequestMissing { part, .. } => self.parts[*part].holder,
            Message::Weights { worker, .. } | Message::Assign { worker, .. } => self.workers[*worker].process,
            Message::ToServer(_) | Message::ToCoordinator(_) => 0,
        }
    }

    fn bytes(&self, message: &Message) -> f64 {
        match message {
            Message::Gradient { part, chunk, .. } => f64::from(self.parts[*part].chunks[*chunk]),
            Message::Weights { part, chunk, .. } => {
                f64::from(self.parts[*part].chunks[*chunk]) * self.cluster.weight_share
            }
            _ => 0.0,
        }
    }

    /// Seconds to send or receive a message: proportional to its bytes, but at least a message's cost.
    fn work(&self, message: &Message, byte: f64) -> f64 {
        self.costs.message.max(self.bytes(message) * byte)
    }

    /// Seconds of the round logic for one message.
    fn control(&self) -> f64 {
        self.costs.control + self.costs.control_worker * self.workers.len() as f64
    }

    /// Runs the round logic of the coordinator, with the effect `then`.
    pub(crate) fn coordinate(&mut self, then: Done) {
        self.plane(0, self.control(), then);
    }

    fn plane(&mut self, process: Process, work: f64, then: Done) {
        let thread = self.processes[process].plane.expect("only coordinator and holders are sent these");
        self.hand(thread, self.costs.handoff, self.costs.switch + work, then);
    }

    /// Returns the thread that serves the connection to `peer`.
    fn io_thread(&self, process: Process, peer: Process) -> Thread {
        let threads = &self.processes[process].io;
        threads[peer % threads.len()]
    }

    pub(crate) fn hand(&mut self, thread: Thread, wake: f64, work: f64, then: Done) {
        let at = self.hosts.reaches(thread, self.now, wake);
        self.queue.put(at, SimEvent::Reaches(thread, Job { work, then }));
    }

    fn predict(&mut self, next: Option<PredictedEnd>) {
        if let Some(foreseen) = next {
            self.queue.put(foreseen.at, SimEvent::JobEnds(foreseen));
        }
    }
}

/// Number of threads that serve a server's connections on this number of cores, as in `ps-server`.
fn serving_threads(cores: usize) -> usize {
    if cores < 4 { 1 } else { (cores / 4).max(2) }
}
