//! Layers, chains, purity and sole users, read from the manifests.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;

use super::layout::{self, CRATES};

/// Checks every manifest below crates/.
pub fn check(root: &Path, findings: &mut Vec<String>) -> anyhow::Result<()> {
    let mut edges: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in std::fs::read_dir(root.join("crates"))? {
        let folder = entry?.path();
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let manifest = folder.join("Cargo.toml");
        let text = std::fs::read_to_string(&manifest).with_context(|| format!("reading {}", manifest.display()))?;
        let Some(own) = CRATES.iter().find(|c| c.name == name) else {
            findings.push(format!("crates/{name} is not in xtask/src/tidy/layout.rs"));
            continue;
        };
        if !text.contains("[lints]\nworkspace = true") {
            findings.push(format!("crates/{name}/Cargo.toml does not take the workspace's lints"));
        }
        let used = dependencies(&text);
        for dependency in &used {
            check_edge(own, dependency, findings);
        }
        edges.insert(name, used.into_iter().filter(|d| d.starts_with("leno-")).collect());
    }
    for name in edges.keys() {
        let length = chain(name, &edges, 0);
        if name != "leno" && length > layout::LONGEST_CHAIN {
            findings.push(format!("{name} stands on a chain of {length} crates, more than {}", layout::LONGEST_CHAIN));
        }
    }
    let architecture = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap_or_default();
    for own in CRATES {
        if !architecture.contains(&format!("`{}`", own.name)) {
            findings.push(format!("ARCHITECTURE.md does not mention `{}`", own.name));
        }
    }
    Ok(())
}

fn check_edge(own: &layout::Crate, dependency: &str, findings: &mut Vec<String>) {
    if let Some(other) = CRATES.iter().find(|c| c.name == dependency) {
        if other.layer >= own.layer && !own.beside.contains(&dependency) {
            findings
                .push(format!("{} (layer {}) must not use {dependency} (layer {})", own.name, own.layer, other.layer));
        }
        if own.pure && !other.pure {
            findings.push(format!("{} is pure and must not use {dependency}", own.name));
        }
        return;
    }
    if own.pure && !layout::PURE_ALLOWED.contains(&dependency) {
        findings.push(format!("{} is pure and must not use the library {dependency}", own.name));
    }
    for (library, user) in layout::SOLE_USERS {
        if *library == dependency && *user != own.name {
            findings.push(format!("{} must not use {library} directly, only {user} does", own.name));
        }
    }
}

/// Names under `[dependencies]`; development dependencies may be anything.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut section = "";
    let mut found = Vec::new();
    for line in manifest.lines() {
        let line = line.trim();
        if line.starts_with('[') {
            section = line;
        } else if section == "[dependencies]"
            && let Some((name, _)) = line.split_once(['.', '=', ' '])
            && !line.starts_with('#')
        {
            found.push(name.trim().to_owned());
        }
    }
    found
}

fn chain(name: &str, edges: &BTreeMap<String, Vec<String>>, depth: usize) -> usize {
    if depth > CRATES.len() {
        return depth; // a cycle; cargo refuses it anyway
    }
    edges.get(name).into_iter().flatten().map(|next| 1 + chain(next, edges, depth + 1)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upward_edge_an_impure_library_and_a_second_user_are_found() {
        let mut findings = Vec::new();
        let plan = CRATES.iter().find(|c| c.name == "leno-plan").unwrap();
        check_edge(plan, "leno-http", &mut findings);
        check_edge(plan, "tokio", &mut findings);
        check_edge(plan, "h2", &mut findings);
        check_edge(plan, "leno-model", &mut findings);
        assert_eq!(findings.len(), 5, "{findings:#?}");
    }

    #[test]
    fn only_the_dependencies_section_counts() {
        let text =
            "[package]\nname = \"x\"\n[dependencies]\na.workspace = true\nb = \"1\"\n[dev-dependencies]\nc = \"1\"\n";
        assert_eq!(dependencies(text), ["a", "b"]);
    }
}
