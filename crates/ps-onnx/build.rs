//! Generates the types of ONNX from `proto/onnx.proto` with a protobuf compiler in Rust, so that a clone builds
//! without `protoc`.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    println!("cargo::rerun-if-changed={}", proto.display());
    let descriptors = protox::compile(["onnx.proto"], [&proto])?;
    // The comments are not written for rustdoc.
    Ok(prost_build::Config::new().disable_comments(["."]).compile_fds(descriptors)?)
}
