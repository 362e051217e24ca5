//! Saves checkpoints while training continues.

use crate::{Error, Found, Snapshot, Store};
use crossbeam::channel::{self, Receiver, Sender};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

/// Saves snapshots one at a time, usually on a separate thread, so that training continues meanwhile.
pub struct Writer {
    backend: Backend,
    saved: Receiver<Saved>,
    /// Whether a snapshot is being saved.
    is_busy: bool,
}

/// Where the saving happens.
enum Backend {
    /// On a separate thread, which ends when `requests` is dropped.
    Thread { requests: Option<Sender<Request>>, thread: Option<JoinHandle<()>> },
    /// On the caller's thread.
    Inline { store: Box<Store>, outbox: Sender<Saved> },
}

enum Request {
    Save(Box<Snapshot>),
    Load { allow_fresh: bool, answer: Sender<Result<Found, Error>> },
    GoBack { step: u64, answer: Sender<Result<Option<Found>, Error>> },
}

/// The result of saving a snapshot: its step, and its path or the error.
pub type Saved = (u64, Result<PathBuf, Error>);

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// Returns an error if the system cannot start a thread.
    pub fn start(store: Store) -> std::io::Result<Self> {
        // `save` needs a free writer, so at most one request waits. Results are unbounded, so that the thread
        // never waits for a caller that does not read them.
        let (requests, inbox) = channel::bounded(1);
        let (outbox, saved) = channel::unbounded();
        let save = move || {
            for request in inbox {
                // The requester may have gone away, so failures to answer are ignored.
                match request {
                    Request::Save(snapshot) => {
                        let _ = outbox.send((snapshot.progress.step, store.save(&snapshot)));
                    }
                    Request::Load { allow_fresh, answer } => {
                        let _ = answer.send(store.newest(allow_fresh));
                    }
                    Request::GoBack { step, answer } => {
                        let _ = answer.send(store.go_back(step));
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("checkpoints".into()).spawn(save)?;
        let backend = Backend::Thread { requests: Some(requests), thread: Some(thread) };
        Ok(Writer { backend, saved, is_busy: false })
    }

    /// Creates a writer that saves on the caller's thread, before `save` returns, for simulations.
    pub fn inline(store: Store) -> Self {
        let (outbox, saved) = channel::unbounded();
        Writer { backend: Backend::Inline { store: Box::new(store), outbox }, saved, is_busy: false }
    }

    /// Whether the writer can accept a snapshot.
    pub fn is_free(&self) -> bool {
        !self.is_busy
    }

    /// Starts to save a snapshot; [`Writer::saved`] returns the result. The writer must be free.
    pub fn save(&mut self, snapshot: Snapshot) {
        self.is_busy = match &self.backend {
            // If the thread is gone, `saved` reports that.
            Backend::Thread { requests, .. } => requests
                .as_ref()
                .is_some_and(|requests| requests.send(Request::Save(Box::new(snapshot))).is_ok()),
            Backend::Inline { store, outbox } => {
                outbox.send((snapshot.progress.step, store.save(&snapshot))).is_ok()
            }
        };
    }

    /// Loads the newest good checkpoint, after the current save has completed. See [`Store::newest`].
    ///
    /// # Errors
    /// Returns the errors of [`Store::newest`], or [`Error::WriterGone`].
    pub fn newest(&self, allow_fresh: bool) -> Result<Found, Error> {
        let requests = match &self.backend {
            Backend::Inline { store, .. } => return store.newest(allow_fresh),
            Backend::Thread { requests, .. } => requests,
        };
        let (answer, found) = channel::bounded(1);
        if let Some(requests) = requests {
            // If the thread is gone, no answer arrives, which is reported below.
            let _ = requests.send(Request::Load { allow_fresh, answer });
        }
        found.recv().unwrap_or(Err(Error::WriterGone))
    }

    /// Returns to a checkpoint of at most `step` steps, after the current save has
    /// completed. See [`Store::go_back`].
    ///
    /// # Errors
    /// Returns the errors of [`Store::go_back`], or [`Error::WriterGone`].
    pub fn go_back(&self, step: u64) -> Result<Option<Found>, Error> {
        let requests = match &self.backend {
            Backend::Inline { store, .. } => return store.go_back(step),
            Backend::Thread { requests, .. } => requests,
        };
        let (answer, found) = channel::bounded(1);
        if let Some(requests) = requests {
            // If the thread is gone, no answer arrives, which is reported below.
            let _ = requests.send(Request::GoBack { step, answer });
        }
        found.recv().unwrap_or(Err(Error::WriterGone))
    }

    /// The result of the last [`Writer::save`], once it is available.
    pub fn saved(&mut self) -> Option<Saved> {
        let saved = self.saved.try_recv().ok()?;
        self.is_busy = false;
        Some(saved)
    }

    /// Waits for the result of the last [`Writer::save`]; `None` if nothing is being saved.
    pub fn wait(&mut self) -> Option<Saved> {
        let saved = if self.is_busy { self.saved.recv().ok() } else { None };
        self.is_busy = false;
        saved
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Backend::Thread { requests, thread } = &mut self.backend else { return };
        // Closing the channel ends the thread's loop, for which `join` waits.
        *requests = None;
        if let Some(thread) = thread.take() {
            // The current save completes first. If the thread panicked, it has already printed why.
            let _ = thread.join();
        }
    }
}
