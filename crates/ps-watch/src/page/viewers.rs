//! Counts the open pages that do not yet show the end of the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How often [`Viewers::wait`] checks the count.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Counts the event streams of open pages. A page closes its stream once it shows how the run ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Viewers(Arc<AtomicUsize>);

/// An open event stream, counted until this is dropped.
pub(super) struct Viewer(Viewers);

impl Viewers {
    /// Counts another stream.
    pub(super) fn enter(&self) -> Viewer {
        self.0.fetch_add(1, Ordering::Relaxed);
        Viewer(self.clone())
    }

    /// Waits until no stream is open, for at most `limit`, or until `is_cancelled` returns true.
    pub(crate) fn wait(&self, limit: Duration, is_cancelled: impl Fn() -> bool) {
        let began = Instant::now();
        while self.0.load(Ordering::Relaxed) > 0 && began.elapsed() < limit && !is_cancelled() {
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_waits_for_open_streams_and_for_nothing_else() {
        let viewers = Viewers::default();
        let forever = Duration::MAX;
        viewers.wait(forever, || false);
        let viewer = viewers.enter();
        viewers.wait(Duration::ZERO, || false);
        viewers.wait(forever, || true);
        let closing = std::thread::spawn(move || drop(viewer));
        viewers.wait(forever, || false);
        closing.join().unwrap();
        assert_eq!(viewers.0.load(Ordering::Relaxed), 0);
    }
}
