//! `downhill launch`: runs a server and workers as separate processes on this machine.

mod supervised_process;

use crate::child_process::{self, Sink, describe, labelled, relayed};
use crate::failure::Failure;
use crate::interrupt::{self, STOPPED};
use crate::output;
use crossbeam::channel::{self, Receiver, RecvTimeoutError};
use ps_config::{CheckpointArgs, DataArgs, LogArgs, LogFormat, OutArgs, RunArgs, WatchArgs};
use ps_run::{Processors, Relay, ResumeHint, RunFolder, SUMMARY_INDENT, Style};
use ps_server::launched::Message;
use ps_shard::signals::Signal;
use ps_terminal::{stdout_width, wrap};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use supervised_process::{ProcessSpec, SupervisedProcess, wait_for_exit};
use tempfile::TempDir;

/// Train a model with server and worker processes on this machine
///
/// Starts ps-server and the workers, prefixes each line of their output with the name of the process, and
/// prints the server's summary at the end. The weights are bit-identical to those of 'downhill train'.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{DETAILS}"))]
pub(crate) struct Arguments {
    #[command(flatten)]
    run: RunArgs,

    /// Number of worker processes
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,

    /// Number of threads per worker [default: processors / workers]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Do not bind the workers' threads to processors
    ///
    /// By default, the threads are bound if their number equals the number of processors, so that no worker
    /// waits for another.
    #[arg(long)]
    no_pin: bool,

    /// Shard the weights over S servers, or over the workers
    ///
    /// With 'colocated', each worker process also holds a shard. If a process that holds weights dies, the
    /// run goes back to its last checkpoint.
    #[arg(long, value_name = "S|colocated", default_value = "1", value_parser = shards)]
    shards: Shards,

    /// Connect over TCP instead of Unix sockets
    ///
    /// Unix sockets are faster, and are the default on systems that have them.
    #[arg(long)]
    tcp: bool,

    /// How many times to restart each process; 0 for never
    ///
    /// A worker is restarted if it fails or is killed, a server only if it is killed.
    #[arg(long, value_name = "TIMES", default_value_t = 10)]
    restart: u32,

    /// Keep serving the dashboard after the run has ended, until Ctrl-C
    #[arg(long, alias = "stay", requires = "dashboard")]
    linger: bool,

    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    out: OutArgs,
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    #[command(flatten)]
    watch: WatchArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// Which processes hold the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shards {
    /// This number of servers, with one shard each.
    Servers(u32),
    /// The workers, each of which also holds a shard.
    Colocated,
}

/// Parses `S` or `colocated`.
fn shards(text: &str) -> Result<Shards, String> {
    match text.parse() {
        // `beside` is the old name of the value.
        _ if matches!(text, "colocated" | "beside") => Ok(Shards::Colocated),
        Ok(count @ 1..=256) => Ok(Shards::Servers(count)),
        _ => Err("expected a number from 1 to 256, or 'colocated'".into()),
    }
}

const EXAMPLES: &str = "\
Examples:
  downhill launch examples/digits.toml --workers 2
  downhill launch examples/digits.toml --workers 3 --threads 1 --out results
  downhill launch examples/digits.toml --workers 2 --shards colocated
  downhill launch examples/digits.toml --workers 2 --dashboard --linger";

const DETAILS: &str = "\
Fault tolerance:
Any of the processes can be killed at any time. It is restarted, and the weights do not change. To try it, run kill -9 with \
one of the process IDs that are printed at the start.

Stopping and resuming:
Ctrl-C stops the server, which saves the run and its results so far, and then the workers; the exit code is 130. A second \
Ctrl-C stops all of them immediately. Either way, the command that resumes the run is printed. To resume a run, however it \
ended, start it again with --out set to its folder.";

/// Exit code of a server that we asked to exit before its run was done.
const STOPPED_SERVER: i32 = Signal::Terminate.exit_code() as i32;
/// How often the state of the child processes is checked.
const WATCH_EVERY: Duration = Duration::from_millis(20);

/// Starts all processes, supervises them, and returns the server's exit code.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    arguments.log.start();
    // Mistakes in the run file are reported once, before any process is started.
    let run = arguments.run.load()?;
    if run.data.reads_stdin() {
        return Err(Failure::Usage(
            "only one process can read standard input; use `downhill train`, or give a file".into(),
        ));
    }
    ps_watch::guard(&arguments.watch).map_err(Failure::Usage)?;
    let programs =
        [child_process::sibling_program("ps-server")?, child_process::sibling_program("ps-worker")?];
    // The folder is chosen here, so that a restarted server finds what the previous one has saved.
    let name = arguments.run.run.file_stem().map_or("run".into(), |stem| stem.to_string_lossy());
    let folder = RunFolder::create(arguments.out.out.as_deref(), &name, Some(&run))?;
    // The first Ctrl-C sets `stop` and does not call `again`, so the count starts at 1.
    static SIGNALS: AtomicU32 = AtomicU32::new(1);
    let again = || {
        SIGNALS.fetch_add(1, Ordering::SeqCst);
    };
    let style = Style::choose(&arguments.log);
    let hint = ResumeHint::new(&arguments.out, folder.path(), style);
    let screen = Arc::new(Relay::new(style));
    let relay = Arc::clone(&screen);
    let first = move || {
        if !matches!(style, Style::Json | Style::Quiet) {
            relay.print("stopping; press Ctrl-C again to exit immediately");
        }
    };
    let stop = interrupt::listen(first, again)?;
    let endpoints = Endpoints::new(arguments.tcp)?;
    let is_done = Arc::<AtomicBool>::default();
    let launcher = Launcher {
        arguments,
        style,
        programs: &programs,
        endpoints: &endpoints,
        screen: &screen,
        is_done: &is_done,
        stop,
    };
    let was_stopped = || stop.load(Ordering::SeqCst) && !is_done.load(Ordering::SeqCst);
    let (spec, announced) = launcher.server(&folder);
    let mut server = SupervisedProcess::new(spec, arguments.restart, Arc::clone(&screen));
    server.start()?;
    let Some(address) = announced.wait(&mut server, stop)? else {
        return Ok(server_code(server.ended(), was_stopped(), &hint));
    };
    if let Some(listen) = server.spec.flags.iter_mut().skip_while(|flag| *flag != "--listen").nth(1) {
        // A restarted server must be reachable at the same address.
        *listen = address.clone().into();
    }
    // If this function returns early, dropping these kills all processes.
    let mut processes = Vec::new();
    for spec in launcher.shards(&address).into_iter().chain(launcher.workers(&address)) {
        let mut process = SupervisedProcess::new(spec, arguments.restart, Arc::clone(&screen));
        process.start()?;
        processes.push(process);
    }
    let mut is_stopping = false;
    let status = loop {
        server.supervise(!is_stopping)?;
        if let Some(status) = server.ended() {
            break status;
        }
        if stop.load(Ordering::SeqCst) && !is_stopping {
            is_stopping = true;
            server.terminate();
        }
        if SIGNALS.load(Ordering::SeqCst) > 1 {
            screen.close();
            hint.print();
            return Ok(ExitCode::from(STOPPED));
        }
        for process in &mut processes {
            process.supervise(true)?;
        }
        if !is_stopping
            && processes.iter().filter(|process| !process.spec.keeps_weights).all(SupervisedProcess::is_lost)
        {
            server.terminate();
            return Err(Failure::Failed("all workers have failed; see their messages above".into()));
        }
        std::thread::sleep(WATCH_EVERY);
    };
    // If the server failed or was stopped, its workers would wait for the next one until their timeout.
    wait_for_exit(&mut processes, !status.success())?;
    let is_requested = was_stopped() || status.code() == Some(ps_server::ENDED.into());
    if !status.success() && !is_requested {
        output::error(&format!("the server {}", describe(status)));
    }
    Ok(server_code(Some(status), was_stopped(), &hint))
}

/// Returns the processors of a worker if the workers use all processors and share none. A user who leaves
/// some unused does so for other programs, so threads are not bound then.
fn processors(arguments: &Arguments, worker: u16, threads: u16) -> Option<Processors> {
    let ours = Processors::ours();
    let [worker, workers, threads] = [worker, arguments.workers, threads].map(usize::from);
    (!arguments.no_pin && workers * threads == ours.count()).then(|| ours.some(worker * threads, threads))
}

fn server_code(status: Option<ExitStatus>, was_stopped: bool, hint: &ResumeHint) -> ExitCode {
    match status.and_then(|status| status.code()) {
        Some(0 | STOPPED_SERVER) if was_stopped => {
            hint.print();
            ExitCode::from(STOPPED)
        }
        Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        None => ExitCode::FAILURE,
    }
}

/// The addresses of the processes: sockets in a temporary folder, or ports that the system chooses.
struct Endpoints(Option<TempDir>);

impl Endpoints {
    fn new(tcp: bool) -> Result<Self, Failure> {
        if tcp || cfg!(not(unix)) {
            return Ok(Endpoints(None));
        }
        let folder = tempfile::Builder::new().prefix("downhill-").tempdir();
        let folder = folder.map_err(|error| {
            let place = std::env::temp_dir();
            Failure::Failed(format!(
                "cannot create a folder for sockets in {}: {error}; try --tcp",
                place.display()
            ))
        })?;
        Ok(Endpoints(Some(folder)))
    }

    /// Returns the address on which the process `name` listens.
    fn address(&self, name: &str) -> String {
        match &self.0 {
            Some(folder) => format!("unix:{}", folder.path().join(name).display()),
            None => "127.0.0.1:0".into(),
        }
    }
}

/// Receives the address that the server announces, or an error if it writes anything else.
struct AnnouncedAddress(Receiver<Result<String, String>>);

impl AnnouncedAddress {
    /// Waits for the address, which the server announces after it has read the data. Returns `None` if the
    /// server has ended instead.
    fn wait(self, server: &mut SupervisedProcess, stop: &AtomicBool) -> Result<Option<String>, Failure> {
        let mut is_stopping = false;
        loop {
            match self.0.recv_timeout(WATCH_EVERY) {
                Ok(Ok(address)) => return Ok(Some(address)),
                Ok(Err(line)) => {
                    return Err(Failure::Failed(format!(
                        "expected the server's address, but its first line is `{line}`; use ps-server of \
                         the same release"
                    )));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(WATCH_EVERY),
            }
            server.supervise(!is_stopping)?;
            if server.ended().is_some() {
                return Ok(None);
            }
            if stop.load(Ordering::SeqCst) && !is_stopping {
                is_stopping = true;
                server.terminate();
            }
        }
    }
}

/// The settings that all launched processes share.
struct Launcher<'a> {
    arguments: &'a Arguments,
    style: Style,
    /// Paths of `ps-server` and `ps-worker`.
    programs: &'a [PathBuf; 2],
    endpoints: &'a Endpoints,
    screen: &'a Arc<Relay>,
    /// Set when the server has printed the summary of a run that was not stopped.
    is_done: &'a Arc<AtomicBool>,
    stop: &'static AtomicBool,
}

impl Launcher<'_> {
    fn server(&self, folder: &RunFolder) -> (ProcessSpec, AnnouncedAddress) {
        let arguments = self.arguments;
        let mut flags = self.run_flags();
        flags.extend(["--listen".into(), self.endpoints.address("server").into(), "--min-workers".into()]);
        flags.push(arguments.workers.to_string().into());
        match arguments.shards {
            Shards::Servers(1) => {}
            Shards::Servers(count) => flags.extend(["--shard".into(), format!("0/{count}").into()]),
            Shards::Colocated => {
                flags.extend(["--shards-colocated".into(), arguments.workers.to_string().into()]);
            }
        }
        // The command that resumes the run is that of this process, not the server's.
        flags.extend(["--launched".into(), "--out".into(), folder.path().into()]);
        // Launching a run again resumes it.
        flags.push("--resume".into());
        flags.extend(arguments.checkpoint.flags().map(OsString::from));
        flags.extend(arguments.watch.flags());
        if arguments.linger {
            flags.push("--linger".into());
        }
        flags.extend(self.shared_flags());
        let (found, announced) = channel::bounded(1);
        let (label, screen) = (label(arguments, "server", 0), Arc::clone(self.screen));
        let log = self.log();
        let (is_done, stop) = (Arc::clone(self.is_done), self.stop);
        let sinks = move || {
            let stderr = log(&label, &screen);
            let (found, screen, is_done) = (found.clone(), Arc::clone(&screen), Arc::clone(&is_done));
            let stdout = Box::new(move |line: &str| match Message::parse(line) {
                Some(Message::Listening { address }) => {
                    // A restarted server announces the same address again, which nobody waits for then.
                    let _ = found.try_send(Ok(address));
                }
                Some(Message::Summary { lines }) => {
                    screen.close();
                    let wrapped = lines.iter().flat_map(|line| wrap(line, stdout_width(), SUMMARY_INDENT));
                    // A closed pipe is not an error: its reader has seen what it wanted.
                    drop(output::lines(&wrapped.collect::<Vec<_>>()));
                    if !stop.load(Ordering::SeqCst) {
                        is_done.store(true, Ordering::SeqCst);
                    }
                }
                None => drop(found.try_send(Err(line.into()))),
            });
            [stdout as Sink, stderr]
        };
        (self.spec("server", 0, flags, true, Box::new(sinks)), AnnouncedAddress(announced))
    }

    /// Returns the servers that hold the other shards.
    fn shards(&self, coordinator: &str) -> Vec<ProcessSpec> {
        let Shards::Servers(count) = self.arguments.shards else { return Vec::new() };
        let shard = |index: u32| {
            let mut flags = self.run_flags();
            flags.extend(["--shard".into(), format!("{index}/{count}").into()]);
            flags.extend(["--coordinator", coordinator, "--listen"].map(OsString::from));
            flags.push(self.endpoints.address(&format!("shard-{index}")).into());
            flags.extend(self.shared_flags());
            let (label, screen) =
                (label(self.arguments, &format!("shard {index}"), index as u16), Arc::clone(self.screen));
            // Workers learn the addresses of shards from the coordinator.
            let log = self.log();
            let sinks = move || [Box::new(|_: &str| ()) as Sink, log(&label, &screen)];
            self.spec(&format!("shard {index}"), index as u16, flags, true, Box::new(sinks))
        };
        (1..count).map(shard).collect()
    }

    fn workers(&self, server: &str) -> Vec<ProcessSpec> {
        let arguments = self.arguments;
        let threads = arguments.threads.unwrap_or_else(|| {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            (processors / usize::from(arguments.workers)).max(1) as u16
        });
        let worker = |number: u16| {
            let name = format!("worker {number}");
            let mut flags: Vec<OsString> = ["--server", server, "--threads"].map(OsString::from).into();
            flags.push(threads.to_string().into());
            if let Some(cpus) = processors(arguments, number - 1, threads) {
                flags.extend(["--cpus".into(), cpus.to_string().into()]);
            }
            flags.extend(["--name".into(), name.replace(' ', "-").into()]);
            // The run file is the user's own, so it may name data anywhere.
            flags.push("--allow-any-path".into());
            if arguments.shards == Shards::Colocated {
                let listen = self.endpoints.address(&format!("worker-{number}"));
                flags.extend(["--host-shard", "--shard-listen", &listen].map(OsString::from));
            }
            if arguments.data.data_root.is_none() {
                // Relative paths start at the folder of the run file, which the server does not transmit.
                flags.extend(["--data-root".into(), arguments.data.root(arguments.run.folder()).into()]);
            }
            flags.extend(self.shared_flags());
            let (label, screen) = (label(arguments, &name, number), Arc::clone(self.screen));
            let log = self.log();
            let sinks = move || [labelled(label.clone(), Arc::clone(&screen)), log(&label, &screen)];
            self.spec(&name, number, flags, false, Box::new(sinks))
        };
        (1..=arguments.workers).map(worker).collect()
    }

    fn spec(
        &self,
        name: &str,
        number: u16,
        flags: Vec<OsString>,
        keeps_weights: bool,
        sinks: Box<dyn Fn() -> [Sink; 2]>,
    ) -> ProcessSpec {
        let log = &self.arguments.log;
        let is_announced = number > 0 && log.log_format == LogFormat::Text && !log.quiet;
        let program = self.programs[usize::from(!keeps_weights)].clone();
        ProcessSpec { name: name.into(), program, flags, sinks, keeps_weights, is_announced }
    }

    /// The run file and its overrides, as flags.
    fn run_flags(&self) -> Vec<OsString> {
        let run = &self.arguments.run;
        let sets = run.sets.iter().flat_map(|set| ["--set".into(), set.into()]);
        std::iter::once(run.run.clone().into()).chain(sets).collect()
    }

    fn shared_flags(&self) -> Vec<OsString> {
        let mut flags: Vec<OsString> = Vec::new();
        if let Some(root) = &self.arguments.data.data_root {
            flags.extend(["--data-root".into(), root.into()]);
        }
        let log = &self.arguments.log;
        flags.extend(["--log".into(), log.level.clone().into()]);
        // On a terminal, our bar shows the progress that the server reports as JSON.
        if log.log_format == LogFormat::Json || self.style == Style::Bar {
            flags.extend(["--log-format", "json"].map(OsString::from));
        }
        if log.quiet {
            flags.push("--quiet".into());
        }
        flags
    }

    /// Returns the function that makes the sink for the log of a process.
    fn log(&self) -> fn(&str, &Arc<Relay>) -> Sink {
        match self.style {
            Style::Bar => |label, screen| relayed(label.into(), Arc::clone(screen)),
            _ => |label, screen| labelled(label.into(), Arc::clone(screen)),
        }
    }
}

/// Returns the prefix of a process's lines. Lines in JSON have none, because programs read them.
fn label(arguments: &Arguments, name: &str, number: u16) -> String {
    const COLOURS: [u8; 6] = [32, 33, 34, 35, 36, 31];
    if arguments.log.log_format == LogFormat::Json {
        return String::new();
    }
    if ps_terminal::has_color() {
        let code = COLOURS[usize::from(number) % COLOURS.len()];
        format!("\x1b[{code}m[{name}]\x1b[0m ")
    } else {
        format!("[{name}] ")
    }
}
