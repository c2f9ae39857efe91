//! `Workload`: a registered instance.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::endpoint::EndpointAddress;
use crate::identity::SpiffeId;

/// A registered instance. The control plane writes it from the registration of the instance's proxy, and removes it when the proxy
/// deregisters or stays away for the grace time. Its labels are in the metadata.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSpec {
    /// Chosen by the proxy, the same over its restarts.
    pub instance: String,
    /// Counts the registrations of this instance; an older one never replaces or removes a newer one.
    pub generation: u64,
    /// The identity that registered it.
    #[schemars(with = "String")]
    pub identity: SpiffeId,
    /// The services it is an instance of, with their ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<WorkloadService>,
    /// Where it is reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<EndpointAddress>,
    /// Its zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Selects this workload on a hop port that it shares with others; opaque.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub workload_id: String,
}

/// A service that a workload is an instance of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadService {
    /// The service's name, in the workload's namespace.
    pub name: String,
    /// Its ports, as registered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<WorkloadPort>,
}

/// A port of a registered service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadPort {
    /// The port that the application listens on.
    pub port: u16,
    /// The port that callers use, if it is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_port: Option<u16>,
    /// The name that a Service's `targetPort` may refer to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the application speaks, if declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}
