//! Bare sockets, and our stream on top of them.

use std::process::ExitCode;

fn main() -> ExitCode {
    downhill_benches::main(&["wire"], |bench| ps_bench::run(bench, None))
}
