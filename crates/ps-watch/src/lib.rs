//! Observability of a run while it trains: Prometheus metrics, a live dashboard, and progress reports to
//! Kubeflow.
//!
//! All of these read the [`RunState`] of the run, and training never waits for them. If one of them cannot be
//! started, this is reported as a warning and the run continues without it. Each [`Site`] has its own thread
//! and small runtime, so `downhill train` needs none.

pub mod curves;
mod kubeflow;
mod metrics;
mod page;
mod site;

pub use axum::http::HeaderMap;
pub use metrics::Source;
pub use site::{Gate, Site};

use page::{Dashboard, Viewers};
use ps_config::WatchArgs;
use ps_net::limits::Capacity;
use ps_run::{FolderError, Job, PastRun, Recorder, RunState, Trace};
use site::Bounds;
use std::net::ToSocketAddrs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Longest time that the dashboard stays up after the end of a run, for browsers that have it open.
const VIEWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The running servers and reporters of a run. They stop when this is dropped.
#[derive(Default)]
pub struct WatchHandle {
    sites: Vec<Site>,
    page: Option<String>,
    viewers: Viewers,
    _reporter: Option<kubeflow::Reporter>,
}

/// Refuses to serve the dashboard of a run without a server to other machines, because no token protects it.
///
/// # Errors
/// The error says what is wrong, and how to fix it.
pub fn guard(options: &WatchArgs) -> Result<(), String> {
    let Some(address) = &options.dashboard else { return Ok(()) };
    let places = address.to_socket_addrs().map_err(|error| {
        format!(
            "--dashboard {address}: {error}; give HOST:PORT, such as 127.0.0.1:8080, and the run file before the flag"
        )
    })?;
    match places.into_iter().find(|place| !place.ip().is_loopback()) {
        None => Ok(()),
        Some(place) => Err(format!(
            "--dashboard {address}: other machines can reach {}, and this command does not require a token; \
             use 127.0.0.1 with a tunnel, such as ssh -L 8080:127.0.0.1:8080, or run ps-server with \
             --token-file",
            place.ip()
        )),
    }
}

/// Starts everything that `options` asks for, for the run that `recorder` records. `gate` decides who may see
/// the dashboard; without it, everybody may. `name` is the name of this process in a trace.
///
/// # Errors
/// A file cannot be created. A port that is not available only causes a warning.
pub fn start(
    options: &WatchArgs,
    job: &Job,
    recorder: &mut Recorder,
    gate: Option<Gate>,
    name: &str,
) -> Result<WatchHandle, FolderError> {
    if let Some(path) = &options.trace {
        recorder.run_state().trace(Trace::create(path, name)?);
    }
    if options.dashboard.is_some() || options.tensorboard {
        recorder.enable_inspection(job, options.tensorboard)?;
    }
    if options.metrics.is_some() {
        recorder.run_state().watch();
    }
    let (watching, urls) = WatchHandle::of(options, recorder.run_state(), recorder.folder(), gate);
    urls.iter().for_each(|line| recorder.note(line));
    Ok(watching)
}

/// Shows a run that has ended, as `options` asks, until the result is dropped. `gate` is as for [`start`].
pub fn show(options: &WatchArgs, job: &Job, past: &PastRun, gate: Option<Gate>) -> WatchHandle {
    let (watching, urls) = WatchHandle::of(options, &Arc::new(past.run_state(job)), Some(&past.folder), gate);
    urls.iter().for_each(|line| tracing::info!("{line}"));
    watching
}

impl WatchHandle {
    /// Serves the state on `run_state` and the results in `folder`. Also returns their URLs, as lines to
    /// show.
    fn of(
        options: &WatchArgs,
        run_state: &Arc<RunState>,
        folder: Option<&Path>,
        gate: Option<Gate>,
    ) -> (Self, Vec<String>) {
        let source = Source::Server(Arc::clone(run_state));
        let mut watching = WatchHandle::reporting(&source);
        let metrics = options.metrics.as_ref().and_then(|address| watching.open_metrics(address, source));
        let viewers = watching.viewers.clone();
        watching.page = options.dashboard.as_ref().and_then(|address| {
            let (run_state, folder) = (Arc::clone(run_state), folder.map(Into::into));
            let dashboard = Dashboard { run_state, folder, gate, viewers };
            let capacity = Capacity::of_page(ps_host::open_files());
            watching.open("--dashboard", address, "/", dashboard.routes(capacity), capacity)
        });
        let lines = [("metrics", metrics), ("dashboard", watching.page.clone())];
        let line = |(what, url): (&str, Option<String>)| Some(format!("{what} at {}", url?));
        (watching, lines.into_iter().filter_map(line).collect())
    }

    fn reporting(source: &Source) -> Self {
        WatchHandle { _reporter: kubeflow::Reporter::of_environment(source), ..WatchHandle::default() }
    }

    /// The URL of the dashboard, if it is served.
    pub fn page(&self) -> Option<&str> {
        self.page.as_deref()
    }

    /// Waits until all open dashboards show the end of the run, for at most a few seconds, or until
    /// `is_cancelled` returns true. To be called at the end of a run.
    pub fn wait_for_viewers(&self, is_cancelled: impl Fn() -> bool) {
        self.viewers.wait(VIEWER_TIMEOUT, is_cancelled);
    }

    /// Serves the metrics of `source` at `address`, if one is given, and reports progress to Kubeflow if the
    /// environment asks for it. A port that is not available causes a warning.
    pub fn metrics(address: Option<&str>, source: Source) -> Self {
        let mut watching = WatchHandle::reporting(&source);
        if let Some(address) = address
            && let Some(url) = watching.open_metrics(address, source)
        {
            tracing::info!("metrics at {url}");
        }
        watching
    }

    fn open_metrics(&mut self, address: &str, source: Source) -> Option<String> {
        let capacity = Capacity::of_metrics(ps_host::open_files());
        self.open("--metrics", address, "/metrics", page::metrics(source), capacity)
    }

    /// Opens a site and returns the URL of `path` on it. A port that is not available causes a warning.
    fn open(
        &mut self,
        flag: &str,
        address: &str,
        path: &str,
        routes: axum::Router,
        capacity: Capacity,
    ) -> Option<String> {
        match Site::open(address, routes, Bounds::new(capacity)) {
            Ok(site) => {
                let url = format!("http://{}{path}", site.address());
                self.sites.push(site);
                Some(url)
            }
            Err(problem) => {
                tracing::warn!(
                    "{flag} {address}: {problem}; the run continues without it; choose another port, or 0 \
                     for any"
                );
                None
            }
        }
    }
}
