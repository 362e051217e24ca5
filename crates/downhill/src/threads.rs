//! The threads that a run or a model computes on.

use crate::error::{Error, ErrorKind};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::num::NonZeroUsize;
use std::sync::Arc;

/// Threads that belong to one run or model and its clones. What computes inside [`Threads::run`] leaves the process's
/// own pool alone.
#[derive(Clone, Debug)]
pub(crate) struct Threads(Option<Arc<ThreadPool>>);

impl Threads {
    /// Starts `count` threads, or one per processor.
    pub(crate) fn start(count: Option<NonZeroUsize>) -> Result<Self, Error> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(count.map_or(0, NonZeroUsize::get))
            .thread_name(|index| format!("downhill {index}"))
            .build();
        let pool =
            pool.map_err(|error| Error::new(ErrorKind::Resources, format!("cannot start threads: {error}")))?;
        Ok(Threads(Some(Arc::new(pool))))
    }

    /// The pool of whoever calls, which is for a program to decide.
    pub(crate) fn of_caller() -> Self {
        Threads(None)
    }

    /// Runs `work` on these threads and waits for it.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.0 {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}
