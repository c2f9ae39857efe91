//! Opening connections.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A connection that is not open after this long will not open; well above the kernel's first resend of a SYN.
const LIMIT: Duration = Duration::from_secs(5);

/// Connects, without Nagle's delay, which would measure the kernel and not the proxy; non-blocking from then on.
pub fn open(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, LIMIT)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}
