//! The mesh at a glance, and what of it needs mending.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use leno_api::{Condition, EndpointState, Member, Overview, Port, ServiceStatus};
use leno_model::kinds::ServiceSpec;
use leno_model::kinds::service::TargetPort;
use leno_model::{Kind, Resource};
use serde_json::Value;

use super::{Api, Shared};
use crate::audit::timestamp;
use crate::status;
use crate::world::contents::Contents;

pub(super) async fn overview(State(api): Shared) -> Json<Overview> {
    let members = api.registry.members();
    let (connected, lost) = api.registry.counts();
    let (resources, problems) = api.world.read(|contents| {
        let kinds = Kind::ALL.iter().filter(|k| k.user_writable());
        let mut counts = BTreeMap::new();
        let mut problems = Vec::new();
        for kind in kinds {
            let mut count = 0;
            for resource in contents.resources(*kind) {
                count += 1;
                let name = resource.reference().to_string();
                problems.extend(status::problems(resource).into_iter().map(|c| (name.clone(), c)));
            }
            counts.insert(kind.plural().to_owned(), count);
        }
        (counts, problems)
    });
    let services = services(&api, &members);
    let mut problems = problems;
    problems.extend(api.world.read(|contents| without_endpoints(contents, &services)));
    problems.extend(api.audit.problem().map(|message| {
        let (kind, status, reason) = ("Audited".to_owned(), "False".to_owned(), "CannotBeWritten".to_owned());
        ("the audit log".to_owned(), Condition { kind, status, reason, message })
    }));
    let mut refused = api.ca.stranded().await;
    let ca = api.ca.status_beside(&api.registry.lost(), &refused).await;
    // Whoever has no grant is refused for that reason, and told so above.
    let registrations = api.registry.refused();
    refused
        .extend(registrations.into_iter().filter(|r| refused.iter().all(|s| s.member != r.member)).collect::<Vec<_>>());
    Json(Overview {
        trust_domain: api.ca.trust_domain().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: timestamp(api.started),
        discovery: api.discovery.clone(),
        services,
        members_connected: connected,
        members_lost: lost,
        resources,
        nacks: api.reports.nacks(),
        problems,
        rotation: ca.phase,
        rotation_seconds: ca.phase_seconds,
        rotation_waits_for: ca.waiting_for,
        refused,
    })
}

fn services(api: &Api, members: &[Member]) -> Vec<ServiceStatus> {
    let mut states: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    for member in members {
        for service in &member.services {
            let (connected, lost) = states.entry((&member.namespace, &service.name)).or_default();
            *(if member.state == EndpointState::Connected { connected } else { lost }) += 1;
        }
    }
    api.world.read(|contents| {
        let status = |(namespace, name): &(String, String)| {
            let info = contents.service_info(namespace, name);
            let resource = contents.resource(Kind::Service, namespace, name);
            let spec = resource.and_then(|r| r.spec::<ServiceSpec>().ok()).unwrap_or_default();
            let (connected, lost) = states.get(&(namespace.as_str(), name.as_str())).copied().unwrap_or_default();
            let port = |p: &leno_model::kinds::service::ServicePort| Port {
                name: p.name.clone().unwrap_or_default(),
                port: p.port,
                target_port: match p.target_port {
                    Some(TargetPort::Number(number)) => number,
                    _ => p.port,
                },
                protocol: p.app_protocol.clone().unwrap_or_default(),
            };
            ServiceStatus {
                name: name.clone(),
                namespace: namespace.clone(),
                vips: info.vips.iter().map(ToString::to_string).collect(),
                ports: spec.ports.iter().map(port).collect(),
                connected,
                lost,
                authorised: info.identities.iter().map(ToString::to_string).collect(),
            }
        };
        contents.services().map(status).collect()
    })
}

/// Routes that send a share of the calls to a Service nobody serves. A missing Service is the route's own condition; one whose
/// instances are lost is told with the Service.
fn without_endpoints(contents: &Contents, services: &[ServiceStatus]) -> Vec<(String, Condition)> {
    let is_empty = |namespace: &str, name: &str| {
        services.iter().any(|s| s.namespace == namespace && s.name == name && s.connected + s.lost == 0)
    };
    let routes = [Kind::HttpRoute, Kind::GrpcRoute].into_iter().flat_map(|kind| contents.resources(kind));
    let mut problems = Vec::new();
    for route in routes {
        let found = empty_backends(route, is_empty);
        if !found.is_empty() {
            let message = format!(
                "{}; these calls are answered 503: start an instance of it, or take it out of the route",
                found.join(", ")
            );
            let (kind, status, reason) = ("Reachable".to_owned(), "False".to_owned(), "no_healthy_endpoint".to_owned());
            problems.push((route.reference().to_string(), Condition { kind, status, reason, message }));
        }
    }
    problems
}

/// `cart.shop has no endpoint and gets 10 % of rule 2` for every such backend.
fn empty_backends(route: &Resource, is_empty: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let list = |value: &Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
    let weight = |backend: &Value| backend["weight"].as_u64().unwrap_or(1);
    let mut found = Vec::new();
    for (number, rule) in (1..).zip(list(&route.spec, "rules")) {
        let backends = list(&rule, "backendRefs");
        let sum: u64 = backends.iter().map(weight).sum();
        for backend in backends.iter().filter(|b| weight(b) > 0 && b["kind"].as_str().is_none_or(|k| k == "Service")) {
            let name = backend["name"].as_str().unwrap_or_default();
            let namespace = backend["namespace"].as_str().unwrap_or(&route.metadata.namespace);
            if is_empty(namespace, name) {
                let share = (weight(backend) * 100).div_ceil(sum.max(1));
                found.push(format!("{name}.{namespace} has no endpoint and gets {share} % of rule {number}"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_that_nobody_serves_are_told_with_their_share() {
        let route: Resource = serde_json::from_value(serde_json::json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "r", "namespace": "shop"},
            "spec": {"rules": [
                {"backendRefs": [{"name": "web", "weight": 90}, {"name": "canary", "weight": 10}]},
                {"backendRefs": [{"name": "canary", "weight": 0}, {"name": "web"}]},
                {"backendRefs": [{"name": "canary"}, {"name": "canary", "namespace": "lab"}, {"name": "c", "kind": "X"}]},
                {"filters": []}
            ]}
        }))
        .unwrap();
        let found = empty_backends(&route, |namespace, name| namespace == "shop" && name == "canary");
        assert_eq!(
            found,
            [
                "canary.shop has no endpoint and gets 10 % of rule 1",
                "canary.shop has no endpoint and gets 34 % of rule 3"
            ]
        );
    }
}
