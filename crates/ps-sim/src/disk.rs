//! The coordinator's disk: how saving on it goes wrong, what a process finds there, and that nothing that was reported as
//! saved is lost.

use crate::SimJob;
use crate::network::Network;
use ps_checkpoint::simulated::{Fault, SimulatedDisk};
use ps_checkpoint::{Disk, Fingerprint, Kept, Snapshot, Store};
use ps_coord::Millis;
use ps_plan::planted::{Defect, Planted};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Checkpoints that are kept.
const KEPT: usize = 2;
/// A save has at most so many operations that can fail.
const OPERATIONS: u32 = 16;

/// The coordinator's disk, and what it promised to keep. It outlives the process.
pub(crate) struct CheckpointDisk {
    disk: SimulatedDisk,
    kept: Kept,
    /// The open folder of the process that now is.
    store: Option<Store>,
    /// The newest step that was reported as saved.
    durable: u64,
    planted: Planted,
}

/// What came of saving.
pub(crate) enum Saved {
    /// It goes on.
    On,
    /// The process ends, and with it perhaps the machine.
    Ended,
}

impl CheckpointDisk {
    pub(crate) fn new(job: &SimJob<'_>) -> Self {
        let fingerprint = Fingerprint { run: "run".into(), data: "data".into(), numerics: 1 };
        let state = job.control().vectors();
        let kept = Kept::new(fingerprint, job.model.layout().clone(), state, KEPT);
        CheckpointDisk { disk: SimulatedDisk::default(), kept, store: None, durable: 0, planted: job.planted }
    }

    /// The process is gone, and perhaps the machine has lost what was not durable.
    pub(crate) fn end(&mut self, network: &mut Network) {
        self.store = None;
        if network.chance(0.5) {
            network.counts.machine_crashes += 1;
            let seed = u64::from(network.below(u32::MAX));
            self.disk.crash(seed);
        } else {
            self.disk.restart();
        }
    }

    /// A new process takes the folder.
    pub(crate) fn start(&mut self, now: Millis, network: &mut Network) -> Result<(), String> {
        self.rot(now, network)?;
        let store = Store::on(Box::new(self.disk.clone()), Path::new("/"), self.kept.clone());
        self.store = Some(store.map_err(|error| format!("the checkpoints are not opened: {error}"))?);
        Ok(())
    }

    /// What the run goes on from; nothing if it begins. It is never older than what was reported as saved.
    pub(crate) fn newest(&mut self, network: &mut Network) -> Result<Option<Snapshot>, String> {
        let store = self.store.as_ref().ok_or("nothing is loaded before the folder is open")?;
        let mut found = store.newest(false).map_err(|error| format!("nothing is found: {error}"))?;
        network.counts.fallbacks += u64::from(!found.problems.is_empty());
        let step = found.snapshot.as_ref().map_or(0, |snapshot| snapshot.progress.step);
        if let Some(snapshot) = &mut found.snapshot
            && self.planted.has(Defect::StepSkippedOnResume)
        {
            snapshot.progress.step += 1;
        }
        match step >= self.durable {
            true => Ok(found.snapshot),
            false => Err(format!("the run goes on after {step} steps, and {} were saved", self.durable)),
        }
    }

    /// What the run goes back to that was saved after at most `step` steps; nothing within if it begins again, and nothing
    /// at all if that is not to be had any more.
    pub(crate) fn go_back(
        &mut self,
        step: u64,
        network: &mut Network,
    ) -> Result<Option<Option<Snapshot>>, String> {
        let store = self.store.as_ref().ok_or("nothing is gone back to before the folder is open")?;
        let found = store.go_back(step).map_err(|error| format!("the run cannot go back: {error}"))?;
        let Some(found) = found else { return Ok(None) };
        network.counts.fallbacks += u64::from(!found.problems.is_empty());
        self.durable = found.snapshot.as_ref().map_or(0, |snapshot| snapshot.progress.step);
        Ok(Some(found.snapshot))
    }

    /// Saves, while things go wrong.
    pub(crate) fn save(
        &mut self,
        now: Millis,
        snapshot: &Snapshot,
        network: &mut Network,
    ) -> Result<Saved, String> {
        let version = snapshot.progress.step;
        let Some(store) = &self.store else { return Ok(Saved::On) };
        let faults = network.faults.clone();
        let operation = self.disk.operations() + u64::from(network.below(OPERATIONS));
        let fault = match () {
            () if network.strikes(now, faults.save_crash) => Some(Fault::Crash),
            () if network.strikes(now, faults.save_error) => Some(Fault::Error(ErrorKind::StorageFull)),
            () if network.strikes(now, faults.save_error) => Some(Fault::Flip),
            () => None,
        };
        fault.iter().for_each(|fault| self.disk.fault_at(operation, *fault));
        if self.planted.has(Defect::SavedBeforeDurable) {
            self.durable = self.durable.max(version);
        }
        let saved = store.save(snapshot);
        network.counts.saves += u64::from(saved.is_ok());
        match (saved, fault) {
            (Ok(_), _) => {
                self.durable = self.durable.max(version);
                if self.disk.is_down() {
                    return Err("a checkpoint is reported as saved by a machine that is down".into());
                }
                self.disk.restart();
                Ok(Saved::On)
            }
            (Err(error), None) => Err(format!("nothing was wrong, but step {version} is not saved: {error}")),
            (Err(_), Some(Fault::Crash)) => {
                network.counts.crashes_saving += 1;
                Ok(Saved::Ended)
            }
            (Err(error), Some(_)) => {
                network.counts.saves_failed += 1;
                self.disk.restart();
                Ok(if error.is_final() { Saved::Ended } else { Saved::On })
            }
        }
    }

    /// While nobody looked, the newest checkpoint has lost a bit; there is another one.
    fn rot(&mut self, now: Millis, network: &mut Network) -> Result<(), String> {
        let names = self.disk.list(Path::new("/")).map_err(|error| error.to_string())?;
        let whole =
            |name: &&String| name.strip_prefix("step-").is_some_and(|step| step.parse::<u64>().is_ok());
        let mut checkpoints: Vec<&String> = names.iter().filter(whole).collect();
        checkpoints.sort_unstable();
        let [.., before, newest] = checkpoints[..] else { return Ok(()) };
        if !network.strikes(now, network.faults.rot) {
            return Ok(());
        }
        let file: PathBuf = Path::new("/").join(newest).join("weights.safetensors");
        let mut content = self.disk.read(&file).map_err(|error| error.to_string())?;
        let at = network.below(content.len() as u32) as usize;
        content[at] ^= 1 << network.below(8);
        let written = self.disk.write(&file, &content).and_then(|()| self.disk.sync(&file));
        written.map_err(|error| error.to_string())?;
        let step = before.strip_prefix("step-").and_then(|step| step.parse().ok());
        self.durable = self.durable.min(step.unwrap_or(0));
        network.counts.rots += 1;
        Ok(())
    }
}
