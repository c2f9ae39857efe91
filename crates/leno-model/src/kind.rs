//! The closed set of kinds, and what each is called where.

use std::fmt;

use crate::names::{DEFAULT_NAMESPACE, SYSTEM_NAMESPACE};

/// Group and version of Leno's own kinds.
pub const LENO_GROUP: &str = "leno.dev/v1alpha1";
/// Group and version of the Gateway API kinds.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io/v1";

macro_rules! kinds {
    ($($variant:ident $text:literal $api:expr, $plural:literal $short:expr, $writer:ident, $summary:literal;)*) => {
        /// A kind of resource that this version knows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $(#[doc = $summary] $variant,)* }

        impl Kind {
            /// All, in the order of the reference page.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The word in YAML.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }
            /// Group and version, as in YAML.
            #[must_use]
            pub fn api_version(self) -> &'static str { match self { $(Self::$variant => $api,)* } }
            /// Lower-case plural: paths of the REST API, and `leno get`.
            #[must_use]
            pub fn plural(self) -> &'static str { match self { $(Self::$variant => $plural,)* } }
            /// Short names for the command line.
            #[must_use]
            pub fn short_names(self) -> &'static [&'static str] { match self { $(Self::$variant => &$short,)* } }
            /// Who writes it.
            #[must_use]
            pub fn writer(self) -> Writer { match self { $(Self::$variant => Writer::$writer,)* } }
            /// One sentence for people.
            #[must_use]
            pub fn summary(self) -> &'static str { match self { $(Self::$variant => $summary,)* } }
        }
    };
}

/// Who writes resources of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// Users, by `leno apply`.
    User,
    /// The control plane; users read it.
    ControlPlane,
    /// The control plane, for proxies only; neither stored nor listed.
    Wire,
}

kinds! {
    Service "Service" "v1", "services" ["svc"], User, "A named destination with ports. Its endpoints are the instances registered for it.";
    HttpRoute "HTTPRoute" GATEWAY_GROUP, "httproutes" ["httproute"], User, "Routes HTTP requests for a Service to backends by path, headers, query and method.";
    GrpcRoute "GRPCRoute" GATEWAY_GROUP, "grpcroutes" ["grpcroute"], User, "Routes gRPC calls for a Service to backends by gRPC service, method and headers.";
    ReferenceGrant "ReferenceGrant" GATEWAY_GROUP, "referencegrants" ["refgrant"], User, "Permits resources of other namespaces to refer to resources of this one.";
    ExternalService "ExternalService" LENO_GROUP, "externalservices" ["extsvc"], User, "A destination outside the mesh that members may call although egress is denied.";
    TrafficPolicy "TrafficPolicy" LENO_GROUP, "trafficpolicies" ["tp"], User, "How a service is called: balancing, timeouts, retries, limits, ejection.";
    AccessPolicy "AccessPolicy" LENO_GROUP, "accesspolicies" ["ap"], User, "Who may call a service; enforced by the proxy of the called instance.";
    MeshConfig "MeshConfig" LENO_GROUP, "meshconfigs" ["mesh"], User, "Settings of the whole mesh; one resource, named `mesh`, in `leno-system`.";
    Workload "Workload" LENO_GROUP, "workloads" ["wl"], ControlPlane, "A registered instance: written by the control plane from the registration of its proxy.";
    Endpoint "Endpoint" LENO_GROUP, "endpoints" ["ep"], Wire, "One instance of one service, as proxies are told of it.";
    ServiceInfo "ServiceInfo" LENO_GROUP, "serviceinfos" [], Wire, "What the control plane knows of a service beside its Service: virtual addresses and authorised identities.";
}

impl Kind {
    /// Finds a kind by what YAML says. Gateway API kinds are also accepted in the versions that came before v1.
    #[must_use]
    pub fn find(api_version: &str, kind: &str) -> Option<Self> {
        let found = Self::ALL.iter().copied().find(|k| k.as_str() == kind)?;
        let accepted = found.api_version() == api_version
            || (found.api_version() == GATEWAY_GROUP && api_version == "gateway.networking.k8s.io/v1beta1");
        accepted.then_some(found)
    }

    /// Finds a kind by any of its names, in any case: `HTTPRoute`, `httproutes`, `svc`, `service`.
    #[must_use]
    pub fn from_alias(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        Self::ALL.iter().copied().find(|k| {
            k.as_str().eq_ignore_ascii_case(&text) || k.plural() == text || k.short_names().contains(&text.as_str())
        })
    }

    /// The group part of the API version; empty for core kinds.
    #[must_use]
    pub fn group(self) -> &'static str {
        self.api_version().split_once('/').map_or("", |(group, _)| group)
    }

    /// Whether it has a namespace. Every kind has; mesh-wide ones live in `leno-system`.
    #[must_use]
    pub fn namespaced(self) -> bool {
        true
    }

    /// The namespace of a document that names none and no flag does.
    #[must_use]
    pub fn default_namespace(self) -> &'static str {
        if self == Self::MeshConfig { SYSTEM_NAMESPACE } else { DEFAULT_NAMESPACE }
    }

    /// Whether `leno apply` takes it.
    #[must_use]
    pub fn user_writable(self) -> bool {
        self.writer() == Writer::User
    }

    /// Whether not understanding it must close a destination rather than open it (BAD_INPUTS 19).
    #[must_use]
    pub fn is_security(self) -> bool {
        self == Self::AccessPolicy
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_name_finds_one_kind() {
        let mut seen = BTreeSet::new();
        for &kind in Kind::ALL {
            assert_eq!(Kind::find(kind.api_version(), kind.as_str()), Some(kind));
            for name in [kind.as_str(), kind.plural()].iter().chain(kind.short_names()) {
                assert_eq!(Kind::from_alias(name), Some(kind), "{name}");
                if *name != kind.as_str() && !name.eq_ignore_ascii_case(kind.as_str()) {
                    assert!(seen.insert((*name).to_owned()), "{name} twice");
                }
            }
        }
        assert_eq!(Kind::find("apps/v1", "Service"), None);
    }
}
