//! Socket options that the standard library does not have.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// When an idle connection is probed and given up (tcp(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Between probes.
    pub interval: Duration,
    /// Unanswered probes before the connection is dead.
    pub probes: u32,
}

impl Keepalive {
    /// A dead peer is noticed within 2.5 minutes: before the 5 minutes in which common stateful firewalls forget an
    /// idle connection, and without waking a laptop all the time.
    pub const DEFAULT: Self = Self { idle: Duration::from_secs(60), interval: Duration::from_secs(15), probes: 6 };
}

/// Switches keepalive probes on.
pub fn set_keepalive(socket: impl AsFd, keepalive: Keepalive) -> io::Result<()> {
    let Keepalive { idle, interval, probes } = keepalive;
    let settings = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(probes);
    SockRef::from(&socket).set_tcp_keepalive(&settings)
}

/// How long sent data may stay unacknowledged before the connection is dead (TCP_USER_TIMEOUT, tcp(7)); `None` leaves
/// it to retransmission, about 15 minutes.
pub fn set_user_timeout(socket: impl AsFd, timeout: Option<Duration>) -> io::Result<()> {
    SockRef::from(&socket).set_tcp_user_timeout(timeout)
}

/// Where `struct tcp_info` (linux/tcp.h) has `tcpi_min_rtt`, in microseconds; the structure only grows at its end.
const MIN_RTT: usize = 148;

/// A TCP connection's shortest round trip of the last minutes, as its acknowledgements show it: what waits in our own queues
/// or the peer's is not in it. `None` if it is not known.
#[expect(unsafe_code, reason = "TCP_INFO has no safe form in rustix or socket2")]
pub fn shortest_round_trip(socket: impl AsFd) -> Option<Duration> {
    let mut info = [0_u8; MIN_RTT + 4];
    let mut length = libc::socklen_t::try_from(info.len()).expect("152 bytes");
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `fd` is open as long as `socket` is borrowed, and the kernel writes at most `length` bytes into `info`.
    let result =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length) };
    if result != 0 || usize::try_from(length).ok()? < info.len() {
        return None;
    }
    let micros = u32::from_ne_bytes(*info.last_chunk()?);
    // The kernel's words for "no sample yet".
    (micros != 0 && micros != u32::MAX).then(|| Duration::from_micros(micros.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn options_are_set() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        set_keepalive(&stream, Keepalive::DEFAULT).unwrap();
        set_user_timeout(&stream, Some(Duration::from_secs(30))).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(15));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 6);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(30)));
    }

    #[test]
    fn the_round_trip_of_a_connection_is_known_and_of_another_file_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let round_trip = shortest_round_trip(&stream).unwrap();
        assert!(round_trip < Duration::from_secs(1), "{round_trip:?} to ourselves");
        assert_eq!(shortest_round_trip(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()), None);
    }
}
