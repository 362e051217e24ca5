//! `ps-server`: parse, bind, load, run, exit code.

use ps_coord::Dismissal;
use ps_net::{Listener, Security};
use ps_run::{
    DataProgress, Ending, Job, JobError, Meter, PastRun, Recorder, ResumeHint, RunFolder, SUMMARY_INDENT,
    Style, Summary,
};
use ps_server::args::Arguments;
use ps_server::launched::Message;
use ps_server::{ENDED, Finished, Health, ServerError, ServerOptions, ShardLayout};
use ps_shard::shard::{self, ShardOptions};
use ps_shard::signals::{Signal, Signals};
use ps_shard::transport::{self, AdmissionConfig};
use ps_watch::{Gate, HeaderMap, Source, WatchHandle};
use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use tracing::{error, info, warn};

#[global_allocator]
static ALLOCATOR: ps_run::HugePages = ps_run::HugePages;

/// The commit that the program is built from.
const COMMIT: Option<&str> = ps_version::commit!();

/// An error's text and its exit code.
type Failure = (String, u8);

/// Exit code 2 if the command line or the run file must change, else 1.
fn failure(error: impl Display, is_usage: bool) -> Failure {
    (error.to_string(), if is_usage { 2 } else { 1 })
}

/// Describes the failure of a run.
fn failed(error: &ServerError) -> Failure {
    (error.to_string(), error.exit_code())
}

fn main() -> ExitCode {
    let arguments: Arguments = ps_config::parse(COMMIT);
    arguments.log.start();
    ps_host::keep_large_blocks();
    let served = Signals::listen()
        .map_err(|error| failure(format!("cannot listen for signals: {error}"), false))
        .and_then(|signals| serve(&arguments, &signals));
    ExitCode::from(served.unwrap_or_else(|(text, code)| {
        error!("{text}");
        code
    }))
}

/// Serves the run, or a part of the weights, and returns the exit code.
fn serve(arguments: &Arguments, signals: &Signals) -> Result<u8, Failure> {
    let run = arguments.run.load().map_err(|error| failure(error, true))?;
    let placement = arguments.placement().map_err(|error| failure(error, true))?;
    // Before the data is read, which may take a while, so that a port in use is reported at once.
    let security = arguments.security().map_err(|error| failure(error, true))?;
    arguments.guard_dashboard(&security).map_err(|error| failure(error, true))?;
    arguments.guard_credentials(&security).map_err(|error| failure(error, true))?;
    if placement.is_none()
        && let Some(out) = &arguments.out.out
        && let Some(code) = remains_ended(out, arguments)?
    {
        return Ok(code);
    }
    // Supervisors probe the process while it reads its data; it only counts as ready later.
    let health = arguments.health.as_deref().map(open_health).transpose()?;
    let listener = bind(arguments, &security)?;
    let options = arguments.options(&security);
    let style = Style::choose(&arguments.log);
    let root = arguments.data.root(arguments.run.folder());
    let progress = DataProgress::new(style);
    let job = ps_fetch::localized_config(&run.data, &progress)
        .map_err(JobError::from)
        .and_then(|local| Job::load_local(run, &local, root, &progress))
        .map_err(|error| failure(&error, error.is_usage()))?;
    drop(progress);
    job.notes().iter().for_each(|line| ps_run::note(style, line));
    if let Some((index, coordinator)) = placement {
        return serve_shard(arguments, &options, signals, health.as_ref(), listener, job, index, coordinator);
    }
    let name = arguments.run.run.file_stem().map_or("run".into(), |stem| stem.to_string_lossy());
    if let Some(out) = &arguments.out.out
        && let Some(summary) = ps_run::finished(out, &job)
    {
        // A supervisor that restarts a finished server must not take this for a failure.
        info!("this run is finished; its results are in the folder");
        let print_summary = || print_summary(&summary, out, arguments);
        if !arguments.linger {
            print_summary();
            check_trust(&summary, arguments)?;
            return Ok(0);
        }
        let past =
            PastRun::read(out).inspect_err(|error| warn!("cannot show the results: {error}")).ok().flatten();
        let watching = past.map(|past| ps_watch::show(&arguments.watch, &job, &past, gate(&security)));
        let code =
            linger(&options, signals, health.as_ref(), listener, &summary, watching.as_ref(), print_summary)?;
        check_trust(&summary, arguments)?;
        return Ok(code);
    }
    if options.layout == ShardLayout::default() {
        job.check_memory().map_err(|error| failure(&error, error.is_usage()))?;
    }
    let folder = RunFolder::create(arguments.out.out.as_deref(), &name, Some(&job.run))
        .map_err(|error| failure(&error, error.is_usage()))?
        .with_commit(COMMIT);
    let path = folder.path().to_path_buf();
    let mut recorder = Recorder::with_checkpoints(&job, folder, style, &arguments.checkpoint)
        .map_err(|error| failure(&error, error.is_usage()))?;
    let watching = ps_watch::start(&arguments.watch, &job, &mut recorder, gate(&security), "ps-server")
        .map_err(|error| failure(&error, error.is_usage()))?;

    announce(&listener, &security, arguments)
        .map_err(|error| failure(format!("standard output: {error}"), false))?;
    let runtime = transport::runtime().map_err(|error| failure(format!("cannot start: {error}"), false))?;
    let root = root.to_path_buf();
    let finish = move |Finished { job, mut recorder, weights, version, is_done, is_ended }| {
        if is_ended {
            warn!(version, steps = job.plan.steps, "ended on request");
            recorder.end_for_good();
        } else if !is_done {
            warn!(version, steps = job.plan.steps, "stopped before the end");
        }
        recorder.finish(&job, &root, &weights, version)
    };
    health.iter().for_each(|health| health.ready(true));
    // Keeps the port bound from now on, because another process could take it in between.
    let again = arguments.linger.then(|| listener.try_clone()).transpose();
    let again = again.map_err(|error| failure(format!("--linger: {error}"), false))?;
    let run_state = Arc::clone(recorder.run_state());
    // From here on there is something to save, so a signal stops the run instead of the process.
    signals.defer();
    let stop = async {
        signals.received().await;
    };
    let ended = runtime.block_on(ps_server::run(listener, job, options.clone(), recorder, stop, finish));
    let summary = match ended {
        Ok(summary) => summary,
        Err(error) => {
            run_state.fail(&error);
            watching.wait_for_viewers(|| false);
            return Err(failed(&error));
        }
    };
    let print_summary = || print_summary(&summary, &path, arguments);
    let code = match summary.outcome {
        Ending::Done => {
            if let Some(again) = again {
                let code = linger(
                    &options,
                    signals,
                    health.as_ref(),
                    again,
                    &summary,
                    Some(&watching),
                    print_summary,
                )?;
                check_trust(&summary, arguments)?;
                return Ok(code);
            }
            0
        }
        // Without a signal, an observer has requested the stop.
        Ending::Stopped => signals.first().map_or(1, Signal::exit_code),
        Ending::Ended => ENDED,
    };
    print_summary();
    if summary.outcome == Ending::Stopped && !arguments.launched {
        ResumeHint::new(&arguments.out, &path, style).print();
    }
    watching.wait_for_viewers(|| false);
    check_trust(&summary, arguments)?;
    Ok(code)
}

/// Weights of a finished run that may be wrong are a failure, unless the user accepts them.
fn check_trust(summary: &Summary, arguments: &Arguments) -> Result<(), Failure> {
    if !summary.is_tainted || !summary.is_done() || arguments.accept_tainted {
        return Ok(());
    }
    let text = "the run is finished, but the weights may contain wrong sums of a banned worker; train again in another folder with --out, or accept them with --accept-tainted";
    Err((text.into(), 1))
}

/// The exit code for a run in the folder `out` that was ended for good; `None` if it may be resumed.
fn remains_ended(out: &Path, arguments: &Arguments) -> Result<Option<u8>, Failure> {
    let Some(summary) = ps_run::ended(out) else { return Ok(None) };
    if arguments.resume {
        ps_run::reopen(out).map_err(|error| failure(error, false))?;
        return Ok(None);
    }
    warn!(
        "{}: the run was ended on request after {} of {} steps; start the server with --resume to resume it",
        out.display(),
        summary.steps,
        summary.steps_planned
    );
    print_summary(&summary, out, arguments);
    Ok(Some(ENDED))
}

fn open_health(address: &str) -> Result<Health, Failure> {
    let health =
        Health::open(address).map_err(|error| failure(format!("--health {address}: {error}"), false))?;
    info!("health at {}", health.address());
    Ok(health)
}

/// Access to the page: it requires a token if calls do.
fn gate(security: &Security) -> Option<Gate> {
    let security = security.clone();
    security
        .requires_token()
        .then(|| Arc::new(move |headers: &HeaderMap| security.admits(headers).is_ok()) as Gate)
}

/// Answers late workers that the run is over, until a signal arrives. `print_summary` prints the summary
/// after all other output.
fn linger(
    options: &ServerOptions,
    signals: &Signals,
    health: Option<&Health>,
    listener: Listener,
    summary: &Summary,
    watching: Option<&WatchHandle>,
    print_summary: impl FnOnce(),
) -> Result<u8, Failure> {
    let page = watching.and_then(WatchHandle::page);
    info!("waiting for SIGTERM{}", page.map_or_else(String::new, |page| format!("; dashboard at {page}")));
    health.iter().for_each(|health| health.ready(true));
    let runtime = transport::runtime().map_err(|error| failure(format!("cannot start: {error}"), false))?;
    let admission =
        AdmissionConfig { security: options.security.clone(), admission_timeout: options.admission_timeout };
    let steps = (summary.steps, summary.steps_planned);
    print_summary();
    signals.defer();
    let received = signals.received();
    runtime
        .block_on(ps_server::serve_finished_run(listener, &admission, steps, async {
            received.await;
        }))
        .map_err(|error| failure(format!("serving connections: {error}"), false))?;
    Ok(0)
}

/// Prints a summary, or only the hash in its last line. A closed output is not an error, because the result
/// is in the folder.
fn print_summary(summary: &Summary, folder: &Path, arguments: &Arguments) {
    let mut out = std::io::stdout().lock();
    let lines = summary.lines(Some(folder));
    let shown = if arguments.log.quiet { &lines[lines.len() - 1..] } else { &lines };
    if arguments.launched {
        let _ = writeln!(out, "{}", Message::Summary { lines: shown.to_vec() }.to_line());
        return;
    }
    let shown = ps_terminal::hang(shown, ps_terminal::stdout_width(), SUMMARY_INDENT);
    let _ = shown.iter().try_for_each(|line| writeln!(out, "{line}"));
}

/// Keeps a part of the weights until the coordinator reports the end of the run, and returns the exit code.
#[allow(clippy::too_many_arguments)] // What `serve` has prepared, once.
fn serve_shard(
    arguments: &Arguments,
    options: &ServerOptions,
    signals: &Signals,
    health: Option<&Health>,
    listener: Listener,
    job: Job,
    index: u32,
    coordinator: String,
) -> Result<u8, Failure> {
    announce(&listener, &options.security, arguments)
        .map_err(|error| failure(format!("standard output: {error}"), false))?;
    let meter = Arc::<Meter>::default();
    let _watching =
        WatchHandle::metrics(arguments.watch.metrics.as_deref(), Source::Worker(Arc::clone(&meter)));
    let address = match &arguments.advertise {
        Some(address) => address.clone(),
        None => listener.address().map_err(|error| failure(error, false))?.to_string(),
    };
    let placement = ShardOptions { coordinator, index: Some(index), address, meter: Arc::clone(&meter) };
    let runtime = transport::runtime().map_err(|error| failure(format!("cannot start: {error}"), false))?;
    signals.defer();
    runtime.block_on(async {
        let kept = async {
            let (_shard, end) = shard::start(listener, Arc::new(job), &placement, options).await?;
            health.iter().for_each(|health| health.ready(true));
            end.await
        };
        let end = tokio::select! {
            biased;
            end = kept => end,
            signal = signals.received() => {
                warn!("stopped; the run waits until this shard is restarted");
                return Ok(signal.exit_code());
            }
        };
        match end {
            Ok(Dismissal::Done) | Err(ServerError::RunFinished) => info!("training is done"),
            Ok(Dismissal::Ended(reason)) => {
                warn!("{reason}");
                return Ok(ENDED);
            }
            Ok(reason) => return Err(failed(&ServerError::RunFailed(reason.to_string()))),
            Err(error) => return Err(failed(&error)),
        }
        if arguments.linger {
            info!("waiting for SIGTERM");
            // A shard that was started after the end of the run has nothing left to wait for, either.
            health.iter().for_each(|health| health.ready(true));
            signals.received().await;
        }
        Ok(0)
    })
}

fn bind(arguments: &Arguments, security: &Security) -> Result<Listener, Failure> {
    let address = arguments.address(security).map_err(|error| failure(error, true))?;
    Listener::bind(&address).map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::AddrInUse if address.is_unix() => {
                "; another server is listening there, or the path is not a socket"
            }
            ErrorKind::AddrInUse => "; another process uses this port; choose another, or 0 for any",
            _ => "",
        };
        failure(format!("--listen {address}: {error}{hint}"), false)
    })
}

/// Prints the address of the server; for `--listen HOST:0`, with the port that the system chose.
fn announce(listener: &Listener, security: &Security, arguments: &Arguments) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let address = listener.address()?;
    if arguments.launched {
        writeln!(out, "{}", Message::Listening { address: address.to_string() }.to_line())?;
    } else {
        writeln!(out, "listening on {}{address}", if address.is_unix() { "" } else { security.scheme() })?;
    }
    out.flush()
}
