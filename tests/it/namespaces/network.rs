//! Network namespaces: machines with cables between them, as far as TCP can tell, that vanish with whoever made them.

use downhill_tests::root;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Output, Stdio};

/// A network namespace. A process that reads a pipe of ours keeps it alive, so that it goes with us however we end, and
/// with it its links.
pub(super) struct Machine {
    holder: Child,
    _pipe: ChildStdin,
    /// Whose user namespace it belongs to, if not to the one that we are in.
    user: Option<u32>,
}

impl Machine {
    /// Through `entrance`, which ends in `unshare` with its flags.
    fn new(entrance: &[&str], user: Option<u32>) -> Result<Self, String> {
        let mut command = Command::new(entrance[0]);
        command.args(&entrance[1..]).args(["sh", "-c", "echo made; exec cat"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |what: &dyn std::fmt::Display| format!("{}: {what}", entrance.join(" "));
        let mut holder = command.spawn().map_err(|error| failed(&error))?;
        let pipe = holder.stdin.take().expect("it is piped");
        let mut said = String::new();
        let read = BufReader::new(holder.stdout.take().expect("it is piped")).read_line(&mut said);
        if read.is_err() || said != "made\n" {
            drop(pipe);
            let ended = holder.wait_with_output().map_err(|error| failed(&error))?;
            return Err(failed(&String::from_utf8_lossy(&ended.stderr).trim()));
        }
        Ok(Machine { holder, _pipe: pipe, user })
    }

    /// So many that are not connected. Without the rights of root they are made in a user namespace; why there are none
    /// otherwise.
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

    /// What a link names it by.
    pub(super) fn id(&self) -> String {
        self.holder.id().to_string()
    }

    /// A program on this machine; its process is that of the program.
    pub(super) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.id()]);
        if self.user.is_some() {
            command.args(["-U", "--preserve-credentials"]);
        }
        command.args(["-n", "--"]).arg(program).current_dir(root()).stdin(Stdio::null());
        command
    }

    /// `command`, a program of ours, on this machine.
    pub(super) fn runs(&self, command: &Command) -> Command {
        let mut here = self.command(command.get_program());
        here.args(command.get_args());
        here
    }

    /// What `line`, words with spaces between, has printed; what went wrong otherwise.
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

    /// The same of what must succeed.
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
