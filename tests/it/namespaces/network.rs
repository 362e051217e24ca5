//! Network namespaces: machines connected by cables, as far as TCP can tell, which are removed with the
//! process that created them.

use downhill_tests::root;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Output, Stdio};

/// A network namespace. It is kept alive by a process that reads from a pipe of ours, so that the namespace
/// and its links disappear however this process ends.
pub(super) struct Machine {
    holder: Child,
    _pipe: ChildStdin,
    /// The process whose user namespace it belongs to, if that is not ours.
    user: Option<u32>,
}

impl Machine {
    /// Creates a namespace with the command `entrance`, which ends in `unshare` and its flags.
    fn new(entrance: &[&str], user: Option<u32>) -> Result<Self, String> {
        let mut command = Command::new(entrance[0]);
        command.args(&entrance[1..]).args(["sh", "-c", "echo made; exec cat"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |what: &dyn std::fmt::Display| format!("{}: {what}", entrance.join(" "));
        let mut holder = command.spawn().map_err(|error| failed(&error))?;
        let pipe = holder.stdin.take().expect("it is piped");
        let mut said = String::new();
        // No command can enter the namespace before the shell runs in it.
        let read = BufReader::new(holder.stdout.take().expect("it is piped")).read_line(&mut said);
        if read.is_err() || said != "made\n" {
            drop(pipe);
            let ended = holder.wait_with_output().map_err(|error| failed(&error))?;
            return Err(failed(&String::from_utf8_lossy(&ended.stderr).trim()));
        }
        Ok(Machine { holder, _pipe: pipe, user })
    }

    /// Creates `count` machines without connections. Without root privileges, they are created in a user
    /// namespace. The error says why that is not possible.
    pub(super) fn several(count: usize) -> Result<Vec<Self>, String> {
        let as_root: Result<Vec<Self>, String> =
            (0..count).map(|_| Machine::new(&["unshare", "-n"], None)).collect();
        let refused = match as_root {
            Ok(machines) => return Ok(machines),
            Err(refused) => refused,
        };
        println!("not as root ({refused}): in a user namespace");
        let mut first = Machine::new(&["unshare", "-Urn"], None)?;
        let user = first.holder.id();
        first.user = Some(user);
        let mut machines = vec![first];
        let target = user.to_string();
        let entrance = ["nsenter", "-t", &target, "-U", "--preserve-credentials", "unshare", "-n"];
        for _ in 1..count {
            machines.push(Machine::new(&entrance, Some(user))?);
        }
        Ok(machines)
    }

    /// Returns the name of the namespace in commands that create links.
    pub(super) fn id(&self) -> String {
        self.holder.id().to_string()
    }

    /// Returns a command that runs a program on this machine. Its process id is that of the program.
    pub(super) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.id()]);
        if self.user.is_some() {
            command.args(["-U", "--preserve-credentials"]);
        }
        command.args(["-n", "--"]).arg(program).current_dir(root()).stdin(Stdio::null());
        command
    }

    /// Returns `command`, one of our programs, as a command on this machine.
    pub(super) fn runs(&self, command: &Command) -> Command {
        let mut here = self.command(command.get_program());
        here.args(command.get_args());
        here
    }

    /// Runs `line`, words separated by spaces, and returns its output. The error is its standard error.
    pub(super) fn try_tool(&self, line: &str) -> Result<String, String> {
        let mut words = line.split(' ');
        let mut command = self.command(words.next().unwrap_or_default());
        let Output { status, stdout, stderr } =
            command.args(words).output().map_err(|error| format!("nsenter: {error}"))?;
        match status.success() {
            true => Ok(String::from_utf8_lossy(&stdout).into_owned()),
            false => Err(format!("{line}: {status}: {}", String::from_utf8_lossy(&stderr).trim())),
        }
    }

    /// Like [`Machine::try_tool`], but panics on errors.
    pub(super) fn tool(&self, line: &str) -> String {
        self.try_tool(line).unwrap_or_else(|problem| panic!("{problem}"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
