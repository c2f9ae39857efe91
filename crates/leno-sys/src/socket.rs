//! Socket options that the standard library does not have.

use std::io;
use std::os::fd::AsFd;
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
}
