//! The writing side of HTTP/1: heads and bodies in as few calls as possible.
//!
//! A head waits for the first frame of its body if that is there already, and small frames wait for each other, as long as nothing
//! has to be waited for. Large frames are not copied: they go out beside their framing in one vectored call.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::chunked;
use crate::body::{Body, BodyError, Frame};
use crate::head::{BodyLength, Fields, RequestHead, ResponseHead, Version};
use crate::hygiene;

/// From this size on a frame is not copied.
const LARGE: usize = 8 * 1024;
/// So many bytes are gathered at most before they are sent.
const GATHERED: usize = 32 * 1024;
/// Buffers kept per thread for the next response.
const SPARE_BUFFERS: usize = 8;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An output buffer that goes back to its thread when dropped, so that idle connections have none.
struct Buffer(Vec<u8>);

impl Buffer {
    fn take() -> Self {
        Self(SPARE.with(|spare| spare.borrow_mut().pop()).unwrap_or_default())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        if buffer.capacity() == 0 || buffer.capacity() > 2 * GATHERED {
            return;
        }
        buffer.clear();
        SPARE.with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_BUFFERS {
                spare.push(buffer);
            }
        });
    }
}

/// How the body is framed on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// Nothing is sent, whatever the head says (HEAD, 204, 304).
    None,
    /// So many bytes are still to come.
    Length(u64),
    Chunked,
    /// The connection's end is the body's.
    UntilClose,
}

/// Why a message could not be sent whole.
#[derive(Debug)]
pub(super) enum SendError {
    Io(io::Error),
    Body(BodyError),
    /// The body is not as long as its head says; sending either would let the peer mistake what follows.
    Length,
}

/// Writes one message.
pub(super) struct Writer<'a> {
    io: &'a TcpStream,
    out: Buffer,
    coding: Coding,
    /// Bytes that the kernel has taken, of head and body.
    pub sent: u64,
    /// Counts progress for whoever watches for stalls.
    progress: &'a Cell<u32>,
    /// How long the peer may take no bytes while there are some for it; `None` for ever.
    stall: Option<Duration>,
}

impl<'a> Writer<'a> {
    pub fn new(io: &'a TcpStream, progress: &'a Cell<u32>, stall: Option<Duration>) -> Self {
        Self { io, out: Buffer::take(), coding: Coding::None, sent: 0, progress, stall }
    }

    /// Appends the head of a request. `address` stands in for a missing authority (HTTP/1.0 callers).
    pub fn request(&mut self, head: &RequestHead, address: SocketAddr) {
        let out = &mut self.out.0;
        out.extend_from_slice(head.method.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(&head.target);
        out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
        match head.authority.is_empty() {
            true => out.extend_from_slice(address.to_string().as_bytes()),
            false => out.extend_from_slice(&head.authority),
        }
        out.extend_from_slice(b"\r\n");
        write_fields(&head.fields, out);
        let is_te = head.fields.contains("te");
        if let Some(protocol) = &head.upgrade {
            out.extend_from_slice(if is_te {
                b"connection: upgrade, te\r\nupgrade: "
            } else {
                b"connection: upgrade\r\nupgrade: "
            });
            out.extend_from_slice(protocol);
            out.extend_from_slice(b"\r\n");
        } else if is_te {
            out.extend_from_slice(b"connection: te\r\n");
        }
        if head.expect_continue {
            out.extend_from_slice(b"expect: 100-continue\r\n");
        }
        self.coding = match head.length {
            BodyLength::None => Coding::None,
            BodyLength::Exact(length) => {
                write_length(out, length);
                Coding::Length(length)
            }
            BodyLength::Unknown => {
                out.extend_from_slice(b"transfer-encoding: chunked\r\n");
                Coding::Chunked
            }
        };
        out.extend_from_slice(b"\r\n");
    }

    /// Appends an interim response.
    pub fn interim(&mut self, head: &ResponseHead) {
        write_status(&mut self.out.0, head.status);
        write_fields(&head.fields, &mut self.out.0);
        self.out.0.extend_from_slice(b"\r\n");
    }

    /// Appends the head of a switch of protocols: a 101, or a 2xx to CONNECT. What follows is not HTTP.
    pub fn switch(&mut self, head: &ResponseHead) {
        let out = &mut self.out.0;
        write_status(out, head.status);
        if let Some(protocol) = &head.upgrade {
            out.extend_from_slice(b"connection: upgrade\r\nupgrade: ");
            out.extend_from_slice(protocol);
            out.extend_from_slice(b"\r\n");
        }
        write_fields(&head.fields, out);
        out.extend_from_slice(b"\r\n");
        self.coding = Coding::UntilClose;
    }

    /// Appends the head of a final response to a caller of `version`; `is_empty` tells that the body is known to hold nothing.
    /// Returns whether the connection can be kept.
    pub fn response(
        &mut self,
        head: &ResponseHead,
        version: Version,
        is_head: bool,
        is_empty: bool,
        keep_alive: bool,
    ) -> bool {
        let out = &mut self.out.0;
        write_status(out, head.status);
        write_fields(&head.fields, out);
        let bodiless = head.status == 204 || head.status < 200;
        let told_only = is_head || head.status == 304;
        let length = match head.length {
            _ if bodiless => BodyLength::None,
            BodyLength::Unknown if is_empty && !told_only => BodyLength::Exact(0),
            BodyLength::None if !told_only => BodyLength::Exact(0),
            other => other,
        };
        let mut keep_alive = keep_alive;
        self.coding = match length {
            BodyLength::None => Coding::None,
            BodyLength::Exact(length) => {
                write_length(out, length);
                Coding::Length(length)
            }
            BodyLength::Unknown if version == Version::Http10 => {
                keep_alive &= told_only;
                Coding::UntilClose
            }
            BodyLength::Unknown => {
                out.extend_from_slice(b"transfer-encoding: chunked\r\n");
                Coding::Chunked
            }
        };
        if told_only {
            self.coding = Coding::None;
        }
        if !keep_alive {
            out.extend_from_slice(b"connection: close\r\n");
        } else if version == Version::Http10 {
            out.extend_from_slice(b"connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
        keep_alive
    }

    /// From here on the body ends with the connection (after a switch of protocols by the other side).
    pub fn raw(&mut self) {
        self.coding = Coding::UntilClose;
    }

    /// Sends what was appended and then all of `body`. Dropping the future leaves a message half sent.
    pub async fn send(&mut self, body: &mut Body) -> Result<(), SendError> {
        while !matches!(self.coding, Coding::None | Coding::Length(0)) {
            let frame = match poll_fn(|cx| Poll::Ready(body.poll_frame(cx))).await {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    self.flush().await?;
                    body.next().await
                }
            };
            match frame {
                Some(Ok(Frame::Data(data))) => self.data(data).await?,
                Some(Ok(Frame::Trailers(fields))) => {
                    self.end(Some(&fields))?;
                    break;
                }
                Some(Err(error)) => return Err(SendError::Body(error)),
                None => {
                    self.end(None)?;
                    break;
                }
            }
        }
        self.flush().await?;
        body.settle().await;
        Ok(())
    }

    async fn data(&mut self, data: Bytes) -> Result<(), SendError> {
        let is_chunked = self.coding == Coding::Chunked;
        match &mut self.coding {
            Coding::Length(left) => *left = left.checked_sub(data.len() as u64).ok_or(SendError::Length)?,
            Coding::Chunked if data.is_empty() => return Ok(()),
            Coding::Chunked => chunked::write_size(data.len(), &mut self.out.0),
            Coding::None | Coding::UntilClose => {}
        }
        let end: &[u8] = if is_chunked { b"\r\n" } else { b"" };
        if data.len() >= LARGE {
            return self.write([&data, end]).await;
        }
        self.out.0.extend_from_slice(&data);
        self.out.0.extend_from_slice(end);
        if self.out.0.len() >= GATHERED { self.flush().await } else { Ok(()) }
    }

    fn end(&mut self, trailers: Option<&Fields>) -> Result<(), SendError> {
        match self.coding {
            Coding::Length(left) if left > 0 => return Err(SendError::Length),
            Coding::Chunked => {
                self.out.0.extend_from_slice(b"0\r\n");
                if let Some(fields) = trailers {
                    hygiene::write_lines(fields, hygiene::forbidden_in_trailers, &mut self.out.0);
                }
                self.out.0.extend_from_slice(b"\r\n");
            }
            _ => {}
        }
        Ok(())
    }

    /// Sends what was appended.
    pub async fn flush(&mut self) -> Result<(), SendError> {
        if self.out.0.is_empty() { Ok(()) } else { self.write([b"", b""]).await }
    }

    /// Sends what was appended, then `tail`.
    async fn write(&mut self, tail: [&[u8]; 2]) -> Result<(), SendError> {
        let mut parts = [&self.out.0[..], tail[0], tail[1]];
        while parts.iter().any(|part| !part.is_empty()) {
            let written = if parts[1].is_empty() && parts[2].is_empty() {
                self.io.try_write(parts[0])
            } else {
                self.io.try_write_vectored(&parts.map(IoSlice::new))
            };
            match written {
                Ok(0) => return Err(SendError::Io(io::ErrorKind::WriteZero.into())),
                Ok(mut length) => {
                    self.sent += length as u64;
                    self.progress.set(self.progress.get().wrapping_add(1));
                    for part in &mut parts {
                        let take = length.min(part.len());
                        *part = &part[take..];
                        length -= take;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable().await.map_err(SendError::Io)?
                }
                Err(error) => return Err(SendError::Io(error)),
            }
        }
        self.out.0.clear();
        Ok(())
    }

    async fn writable(&self) -> io::Result<()> {
        match self.stall {
            None => self.io.writable().await,
            Some(limit) => {
                tokio::time::timeout(limit, self.io.writable()).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

/// Readers leave no framing among the fields. If one did, whoever wrote it would decide where our message ends.
fn write_fields(fields: &Fields, out: &mut Vec<u8>) {
    hygiene::write_lines(fields, hygiene::is_owned_by_writers, out);
}

fn write_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    write_decimal(out, length);
    out.extend_from_slice(b"\r\n");
}

fn write_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn write_status(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(out, u64::from(status));
    out.push(b' ');
    let phrase = http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("");
    out.extend_from_slice(phrase.as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::h1::parse::HeadScanner;
    use crate::h1::request;
    use crate::head::Method;

    #[test]
    fn numbers() {
        for number in [0, 7, 10, 999, u64::MAX] {
            let mut out = Vec::new();
            write_decimal(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }

    #[tokio::test]
    async fn heads() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let io = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (progress, address) = (Cell::new(0), SocketAddr::from(([10, 0, 0, 1], 80)));
        let text = |act: &dyn Fn(&mut Writer<'_>)| {
            let mut writer = Writer::new(&io, &progress, None);
            act(&mut writer);
            String::from_utf8(writer.out.0.clone()).unwrap()
        };
        let mut request = RequestHead::new(Method::Post, "web:80", "/a?b");
        request.fields.append("te", b"trailers");
        request.length = BodyLength::Unknown;
        request.expect_continue = true;
        assert_eq!(
            text(&|w| w.request(&request, address)),
            "POST /a?b HTTP/1.1\r\nhost: web:80\r\nte: trailers\r\nconnection: te\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        let old = RequestHead::new(Method::Get, "", "/");
        assert_eq!(text(&|w| w.request(&old, address)), "GET / HTTP/1.1\r\nhost: 10.0.0.1:80\r\n\r\n");
        for (status, length, version, is_head, keep, expected) in [
            (200, BodyLength::Exact(3), Version::Http11, false, true, "content-length: 3\r\n\r\n"),
            (200, BodyLength::None, Version::Http11, false, true, "content-length: 0\r\n\r\n"),
            (200, BodyLength::Unknown, Version::Http11, false, true, "transfer-encoding: chunked\r\n\r\n"),
            (200, BodyLength::Unknown, Version::Http10, false, true, "connection: close\r\n\r\n"),
            (
                200,
                BodyLength::Exact(3),
                Version::Http10,
                false,
                true,
                "content-length: 3\r\nconnection: keep-alive\r\n\r\n",
            ),
            (200, BodyLength::Exact(3), Version::Http11, true, false, "content-length: 3\r\nconnection: close\r\n\r\n"),
            (200, BodyLength::None, Version::Http11, true, true, "\r\n"),
            (204, BodyLength::Exact(3), Version::Http11, false, true, "\r\n"),
            (304, BodyLength::Exact(3), Version::Http11, false, true, "content-length: 3\r\n\r\n"),
        ] {
            let mut head = ResponseHead::new(status);
            head.length = length;
            let found = text(&|w| {
                w.response(&head, version, is_head, false, keep);
            });
            let (line, rest) = found.split_once("\r\n").unwrap();
            assert!(line.starts_with(&format!("HTTP/1.1 {status} ")), "{line}");
            assert_eq!(rest.trim_start(), expected.trim_start(), "{status} {length:?} {version:?} {is_head}");
        }
    }

    #[tokio::test]
    async fn framing_among_the_fields_is_left_out() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let io = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (progress, address) = (Cell::new(0), SocketAddr::from(([10, 0, 0, 1], 80)));
        let mut fields = Fields::new();
        for name in ["Content-Length", "transfer-encoding", "Host", "connection", "upgrade", "x-a", "keep-alive"] {
            fields.append(name, b"1");
        }
        let (mut request, mut response) = (RequestHead::new(Method::Get, "web", "/"), ResponseHead::new(200));
        request.fields = fields.clone();
        response.fields = fields.clone();
        let mut writer = Writer::new(&io, &progress, None);
        writer.request(&request, address);
        assert_eq!(writer.out.0, b"GET / HTTP/1.1\r\nhost: web\r\nx-a: 1\r\n\r\n");
        writer.out.0.clear();
        writer.response(&response, Version::Http11, false, false, true);
        assert_eq!(writer.out.0, b"HTTP/1.1 200 OK\r\nx-a: 1\r\ncontent-length: 0\r\n\r\n");
        writer.out.0.clear();
        writer.interim(&ResponseHead { status: 103, ..response });
        assert_eq!(writer.out.0, b"HTTP/1.1 103 Early Hints\r\nx-a: 1\r\n\r\n");
        writer.out.0.clear();
        writer.coding = Coding::Chunked;
        writer.end(Some(&fields)).unwrap();
        assert_eq!(writer.out.0, b"0\r\nx-a: 1\r\n\r\n");
    }

    proptest! {
        /// What is written is read as the same request.
        #[test]
        fn requests_round_trip(
            target in "/[!-\"$-~]{0,20}",
            names in prop::collection::vec("x-[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,12}", 0..20),
            values in prop::collection::vec("[!-~\u{80}-\u{ff}]([ -~\t]{0,20}[!-~])?", 20),
            length in prop_oneof![Just(BodyLength::None), any::<u32>().prop_map(|n| BodyLength::Exact(n.into())), Just(BodyLength::Unknown)],
            expect in any::<bool>(),
            upgrade in any::<bool>(),
        ) {
            let mut head = RequestHead::new(Method::Put, "Web.shop:80", target.into_bytes());
            for (name, value) in names.iter().zip(&values) {
                head.fields.append(name, value.as_bytes());
            }
            head.length = length;
            let has_body = !matches!(length, BodyLength::None | BodyLength::Exact(0));
            head.expect_continue = expect && has_body;
            head.upgrade = (upgrade && !has_body).then(|| Bytes::from_static(b"websocket"));
            let wire = Bytes::from(wire_of(&head));
            let range = HeadScanner::default().scan(&wire).unwrap().unwrap();
            prop_assert_eq!(range.clone(), 0..wire.len());
            let parsed = request::parse(&wire).unwrap();
            prop_assert!(parsed.keep_alive && parsed.chunked == (length == BodyLength::Unknown));
            prop_assert_eq!(parsed.head, head);
        }
    }

    fn wire_of(head: &RequestHead) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let io = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        io.set_nonblocking(true).unwrap();
        let (io, progress) = (TcpStream::from_std(io).unwrap(), Cell::new(0));
        let mut writer = Writer::new(&io, &progress, None);
        writer.request(head, SocketAddr::from(([127, 0, 0, 1], 80)));
        std::mem::take(&mut writer.out.0)
    }
}
