//! Synchronous rounds of real servers and workers, compared with bare sockets that move the same bytes.
//!
//! The workers answer each assignment immediately with a gradient that was computed beforehand. A round
//! therefore costs everything except the computation: sending gradients, folding, the update, and
//! distributing the new weights.

use crate::race::{Effort, quantile};
use crate::raw::{self, Transport};
use crate::stream::address;
use crate::{Bench, Error, Measurement};
use ps_config::RunConfig;
use ps_core::MetricSums;
use ps_core::gradient::Flow;
use ps_data::NoProgress;
use ps_net::Listener;
use ps_run::{Job, Recorder, Style};
use ps_server::{ServerOptions, ShardLayout};
use ps_shard::transport;
use ps_worker::{Computer, Ended, HostedShardOptions, WorkerOptions};
use std::collections::BTreeMap;
use std::future::pending;
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Two workers: the fewest whose gradients have to be added.
const WORKERS: u32 = 2;
/// With fewer rounds than this, quantiles are meaningless.
const MIN_ROUNDS: usize = 5;
/// Number of attempts: if the system holds one worker back, it may not do so in the next run.
const ATTEMPTS: usize = 5;

/// A number of parameters: its name, the width of two hidden layers that gives it, and the number of rounds.
struct Size {
    name: &'static str,
    width: usize,
    rounds: usize,
}

fn sizes(effort: Effort) -> Vec<Size> {
    let size = |name, width, full, quick| Size { name, width, rounds: effort.pick(full, quick) };
    let mut sizes = vec![size("10kB", 48, 2000, 500), size("1MB", 498, 300, 60), size("10MB", 1579, 60, 15)];
    if effort == Effort::Full {
        sizes.push(size("100MB", 4998, 14, 0));
    }
    sizes
}

pub(crate) fn measure(bench: &mut Bench) -> Result<(), Error> {
    for size in sizes(bench.effort()) {
        let group = format!("round/{}", size.name);
        round(bench, &size, &group, "tcp", Transport::Tcp, false)?;
        for transport in Transport::ALL {
            let group = format!("round/beside-{}/{}", transport.name(), size.name);
            round(bench, &size, &group, "exchange", *transport, true)?;
        }
    }
    Ok(())
}

fn round(
    bench: &mut Bench,
    size: &Size,
    group: &str,
    bare: &str,
    transport: Transport,
    beside: bool,
) -> Result<(), Error> {
    if !bench.is_selected(group) {
        return Ok(());
    }
    let failed = |error: &dyn std::fmt::Display| Error::failed(group, error);
    // One feature, two hidden layers of width w and one output: 2 w + (w + 1) w + (w + 1) parameters.
    let elements = size.width * (size.width + 4) + 1;
    let bare_rounds = || {
        let make = if beside { raw::exchange } else { raw::via_server };
        make(transport, elements, size.rounds / 2).map(without_warmup).map_err(|error| failed(&error))
    };
    // Sockets and rounds take turns, as far as the time to start processes permits.
    let (mut sockets, mut ours) = (bare_rounds()?, Vec::new());
    for _ in 0..ATTEMPTS {
        ours.extend(without_warmup(rounds(size, elements, transport, beside).map_err(|why| failed(&why))?));
        if ours.len() >= MIN_ROUNDS {
            break;
        }
    }
    sockets.extend(bare_rounds()?);
    let [bare_name, p50_name, p99_name] = [bare, "p50", "p99"].map(|what| format!("{group}/{what}"));
    let us = |values: &[f64], at| quantile(values.to_vec(), at).map(|seconds| 1e6 * seconds);
    let bare = us(&sockets, 0.5).ok_or_else(|| failed(&"bare sockets made no round"))?;
    bench.report(Measurement::new(&bare_name, bare, "us"))?;
    let (true, Some(p50), Some(p99)) = (ours.len() >= MIN_ROUNDS, us(&ours, 0.5), us(&ours, 0.99)) else {
        let (count, rounds) = (ours.len(), ATTEMPTS * size.rounds);
        let why = format!(
            "both workers took part in only {count} of {rounds} rounds, because the machine was too busy to run them \
             side by side; measure again when it is idle"
        );
        bench.skip(group, why);
        return Ok(());
    };
    bench.report(Measurement::new(&p50_name, p50, "us").against(&bare_name, bare))?;
    bench.report(Measurement::new(p99_name, p99, "us").against(&p50_name, p50))
}

/// Drops the first tenth of the rounds, in which buffers are allocated and TCP windows grow.
fn without_warmup(mut seconds: Vec<f64>) -> Vec<f64> {
    seconds.drain(..seconds.len().div_ceil(10));
    seconds
}

/// Seconds of each round of a server and its workers in which all workers took part, as seen by one of them.
fn rounds(size: &Size, elements: usize, transport: Transport, beside: bool) -> Result<Vec<f64>, String> {
    let folder = tempfile::tempdir().map_err(|error| format!("a temporary folder: {error}"))?;
    std::fs::write(folder.path().join("two.csv"), "a,b\n1,2\n3,4\n").map_err(|error| error.to_string())?;
    let run = RunConfig::parse(&run_file(size), "bench", &[]).map_err(|error| error.to_string())?;
    let job = Job::load(run, folder.path(), &NoProgress).map_err(|error| error.to_string())?;
    debug_assert_eq!(job.model.parameters(), elements);
    let recorder = Recorder::new(&job, None, Style::Quiet).map_err(|error| error.to_string())?;
    let listener = Listener::bind(&address(transport, folder.path())).map_err(|error| error.to_string())?;
    let address = listener.address().map_err(|error| error.to_string())?.to_string();
    let layout = if beside {
        ShardLayout { shards: WORKERS, coordinator_keeps: false }
    } else {
        ShardLayout::default()
    };
    let options = ServerOptions { min_workers: WORKERS, layout, ..ServerOptions::default() };
    let server = named("server", move || {
        let runtime = transport::runtime().map_err(|error| error.to_string())?;
        let served = runtime.block_on(ps_server::run(listener, job, options, recorder, pending(), Ok));
        served.map(drop).map_err(|error| format!("the server: {error}"))
    })?;
    let (sender, requests) = mpsc::channel();
    let workers: Vec<_> = (0..WORKERS)
        .map(|index| {
            let options = worker(&address, folder.path(), index, transport, beside);
            let computer = Box::new(Ready { worker: index, requests: sender.clone() });
            named("worker", move || work(options, computer))
        })
        .collect::<Result<_, String>>()?;
    // The channel closes when the last worker has ended, which ends the collection below.
    drop(sender);
    let requests: Vec<Request> = requests.into_iter().collect();
    for worker in workers {
        worker.join().map_err(|_| "a worker panicked".to_owned())??;
    }
    server.join().map_err(|_| "the server panicked".to_owned())??;
    Ok(complete_rounds(&requests))
}

/// Seconds of each round in which all workers were asked for gradients, until one of them was asked for those
/// of the next step.
/// The coordinator reassigns the leaves of a worker that is slow or not scheduled. A round without one of the
/// workers moves fewer gradients than the bare sockets do, and the time until that worker is asked again
/// spans several rounds, so neither counts.
fn complete_rounds(requests: &[Request]) -> Vec<f64> {
    let mut rounds: BTreeMap<u64, BTreeMap<u32, Instant>> = BTreeMap::new();
    for request in requests {
        // Late leaves are requested again; the first request counts.
        rounds.entry(request.step).or_default().entry(request.worker).or_insert(request.at);
    }
    let seconds = |(step, workers): (&u64, &BTreeMap<u32, Instant>)| {
        let next = rounds.get(&(step + 1)).filter(|_| workers.len() == WORKERS as usize)?;
        let both = workers.iter().find_map(|(worker, begin)| Some((*begin, *next.get(worker)?)));
        both.map(|(begin, end)| (end - begin).as_secs_f64())
    };
    rounds.iter().filter_map(seconds).collect()
}

/// Starts a thread with a name that profilers show.
fn named<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<std::thread::JoinHandle<T>, String> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(run);
    thread.map_err(|error| format!("starting a thread: {error}"))
}

/// Returns a run file with a model of this size, and two samples: one for each worker.
fn run_file(size: &Size) -> String {
    let Size { width, rounds, .. } = size;
    format!(
        "[data]\ntrain = \"csv:two.csv\"\n[model]\nkind = \"mlp\"\nhead = \"squared-error\"\nhidden = [{width}, {width}]\n\
         [train]\nepochs = {}\nbatch = 2\nleaf = 1\n[optimizer]\nmomentum = 0.9\n[learning_rate]\ninitial = 0.001\n",
        rounds + 1
    )
}

fn worker(server: &str, folder: &Path, index: u32, transport: Transport, beside: bool) -> WorkerOptions {
    let listen = match transport {
        Transport::Tcp => "127.0.0.1:0".into(),
        #[cfg(unix)]
        Transport::Unix => format!("unix:{}", folder.join(format!("shard-{index}")).display()),
    };
    WorkerOptions {
        data_root: Some(folder.into()),
        threads: Some(1),
        patience: Duration::from_secs(10),
        shard: beside.then_some(HostedShardOptions { listen, advertise: None }),
        ..WorkerOptions::new(server, format!("worker-{index}"))
    }
}

fn work(options: WorkerOptions, computer: Box<Ready>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    match runtime.block_on(ps_worker::run_with(options, Some(computer), pending())) {
        Ok(Ended::Done) => Ok(()),
        Ok(ended) => Err(format!("a worker did not train to the end: {ended:?}")),
        Err(error) => Err(format!("a worker: {error}")),
    }
}

/// A worker with precomputed gradients, which records when it is asked for them.
struct Ready {
    worker: u32,
    requests: mpsc::Sender<Request>,
}

/// A request for the gradients of a step. At that time, all weights of that step have arrived.
struct Request {
    worker: u32,
    step: u64,
    at: Instant,
}

/// Value of every element of every gradient.
const GRADIENT: f32 = 0.001;

impl Computer for Ready {
    fn compute(&mut self, job: &Job, flow: &mut dyn Flow, step: u64, leaves: Range<u32>) -> bool {
        if flow.weights(job.model.parameters()).is_none() {
            return false;
        }
        // The receiver outlives the workers, so sending does not fail.
        let _ = self.requests.send(Request { worker: self.worker, step, at: Instant::now() });
        let (tree, mut number) = (job.plan.step(step).tree(), 0);
        tree.cover_each(leaves, |node| {
            let samples = tree.leaves_of(node).len() as u64;
            *flow.node(node) = MetricSums { samples, ..MetricSums::new(job.model.classes()) };
            let gradient = flow.gradient(number);
            // A buffer that was used before already holds the value.
            if gradient[0] != GRADIENT {
                gradient.fill(GRADIENT);
            }
            flow.finished(number, 0);
            number += 1;
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates requests at whole seconds, from (worker, step, seconds).
    fn rounds_of(requests: &[(u32, u64, u64)]) -> Vec<f64> {
        let start = Instant::now();
        let request =
            |&(worker, step, second)| Request { worker, step, at: start + Duration::from_secs(second) };
        complete_rounds(&requests.iter().map(request).collect::<Vec<_>>())
    }

    #[test]
    fn a_round_ends_when_a_worker_gets_its_next_request() {
        assert_eq!(rounds_of(&[(0, 0, 0), (1, 0, 1), (0, 1, 3), (1, 1, 3), (1, 2, 7)]), [3.0, 4.0]);
        // The same leaves are requested again because they were late.
        assert_eq!(rounds_of(&[(0, 0, 0), (1, 0, 0), (0, 0, 5), (0, 1, 6)]), [6.0]);
    }

    #[test]
    fn rounds_without_one_of_the_workers_do_not_count() {
        assert_eq!(rounds_of(&[(0, 0, 0), (1, 0, 0), (1, 1, 2), (1, 2, 4), (0, 3, 6), (1, 3, 6)]), [2.0]);
        // The first worker took part only in the first step, so no later round was complete.
        assert!(rounds_of(&[(0, 0, 0), (1, 1, 2), (1, 2, 4)]).is_empty());
        assert!(rounds_of(&[]).is_empty());
    }
}
