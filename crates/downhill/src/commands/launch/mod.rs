//! `downhill launch`: a server and workers on this machine, as processes of their own.

mod seat;

use crate::children::{self, Child, describe, labelled, relayed};
use crate::failure::Failure;
use crate::interrupt::{self, STOPPED};
use crate::output;
use crossbeam::channel::{self, Receiver, RecvTimeoutError};
use ps_config::{CheckpointArgs, DataArgs, LogArgs, LogFormat, OutArgs, RunArgs};
use ps_run::{Processors, Relay, Style};
use seat::{FAREWELL, Seat, say_farewell};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Train with a server and workers as processes on this machine.
///
/// Starts ps-server on a free port and the workers, shows their output with a label before each line, and
/// ends with the server's summary. The weights are those of `downhill train`, to the last bit.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    run: RunArgs,

    /// Worker processes.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,

    /// Threads of each worker [default: the processors shared out among the workers].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Do not bind the workers' threads to processors of their own, which is done where they are as many as the
    /// processors, so that no worker waits behind another.
    #[arg(long)]
    no_pin: bool,

    /// Cut the weights into S parts, each kept by a server process of its own, or `beside`: each worker keeps a part.
    /// Then a worker or server that dies takes its part and the run along.
    #[arg(long, value_name = "S|beside", default_value = "1", value_parser = shards)]
    shards: Shards,

    /// Connect through TCP instead of Unix sockets, which are faster and are used where the system has them.
    #[arg(long)]
    tcp: bool,

    /// How many times each worker is started again after it was killed or failed; 0: never.
    #[arg(long, value_name = "TIMES", default_value_t = 10)]
    restart: u32,

    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    out: OutArgs,
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// Who keeps the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shards {
    /// So many servers.
    Servers(u32),
    /// The workers.
    Beside,
}

/// Reads `S` or `beside`.
fn shards(text: &str) -> Result<Shards, String> {
    match text.parse() {
        _ if text == "beside" => Ok(Shards::Beside),
        Ok(count @ 1..=256) => Ok(Shards::Servers(count)),
        _ => Err("expected a number from 1 to 256, or beside".into()),
    }
}

const EXAMPLES: &str = "\
Examples:
  downhill launch examples/mnist.toml --workers 2
  downhill launch examples/mnist.toml --workers 3 --threads 1 --out results
  downhill launch examples/mnist.toml --workers 2 --shards beside

A worker may be killed at any moment (kill -9 PID, see the lines that say who was started): it is started again,
and the weights do not change.

With --out at the folder of a run that was stopped or killed it goes on where it was last saved.

Ctrl-C has the server finish, write the results so far and end, and the workers with it (exit code 130); a
second Ctrl-C ends all of them at once.";

/// Children are looked after this often.
const WATCH_EVERY: Duration = Duration::from_millis(20);

/// Launches, watches, and returns the server's exit code.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    arguments.log.start();
    // Mistakes in the run file are told once and before anything is started.
    arguments.run.load()?;
    let programs = [children::beside_us("ps-server")?, children::beside_us("ps-worker")?];
    static SIGNALS: AtomicU32 = AtomicU32::new(1);
    let again = || {
        SIGNALS.fetch_add(1, Ordering::SeqCst);
    };
    let style = Style::choose(&arguments.log);
    let screen = Arc::new(Relay::new(style));
    let told = Arc::clone(&screen);
    let first = move || {
        if style != Style::Json {
            told.print("stopping; press Ctrl-C again to end at once");
        }
    };
    let stop = interrupt::listen(first, again)?;
    let meeting = Meeting::new(arguments.tcp)?;
    let (mut server, address) = start_server(arguments, &programs[0], &meeting, style, &screen)?;
    let Some(address) = address.wait(&mut server, stop)? else {
        return Ok(server_code(server.ended()?, stop));
    };
    // They are killed when this function returns, should they not have ended with the server.
    let mut shards = start_shards(arguments, &programs[0], &meeting, &address, &screen)?;
    let threads = arguments.threads.unwrap_or_else(|| {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        (processors / usize::from(arguments.workers)).max(1) as u16
    });
    let mut crew: Vec<Seat> = Vec::new();
    for number in 1..=arguments.workers {
        let cpus = processors(arguments, number - 1, threads);
        let listen = meeting.address(&format!("worker-{number}"));
        let mut seat = Seat::new(number, threads, cpus, listen, Arc::clone(&screen));
        seat.start(arguments, &programs[1], &address)?;
        crew.push(seat);
    }
    let mut asked = false;
    let status = loop {
        if let Some(status) = server.ended()? {
            break status;
        }
        if stop.load(Ordering::SeqCst) && !asked {
            asked = true;
            server.ask_to_end();
        }
        if SIGNALS.load(Ordering::SeqCst) > 1 {
            return Ok(ExitCode::from(STOPPED));
        }
        for seat in &mut crew {
            seat.look_after(arguments, &programs[1], &address)?;
        }
        if !asked && crew.iter().all(Seat::is_lost) {
            server.ask_to_end();
            return Err(Failure::Failed("no worker is left; see what they said above".into()));
        }
        std::thread::sleep(WATCH_EVERY);
    };
    say_farewell(&mut crew)?;
    wait_for(&mut shards)?;
    if !status.success() {
        output::error(&format!("the server {}", describe(status)));
    }
    Ok(server_code(Some(status), stop))
}

/// The processors of a worker, if all have their own and none is left over: whoever leaves some does so for others.
fn processors(arguments: &Arguments, worker: u16, threads: u16) -> Option<Processors> {
    let ours = Processors::ours();
    let [worker, workers, threads] = [worker, arguments.workers, threads].map(usize::from);
    (!arguments.no_pin && workers * threads == ours.count()).then(|| ours.some(worker * threads, threads))
}

fn server_code(status: Option<ExitStatus>, stop: &AtomicBool) -> ExitCode {
    match status.and_then(|status| status.code()) {
        Some(0) if stop.load(Ordering::SeqCst) => ExitCode::from(STOPPED),
        Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        None => ExitCode::FAILURE,
    }
}

/// Where the processes meet: in a folder of sockets, removed in the end, or on ports that the system chooses.
struct Meeting(Option<TempDir>);

impl Meeting {
    fn new(tcp: bool) -> Result<Self, Failure> {
        if tcp || cfg!(not(unix)) {
            return Ok(Meeting(None));
        }
        let folder = tempfile::Builder::new().prefix("downhill-").tempdir();
        let folder = folder.map_err(|error| {
            let place = std::env::temp_dir();
            Failure::Failed(format!("no folder for sockets in {}: {error}; try --tcp", place.display()))
        })?;
        Ok(Meeting(Some(folder)))
    }

    /// Where the process called `name` is to listen.
    fn address(&self, name: &str) -> String {
        match &self.0 {
            Some(folder) => format!("unix:{}", folder.path().join(name).display()),
            None => "127.0.0.1:0".into(),
        }
    }
}

/// The server's first line.
struct Address(Receiver<String>);

impl Address {
    /// Waits for it: reading the data comes first and may take its time. `None`: the server ended instead.
    fn wait(self, server: &mut Child, stop: &AtomicBool) -> Result<Option<String>, Failure> {
        let mut asked = false;
        loop {
            match self.0.recv_timeout(WATCH_EVERY) {
                Ok(line) => {
                    let address = line.strip_prefix("listening on ");
                    let address = address.map(|at| at.strip_prefix("http://").unwrap_or(at).to_string());
                    return address.map(Some).ok_or_else(|| {
                        Failure::Failed(format!("the server's first line is `{line}`, not where it listens"))
                    });
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) if server.ended()?.is_some() => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(WATCH_EVERY),
            }
            if stop.load(Ordering::SeqCst) && !asked {
                asked = true;
                server.ask_to_end();
            }
        }
    }
}

fn start_server(
    arguments: &Arguments,
    program: &Path,
    meeting: &Meeting,
    style: Style,
    screen: &Arc<Relay>,
) -> Result<(Child, Address), Failure> {
    let mut flags: Vec<OsString> = vec![arguments.run.run.clone().into()];
    for set in &arguments.run.sets {
        flags.extend(["--set".into(), set.into()]);
    }
    flags.extend(["--listen".into(), meeting.address("server").into(), "--min-workers".into()]);
    flags.push(arguments.workers.to_string().into());
    match arguments.shards {
        Shards::Servers(1) => {}
        Shards::Servers(count) => flags.extend(["--shard".into(), format!("0/{count}").into()]),
        Shards::Beside => flags.extend(["--shards-beside".into(), arguments.workers.to_string().into()]),
    }
    if let Some(out) = &arguments.out.out {
        flags.extend(["--out".into(), out.into()]);
    }
    flags.extend(arguments.checkpoint.flags().map(OsString::from));
    flags.extend(shared_flags(arguments));
    let label = label(arguments, "server", 0);
    let stderr = match style {
        Style::Bar => {
            // What moves our bar.
            flags.extend(["--log-format", "json"].map(OsString::from));
            relayed(label, Arc::clone(screen))
        }
        _ => labelled(label, Arc::clone(screen)),
    };
    let (found, address) = channel::bounded(1);
    let mut found = Some(found);
    let ended = Arc::clone(screen);
    let stdout = Box::new(move |line: &str| match found.take() {
        Some(found) => drop(found.send(line.to_string())),
        None => {
            // The summary; a reader who has gone has what it wants.
            ended.close();
            drop(output::lines(&[line.to_string()]));
        }
    });
    let server = Child::start(program, &flags, stdout, stderr)?;
    Ok((server, Address(address)))
}

/// The servers that keep the other parts of the weights.
fn start_shards(
    arguments: &Arguments,
    program: &Path,
    meeting: &Meeting,
    coordinator: &str,
    screen: &Arc<Relay>,
) -> Result<Vec<Child>, Failure> {
    let Shards::Servers(count) = arguments.shards else { return Ok(Vec::new()) };
    let start = |index| {
        let mut flags: Vec<OsString> = vec![arguments.run.run.clone().into()];
        for set in &arguments.run.sets {
            flags.extend(["--set".into(), set.into()]);
        }
        flags.extend(["--shard".into(), format!("{index}/{count}").into()]);
        flags.extend(["--coordinator", coordinator, "--listen"].map(OsString::from));
        flags.push(meeting.address(&format!("shard-{index}")).into());
        flags.extend(shared_flags(arguments));
        let label = label(arguments, &format!("shard {index}"), index as u16);
        // Where it listens is for the workers, who learn it from the coordinator.
        let stdout = Box::new(|_: &str| ());
        Child::start(program, &flags, stdout, labelled(label, Arc::clone(screen)))
    };
    (1..count).map(start).collect()
}

/// Waits until servers that are told that the run is over have ended.
fn wait_for(shards: &mut [Child]) -> Result<(), Failure> {
    let patience = Instant::now() + FAREWELL;
    for shard in shards {
        while shard.ended()?.is_none() && Instant::now() < patience {
            std::thread::sleep(WATCH_EVERY);
        }
    }
    Ok(())
}

fn shared_flags(arguments: &Arguments) -> Vec<OsString> {
    let mut flags: Vec<OsString> = Vec::new();
    if let Some(root) = &arguments.data.data_root {
        flags.extend(["--data-root".into(), root.into()]);
    }
    flags.extend(["--log".into(), arguments.log.level.clone().into()]);
    if arguments.log.log_format == LogFormat::Json {
        flags.extend(["--log-format", "json"].map(OsString::from));
    }
    if arguments.log.quiet {
        flags.push("--quiet".into());
    }
    flags
}

/// What stands before the lines of a process; nothing before JSON, which a program reads.
fn label(arguments: &Arguments, name: &str, number: u16) -> String {
    const COLOURS: [u8; 6] = [32, 33, 34, 35, 36, 31];
    if arguments.log.log_format == LogFormat::Json {
        return String::new();
    }
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    if colour {
        let code = COLOURS[usize::from(number) % COLOURS.len()];
        format!("\x1b[{code}m[{name}]\x1b[0m ")
    } else {
        format!("[{name}] ")
    }
}
