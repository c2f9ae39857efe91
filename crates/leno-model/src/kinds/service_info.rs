//! `ServiceInfo`: what the control plane knows of a service beside its Service.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::identity::SpiffeId;

/// What the control plane knows of a service beside its Service. Name and namespace are the service's.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceInfoSpec {
    /// Virtual addresses, one per address family. Reserved for transparent interception and DNS: nothing routes them yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub vips: Vec<IpAddr>,
    /// The identities that may serve it. Origination accepts no other peer; none at all means that no endpoint can be called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub identities: Vec<SpiffeId>,
}
