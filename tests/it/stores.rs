//! Data by URL: it is fetched once and checked, and errors are reported if a store is unavailable or has
//! other content. The S3 store is moto, which `tests/outside/install` installs. The web server is our own, so
//! that it can misbehave.

#![cfg(unix)]
use downhill_tests::{Ended, Running, downhill, outside, program, run};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

/// A table with two classes, one on either side of a line.
fn table() -> Vec<u8> {
    let mut text = "a,b,label\n".to_owned();
    for i in 0..400_u32 {
        let (a, b) = (f64::from(i % 20) / 20.0, f64::from(i / 20) / 20.0);
        writeln!(text, "{a},{b},{}", u8::from(a > b)).unwrap();
    }
    text.into_bytes()
}

fn run_file(folder: &Path, source: &str) {
    let text = format!(
        "[data]\ntrain = \"csv:{source}\"\n[model]\nkind = \"softmax\"\n[train]\nepochs = 2\nbatch = 32\nleaf = 8\n[learning_rate]\ninitial = 0.5\n"
    );
    fs::write(folder.join("run.toml"), text).unwrap();
}

/// Trains on `source`, with a separate cache in `folder` and without any environment variables for stores.
fn train(folder: &Path, out: &str, source: &str, environment: &[(&str, &str)]) -> Ended {
    run_file(folder, source);
    let mut command = downhill(&["train"]);
    command.arg(folder.join("run.toml")).arg("--out").arg(folder.join(out));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("DOWNHILL_DATA_CACHE", folder.join("cache")).envs(environment.iter().copied());
    run(&mut command)
}

fn refused(ended: &Ended, expected: &str) {
    assert_eq!(ended.status.code(), Some(1), "{ended}");
    assert!(ended.stderr.contains(expected), "{expected}: {ended}");
}

/// A web server with a single file, `/table.csv`, which records all requests.
struct Web {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    /// The content of the file, and the number of bytes of it that are sent.
    file: Arc<Mutex<(Vec<u8>, usize)>>,
}

impl Web {
    fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/table.csv", listener.local_addr().unwrap());
        let file = Arc::new(Mutex::new((table(), usize::MAX)));
        let web = Web { url, asked: Arc::default(), file };
        let (asked, file) = (web.asked.clone(), web.file.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (asked, file) = (asked.clone(), file.clone());
                // A client that disconnects early is not an error of the server.
                std::thread::spawn(move || drop(answer(stream, &asked, &file)));
            }
        });
        web
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn answer(
    stream: TcpStream,
    asked: &Mutex<Vec<String>>,
    file: &Mutex<(Vec<u8>, usize)>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    for line in lines.by_ref() {
        if line?.is_empty() {
            break;
        }
    }
    let (method, path) = first.split_once(' ').unwrap_or_default();
    asked.lock().unwrap().push(method.to_owned());
    let (file, sent) = file.lock().unwrap().clone();
    let mut stream = stream;
    if !path.starts_with("/table.csv ") {
        return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let tag = file.iter().fold(0_u64, |tag, &byte| tag.wrapping_mul(31).wrapping_add(byte.into()));
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nETag: \"{tag}\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
         Connection: close\r\n\r\n",
        file.len()
    )?;
    if method == "GET" {
        stream.write_all(&file[..sent.min(file.len())])?;
    }
    Ok(())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn data_from_a_web_server_is_fetched_once_and_gives_the_same_bits_as_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("table.csv"), table()).unwrap();
    let wanted = train(folder, "file", "table.csv", &[]).hash();
    let web = Web::open();
    assert_eq!(train(folder, "fetched", &web.url, &[]).hash(), wanted);
    assert_eq!(web.asked(), ["HEAD", "GET"]);
    assert_eq!(train(folder, "kept", &web.url, &[]).hash(), wanted);
    assert_eq!(web.asked(), ["HEAD"], "what is there unchanged is not fetched again");
    // With a hash in the URL, the server is not asked.
    let pinned = format!("{}#sha256={}", web.url, sha256(&table()));
    assert_eq!(train(folder, "pinned", &pinned, &[]).hash(), wanted);
    assert_eq!(web.asked().len(), 0);
    // A damaged copy is fetched again.
    let copies =
        fs::read_dir(folder.join("cache")).unwrap().flatten().map(|entry| entry.path().join("table.csv"));
    let copies: Vec<_> = copies.filter(|path| path.exists()).collect();
    assert_eq!(copies.len(), 1);
    fs::write(&copies[0], "a,b,label\n1,2,0\n").unwrap();
    assert_eq!(train(folder, "mended", &pinned, &[]).hash(), wanted);
    assert_eq!(web.asked(), ["HEAD", "GET"]);
    // A change on the server is noticed.
    web.file.lock().unwrap().0.extend(b"0.5,0.25,1\n");
    assert_ne!(train(folder, "changed", &web.url, &[]).hash(), wanted);
    assert_eq!(web.asked(), ["HEAD", "GET"]);
    refused(&train(folder, "other", &pinned, &[]), "the content has changed or is damaged");
}

#[test]
fn a_failed_fetch_is_reported_and_leaves_the_cache_intact() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let web = Web::open();
    let wanted = train(folder, "good", &web.url, &[]).hash();
    refused(&train(folder, "a", &web.url.replace("table", "none"), &[]), "there is nothing at this URL");
    refused(&train(folder, "b", "ftp://127.0.0.1/table.csv", &[]), "only http://, https:// and s3://");
    let wrong = format!("{}#sha256={}", web.url, "0".repeat(64));
    let ended = train(folder, "c", &wrong, &[]);
    refused(
        &ended,
        &format!("its SHA-256 is {}, but the run file requires {}", sha256(&table()), "0".repeat(64)),
    );
    // The server closes the connection early, at each attempt.
    web.file.lock().unwrap().0.extend(b"0.5,0.25,1\n");
    web.file.lock().unwrap().1 = 100;
    let ended = train(folder, "d", &web.url, &[]);
    assert!(ended.status.code() == Some(1) && ended.stderr.contains(&web.url), "{ended}");
    for out in ["a", "b", "c", "d"] {
        assert!(!folder.join(out).exists(), "{out}");
    }
    // The store becomes unavailable. The copy is still used, and a run whose data was never fetched fails
    // with a message.
    let gone = {
        // The listener is dropped at the end of this block, so nothing answers on its port.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/table.csv", listener.local_addr().unwrap())
    };
    refused(&train(folder, "e", &gone, &[]), "check the address and the network");
    *web.file.lock().unwrap() = (table(), usize::MAX);
    assert_eq!(train(folder, "again", &web.url, &[]).hash(), wanted);
}

#[test]
fn workers_fetch_only_from_allowed_urls() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let web = Web::open();
    let wanted = train(folder, "alone", &web.url, &[]).hash();
    let cache = folder.join("cache");
    let mut command = program("ps-server");
    command.arg(folder.join("run.toml")).args(["--listen", "127.0.0.1:0"]);
    let mut server =
        Running::start(command.arg("--out").arg(folder.join("run")).env("DOWNHILL_DATA_CACHE", &cache));
    let listen = server.listens();
    let worker = |allowed: &[&str]| {
        let mut command = program("ps-worker");
        command.args(["--server", &listen, "--threads", "1"]).args(allowed);
        run(command.env("DOWNHILL_DATA_CACHE", &cache))
    };
    for not_enough in [&[][..], &["--allow-url", "http://127.0.0.1/"]] {
        let ended = worker(not_enough);
        assert_eq!(ended.status.code(), Some(42), "{ended}");
        assert!(ended.stderr.contains("is not allowed to download; allow it with --allow-url"), "{ended}");
    }
    let ended = worker(&["--allow-url", web.url.strip_suffix("table.csv").unwrap()]);
    assert!(ended.status.success(), "{ended}");
    assert_eq!(server.finish().hash(), wanted);
}

#[test]
fn an_s3_store_gives_the_same_data() {
    let Some(moto) = outside("venv/bin/moto_server") else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("table.csv"), table()).unwrap();
    let wanted = train(folder, "file", "table.csv", &[]).hash();
    let mut store = Running::start(Command::new(moto).args(["-H", "127.0.0.1", "-p", "0"]));
    let line = store.log_line(|line| line.contains("Running on http://"));
    let address = line.split_once("http://").unwrap().1.trim();
    let endpoint = format!("http://{address}");
    let environment = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "reader"),
        ("AWS_SECRET_ACCESS_KEY", "not-a-secret"),
    ];
    let put = |path: &str, body: &[u8]| {
        let mut stream = TcpStream::connect(address).unwrap();
        let credentials = "AWS4-HMAC-SHA256 Credential=reader/20260101/us-east-1/s3/aws4_request";
        write!(
            stream,
            "PUT {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: {credentials}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            address,
            body.len()
        )
        .unwrap();
        stream.write_all(body).unwrap();
        let mut first = String::new();
        BufReader::new(stream).read_line(&mut first).unwrap();
        assert!(first.contains(" 200 "), "{first}");
    };
    put("/lake", b"");
    put("/lake/sets/table.csv", &table());
    let url = "s3://lake/sets/table.csv";
    assert_eq!(train(folder, "fetched", url, &environment).hash(), wanted);
    let pinned = format!("{url}#sha256={}", sha256(&table()));
    assert_eq!(train(folder, "pinned", &pinned, &[]).hash(), wanted, "pinned, it needs no store");
    refused(&train(folder, "a", "s3://lake/none.csv", &environment), "there is nothing at this URL");
    drop(store);
    refused(
        &train(folder, "b", "s3://lake/sets/other.csv", &environment),
        "check AWS_ENDPOINT_URL, AWS_REGION and the network",
    );
}
