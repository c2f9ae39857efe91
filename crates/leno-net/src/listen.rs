//! Listening sockets: made or inherited, with errors that name the address, and an accept that survives a shortage of
//! file descriptors.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::time::Duration;

use leno_sys::canonical;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections that the kernel keeps ready for us; it cuts this to `net.core.somaxconn` (4096 by default).
const BACKLOG: i32 = 4096;
/// Pause after running out of descriptors or memory: long enough for connections to end, short enough to go unnoticed.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(20);

/// Why a listener could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody has the port.
    #[error("cannot listen on {address}: the port is taken{holder}")]
    Taken {
        /// Where.
        address: SocketAddr,
        /// Who, if we may know: ` by process N`.
        holder: String,
    },
    /// Anything else the system said.
    #[error("cannot listen on {address}: {source}")]
    System {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// An inherited descriptor is not usable.
    #[error("cannot take over a listener: {0}")]
    Inherited(io::Error),
}

/// A listening TCP socket.
#[derive(Debug)]
pub struct Listener {
    inner: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens on `address`; port 0 lets the system choose. An IPv6 address takes IPv6 only, so that `[::]` and
    /// `0.0.0.0` may stand beside each other. Must be called inside a runtime.
    pub fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        Self::from_std(bind_std(address)?).map_err(|source| ListenError::System { address, source })
    }

    /// Takes over a descriptor that the supervisor passed by number. Must be called inside a runtime.
    pub fn inherit(number: RawFd) -> Result<Self, ListenError> {
        leno_sys::take_listener(number).and_then(Self::from_std).map_err(ListenError::Inherited)
    }

    /// Wraps a bound, non-blocking listener. Must be called inside a runtime.
    pub fn from_std(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self { inner: TcpListener::from_std(listener)?, address })
    }

    /// Where it listens, with the port that the system chose.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// A second descriptor of the same socket, to hand to a successor.
    pub fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        self.inner.as_fd().try_clone_to_owned()
    }

    /// The next connection, registered with this runtime. Cancel safe: a connection is taken or it is not.
    ///
    /// A peer that is gone already, and a shortage of descriptors or memory, are waited out here; an error means that
    /// the listener itself is broken.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let error = match self.inner.accept().await {
                Ok((stream, peer)) => {
                    // We batch what we send ourselves; Nagle's algorithm would only hold it back. A connection that
                    // refuses the option is gone already and will say so at its first read.
                    let _ = stream.set_nodelay(true);
                    return Ok((stream, canonical(peer)));
                }
                Err(error) => error,
            };
            match verdict(&error) {
                AcceptError::Connection => {}
                AcceptError::Shortage => {
                    tracing::warn!(address = %self.address, %error, "cannot accept connections for now");
                    tokio::time::sleep(SHORTAGE_PAUSE).await;
                }
                AcceptError::Listener => return Err(error),
            }
        }
    }

    /// As [`Self::accept`], but non-blocking and not registered anywhere: for another thread's runtime.
    pub async fn accept_std(&self) -> io::Result<(std::net::TcpStream, SocketAddr)> {
        let (stream, peer) = self.accept().await?;
        Ok((stream.into_std()?, peer))
    }
}

/// Lets as many connections wait in a listener as in those that are opened here. The standard library's have 128 places, which a
/// burst of callers passes; the kernel then drops what they send, and they wait a second or are reset.
pub fn deepen(listener: &std::net::TcpListener) -> io::Result<()> {
    SockRef::from(listener).listen(BACKLOG)
}

/// Listens without a runtime: for a supervisor that only owns the socket.
pub fn bind_std(address: SocketAddr) -> Result<std::net::TcpListener, ListenError> {
    listen(address).map_err(|source| {
        if source.kind() != io::ErrorKind::AddrInUse {
            return ListenError::System { address, source };
        }
        let sockets = leno_sys::listening_sockets(address.port()).unwrap_or_default();
        let holder = sockets.iter().find_map(|s| leno_sys::pid_of_socket(s.inode));
        ListenError::Taken { address, holder: holder.map(|pid| format!(" by process {pid}")).unwrap_or_default() }
    })
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec().nonblocking(), Some(Protocol::TCP))?;
    // A restart must not wait for its predecessor's connections to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[derive(Debug, PartialEq, Eq)]
enum AcceptError {
    /// That one connection is gone; go on (accept(2) passes on pending network errors).
    Connection,
    /// Wait for others to end.
    Shortage,
    /// The listener is unusable.
    Listener,
}

fn verdict(error: &io::Error) -> AcceptError {
    use io::ErrorKind as K;
    // EMFILE, ENFILE, ENOBUFS, ENOMEM of Linux: the standard library has no kinds for the first three.
    if matches!(error.raw_os_error(), Some(24 | 23 | 105 | 12)) {
        return AcceptError::Shortage;
    }
    match error.kind() {
        K::ConnectionAborted | K::ConnectionReset | K::ConnectionRefused | K::Interrupted | K::TimedOut
        // EPERM from a firewall rule and the network's errors concern one connection only.
        | K::PermissionDenied | K::HostUnreachable | K::NetworkUnreachable | K::NetworkDown | K::NotConnected => {
            AcceptError::Connection
        }
        _ if error.raw_os_error() == Some(71) => AcceptError::Connection, // EPROTO
        _ => AcceptError::Listener,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream as StdStream;

    #[tokio::test]
    async fn connections_are_accepted_for_this_runtime_or_another() {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_ne!(listener.local_addr().port(), 0);
        let client = StdStream::connect(listener.local_addr()).unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        assert!(stream.nodelay().unwrap());
        let client = StdStream::connect(listener.local_addr()).unwrap();
        let (_, peer) = listener.accept_std().await.unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_its_holder() {
        let first = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = Listener::bind(first.local_addr()).unwrap_err();
        assert!(matches!(error, ListenError::Taken { .. }));
        let expected =
            format!("cannot listen on {}: the port is taken by process {}", first.local_addr(), std::process::id());
        assert_eq!(error.to_string(), expected);
        let foreign = Listener::bind("203.0.113.7:0".parse().unwrap()).unwrap_err();
        assert!(matches!(foreign, ListenError::System { .. }), "{foreign}");
        assert!(foreign.to_string().contains("203.0.113.7:0"));
    }

    #[tokio::test]
    async fn both_families_may_have_the_same_port() {
        let Ok(v6) = Listener::bind("[::1]:0".parse().unwrap()) else { return assert!(no_ipv6()) };
        let v4 = Listener::bind(SocketAddr::from(([127, 0, 0, 1], v6.local_addr().port())));
        // Another process may have the IPv4 port; then it is taken, not refused for the sake of IPv6.
        assert!(matches!(v4, Ok(_) | Err(ListenError::Taken { .. })));
        let _client = StdStream::connect(v6.local_addr()).unwrap();
        assert!(v6.accept().await.unwrap().1.is_ipv6());
    }

    fn no_ipv6() -> bool {
        !std::path::Path::new("/proc/net/if_inet6").exists()
    }

    #[tokio::test]
    async fn a_successor_takes_the_same_socket() {
        use std::os::fd::IntoRawFd;
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr();
        let successor = Listener::inherit(listener.try_clone_fd().unwrap().into_raw_fd()).unwrap();
        drop(listener);
        let _client = StdStream::connect(address).unwrap();
        successor.accept().await.unwrap();
        assert!(matches!(Listener::inherit(9999), Err(ListenError::Inherited(_))));
    }

    #[test]
    fn a_burst_fits_into_the_queue() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        deepen(&listener).unwrap();
        let address = listener.local_addr().unwrap();
        // Nobody accepts meanwhile.
        let _burst: Vec<_> = (0..300).map(|_| StdStream::connect(address).unwrap()).collect();
        listener.set_nonblocking(true).unwrap();
        for waiting in 0..300 {
            assert!(listener.accept().is_ok(), "{waiting} of 300 wait");
        }
    }

    #[test]
    fn accept_errors_are_told_apart() {
        let os = io::Error::from_raw_os_error;
        for shortage in [24, 23, 12, 105] {
            assert_eq!(verdict(&os(shortage)), AcceptError::Shortage);
        }
        for connection in [103, 104, 71, 110, 113, 1] {
            assert_eq!(verdict(&os(connection)), AcceptError::Connection, "{connection}");
        }
        for listener in [9, 22, 88] {
            assert_eq!(verdict(&os(listener)), AcceptError::Listener, "{listener}");
        }
    }
}
