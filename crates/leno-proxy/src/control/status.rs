//! What operators can ask of the control thread: on the admin port, and by a query of the control plane.

use std::collections::BTreeMap;

use serde::Serialize;

/// The state of the control thread at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ControlStatus {
    /// The stream is up.
    pub connected: bool,
    /// The address of the control plane that is used or tried.
    pub control_plane: String,
    /// Why there is no stream, or why the last request was refused: reason and detail.
    pub problem: Option<String>,
    /// Our SPIFFE ID.
    pub identity: String,
    /// Our leaf's serial number.
    pub serial: String,
    /// End of our leaf's validity, Unix seconds.
    pub not_after: u64,
    /// Leaves that were renewed since the start.
    pub renewals: u64,
    /// The version of the trust bundle in use.
    pub bundle_version: u64,
    /// The name of this instance.
    pub instance: String,
    /// The generation of this start.
    pub generation: u64,
    /// The registration is stored.
    pub registered: bool,
    /// What this proxy needs to serve was answered, and the attempt to keep it on disk is over.
    pub prepared: bool,
    /// It is on disk: a restart does without the control plane.
    pub kept: bool,
    /// First answers that did not come within a second, since the start.
    pub unanswered: u64,
    /// Every collection subscribed to.
    pub collections: BTreeMap<String, CollectionStatus>,
}

/// The state of one collection.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CollectionStatus {
    /// `waiting`, `stored` (from disk, not confirmed since the start), `current`, `missing`, `denied`.
    pub state: &'static str,
    /// The control plane's name of this state, 0 before the first answer.
    pub version: u64,
    /// Resources in use.
    pub resources: usize,
    /// Resources that were refused, and why; their last good version is in use.
    pub refused: BTreeMap<String, String>,
    /// How often a resource was refused since the subscription began.
    pub rejections: u64,
}
