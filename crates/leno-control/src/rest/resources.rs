//! Resources: read, write, delete.

use axum::Json;
use axum::body::{Body, HttpBody};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use leno_api::routes::MAX_BODY;
use leno_api::{Action, ApplyResponse, ApplyResult, ErrorReason, ObjectRef, ResourceList};
use leno_model::{Kind, Resource, Writer};
use leno_store::{Key, Page, Record, StoreError};
use serde::Deserialize;
use serde_json::Value;

use super::Shared;
use super::failure::{Failure, status_of};
use crate::apply::{Mode, store_error};
use crate::world::with_version;

/// Query of a list.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ListQuery {
    limit: Option<usize>,
    #[serde(rename = "continue")]
    continue_from: Option<String>,
}

/// Query of a write.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WriteQuery {
    #[serde(default)]
    dry_run: bool,
    namespace: Option<String>,
    version: Option<String>,
}

/// A stored kind by its plural.
pub(super) fn kind_of(plural: &str) -> Result<Kind, Failure> {
    let found = Kind::ALL.iter().copied().find(|k| k.plural() == plural);
    match found {
        Some(kind) if kind.writer() != Writer::Wire => Ok(kind),
        Some(Kind::Endpoint) => Err(Failure::not_found("endpoints are at /api/v1/endpoints")),
        _ => Err(Failure::not_found(format!("no kind `{}`", plural.chars().take(80).collect::<String>()))),
    }
}

/// A record as users see it.
pub(super) fn shown(record: &Record) -> Result<Value, Failure> {
    let resource =
        Resource::from_json(&record.value).map_err(|e| Failure::internal(&format!("{}: {e}", record.key)))?;
    serde_json::to_value(with_version(resource, record.version.as_str())).map_err(|e| Failure::internal(&e))
}

pub(super) async fn list_all(
    State(api): Shared,
    Path(plural): Path<String>,
    query: Query<ListQuery>,
) -> Result<Json<ResourceList>, Failure> {
    page(&api, &plural, None, query.0).await
}

pub(super) async fn list(
    State(api): Shared,
    Path((namespace, plural)): Path<(String, String)>,
    query: Query<ListQuery>,
) -> Result<Json<ResourceList>, Failure> {
    page(&api, &plural, Some(&namespace), query.0).await
}

async fn page(
    api: &super::Api,
    plural: &str,
    namespace: Option<&str>,
    query: ListQuery,
) -> Result<Json<ResourceList>, Failure> {
    let kind = kind_of(plural)?;
    let page = Page { limit: query.limit.unwrap_or_default(), continue_from: query.continue_from };
    let list = api.store.list(kind.as_str(), namespace, page).await.map_err(|e| store_error(&e))?;
    let items = list.records.iter().map(shown).collect::<Result<_, _>>()?;
    Ok(Json(ResourceList { items, cursor: list.cursor.to_string(), continue_from: list.continue_from }))
}

pub(super) async fn get(
    State(api): Shared,
    Path((namespace, plural, name)): Path<(String, String, String)>,
) -> Result<Json<Value>, Failure> {
    let key = Key::new(kind_of(&plural)?.as_str(), &namespace, &name);
    match api.store.get(&key).await {
        Ok(Some(record)) => shown(&record).map(Json),
        Ok(None) | Err(StoreError::Malformed { .. }) => Err(Failure::not_found(format!("{key} does not exist"))),
        Err(e) => Err(store_error(&e).into()),
    }
}

/// Reads a body within the limit.
pub(super) async fn bytes(body: Body) -> Result<Bytes, Failure> {
    let too_large = || {
        let message = format!("the body is larger than {MAX_BODY} bytes");
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorReason::TooLarge, message)
    };
    // Known beforehand from its Content-Length: who asked with `Expect: 100-continue` then sends none of it.
    if HttpBody::size_hint(&body).lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    axum::body::to_bytes(body, MAX_BODY).await.map_err(|e| {
        let limited = std::error::Error::source(&e).is_some_and(|s| s.to_string().contains("length limit"));
        if limited { too_large() } else { Failure::bad_request(format!("the body did not arrive whole: {e}")) }
    })
}

/// Reads a body of text within the limit.
pub(super) async fn text(body: Body) -> Result<String, Failure> {
    String::from_utf8(bytes(body).await?.into()).map_err(|_| Failure::bad_request("the body is not UTF-8"))
}

pub(super) async fn apply(State(api): Shared, query: Query<WriteQuery>, body: Body) -> Result<Response, Failure> {
    documents(&api, Mode::Apply, &query, body).await
}

pub(super) async fn delete_documents(
    State(api): Shared,
    query: Query<WriteQuery>,
    body: Body,
) -> Result<Response, Failure> {
    documents(&api, Mode::Delete, &query, body).await
}

async fn documents(api: &super::Api, mode: Mode, query: &WriteQuery, body: Body) -> Result<Response, Failure> {
    let text = text(body).await?;
    let response = api.writer.documents(mode, &text, query.namespace.as_deref(), query.dry_run).await;
    Ok((status(&response), Json(response)).into_response())
}

/// 200 if all went well, the status of the refusal if all refusals are alike, else 422.
fn status(response: &ApplyResponse) -> StatusCode {
    if response.is_success() {
        return StatusCode::OK;
    }
    let mut reasons = response.results.iter().filter_map(|r| Some(r.error.as_ref()?.reason));
    match reasons.next() {
        Some(first) if reasons.all(|r| r == first) => status_of(first),
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

pub(super) async fn put(
    State(api): Shared,
    Path((namespace, plural, name)): Path<(String, String, String)>,
    query: Query<WriteQuery>,
    body: Body,
) -> Result<Response, Failure> {
    let kind = kind_of(&plural)?;
    let text = text(body).await?;
    let (parsed, _) = leno_model::parse(leno_model::Input { source: "", text: &text, namespace: Some(&namespace) });
    let same = |r: &Resource, k: Kind| k == kind && r.metadata.namespace == namespace && r.metadata.name == name;
    if parsed.len() > 1 || parsed.iter().any(|p| !same(&p.resource, p.kind)) {
        return Err(Failure::bad_request(format!("the body is not the one document {kind} {namespace}/{name}")));
    }
    let response = api.writer.documents(Mode::Apply, &text, Some(&namespace), query.dry_run).await;
    let status = status(&response);
    match response.results.iter().find_map(|r| r.error.clone().filter(|e| e.reason != ErrorReason::Invalid)) {
        Some(error) => Err(error.into()),
        None => Ok((status, Json(response)).into_response()),
    }
}

pub(super) async fn delete(
    State(api): Shared,
    Path((namespace, plural, name)): Path<(String, String, String)>,
    query: Query<WriteQuery>,
) -> Result<Json<ApplyResult>, Failure> {
    let kind = kind_of(&plural)?;
    if !kind.user_writable() {
        return Err(Failure::bad_request(format!("{kind} resources are written by the control plane")));
    }
    api.writer.delete(kind, &namespace, &name, query.version.as_deref(), query.dry_run).await?;
    let object = ObjectRef { kind: kind.to_string(), namespace, name };
    Ok(Json(ApplyResult { object, action: Action::Deleted, version: None, error: None, diagnostics: Vec::new() }))
}
