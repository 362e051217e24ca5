//! A launched process: started, watched, started again, seen off.

use super::WATCH_EVERY;
use crate::children::{Child, Sink, describe};
use crate::failure::Failure;
use ps_run::Relay;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After the server has ended, the others have this long to notice.
const FAREWELL: Duration = Duration::from_secs(5);
/// The pause before a process is started again, doubling with each time up to the second.
const PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];
/// Exit codes with which a worker says that starting it again is useless: wrong usage, and a run or data that
/// do not fit the server's.
const HOPELESS: [i32; 2] = [2, 42];
/// Exit code of all processes of a run that was ended for good.
const ENDED: i32 = ps_server::ENDED as i32;

/// What sits in a seat, and how it is started.
pub(super) struct Role {
    /// Its name, for the screen.
    pub name: String,
    pub program: PathBuf,
    pub flags: Vec<OsString>,
    /// What takes the lines that a process writes, to standard output and standard error.
    pub sinks: Box<dyn Fn() -> [Sink; 2]>,
    /// Whether it keeps weights. An exit code of such a process is the run's end, so it is only started again when it
    /// was killed.
    pub keeps_weights: bool,
    /// Whether its start is told of.
    pub is_announced: bool,
}

/// A process's place, whoever sits there.
pub(super) struct Seat {
    pub role: Role,
    state: State,
    restarts: u32,
    /// How often it may be started again.
    most_restarts: u32,
    screen: Arc<Relay>,
}

enum State {
    /// Nobody was there yet.
    Empty,
    Running(Child),
    /// To be started again at this time, with a word about why.
    Pausing(Instant, String),
    /// It is not started again.
    Ended(ExitStatus),
}

impl Seat {
    /// An empty one.
    pub(super) fn new(role: Role, most_restarts: u32, screen: Arc<Relay>) -> Self {
        Seat { role, state: State::Empty, restarts: 0, most_restarts, screen }
    }

    /// How the last process there ended, if nobody will sit there any more.
    pub(super) fn ended(&self) -> Option<ExitStatus> {
        match self.state {
            State::Ended(status) => Some(status),
            _ => None,
        }
    }

    /// Whether nobody will sit there any more, and not because all was done.
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

    /// Sees whether the process has ended, and starts it again if that may help and is `wanted`.
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

    /// Asks the process to end in order.
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

/// The server has ended; the others are about to, or are asked to where they would wait for the next server.
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
