//! `ps-worker`: parse, connect, compute, exit code.

use ps_run::Style;
use ps_shard::ENDED;
use ps_shard::signals::{Signal, Signals};
use ps_watch::{Source, WatchHandle};
use ps_worker::args::Arguments;
use ps_worker::{Ended, HostedShardOptions, WorkerError, WorkerOptions};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tracing::{error, info, warn};

#[global_allocator]
static ALLOCATOR: ps_run::HugePages = ps_run::HugePages;

fn main() -> ExitCode {
    let arguments: Arguments = ps_config::parse(ps_version::commit!());
    arguments.log.start();
    ps_host::keep_large_blocks();
    let style = match Style::choose(&arguments.log) {
        // Several workers may share a terminal, and a moving bar would be overwritten by their log lines.
        Style::Bar => Style::Lines,
        other => other,
    };
    let security = match arguments.security() {
        Ok(security) => security,
        Err(problem) => {
            error!("{problem}");
            return ExitCode::from(2);
        }
    };
    let name = arguments.name.unwrap_or_else(|| format!("worker-{}", std::process::id()));
    let options = WorkerOptions {
        data_root: arguments.data.data_root,
        allow_any_path: arguments.allow_any_path,
        allowed_urls: arguments.allow_url,
        security,
        threads: arguments.threads.map(usize::from),
        cpus: arguments.cpus,
        patience: Duration::from_secs(arguments.connect_timeout),
        style,
        shard: arguments.host_shard.then_some(HostedShardOptions {
            listen: arguments.shard_listen,
            advertise: arguments.shard_advertise,
        }),
        ..WorkerOptions::new(arguments.server, name)
    };
    let _watching =
        WatchHandle::metrics(arguments.metrics.as_deref(), Source::Worker(Arc::clone(&options.meter)));
    ExitCode::from(work(options, arguments.linger).unwrap_or_else(|failure| {
        error!("{failure}");
        failure.exit_code()
    }))
}

/// Takes part in the run, and returns the exit code.
fn work(options: WorkerOptions, stays: bool) -> Result<u8, WorkerError> {
    let failed = |error: std::io::Error| WorkerError::Internal(format!("cannot start: {error}"));
    // A single connection is served best by one thread, which leaves the cores to the gradients.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let signals = Signals::listen().map_err(failed)?;
    // From here on, a signal lets the worker return its leaves before it exits.
    signals.defer();
    runtime.block_on(async {
        let stop = async {
            signals.received().await;
        };
        match ps_worker::run(options, stop).await? {
            Ended::Done => info!("training is done"),
            Ended::Stopped => {
                info!("stopped before training was done");
                return Ok(signals.first().map_or(1, Signal::exit_code));
            }
            Ended::OnRequest(why) => {
                warn!("{why}");
                return Ok(ENDED);
            }
        }
        if stays {
            info!("waiting for SIGTERM");
            signals.received().await;
        }
        Ok(0)
    })
}
