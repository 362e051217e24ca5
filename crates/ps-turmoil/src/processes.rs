//! The programs, run as their `main` functions would run them.

use crate::disk::WatchedDisk;
use crate::network::{SimulatedNetwork, address, listen};
use ps_config::{CheckpointArgs, RunConfig};
use ps_coord::Dismissal;
use ps_core::weights_hash;
use ps_data::NoProgress;
use ps_net::Security;
use ps_proto::limits::PROTOCOL_VERSION;
use ps_proto::status::CallFailure;
use ps_proto::stream::{self, Reader, Side};
use ps_proto::v1::{self, FromWorker, from_server, from_worker::Message};
use ps_run::{Job, Recorder};
use ps_server::{Finished, ServerOptions, ShardLayout};
use ps_shard::shard::{self, ShardOptions};
use ps_worker::WorkerOptions;
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// Name of the coordinator's host.
const COORDINATOR: &str = "coordinator";

/// The settings of a run.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// The run file, in TOML.
    pub run: String,
    /// The folder of the run's data.
    pub folder: PathBuf,
    /// Number of servers that hold a part of the weights, including the coordinator.
    pub servers: u32,
    /// Interval between two checkpoints, in steps.
    pub every: u64,
    /// The seed from which everything random is derived.
    pub seed: u64,
}

/// The role of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The `ps-server` that coordinates the rounds.
    Coordinator,
    /// Another `ps-server`, numbered from 0.
    Shard(u32),
    /// A `ps-worker`, numbered from 0.
    Worker(u32),
    /// A peer that joins as a worker and answers, but never computes.
    StalledWorker,
}

/// How a process ended.
#[derive(Clone, Debug)]
pub(crate) enum Ended {
    /// All steps were made; with the hash of the weights if the process knows it.
    Done(Option<String>),
    /// The process stopped because it was asked to.
    Stopped,
    /// The process was dismissed because it delivered nothing.
    Stuck,
    /// The process ended with exit code 1, so a restart may help.
    Failed(String),
    /// The process ended in a way that is never correct.
    Wrong(String),
}

impl Scenario {
    /// Loads the run, as each process does.
    pub(crate) fn job(&self) -> Result<Job, String> {
        let run = RunConfig::parse(&self.run, "simulation", &[]).map_err(text)?;
        Job::load(run, &self.folder, &NoProgress).map_err(text)
    }

    fn security(&self) -> Security {
        Security::default().over(Arc::new(SimulatedNetwork))
    }

    fn options(&self) -> ServerOptions {
        ServerOptions {
            join_timeout: Duration::from_secs(60),
            // Partitions of up to 4 s exceed this timeout or not, so a worker may be lost or come back in
            // time.
            contact_timeout: Duration::from_millis(1500),
            work_timeout: Duration::from_millis(300),
            layout: ShardLayout { shards: self.servers, coordinator_keeps: true },
            security: self.security(),
            simulation: Some(self.seed),
            ..ServerOptions::default()
        }
    }

    /// Runs a program on the current host until it ends or `stop` asks it to.
    pub(crate) async fn run(self, role: Role, disk: WatchedDisk, stop: Arc<Notify>) -> Ended {
        let ran = match role {
            Role::Coordinator => self.coordinate(disk, &stop).await,
            Role::Shard(index) => self.serve_shard(index, &stop).await,
            Role::Worker(index) => self.work(index, &stop).await,
            Role::StalledWorker => self.stall(&stop).await,
        };
        ran.unwrap_or_else(Ended::Failed)
    }

    async fn coordinate(self, disk: WatchedDisk, stop: &Notify) -> Result<Ended, String> {
        // Like `ps-server` in the folder of a finished run: a process that is restarted after the end does
        // not train again.
        if let Some(hash) = disk.result() {
            return Ok(Ended::Done(Some(hash)));
        }
        let job = self.job()?;
        let wanted = CheckpointArgs {
            checkpoint_every: Some(self.every),
            checkpoint_seconds: 0,
            checkpoint_keep: 2,
            allow_fresh: false,
        };
        let durable = disk.durable();
        let recorder = Recorder::on_disk(&job, Box::new(disk.clone()), &wanted).map_err(text)?;
        let found = recorder.durable().map_or(0, |(steps, _)| steps);
        if found < durable {
            return Ok(Ended::Wrong(format!("step {durable} is durable, the server goes on from {found}")));
        }
        let listener = listen(COORDINATOR).await.map_err(text)?;
        // The results go to the disk's record. No worker hears of the end before this returns.
        let finish = move |finished: Finished| {
            if !finished.is_done {
                return Ok(Ended::Stopped);
            }
            let hash = weights_hash(&finished.weights);
            disk.finish(hash.clone());
            Ok(Ended::Done(Some(hash)))
        };
        ps_server::run(listener, job, self.options(), recorder, stop.notified(), finish).await.map_err(text)
    }

    async fn serve_shard(self, index: u32, stop: &Notify) -> Result<Ended, String> {
        let (job, host) = (Arc::new(self.job()?), Role::Shard(index).host());
        let placement = ShardOptions {
            coordinator: address(COORDINATOR),
            index: Some(index),
            address: address(&host),
            meter: Arc::default(),
        };
        let listener = listen(&host).await.map_err(text)?;
        let options = self.options();
        let kept = async {
            let (_shard, end) = shard::start(listener, job, &placement, &options).await.map_err(text)?;
            match end.await.map_err(text)? {
                Dismissal::Done => Ok(Ended::Done(None)),
                Dismissal::Failed(why) => Err(why),
                // Nothing aborts the run, and workers wait for a coordinator that restarts.
                reason => Ok(Ended::Wrong(format!("dismissed: {reason}"))),
            }
        };
        tokio::select! {
            biased;
            kept = kept => kept,
            () = stop.notified() => Ok(Ended::Stopped),
        }
    }

    async fn work(self, index: u32, stop: &Notify) -> Result<Ended, String> {
        let options = WorkerOptions {
            data_root: Some(self.folder.clone()),
            security: self.security(),
            simulation: Some(self.seed ^ (u64::from(index) << 32)),
            ..WorkerOptions::new(address(COORDINATOR), Role::Worker(index).host())
        };
        match ps_worker::run(options, stop.notified()).await {
            Ok(ps_worker::Ended::Done) => Ok(Ended::Done(None)),
            Ok(ps_worker::Ended::Stopped) => Ok(Ended::Stopped),
            Ok(ps_worker::Ended::OnRequest(why)) => Ok(Ended::Wrong(why)),
            // None of the faults is a reason to give up for good.
            Err(error) if error.exit_code() == 42 => Ok(Ended::Wrong(text(error))),
            Err(error) => Err(text(error)),
        }
    }
}

impl Scenario {
    /// Joins the coordinator and then only sends heartbeats.
    async fn stall(self, stop: &Notify) -> Result<Ended, String> {
        let (job, security) = (self.job()?, self.security());
        let mut connection = security
            .address(&address(COORDINATOR))?
            .connect(&security)
            .await
            .map_err(|error| describe(error.into()))?;
        let (sender, receiver) = mpsc::channel(64);
        let fingerprints = v1::Fingerprints {
            run: job.fingerprint.run.clone(),
            data: job.fingerprint.data.clone(),
            numerics: job.fingerprint.numerics,
            probe: job.probe(),
        };
        let hello = v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            worker_name: Role::StalledWorker.host(),
            build: "a peer that only answers".into(),
            fingerprints: Some(fingerprints),
        };
        send(&sender, Message::Hello(hello));
        let outgoing = ReceiverStream::new(receiver).map(Ok);
        let call = stream::call(&mut connection, stream::ROUNDS_PATH, stream::body(outgoing, Side::Client));
        let mut reader = Reader::<v1::FromServer>::new(call.await.map_err(text)?);
        // A fifth of the contact timeout, as for a real worker, so that this peer never counts as silent.
        let mut beat = tokio::time::interval(Duration::from_millis(300));
        loop {
            let received = tokio::select! {
                biased;
                () = stop.notified() => return Ok(Ended::Stopped),
                received = reader.message() => received.map_err(text)?.ok_or("the server closed the stream")?,
                _ = beat.tick() => {
                    send(&sender, Message::Heartbeat(v1::Heartbeat {}));
                    continue;
                }
            };
            if let Some(from_server::Message::Dismissed(dismissed)) = received.message
                && dismissed.kind() == v1::DismissalKind::Stuck
            {
                return Ok(Ended::Stuck);
            }
        }
    }
}

/// Sends a message, or drops it if the queue is full because the server is not reading.
fn send(sender: &mpsc::Sender<FromWorker>, message: Message) {
    let _ = sender.try_send(FromWorker { message: Some(message) });
}

fn describe(failure: CallFailure) -> String {
    match failure {
        CallFailure::Transient(why) | CallFailure::Refused(why) => why,
        other => format!("{other:?}"),
    }
}

impl Role {
    /// The name of the role's host.
    pub(crate) fn host(self) -> String {
        match self {
            Role::Coordinator => COORDINATOR.into(),
            Role::Shard(index) => format!("shard-{index}"),
            Role::Worker(index) => format!("worker-{index}"),
            Role::StalledWorker => "idler".into(),
        }
    }
}

fn text(error: impl Display) -> String {
    error.to_string()
}
