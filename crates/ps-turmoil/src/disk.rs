//! The coordinator's disk, which forgets what was not made durable when its machine stops, and a record of what was.
//!
//! It is `ps-checkpoint`'s: turmoil's own (0.7.2) loses what is in a folder that gets another name.

use ps_checkpoint::Disk;
use ps_checkpoint::simulated::{Fault, SimulatedDisk};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The disk and what is known of it; clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct WatchedDisk {
    disk: SimulatedDisk,
    record: Arc<Mutex<Record>>,
}

#[derive(Debug, Default)]
struct Record {
    /// The operation at which the power fails.
    fails_at: Option<u64>,
    /// Checkpoints that got their names since the folder of all was last made durable.
    named: BTreeSet<u64>,
    /// Checkpoints that are durable, by steps.
    durable: BTreeSet<u64>,
    /// The hash of the results, once they are written.
    result: Option<String>,
}

impl WatchedDisk {
    /// The power fails in the middle of one of the next operations, after so many.
    pub(crate) fn fail_after(&self, operations: u64) {
        let at = self.disk.operations() + operations;
        self.disk.fault_at(at, Fault::Crash);
        self.record().fails_at = Some(at);
    }

    /// Whether the power has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.record().fails_at.is_some_and(|at| at < self.disk.operations())
    }

    /// The machine stops: of what was not made durable some is gone, as `seed` has it.
    pub(crate) fn stop(&self, seed: u64) {
        self.disk.crash(seed);
        let mut record = self.record();
        record.fails_at = None;
        record.named.clear();
    }

    /// The results are written, durably.
    pub(crate) fn finish(&self, hash: String) {
        self.record().result = Some(hash);
    }

    /// The hash of the results, once they are.
    pub(crate) fn result(&self) -> Option<String> {
        self.record().result.clone()
    }

    /// The steps of the newest checkpoint that is durable; 0 without one.
    pub(crate) fn durable(&self) -> u64 {
        self.record().durable.last().copied().unwrap_or(0)
    }

    /// How many checkpoints were made durable.
    pub(crate) fn saves(&self) -> u64 {
        self.record().durable.len() as u64
    }

    /// Consistent between any two statements, so a panic elsewhere does not spoil it.
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The steps in the name of a checkpoint.
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
