//! SIGINT and SIGTERM, for the `main` of `ps-server` and `ps-worker`.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use tracing::warn;

/// A signal that asks the process to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT, or Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Signal {
    /// The exit code of a process that was stopped by this signal before its run was over, which is also what
    /// a shell reports for such a process. The process exits with this code instead of raising the signal
    /// again, because that has no effect on PID 1 of a container.
    pub const fn exit_code(self) -> u8 {
        match self {
            Signal::Interrupt => 130,
            Signal::Terminate => 143,
        }
    }
}

/// The signals of this process, from its start on.
pub struct Signals {
    received: watch::Receiver<Option<Signal>>,
    /// Whether a signal is reported by [`Signals::received`]. Until then, it ends the process.
    is_deferred: Arc<Mutex<bool>>,
}

impl Signals {
    /// Listens, on a separate thread. Until [`Signals::defer`] is called, a signal ends the process at once:
    /// it is still starting, for example reading data, and has nothing to save.
    ///
    /// # Errors
    /// The system refuses the thread or the handlers.
    pub fn listen() -> io::Result<Self> {
        let (send, received) = watch::channel(None);
        let is_deferred = Arc::<Mutex<bool>>::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // tokio registers signal handlers only within a runtime.
        let mut sources = runtime.block_on(async { Sources::new() })?;
        let deferred = Arc::clone(&is_deferred);
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            while let Some(signal) = runtime.block_on(sources.next()) {
                // Held until the signal is sent, so that none is lost between the two.
                let deferred = deferred.lock().unwrap_or_else(PoisonError::into_inner);
                if !*deferred {
                    warn!("stopped before the run began");
                    ps_terminal::exit(signal.exit_code());
                }
                // Only the first signal counts; without a receiver it can be ignored.
                let _ = send.send_if_modified(|first| first.is_none() && first.replace(signal).is_none());
            }
        })?;
        Ok(Signals { received, is_deferred })
    }

    /// From now on, signals do not end the process but are reported by [`Signals::received`].
    pub fn defer(&self) {
        *self.is_deferred.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Completes once a signal has arrived, however long ago.
    pub fn received(&self) -> impl Future<Output = Signal> + Send + use<> {
        let mut received = self.received.clone();
        async move {
            let first = received.wait_for(Option::is_some).await.ok().and_then(|first| *first);
            match first {
                Some(signal) => signal,
                // The thread is gone: no signal will ever be reported.
                None => std::future::pending().await,
            }
        }
    }

    /// The first signal that has arrived, if one has.
    pub fn first(&self) -> Option<Signal> {
        *self.received.borrow()
    }
}

#[cfg(unix)]
struct Sources {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Sources {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Sources {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Option<Signal> {
        tokio::select! {
            received = self.interrupt.recv() => received.map(|()| Signal::Interrupt),
            received = self.terminate.recv() => received.map(|()| Signal::Terminate),
        }
    }
}

#[cfg(not(unix))]
struct Sources;

#[cfg(not(unix))]
impl Sources {
    fn new() -> io::Result<Self> {
        Ok(Sources)
    }

    async fn next(&mut self) -> Option<Signal> {
        tokio::signal::ctrl_c().await.ok().map(|()| Signal::Interrupt)
    }
}
