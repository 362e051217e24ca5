//! The flags by which processes of a run prove who they are to each other.

use clap::Args;
use std::path::PathBuf;

/// What protects a connection. Without any of these, whoever reaches the port takes part.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct SecurityArgs {
    /// This process's certificate, in PEM: with --tls-key and --tls-ca, connections are encrypted and both ends prove who
    /// they are. `downhill certs` makes all three.
    #[arg(long, value_name = "FILE", env = "DOWNHILL_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,

    /// The private key of that certificate, in PEM.
    #[arg(long, value_name = "FILE", env = "DOWNHILL_TLS_KEY")]
    pub tls_key: Option<PathBuf>,

    /// The certificate, in PEM, of the authority that must have signed the other end's.
    #[arg(long, value_name = "FILE", env = "DOWNHILL_TLS_CA")]
    pub tls_ca: Option<PathBuf>,

    /// The name in the certificates of the servers that this process calls, if it is not the host that it calls.
    #[arg(long, value_name = "NAME", env = "DOWNHILL_TLS_NAME")]
    pub tls_name: Option<String>,

    /// File with a secret token, of at least 16 characters, on a line of its own. Who calls shows the first one; who is
    /// called asks for any one of them, and reads the file again when it changes. Lines that begin with # are skipped.
    #[arg(long, value_name = "FILE", env = "DOWNHILL_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
}
