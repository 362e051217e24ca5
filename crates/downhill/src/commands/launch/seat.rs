//! A launched worker: started, watched, started again, seen off.

use super::{Arguments, Shards, WATCH_EVERY, label, shared_flags};
use crate::children::{Child, describe, labelled};
use crate::failure::Failure;
use ps_config::LogFormat;
use ps_run::{Processors, Relay};
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After the server has ended, workers have this long to notice.
pub const FAREWELL: Duration = Duration::from_secs(5);
/// The pause before a worker is started again, doubling with each time up to the second.
const PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];
/// Exit codes with which a worker says that starting it again is useless: wrong usage, and a run or data that
/// do not fit the server's.
const HOPELESS: [i32; 2] = [2, 42];

/// A worker's place, whoever sits there.
pub struct Seat {
    number: u16,
    state: State,
    restarts: u32,
    threads: u16,
    /// The processors of its threads, if they have their own.
    cpus: Option<Processors>,
    /// Where its shard listens, if it has one.
    listen: String,
    screen: Arc<Relay>,
}

enum State {
    Running(Child),
    /// To be started again at this time.
    Pausing(Instant),
    /// Its part is done.
    Done,
    /// It is not started again.
    Failed,
}

impl Seat {
    /// An empty one.
    pub fn new(
        number: u16,
        threads: u16,
        cpus: Option<Processors>,
        listen: String,
        screen: Arc<Relay>,
    ) -> Self {
        Seat { number, state: State::Failed, restarts: 0, threads, cpus, listen, screen }
    }

    /// Whether nobody will sit there any more.
    pub fn is_lost(&self) -> bool {
        matches!(self.state, State::Failed)
    }

    fn name(&self) -> String {
        format!("worker {}", self.number)
    }

    /// Starts the worker.
    pub fn start(&mut self, arguments: &Arguments, program: &Path, address: &str) -> Result<(), Failure> {
        let mut flags: Vec<OsString> = ["--server", address, "--threads"].map(OsString::from).into();
        flags.push(self.threads.to_string().into());
        if let Some(cpus) = &self.cpus {
            flags.extend(["--cpus".into(), cpus.to_string().into()]);
        }
        flags.extend(["--name".into(), self.name().replace(' ', "-").into()]);
        // Paths of the run file start at its folder, which the server does not tell. The file is the user's own, and may
        // name data that lies anywhere.
        flags.push("--allow-any-path".into());
        let root = arguments.data.root(arguments.run.folder());
        if arguments.shards == Shards::Beside {
            flags.extend(["--with-shard", "--shard-listen", &self.listen].map(OsString::from));
        }
        let rest = shared_flags(arguments);
        if arguments.data.data_root.is_none() {
            flags.extend(["--data-root".into(), root.into()]);
        }
        flags.extend(rest);
        let label = label(arguments, &self.name(), self.number);
        let sink = || labelled(label.clone(), Arc::clone(&self.screen));
        let child = Child::start(program, &flags, sink(), sink())?;
        if arguments.log.log_format == LogFormat::Text && !arguments.log.quiet {
            self.screen.print(&format!("{label}started as process {}", child.id()));
        }
        self.state = State::Running(child);
        Ok(())
    }

    /// Sees whether the worker has ended, and starts it again if that may help.
    pub fn look_after(
        &mut self,
        arguments: &Arguments,
        program: &Path,
        address: &str,
    ) -> Result<(), Failure> {
        match &mut self.state {
            State::Running(child) => {
                let Some(status) = child.ended()? else { return Ok(()) };
                self.ended(status, arguments.restart);
            }
            State::Pausing(until) if *until <= Instant::now() => self.start(arguments, program, address)?,
            _ => {}
        }
        Ok(())
    }

    fn ended(&mut self, status: ExitStatus, most: u32) {
        if status.success() {
            self.state = State::Done;
            return;
        }
        let (name, how) = (self.name(), describe(status));
        if status.code().is_some_and(|code| HOPELESS.contains(&code)) {
            self.screen.print(&format!("error: {name} {how}, so starting it again would not help"));
            self.state = State::Failed;
        } else if self.restarts >= most {
            self.screen.print(&format!(
                "error: {name} {how}; --restart allows to start it again {most} times, no more"
            ));
            self.state = State::Failed;
        } else {
            let pause = PAUSE[0].saturating_mul(1 << self.restarts.min(16)).min(PAUSE[1]);
            self.restarts += 1;
            let count = self.restarts;
            self.screen.print(&format!("{name} {how}; starting it again ({count} of at most {most} times)"));
            self.state = State::Pausing(Instant::now() + pause);
        }
    }
}

/// The server has ended; the workers are about to.
pub fn say_farewell(crew: &mut [Seat]) -> Result<(), Failure> {
    let patience = Instant::now() + FAREWELL;
    for seat in crew {
        let name = seat.name();
        let State::Running(child) = &mut seat.state else { continue };
        while child.ended()?.is_none() {
            if Instant::now() >= patience {
                seat.screen.print(&format!("{name} did not end with the server and is killed"));
                child.kill();
            }
            std::thread::sleep(WATCH_EVERY);
        }
    }
    Ok(())
}
