//! Who may use the proxy's local ports: without interception nothing else keeps another user's process from borrowing the workload's
//! identity (D12a).

use tokio::net::TcpStream;

use crate::settings::LocalCallers;

/// Whether the process at the other end of a local connection may use it. Closed if that cannot be told.
pub fn is_allowed(rule: &LocalCallers, io: &TcpStream) -> bool {
    let wanted = match rule {
        LocalCallers::Everyone { .. } => return true,
        LocalCallers::SameUser => leno_sys::effective_uid(),
        LocalCallers::User(uid) => *uid,
    };
    let (Ok(local), Ok(peer)) = (io.local_addr(), io.peer_addr()) else { return false };
    match leno_sys::peer_uid(peer, local) {
        Ok(owner) => owner == wanted,
        // It has closed its end already: nobody is there to be served.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => {
            tracing::warn!(%error, "cannot tell whose connection this is: refused");
            false
        }
    }
}
