//! The coordinator's disk, which loses what was not durable when its machine crashes, and a record of
//! what must survive.
//!
//! It is the simulated disk of `ps-checkpoint`, because turmoil's own (0.7.2) loses the contents of
//! a renamed folder.

use ps_checkpoint::Disk;
use ps_checkpoint::simulated::{Fault, SimulatedDisk};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The disk and its record. Clones share both.
#[derive(Clone, Debug, Default)]
pub(crate) struct WatchedDisk {
    disk: SimulatedDisk,
    record: Arc<Mutex<Record>>,
}

#[derive(Debug, Default)]
struct Record {
    /// The operation at which the power fails.
    fails_at: Option<u64>,
    /// Checkpoints that were renamed after the parent folder was last made durable.
    named: BTreeSet<u64>,
    /// The steps of the checkpoints that are durable.
    durable: BTreeSet<u64>,
    /// The hash of the results, once these have been written.
    result: Option<String>,
}

impl WatchedDisk {
    /// Schedules a power failure after this number of operations.
    pub(crate) fn fail_after(&self, operations: u64) {
        let at = self.disk.operations() + operations;
        self.disk.fault_at(at, Fault::Crash);
        self.record().fails_at = Some(at);
    }

    /// Whether the power has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.record().fails_at.is_some_and(|at| at < self.disk.operations())
    }

    /// Crashes the machine. `seed` decides what survives of the data that was not durable.
    pub(crate) fn stop(&self, seed: u64) {
        self.disk.crash(seed);
        let mut record = self.record();
        record.fails_at = None;
        // A rename that was not synced may survive, but the store has not promised it.
        record.named.clear();
    }

    /// Records that the results have been written durably.
    pub(crate) fn finish(&self, hash: String) {
        self.record().result = Some(hash);
    }

    /// The hash of the results, once these have been written.
    pub(crate) fn result(&self) -> Option<String> {
        self.record().result.clone()
    }

    /// The step of the newest durable checkpoint; 0 if there is none.
    pub(crate) fn durable(&self) -> u64 {
        self.record().durable.last().copied().unwrap_or(0)
    }

    /// Number of checkpoints that were made durable.
    pub(crate) fn saves(&self) -> u64 {
        self.record().durable.len() as u64
    }

    /// The record is consistent between any two statements, so a poisoned lock is safe to use.
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The step in the name of a checkpoint.
fn steps(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()
}

impl Disk for WatchedDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.disk.create_folder(path)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.disk.write(path, bytes)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.disk.sync(path)?;
        // A renamed checkpoint is durable once the folder that lists its name is.
        if path == Path::new("/") {
            let mut record = self.record();
            let named = std::mem::take(&mut record.named);
            record.durable.extend(named);
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)?;
        self.record().named.extend(steps(to));
        Ok(())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.disk.read(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_folder(path)
    }
}
