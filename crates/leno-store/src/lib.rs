//! The store: versioned records of named kinds, with optimistic writes and resumable watches (D4).
//!
//! *Owns*: the [`Store`] trait, what every backend promises, the suite that checks it ([`conformance`]), and the embedded
//! backend ([`RedbStore`]).
//!
//! *Must not know*: what a resource is. A record is bytes; a kind is a word.
//!
//! *Start reading at*: [`contract`], then [`redb_store`].

pub mod conformance;
pub mod contract;
pub mod lock;
pub mod redb_store;

pub use contract::{
    BoxFuture, Change, Cursor, Event, Expect, Key, ListPage, Page, Record, Store, StoreError, Version, Watch, WatchEnd,
};
pub use lock::DirectoryLock;
pub use redb_store::{RedbSettings, RedbStore};
