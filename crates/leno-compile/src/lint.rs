//! Resources judged together, without a mesh: what `leno lint` says of files, and the control plane of what it stores.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use leno_model::diagnostic::{Code, Diagnostic, Severity};
use leno_model::kinds::{GrpcRouteSpec, HttpRouteSpec, ServiceSpec, references::BackendRef};
use leno_model::resource::{Resource, ResourceRef};
use leno_model::{Kind, NamespacedName, Target, TrustDomain, targets};

use crate::collection::{Body, Fault, Good, decode};
use crate::{Collection, MeshDefaults, compile_destination, compile_inbound};

/// What is wrong with these resources together: what does not compile, what conflicts, what refers to nothing. A Service that is not
/// among them may exist elsewhere or be registered without a resource, so that its absence is a warning.
#[must_use]
pub fn lint(resources: &[Resource]) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let known = services(resources);
    for resource in resources {
        absent_references(resource, &known, &mut found);
    }
    policies_beside_routes(resources, &mut found);
    let mesh = MeshDefaults::new(TrustDomain::default());
    let index = Index::new(resources);
    for service in concerned(resources, &known) {
        let collection = index.collection(&service);
        found.extend(compile_destination(&service, &collection, &mesh).1);
        found.extend(compile_inbound(&service, &collection, &mesh, &[]).1);
    }
    // A resource of several services, and of both sides of one, is told once.
    let mut seen = BTreeSet::new();
    found.retain(|d| seen.insert(d.to_string()));
    found
}

/// Every resource decoded once, found by what it acts on: the cost of all collections is their size, not its square.
struct Index {
    decoded: Vec<(ResourceRef, Result<Arc<Good>, Fault>)>,
    by_target: BTreeMap<Target, Vec<usize>>,
    grants: BTreeMap<String, Vec<usize>>,
}

impl Index {
    fn new(resources: &[Resource]) -> Self {
        let mut index = Self { decoded: Vec::new(), by_target: BTreeMap::new(), grants: BTreeMap::new() };
        for (position, resource) in resources.iter().enumerate() {
            let key = resource.reference();
            let own = || Target::Service { namespace: key.namespace.clone(), name: key.name.clone() };
            match resource.known_kind() {
                Some(Kind::Service | Kind::ServiceInfo) => index.by_target.entry(own()).or_default().push(position),
                Some(Kind::ReferenceGrant) => index.grants.entry(key.namespace.clone()).or_default().push(position),
                _ => {
                    for target in targets(resource) {
                        index.by_target.entry(target).or_default().push(position);
                    }
                }
            }
            let decoded = decode(&key, &resource.to_json());
            index.decoded.push((key, decoded));
        }
        index
    }

    /// The collection of a service: what is attached to it, and what its routes need.
    fn collection(&self, service: &NamespacedName) -> Collection {
        let (namespace, name) = (service.namespace.to_string(), service.name.to_string());
        let ways = [Target::Service { namespace: namespace.clone(), name }, Target::Namespace(namespace), Target::Mesh];
        let mut wanted: Vec<usize> = ways.iter().filter_map(|t| self.by_target.get(t)).flatten().copied().collect();
        let foreign: BTreeSet<&str> =
            wanted.iter().filter_map(|i| self.decoded[*i].1.as_ref().ok()).flat_map(|g| foreign(g)).collect();
        wanted.extend(foreign.into_iter().filter_map(|n| self.grants.get(n)).flatten());
        let mut collection = Collection::new();
        for position in wanted {
            let (key, decoded) = &self.decoded[position];
            collection.insert(key.clone(), 1, decoded.clone());
        }
        collection
    }
}

/// Other namespaces that a route refers to.
fn foreign(good: &Good) -> Vec<&str> {
    let backends: Vec<&BackendRef> = match &good.body {
        Body::HttpRoute(spec) => spec.rules.iter().flat_map(|r| &r.backend_refs).collect(),
        Body::GrpcRoute(spec) => spec.rules.iter().flat_map(|r| &r.backend_refs).collect(),
        _ => Vec::new(),
    };
    backends.into_iter().filter_map(|b| b.namespace.as_deref()).collect()
}

/// The ports of each Service among the resources.
fn services(resources: &[Resource]) -> BTreeMap<NamespacedName, Vec<u16>> {
    let service = |r: &Resource| {
        let spec: ServiceSpec = r.spec().ok()?;
        Some((r.namespaced_name().ok()?, spec.ports.iter().map(|p| p.port).collect()))
    };
    resources.iter().filter_map(service).collect()
}

/// Every Service, and what else is the target of something.
fn concerned(resources: &[Resource], known: &BTreeMap<NamespacedName, Vec<u16>>) -> BTreeSet<NamespacedName> {
    let mut all: BTreeSet<NamespacedName> = known.keys().cloned().collect();
    for target in resources.iter().flat_map(targets) {
        if let Target::Service { namespace, name } = target {
            all.extend(NamespacedName::new(&namespace, &name).ok());
        }
    }
    all
}

fn absent_references(resource: &Resource, known: &BTreeMap<NamespacedName, Vec<u16>>, found: &mut Vec<Diagnostic>) {
    let key = resource.reference();
    for target in targets(resource) {
        let Target::Service { namespace, name } = target else { continue };
        if !NamespacedName::new(&namespace, &name).is_ok_and(|n| known.contains_key(&n)) {
            let path = if key.kind.ends_with("Route") { "spec.parentRefs" } else { "spec.targetRefs" };
            let message = format!("no Service {name} in {namespace} here; it acts once there is one");
            found.push(Diagnostic::about(key.clone(), Severity::Warning, Code::NoMatchingParent, path, message));
        }
    }
    for (rule, backends) in backends_by_rule(resource).iter().enumerate() {
        for (index, backend) in backends.iter().enumerate().filter(|(_, b)| b.is_service()) {
            let path = format!("spec.rules[{rule}].backendRefs[{index}]");
            absent_backend(&key, backend, &path, known, found);
        }
    }
}

/// Of a route.
fn backends_by_rule(resource: &Resource) -> Vec<Vec<BackendRef>> {
    match resource.known_kind() {
        Some(Kind::HttpRoute) => {
            let spec = resource.spec::<HttpRouteSpec>();
            spec.map(|s| s.rules.into_iter().map(|r| r.backend_refs).collect()).unwrap_or_default()
        }
        Some(Kind::GrpcRoute) => {
            let spec = resource.spec::<GrpcRouteSpec>();
            spec.map(|s| s.rules.into_iter().map(|r| r.backend_refs).collect()).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

/// An access policy acts where a call arrives, which a route may have moved away from the service that the policy names.
fn policies_beside_routes(resources: &[Resource], found: &mut Vec<Diagnostic>) {
    let service = |namespace: &str, name: &str| Target::Service { namespace: namespace.into(), name: name.into() };
    let mut led_to: BTreeMap<Target, BTreeSet<Target>> = BTreeMap::new();
    for route in resources {
        let own = &route.metadata.namespace;
        let backends: Vec<BackendRef> = backends_by_rule(route).into_iter().flatten().collect();
        for target in targets(route).into_iter().filter(|_| !backends.is_empty()) {
            let services = backends.iter().filter(|b| b.is_service());
            led_to
                .entry(target)
                .or_default()
                .extend(services.map(|b| service(b.namespace.as_deref().unwrap_or(own), &b.name)));
        }
    }
    for policy in resources.iter().filter(|r| r.known_kind() == Some(Kind::AccessPolicy)) {
        let covered: BTreeSet<Target> = targets(policy).into_iter().collect();
        for target in &covered {
            let Target::Service { name, .. } = target else { continue };
            let elsewhere = led_to.get(target).into_iter().flatten().filter(|t| !covered.contains(t));
            let names: Vec<&str> = elsewhere
                .filter_map(|t| if let Target::Service { name, .. } = t { Some(&**name) } else { None })
                .collect();
            if names.is_empty() {
                continue;
            }
            let names = names.join(", ");
            let message = format!(
                "routes lead calls for {name} to {names}, where this policy does not act: name {names} in targetRefs as well, or in a \
                 policy of their own"
            );
            found.push(Diagnostic::about(
                policy.reference(),
                Severity::Warning,
                Code::UnsupportedValue,
                "spec.targetRefs",
                message,
            ));
        }
    }
}

fn absent_backend(
    key: &ResourceRef,
    backend: &BackendRef,
    path: &str,
    known: &BTreeMap<NamespacedName, Vec<u16>>,
    found: &mut Vec<Diagnostic>,
) {
    let namespace = backend.namespace.as_deref().unwrap_or(&key.namespace);
    let Ok(name) = NamespacedName::new(namespace, &backend.name) else { return };
    let message = match (known.get(&name), backend.port) {
        (None, _) => format!("no Service {name} here; its share of requests fails until there is one"),
        (Some(ports), Some(port)) if !ports.contains(&port) => format!("Service {name} has no port {port}"),
        (Some(ports), None) if ports.len() != 1 => format!("Service {name} has {} ports: name one", ports.len()),
        _ => return,
    };
    found.push(Diagnostic::about(key.clone(), Severity::Warning, Code::BackendNotFound, path, message));
}

#[cfg(test)]
mod tests;
