//! The flags with which the processes of a run authenticate each other.

use clap::Args;
use std::path::PathBuf;

/// Protection of a connection. Without any of these, every client that can reach the port can take part in
/// the run.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[command(next_help_heading = "Security")]
pub struct SecurityArgs {
    /// Certificate of this process, in PEM format
    ///
    /// With --tls-key and --tls-ca, connections are encrypted and both ends prove their identity (mutual
    /// TLS). 'downhill certs' creates all three files.
    #[arg(long, value_name = "FILE", env = "DOWNHILL_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of this process's certificate, in PEM format
    #[arg(long, value_name = "FILE", env = "DOWNHILL_TLS_KEY")]
    pub tls_key: Option<PathBuf>,

    /// Certificate of the certificate authority, in PEM format
    #[arg(long, value_name = "FILE", env = "DOWNHILL_TLS_CA")]
    pub tls_ca: Option<PathBuf>,

    /// Name in the server's certificate, if not the host of its address
    #[arg(long, value_name = "NAME", env = "DOWNHILL_TLS_NAME")]
    pub tls_name: Option<String>,

    /// File with the secret token that every call must carry
    ///
    /// A token is a line of at least 16 characters; lines that begin with # are skipped. If there are several
    /// tokens, clients send the first one and servers accept any of them. The file is read again when it
    /// changes.
    #[arg(long, value_name = "FILE", env = "DOWNHILL_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
}
