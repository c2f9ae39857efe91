//! The embedded backend: one redb file, one writer thread, change logs in memory.
//!
//! ```text
//!   put/delete ──► bounded queue ──► writer thread: drain up to MAX_BATCH, one transaction, one fsync
//!                                        │ after the commit
//!                                        ├──► change log per kind ──► watches (pull; each keeps only its position)
//!                                        └──► answers
//! ```
//!
//! A revision counts writes over all kinds; it is both version and cursor, and survives restarts. The change log does not: a
//! cursor from before a restart is answered `Compacted` unless nothing was written since.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::{mpsc, oneshot};

use crate::contract::{BoxFuture, Cursor, Expect, Key, ListPage, Page, Record, Store, StoreError, Version, Watch};
use contain::contained;
use file::DatabaseFile;
use log::ChangeLogs;
use writer::{Operation, Write};

mod contain;
mod file;
mod log;
mod writer;

/// `kind \0 namespace \0 name` → 8 bytes revision, then the value.
const RECORDS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("records");
/// `format`, `revision`.
const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");
const META_FORMAT: &str = "format";
const META_REVISION: &str = "revision";

/// The format this version writes, and the newest it reads.
pub const FORMAT: u64 = 1;
/// File name in the data directory.
pub const FILE_NAME: &str = "store.redb";
/// Largest record: a resource is text that people write; the REST body limit is 1 MiB, and status is added to it.
pub const MAX_RECORD: usize = 2 << 20;
/// Records of one list page: bounds the time a list holds the event loop.
pub const MAX_PAGE: usize = 500;
/// Writes waiting for the writer thread; more wait in their callers.
const QUEUE: usize = 1024;

/// What may be tuned.
#[derive(Debug, Clone)]
pub struct RedbSettings {
    /// Changes kept per kind for watches to resume from. A watch that falls further behind is told to list again.
    pub change_log: usize,
    /// Page cache in bytes.
    pub cache_bytes: usize,
}

impl Default for RedbSettings {
    /// 8192 changes cover a reconnect during a rollout of a few thousand instances; a mesh's records fit 64 MiB.
    fn default() -> Self {
        Self { change_log: 8192, cache_bytes: 64 << 20 }
    }
}

/// The embedded store. Dropping it ends the writer after the writes that are queued.
pub struct RedbStore {
    file: Arc<DatabaseFile>,
    logs: Arc<ChangeLogs>,
    queue: Option<mpsc::Sender<Write>>,
    writer: Option<JoinHandle<()>>,
}

impl RedbStore {
    /// Opens or creates the store in `directory`. The caller holds the [`crate::DirectoryLock`].
    pub fn open(directory: &Path, settings: &RedbSettings) -> Result<Self, StoreError> {
        let path = directory.join(FILE_NAME);
        let created = !path.exists();
        let (file, revision) = DatabaseFile::open(path.clone(), settings.cache_bytes)?;
        if created {
            // Hashes of tokens are in it.
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
                .map_err(|e| StoreError::Backend(format!("close {} to others: {e}", path.display())))?;
            // The commit above made the file durable, not its name.
            std::fs::File::open(directory)
                .and_then(|d| d.sync_all())
                .map_err(|e| StoreError::Backend(format!("sync {}: {e}", directory.display())))?;
        }
        let file = Arc::new(file);
        let logs = Arc::new(ChangeLogs::new(settings.change_log, revision));
        let (queue, operations) = mpsc::channel(QUEUE);
        let writer = {
            let (file, logs) = (Arc::clone(&file), Arc::clone(&logs));
            std::thread::Builder::new()
                .name("store-writer".into())
                .spawn(move || writer::run(&file, &logs, operations))
                .map_err(|e| StoreError::Backend(format!("start the writer: {e}")))?
        };
        Ok(Self { file, logs, queue: Some(queue), writer: Some(writer) })
    }

    /// Commits since the store was opened; with the number of writes it says how well they share.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.logs.commits()
    }

    async fn write(&self, key: &Key, operation: Operation) -> Result<Version, StoreError> {
        let encoded = encode_key(key)?;
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(StoreError::Closed)?;
        queue.send(Write { key: key.clone(), encoded, operation, reply }).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    // Reads run on the caller's thread: a point read is microseconds, a page is bounded by MAX_PAGE.
    fn get_now(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let encoded = encode_key(key)?;
        contained(self.file.path(), || self.get_unguarded(key, &encoded))
    }

    fn get_unguarded(&self, key: &Key, encoded: &[u8]) -> Result<Option<Record>, StoreError> {
        let transaction = self.file.begin_read()?;
        let table = transaction.open_table(RECORDS).map_err(backend)?;
        let Some(found) = table.get(encoded).map_err(backend)? else { return Ok(None) };
        decode_value(key.clone(), found.value()).map(Some)
    }

    fn list_now(&self, kind: &str, namespace: Option<&str>, page: &Page) -> Result<ListPage, StoreError> {
        let transaction = self.file.begin_read()?;
        let meta = transaction.open_table(META).map_err(backend)?;
        let mut revision = meta.get(META_REVISION).map_err(backend)?.map_or(0, |r| r.value());
        let table = transaction.open_table(RECORDS).map_err(backend)?;
        let mut prefix = [kind.as_bytes(), b"\0"].concat();
        if let Some(namespace) = namespace {
            prefix.extend_from_slice(namespace.as_bytes());
            prefix.push(0);
        }
        let mut start = prefix.clone();
        if let Some(text) = &page.continue_from {
            (revision, start) = parse_continuation(text, &prefix)?;
        }
        let limit = if page.limit == 0 { MAX_PAGE } else { page.limit.min(MAX_PAGE) };
        let mut records = Vec::new();
        let mut continue_from = None;
        for entry in table.range(start.as_slice()..).map_err(backend)? {
            let (key, value) = entry.map_err(backend)?;
            if !key.value().starts_with(&prefix) {
                break;
            }
            if records.len() == limit {
                continue_from = Some(continuation(revision, key.value()));
                break;
            }
            records.push(decode_value(decode_key(key.value())?, value.value())?);
        }
        Ok(ListPage { records, cursor: cursor(revision), continue_from })
    }
}

impl Store for RedbStore {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
        Box::pin(async move { self.get_now(key) })
    }

    fn list<'a>(
        &'a self,
        kind: &'a str,
        namespace: Option<&'a str>,
        page: Page,
    ) -> BoxFuture<'a, Result<ListPage, StoreError>> {
        Box::pin(async move { contained(self.file.path(), || self.list_now(kind, namespace, &page)) })
    }

    fn put<'a>(&'a self, key: &'a Key, value: Bytes, expect: Expect) -> BoxFuture<'a, Result<Version, StoreError>> {
        Box::pin(async move {
            if value.len() > MAX_RECORD {
                return Err(StoreError::TooLarge { key: key.clone(), size: value.len(), limit: MAX_RECORD });
            }
            self.write(key, Operation::Put(value, expect)).await
        })
    }

    fn delete<'a>(&'a self, key: &'a Key, expect: Expect) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.write(key, Operation::Delete(expect)).await.map(drop) })
    }

    fn watch<'a>(&'a self, kind: &'a str, from: &'a Cursor) -> BoxFuture<'a, Result<Box<dyn Watch>, StoreError>> {
        Box::pin(async move {
            let malformed = || StoreError::Malformed { what: "cursor", text: from.as_str().to_owned() };
            let position = from.as_str().parse().map_err(|_| malformed())?;
            Ok(Box::new(self.logs.watch(kind, position)) as Box<dyn Watch>)
        })
    }

    fn now<'a>(&'a self, _kind: &'a str) -> BoxFuture<'a, Result<Cursor, StoreError>> {
        Box::pin(async move {
            contained(self.file.path(), || {
                let transaction = self.file.begin_read()?;
                let meta = transaction.open_table(META).map_err(backend)?;
                Ok(cursor(meta.get(META_REVISION).map_err(backend)?.map_or(0, |r| r.value())))
            })
        })
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer thread panicked");
        }
        self.logs.close();
    }
}

/// Creates the tables, checks the format and returns the revision.
fn prepare(database: &Database, path: &Path) -> Result<u64, StoreError> {
    let transaction = database.begin_write().map_err(backend)?;
    let revision = {
        let mut meta = transaction.open_table(META).map_err(backend)?;
        let found = meta.get(META_FORMAT).map_err(backend)?.map(|f| f.value());
        match found {
            Some(found) if found > FORMAT => {
                let path = PathBuf::from(path).display().to_string();
                return Err(StoreError::NewerFormat { path, found, known: FORMAT });
            }
            Some(_) => {}
            None => drop(meta.insert(META_FORMAT, FORMAT).map_err(backend)?),
        }
        meta.get(META_REVISION).map_err(backend)?.map_or(0, |r| r.value())
    };
    transaction.open_table(RECORDS).map_err(backend)?;
    transaction.commit().map_err(backend)?;
    Ok(revision)
}

/// Reads every record once: damage is to be found at the start, not by whoever happens to need the record.
fn look_through(database: &Database) -> Result<(), StoreError> {
    let transaction = database.begin_read().map_err(backend)?;
    for entry in transaction.open_table(RECORDS).map_err(backend)?.iter().map_err(backend)? {
        let (key, value) = entry.map_err(backend)?;
        decode_value(decode_key(key.value())?, value.value())?;
    }
    Ok(())
}

fn backend(error: impl Into<redb::Error>) -> StoreError {
    let error = error.into();
    match &error {
        redb::Error::Corrupted(_) => damaged(error.to_string()),
        redb::Error::Io(e) if matches!(e.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
            damaged(error.to_string())
        }
        _ => StoreError::Backend(error.to_string()),
    }
}

/// `contained` puts the path in place of the name.
fn damaged(detail: String) -> StoreError {
    StoreError::Damaged { path: FILE_NAME.to_owned(), detail }
}

fn version(revision: u64) -> Version {
    Version::from_text(&revision.to_string())
}

fn cursor(revision: u64) -> Cursor {
    Cursor::from_text(&revision.to_string())
}

fn encode_key(key: &Key) -> Result<Vec<u8>, StoreError> {
    if [&key.kind, &key.namespace, &key.name].iter().any(|part| part.contains('\0')) {
        return Err(StoreError::Malformed { what: "key", text: key.to_string().escape_debug().to_string() });
    }
    Ok([key.kind.as_bytes(), b"\0", key.namespace.as_bytes(), b"\0", key.name.as_bytes()].concat())
}

fn decode_key(encoded: &[u8]) -> Result<Key, StoreError> {
    let damaged = || damaged("a key is none".into());
    let text = std::str::from_utf8(encoded).map_err(|_| damaged())?;
    let mut parts = text.splitn(3, '\0');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(kind), Some(namespace), Some(name)) => Ok(Key::new(kind, namespace, name)),
        _ => Err(damaged()),
    }
}

fn decode_value(key: Key, stored: &[u8]) -> Result<Record, StoreError> {
    let Some((revision, value)) = stored.split_first_chunk::<8>() else {
        return Err(damaged(format!("{key} is too short")));
    };
    Ok(Record { key, value: Bytes::copy_from_slice(value), version: version(u64::from_be_bytes(*revision)) })
}

/// The list's revision and the first key of the next page; the key in hex since it holds NULs.
fn continuation(revision: u64, key: &[u8]) -> String {
    let mut text = format!("{revision}.");
    for byte in key {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn parse_continuation(text: &str, prefix: &[u8]) -> Result<(u64, Vec<u8>), StoreError> {
    let parse = || {
        let (revision, hex) = text.split_once('.')?;
        let revision = revision.parse().ok()?;
        let digits = hex.as_bytes().chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok());
        let key: Vec<u8> = digits.collect::<Option<_>>()?;
        key.starts_with(prefix).then_some((revision, key))
    };
    parse().ok_or_else(|| StoreError::Malformed { what: "continuation", text: text.chars().take(200).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_is_refused_with_both_numbers() {
        let directory = tempfile::tempdir().unwrap();
        drop(RedbStore::open(directory.path(), &RedbSettings::default()).unwrap());
        let database = Database::create(directory.path().join(FILE_NAME)).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert(META_FORMAT, FORMAT + 1).unwrap();
        transaction.commit().unwrap();
        drop(database);
        let refused = RedbStore::open(directory.path(), &RedbSettings::default()).err().unwrap().to_string();
        assert!(refused.contains("has format 2, this version reads up to 1"), "{refused}");
    }

    #[test]
    fn continuations_of_another_list_are_refused() {
        let text = continuation(7, b"Service\0a\0web");
        assert_eq!(parse_continuation(&text, b"Service\0").unwrap(), (7, b"Service\0a\0web".to_vec()));
        for (bad, prefix) in [(text.as_str(), b"Secret\0".as_slice()), ("7.zz", b""), ("x.00", b""), ("", b"")] {
            assert!(parse_continuation(bad, prefix).is_err(), "{bad}");
        }
    }
}
