//! A cluster whose processes are restarted after they end, until the run is done.

use crate::child_process::{ChildProcess, Sink, describe};
use crate::failure::Failure;
use ps_shard::signals::Signal;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Exit code of a process that exited in order after SIGTERM, before its run was done.
const TERMINATED: i32 = Signal::Terminate.exit_code() as i32;

/// A disturbance of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Disturbance {
    /// Kills the process with SIGKILL.
    Kill,
    /// Asks the process to exit with SIGTERM.
    Terminate,
    /// Pauses the process with SIGSTOP, and resumes it after this time with SIGCONT.
    Suspend(Duration),
}

impl Disturbance {
    /// Returns the disturbance without its duration, for counting.
    pub(super) fn kind(self) -> Disturbance {
        if let Disturbance::Suspend(_) = self { Disturbance::Suspend(Duration::ZERO) } else { self }
    }
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Disturbance::Kill => f.pad("SIGKILL"),
            Disturbance::Terminate => f.pad("SIGTERM"),
            Disturbance::Suspend(Duration::ZERO) => f.pad("SIGSTOP and SIGCONT"),
            Disturbance::Suspend(time) => write!(f, "SIGSTOP for {} ms", time.as_millis()),
        }
    }
}

/// All processes of a run. They are killed when this is dropped.
pub(super) struct Cluster {
    processes: Vec<Process>,
    /// Lines that the server has written to standard output since it was last started.
    server_output: Arc<Mutex<Vec<String>>>,
    /// Whether the run is done, so that processes are no longer restarted.
    is_done: bool,
    /// The results folder.
    out: PathBuf,
}

struct Process {
    name: String,
    program: PathBuf,
    flags: Vec<OsString>,
    log: Arc<Mutex<File>>,
    child: ChildProcess,
    /// The last disturbance that may end the process.
    disturbance: Option<Disturbance>,
    suspended_until: Option<Instant>,
}

impl Cluster {
    /// Starts all processes. Results go to `out`, and the logs to files next to it.
    pub(super) fn start(
        programs: &[PathBuf; 2],
        run: &Path,
        out: &Path,
        workers: u16,
        shards: u16,
    ) -> Result<Self, Failure> {
        let [server, worker] = programs;
        let address = |name: &str| format!("unix:{}", out.with_extension(name).display());
        let coordinator = address("server");
        // A restarted server waits for one worker only, because the others may be about to be restarted.
        let mut first: Vec<OsString> = vec![run.into(), "--out".into(), out.into()];
        first.extend(["--listen", &coordinator, "--checkpoint-every", "10"].map(OsString::from));
        first.extend(["--worker-timeout", "2", "--work-timeout", "2"].map(OsString::from));
        let part = |index: u16| ["--shard".into(), format!("{index}/{shards}").into()];
        if shards > 1 {
            first.extend(part(0));
        }
        let mut specs = vec![("server".to_owned(), server, first)];
        for index in 1..shards {
            let mut flags: Vec<OsString> = vec![run.into()];
            flags.extend(part(index));
            let listen = address(&format!("shard-{index}"));
            flags.extend(["--coordinator", &coordinator, "--listen", &listen].map(OsString::from));
            specs.push((format!("shard {index}"), server, flags));
        }
        let root = run.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for number in 1..=workers {
            let mut flags: Vec<OsString> =
                ["--server", &coordinator, "--threads", "1"].map(OsString::from).into();
            flags.extend(["--allow-any-path".into(), "--data-root".into(), root.into()]);
            specs.push((format!("worker {number}"), worker, flags));
        }
        let server_output = Arc::new(Mutex::new(Vec::new()));
        let mut processes = Vec::new();
        for (name, program, flags) in specs {
            let path = out.with_extension(format!("{}.log", name.replace(' ', "-")));
            let log = File::create(&path)
                .map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
            let log = Arc::new(Mutex::new(log));
            let child = spawn(program, &flags, &log, &server_output)?;
            let program = program.clone();
            processes.push(Process {
                name,
                program,
                flags,
                log,
                child,
                disturbance: None,
                suspended_until: None,
            });
        }
        Ok(Cluster { processes, server_output, is_done: false, out: out.into() })
    }

    /// Number of processes.
    pub(super) fn len(&self) -> usize {
        self.processes.len()
    }

    /// Disturbs a process and returns its name; `None` if the process is paused.
    pub(super) fn disturb(&mut self, target: usize, disturbance: Disturbance) -> Option<String> {
        let process = self.processes.get_mut(target).filter(|process| process.suspended_until.is_none())?;
        match disturbance {
            Disturbance::Kill => process.child.kill(),
            Disturbance::Terminate => process.child.terminate(),
            Disturbance::Suspend(time) => {
                process.child.suspend();
                process.suspended_until = Some(Instant::now() + time);
                return Some(process.name.clone());
            }
        }
        process.disturbance = Some(disturbance);
        Some(process.name.clone())
    }

    /// Restarts processes that have ended. Returns whether the run is still in progress.
    pub(super) fn supervise(&mut self) -> Result<bool, Failure> {
        for (index, process) in self.processes.iter_mut().enumerate() {
            if process.suspended_until.is_some_and(|until| until <= Instant::now()) {
                process.suspended_until = None;
                process.child.resume();
            }
            let Some(status) = process.child.ended()? else { continue };
            let disturbance = process.disturbance.take();
            if index == 0 && status.success() && is_done(&self.out) {
                self.is_done = true;
                return Ok(false);
            }
            // A process may learn that the run is done before we do and exit with success; no other process
            // does. A process that has just been started does not yet handle SIGTERM.
            let is_signalled = matches!(status.code(), None | Some(TERMINATED));
            let expected = status.success() && is_done(&self.out) || disturbance.is_some() && is_signalled;
            if !expected {
                return Err(Failure::Failed(format!("{} {} unexpectedly", process.name, describe(status))));
            }
            if index == 0 {
                lock(&self.server_output).clear();
            }
            process.child = spawn(&process.program, &process.flags, &process.log, &self.server_output)?;
            process.suspended_until = None;
        }
        Ok(true)
    }

    /// Returns the hash of the final weights.
    pub(super) fn hash(&self) -> Result<String, Failure> {
        let server_output = lock(&self.server_output);
        let hash = server_output.last().and_then(|line| hash_of(line)).filter(|_| self.is_done);
        hash.ok_or_else(|| {
            Failure::Failed("the server exited without printing the hash of its weights".into())
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // All processes are killed at once, so that none has time to notice that another one is missing.
        self.processes.iter_mut().for_each(|process| process.child.kill());
    }
}

/// Returns the hash in the last line of a run.
pub(super) fn hash_of(line: &str) -> Option<String> {
    line.strip_prefix("weights sha256 ").map(str::to_owned)
}

/// Returns whether a run has made all its steps.
fn is_done(out: &Path) -> bool {
    let Ok(bytes) = ps_host::read(&out.join("summary.json"), ps_host::Ceiling::TEXT) else { return false };
    let summary: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
    summary.is_some_and(|summary| summary["outcome"] == "done")
}

/// Starts a process. Its output goes to `log`, and that of the server also to `server_output`.
fn spawn(
    program: &Path,
    flags: &[OsString],
    log: &Arc<Mutex<File>>,
    server_output: &Arc<Mutex<Vec<String>>>,
) -> Result<ChildProcess, Failure> {
    let is_first = flags.iter().any(|flag| flag == "--out");
    let (log, server_output) = (Arc::clone(log), Arc::clone(server_output));
    let stdout_log = Arc::clone(&log);
    let stdout: Sink = Box::new(move |line| {
        write(&stdout_log, line);
        if is_first {
            lock(&server_output).push(line.to_owned());
        }
    });
    ChildProcess::start(program, flags, stdout, Box::new(move |line| write(&log, line)))
}

fn write(log: &Mutex<File>, line: &str) {
    // A log that cannot be written is no reason to stop.
    let _ = writeln!(lock(log), "{line}");
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
