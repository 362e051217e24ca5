//! `ps-worker`: parse, connect, compute, exit code.

use clap::Parser;
use ps_config::{DataArgs, LogArgs, SecurityArgs};
use ps_proto::Security;
use ps_run::{Processors, Style};
use ps_watch::{Source, Watching};
use ps_worker::{Ended, ShardPlace, WorkerError, WorkerOptions};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tracing::{error, info};

#[global_allocator]
static ALLOCATOR: ps_run::HugePages = ps_run::HugePages;

/// Computes gradients for a Downhill server. The run file comes from the server; the data does not.
///
/// Exits with 0 when training is done or was stopped, 1 on failure, 2 on wrong usage, and 42 if run file, data, version,
/// certificate or token do not fit the server's, when starting it again is useless.
#[derive(Parser)]
#[command(name = "ps-worker", version)]
struct Arguments {
    /// The server: HOST:PORT, or unix:PATH for one on this machine. With the --tls flags, TLS is spoken.
    #[arg(long, value_name = "ADDRESS", env = "DOWNHILL_SERVER")]
    server: String,

    #[command(flatten)]
    data: DataArgs,

    /// Let the server's run file name data by absolute paths, or outside of --data-root (or of the current folder): the
    /// server then decides what this worker reads.
    #[arg(long)]
    allow_any_path: bool,

    /// Threads that compute; one for each processor if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,

    /// Bind the computing threads to these processors, one each in turn, such as 0-3,8: so that workers on one machine
    /// never wait behind one another. Linux only.
    #[arg(long, value_name = "LIST")]
    cpus: Option<Processors>,

    /// This worker's name in logs and status; at most 256 bytes.
    #[arg(long, value_name = "NAME", default_value_t = format!("worker-{}", std::process::id()))]
    name: String,

    /// Serve metrics for Prometheus at http://ADDRESS/metrics, to whoever asks. A port in use is warned of.
    #[arg(long, value_name = "ADDRESS", env = "DOWNHILL_METRICS")]
    metrics: Option<String>,

    /// When the run is over, stay until asked to end (SIGTERM): for supervisors that would start the worker again.
    #[arg(long)]
    stay: bool,

    /// For how long a server that is not there is tried again, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    patience: u64,

    /// Also keep a part of the weights, in this process: its part never touches a socket here. The server must have
    /// been started with --shards-beside.
    #[arg(long)]
    with_shard: bool,

    /// Where other workers reach that part; port 0 for any free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0", requires = "with_shard")]
    shard_listen: String,

    /// The address that other workers are told, if it is not the one listened on.
    #[arg(long, value_name = "ADDRESS", requires = "with_shard")]
    shard_advertise: Option<String>,

    /// Let --shard-listen be an address that other machines reach without certificates or tokens.
    #[arg(long, requires = "with_shard")]
    insecure: bool,

    #[command(flatten)]
    security: SecurityArgs,

    #[command(flatten)]
    log: LogArgs,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    arguments.log.start();
    ps_proto::allocator::keep_large_blocks();
    let style = match Style::choose(&arguments.log) {
        // Several workers may share a terminal; a bar that moves would be lost between their lines.
        Style::Bar => Style::Lines,
        other => other,
    };
    let security = match open(&arguments) {
        Ok(security) => security,
        Err(problem) => {
            error!("{problem}");
            return ExitCode::from(2);
        }
    };
    let options = WorkerOptions {
        data_root: arguments.data.data_root,
        allow_any_path: arguments.allow_any_path,
        security,
        threads: arguments.threads.map(usize::from),
        cpus: arguments.cpus,
        patience: Duration::from_secs(arguments.patience),
        style,
        shard: arguments
            .with_shard
            .then_some(ShardPlace { listen: arguments.shard_listen, advertise: arguments.shard_advertise }),
        ..WorkerOptions::new(arguments.server, arguments.name)
    };
    let _watching =
        Watching::metrics(arguments.metrics.as_deref(), Source::Worker(Arc::clone(&options.meter)));
    match work(options, arguments.stay) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!("{failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

/// What protects our connections, which those of other workers to us may need.
fn open(arguments: &Arguments) -> Result<Security, String> {
    const FLAG: &str = "--shard-listen";
    let security = Security::open(&arguments.security)?;
    if arguments.with_shard {
        let listen = &arguments.shard_listen;
        let address = security.address(listen).map_err(|problem| format!("{FLAG} {listen}: {problem}"))?;
        security.guard(FLAG, &address, arguments.insecure)?;
    }
    Ok(security)
}

fn work(options: WorkerOptions, stays: bool) -> Result<(), WorkerError> {
    let failed = |error: std::io::Error| WorkerError::Internal(format!("starting: {error}"));
    // One connection: one thread serves it best, and leaves the cores to the gradients.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        // Watched from now on, so that none is missed between the run and staying.
        let mut asked = Box::pin(asked_to_stop());
        match ps_worker::run(options, &mut asked).await? {
            Ended::Done => info!("training is done"),
            Ended::Stopped(why) => {
                info!("stopped: {why}");
                return Ok(());
            }
        }
        if stays {
            info!("staying until asked to end");
            asked.await;
        }
        Ok(())
    })
}

/// Completes on Ctrl-C or SIGTERM.
async fn asked_to_stop() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    // Without signals the process can still be killed.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}
