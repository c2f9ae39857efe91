//! The connection cap: more connections than file descriptors would starve the admin port, renewals and logs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Descriptors kept for what is not a user's connection: listeners, control plane, admin, files, epoll.
const RESERVED: u64 = 128;
/// Descriptors that one proxied connection may need: its own and one upstream.
const PER_CONNECTION: u64 = 2;
/// Connections that are allowed however low the limit is.
const LEAST: usize = 16;

/// Counts connections of the whole process against a cap. Clones share it.
#[derive(Debug, Clone)]
pub struct ConnectionCap {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    open: AtomicUsize,
    limit: usize,
    refused: AtomicUsize,
}

/// One connection's place, until dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    inner: Arc<Inner>,
}

impl ConnectionCap {
    /// A cap of so many connections.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { inner: Arc::new(Inner { open: AtomicUsize::new(0), limit, refused: AtomicUsize::new(0) }) }
    }

    /// A cap from the limit on open files, e.g. 524,224 for 1,048,576 and 448 for 1024.
    #[must_use]
    pub fn from_open_file_limit(files: u64) -> Self {
        let connections = files.saturating_sub(RESERVED) / PER_CONNECTION;
        Self::new(usize::try_from(connections).unwrap_or(usize::MAX).max(LEAST))
    }

    /// A place for one connection; `None` at the cap: close it, with reason `overloaded`.
    #[must_use]
    pub fn try_acquire(&self) -> Option<ConnectionPermit> {
        let inner = &self.inner;
        let taken = inner
            .open
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < inner.limit).then_some(open + 1));
        if taken.is_err() {
            inner.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(ConnectionPermit { inner: inner.clone() })
    }

    /// Connections open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.inner.open.load(Ordering::Relaxed)
    }

    /// The cap.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.inner.limit
    }

    /// Connections refused so far.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.inner.refused.load(Ordering::Relaxed)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.inner.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_holds_and_places_return() {
        let cap = ConnectionCap::new(2);
        let (first, second) = (cap.try_acquire().unwrap(), cap.clone().try_acquire().unwrap());
        assert!(cap.try_acquire().is_none());
        assert_eq!((cap.open(), cap.refused()), (2, 1));
        drop(first);
        let third = cap.try_acquire().unwrap();
        drop((second, third));
        assert_eq!(cap.open(), 0);
    }

    #[test]
    fn the_cap_follows_the_limit_on_open_files() {
        for (files, expected) in [(1024, 448), (1_048_576, 524_224), (64, LEAST), (0, LEAST)] {
            assert_eq!(ConnectionCap::from_open_file_limit(files).limit(), expected);
        }
    }
}
