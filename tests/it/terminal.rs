//! Output on a terminal: every line fits, log lines and the bar do not mix, and a stopped run says how to
//! resume it.
#![cfg(unix)]

use downhill_tests::{program, run};
use nix::pty::{Winsize, openpty};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Maximum time without output while a test waits for some.
const PATIENCE: Duration = Duration::from_secs(120);

/// Writes a run file of `epochs` epochs and returns its path.
fn run_file(folder: &Path, epochs: u32) -> PathBuf {
    let path = folder.join("run.toml");
    let text = format!(
        "[data]\ntrain = \"digits:600\"\nvalidation = 0.2\n[model]\nkind = \"mlp\"\nhidden = [64]\n\
         [train]\nepochs = {epochs}\nbatch = 32\nleaf = 8\n[learning_rate]\ninitial = 0.01\n"
    );
    fs::write(&path, text).unwrap();
    path
}

const ENDLESS: u32 = 4_000_000;

/// A program on its own pseudo-terminal.
struct Terminal {
    child: Child,
    output: Receiver<Vec<u8>>,
    /// All output so far.
    text: String,
}

impl Terminal {
    fn start(command: &mut Command, columns: u16) -> Self {
        let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        command.stdin(end()).stdout(end()).stderr(end()).env("TERM", "xterm").env_remove("DOWNHILL_LOG");
        let child = command.spawn().unwrap();
        // If we kept the slave end open, reading would not end with the program.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        drop(pty.slave);
        let (sender, output) = channel();
        let mut master = File::from(pty.master);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = master.read(&mut buffer) {
                let _ = sender.send(buffer[..read].to_vec());
            }
        });
        Terminal { child, output, text: String::new() }
    }

    /// Waits until `is_there` accepts the output so far.
    fn wait(&mut self, is_there: impl Fn(&str) -> bool) {
        let mut bytes = std::mem::take(&mut self.text).into_bytes();
        while !is_there(&String::from_utf8_lossy(&bytes)) {
            let more = self.output.recv_timeout(PATIENCE);
            let text = || String::from_utf8_lossy(&bytes).into_owned();
            bytes.extend(more.unwrap_or_else(|error| panic!("{error}: {}", text())));
        }
        self.text = String::from_utf8_lossy(&bytes).into_owned();
    }

    /// Asks the program to stop, as Ctrl-C does.
    fn interrupt(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    }

    /// Returns how the program ended, and the lines that remain on the terminal.
    fn finish(mut self) -> (ExitStatus, Vec<String>) {
        let mut bytes = self.text.into_bytes();
        while let Ok(more) = self.output.recv_timeout(PATIENCE) {
            bytes.extend(more);
        }
        let text = String::from_utf8(bytes).unwrap();
        let lines = text.lines().map(|line| plain(line.rsplit(CLEAR).next().unwrap_or(line)));
        (self.child.wait().unwrap(), lines.collect())
    }
}

/// The escape sequence that removes the bar.
const CLEAR: &str = "\r\x1b[2K";
/// The characters of a bar.
const BAR: [char; 2] = ['━', '─'];

/// Removes colors from a line.
fn plain(line: &str) -> String {
    let mut pieces = line.trim_end_matches('\r').split("\x1b[");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |text, piece| text + piece.split_once('m').map_or(piece, |(_, rest)| rest))
}

/// Asserts that no line contains a part of a bar, which would mean that the line was written into it.
fn assert_whole(lines: &[String]) {
    for line in lines {
        assert!(!line.contains(BAR), "a torn line: {line:?} of {lines:#?}");
    }
}

/// Returns the command in `lines` that resumes the run.
fn resuming(lines: &[String]) -> &str {
    let commands: Vec<&str> = lines
        .iter()
        .zip(&lines[1..])
        .filter(|(line, _)| *line == "to resume this run:")
        .map(|(_, next)| next.trim())
        .collect();
    assert_eq!(commands.len(), 1, "{lines:#?}");
    commands[0]
}

#[test]
fn lines_fit_terminals_of_sixty_and_eighty_columns() {
    let dir = tempfile::tempdir().unwrap();
    let file = run_file(dir.path(), 3);
    for columns in [60, 80] {
        for command in ["train", "launch"] {
            let mut downhill = program("downhill");
            downhill
                .arg(command)
                .arg(&file)
                .arg("--out")
                .arg(dir.path().join(format!("{command}-{columns}")));
            let (status, lines) = Terminal::start(&mut downhill, columns).finish();
            assert!(status.success(), "{lines:#?}");
            assert_whole(&lines);
            let epochs: Vec<&String> = lines.iter().filter(|line| line.starts_with("epoch ")).collect();
            assert_eq!(epochs.len(), 3, "{lines:#?}");
            for line in epochs {
                assert!(line.contains(" val"), "{line}");
                assert!(line.chars().count() <= columns.into(), "{columns}: {line}");
            }
        }
        let listed = Terminal::start(program("downhill").arg("runs").arg(dir.path()), columns).finish();
        assert!(listed.1.len() >= 3, "{listed:?}");
        for line in listed.1 {
            assert!(line.chars().count() <= columns.into(), "{columns}: {line}");
        }
    }
}

#[test]
fn a_pipe_gets_complete_lines() {
    let dir = tempfile::tempdir().unwrap();
    let file = run_file(dir.path(), 3);
    let out =
        dir.path().join("a-folder-with-a-name-that-is-longer-than-any-terminal-should-have-to-show-in-full");
    let ended = run(program("downhill").arg("train").arg(&file).arg("--out").arg(&out));
    let epochs: Vec<&str> = ended.stderr.lines().filter(|line| line.starts_with("epoch ")).collect();
    assert_eq!(epochs.len(), 3, "{ended}");
    for line in epochs {
        let has = |part: &str| line.contains(part);
        assert!(has("  accuracy ") && has("  validation loss ") && has(" samples/s  "), "{line}");
    }
    assert!(!ended.stderr.contains(BAR) && !ended.stderr.contains('\x1b'), "{ended}");
    let listed = run(program("downhill").arg("runs").arg(dir.path()));
    assert!(listed.stdout.contains(&out.display().to_string()), "{listed}");
}

#[test]
fn log_lines_and_progress_bar_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let file = run_file(dir.path(), ENDLESS);
    let address = format!("unix:{}", dir.path().join("socket").display());
    let mut command = program("ps-server");
    command.arg(&file).args(["--listen", &address, "--out"]).arg(dir.path().join("out"));
    let mut server = Terminal::start(&mut command, 80);
    let worker = |name: &str| {
        let mut command = program("ps-worker");
        command.args(["--threads", "1", "--name", name, "--server", &address]);
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    let mut workers = vec![worker("first")];
    // This waits for the bar of the run, not that of reading the data, so that the log lines that follow meet
    // a bar on the terminal.
    server.wait(|text| text.rsplit_once("worker admitted").is_some_and(|(_, since)| since.contains(BAR)));
    for name in ["second", "third", "fourth"] {
        workers.push(worker(name));
        server.wait(|text| text.contains(name));
    }
    server.interrupt();
    let (status, lines) = server.finish();
    assert_eq!(status.code(), Some(130), "{lines:#?}");
    assert_whole(&lines);
    let admitted = lines.iter().filter(|line| line.contains("worker admitted")).count();
    assert_eq!(admitted, 4, "{lines:#?}");
    let command = resuming(&lines);
    assert!(command.contains("ps-server") && command.contains("--out"), "{command}");
    // The workers would wait for the next server.
    workers.iter_mut().for_each(|worker| drop(worker.kill().and_then(|()| worker.wait())));
}

#[test]
fn a_stopped_launch_prints_how_to_resume_it() {
    let dir = tempfile::tempdir().unwrap();
    run_file(dir.path(), ENDLESS);
    let mut command = program("downhill");
    command.current_dir(dir.path()).args(["launch", "run.toml", "--set", "data.train=digits:500"]);
    let mut launch = Terminal::start(&mut command, 80);
    launch.wait(|text| text.contains(BAR));
    launch.interrupt();
    let (status, lines) = launch.finish();
    assert_eq!(status.code(), Some(130), "{lines:#?}");
    assert_whole(&lines);
    let command = resuming(&lines);
    let wanted = "downhill launch run.toml --set data.train=digits:500 --out runs/run-1";
    assert!(command.ends_with(wanted), "{command}");
    // The same command resumes the run.
    let mut shell = Command::new("sh");
    let mut again =
        Terminal::start(shell.args(["-c", &format!("exec {command}")]).current_dir(dir.path()), 80);
    again.wait(|text| text.contains("resuming after "));
    again.interrupt();
    let (_, lines) = again.finish();
    assert_eq!(resuming(&lines), command);
}
