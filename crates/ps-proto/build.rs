//! Generates the wire types and the gRPC client and server from `proto/` with a protobuf compiler in Rust, so
//! that a clone builds without `protoc`.

use prost::Message;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo::rerun-if-changed={}", proto.display());
    let descriptors = protox::compile(["downhill/v1/parameter_server.proto"], [&proto])?;
    // Served by the reflection service.
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".downhill.v1.NodeChunk.gradient")
        .bytes(".downhill.v1.WeightsChunk.weights")
        .bytes(".downhill.v1.StateChunk.values")
        .compile_fds(descriptors)?;
    Ok(())
}
