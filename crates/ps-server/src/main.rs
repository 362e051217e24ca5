//! `ps-server`: parse, bind, load, run, exit code.

use ps_coord::Dismissal;
use ps_proto::{Listener, Security};
use ps_run::{
    DataProgress, Ending, Job, Meter, PastRun, Recorder, ResumeHint, RunFolder, SUMMARY_INDENT, Style,
    Summary,
};
use ps_server::args::{self, Arguments};
use ps_server::shard::{self, ShardOptions};
use ps_server::transport::{self, Entrance};
use ps_server::{Finished, Health, Layout, ServerError, ServerOptions};
use ps_watch::{Gate, HeaderMap, Source, Watching};
use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use tracing::{error, info, warn};

#[global_allocator]
static ALLOCATOR: ps_run::HugePages = ps_run::HugePages;

/// An error's text and the exit code that goes with it.
type Failure = (String, u8);

/// 2 if the command line or the run file must change, else 1.
fn failure(error: impl Display, is_usage: bool) -> Failure {
    (error.to_string(), if is_usage { 2 } else { 1 })
}

/// A run that came to no good end.
fn failed(error: &ServerError) -> Failure {
    (error.to_string(), error.exit_code())
}

fn main() -> ExitCode {
    let arguments: Arguments = ps_config::parse(ps_version::commit!());
    arguments.log.start();
    ps_proto::allocator::keep_large_blocks();
    match serve(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err((text, code)) => {
            error!("{text}");
            ExitCode::from(code)
        }
    }
}

fn serve(arguments: &Arguments) -> Result<(), Failure> {
    let run = arguments.run.load().map_err(|error| failure(error, true))?;
    let placement = arguments.placement().map_err(|error| failure(error, true))?;
    // Before the data is read, which may take a while: a port in use shows at once.
    let security = Security::open(&arguments.security).map_err(|error| failure(error, true))?;
    arguments.guard_dashboard(&security).map_err(|error| failure(error, true))?;
    arguments.guard_credentials(&security).map_err(|error| failure(error, true))?;
    let health = arguments.health.as_deref().map(open_health).transpose()?;
    let listener = bind(arguments, &security)?;
    let options = arguments.options(&security);
    let style = Style::choose(&arguments.log);
    let base = arguments.run.folder();
    let job = Job::load(run, base, arguments.data.data_root.as_deref(), &DataProgress::new(style))
        .map_err(|error| failure(&error, error.is_usage()))?;
    job.categories().iter().for_each(|line| ps_run::note(style, line));
    if let Some((index, coordinator)) = placement {
        return serve_shard(arguments, &options, health.as_ref(), listener, job, index, coordinator);
    }
    let name = arguments.run.run.file_stem().map_or("run".into(), |stem| stem.to_string_lossy());
    if let Some(out) = &arguments.out.out
        && let Some(summary) = ps_run::finished(out, &job)
    {
        // Whoever starts a server again that has just ended should not take it for a failure.
        info!("this run is finished: its results are there");
        tell(&summary, out, arguments.log.quiet);
        if !arguments.stay {
            return check_trust(&summary, arguments);
        }
        let past = PastRun::read(out).inspect_err(|error| warn!("nothing to show: {error}")).ok().flatten();
        let watching = past.map(|past| ps_watch::show(&arguments.watch, &job, &past, gate(&security)));
        stay(&options, health.as_ref(), listener, &summary, watching.as_ref())?;
        return check_trust(&summary, arguments);
    }
    if options.layout == Layout::default() {
        job.check_memory().map_err(|error| failure(&error, error.is_usage()))?;
    }
    let folder = RunFolder::create(arguments.out.out.as_deref(), &name, Some(&job.run))
        .map_err(|error| failure(&error, error.is_usage()))?;
    let path = folder.path().to_path_buf();
    let mut recorder = Recorder::with_checkpoints(&job, folder, style, &arguments.checkpoint)
        .map_err(|error| failure(&error, error.is_usage()))?;
    let watching = ps_watch::start(&arguments.watch, &job, &mut recorder, gate(&security), "ps-server")
        .map_err(|error| failure(&error, error.is_usage()))?;

    announce(&listener, &security).map_err(|error| failure(format!("standard output: {error}"), false))?;
    let runtime = transport::runtime().map_err(|error| failure(format!("starting: {error}"), false))?;
    let root = arguments.data.root(base).to_path_buf();
    let finish = move |Finished { job, recorder, weights, version, is_done }| {
        if !is_done {
            warn!(version, steps = job.plan.steps, "stopped before the end");
        }
        recorder.finish(&job, &root, &weights, version)
    };
    health.iter().for_each(|health| health.ready(true));
    // Kept from now on: a port that is given up may be another process's a moment later.
    let again = arguments.stay.then(|| listener.try_clone()).transpose();
    let again = again.map_err(|error| failure(format!("--stay: {error}"), false))?;
    let board = Arc::clone(recorder.board());
    let ended = runtime
        .block_on(ps_server::run(listener, job, options.clone(), recorder, args::asked_to_stop(), finish))
        .inspect(|summary| tell(summary, &path, arguments.log.quiet))
        .inspect_err(|error| board.fail(error));
    if let Ok(summary) = &ended
        && summary.outcome == Ending::Stopped
        && !arguments.launched
    {
        ResumeHint::new(&arguments.out, &path, style).print();
    }
    match (again, &ended) {
        (Some(again), Ok(summary)) if summary.outcome == Ending::Done => {
            stay(&options, health.as_ref(), again, summary, Some(&watching))?;
        }
        _ => watching.see_off(|| false),
    }
    let summary = ended.map_err(|error| failed(&error))?;
    check_trust(&summary, arguments)
}

/// Weights of a finished run that may be wrong are a failure, unless the user accepts them.
fn check_trust(summary: &Summary, arguments: &Arguments) -> Result<(), Failure> {
    if !summary.is_tainted || !summary.is_done() || arguments.accept_tainted {
        return Ok(());
    }
    let text = "the run is finished, but the weights may hold wrong sums of a banned worker; train again in another \
                folder with --out, or accept them with --accept-tainted";
    Err((text.into(), 1))
}

fn open_health(address: &str) -> Result<Health, Failure> {
    let health =
        Health::open(address).map_err(|error| failure(format!("--health {address}: {error}"), false))?;
    info!("health at {}", health.address());
    Ok(health)
}

/// Who may see the page: whoever shows a token, where other callers must.
fn gate(security: &Security) -> Option<Gate> {
    let security = security.clone();
    security
        .asks_token()
        .then(|| Arc::new(move |headers: &HeaderMap| security.admits(headers).is_ok()) as Gate)
}

/// Tells late workers that the run is over, until asked to end.
fn stay(
    options: &ServerOptions,
    health: Option<&Health>,
    listener: Listener,
    summary: &Summary,
    watching: Option<&Watching>,
) -> Result<(), Failure> {
    let page = watching.and_then(Watching::page);
    info!(
        "staying until asked to end{}",
        page.map_or_else(String::new, |page| format!("; dashboard at {page}"))
    );
    health.iter().for_each(|health| health.ready(true));
    let runtime = transport::runtime().map_err(|error| failure(format!("starting: {error}"), false))?;
    let entrance =
        Entrance { security: options.security.clone(), admission_timeout: options.admission_timeout };
    let steps = (summary.steps, summary.steps_planned);
    runtime
        .block_on(ps_server::stay(listener, &entrance, steps, args::asked_to_stop()))
        .map_err(|error| failure(format!("serving connections: {error}"), false))
}

/// Prints a summary, or the hash in its last line. The result is in the folder; a reader of the output who has gone is no failure.
fn tell(summary: &Summary, folder: &Path, is_quiet: bool) {
    let mut out = std::io::stdout().lock();
    let lines = summary.lines(Some(folder));
    let shown = if is_quiet { &lines[lines.len() - 1..] } else { &lines };
    let shown = ps_terminal::hang(shown, ps_terminal::stdout_width(), SUMMARY_INDENT);
    let _ = shown.iter().try_for_each(|line| writeln!(out, "{line}"));
}

/// Keeps a part of the weights until the coordinator says that the run is over.
fn serve_shard(
    arguments: &Arguments,
    options: &ServerOptions,
    health: Option<&Health>,
    listener: Listener,
    job: Job,
    index: u32,
    coordinator: String,
) -> Result<(), Failure> {
    announce(&listener, &options.security)
        .map_err(|error| failure(format!("standard output: {error}"), false))?;
    let meter = Arc::<Meter>::default();
    let _watching = Watching::metrics(arguments.watch.metrics.as_deref(), Source::Worker(Arc::clone(&meter)));
    let address = match &arguments.advertise {
        Some(address) => address.clone(),
        None => listener.address().map_err(|error| failure(error, false))?.to_string(),
    };
    let placement = ShardOptions { coordinator, index: Some(index), address, meter: Arc::clone(&meter) };
    let runtime = transport::runtime().map_err(|error| failure(format!("starting: {error}"), false))?;
    runtime.block_on(async {
        let started = shard::start(listener, Arc::new(job), &placement, options);
        let end = tokio::select! {
            biased;
            started = started => match started {
                Ok((_shard, end)) => {
                    health.iter().for_each(|health| health.ready(true));
                    tokio::select! {
                        end = end => end,
                        () = args::asked_to_stop() => {
                            warn!("stopped; the run waits until this shard is started again");
                            return Ok(());
                        }
                    }
                }
                Err(error) => Err(error),
            },
            () = args::asked_to_stop() => return Ok(()),
        };
        match end {
            Ok(Dismissal::Done) | Err(ServerError::Over) => info!("training is done"),
            Ok(reason) => info!("stopped: {reason}"),
            Err(error) => return Err(failed(&error)),
        }
        if arguments.stay {
            info!("staying until asked to end");
            args::asked_to_stop().await;
        }
        Ok(())
    })
}

fn bind(arguments: &Arguments, security: &Security) -> Result<Listener, Failure> {
    let address = arguments.address(security).map_err(|error| failure(error, true))?;
    Listener::bind(&address).map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::AddrInUse if address.is_a_file() => {
                "; another server listens there, or it is no socket"
            }
            ErrorKind::AddrInUse => "; another process has this port, choose another or 0 for any",
            _ => "",
        };
        failure(format!("--listen {address}: {error}{hint}"), false)
    })
}

/// Tells whoever started us where we are; `--listen HOST:0` has the system choose the port.
fn announce(listener: &Listener, security: &Security) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let address = listener.address()?;
    writeln!(out, "listening on {}{address}", if address.is_a_file() { "" } else { security.scheme() })?;
    out.flush()
}
