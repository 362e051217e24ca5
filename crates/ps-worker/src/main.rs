//! `ps-worker`: parse, connect, compute, exit code.

use ps_run::Style;
use ps_watch::{Source, Watching};
use ps_worker::args::Arguments;
use ps_worker::{Ended, ShardPlace, WorkerError, WorkerOptions};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tracing::{error, info};

#[global_allocator]
static ALLOCATOR: ps_run::HugePages = ps_run::HugePages;

fn main() -> ExitCode {
    let arguments: Arguments = ps_config::parse(ps_version::commit!());
    arguments.log.start();
    ps_proto::allocator::keep_large_blocks();
    let style = match Style::choose(&arguments.log) {
        // Several workers may share a terminal; a bar that moves would be lost between their lines.
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
        patience: Duration::from_secs(arguments.patience),
        style,
        shard: arguments
            .with_shard
            .then_some(ShardPlace { listen: arguments.shard_listen, advertise: arguments.shard_advertise }),
        ..WorkerOptions::new(arguments.server, name)
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
