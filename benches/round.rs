//! Synchronous rounds, compared with bare sockets that move the same bytes.

use std::process::ExitCode;

fn main() -> ExitCode {
    downhill_benches::main(&["round"], |bench| ps_bench::run(bench, None))
}
