//! What a client speaks, from its first bytes. Only for ports whose protocol nobody declared.
//!
//! The bytes stay in the socket, so that whoever serves the connection reads them as if nobody had looked.

use std::io;
use std::time::Duration;

use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// The client's connection preface of HTTP/2 (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes looked at. The longest registered method has 17; a version follows somewhere after it, but a first line may be any length.
const LOOK: usize = 64;
/// Longest method that is taken for one.
const MAX_METHOD: usize = 20;

/// How long to wait before looking at half a word again; doubled each time.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What the first bytes look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    /// A request line.
    Http1,
    /// The HTTP/2 preface.
    Http2,
    /// A TLS handshake record with a ClientHello.
    Tls,
    /// Anything else, or silence: a protocol in which the server speaks first.
    Tcp,
}

/// Waits for the first bytes, no longer than `limit`: a client of a server-first protocol waits for us. 100 ms to 200 ms is a usual
/// limit; declaring the port's protocol costs none.
///
/// # Errors
/// The connection ended or broke before its first byte.
pub async fn detect(io: &TcpStream, limit: Duration) -> io::Result<Detected> {
    watch(io, limit, judge).await
}

/// [`detect`] for a port that speaks HTTP: what does not begin as the preface of HTTP/2 is left to HTTP/1's codec at once.
///
/// # Errors
/// The connection ended or broke before its first byte.
pub async fn detect_http(io: &TcpStream, limit: Duration) -> io::Result<Detected> {
    watch(io, limit, judge_http).await
}

async fn watch(io: &TcpStream, limit: Duration, judge: fn(&[u8]) -> Option<Detected>) -> io::Result<Detected> {
    let mut pause = LOOK_AGAIN;
    let looked = tokio::time::timeout(limit, async {
        loop {
            io.readable().await?;
            if let Some(found) = look(io, judge)? {
                return Ok(found);
            }
            // A part of something. Its bytes stay in the socket, so readiness cannot tell when more come; and whoever sends a byte and
            // is silent must not keep the worker busy.
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    })
    .await;
    looked.unwrap_or(Ok(Detected::Tcp))
}

fn look(io: &TcpStream, judge: fn(&[u8]) -> Option<Detected>) -> io::Result<Option<Detected>> {
    let mut bytes = [0; LOOK];
    let peeked = io.try_io(Interest::READABLE, || Ok(rustix::net::recv(io, &mut bytes[..], RecvFlags::PEEK)?.1));
    match peeked {
        // The client has ended its side without a byte; whoever serves the connection sees it again.
        Ok(0) => Ok(Some(Detected::Tcp)),
        Ok(length) => Ok(judge(&bytes[..length.min(LOOK)])),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// `None`: it may become the preface.
fn judge_http(bytes: &[u8]) -> Option<Detected> {
    match bytes.starts_with(PREFACE) {
        true => Some(Detected::Http2),
        false if PREFACE.starts_with(bytes) => None,
        false => Some(Detected::Http1),
    }
}

/// `None`: it could still become more than one thing.
fn judge(bytes: &[u8]) -> Option<Detected> {
    if bytes.starts_with(PREFACE) {
        return Some(Detected::Http2);
    }
    if PREFACE.starts_with(bytes) {
        return None;
    }
    // Record type 22, version 3.x, and behind the length the handshake type 1.
    if bytes[0] == 0x16 {
        return match bytes {
            [_, 3, _, _, _, 1, ..] => Some(Detected::Tls),
            [_, 3, ..] | [_] if bytes.len() < 6 => None,
            _ => Some(Detected::Tcp),
        };
    }
    let method = bytes.iter().take_while(|b| b.is_ascii_uppercase() || **b == b'-').count();
    match bytes.get(method) {
        _ if method > MAX_METHOD => Some(Detected::Tcp),
        None => None,
        // SMTP's `HELO name` and the like have an upper-case word too: a target begins with `/`, `*`, a scheme or, for CONNECT, a host.
        Some(b' ') if method >= 3 => match (&bytes[..method], bytes.get(method + 1)) {
            (_, None) => None,
            (_, Some(b'/' | b'*')) | (b"CONNECT", Some(_)) => Some(Detected::Http1),
            _ => {
                let scheme = &bytes[method + 1..];
                let known = b"http://";
                let common = scheme.len().min(known.len());
                match scheme[..common].eq_ignore_ascii_case(&known[..common]) {
                    true if common == known.len() => Some(Detected::Http1),
                    true => None,
                    false => Some(Detected::Tcp),
                }
            }
        },
        Some(_) => Some(Detected::Tcp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn judgements() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Detected::Http1)),
            (b"M-SEARCH * HTTP/1.1", Some(Detected::Http1)),
            (b"GET http://a/ HTTP/1.1", Some(Detected::Http1)),
            (b"CONNECT a:443 HTTP/1.1", Some(Detected::Http1)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0", Some(Detected::Http2)),
            (b"PRI * HTTP/2.0", None),
            (b"P", None),
            (b"POST", None),
            (b"POST ", None),
            (b"GET ht", None),
            (b"HELO example.org", Some(Detected::Tcp)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Detected::Tcp)),
            (b"PING\r\n", Some(Detected::Tcp)),
            (b"\x16\x03\x01\x02\x00\x01", Some(Detected::Tls)),
            (b"\x16\x03\x01", None),
            (b"\x16\x03\x01\x02\x00\x02", Some(Detected::Tcp)),
            (b"\0\0\0\x08", Some(Detected::Tcp)),
            (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", Some(Detected::Tcp)),
        ] {
            assert_eq!(judge(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn on_an_http_port_only_the_preface_is_waited_for() {
        for (bytes, expected) in [
            (&b"G"[..], Some(Detected::Http1)),
            (b"P", None),
            (b"PR", None),
            (b"PRO", Some(Detected::Http1)),
            (b"\x16", Some(Detected::Http1)),
            (PREFACE, Some(Detected::Http2)),
        ] {
            assert_eq!(judge_http(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn looking_takes_nothing() {
        let (mut client, mut server) = pair().await;
        let first = async {
            client.write_all(b"PR").await.unwrap();
            tokio::task::yield_now().await;
            client.write_all(&PREFACE[2..]).await.unwrap();
        };
        let (found, ()) = tokio::join!(detect(&server, Duration::from_secs(60)), first);
        assert_eq!(found.unwrap(), Detected::Http2);
        let mut all = [0; PREFACE.len()];
        server.read_exact(&mut all).await.unwrap();
        assert_eq!(all, PREFACE);
    }

    /// A part of something is looked at less and less often: such connections must not keep a worker busy.
    #[tokio::test]
    async fn half_a_word_costs_nothing_while_it_waits() {
        struct Count(std::sync::atomic::AtomicU32);
        impl std::task::Wake for Count {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let (mut client, server) = pair().await;
        client.write_all(b"\x16").await.unwrap();
        server.readable().await.unwrap();
        let wakes = std::sync::Arc::new(Count(0.into()));
        let waker = std::sync::Arc::clone(&wakes).into();
        let mut cx = std::task::Context::from_waker(&waker);
        let mut detecting = std::pin::pin!(detect(&server, Duration::from_secs(60)));
        let mut looks = 0;
        let until = tokio::time::Instant::now() + Duration::from_millis(300);
        while tokio::time::Instant::now() < until {
            assert!(detecting.as_mut().poll(&mut cx).is_pending());
            looks = wakes.0.load(std::sync::atomic::Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // After 1, 2, 4 … 128 ms.
        assert!(looks <= 9, "{looks} looks in 300 ms");
        client.write_all(b"\x03\x01\x02\x00\x01").await.unwrap();
        assert_eq!(detecting.await.unwrap(), Detected::Tls);
    }

    #[tokio::test]
    async fn silence_and_half_words_are_tcp_in_the_end() {
        let (mut client, mut server) = pair().await;
        assert_eq!(detect(&server, Duration::from_millis(1)).await.unwrap(), Detected::Tcp);
        client.write_all(b"GE").await.unwrap();
        assert_eq!(detect(&server, Duration::from_millis(20)).await.unwrap(), Detected::Tcp);
        let mut all = [0; 2];
        server.read_exact(&mut all).await.unwrap();
        assert_eq!(&all, b"GE");
    }
}
