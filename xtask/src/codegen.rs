//! `cargo xtask codegen`: the Rust of the discovery protocol, generated from its .proto and committed.
//!
//! Committed instead of made by a build script, so that building needs no protobuf compiler and a change of the wire shows
//! in review. `--check` fails when the committed file is not what the .proto gives.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

const PROTO: &str = "leno/discovery/v1/discovery.proto";
const HEADER: &str = "\
//! Generated from proto/leno/discovery/v1/discovery.proto by `cargo xtask codegen`. Do not edit.\n\n";

/// Generates into the tree, or with `check` compares with what is committed.
pub fn run(check: bool) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    let package = root.join("crates/leno-discovery");
    let committed = package.join("src/generated/discovery.rs");
    let scratch = root.join("target/codegen");
    let generated = generate(&package.join("proto"), &scratch)?;
    if check {
        let present = fs::read_to_string(&committed).unwrap_or_default();
        if present != generated {
            bail!("{} is not what the .proto gives: run `cargo xtask codegen` and commit", committed.display());
        }
        return Ok(());
    }
    fs::create_dir_all(committed.parent().context("the path has a parent")?)?;
    fs::write(&committed, generated).with_context(|| format!("writing {}", committed.display()))?;
    println!("wrote {}", committed.display());
    Ok(())
}

fn generate(protos: &Path, scratch: &PathBuf) -> anyhow::Result<String> {
    fs::create_dir_all(scratch)?;
    let descriptors = protox::compile([PROTO], [protos]).context("compiling the .proto")?;
    tonic_prost_build::configure()
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .bytes(".")
        .btree_map(".")
        .out_dir(scratch)
        .compile_fds(descriptors)
        .context("generating Rust")?;
    let raw = scratch.join("leno.discovery.v1.rs");
    let body = fs::read_to_string(&raw)?;
    fs::write(&raw, format!("{HEADER}{body}"))?;
    // Formatted, so that `cargo fmt` leaves the committed file alone.
    let status = Command::new("rustfmt").args(["--edition", "2024"]).arg(&raw).status().context("running rustfmt")?;
    if !status.success() {
        bail!("rustfmt refused the generated file");
    }
    Ok(fs::read_to_string(&raw)?)
}
