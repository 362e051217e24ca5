//! Training steps in a single process.

use std::process::ExitCode;

fn main() -> ExitCode {
    downhill_benches::main(&["step", "tree/step"], |bench| ps_bench::run(bench, None))
}
