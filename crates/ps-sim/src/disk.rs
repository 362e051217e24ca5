//! The coordinator's disk: injects faults into saves, and checks what a new process finds and that no
//! checkpoint reported as saved is lost.

use crate::SimJob;
use crate::network::Network;
use ps_checkpoint::simulated::{Fault, SimulatedDisk};
use ps_checkpoint::{Disk, Fingerprint, Snapshot, Store, StoreOptions};
use ps_coord::Millis;
use ps_plan::mutation::{ActiveMutation, Mutation};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Number of checkpoints that are kept.
const KEPT: usize = 2;
/// Upper bound on the operations of a save that can fail.
const OPERATIONS: u32 = 16;

/// The coordinator's disk and the checkpoints that it must keep. It outlives the coordinator's process.
pub(crate) struct CheckpointDisk {
    disk: SimulatedDisk,
    options: StoreOptions,
    /// The checkpoint folder as the current process has opened it.
    store: Option<Store>,
    /// The newest step that was reported as saved.
    durable: u64,
    mutation: ActiveMutation,
}

/// The effect of a save on the process.
pub(crate) enum Saved {
    /// The process continues.
    Continues,
    /// The process ends, and the machine may have crashed with it.
    Ends,
}

impl CheckpointDisk {
    pub(crate) fn new(job: &SimJob<'_>) -> Self {
        let fingerprint = Fingerprint { run: "run".into(), data: "data".into(), numerics: 1 };
        let state = job.control().vectors();
        let options = StoreOptions::new(fingerprint, job.model.layout().clone(), state, KEPT);
        CheckpointDisk {
            disk: SimulatedDisk::default(),
            options,
            store: None,
            durable: 0,
            mutation: job.mutation,
        }
    }

    /// Ends the process. The machine may crash as well and lose what was not durable.
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

    /// Opens the folder for a new process.
    pub(crate) fn start(&mut self, now: Millis, network: &mut Network) -> Result<(), String> {
        self.corrupt_newest(now, network)?;
        let store = Store::on(Box::new(self.disk.clone()), Path::new("/"), self.options.clone());
        self.store = Some(store.map_err(|error| format!("the checkpoints are not opened: {error}"))?);
        Ok(())
    }

    /// The checkpoint from which the run resumes; `None` if it starts from the beginning. Must not be older
    /// than what was reported as saved.
    pub(crate) fn newest(&mut self, network: &mut Network) -> Result<Option<Snapshot>, String> {
        let store = self.store.as_ref().ok_or("nothing is loaded before the folder is open")?;
        let mut found = store.newest(false).map_err(|error| format!("nothing is found: {error}"))?;
        network.counts.fallbacks += u64::from(!found.problems.is_empty());
        let step = found.snapshot.as_ref().map_or(0, |snapshot| snapshot.progress.step);
        if let Some(snapshot) = &mut found.snapshot
            && self.mutation.is(Mutation::StepSkippedOnResume)
        {
            snapshot.progress.step += 1;
        }
        match step >= self.durable {
            true => Ok(found.snapshot),
            false => Err(format!("the run goes on after {step} steps, and {} were saved", self.durable)),
        }
    }

    /// Returns to a checkpoint of at most `step` steps. The inner `None` stands for the beginning of the run;
    /// the outer `None` means that no such checkpoint is left.
    pub(crate) fn roll_back(
        &mut self,
        step: u64,
        network: &mut Network,
    ) -> Result<Option<Option<Snapshot>>, String> {
        let store = self.store.as_ref().ok_or("nothing is gone back to before the folder is open")?;
        let found = store.go_back(step).map_err(|error| format!("the run cannot go back: {error}"))?;
        let Some(found) = found else { return Ok(None) };
        network.counts.fallbacks += u64::from(!found.problems.is_empty());
        // The store has deleted the later checkpoints on purpose, so they need not be found again.
        self.durable = found.snapshot.as_ref().map_or(0, |snapshot| snapshot.progress.step);
        Ok(Some(found.snapshot))
    }

    /// Saves a snapshot, with faults.
    pub(crate) fn save(
        &mut self,
        now: Millis,
        snapshot: &Snapshot,
        network: &mut Network,
    ) -> Result<Saved, String> {
        let version = snapshot.progress.step;
        let Some(store) = &self.store else { return Ok(Saved::Continues) };
        let faults = network.faults.clone();
        let operation = self.disk.operations() + u64::from(network.below(OPERATIONS));
        let fault = match () {
            () if network.occurs(now, faults.save_crash) => Some(Fault::Crash),
            () if network.occurs(now, faults.save_error) => Some(Fault::Error(ErrorKind::StorageFull)),
            () if network.occurs(now, faults.save_error) => Some(Fault::Flip),
            () => None,
        };
        fault.iter().for_each(|fault| self.disk.fault_at(operation, *fault));
        if self.mutation.is(Mutation::SavedBeforeDurable) {
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
                // Cancels a fault at an operation that the save did not reach, so that it does not hit the
                // next one.
                self.disk.restart();
                Ok(Saved::Continues)
            }
            (Err(error), None) => Err(format!("nothing was wrong, but step {version} is not saved: {error}")),
            (Err(_), Some(Fault::Crash)) => {
                network.counts.crashes_saving += 1;
                Ok(Saved::Ends)
            }
            (Err(error), Some(_)) => {
                network.counts.saves_failed += 1;
                self.disk.restart();
                Ok(if error.is_final() { Saved::Ends } else { Saved::Continues })
            }
        }
    }

    /// Flips a bit in the newest checkpoint if there is another one.
    fn corrupt_newest(&mut self, now: Millis, network: &mut Network) -> Result<(), String> {
        let names = self.disk.list(Path::new("/")).map_err(|error| error.to_string())?;
        let whole =
            |name: &&String| name.strip_prefix("step-").is_some_and(|step| step.parse::<u64>().is_ok());
        let mut checkpoints: Vec<&String> = names.iter().filter(whole).collect();
        checkpoints.sort_unstable();
        // If the only checkpoint is damaged, a run rightly refuses to start, which would end the simulation.
        let [.., before, newest] = checkpoints[..] else { return Ok(()) };
        if !network.occurs(now, network.faults.corruption) {
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
        network.counts.corruptions += 1;
        Ok(())
    }
}
