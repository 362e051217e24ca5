//! Passes inputs of libFuzzer to the target that the environment variable `FUZZ_TARGET` names. A single
//! program for all targets needs to be compiled and linked only once.
#![no_main]

use ps_fuzz::{Target, targets};
use std::sync::LazyLock;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    targets().find(|target| target.name == name).unwrap_or_else(|| {
        let names: Vec<_> = targets().map(|target| target.name).collect();
        eprintln!("set FUZZ_TARGET to one of {}", names.join(", "));
        std::process::exit(2);
    })
});

libfuzzer_sys::fuzz_target!(init: LazyLock::force(&TARGET), |input: &[u8]| (TARGET.run)(input));
