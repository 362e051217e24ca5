//! Supervises a launched process: starts, watches, restarts and stops it.

use super::WATCH_EVERY;
use crate::child_process::{ChildProcess, Sink, describe};
use crate::failure::Failure;
use ps_run::Relay;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time that the other processes have to exit after the server has ended.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before a restart: the first value, doubled each time up to the second.
const RESTART_DELAY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];
/// Exit codes with which a worker says that restarting it is useless: wrong usage, and a run or data that
/// does not fit the server's.
const FATAL_EXIT_CODES: [i32; 2] = [2, 42];
/// Exit code of all processes of a run that was ended for good.
const ENDED: i32 = ps_server::ENDED as i32;

/// A process to launch: its command line and its output.
pub(super) struct ProcessSpec {
    /// Name of the process, as shown to the user.
    pub name: String,
    pub program: PathBuf,
    pub flags: Vec<OsString>,
    /// Creates the sinks for the lines that the process writes to standard output and standard error.
    pub sinks: Box<dyn Fn() -> [Sink; 2]>,
    /// Whether the process holds weights. If such a process exits by itself, the run is over, so it is
    /// restarted only if it was killed.
    pub keeps_weights: bool,
    /// Whether a start of the process is reported to the user.
    pub is_announced: bool,
}

/// A supervised process, including all its restarts.
pub(super) struct SupervisedProcess {
    pub spec: ProcessSpec,
    state: State,
    restarts: u32,
    /// Maximum number of restarts.
    max_restarts: u32,
    screen: Arc<Relay>,
}

enum State {
    /// The process has not been started yet.
    NotStarted,
    Running(ChildProcess),
    /// The process is to be restarted at this time. The string says why it ended.
    Waiting(Instant, String),
    /// The process has ended and is not restarted.
    Ended(ExitStatus),
}

impl SupervisedProcess {
    /// Creates a supervisor for a process that is not started yet.
    pub(super) fn new(spec: ProcessSpec, max_restarts: u32, screen: Arc<Relay>) -> Self {
        SupervisedProcess { spec, state: State::NotStarted, restarts: 0, max_restarts, screen }
    }

    /// Returns how the process ended, if it is not restarted any more.
    pub(super) fn ended(&self) -> Option<ExitStatus> {
        match self.state {
            State::Ended(status) => Some(status),
            _ => None,
        }
    }

    /// Returns whether the process has failed and is not restarted any more.
    pub(super) fn is_lost(&self) -> bool {
        self.ended().is_some_and(|status| !status.success() && status.code() != Some(ENDED))
    }

    /// Starts the process.
    pub(super) fn start(&mut self) -> Result<(), Failure> {
        let [stdout, stderr] = (self.spec.sinks)();
        let child = ChildProcess::start(&self.spec.program, &self.spec.flags, stdout, stderr)?;
        if self.spec.is_announced {
            self.screen.print(&format!("{} started as process {}", self.spec.name, child.id()));
        }
        self.state = State::Running(child);
        Ok(())
    }

    /// Checks whether the process has ended, and schedules a restart if `may_restart` is set and a restart
    /// may help.
    pub(super) fn supervise(&mut self, may_restart: bool) -> Result<(), Failure> {
        match &mut self.state {
            State::Running(child) => {
                if let Some(status) = child.ended()? {
                    self.state = self.next(status, may_restart);
                }
            }
            State::Waiting(until, why) if *until <= Instant::now() => {
                self.screen.print(why);
                self.start()?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Asks the process to exit in order.
    pub(super) fn terminate(&mut self) {
        if let State::Running(child) = &mut self.state {
            child.terminate();
        }
    }

    fn next(&mut self, status: ExitStatus, may_restart: bool) -> State {
        let code = status.code();
        let is_over = status.success() || code == Some(ENDED);
        // A server that exits by itself gives a reason, which a restart would meet again. Of the servers,
        // only those that were killed are restarted.
        if is_over || !may_restart || self.spec.keeps_weights && code.is_some() {
            return State::Ended(status);
        }
        let (name, how, max) = (&self.spec.name, describe(status), self.max_restarts);
        if code.is_some_and(|code| FATAL_EXIT_CODES.contains(&code)) {
            self.screen.print(&format!("error: {name} {how}; a restart would not help"));
            return State::Ended(status);
        }
        if self.restarts >= max {
            self.screen.print(&format!(
                "error: {name} {how}; it has been restarted {max} times, the limit set by --restart"
            ));
            return State::Ended(status);
        }
        let pause = RESTART_DELAY[0].saturating_mul(1 << self.restarts.min(16)).min(RESTART_DELAY[1]);
        self.restarts += 1;
        let count = self.restarts;
        let why = format!("{name} {how}; restarting it ({count} of at most {max} times)");
        State::Waiting(Instant::now() + pause, why)
    }
}

/// Waits for the other processes after the server has ended. Those that would wait for the next server are
/// asked to exit if `wait_for_next` is set.
pub(super) fn wait_for_exit(processes: &mut [SupervisedProcess], wait_for_next: bool) -> Result<(), Failure> {
    let deadline = Instant::now() + EXIT_TIMEOUT;
    if wait_for_next {
        processes.iter_mut().for_each(SupervisedProcess::terminate);
    }
    for process in processes {
        let State::Running(child) = &mut process.state else { continue };
        while child.ended()?.is_none() {
            if Instant::now() >= deadline {
                process
                    .screen
                    .print(&format!("{} did not exit with the server and is killed", process.spec.name));
                child.kill();
            }
            std::thread::sleep(WATCH_EVERY);
        }
    }
    Ok(())
}
