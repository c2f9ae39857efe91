//! `leno status`: the mesh at a glance, and what is wrong with it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use leno_api::{Overview, RotationPhase};

use super::connection::{Api, block_on, failure};
use super::print;
use crate::Failure;
use crate::arguments::{ApiArguments, OutputFormat, StatusArguments};

/// Between two questions of `--wait`.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// A rotation of the root takes seconds; one that has waited for so long does not go on by itself before leaves expire.
const ROTATION_S: u64 = 120;

/// Prints it; exit 1 when something needs mending.
pub fn run(api: &ApiArguments, arguments: &StatusArguments) -> Result<ExitCode, Failure> {
    let overview = block_on(overview(api, arguments.wait))?;
    if arguments.output == OutputFormat::Table {
        show(&overview)
    } else {
        println!("{}", print::json(&overview))
    }
    let wrong = !overview.problems.is_empty() || !overview.nacks.is_empty() || !ailing(&overview).is_empty();
    Ok(if wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Asks until there is an answer, for no longer than `wait`. Everything is looked up anew: the first start makes the token.
async fn overview(api: &ApiArguments, wait: Duration) -> Result<Overview, Failure> {
    let start = Instant::now();
    loop {
        let asked = async { Api::from_arguments(api)?.client.overview().await.map_err(failure) };
        match asked.await {
            Err(Failure::Usage(text)) => return Err(Failure::Usage(text)),
            Err(_) if start.elapsed() < wait => tokio::time::sleep(ASK_AGAIN).await,
            outcome => return outcome,
        }
    }
}

/// Services that callers cannot reach, or soon cannot, members that are refused, and a rotation that stands still. A service without any registration is no fault: it may be a name that
/// routes lead elsewhere from.
fn ailing(o: &Overview) -> Vec<String> {
    let mut lines = Vec::new();
    for s in &o.services {
        let name = format!("{}.{}", s.name, s.namespace);
        if s.lost > 0 {
            lines.push(format!("Service {name}: {} of its {} instances are lost", s.lost, s.lost + s.connected));
        }
        if s.connected > 0 && s.authorised.is_empty() {
            lines.push(format!(
                "Service {name}: no identity may serve it any more; join its instances again with new tokens"
            ));
        }
    }
    lines.extend(o.refused.iter().map(|r| format!("Member {} ({}): {}", r.member, r.identity, r.message)));
    if o.rotation != RotationPhase::Idle && o.rotation_seconds >= ROTATION_S {
        lines.push(format!(
            "The root rotation has been {:?} for {} s, waiting for {}: end these members, or start them again with new tokens",
            o.rotation,
            o.rotation_seconds,
            o.rotation_waits_for.join(", ")
        ));
    }
    lines
}

fn show(o: &Overview) {
    println!("control plane  {} up {}, discovery on {}", o.version, print::age(&o.started), o.discovery);
    println!("trust domain   {}", o.trust_domain);
    println!("members        {} connected, {} lost and kept", o.members_connected, o.members_lost);
    if o.rotation != RotationPhase::Idle {
        let waiting = o.rotation_waits_for.join(", ");
        println!("root rotation  {:?} for {} s, waiting for {waiting}", o.rotation, o.rotation_seconds);
    }
    let rows: Vec<Vec<String>> = o
        .services
        .iter()
        .map(|s| {
            let ports: Vec<String> = s.ports.iter().map(|p| format!("{}/{}", p.port, p.protocol)).collect();
            let lost = if s.lost > 0 { format!(" (+{} lost)", s.lost) } else { String::new() };
            vec![
                format!("{}.{}", s.name, s.namespace),
                ports.join(","),
                format!("{}{lost}", s.connected),
                s.authorised.join(","),
            ]
        })
        .collect();
    print!("\n{}", print::table(&["SERVICE", "PORTS", "ENDPOINTS", "AUTHORISED IDENTITIES"], &rows));
    let ailing = ailing(o);
    if o.problems.is_empty() && o.nacks.is_empty() && ailing.is_empty() {
        println!("\nNothing needs mending.");
        return;
    }
    println!("\nNeeds mending:");
    for line in ailing {
        println!("  {line}");
    }
    for (resource, condition) in &o.problems {
        println!(
            "  {resource}: {} is {}: {}: {}",
            condition.kind, condition.status, condition.reason, condition.message
        );
    }
    for nack in &o.nacks {
        println!("  {} is refused by {} proxies: {}", nack.resource, nack.proxies, nack.error);
    }
}
