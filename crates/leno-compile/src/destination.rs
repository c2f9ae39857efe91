//! The `out:` collection of a service → how it is called.

use std::collections::BTreeMap;
use std::sync::Arc;

use leno_model::diagnostic::{Code, Diagnostic, Severity};
use leno_model::kinds::EndpointSpec;
use leno_model::kinds::endpoint::EndpointTransport;
use leno_model::kinds::service::{ServicePort, Transport as PortTransport};
use leno_model::ports::application_ports;
use leno_model::{NamespacedName, ResourceRef, SpiffeId};
use leno_plan::{DestinationPlan, DestinationPort, Endpoint, EndpointSet, RouteTable, Transport};

use crate::collection::{Body, Collection};
use crate::mesh::MeshDefaults;
use crate::policy;
use crate::route;

/// Compiles how `service` is called. Never fails: what cannot be used is left out, with a diagnostic that names it. Every
/// service is taken for a member's, so that an endpoint that offers plaintext alone is not called at all (D15).
#[must_use]
pub fn compile_destination(
    service: &NamespacedName,
    collection: &Collection,
    mesh: &MeshDefaults,
) -> (DestinationPlan, Vec<Diagnostic>) {
    let mut diagnostics: Vec<Diagnostic> = collection.faults().cloned().collect();
    let (policy, found) = policy::call_policy(service, collection);
    diagnostics.extend(found);

    let ports = service_ports(service, collection);
    let mut tables = route::tables(service, collection, &ports, &policy.retry, &mut diagnostics);
    let list: Vec<ServicePort> = ports.values().cloned().collect();
    let endpoints = endpoints(service, &list, collection, &mut diagnostics);
    let ports = ports
        .into_iter()
        .map(|(number, port)| {
            let serving = endpoints.iter().filter_map(|e| e.for_port(number));
            let compiled = DestinationPort {
                protocol: port.declared_protocol(),
                routes: tables.remove(&number).unwrap_or_else(|| RouteTable::direct(service.clone(), number)),
                endpoints: Arc::new(EndpointSet::new(serving)),
            };
            (number, compiled)
        })
        .collect();

    let plan = DestinationPlan {
        service: service.clone(),
        version: collection.version(),
        member: true,
        ports,
        policy: Arc::new(policy),
        identities: identities(service, collection, mesh, &mut diagnostics),
    };
    (plan, diagnostics)
}

/// The ports of a service by number, as its Service declares them. Registrations without a Service make one.
pub(crate) fn service_ports(service: &NamespacedName, collection: &Collection) -> BTreeMap<u16, ServicePort> {
    let mut ports = BTreeMap::new();
    let own = |key: &ResourceRef| key.namespace == service.namespace.as_str() && key.name == service.name.as_str();
    let declared = collection.good().filter(|(key, _)| own(key)).filter_map(|(_, good)| match &good.body {
        Body::Service(spec) => Some(&spec.ports),
        _ => None,
    });
    for port in declared.flatten().filter(|p| p.protocol == PortTransport::Tcp && p.port != 0) {
        ports.entry(port.port).or_insert_with(|| port.clone());
    }
    ports
}

/// The identities that may serve. Those of another trust domain are left out until meshes can be joined: their roots are not
/// trusted, and a name in them must not be taken for one of ours.
fn identities(
    service: &NamespacedName,
    collection: &Collection,
    mesh: &MeshDefaults,
    diagnostics: &mut Vec<Diagnostic>,
) -> Arc<[SpiffeId]> {
    let mut found = Vec::new();
    for (key, good) in collection.good() {
        let Body::Info(spec) = &good.body else { continue };
        if key.namespace != service.namespace.as_str() || key.name != service.name.as_str() {
            continue;
        }
        for identity in &spec.identities {
            if identity.trust_domain() == mesh.trust_domain.as_str() {
                found.push(identity.clone());
            } else {
                let message = format!("{identity} is of another trust domain than {}", mesh.trust_domain);
                let path = "spec.identities";
                diagnostics.push(Diagnostic::about(key.clone(), Severity::Warning, Code::InvalidValue, path, message));
            }
        }
    }
    found.sort();
    found.dedup();
    found.into()
}

/// An endpoint, and what differs by port.
struct Instance<'c> {
    key: Arc<str>,
    spec: &'c EndpointSpec,
    /// Service port → application port; `None`: every port.
    serves: Option<BTreeMap<u16, u16>>,
    labels: Arc<BTreeMap<String, String>>,
    sni: Arc<str>,
    /// The same for every port, if it is reached by the hop alone.
    shared: Option<Arc<Endpoint>>,
}

fn endpoints<'c>(
    service: &NamespacedName,
    ports: &[ServicePort],
    collection: &'c Collection,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Instance<'c>> {
    let mut found = Vec::new();
    for (key, good) in collection.good() {
        let Body::Endpoint(spec) = &good.body else { continue };
        let ours = good.metadata.namespace == service.namespace.as_str() && spec.service == service.name.as_str();
        if !ours || !spec.ready {
            continue;
        }
        let usable = |t| matches!(t, EndpointTransport::Leno1 | EndpointTransport::Mtls);
        if !spec.addresses.iter().any(|a| usable(a.transport)) {
            let message = "has no address that is protected by mesh TLS; it is not called";
            let path = "spec.addresses";
            diagnostics.push(Diagnostic::about(key.clone(), Severity::Warning, Code::UnsupportedValue, path, message));
            continue;
        }
        let serves = (!spec.ports.is_empty()).then(|| application_ports(ports, &spec.ports));
        // An Endpoint is called `service.serviceaccount.instance`. The instance alone is the choice of each identity.
        let name = key.name.strip_prefix(service.name.as_str()).and_then(|n| n.strip_prefix('.')).unwrap_or(&key.name);
        let mut instance = Instance {
            key: name.into(),
            serves,
            spec,
            labels: Arc::new(spec.labels.clone()),
            sni: spec.workload_id.as_str().into(),
            shared: None,
        };
        if spec.addresses.iter().all(|a| a.transport != EndpointTransport::Mtls) {
            instance.shared = instance.build(0);
        }
        found.push(instance);
    }
    found
}

impl Instance<'_> {
    fn for_port(&self, port: u16) -> Option<Arc<Endpoint>> {
        let serves = self.serves.as_ref().is_none_or(|ports| ports.contains_key(&port));
        if !serves { None } else { self.shared.clone().or_else(|| self.build(port)) }
    }

    /// Addresses best first: the hop, then one mTLS listener per port.
    fn build(&self, port: u16) -> Option<Arc<Endpoint>> {
        let of = |wanted| self.spec.addresses.iter().filter(move |a| a.transport == wanted);
        let hops = of(EndpointTransport::Leno1).map(|a| Transport::Leno { addr: a.address, sni: self.sni.clone() });
        let mtls = of(EndpointTransport::Mtls)
            .filter(|a| a.port == Some(port))
            .map(|a| Transport::Mtls { addr: a.address, sni: self.sni.clone() });
        let transports: Vec<_> = hops.chain(mtls).collect();
        (!transports.is_empty()).then(|| {
            Arc::new(Endpoint {
                key: self.key.clone(),
                transports,
                zone: self.spec.zone.as_deref().map(Arc::from),
                labels: self.labels.clone(),
                weight: 1,
            })
        })
    }
}

#[cfg(test)]
mod tests;
