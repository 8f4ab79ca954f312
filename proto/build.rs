//! Compiles the .proto files with protox: no protoc has to be installed.

use prost::Message;
use std::{env, fs, path::PathBuf};

const FILES: [&str; 11] = ["types", "enrollment", "agent", "client", "group", "policy", "package", "job", "token", "operator", "audit"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let files: Vec<PathBuf> = FILES.iter().map(|name| root.join(format!("sutler/v1/{name}.proto"))).collect();
    for file in &files {
        println!("cargo:rerun-if-changed={}", file.display());
    }
    let descriptors = protox::compile(&files, [&root])?;
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("sutler.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".sutler.v1").build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
