//! One client beside the load that asks for much and reads it slowly.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Bytes asked for: more than it will read in any window, so that it always lags.
const ASKED: u64 = 1 << 30;
/// Bytes read at once, and as much as its own socket holds.
const BITE: usize = 64 << 10;
/// Between two bites: 64 KB every 10 ms are 6.5 MB/s, a hundredth of what the pairs carry.
const PAUSE: Duration = Duration::from_millis(10);

/// See the module.
pub struct SlowReader {
    stream: TcpStream,
    buffer: Vec<u8>,
    next: Duration,
    /// Bytes read.
    pub read: u64,
}

impl SlowReader {
    /// Connects and asks.
    pub fn open(target: SocketAddr) -> std::io::Result<Self> {
        let mut stream = super::target::open(target)?;
        socket2::SockRef::from(&stream).set_recv_buffer_size(BITE)?;
        stream.write_all(format!("GET /bytes/{ASKED} HTTP/1.1\r\nhost: {target}\r\n\r\n").as_bytes())?;
        Ok(Self { stream, buffer: vec![0; BITE], next: Duration::ZERO, read: 0 })
    }

    /// Reads a bite if it is time; false when the peer ended the connection.
    pub fn turn(&mut self, since_start: Duration) -> bool {
        if since_start < self.next {
            return true;
        }
        self.next = since_start + PAUSE;
        match self.stream.read(&mut self.buffer) {
            Ok(0) => false,
            Ok(length) => {
                self.read += length as u64;
                true
            }
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
}
