//! What a proxy holds of one service: the resources as sent, decoded once.
//!
//! Lenient where users are not: unknown fields are ignored. A resource that cannot be used is kept out, with a diagnostic for the
//! control plane, and the last good version of it stays in use; only what is about security is replaced by its own refusal, so that
//! a policy nobody understands closes (D3, BAD_INPUTS 19 and 20).

use std::collections::BTreeMap;
use std::sync::Arc;

use leno_model::diagnostic::{Code, Diagnostic, Severity};
use leno_model::kinds::{
    AccessPolicySpec, EndpointSpec, ExternalServiceSpec, GrpcRouteSpec, HttpRouteSpec, MeshConfigSpec,
    MeshConfigStatus, ReferenceGrantSpec, ServiceInfoSpec, ServiceSpec, TrafficPolicySpec,
};
use leno_model::resource::{Metadata, Resource, ResourceRef};
use leno_model::{Kind, MAX_RESOURCE, Spec, targets};

use crate::{access, route};

/// Kinds that close their targets when they are not understood: those of this version, and those that later versions are
/// planned to have (DESIGN D3).
const SECURITY_KINDS: [&str; 2] = ["AccessPolicy", "AuthenticationPolicy"];

/// The resources of one collection (`out:`, `in:` or `mesh`), decoded.
#[derive(Debug, Clone, Default)]
pub struct Collection {
    version: u64,
    items: BTreeMap<ResourceRef, Item>,
}

/// Why a resource cannot be used. Boxed, since it is much larger than what it takes the place of.
pub(crate) type Fault = Box<Diagnostic>;

/// A resource of a collection.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    version: u64,
    /// What is in use.
    pub good: Option<Arc<Good>>,
    /// Why the latest version is not.
    pub fault: Option<Diagnostic>,
}

/// A decoded resource.
#[derive(Debug, Clone)]
pub(crate) struct Good {
    pub metadata: Metadata,
    pub body: Body,
}

/// The typed spec.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Service(ServiceSpec),
    Info(ServiceInfoSpec),
    Endpoint(EndpointSpec),
    HttpRoute(Arc<HttpRouteSpec>),
    GrpcRoute(Arc<GrpcRouteSpec>),
    Grant(ReferenceGrantSpec),
    Traffic(TrafficPolicySpec),
    Access(Arc<AccessPolicySpec>),
    Mesh(MeshConfigSpec, MeshConfigStatus),
    External(ExternalServiceSpec),
}

impl Collection {
    /// An empty collection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The version that the last [`Self::complete`] named.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Notes that everything up to this version has arrived.
    pub fn complete(&mut self, version: u64) {
        self.version = version;
    }

    /// Takes in one resource as sent: JSON of a [`Resource`]. Gives the diagnostic to refuse it with, if it cannot be used.
    pub fn upsert(&mut self, key: ResourceRef, version: u64, json: &[u8]) -> Option<&Diagnostic> {
        let decoded = decode(&key, json);
        self.insert(key, version, decoded)
    }

    /// Takes in a resource that is decoded already.
    pub(crate) fn insert(
        &mut self,
        key: ResourceRef,
        version: u64,
        decoded: Result<Arc<Good>, Fault>,
    ) -> Option<&Diagnostic> {
        let security = is_security(&key.kind);
        let item = self.items.entry(key).or_insert(Item { version, good: None, fault: None });
        item.version = version;
        match decoded {
            Ok(good) => (item.good, item.fault) = (Some(good), None),
            Err(fault) => {
                if security {
                    item.good = None;
                }
                item.fault = Some(*fault);
            }
        }
        item.fault.as_ref()
    }

    /// Forgets a resource.
    pub fn delete(&mut self, key: &ResourceRef) {
        self.items.remove(key);
    }

    /// Every resource held and its version, for a resume.
    pub fn versions(&self) -> impl Iterator<Item = (&ResourceRef, u64)> {
        self.items.iter().map(|(key, item)| (key, item.version))
    }

    /// Number of resources held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// What cannot be used, and why.
    pub fn faults(&self) -> impl Iterator<Item = &Diagnostic> {
        self.items.values().filter_map(|item| item.fault.as_ref())
    }

    /// The resources in use.
    pub(crate) fn good(&self) -> impl Iterator<Item = (&ResourceRef, &Good)> {
        self.items.iter().filter_map(|(key, item)| item.good.as_deref().map(|good| (key, good)))
    }

    /// The resources about security that cannot be used: each closes the whole service.
    pub(crate) fn closing(&self) -> impl Iterator<Item = &ResourceRef> {
        self.items.iter().filter(|(key, item)| item.good.is_none() && is_security(&key.kind)).map(|(key, _)| key)
    }
}

fn is_security(kind: &str) -> bool {
    SECURITY_KINDS.contains(&kind)
}

pub(crate) fn decode(key: &ResourceRef, json: &[u8]) -> Result<Arc<Good>, Fault> {
    let fault = |code, message: String| Box::new(Diagnostic::about(key.clone(), Severity::Error, code, "", message));
    if json.len() > MAX_RESOURCE {
        return Err(fault(Code::LimitExceeded, format!("{} bytes; at most {MAX_RESOURCE} are accepted", json.len())));
    }
    let resource = Resource::from_json(json).map_err(|e| fault(Code::Undecodable, e.to_string()))?;
    if resource.reference() != *key {
        return Err(fault(Code::Undecodable, format!("sent as {key}, says it is {}", resource.reference())));
    }
    let Some(kind) = resource.known_kind() else {
        return Err(fault(Code::UnknownKind, format!("no kind {} in {}", key.kind, resource.api_version)));
    };
    let body = decode_body(kind, &resource).map_err(|message| fault(Code::Undecodable, message))?;
    let good = Good { metadata: resource.metadata, body };
    // What decodes may still not compile; found out now, so that the last good version can stay.
    match &good.body {
        Body::HttpRoute(spec) => route::http::probe(key, spec)?,
        Body::GrpcRoute(spec) => route::grpc::probe(key, spec)?,
        Body::Access(spec) => access::probe(key, spec)?,
        _ => {}
    }
    Ok(Arc::new(good))
}

fn decode_body(kind: Kind, resource: &Resource) -> Result<Body, String> {
    fn typed<S: Spec>(resource: &Resource) -> Result<S, String> {
        resource.spec().map_err(|e| e.to_string())
    }
    Ok(match kind {
        Kind::Service => Body::Service(typed(resource)?),
        Kind::ServiceInfo => Body::Info(typed(resource)?),
        Kind::Endpoint => Body::Endpoint(typed(resource)?),
        Kind::HttpRoute => Body::HttpRoute(Arc::new(typed(resource)?)),
        Kind::GrpcRoute => Body::GrpcRoute(Arc::new(typed(resource)?)),
        Kind::ReferenceGrant => Body::Grant(typed(resource)?),
        Kind::TrafficPolicy => {
            let spec: TrafficPolicySpec = typed(resource)?;
            if targets(resource).is_empty() {
                return Err("spec.targetRefs: a target is not a Service".to_owned());
            }
            Body::Traffic(spec)
        }
        Kind::AccessPolicy => Body::Access(Arc::new(typed(resource)?)),
        Kind::MeshConfig => {
            use serde::Deserialize;
            let status = match &resource.status {
                serde_json::Value::Null => MeshConfigStatus::default(),
                status => MeshConfigStatus::deserialize(status).map_err(|e| format!("status: {e}"))?,
            };
            Body::Mesh(typed(resource)?, status)
        }
        Kind::ExternalService => Body::External(typed(resource)?),
        Kind::Workload => return Err("a Workload is not sent to proxies".to_owned()),
    })
}

/// The part of a resource's metadata that orders conflicts: older first.
pub(crate) fn age(metadata: &Metadata) -> (bool, String, String, String) {
    (
        metadata.creation_timestamp.is_empty(),
        metadata.creation_timestamp.clone(),
        metadata.namespace.clone(),
        metadata.name.clone(),
    )
}

#[cfg(test)]
mod tests;
