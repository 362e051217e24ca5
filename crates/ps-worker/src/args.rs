//! The flags of `ps-worker`.

use clap::Parser;
use ps_config::{DataArgs, LogArgs, SecurityArgs};
use ps_net::Security;
use ps_run::Processors;
use ps_shard::transport::open_security;

/// Compute gradients for a Downhill server
///
/// The worker gets the run file from the server, and reads the data itself.
#[derive(Parser)]
#[command(name = "ps-worker", version, after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Arguments {
    /// Server address: HOST:PORT or unix:PATH
    ///
    /// With the --tls flags, the connection is encrypted.
    #[arg(long, value_name = "ADDRESS", env = "DOWNHILL_SERVER")]
    pub server: String,

    /// Number of computing threads [default: one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,

    /// Bind each computing thread to one of these processors, such as 0-3,8
    ///
    /// Workers on the same machine that are bound to different processors do not slow each other down. Linux
    /// only.
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<Processors>,

    /// Name of this worker in logs and status [default: worker-PID]
    ///
    /// At most 256 bytes.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// How long to try to reach a server that does not answer
    #[arg(long, alias = "patience", value_name = "SECONDS", default_value_t = 300)]
    pub connect_timeout: u64,

    /// Do not exit when the run is done; wait for SIGTERM
    ///
    /// This is for supervisors that would otherwise restart the worker.
    #[arg(long, alias = "stay")]
    pub linger: bool,

    /// Where the data lies.
    #[command(flatten)]
    pub data: DataArgs,

    /// Allow the server's run file to name data outside --data-root
    ///
    /// Without this flag, absolute paths and paths that leave the folder are refused, and so are all URLs
    /// that --allow-url does not permit. With it, the server decides what this worker reads.
    #[arg(long, help_heading = "Data")]
    pub allow_any_path: bool,

    /// Allow data URLs with this prefix; can be repeated
    ///
    /// For example, --allow-url s3://bucket/. Several prefixes can also be separated by commas.
    #[arg(
        long,
        value_name = "URL",
        env = "DOWNHILL_ALLOW_URL",
        value_delimiter = ',',
        help_heading = "Data"
    )]
    pub allow_url: Vec<String>,

    /// Also hold a shard of the weights
    ///
    /// This worker's gradients for that shard do not pass through a socket. The server must have been started
    /// with --shards-colocated.
    #[arg(long, alias = "with-shard", help_heading = "Sharding")]
    pub host_shard: bool,

    /// Address to listen on for other workers
    ///
    /// With port 0, the system chooses a free port.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:0",
        requires = "host_shard",
        help_heading = "Sharding"
    )]
    pub shard_listen: String,

    /// Address at which other workers reach this one, if not --shard-listen
    #[arg(long, value_name = "ADDRESS", requires = "host_shard", help_heading = "Sharding")]
    pub shard_advertise: Option<String>,

    /// Serve Prometheus metrics at http://ADDRESS/metrics
    ///
    /// Every client that can reach the address can read them; no token is required. If the port is in use,
    /// the worker runs without metrics.
    #[arg(long, value_name = "ADDRESS", env = "DOWNHILL_METRICS", help_heading = "Monitoring")]
    pub metrics: Option<String>,

    /// What protects connections.
    #[command(flatten)]
    pub security: SecurityArgs,

    /// Allow unprotected connections from other machines
    ///
    /// Allows a --shard-listen address that other machines can reach, without certificates or a token. Every
    /// client that can reach the address can then take part in the run.
    #[arg(long, requires = "host_shard", help_heading = "Security")]
    pub insecure: bool,

    /// How the process logs.
    #[command(flatten)]
    pub log: LogArgs,
}

const EXAMPLES: &str = "\
Examples:
  # A worker for a server on this machine
  ps-worker --server 127.0.0.1:4370

  # A worker with its data in /data, for a server that requires a token
  ps-worker --server train.example:4370 --token-file token --data-root /data

  # A worker that also holds a shard of the weights
  ps-worker --server 127.0.0.1:4370 --host-shard";

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed
  2    wrong command line
  3    the run was ended with 'downhill stop'
  42   refused or banned by the server
  130  stopped by Ctrl-C before the run was done
  143  stopped by SIGTERM before the run was done

If the server stops, the worker tries to reconnect until --connect-timeout has passed. Code 42 means that the run file, data, version, certificate or token of the worker does not match that of the server, or that \
its gradients were wrong. Starting the worker again cannot help.";

impl Arguments {
    /// Opens the certificates and tokens. They protect this process's connections, and those of other workers
    /// to its shard.
    pub fn security(&self) -> Result<Security, String> {
        const FLAG: &str = "--shard-listen";
        let security = open_security(&self.security)?;
        if self.host_shard {
            let listen = &self.shard_listen;
            let address =
                security.address(listen).map_err(|problem| format!("{FLAG} {listen}: {problem}"))?;
            security.guard(FLAG, &address, self.insecure)?;
        }
        Ok(security)
    }
}
