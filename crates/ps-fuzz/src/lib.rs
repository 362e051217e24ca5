//! Fuzz targets: everything that parses untrusted input (messages, checkpoints, data files, run files, model files), as
//! functions of bytes.
//!
//! A [`Target`] must accept any bytes. It fails by panicking, by using memory that the input does not
//! justify, or by not returning; it also panics if the code under test accepts invalid input. The program in
//! `fuzz/` runs the targets with libFuzzer; `tests/corpus.rs` runs them on the files of `fuzz/seeds` and on a
//! fixed number of [`mutate`]d inputs.
//!
//! No program of a run depends on this crate.

mod checkpoint;
mod data;
mod messages;
mod model_file;
pub mod mutate;
mod run_file;
mod stream;

/// A fuzz target: code that parses untrusted input.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name of the target in `fuzz/run`, and of its folder in `fuzz/seeds`.
    pub name: &'static str,
    /// Parses the input; panics if the code under test misbehaves.
    pub run: fn(&[u8]),
    /// Returns the inputs to start from, each with a name.
    pub seeds: fn() -> Vec<Seed>,
}

/// The name and the bytes of an input to start from.
pub type Seed = (&'static str, Vec<u8>);

/// All targets: one for each data format, and those listed here.
pub fn targets() -> impl Iterator<Item = Target> {
    let others = [
        Target { name: "from_worker", run: messages::from_worker, seeds: messages::worker_seeds },
        Target { name: "from_server", run: messages::from_server, seeds: messages::server_seeds },
        Target { name: "stream", run: stream::run, seeds: stream::seeds },
        Target { name: "checkpoint", run: checkpoint::run, seeds: checkpoint::seeds },
        Target { name: "run_file", run: run_file::run, seeds: run_file::seeds },
        Target { name: "model_file", run: model_file::run, seeds: model_file::seeds },
    ];
    data::targets().chain(others)
}

/// Splits off the first byte, which selects a variant.
fn choice(input: &[u8]) -> (u8, &[u8]) {
    input.split_first().map_or((0, input), |(first, rest)| (*first, rest))
}

/// Splits off a part whose length precedes it in two bytes. Both parts may be shorter if the input is.
fn part(input: &[u8]) -> (&[u8], &[u8]) {
    let Some((length, rest)) = input.split_first_chunk::<2>() else { return (input, &[]) };
    rest.split_at(rest.len().min(u16::from_le_bytes(*length).into()))
}

/// Puts the length in front of `bytes`, for [`part`].
fn with_length(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("seeds are short");
    [&length.to_le_bytes(), bytes].concat()
}
