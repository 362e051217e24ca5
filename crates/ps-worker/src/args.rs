//! The flags of `ps-worker`.

use clap::Parser;
use ps_config::{DataArgs, LogArgs, SecurityArgs};
use ps_proto::Security;
use ps_run::Processors;

/// Computes gradients for a Downhill server. The run file comes from the server; the data does not.
///
/// Exits with 0 when training is done or was stopped, 1 on failure, 2 on wrong usage, and 42 if run file, data, version,
/// certificate or token do not fit the server's, when starting it again is useless.
#[derive(Parser)]
#[command(name = "ps-worker", version)]
pub struct Arguments {
    /// The server: HOST:PORT, or unix:PATH for one on this machine. With the --tls flags, TLS is spoken.
    #[arg(long, value_name = "ADDRESS", env = "DOWNHILL_SERVER")]
    pub server: String,

    /// Where the data lies.
    #[command(flatten)]
    pub data: DataArgs,

    /// Let the server's run file name data by absolute paths, or outside of --data-root (or of the current folder): the
    /// server then decides what this worker reads.
    #[arg(long)]
    pub allow_any_path: bool,

    /// Fetch data by the URLs in the server's run file that begin with this, such as s3://bucket/ or https://host/data/; may
    /// be given several times. With --allow-any-path, all may be.
    #[arg(long, value_name = "URL", env = "DOWNHILL_ALLOW_URL", value_delimiter = ',')]
    pub allow_url: Vec<String>,

    /// Threads that compute; one for each processor if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,

    /// Bind the computing threads to these processors, one each in turn, such as 0-3,8: so that workers on one machine
    /// never wait behind one another. Linux only.
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<Processors>,

    /// This worker's name in logs and status; at most 256 bytes.
    #[arg(long, value_name = "NAME", default_value_t = format!("worker-{}", std::process::id()))]
    pub name: String,

    /// Serve metrics for Prometheus at http://ADDRESS/metrics, to whoever asks. A port in use is warned of.
    #[arg(long, value_name = "ADDRESS", env = "DOWNHILL_METRICS")]
    pub metrics: Option<String>,

    /// When the run is over, stay until asked to end (SIGTERM): for supervisors that would start the worker again.
    #[arg(long)]
    pub stay: bool,

    /// For how long a server that is not there is tried again, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub patience: u64,

    /// Also keep a part of the weights, in this process: its part never touches a socket here. The server must have
    /// been started with --shards-beside.
    #[arg(long)]
    pub with_shard: bool,

    /// Where other workers reach that part; port 0 for any free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0", requires = "with_shard")]
    pub shard_listen: String,

    /// The address that other workers are told, if it is not the one listened on.
    #[arg(long, value_name = "ADDRESS", requires = "with_shard")]
    pub shard_advertise: Option<String>,

    /// Let --shard-listen be an address that other machines reach without certificates or tokens.
    #[arg(long, requires = "with_shard")]
    pub insecure: bool,

    /// What protects its connections.
    #[command(flatten)]
    pub security: SecurityArgs,

    /// How it logs.
    #[command(flatten)]
    pub log: LogArgs,
}

impl Arguments {
    /// What protects our connections, which those of other workers to us may need.
    pub fn security(&self) -> Result<Security, String> {
        const FLAG: &str = "--shard-listen";
        let security = Security::open(&self.security)?;
        if self.with_shard {
            let listen = &self.shard_listen;
            let address =
                security.address(listen).map_err(|problem| format!("{FLAG} {listen}: {problem}"))?;
            security.guard(FLAG, &address, self.insecure)?;
        }
        Ok(security)
    }
}
