//! A server and two workers on separate machines, as far as Linux can emulate them: network namespaces whose
//! cables are pulled, slow, or lose packets. The weights must be those of an undisturbed run.
//!
//! If namespaces are not permitted, the tests print a note and check nothing. The same holds for other tools
//! that are missing.

#![cfg(target_os = "linux")]
mod network;

use downhill_tests::{Running, downhill, program, run};
use network::Machine;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// A model of 200 kB, which is sent to each worker and back in every step. A step takes a few milliseconds.
const RUN: &str = r#"
[data]
train = "digits:2048"
[model]
kind = "mlp"
hidden = [64]
[train]
epochs = EPOCHS
batch = 128
leaf = 16
[optimizer]
momentum = 0.9
[learning_rate]
initial = 0.05
"#;

/// A run on three machines. Cable `w0` connects the server's machine to the first worker's; its other end is
/// called `server`.
struct Cluster {
    folder: tempfile::TempDir,
    wanted: String,
    machines: Vec<Machine>,
    server: Running,
    workers: Vec<Running>,
}

impl Cluster {
    /// Starts a run of this number of epochs and waits until both workers take part. Returns `None` and
    /// prints a note if the system does not permit such machines.
    fn start(epochs: u32) -> Option<Self> {
        let machines = match Machine::several(3).and_then(connect) {
            Ok(machines) => machines,
            Err(problem) => {
                println!("skipped: no network namespaces here: {problem}");
                return None;
            }
        };
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("run.toml"), RUN.replace("EPOCHS", &epochs.to_string())).unwrap();
        // Workers on other machines connect to the server, which therefore requires a token.
        fs::write(path("token"), "0123456789abcdef0123456789abcdef\n").unwrap();
        let mut train = downhill(&["train"]);
        let wanted = run(train.arg(path("run.toml")).arg("--out").arg(path("alone"))).hash();

        let mut server = program("ps-server");
        server.arg(path("run.toml")).arg("--out").arg(path("run")).arg("--token-file").arg(path("token"));
        server.args(["--listen", "0.0.0.0:0", "--min-workers", "2", "--worker-timeout", "1"]);
        server.args(["--checkpoint-every", "5"]);
        let mut server = Running::start(&mut machines[0].runs(&server));
        let line = server.line(|line| line.starts_with("listening on "));
        let (_, port) = line.rsplit_once(':').unwrap_or_else(|| panic!("no port in {line}"));
        let worker = |(index, machine): (usize, &Machine)| {
            let mut worker = program("ps-worker");
            worker.args(["--threads", "1", "--connect-timeout", "60", "--name", &format!("machine-{index}")]);
            worker.args(["--server", &format!("10.77.{index}.1:{port}")]);
            worker.arg("--token-file").arg(path("token"));
            Running::start(&mut machine.runs(&worker))
        };
        let workers = machines[1..].iter().enumerate().map(worker).collect();
        let mut cluster = Cluster { folder, wanted, machines, server, workers };
        cluster.admitted();
        Some(cluster)
    }

    fn admitted(&mut self) {
        for worker in &mut self.workers {
            worker.log_line(|line| line.contains("admitted"));
        }
    }

    fn saved(&self) -> u64 {
        let folder: PathBuf = self.folder.path().join("run/checkpoints");
        let Ok(entries) = fs::read_dir(folder) else { return 0 };
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let steps = entries.filter_map(|entry| name(entry.ok()?).strip_prefix("step-")?.parse().ok());
        steps.max().unwrap_or(0)
    }

    /// Waits until the checkpoints show this number of further steps.
    fn make_steps(&mut self, count: u64) {
        let found = self.saved();
        self.until("steps", |cluster| cluster.saved() >= found + count);
    }

    fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            if self.server.ends_within(Duration::from_millis(5)) {
                panic!("the run is over: no more {what}\n{}", self.server.finish());
            }
        }
    }

    /// Waits for all processes, each of which must succeed.
    fn finish(mut self) {
        let server = self.server.finish();
        let mut all = server.to_string();
        let mut are_good = true;
        for worker in &mut self.workers {
            let ended = worker.finish();
            are_good &= ended.status.success() && ended.stderr.contains("training is done");
            all += &format!("\n{ended}");
        }
        assert_eq!(server.hash(), self.wanted, "{all}");
        assert!(are_good, "{all}");
    }
}

/// Connects the first machine to each of the others.
fn connect(machines: Vec<Machine>) -> Result<Vec<Machine>, String> {
    let server = &machines[0];
    for (index, worker) in machines[1..].iter().enumerate() {
        let cable = format!("w{index}");
        let id = worker.id();
        server.try_tool(&format!("ip link add {cable} type veth peer name server netns {id}"))?;
        for (machine, end, name) in [(server, 1, cable.as_str()), (worker, 2, "server")] {
            machine.try_tool(&format!("ip address add 10.77.{index}.{end}/24 dev {name}"))?;
            machine.try_tool(&format!("ip link set {name} up"))?;
        }
    }
    Ok(machines)
}

/// Returns the number after `name` in the output of a tool.
fn number_after(text: &str, name: &str) -> u64 {
    let after = text.split_once(name).map(|(_, after)| after.trim_start());
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
    after.and_then(|after| digits(after).parse().ok()).unwrap_or_else(|| panic!("no {name:?} in {text:?}"))
}

#[test]
fn cables_that_are_pulled_for_longer_than_the_worker_timeout_change_no_bit() {
    // Enough epochs for the run to be still in progress when the disconnected worker is back, even if the
    // others are fast.
    let Some(mut cluster) = Cluster::start(250) else { return };
    for _ in 0..2 {
        cluster.make_steps(20);
        // One cable is pulled at the server's end, the other one at the worker's end.
        cluster.machines[0].tool("ip link set w0 down");
        cluster.machines[2].tool("ip link set server down");
        for worker in &mut cluster.workers {
            worker.log_line(|line| line.contains("connection to the server lost"));
            cluster.server.log_line(|line| line.contains(" lost at step "));
        }
        cluster.machines[0].tool("ip link set w0 up");
        cluster.machines[2].tool("ip link set server up");
        cluster.admitted();
    }
    // With one worker disconnected, the other one continues.
    cluster.machines[0].tool("ip link set w1 down");
    cluster.server.log_line(|line| line.contains(" lost at step "));
    cluster.make_steps(10);
    cluster.machines[0].tool("ip link set w1 up");
    cluster.workers[1].log_line(|line| line.contains("admitted"));
    cluster.finish();
}

#[test]
fn a_slow_cable_changes_no_bit() {
    let Some(mut cluster) = Cluster::start(40) else { return };
    for (machine, cable) in [(0, "w0"), (1, "server")] {
        let slow = format!("tc qdisc add dev {cable} root tbf rate 50mbit burst 64kb latency 200ms");
        if let Err(problem) = cluster.machines[machine].try_tool(&slow) {
            println!("skipped: {problem}");
            continue;
        }
        let waited = |cluster: &Cluster| {
            let output = cluster.machines[machine].tool(&format!("tc -s qdisc show dev {cable}"));
            number_after(&output, "overlimits")
        };
        cluster.make_steps(20);
        cluster.until("packets that wait", |cluster| waited(cluster) > 0);
        println!("packets waited {} times", waited(&cluster));
    }
    // A worker whose cable is fast again does not, either.
    let _ = cluster.machines[0].try_tool("tc qdisc del dev w0 root");
    let _ = cluster.machines[1].try_tool("tc qdisc del dev server root");
    cluster.finish();
}

/// A way to lose a tenth of the packets to and from the server.
struct Loss {
    tool: &'static str,
    begin: &'static [&'static str],
    /// How to count lost packets: the command, the word before the number, and a word that marks the line.
    count: [&'static str; 3],
    end: &'static str,
}

const LOSSES: [Loss; 3] = [
    Loss {
        tool: "nftables",
        begin: &[
            "nft add table ip faults",
            "nft add chain ip faults in { type filter hook input priority 0 ; }",
            "nft add rule ip faults in numgen random mod 100 < 10 counter drop",
        ],
        count: ["nft list table ip faults", "counter packets", "numgen"],
        end: "nft delete table ip faults",
    },
    Loss {
        tool: "iptables",
        begin: &["iptables -A INPUT -m statistic --mode random --probability 0.1 -j DROP"],
        count: ["iptables -nvxL INPUT", "", "statistic"],
        end: "iptables -F INPUT",
    },
    Loss {
        tool: "tc netem",
        begin: &["tc qdisc add dev w0 root netem loss 10%"],
        count: ["tc -s qdisc show dev w0", "dropped", "dropped"],
        end: "tc qdisc del dev w0 root",
    },
];

#[test]
fn lost_packets_change_no_bit() {
    let Some(mut cluster) = Cluster::start(40) else { return };
    for Loss { tool, begin, count: [arguments, word, sign], end } in &LOSSES {
        let begun = begin.iter().try_for_each(|line| cluster.machines[0].try_tool(line).map(drop));
        if let Err(problem) = begun {
            println!("skipped {tool}: {problem}");
            // Some of the commands may have succeeded, and what they set must not affect the next tool.
            let _ = cluster.machines[0].try_tool(end);
            continue;
        }
        let lost = |cluster: &Cluster| {
            let output = cluster.machines[0].tool(arguments);
            let line = output.lines().find(|line| line.contains(sign));
            number_after(line.unwrap_or_else(|| panic!("no {sign} in {output}")), word)
        };
        cluster.make_steps(15);
        cluster.until("lost packets", |cluster| lost(cluster) > 0);
        println!("{tool}: {} packets lost", lost(&cluster));
        cluster.machines[0].tool(end);
    }
    cluster.finish();
}
