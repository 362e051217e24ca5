//! Every target handles each file of `fuzz/seeds`, and a fixed number of inputs derived from them, without a
//! panic and without using memory that the input does not justify.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use ps_fuzz::mutate::mutate;
use ps_fuzz::{Target, targets};
use ps_plan::seed::{Purpose, Stream};
use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Number of inputs that are derived for each target.
const INPUTS: usize = 4000;

/// Maximum memory that a target may hold at a time, for inputs of a few kilobytes.
const MAX_BYTES: usize = 64 << 20;

#[global_allocator]
static COUNTED: Counted = Counted;

/// An allocator that counts the bytes in use.
struct Counted;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MAX_HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all calls are passed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MAX_HELD.fetch_max(HELD.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn seeds_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds")
}

/// The files in a target's folder, by name.
fn files(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = seeds_folder().join(target.name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let file = |entry: fs::DirEntry| {
        (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).unwrap())
    };
    let mut files: Vec<_> = entries.map(|entry| file(entry.unwrap())).collect();
    files.sort();
    files
}

#[test]
fn every_target_handles_any_input_in_bounded_memory() {
    let seed = u64::from(std::process::id());
    for target in targets() {
        let take = |input: &[u8], what: &dyn std::fmt::Display| {
            let held = HELD.load(Relaxed);
            MAX_HELD.store(held, Relaxed);
            let ended = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
            let peak = MAX_HELD.load(Relaxed).saturating_sub(held);
            let (name, input) = (target.name, input.escape_ascii());
            assert!(ended.is_ok(), "{name} panicked on {what}, see above: {input}");
            assert!(peak < MAX_BYTES, "{name} took {peak} bytes of memory for {what}: {input}");
        };
        let files = files(&target);
        files.iter().for_each(|(file, input)| take(input, file));
        let mut random = Stream::new(seed, Purpose::Simulation, 0);
        for number in 0..INPUTS {
            let mut some = || &files[random.below(files.len() as u32) as usize].1;
            let (input, other) = (some(), some());
            take(&mutate(&mut random, input, other), &format_args!("input {number} of seed {seed}"));
        }
    }
}

/// `UPDATE_SEEDS=1 cargo test -p ps-fuzz` writes the files.
#[test]
fn committed_seeds_match_the_generated_ones() {
    for target in targets() {
        assert!(!(target.seeds)().is_empty(), "{} has no seeds", target.name);
        for (name, input) in (target.seeds)() {
            let file = seeds_folder().join(target.name).join(name);
            if std::env::var_os("UPDATE_SEEDS").is_some() {
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(&file, input).unwrap();
            } else {
                let is_same = fs::read(&file).is_ok_and(|found| found == input);
                assert!(is_same, "{}: run UPDATE_SEEDS=1 cargo test -p ps-fuzz", file.display());
            }
        }
        for (name, _) in files(&target) {
            let is_made = (target.seeds)().iter().any(|(made, _)| *made == name);
            assert!(is_made || name.starts_with("found-"), "{}/{name}: nothing makes it", target.name);
        }
    }
}
