//! The writer thread: many writes, one commit.

use std::collections::HashMap;

use bytes::Bytes;
use redb::{Database, ReadableTable, Table};
use tokio::sync::{mpsc, oneshot};

use super::contain::contained;
use super::file::DatabaseFile;
use super::log::ChangeLogs;
use super::{META, META_REVISION, RECORDS, backend, version};
use crate::contract::{Event, Expect, Key, Record, StoreError, Version};

/// Writes that share one commit: enough that fsync stops being the limit, few enough that an answer is never long in coming.
const MAX_BATCH: usize = 256;

/// A queued write.
pub(super) struct Write {
    pub key: Key,
    pub encoded: Vec<u8>,
    pub operation: Operation,
    pub reply: oneshot::Sender<Result<Version, StoreError>>,
}

/// What to do.
pub(super) enum Operation {
    Put(Bytes, Expect),
    Delete(Expect),
}

/// Runs until the store is dropped.
pub(super) fn run(file: &DatabaseFile, logs: &ChangeLogs, mut operations: mpsc::Receiver<Write>) {
    let mut batch = Vec::new();
    // Whether the last commit failed for another reason than the writes themselves.
    let mut broken = false;
    while let Some(first) = operations.blocking_recv() {
        batch.push(first);
        while batch.len() < MAX_BATCH
            && let Ok(next) = operations.try_recv()
        {
            batch.push(next);
        }
        match committed(file, logs, &mut broken, &batch) {
            Ok((outcomes, events)) => {
                // Before the answers: who has seen its write acknowledged finds it in the log.
                logs.publish(events);
                for (write, outcome) in batch.drain(..).zip(outcomes) {
                    // A caller that went away does not take its write back.
                    let _ = write.reply.send(outcome);
                }
            }
            Err(error) => {
                tracing::error!(%error, writes = batch.len(), "the store could not commit");
                for write in batch.drain(..) {
                    let _ = write.reply.send(Err(error.clone()));
                }
            }
        }
    }
}

/// Commits, after opening the file again if the commit before failed.
fn committed(
    file: &DatabaseFile,
    logs: &ChangeLogs,
    broken: &mut bool,
    batch: &[Write],
) -> Result<(Outcomes, Vec<(u64, Event)>), StoreError> {
    if *broken {
        logs.resync(file.reopen()?);
        tracing::info!("the store was opened again after a failure");
    }
    let outcome = contained(file.path(), || file.with(|database| commit(database, batch)));
    *broken = outcome.is_err();
    outcome
}

type Outcomes = Vec<Result<Version, StoreError>>;

fn commit(database: &Database, batch: &[Write]) -> Result<(Outcomes, Vec<(u64, Event)>), StoreError> {
    let transaction = database.begin_write().map_err(backend)?;
    let mut outcomes = Vec::with_capacity(batch.len());
    let mut events = Vec::with_capacity(batch.len());
    {
        let mut meta = transaction.open_table(META).map_err(backend)?;
        let mut table = transaction.open_table(RECORDS).map_err(backend)?;
        let mut revision = meta.get(META_REVISION).map_err(backend)?.map_or(0, |r| r.value());
        // Versions as of this transaction, so that a batch of writes to one key reads the table once.
        let mut current: HashMap<&[u8], Option<u64>> = HashMap::new();
        for write in batch {
            let now = match current.get(write.encoded.as_slice()) {
                Some(now) => *now,
                None => stored_revision(&table, &write.encoded)?,
            };
            let outcome = admit(write, now);
            if outcome.is_ok() {
                revision += 1;
                events.push((revision, apply(&mut table, write, revision)?));
                let exists = matches!(write.operation, Operation::Put(..));
                current.insert(&write.encoded, exists.then_some(revision));
            }
            outcomes.push(outcome.map(|()| version(revision)));
        }
        if !events.is_empty() {
            meta.insert(META_REVISION, revision).map_err(backend)?;
        }
    }
    if events.is_empty() {
        transaction.abort().map_err(backend)?;
    } else {
        transaction.commit().map_err(backend)?;
    }
    Ok((outcomes, events))
}

fn stored_revision(table: &Table<'_, &[u8], &[u8]>, encoded: &[u8]) -> Result<Option<u64>, StoreError> {
    let found = table.get(encoded).map_err(backend)?;
    Ok(found.and_then(|v| v.value().first_chunk::<8>().map(|r| u64::from_be_bytes(*r))))
}

fn admit(write: &Write, now: Option<u64>) -> Result<(), StoreError> {
    let (expect, deletes) = match &write.operation {
        Operation::Put(_, expect) => (expect, false),
        Operation::Delete(expect) => (expect, true),
    };
    if deletes && now.is_none() {
        return Err(StoreError::NotFound(write.key.clone()));
    }
    let fine = match expect {
        Expect::Any => true,
        Expect::Absent => now.is_none(),
        Expect::Version(expected) => now.is_some_and(|now| version(now) == *expected),
    };
    if fine { Ok(()) } else { Err(StoreError::Conflict { key: write.key.clone(), current: now.map(version) }) }
}

fn apply(table: &mut Table<'_, &[u8], &[u8]>, write: &Write, revision: u64) -> Result<Event, StoreError> {
    match &write.operation {
        Operation::Put(value, _) => {
            let stored = [revision.to_be_bytes().as_slice(), value].concat();
            table.insert(write.encoded.as_slice(), stored.as_slice()).map_err(backend)?;
            Ok(Event::Put(Record { key: write.key.clone(), value: value.clone(), version: version(revision) }))
        }
        Operation::Delete(_) => {
            table.remove(write.encoded.as_slice()).map_err(backend)?;
            Ok(Event::Delete(write.key.clone()))
        }
    }
}
