//! What proxies are sent of a resource: its JSON without what only the store and people need.

use bytes::Bytes;
use leno_discovery::{Entry, Key};
use leno_model::kinds::endpoint::EndpointAddress;
use leno_model::kinds::{EndpointSpec, MeshConfigStatus, ServiceInfoSpec, WorkloadSpec};
use leno_model::{Kind, Resource, ResourceRef};
use serde_json::Value;

/// Name of the one MeshConfig.
pub const MESH_CONFIG: &str = "mesh";

/// The key of a resource on the wire.
#[must_use]
pub fn key(reference: &ResourceRef) -> Key {
    Key::new(&reference.kind, &reference.namespace, &reference.name)
}

/// Encodes a user's resource.
#[must_use]
pub fn resource(resource: &Resource) -> Entry {
    let mut sent = resource.clone();
    sent.status = Value::Null;
    sent.metadata.resource_version.clear();
    sent.metadata.uid.clear();
    entry(&sent)
}

fn entry(resource: &Resource) -> Entry {
    Entry::new(Bytes::from(resource.to_json()))
}

/// The MeshConfig as proxies get it: the user's spec, or the defaults, and the names and prefixes of the mesh in its status.
#[must_use]
pub fn mesh_config(user: Option<&Resource>, status: &MeshConfigStatus) -> (Key, Entry) {
    let mut sent = match user {
        Some(resource) => resource.clone(),
        None => wire(Kind::MeshConfig, leno_model::names::SYSTEM_NAMESPACE, MESH_CONFIG, Value::Null),
    };
    sent.metadata.resource_version.clear();
    sent.metadata.uid.clear();
    sent.status = serde_json::to_value(status).expect("plain data with text keys");
    (key(&sent.reference()), entry(&sent))
}

/// The ServiceInfo of a service.
#[must_use]
pub fn service_info(namespace: &str, service: &str, info: &ServiceInfoSpec) -> (Key, Entry) {
    let spec = serde_json::to_value(info).expect("plain data with text keys");
    let sent = wire(Kind::ServiceInfo, namespace, service, spec);
    (key(&sent.reference()), entry(&sent))
}

/// The endpoints that a registered workload is, one per service: the service's name and the resource.
#[must_use]
pub fn endpoints(workload: &Resource, spec: &WorkloadSpec) -> Vec<(String, Key, Entry)> {
    spec.services
        .iter()
        .map(|service| {
            let endpoint = EndpointSpec {
                service: service.name.clone(),
                instance: spec.instance.clone(),
                generation: spec.generation,
                addresses: spec.addresses.iter().map(EndpointAddress::clone).collect(),
                ports: service.ports.clone(),
                labels: workload.metadata.labels.clone(),
                zone: spec.zone.clone(),
                workload_id: spec.workload_id.clone(),
                ready: true,
            };
            let name = format!("{}.{}", service.name, workload.metadata.name);
            let value = serde_json::to_value(&endpoint).expect("plain data with text keys");
            let sent = wire(Kind::Endpoint, &workload.metadata.namespace, &name, value);
            (service.name.clone(), key(&sent.reference()), entry(&sent))
        })
        .collect()
}

fn wire(kind: Kind, namespace: &str, name: &str, spec: Value) -> Resource {
    let mut resource = Resource {
        api_version: kind.api_version().to_owned(),
        kind: kind.as_str().to_owned(),
        metadata: leno_model::Metadata::default(),
        spec,
        status: Value::Null,
        extra: serde_json::Map::new(),
    };
    resource.metadata.namespace = namespace.to_owned();
    resource.metadata.name = name.to_owned();
    resource
}
