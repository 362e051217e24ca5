//! Supervises a launched process: starts, watches, restarts and stops it.

use super::WATCH_EVERY;
use crate::children::{Child, Sink, describe};
use crate::failure::Failure;
use ps_run::Relay;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time that the other processes have to exit after the server has ended.
const FAREWELL: Duration = Duration::from_secs(5);
/// Pause before a restart: the first value, doubled each time up to the second.
const PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];
/// Exit codes with which a worker says that restarting it is useless: wrong usage, and a run or data that
/// does not fit the server's.
const HOPELESS: [i32; 2] = [2, 42];
/// Exit code of all processes of a run that was ended for good.
const ENDED: i32 = ps_server::ENDED as i32;

/// A process to launch: its command line and its output.
pub(super) struct Role {
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
pub(super) struct Seat {
    pub role: Role,
    state: State,
    restarts: u32,
    /// Maximum number of restarts.
    most_restarts: u32,
    screen: Arc<Relay>,
}

enum State {
    /// The process has not been started yet.
    Empty,
    Running(Child),
    /// The process is to be restarted at this time. The string says why it ended.
    Pausing(Instant, String),
    /// The process has ended and is not restarted.
    Ended(ExitStatus),
}

impl Seat {
    /// Creates a supervisor for a process that is not started yet.
    pub(super) fn new(role: Role, most_restarts: u32, screen: Arc<Relay>) -> Self {
        Seat { role, state: State::Empty, restarts: 0, most_restarts, screen }
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
        let [stdout, stderr] = (self.role.sinks)();
        let child = Child::start(&self.role.program, &self.role.flags, stdout, stderr)?;
        if self.role.is_announced {
            self.screen.print(&format!("{} started as process {}", self.role.name, child.id()));
        }
        self.state = State::Running(child);
        Ok(())
    }

    /// Checks whether the process has ended, and schedules a restart if that is `wanted` and may help.
    pub(super) fn look_after(&mut self, wanted: bool) -> Result<(), Failure> {
        match &mut self.state {
            State::Running(child) => {
                if let Some(status) = child.ended()? {
                    self.state = self.next(status, wanted);
                }
            }
            State::Pausing(until, why) if *until <= Instant::now() => {
                self.screen.print(why);
                self.start()?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Asks the process to exit in order.
    pub(super) fn ask_to_end(&mut self) {
        if let State::Running(child) = &mut self.state {
            child.ask_to_end();
        }
    }

    fn next(&mut self, status: ExitStatus, wanted: bool) -> State {
        let code = status.code();
        let is_over = status.success() || code == Some(ENDED);
        if is_over || !wanted || self.role.keeps_weights && code.is_some() {
            return State::Ended(status);
        }
        let (name, how, most) = (&self.role.name, describe(status), self.most_restarts);
        if code.is_some_and(|code| HOPELESS.contains(&code)) {
            self.screen.print(&format!("error: {name} {how}, so starting it again would not help"));
            return State::Ended(status);
        }
        if self.restarts >= most {
            self.screen.print(&format!(
                "error: {name} {how}; --restart allows to start it again {most} times, no more"
            ));
            return State::Ended(status);
        }
        let pause = PAUSE[0].saturating_mul(1 << self.restarts.min(16)).min(PAUSE[1]);
        self.restarts += 1;
        let count = self.restarts;
        let why = format!("{name} {how}; starting it again ({count} of at most {most} times)");
        State::Pausing(Instant::now() + pause, why)
    }
}

/// Waits for the other processes after the server has ended. Those that would wait for the next server are
/// asked to exit if `wait_for_next` is set.
pub(super) fn say_farewell(crew: &mut [Seat], wait_for_next: bool) -> Result<(), Failure> {
    let patience = Instant::now() + FAREWELL;
    if wait_for_next {
        crew.iter_mut().for_each(Seat::ask_to_end);
    }
    for seat in crew {
        let State::Running(child) = &mut seat.state else { continue };
        while child.ended()?.is_none() {
            if Instant::now() >= patience {
                seat.screen.print(&format!("{} did not end with the server and is killed", seat.role.name));
                child.kill();
            }
            std::thread::sleep(WATCH_EVERY);
        }
    }
    Ok(())
}
