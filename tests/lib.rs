//! Helpers of the end-to-end tests: where files are, and how programs are run with a deadline.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Maximum duration of a program in these tests.
const DEADLINE: Duration = Duration::from_secs(300);

/// Returns the folder of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_path_buf()
}

/// Returns a file of the shared data sets; `None`, after printing a note, if it does not exist.
pub fn shared(path: &str) -> Option<PathBuf> {
    let file = root().parent()?.join("shared/data").join(path);
    if file.exists() {
        return Some(file);
    }
    println!("skipped: {} is not there", file.display());
    None
}

/// Returns third-party software that `tests/outside/install` has put into `target/outside`; `None`, after
/// printing a note, if it is not installed.
pub fn outside(path: &str) -> Option<PathBuf> {
    let file = root().join("target/outside").join(path);
    if file.exists() {
        return Some(file);
    }
    missing(&file.display().to_string());
    None
}

/// Returns a third-party program on the path; `None`, after printing a note, if it is not installed.
pub fn outside_program(name: &str) -> Option<Command> {
    if Command::new(name).arg("--help").output().is_ok() {
        return Some(Command::new(name));
    }
    missing(name);
    None
}

/// Fails if everything must be checked, otherwise prints a note.
fn missing(what: &str) {
    assert!(std::env::var_os("CI").is_none(), "{what} is not there: run tests/outside/install");
    println!("skipped: {what} is not there; tests/outside/install installs it");
}

/// Returns a command for one of our programs, built next to the running test.
pub fn program(name: &str) -> Command {
    let test = std::env::current_exe().expect("a test knows where it lies");
    let folder = test.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps");
    let path = folder.join(name).with_extension(std::env::consts::EXE_EXTENSION);
    assert!(path.exists(), "{} is not there: run `cargo test --workspace`, which builds it", path.display());
    let mut command = Command::new(path);
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// Returns the command `downhill` with `arguments`.
pub fn downhill<S: AsRef<OsStr>>(arguments: &[S]) -> Command {
    let mut command = program("downhill");
    command.args(arguments);
    command
}

/// The output of a program and how it ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit status.
    pub status: ExitStatus,
    /// The complete standard output.
    pub stdout: String,
    /// The complete standard error.
    pub stderr: String,
}

impl Ended {
    /// Returns the hash in the last line of a successful run.
    pub fn hash(&self) -> String {
        assert!(self.status.success(), "{self}");
        let last = self.stdout.lines().last().unwrap_or_default();
        let hash =
            last.strip_prefix("weights sha256 ").unwrap_or_else(|| panic!("no hash in {last:?}\n{self}"));
        assert_eq!(hash.len(), 64, "{last}");
        hash.to_string()
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n--- stdout\n{}\n--- stderr\n{}", self.status, self.stdout, self.stderr)
    }
}

/// A running program whose output is being read.
pub struct Running {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    since: Instant,
    seen: String,
    seen_log: String,
}

impl Running {
    /// Starts `command` and reads its output in the background.
    pub fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let stdout = lines(child.stdout.take().expect("it is piped"));
        let stderr = lines(child.stderr.take().expect("it is piped"));
        Running { child, stdout, stderr, since: Instant::now(), seen: String::new(), seen_log: String::new() }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line on standard output that `wanted` accepts.
    pub fn line(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        loop {
            match self.stdout.recv_timeout(DEADLINE.saturating_sub(self.since.elapsed())) {
                Ok(line) => {
                    self.seen += &format!("{line}\n");
                    if wanted(&line) {
                        return line;
                    }
                }
                Err(error) => {
                    let ended = self.finish();
                    panic!("no such line ({error})\n{ended}");
                }
            }
        }
    }

    /// Returns the address on which a server without certificates says that it listens.
    pub fn listens(&mut self) -> String {
        let listening = "listening on http://";
        self.line(|line| line.starts_with(listening)).trim_start_matches(listening).to_owned()
    }

    /// Waits for a line on standard error that `wanted` accepts.
    pub fn log_line(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        loop {
            match self.stderr.recv_timeout(DEADLINE.saturating_sub(self.since.elapsed())) {
                Ok(line) => {
                    self.seen_log += &format!("{line}\n");
                    if wanted(&line) {
                        return line;
                    }
                }
                Err(error) => {
                    let ended = self.finish();
                    panic!("no such line on stderr ({error})\n{ended}");
                }
            }
        }
    }

    /// Asks the program to exit, with SIGTERM.
    pub fn terminate(&self) {
        let asked = Command::new("kill").args(["-TERM", &self.id().to_string()]).status();
        assert!(asked.is_ok_and(|status| status.success()), "process {} cannot be asked to end", self.id());
    }

    /// Kills the program with SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// Waits for up to `time`. Returns whether the program has ended.
    pub fn ends_within(&mut self, time: Duration) -> bool {
        match self.stdout.recv_timeout(time) {
            Ok(line) => {
                self.seen += &format!("{line}\n");
                false
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        }
    }

    /// Waits for the end of the program, and kills it at the deadline.
    pub fn finish(&mut self) -> Ended {
        let mut late = false;
        let mut read = |lines: &Receiver<String>, child: &mut Child| {
            let mut text = String::new();
            loop {
                match lines.recv_timeout(DEADLINE.saturating_sub(self.since.elapsed())) {
                    Ok(line) => text += &format!("{line}\n"),
                    Err(RecvTimeoutError::Disconnected) => return text,
                    Err(RecvTimeoutError::Timeout) if late => return text,
                    Err(RecvTimeoutError::Timeout) => {
                        late = true;
                        let _ = child.kill();
                    }
                }
            }
        };
        let stdout = read(&self.stdout, &mut self.child);
        let stderr = read(&self.stderr, &mut self.child);
        let status = self.child.wait().expect("it was started here");
        let stdout = std::mem::take(&mut self.seen) + &stdout;
        let ended = Ended { status, stdout, stderr: std::mem::take(&mut self.seen_log) + &stderr };
        assert!(!late, "not done after {DEADLINE:?}\n{ended}");
        ended
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let status = self.child.wait();
        // If a test fails, the output of its programs usually shows why.
        if std::thread::panicking()
            && let Ok(status) = status
        {
            let stdout = std::mem::take(&mut self.seen) + &rest(&self.stdout);
            let stderr = std::mem::take(&mut self.seen_log) + &rest(&self.stderr);
            println!("{}", Ended { status, stdout, stderr });
        }
    }
}

/// Runs `command` until it ends.
pub fn run(command: &mut Command) -> Ended {
    Running::start(command).finish()
}

/// Returns the processes with a program's name that the process `parent` has started; only on Linux.
pub fn children(parent: u32, name: &str) -> Vec<u32> {
    let children =
        std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    let is_named = |id: &u32| {
        std::fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|found| found.trim() == name)
    };
    children.split_whitespace().filter_map(|id| id.parse().ok()).filter(is_named).collect()
}

/// Returns the remaining lines of a program that was killed.
fn rest(lines: &Receiver<String>) -> String {
    let mut text = String::new();
    while let Ok(line) = lines.recv_timeout(Duration::from_secs(1)) {
        text += &format!("{line}\n");
    }
    text
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}
