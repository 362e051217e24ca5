//! What can be seen of a run from outside while it goes on: metrics for Prometheus, a page for people, progress for
//! Kubeflow.
//!
//! All of it reads the [`Board`] of the run; nothing here is waited for by training, and what cannot be started is warned of
//! and left out. Each [`Site`] has a thread and a small runtime of its own, so that `downhill train` needs none.

pub mod curves;
mod kubeflow;
mod metrics;
mod page;
mod site;

pub use axum::http::HeaderMap;
pub use metrics::Source;
pub use page::Dashboard;
pub use site::{Gate, Site};

use ps_config::WatchArgs;
use ps_run::{Board, FolderError, Job, PastRun, Recorder, Trace};
use std::net::ToSocketAddrs;
use std::path::Path;
use std::sync::Arc;

/// What was started for those who watch a run; it ends when this is dropped.
#[derive(Default)]
pub struct Watching {
    sites: Vec<Site>,
    _reporter: Option<kubeflow::Reporter>,
}

/// Refuses to show the page of a run without a server, which asks for no token, to other machines.
///
/// # Errors
/// What is wrong, and what to do.
pub fn guard(wanted: &WatchArgs) -> Result<(), String> {
    let Some(address) = &wanted.dashboard else { return Ok(()) };
    let places = address.to_socket_addrs().map_err(|error| {
        format!(
            "--dashboard {address}: {error}; give HOST:PORT, such as 127.0.0.1:8080, and the run file before the flag"
        )
    })?;
    match places.into_iter().find(|place| !place.ip().is_loopback()) {
        None => Ok(()),
        Some(place) => Err(format!(
            "--dashboard {address}: other machines reach {}, and no token is asked for here; give 127.0.0.1 and look \
             through a tunnel, such as ssh -L 8080:127.0.0.1:8080, or run ps-server with --token-file",
            place.ip()
        )),
    }
}

/// Starts what `wanted` asks for, for the run that `recorder` tells of. `gate` says who may see the page, where not everybody
/// may; `name` is what this process is called in a trace.
///
/// # Errors
/// A file cannot be made. A port that cannot be had is only warned of.
pub fn start(
    wanted: &WatchArgs,
    job: &Job,
    recorder: &mut Recorder,
    gate: Option<Gate>,
    name: &str,
) -> Result<Watching, FolderError> {
    if let Some(path) = &wanted.trace {
        recorder.board().trace(Trace::create(path, name)?);
    }
    if wanted.dashboard.is_some() || wanted.tensorboard {
        recorder.be_watched(job, wanted.tensorboard)?;
    }
    if wanted.metrics.is_some() {
        recorder.board().watch();
    }
    let (watching, told) = Watching::of(wanted, recorder.board(), recorder.folder(), gate);
    told.iter().for_each(|told| recorder.note(told));
    Ok(watching)
}

/// Shows a run that is over, as `wanted` asks, for as long as this is kept. `gate` is as for [`start`].
pub fn show(wanted: &WatchArgs, job: &Job, past: &PastRun, gate: Option<Gate>) -> Watching {
    let (watching, told) = Watching::of(wanted, &Arc::new(past.board(job)), Some(&past.folder), gate);
    told.iter().for_each(|told| tracing::info!("{told}"));
    watching
}

impl Watching {
    /// Serves what is on `board`, and what is in `folder`; where, in words.
    fn of(
        wanted: &WatchArgs,
        board: &Arc<Board>,
        folder: Option<&Path>,
        gate: Option<Gate>,
    ) -> (Self, Vec<String>) {
        let source = Source::Server(Arc::clone(board));
        let mut watching =
            Watching { sites: Vec::new(), _reporter: kubeflow::Reporter::of_environment(&source) };
        let metrics = wanted
            .metrics
            .as_ref()
            .and_then(|address| watching.open("--metrics", address, "/metrics", page::metrics(source)));
        let dashboard = wanted.dashboard.as_ref().and_then(|address| {
            let dashboard = Dashboard { board: Arc::clone(board), folder: folder.map(Into::into), gate };
            watching.open("--dashboard", address, "/", dashboard.routes())
        });
        (watching, metrics.into_iter().chain(dashboard).collect())
    }

    /// Serves the metrics of `source` at `address`, if one is given, and reports progress where that is wanted. A port that
    /// cannot be had is warned of.
    pub fn metrics(address: Option<&str>, source: Source) -> Self {
        let mut watching =
            Watching { sites: Vec::new(), _reporter: kubeflow::Reporter::of_environment(&source) };
        if let Some(address) = address
            && let Some(told) = watching.open("--metrics", address, "/metrics", page::metrics(source))
        {
            tracing::info!("{told}");
        }
        watching
    }

    /// Opens a site; gives a line for the user, unless it was warned of.
    fn open(&mut self, flag: &str, address: &str, path: &str, routes: axum::Router) -> Option<String> {
        match Site::open(address, routes) {
            Ok(site) => {
                let told = format!("{} at http://{}{path}", &flag[2..], site.address());
                self.sites.push(site);
                Some(told)
            }
            Err(problem) => {
                tracing::warn!(
                    "{flag} {address}: {problem}; the run goes on without it; choose another port, or 0 for any"
                );
                None
            }
        }
    }
}
