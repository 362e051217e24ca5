//! Rounds: who does what after what has happened.

use crate::agenda::Agenda;
use crate::cluster::{Cluster, Keepers, Link, Placement, Stragglers};
use crate::costs::Costs;
use crate::host::{Foreseen, Hosts, Job, Thread};
use crate::network::{Departure, Network, Parcel, Process};
use ps_coord::assignment::assign;
use ps_plan::Tree;
use ps_plan::seed::{Purpose, random};
use std::collections::BTreeMap;

/// Steps before a steady state is measured, and steps that are measured, where all of them are alike.
const STEPS: [u64; 2] = [2, 4];
/// Steps that are measured where chance decides who is late, if there are few workers and if there are many: the last
/// of many is late in every step alike.
const UNEVEN_STEPS: [u64; 2] = [30, 5];
/// How many are many.
const MANY_WORKERS: usize = 128;
/// Bytes that a message has besides its chunk: headers of ours, of HTTP/2 and of gRPC.
const HEADER_BYTES: f64 = 64.0;

/// Mean seconds of a step in the steady state.
pub fn step_seconds(cluster: &Cluster, costs: &Costs) -> f64 {
    let [before, mut steps] = STEPS;
    if cluster.stragglers.is_some() || costs.jitter > 0.0 {
        steps = UNEVEN_STEPS[usize::from(cluster.workers >= MANY_WORKERS)];
    }
    let mut rounds = Rounds::new(cluster, costs);
    let begun = rounds.run(before);
    (rounds.run(before + steps) - begun) / steps as f64
}

/// What threads say to threads of other processes. A part of the weights is named by its number, as is a worker.
#[derive(Clone, Copy, Debug)]
enum Message {
    Gradient { part: usize, chunk: usize },
    Weights { worker: usize, part: usize, chunk: usize },
    NodeDone,
    Applied,
    Assign { worker: usize },
}

/// What is done when a job is.
#[derive(Debug)]
enum Done {
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
    /// The coordinator knows that a node, or a shard's step, is done.
    Counted,
    /// The coordinator has given a worker its leaves of the next step.
    GivenOut {
        worker: usize,
    },
    /// A worker has its leaves.
    Told {
        worker: usize,
    },
    /// It has copied a chunk of weights.
    Taken {
        worker: usize,
        /// Its number among all.
        chunk: usize,
    },
    /// One of its threads has computed.
    Computed {
        worker: usize,
    },
}

#[derive(Debug)]
enum Event {
    JobEnds(Foreseen),
    /// A job reaches a thread that was asleep, or whose job has come over the network.
    Reaches(Thread, Job<Done>),
    /// A message between two processes has left.
    Left(Process, Process),
}

struct Worker {
    process: Process,
    leaves: u32,
    nodes: usize,
    compute: Vec<Thread>,
    /// The version of each chunk of weights that is here.
    received: Vec<u64>,
    /// Seconds that its leaves take, once it has them.
    work: Option<f64>,
    /// The next of the stages of that.
    stage: usize,
    /// Threads that are computing.
    computing: usize,
    /// Steps of which its part is done.
    step: u64,
}

struct Part {
    keeper: Process,
    /// The number of its first chunk among all.
    first: usize,
    chunks: Vec<u32>,
    /// Nodes that have come of each chunk.
    arrived: Vec<usize>,
    /// Chunks updated.
    made: usize,
}

struct Threads {
    io: Vec<Thread>,
    /// Of a process that keeps weights or hands out work.
    plane: Option<Thread>,
}

struct Rounds<'a> {
    cluster: &'a Cluster,
    costs: &'a Costs,
    now: f64,
    agenda: Agenda<Event>,
    hosts: Hosts<Done>,
    network: Network<Message>,
    processes: Vec<Threads>,
    workers: Vec<Worker>,
    parts: Vec<Part>,
    /// How a worker's part goes.
    stages: Vec<Stage>,
    /// Nodes of a step.
    nodes: usize,
    /// What the coordinator still waits for in this step.
    awaited: usize,
    /// Steps made.
    version: u64,
    /// What threads have sent or received of which nobody knows yet.
    held: BTreeMap<Thread, Vec<Done>>,
}

impl<'a> Rounds<'a> {
    /// Before the first step: all weights are where they are needed, no leaves are given out.
    fn new(cluster: &'a Cluster, costs: &'a Costs) -> Self {
        let parts_for = if cluster.keepers == Keepers::Workers { cluster.workers } else { usize::MAX };
        assert!(
            (1..=parts_for).contains(&cluster.parts.len()),
            "each part has a keeper, and there is one at least"
        );
        let mut hosts = Hosts::default();
        let mut network = Network::new(cluster.link.latency);
        // Of a single chunk everybody's part must come in any case, whoever is first.
        let is_one_chunk = cluster.parts.iter().map(Vec::len).sum::<usize>() == 1;
        let unevenness = if is_one_chunk { 0.0 } else { cluster.link.unevenness };
        let link = Link { unevenness, ..cluster.link };
        let crowding = costs.crowding;
        let together =
            (cluster.placement == Placement::Together).then(|| hosts.add_host(cluster.cores, crowding));
        let first_worker = match cluster.keepers {
            Keepers::Servers => cluster.parts.len(),
            Keepers::Workers => 1,
        };
        let first_keeper = match cluster.keepers {
            Keepers::Servers => 0,
            Keepers::Workers => first_worker,
        };
        let tree = Tree::new(cluster.leaves);
        let mut processes = Vec::new();
        let mut workers = Vec::new();
        let mut shares = assign(0..cluster.leaves, &vec![1.0; cluster.workers]).into_iter();
        for process in 0..first_worker + cluster.workers {
            network.add(link);
            let host = together.unwrap_or_else(|| hosts.add_host(cluster.cores, crowding));
            let is_worker = process >= first_worker;
            let keeps = process >= first_keeper && process - first_keeper < cluster.parts.len();
            let io = if is_worker { 1 } else { serving_threads(cluster.cores) };
            let io = (0..io).map(|_| hosts.add_thread(host)).collect();
            let plane = (process == 0 || keeps).then(|| hosts.add_thread(host));
            processes.push(Threads { io, plane });
            if is_worker {
                let leaves = shares.next().unwrap_or_default();
                workers.push(Worker {
                    process,
                    leaves: leaves.len() as u32,
                    nodes: tree.cover(leaves).len(),
                    compute: (0..cluster.threads).map(|_| hosts.add_thread(host)).collect(),
                    received: vec![0; cluster.parts.iter().map(Vec::len).sum()],
                    work: None,
                    stage: 0,
                    computing: 0,
                    step: 0,
                });
            }
        }
        let parts = cluster.parts.iter().enumerate().map(|(number, chunks)| Part {
            keeper: first_keeper + number,
            first: cluster.parts[..number].iter().map(Vec::len).sum(),
            arrived: vec![0; chunks.len()],
            made: 0,
            chunks: chunks.clone(),
        });
        let parts = parts.collect();
        let nodes = workers.iter().map(|worker| worker.nodes).sum();
        let mut rounds = Rounds {
            cluster,
            costs,
            now: 0.0,
            agenda: Agenda::default(),
            hosts,
            network,
            processes,
            workers,
            parts,
            stages: stages(cluster, costs),
            nodes,
            awaited: 0,
            version: 0,
            held: BTreeMap::new(),
        };
        rounds.open();
        rounds
    }

    /// Goes on until so many steps are made; the time at which the last one was.
    fn run(&mut self, steps: u64) -> f64 {
        while self.version < steps {
            let (at, event) = self.agenda.next().expect("a round goes on until it is closed");
            self.now = at;
            match event {
                Event::JobEnds(foreseen) => {
                    if let Some((thread, done, next)) = self.hosts.end(foreseen) {
                        self.foresee(next);
                        self.finish(thread, done);
                    }
                }
                Event::Reaches(thread, job) => {
                    let next = self.hosts.give(thread, self.now, job);
                    self.foresee(next);
                }
                Event::Left(from, to) => {
                    let departure = self.network.next(self.now, from, to);
                    self.depart(from, departure);
                }
            }
        }
        self.now
    }

    /// A thread that serves a connection goes on with it as long as it can, and only then does anybody get what came:
    /// a receiver reads its socket empty before it hands anything on. On one machine it does not even begin before the
    /// sender pauses, for the system wakes it on the sender's core.
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

    /// The connection, and its direction, on which a job goes on; `None` if others see at once what it brings about.
    fn burst(&self, done: &Done) -> Option<(Process, Process)> {
        match *done {
            Done::Sent { from, message } if self.cluster.link.bandwidth.is_infinite() => {
                Some((from, self.receiver(message)))
            }
            Done::Received { from, message } => Some((from, self.receiver(message))),
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
            Done::Counted => {
                self.awaited -= 1;
                if self.awaited == 0 {
                    self.version += 1;
                    self.open();
                }
            }
            Done::GivenOut { worker } => self.send(0, Message::Assign { worker }),
            Done::Told { worker } => self.told(worker),
            Done::Taken { worker, chunk } => {
                self.workers[worker].received[chunk] += 1;
                self.compute(worker);
            }
            Done::Computed { worker } => {
                self.workers[worker].computing -= 1;
                self.compute(worker);
            }
        }
    }

    /// The coordinator gives out the leaves of the next step.
    fn open(&mut self) {
        let others = self.parts.iter().filter(|part| part.keeper != 0).count();
        self.awaited = self.nodes + others;
        for worker in 0..self.workers.len() {
            if self.workers[worker].leaves > 0 {
                self.plane(0, self.control(), Done::GivenOut { worker });
            }
        }
    }

    /// A worker has its leaves of the next step.
    fn told(&mut self, number: usize) {
        let worker = &mut self.workers[number];
        let words = random(self.cluster.seed, Purpose::Simulation, worker.step as u32, number as u64);
        let [first, second, third, straggles] = words.map(|word| f64::from(word) / 4_294_967_296.0);
        // The sum of three uniform numbers is nearly normal, of mean 3/2 and variance 1/4.
        let deviation = 2.0 * (first + second + third - 1.5);
        let mut seconds = self.costs.compute_seconds(worker.leaves, worker.nodes);
        seconds *= (1.0 + self.costs.jitter * deviation).max(0.0);
        if let Some(Stragglers { share, factor }) = self.cluster.stragglers
            && straggles < share
        {
            seconds *= factor;
        }
        worker.work = Some(seconds);
        self.compute(number);
    }

    /// A worker that has work goes on with it as far as it can.
    fn compute(&mut self, number: usize) {
        loop {
            let worker = &mut self.workers[number];
            let Some(seconds) = worker.work.filter(|_| worker.computing == 0) else { return };
            let stage = self.stages.get(worker.stage).copied();
            worker.stage += 1;
            match stage {
                Some(Stage::Needs(chunks)) => {
                    if worker.received[..chunks].iter().any(|&version| version < worker.step) {
                        worker.stage -= 1;
                        return;
                    }
                }
                Some(Stage::Works(share)) => {
                    worker.computing = worker.compute.len();
                    for thread in worker.compute.clone() {
                        self.hand(thread, 0.0, seconds * share, Done::Computed { worker: number });
                    }
                    return;
                }
                Some(Stage::Gives(chunks)) => self.push(number, chunks),
                None => {
                    (worker.work, worker.stage) = (None, 0);
                    worker.step += 1;
                    let (process, nodes) = (worker.process, worker.nodes);
                    (0..nodes).for_each(|_| self.send(process, Message::NodeDone));
                    return;
                }
            }
        }
    }

    /// A worker sends some chunks of its nodes. Connections take turns; where each worker begins with another one,
    /// nobody's way in is crowded, as it is when they share their ways evenly.
    fn push(&mut self, number: usize, chunks: [usize; 2]) {
        let Worker { process, nodes, .. } = self.workers[number];
        let [first, end] = chunks;
        let parts = self.parts.len();
        for _ in 0..nodes {
            let longest = self.parts.iter().map(|part| part.chunks.len()).max().unwrap_or(0);
            for chunk in 0..longest {
                for turn in 0..parts {
                    let number = (number + 1 + turn) % parts;
                    let part = &self.parts[number];
                    if chunk < part.chunks.len() && (first..end).contains(&(part.first + chunk)) {
                        self.send(process, Message::Gradient { part: number, chunk });
                    }
                }
            }
        }
    }

    /// A chunk is updated: it goes to every worker.
    fn updated(&mut self, number: usize, chunk: usize) {
        let part = &mut self.parts[number];
        part.made += 1;
        part.arrived[chunk] = 0;
        let (keeper, is_whole) = (part.keeper, part.made == part.chunks.len());
        if is_whole {
            part.made = 0;
        }
        let workers = self.workers.len();
        for turn in 0..workers {
            let worker = (number + 1 + turn) % workers;
            self.send(keeper, Message::Weights { worker, part: number, chunk });
        }
        if is_whole && keeper != 0 {
            self.send(keeper, Message::Applied);
        }
    }

    /// Has a process send something. What stays inside a process is only handed over.
    fn send(&mut self, from: Process, message: Message) {
        let to = self.receiver(message);
        let work = if from == to { self.costs.switch } else { self.work(message, self.costs.send_byte) };
        let thread = self.io_thread(from, to);
        self.hand(thread, self.costs.handoff, work, Done::Sent { from, message });
    }

    fn sent(&mut self, from: Process, message: Message) {
        let to = self.receiver(message);
        if from == to {
            self.received(message);
        } else if self.cluster.link.bandwidth.is_finite() {
            let bytes = self.bytes(message) + HEADER_BYTES;
            let departure = self.network.send(self.now, from, Parcel { to, bytes, content: message });
            self.depart(from, departure);
        } else {
            self.arrive(self.now + self.cluster.link.latency, from, message);
        }
    }

    fn depart(&mut self, from: Process, departure: Option<Departure<Message>>) {
        let Some(Departure { out_at, there_at, parcel }) = departure else { return };
        self.agenda.put(out_at, Event::Left(from, parcel.to));
        self.arrive(there_at, from, parcel.content);
    }

    fn arrive(&mut self, at: f64, from: Process, message: Message) {
        let to = self.receiver(message);
        let work = self.work(message, self.costs.receive_byte);
        let thread = self.io_thread(to, from);
        let job = Job { work, then: Done::Received { from, message } };
        let reaches = self.hosts.reaches(thread, at, self.costs.wire_wake);
        self.agenda.put(reaches, Event::Reaches(thread, job));
    }

    fn received(&mut self, message: Message) {
        match message {
            Message::Gradient { part: number, chunk } => {
                let is_only_part = self.parts.len() == 1;
                let part = &mut self.parts[number];
                let keeper = part.keeper;
                part.arrived[chunk] += 1;
                let is_last = part.arrived[chunk] == self.nodes;
                let bytes = f64::from(part.chunks[chunk]);
                // Where others keep a part, nobody can tell who sent what is not finite, so nobody looks.
                let mut byte = if is_only_part { self.costs.check_byte } else { 0.0 };
                // The first one is only kept, the last one is added by the update.
                if part.arrived[chunk] > 1 && !is_last {
                    byte += self.costs.add_byte;
                }
                if is_last {
                    byte += self.costs.update_byte;
                }
                let work = bytes * byte + self.control();
                self.plane(keeper, work, Done::Folded { part: number, chunk, is_last });
            }
            Message::Weights { worker, part, chunk } => {
                let chunk = self.parts[part].first + chunk;
                let work = self.costs.switch + self.bytes(message) * self.costs.take_byte;
                let thread = self.workers[worker].compute[0];
                self.hand(thread, self.costs.handoff, work, Done::Taken { worker, chunk });
            }
            Message::NodeDone | Message::Applied => self.plane(0, self.control(), Done::Counted),
            Message::Assign { worker } => {
                let thread = self.workers[worker].compute[0];
                self.hand(thread, self.costs.handoff, self.costs.switch, Done::Told { worker });
            }
        }
    }

    fn receiver(&self, message: Message) -> Process {
        match message {
            Message::Gradient { part, .. } => self.parts[part].keeper,
            Message::Weights { worker, .. } | Message::Assign { worker } => self.workers[worker].process,
            Message::NodeDone | Message::Applied => 0,
        }
    }

    fn bytes(&self, message: Message) -> f64 {
        match message {
            Message::Gradient { part, chunk } => f64::from(self.parts[part].chunks[chunk]),
            Message::Weights { part, chunk, .. } => {
                f64::from(self.parts[part].chunks[chunk]) * self.cluster.weight_share
            }
            Message::NodeDone | Message::Applied | Message::Assign { .. } => 0.0,
        }
    }

    /// Seconds to send or receive a message: of a large one the bytes count, of a small one that it is one.
    fn work(&self, message: Message, byte: f64) -> f64 {
        self.costs.message.max(self.bytes(message) * byte)
    }

    /// Seconds of the round logic for one message.
    fn control(&self) -> f64 {
        self.costs.control + self.costs.control_worker * self.workers.len() as f64
    }

    fn plane(&mut self, process: Process, work: f64, then: Done) {
        let thread = self.processes[process].plane.expect("only coordinator and keepers are sent these");
        self.hand(thread, self.costs.handoff, self.costs.switch + work, then);
    }

    /// The thread that serves the connection to `peer`.
    fn io_thread(&self, process: Process, peer: Process) -> Thread {
        let threads = &self.processes[process].io;
        threads[peer % threads.len()]
    }

    fn hand(&mut self, thread: Thread, wake: f64, work: f64, then: Done) {
        let at = self.hosts.reaches(thread, self.now, wake);
        self.agenda.put(at, Event::Reaches(thread, Job { work, then }));
    }

    fn foresee(&mut self, next: Option<Foreseen>) {
        if let Some(foreseen) = next {
            self.agenda.put(foreseen.at, Event::JobEnds(foreseen));
        }
    }
}

/// A worker's part: what it does one after the other.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The first so many chunks of weights must be here.
    Needs(usize),
    /// It computes for this share of the time that all takes.
    Works(f64),
    /// These chunks of the gradient are final.
    Gives([usize; 2]),
}

fn stages(cluster: &Cluster, costs: &Costs) -> Vec<Stage> {
    let starts: Vec<usize> = cluster
        .parts
        .iter()
        .flatten()
        .scan(0, |at, &bytes| Some(std::mem::replace(at, *at + bytes as usize / 4)))
        .collect();
    let all = starts.len();
    let before = |element| starts.partition_point(|&start| start < element);
    let mut stages = Vec::new();
    let mut done = 0.0;
    let mut work_until = |share: f64, stages: &mut Vec<Stage>| {
        stages.push(Stage::Works((share - done).max(0.0)));
        done = share.max(done);
    };
    for &(element, share) in &costs.needs {
        work_until(share, &mut stages);
        stages.push(Stage::Needs(before(element)));
    }
    stages.push(Stage::Needs(all));
    let mut end = all;
    for &(element, share) in &costs.gives {
        work_until(share, &mut stages);
        let first = before(element).min(end);
        stages.push(Stage::Gives([first, end]));
        end = first;
    }
    work_until(1.0, &mut stages);
    stages.push(Stage::Gives([0, end]));
    stages.retain(|stage| !matches!(stage, Stage::Works(share) if *share <= 0.0));
    stages
}

/// Threads that serve connections in a server on so many cores, as `ps-server` has them.
fn serving_threads(cores: usize) -> usize {
    if cores < 4 { 1 } else { (cores / 4).max(2) }
}
