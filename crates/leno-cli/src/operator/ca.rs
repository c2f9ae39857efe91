//! `leno ca` and `leno revoke`.

use std::process::ExitCode;

use leno_api::{CaStatus, RevocationRequest};

use super::connection::{Api, block_on, failure};
use super::print;
use crate::Failure;
use crate::arguments::{ApiArguments, CaArguments, CaCommand, OutputFormat, RevokeArguments};

/// Shows or rotates.
pub fn run(api: &ApiArguments, arguments: CaArguments) -> Result<ExitCode, Failure> {
    let api = Api::from_arguments(api)?;
    block_on(async {
        let (status, output) = match arguments.command {
            CaCommand::Status(a) => (api.client.ca().await, a.output),
            CaCommand::Rotate => (api.client.rotate_root().await, OutputFormat::Table),
        };
        let status = status.map_err(failure)?;
        if output == OutputFormat::Table {
            show(&status)
        } else {
            println!("{}", print::json(&status))
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn show(status: &CaStatus) {
    println!("trust domain   {}", status.trust_domain);
    println!("bundle         version {}", status.bundle_version);
    println!("leaf lifetime  {} s", status.leaf_ttl_seconds);
    println!("rotation       {:?}", status.phase);
    if !status.waiting_for.is_empty() {
        println!("waiting for    {}", status.waiting_for.join(", "));
    }
    if !status.cannot_renew.is_empty() {
        println!("cannot renew   {}: start with a new token", status.cannot_renew.join(", "));
    }
    let rows: Vec<Vec<String>> = status
        .roots
        .iter()
        .map(|r| vec![r.pin.clone(), r.not_after.clone(), if r.issuing { "yes" } else { "no" }.to_owned()])
        .collect();
    print!("\n{}", print::table(&["ROOT PIN (SHA-256)", "NOT AFTER", "ISSUING"], &rows));
}

/// Revokes an identity or a serial, or takes that back.
pub fn revoke(api: &ApiArguments, arguments: &RevokeArguments) -> Result<ExitCode, Failure> {
    let api = Api::from_arguments(api)?;
    let identity = arguments.subject.starts_with("spiffe://");
    block_on(async {
        if arguments.undo {
            let all = api.client.revocations().await.map_err(failure)?;
            let subject = Some(arguments.subject.as_str());
            let found = all
                .iter()
                .find(|r| {
                    r.identity.as_deref() == subject || r.serial.as_deref() == subject || r.id == arguments.subject
                })
                .ok_or_else(|| Failure::NotFound(format!("{} is not on the revocation list", arguments.subject)))?;
            api.client.unrevoke(&found.id).await.map_err(failure)?;
            println!("{} is no longer revoked", arguments.subject);
            if arguments.subject.starts_with("spiffe://") {
                println!(
                    "The revocation took away what its token had granted: start its members again with a new token"
                );
            }
        } else {
            let subject = Some(arguments.subject.clone());
            let request = RevocationRequest {
                identity: if identity { subject.clone() } else { None },
                serial: if identity { None } else { subject },
                comment: arguments.reason.clone().unwrap_or_default(),
            };
            api.client.revoke(&request).await.map_err(failure)?;
            println!(
                "{} is revoked: whoever holds it loses its live connections, and gets no new ones",
                arguments.subject
            );
        }
        Ok(ExitCode::SUCCESS)
    })
}
