//! Writing resources: parse and check, fill in what the server sets, put with optimistic concurrency, audit.
//!
//! Strict at this input only (D3). Each document stands on its own: one that is refused does not hold up the others.

use std::sync::Arc;

use leno_api as api;
use leno_api::{Action, ApplyResponse, ApplyResult, ErrorBody, ErrorReason, ObjectRef};
use leno_model::kinds::MeshConfigSpec;
use leno_model::{Code, Diagnostic, FieldPath, Kind, MAX_RESOURCE, ParsedResource, Resource, Severity, TrustDomain};
use leno_runtime::clock::Clock;
use leno_store::{Expect, Key, Store, StoreError, Version};
use serde_json::Value;

use crate::audit::{Audit, Principal, timestamp};
use crate::ca::random_id;
use crate::world::encode;

/// Attempts of a write without a given version: each loses only to another writer's success.
const MAX_ATTEMPTS: usize = 16;

/// Errors of one document that its message tells; its diagnostics have them all.
const MAX_TOLD: usize = 20;

/// What a write is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Create or replace.
    Apply,
    /// Delete.
    Delete,
}

/// Writes resources for users.
pub struct Writer {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Where every write is noted.
    pub audit: Arc<Audit>,
    /// For timestamps.
    pub clock: Arc<dyn Clock>,
    /// Fixed at the first start.
    pub trust_domain: TrustDomain,
}

impl Writer {
    /// Applies or deletes documents.
    pub async fn documents(&self, mode: Mode, text: &str, namespace: Option<&str>, dry_run: bool) -> ApplyResponse {
        let input = leno_model::Input { source: "", text, namespace };
        let (resources, found) = leno_model::parse(input);
        let mut diagnostics = found;
        let mut results = Vec::new();
        for parsed in resources {
            let own = self.own_rules(&parsed);
            let refused = own.iter().any(Diagnostic::is_error) && mode == Mode::Apply;
            diagnostics.extend(own);
            if !refused {
                let mut result = self.write(mode, &parsed.resource, parsed.kind, dry_run).await;
                let about = diagnostics.iter().filter(|d| d.resource.as_ref() == Some(&parsed.resource.reference()));
                result.diagnostics = about.map(diagnostic).collect();
                results.push(result);
            }
        }
        results.extend(refusals(&diagnostics, &results));
        diagnostics.sort_by_key(|d| (d.line, d.column));
        ApplyResponse { results, diagnostics: diagnostics.iter().map(diagnostic).collect(), dry_run }
    }

    /// Rules that only the control plane can judge.
    fn own_rules(&self, parsed: &ParsedResource) -> Vec<Diagnostic> {
        let Ok(spec) = parsed.resource.spec::<MeshConfigSpec>() else { return Vec::new() };
        let Some(domain) = spec.trust_domain.filter(|d| d != self.trust_domain.as_str()) else { return Vec::new() };
        let path = FieldPath::root().key("spec").key("trustDomain");
        let message = format!("`{domain}` is not this mesh's trust domain, `{}`, which is fixed", self.trust_domain);
        let reference = parsed.resource.reference();
        let diagnostic = Diagnostic::about(reference, Severity::Error, Code::InvalidValue, "spec.trustDomain", message);
        vec![parsed.locate("", diagnostic, &path)]
    }

    async fn write(&self, mode: Mode, resource: &Resource, kind: Kind, dry_run: bool) -> ApplyResult {
        let reference = resource.reference();
        let object = ObjectRef { kind: reference.kind, namespace: reference.namespace, name: reference.name };
        let outcome = match mode {
            Mode::Apply => self.put(resource, kind, dry_run).await,
            Mode::Delete => {
                let version = Some(&resource.metadata.resource_version).filter(|v| !v.is_empty());
                self.delete(kind, &object.namespace, &object.name, version.map(String::as_str), dry_run)
                    .await
                    .map(|()| (Action::Deleted, None))
            }
        };
        match outcome {
            Ok((action, version)) => ApplyResult { object, action, version, error: None, diagnostics: Vec::new() },
            Err(error) => ApplyResult {
                object,
                action: Action::Refused,
                version: None,
                error: Some(error),
                diagnostics: Vec::new(),
            },
        }
    }

    async fn put(&self, wanted: &Resource, kind: Kind, dry_run: bool) -> Result<(Action, Option<String>), ErrorBody> {
        let key = Key::new(kind.as_str(), &wanted.metadata.namespace, &wanted.metadata.name);
        let given = &wanted.metadata.resource_version;
        for _ in 0..MAX_ATTEMPTS {
            let found = self.store.get(&key).await.map_err(|e| store_error(&e))?;
            let current = found.as_ref().map(|r| r.version.as_str());
            if !given.is_empty() && current != Some(given) {
                return Err(conflict(&key, given, current));
            }
            let old = found.as_ref().and_then(|r| Resource::from_json(&r.value).ok());
            let stored = merged(wanted, kind, old.as_ref(), self.clock.unix_seconds());
            // Aliases make a short text a large resource. Stored, it would be refused by every proxy, or close what it is about.
            let size = encode::resource(&stored).body.len();
            if size > MAX_RESOURCE {
                let message = format!("{key} has {size} bytes as JSON; at most {MAX_RESOURCE} can be sent to a proxy");
                return Err(error(ErrorReason::TooLarge, message));
            }
            if old.as_ref() == Some(&stored) {
                return Ok((Action::Unchanged, current.map(str::to_owned)));
            }
            let (action, expect) = match found {
                Some(record) => (Action::Configured, Expect::Version(record.version)),
                None => (Action::Created, Expect::Absent),
            };
            if dry_run {
                return Ok((action, None));
            }
            match self.store.put(&key, stored.to_json().into(), expect).await {
                Ok(version) => {
                    let detail = format!("version {version}, generation {}", stored.metadata.generation);
                    let word = if action == Action::Created { "create" } else { "update" };
                    self.audit.record(&Principal::Admin, word, &stored.reference().to_string(), "ok", &detail).await;
                    return Ok((action, Some(version.to_string())));
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(e) => return Err(store_error(&e)),
            }
        }
        Err(error(ErrorReason::Conflict, format!("{key} is being written by others at the same time")))
    }

    /// Deletes a resource.
    pub async fn delete(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        version: Option<&str>,
        dry_run: bool,
    ) -> Result<(), ErrorBody> {
        let key = Key::new(kind.as_str(), namespace, name);
        if dry_run {
            let found = self.store.get(&key).await.map_err(|e| store_error(&e))?;
            return found.map(drop).ok_or_else(|| missing(&key));
        }
        let expect = version.map_or(Expect::Any, |v| Expect::Version(Version::from_text(v)));
        match self.store.delete(&key, expect).await {
            Ok(()) => {
                let object = format!("{kind} {namespace}/{name}");
                self.audit.record(&Principal::Admin, "delete", &object, "ok", "").await;
                Ok(())
            }
            Err(StoreError::NotFound(_)) => Err(missing(&key)),
            Err(StoreError::Conflict { current, .. }) => {
                Err(conflict(&key, version.unwrap_or_default(), current.as_ref().map(Version::as_str)))
            }
            Err(e) => Err(store_error(&e)),
        }
    }
}

/// What is stored: the user's part of `wanted`, the server's part of `old`.
fn merged(wanted: &Resource, kind: Kind, old: Option<&Resource>, now: u64) -> Resource {
    let mut stored = wanted.clone();
    // One spelling per kind, whatever alias of the version was written.
    kind.api_version().clone_into(&mut stored.api_version);
    stored.metadata.resource_version.clear();
    match old {
        Some(old) => {
            stored.status = old.status.clone();
            stored.metadata.uid.clone_from(&old.metadata.uid);
            stored.metadata.creation_timestamp.clone_from(&old.metadata.creation_timestamp);
            stored.metadata.generation = old.metadata.generation + u64::from(old.spec != stored.spec);
        }
        None => {
            stored.status = Value::Null;
            stamp_new(&mut stored, now);
        }
    }
    stored
}

/// Fills in the metadata of a new resource.
pub fn stamp_new(resource: &mut Resource, now: u64) {
    resource.metadata.uid = random_id() + &random_id();
    resource.metadata.creation_timestamp = timestamp(now);
    resource.metadata.generation = 1;
}

/// A result for each document that is named in an error and has no result yet.
fn refusals(diagnostics: &[Diagnostic], results: &[ApplyResult]) -> Vec<ApplyResult> {
    let mut refused: Vec<ApplyResult> = Vec::new();
    for found in diagnostics.iter().filter(|d| d.is_error()) {
        let Some(reference) = &found.resource else { continue };
        let object = ObjectRef {
            kind: reference.kind.clone(),
            namespace: reference.namespace.clone(),
            name: reference.name.clone(),
        };
        if let Some(existing) = refused.iter_mut().find(|r| r.object == object) {
            existing.diagnostics.push(diagnostic(found));
            if let Some(error) = existing.error.as_mut().filter(|_| existing.diagnostics.len() <= MAX_TOLD) {
                error.message = format!("{}; {found}", error.message);
            }
        } else if !results.iter().any(|r| r.object == object) {
            let error = Some(error(ErrorReason::Invalid, found.to_string()));
            let diagnostics = vec![diagnostic(found)];
            refused.push(ApplyResult { object, action: Action::Refused, version: None, error, diagnostics });
        }
    }
    for result in &mut refused {
        let more = result.diagnostics.len().saturating_sub(MAX_TOLD);
        if let Some(error) = result.error.as_mut().filter(|_| more > 0) {
            error.message = format!("{}; and {more} more", error.message);
        }
    }
    refused
}

/// A diagnostic as the API shows it.
#[must_use]
pub fn diagnostic(found: &Diagnostic) -> api::Diagnostic {
    api::Diagnostic {
        severity: match found.severity {
            Severity::Error => api::Severity::Error,
            Severity::Warning => api::Severity::Warning,
        },
        code: found.code.as_str().to_owned(),
        line: found.line,
        column: found.column,
        path: found.path.clone(),
        message: found.message.clone(),
        suggestion: found.suggestion.clone(),
    }
}

/// An error body without diagnostics.
#[must_use]
pub fn error(reason: ErrorReason, message: impl Into<String>) -> ErrorBody {
    ErrorBody { reason, message: message.into(), diagnostics: Vec::new() }
}

fn missing(key: &Key) -> ErrorBody {
    error(ErrorReason::NotFound, format!("{key} does not exist"))
}

fn conflict(key: &Key, given: &str, current: Option<&str>) -> ErrorBody {
    let message = match current {
        Some(current) => format!("{key} is at version {current}, not {given}: read it again and repeat the change"),
        None => format!("{key} does not exist, so it has no version {given}"),
    };
    error(ErrorReason::Conflict, message)
}

/// A failure of the store: logged here, without its inside for the client.
pub(crate) fn store_error(failure: &StoreError) -> ErrorBody {
    match failure {
        StoreError::TooLarge { .. } => error(ErrorReason::TooLarge, failure.to_string()),
        StoreError::Malformed { .. } => error(ErrorReason::BadRequest, failure.to_string()),
        _ => {
            tracing::error!(error = %failure, "the store failed during a request");
            error(ErrorReason::Internal, format!("the store failed: {failure}"))
        }
    }
}
