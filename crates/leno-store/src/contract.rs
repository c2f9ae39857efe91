//! What a store is: the trait, its records, and its promises.
//!
//! ```text
//!   list(kind) ──► records + cursor ──► watch(kind, cursor) ──► changes …
//!        ▲                                       │
//!        └───────────── Compacted ◄──────────────┘   (the log does not reach back that far: list again)
//! ```
//!
//! Promises: an acknowledged write is durable; writes of one kind are seen by its watchers in one order, the same for all;
//! a watch from a list's cursor misses nothing after that list. Not promised: any order between kinds, any transaction over
//! two keys, that a watcher sees each of several quick writes to one key.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

/// A boxed future; the trait is used as `dyn Store`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Names one record. Ordered by kind, namespace, name: the order of lists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// A word chosen by the caller, e.g. `Service`.
    pub kind: Arc<str>,
    /// Empty for kinds without namespaces.
    pub namespace: Arc<str>,
    /// The name within kind and namespace.
    pub name: Arc<str>,
}

impl Key {
    /// A key from its parts.
    #[must_use]
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self { kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.kind, self.name)
        } else {
            write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
        }
    }
}

macro_rules! opaque_text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes back what [`as_str`](Self::as_str) gave; a made-up text is refused by the backend.
            #[must_use]
            pub fn from_text(text: &str) -> Self {
                Self(text.into())
            }
            /// For handing to clients. Compare for equality only.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
opaque_text! {
    /// The version of a record; changes with every write to it and is never used again for the same key.
    Version
}
opaque_text! {
    /// A point in the history of one kind.
    Cursor
}

/// A stored record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub key: Key,
    /// Its bytes, as they were put.
    pub value: Bytes,
    /// Its version.
    pub version: Version,
}

/// What a write demands of the record as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// It does not exist.
    Absent,
    /// It exists with this version.
    Version(Version),
}

/// Which part of a list.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// At most this many records; 0 for the backend's own maximum.
    pub limit: usize,
    /// From the page before.
    pub continue_from: Option<String>,
}

/// One page of a list.
#[derive(Debug, Clone)]
pub struct ListPage {
    /// In the order of their keys.
    pub records: Vec<Record>,
    /// Watch from here. The same on every page of one list: a later page may be newer, and the watch repeats what it shows.
    pub cursor: Cursor,
    /// Present when there are more.
    pub continue_from: Option<String>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Created or replaced.
    Put(Record),
    /// Deleted.
    Delete(Key),
}

impl Event {
    /// The key it is about.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(record) => &record.key,
            Self::Delete(key) => key,
        }
    }
}

/// A change and the point in history right after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub event: Event,
    /// Watch from here to get what follows.
    pub cursor: Cursor,
}

/// Why a watch ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchEnd {
    /// The history from the cursor on is gone: list again.
    #[error("the change log no longer reaches back to this cursor; list again")]
    Compacted,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// A running watch. Dropping it ends it.
pub trait Watch: Send {
    /// Waits for changes and returns those at hand (never empty, bounded by the backend). Cancel-safe.
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<Change>, WatchEnd>>;
}

/// Why a store refused or failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The record is not as the write expected it. Nothing was written.
    #[error("{key} is at version {}, not as expected", current.as_ref().map_or("none (it does not exist)", Version::as_str))]
    Conflict {
        /// The record.
        key: Key,
        /// Its version now, or none if it does not exist.
        current: Option<Version>,
    },
    /// A delete of what does not exist.
    #[error("{0} does not exist")]
    NotFound(Key),
    /// A continuation that this store did not give out, or a key with a NUL byte.
    #[error("malformed {what}: `{text}`")]
    Malformed {
        /// Which argument.
        what: &'static str,
        /// Its text.
        text: String,
    },
    /// The record is over the backend's limit.
    #[error("{key} has {size} bytes, more than the {limit} a record may have")]
    TooLarge {
        /// The record.
        key: Key,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Another process uses the data directory.
    #[error("the data directory {directory} is in use by another control plane (process {pid})")]
    InUse {
        /// The directory.
        directory: String,
        /// The holder's process id, or `unknown`.
        pid: String,
    },
    /// The data was written by a newer version.
    #[error(
        "the store at {path} has format {found}, this version reads up to {known}: use the newer version, or restore a backup"
    )]
    NewerFormat {
        /// The file.
        path: String,
        /// Its format.
        found: u64,
        /// The newest format this version knows.
        known: u64,
    },
    /// What is stored cannot be read.
    #[error(
        "the store {path} is damaged ({detail}): stop the control plane, keep this data directory for later, put all of a backup in \
         its place and start again"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What does not make sense.
        detail: String,
    },
    /// The backend failed; nothing is known about whether the write took place.
    #[error("store: {0}")]
    Backend(String),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// Versioned records. See the module's promises.
pub trait Store: Send + Sync {
    /// The record, if it exists.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Record>, StoreError>>;

    /// The records of a kind, of one namespace or of all.
    fn list<'a>(
        &'a self,
        kind: &'a str,
        namespace: Option<&'a str>,
        page: Page,
    ) -> BoxFuture<'a, Result<ListPage, StoreError>>;

    /// Writes, durable when it returns. Dropping the future does not take the write back.
    fn put<'a>(&'a self, key: &'a Key, value: Bytes, expect: Expect) -> BoxFuture<'a, Result<Version, StoreError>>;

    /// Deletes, durable when it returns. Absent is [`StoreError::NotFound`] whatever was expected.
    fn delete<'a>(&'a self, key: &'a Key, expect: Expect) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Changes of a kind after `from`.
    fn watch<'a>(&'a self, kind: &'a str, from: &'a Cursor) -> BoxFuture<'a, Result<Box<dyn Watch>, StoreError>>;

    /// The cursor after the newest write, without listing.
    fn now<'a>(&'a self, kind: &'a str) -> BoxFuture<'a, Result<Cursor, StoreError>>;
}

/// All pages of a list.
pub async fn list_all(
    store: &dyn Store,
    kind: &str,
    namespace: Option<&str>,
) -> Result<(Vec<Record>, Cursor), StoreError> {
    let mut records = Vec::new();
    let mut page = Page::default();
    loop {
        let part = store.list(kind, namespace, page).await?;
        records.extend(part.records);
        match part.continue_from {
            Some(next) => page = Page { limit: 0, continue_from: Some(next) },
            None => return Ok((records, part.cursor)),
        }
    }
}
