//! Module docs, unsafe placement, purity, empty names and leftovers, read from the sources.

use std::path::{Path, PathBuf};

use super::layout::{self, CRATES};

/// Checks every file.
pub fn check(root: &Path, files: &[PathBuf], findings: &mut Vec<String>) -> anyhow::Result<()> {
    for file in files {
        let text = std::fs::read_to_string(root.join(file))?;
        check_file(&file.to_string_lossy(), &text, findings);
    }
    Ok(())
}

fn check_file(path: &str, text: &str, findings: &mut Vec<String>) {
    if !text.starts_with("//!") {
        findings.push(format!("{path}:1: a file begins with `//!` and says what it is for"));
    }
    let stem = Path::new(path).file_stem().unwrap_or_default().to_string_lossy();
    if layout::EMPTY_NAMES.contains(&&*stem) {
        findings.push(format!("{path}: the name `{stem}` says nothing"));
    }
    let owner = path.strip_prefix("crates/").and_then(|p| p.split('/').next()).unwrap_or("");
    if path.ends_with("/src/lib.rs") && path.starts_with("crates/") {
        for heading in ["*Owns*", "*Must not know*", "*Start reading at*"] {
            if !text.contains(heading) {
                findings.push(format!("{path}: lib.rs has no {heading}"));
            }
        }
    }
    let pure = CRATES.iter().any(|c| c.name == owner && c.pure);
    let in_tests = path.contains("/tests/");
    if path.starts_with("xtask/") {
        return; // its tables name what they forbid
    }
    let mut in_test_module = false;
    for (number, line) in text.lines().enumerate().map(|(n, l)| (n + 1, l)) {
        in_test_module |= line.starts_with("#[cfg(test)]");
        let code = line.trim_start();
        if code.starts_with("//") {
            continue;
        }
        let unsafe_here = code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl");
        if unsafe_here && owner != layout::UNSAFE_HOME {
            findings.push(format!("{path}:{number}: `unsafe` belongs in {}", layout::UNSAFE_HOME));
        }
        if code.contains("#[ignore") {
            findings.push(format!("{path}:{number}: a test is never ignored"));
        }
        if code.contains("allow(") && (code.starts_with("#[allow") || code.starts_with("#![allow")) {
            findings.push(format!("{path}:{number}: use #[expect(…, reason = \"…\")]"));
        }
        if pure && !in_tests && !in_test_module {
            for word in layout::IMPURE.iter().filter(|w| code.contains(**w)) {
                findings.push(format!("{path}:{number}: `{word}` in a pure crate"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check_file(path, text, &mut findings);
        findings
    }

    #[test]
    fn each_rule_can_fail() {
        assert_eq!(findings("crates/leno-http/src/a.rs", "//! Fine.\n"), Vec::<String>::new());
        for (path, text) in [
            ("crates/leno-http/src/a.rs", "fn a() {}\n"),
            ("crates/leno-http/src/util.rs", "//! A.\n"),
            ("crates/leno-http/src/a.rs", "//! A.\nfn a() { unsafe { b() } }\n"),
            ("crates/leno-plan/src/a.rs", "//! A.\nuse std::collections::HashMap;\n"),
            ("crates/leno-plan/src/a.rs", "//! A.\n#[ignore]\n"),
            ("crates/leno-plan/src/a.rs", "//! A.\n#[allow(dead_code)]\n"),
        ] {
            assert_eq!(findings(path, text).len(), 1, "{path} {text}");
        }
        assert_eq!(findings("crates/leno-plan/src/lib.rs", "//! A.\n").len(), 3);
    }
}
