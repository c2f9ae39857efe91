//! Resources judged together, without a mesh: what `leno lint` says of files, and the control plane of what it stores.

use std::collections::{BTreeMap, BTreeSet};

use leno_model::diagnostic::{Code, Diagnostic, Severity};
use leno_model::kinds::{GrpcRouteSpec, HttpRouteSpec, ServiceSpec, references::BackendRef};
use leno_model::resource::{Resource, ResourceRef};
use leno_model::{Kind, NamespacedName, Target, TrustDomain, targets};

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
    let mesh = MeshDefaults::new(TrustDomain::default());
    for service in concerned(resources, &known) {
        let collection = assemble(&service, resources);
        found.extend(compile_destination(&service, &collection, &mesh).1);
        found.extend(compile_inbound(&service, &collection, &mesh, &[]).1);
    }
    // A resource of several services, and of both sides of one, is told once.
    let mut seen = BTreeSet::new();
    found.retain(|d| seen.insert(d.to_string()));
    found
}

/// The collection of a service out of all resources: what is attached to it, and what its routes need.
#[must_use]
pub fn assemble(service: &NamespacedName, resources: &[Resource]) -> Collection {
    let mut collection = Collection::new();
    for (version, resource) in (1..).zip(resources) {
        let own = resource.metadata.namespace == service.namespace.as_str()
            && resource.metadata.name == service.name.as_str();
        let wanted = match resource.known_kind() {
            Some(Kind::Service | Kind::ServiceInfo) => own,
            Some(Kind::ReferenceGrant) => true,
            Some(Kind::Endpoint) => {
                resource.metadata.namespace == service.namespace.as_str()
                    && resource.spec.get("service").and_then(|s| s.as_str()) == Some(service.name.as_str())
            }
            _ => targets(resource).iter().any(|t| t.includes(service.namespace.as_str(), service.name.as_str())),
        };
        if wanted {
            collection.upsert(resource.reference(), version, &resource.to_json());
        }
    }
    collection
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
    let rules: Vec<Vec<BackendRef>> = match resource.known_kind() {
        Some(Kind::HttpRoute) => {
            let spec = resource.spec::<HttpRouteSpec>();
            spec.map(|s| s.rules.into_iter().map(|r| r.backend_refs).collect()).unwrap_or_default()
        }
        Some(Kind::GrpcRoute) => {
            let spec = resource.spec::<GrpcRouteSpec>();
            spec.map(|s| s.rules.into_iter().map(|r| r.backend_refs).collect()).unwrap_or_default()
        }
        _ => return,
    };
    for (rule, backends) in rules.iter().enumerate() {
        for (index, backend) in backends.iter().enumerate().filter(|(_, b)| b.is_service()) {
            let path = format!("spec.rules[{rule}].backendRefs[{index}]");
            absent_backend(&key, backend, &path, known, found);
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
        _ => return,
    };
    found.push(Diagnostic::about(key.clone(), Severity::Warning, Code::BackendNotFound, path, message));
}

#[cfg(test)]
mod tests;
