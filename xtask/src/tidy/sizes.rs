//! Sizes of files and functions, as a ratchet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::layout::{FILE_LINES, FUNCTION_LINES};

/// Compares every size with the limits and the ratchet; `update` rewrites the ratchet where sizes shrank.
pub fn check(root: &Path, files: &[PathBuf], update: bool, findings: &mut Vec<String>) -> anyhow::Result<()> {
    let ratchet_file = root.join("xtask/ratchet.txt");
    let ratchet = parse(&std::fs::read_to_string(&ratchet_file).unwrap_or_default());
    let mut now = BTreeMap::new();
    for file in files {
        let path = file.to_string_lossy();
        if path.contains("/tests/") || path.starts_with("testing/") {
            continue;
        }
        let text = std::fs::read_to_string(root.join(file))?;
        oversize(&path, &text, &mut now);
    }
    for (place, size) in &now {
        match ratchet.get(place) {
            None => findings.push(format!("{place} has {size} lines, over the limit: split it by responsibility")),
            Some(held) if size > held => findings.push(format!("{place} grew from {held} to {size} lines")),
            Some(held) if size < held && !update => {
                findings.push(format!("{place} shrank to {size} lines: run `cargo xtask tidy --update`"));
            }
            Some(_) => {}
        }
    }
    for place in ratchet.keys().filter(|p| !now.contains_key(*p) && !update) {
        findings.push(format!("{place} is within the limit now: run `cargo xtask tidy --update`"));
    }
    if update {
        let mut text = String::from("# Places over the size limits and their lines; they may only shrink.\n");
        for (place, size) in now.iter().filter(|(p, s)| ratchet.get(*p).is_some_and(|held| *s <= held)) {
            text.push_str(&format!("{size} {place}\n"));
        }
        std::fs::write(ratchet_file, text)?;
    }
    Ok(())
}

fn parse(text: &str) -> BTreeMap<String, usize> {
    text.lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| l.split_once(' '))
        .filter_map(|(size, place)| Some((place.to_owned(), size.parse().ok()?)))
        .collect()
}

fn oversize(path: &str, text: &str, found: &mut BTreeMap<String, usize>) {
    let lines: Vec<&str> = text.lines().take_while(|l| !l.starts_with("#[cfg(test)]")).collect();
    if lines.len() > FILE_LINES {
        found.insert(path.to_owned(), lines.len());
    }
    // rustfmt closes a function at the indentation it opened at, which makes a parser unnecessary.
    let mut open: Option<(usize, String, usize)> = None;
    for (number, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        if let Some((at, name, depth)) = &open {
            if *line.trim_end() == format!("{}}}", " ".repeat(*depth)) {
                let length = number - at + 1;
                if length > FUNCTION_LINES {
                    found.insert(format!("{path}::{name}"), length);
                }
                open = None;
            }
        } else if let Some(name) = function_name(line) {
            open = Some((number, name, indent));
            if line.trim_end().ends_with('}') || line.trim_end().ends_with(';') {
                open = None;
            }
        }
    }
}

fn function_name(line: &str) -> Option<String> {
    let mut rest = line.trim_start();
    for prefix in ["pub(crate) ", "pub(super) ", "pub ", "const ", "async ", "extern \"C\" "] {
        rest = rest.strip_prefix(prefix).unwrap_or(rest);
    }
    let rest = rest.strip_prefix("fn ")?;
    Some(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_and_functions_are_found_and_tests_do_not_count() {
        let long = format!("//! A.\nfn long() {{\n{}}}\nfn short() {{\n}}\n", "    a();\n".repeat(FUNCTION_LINES));
        let mut found = BTreeMap::new();
        oversize("a.rs", &long, &mut found);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [("a.rs::long".to_owned(), FUNCTION_LINES + 2)]);
        let mut found = BTreeMap::new();
        oversize("a.rs", &format!("//! A.\n#[cfg(test)]\n{}", "x\n".repeat(FILE_LINES + 1)), &mut found);
        assert!(found.is_empty());
    }
}
