//! `downhill verify`: demonstrates that disturbing the processes of a run does not change a bit of its
//! result.

mod cluster;

use crate::child_process;
use crate::failure::Failure;
use crate::output;
use cluster::{Cluster, Disturbance};
use ps_plan::seed::{Purpose, Stream};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Kill the processes of a run at random and compare its weights
///
/// Trains once in one process. Then trains the same run with servers and workers that are killed (SIGKILL),
/// paused (SIGSTOP and SIGCONT) and terminated (SIGTERM) at random, and restarted. Prints the signals and the
/// hashes of the weights, and exits with 0 if they are the same. This takes less than two minutes.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Run file [default: a small network on built-in digits]
    #[arg(value_name = "RUN.toml")]
    run: Option<PathBuf>,

    /// Number of worker processes
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,

    /// Number of server processes, which share the weights
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=16))]
    shards: u16,

    /// Number of signals to send
    ///
    /// If the run ends before that, it is started again from the beginning.
    #[arg(long, value_name = "N", default_value_t = 40)]
    signals: u32,

    /// Send signals for this many minutes instead, run after run
    #[arg(long, value_name = "MINUTES", conflicts_with = "signals", value_parser = clap::value_parser!(u64).range(1..))]
    soak: Option<u64>,

    /// Longest pause between signals, in seconds [default: 0.4]
    ///
    /// With --soak, the default is 15.
    #[arg(long, value_name = "SECONDS", value_parser = pause)]
    pause: Option<f64>,

    /// Seed of the random signals [default: a new one, which is printed]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

const EXAMPLES: &str = "\
Examples:
  downhill verify
  downhill verify examples/digits.toml --workers 3 --signals 100
  downhill verify --soak 60";

/// A run of a few seconds, with steps of about 10 ms on one core, several chunks and momentum.
const RUN: &str = r#"
seed = 1
[data]
train = "digits:4096"
validation = 0.1
[model]
kind = "mlp"
hidden = [256, 256]
[train]
epochs = 12
batch = 128
leaf = 16
[optimizer]
momentum = 0.9
[learning_rate]
initial = 0.02
schedule = "cosine"
"#;

/// How often the state of the processes is checked.
const TICK: Duration = Duration::from_millis(2);
/// If a run takes longer than this after the last signal, it hangs.
const HANG_TIMEOUT: Duration = Duration::from_secs(600);

fn pause(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected a number of seconds from 0 to 3600".into()),
    }
}

/// Trains alone, trains with disturbances, and compares the results.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let programs =
        [child_process::sibling_program("ps-server")?, child_process::sibling_program("ps-worker")?];
    let folder = TempDir::with_prefix("downhill-verify-")
        .map_err(|error| Failure::Failed(format!("cannot create a temporary folder: {error}")))?;
    let run = match &arguments.run {
        Some(run) => run.clone(),
        None => {
            let path = folder.path().join("run.toml");
            let written = std::fs::write(&path, RUN);
            written.map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
            path
        }
    };
    let seed = arguments.seed.unwrap_or_else(|| RandomState::new().hash_one(std::process::id()) % 1_000_000);
    let started = Instant::now();
    let alone = train_alone(&run, folder.path())?;
    output::note(&format!("undisturbed run  {alone}  ({:.1} s)", started.elapsed().as_secs_f64()));
    output::note(&format!(
        "sending signals to {} workers and {} servers; --seed {seed} repeats their sequence",
        arguments.workers, arguments.shards
    ));
    let mut injector = FaultInjector::new(arguments, seed, started);
    let (mut rounds, mut all_equal) = (0, true);
    while !injector.is_over() {
        rounds += 1;
        let out = folder.path().join(format!("round-{rounds}"));
        let mut cluster = Cluster::start(&programs, &run, &out, arguments.workers, arguments.shards)?;
        let survived = injector.disturb(&mut cluster);
        let hash = match survived.and_then(|()| cluster.hash()) {
            Ok(hash) => hash,
            Err(failure) => {
                drop(cluster);
                let kept = folder.keep();
                return Err(Failure::Failed(format!(
                    "{failure} (seed {seed}); the logs of the processes are in {}",
                    kept.display()
                )));
            }
        };
        let verdict = if hash == alone { "the same" } else { "DIFFERENT WEIGHTS" };
        output::note(&format!("disturbed run {rounds}  {hash}  {verdict}"));
        all_equal &= hash == alone;
    }
    output::lines(&injector.report(rounds, &alone, all_equal))?;
    Ok(if all_equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the hash of the run in one process.
fn train_alone(run: &Path, folder: &Path) -> Result<String, Failure> {
    let ours = std::env::current_exe()
        .map_err(|error| Failure::Failed(format!("cannot determine the path of this program: {error}")))?;
    let flags = ["train".into(), run.into(), "--out".into(), folder.join("alone").into_os_string()];
    let flags: [OsString; 4] = flags;
    let output = std::process::Command::new(ours).args(flags).arg("--quiet").output();
    let output =
        output.map_err(|error| Failure::Failed(format!("cannot start the undisturbed run: {error}")))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    cluster::hash_of(stdout.lines().last().unwrap_or_default()).ok_or_else(|| {
        let problem = String::from_utf8_lossy(&output.stderr).trim().to_string();
        Failure::Failed(format!("the undisturbed run failed: {problem}"))
    })
}

/// The remaining disturbances, and the counts of past ones.
struct FaultInjector {
    random: Stream,
    pause: Duration,
    /// Number of signals that remain, unless `until` limits them by time.
    left: u32,
    until: Option<Instant>,
    started: Instant,
    next: Instant,
    done: BTreeMap<(Disturbance, String), u32>,
}

impl FaultInjector {
    fn new(arguments: &Arguments, seed: u64, started: Instant) -> Self {
        let minutes = arguments.soak.map(|minutes| Duration::from_secs(60 * minutes));
        let pause = arguments.pause.unwrap_or(if minutes.is_some() { 15.0 } else { 0.4 });
        FaultInjector {
            random: Stream::new(seed, Purpose::Simulation, 0),
            pause: Duration::from_secs_f64(pause),
            left: arguments.signals,
            until: minutes.map(|minutes| Instant::now() + minutes),
            started,
            next: Instant::now(),
            done: BTreeMap::new(),
        }
    }

    fn is_over(&self) -> bool {
        self.until.map_or(self.left == 0, |until| Instant::now() >= until)
    }

    /// Supervises a cluster until its run is done, and disturbs it while signals remain.
    fn disturb(&mut self, cluster: &mut Cluster) -> Result<(), Failure> {
        self.next = Instant::now() + self.random_pause();
        let mut last_disturbance = Instant::now();
        while cluster.supervise()? {
            let now = Instant::now();
            if now >= self.next && !self.is_over() {
                self.next = now + self.random_pause();
                last_disturbance = now;
                self.inject(cluster);
            }
            if now - last_disturbance > HANG_TIMEOUT {
                return Err(Failure::Failed(format!(
                    "the run did not finish within {} s after the last signal",
                    HANG_TIMEOUT.as_secs()
                )));
            }
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    fn random_pause(&mut self) -> Duration {
        self.pause.mul_f32(self.random.unit())
    }

    fn inject(&mut self, cluster: &mut Cluster) {
        let target = self.random.below(cluster.len() as u32) as usize;
        let disturbance = match self.random.below(4) {
            0 => Disturbance::Suspend(Duration::from_millis(u64::from(10 + self.random.below(400)))),
            1 => Disturbance::Terminate,
            _ => Disturbance::Kill,
        };
        let Some(name) = cluster.disturb(target, disturbance) else { return };
        self.left = self.left.saturating_sub(1);
        output::note(&format!("{:7.2} s  {disturbance} to {name}", self.started.elapsed().as_secs_f64()));
        let kind = name.split_whitespace().next().unwrap_or_default().to_owned();
        *self.done.entry((disturbance.kind(), kind)).or_default() += 1;
    }

    fn report(&self, rounds: u32, alone: &str, all_equal: bool) -> Vec<String> {
        let total: u32 = self.done.values().sum();
        let mut lines = vec![format!("{total} signals in {rounds} runs:")];
        lines.extend(
            self.done
                .iter()
                .map(|((disturbance, whom), count)| format!("{count:6}  {disturbance} to a {whom}")),
        );
        lines.push(match all_equal {
            true => "every disturbed run has the weights of the undisturbed run".into(),
            false => "NOT every disturbed run has the weights of the undisturbed run".into(),
        });
        lines.push(format!("weights sha256 {alone}"));
        lines
    }
}
