//! Session secrets for a capture tool, in the NSS key log format (draft-ietf-tls-keylogfile).
//!
//! Off unless asked for by name: whoever reads the file can read the traffic. It exists so that an operator can see
//! inside a hop with the tools that everybody has.

use std::fmt::Write as _;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::KeyLog;

static KEY_LOG: OnceLock<Arc<ToFile>> = OnceLock::new();

/// Appends the secrets of every session from now on to `path`, which is closed to other users. Once per process; a
/// second call changes nothing.
pub fn log_keys_to(path: &Path) -> io::Result<()> {
    let file = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    if file.metadata()?.is_file() {
        // A file that was there before may be readable by all; the mode above counts for new ones only.
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    let _ = KEY_LOG.set(Arc::new(ToFile(Mutex::new(file))));
    Ok(())
}

/// The log in force: the file, or nothing.
pub(super) fn key_log() -> Arc<dyn KeyLog> {
    match KEY_LOG.get() {
        Some(log) => Arc::<ToFile>::clone(log),
        None => Arc::new(rustls::NoKeyLog),
    }
}

#[derive(Debug)]
struct ToFile(Mutex<File>);

impl KeyLog for ToFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = format!("{label} ");
        for (part, end) in [(client_random, ' '), (secret, '\n')] {
            for byte in part {
                let _ = write!(line, "{byte:02x}");
            }
            line.push(end);
        }
        // A full disk must not end a handshake; the capture is then simply not readable.
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
    }
}
