//! Watches: changes of a kind as newline-delimited JSON.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use leno_api::{ErrorReason, WatchEvent, WatchEventKind};
use leno_model::Kind;
use leno_store::contract::list_all;
use leno_store::{Change, Cursor, Event, StoreError, Watch};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::failure::Failure;
use super::resources::{kind_of, shown};
use super::{Api, Shared};
use crate::apply::store_error;

/// A line at least this often, so that both ends notice when the other is gone.
const BOOKMARK: Duration = Duration::from_secs(30);

#[derive(Debug, Default, Deserialize)]
pub(super) struct WatchQuery {
    cursor: Option<String>,
    namespace: Option<String>,
}

struct Running {
    api: Arc<Api>,
    kind: Kind,
    namespace: Option<String>,
    watch: Box<dyn Watch>,
    cursor: Cursor,
    /// Lines to be sent.
    lines: VecDeque<Bytes>,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

pub(super) async fn watch(
    State(api): Shared,
    Path(plural): Path<String>,
    Query(query): Query<WatchQuery>,
) -> Result<Response, Failure> {
    let kind = kind_of(&plural)?;
    let permit = Arc::clone(&api.watches).try_acquire_owned().map_err(|_| {
        let message = format!("{} watches are open already", super::MAX_WATCHES);
        Failure::new(StatusCode::TOO_MANY_REQUESTS, ErrorReason::Overloaded, message)
    })?;
    let mut lines = VecDeque::new();
    let cursor = match &query.cursor {
        Some(text) => Cursor::from_text(text),
        None => {
            let listed = list_all(&*api.store, kind.as_str(), query.namespace.as_deref()).await;
            let (records, cursor) = listed.map_err(|e| store_error(&e))?;
            for record in &records {
                lines.push_back(line(WatchEventKind::Put, shown(record)?, &cursor));
            }
            cursor
        }
    };
    lines.push_back(line(WatchEventKind::Bookmark, Value::Null, &cursor));
    let watch = api.store.watch(kind.as_str(), &cursor).await.map_err(|e| match e {
        StoreError::Malformed { .. } => Failure::bad_request("the cursor is not one of this server"),
        other => store_error(&other).into(),
    })?;
    let namespace = query.namespace;
    let running = Running { api, kind, namespace, watch, cursor, lines, ended: false, _permit: permit };
    let body = Body::from_stream(stream::unfold(running, |mut running| async move {
        running.next().await.map(|line| (Ok::<_, Infallible>(line), running))
    }));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")], body).into_response())
}

impl Running {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            let drain = self.api.drain.clone();
            tokio::select! {
                // All are cancel-safe.
                changes = self.watch.next() => match changes {
                    Ok(changes) => self.take(changes),
                    Err(_) => {
                        // Closed is the end of the process; for the client both mean to come again and list.
                        self.lines.push_back(line(WatchEventKind::Compacted, Value::Null, &self.cursor));
                        self.ended = true;
                    }
                },
                () = tokio::time::sleep(BOOKMARK) => {
                    self.lines.push_back(line(WatchEventKind::Bookmark, Value::Null, &self.cursor));
                }
                () = drain.draining() => self.ended = true,
            }
        }
    }

    fn take(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.cursor = change.cursor;
            let key = change.event.key();
            if self.namespace.as_deref().is_some_and(|n| n != &*key.namespace) {
                continue;
            }
            let (kind, object) = match &change.event {
                Event::Put(record) => match shown(record) {
                    Ok(object) => (WatchEventKind::Put, object),
                    // Logged where it failed; the watch goes on with the others.
                    Err(_) => continue,
                },
                Event::Delete(key) => {
                    let metadata = json!({ "name": &*key.name, "namespace": &*key.namespace });
                    let object = json!({ "apiVersion": self.kind.api_version(), "kind": self.kind.as_str(), "metadata": metadata });
                    (WatchEventKind::Delete, object)
                }
            };
            self.lines.push_back(line(kind, object, &self.cursor));
        }
    }
}

fn line(kind: WatchEventKind, object: Value, cursor: &Cursor) -> Bytes {
    let event = WatchEvent { kind, object, cursor: cursor.to_string() };
    let mut text = serde_json::to_vec(&event).expect("plain data with text keys");
    text.push(b'\n');
    text.into()
}
