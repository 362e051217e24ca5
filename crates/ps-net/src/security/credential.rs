//! What a caller has proved about itself.

use std::fmt;
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;

/// What identifies a caller: its certificate, its token, or both. It contains no secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Credential {
    /// Subject and issuer of the client certificate of the connection.
    pub certificate: Option<String>,
    /// The line of the call's token in the token file, from 1.
    pub token_line: Option<usize>,
}

impl Credential {
    /// Whether there is anything to tell callers apart by.
    pub fn is_known(&self) -> bool {
        self.certificate.is_some() || self.token_line.is_some()
    }
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.certificate, self.token_line) {
            (Some(certificate), None) => write!(f, "the certificate {certificate}"),
            (None, Some(line)) => write!(f, "the token on line {line}"),
            (Some(certificate), Some(line)) => {
                write!(f, "the certificate {certificate} with the token on line {line}")
            }
            (None, None) => f.write_str("no credential"),
        }
    }
}

/// Subject and issuer of the first certificate of a chain that the handshake has verified; `None` if it
/// cannot be parsed.
pub fn certificate_name(chain: Option<&[CertificateDer<'_>]>) -> Option<String> {
    let (_, certificate) = parse_x509_certificate(chain?.first()?).ok()?;
    Some(format!("\"{}\" issued by \"{}\"", certificate.subject(), certificate.issuer()))
}
