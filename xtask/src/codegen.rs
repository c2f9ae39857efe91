//! Generates Rust from protobuf definitions.

/// Generates, or with `check` compares.
pub fn run(_check: bool) -> anyhow::Result<()> {
    anyhow::bail!("no protobuf definitions yet")
}
