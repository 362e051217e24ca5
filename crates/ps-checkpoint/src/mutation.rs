//! Mutations of a store, for tests that check that the simulated disk detects them.
//!
//! Only this crate's own tests can create one. In other builds, [`ActiveMutation`] is empty, and the compiler
//! removes all checks for mutations.

/// A mutation of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// Files are not made durable.
    NoFileSync,
    /// The checkpoint's folder is not made durable before it is renamed.
    NoFolderSyncBeforeRename,
    /// The parent folder is not made durable after the rename.
    NoFolderSyncAfterRename,
    /// Older checkpoints are removed before the newest one has been renamed.
    PruneTooEarly,
    /// A process reuses the holder number of the previous one.
    ReuseHolderNumber,
    /// A checkpoint counts as saved even if the last sync failed.
    ReportBeforeDurable,
    /// Loaded files are not compared with their hashes.
    LoadWithoutVerify,
}

/// The mutation of a store, if any.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ActiveMutation {
    #[cfg(test)]
    pub(crate) mutation: Option<Mutation>,
}

impl ActiveMutation {
    #[cfg(test)]
    pub(crate) fn is(self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    #[cfg(not(test))]
    pub(crate) const fn is(self, _: Mutation) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulated::{Fault, SimulatedDisk};
    use crate::{Disk, Error, Fingerprint, Progress, Snapshot, Store, StoreOptions};
    use ps_core::{Layout, MetricSums};
    use ps_plan::seed::{Purpose, Stream};
    use std::io::ErrorKind;
    use std::path::Path;

    /// Number of seeds within which a mutation must be detected.
    const SEEDS: u64 = 200;

    fn store(disk: &SimulatedDisk, mutation: Option<Mutation>) -> Result<Store, Error> {
        let mut layout = Layout::default();
        layout.push("layers.0.weight".into(), vec![2, 3]);
        let fingerprint = Fingerprint { run: "r".into(), data: "d".into(), numerics: 1 };
        let options = StoreOptions::new(fingerprint, layout, vec!["velocity"], 1);
        Store::with_mutation(Box::new(disk.clone()), Path::new("/"), options, ActiveMutation { mutation })
    }

    fn snapshot(step: u64) -> Snapshot {
        let values = |from: f32| (0..6).map(|index| from + step as f32 + index as f32).collect();
        let progress = Progress { step, metric_sums: MetricSums::new(2), ..Progress::default() };
        Snapshot { progress, weights: values(0.1), state: values(-0.3) }
    }

    /// A disk with checkpoint 2.
    fn prepared(mutation: Option<Mutation>) -> SimulatedDisk {
        let disk = SimulatedDisk::default();
        store(&disk, mutation).unwrap().save(&snapshot(2)).unwrap();
        // The setup is durable, because the mutation is tested on what follows.
        for path in ["/step-000000000002", "/"] {
            disk.sync(Path::new(path)).unwrap();
        }
        for file in ["manifest.json", "weights.safetensors", "velocity.safetensors"] {
            disk.sync(&Path::new("/step-000000000002").join(file)).unwrap();
        }
        disk
    }

    /// Checks that a store opened now finds what it must, depending on whether step 3 was reported as saved.
    fn finds(disk: &SimulatedDisk, mutation: Option<Mutation>, was_saved: bool) -> Result<(), String> {
        let found =
            store(disk, mutation).and_then(|store| store.newest(false)).map_err(|error| error.to_string())?;
        let snapshot_found = found.snapshot.ok_or("nothing is there")?;
        let step = snapshot_found.progress.step;
        if snapshot_found != snapshot(step) {
            return Err(format!("what is loaded is not step {step}"));
        }
        match (step, was_saved, &found.problems[..]) {
            (3, _, []) | (2, false, []) => Ok(()),
            (_, _, problems) => Err(format!("step {step}, called saved: {was_saved}, {problems:?}")),
        }
    }

    /// Saves with a fault at each operation in turn, each followed by a crash.
    fn faulty_saves(mutation: Option<Mutation>, seed: u64, fault: Fault) -> Result<(), String> {
        for point in 0.. {
            let disk = prepared(mutation);
            let before = disk.operations();
            disk.fault_at(before + point, fault);
            let saved = store(&disk, mutation).and_then(|store| store.save(&snapshot(3)));
            let is_over = disk.operations() < before + point;
            disk.crash(seed);
            finds(&disk, mutation, saved.is_ok())
                .map_err(|problem| format!("{fault:?} at {point}: {problem}"))?;
            if is_over {
                break;
            }
        }
        Ok(())
    }

    /// Lets two processes use the folder at the same time, as if locks had no effect.
    fn two_at_a_time(mutation: Option<Mutation>) -> Result<(), String> {
        let disk = prepared(mutation);
        let (first, _second) = (store(&disk, mutation).unwrap(), store(&disk, mutation).unwrap());
        match first.save(&snapshot(3)) {
            Err(Error::Fenced { .. }) => Ok(()),
            other => Err(format!("the older of two processes: {other:?}")),
        }
    }

    /// Flips a bit of a tensor on the disk.
    fn flipped(mutation: Option<Mutation>, seed: u64) -> Result<(), String> {
        let disk = prepared(mutation);
        let store = store(&disk, mutation).unwrap();
        let path = store.save(&snapshot(3)).unwrap().join("weights.safetensors");
        let mut bytes = disk.read(&path).unwrap();
        let at = Stream::new(seed, Purpose::Simulation, 1).below(bytes.len() as u32) as usize;
        bytes[at] ^= 1;
        disk.write(&path, &bytes).unwrap();
        match store.newest(true).map_err(|error| error.to_string())?.snapshot {
            Some(found) if found != snapshot(found.progress.step) => {
                Err(format!("byte {at} has flipped, and is loaded"))
            }
            _ => Ok(()),
        }
    }

    /// Runs all scenarios with one seed.
    fn check(mutation: Option<Mutation>, seed: u64) -> Result<(), String> {
        faulty_saves(mutation, seed, Fault::Crash)?;
        faulty_saves(mutation, seed, Fault::Error(ErrorKind::Other))?;
        two_at_a_time(mutation)?;
        flipped(mutation, seed)
    }

    #[test]
    fn every_mutation_is_detected_within_200_seeds() {
        use Mutation::*;
        for mutation in [
            NoFileSync,
            NoFolderSyncBeforeRename,
            NoFolderSyncAfterRename,
            PruneTooEarly,
            ReuseHolderNumber,
            ReportBeforeDurable,
            LoadWithoutVerify,
        ] {
            let found = (0..SEEDS).find_map(|seed| Some((seed, check(Some(mutation), seed).err()?)));
            let (seed, problem) = found.unwrap_or_else(|| panic!("{mutation:?} does not come to light"));
            println!("{mutation:?}: seed {seed}: {problem}");
        }
    }

    #[test]
    fn nothing_is_detected_without_a_mutation() {
        for seed in 0..SEEDS {
            check(None, seed).unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
        }
    }
}
