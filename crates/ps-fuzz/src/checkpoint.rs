//! A checkpoint folder whose three files have arbitrary contents.

use crate::{Seed, choice, part, with_length};
use ps_checkpoint::simulated::SimulatedDisk;
use ps_checkpoint::{
    Disk, FileEntry, Fingerprint, Manifest, Progress, Snapshot, Store, StoreOptions, tensors,
};
use ps_core::{Layout, MetricSums};
use std::path::Path;

const FOLDER: &str = "/step-000000000007";
const FILES: [&str; 3] = ["manifest.json", "weights.safetensors", "velocity.safetensors"];

/// Reads manifest, weights and velocity from the input. If the first byte is odd, the manifest gets the right
/// sizes and hashes of the other files, so that the code behind these checks is reached.
pub(crate) fn run(input: &[u8]) {
    let (choice, rest) = choice(input);
    let (manifest, rest) = part(rest);
    let (weights, velocity) = part(rest);
    let _ = (tensors::from_bytes(&layout(), weights), tensors::from_bytes(&layout(), velocity));
    let mut manifest = manifest.to_vec();
    if !choice.is_multiple_of(2)
        && let Some(sealed) = serde_json::from_slice::<Manifest>(&manifest).ok().and_then(|manifest| {
            let files = vec![FileEntry::of(FILES[1], weights), FileEntry::of(FILES[2], velocity)];
            Manifest { files, ..manifest }.seal().ok()
        })
    {
        manifest = sealed;
    }
    let stated = Manifest::open(&manifest);
    let disk = SimulatedDisk::default();
    place(&disk, [&manifest, weights, velocity]);
    let store = store(&disk, choice);
    match store.newest(false) {
        Ok(found) => {
            let snapshot = found.snapshot.expect("there is one, or none is good");
            let manifest = stated.expect("what is loaded has a good manifest");
            assert_eq!((found.problems.len(), snapshot.progress.step), (0, 7));
            assert_eq!(
                bits(&snapshot.weights),
                bits(&tensors::from_bytes(&layout(), weights).expect("it was loaded"))
            );
            assert!(manifest.files.contains(&FileEntry::of(FILES[1], weights)));
            saved_again(&snapshot, choice);
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            // The store still knows that there was a checkpoint.
            assert!(store.newest(false).is_err());
        }
    }
}

/// A loaded snapshot can be saved, and reads back the same.
fn saved_again(snapshot: &Snapshot, choice: u8) {
    let disk = SimulatedDisk::default();
    let store = store(&disk, choice);
    store.save(snapshot).expect("nothing is wrong with the disk");
    let again = store.newest(false).expect("it was saved").snapshot.expect("it was saved");
    assert_eq!(again.progress, snapshot.progress);
    assert_eq!(bits(&again.weights), bits(&snapshot.weights));
    assert_eq!(bits(&again.state), bits(&snapshot.state));
}

fn place(disk: &SimulatedDisk, files: [&[u8]; 3]) {
    let folder = Path::new(FOLDER);
    let placed = disk.create_folder(folder).and_then(|()| {
        FILES.iter().zip(files).try_for_each(|(name, content)| disk.write(&folder.join(name), content))
    });
    placed.expect("nothing is wrong with the disk");
}

fn store(disk: &SimulatedDisk, choice: u8) -> Store {
    let state = if choice & 2 == 0 { vec!["velocity"] } else { Vec::new() };
    let options = StoreOptions::new(fingerprint(), layout(), state, 2);
    Store::on(Box::new(disk.clone()), Path::new("/"), options).expect("nothing is wrong with the disk")
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn fingerprint() -> Fingerprint {
    Fingerprint { run: "r".into(), data: "d".into(), numerics: 1 }
}

fn layout() -> Layout {
    let mut layout = Layout::default();
    layout.push("layers.0.weight".into(), vec![2, 3]);
    layout.push("layers.0.bias".into(), vec![2]);
    layout
}

pub(crate) fn seeds() -> Vec<Seed> {
    let snapshot = Snapshot {
        progress: Progress {
            step: 7,
            epoch: 1,
            seconds: 1.5,
            samples: 70,
            metric_sums: MetricSums { loss: 0.1, ..MetricSums::new(3) },
            ..Progress::default()
        },
        weights: (0..8).map(|index| index as f32 / 7.0).collect(),
        state: vec![-0.5; 8],
    };
    let disk = SimulatedDisk::default();
    store(&disk, 0).save(&snapshot).expect("nothing is wrong with the disk");
    let file = |name: &str| disk.read(&Path::new(FOLDER).join(name)).expect("it was saved");
    let [manifest, weights, velocity] = FILES.map(file);
    let all = |choice: u8, manifest: &[u8]| {
        [&[choice][..], &with_length(manifest), &with_length(&weights), &velocity].concat()
    };
    let later = String::from_utf8_lossy(&manifest).replace("\"step\": 7", "\"step\": 8");
    vec![
        ("good", all(0, &manifest)),
        ("good-without-velocity", all(2, &manifest)),
        ("sealed", all(1, &manifest)),
        ("of-another-step", all(1, later.as_bytes())),
        ("empty-manifest", all(0, b"{}")),
    ]
}
