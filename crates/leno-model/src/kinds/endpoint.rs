//! `Endpoint`: one instance of one service, as proxies are told of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::workload::WorkloadPort;

/// One instance of one service. Its namespace is the service's. What it says of itself authorises nothing: a peer's identity is
/// checked against the service's authorised identities.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSpec {
    /// The service's name.
    pub service: String,
    /// The instance, as in its Workload.
    pub instance: String,
    /// The registration's generation.
    #[serde(default)]
    pub generation: u64,
    /// Where it is reached, by transport.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<EndpointAddress>,
    /// The ports it registered for the service; which service ports they serve follows from the Service. All if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<WorkloadPort>,
    /// The workload's labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The workload's zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Selects the workload on a hop port that it shares with others (sent as SNI); opaque.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub workload_id: String,
    /// Whether it may be given new requests.
    #[serde(default = "yes")]
    pub ready: bool,
}

fn yes() -> bool {
    true
}

/// An address and what is spoken there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointAddress {
    /// What is spoken there.
    pub transport: EndpointTransport,
    /// IP address and port.
    #[schemars(with = "String")]
    pub address: SocketAddr,
    /// The service port that is served there; absent for `leno/1`, which names the port in each stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// What is spoken at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum EndpointTransport {
    /// Leno's hop, version 1.
    #[serde(rename = "leno/1")]
    Leno1,
    /// The application's protocol in mesh mTLS, one address per port.
    #[serde(rename = "mtls")]
    Mtls,
    /// The application's protocol without mesh TLS; never for members.
    #[serde(rename = "plain")]
    Plain,
    /// Of a later version; not used.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}
