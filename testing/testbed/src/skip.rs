//! Scenarios that this machine cannot run are counted, and held against a committed list by `cargo xtask skips`.

use std::io::Write;

/// Whether the scenario can run; otherwise the skip is written to the file named by `LENO_SKIPS`.
#[must_use]
pub fn can_run(scenario: &str, needs: &[Need]) -> bool {
    let Some(missing) = needs.iter().find_map(Need::missing) else { return true };
    eprintln!("SKIP {scenario}: {missing}");
    if let Some(file) = std::env::var_os("LENO_SKIPS")
        && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(file)
    {
        let _ = writeln!(file, "{scenario}: {missing}");
    }
    false
}

/// What a scenario cannot do without.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// Root, to make network namespaces.
    Root,
    /// A program on PATH or at an absolute path.
    Program(&'static str),
}

impl Need {
    fn missing(&self) -> Option<String> {
        match self {
            Self::Root => {
                (!rustix::process::geteuid().is_root()).then(|| "needs root for network namespaces".to_owned())
            }
            Self::Program(name) => which(name).is_none().then(|| format!("needs {name}")),
        }
    }
}

/// Finds a program as a shell of root would.
#[must_use]
pub fn which(name: &str) -> Option<std::path::PathBuf> {
    if name.starts_with('/') {
        return Some(name.into()).filter(|p: &std::path::PathBuf| p.exists());
    }
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).map(|d| std::path::Path::new(d).join(name)).find(|p| p.exists())
}
