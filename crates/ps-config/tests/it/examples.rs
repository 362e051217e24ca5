//! The run files that come with the repository.

use ps_config::RunConfig;
use std::path::Path;

#[test]
fn every_example_is_a_valid_run_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            RunConfig::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
            seen += 1;
        }
    }
    assert!(seen >= 8, "found {seen} examples");
}
