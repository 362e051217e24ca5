//! Prometheus metrics, with names that follow its conventions
//! (<https://prometheus.io/docs/practices/naming/>). `docs/metrics.md` lists them.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use ps_run::{Activity, Ban, Meter, RunSnapshot, RunState, STEP_BOUNDS, WorkerStanding};
use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::Arc;

/// Content type of the text that [`Source::page`] returns.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where the values of metrics come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A process that holds weights.
    Server(Arc<RunState>),
    /// A worker or a shard.
    Worker(Arc<Meter>),
}

impl Source {
    /// Formats the current values of all metrics.
    pub(crate) fn page(&self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.clone()));
        let mut page = String::new();
        match encode(&mut page, &registry) {
            Ok(()) => page,
            // Writing to a string does not fail.
            Err(error) => format!("# {error}\n# EOF\n"),
        }
    }
}

impl Collector for Source {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut page = Page(encoder);
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        page.gauges(
            "downhill_build_info",
            "Always 1; the label is the version of this program",
            [(version, 1.0)],
        )?;
        match self {
            Source::Server(run_state) => {
                page.meter(&run_state.meter)?;
                run_state.read(|snapshot| page.run(snapshot))
            }
            Source::Worker(meter) => {
                page.meter(meter)?;
                page.worker(meter)
            }
        }
    }
}

struct Page<'a>(DescriptorEncoder<'a>);

type Labels<'a> = [(&'static str, &'a str); 1];

impl Page<'_> {
    /// Writes a gauge. Unknown values are omitted.
    fn gauge(&mut self, name: &str, help: &str, value: Option<f64>) -> Result<(), Error> {
        let Some(value) = value.filter(|value| value.is_finite()) else { return Ok(()) };
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauges<'a>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) -> Result<(), Error> {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        values
            .into_iter()
            .try_for_each(|(labels, value)| encoder.encode_family(&labels)?.encode_gauge(&value))
    }

    /// Writes a counter. `name` is without the suffix `_total`.
    fn counter(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        encoder.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) -> Result<(), Error> {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        values.into_iter().try_for_each(|(labels, value)| {
            encoder.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)
        })
    }

    fn meter(&mut self, meter: &Meter) -> Result<(), Error> {
        let activities = Activity::ALL.map(|activity| ([("part", activity.name())], meter.seconds(activity)));
        self.counters("downhill_step_part_seconds", "Seconds spent in each part of steps", activities)?;
        let [received, sent] = meter.bytes();
        let bytes = [([("direction", "received")], received as f64), ([("direction", "sent")], sent as f64)];
        self.counters("downhill_tensor_bytes", "Bytes of weights and gradients on connections", bytes)
    }

    fn worker(&mut self, meter: &Meter) -> Result<(), Error> {
        let [leaves, step] = meter.computed();
        self.gauge("downhill_worker_step", "The step last computed, from 1", Some(step as f64))?;
        self.counter("downhill_worker_leaves", "Leaves computed", leaves as f64)?;
        self.counter("downhill_worker_retries", "Lost connections that were retried", meter.retries() as f64)
    }

    fn run(&mut self, snapshot: &RunSnapshot) -> Result<(), Error> {
        self.counter("downhill_steps", "Steps made", snapshot.steps as f64)?;
        self.gauge("downhill_steps_planned", "Steps of the whole run", Some(snapshot.about.steps as f64))?;
        self.gauge("downhill_epoch", "Current epoch, from 1", Some(snapshot.epoch.into()))?;
        self.counter("downhill_samples", "Training samples seen", snapshot.samples as f64)?;
        self.gauge(
            "downhill_train_loss",
            "Mean loss of the last batch, before its step",
            Some(snapshot.loss),
        )?;
        self.gauge(
            "downhill_train_accuracy_ratio",
            "Share of correct predictions in the last batch",
            snapshot.accuracy,
        )?;
        let validation = snapshot.validation.as_ref();
        self.gauge(
            "downhill_validation_loss",
            "Mean loss of the validation part",
            validation.map(|it| it.loss),
        )?;
        self.gauge(
            "downhill_validation_accuracy_ratio",
            "Share of correct predictions in the validation part",
            validation.and_then(|it| it.accuracy),
        )?;
        self.gauge(
            "downhill_learning_rate",
            "Learning rate of the last step",
            Some(snapshot.learning_rate.into()),
        )?;
        let bounds = STEP_BOUNDS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(snapshot.durations).collect();
        let count = snapshot.durations.iter().sum();
        let help = "Seconds from the end of a step to the end of the next";
        self.0
            .encode_descriptor("downhill_step_duration_seconds", help, None, MetricType::Histogram)?
            .encode_histogram::<NoLabelSet>(snapshot.duration, count, &buckets, None)?;
        let mut states =
            BTreeMap::from([("joining", 0.0), ("training", 0.0), ("draining", 0.0), ("gone", 0.0)]);
        for worker in &snapshot.workers {
            if let Some(count) = states.get_mut(worker.standing.kind()) {
                *count += 1.0;
            }
        }
        let states = states.into_iter().map(|(state, count)| ([("state", state)], count));
        self.gauges("downhill_workers", "Workers by state", states)?;
        let names: Vec<String> =
            snapshot.workers.iter().map(|worker| format!("w{} {}", worker.id, worker.name)).collect();
        let named =
            || names.iter().zip(&snapshot.workers).map(|(name, worker)| ([("worker", &name[..])], worker));
        // After the end of the run no worker computes, so there are no speeds.
        let speeds = named()
            .filter(|(_, worker)| worker.standing != WorkerStanding::Dismissed)
            .map(|(labels, worker)| (labels, worker.speed));
        self.gauges("downhill_worker_leaves_per_second", "Leaves that a worker computes per second", speeds)?;
        let held_up = named().map(|(labels, worker)| (labels, worker.held_up_ms as f64 / 1000.0));
        self.counters(
            "downhill_worker_held_up_seconds",
            "Seconds that steps waited for a worker alone",
            held_up,
        )?;
        let reassigned = "Leaves of late or lost workers that were reassigned";
        self.counter("downhill_rescued_leaves", reassigned, snapshot.reassigned as f64)?;
        self.counter("downhill_audited_nodes", "Sums computed twice and compared", snapshot.audited as f64)?;
        let bans = "Workers banned for sending a wrong sum";
        self.counter("downhill_banned_workers", bans, snapshot.bans.len() as f64)?;
        let is_tainted = f64::from(u8::from(snapshot.bans.iter().any(Ban::is_tainting)));
        let tainted = "1 if the weights may contain wrong sums of a banned worker";
        self.gauge("downhill_tainted", tainted, Some(is_tainted))?;
        let checkpoint = snapshot.checkpoint;
        self.gauge(
            "downhill_checkpoint_step",
            "Steps made at the newest durable checkpoint",
            checkpoint.map(|it| it.0 as f64),
        )?;
        let age = checkpoint.map(|(_, since)| since.elapsed().as_secs_f64());
        self.gauge(
            "downhill_checkpoint_age_seconds",
            "Seconds since the newest checkpoint became durable",
            age,
        )?;
        let is_ended = f64::from(u8::from(snapshot.phase.is_over()));
        self.gauge("downhill_run_ended", "1 once the run is over", Some(is_ended))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ps_coord::{Departure, WorkerState};
    use ps_run::About;
    use std::fmt::Write;
    use std::time::Instant;

    /// Formats a table with the name, type and meaning of each metric on these pages.
    fn table(pages: &[String]) -> String {
        let mut rows = BTreeMap::new();
        for line in pages.iter().flat_map(|page| page.lines()) {
            let mut words = line.splitn(4, ' ').skip(1);
            let (Some(what), Some(name), Some(text)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let row: &mut [String; 2] = rows.entry(name.to_owned()).or_default();
            match what {
                "HELP" => row[1] = text.trim_end_matches('.').into(),
                "TYPE" => row[0] = text.into(),
                _ => {}
            }
        }
        let mut table = String::from("| metric | type | meaning |\n| --- | --- | --- |\n");
        for (name, [kind, help]) in rows.iter().filter(|(_, [kind, _])| !kind.is_empty()) {
            let total = if kind == "counter" { "_total" } else { "" };
            writeln!(table, "| `{name}{total}` | {kind} | {help} |").unwrap();
        }
        table
    }

    fn full_run_state() -> Arc<RunState> {
        let run_state = RunState::new(About { steps: 9, ..About::default() }, &[]);
        run_state.update(|snapshot| {
            (snapshot.steps, snapshot.loss, snapshot.accuracy, snapshot.learning_rate) =
                (3, 0.5, Some(0.75), 0.1);
            snapshot.checkpoint = Some((2, Instant::now()));
            snapshot.validation =
                Some(serde_json::from_str(r#"{"samples":4,"loss":0.25,"accuracy":0.5}"#).unwrap());
            let name = "a \"b\"".into();
            let standing = WorkerStanding::Known(WorkerState::Gone(Departure::Leaving));
            snapshot.workers = vec![ps_run::WorkerRow { id: 1, name, standing, ..Default::default() }];
            snapshot.bans = vec![Ban { since: Some(4), ..Ban::default() }, Ban::default()];
            (snapshot.durations[0], snapshot.durations[16], snapshot.duration) = (2, 1, 100.0);
        });
        run_state.meter.spend(Activity::Fold, std::time::Duration::from_millis(1500));
        Arc::new(run_state)
    }

    #[test]
    fn the_table_in_the_docs_lists_every_metric() {
        let pages =
            [Source::Server(full_run_state()), Source::Worker(Arc::default())].map(|source| source.page());
        let table = table(&pages);
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
        let text = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once("<!-- metrics -->\n").unwrap();
        let (there, after) = rest.split_once("<!-- end -->").unwrap();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, format!("{before}<!-- metrics -->\n{table}<!-- end -->{after}")).unwrap();
        } else {
            assert_eq!(there, table, "run UPDATE_DOCS=1 cargo test -p ps-watch");
        }
    }

    #[test]
    fn a_metrics_page_shows_the_run_state() {
        let page = Source::Server(full_run_state()).page();
        for line in [
            "downhill_steps_total 3.0",
            "downhill_train_loss 0.5",
            "downhill_validation_accuracy_ratio 0.5",
            "downhill_step_part_seconds_total{part=\"fold\"} 1.5",
            "downhill_step_duration_seconds_bucket{le=\"0.0001\"} 2",
            "downhill_step_duration_seconds_bucket{le=\"+Inf\"} 3",
            "downhill_banned_workers_total 2.0",
            "downhill_tainted 1.0",
            "downhill_workers{state=\"gone\"} 1.0",
            "downhill_workers{state=\"training\"} 0.0",
            "downhill_worker_leaves_per_second{worker=\"w1 a \\\"b\\\"\"} 0.0",
            "# EOF",
        ] {
            assert!(page.lines().any(|there| there == line), "{line} is not in\n{page}");
        }
        // Unknown values are omitted.
        let begun = Source::Server(Arc::new(RunState::new(About::default(), &[]))).page();
        assert!(!begun.contains("\ndownhill_train_loss") && !begun.contains("NaN"), "{begun}");
    }
}
