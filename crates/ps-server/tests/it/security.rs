//! Peers that must not be admitted, and their effect on those that are.

use crate::support::{Server, Shard, Worker, data, options, run_file, runtime, wide_run};
use bytes::Bytes;
use ps_config::SecurityArgs;
use ps_core::NUMERICS_VERSION;
use ps_net::{Address, Listener, Security};
use ps_proto::limits::{MAX_NAME_BYTES, PROTOCOL_VERSION};
use ps_proto::stream::{self, Reader};
use ps_proto::v1::{self, parameter_server_client::ParameterServerClient};
use ps_server::{ServerOptions, ShardLayout};
use ps_shard::transport::open_security;
use ps_worker::WorkerOptions;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, date_time_ymd,
};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tonic::body::Body;
use tonic::{Code, Request, Status};

const OLD: &str = "an-old-token-of-some-length";
const NEW: &str = "a-new-token-of-some-length!";

/// A certificate authority with a separate folder.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Authority { folder, issuer }
    }

    /// The flags of a process called `name`, whose certificate is valid until `year`.
    fn issue(&self, name: &str, year: i32) -> SecurityArgs {
        let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let write = |what: &str, text: String| -> Option<PathBuf> {
            let path = self.folder.path().join(format!("{name}{what}.pem"));
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        SecurityArgs {
            tls_cert: write("", params.signed_by(&key, &self.issuer).unwrap().pem()),
            tls_key: write("-key", key.serialize_pem()),
            tls_ca: Some(self.folder.path().join("ca.pem")),
            ..SecurityArgs::default()
        }
    }

    pub(crate) fn security(&self, name: &str) -> Security {
        open_security(&self.issue(name, 4000)).unwrap()
    }
}

pub(crate) fn tokens(folder: &Path, name: &str, text: &str) -> SecurityArgs {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    SecurityArgs { token_file: Some(path), ..SecurityArgs::default() }
}

fn guarded(security: &Security, workers: u32) -> ServerOptions {
    ServerOptions { security: security.clone(), ..options(workers) }
}

fn worker(address: &Address, folder: &Path, security: &Security) -> WorkerOptions {
    WorkerOptions { security: security.clone(), ..Worker::options(address, folder) }
}

/// The error of a worker that cannot take part; it must occur without retries.
fn refused(options: WorkerOptions) -> String {
    let started = Instant::now();
    let error = Worker::start_with(options).finish().unwrap_err();
    assert_eq!(error.exit_code(), 42, "{error}");
    assert!(started.elapsed() < Duration::from_secs(8), "refused only after {:?}", started.elapsed());
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

/// Honest workers join, and the run ends with the reference's hash.
fn finish(server: Server, folder: &Path, security: &Security, workers: u32) {
    let workers: Vec<Worker> =
        (0..workers).map(|_| Worker::start_with(worker(&server.address, folder, security))).collect();
    server.finish_at_reference();
    workers.into_iter().for_each(|worker| drop(worker.finish().unwrap()));
}

#[test]
fn a_worker_without_a_valid_certificate_is_refused() {
    let folder = data(1);
    let (ours, theirs) = (Authority::new(), Authority::new());
    let security = ours.security("server");
    let server = Server::start(&run_file(4), folder.path(), guarded(&security, 2));
    let text = refused(worker(&server.address, folder.path(), &Security::default()));
    assert!(text.contains("requires TLS") && text.contains("--tls-cert"), "{text}");

    let text = refused(worker(&server.address, folder.path(), &theirs.security("stranger")));
    assert!(text.contains("not signed by the authority in --tls-ca"), "{text}");

    // It trusts the server, but the server does not trust it.
    let args = SecurityArgs { tls_ca: ours.issue("x", 4000).tls_ca, ..theirs.issue("half", 4000) };
    let text = refused(worker(&server.address, folder.path(), &open_security(&args).unwrap()));
    assert!(text.contains("does not accept this process's --tls-cert"), "{text}");

    let elsewhere = SecurityArgs { tls_name: Some("train.example".into()), ..ours.issue("named", 4000) };
    let text = refused(worker(&server.address, folder.path(), &open_security(&elsewhere).unwrap()));
    assert!(text.contains("--tls-name"), "{text}");

    // No worker of this project does this; the server must refuse it by itself.
    let expired = ours.issue("expired", 2001);
    assert!(open_security(&expired).unwrap_err().contains("not valid today"));
    let alert = runtime().block_on(shake_hands(&server.address, &ours, Some(&expired)));
    assert!(alert.contains("CertificateExpired"), "{alert}");
    let alert = runtime().block_on(shake_hands(&server.address, &ours, None));
    assert!(alert.contains("CertificateRequired"), "{alert}");

    finish(server, folder.path(), &ours.security("worker"), 2);
}

/// The server's response to a client with this certificate, or with none.
async fn shake_hands(address: &Address, ours: &Authority, args: Option<&SecurityArgs>) -> String {
    use tokio::io::AsyncReadExt;
    let mut roots = RootCertStore::empty();
    roots.add(ours.issuer.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match args {
        Some(args) => config.with_client_auth_cert(chain(args), key(args)).unwrap(),
        None => config.with_no_client_auth(),
    };
    let socket = tokio::net::TcpStream::connect(address.to_string()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    match TlsConnector::from(Arc::new(config)).connect(name, socket).await {
        Ok(mut stream) => stream.read_u8().await.unwrap_err().to_string(),
        Err(error) => error.to_string(),
    }
}

fn provider() -> Arc<tokio_rustls::rustls::crypto::CryptoProvider> {
    Arc::new(tokio_rustls::rustls::crypto::ring::default_provider())
}

fn chain(args: &SecurityArgs) -> Vec<CertificateDer<'static>> {
    vec![CertificateDer::from_pem_file(args.tls_cert.as_ref().unwrap()).unwrap()]
}

fn key(args: &SecurityArgs) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(args.tls_key.as_ref().unwrap()).unwrap()
}

#[test]
fn a_worker_verifies_the_servers_certificate() {
    let folder = data(1);
    let ours = Authority::new();
    let security = ours.security("worker");
    let plain = Server::start(&run_file(2), folder.path(), options(1));
    let text = refused(worker(&plain.address, folder.path(), &security));
    assert!(text.contains("the server does not speak TLS"), "{text}");
    finish(plain, folder.path(), &Security::default(), 1);

    // A server whose certificate has expired.
    let expired = ours.issue("expired", 2001);
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain(&expired), key(&expired))
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap().to_string());
    let serving = std::thread::spawn(move || {
        runtime().block_on(async {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            // A mismatch is tried twice.
            for _ in 0..2 {
                let (socket, _) = listener.accept().await.unwrap();
                assert!(acceptor.accept(socket).await.is_err());
            }
        });
    });
    let text = refused(worker(&address, folder.path(), &security));
    assert!(text.contains("the server's certificate") && text.contains("not valid today"), "{text}");
    serving.join().unwrap();
}

#[test]
fn shards_and_workers_authenticate_each_other() {
    let folder = data(1);
    let ours = Authority::new();
    let held = SecurityArgs {
        token_file: tokens(folder.path(), "token", OLD).token_file,
        ..ours.issue("all", 4000)
    };
    let security = open_security(&held).unwrap();
    let run = wide_run(2, "");
    let layout = ShardLayout { shards: 2, coordinator_keeps: true };
    let server = Server::start(&run, folder.path(), ServerOptions { layout, ..guarded(&security, 1) });
    let error = Shard::start(&server.address, 0, &run, folder.path()).finish().unwrap_err();
    assert!(error.to_string().contains("requires TLS"), "{error}");
    assert_eq!(error.exit_code(), 42);
    let shard = Shard::start_with(&server.address, 0, &run, folder.path(), guarded(&security, 1));
    finish(server, folder.path(), &security, 1);
    shard.finish().unwrap();

    let layout = ShardLayout { shards: 1, coordinator_keeps: false };
    let server = Server::start(&run, folder.path(), ServerOptions { layout, ..guarded(&security, 1) });
    let place = ps_worker::HostedShardOptions { listen: "127.0.0.1:0".into(), advertise: None };
    let hosting = WorkerOptions { shard: Some(place), ..worker(&server.address, folder.path(), &security) };
    let worker = Worker::start_with(hosting);
    server.finish_at_reference();
    worker.finish().unwrap();
}

#[cfg(unix)]
#[test]
fn a_unix_socket_can_use_tls_and_tokens() {
    let folder = data(1);
    let ours = Authority::new();
    let security = ours.security("server");
    let listener = Listener::bind(&Address::Unix(folder.path().join("socket"))).unwrap();
    let server = Server::start_at(listener, &run_file(2), folder.path(), guarded(&security, 1));
    let text = refused(worker(&server.address, folder.path(), &Security::default()));
    assert!(text.contains("requires TLS"), "{text}");
    finish(server, folder.path(), &security, 1);
}

/// A client whose calls carry `token`.
async fn call_all(server: &Server, token: Option<&str>) -> Vec<(&'static str, Code)> {
    let mut client = server.client().await;
    fn with<T>(token: Option<&str>, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        request
    }
    fn code<T>(answer: Result<T, Status>) -> Code {
        answer.map_or_else(|status| status.code(), |_| Code::Ok)
    }
    let join = client.join(with(token, v1::JoinRequest::default())).await;
    let rounds = client.rounds(with(token, tokio_stream::iter([v1::FromWorker::default()]))).await;
    let attach = client.attach(with(token, tokio_stream::iter([v1::FromShard::default()]))).await;
    let shards = client.shards(with(token, v1::ShardsRequest {})).await;
    let status = client.status(with(token, v1::StatusRequest {})).await;
    let pull = client.pull_weights(with(token, v1::PullWeightsRequest {})).await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.connect().await.unwrap());
    let health = health.check(with(token, tonic_health::pb::HealthCheckRequest::default())).await;
    vec![
        ("join", code(join)),
        ("rounds", code(rounds)),
        ("attach", code(attach)),
        ("shards", code(shards)),
        ("status", code(status)),
        ("pull", code(pull)),
        ("health", code(health)),
    ]
}

#[test]
fn every_call_needs_a_token_and_tokens_can_be_rotated() {
    let folder = data(1);
    let both = tokens(folder.path(), "server", &format!("# first the new one\n{NEW}\n\n{OLD}\n"));
    let server = Server::start(&run_file(4), folder.path(), guarded(&open_security(&both).unwrap(), 1));
    let open = |name: &str, token: &str| open_security(&tokens(folder.path(), name, token)).unwrap();
    let (old, new) = (open("old", OLD), open("new", NEW));
    runtime().block_on(async {
        for wrong in [None, Some("another-token-of-some-length"), Some(&OLD[1..]), Some("")] {
            for (call, code) in call_all(&server, wrong).await {
                assert_eq!(code, Code::Unauthenticated, "{call} with {wrong:?}");
            }
        }
        for right in [OLD, NEW] {
            for (call, code) in call_all(&server, Some(right)).await {
                assert_ne!(code, Code::Unauthenticated, "{call}");
            }
        }
    });
    let text = refused(worker(&server.address, folder.path(), &Security::default()));
    assert!(text.contains("requires a token") && text.contains("--token-file"), "{text}");
    let text = refused(worker(&server.address, folder.path(), &open("wrong", "not-a-token-of-this-run")));
    assert!(text.contains("does not accept the token") && !text.contains("not-a-token"), "{text}");

    std::fs::write(folder.path().join("server"), format!("{NEW}\n")).unwrap();
    runtime().block_on(async {
        let mut line = ParameterServerClient::new(server.address.connect(&old).await.unwrap());
        loop {
            match line.status(v1::StatusRequest {}).await {
                Ok(_) => {}
                Err(status) => break assert_eq!(status.code(), Code::Unauthenticated),
            }
        }
        let mut line = ParameterServerClient::new(server.address.connect(&new).await.unwrap());
        line.status(v1::StatusRequest {}).await.unwrap();
    });
    let text = refused(worker(&server.address, folder.path(), &old));
    assert!(text.contains("does not accept the token"), "{text}");
    // A file that becomes invalid or is removed changes nothing.
    std::fs::write(folder.path().join("server"), "short\n").unwrap();
    finish(server, folder.path(), &new, 1);
}

/// A body of one piece.
struct Once(Option<Bytes>);

impl http_body::Body for Once {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        std::task::Poll::Ready(self.0.take().map(|bytes| Ok(http_body::Frame::data(bytes))))
    }
}

/// The status that ends a call to `path` with these bytes as its body.
async fn send(server: &Server, path: &'static str, body: &'static [u8]) -> Status {
    let mut line = server.address.connect(&Security::default()).await.unwrap();
    let body = Body::new(Once(Some(Bytes::from_static(body))));
    match stream::call(&mut line, path, body).await {
        Err(status) => status,
        Ok(body) => Reader::<v1::StatusReply>::new(body).message().await.unwrap_err(),
    }
}

#[test]
fn oversized_and_compressed_messages_are_refused_before_allocation() {
    const HUGE: &[u8] = &[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3];
    const PACKED: &[u8] = &[1, 0, 0, 0, 1, 0];
    const STATUS: &str = "/downhill.v1.ParameterServer/Status";
    const ATTACH: &str = "/downhill.v1.ParameterServer/Attach";
    let folder = data(1);
    let server = Server::start(&run_file(4), folder.path(), options(1));
    runtime().block_on(async {
        for path in [stream::ROUNDS_PATH, STATUS, ATTACH] {
            let status = send(&server, path, HUGE).await;
            assert_eq!(status.code(), Code::OutOfRange, "{path}: {status}");
            let status = send(&server, path, PACKED).await;
            assert_eq!(status.code(), Code::Internal, "{path}: {status}");
        }
        let mut request = Request::new(v1::StatusRequest {});
        request.metadata_mut().insert("grpc-encoding", "gzip".parse().unwrap());
        let status = server.client().await.status(request).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
        assert!(status.message().contains("compression is not supported"), "{status}");

        let old = v1::JoinRequest { protocol_version: 1, build: "old".into(), ..Default::default() };
        let status = server.client().await.join(old).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("use the same release"), "{status}");

        let ours = v1::JoinRequest {
            protocol_version: PROTOCOL_VERSION,
            numerics_version: NUMERICS_VERSION,
            ..Default::default()
        };
        server.client().await.join(ours.clone()).await.unwrap();
        let long = || "a".repeat(MAX_NAME_BYTES + 1);
        for request in [
            v1::JoinRequest { worker_name: long(), ..ours.clone() },
            v1::JoinRequest { build: long(), ..ours.clone() },
        ] {
            let status = server.client().await.join(request).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains("257 bytes, but the limit is 256"), "{status}");
        }
    });
    finish(server, folder.path(), &Security::default(), 1);
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[test]
fn opening_100_000_streams_ends_the_connection() {
    const ENHANCE_YOUR_CALM: u32 = 11;
    let folder = data(1);
    let server = Server::start(&run_file(4), folder.path(), options(1));
    // POST, http, and the path of the rounds, as HPACK without tables; no `Hello` follows.
    let mut headers = vec![0x83, 0x86, 0x04, stream::ROUNDS_PATH.len() as u8];
    headers.extend(stream::ROUNDS_PATH.as_bytes());
    let mut socket = TcpStream::connect(server.address.to_string()).unwrap();
    let mut reading = socket.try_clone().unwrap();
    reading.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let reader = std::thread::spawn(move || {
        let (mut refused, mut reason) = (0_usize, None);
        let mut header = [0; 9];
        while reading.read_exact(&mut header).is_ok() {
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            let mut payload = vec![0; length];
            if reading.read_exact(&mut payload).is_err() {
                break;
            }
            let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            match header[3] {
                3 => refused += usize::from(word(0) == 7),
                7 => reason = Some(word(4)),
                _ => {}
            }
        }
        (refused, reason)
    });
    let mut opened = 0_u32;
    let mut bytes = [PREFACE, &frame(4, 0, 0, &[])].concat();
    while opened < 100_000 {
        for _ in 0..1000 {
            bytes.extend(frame(1, 4, 2 * opened + 1, &headers));
            opened += 1;
        }
        if socket.write_all(&bytes).is_err() {
            break;
        }
        bytes.clear();
    }
    let (refused, reason) = reader.join().unwrap();
    assert!(refused > 0 || reason.is_some());
    // If the connection was reset before the reason could be read, it has ended, too.
    assert!(reason.is_none_or(|reason| reason == ENHANCE_YOUR_CALM), "{reason:?}");
    finish(server, folder.path(), &Security::default(), 1);
}

/// Whether the peer closes the connection in time, while `next` is sent byte by byte.
fn is_closed(mut socket: TcpStream, mut next: impl Iterator<Item = u8>) -> bool {
    let started = Instant::now();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut nothing = [0; 1024];
    while started.elapsed() < Duration::from_secs(8) {
        match socket.read(&mut nothing) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return true,
        }
        if let Some(byte) = next.next()
            && socket.write_all(&[byte]).is_err()
        {
            return true;
        }
    }
    false
}

#[test]
fn connections_without_a_call_are_closed() {
    let folder = data(1);
    let ours = Authority::new();
    for security in [Security::default(), ours.security("server")] {
        let patient =
            ServerOptions { admission_timeout: Duration::from_millis(300), ..guarded(&security, 1) };
        let server = Server::start(&run_file(4), folder.path(), patient);
        let start = [PREFACE, &frame(4, 0, 0, &[])].concat();
        let pings: Vec<u8> = std::iter::repeat_n(frame(6, 0, 0, &[7; 8]), 1000).flatten().collect();
        let kinds: [Vec<u8>; 4] = [
            Vec::new(),
            PREFACE.to_vec(),
            // Never a call, but always some traffic.
            [start, pings].concat(),
            // A TLS record that arrives slowly.
            [&[0x16, 3, 1, 2, 0, 1][..], &[0; 5000]].concat(),
        ];
        let threads: Vec<_> = kinds
            .into_iter()
            .map(|bytes| {
                let socket = TcpStream::connect(server.address.to_string()).unwrap();
                std::thread::spawn(move || is_closed(socket, bytes.into_iter()))
            })
            .collect();
        for (index, thread) in threads.into_iter().enumerate() {
            assert!(thread.join().unwrap(), "connection {index} stays open");
        }
        finish(server, folder.path(), &security, 1);
    }
}

#[test]
fn a_worker_reads_only_files_and_urls_that_its_flags_allow() {
    let folder = data(1);
    let root = folder.path().join("root");
    std::fs::create_dir(&root).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("../flowers.csv", root.join("link.csv")).unwrap();
    #[cfg(not(unix))]
    std::fs::copy(folder.path().join("flowers.csv"), root.join("link.csv")).unwrap();
    let absolute = folder.path().join("flowers.csv").display().to_string();
    let mut paths = vec![("../flowers.csv", "contains `..`"), (&absolute, "is absolute")];
    if cfg!(unix) {
        paths.push(("link.csv", "symbolic link"));
    }
    for (path, expected) in paths {
        let run = run_file(2).replace("csv:flowers.csv", &format!("csv:{path}"));
        let server = Server::start(&run, &root, options(1));
        let text = refused(Worker::options(&server.address, &root));
        assert!(text.contains(path) && text.contains(expected), "{text}");
        assert!(text.contains("--allow-any-path") && text.contains("--data-root"), "{text}");
        let trusting = WorkerOptions { allow_any_path: true, ..Worker::options(&server.address, &root) };
        let worker = Worker::start_with(trusting);
        server.finish_at_reference();
        worker.finish().unwrap();
    }
}

#[test]
fn a_public_address_requires_protection() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run.toml");
    let text = "[data]\ntrain = \"digits:100\"\n[model]\nkind = \"softmax\"\n[train]\nepochs = 1\nbatch = 20\n\
                [learning_rate]\ninitial = 0.1\n";
    std::fs::write(&run, text).unwrap();
    let token = tokens(folder.path(), "token", OLD).token_file.unwrap();
    let server = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ps-server"));
        command.current_dir(folder.path()).arg(&run).args(["--listen", "0.0.0.0:0"]).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let output = server(&[]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("protect it with --tls-cert") && text.contains("--insecure"), "{text}");
    let output = server(&["--tls-cert", "a.pem"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("add --tls-key and --tls-ca"), "{text}");
    for allowed in [&["--insecure"][..], &["--token-file", token.to_str().unwrap()]] {
        let mut child = server(allowed).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(line.starts_with("listening on http://0.0.0.0:"), "{line}{text}");
        assert!(!text.contains(OLD), "{text}");
    }
}
