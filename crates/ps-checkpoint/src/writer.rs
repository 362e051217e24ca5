//! Saving while training goes on.

use crate::{Error, Found, Snapshot, Store};
use crossbeam::channel::{self, Receiver, Sender};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

/// Saves snapshots one at a time.
pub struct Writer {
    place: Place,
    saved: Receiver<Saved>,
    /// Whether one is being saved.
    is_busy: bool,
}

/// Where it is done.
enum Place {
    /// On a thread of its own, until there are no orders any more.
    Thread { orders: Option<Sender<Order>>, thread: Option<JoinHandle<()>> },
    /// On the caller's.
    Here { store: Box<Store>, outbox: Sender<Saved> },
}

enum Order {
    Save(Box<Snapshot>),
    Load { allow_fresh: bool, answer: Sender<Result<Found, Error>> },
    GoBack { step: u64, answer: Sender<Result<Option<Found>, Error>> },
}

/// What has come of a snapshot: of how many steps it is, and where, or why not.
pub type Saved = (u64, Result<PathBuf, Error>);

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system does not let us.
    pub fn start(store: Store) -> std::io::Result<Self> {
        let (orders, inbox) = channel::bounded(1);
        let (outbox, saved) = channel::unbounded();
        let save = move || {
            for order in inbox {
                // Whoever asked may be gone.
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

    /// One that saves on the caller's thread, before `save` returns: for simulations.
    pub fn here(store: Store) -> Self {
        let (outbox, saved) = channel::unbounded();
        Writer { place: Place::Here { store: Box::new(store), outbox }, saved, is_busy: false }
    }

    /// Whether a snapshot would be taken now.
    pub fn is_free(&self) -> bool {
        !self.is_busy
    }

    /// Begins to save a snapshot; [`Writer::saved`] says what came of it. It must be free.
    pub fn save(&mut self, snapshot: Snapshot) {
        self.is_busy = match &self.place {
            // If the thread is gone, `saved` will say so.
            Place::Thread { orders, .. } => {
                orders.as_ref().is_some_and(|orders| orders.send(Order::Save(Box::new(snapshot))).is_ok())
            }
            Place::Here { store, outbox } => {
                outbox.send((snapshot.progress.step, store.save(&snapshot))).is_ok()
            }
        };
    }

    /// The newest good checkpoint, after the one that is being saved; nothing if there is none. See [`Store::newest`].
    ///
    /// # Errors
    /// As for that.
    pub fn newest(&self, allow_fresh: bool) -> Result<Found, Error> {
        let orders = match &self.place {
            Place::Here { store, .. } => return store.newest(allow_fresh),
            Place::Thread { orders, .. } => orders,
        };
        let (answer, found) = channel::bounded(1);
        if let Some(orders) = orders {
            // If the thread is gone, so is the answer.
            let _ = orders.send(Order::Load { allow_fresh, answer });
        }
        found.recv().unwrap_or(Err(Error::WriterGone))
    }

    /// Goes back to a checkpoint of at most `step` steps, after the one that is being saved. See [`Store::go_back`].
    ///
    /// # Errors
    /// As for that.
    pub fn go_back(&self, step: u64) -> Result<Option<Found>, Error> {
        let orders = match &self.place {
            Place::Here { store, .. } => return store.go_back(step),
            Place::Thread { orders, .. } => orders,
        };
        let (answer, found) = channel::bounded(1);
        if let Some(orders) = orders {
            // If the thread is gone, so is the answer.
            let _ = orders.send(Order::GoBack { step, answer });
        }
        found.recv().unwrap_or(Err(Error::WriterGone))
    }

    /// What has come of the snapshot that was given last, once it is known.
    pub fn saved(&mut self) -> Option<Saved> {
        let saved = self.saved.try_recv().ok()?;
        self.is_busy = false;
        Some(saved)
    }

    /// Waits for that.
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
            // What is being saved is saved; a panic has said what it had to say.
            let _ = thread.join();
        }
    }
}
