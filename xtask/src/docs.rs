//! Writes docs/reference from the code, or with `--check` fails when a page is not what the code says.

use std::path::Path;

use anyhow::{Context, bail};

/// The generated pages: file name below docs/reference, and its text.
fn pages() -> Vec<(&'static str, String)> {
    vec![
        ("reasons.md", leno_telemetry::reference::reasons_page()),
        ("metrics.md", leno_telemetry::reference::metrics_page()),
        ("defaults.md", leno_plan::defaults::defaults_page()),
        ("resources.md", leno_model::reference_page()),
    ]
}

/// Writes or checks every generated page.
pub fn run(root: &Path, check: bool) -> anyhow::Result<()> {
    let folder = root.join("docs/reference");
    let mut stale = Vec::new();
    for (name, text) in pages() {
        let path = folder.join(name);
        if check {
            if std::fs::read_to_string(&path).unwrap_or_default() != text {
                stale.push(name);
            }
        } else {
            std::fs::create_dir_all(&folder)?;
            std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    if !stale.is_empty() {
        bail!("docs/reference is not what the code says: {}; run `cargo xtask docs`", stale.join(", "));
    }
    Ok(())
}
