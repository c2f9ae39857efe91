//! `ExternalService`: a destination outside the mesh.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Host names outside the mesh that members may reach by the forward-proxy port although `MeshConfig.egress` is `deny`.
/// The traffic is passed on without mesh TLS. In `leno-system` it holds for the whole mesh, else for its own namespace.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalServiceSpec {
    /// Host names or addresses: exact (`api.example.com`, `192.0.2.7`) or all names below one (`*.example.com`).
    #[schemars(length(min = 1, max = 64))]
    pub hosts: Vec<String>,
    /// The ports that may be reached; all if there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub ports: Vec<ExternalPort>,
}

/// A port of an external service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalPort {
    /// The port number.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
}
