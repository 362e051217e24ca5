#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ps_fuzz::run("stream", input));
