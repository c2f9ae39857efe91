//! The `mesh` collection → what holds where no resource says otherwise.

use std::collections::BTreeSet;
use std::sync::Arc;

use leno_model::diagnostic::{Code, Diagnostic, Severity};
use leno_model::names::SYSTEM_NAMESPACE;
use leno_model::resource::ResourceRef;
use leno_model::{Name, TrustDomain};
use leno_plan::{DefaultAccess, EgressHost, EgressName, EgressPolicy, IpPrefix};

use crate::collection::{Body, Collection};

/// What holds in the whole mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshDefaults {
    /// The mesh's own trust domain.
    pub trust_domain: TrustDomain,
    /// Whether members may call what no AccessPolicy with an allow applies to.
    pub access_open: bool,
    /// Whether destinations outside may be reached.
    pub egress: EgressPolicy,
    /// Namespaces that have services: `NAME.NAMESPACE` is a name of the mesh for these only (D13).
    pub namespaces: BTreeSet<Name>,
    /// Where virtual addresses are from.
    pub prefixes: Vec<IpPrefix>,
}

impl MeshDefaults {
    /// The defaults of a mesh that nobody configured (DESIGN section 7).
    #[must_use]
    pub fn new(trust_domain: TrustDomain) -> Self {
        let egress = EgressPolicy { open: true, hosts: Vec::new() };
        Self { trust_domain, access_open: true, egress, namespaces: BTreeSet::new(), prefixes: Vec::new() }
    }

    /// What holds before the mesh's configuration is known: nobody may call what no policy allows, and nothing may leave.
    #[must_use]
    pub fn unknown(trust_domain: TrustDomain) -> Self {
        Self { access_open: false, egress: EgressPolicy::default(), ..Self::new(trust_domain) }
    }

    pub(crate) fn default_access(&self) -> DefaultAccess {
        if self.access_open { DefaultAccess::Members(self.trust_domain.clone()) } else { DefaultAccess::Deny }
    }
}

/// Compiles the `mesh` collection for a member of `namespace` in `trust_domain` (its own certificate's). A MeshConfig that cannot be
/// understood, and of which no good version was seen, closes access and egress.
#[must_use]
pub fn compile_mesh(
    collection: &Collection,
    namespace: &Name,
    trust_domain: &TrustDomain,
) -> (MeshDefaults, Vec<Diagnostic>) {
    let mut mesh = MeshDefaults::new(trust_domain.clone());
    let mut diagnostics: Vec<Diagnostic> = collection.faults().cloned().collect();
    let mut configured = false;
    for (key, good) in collection.good() {
        match &good.body {
            Body::Mesh(spec, status) if key.namespace == SYSTEM_NAMESPACE && key.name == "mesh" => {
                configured = true;
                mesh.access_open = spec.access.is_none_or(|v| v.permits());
                mesh.egress.open = spec.egress.is_none_or(|v| v.permits());
                mesh.namespaces = status.namespaces.iter().filter_map(|n| Name::new(n).ok()).collect();
                for (index, prefix) in status.prefixes.iter().enumerate() {
                    match prefix.parse() {
                        Ok(prefix) => mesh.prefixes.push(prefix),
                        Err(error) => diagnostics.push(warning(key, &format!("status.prefixes[{index}]"), &error)),
                    }
                }
                if !status.trust_domain.is_empty() && status.trust_domain != trust_domain.as_str() {
                    let message =
                        format!("is of the trust domain {}, this member of {trust_domain}", status.trust_domain);
                    diagnostics.push(warning(key, "status.trustDomain", &message));
                }
            }
            Body::External(spec)
                if good.metadata.namespace == namespace.as_str() || key.namespace == SYSTEM_NAMESPACE =>
            {
                let resource: Arc<str> = format!("{}/{}", key.namespace, key.name).into();
                let ports: Vec<u16> = spec.ports.iter().map(|p| p.port).collect();
                mesh.egress.hosts.extend(spec.hosts.iter().map(|host| EgressHost {
                    resource: resource.clone(),
                    host: EgressName::parse(host),
                    ports: ports.clone(),
                }));
            }
            _ => {}
        }
    }
    if !configured && collection.faults().any(|d| d.resource.as_ref().is_some_and(|r| r.kind == "MeshConfig")) {
        let unknown = MeshDefaults::unknown(trust_domain.clone());
        (mesh.access_open, mesh.egress.open) = (unknown.access_open, unknown.egress.open);
    }
    (mesh, diagnostics)
}

fn warning(key: &ResourceRef, path: &str, message: &dyn std::fmt::Display) -> Diagnostic {
    Diagnostic::about(key.clone(), Severity::Warning, Code::InvalidValue, path, message.to_string())
}

#[cfg(test)]
mod tests;
