//! Diagnostics on standard error: one line an event, coloured only on a terminal.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging; `LENO_LOG` (e.g. `info`, `leno_proxy=debug`) overrides `default`.
pub fn start(default: &str) {
    let filter = EnvFilter::try_from_env("LENO_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    // A second start (the demo runs several roles in one process) keeps the first.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
}
