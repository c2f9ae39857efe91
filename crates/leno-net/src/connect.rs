//! Connecting, with a deadline and a reason.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use leno_model::Reason;
use leno_sys::{Keepalive, canonical, set_keepalive, set_user_timeout};
use tokio::net::TcpStream;

/// How long a connection attempt may take (DESIGN section 7).
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {address}: {source}")]
pub struct ConnectError {
    /// The member of the closed set; each is safe to retry, for nothing was sent.
    pub reason: Reason,
    /// Where to.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// How to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectOptions {
    /// For the whole attempt.
    pub timeout: Duration,
    /// Probes on an idle connection; `None` switches them off.
    pub keepalive: Option<Keepalive>,
    /// How long sent data may stay unacknowledged; `None` leaves it to the system.
    pub user_timeout: Option<Duration>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self { timeout: CONNECT_TIMEOUT, keepalive: Some(Keepalive::DEFAULT), user_timeout: None }
    }
}

/// An address that can be connected to, in its one canonical form.
///
/// Port 0, the unspecified address and link-local IPv6 without an interface are refused: some systems connect
/// somewhere all the same.
pub fn destination(address: SocketAddr) -> Result<SocketAddr, ConnectError> {
    let address = canonical(address);
    let refuse = |why: &str| ConnectError {
        reason: Reason::ConnectRefused,
        address,
        source: io::Error::new(io::ErrorKind::InvalidInput, why.to_owned()),
    };
    if address.port() == 0 {
        return Err(refuse("port 0 is not a destination"));
    }
    if address.ip().is_unspecified() {
        return Err(refuse("an unspecified address is not a destination"));
    }
    if address.ip().is_multicast() {
        return Err(refuse("a multicast address is not a destination"));
    }
    if let (SocketAddr::V6(v6), IpAddr::V6(ip)) = (address, address.ip())
        && ip.is_unicast_link_local()
        && v6.scope_id() == 0
    {
        return Err(refuse("a link-local address needs an interface"));
    }
    Ok(address)
}

/// Connects. Dropping the future abandons the attempt.
pub async fn connect(address: SocketAddr, options: &ConnectOptions) -> Result<TcpStream, ConnectError> {
    let address = destination(address)?;
    let failed = |reason, source| ConnectError { reason, address, source };
    let attempt = tokio::time::timeout(options.timeout, TcpStream::connect(address)).await;
    let stream = match attempt {
        Err(_) => {
            let detail = format!("no answer within {} ms", options.timeout.as_millis());
            return Err(failed(Reason::ConnectTimeout, io::Error::new(io::ErrorKind::TimedOut, detail)));
        }
        Ok(Err(error)) => return Err(failed(reason_of(&error), error)),
        Ok(Ok(stream)) => stream,
    };
    prepare(&stream, options).map_err(|error| failed(reason_of(&error), error))?;
    Ok(stream)
}

fn prepare(stream: &TcpStream, options: &ConnectOptions) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if let Some(keepalive) = options.keepalive {
        set_keepalive(stream, keepalive)?;
    }
    if options.user_timeout.is_some() {
        set_user_timeout(stream, options.user_timeout)?;
    }
    Ok(())
}

fn reason_of(error: &io::Error) -> Reason {
    use io::ErrorKind as K;
    match error.kind() {
        K::TimedOut | K::HostUnreachable | K::NetworkUnreachable => Reason::ConnectTimeout,
        // EMFILE, ENFILE, and EADDRNOTAVAIL when the local ports are used up: ours, not the endpoint's.
        K::AddrNotAvailable | K::OutOfMemory => Reason::Overloaded,
        _ if matches!(error.raw_os_error(), Some(24 | 23)) => Reason::Overloaded,
        _ => Reason::ConnectRefused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_has_its_options() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = connect(listener.local_addr().unwrap(), &ConnectOptions::default()).await.unwrap();
        assert!(stream.nodelay().unwrap());
        assert!(socket2::SockRef::from(&stream).keepalive().unwrap());
    }

    #[tokio::test]
    async fn a_mapped_address_connects_as_what_it_is() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mapped = format!("[::ffff:127.0.0.1]:{}", listener.local_addr().unwrap().port());
        let stream = connect(mapped.parse().unwrap(), &ConnectOptions::default()).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), listener.local_addr().unwrap());
    }

    #[tokio::test]
    async fn a_closed_port_refuses() {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = connect(address, &ConnectOptions::default()).await.unwrap_err();
        assert_eq!(error.reason, Reason::ConnectRefused);
        assert!(error.to_string().contains(&address.to_string()));
        assert!(error.reason.retry_safe());
    }

    #[tokio::test]
    async fn silence_is_a_timeout() {
        // A full backlog: the kernel drops further attempts and the client hears nothing.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut held = Vec::new();
        let options = ConnectOptions { timeout: Duration::from_millis(100), ..ConnectOptions::default() };
        let error = loop {
            match connect(address, &options).await {
                Ok(stream) => held.push(stream),
                Err(error) => break error,
            }
            assert!(held.len() < 100, "the backlog never filled");
        };
        assert_eq!(error.reason, Reason::ConnectTimeout, "{error}");
    }

    #[test]
    fn what_is_not_a_destination_is_refused() {
        for bad in [
            "127.0.0.1:0",
            "0.0.0.0:80",
            "[::]:80",
            "[::ffff:0.0.0.0]:80",
            "[fe80::1]:80",
            "[ff02::1]:80",
            "224.0.0.1:80",
        ] {
            assert!(destination(bad.parse().unwrap()).is_err(), "{bad}");
        }
        assert_eq!(destination("[::ffff:10.0.0.1]:80".parse().unwrap()).unwrap().to_string(), "10.0.0.1:80");
        assert!(destination("[fe80::1%2]:80".parse().unwrap()).is_ok());
    }
}
