//! A server and workers in this process, each on a separate runtime that can be dropped as a whole.

#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its part, and a test may panic")]

use ps_config::{CheckpointArgs, RunConfig};
use ps_coord::Dismissal;
use ps_core::gradient::Flow;
use ps_core::{MetricSums, reference, weights_hash};
use ps_data::NoProgress;
use ps_net::{Address, Listener};
use ps_plan::Node;
use ps_proto::v1::parameter_server_client::ParameterServerClient;
use ps_proto::v1::{self, from_worker};
use ps_run::{Ban, Job, Recorder, RunFolder, Style};
use ps_server::{Finished, ServerError, ServerOptions};
use ps_shard::shard::{self, ShardOptions};
use ps_worker::{Computer, Ended, HostedShardOptions, WorkerError, WorkerOptions};
use std::fmt::{Display, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tonic::transport::Channel;

/// A folder with a data set of three classes; different seeds give different data.
pub(crate) fn data(seed: u32) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::from("length,width,height,species\n");
    let mut state = seed;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 24)
    };
    for row in 0..150 {
        let class = row % 3;
        let center = f64::from(class);
        let [a, b, c] = [center + noise(), 2.0 * center - noise(), noise() - center / 2.0];
        writeln!(text, "{a:.4},{b:.4},{c:.4},{}", ["setosa", "versicolor", "virginica"][class as usize])
            .unwrap();
    }
    std::fs::write(folder.path().join("flowers.csv"), text).unwrap();
    folder
}

/// The run: an MLP on that data, `epochs` times 5 steps of up to 8 leaves.
pub(crate) fn run_file(epochs: u32) -> String {
    format!(
        r#"
seed = 3
[data]
train = "csv:flowers.csv"
label = "species"
[model]
kind = "mlp"
hidden = [8]
[train]
epochs = {epochs}
batch = 32
leaf = 4
[optimizer]
momentum = 0.9
[learning_rate]
initial = 0.05
"#
    )
}

/// Like [`run_file`], with a model of three chunks, so that it can be split.
pub(crate) fn wide_run(epochs: u32, more: &str) -> String {
    run_file(epochs).replace("hidden = [8]", "hidden = [370, 370]") + more
}

pub(crate) fn job(run: &str, folder: &Path) -> Job {
    let run = RunConfig::parse(run, "test", &[]).unwrap();
    Job::load(run, folder, &NoProgress).unwrap()
}

/// The hash of the plain trainer's final weights.
pub(crate) fn reference_hash(job: &Job) -> String {
    let trained =
        reference::train(&job.model, job.plan, job.optimizer.clone(), &job.rate, &job.data.train, |_, _| {});
    weights_hash(&trained.unwrap())
}

/// A server on its own thread.
pub(crate) struct Server {
    pub address: Address,
    /// The job from which the reference is computed on request.
    job: Job,
    result: JoinHandle<Result<Finished, ServerError>>,
    stop: oneshot::Sender<()>,
}

impl Server {
    pub(crate) fn start(run: &str, folder: &Path, options: ServerOptions) -> Self {
        Server::start_at(TcpListener::bind("127.0.0.1:0").unwrap(), run, folder, options)
    }

    pub(crate) fn start_at(
        listener: impl Into<Listener>,
        run: &str,
        folder: &Path,
        options: ServerOptions,
    ) -> Self {
        let job = job(run, folder);
        let recorder = Recorder::new(&job, None, Style::Quiet).unwrap();
        Server::start_recording(listener, run, folder, options, recorder)
    }

    /// A server that saves the run in the folder `out` every `every` steps, and keeps `kept` checkpoints.
    pub(crate) fn start_in(
        out: &Path,
        (every, kept): (u64, u32),
        run: &str,
        folder: &Path,
        options: ServerOptions,
    ) -> Self {
        let wanted = CheckpointArgs {
            checkpoint_every: Some(every),
            checkpoint_seconds: 0,
            checkpoint_keep: kept,
            allow_fresh: false,
        };
        let job = job(run, folder);
        let out = RunFolder::create(Some(out), "test", Some(&job.run)).unwrap();
        let recorder = Recorder::with_checkpoints(&job, out, Style::Quiet, &wanted).unwrap();
        Server::start_recording(TcpListener::bind("127.0.0.1:0").unwrap(), run, folder, options, recorder)
    }

    fn start_recording(
        listener: impl Into<Listener>,
        run: &str,
        folder: &Path,
        options: ServerOptions,
        recorder: Recorder,
    ) -> Self {
        let listener = listener.into();
        let (job, own) = (job(run, folder), job(run, folder));
        let address = listener.address().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let result = std::thread::spawn(move || {
            runtime().block_on(ps_server::run(listener, job, options, recorder, shutdown, Ok))
        });
        Server { address, job: own, result, stop }
    }

    pub(crate) fn stop(self) -> Result<Finished, ServerError> {
        self.stop.send(()).unwrap();
        self.result.join().unwrap()
    }

    pub(crate) fn finish(self) -> Result<Finished, ServerError> {
        self.result.join().unwrap()
    }

    /// Waits for a successful end with the reference's hash. Returns the bans.
    pub(crate) fn finish_at_reference(self) -> Vec<Ban> {
        let reference = reference_hash(&self.job);
        let finished = self.finish().unwrap_or_else(|error| panic!("{error}"));
        assert!(finished.is_done);
        assert_eq!(weights_hash(&finished.weights), reference);
        finished.recorder.bans().to_vec()
    }

    pub(crate) async fn client(&self) -> ParameterServerClient<Channel> {
        client(&self.address).await
    }

    /// Returns when `version` steps are made.
    pub(crate) async fn reach(&self, version: u64) -> v1::StatusReply {
        reach(&mut self.client().await, version).await
    }

    /// The addresses of the other shards, once there are `shards` of them.
    pub(crate) async fn shard_addresses(&self, shards: usize) -> Vec<v1::ShardPlace> {
        let mut client = self.client().await;
        loop {
            if let Ok(reply) = client.shards(v1::ShardsRequest {}).await {
                let addresses = reply.into_inner().shards;
                assert_eq!(addresses.len(), shards);
                return addresses;
            }
        }
    }

    /// The greeting of a worker that matches the run.
    pub(crate) async fn hello(&self) -> v1::FromWorker {
        let request = v1::JoinRequest {
            protocol_version: ps_proto::limits::PROTOCOL_VERSION,
            worker_name: "test".into(),
            build: "test".into(),
            numerics_version: ps_core::NUMERICS_VERSION,
        };
        let reply = self.client().await.join(request).await.unwrap().into_inner();
        from_worker(from_worker::Message::Hello(v1::Hello {
            protocol_version: ps_proto::limits::PROTOCOL_VERSION,
            worker_name: "test".into(),
            build: "test".into(),
            fingerprints: reply.expected,
        }))
    }
}

pub(crate) async fn client(address: impl Display) -> ParameterServerClient<Channel> {
    ParameterServerClient::connect(format!("http://{address}")).await.unwrap()
}

/// Returns when a server has made `version` steps.
pub(crate) async fn reach(client: &mut ParameterServerClient<Channel>, version: u64) -> v1::StatusReply {
    loop {
        let status = client.status(v1::StatusRequest {}).await.unwrap().into_inner();
        if status.version >= version {
            return status;
        }
    }
}

pub(crate) fn from_worker(message: from_worker::Message) -> v1::FromWorker {
    v1::FromWorker { message: Some(message) }
}

/// A shard on its own thread.
pub(crate) struct Shard {
    result: JoinHandle<Option<Result<Dismissal, ServerError>>>,
    kill: oneshot::Sender<()>,
}

impl Shard {
    pub(crate) fn start(coordinator: &Address, index: u32, run: &str, folder: &Path) -> Self {
        Shard::start_with(coordinator, index, run, folder, ServerOptions::default())
    }

    pub(crate) fn start_with(
        coordinator: &Address,
        index: u32,
        run: &str,
        folder: &Path,
        options: ServerOptions,
    ) -> Self {
        let job = Arc::new(job(run, folder));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let placement = ShardOptions {
            coordinator: coordinator.to_string(),
            index: Some(index),
            address,
            meter: Arc::default(),
        };
        let (kill, killed) = oneshot::channel::<()>();
        let result = std::thread::spawn(move || {
            let runtime = runtime();
            let run = async {
                let (_shard, end) = shard::start(listener, job, &placement, &options).await?;
                end.await
            };
            let result = runtime.block_on(async {
                tokio::select! {
                    result = run => Some(result),
                    Ok(()) = killed => None,
                }
            });
            runtime.shutdown_background();
            result
        });
        Shard { result, kill }
    }

    pub(crate) fn kill(self) {
        self.kill.send(()).unwrap();
        assert!(self.result.join().unwrap().is_none());
    }

    pub(crate) fn finish(self) -> Result<Dismissal, ServerError> {
        self.result.join().unwrap().unwrap()
    }
}

/// A worker on its own thread.
pub(crate) struct Worker {
    result: JoinHandle<Option<Result<Ended, WorkerError>>>,
    kill: oneshot::Sender<()>,
}

impl Worker {
    pub(crate) fn start(server: impl Display, folder: &Path) -> Self {
        Worker::start_with(Worker::options(server, folder))
    }

    /// A worker that also keeps a part of the weights.
    pub(crate) fn start_with_shard(server: &Address, folder: &Path) -> Self {
        let place = HostedShardOptions { listen: "127.0.0.1:0".into(), advertise: None };
        Worker::start_with(WorkerOptions { shard: Some(place), ..Worker::options(server, folder) })
    }

    pub(crate) fn options(server: impl Display, folder: &Path) -> WorkerOptions {
        WorkerOptions {
            data_root: Some(folder.to_path_buf()),
            threads: Some(1),
            patience: Duration::from_secs(60),
            ..WorkerOptions::new(server.to_string(), "test")
        }
    }

    pub(crate) fn start_named(server: impl Display, folder: &Path, name: &str) -> Self {
        Worker::start_with(WorkerOptions { name: name.into(), ..Worker::options(server, folder) })
    }

    /// A worker with another implementation of the computation.
    pub(crate) fn start_computing(server: &Address, folder: &Path, computer: Box<dyn Computer>) -> Self {
        Worker::start_computing_with(Worker::options(server, folder), computer)
    }

    pub(crate) fn start_computing_with(options: WorkerOptions, computer: Box<dyn Computer>) -> Self {
        Worker::start_as(options, Some(computer))
    }

    pub(crate) fn start_with(options: WorkerOptions) -> Self {
        Worker::start_as(options, None)
    }

    fn start_as(options: WorkerOptions, computer: Option<Box<dyn Computer>>) -> Self {
        let (kill, killed) = oneshot::channel::<()>();
        let result = std::thread::spawn(move || {
            let runtime = runtime();
            let result = runtime.block_on(async {
                tokio::select! {
                    result = ps_worker::run_with(options, computer, std::future::pending()) => Some(result),
                    Ok(()) = killed => None,
                }
            });
            // The connection ends with the runtime, without a goodbye.
            runtime.shutdown_background();
            result
        });
        Worker { result, kill }
    }

    pub(crate) fn kill(self) {
        self.kill.send(()).unwrap();
        assert!(self.result.join().unwrap().is_none());
    }

    pub(crate) fn finish(self) -> Result<Ended, WorkerError> {
        self.result.join().unwrap().unwrap()
    }
}

/// A flow that calls a function, which must pass on the gradient, whenever a part of a gradient is complete.
pub(crate) struct Tapped<'a, F> {
    pub flow: &'a mut dyn Flow,
    pub finished: F,
}

impl<F: FnMut(&mut dyn Flow, usize, usize)> Flow for Tapped<'_, F> {
    fn weights(&mut self, needed: usize) -> Option<(usize, &[f32])> {
        self.flow.weights(needed)
    }

    fn node(&mut self, node: Node) -> &mut MetricSums {
        self.flow.node(node)
    }

    fn gradient(&mut self, number: usize) -> &mut [f32] {
        self.flow.gradient(number)
    }

    fn finished(&mut self, number: usize, from: usize) {
        (self.finished)(self.flow, number, from);
    }
}

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

pub(crate) fn options(min_workers: u32) -> ServerOptions {
    ServerOptions { min_workers, join_timeout: Duration::from_secs(60), ..ServerOptions::default() }
}
