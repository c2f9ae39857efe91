//! Routes that need no credentials: liveness, readiness, metrics, the description of the API.

use std::sync::LazyLock;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use leno_model::Kind;
use serde_json::{Value, json};

use super::Shared;
use crate::metrics::Gauge;

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(api): Shared) -> Response {
    if api.drain.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    let missing = api.readiness.missing();
    if missing.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", missing.join(", "))).into_response()
}

pub(super) async fn metrics(State(api): Shared) -> Response {
    let (connected, lost) = api.registry.counts();
    let state = |state: &str, count: usize| (Some(("state", state.to_owned())), count as u64);
    let kinds = Kind::ALL.iter().filter(|k| k.user_writable());
    let (resources, services) = api.world.read(|contents| {
        let count = |kind: &Kind| (Some(("kind", kind.to_string())), contents.resources(*kind).count() as u64);
        (kinds.map(count).collect(), contents.services().count())
    });
    let bundle = api.ca.bundle().borrow().version;
    let gauges = [
        Gauge {
            name: "members",
            help: "Registered workloads by state of their stream.",
            values: vec![state("connected", connected), state("lost", lost)],
        },
        Gauge { name: "resources", help: "Resources by kind.", values: resources },
        Gauge::plain("services", "Services.", services as u64),
        Gauge::plain("streams", "Open discovery streams.", api.ca.live().iter().count() as u64),
        Gauge::plain("bundle_version", "Version of the trust bundle.", bundle),
        Gauge::plain("refused_resources", "Resources that some proxy refuses.", api.reports.nacks().len() as u64),
        Gauge::plain(
            "watches",
            "Open watches of the REST API.",
            (super::MAX_WATCHES - api.watches.available_permits()) as u64,
        ),
        Gauge::plain(
            "audit_suppressed_total",
            "Refusals counted but not listed in the audit log.",
            api.audit.suppressed_total(),
        ),
    ];
    let text = api.metrics.render(&gauges);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// Made once: it does not change while the process runs.
static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let schema = |kind: &Kind| {
        let spec = leno_model::schema::of(*kind).clone();
        let value = json!({
            "type": "object",
            "description": kind.summary(),
            "required": ["apiVersion", "kind", "metadata"],
            "properties": {
                "apiVersion": { "const": kind.api_version() },
                "kind": { "const": kind.as_str() },
                "metadata": { "type": "object" },
                "spec": inlined(spec, kind.as_str()),
                "status": { "type": "object" },
            },
        });
        (kind.as_str().to_owned(), value)
    };
    let kinds = Kind::ALL.iter().filter(|k| k.writer() != leno_model::Writer::Wire);
    leno_api::openapi::document(env!("CARGO_PKG_VERSION"), kinds.map(schema).collect()).to_string()
});

/// A kind's schema refers to its own definitions from its root; inside the document the root is elsewhere.
fn inlined(mut schema: Value, kind: &str) -> Value {
    fn walk(value: &mut Value, from: &str, to: &str) {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    match field {
                        Value::String(text) if name == "$ref" && text.starts_with(from) => {
                            *text = text.replacen(from, to, 1)
                        }
                        _ => walk(field, from, to),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| walk(item, from, to)),
            _ => {}
        }
    }
    walk(&mut schema, "#/$defs/", &format!("#/components/schemas/{kind}/properties/spec/$defs/"));
    schema
}

pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_of_the_document_resolves() {
        let document: Value = serde_json::from_str(&DOCUMENT).unwrap();
        let mut references = Vec::new();
        fn collect(value: &Value, references: &mut Vec<String>) {
            match value {
                Value::Object(fields) => {
                    references.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    fields.values().for_each(|f| collect(f, references));
                }
                Value::Array(items) => items.iter().for_each(|i| collect(i, references)),
                _ => {}
            }
        }
        collect(&document, &mut references);
        assert!(references.len() > 50, "{}", references.len());
        for reference in references {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
    }
}
