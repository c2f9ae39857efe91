//! Skipped scenarios are counted and held against `testing/allowed-skips.txt`.
//!
//! A scenario that cannot run on a machine appends `NAME: reason` to the file named by `LENO_SKIPS`. A skip that is not
//! on the committed list fails the run, so that a missing tool cannot turn a test off unseen.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, bail};

/// Compares the skips of a run with the committed list.
pub fn run(root: &Path, file: &Path) -> anyhow::Result<()> {
    let list = root.join("testing/allowed-skips.txt");
    let allowed: BTreeSet<String> = std::fs::read_to_string(&list)
        .with_context(|| format!("reading {}", list.display()))?
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .map(str::to_owned)
        .collect();
    let skipped = std::fs::read_to_string(file).unwrap_or_default();
    let mut unexpected = Vec::new();
    let mut count = 0;
    for line in skipped.lines().filter(|l| !l.trim().is_empty()) {
        count += 1;
        let name = line.split(':').next().unwrap_or(line).trim();
        println!("SKIP {line}");
        if !allowed.contains(name) {
            unexpected.push(line.to_owned());
        }
    }
    println!("{count} scenarios skipped, {} of them expected", count - unexpected.len());
    if !unexpected.is_empty() {
        bail!("skips that are not in testing/allowed-skips.txt:\n  {}", unexpected.join("\n  "));
    }
    Ok(())
}
