//! Everything that reads what others wrote (messages, checkpoints, data files, run files) as functions of bytes.
//!
//! A [`Target`] takes any bytes at all. It fails by panicking, by taking memory that the bytes do not justify, or by not
//! coming back; and it panics itself where something was accepted that should not have been. The programs in `fuzz/` give
//! targets to libFuzzer; `tests/corpus.rs` gives them the files of `fuzz/seeds` and a fixed number of [`mutate`]d ones.
//!
//! Nothing here is part of a run.

mod checkpoint;
mod data;
mod messages;
pub mod mutate;
mod run_file;
mod stream;

/// Something that reads what others wrote.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of its program in `fuzz/fuzz_targets` and of its folder in `fuzz/seeds`.
    pub name: &'static str,
    /// Reads the bytes; panics if that goes wrong.
    pub run: fn(&[u8]),
    /// Inputs to begin from, each with a name.
    pub seeds: fn() -> Vec<Seed>,
}

/// An input to begin from, and its name.
pub type Seed = (&'static str, Vec<u8>);

/// All targets.
pub const TARGETS: [Target; 8] = [
    Target { name: "from_worker", run: messages::from_worker, seeds: messages::worker_seeds },
    Target { name: "from_server", run: messages::from_server, seeds: messages::server_seeds },
    Target { name: "stream", run: stream::run, seeds: stream::seeds },
    Target { name: "checkpoint", run: checkpoint::run, seeds: checkpoint::seeds },
    Target { name: "idx", run: data::idx, seeds: data::idx_seeds },
    Target { name: "csv", run: data::csv, seeds: data::csv_seeds },
    Target { name: "libsvm", run: data::libsvm, seeds: data::libsvm_seeds },
    Target { name: "run_file", run: run_file::run, seeds: run_file::seeds },
];

/// Runs the target `name`.
///
/// # Panics
/// There is none of that name; the target does.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("the programs name targets that there are").run)(input);
}

/// The first byte, which chooses between variants, and the others.
fn choice(input: &[u8]) -> (u8, &[u8]) {
    input.split_first().map_or((0, input), |(first, rest)| (*first, rest))
}

/// A part whose length stands before it in two bytes, and what follows; less where there is less.
fn part(input: &[u8]) -> (&[u8], &[u8]) {
    let Some((length, rest)) = input.split_first_chunk::<2>() else { return (input, &[]) };
    rest.split_at(rest.len().min(u16::from_le_bytes(*length).into()))
}

/// Bytes with their length before them, for [`part`].
fn with_length(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("seeds are short");
    [&length.to_le_bytes(), bytes].concat()
}
