//! `Service` (core v1): a named destination with ports.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names::AppProtocol;

/// A named destination with ports. Outside Kubernetes its endpoints are the instances whose proxies registered for it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-leno-unsupported" = [
    "clusterIP", "clusterIPs", "type", "externalName", "externalIPs", "sessionAffinity", "sessionAffinityConfig",
    "loadBalancerIP", "loadBalancerClass", "loadBalancerSourceRanges", "allocateLoadBalancerNodePorts", "healthCheckNodePort",
    "externalTrafficPolicy", "internalTrafficPolicy", "trafficDistribution", "ipFamilies", "ipFamilyPolicy",
    "publishNotReadyAddresses"
]))]
pub struct ServiceSpec {
    /// The ports that callers use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ServicePort>,
    /// Pod labels, for Kubernetes. Outside it the endpoints are the registrations, and the selector selects nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-leno-unsupported" = ["nodePort"]))]
pub struct ServicePort {
    /// A DNS label, unique in the service. Required if there are several ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The transport. The mesh carries `TCP`; other ports pass it by.
    #[serde(default)]
    pub protocol: Transport,
    /// The port that callers use.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The port the application listens on: a number, or a port name of the registration. The same as `port` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_port: Option<TargetPort>,
    /// What the application speaks: `http`, `http2` (or `kubernetes.io/h2c`), `grpc`, `tcp`. Detected if absent; declare
    /// it where the server speaks first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}

impl ServicePort {
    /// The declared protocol; `None` if there is none, so that it is detected. One that we do not know is opaque bytes.
    #[must_use]
    pub fn declared_protocol(&self) -> Option<AppProtocol> {
        self.app_protocol.as_deref().map(|text| text.parse().unwrap_or(AppProtocol::Tcp))
    }
}

/// The transport protocol of a service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Transport {
    /// Carried by the mesh.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// Not carried.
    #[serde(rename = "UDP")]
    Udp,
    /// Not carried.
    #[serde(rename = "SCTP")]
    Sctp,
    /// Of a later version.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// A port by number or by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By name.
    Name(String),
}
