//! Reports progress to Kubeflow Trainer, which passes the address to a run in environment variables
//! (<https://github.com/kubeflow/trainer/tree/master/docs/proposals/2779-trainjob-progress>).

use crate::metrics::Source;
use ps_host::Ceiling;
use ps_run::{Line, Meter, Phase, RunSnapshot};
use reqwest::{Certificate, Client};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time between two reports. Kubeflow Trainer asks for at least 5 seconds.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(5);

/// Sends reports until it is dropped; the last one is sent then.
pub(crate) struct Reporter {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The endpoint that receives the reports.
struct Receiver {
    url: String,
    client: Client,
    /// The file with the token. It is read for each report, because Kubernetes renews the token.
    token: Option<PathBuf>,
}

impl Reporter {
    /// Starts reporting if the environment contains an address. Invalid settings cause a warning.
    pub(crate) fn of_environment(source: &Source) -> Option<Self> {
        // All workers have the same environment, and one report is enough.
        if std::env::var("JOB_COMPLETION_INDEX").is_ok_and(|index| index != "0") {
            return None;
        }
        let url = std::env::var("KUBEFLOW_TRAINER_SERVER_URL").ok().filter(|url| !url.is_empty())?;
        let started = Receiver::new(&url).and_then(|receiver| Reporter::start(receiver, source.clone()));
        started.inspect_err(|problem| tracing::warn!("cannot report progress to {url}: {problem}")).ok()
    }

    fn start(receiver: Receiver, source: Source) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let (end, ended) = channel();
        let began = Instant::now();
        let report = move || {
            let mut is_warned = false;
            loop {
                let is_over = !matches!(ended.recv_timeout(REPORT_INTERVAL), Err(RecvTimeoutError::Timeout));
                let status = match &source {
                    Source::Server(run_state) => run_state.read(of_run),
                    Source::Worker(meter) => of_worker(meter, began.elapsed()),
                };
                match runtime.block_on(receiver.post(&status)) {
                    Ok(()) => is_warned = false,
                    // One warning is enough until a report succeeds again.
                    Err(problem) if !std::mem::replace(&mut is_warned, true) => {
                        tracing::warn!("progress was not reported to {}: {problem}", receiver.url);
                    }
                    Err(_) => {}
                }
                if is_over {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("kubeflow".into()).spawn(report);
        let thread = thread.map_err(|error| error.to_string())?;
        Ok(Reporter { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Receiver {
    fn new(url: &str) -> Result<Self, String> {
        let variable =
            |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // Installation fails only if a provider is already installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = Client::builder().timeout(TIMEOUT);
        if let Some(path) = variable("KUBEFLOW_TRAINER_SERVER_CA_CERT") {
            let failed =
                |problem: String| format!("KUBEFLOW_TRAINER_SERVER_CA_CERT {}: {problem}", path.display());
            let pem = ps_host::read(&path, Ceiling::TEXT).map_err(|error| failed(error.to_string()))?;
            let certificates =
                Certificate::from_pem_bundle(&pem).map_err(|error| failed(error.to_string()))?;
            client = client.tls_certs_only(certificates);
        }
        let client = client.build().map_err(|error| error.to_string())?;
        Ok(Receiver { url: url.into(), client, token: variable("KUBEFLOW_TRAINER_SERVER_TOKEN") })
    }

    async fn post(&self, status: &Value) -> Result<(), String> {
        let mut request = self.client.post(&self.url).header("content-type", "application/json");
        if let Some(path) = &self.token {
            let token = ps_host::read_text(path, Ceiling::TEXT)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            request = request.bearer_auth(token.trim());
        }
        let answer = request.body(status.to_string()).send().await.map_err(|error| chain(&error))?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status => Err(format!("it answered {status}")),
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Formats the progress of the run.
fn of_run(snapshot: &RunSnapshot) -> Value {
    let steps = snapshot.about.steps.max(1);
    let is_done = snapshot.phase == Phase::Done;
    // After the last step, the results are still to be evaluated and written, which can fail.
    let percent = if is_done { 100 } else { (100 * snapshot.steps / steps).min(99) };
    let pace = snapshot.lines.iter().rev().find_map(|line| match line {
        Line::Step(line) => Some(line.seconds / line.step.max(1) as f64),
        _ => None,
    });
    let left = pace.map(|pace| (pace * steps.saturating_sub(snapshot.steps) as f64).ceil() as u64);
    let validation = snapshot.validation.as_ref();
    let metrics = [
        ("loss", Some(snapshot.loss)),
        ("accuracy", snapshot.accuracy),
        ("learning_rate", Some(snapshot.learning_rate.into())),
        ("validation_loss", validation.map(|it| it.loss)),
        ("validation_accuracy", validation.and_then(|it| it.accuracy)),
    ];
    status(percent, if is_done { Some(0) } else { left }, &metrics)
}

/// Formats the progress of the run as a worker knows it. `began` is how long the worker has been running, and
/// the loss is that of its leaves.
fn of_worker(meter: &Meter, began: Duration) -> Value {
    let ([_, step], (planned, loss)) = (meter.computed(), meter.of_run());
    // Another worker may have computed the last step, so the step count alone is not enough.
    let is_done = meter.is_finished();
    let percent = if is_done { 100 } else { (100 * step / planned.max(1)).min(99) };
    // A worker that joined late knows only its own pace, so this estimate is too low at first.
    let left = (step > 0).then(|| began.as_secs() * planned.saturating_sub(step) / step);
    status(percent, if is_done { Some(0) } else { left }, &[("loss", (planned > 0).then_some(loss))])
}

fn status(percent: u64, left: Option<u64>, metrics: &[(&str, Option<f64>)]) -> Value {
    let metrics: Vec<Value> = metrics
        .iter()
        .filter_map(|(name, value)| Some((name, value.filter(|value| value.is_finite())?)))
        .map(|(name, value)| json!({ "name": name, "value": value.to_string() }))
        .collect();
    json!({ "trainerStatus": {
        "progressPercentage": percent,
        "estimatedRemainingSeconds": left,
        "metrics": metrics,
        "lastUpdatedTime": rfc3339(SystemTime::now()),
    } })
}

/// Formats a time in UTC, to the second: `2026-01-31T23:59:59Z`. Converts days to dates as in Hinnant's
/// [`civil_from_days`](https://howardhinnant.github.io/date_algorithms.html#civil_from_days).
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ps_run::{About, RunState};
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::Arc;

    #[test]
    fn times_are_written_as_kubernetes_reads_them() {
        let at = |seconds| rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_795_720_193), "2026-11-26T19:09:53Z");
    }

    #[test]
    fn the_last_report_says_how_the_run_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/status", listener.local_addr().unwrap());
        let heard = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut text = String::new();
            let mut buffer = [0; 4096];
            while !text.contains("lastUpdatedTime") {
                let read = stream.read(&mut buffer).unwrap();
                text += std::str::from_utf8(&buffer[..read]).unwrap();
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
            text
        });
        let run_state = Arc::new(RunState::new(About { steps: 8, ..About::default() }, &[]));
        run_state.update(|snapshot| {
            (snapshot.steps, snapshot.loss, snapshot.accuracy) = (8, 0.25, Some(1.0));
            snapshot.phase = Phase::Done;
        });
        drop(Reporter::start(Receiver::new(&url).unwrap(), Source::Server(run_state)).unwrap());
        let text = heard.join().unwrap();
        assert!(text.starts_with("POST /status "), "{text}");
        let body: Value = serde_json::from_str(&text[text.find("\r\n\r\n").unwrap()..]).unwrap();
        let status = &body["trainerStatus"];
        assert_eq!(status["progressPercentage"], 100);
        assert_eq!(status["estimatedRemainingSeconds"], 0);
        assert_eq!(status["metrics"][0], json!({ "name": "loss", "value": "0.25" }));
    }

    #[test]
    fn a_worker_reports_that_a_run_is_done_whose_last_step_others_computed() {
        let meter = Meter::default();
        let percent =
            || of_worker(&meter, Duration::from_secs(1))["trainerStatus"]["progressPercentage"].clone();
        assert_eq!(percent(), 0);
        meter.finish();
        assert_eq!(percent(), 100);
    }
}
