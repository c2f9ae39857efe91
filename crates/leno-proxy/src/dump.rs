//! The plan dump of the admin port: what is executed, as JSON for people and for `leno why`.

use leno_plan::{BackendTarget, DestinationPlan, InboundPlan, Transport};
use serde_json::{Value, json};

use crate::snapshot::{DestinationState, Snapshot};

/// One snapshot.
#[must_use]
pub fn snapshot(snapshot: &Snapshot) -> Value {
    let outbound: Vec<Value> = snapshot
        .outbound
        .iter()
        .map(|(service, destination)| match &destination.state {
            DestinationState::Ready(plan) => destination_plan(plan),
            DestinationState::Missing => json!({"service": service.to_string(), "state": "missing"}),
            DestinationState::Denied(detail) => {
                json!({"service": service.to_string(), "state": "denied", "detail": &**detail})
            }
            DestinationState::Rejected(detail) => {
                json!({"service": service.to_string(), "state": "rejected", "detail": &**detail})
            }
        })
        .collect();
    let tls = snapshot.tls.as_ref();
    json!({
        "version": snapshot.version,
        "identity": tls.map(|t| t.identity().spiffe().to_string()),
        "serial": tls.map(|t| t.identity().serial().to_string()),
        "not_after": tls.map(|t| t.identity().leaf().not_after),
        "generation": tls.map(|t| t.generation()),
        "mesh": {
            "egress": if snapshot.mesh.egress.open { "allow" } else { "deny" },
            "namespaces": snapshot.mesh.namespaces.iter().map(ToString::to_string).collect::<Vec<_>>(),
        },
        "inbound": snapshot.inbound.values().map(|plan| inbound_plan(plan)).collect::<Vec<_>>(),
        "outbound": outbound,
    })
}

fn destination_plan(plan: &DestinationPlan) -> Value {
    let ports: Vec<Value> = plan
        .ports
        .iter()
        .map(|(number, port)| {
            json!({
                "port": number,
                "protocol": port.protocol.map(|p| p.as_str()),
                "rules": port.routes.rules().iter().map(|rule| rule_view(rule)).collect::<Vec<_>>(),
                "matches": port.routes.entries().iter().map(|e| format!("{:?} -> rule {}", e.condition, e.rule)).collect::<Vec<_>>(),
                "endpoints": port.endpoints.as_slice().iter().map(|e| json!({
                    "instance": &*e.key,
                    "zone": e.zone.as_deref(),
                    "weight": e.weight,
                    "addresses": e.transports.iter().map(transport).collect::<Vec<_>>(),
                })).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "service": plan.service.to_string(),
        "state": "ready",
        "version": plan.version,
        "member": plan.member,
        "identities": plan.identities.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "policy": format!("{:?}", plan.policy),
        "ports": ports,
    })
}

fn rule_view(rule: &leno_plan::RouteRule) -> Value {
    let backends: Vec<Value> = rule
        .backends
        .iter()
        .map(|backend| match &backend.target {
            BackendTarget::Service { service, port } => {
                json!({"service": service.to_string(), "port": port, "weight": backend.weight})
            }
            BackendTarget::Refused { detail } => json!({"refused": &**detail, "weight": backend.weight}),
        })
        .collect();
    json!({"name": &*rule.name, "filters": rule.filters.len(), "backends": backends})
}

fn transport(transport: &Transport) -> String {
    let kind = match transport {
        Transport::Leno { .. } => "leno/1",
        Transport::Mtls { .. } => "mtls",
        Transport::Plain { .. } => "plain",
    };
    format!("{kind} {}", transport.addr())
}

fn inbound_plan(plan: &InboundPlan) -> Value {
    let ports: Vec<Value> = plan
        .ports
        .iter()
        .map(|(number, port)| {
            json!({
                "port": number,
                "app_port": port.app_port,
                "protocol": port.protocol.map(|p| p.as_str()),
                "access": format!("{:?}", port.access),
                "max_requests": port.limits.max_requests,
                "max_connections": port.limits.max_connections,
            })
        })
        .collect();
    json!({"service": plan.service.to_string(), "version": plan.version, "ports": ports})
}
