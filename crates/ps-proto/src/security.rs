//! What protects connections: certificates of both ends, tokens, or both.
//!
//! A [`Security`] is opened once from the flags. Whoever serves takes its acceptor and asks it about each call; whoever
//! calls gives it to [`Address::connect`]. Nothing in it can be printed.

mod credential;
mod tls;
mod token;

pub use credential::{Credential, certificate_name};
pub use tls::refusal as handshake_refusal;
pub(crate) use tls::verdict;

use crate::network::Network;
use crate::{Address, Refusal};
use ps_config::SecurityArgs;
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

/// Longest file of certificates, keys or tokens that is read: a bundle of all public authorities has a quarter of that.
const MAX_FILE: Ceiling = Ceiling::fixed(1 << 20);

/// What a process shows of itself and asks of others; by default nothing. Clones share it. It also says over which network
/// others are called, so that whoever calls needs nothing else.
#[derive(Clone, Default)]
pub struct Security {
    tls: Option<Arc<Tls>>,
    tokens: Option<Arc<Tokens>>,
    /// Tokens of administrators, which are no worker's.
    admin: Option<Arc<Tokens>>,
    network: Option<Arc<dyn Network>>,
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tls, token) = (self.is_encrypted(), self.asks_token());
        f.debug_struct("Security").field("tls", &tls).field("token", &token).finish_non_exhaustive()
    }
}

impl Security {
    /// Reads what the flags name.
    ///
    /// # Errors
    /// Which flag is missing or which file is unfit, why, and what to do; always something wrong with the command line.
    pub fn open(args: &SecurityArgs) -> Result<Self, String> {
        let tls = match (&args.tls_cert, &args.tls_key, &args.tls_ca) {
            (Some(cert), Some(key), Some(ca)) => {
                Some(Arc::new(Tls::open(cert, key, ca, args.tls_name.as_deref())?))
            }
            (None, None, None) if args.tls_name.is_some() => {
                return Err("--tls-name is of no use without --tls-cert, --tls-key and --tls-ca".into());
            }
            (None, None, None) => None,
            (cert, key, ca) => {
                let flags = [("--tls-cert", cert), ("--tls-key", key), ("--tls-ca", ca)];
                let missing = flags.iter().filter(|(_, file)| file.is_none()).map(|(flag, _)| *flag);
                let missing = missing.collect::<Vec<_>>().join(" and ");
                return Err(format!("TLS needs --tls-cert, --tls-key and --tls-ca together; add {missing}"));
            }
        };
        let tokens = args.token_file.as_deref().map(|path| Tokens::open("--token-file", path));
        let tokens = tokens.transpose()?.map(Arc::new);
        Ok(Security { tls, tokens, admin: None, network: None })
    }

    /// With the tokens of administrators in the file at `path`. A server lets their calls in, too; a caller shows the first one.
    ///
    /// # Errors
    /// The file is unfit, or one of its tokens is also a worker's.
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

    /// Others are called over `network`, not over the system's.
    pub fn over(self, network: Arc<dyn Network>) -> Self {
        Security { network: Some(network), ..self }
    }

    pub(crate) fn network(&self) -> Option<&dyn Network> {
        self.network.as_deref()
    }

    /// Whether connections are encrypted and both ends show certificates.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether calls must carry a token.
    pub fn asks_token(&self) -> bool {
        self.tokens.is_some()
    }

    /// What stands before an address of ours in a log.
    pub fn scheme(&self) -> &'static str {
        if self.is_encrypted() { "https://" } else { "http://" }
    }

    /// Reads the address of a server as [`Address`] does; `https://` may stand before it where there are certificates.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn address(&self, text: &str) -> Result<Address, String> {
        match text.strip_prefix("https://") {
            Some(rest) if self.is_encrypted() => rest.parse(),
            _ => text.parse(),
        }
    }

    /// Checks that `address`, which `flag` gave, may be listened on: where other machines reach it, certificates or tokens
    /// must protect it, unless it is meant to be `insecure`. Warns of what is left open.
    ///
    /// # Errors
    /// It is no address, or open to all; what to do.
    pub fn guard(&self, flag: &str, address: &Address, insecure: bool) -> Result<(), String> {
        let Address::Tcp(text) = address else { return Ok(()) };
        let mut addresses = text.to_socket_addrs().map_err(|error| format!("{flag} {text}: {error}"))?;
        let Some(reached) = addresses.find(|address| !address.ip().is_loopback()) else { return Ok(()) };
        let ip = reached.ip();
        match (self.is_encrypted(), self.asks_token()) {
            (true, _) => {}
            (false, true) => warn!(
                "{flag} {text}: the token and all else travel readable on the network; encrypt with --tls-cert, \
                 --tls-key and --tls-ca"
            ),
            (false, false) if insecure => {
                warn!("{flag} {text}: whoever reaches {ip} can take part in the run and read its weights");
            }
            (false, false) => {
                return Err(format!(
                    "{flag} {text}: other machines reach {ip}, and whoever does could take part; protect it with \
                     --tls-cert, --tls-key and --tls-ca (`downhill certs` makes them) or with --token-file, or say \
                     --insecure"
                ));
            }
        }
        Ok(())
    }

    /// What makes accepted connections TLS, if they are to be.
    pub fn acceptor(&self) -> Option<TlsAcceptor> {
        self.tls.as_ref().map(|tls| tls.acceptor())
    }

    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.as_deref()
    }

    /// Whether a call with these headers may come in, and if tokens are asked for, the line of its token in the file, from 1.
    /// An administrator's token has none.
    ///
    /// # Errors
    /// Why it may not.
    pub fn admits(&self, headers: &HeaderMap) -> Result<Option<usize>, Refusal> {
        match &self.tokens {
            Some(_) if self.is_admin(headers) => Ok(None),
            Some(tokens) => tokens.admits(headers).map(Some),
            None => Ok(None),
        }
    }

    /// What our own calls carry, read anew.
    pub(crate) fn authorization(&self) -> Result<Option<HeaderValue>, String> {
        self.admin.as_ref().or(self.tokens.as_ref()).map(|tokens| tokens.authorization()).transpose()
    }
}

/// What a flag's file holds.
fn read(flag: &str, path: &Path) -> Result<Vec<u8>, String> {
    ps_host::read(path, MAX_FILE).map_err(|error| format!("{flag} {}: {error}", path.display()))
}

/// Tells of a secret that anybody on the machine can read.
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

    fn opened(args: SecurityArgs) -> String {
        Security::open(&args).unwrap_err()
    }

    #[test]
    fn what_is_missing_or_unfit_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| -> Option<PathBuf> {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let empty = file("empty.pem", "nothing here");
        let cases = [
            (SecurityArgs { tls_cert: empty.clone(), ..Default::default() }, "add --tls-key and --tls-ca"),
            (
                SecurityArgs { tls_cert: empty.clone(), tls_ca: empty.clone(), ..Default::default() },
                "add --tls-key",
            ),
            (SecurityArgs { tls_name: Some("a".into()), ..Default::default() }, "--tls-name is of no use"),
            (
                SecurityArgs {
                    tls_cert: empty.clone(),
                    tls_key: empty.clone(),
                    tls_ca: Some("/nowhere/ca.pem".into()),
                    tls_name: None,
                    token_file: None,
                },
                "--tls-ca /nowhere/ca.pem: No such file",
            ),
            (
                SecurityArgs {
                    tls_cert: empty.clone(),
                    tls_key: empty.clone(),
                    tls_ca: empty.clone(),
                    ..Default::default()
                },
                "empty.pem: no certificate in PEM is in it",
            ),
            (
                SecurityArgs { token_file: file("short", "# a comment\nabc\n"), ..Default::default() },
                "line 2 has 3 characters",
            ),
            (
                SecurityArgs { token_file: file("none", "# only a comment\n\n"), ..Default::default() },
                "no token",
            ),
            (
                SecurityArgs { token_file: file("space", "0123456789 0123456789\n"), ..Default::default() },
                "line 1 holds something else than",
            ),
            (
                SecurityArgs { token_file: Some("/nowhere/token".into()), ..Default::default() },
                "/nowhere/token: No such",
            ),
            (
                SecurityArgs { token_file: Some(folder.path().into()), ..Default::default() },
                "this is a directory",
            ),
            (
                SecurityArgs { token_file: file("long", &"#".repeat(2 << 20)), ..Default::default() },
                "the file has 2.0 MiB",
            ),
            #[cfg(unix)]
            (
                SecurityArgs {
                    tls_cert: empty.clone(),
                    tls_key: empty.clone(),
                    tls_ca: Some("/dev/zero".into()),
                    ..Default::default()
                },
                "/dev/zero: this is a device, not a regular file",
            ),
        ];
        for (args, expected) in cases {
            let error = opened(args);
            assert!(error.contains(expected), "{error} does not say {expected}");
            assert!(!error.contains('\n') && !error.contains("0123456789"), "{error}");
        }
    }

    #[test]
    fn https_needs_certificates_and_nothing_secret_is_printed() {
        assert!(Security::default().address("https://a:1").unwrap_err().contains("--tls-cert"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "a-secret-of-sixteen\n").unwrap();
        let args = SecurityArgs { token_file: Some(path), ..SecurityArgs::default() };
        let security = Security::open(&args).unwrap();
        assert!(!format!("{security:?}").contains("secret"));
        assert!(!format!("{:?}", security.authorization().unwrap()).contains("secret"));
    }
}
