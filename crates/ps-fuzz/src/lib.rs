//! Everything that reads what others wrote (messages, checkpoints, data files, run files) as functions of bytes.
//!
//! A [`Target`] takes any bytes at all. It fails by panicking, by taking memory that the bytes do not justify, or by not
//! coming back; and it panics itself where something was accepted that should not have been. The program in `fuzz/` gives
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
    /// Selects the target in `fuzz/run`, and is the name of its folder in `fuzz/seeds`.
    pub name: &'static str,
    /// Reads the bytes; panics if that goes wrong.
    pub run: fn(&[u8]),
    /// Inputs to begin from, each with a name.
    pub seeds: fn() -> Vec<Seed>,
}

/// An input to begin from, and its name.
pub type Seed = (&'static str, Vec<u8>);

/// All targets: one for each format of data, and those listed here.
pub fn targets() -> impl Iterator<Item = Target> {
    let others = [
        Target { name: "from_worker", run: messages::from_worker, seeds: messages::worker_seeds },
        Target { name: "from_server", run: messages::from_server, seeds: messages::server_seeds },
        Target { name: "stream", run: stream::run, seeds: stream::seeds },
        Target { name: "checkpoint", run: checkpoint::run, seeds: checkpoint::seeds },
        Target { name: "run_file", run: run_file::run, seeds: run_file::seeds },
    ];
    data::targets().chain(others)
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
