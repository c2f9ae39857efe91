//! The open database file, and how it is opened again after an I/O error.
//!
//! redb refuses everything after a failed write until the file is opened anew: it no longer knows what reached the disk.
//! A full disk must not cost a restart, so the writer opens the file again before its next commit.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::{Database, ReadTransaction, ReadableDatabase};

use super::contain::contained;
use super::{backend, look_through, prepare};
use crate::contract::StoreError;

/// One database file. The lock is held for the start of a transaction, which is short, and for opening the file again.
pub(super) struct DatabaseFile {
    path: PathBuf,
    cache_bytes: usize,
    /// None while the file could not be opened again.
    database: RwLock<Option<Database>>,
}

impl DatabaseFile {
    /// Opens or creates it; gives the newest revision too.
    pub fn open(path: PathBuf, cache_bytes: usize) -> Result<(Self, u64), StoreError> {
        let (database, revision) = contained(&path, || {
            let opened = open(&path, cache_bytes)?;
            look_through(&opened.0)?;
            Ok(opened)
        })?;
        Ok((Self { path, cache_bytes, database: RwLock::new(Some(database)) }, revision))
    }

    /// Closes the file and opens it again: whatever is durable is what holds. Gives the newest revision.
    pub fn reopen(&self) -> Result<u64, StoreError> {
        let mut held = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // First: the file is locked while it is open.
        contained(&self.path, || {
            *held = None;
            let (database, revision) = open(&self.path, self.cache_bytes)?;
            *held = Some(database);
            Ok(revision)
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Begins to read.
    pub fn begin_read(&self) -> Result<ReadTransaction, StoreError> {
        self.with(|database| database.begin_read().map_err(backend))
    }

    /// Runs `work` on the open database, not contained. Not across an await: it blocks opening the file again.
    pub fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let held = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let closed =
            || StoreError::Backend(format!("{} failed and could not be opened again yet", self.path.display()));
        work(held.as_ref().ok_or_else(closed)?)
    }
}

impl Drop for DatabaseFile {
    fn drop(&mut self) {
        let held = self.database.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // Closing writes, too.
        if let Err(error) = contained(&self.path, || {
            drop(held);
            Ok(())
        }) {
            tracing::error!(%error, "the store could not be closed");
        }
    }
}

fn open(path: &Path, cache_bytes: usize) -> Result<(Database, u64), StoreError> {
    let database = redb::Builder::new().set_cache_size(cache_bytes).create(path).map_err(backend)?;
    let revision = prepare(&database, path)?;
    Ok((database, revision))
}
