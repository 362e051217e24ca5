//! What callers have shown of themselves.

use std::fmt;
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;

/// What tells one caller from another: its certificate, its token, or both. It holds no secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Credential {
    /// Subject and issuer of the certificate that the connection was opened with.
    pub certificate: Option<String>,
    /// The line of the token file, from 1, that has the call's token.
    pub token_line: Option<usize>,
}

impl Credential {
    /// Whether anything was shown that could tell callers apart.
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

/// Subject and issuer of the first of these certificates, which the handshake has verified. Nothing if it cannot be read.
pub fn certificate_name(chain: Option<&[CertificateDer<'_>]>) -> Option<String> {
    let (_, certificate) = parse_x509_certificate(chain?.first()?).ok()?;
    Some(format!("\"{}\" issued by \"{}\"", certificate.subject(), certificate.issuer()))
}
