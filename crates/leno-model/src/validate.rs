//! What a schema cannot say: names, uniqueness, regular expressions, which fields go together.
//!
//! Here a resource is judged alone. Whether what it refers to exists and may be referred to is the compiler's business.

pub mod access;
pub mod route;
pub mod service;
pub mod text;

use crate::diagnostic::Code;
use crate::identity::TrustDomain;
use crate::kind::Kind;
use crate::kinds::{
    AccessPolicySpec, ExternalServiceSpec, GrpcRouteSpec, HttpRouteSpec, MeshConfigSpec, ReferenceGrantSpec,
    ServiceSpec, TrafficPolicySpec,
};
use crate::names::Name;
use crate::path::FieldPath;
use crate::resource::{Resource, Spec};
use crate::schema::Findings;

/// Judges the spec of a resource; its shape has been checked.
pub fn spec(kind: Kind, resource: &Resource, path: &FieldPath, findings: &mut Findings<'_>) {
    match kind {
        Kind::Service => with::<ServiceSpec>(resource, path, findings, service::service),
        Kind::HttpRoute => with::<HttpRouteSpec>(resource, path, findings, route::http_route),
        Kind::GrpcRoute => with::<GrpcRouteSpec>(resource, path, findings, route::grpc_route),
        Kind::ReferenceGrant => with::<ReferenceGrantSpec>(resource, path, findings, reference_grant),
        Kind::ExternalService => with::<ExternalServiceSpec>(resource, path, findings, service::external_service),
        Kind::TrafficPolicy => with::<TrafficPolicySpec>(resource, path, findings, |spec, _, path, findings| {
            access::target_refs(&spec.target_refs, path, findings);
        }),
        Kind::AccessPolicy => with::<AccessPolicySpec>(resource, path, findings, access::access_policy),
        Kind::MeshConfig => with::<MeshConfigSpec>(resource, path, findings, mesh_config),
        // Written by the control plane, from typed values.
        Kind::Workload | Kind::Endpoint | Kind::ServiceInfo => {}
    }
}

fn with<S: Spec>(
    resource: &Resource,
    path: &FieldPath,
    findings: &mut Findings<'_>,
    judge: impl FnOnce(&S, &Resource, &FieldPath, &mut Findings<'_>),
) {
    match resource.spec::<S>() {
        Ok(spec) => judge(&spec, resource, path, findings),
        // The walk along the schema finds what does not decode; this is for what it overlooks.
        Err(error) => findings.error(Code::Undecodable, path, error.to_string()),
    }
}

/// Checks a DNS label and says what is wrong with it.
pub(crate) fn label(text: &str, path: &FieldPath, findings: &mut Findings<'_>) {
    if let Err(error) = Name::new(text) {
        findings.error(Code::InvalidValue, path, error.to_string());
    }
}

fn reference_grant(spec: &ReferenceGrantSpec, _: &Resource, path: &FieldPath, findings: &mut Findings<'_>) {
    for (index, from) in spec.from.iter().enumerate() {
        let path = path.key("from").index(index);
        label(&from.namespace, &path.key("namespace"), findings);
        let routes =
            from.group == "gateway.networking.k8s.io" && matches!(from.kind.as_str(), "HTTPRoute" | "GRPCRoute");
        if !routes {
            let message = "only HTTPRoute and GRPCRoute of gateway.networking.k8s.io refer across namespaces here";
            findings.warning(Code::UnsupportedValue, &path, message);
        }
    }
    for (index, to) in spec.to.iter().enumerate() {
        let path = path.key("to").index(index);
        if !(to.group.is_empty() && to.kind == "Service") {
            findings.warning(Code::UnsupportedValue, &path, "only Services are referred to across namespaces here");
        }
        if let Some(name) = &to.name {
            label(name, &path.key("name"), findings);
        }
    }
}

fn mesh_config(spec: &MeshConfigSpec, _: &Resource, path: &FieldPath, findings: &mut Findings<'_>) {
    if let Some(Err(error)) = spec.trust_domain.as_deref().map(TrustDomain::new) {
        findings.error(Code::InvalidValue, &path.key("trustDomain"), error.to_string());
    }
}
