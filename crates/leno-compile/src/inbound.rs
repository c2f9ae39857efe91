//! The `in:` collection of a service → how a member serves it.

use std::collections::BTreeMap;
use std::sync::Arc;

use leno_model::NamespacedName;
use leno_model::diagnostic::Diagnostic;
use leno_model::kinds::service::ServicePort;
use leno_model::kinds::workload::WorkloadPort;
use leno_model::ports::application_ports;
use leno_plan::{InboundPlan, InboundPort};

use crate::access;
use crate::collection::Collection;
use crate::destination::service_ports;
use crate::mesh::MeshDefaults;
use crate::policy;

/// Compiles how an instance that registered `registered` serves `service`. Never fails; a port that the instance has no
/// application port for is not in the plan.
#[must_use]
pub fn compile_inbound(
    service: &NamespacedName,
    collection: &Collection,
    mesh: &MeshDefaults,
    registered: &[WorkloadPort],
) -> (InboundPlan, Vec<Diagnostic>) {
    let mut diagnostics: Vec<Diagnostic> = collection.faults().cloned().collect();
    let (policy, found) = policy::call_policy(service, collection);
    diagnostics.extend(found);
    let access = Arc::new(access::access_plan(service, collection, mesh, &mut diagnostics));

    let declared = service_ports(service, collection);
    let list: Vec<ServicePort> = declared.values().cloned().collect();
    let ports: BTreeMap<u16, InboundPort> = application_ports(&list, registered)
        .into_iter()
        .map(|(number, app_port)| {
            let by_service = declared.get(&number).and_then(ServicePort::declared_protocol);
            let own = || registered.iter().find(|r| r.port == app_port)?.app_protocol.as_deref()?.parse().ok();
            let port = InboundPort {
                app_port,
                protocol: by_service.or_else(own),
                access: access.clone(),
                limits: policy.limits,
                timeouts: policy.timeouts,
            };
            (number, port)
        })
        .collect();
    (InboundPlan { service: service.clone(), version: collection.version(), ports }, diagnostics)
}

#[cfg(test)]
mod tests;
