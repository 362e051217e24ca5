//! Saves checkpoints while training continues.

use crate::{Error, Found, Snapshot, Store};
use crossbeam::channel::{self, Receiver, Sender};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

/// Saves snapshots one at a time, usually on a separate thread, so that training continues meanwhile.
pub struct Writer {
    place: Place,
    saved: Receiver<Saved>,
    /// Whether a snapshot is being saved.
    is_busy: bool,
}

/// Where the saving happens.
enum Place {
    /// On a separate thread, which ends when `orders` is dropped.
    Thread { orders: Option<Sender<Order>>, thread: Option<JoinHandle<()>> },
    /// On the caller's thread.
    Here { store: Box<Store>, outbox: Sender<Saved> },
}

enum Order {
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
        let (orders, inbox) = channel::bounded(1);
        let (outbox, saved) = channel::unbounded();
        let save = move || {
            for order in inbox {
                // The requester may have gone away, so failures to answer are ignored.
                match order {
                    Order::Save(snapshot) => {
                        let _ = outbox.send((snapshot.progress.step, store.save(&snapshot)));
                    }
                    Order::Load { allow_fresh, answer } => {
                        let _ = answer.send(store.newest(allow_fresh));
                    }
                    Order::GoBack { step, answer } => {
                        let _ = answer.send(store.go_back(step));
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("checkpoints".into()).spawn(save)?;
        let place = Place::Thread { orders: Some(orders), thread: Some(thread) };
        Ok(Writer { place, saved, is_busy: false })
    }

    /// Creates a writer that saves on the caller's thread, before `save` returns, for simulations.
    pub fn here(store: Store) -> Self {
        let (outbox, saved) = channel::unbounded();
        Writer { place: Place::Here { store: Box::new(store), outbox }, saved, is_busy: false }
    }

    /// Whether the writer can accept a snapshot.
    pub fn is_free(&self) -> bool {
        !self.is_busy
    }

    /// Starts to save a snapshot; [`Writer::saved`] returns the result. The writer must be free.
    pub fn save(&mut self, snapshot: Snapshot) {
        self.is_busy = match &self.place {
            // If the thread is gone, `saved` reports that.
            Place::Thread { orders, .. } => {
                orders.as_ref().is_some_and(|orders| orders.send(Order::Save(Box::new(snapshot))).is_ok())
            }
            Place::Here { store, outbox } => {
                outbox.send((snapshot.progress.step, store.save(&snapshot))).is_ok()
            }
        };
    }

    /// Loads the newest good checkpoint, after the current save has completed. See [`Store::newest`].
    ///
    /// # Errors
    /// Returns the errors of [`Store::newest`], or [`Error::WriterGone`].
    pub fn newest(&self, allow_fresh: bool) -> Result<Found, Error> {
        let orders = match &self.place {
            Place::Here { store, .. } => return store.newest(allow_fresh),
            Place::Thread { orders, .. } => orders,
        };
        let (answer, found) = channel::bounded(1);
        if let Some(orders) = orders {
            // If the thread is gone, no answer arrives, which is reported below.
            let _ = orders.send(Order::Load { allow_fresh, answer });
        }
        found.recv().unwrap_or(Err(Error::WriterGone))
    }

    /// Returns to a checkpoint of at most `step` steps, after the current save has
    /// completed. See [`Store::go_back`].
    ///
    /// # Errors
    /// Returns the errors of [`Store::go_back`], or [`Error::WriterGone`].
    pub fn go_back(&self, step: u64) -> Result<Option<Found>, Error> {
        let orders = match &self.place {
            Place::Here { store, .. } => return store.go_back(step),
            Place::Thread { orders, .. } => orders,
        };
        let (answer, found) = channel::bounded(1);
        if let Some(orders) = orders {
            // If the thread is gone, no answer arrives, which is reported below.
            let _ = orders.send(Order::GoBack { step, answer });
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
        let Place::Thread { orders, thread } = &mut self.place else { return };
        *orders = None;
        if let Some(thread) = thread.take() {
            // The current save completes first. If the thread panicked, it has already printed why.
            let _ = thread.join();
        }
    }
}
