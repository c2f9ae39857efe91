//! Who answers at the application's port? (D12a)
//!
//! Any local user may bind a free port on loopback, before the application does or while it restarts, and would then be given the
//! callers' requests and answer in the workload's name. So before each connection the listener's owner is looked up: the user that
//! the proxy runs as, the one that `--local-user` names, root, or a program that this member's supervisor started.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use leno_http::StreamError;
use leno_http::h1::ConnectGuard;
use leno_model::Reason;
use leno_sys::ListeningSocket;

use crate::settings::{LocalCallers, ProxySettings};

/// A socket that was somebody else's may be handed over; callers must not make the worker look for it at each request.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Root can read and write everybody's memory: refusing it would protect nothing.
const ROOT: u32 = 0;

/// The check for a worker's connections to this member's applications; others are none of its business.
#[must_use]
pub fn guard(settings: &ProxySettings) -> ConnectGuard {
    let users = match &settings.local_callers {
        LocalCallers::Everyone { .. } => return ConnectGuard::default(),
        LocalCallers::SameUser => vec![ROOT, leno_sys::effective_uid()],
        LocalCallers::User(user) => vec![ROOT, leno_sys::effective_uid(), *user],
    };
    let apps: Vec<u16> = settings.ports.iter().map(|p| p.app_address().port()).collect();
    let owners = Owners {
        users,
        supervisor: settings.supervised.then(std::os::unix::process::parent_id),
        known: RefCell::default(),
    };
    ConnectGuard::new(move |address| {
        if address.ip().is_loopback() && apps.contains(&address.port()) { owners.check(address) } else { Ok(()) }
    })
}

struct Owners {
    users: Vec<u32>,
    supervisor: Option<u32>,
    /// By port, the listening socket that was looked up last, and what was found: it means reading all of /proc.
    known: RefCell<HashMap<u16, Known>>,
}

struct Known {
    inode: u64,
    is_ours: bool,
    at: Instant,
}

impl Owners {
    fn check(&self, address: SocketAddr) -> Result<(), StreamError> {
        let refused = |detail: String| Err(StreamError::unprocessed(Reason::ForeignApp, detail));
        let sockets = match leno_sys::listening_sockets(address.port()) {
            Ok(sockets) => sockets,
            Err(error) => return refused(format!("cannot tell who listens on {address}: {error}")),
        };
        let foreign =
            reached(&sockets, address).find(|s| !self.users.contains(&s.uid) && !self.is_ours(address.port(), s));
        match foreign {
            None => Ok(()),
            Some(socket) => {
                refused(format!("user {} listens on {address} (--local-user names whose it may be)", socket.uid))
            }
        }
    }

    fn is_ours(&self, port: u16, socket: &ListeningSocket) -> bool {
        let Some(supervisor) = self.supervisor else { return false };
        if let Some(known) = self.known.borrow().get(&port).filter(|k| k.inode == socket.inode)
            && (known.is_ours || known.at.elapsed() < LOOK_AGAIN)
        {
            return known.is_ours;
        }
        let is_ours = leno_sys::pid_of_socket(socket.inode).is_some_and(|pid| leno_sys::is_descendant(pid, supervisor));
        self.known.borrow_mut().insert(port, Known { inode: socket.inode, is_ours, at: Instant::now() });
        is_ours
    }
}

/// The sockets that the kernel may give a connection to `address`: those bound to it, or else to every address.
fn reached(sockets: &[ListeningSocket], address: SocketAddr) -> impl Iterator<Item = &ListeningSocket> {
    let is_exact = move |s: &&ListeningSocket| s.address.ip().to_canonical() == address.ip();
    let any_exact = sockets.iter().any(|s| is_exact(&s));
    sockets.iter().filter(move |s| if any_exact { is_exact(s) } else { s.address.ip().is_unspecified() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn owners(users: &[u32], supervisor: Option<u32>) -> Owners {
        Owners { users: users.to_vec(), supervisor, known: RefCell::default() }
    }

    #[test]
    fn only_those_who_may_listen_get_connections() {
        let app = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = app.local_addr().unwrap();
        let me = leno_sys::effective_uid();
        assert!(owners(&[me], None).check(at).is_ok());
        let error = owners(&[me + 1], None).check(at).unwrap_err();
        assert!(
            error.reason == Reason::ForeignApp && error.unprocessed && error.detail.contains("--local-user"),
            "{error}"
        );
        // This process is its own parent's child, and nobody else's.
        let parent = std::os::unix::process::parent_id();
        let supervised = owners(&[me + 1], Some(parent));
        assert!(supervised.check(at).is_ok());
        assert_eq!(supervised.known.borrow().len(), 1, "looked up once");
        let foreign = owners(&[me + 1], Some(std::process::id() + 1));
        assert!(foreign.check(at).is_err() && foreign.check(at).is_err());
        assert_eq!(foreign.known.borrow().len(), 1, "nor is it looked up for every caller");
        drop(app);
    }

    #[test]
    fn an_exact_address_goes_before_the_wildcard() {
        let socket = |at: &str, uid| ListeningSocket { address: at.parse().unwrap(), uid, inode: u64::from(uid) };
        let all = [socket("0.0.0.0:80", 1), socket("127.0.0.1:80", 2), socket("[::]:80", 3), socket("10.0.0.1:80", 4)];
        let users =
            |all: &[ListeningSocket], at: &str| reached(all, at.parse().unwrap()).map(|s| s.uid).collect::<Vec<_>>();
        assert_eq!(users(&all, "127.0.0.1:80"), [2]);
        assert_eq!(users(&all, "127.0.0.2:80"), [1, 3]);
        assert!(users(&all[3..], "127.0.0.1:80").is_empty());
    }
}
