//! What anybody may ask a server, worker or not: how far it is, and to save the run.

use crate::WorkerError;
use crate::client::{Client, answer, service};
use crate::retryable;
use ps_config::SecurityArgs;
use ps_net::Security;
use ps_net::limits::PULL_TIMEOUT;
use ps_proto::status::{Verdict, verdict};
use ps_proto::v1::{self, WorkerStatus};
use ps_shard::transport::open_security;
use ps_terminal::{Narrow, Table, clip_start, hang};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tonic::Code;

/// A runtime for a few calls.
pub struct Runtime(tokio::runtime::Runtime);

/// A runtime for the calls of this module.
///
/// # Errors
/// The system does not let us.
pub fn runtime() -> Result<Runtime, WorkerError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map(Runtime).map_err(|error| WorkerError::Internal(format!("starting: {error}")))
}

impl Runtime {
    /// Waits for a call.
    pub fn block_on<T>(&self, call: impl Future<Output = T>) -> T {
        self.0.block_on(call)
    }
}

/// How far a server is and who takes part.
pub struct Report(v1::StatusReply);

/// Asks the server at `HOST:PORT` or `unix:PATH` how far it is.
///
/// # Errors
/// It is not there, or does not answer as a Downhill server does.
pub async fn status(server: &str, security: &SecurityArgs) -> Result<Report, WorkerError> {
    let reply = async {
        let mut client =
            service(Client::new(server, "status", &open(security)?)?.connect().await.map_err(Failed::Call)?);
        answer(client.status(v1::StatusRequest {})).await.map_err(Failed::Call)
    };
    reply.await.map(|reply| Report(reply.into_inner())).map_err(|failed| failed.at(server))
}

/// Has the server save the run after the step in hand; gives the steps that will be in it at least.
///
/// # Errors
/// As for [`status`].
pub async fn checkpoint(server: &str, security: &SecurityArgs) -> Result<u64, WorkerError> {
    let reply = async {
        let mut client = service(
            Client::new(server, "checkpoint", &open(security)?)?.connect().await.map_err(Failed::Call)?,
        );
        answer(client.checkpoint(v1::CheckpointRequest {})).await.map_err(Failed::Call)
    };
    reply.await.map(|reply| reply.into_inner().version).map_err(|failed| failed.at(server))
}

/// Has the server end the run for good; gives the steps of the run that it has saved. The call carries the first token of
/// `admin`, if that is given.
///
/// # Errors
/// As for [`status`]; the caller is no administrator.
pub async fn stop(server: &str, security: &SecurityArgs, admin: Option<&Path>) -> Result<u64, WorkerError> {
    let reply = async {
        let mut security = open(security)?;
        if let Some(path) = admin {
            security = security.with_admin(path).map_err(WorkerError::Security)?;
        }
        let connection = Client::new(server, "stop", &security)?.connect().await.map_err(Failed::Call)?;
        // The server may have to wait for its shards, and saves before it answers.
        let reply = tokio::time::timeout(PULL_TIMEOUT, service(connection).stop(v1::StopRequest {})).await;
        match reply {
            Ok(Ok(reply)) => Ok(reply.into_inner().version),
            Ok(Err(status)) if status.code() == Code::PermissionDenied => {
                Err(Failed::Before(WorkerError::NotAdmin(format!("{server}: {}", status.message()))))
            }
            Ok(Err(status)) => Err(Failed::Call(verdict(&status))),
            Err(_) => {
                let seconds = PULL_TIMEOUT.as_secs();
                Err(Failed::Call(Verdict::Passing(format!("no answer within {seconds} s"))))
            }
        }
    };
    reply.await.map_err(|failed| failed.at(server))
}

fn open(security: &SecurityArgs) -> Result<Security, WorkerError> {
    open_security(security).map_err(WorkerError::Security)
}

enum Failed {
    Call(Verdict),
    Before(WorkerError),
}

impl From<WorkerError> for Failed {
    fn from(error: WorkerError) -> Self {
        Failed::Before(error)
    }
}

impl Failed {
    fn at(self, server: &str) -> WorkerError {
        match self {
            Failed::Before(error) => error,
            Failed::Call(verdict) => match retryable(verdict, server) {
                Ok(last) => WorkerError::Unreachable { server: server.into(), waited: Duration::ZERO, last },
                Err(error) => error,
            },
        }
    }
}

impl Report {
    /// Whether all steps are made.
    pub fn is_done(&self) -> bool {
        self.0.version >= self.0.steps
    }

    /// The newest checkpoint that is durable; 0: none.
    pub fn checkpoint(&self) -> u64 {
        self.0.checkpoint
    }

    /// For people: lines that fit in `width` columns of a terminal, or are complete without one.
    pub fn lines(&self, width: Option<usize>) -> Vec<String> {
        let v1::StatusReply { version, steps, state, loss, waited_ms, .. } = &self.0;
        // The names behind the ids are in the table, too.
        let state = if width.is_some() { state.split(" [").next().unwrap_or(state) } else { state };
        let share = 100.0 * *version as f64 / (*steps).max(1) as f64;
        let loss = if loss.is_nan() { String::new() } else { format!(", loss {loss:.4}") };
        let mut lines = vec![
            format!("made        {version} of {steps} steps ({share:.0} %){loss}"),
            format!("now         {state}, for {}", seconds(*waited_ms)),
            match self.0.checkpoint {
                0 => "checkpoint  none yet".into(),
                step => format!("checkpoint  step {step}, {} ago", seconds(self.0.checkpoint_age_ms)),
            },
        ];
        if self.0.rescued_leaves > 0 {
            lines.push(format!(
                "rescued     {} leaves of workers that were late or lost",
                self.0.rescued_leaves
            ));
        }
        if self.0.audited_nodes > 0 {
            lines.push(format!("audited     {} sums", self.0.audited_nodes));
        }
        let mut lines = hang(&lines, width, 12);
        if self.0.workers.is_empty() {
            lines.push("workers     none".into());
        } else {
            lines.extend(table(&self.0.workers, width));
        }
        lines
    }

    /// For programs: one line.
    pub fn to_json(&self) -> String {
        let worker = |worker: &WorkerStatus| {
            json!({
                "id": worker.worker_id, "name": worker.name, "address": worker.address, "state": worker.state,
                "leaves": worker.leaves, "nodes": worker.nodes, "leaves_per_second": worker.leaves_per_second,
                "silent_ms": worker.silent_ms, "held_up_ms": worker.held_up_ms,
            })
        };
        let reply = &self.0;
        let workers: Vec<Value> = reply.workers.iter().map(worker).collect();
        let loss = Some(reply.loss).filter(|loss| loss.is_finite());
        json!({
            "version": reply.version, "steps": reply.steps, "state": reply.state, "waited_ms": reply.waited_ms,
            "loss": loss, "checkpoint": reply.checkpoint, "checkpoint_age_ms": reply.checkpoint_age_ms,
            "rescued_leaves": reply.rescued_leaves, "audited_nodes": reply.audited_nodes, "workers": workers,
        })
        .to_string()
    }
}

const HEADINGS: [&str; 9] =
    ["worker", "name", "address", "state", "leaves", "sums", "leaves/s", "heard", "waited for"];
/// The line above the table names workers by their ids, so these stay, and so does what tells a slow worker.
const NARROWING: [Narrow; 9] = [
    Narrow::Drop(5),
    Narrow::Shorten(2, 21, clip_start),
    Narrow::Shorten(1, 24, clip_start),
    Narrow::Drop(2),
    Narrow::Drop(4),
    Narrow::Shorten(1, 16, clip_start),
    Narrow::Drop(7),
    Narrow::Shorten(1, 8, clip_start),
    Narrow::Drop(6),
];

/// One line for each worker, under a line of headings.
fn table(workers: &[WorkerStatus], width: Option<usize>) -> Vec<String> {
    let row = |worker: &WorkerStatus| {
        vec![
            format!("w{}", worker.worker_id),
            worker.name.clone(),
            worker.address.clone(),
            worker.state.clone(),
            worker.leaves.to_string(),
            worker.nodes.to_string(),
            format!("{:.0}", worker.leaves_per_second),
            format!("{} ago", seconds(worker.silent_ms)),
            seconds(worker.held_up_ms),
        ]
    };
    let rows = workers.iter().map(row).collect();
    Table { headings: &HEADINGS, rows, right: &[4, 5, 6, 7, 8], narrowing: &NARROWING }.lines(width)
}

fn seconds(ms: u64) -> String {
    format!("{:.1} s", ms as f64 / 1000.0)
}
