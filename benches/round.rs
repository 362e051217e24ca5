//! Synchronous rounds beside bare sockets that move the same bytes.

use std::process::ExitCode;

fn main() -> ExitCode {
    downhill_benches::main(&["round"], ps_bench::run)
}
