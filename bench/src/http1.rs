//! As much of HTTP/1.1 framing as a generator and an application need: heads, counted and chunked bodies.
//!
//! ```text
//!   Head ──(Content-Length: n)──▶ Counted(n) ──▶ Head
//!     └───(chunked)──▶ Size ──▶ Chunk(n) ──▶ End ──▶ Size …  Size 0 ──▶ Trailer ──▶ Head
//! ```
//!
//! Bodies are counted and thrown away: what a proxy does to the bytes is for the tests of that proxy to judge.

use memchr::memmem;

/// What was read of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Message {
    /// Of an answer its status; of a request the number at the end of its path.
    pub number: u64,
    /// It said `connection: close`.
    pub close: bool,
}

/// The peer sent what is no HTTP/1.1, or more than this reader takes.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Counted(u64),
    Size(u64),
    Chunk(u64),
    End,
    /// Bytes in the line so far.
    Trailer(u64),
}

/// Longest head taken, in bytes.
const MAX_HEAD: usize = 64 << 10;

/// Reads messages from one direction of a connection.
#[derive(Debug)]
pub struct Reader {
    /// The part of a head that came without its end.
    partial: Vec<u8>,
    state: State,
    message: Message,
}

impl Default for Reader {
    fn default() -> Self {
        Self { partial: Vec::new(), state: State::Head, message: Message::default() }
    }
}

impl Reader {
    /// Whether it stands between two messages.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.state == State::Head && self.partial.is_empty()
    }

    /// Takes bytes; `done` is called at the end of each message.
    pub fn feed(&mut self, mut bytes: &[u8], mut done: impl FnMut(Message)) -> Result<(), Malformed> {
        while let Some(&first) = bytes.first() {
            match self.state {
                State::Head => bytes = &bytes[self.head(bytes)?..],
                State::Counted(left) => bytes = take(bytes, left, State::Counted, State::Head, &mut self.state),
                State::Chunk(left) => bytes = take(bytes, left, State::Chunk, State::End, &mut self.state),
                State::End => {
                    bytes = &bytes[1..];
                    if first == b'\n' {
                        self.state = State::Size(0);
                    }
                    continue;
                }
                State::Size(so_far) => {
                    bytes = &bytes[1..];
                    self.state = match first {
                        b'\n' if so_far == 0 => State::Trailer(0),
                        b'\n' => State::Chunk(so_far),
                        b'\r' => State::Size(so_far),
                        digit => {
                            let digit = char::from(digit).to_digit(16).ok_or(Malformed)?;
                            State::Size(so_far.checked_mul(16).ok_or(Malformed)? + u64::from(digit))
                        }
                    };
                    continue;
                }
                State::Trailer(length) => {
                    bytes = &bytes[1..];
                    self.state = match first {
                        b'\n' if length == 0 => State::Head,
                        b'\n' => State::Trailer(0),
                        b'\r' => State::Trailer(length),
                        _ => State::Trailer(length + 1),
                    };
                }
            }
            if self.is_between() {
                done(self.message);
            }
        }
        Ok(())
    }

    /// Takes a head or a part of one; gives how many bytes it took.
    fn head(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        if self.partial.is_empty()
            && let Some(end) = memmem::find(bytes, b"\r\n\r\n")
        {
            self.parse_into(&bytes[..end + 2])?;
            return Ok(end + 4);
        }
        let before = self.partial.len();
        self.partial.extend_from_slice(bytes);
        if self.partial.len() > MAX_HEAD {
            return Err(Malformed);
        }
        let Some(end) = memmem::find(&self.partial, b"\r\n\r\n") else { return Ok(bytes.len()) };
        let mut whole = std::mem::take(&mut self.partial);
        whole.truncate(end + 2);
        self.parse_into(&whole)?;
        Ok(end + 4 - before)
    }

    /// `head` ends with the line break of its last line.
    fn parse_into(&mut self, head: &[u8]) -> Result<(), Malformed> {
        let mut lines = head.split(|b| *b == b'\n');
        let first = lines.next().ok_or(Malformed)?;
        let target = first.split(|b| *b == b' ').nth(1).ok_or(Malformed)?;
        let number = target.rsplit(|b| *b == b'/').next().and_then(number);
        self.message = Message { number: number.unwrap_or(0), close: false };
        self.state = State::Head;
        for line in lines {
            let Some(colon) = memchr::memchr(b':', line) else { continue };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                self.state = match number_of(value)? {
                    0 => State::Head,
                    length => State::Counted(length),
                };
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                self.state = State::Size(0);
            } else if name.eq_ignore_ascii_case(b"connection") {
                self.message.close = value.eq_ignore_ascii_case(b"close");
            }
        }
        Ok(())
    }
}

fn take<'b>(bytes: &'b [u8], left: u64, more: fn(u64) -> State, after: State, state: &mut State) -> &'b [u8] {
    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    let left = left - taken as u64;
    *state = if left == 0 { after } else { more(left) };
    &bytes[taken..]
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn number_of(text: &[u8]) -> Result<u64, Malformed> {
    number(text).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello\
        HTTP/1.1 503 No\r\ncontent-length: 0\r\nConnection: close\r\n\r\n\
        POST /bytes/77 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n\
        GET /bytes/1024 HTTP/1.1\r\nhost: x\r\n\r\n";

    #[test]
    fn any_split_of_the_bytes_gives_the_same_messages() {
        let expected = [(200, false), (503, true), (77, false), (1024, false)];
        for size in 1..=STREAM.len() {
            let mut reader = Reader::default();
            let mut found = Vec::new();
            for piece in STREAM.chunks(size) {
                reader.feed(piece, |m| found.push((m.number, m.close))).unwrap();
            }
            assert_eq!(found, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_length_is_refused() {
        assert_eq!(Reader::default().feed(b"GET / HTTP/1.1\r\ncontent-length: x\r\n\r\n", |_| {}), Err(Malformed));
    }
}
