//! Training steps in one process, and what a worker's share of one is made of.

use std::process::ExitCode;

fn main() -> ExitCode {
    downhill_benches::main(&["step", "tree/step", "compute"], ps_bench::run)
}
