//! The server's work on a chunk, compared with a copy in memory.

use std::process::ExitCode;

fn main() -> ExitCode {
    downhill_benches::main(&["memory", "fold-update"], |bench| ps_bench::run(bench, None))
}
