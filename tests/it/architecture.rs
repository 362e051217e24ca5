//! Checks the rules of ARCHITECTURE.md on dependencies that a crate must not have, directly or indirectly.

use downhill_tests::root;
use std::collections::BTreeSet;
use std::process::Command;

/// Crates of this workspace, with all others of it that they may depend on.
const OURS: &[(&str, &[&str])] = &[
    ("ps-plan", &[]),
    ("ps-host", &[]),
    ("ps-terminal", &[]),
    ("ps-plot", &[]),
    ("ps-core", &["ps-plan"]),
    ("ps-coord", &["ps-plan"]),
    ("ps-net", &["ps-host"]),
    ("ps-scale", &["ps-coord", "ps-plan"]),
    ("ps-plane", &["ps-coord", "ps-core", "ps-plan"]),
    ("ps-data", &["ps-core", "ps-host", "ps-plan"]),
    ("ps-checkpoint", &["ps-core", "ps-host", "ps-plan"]),
    ("ps-onnx", &["ps-core", "ps-data", "ps-host", "ps-plan"]),
    ("ps-fetch", &["ps-core", "ps-data", "ps-host", "ps-plan"]),
    ("ps-config", &["ps-core", "ps-data", "ps-host", "ps-plan", "ps-terminal"]),
    (
        "downhill",
        &[
            "ps-checkpoint",
            "ps-config",
            "ps-coord",
            "ps-core",
            "ps-data",
            "ps-host",
            "ps-onnx",
            "ps-plan",
            "ps-plane",
            "ps-run",
            "ps-terminal",
        ],
    ),
    ("ps-proto", &["ps-coord", "ps-core", "ps-host", "ps-net", "ps-plan", "ps-plane"]),
];

/// Crates, with packages that they must never depend on.
const NEVER: &[(&[&str], &[&str])] = &[
    // Code that decides or computes does no input or output.
    (
        &["ps-plan", "ps-core", "ps-coord", "ps-plane", "ps-data", "ps-checkpoint", "ps-scale"],
        &["tokio", "tonic", "prost", "clap", "tracing"],
    ),
    (&["ps-onnx"], &["tokio", "tonic", "clap", "tracing"]),
    // The round logic computes no numbers.
    (&["ps-coord"], &["rayon", "sha2", "bytes", "ndarray"]),
    // The library and the crates below it do not use the network and start no async runtime.
    (&["downhill"], &["tokio", "tonic", "rustls", "reqwest", "object_store"]),
    // Only programs parse flags.
    (&["ps-net", "ps-proto"], &["clap"]),
    (&["ps-worker"], &["ps-server"]),
    (&["ps-server"], &["ps-worker"]),
];

/// Returns the names of all packages that a crate depends on, except for its tests and build script.
fn dependencies(name: &str) -> BTreeSet<String> {
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--package", name, "--edges", "normal", "--prefix", "none", "--locked", "--offline"]);
    let output = tree.current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let names = lines.lines().skip(1).filter_map(|line| line.split(' ').next());
    names.filter(|it| !it.is_empty()).map(str::to_owned).collect()
}

#[test]
fn crates_depend_only_on_what_the_architecture_allows() {
    for (name, allowed) in OURS {
        let mut ours = dependencies(name);
        ours.retain(|it| it.starts_with("ps-") && !allowed.contains(&it.as_str()));
        assert!(ours.is_empty(), "{name} depends on {ours:?}; see the table of crates in ARCHITECTURE.md");
    }
    for (names, never) in NEVER {
        for name in *names {
            let mut unwanted = dependencies(name);
            unwanted.retain(|it| never.contains(&it.as_str()));
            assert!(unwanted.is_empty(), "{name} depends on {unwanted:?}; see ARCHITECTURE.md");
        }
    }
}
