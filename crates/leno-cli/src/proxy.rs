//! `leno proxy`: a proxy alone.

use std::os::fd::RawFd;
use std::process::ExitCode;

use leno_proxy::settings::{Announce, ListenAt, ProxySettings};

use crate::arguments::ProxyArguments;
use crate::{Failure, logging};

/// Runs until a drain or retirement has ended.
pub fn run(arguments: ProxyArguments) -> Result<ExitCode, Failure> {
    logging::start("info");
    let mut settings = arguments.member.settings()?;
    if arguments.announce.is_some() {
        settings.announce = Announce::Json;
    }
    settings.supervised = arguments.supervised;
    settings.replaces = arguments.replaces;
    for pair in &arguments.listen_fds {
        inherit(&mut settings, pair)?;
    }
    if let Some(file) = &arguments.member.tls_key_log {
        leno_net::tls::log_keys_to(file)
            .map_err(|e| Failure::Usage(format!("--tls-key-log: cannot write {}: {e}", file.display())))?;
        tracing::warn!(
            "TLS session secrets are written to {}: whoever has the file can read the traffic",
            file.display()
        );
    }
    leno_proxy::run(settings)?;
    Ok(ExitCode::SUCCESS)
}

/// Puts `NAME=FD` where the name says.
fn inherit(settings: &mut ProxySettings, pair: &str) -> Result<(), Failure> {
    let wrong = || Failure::Usage(format!("--listen-fd: `{pair}` is not NAME=FD of hop, admin, forward or upstream-N"));
    let (name, descriptor) = pair.split_once('=').ok_or_else(wrong)?;
    let descriptor: RawFd = descriptor.parse().map_err(|_| wrong())?;
    let place: &mut ListenAt = match name {
        "hop" => &mut settings.hop,
        "admin" => &mut settings.admin,
        "forward" => settings.forward.as_mut().ok_or_else(wrong)?,
        _ => {
            let position: usize = name.strip_prefix("upstream-").and_then(|n| n.parse().ok()).ok_or_else(wrong)?;
            &mut settings.upstreams.get_mut(position).ok_or_else(wrong)?.listen
        }
    };
    place.inherited = Some(descriptor);
    Ok(())
}
