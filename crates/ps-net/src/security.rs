//! What protects connections: mutual TLS, tokens, or both.
//!
//! A process opens one [`Security`]. A server uses its acceptor and asks it about each call; a client passes
//! it to [`Address::connect`]. Its `Debug` output contains no secret.

mod credential;
mod tls;
mod token;

pub use credential::{Credential, certificate_name};
pub(crate) use tls::connect_error;
pub use tls::refusal as handshake_refusal;

use crate::Address;
use crate::network::Network;
use ps_host::Ceiling;
use std::fmt;
use std::net::ToSocketAddrs;
use std::path::Path;
use std::sync::Arc;
use tls::Tls;
use token::Tokens;
use tokio_rustls::TlsAcceptor;
use tonic::codegen::http::{HeaderMap, HeaderValue};
use tracing::warn;

/// Longest file of certificates, keys or tokens. A bundle of all public authorities has a quarter of this.
const MAX_FILE: Ceiling = Ceiling::fixed(1 << 20);

/// The files that protect the connections of a process. Errors name them by the flags of the programs.
#[derive(Clone, Copy, Debug, Default)]
pub struct SecurityFiles<'a> {
    /// Certificate of this process, in PEM format (`--tls-cert`).
    pub tls_cert: Option<&'a Path>,
    /// Private key of the certificate, in PEM format (`--tls-key`).
    pub tls_key: Option<&'a Path>,
    /// Certificate of the authority that signs all certificates, in PEM format (`--tls-ca`).
    pub tls_ca: Option<&'a Path>,
    /// Name in the server's certificate, if not the host of its address (`--tls-name`).
    pub tls_name: Option<&'a str>,
    /// Tokens, one per line (`--token-file`).
    pub token_file: Option<&'a Path>,
}

/// Why a call is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// The call carries no token.
    Missing,
    /// The token of the call is not in the token file.
    Unknown,
}

/// The credentials of a process and what it demands of its peers; by default neither. Clones share them. It
/// also holds the network that connections run over, so that a client needs nothing else to connect.
#[derive(Clone, Default)]
pub struct Security {
    tls: Option<Arc<Tls>>,
    tokens: Option<Arc<Tokens>>,
    /// Tokens of administrators; none of them is in `tokens`.
    admin: Option<Arc<Tokens>>,
    network: Option<Arc<dyn Network>>,
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tls, token) = (self.is_encrypted(), self.requires_token());
        f.debug_struct("Security").field("tls", &tls).field("token", &token).finish_non_exhaustive()
    }
}

impl Security {
    /// Reads the files.
    ///
    /// # Errors
    /// The flag that is missing, or the file that is invalid and why; in each case the user has to change
    /// the command line.
    pub fn open(files: SecurityFiles<'_>) -> Result<Self, String> {
        let tls = match (files.tls_cert, files.tls_key, files.tls_ca) {
            (Some(cert), Some(key), Some(ca)) => Some(Arc::new(Tls::open(cert, key, ca, files.tls_name)?)),
            (None, None, None) if files.tls_name.is_some() => {
                return Err("--tls-name needs --tls-cert, --tls-key and --tls-ca".into());
            }
            (None, None, None) => None,
            (cert, key, ca) => {
                let flags = [("--tls-cert", cert), ("--tls-key", key), ("--tls-ca", ca)];
                let missing = flags.iter().filter(|(_, file)| file.is_none()).map(|(flag, _)| *flag);
                let missing = missing.collect::<Vec<_>>().join(" and ");
                return Err(format!("TLS needs --tls-cert, --tls-key and --tls-ca together; add {missing}"));
            }
        };
        let tokens = files.token_file.map(|path| Tokens::open("--token-file", path));
        let tokens = tokens.transpose()?.map(Arc::new);
        Ok(Security { tls, tokens, admin: None, network: None })
    }

    /// Adds the tokens of administrators in the file at `path`. A server admits their calls, too; a client
    /// sends the first one.
    ///
    /// # Errors
    /// The file is invalid, or one of its tokens is also in `--token-file`.
    pub fn with_admin(self, path: &Path) -> Result<Self, String> {
        const FLAG: &str = "--admin-token-file";
        let admin = Tokens::open(FLAG, path)?;
        if self.tokens.as_ref().is_some_and(|tokens| tokens.shares_any(&admin)) {
            let path = path.display();
            return Err(format!(
                "{FLAG} {path}: a token in it is also in --token-file, so every worker could end the run; use another"
            ));
        }
        Ok(Security { admin: Some(Arc::new(admin)), ..self })
    }

    /// Whether a call with these headers carries an administrator's token.
    pub fn is_admin(&self, headers: &HeaderMap) -> bool {
        self.admin.as_ref().is_some_and(|admin| admin.admits(headers).is_ok())
    }

    /// Connects over `network` instead of the system's.
    pub fn over(self, network: Arc<dyn Network>) -> Self {
        Security { network: Some(network), ..self }
    }

    pub(crate) fn network(&self) -> Option<&dyn Network> {
        self.network.as_deref()
    }

    /// Whether connections use mutual TLS.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether calls must carry a token.
    pub fn requires_token(&self) -> bool {
        self.tokens.is_some()
    }

    /// The scheme of this process's addresses, for logs and requests.
    pub fn scheme(&self) -> &'static str {
        if self.is_encrypted() { "https://" } else { "http://" }
    }

    /// Parses the address of a server like [`Address`]; with TLS it may begin with `https://`.
    ///
    /// # Errors
    /// What is wrong with the address.
    pub fn address(&self, text: &str) -> Result<Address, String> {
        match text.strip_prefix("https://") {
            Some(rest) if self.is_encrypted() => rest.parse(),
            _ => text.parse(),
        }
    }

    /// Checks that the process may listen on `address`, the value of `flag`. An address that other machines
    /// can reach requires TLS or a token, unless `insecure` is set. Logs a warning if the address remains
    /// open or unencrypted.
    ///
    /// # Errors
    /// The address cannot be resolved, or it is not protected.
    pub fn guard(&self, flag: &str, address: &Address, insecure: bool) -> Result<(), String> {
        // No other machine can reach a Unix socket. On this one, the permissions of its folder protect it.
        let Address::Tcp(text) = address else { return Ok(()) };
        let mut addresses = text.to_socket_addrs().map_err(|error| format!("{flag} {text}: {error}"))?;
        // A name can resolve to several addresses, and a single one that other machines can reach is enough.
        let Some(reached) = addresses.find(|address| !address.ip().is_loopback()) else { return Ok(()) };
        let ip = reached.ip();
        match (self.is_encrypted(), self.requires_token()) {
            (true, _) => {}
            (false, true) => warn!(
                "{flag} {text}: the token and all data cross the network unencrypted; encrypt connections \
                 with --tls-cert, --tls-key and --tls-ca"
            ),
            (false, false) if insecure => {
                warn!(
                    "{flag} {text}: every client that can reach {ip} can take part in the run and read its weights"
                );
            }
            (false, false) => {
                return Err(format!(
                    "{flag} {text}: other machines can reach {ip} and could take part in the run; protect \
                     it with --tls-cert, --tls-key and --tls-ca (`downhill certs` creates the files) or \
                     with --token-file, or allow this with --insecure"
                ));
            }
        }
        Ok(())
    }

    /// Turns accepted connections into TLS connections; `None` without TLS.
    pub fn acceptor(&self) -> Option<TlsAcceptor> {
        self.tls.as_ref().map(|tls| tls.acceptor())
    }

    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.as_deref()
    }

    /// Checks the token of a call with these headers. Returns its line in the token file, from 1; `None` if
    /// no token is required or the token is an administrator's.
    ///
    /// # Errors
    /// The call may not be admitted.
    pub fn admits(&self, headers: &HeaderMap) -> Result<Option<usize>, TokenError> {
        match &self.tokens {
            Some(_) if self.is_admin(headers) => Ok(None),
            Some(tokens) => tokens.admits(headers).map(Some),
            None => Ok(None),
        }
    }

    /// The `authorization` header of this process's own calls. Reads the token file again.
    pub(crate) fn authorization(&self) -> Result<Option<HeaderValue>, String> {
        self.admin.as_ref().or(self.tokens.as_ref()).map(|tokens| tokens.authorization()).transpose()
    }
}

/// Reads the file that `flag` names.
fn read(flag: &str, path: &Path) -> Result<Vec<u8>, String> {
    ps_host::read(path, MAX_FILE).map_err(|error| format!("{flag} {}: {error}", path.display()))
}

/// Logs a warning if every user of the machine can read a secret.
fn warn_if_public(flag: &str, path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).map_or(0, |meta| meta.permissions().mode());
        if mode & 0o007 != 0 {
            let path = path.display();
            warn!(
                "{flag} {path}: other users can read this secret (mode {:o}); chmod 600 {path}",
                mode & 0o777
            );
        }
    }
    #[cfg(not(unix))]
    let _ = (flag, path);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn missing_flags_and_invalid_files_are_reported() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| -> PathBuf {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let [empty, short, none, space, long] = [
            file("empty.pem", "nothing here"),
            file("short", "# a comment\nabc\n"),
            file("none", "# only a comment\n\n"),
            file("space", "0123456789 0123456789\n"),
            file("long", &"#".repeat(2 << 20)),
        ];
        let empty = Some(empty.as_path());
        let tokens = |path| SecurityFiles { token_file: Some(path), ..SecurityFiles::default() };
        let cases = [
            (SecurityFiles { tls_cert: empty, ..Default::default() }, "add --tls-key and --tls-ca"),
            (SecurityFiles { tls_cert: empty, tls_ca: empty, ..Default::default() }, "add --tls-key"),
            (SecurityFiles { tls_name: Some("a"), ..Default::default() }, "--tls-name needs"),
            (
                SecurityFiles {
                    tls_cert: empty,
                    tls_key: empty,
                    tls_ca: Some("/nowhere/ca.pem".as_ref()),
                    tls_name: None,
                    token_file: None,
                },
                "--tls-ca /nowhere/ca.pem: No such file",
            ),
            (
                SecurityFiles { tls_cert: empty, tls_key: empty, tls_ca: empty, ..Default::default() },
                "empty.pem: the file contains no certificate in PEM format",
            ),
            (tokens(short.as_path()), "line 2 has 3 characters"),
            (tokens(none.as_path()), "no token"),
            (tokens(space.as_path()), "line 1 contains spaces"),
            (tokens("/nowhere/token".as_ref()), "/nowhere/token: No such"),
            (tokens(folder.path()), "this is a directory"),
            (tokens(long.as_path()), "the file has 2.0 MiB"),
            #[cfg(unix)]
            (
                SecurityFiles {
                    tls_cert: empty,
                    tls_key: empty,
                    tls_ca: Some("/dev/zero".as_ref()),
                    ..Default::default()
                },
                "/dev/zero: this is a device, not a regular file",
            ),
        ];
        for (files, expected) in cases {
            let error = Security::open(files).unwrap_err();
            assert!(error.contains(expected), "{error} does not say {expected}");
            assert!(!error.contains('\n') && !error.contains("0123456789"), "{error}");
        }
    }

    #[test]
    fn https_requires_certificates_and_debug_output_hides_secrets() {
        assert!(Security::default().address("https://a:1").unwrap_err().contains("--tls-cert"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "a-secret-of-sixteen\n").unwrap();
        let files = SecurityFiles { token_file: Some(&path), ..SecurityFiles::default() };
        let security = Security::open(files).unwrap();
        assert!(!format!("{security:?}").contains("secret"));
        assert!(!format!("{:?}", security.authorization().unwrap()).contains("secret"));
    }
}
