//! The REST API as types: bodies, routes, the OpenAPI document made from both, and a small client.
//!
//! *Owns*: what goes over the REST port, in either direction.
//!
//! *Must not know*: handlers, storage, what a resource means (a resource is its JSON here).
//!
//! *Start reading at*: [`routes`], then [`bodies`] and [`client`].

pub mod bodies;
pub mod client;
pub mod members;
pub mod openapi;
pub mod routes;

pub use bodies::{
    Action, ApplyResponse, ApplyResult, Diagnostic, ErrorBody, ErrorReason, ObjectRef, ResourceList, Severity,
    WatchEvent, WatchEventKind,
};
pub use client::{Client, ClientError, WatchStream};
pub use members::{
    Address, AuditEntry, CaStatus, Condition, Endpoint, EndpointState, Member, Nack, Overview, Port, RefusedMember,
    Revocation, RevocationRequest, RootInfo, RotationPhase, ServicePorts, ServiceStatus, TokenInfo, TokenRequest,
    TokenResponse,
};
