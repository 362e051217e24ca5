//! Child processes of the command line, whose output lines are labelled.

use crate::failure::Failure;
use ps_run::Relay;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

/// A child process, which is killed when this is dropped.
pub(crate) struct ChildProcess {
    process: process::Child,
    readers: Vec<JoinHandle<()>>,
}

/// Receives the lines that a child writes.
pub(crate) type Sink = Box<dyn FnMut(&str) + Send>;

impl ChildProcess {
    /// Starts `program`. `stdout` and `stderr` receive its lines.
    pub(crate) fn start(
        program: &Path,
        arguments: &[OsString],
        stdout: Sink,
        stderr: Sink,
    ) -> Result<Self, Failure> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A child in its own process group does not receive the terminal's Ctrl-C, so that we can end it in
        // order.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = command
            .spawn()
            .map_err(|error| Failure::Failed(format!("cannot start {}: {error}", program.display())))?;
        let mut readers = Vec::new();
        if let Some(pipe) = process.stdout.take() {
            readers.push(std::thread::spawn(move || read_lines(pipe, stdout)));
        }
        if let Some(pipe) = process.stderr.take() {
            readers.push(std::thread::spawn(move || read_lines(pipe, stderr)));
        }
        Ok(ChildProcess { process, readers })
    }

    /// Returns how the process ended, once it has ended and all its output was passed on.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>, Failure> {
        let status = self.process.try_wait().map_err(|error| {
            Failure::Failed(format!("cannot watch process {}: {error}", self.process.id()))
        })?;
        if status.is_some() {
            // All output is passed on before the end is reported, so that a caller finds the last line in its
            // sink.
            for reader in self.readers.drain(..) {
                let _ = reader.join();
            }
        }
        Ok(status)
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Asks the process to finish its current work and exit.
    pub(crate) fn terminate(&mut self) {
        #[cfg(unix)]
        {
            use nix::sys::signal::{Signal, kill};
            use nix::unistd::Pid;
            // The process has not been waited for, so its id cannot belong to another process.
            if kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM).is_ok() {
                return;
            }
        }
        self.kill();
    }

    /// Suspends the process (SIGSTOP).
    #[cfg(unix)]
    pub(crate) fn suspend(&self) {
        self.signal(nix::sys::signal::Signal::SIGSTOP);
    }

    /// Resumes the process (SIGCONT).
    #[cfg(unix)]
    pub(crate) fn resume(&self) {
        self.signal(nix::sys::signal::Signal::SIGCONT);
    }

    #[cfg(unix)]
    fn signal(&self, signal: nix::sys::signal::Signal) {
        // The process has not been waited for, so its id cannot belong to another process. An error means
        // that it has already ended.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.process.id() as i32), signal);
    }

    /// Kills the process (SIGKILL).
    pub(crate) fn kill(&mut self) {
        // An error means that the process has already ended.
        let _ = self.process.kill();
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        self.kill();
        let _ = self.process.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

/// Passes lines to `sink` until the pipe is closed. Lines need not be valid UTF-8.
fn read_lines(pipe: impl Read, mut sink: Sink) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line);
        sink(text.trim_end_matches(['\n', '\r']));
        line.clear();
    }
}

/// Returns a sink that shows each line after `label`.
pub(crate) fn labelled(label: String, screen: Arc<Relay>) -> Sink {
    Box::new(move |line| screen.print(&format!("{label}{line}")))
}

/// Returns a sink for a process that writes JSON: shows progress like our own, other lines after `label`.
pub(crate) fn relayed(label: String, screen: Arc<Relay>) -> Sink {
    Box::new(move |line| {
        if !screen.take(line) {
            screen.print(&format!("{label}{}", log_line(line)));
        }
    })
}

/// Formats a log line in JSON for people; other lines are unchanged.
fn log_line(json: &str) -> String {
    let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(json) else { return json.to_string() };
    let plain = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    let is_warning = fields.get("kind").is_some_and(|kind| kind == "warning");
    let mut text = String::from(if is_warning { "warning: " } else { "" });
    for key in ["level", "message", "text"] {
        text += &fields.get(key).map_or_else(String::new, |value| plain(value) + " ");
    }
    let known = ["timestamp", "level", "message", "text", "target", "kind", "span", "spans"];
    for (key, value) in fields.iter().filter(|(key, _)| !known.contains(&key.as_str())) {
        text += &format!("{key}={} ", plain(value));
    }
    text.trim_end().to_string()
}

/// Describes how a process ended.
pub(crate) fn describe(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(number) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let name = nix::sys::signal::Signal::try_from(number);
        return name.map_or_else(
            |_| format!("was killed by signal {number}"),
            |name| format!("was killed by {name}"),
        );
    }
    status.code().map_or_else(|| "ended".into(), |code| format!("exited with code {code}"))
}

/// Returns the path of the program `name` in the folder of this one.
pub(crate) fn sibling_program(name: &str) -> Result<PathBuf, Failure> {
    let ours = std::env::current_exe()
        .map_err(|error| Failure::Failed(format!("cannot determine the path of this program: {error}")))?;
    let path = ours.with_file_name(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if path.is_file() {
        return Ok(path);
    }
    let release = if ours.components().any(|part| part.as_os_str() == "debug") { "" } else { " --release" };
    Err(Failure::Failed(format!(
        "{} does not exist: ps-server and ps-worker must be in the same folder as downhill; build them with \
         `cargo build{release} -p ps-server -p ps-worker`",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_log_lines_are_formatted_as_text() {
        let json = r#"{"timestamp":"t","level":"INFO","message":"worker admitted","worker":"w0","n":2,"target":"x"}"#;
        assert_eq!(log_line(json), "INFO worker admitted n=2 worker=w0");
        assert_eq!(log_line(r#"{"kind":"warning","text":"no checkpoint"}"#), "warning: no checkpoint");
        assert_eq!(log_line("thread main panicked"), "thread main panicked");
    }
}
