//! Checks what prose would otherwise have to ask for: layers, purity, unsafe placement, module docs, names, sizes.
//!
//! Everything is read from one table, [`layout`]. Sizes are a ratchet: `xtask/ratchet.txt` lists today's offenders with
//! their size, which may only shrink; `cargo xtask tidy --update` rewrites it and refuses to let anything grow.

mod layout;
mod manifests;
mod sizes;
mod sources;

use std::path::{Path, PathBuf};

use anyhow::bail;

/// Runs every check on the tree at `root`; all findings are reported at once.
pub fn run(root: &Path, update: bool) -> anyhow::Result<()> {
    let mut findings = Vec::new();
    manifests::check(root, &mut findings)?;
    let files = rust_files(root)?;
    sources::check(root, &files, &mut findings)?;
    sizes::check(root, &files, update, &mut findings)?;
    if findings.is_empty() {
        println!("tidy: {} files, nothing to mend", files.len());
        return Ok(());
    }
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    bail!("{} findings", findings.len())
}

/// Every hand-written Rust file below the folders that hold code, sorted, relative to the root.
fn rust_files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = ["crates", "testing", "bench", "xtask"].iter().map(|f| root.join(f)).collect();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                if !path.ends_with("target") && !path.ends_with("generated") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path.strip_prefix(root)?.to_owned());
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_tree_is_tidy() {
        if let Err(error) = super::run(&crate::root(), false) {
            panic!("{error}; run `cargo xtask tidy` for the list");
        }
    }
}
