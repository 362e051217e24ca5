//! The threads that a run or a model computes on.

use crate::error::{Error, ErrorKind};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::num::NonZeroUsize;
use std::sync::Arc;

/// A thread pool that belongs to one run, or to one model and its clones. Code that runs inside
/// [`Threads::run`] does not use the process's global pool.
#[derive(Clone, Debug)]
pub(crate) struct Threads(Option<Arc<ThreadPool>>);

impl Threads {
    /// Starts `count` threads; by default, one per processor.
    pub(crate) fn start(count: Option<NonZeroUsize>) -> Result<Self, Error> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(count.map_or(0, NonZeroUsize::get))
            .thread_name(|index| format!("downhill {index}"))
            .build();
        let pool =
            pool.map_err(|error| Error::new(ErrorKind::Resources, format!("cannot start threads: {error}")))?;
        Ok(Threads(Some(Arc::new(pool))))
    }

    /// Uses the caller's pool: a program decides on its threads itself.
    pub(crate) fn of_caller() -> Self {
        Threads(None)
    }

    /// Runs `work` on these threads and waits for its result.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.0 {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}
