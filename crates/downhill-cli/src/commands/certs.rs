//! `downhill certs`: creates a private certificate authority, and certificates for the processes of a
//! cluster.

use crate::failure::Failure;
use crate::output;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// Create certificates for mutual TLS between servers and workers
///
/// Writes a private certificate authority, a certificate for the server and one for each worker, each with
/// its key, and prints the flags to use them. Existing files are not overwritten.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Folder to write to
    #[arg(long, value_name = "DIR", default_value = "certs", value_hint = clap::ValueHint::DirPath)]
    out: PathBuf,

    /// Name or address of the server; can be repeated
    ///
    /// The server's certificate is always valid for localhost, 127.0.0.1 and ::1.
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,

    /// Number of days the certificates are valid
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,

    /// Number of workers to create certificates for
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: u16,

    /// Allow workers to act as servers too, for 'ps-worker --host-shard'
    ///
    /// Adds the hosts to the workers' certificates. Without this flag, a worker's certificate cannot be used
    /// as a server's.
    #[arg(long, alias = "with-shards")]
    host_shards: bool,
}

const EXAMPLES: &str = "\
Examples:
  downhill certs
  downhill certs --out cluster --host train.example --host 10.0.0.7 --workers 8

Copy ca.pem and one certificate with its key to each machine. Keep ca-key.pem private: it can sign further certificates.";

/// Names for which the certificate of every server is valid.
const OWN_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Certificates are valid from this long before now, for machines whose clock is behind.
const SLACK: Duration = Duration::from_secs(3600);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Creates the certificates, writes them and prints how to use them.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let folder = &arguments.out;
    let hosts: Vec<String> =
        OWN_HOSTS.iter().map(|host| (*host).to_owned()).chain(arguments.hosts.iter().cloned()).collect();
    let authority = Authority::new(arguments)?;
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    // A server that holds a shard calls the coordinator, so it is both a server and a client.
    let mut files = vec![
        (folder.join("ca.pem"), authority.issuer.pem(), Secrecy::Public),
        (folder.join("ca-key.pem"), authority.issuer.key().serialize_pem(), Secrecy::Private),
    ];
    let mut add = |name: &str, hosts: &[String], purposes: &[ExtendedKeyUsagePurpose]| {
        let (certificate, key) = authority.issue(name, hosts, purposes)?;
        files.push((folder.join(format!("{name}.pem")), certificate, Secrecy::Public));
        files.push((folder.join(format!("{name}-key.pem")), key, Secrecy::Private));
        Ok::<(), Failure>(())
    };
    add("server", &hosts, &[ServerAuth, ClientAuth])?;
    for number in 1..=arguments.workers {
        let name = format!("worker-{number}");
        match arguments.host_shards {
            true => add(&name, &hosts, &[ServerAuth, ClientAuth])?,
            // For clients only, so that the key of a worker does not suffice to pose as the server.
            false => add(&name, std::slice::from_ref(&name), &[ClientAuth])?,
        }
    }
    // Nothing is written if any of the files exists, as far as that can be known beforehand.
    if let Some((path, ..)) = files.iter().find(|(path, ..)| path.symlink_metadata().is_ok()) {
        return Err(Failure::Failed(format!(
            "{}: the file exists and is not overwritten; choose another --out",
            path.display()
        )));
    }
    std::fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
    for (path, text, secrecy) in &files {
        let written = create(path, *secrecy).and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| failed(path, &error))?;
    }
    print_files(arguments, &files);
    Ok(ExitCode::SUCCESS)
}

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Secrecy {
    Public,
    Private,
}

/// The certificate authority that signs all other certificates.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    until: SystemTime,
}

impl Authority {
    fn new(arguments: &Arguments) -> Result<Self, Failure> {
        let until = SystemTime::now() + DAY * arguments.days;
        let mut params = params("Downhill private authority", &[], until)?;
        // A path length of 0: none of the certificates that it signs can sign others.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(|error| certificate_error(&error))?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(|error| certificate_error(&error))?;
        Ok(Authority { issuer, until })
    }

    /// Issues a certificate, and returns it with its key, both in PEM.
    fn issue(
        &self,
        name: &str,
        hosts: &[String],
        purposes: &[ExtendedKeyUsagePurpose],
    ) -> Result<(String, String), Failure> {
        let mut params = params(name, hosts, self.until)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = purposes.to_vec();
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(|error| certificate_error(&error))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(|error| certificate_error(&error))?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

fn params(name: &str, hosts: &[String], until: SystemTime) -> Result<CertificateParams, Failure> {
    let mut params = CertificateParams::new(hosts).map_err(|error| {
        Failure::Usage(format!("--host {}: not a valid name for a certificate: {error}", hosts.join(", ")))
    })?;
    params.distinguished_name.push(DnType::CommonName, name);
    let since_1970 = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_1970(SystemTime::now() - SLACK);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_1970(until);
    Ok(params)
}

/// Creates a file, which must not exist.
fn create(path: &Path, secrecy: Secrecy) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    // The mode is set on creation, so a key is never readable by others, not even for a moment.
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(
        &mut options,
        match secrecy {
            Secrecy::Public => 0o644,
            Secrecy::Private => 0o600,
        },
    );
    #[cfg(not(unix))]
    let _ = secrecy;
    options.open(path)
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    let hint = match error.kind() {
        ErrorKind::AlreadyExists => "; it is not overwritten; choose another --out",
        _ => "",
    };
    Failure::Failed(format!("{}: {error}{hint}", path.display()))
}

fn certificate_error(error: &dyn Display) -> Failure {
    Failure::Failed(format!("cannot create a certificate: {error}"))
}

/// Prints the files and the flags to use them.
fn print_files(arguments: &Arguments, files: &[(PathBuf, String, Secrecy)]) {
    let folder = arguments.out.display();
    let flags = |name: &str| {
        format!("--tls-cert {folder}/{name}.pem --tls-key {folder}/{name}-key.pem --tls-ca {folder}/ca.pem")
    };
    let host = arguments.hosts.first().map_or("127.0.0.1", String::as_str);
    let reach = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let listen = if arguments.hosts.is_empty() { "127.0.0.1:4370" } else { "0.0.0.0:4370" };
    let shard = if arguments.host_shards { " --host-shard" } else { "" };
    let layout = if arguments.host_shards {
        format!(" --shards-colocated {}", arguments.workers)
    } else {
        String::new()
    };
    let mut lines = vec![format!("valid for {} days:", arguments.days)];
    lines.extend(files.iter().map(|(path, _, secrecy)| match secrecy {
        Secrecy::Public => format!("  {}", path.display()),
        Secrecy::Private => format!("  {} (secret)", path.display()),
    }));
    lines.push("start the server and the workers, with your run file instead of RUN.toml:".into());
    lines.push(format!("  ps-server RUN.toml --listen {listen}{layout} {}", flags("server")));
    for number in 1..=arguments.workers.min(SHOWN) {
        lines
            .push(format!("  ps-worker --server {reach}:4370{shard} {}", flags(&format!("worker-{number}"))));
    }
    if arguments.workers > SHOWN {
        lines.push(format!("  and so on up to worker-{}", arguments.workers));
    }
    // The files are written, so a closed pipe is not a failure.
    let _ = output::lines(&lines);
}

/// Number of workers whose command is shown.
const SHOWN: u16 = 2;
