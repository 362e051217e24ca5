//! The flags of `ps-server`, and what they come to.

use crate::{Layout, ServerOptions};
use clap::Parser;
use ps_config::{CheckpointArgs, DataArgs, LogArgs, OutArgs, RunArgs, SecurityArgs, WatchArgs};
use ps_proto::{Address, Security};
use std::time::Duration;

/// Holds the weights of a run, hands out work to workers and applies their gradients.
///
/// Exits with 0 when training is done or was stopped, 1 on failure, 2 on wrong usage, and 42 if a shard does not fit its
/// coordinator (run file, data, version, certificate or token), when starting it again is useless.
#[derive(Parser)]
#[command(name = "ps-server", version)]
pub struct Arguments {
    /// Which run.
    #[command(flatten)]
    pub run: RunArgs,

    /// Where to listen: HOST:PORT, with port 0 for any free one, which is then printed; or unix:PATH, for workers on
    /// this machine.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4370", env = "DOWNHILL_LISTEN")]
    pub listen: String,

    /// Listen on an address that other machines reach without certificates or tokens: whoever reaches it can take part in
    /// the run and read its weights.
    #[arg(long)]
    pub insecure: bool,

    /// Also answer health checks of gRPC here, without TLS or tokens: for "" as soon as the process has begun, for
    /// downhill.v1.ParameterServer once workers are served.
    #[arg(long, value_name = "ADDRESS", env = "DOWNHILL_HEALTH")]
    pub health: Option<String>,

    /// When the run is over, stay until asked to end (SIGTERM): the page and the metrics are there, and workers that come
    /// late are told that nothing is left to do. For supervisors that would start the server again.
    #[arg(long)]
    pub stay: bool,

    /// Set by `downhill launch`, which itself prints how to resume the run.
    #[arg(long, hide = true)]
    pub launched: bool,

    /// Let callers ask which services there are (gRPC reflection), for tools such as grpcurl.
    #[arg(long)]
    pub reflection: bool,

    /// Workers without whom training does not begin.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub min_workers: u32,

    /// Workers at most: more are turned away until one leaves.
    #[arg(long, value_name = "N", default_value_t = ServerOptions::default().max_workers,
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub max_workers: u32,

    /// Have this share of the sums, 0 to 1, computed by a second worker, and compare the bits. A worker that has sent
    /// something else than its samples give is banned, and the step is made without it. Costs this share of computing
    /// more, and new weights go out only when a step is complete. Not where the weights are cut into parts.
    #[arg(long, value_name = "R", default_value_t = 0.0, value_parser = share, conflicts_with_all = ["shard", "shards_beside"])]
    pub audit: f64,

    /// Too few workers, or missing shards, for this long end the run, in seconds; so does a missing coordinator a shard.
    #[arg(long, value_name = "SECONDS", default_value_t = ServerOptions::default().join_timeout.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..))]
    pub join_timeout: u64,

    /// A worker of whom nothing is heard for this long is lost, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = ServerOptions::default().contact_timeout.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..))]
    pub worker_timeout: u64,

    /// Work that is not back after this long is also given to another worker, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = ServerOptions::default().work_timeout.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..))]
    pub work_timeout: u64,

    /// Keep only one of S parts of the weights. Part 0 is the coordinator, which hands out the work and keeps the
    /// first part; each other part is a process of its own with --coordinator.
    #[arg(long, value_name = "I/S", value_parser = part)]
    pub shard: Option<(u32, u32)>,

    /// The server that was started with --shard 0/S. Part 0 has no use for it, so that all parts may be started alike.
    #[arg(long, value_name = "ADDRESS", requires = "shard")]
    pub coordinator: Option<String>,

    /// The address of this shard that workers are told, if it is not the one listened on.
    #[arg(long, value_name = "ADDRESS", requires = "coordinator")]
    pub advertise: Option<String>,

    /// Keep no weights here: N workers, started with --with-shard, each keep a part.
    #[arg(long, value_name = "N", conflicts_with = "shard", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub shards_beside: Option<u32>,

    /// Where the data lies.
    #[command(flatten)]
    pub data: DataArgs,

    /// Where results go.
    #[command(flatten)]
    pub out: OutArgs,

    /// When it is saved.
    #[command(flatten)]
    pub checkpoint: CheckpointArgs,

    /// What is shown of it.
    #[command(flatten)]
    pub watch: WatchArgs,

    /// What protects it.
    #[command(flatten)]
    pub security: SecurityArgs,

    /// How it logs.
    #[command(flatten)]
    pub log: LogArgs,
}

impl Arguments {
    /// How the server is to behave.
    pub fn options(&self, security: &Security) -> ServerOptions {
        ServerOptions {
            min_workers: self.min_workers,
            max_workers: self.max_workers,
            audit: self.audit,
            join_timeout: Duration::from_secs(self.join_timeout),
            contact_timeout: Duration::from_secs(self.worker_timeout),
            work_timeout: Duration::from_secs(self.work_timeout),
            layout: match (self.shard, self.shards_beside) {
                (Some((_, parts)), _) => Layout { parts, coordinator_keeps: true },
                (None, Some(parts)) => Layout { parts, coordinator_keeps: false },
                (None, None) => Layout::default(),
            },
            security: security.clone(),
            reflection: self.reflection,
            ..ServerOptions::default()
        }
    }

    /// Which shard of which coordinator this process is; nothing for a coordinator.
    pub fn placement(&self) -> Result<Option<(u32, String)>, String> {
        match (self.shard, &self.coordinator) {
            (None, None) | (Some((0, _)), _) => Ok(None),
            (Some((index, _)), Some(coordinator)) => Ok(Some((index - 1, coordinator.clone()))),
            (Some((index, parts)), None) => Err(format!(
                "--shard {index}/{parts} needs --coordinator HOST:PORT, the address of --shard 0/{parts}"
            )),
            (None, Some(_)) => Err("--coordinator needs --shard I/S".into()),
        }
    }

    /// Refuses to show the run to all that reach an address, unless that is protected or was asked for.
    pub fn guard_dashboard(&self, security: &Security) -> Result<(), String> {
        const FLAG: &str = "--dashboard";
        let Some(text) = &self.watch.dashboard else { return Ok(()) };
        let wrong =
            |problem: String| format!("{FLAG} {text}: {problem}; give HOST:PORT, such as 127.0.0.1:8080");
        let address: Address = text.parse().map_err(wrong)?;
        if address.is_a_file() {
            return Err(wrong("a browser cannot open it".into()));
        }
        // A browser shows no certificate of ours: only a token keeps the page from others.
        let tokens_only = if security.asks_token() { security.clone() } else { Security::default() };
        tokens_only.guard(FLAG, &address, self.insecure)
    }

    /// Where to listen. Refuses an address that other machines reach, unless that is protected or was asked for.
    pub fn address(&self, security: &Security) -> Result<Address, String> {
        let listen = &self.listen;
        let given = security.address(listen).map_err(|problem| {
            format!("--listen {listen}: {problem}; give HOST:PORT, such as 127.0.0.1:4370, or unix:PATH")
        })?;
        security.guard("--listen", &given, self.insecure)?;
        Ok(given)
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a number from 0 to 1, such as 0.05".into()),
    }
}

/// Reads `I/S`.
fn part(text: &str) -> Result<(u32, u32), String> {
    let wrong = || "expected I/S with I below S, such as 0/2".to_owned();
    let (index, parts) = text.split_once('/').ok_or_else(wrong)?;
    let (index, parts) = (index.parse().map_err(|_| wrong())?, parts.parse().map_err(|_| wrong())?);
    if index < parts && parts <= 1024 { Ok((index, parts)) } else { Err(wrong()) }
}

/// Completes on Ctrl-C or SIGTERM.
pub async fn asked_to_stop() {
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
