//! What hostile peers send: bytes as they are, frames of HTTP/2 without a library that would keep them correct, and resets.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::Host;

/// Silence of the other side that will not end any more; longer than every timeout that it may have.
const SILENCE: Duration = Duration::from_secs(40);

/// What a peer said until it closed, or until the end that was waited for.
#[derive(Debug, Default)]
pub struct Reply {
    /// All bytes.
    pub bytes: Vec<u8>,
    /// The peer closed, or reset, the connection.
    pub is_closed: bool,
}

impl Reply {
    /// The status of the last HTTP/1 answer in it, if there is one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        let text = String::from_utf8_lossy(&self.bytes);
        let at = text.rfind("HTTP/1.1 ")?;
        text.get(at + 9..at + 12)?.parse().ok()
    }

    /// How many HTTP/1 answers it holds.
    #[must_use]
    pub fn answers(&self) -> usize {
        String::from_utf8_lossy(&self.bytes).matches("HTTP/1.1 ").count()
    }

    /// As text, for messages.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes[..self.bytes.len().min(400)]).into_owned()
    }
}

/// Sends bytes, which the peer may cut short, and reads until it closes or `is_enough` is satisfied.
#[track_caller]
#[must_use]
pub fn converse(io: &TcpStream, bytes: &[u8], is_enough: impl Fn(&[u8]) -> bool) -> Reply {
    io.set_read_timeout(Some(SILENCE)).expect("a socket of ours");
    io.set_write_timeout(Some(SILENCE)).expect("a socket of ours");
    std::thread::scope(|scope| {
        // Beside the reading: who is refused early is told while still sending.
        scope.spawn(|| {
            let _ = (&*io).write_all(bytes);
        });
        let mut reply = Reply::default();
        let mut piece = [0; 64 * 1024];
        while !is_enough(&reply.bytes) {
            match (&*io).read(&mut piece) {
                Ok(0) => reply.is_closed = true,
                Ok(length) => reply.bytes.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    panic!("nothing came for {SILENCE:?} after {:?}", reply.text())
                }
                Err(_) => reply.is_closed = true,
            }
            if reply.is_closed {
                let _ = io.shutdown(std::net::Shutdown::Both);
                break;
            }
        }
        reply
    })
}

/// One conversation on a connection of its own, to the peer's close.
#[track_caller]
#[must_use]
pub fn to_the_end(host: &Host, address: SocketAddr, bytes: &[u8]) -> Reply {
    converse(&host.connect(address), bytes, |_| false)
}

/// Closes with RST instead of FIN: what a crashed client, or one that gives up on a page, looks like.
pub fn reset(io: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&io, Some(Duration::ZERO)).expect("a socket of ours");
    drop(io);
}

/// Types of HTTP/2 frames (RFC 9113 section 6).
pub mod kind {
    /// DATA.
    pub const DATA: u8 = 0;
    /// HEADERS.
    pub const HEADERS: u8 = 1;
    /// PRIORITY.
    pub const PRIORITY: u8 = 2;
    /// RST_STREAM.
    pub const RESET: u8 = 3;
    /// SETTINGS.
    pub const SETTINGS: u8 = 4;
    /// PING.
    pub const PING: u8 = 6;
    /// GOAWAY.
    pub const GOAWAY: u8 = 7;
    /// WINDOW_UPDATE.
    pub const WINDOW: u8 = 8;
    /// CONTINUATION.
    pub const CONTINUATION: u8 = 9;
}

/// END_STREAM of DATA and HEADERS, ACK of SETTINGS and PING.
pub const END: u8 = 1;
/// END_HEADERS.
pub const HEADERS_END: u8 = 4;
/// The client's preface.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// ENHANCE_YOUR_CALM.
pub const CALM: u32 = 11;

/// A frame.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short payloads").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal field that is not indexed (RFC 7541 section 6.2.2).
#[must_use]
pub fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0][..], &integer(name.len()), name, &integer(value.len()), value].concat()
}

/// A length with a prefix of 7 bits (RFC 7541 section 5.1).
#[must_use]
pub fn integer(length: usize) -> Vec<u8> {
    let Some(mut rest) = length.checked_sub(127) else {
        return vec![u8::try_from(length).expect("below 127")];
    };
    let mut out = vec![127];
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).expect("7 bits") | 128);
        rest /= 128;
    }
    out.push(u8::try_from(rest).expect("7 bits"));
    out
}

/// The header block of a request.
#[must_use]
pub fn block(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let first = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "web")];
    first.iter().chain(more).flat_map(|(name, value)| field(name.as_bytes(), value.as_bytes())).collect()
}

/// A whole GET.
#[must_use]
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(kind::HEADERS, END | HEADERS_END, stream, &block("GET", path, &[]))
}

/// What became of a flood.
#[derive(Debug, Default, Clone)]
pub struct Flooded {
    /// Pieces that were sent before the peer closed.
    pub sent: u32,
    /// The code of its GOAWAY.
    pub goaway: Option<u32>,
    /// Its frames by type.
    pub frames: BTreeMap<u8, u32>,
    /// Error codes of its RST_STREAMs.
    pub resets: BTreeMap<u32, u32>,
    /// Its answers with status 400.
    pub bad_requests: u32,
    /// It closed. Otherwise it has answered a PING behind all that was sent.
    pub is_closed: bool,
}

impl Flooded {
    fn note(&mut self, kind: u8, payload: &[u8]) {
        *self.frames.entry(kind).or_default() += 1;
        let code = |at: usize| payload.get(at..at + 4).map(|b| u32::from_be_bytes(b.try_into().expect("4 bytes")));
        match kind {
            kind::GOAWAY => self.goaway = code(4),
            kind::HEADERS => {
                // The table's size may be told first; 12 is `:status: 400` (RFC 7541 appendix A), and pseudo-headers come first.
                let first = payload.iter().find(|byte| **byte & 0xe0 != 0x20);
                self.bad_requests += u32::from(first == Some(&(0x80 | 12)));
            }
            kind::RESET => *self.resets.entry(code(0).unwrap_or(u32::MAX)).or_default() += 1,
            _ => {}
        }
    }
}

/// The PING behind a flood.
const FAREWELL: &[u8; 8] = b"farewell";

/// Begins an HTTP/2 connection, sends `piece(0)`, `piece(1)` … until `pieces` are sent or the peer has enough, and then asks whether it
/// is still there.
#[track_caller]
#[must_use]
pub fn flood(host: &Host, address: SocketAddr, pieces: u32, mut piece: impl FnMut(u32) -> Vec<u8>) -> Flooded {
    let io = host.connect(address);
    io.set_read_timeout(Some(SILENCE)).expect("a socket of ours");
    io.set_write_timeout(Some(SILENCE)).expect("a socket of ours");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| listen(&io));
        let mut sent = 0;
        let write = |bytes: &[u8]| (&io).write_all(bytes).is_ok();
        let mut goes = write(PREFACE) && write(&frame(kind::SETTINGS, 0, 0, &[]));
        // Many at once, as a flood does: one write for each would measure the sender.
        let mut batch = Vec::new();
        while goes && sent < pieces {
            batch.clear();
            while batch.len() < 64 * 1024 && sent < pieces {
                batch.extend(piece(sent));
                sent += 1;
            }
            goes = write(&batch);
        }
        if goes {
            let _ = write(&frame(kind::PING, 0, 0, FAREWELL));
        }
        let mut flooded = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        flooded.sent = sent;
        flooded
    })
}

/// Begins an HTTP/2 connection, sends what makes a stream, and reads until the peer has ended that or the connection.
#[track_caller]
#[must_use]
pub fn one_stream(host: &Host, address: SocketAddr, bytes: &[u8]) -> Flooded {
    let io = host.connect(address);
    io.set_read_timeout(Some(SILENCE)).expect("a socket of ours");
    let mut found = Flooded { sent: 1, ..Flooded::default() };
    let first = [PREFACE, &frame(kind::SETTINGS, 0, 0, &[]), bytes].concat();
    if (&io).write_all(&first).is_err() {
        found.is_closed = true;
        return found;
    }
    while let Some((kind, flags, payload)) = next(&io) {
        found.note(kind, &payload);
        if kind == kind::RESET || (matches!(kind, kind::HEADERS | kind::DATA) && flags & END != 0) {
            return found;
        }
    }
    found.is_closed = true;
    found
}

/// Reads frames until the close or the answer to the last PING.
fn listen(mut io: &TcpStream) -> Flooded {
    let mut found = Flooded::default();
    let mut is_asked_again = false;
    loop {
        let Some((kind, flags, payload)) = next(io) else {
            found.is_closed = true;
            let _ = io.shutdown(std::net::Shutdown::Both);
            return found;
        };
        found.note(kind, &payload);
        if kind == kind::PING && flags & END != 0 && payload == FAREWELL {
            // The answer may overtake those to requests of the same turn: the second does not.
            if std::mem::replace(&mut is_asked_again, true) || io.write_all(&frame(kind::PING, 0, 0, FAREWELL)).is_err()
            {
                return found;
            }
        }
    }
}

/// The next frame: its type, flags and payload. `None` when the peer has closed.
#[track_caller]
pub fn next(mut io: &TcpStream) -> Option<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    read_whole(&mut io, &mut head)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let mut payload = vec![0; length];
    read_whole(&mut io, &mut payload)?;
    Some((head[3], head[4], payload))
}

fn read_whole(io: &mut &TcpStream, bytes: &mut [u8]) -> Option<()> {
    match io.read_exact(bytes) {
        Ok(()) => Some(()),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("nothing came for {SILENCE:?}"),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_as_rfc_7541_says() {
        assert_eq!(integer(10), [10]);
        assert_eq!(integer(127), [127, 0]);
        assert_eq!(integer(1337), [127, 0b1011_1010, 0b0000_1001]);
        assert_eq!(frame(kind::PING, 1, 0, b"12345678"), b"\0\0\x08\x06\x01\0\0\0\x0012345678");
        assert_eq!(field(b"te", b"x"), b"\0\x02te\x01x");
    }
}
