//! Follows the store: one list-and-watch per kind, all in one task.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use leno_model::{Kind, Resource};
use leno_store::contract::list_all;
use leno_store::{Event, Key, Record, Store, StoreError, WatchEnd};

use super::World;
use super::contents::Input;
use crate::records::{Grant, Stored, Vip};

/// The kinds that make up the world.
pub const KINDS: &[&str] = &[
    "Service",
    "HTTPRoute",
    "GRPCRoute",
    "ReferenceGrant",
    "ExternalService",
    "TrafficPolicy",
    "AccessPolicy",
    "MeshConfig",
    "Workload",
    Grant::KIND,
    Vip::KIND,
];

/// Pause after a store that failed; a store that is gone for good ends the process elsewhere.
const RETRY: Duration = Duration::from_millis(500);

/// Runs until the store is closed. Dropping the future stops the feed; the world stays as it is.
pub async fn run(world: Arc<World>, store: Arc<dyn Store>) {
    join_all(KINDS.iter().map(|kind| follow(&world, &*store, kind))).await;
}

async fn follow(world: &World, store: &dyn Store, kind: &str) {
    let mut known: BTreeSet<Key> = BTreeSet::new();
    let mut listed = false;
    loop {
        match list_and_watch(world, store, kind, &mut known, &mut listed).await {
            Ok(WatchEnd::Compacted) => tracing::debug!(kind, "the watch fell behind; listing again"),
            Ok(WatchEnd::Closed) | Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::warn!(kind, %error, "cannot read the store; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn list_and_watch(
    world: &World,
    store: &dyn Store,
    kind: &str,
    known: &mut BTreeSet<Key>,
    listed: &mut bool,
) -> Result<WatchEnd, StoreError> {
    let (records, cursor) = list_all(store, kind, None).await?;
    let present: BTreeSet<Key> = records.iter().map(|r| r.key.clone()).collect();
    let mut inputs: Vec<Input> = known.difference(&present).map(deleted).collect();
    inputs.extend(records.iter().filter_map(put));
    *known = present;
    world.apply(inputs);
    if !*listed {
        *listed = true;
        world.kind_listed();
    }
    let mut watch = store.watch(kind, &cursor).await?;
    loop {
        let changes = match watch.next().await {
            Ok(changes) => changes,
            Err(end) => return Ok(end),
        };
        let mut inputs = Vec::with_capacity(changes.len());
        for change in changes {
            match change.event {
                Event::Put(record) => {
                    inputs.extend(put(&record));
                    known.insert(record.key);
                }
                Event::Delete(key) => {
                    inputs.push(deleted(&key));
                    known.remove(&key);
                }
            }
        }
        world.apply(inputs);
    }
}

fn put(record: &Record) -> Option<Input> {
    let Key { kind, namespace, name } = &record.key;
    let decoded = match &**kind {
        Grant::KIND => serde_json::from_slice(&record.value)
            .map(|grant| Input::Grant(namespace.to_string(), name.to_string(), Some(grant))),
        Vip::KIND => serde_json::from_slice(&record.value).map(|vip| Input::Vip(name.to_string(), Some(vip))),
        _ => Resource::from_json(&record.value)
            .map(|resource| Input::Resource(Box::new(super::with_version(resource, record.version.as_str())))),
    };
    decoded
        .inspect_err(|error| tracing::error!(key = %record.key, %error, "a record does not decode and is left out"))
        .ok()
}

fn deleted(key: &Key) -> Input {
    let Key { kind, namespace, name } = key;
    match &**kind {
        Grant::KIND => Input::Grant(namespace.to_string(), name.to_string(), None),
        Vip::KIND => Input::Vip(name.to_string(), None),
        other => Input::Deleted {
            kind: Kind::ALL.iter().copied().find(|k| k.as_str() == other),
            namespace: namespace.to_string(),
            name: name.to_string(),
        },
    }
}
