//! Bodies about resources: errors, diagnostics, lists, watches, the results of an apply.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Why the API refused; the word in an [`ErrorBody`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorReason {
    /// 401: no or a wrong token.
    Unauthenticated,
    /// 403: the request's Host is not one of this server (DNS rebinding).
    ForbiddenHost,
    /// 404: no such resource, kind or route.
    NotFound,
    /// 405.
    MethodNotAllowed,
    /// 409: someone else wrote in between, or the version given is not the present one.
    Conflict,
    /// 413: the body is over the limit.
    TooLarge,
    /// 422: the resources are not valid; see the diagnostics.
    Invalid,
    /// 400: the request itself is malformed.
    BadRequest,
    /// 410: the cursor is too old; list again.
    Compacted,
    /// 408 or 503: it took too long.
    Timeout,
    /// 429 or 503: too many connections or watches.
    Overloaded,
    /// 503: the server is shutting down.
    Draining,
    /// 500.
    Internal,
    /// A word this version does not know.
    #[serde(other)]
    Unknown,
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    /// For programs.
    pub reason: ErrorReason,
    /// For people: what is wrong and with which value.
    pub message: String,
    /// Positions, when documents were sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub diagnostics: Vec<Diagnostic>,
}

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The resource is refused.
    Error,
    /// The resource is accepted; something is probably not meant so.
    Warning,
}

/// Something wrong at a place in the text that was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// What kind of fault, e.g. `UnknownField`.
    #[serde(default)]
    pub code: String,
    /// Line in the request's text, from 1; 0 when it is about no particular place.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Path of the field, e.g. `spec.rules[0].matches`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// What is wrong, with the offending value.
    pub message: String,
    /// What was probably meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

/// Names a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct ObjectRef {
    /// E.g. `HTTPRoute`.
    pub kind: String,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// What became of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is new.
    Created,
    /// It replaced what was there.
    Configured,
    /// It is what was there already.
    Unchanged,
    /// It is gone.
    Deleted,
    /// Nothing was written; see `error`.
    Refused,
}

/// The result for one document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApplyResult {
    /// Which resource.
    pub object: ObjectRef,
    /// What became of it.
    pub action: Action,
    /// Its version afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// Warnings about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub diagnostics: Vec<Diagnostic>,
}

/// The answer to an apply: each document stands on its own, so some may be written and others refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApplyResponse {
    /// In the order of the documents. Documents that cannot be read at all are in `diagnostics` only.
    pub results: Vec<ApplyResult>,
    /// Every diagnostic, in the order of positions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub diagnostics: Vec<Diagnostic>,
    /// Nothing was written because it was a dry run.
    #[serde(default)]
    pub dry_run: bool,
}

impl ApplyResponse {
    /// Whether every document was taken.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.results.iter().all(|r| r.action != Action::Refused)
            && self.diagnostics.iter().all(|d| d.severity != Severity::Error)
    }
}

/// One page of resources.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResourceList {
    /// Resources, as JSON, in the order of namespace and name.
    pub items: Vec<Value>,
    /// Watch from here.
    pub cursor: String,
    /// Present when there are more.
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    pub continue_from: Option<String>,
}

/// What a watch line tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WatchEventKind {
    /// Created or changed.
    Put,
    /// Deleted; the object has kind and metadata only.
    Delete,
    /// Nothing happened; the cursor is still good. Sent first (after the present state) and every 30 s.
    Bookmark,
    /// List again. The stream ends.
    Compacted,
    /// A word this version does not know; skip it.
    #[serde(other)]
    Unknown,
}

/// One line of a watch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WatchEvent {
    /// What happened.
    #[serde(rename = "type")]
    pub kind: WatchEventKind,
    /// The resource.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub object: Value,
    /// Resume from here.
    pub cursor: String,
}
