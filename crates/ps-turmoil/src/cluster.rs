//! A run on simulated hosts, and the faults that it goes through.

use crate::disk::WatchedDisk;
use crate::processes::{Ended, Role, Scenario};
use crate::schedule::{Counts, Fault, Schedule};
use ps_core::{reference, weights_hash};
use ps_sim::seeds;
use std::cell::RefCell;
use std::fmt::Write;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tracing::info;
use turmoil::{Builder, Sim};

/// Virtual time that each host runs before the next one does; the network is frozen meanwhile.
const TICK: Duration = Duration::from_millis(5);
/// Virtual time after which no new fault occurs. A run that hangs is then not freed by the next fault.
const LAST_FAULT: Duration = Duration::from_secs(8);
/// Virtual time within which the run must end after the last fault.
const TIME_LIMIT: Duration = Duration::from_secs(240);
/// Pause before a process that gave up is restarted.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// The result of a run that met all requirements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// SHA-256 of the final weights.
    pub hash: String,
    /// Virtual time until the coordinator finished.
    pub took: Duration,
    /// How often each fault occurred.
    pub counts: Counts,
}

/// A requirement that was not met.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The seed that reproduces the run.
    pub seed: u64,
    /// The requirement, and how it was violated.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "seed {}: {}; replay it with: ps-turmoil --seed {} --trace",
            self.seed, self.what, self.seed
        )
    }
}

impl std::error::Error for Violation {}

/// A host and its process.
struct Process {
    role: Role,
    host: String,
    state: State,
    stop: Arc<Notify>,
    ended: Rc<RefCell<Option<Ended>>>,
    /// The error with which the process last ended.
    failed: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    /// Not running; restarts at this time.
    Down(Duration),
    /// Finished for good.
    Finished,
}

/// A fault that ends at a known time.
enum Repair {
    Partition(String, String),
    OneWay(String, String),
    Hold(String, String),
}

struct Cluster<'a> {
    sim: Sim<'a>,
    processes: Vec<Process>,
    /// The coordinator's disk.
    disk: WatchedDisk,
    schedule: Schedule,
    repairs: Vec<(Duration, Repair)>,
    counts: Counts,
}

/// Trains on simulated hosts under the faults of a seed. The final weights must be those of
/// the reference trainer.
///
/// # Errors
/// Returns the requirement that was not met.
fn simulate(seed: u64) -> Result<Report, Violation> {
    let run = || {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        std::fs::write(folder.path().join("flowers.csv"), flowers()).map_err(|error| error.to_string())?;
        let scenario = scenario(seed, folder.path());
        let job = scenario.job()?;
        let [train, validation] = job.parts();
        let mut trainer = reference::run(&job.model, job.trainer(), train, Some(validation), &mut |_, _| ())
            .map_err(|diverged| diverged.to_string())?;
        let validated = job.validate(trainer.weights());
        trainer.close(validated.as_ref());
        let report = Cluster::new(&scenario).run()?;
        match weights_hash(trainer.weights()) {
            hash if hash == report.hash => Ok(report),
            hash => Err(format!("the weights are {}, the reference trainer's {hash}", report.hash)),
        }
    };
    run().map_err(|what| Violation { seed, what })
}

/// Simulates many seeds on all processors, and calls `progress` with the number of completed ones. Returns
/// the sum of the counts and the longest time.
///
/// # Errors
/// Returns the first violation found.
pub fn simulate_all(seeds: Range<u64>, mut progress: impl FnMut(u64) + Send) -> Result<Report, Violation> {
    let (mut total, mut done) = (Report::default(), 0);
    seeds::run_all(seeds, simulate, |report| {
        total.took = total.took.max(report.took);
        total.counts.add(&report.counts);
        done += 1;
        progress(done);
    })?;
    Ok(total)
}

/// All policies at once.
const EVERYTHING: &str = r#"
early_stopping = 50
probe_every = 3
[optimizer]
kind = "adam"
clip_norm = 1.0
noise = 0.001
[learning_rate]
initial = 0.02
schedule = "plateau"
factor = 0.5
patience = 0
threshold = 0.3
[guard]
mode = "recover"
rise = 1.2
every = 5
"#;

/// A descent that checks its steps.
const DESCENT: &str = r#"
[learning_rate]
initial = 8.0
schedule = "armijo"
"#;

/// The run of a seed, and its numbers of servers and workers.
fn scenario(seed: u64, folder: &Path) -> Scenario {
    let servers = 1 + (seed % 3) as u32;
    // With several servers, the weights must have at least one chunk for each.
    let hidden = if servers == 1 { "8" } else { "180, 180" };
    let rest = match seed / 3 % 4 {
        0 => "[learning_rate]\ninitial = 0.05\n",
        1 => "[optimizer]\nmomentum = 0.9\n[learning_rate]\ninitial = 0.05\n",
        2 => EVERYTHING,
        _ => DESCENT,
    };
    // The steps of a descent are epochs.
    let (epochs, batch) = if rest == DESCENT { (40, "\"full\"") } else { (8, "24") };
    let run = format!(
        r#"
seed = {seed}
[data]
train = "csv:flowers.csv"
label = "species"
validation = 0.2
[model]
kind = "mlp"
hidden = [{hidden}]
[train]
epochs = {epochs}
batch = {batch}
leaf = 4
{rest}"#
    );
    Scenario { run, folder: folder.into(), servers, every: 1 + seed % 4, seed }
}

/// Generates a small data set with three classes.
fn flowers() -> String {
    let mut text = String::from("length,width,height,species\n");
    for row in 0..120 {
        let (class, bend) = (row % 3, f64::from(row * 37 % 101) / 101.0);
        let center = f64::from(class);
        let name = ["setosa", "versicolor", "virginica"][class as usize];
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:.4},{:.4},{:.4},{name}",
            center + bend,
            2.0 * center - bend * bend,
            bend - center / 2.0
        );
    }
    text
}

impl Cluster<'_> {
    fn new(scenario: &Scenario) -> Self {
        let mut schedule = Schedule::new(scenario.seed);
        let mut sim = Builder::new()
            .rng_seed(scenario.seed)
            .enable_random_order()
            .tick_duration(TICK)
            // Longer than the limit that `run` checks, so that a run that hangs ends with the states of its
            // processes instead of an error of turmoil.
            .simulation_duration(LAST_FAULT + 2 * TIME_LIMIT)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(30))
            .tcp_capacity(4096)
            .build();
        let workers = 1 + schedule.below(5) as u32;
        let disk = WatchedDisk::default();
        let roles = [Role::Coordinator]
            .into_iter()
            .chain((0..scenario.servers - 1).map(Role::Shard))
            .chain((0..workers).map(Role::Worker))
            .chain((scenario.seed % 4 == 3).then_some(Role::StalledWorker));
        let processes = roles.map(|role| {
            let (stop, ended) = (Arc::new(Notify::new()), Rc::new(RefCell::new(None)));
            let (given, heard, written, host) = (scenario.clone(), stop.clone(), ended.clone(), role.host());
            let disk = disk.clone();
            sim.host(host.clone(), move || {
                let process = given.clone().run(role, disk.clone(), heard.clone());
                let written = written.clone();
                async move {
                    *written.borrow_mut() = Some(process.await);
                    Ok(())
                }
            });
            Process { role, host, state: State::Up, stop, ended, failed: None }
        });
        let processes = processes.collect();
        Cluster { sim, processes, disk, schedule, repairs: Vec::new(), counts: Counts::default() }
    }

    fn run(mut self) -> Result<Report, String> {
        loop {
            let now = self.sim.elapsed();
            if let Some(hash) = self.handle_ended_processes(now)? {
                self.counts.saves = self.disk.saves();
                return Ok(Report { hash, took: now, counts: self.counts });
            }
            if self.disk.has_failed() {
                self.counts.power_failures += 1;
                match self.processes[0].state {
                    State::Up => {
                        let pause = self.schedule.time(1000);
                        self.kill(0, now + pause);
                    }
                    // The process ended itself because its disk had failed.
                    _ => self.stop_machine(),
                }
            }
            self.repair(now);
            self.restart_due(now);
            if now < LAST_FAULT
                && let Some(fault) = self.schedule.next()
            {
                self.inject(now, fault);
            }
            if now > LAST_FAULT + TIME_LIMIT {
                return Err(format!("not over after {} s: {}", now.as_secs(), self.states()));
            }
            self.sim.step().map_err(|error| error.to_string())?;
        }
    }

    /// Handles processes that have ended. Returns the hash of the weights once the run has finished.
    fn handle_ended_processes(&mut self, now: Duration) -> Result<Option<String>, String> {
        for process in &mut self.processes {
            let Some(ended) = process.ended.take() else { continue };
            info!(target: "cluster", "{now:?} {} ended: {ended:?}", process.host);
            process.state = match ended {
                Ended::Done(Some(hash)) => return Ok(Some(hash)),
                // Shards and workers hear of the end only once the results are durable, so they have nothing
                // left to do.
                Ended::Done(None) => State::Finished,
                Ended::Stopped => {
                    let count = match process.role {
                        Role::Coordinator => &mut self.counts.coordinator_stops,
                        Role::Shard(_) => &mut self.counts.shard_stops,
                        Role::Worker(_) | Role::StalledWorker => &mut self.counts.worker_stops,
                    };
                    *count += 1;
                    State::Down(now + self.schedule.time(1000))
                }
                Ended::Stuck => {
                    self.counts.idlers += 1;
                    State::Down(now + RESTART_PAUSE)
                }
                Ended::Failed(why) => {
                    self.counts.failures += 1;
                    process.failed = Some(why);
                    State::Down(now + RESTART_PAUSE)
                }
                Ended::Wrong(what) => return Err(format!("{}: {what}", process.host)),
            };
        }
        Ok(None)
    }

    fn kill(&mut self, index: usize, until: Duration) {
        let process = &mut self.processes[index];
        info!(target: "cluster", "{} dies until {until:?}", process.host);
        let count = match process.role {
            Role::Coordinator => &mut self.counts.coordinator_deaths,
            Role::Shard(_) => &mut self.counts.shard_deaths,
            Role::Worker(_) | Role::StalledWorker => &mut self.counts.worker_deaths,
        };
        *count += 1;
        self.sim.crash(process.host.as_str());
        // What the process reported before it died must not be taken for the end of the one that replaces it.
        process.ended.take();
        process.state = State::Down(until);
        // Decides whether the machine crashes with the process, as in a power failure.
        if process.role == Role::Coordinator && (self.disk.has_failed() || self.schedule.below(2) == 0) {
            self.stop_machine();
        }
    }

    fn stop_machine(&mut self) {
        self.counts.machine_stops += 1;
        self.disk.stop(self.schedule.below(1 << 30) as u64);
    }

    fn restart_due(&mut self, now: Duration) {
        for process in &mut self.processes {
            if !matches!(process.state, State::Down(until) if until <= now) {
                continue;
            }
            if process.role == Role::Coordinator {
                let count = match self.disk.durable() {
                    0 => &mut self.counts.fresh,
                    _ => &mut self.counts.restores,
                };
                *count += 1;
            }
            info!(target: "cluster", "{now:?} {} starts", process.host);
            process.state = State::Up;
            self.sim.bounce(process.host.as_str());
        }
    }

    fn inject(&mut self, now: Duration, fault: Fault) {
        info!(target: "cluster", "{now:?} {fault:?}");
        let index = self.schedule.below(self.processes.len());
        let is_up = self.processes[index].state == State::Up;
        let (a, b) = self.pair();
        match fault {
            Fault::Death(pause) if is_up => self.kill(index, now + pause),
            // The process is restarted after it has ended.
            Fault::Stop if is_up => self.processes[index].stop.notify_waiters(),
            Fault::PowerFailure(operations) => self.disk.fail_after(operations),
            Fault::Death(_) | Fault::Stop => {}
            Fault::Partition(time) => {
                self.counts.partitions += 1;
                self.sim.partition(a.as_str(), b.as_str());
                self.repairs.push((now + time, Repair::Partition(a, b)));
            }
            Fault::OneWay(time) => {
                self.counts.one_way += 1;
                self.sim.partition_oneway(a.as_str(), b.as_str());
                self.repairs.push((now + time, Repair::OneWay(a, b)));
            }
            Fault::Hold(time) => {
                self.counts.holds += 1;
                self.sim.hold(a.as_str(), b.as_str());
                self.repairs.push((now + time, Repair::Hold(a, b)));
            }
        }
    }

    /// Selects two hosts, one of them a server, in either order.
    fn pair(&mut self) -> (String, String) {
        // Workers have no connections to each other, so a fault between two of them would have no effect.
        let servers = self
            .processes
            .iter()
            .filter(|process| matches!(process.role, Role::Coordinator | Role::Shard(_)))
            .count();
        let server = self.schedule.below(servers);
        let mut other = self.schedule.below(self.processes.len() - 1);
        other += usize::from(other >= server);
        let [a, b] = [server, other].map(|index| self.processes[index].host.clone());
        if self.schedule.below(2) == 0 { (a, b) } else { (b, a) }
    }

    fn repair(&mut self, now: Duration) {
        let sim = &mut self.sim;
        self.repairs.retain(|(until, repair)| {
            let is_over = *until <= now;
            if is_over {
                match repair {
                    Repair::Partition(a, b) => sim.repair(a.as_str(), b.as_str()),
                    Repair::OneWay(a, b) => sim.repair_oneway(a.as_str(), b.as_str()),
                    Repair::Hold(a, b) => sim.release(a.as_str(), b.as_str()),
                }
            }
            !is_over
        });
    }

    fn states(&self) -> String {
        let state = |process: &Process| {
            let failed =
                process.failed.as_ref().map_or(String::new(), |why| format!(" (once failed: {why})"));
            format!("{} {:?}{failed}", process.host, process.state)
        };
        self.processes.iter().map(state).collect::<Vec<_>>().join(", ")
    }
}
