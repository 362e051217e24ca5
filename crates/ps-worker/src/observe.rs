//! Calls that any client may make to a server: its status, a checkpoint, the end of the run.

use crate::WorkerError;
use crate::client::{Client, answer, service};
use crate::retryable;
use ps_config::SecurityArgs;
use ps_net::Security;
use ps_net::limits::PULL_TIMEOUT;
use ps_proto::status::{CallFailure, classify};
use ps_proto::v1::{self, WorkerStatus};
use ps_shard::transport::open_security;
use ps_terminal::{Narrow, Table, clip_start, hang};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tonic::Code;

/// A runtime for a few calls.
pub struct Runtime(tokio::runtime::Runtime);

/// Creates a runtime for the calls of this module.
///
/// # Errors
/// The system does not allow it.
pub fn runtime() -> Result<Runtime, WorkerError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map(Runtime).map_err(|error| WorkerError::Internal(format!("cannot start: {error}")))
}

impl Runtime {
    /// Waits for a call.
    pub fn block_on<T>(&self, call: impl Future<Output = T>) -> T {
        self.0.block_on(call)
    }
}

/// The progress of a run and its workers.
pub struct Report(v1::StatusReply);

/// Asks the server at `HOST:PORT` or `unix:PATH` for its status.
///
/// # Errors
/// The server cannot be reached, or does not answer as a Downhill server does.
pub async fn status(server: &str, security: &SecurityArgs) -> Result<Report, WorkerError> {
    let reply = async {
        let mut client =
            service(Client::new(server, "status", &open(security)?)?.connect().await.map_err(Failed::Call)?);
        answer(client.status(v1::StatusRequest {})).await.map_err(Failed::Call)
    };
    reply.await.map(|reply| Report(reply.into_inner())).map_err(|failed| failed.at(server))
}

/// Asks the server to save the run after the open step. Returns the number of steps that the checkpoint will
/// contain at least.
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

/// Asks the server to end the run for good. Returns the number of steps of the run that it has saved. The
/// call carries the first token of `admin`, if given.
///
/// # Errors
/// As for [`status`], or the caller is not an administrator.
pub async fn stop(server: &str, security: &SecurityArgs, admin: Option<&Path>) -> Result<u64, WorkerError> {
    let reply = async {
        let mut security = open(security)?;
        if let Some(path) = admin {
            security = security.with_admin(path).map_err(WorkerError::Security)?;
        }
        let connection = Client::new(server, "stop", &security)?.connect().await.map_err(Failed::Call)?;
        // The server may have to wait for its shards, and saves the run before it answers.
        let reply = tokio::time::timeout(PULL_TIMEOUT, service(connection).stop(v1::StopRequest {})).await;
        match reply {
            Ok(Ok(reply)) => Ok(reply.into_inner().version),
            Ok(Err(status)) if status.code() == Code::PermissionDenied => {
                Err(Failed::Before(WorkerError::NotAdmin(format!("{server}: {}", status.message()))))
            }
            Ok(Err(status)) => Err(Failed::Call(classify(&status))),
            Err(_) => {
                let seconds = PULL_TIMEOUT.as_secs();
                Err(Failed::Call(CallFailure::Transient(format!("no answer within {seconds} s"))))
            }
        }
    };
    reply.await.map_err(|failed| failed.at(server))
}

fn open(security: &SecurityArgs) -> Result<Security, WorkerError> {
    open_security(security).map_err(WorkerError::Security)
}

enum Failed {
    Call(CallFailure),
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
            Failed::Call(failure) => match retryable(failure, server) {
                // There is a single attempt, and its message must not claim a time that nobody waited.
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

    /// The number of steps in the newest durable checkpoint; 0 if there is none.
    pub fn checkpoint(&self) -> u64 {
        self.0.checkpoint
    }

    /// Describes the status in words: lines that fit into `width` columns of a terminal, or complete lines
    /// without a width.
    pub fn lines(&self, width: Option<usize>) -> Vec<String> {
        let v1::StatusReply { version, steps, state, loss, waited_ms, .. } = &self.0;
        // The part in brackets names workers that the table contains, too.
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
            lines.push(format!("reassigned  {} leaves of late or lost workers", self.0.rescued_leaves));
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

    /// The status as one line of JSON.
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
/// Columns to shorten or drop, in this order. The ids stay because the line above the table refers to them,
/// and so do the columns that reveal a slow worker.
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

/// One line per worker, below a line of headings.
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
