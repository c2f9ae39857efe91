//! `leno get` and `leno describe`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use leno_api::{EndpointState, WatchEventKind};
use leno_model::kind::Kind;
use serde_json::{Value, json};

use super::apply::namespace;
use super::connection::{Api, block_on, failure};
use super::{print, yaml};
use crate::Failure;
use crate::arguments::{ApiArguments, DescribeArguments, GetArguments, OutputFormat};

/// What can be listed beside stored kinds.
const LIVE: [&str; 4] = ["members", "endpoints", "revocations", "audit"];

/// Finds a kind by any of its names, or suggests one.
pub fn kind(text: &str) -> Result<Kind, Failure> {
    Kind::from_alias(text).ok_or_else(|| {
        let names = Kind::ALL.iter().map(|k| k.plural()).chain(LIVE);
        let near = names
            .map(|n| (strsim::damerau_levenshtein(n, &text.to_ascii_lowercase()), n))
            .min()
            .filter(|(distance, _)| *distance <= 3)
            .map(|(_, n)| format!("; did you mean `{n}`?"))
            .unwrap_or_default();
        let known: Vec<&str> = Kind::ALL.iter().map(|k| k.plural()).filter(|k| !LIVE.contains(k)).chain(LIVE).collect();
        Failure::Usage(format!("unknown kind `{text}`{near}\n      known: {}", known.join(", ")))
    })
}

/// Lists, shows one, or watches.
pub fn get(api: &ApiArguments, arguments: &GetArguments) -> Result<ExitCode, Failure> {
    let api = Api::from_arguments(api)?;
    let wanted = arguments.kind.to_ascii_lowercase();
    let scope = (!arguments.all_namespaces).then_some(arguments.namespace.as_str());
    block_on(async {
        match wanted.as_str() {
            "members" | "member" => live(arguments, members(&api, scope).await?),
            "endpoints" | "endpoint" | "ep" => {
                live(arguments, endpoints(&api, scope, arguments.name.as_deref()).await?)
            }
            "revocations" | "revocation" => live(arguments, revocations(&api).await?),
            "audit" => live(arguments, audit(&api).await?),
            _ => stored(&api, arguments, kind(&wanted)?, scope).await,
        }
    })
}

/// Headings, rows, and the same as JSON.
type Listing = (&'static [&'static str], Vec<Vec<String>>, Value);

fn live(arguments: &GetArguments, listing: Listing) -> Result<ExitCode, Failure> {
    if arguments.watch {
        return Err(Failure::Usage(format!("{} cannot be watched; watch a stored kind", arguments.kind)));
    }
    let (headings, rows, value) = listing;
    match arguments.output {
        OutputFormat::Table => print!("{}", print::table(headings, &rows)),
        OutputFormat::Yaml => print!("{}", yaml::render(&value)),
        OutputFormat::Json => println!("{}", print::json(&value)),
    }
    Ok(ExitCode::SUCCESS)
}

async fn members(api: &Api, scope: Option<&str>) -> Result<Listing, Failure> {
    let members = api.client.members(scope).await.map_err(failure)?;
    let rows = members
        .iter()
        .map(|m| {
            let services: Vec<&str> = m.services.iter().map(|s| s.name.as_str()).collect();
            let address = m.addresses.first().map(|a| a.address.clone()).unwrap_or_default();
            vec![
                m.instance.clone(),
                m.identity.clone(),
                services.join(","),
                address,
                state(m.state).to_owned(),
                labels(&m.labels),
                print::age(&m.registered),
            ]
        })
        .collect();
    Ok((&["INSTANCE", "IDENTITY", "SERVICES", "HOP", "STATE", "LABELS", "AGE"], rows, json!(members)))
}

async fn endpoints(api: &Api, scope: Option<&str>, service: Option<&str>) -> Result<Listing, Failure> {
    let endpoints = api.client.endpoints(scope, service).await.map_err(failure)?;
    let rows = endpoints
        .iter()
        .map(|e| {
            let address = e.addresses.first().map(|a| a.address.clone()).unwrap_or_default();
            vec![
                format!("{}.{}", e.service, e.namespace),
                e.instance.clone(),
                address,
                state(e.state).to_owned(),
                labels(&e.labels),
            ]
        })
        .collect();
    Ok((&["SERVICE", "INSTANCE", "ADDRESS", "STATE", "LABELS"], rows, json!(endpoints)))
}

async fn revocations(api: &Api) -> Result<Listing, Failure> {
    let all = api.client.revocations().await.map_err(failure)?;
    let rows = all
        .iter()
        .map(|r| {
            let subject = r.identity.clone().or_else(|| r.serial.clone()).unwrap_or_default();
            vec![r.id.clone(), subject, r.comment.clone(), print::age(&r.created)]
        })
        .collect();
    Ok((&["ID", "SUBJECT", "WHY", "AGE"], rows, json!(all)))
}

async fn audit(api: &Api) -> Result<Listing, Failure> {
    let entries = api.client.audit(100).await.map_err(failure)?;
    let rows = entries
        .iter()
        .map(|e| vec![e.at.clone(), e.principal.clone(), e.action.clone(), e.object.clone(), e.outcome.clone()])
        .collect();
    Ok((&["AT", "WHO", "ACTION", "OBJECT", "OUTCOME"], rows, json!(entries)))
}

fn state(state: EndpointState) -> &'static str {
    match state {
        EndpointState::Connected => "connected",
        EndpointState::Lost => "lost",
        EndpointState::Unknown => "unknown",
    }
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
}

const HEADINGS: &[&str] = &["NAMESPACE", "NAME", "ACCEPTED", "AGE"];

async fn stored(api: &Api, arguments: &GetArguments, kind: Kind, scope: Option<&str>) -> Result<ExitCode, Failure> {
    let scope = scope.map(|s| namespace(kind, s));
    if let Some(name) = &arguments.name {
        if arguments.watch {
            return Err(Failure::Usage("--watch watches a kind, not one name".to_owned()));
        }
        let resource =
            api.client.get(kind.plural(), scope.unwrap_or(kind.default_namespace()), name).await.map_err(failure)?;
        match arguments.output {
            OutputFormat::Table => print!("{}", print::table(HEADINGS, &[row(&resource)])),
            OutputFormat::Yaml => print!("{}", yaml::render(&resource)),
            OutputFormat::Json => println!("{}", print::json(&resource)),
        }
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.watch {
        return watch(api, arguments, kind, scope).await;
    }
    let list = api.client.list(kind.plural(), scope).await.map_err(failure)?;
    match arguments.output {
        OutputFormat::Table if list.items.is_empty() => eprintln!("no {} found", kind.plural()),
        OutputFormat::Table => {
            let rows: Vec<Vec<String>> = list.items.iter().map(row).collect();
            print!("{}", print::table(HEADINGS, &rows));
        }
        OutputFormat::Yaml => {
            for item in &list.items {
                print!("---\n{}", yaml::render(item));
            }
        }
        OutputFormat::Json => println!("{}", print::json(&json!({ "items": list.items }))),
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints changes until the stream ends or Ctrl-C; a compacted stream starts over with the present state.
async fn watch(api: &Api, arguments: &GetArguments, kind: Kind, scope: Option<&str>) -> Result<ExitCode, Failure> {
    let mut cursor: Option<String> = None;
    loop {
        let mut stream = api.client.watch(kind.plural(), scope, cursor.as_deref()).await.map_err(failure)?;
        while let Some(event) = stream.next().await.map_err(failure)? {
            cursor = Some(event.cursor.clone());
            let word = match event.kind {
                WatchEventKind::Put => "put",
                WatchEventKind::Delete => "delete",
                WatchEventKind::Compacted => {
                    cursor = None;
                    break;
                }
                WatchEventKind::Bookmark | WatchEventKind::Unknown => continue,
            };
            match arguments.output {
                OutputFormat::Table => println!("{word:<8}{}", row(&event.object).join("   ")),
                OutputFormat::Yaml => print!("---\n# {word}\n{}", yaml::render(&event.object)),
                OutputFormat::Json => println!("{}", serde_json::to_string(&event)?),
            }
        }
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("-")
}

fn row(resource: &Value) -> Vec<String> {
    let all = conditions(resource);
    let status = |kind| all.iter().find(|c| text(c, "/type") == kind).map_or("-", |c| text(c, "/status"));
    let accepted = match (status("Accepted"), status("PartiallyInvalid")) {
        ("True", "True") => "Partly",
        (accepted, _) => accepted,
    }
    .to_owned();
    vec![
        text(resource, "/metadata/namespace").to_owned(),
        text(resource, "/metadata/name").to_owned(),
        accepted,
        print::age(text(resource, "/metadata/creationTimestamp")),
    ]
}

/// Conditions of a resource, also those that the Gateway API keeps per parent.
fn conditions(resource: &Value) -> Vec<&Value> {
    let status = &resource["status"];
    let parents = status.get("parents").and_then(Value::as_array).into_iter().flatten();
    let holders = std::iter::once(status).chain(parents);
    holders.filter_map(|h| h.get("conditions")?.as_array()).flatten().collect()
}

/// One resource in full; for a Service also what is registered for it and attached to it.
pub fn describe(api: &ApiArguments, arguments: &DescribeArguments) -> Result<ExitCode, Failure> {
    let api = Api::from_arguments(api)?;
    let kind = kind(&arguments.kind)?;
    block_on(async {
        let namespace = namespace(kind, &arguments.namespace);
        let resource = api.client.get(kind.plural(), namespace, &arguments.name).await.map_err(failure)?;
        if arguments.output != OutputFormat::Table {
            match arguments.output {
                OutputFormat::Json => println!("{}", print::json(&resource)),
                _ => print!("{}", yaml::render(&resource)),
            }
            return Ok(ExitCode::SUCCESS);
        }
        print!("{}", yaml::render(&resource));
        let rows: Vec<Vec<String>> = conditions(&resource)
            .iter()
            .map(|c| ["/type", "/status", "/reason", "/message"].map(|p| text(c, p).to_owned()).to_vec())
            .collect();
        if !rows.is_empty() {
            print!("\n{}", print::table(&["CONDITION", "STATUS", "REASON", "MESSAGE"], &rows));
        }
        if kind == Kind::Service {
            describe_service(&api, namespace, &arguments.name).await?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn describe_service(api: &Api, namespace: &str, name: &str) -> Result<(), Failure> {
    let overview = api.client.overview().await.map_err(failure)?;
    if let Some(service) = overview.services.iter().find(|s| s.name == name && s.namespace == namespace) {
        println!(
            "\nreserved addresses     {} (for interception, which this version does not have)",
            service.vips.join(", ")
        );
        println!("authorised identities  {}", service.authorised.join(", "));
    }
    let (headings, rows, _) = endpoints(api, Some(namespace), Some(name)).await?;
    if rows.is_empty() {
        println!("\nNo endpoint is registered. Start one: leno run --service {name} --port PORT … -- COMMAND");
    } else {
        print!("\n{}", print::table(headings, &rows));
    }
    let mut attached = Vec::new();
    for kind in [Kind::HttpRoute, Kind::GrpcRoute, Kind::TrafficPolicy, Kind::AccessPolicy] {
        for item in api.client.list(kind.plural(), Some(namespace)).await.map_err(failure)?.items {
            if refers_to(&item, name) {
                attached.push(vec![kind.as_str().to_owned(), text(&item, "/metadata/name").to_owned()]);
            }
        }
    }
    if !attached.is_empty() {
        print!("\n{}", print::table(&["ATTACHED", "NAME"], &attached));
    }
    Ok(())
}

/// Whether a route or policy names the service, or the whole namespace.
fn refers_to(resource: &Value, service: &str) -> bool {
    let references = ["/spec/parentRefs", "/spec/targetRefs"].iter().filter_map(|p| resource.pointer(p)?.as_array());
    references.flatten().any(|r| {
        let kind = r.get("kind").and_then(Value::as_str).unwrap_or("Service");
        kind == "Namespace" || (kind == "Service" && text(r, "/name") == service)
    })
}
