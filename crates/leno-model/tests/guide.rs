//! What the guides and the README show is what `leno apply` takes.

use std::path::Path;

use leno_model::parse_documents;

/// The text between "```yaml" and "```", with as many lines before it as in the page, so that positions are the page's.
fn blocks(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for (number, line) in page.lines().enumerate() {
        match (&mut open, line) {
            (None, "```yaml") => open = Some("\n".repeat(number + 1)),
            (Some(text), "```") => blocks.extend(Some(std::mem::take(text)).filter(|t| t.contains("apiVersion"))),
            (Some(text), line) => {
                text.push_str(line);
                text.push('\n');
                continue;
            }
            (None, _) => {}
        }
        if line == "```" {
            open = None;
        }
    }
    blocks
}

#[test]
fn every_resource_of_the_guides_is_accepted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = vec![root.join("README.md")];
    for entry in std::fs::read_dir(root.join("docs/guide")).unwrap() {
        pages.push(entry.unwrap().path());
    }
    let mut seen = 0;
    for path in pages.iter().filter(|p| p.extension().is_some_and(|e| e == "md")) {
        let page = std::fs::read_to_string(path).unwrap();
        for block in blocks(&page) {
            let (resources, diagnostics) = parse_documents(&path.display().to_string(), &block);
            assert!(
                diagnostics.is_empty(),
                "{}",
                diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
            );
            seen += resources.len();
        }
    }
    assert!(seen >= 3, "only {seen} resources found in the guides");
}
