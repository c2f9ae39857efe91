//! `leno control-plane`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use leno_control::{ControlPlane, Settings};
use leno_model::TrustDomain;
use leno_runtime::{Signal, Signals};

use crate::arguments::ControlPlaneArguments;
use crate::member::state_home;
use crate::operator::connection::hint_file;
use crate::{Failure, logging};

/// Runs until SIGTERM or SIGINT.
pub fn run(arguments: ControlPlaneArguments) -> Result<ExitCode, Failure> {
    logging::start("info");
    let data_dir = arguments.data_dir.unwrap_or_else(|| state_home().join("control-plane"));
    let mut settings = Settings::new(data_dir.clone());
    settings.api = arguments.api;
    settings.discovery = arguments.discovery;
    settings.trust_domain = arguments
        .trust_domain
        .as_deref()
        .map(TrustDomain::new)
        .transpose()
        .map_err(|e| Failure::Usage(format!("--trust-domain: {e}")))?;
    settings.api_hosts = arguments.api_hosts;
    settings.leaf_ttl = arguments.leaf_ttl;
    settings.registration_grace = arguments.registration_grace;
    if !settings.api.ip().is_loopback() {
        tracing::warn!("the API on {} is plain HTTP: the admin token crosses the network readable", settings.api);
    }
    if let Err(error) = leno_sys::raise_open_file_limit() {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let plane = ControlPlane::start(settings).await?;
        plane.ready().await;
        let hint = leave_word(plane.api(), &data_dir);
        tracing::info!(api = %plane.api(), discovery = %plane.discovery(), data_dir = %data_dir.display(), "ready");
        if arguments.announce.is_some() {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{}", plane.announcement())?;
            out.flush()?;
        }
        while !matches!(signals.next().await, Signal::Terminate | Signal::Interrupt) {}
        tracing::info!("ending");
        if let Some(hint) = hint {
            let _ = std::fs::remove_file(hint);
        }
        plane.shutdown().await;
        Ok(ExitCode::SUCCESS)
    })
}

/// Leaves word for the operator's commands of this user where the admin token is. Not being able to is no failure: there is
/// `--admin-token-file`.
fn leave_word(api: std::net::SocketAddr, data_dir: &Path) -> Option<PathBuf> {
    let file = hint_file(&api.to_string());
    let token = std::fs::canonicalize(data_dir.join("admin.token")).ok()?;
    leno_runtime::files::create_private_dir(file.parent()?).ok()?;
    leno_runtime::files::atomic_write(&file, token.to_string_lossy().as_bytes()).ok()?;
    Some(file)
}
