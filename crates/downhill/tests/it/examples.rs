//! The programs in `examples/`, run as their users would.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Cargo builds examples before tests, into the folder beside that of the test.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let programs = test.parent().and_then(Path::parent).unwrap().join("examples");
    Command::new(programs.join(name).with_extension(std::env::consts::EXE_EXTENSION))
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

#[test]
fn a_model_of_arrays_predicts_what_it_learned() {
    let text = output(&mut example("arrays"));
    let prices: Vec<(f64, f64)> = text
        .lines()
        .filter_map(|line| {
            let (price, expected) = line.strip_prefix("predicted ")?.split_once(", expected ")?;
            Some((price.parse().ok()?, expected.parse().ok()?))
        })
        .collect();
    assert_eq!(prices.len(), 2, "{text}");
    assert!(prices.iter().all(|(price, expected)| (price - expected).abs() < 5.0), "{text}");
}

#[test]
fn a_run_file_is_trained_for_the_requested_number_of_epochs() {
    let file = repository().join("examples/digits.toml");
    let text = output(example("run_file").arg(file).arg("1"));
    assert!(text.starts_with("trained ") && text.contains("\nweights sha256 "), "{text}");
}

#[test]
fn an_observer_stops_a_run_that_is_good_enough() {
    let text = output(&mut example("observer"));
    let last = text.lines().last().unwrap();
    let steps: Vec<u64> = last.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(steps.len() == 2 && steps[0] < steps[1], "{text}");
}

/// A server that is stopped when the test ends.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_web_handler_answers_with_classes_and_refuses_other_features() {
    if !repository().join("../shared/data/iris").exists() {
        println!("skipped: ../shared/data is not there");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let trained = downhill::Run::from_file(repository().join("examples/iris.toml")).unwrap();
    trained.set("train.epochs", 30).out(&out).train().unwrap();
    let child = example("web_handler").arg(&out).arg("127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
    let mut server = Server(child);
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap();
    let post = |body: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(
            stream,
            "POST /predict HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = post(r#"{"rows": [[5.1, 3.5, 1.4, 0.2], [6.5, 3.0, 5.8, 2.2]]}"#);
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains(r#""classes":["setosa","virginica"]"#),
        "{answer}"
    );
    let answer = post(r#"{"rows": [[5.1, 3.5]]}"#);
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.ends_with("each row must have 4 features"),
        "{answer}"
    );
}
