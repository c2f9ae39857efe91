//! Sockets of this host as the kernel sees them: `NETLINK_SOCK_DIAG` (sock_diag(7)), else `/proc/net/tcp`.
//!
//! A proxy with explicit ports serves local callers of its own user only; the kernel knows whose socket is at the
//! other end of a loopback connection. When it cannot be told, the caller refuses: every failure here is an error,
//! never a guess.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::addresses::canonical;
use crate::procnet;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const NO_COOKIE: u32 = u32::MAX;
/// TCP_LISTEN of `include/net/tcp_states.h`.
pub(crate) const STATE_LISTEN: u8 = 10;
const HEADER: usize = 16;
const REQUEST: usize = HEADER + 56;
const MESSAGE: usize = 72;
/// One answer of a dump; the kernel fills at most this much per read.
const BUFFER: usize = 32 * 1024;
/// The kernel answers at once; this only keeps a broken one from holding a worker.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// A socket that accepts connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListeningSocket {
    /// Where it listens; an unspecified address means everywhere.
    pub address: SocketAddr,
    /// Whose it is.
    pub uid: u32,
    /// For [`crate::pid_of_socket`].
    pub inode: u64,
}

/// What the kernel says of one socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub state: u8,
    pub uid: u32,
    pub inode: u64,
}

/// The user who owns the client's end of a connection between two addresses of this host: `client` and `server` as
/// the accepting side sees them (`peer_addr`, `local_addr`).
pub fn peer_uid(client: SocketAddr, server: SocketAddr) -> io::Result<u32> {
    let (client, server) = (canonical(client), canonical(server));
    match SockDiag::open().and_then(|mut diag| diag.peer_uid(client, server)) {
        // Containers may forbid netlink; the same facts are in /proc, only slower.
        Err(error) if error.kind() != ErrorKind::NotFound => {
            owner(procnet::sockets(client.is_ipv4())?.into_iter().find(|s| s.local == client && s.remote == server))
        }
        other => other,
    }
}

/// The addresses that somebody listens on with this port, in this network namespace.
pub fn listeners(port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(listening_sockets(port)?.into_iter().map(|s| s.address).collect())
}

/// The sockets that listen on this port, in this network namespace.
pub fn listening_sockets(port: u16) -> io::Result<Vec<ListeningSocket>> {
    let found = match SockDiag::open().and_then(|mut diag| diag.listening(port)) {
        Ok(found) => found,
        Err(_) => [procnet::sockets(true)?, procnet::sockets(false)?].concat(),
    };
    let mut sockets: Vec<ListeningSocket> = found
        .into_iter()
        .filter(|s| s.state == STATE_LISTEN && s.local.port() == port)
        .map(|s| ListeningSocket { address: s.local, uid: s.uid, inode: s.inode })
        .collect();
    sockets.sort_by_key(|s| (s.address, s.inode));
    sockets.dedup();
    Ok(sockets)
}

fn owner(found: Option<Found>) -> io::Result<u32> {
    let gone = || io::Error::new(ErrorKind::NotFound, "the kernel knows no such connection");
    let socket = found.ok_or_else(gone)?;
    // A closed socket has no inode any more and is reported as root's: it must not pass for root.
    if socket.inode == 0 { Err(gone()) } else { Ok(socket.uid) }
}

/// An open netlink socket, for many questions.
#[derive(Debug)]
pub struct SockDiag {
    socket: OwnedFd,
    sequence: u32,
}

impl SockDiag {
    /// Opens it; needs no privilege.
    pub fn open() -> io::Result<Self> {
        let kind = SocketType::DGRAM;
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, Some(SOCK_DIAG))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// As [`peer_uid`], by an exact lookup. `NotFound` if the kernel knows no such socket.
    pub fn peer_uid(&mut self, client: SocketAddr, server: SocketAddr) -> io::Result<u32> {
        let (client, server) = (canonical(client), canonical(server));
        // The kernel looks the socket up by its own local and remote address: the client's are these.
        let request = Request { flags: NLM_F_REQUEST, states: u32::MAX, local: client, remote: Some(server) };
        let answers = self.ask(&request)?;
        owner(answers.into_iter().find(|s| s.local == client && s.remote == server))
    }

    fn listening(&mut self, port: u16) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for ip in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            let local = SocketAddr::new(ip, port);
            let flags = NLM_F_REQUEST | NLM_F_DUMP;
            found.extend(self.ask(&Request { flags, states: 1 << STATE_LISTEN, local, remote: None })?);
        }
        Ok(found)
    }

    fn ask(&mut self, request: &Request) -> io::Result<Vec<Found>> {
        self.sequence = self.sequence.wrapping_add(1);
        rustix::net::send(&self.socket, &request.encode(self.sequence), SendFlags::empty())?;
        let mut found = Vec::new();
        let mut buffer = vec![0u8; BUFFER];
        loop {
            let (length, _) = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            let done = read_answers(&buffer[..length], self.sequence, &mut found)?;
            if done || request.flags & NLM_F_DUMP == 0 {
                return Ok(found);
            }
        }
    }
}

struct Request {
    flags: u16,
    states: u32,
    local: SocketAddr,
    remote: Option<SocketAddr>,
}

impl Request {
    /// `nlmsghdr` and `inet_diag_req_v2` (`linux/inet_diag.h`).
    fn encode(&self, sequence: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(REQUEST);
        out.extend(u32::try_from(REQUEST).expect("72").to_ne_bytes());
        out.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        out.extend(self.flags.to_ne_bytes());
        out.extend(sequence.to_ne_bytes());
        out.extend([0; 4]);
        out.extend([if self.local.is_ipv4() { AF_INET } else { AF_INET6 }, IPPROTO_TCP, 0, 0]);
        out.extend(self.states.to_ne_bytes());
        out.extend(self.local.port().to_be_bytes());
        out.extend(self.remote.map_or(0, |r| r.port()).to_be_bytes());
        let exact = self.remote.map(|r| (self.local.ip(), r.ip()));
        for ip in [exact.map(|e| e.0), exact.map(|e| e.1)] {
            let mut bytes = [0u8; 16];
            match ip {
                Some(IpAddr::V4(ip)) => bytes[..4].copy_from_slice(&ip.octets()),
                Some(IpAddr::V6(ip)) => bytes = ip.octets(),
                None => {}
            }
            out.extend(bytes);
        }
        out.extend([0; 4]);
        out.extend(NO_COOKIE.to_ne_bytes());
        out.extend(NO_COOKIE.to_ne_bytes());
        out
    }
}

fn short() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "the kernel's sock_diag answer is cut short")
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    let part = bytes.get(at..at + 4).ok_or_else(short)?;
    Ok(u32::from_ne_bytes(part.try_into().expect("four bytes")))
}

/// Reads the messages of one datagram; true at the end of a dump.
fn read_answers(mut bytes: &[u8], sequence: u32, found: &mut Vec<Found>) -> io::Result<bool> {
    while !bytes.is_empty() {
        let length = usize::try_from(u32_at(bytes, 0)?).map_err(|_| short())?;
        let kind = u16::from_ne_bytes(bytes.get(4..6).ok_or_else(short)?.try_into().expect("two bytes"));
        let message = bytes.get(HEADER..length).ok_or_else(short)?;
        // An answer to an earlier question that timed out is not for this one.
        if u32_at(bytes, 8)? == sequence {
            match kind {
                NLMSG_DONE => return Ok(true),
                NLMSG_ERROR => {
                    let code = u32_at(message, 0)?.cast_signed();
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                }
                SOCK_DIAG_BY_FAMILY => found.push(read_socket(message)?),
                _ => {}
            }
        }
        // Messages are aligned to four bytes.
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// `inet_diag_msg`.
fn read_socket(message: &[u8]) -> io::Result<Found> {
    if message.len() < MESSAGE {
        return Err(short());
    }
    let ip = |at: usize| -> io::Result<IpAddr> {
        let bytes: [u8; 16] = message[at..at + 16].try_into().expect("sixteen bytes");
        match message[0] {
            AF_INET => Ok(IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])),
            AF_INET6 => Ok(IpAddr::from(bytes)),
            other => Err(io::Error::new(ErrorKind::InvalidData, format!("address family {other}"))),
        }
    };
    let port = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    Ok(Found {
        state: message[1],
        local: canonical(SocketAddr::new(ip(8)?, port(4))),
        remote: canonical(SocketAddr::new(ip(24)?, port(6))),
        uid: u32_at(message, 64)?,
        inode: u64::from(u32_at(message, 68)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    /// Other tests start programs: between fork and exec these hold a copy of every socket, which is then not yet closed.
    fn eventually(holds: impl Fn() -> bool, what: &str) {
        let hangs = Instant::now() + Duration::from_secs(60);
        while !holds() {
            assert!(Instant::now() < hangs, "waited in vain: {what}");
            std::thread::yield_now();
        }
    }

    fn pair(listen: &str, connect: IpAddr) -> Option<(TcpListener, TcpStream, TcpStream)> {
        let listener = TcpListener::bind(listen).ok()?;
        let client = TcpStream::connect((connect, listener.local_addr().unwrap().port())).unwrap();
        let (server, _) = listener.accept().unwrap();
        Some((listener, client, server))
    }

    #[test]
    fn the_owner_of_a_loopback_connection_is_found_both_ways() {
        let uid = crate::effective_uid();
        let v4 = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
        for (listen, connect) in [("127.0.0.1:0", v4), ("[::1]:0", v6), ("[::]:0", v4)] {
            let Some((_listener, _client, server)) = pair(listen, connect) else {
                assert!(listen.starts_with('['), "IPv4 is always there");
                continue;
            };
            let (peer, local) = (server.peer_addr().unwrap(), server.local_addr().unwrap());
            assert_eq!(SockDiag::open().unwrap().peer_uid(peer, local).unwrap(), uid, "{listen}");
            assert_eq!(peer_uid(peer, local).unwrap(), uid, "{listen}");
            let (peer, local) = (canonical(peer), canonical(local));
            let listed = procnet::sockets(peer.is_ipv4()).unwrap();
            // A dual-stack listener's connection is listed under the family of its socket.
            let listed = if listen == "[::]:0" { [listed, procnet::sockets(false).unwrap()].concat() } else { listed };
            assert_eq!(owner(listed.into_iter().find(|s| s.local == peer && s.remote == local)).unwrap(), uid);
        }
    }

    #[test]
    fn a_closed_connection_is_nobodys() {
        let (_listener, client, server) = pair("127.0.0.1:0", IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
        let (peer, local) = (server.peer_addr().unwrap(), server.local_addr().unwrap());
        let is_nobodys = || peer_uid(peer, local).is_err_and(|e| e.kind() == ErrorKind::NotFound);
        drop(client);
        // FIN_WAIT2 without an owner, then TIME_WAIT: the kernel would call both root's.
        eventually(is_nobodys, "the client's end is closed");
        drop(server);
        eventually(is_nobodys, "both ends are closed");
    }

    #[test]
    fn unknown_connections_are_not_found() {
        let unused = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(peer_uid(unused(1), unused(2)).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn listeners_are_found_with_their_owner() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let second = TcpListener::bind(("127.0.0.2", port)).unwrap();
        let found = listeners(port).unwrap();
        assert_eq!(found, [first.local_addr().unwrap(), second.local_addr().unwrap()]);
        let sockets = listening_sockets(port).unwrap();
        assert!(sockets.iter().all(|s| s.uid == crate::effective_uid() && s.inode != 0));
        assert_eq!(crate::pid_of_socket(sockets[0].inode), Some(std::process::id()));
        drop((first, second));
        let ours = |found: &ListeningSocket| sockets.iter().any(|s| s.inode == found.inode);
        eventually(|| !listening_sockets(port).unwrap().iter().any(ours), "both are closed");
    }

    #[test]
    fn wildcard_listeners_show_that_they_are_exposed() {
        let exposed = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = exposed.local_addr().unwrap().port();
        assert!(listeners(port).unwrap().iter().all(|a| a.ip().is_unspecified()));
        if let Ok(exposed) = TcpListener::bind("[::]:0") {
            let found = listeners(exposed.local_addr().unwrap().port()).unwrap();
            assert_eq!(found, [exposed.local_addr().unwrap()]);
        }
    }

    #[test]
    fn cut_answers_are_errors() {
        assert!(read_answers(&[1, 2, 3], 1, &mut Vec::new()).is_err());
        let mut header = Vec::new();
        header.extend(100u32.to_ne_bytes());
        header.extend([0; 12]);
        assert!(read_answers(&header, 0, &mut Vec::new()).is_err());
        header[..4].copy_from_slice(&3u32.to_ne_bytes());
        assert!(read_answers(&header, 0, &mut Vec::new()).is_err(), "a length below the header's must not loop");
    }
}
