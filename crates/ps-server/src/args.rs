//! The flags of `ps-server`, and the values derived from them.

use crate::{ServerOptions, ShardLayout};
use clap::Parser;
use ps_config::{CheckpointArgs, DataArgs, LogArgs, OutArgs, RunArgs, SecurityArgs, WatchArgs};
use ps_net::{Address, Security};
use ps_shard::transport::open_security;
use std::path::PathBuf;
use std::time::Duration;

/// Hold the weights of a run and apply the gradients that workers compute
///
/// Workers connect to this server with ps-worker. With --shard, several servers each hold a shard of the
/// weights.
#[derive(Parser)]
#[command(name = "ps-server", version, after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Arguments {
    /// The run file and the keys of it that are overridden.
    #[command(flatten)]
    pub run: RunArgs,

    /// Address to listen on: HOST:PORT or unix:PATH
    ///
    /// With port 0, the system chooses a free port, which is then printed. A Unix socket serves workers on
    /// the same machine.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4370", env = "DOWNHILL_LISTEN")]
    pub listen: String,

    /// Resume a run that was ended with 'downhill stop'
    ///
    /// Without this flag, a server that is started in the folder of such a run exits with code 3 again. Other
    /// runs resume without it.
    #[arg(long)]
    pub resume: bool,

    /// Do not exit when the run is done; wait for SIGTERM
    ///
    /// The live page and the metrics remain available, and workers that connect late learn that the run is
    /// done. This is for supervisors that would otherwise restart the server.
    #[arg(long, alias = "stay")]
    pub linger: bool,

    /// Write messages for 'downhill launch' to standard output
    ///
    /// The launcher sets this, and itself prints how to resume the run.
    #[arg(long, hide = true)]
    pub launched: bool,

    /// Allow gRPC reflection, for tools such as grpcurl
    #[arg(long)]
    pub reflection: bool,

    /// Number of workers to wait for before training starts
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..),
          help_heading = "Workers")]
    pub min_workers: u32,

    /// Maximum number of workers; further ones are refused
    #[arg(long, value_name = "N", default_value_t = ServerOptions::default().max_workers,
          value_parser = clap::value_parser!(u32).range(1..=1024), help_heading = "Workers")]
    pub max_workers: u32,

    /// How long to wait for missing workers or shards
    ///
    /// After that, the run ends. A shard exits if its coordinator is missing for this long.
    #[arg(long, value_name = "SECONDS", default_value_t = ServerOptions::default().join_timeout.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..), help_heading = "Workers")]
    pub join_timeout: u64,

    /// Consider a worker lost if it sends nothing for this long
    #[arg(long, value_name = "SECONDS", default_value_t = ServerOptions::default().contact_timeout.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..), help_heading = "Workers")]
    pub worker_timeout: u64,

    /// Reassign leaves that a worker holds for this long
    #[arg(long, value_name = "SECONDS", default_value_t = ServerOptions::default().work_timeout.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..), help_heading = "Workers")]
    pub work_timeout: u64,

    /// Share of gradient sums to check with a second worker
    ///
    /// From 0 for none to 1 for all. The second worker computes the same sums, and the server compares the
    /// bits. A worker that sent a wrong sum is banned, and the step is made without it. This adds the same
    /// share of computation, and new weights are sent only once a step is complete. Not supported with
    /// sharded weights.
    #[arg(long, value_name = "R", default_value_t = 0.0, value_parser = parse_fraction, conflicts_with_all = ["shard", "shards_colocated"],
          help_heading = "Workers")]
    pub audit: f64,

    /// Exit with 0 even if the weights may contain wrong sums
    ///
    /// With an --audit share below 1, a worker that is banned may have sent other wrong sums before. The run
    /// then goes back to the last checkpoint before the worker's first contribution. If none is kept, the run
    /// finishes, but the server exits with 1 unless this flag is given.
    #[arg(long, help_heading = "Workers")]
    pub accept_tainted: bool,

    /// Hold only shard I of S of the weights
    ///
    /// Shard 0 is the coordinator, which also distributes the work. Each other shard is a separate process,
    /// started with --coordinator.
    #[arg(long, value_name = "I/S", value_parser = parse_shard, help_heading = "Sharding")]
    pub shard: Option<(u32, u32)>,

    /// Address of the server that was started with --shard 0/S
    ///
    /// Shard 0 ignores this flag, so all shards can be started with the same flags.
    #[arg(long, value_name = "ADDRESS", requires = "shard", help_heading = "Sharding")]
    pub coordinator: Option<String>,

    /// Address at which workers reach this shard, if not --listen
    #[arg(long, value_name = "ADDRESS", requires = "coordinator", help_heading = "Sharding")]
    pub advertise: Option<String>,

    /// Hold no weights: N workers with --host-shard hold a shard each
    #[arg(long, alias = "shards-beside", value_name = "N", conflicts_with = "shard", value_parser = clap::value_parser!(u32).range(1..=1024),
          help_heading = "Sharding")]
    pub shards_colocated: Option<u32>,

    /// Where the data lies.
    #[command(flatten)]
    pub data: DataArgs,

    /// Where results go.
    #[command(flatten)]
    pub out: OutArgs,

    /// When the run is saved.
    #[command(flatten)]
    pub checkpoint: CheckpointArgs,

    /// How the run can be watched.
    #[command(flatten)]
    pub watch: WatchArgs,

    /// Answer gRPC health checks on this address
    ///
    /// The service "" is serving once the process has started, and downhill.v1.ParameterServer once workers
    /// are served. Neither TLS nor a token is required.
    #[arg(long, value_name = "ADDRESS", env = "DOWNHILL_HEALTH", help_heading = "Monitoring")]
    pub health: Option<String>,

    /// What protects connections.
    #[command(flatten)]
    pub security: SecurityArgs,

    /// File with secret tokens that allow 'downhill stop' to end the run
    ///
    /// The format is that of --token-file. Keep these tokens from workers. On a Unix socket, 'downhill stop'
    /// needs no token.
    #[arg(long, value_name = "FILE", env = "DOWNHILL_ADMIN_TOKEN_FILE", help_heading = "Security")]
    pub admin_token_file: Option<PathBuf>,

    /// Allow unprotected connections from other machines
    ///
    /// Allows a --listen address that other machines can reach, without certificates or a token. Every client
    /// that can reach the address can then take part in the run and read its weights.
    #[arg(long, help_heading = "Security")]
    pub insecure: bool,

    /// Identify each worker by its own certificate or token
    ///
    /// A ban then follows the subject and issuer of the certificate, or the line of the token in
    /// --token-file, and a second worker with the same one is refused while the first is connected. Without
    /// this flag, workers may share credentials, and a banned worker can come back.
    #[arg(long, help_heading = "Security")]
    pub individual_credentials: bool,

    /// How the process logs.
    #[command(flatten)]
    pub log: LogArgs,
}

const EXAMPLES: &str = "\
Examples:
  # A server for two workers on this machine
  ps-server examples/digits.toml --min-workers 2

  # A server for workers on other machines, which must know the token
  openssl rand -hex 32 > token && chmod 600 token
  ps-server examples/digits.toml --listen 0.0.0.0:4370 --token-file token

  # Two servers that each hold half of the weights
  ps-server examples/digits.toml --shard 0/2
  ps-server examples/digits.toml --shard 1/2 --listen 127.0.0.1:4371 \\
      --coordinator 127.0.0.1:4370";

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed
  2    wrong command line or run file
  3    ended with 'downhill stop'
  42   refused by the coordinator
  130  stopped by Ctrl-C before the run was done
  143  stopped by SIGTERM before the run was done

A server that is stopped saves the run, which resumes when the server is started again; workers and shards wait for it. After \
'downhill stop', it resumes only with --resume. Code 42 means that the run file, data, version, certificate or token of a shard does not match that of its coordinator. \
Starting the shard again cannot help.";

impl Arguments {
    /// The behaviour of the server.
    pub fn options(&self, security: &Security) -> ServerOptions {
        ServerOptions {
            min_workers: self.min_workers,
            max_workers: self.max_workers,
            audit: self.audit,
            join_timeout: Duration::from_secs(self.join_timeout),
            contact_timeout: Duration::from_secs(self.worker_timeout),
            work_timeout: Duration::from_secs(self.work_timeout),
            layout: match (self.shard, self.shards_colocated) {
                (Some((_, parts)), _) => ShardLayout { shards: parts, coordinator_keeps: true },
                (None, Some(parts)) => ShardLayout { shards: parts, coordinator_keeps: false },
                (None, None) => ShardLayout::default(),
            },
            security: security.clone(),
            individual_credentials: self.individual_credentials,
            reflection: self.reflection,
            ..ServerOptions::default()
        }
    }

    /// Opens the certificates and tokens that protect connections.
    pub fn security(&self) -> Result<Security, String> {
        let security = open_security(&self.security)?;
        match &self.admin_token_file {
            Some(path) => security.with_admin(path),
            None => Ok(security),
        }
    }

    /// The index of this shard and the address of its coordinator; `None` for a coordinator.
    pub fn placement(&self) -> Result<Option<(u32, String)>, String> {
        match (self.shard, &self.coordinator) {
            (None, None) | (Some((0, _)), _) => Ok(None),
            // To users, the coordinator is shard 0; everywhere else, shards are counted without it.
            (Some((index, _)), Some(coordinator)) => Ok(Some((index - 1, coordinator.clone()))),
            (Some((index, parts)), None) => Err(format!(
                "--shard {index}/{parts} needs --coordinator HOST:PORT, the address of --shard 0/{parts}"
            )),
            (None, Some(_)) => Err("--coordinator needs --shard I/S".into()),
        }
    }

    /// Refuses individual credentials if callers need not present any.
    pub fn guard_credentials(&self, security: &Security) -> Result<(), String> {
        match self.individual_credentials && !security.is_encrypted() && !security.requires_token() {
            true => {
                Err("--individual-credentials needs --tls-cert, --tls-key and --tls-ca, or --token-file"
                    .into())
            }
            false => Ok(()),
        }
    }

    /// Refuses to show the run at an address that other machines can reach, unless it is protected or the
    /// user allows it.
    pub fn guard_dashboard(&self, security: &Security) -> Result<(), String> {
        const FLAG: &str = "--dashboard";
        let Some(text) = &self.watch.dashboard else { return Ok(()) };
        let wrong =
            |problem: String| format!("{FLAG} {text}: {problem}; give HOST:PORT, such as 127.0.0.1:8080");
        let address: Address = text.parse().map_err(wrong)?;
        if address.is_unix() {
            return Err(wrong("a browser cannot open it".into()));
        }
        // A browser presents none of the run's certificates, so only a token protects the page.
        let tokens_only = if security.requires_token() { security.clone() } else { Security::default() };
        tokens_only.guard(FLAG, &address, self.insecure)
    }

    /// The address to listen on. Refuses one that other machines can reach, unless it is protected or the
    /// user allows it.
    pub fn address(&self, security: &Security) -> Result<Address, String> {
        let listen = &self.listen;
        let given = security.address(listen).map_err(|problem| {
            format!("--listen {listen}: {problem}; give HOST:PORT, such as 127.0.0.1:4370, or unix:PATH")
        })?;
        security.guard("--listen", &given, self.insecure)?;
        Ok(given)
    }
}

fn parse_fraction(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a number from 0 to 1, such as 0.05".into()),
    }
}

/// Parses `I/S`: the index of a shard and the number of shards.
fn parse_shard(text: &str) -> Result<(u32, u32), String> {
    let wrong = || "expected I/S with I below S, such as 0/2".to_owned();
    let (index, parts) = text.split_once('/').ok_or_else(wrong)?;
    let (index, parts) = (index.parse().map_err(|_| wrong())?, parts.parse().map_err(|_| wrong())?);
    if index < parts && parts <= 1024 { Ok((index, parts)) } else { Err(wrong()) }
}
