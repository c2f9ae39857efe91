//! The lock on a data directory: one control plane at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::StoreError;

/// Name of the lock file in the data directory.
const LOCK_FILE: &str = "lock";

/// An exclusive advisory lock (flock) that lives as long as this value; the kernel drops it with the process, so that
/// `kill -9` leaves nothing to clean up.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock on `directory`, which must exist, and writes the process id into the lock file for the refusal that a
    /// second one gets.
    pub fn take(directory: &Path) -> Result<Self, StoreError> {
        let failed = |e: std::io::Error| StoreError::Backend(format!("lock {}: {e}", directory.display()));
        let path = directory.join(LOCK_FILE);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // An unreadable pid only makes the message poorer.
                let _ = file.read_to_string(&mut text);
                let pid = if text.trim().is_empty() { "unknown" } else { text.trim() };
                return Err(StoreError::InUse { directory: directory.display().to_string(), pid: pid.to_owned() });
            }
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_holder_is_told_who_the_first_is() {
        let directory = tempfile::tempdir().unwrap();
        let first = DirectoryLock::take(directory.path()).unwrap();
        let refused = DirectoryLock::take(directory.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        DirectoryLock::take(directory.path()).unwrap();
    }
}
