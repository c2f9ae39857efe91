//! Bodies about the mesh at work: tokens, members, endpoints, the certificate authority, audit.
//!
//! Times are RFC 3339 in UTC.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Asks for a join token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRequest {
    /// The services its redeemer may register; at least one.
    pub services: Vec<String>,
    /// Their namespace; `default` without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The service account of the identity; the first service's name without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// Lifetime in seconds; one hour without, 30 days at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
}

/// A new token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenResponse {
    /// The token; it is not shown again.
    pub token: String,
    /// What is stored of it.
    pub info: TokenInfo,
}

impl std::fmt::Debug for TokenResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenResponse").field("token", &"***").field("info", &self.info).finish()
    }
}

/// A token without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenInfo {
    /// Its public part.
    pub id: String,
    /// The identity that its redeemer gets.
    pub identity: String,
    /// The namespace.
    pub namespace: String,
    /// The services that may be registered.
    pub services: Vec<String>,
    /// When it was made.
    pub created: String,
    /// After this it cannot be redeemed.
    pub expires: String,
    /// When it was redeemed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redeemed: Option<String>,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// Its name; may be empty.
    #[serde(default)]
    pub name: String,
    /// The port callers name.
    pub port: u16,
    /// Where the application listens.
    #[serde(default)]
    pub target_port: u16,
    /// `http`, `http2`, `grpc`, `tcp`.
    pub protocol: String,
}

/// A service of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServicePorts {
    /// The service.
    pub name: String,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// Where an endpoint is reached, by transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Address {
    /// `leno/1`, `mtls` or `plain`.
    pub transport: String,
    /// IP and port.
    pub address: String,
    /// For `mtls`: the service port it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// Whether a member is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EndpointState {
    /// Its stream is open.
    Connected,
    /// Its stream is lost; it is kept for the grace time, or longer if many were lost together.
    Lost,
    /// A word this version does not know.
    #[serde(other)]
    Unknown,
}

/// A registered workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Its id within its identity.
    pub instance: String,
    /// Its namespace.
    pub namespace: String,
    /// Its SPIFFE ID.
    pub identity: String,
    /// Grows with each start of its proxy.
    pub generation: u64,
    /// What it serves.
    pub services: Vec<ServicePorts>,
    /// Where it is reached.
    pub addresses: Vec<Address>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its zone; may be empty.
    #[serde(default)]
    pub zone: String,
    /// Whether it is there.
    pub state: EndpointState,
    /// For a lost one: seconds since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_seconds: Option<u64>,
    /// When it registered.
    pub registered: String,
    /// The trust bundle version it judges by, 0 if unknown.
    #[serde(default)]
    pub bundle_version: u64,
    /// What it reports of itself, e.g. that the application is exposed.
    #[serde(default)]
    pub conditions: Vec<String>,
}

/// One member as an endpoint of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Endpoint {
    /// The service.
    pub service: String,
    /// Its namespace.
    pub namespace: String,
    /// The member's instance id.
    pub instance: String,
    /// The member's identity.
    pub identity: String,
    /// Where it is reached.
    pub addresses: Vec<Address>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its zone; may be empty.
    #[serde(default)]
    pub zone: String,
    /// Whether it is there.
    pub state: EndpointState,
}

/// A condition of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// E.g. `Accepted`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False`, `Unknown`.
    pub status: String,
    /// One word.
    pub reason: String,
    /// For people.
    #[serde(default)]
    pub message: String,
}

/// A resource that proxies refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Nack {
    /// `kind namespace/name`.
    pub resource: String,
    /// How many proxies.
    pub proxies: usize,
    /// What one of them said.
    pub error: String,
}

/// A service at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its virtual addresses.
    pub vips: Vec<String>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Connected endpoints.
    pub connected: usize,
    /// Lost endpoints that are kept.
    pub lost: usize,
    /// Identities that may serve it.
    pub authorised: Vec<String>,
}

/// The mesh at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// The trust domain.
    pub trust_domain: String,
    /// The control plane's version.
    pub version: String,
    /// When it started.
    pub started: String,
    /// Where proxies connect.
    pub discovery: String,
    /// Services.
    pub services: Vec<ServiceStatus>,
    /// Members whose stream is open.
    pub members_connected: usize,
    /// Members that are lost and kept.
    pub members_lost: usize,
    /// Resources by kind.
    pub resources: BTreeMap<String, usize>,
    /// Resources that proxies refused.
    pub nacks: Vec<Nack>,
    /// Resources with a condition that is false: kind, namespace/name and the condition.
    pub problems: Vec<(String, Condition)>,
    /// Where a rotation of the root stands.
    #[serde(default = "idle")]
    pub rotation: RotationPhase,
    /// For how long it has stood there, in seconds.
    #[serde(default)]
    pub rotation_seconds: u64,
    /// Members that hold it up: `namespace/instance`.
    #[serde(default)]
    pub rotation_waits_for: Vec<String>,
    /// Members that are connected and may not do what they are there for.
    #[serde(default)]
    pub refused: Vec<RefusedMember>,
}

/// A control plane from before this was told says nothing of it.
fn idle() -> RotationPhase {
    RotationPhase::Idle
}

/// A member that is connected and is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusedMember {
    /// `namespace/instance`.
    pub member: String,
    /// Its SPIFFE ID.
    pub identity: String,
    /// Why, and what to do.
    pub message: String,
}

/// An entry of the revocation list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Revocation {
    /// Its id.
    pub id: String,
    /// A SPIFFE ID, for a revoked identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// A serial number in hex, for one certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Why, for people.
    #[serde(default)]
    pub comment: String,
    /// When.
    pub created: String,
}

/// Asks to revoke exactly one of identity or serial.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RevocationRequest {
    /// A SPIFFE ID of this mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// A serial number in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Why, for people.
    #[serde(default)]
    pub comment: String,
}

/// Where a root rotation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RotationPhase {
    /// One root; nothing under way.
    Idle,
    /// The new root is in the bundle; waiting until every live member judges by it.
    Distributing,
    /// Leaves come from the new root; waiting until every live member has one, or the last old leaf has expired.
    Reissuing,
    /// A word this version does not know.
    #[serde(other)]
    Unknown,
}

/// A root certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RootInfo {
    /// SHA-256 of its public key: the pin in join tokens.
    pub pin: String,
    /// End of its validity.
    pub not_after: String,
    /// Whether new leaves chain to it.
    pub issuing: bool,
}

/// The certificate authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaStatus {
    /// The trust domain.
    pub trust_domain: String,
    /// Version of the trust bundle.
    pub bundle_version: u64,
    /// The roots in the bundle.
    pub roots: Vec<RootInfo>,
    /// The rotation.
    pub phase: RotationPhase,
    /// For how long it has been in this phase, in seconds; 0 when idle.
    #[serde(default)]
    pub phase_seconds: u64,
    /// Live members that hold the rotation up: `namespace/instance`.
    #[serde(default)]
    pub waiting_for: Vec<String>,
    /// Live members without a grant: they cannot renew, no rotation waits for them, and they need a new token.
    #[serde(default)]
    pub cannot_renew: Vec<String>,
    /// Lifetime of new leaves in seconds.
    pub leaf_ttl_seconds: u64,
}

/// One line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditEntry {
    /// When.
    pub at: String,
    /// Who: `admin`, a SPIFFE ID, `control-plane`, or `token ID`.
    pub principal: String,
    /// What, e.g. `apply`, `delete`, `token.create`, `certificate.issue`, `enrolment.refuse`.
    pub action: String,
    /// On what.
    pub object: String,
    /// `ok` or the reason of the refusal.
    pub outcome: String,
    /// More, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}
