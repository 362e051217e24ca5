//! `ps-server`: parse, bind, load, run, exit code.

mod args;

use args::Arguments;
use clap::Parser;
use ps_coord::Dismissal;
use ps_proto::{Listener, Security};
use ps_run::{DataProgress, Job, Recorder, RunFolder, Style, Summary};
use ps_server::shard::{self, ShardOptions};
use ps_server::transport;
use ps_server::{Finished, ServerError, ServerOptions};
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
    let arguments = Arguments::parse();
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
    let listener = bind(arguments, &security)?;
    let options = arguments.options(&security);
    let style = Style::choose(&arguments.log);
    let base = arguments.run.folder();
    let job = Job::load(run, base, arguments.data.data_root.as_deref(), &DataProgress::new(style))
        .map_err(|error| failure(&error, error.is_usage()))?;
    if let Some((index, coordinator)) = placement {
        return serve_shard(arguments, &options, listener, job, index, coordinator);
    }
    let name = arguments.run.run.file_stem().map_or("run".into(), |stem| stem.to_string_lossy());
    if let Some(out) = &arguments.out.out
        && let Some(summary) = ps_run::finished(out, &job)
    {
        // Whoever starts a server again that has just ended should not take it for a failure.
        info!("this run is finished: its results are there");
        tell(&summary, out);
        return Ok(());
    }
    let folder = RunFolder::create(arguments.out.out.as_deref(), &name)
        .map_err(|error| failure(&error, error.is_usage()))?;
    let path = folder.path().to_path_buf();
    let recorder = Recorder::with_checkpoints(&job, folder, style, &arguments.checkpoint)
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
    let summary = runtime
        .block_on(ps_server::run(listener, job, options, recorder, args::asked_to_stop(), finish))
        .map_err(|error| failed(&error))?;
    tell(&summary, &path);
    Ok(())
}

/// Prints a summary. The result is in the folder; a reader of the output who has gone is no failure.
fn tell(summary: &Summary, folder: &Path) {
    let mut out = std::io::stdout().lock();
    let _ = summary.lines(Some(folder)).iter().try_for_each(|line| writeln!(out, "{line}"));
}

/// Keeps a part of the weights until the coordinator says that the run is over.
fn serve_shard(
    arguments: &Arguments,
    options: &ServerOptions,
    listener: Listener,
    job: Job,
    index: u32,
    coordinator: String,
) -> Result<(), Failure> {
    announce(&listener, &options.security)
        .map_err(|error| failure(format!("standard output: {error}"), false))?;
    let address = match &arguments.advertise {
        Some(address) => address.clone(),
        None => listener.address().map_err(|error| failure(error, false))?.to_string(),
    };
    let placement = ShardOptions { coordinator, index: Some(index), address };
    let runtime = transport::runtime().map_err(|error| failure(format!("starting: {error}"), false))?;
    runtime.block_on(async {
        let (_shard, end) = shard::start(listener, Arc::new(job), &placement, options)
            .await
            .map_err(|error| failed(&error))?;
        tokio::select! {
            end = end => match end.map_err(|error| failed(&error))? {
                Dismissal::Done => info!("training is done"),
                reason => info!("stopped: {reason}"),
            },
            () = args::asked_to_stop() => warn!("stopped; the run waits until this shard is started again"),
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
