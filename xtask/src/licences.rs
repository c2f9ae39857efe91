//! Every dependency has a permissive licence and is not on the list of crates we do not want.
//!
//! cargo-deny does this and more, but would have to be built on every fresh machine first; this reads the same
//! `cargo metadata` with what is there.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::Value;

/// Licences that ask for no more than a notice.
const PERMISSIVE: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "CC0-1.0",
    "Unlicense",
    "Unicode-3.0",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "NCSA",
];
/// A second cryptography library or TLS stack would be two to keep patched.
const UNWANTED: &[&str] = &["openssl", "openssl-sys", "native-tls", "serde_yaml", "async-std"];

/// Checks every package that the lock file names for this workspace.
pub fn run(root: &Path) -> anyhow::Result<()> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root)
        .output()
        .context("running cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let mut findings = Vec::new();
    let mut count = 0;
    for package in metadata["packages"].as_array().context("no packages")? {
        let (name, licence) = (package["name"].as_str().unwrap_or(""), package["license"].as_str().unwrap_or(""));
        count += 1;
        if !permissive(licence) {
            findings.push(format!("{name}: licence `{licence}` is not on the list of permissive ones"));
        }
        if UNWANTED.contains(&name) {
            findings.push(format!("{name} is not wanted: see UNWANTED in xtask/src/licences.rs"));
        }
    }
    if findings.is_empty() {
        println!("licences: {count} packages, all permissive");
        return Ok(());
    }
    bail!("{}", findings.join("\n"))
}

/// Whether an SPDX expression can be met by permissive licences alone.
fn permissive(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let fine = |licence: &str| PERMISSIVE.contains(&licence.trim());
    if expression.contains('(') {
        // Without a parser for nesting: every licence that is named must be fine, which is stricter and therefore safe.
        let flat = expression.replace(['(', ')'], " ").replace(" AND ", " OR ");
        return flat.split(" OR ").all(fine);
    }
    // AND binds tighter than OR in SPDX (specification annex D).
    expression.split(" OR ").any(|choice| choice.split(" AND ").all(fine))
}

#[cfg(test)]
mod tests {
    use super::permissive;

    #[test]
    fn expressions() {
        for good in
            ["MIT", "MIT OR Apache-2.0", "MIT/Apache-2.0", "GPL-2.0 OR MIT", "(MIT OR Apache-2.0) AND Unicode-3.0"]
        {
            assert!(permissive(good), "{good}");
        }
        for bad in ["", "(GPL-3.0 OR MIT) AND MIT", "GPL-3.0", "MIT AND GPL-3.0", "MPL-2.0", "AGPL-3.0 OR LGPL-2.1"] {
            assert!(!permissive(bad), "{bad}");
        }
    }
}
