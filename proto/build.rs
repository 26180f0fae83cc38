//! Compiles the `.proto` files without a system protoc and keeps their descriptors for reflection.

use std::{env, error::Error, fs, path::PathBuf};

const FILES: [&str; 5] = [
    "telemetry/v1/admin_service.proto",
    "telemetry/v1/diagnostics_service.proto",
    "telemetry/v1/ingest_service.proto",
    "telemetry/v1/query_service.proto",
    "telemetry/v1/watch_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=telemetry");
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_source_info(true).include_imports(true).open_files(FILES)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("telemetry.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
