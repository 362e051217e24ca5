//! What a store keeps under faults, crashes and damage.
#![allow(clippy::unwrap_used)] // The helpers below are part of the tests.

use ps_checkpoint::simulated::{Fault, SimulatedDisk};
use ps_checkpoint::{Error, Fingerprint, Progress, ResumeCheck, Snapshot, Store, StoreOptions};
use ps_core::{Layout, MetricSums};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

fn fingerprint() -> Fingerprint {
    Fingerprint { run: "r".repeat(64), data: "d".repeat(64), numerics: 1 }
}

fn layout() -> Layout {
    let mut layout = Layout::default();
    layout.push("layers.0.weight".into(), vec![2, 3]);
    layout.push("layers.0.bias".into(), vec![2]);
    layout
}

fn options() -> StoreOptions {
    StoreOptions::new(fingerprint(), layout(), vec!["velocity"], 2)
}

fn open(folder: &Path) -> Result<Store, Error> {
    Store::open(folder, options())
}

fn on(disk: &SimulatedDisk) -> Result<Store, Error> {
    Store::on(Box::new(disk.clone()), Path::new("/"), options())
}

fn snapshot(step: u64) -> Snapshot {
    let metric_sums = MetricSums { samples: step, loss: 0.1 + step as f64, ..MetricSums::new(3) };
    let progress =
        Progress { step, epoch: 1, seconds: 1.5, samples: 10 * step, metric_sums, ..Progress::default() };
    let values = |from: f32| (0..8).map(|index| from + step as f32 + index as f32 / 7.0).collect();
    Snapshot { progress, weights: values(0.1), state: values(-0.3) }
}

fn newest(store: &Store) -> (Option<u64>, Vec<String>) {
    let found = store.newest(false).unwrap();
    if let Some(found) = &found.snapshot {
        assert_eq!(*found, snapshot(found.progress.step));
    }
    (found.snapshot.map(|snapshot| snapshot.progress.step), found.problems)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn saved_checkpoints_are_found_and_only_the_last_few_kept() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("checkpoints");
    let store = open(&folder).unwrap();
    assert_eq!(newest(&store), (None, vec![]));
    for step in [3, 20, 100] {
        store.save(&snapshot(step)).unwrap();
        assert_eq!(newest(&store), (Some(step), vec![]));
    }
    // An existing checkpoint of the same step is not replaced.
    store.save(&snapshot(100)).unwrap();
    assert_eq!(names(&folder), ["holder", "lock", "step-000000000020", "step-000000000100"]);
    drop(store);
    assert_eq!(newest(&open(&folder).unwrap()), (Some(100), vec![]));
}

/// Changes the manifest of a checkpoint and seals it again.
fn rewrite_manifest(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let path = path.join("manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    manifest["sha256"] = "".into();
    let unsealed = serde_json::to_string_pretty(&manifest).unwrap();
    let hash: String = Sha256::digest(&unsealed).iter().map(|byte| format!("{byte:02x}")).collect();
    manifest["sha256"] = hash.into();
    fs::write(path, serde_json::to_string_pretty(&manifest).unwrap()).unwrap();
}

#[test]
fn checkpoints_of_another_numerics_version_are_refused_and_kept() {
    let parent = tempfile::tempdir().unwrap();
    let store = open(parent.path()).unwrap();
    let path = store.save(&snapshot(3)).unwrap();
    // The state of policies has a different form in each version; this form never existed.
    rewrite_manifest(&path, |manifest| {
        manifest["progress"]["control"] = serde_json::json!({ "count": [1, 2] })
    });
    let before = fs::read(path.join("manifest.json")).unwrap();
    rewrite_manifest(&path, |manifest| {
        manifest["fingerprint"]["numerics"] = 0.into();
        manifest["fingerprint"]["run"] = "0".into();
    });
    let error = store.newest(false).unwrap_err();
    assert!(matches!(error, Error::OtherRun { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("the numerics version is 1 here and 0 in the checkpoint"), "{text}");
    assert!(!text.contains("run file"), "{text}");
    assert!(path.is_dir(), "{:?}", names(parent.path()));
    // In the same version, that is damage.
    fs::write(path.join("manifest.json"), before).unwrap();
    let error = store.newest(false).unwrap_err();
    assert!(matches!(error, Error::NoneIsGood { .. }), "{error}");
}

#[test]
fn going_back_removes_all_later_checkpoints_or_none() {
    let parent = tempfile::tempdir().unwrap();
    let store = open(parent.path()).unwrap();
    let back =
        |step| store.go_back(step).unwrap().map(|found| found.snapshot.map(|found| found.progress.step));
    // While there are fewer checkpoints than the store keeps, the beginning counts as one.
    assert_eq!(back(0), Some(None));
    store.save(&snapshot(4)).unwrap();
    assert_eq!(back(3), Some(None));
    assert_eq!(names(parent.path()), ["holder", "lock"]);
    for step in [4, 8] {
        store.save(&snapshot(step)).unwrap();
    }
    assert_eq!(back(3), None);
    assert_eq!(newest(&store), (Some(8), vec![]));
    assert_eq!(back(7), Some(Some(4)));
    assert_eq!(names(parent.path()), ["holder", "lock", "step-000000000004"]);
    // The same step can be saved again.
    store.save(&snapshot(8)).unwrap();
    assert_eq!(back(8), Some(Some(8)));
}

#[cfg(unix)]
#[test]
fn a_device_instead_of_a_file_counts_as_damage_and_is_not_read() {
    let parent = tempfile::tempdir().unwrap();
    let store = open(parent.path()).unwrap();
    for (step, name) in [(1, "manifest.json"), (2, "weights.safetensors")] {
        store.save(&snapshot(0)).unwrap();
        store.save(&snapshot(step)).unwrap();
        let path = parent.path().join(format!("step-{step:012}")).join(name);
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        let (found, problems) = newest(&store);
        assert_eq!(found, Some(0));
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert!(problem.contains(&format!("{name}: this is a device, not a regular file")), "{problem}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_checkpoint_larger_than_memory_is_not_marked_as_damaged() {
    let parent = tempfile::tempdir().unwrap();
    let store = open(parent.path()).unwrap();
    store.save(&snapshot(1)).unwrap();
    store.save(&snapshot(2)).unwrap();
    let before = names(parent.path());
    let weights = parent.path().join("step-000000000002/weights.safetensors");
    fs::File::options().write(true).open(&weights).unwrap().set_len(1 << 42).unwrap();
    let error = store.newest(true).unwrap_err().to_string();
    assert!(
        error.contains(&weights.display().to_string()) && error.contains("the file has 4.0 TiB"),
        "{error}"
    );
    assert_eq!(names(parent.path()), before);
}

#[test]
fn a_folder_is_locked_and_a_fenced_process_publishes_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let store = open(parent.path()).unwrap();
    assert!(matches!(open(parent.path()), Err(Error::Locked { .. })));
    drop(store);

    // Where the lock has no effect, as on some network file systems, the holder number still
    // protects the folder.
    let disk = SimulatedDisk::default();
    let (first, second) = (on(&disk).unwrap(), on(&disk).unwrap());
    let error = first.save(&snapshot(1)).unwrap_err();
    assert!(matches!(error, Error::Fenced { holders: [1, 2], .. }) && error.is_final(), "{error}");
    second.save(&snapshot(2)).unwrap();
    assert_eq!(newest(&second), (Some(2), vec![]));
}

#[test]
fn checkpoints_of_another_run_are_refused_and_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    open(parent.path()).unwrap().save(&snapshot(7)).unwrap();
    let other = Fingerprint { run: "x".into(), ..fingerprint() };
    let store = Store::open(parent.path(), StoreOptions { fingerprint: other, ..options() }).unwrap();
    let error = store.newest(true).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("is x here and rrr"), "{error}");
    drop(store);
    assert_eq!(newest(&open(parent.path()).unwrap()), (Some(7), vec![]));
}

#[test]
fn a_resume_check_decides_whether_another_run_resumes() {
    let parent = tempfile::tempdir().unwrap();
    let first = StoreOptions { run_file: Some("epochs = 1".into()), ..options() };
    Store::open(parent.path(), first).unwrap().save(&snapshot(7)).unwrap();
    let other = |resume_check| StoreOptions {
        fingerprint: Fingerprint { run: "x".into(), ..fingerprint() },
        run_file: Some("epochs = 2".into()),
        resume_check: Some(resume_check),
        ..options()
    };
    let refusing = other(ResumeCheck::new(|manifest| Err(format!("{:?} was saved", manifest.run_file))));
    let error = Store::open(parent.path(), refusing).unwrap().newest(false).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains(r#"Some("epochs = 1") was saved"#), "{error}");
    let store = Store::open(parent.path(), other(ResumeCheck::new(|_| Ok(())))).unwrap();
    assert_eq!(newest(&store), (Some(7), vec![]));
    // The store's own checkpoints are not judged.
    store.save(&snapshot(8)).unwrap();
    drop(store);
    let own = other(ResumeCheck::new(|_| Err("judged".into())));
    assert_eq!(newest(&Store::open(parent.path(), own).unwrap()), (Some(8), vec![]));
}

#[test]
fn every_flipped_byte_and_truncation_is_detected_and_the_previous_checkpoint_used() {
    let parent = tempfile::tempdir().unwrap();
    let store = open(parent.path()).unwrap();
    store.save(&snapshot(1)).unwrap();
    let path = store.save(&snapshot(2)).unwrap();
    let aside = parent.path().join("step-000000000002.damaged");
    for file in ["manifest.json", "weights.safetensors", "velocity.safetensors"] {
        let file = path.join(file);
        let good = fs::read(&file).unwrap();
        let flipped = (0..good.len()).map(|at| {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            bytes
        });
        let cut = (0..good.len()).map(|length| good[..length].to_vec());
        let longer = [good.iter().copied().chain(*b"\n").collect()];
        for bytes in flipped.chain(cut).chain(longer) {
            fs::write(&file, &bytes).unwrap();
            let (step, problems) = newest(&store);
            let text = String::from_utf8_lossy(&bytes);
            assert_eq!((step, problems.len()), (Some(1), 1), "{problems:?} {text}");
            fs::rename(&aside, &path).unwrap();
        }
        fs::remove_file(&file).unwrap();
        assert_eq!(newest(&store).0, Some(1));
        fs::rename(&aside, &path).unwrap();
        fs::write(&file, &good).unwrap();
    }
    assert_eq!(newest(&store), (Some(2), vec![]));
}

#[test]
fn a_renamed_checkpoint_is_rejected() {
    let parent = tempfile::tempdir().unwrap();
    let store = open(parent.path()).unwrap();
    store.save(&snapshot(1)).unwrap();
    let path = store.save(&snapshot(2)).unwrap();
    fs::rename(path, parent.path().join("step-000000000003")).unwrap();
    let (step, problems) = newest(&store);
    assert_eq!(step, Some(1));
    assert!(
        problems[0].contains("manifest.json is of step 2, but the folder is named for step 3"),
        "{problems:?}"
    );
}

#[test]
fn without_a_valid_checkpoint_a_fresh_start_must_be_allowed() {
    let parent = tempfile::tempdir().unwrap();
    let store = open(parent.path()).unwrap();
    let path = store.save(&snapshot(1)).unwrap();
    fs::write(path.join("manifest.json"), b"{}").unwrap();
    for attempt in 1..=2 {
        let error = store.newest(false).unwrap_err().to_string();
        assert!(
            error.contains("all checkpoints are damaged") && error.contains("--allow-fresh"),
            "{attempt}: {error}"
        );
    }
    let found = store.newest(true).unwrap();
    assert_eq!(found.snapshot, None);
}

/// Creates a store with checkpoints 1 and 2. Returns the number of operations that this took.
fn prepared(disk: &SimulatedDisk) -> u64 {
    let store = on(disk).unwrap();
    store.save(&snapshot(1)).unwrap();
    store.save(&snapshot(2)).unwrap();
    disk.operations()
}

#[test]
fn a_crash_at_any_operation_leaves_the_old_or_new_checkpoint_and_loses_no_saved_one() {
    let (mut points, mut kept_old, mut kept_new) = (0, 0, 0);
    for seed in 0..40 {
        for point in 0.. {
            let disk = SimulatedDisk::default();
            let before = prepared(&disk);
            disk.fault_at(before + point, Fault::Crash);
            let saved = on(&disk).and_then(|store| store.save(&snapshot(3)));
            let is_over = disk.operations() < before + point;
            disk.crash(seed);
            let store = on(&disk).unwrap();
            let (step, problems) = newest(&store);
            let context =
                format!("seed {seed}, crash at operation {point}: {step:?}, {problems:?}, {saved:?}");
            assert!(step == Some(3) || step == Some(2) && saved.is_err(), "{context}");
            assert_eq!(problems, [""; 0], "{context}");
            // Saving continues from there.
            store.save(&snapshot(4)).unwrap();
            assert_eq!(newest(&store).0, Some(4), "{context}");
            match step {
                Some(3) => kept_new += 1,
                _ => kept_old += 1,
            }
            if is_over {
                break;
            }
            points += 1;
        }
    }
    assert!(points > 40 * 12 && kept_old > 100 && kept_new > 100, "{points} {kept_old} {kept_new}");
}

#[test]
fn an_error_at_any_operation_is_reported_and_loses_no_checkpoint() {
    let mut told = 0;
    for kind in [ErrorKind::StorageFull, ErrorKind::Other, ErrorKind::ReadOnlyFilesystem] {
        for point in 0.. {
            let disk = SimulatedDisk::default();
            let before = prepared(&disk);
            let store = on(&disk).unwrap();
            let begun = disk.operations();
            disk.fault_at(begun + point, Fault::Error(kind));
            let saved = store.save(&snapshot(3));
            if disk.operations() <= begun + point {
                assert!(saved.is_ok() && point > 8, "{before} {point}: {saved:?}");
                break;
            }
            told += usize::from(saved.is_err());
            // The last sync and the pruning of older checkpoints may fail after the checkpoint is there.
            let (step, problems) = newest(&store);
            assert!(
                step == Some(2) && saved.is_err() || step == Some(3),
                "{kind:?} {point}: {step:?} {saved:?}"
            );
            assert_eq!(problems, [""; 0]);
        }
    }
    assert!(told > 20, "{told}");
}

#[test]
fn a_shortage_of_file_descriptors_is_recoverable_like_a_full_disk() {
    let mut met = 0;
    for point in 0..14 {
        let disk = SimulatedDisk::default();
        prepared(&disk);
        let store = on(&disk).unwrap();
        disk.fault_at(disk.operations() + point, Fault::Shortage);
        if let Err(error) = store.save(&snapshot(3)) {
            assert!(!error.is_final(), "{point}: {error}");
            met += 1;
        }
        disk.restart();
        // The next attempt is durable, even if the first one had already renamed the checkpoint.
        store.save(&snapshot(3)).unwrap();
        for seed in 0..8 {
            disk.crash(seed);
            assert_eq!(newest(&on(&disk).unwrap()), (Some(3), vec![]), "{point}");
        }
    }
    assert!(met > 8, "{met}");
}

#[test]
fn a_disk_that_writes_wrong_bytes_is_detected_immediately() {
    let mut found = 0;
    for point in 0..12 {
        let disk = SimulatedDisk::default();
        prepared(&disk);
        let store = on(&disk).unwrap();
        disk.fault_at(disk.operations() + point, Fault::Flip);
        if let Err(error) = store.save(&snapshot(3)) {
            assert!(matches!(error, Error::ReadBack { .. }) && error.is_final(), "{error}");
            found += 1;
        }
    }
    assert_eq!(found, 3);
}

#[test]
fn a_failed_sync_is_final_and_other_errors_are_not() {
    let disk = SimulatedDisk::default();
    prepared(&disk);
    let store = on(&disk).unwrap();
    let mut kinds = Vec::new();
    for point in 0..14 {
        disk.fault_at(disk.operations() + point, Fault::Error(ErrorKind::Other));
        if let Err(error) = store.save(&snapshot(10 + point)) {
            kinds.push((error.is_final(), matches!(error, Error::NotDurable { .. })));
        }
    }
    assert!(kinds.iter().all(|(is_final, not_durable)| is_final == not_durable), "{kinds:?}");
    assert!(kinds.contains(&(true, true)) && kinds.contains(&(false, false)), "{kinds:?}");
}
