//! `downhill simulate`: predicts the speed of a run with other numbers of workers and shards, and other
//! links.

mod units;

use crate::failure::Failure;
use crate::output;
use ps_config::{DataArgs, LogArgs, RunArgs};
use ps_core::Precision;
use ps_run::{DataProgress, Job, Style, grouped};
use ps_scale::{Cluster, Costs, CostsError, Link, Placement, Stragglers, Sweep, WeightHolders};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Predict the speed of a run with different numbers of workers
///
/// Measures the costs of a step on this machine (gradients of the run's model, summation, sending, waking)
/// and simulates rounds with them. Each worker and server is assumed to be a machine like this one, with its
/// own network link.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{DETAILS}"))]
pub(crate) struct Arguments {
    #[command(flatten)]
    run: RunArgs,

    /// Numbers of workers
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "1,2,4,8,16,32,64",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    workers: Vec<u32>,

    /// Shard the weights over S servers, or over the workers
    ///
    /// With 'colocated', each worker also holds a shard.
    #[arg(long, value_name = "S|colocated", default_value = "1", value_parser = shards)]
    shards: Shards,

    /// Print one JSON object per line instead of a table
    #[arg(long)]
    json: bool,

    /// Bandwidth of each machine's link, in each direction [default: 10Gbit]
    ///
    /// With --together, the default is no limit.
    #[arg(long, value_name = "RATE", value_parser = units::bandwidth, help_heading = "Cluster")]
    bandwidth: Option<f64>,

    /// Latency of a message between two machines [default: 50us]
    ///
    /// With --together, the default is 0.
    #[arg(long, value_name = "TIME", value_parser = units::latency, help_heading = "Cluster")]
    latency: Option<f64>,

    /// Number of cores per machine [default: as on this machine]
    #[arg(long, value_name = "C", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Cluster")]
    cores_per_host: Option<u16>,

    /// Number of threads per worker [default: one per core of this machine]
    ///
    /// With --together, the default is 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Cluster")]
    threads: Option<u16>,

    /// Let all processes share one machine, as with 'downhill launch --tcp'
    #[arg(long, help_heading = "Cluster")]
    together: bool,

    /// Make workers slow, with probability P in each step and by FACTOR
    ///
    /// For example, with 0.01:3, each worker is three times slower in one step out of a hundred.
    #[arg(long, value_name = "P:FACTOR", value_parser = stragglers, help_heading = "Cluster")]
    stragglers: Option<Stragglers>,

    /// Read costs from this file, and measure only those it lacks
    ///
    /// The file contains JSON lines, as written by 'downhill bench --json' or --save.
    #[arg(long, value_name = "FILE", help_heading = "Costs")]
    bench: Option<PathBuf>,

    /// Write the costs to this file
    #[arg(long, value_name = "FILE", help_heading = "Costs")]
    save: Option<PathBuf>,

    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// Which processes hold the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shards {
    Servers(u32),
    Colocated,
}

const EXAMPLES: &str = "\
Examples:
  downhill simulate examples/digits.toml --workers 1,2,4,8 --bandwidth 1Gbit
  downhill simulate examples/digits.toml --workers 8 --shards colocated
  downhill simulate examples/digits.toml --stragglers 0.01:3";

const DETAILS: &str = "docs/scaling.md describes the model and its accuracy.";

fn shards(text: &str) -> Result<Shards, String> {
    match text.parse() {
        // `beside` is the old name of the value.
        _ if matches!(text, "colocated" | "beside") => Ok(Shards::Colocated),
        Ok(count @ 1..=1024) => Ok(Shards::Servers(count)),
        _ => Err("expected a number from 1 to 1024, or 'colocated'".into()),
    }
}

fn stragglers(text: &str) -> Result<Stragglers, String> {
    let wrong = || "expected P:FACTOR, a probability and a factor of at least 1, such as 0.01:3".to_owned();
    let (share, factor) = text.split_once(':').ok_or_else(wrong)?;
    let (share, factor): (f64, f64) =
        (share.parse().map_err(|_| wrong())?, factor.parse().map_err(|_| wrong())?);
    let is_right = (0.0..=1.0).contains(&share) && factor >= 1.0 && factor.is_finite();
    if is_right { Ok(Stragglers { share, factor }) } else { Err(wrong()) }
}

/// Measures the costs that the file lacks, simulates, and prints the results.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    arguments.log.start();
    let run = arguments.run.load()?;
    let style = Style::choose(&arguments.log);
    let root = arguments.data.root(arguments.run.folder());
    let job = super::load(run, root, &DataProgress::new(style))?;
    let here = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = arguments.threads.map_or(if arguments.together { 1 } else { here }, usize::from);
    let compute = ps_bench::compute_name(&job, threads);
    let costs = costs(arguments, &job, &compute, threads)?;
    if let Some(path) = &arguments.save {
        let text = costs.lines(&compute).join("\n") + "\n";
        std::fs::write(path, text)
            .map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
    }
    let workers: Vec<usize> = arguments.workers.iter().map(|&workers| workers as usize).collect();
    let cores = arguments.cores_per_host.map_or(here, usize::from);
    let sweep = Sweep::new(&workers, |workers| cluster(arguments, &job, workers, threads, cores), &costs);
    let samples = job.plan.step(0).samples as f64;
    if arguments.json {
        output::lines(&json(&sweep, samples))?;
    } else {
        let end = ending(&sweep, |workers| cluster(arguments, &job, workers, threads, cores));
        output::lines(&[table(&sweep, samples), end].concat())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the costs in the file, completed by measurements of those that it lacks.
fn costs(arguments: &Arguments, job: &Job, compute: &str, threads: usize) -> Result<Costs, Failure> {
    let file = match &arguments.bench {
        Some(path) => read(path)?,
        None => String::new(),
    };
    let wrong = |error: CostsError| {
        let path = arguments.bench.as_deref().unwrap_or(Path::new("the measurements")).display();
        Failure::Usage(format!(
            "{path}: {error}; create the file with --save or with `downhill bench --json`"
        ))
    };
    match Costs::read(&file, compute) {
        Ok(costs) => Ok(costs),
        Err(CostsError::Missing(names)) => {
            if arguments.bench.is_some() && !arguments.log.quiet {
                output::note(&format!("measuring what the file lacks: {}", names.join(", ")));
            }
            let measured =
                ps_bench::measure_costs(job, threads).map_err(|error| Failure::Failed(error.to_string()))?;
            let lines = measured.lines(compute).join("\n");
            // Of two lines with the same name the later one counts, so the file takes precedence over the
            // measurements.
            Costs::read(&format!("{lines}\n{file}"), compute).map_err(wrong)
        }
        Err(error) => Err(wrong(error)),
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    ps_host::read_text(path, ps_host::Ceiling::TEXT)
        .map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))
}

fn cluster(arguments: &Arguments, job: &Job, workers: usize, threads: usize, cores: usize) -> Cluster {
    let (holders, parts) = match arguments.shards {
        Shards::Servers(count) => (WeightHolders::Servers, count),
        Shards::Colocated => (WeightHolders::Workers, workers as u32),
    };
    let (bandwidth, latency) =
        if arguments.together { (f64::INFINITY, 0.0) } else { (units::TEN_GIGABIT, 50e-6) };
    Cluster {
        workers,
        threads,
        holders,
        parts: ps_bench::parts(job.model.parameters(), parts),
        weight_share: match job.run.wire.weights {
            Precision::F32 => 1.0,
            Precision::Bf16 => 0.5,
        },
        leaves: job.plan.step(0).tree().leaves(),
        placement: if arguments.together { Placement::SharedHost } else { Placement::SeparateHosts },
        cores,
        link: Link {
            bandwidth: arguments.bandwidth.unwrap_or(bandwidth),
            latency: arguments.latency.unwrap_or(latency),
            unevenness: Link::TCP,
        },
        stragglers: arguments.stragglers,
        seed: job.run.seed,
    }
}

fn table(sweep: &Sweep, samples: f64) -> Vec<String> {
    let head = format!(
        "{:>7} {:>10} {:>13} {:>9} {:>11}  {}",
        "workers", "steps/s", "samples/s", "speed-up", "efficiency", "waits for"
    );
    let rows = sweep.rows.iter().map(|row| {
        let steps = 1.0 / row.step_seconds;
        format!(
            "{:>7} {:>10.1} {:>13} {:>9.2} {:>9.0} %  {}",
            row.workers,
            steps,
            grouped(steps * samples),
            row.speedup,
            100.0 * row.efficiency,
            row.bound
        )
    });
    std::iter::once(head).chain(rows).collect()
}

/// Explains where adding workers stops paying.
fn ending(sweep: &Sweep, cluster: impl Fn(usize) -> Cluster) -> Vec<String> {
    let gain = 100.0 * ps_scale::MIN_WORTHWHILE_GAIN;
    vec![match sweep.stops_paying {
        Some((workers, bound)) => format!(
            "beyond {workers} workers, doubling their number gains less than {gain:.0} %: {}",
            bound.advice(&cluster(2 * workers))
        ),
        None => format!("each doubling of the number of workers gains {gain:.0} % or more"),
    }]
}

fn json(sweep: &Sweep, samples: f64) -> Vec<String> {
    let rows = sweep.rows.iter().map(|row| {
        let steps = 1.0 / row.step_seconds;
        serde_json::json!({
            "workers": row.workers,
            "steps_per_second": steps,
            "samples_per_second": steps * samples,
            "speedup": row.speedup,
            "efficiency": row.efficiency,
            "waits_for": row.bound.to_string(),
        })
    });
    let end = sweep.stops_paying.map(|(workers, bound)| {
        serde_json::json!({"stops_paying_beyond": workers, "waits_for": bound.to_string()})
    });
    rows.chain(end).map(|line| line.to_string()).collect()
}
