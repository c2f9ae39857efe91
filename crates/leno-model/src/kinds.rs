//! The typed specs, one file per kind. Their doc comments are the text of `leno explain` and of the reference page.

pub mod access_policy;
pub mod endpoint;
pub mod external_service;
pub mod filters;
pub mod grpc_route;
pub mod http_route;
pub mod mesh_config;
pub mod reference_grant;
pub mod references;
pub mod service;
pub mod service_info;
pub mod traffic_policy;
pub mod workload;

pub use access_policy::AccessPolicySpec;
pub use endpoint::EndpointSpec;
pub use external_service::ExternalServiceSpec;
pub use grpc_route::GrpcRouteSpec;
pub use http_route::HttpRouteSpec;
pub use mesh_config::{MeshConfigSpec, MeshConfigStatus};
pub use reference_grant::ReferenceGrantSpec;
pub use service::ServiceSpec;
pub use service_info::ServiceInfoSpec;
pub use traffic_policy::TrafficPolicySpec;
pub use workload::WorkloadSpec;

use schemars::Schema;

use crate::kind::Kind;
use crate::resource::Spec;

macro_rules! specs {
    ($($kind:ident $spec:ty;)*) => {
        $(impl Spec for $spec { const KIND: Kind = Kind::$kind; })*

        /// The JSON schema of a kind's spec.
        #[must_use]
        pub fn spec_schema(kind: Kind) -> Schema {
            match kind { $(Kind::$kind => schemars::schema_for!($spec),)* }
        }

        /// Whether the raw spec decodes into its kind's type.
        pub fn decodes(kind: Kind, spec: &serde_json::Value) -> Result<(), serde_json::Error> {
            use serde::Deserialize;
            match kind { $(Kind::$kind => <$spec>::deserialize(spec).map(|_| ()),)* }
        }
    };
}

specs! {
    Service ServiceSpec;
    HttpRoute HttpRouteSpec;
    GrpcRoute GrpcRouteSpec;
    ReferenceGrant ReferenceGrantSpec;
    ExternalService ExternalServiceSpec;
    TrafficPolicy TrafficPolicySpec;
    AccessPolicy AccessPolicySpec;
    MeshConfig MeshConfigSpec;
    Workload WorkloadSpec;
    Endpoint EndpointSpec;
    ServiceInfo ServiceInfoSpec;
}
