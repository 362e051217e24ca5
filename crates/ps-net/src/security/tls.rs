//! Mutual TLS with rustls; only TLS 1.3.

use super::{read, warn_if_public};
use crate::ConnectError;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, InconsistentKeys, InvalidMessage, RootCertStore,
    ServerConfig,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The only protocol that is offered inside TLS (ALPN).
const HTTP2: &[u8] = b"h2";

/// The TLS configurations of a server and of a client, from the same certificate and authority.
pub(crate) struct Tls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    /// The name that server certificates must carry, if not the host of the address.
    name: Option<ServerName<'static>>,
}

impl Tls {
    /// Reads the three PEM files.
    ///
    /// # Errors
    /// The flag, the file and what is wrong with it.
    pub(crate) fn open(cert: &Path, key: &Path, ca: &Path, name: Option<&str>) -> Result<Self, String> {
        let in_file = |flag: &str, path: &Path, what: &str| format!("{flag} {}: {what}", path.display());
        let unfit = |flag: &str, path: &Path, error: Error| in_file(flag, path, &words(&error));
        let authorities = certificates("--tls-ca", ca)?;
        let chain = certificates("--tls-cert", cert)?;
        let pem = read("--tls-key", key)?;
        let private = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|_| in_file("--tls-key", key, "the file contains no private key in PEM format"))?;
        warn_if_public("--tls-key", key);

        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority).map_err(|error| unfit("--tls-ca", ca, error))?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(ring::default_provider());
        is_current(&chain, &roots, &provider).map_err(|error| unfit("--tls-cert", cert, error))?;

        let broken = |error: &dyn std::fmt::Display| in_file("--tls-ca", ca, &error.to_string());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| broken(&error))?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| broken(&error))?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), private.clone_key())
            .map_err(|error| unfit("--tls-key", key, error))?;
        server.alpn_protocols = vec![HTTP2.to_vec()];
        // Connections last for a whole run. Sessions are never resumed, so that every connection shows its
        // certificate.
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| broken(&error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, private)
            .map_err(|error| unfit("--tls-key", key, error))?;
        client.alpn_protocols = vec![HTTP2.to_vec()];
        let name = name.map(|name| {
            ServerName::try_from(name.to_owned())
                .map_err(|_| format!("--tls-name {name:?}: expected a host name or an IP address"))
        });
        Ok(Tls { server: Arc::new(server), client: Arc::new(client), name: name.transpose()? })
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.server.clone())
    }

    pub(crate) fn connector(&self) -> TlsConnector {
        TlsConnector::from(self.client.clone())
    }

    /// The name that the certificate of the server at `host` must carry.
    pub(crate) fn name(&self, host: &str) -> Result<ServerName<'static>, String> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        match bare.parse::<IpAddr>() {
            Ok(address) => Ok(ServerName::IpAddress(address.into())),
            Err(_) => ServerName::try_from(bare.to_owned()).map_err(|_| {
                format!("{host:?} is not a valid name for a certificate; give one with --tls-name")
            }),
        }
    }
}

fn certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(flag, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("{flag} {}: the file contains no certificate in PEM format", path.display())),
        Err(error) => Err(format!("{flag} {}: damaged PEM: {error}", path.display())),
    }
}

/// Checks that the certificate of this process is valid today, so that an expired one is reported here and
/// not by every peer. Issuer and name are for the peers to judge.
fn is_current(
    chain: &[CertificateDer<'static>],
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<(), Error> {
    let Some((first, rest)) = chain.split_first() else { return Ok(()) };
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
    let Ok(verifier) = verifier else { return Ok(()) };
    // Any name will do, because a mismatch is among the errors that are ignored below.
    let Ok(name) = ServerName::try_from("localhost") else { return Ok(()) };
    match verifier.verify_server_cert(first, rest, &name, &[], UnixTime::now()) {
        Err(Error::InvalidCertificate(error)) if is_about_time(&error) => {
            Err(Error::InvalidCertificate(error))
        }
        Err(error @ Error::InvalidCertificate(CertificateError::BadEncoding)) => Err(error),
        _ => Ok(()),
    }
}

fn is_about_time(error: &CertificateError) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    matches!(error, Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. })
}

/// Describes an error of rustls, with a hint where there is one.
fn words(error: &Error) -> String {
    use CertificateError::{
        BadSignature, InvalidPurpose, InvalidPurposeContext, NotValidForName, NotValidForNameContext,
        UnknownIssuer,
    };
    match error {
        Error::InvalidCertificate(problem) if is_about_time(problem) => {
            format!("the certificate is not valid today: {problem}; create a new one")
        }
        Error::InvalidCertificate(UnknownIssuer | BadSignature) => {
            "the peer's certificate is not signed by the authority in --tls-ca".into()
        }
        Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
            format!("{error}; give the name in the server's certificate with --tls-name")
        }
        Error::InvalidCertificate(InvalidPurpose | InvalidPurposeContext { .. }) => {
            "the peer's certificate is not valid for its role (its extended key usage)".into()
        }
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            "the key does not belong to --tls-cert".into()
        }
        other => other.to_string(),
    }
}

/// Describes a failed handshake for the server's log.
pub fn refusal(error: &io::Error) -> String {
    match typed(error) {
        Some(Error::NoCertificatesPresented) => "it sent no certificate".into(),
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => "it does not speak TLS".into(),
        Some(error) => words(error),
        None => error.to_string(),
    }
}

/// Classifies a failed handshake for the client. Most failures are permanent; those that corrupted bytes can
/// cause, on either end, are transient.
pub(crate) fn connect_error(error: &io::Error) -> ConnectError {
    use AlertDescription as Alert;
    let hopeless = |text: String| ConnectError::Permanent(text);
    match typed(error) {
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            hopeless("the server does not speak TLS; remove the --tls flags and https, or start the server with TLS".into())
        }
        Some(error @ (Error::InvalidCertificate(_) | Error::NoCertificatesPresented)) => {
            hopeless(format!("the server's certificate: {}", words(error)))
        }
        Some(Error::AlertReceived(alert)) => match alert {
            Alert::CertificateRequired => {
                hopeless("the server requires a certificate; set --tls-cert, --tls-key and --tls-ca".into())
            }
            Alert::UnknownCA | Alert::DecryptError => hopeless(
                "the server does not accept this process's --tls-cert: it is not signed by the server's --tls-ca".into(),
            ),
            Alert::CertificateExpired => {
                hopeless("the server does not accept this process's --tls-cert: it is not valid today; create a new one".into())
            }
            // A record that was damaged on its way can cause these alerts. They say nothing about
            // certificates, so another attempt may succeed.
            Alert::InternalError
            | Alert::UserCanceled
            | Alert::BadRecordMac
            | Alert::DecodeError
            | Alert::IllegalParameter
            | Alert::RecordOverflow
            | Alert::UnexpectedMessage => ConnectError::Transient(format!("TLS: {error}")),
            other => hopeless(format!("the server refuses the connection: {other:?}; check the --tls flags of both ends")),
        },
        Some(
            // A record that does not authenticate or cannot be decoded is a sign of a bad line, not of a
            // wrong certificate.
            error @ (Error::DecryptError
            | Error::InappropriateHandshakeMessage { .. }
            | Error::InappropriateMessage { .. }
            | Error::InvalidMessage(_)
            | Error::PeerMisbehaved(_)
            | Error::PeerSentOversizedRecord),
        ) => ConnectError::Transient(format!("TLS: {error}")),
        Some(other) => hopeless(format!("TLS: {other}")),
        None => ConnectError::Transient(format!("TLS: {error}")),
    }
}

/// The rustls error inside of an I/O error.
fn typed(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_corrupted_bytes_can_cause_are_transient() {
        let is_transient =
            |error| matches!(connect_error(&io::Error::other(error)), ConnectError::Transient(_));
        let alert = |alert| is_transient(Error::AlertReceived(alert));
        assert!(is_transient(Error::DecryptError) && is_transient(InvalidMessage::InvalidServerName.into()));
        assert!(alert(AlertDescription::BadRecordMac) && alert(AlertDescription::DecodeError));
        assert!(!is_transient(InvalidMessage::InvalidContentType.into()));
        assert!(!is_transient(CertificateError::UnknownIssuer.into()));
        assert!(!alert(AlertDescription::UnknownCA) && !alert(AlertDescription::NoApplicationProtocol));
    }
}
