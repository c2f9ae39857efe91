//! The mesh at work: tokens, members, endpoints, the authority, audit.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use leno_api::{
    AuditEntry, CaStatus, Endpoint, ErrorReason, Member, Revocation, RevocationRequest, TokenInfo, TokenRequest,
    TokenResponse,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::failure::Failure;
use super::{Shared, resources};

/// Audit entries without a limit, and most with one.
const AUDIT_LIMITS: (usize, usize) = (100, 1000);

#[derive(Debug, Default, Deserialize)]
pub(super) struct Filter {
    namespace: Option<String>,
    service: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Limit {
    limit: Option<usize>,
}

async fn json<T: DeserializeOwned>(body: Body) -> Result<T, Failure> {
    let text = resources::text(body).await?;
    serde_json::from_str(&text)
        .map_err(|e| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, ErrorReason::Invalid, format!("the body: {e}")))
}

pub(super) async fn tokens(State(api): Shared) -> Result<Json<Vec<TokenInfo>>, Failure> {
    Ok(Json(api.tokens.list().await?))
}

pub(super) async fn create_token(State(api): Shared, body: Body) -> Result<Json<TokenResponse>, Failure> {
    let request: TokenRequest = json(body).await?;
    Ok(Json(api.tokens.create(&request).await?))
}

pub(super) async fn delete_token(State(api): Shared, Path(id): Path<String>) -> Result<Response, Failure> {
    if api.tokens.delete(&id).await? {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Err(Failure::not_found("no such token"))
}

fn matches(filter: Option<&String>, value: &str) -> bool {
    filter.is_none_or(|f| f == value)
}

pub(super) async fn members(State(api): Shared, Query(filter): Query<Filter>) -> Json<Vec<Member>> {
    let mut members = api.registry.members();
    members.retain(|m| matches(filter.namespace.as_ref(), &m.namespace));
    Json(members)
}

pub(super) async fn endpoints(State(api): Shared, Query(filter): Query<Filter>) -> Json<Vec<Endpoint>> {
    let mut endpoints = Vec::new();
    for member in api.registry.members() {
        if !matches(filter.namespace.as_ref(), &member.namespace) {
            continue;
        }
        for service in member.services.iter().filter(|s| matches(filter.service.as_ref(), &s.name)) {
            endpoints.push(Endpoint {
                service: service.name.clone(),
                namespace: member.namespace.clone(),
                instance: member.instance.clone(),
                identity: member.identity.clone(),
                addresses: member.addresses.clone(),
                labels: member.labels.clone(),
                zone: member.zone.clone(),
                state: member.state,
            });
        }
    }
    endpoints.sort_by(|a, b| (&a.namespace, &a.service, &a.instance).cmp(&(&b.namespace, &b.service, &b.instance)));
    Json(endpoints)
}

pub(super) async fn revocations(State(api): Shared) -> Result<Json<Vec<Revocation>>, Failure> {
    Ok(Json(api.ca.revocations().await?))
}

pub(super) async fn revoke(State(api): Shared, body: Body) -> Result<Json<Revocation>, Failure> {
    let request: RevocationRequest = json(body).await?;
    Ok(Json(api.ca.revoke(&request).await?))
}

pub(super) async fn unrevoke(State(api): Shared, Path(id): Path<String>) -> Result<Response, Failure> {
    if api.ca.unrevoke(&id).await? {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Err(Failure::not_found("no such revocation"))
}

pub(super) async fn ca(State(api): Shared) -> Json<CaStatus> {
    Json(api.ca.status(&api.registry.lost()).await)
}

pub(super) async fn rotate(State(api): Shared) -> Result<Json<CaStatus>, Failure> {
    api.ca.rotate().await?;
    Ok(Json(api.ca.status(&api.registry.lost()).await))
}

pub(super) async fn audit(State(api): Shared, Query(query): Query<Limit>) -> Result<Json<Vec<AuditEntry>>, Failure> {
    let limit = query.limit.unwrap_or(AUDIT_LIMITS.0).min(AUDIT_LIMITS.1);
    // Reading back may take several files; not on the thread that serves discovery.
    let read = tokio::task::spawn_blocking(move || api.audit.tail(limit)).await;
    let entries = read.map_err(|e| Failure::internal(&e))?.map_err(|e| Failure::internal(&e))?;
    Ok(Json(entries))
}
