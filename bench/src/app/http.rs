//! The HTTP/1.1 side: every request gets as many bytes as the number at the end of its path says.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::TcpStream;

use super::{Flow, Session};
use crate::http1::{Message, Reader};

/// A piece of a body.
static FILLER: [u8; 64 << 10] = [b'x'; 64 << 10];
/// Bytes of a long body sent in one turn, so that others have theirs.
const TURN: usize = 1 << 20;

/// One connection.
#[derive(Default)]
pub struct Http {
    reader: Reader,
    /// Requests to answer, oldest first.
    due: VecDeque<Message>,
    /// The head and the beginning of the body of the answer to the oldest; one write for small answers.
    front: Vec<u8>,
    /// Bytes of the answer in `front`, and in its body after that, that are sent.
    sent: u64,
}

impl Session for Http {
    fn received(&mut self, bytes: &[u8]) -> io::Result<()> {
        let due = &mut self.due;
        self.reader.feed(bytes, |m| due.push_back(m)).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    fn send(&mut self, stream: &mut TcpStream) -> io::Result<Flow> {
        let mut budget = TURN;
        while let Some(request) = self.due.front().copied() {
            if self.sent == 0 {
                self.begin(request);
            }
            let whole = self.front.len() as u64 + request.number.saturating_sub(FILLER.len() as u64);
            while self.sent < whole {
                if budget == 0 {
                    return Ok(Flow::Writing);
                }
                let piece = match self.front.get(self.sent as usize..) {
                    Some(rest) if !rest.is_empty() => rest,
                    _ => &FILLER[..FILLER.len().min((whole - self.sent) as usize)],
                };
                match stream.write(&piece[..piece.len().min(budget)]) {
                    Ok(length) => {
                        self.sent += length as u64;
                        budget -= length;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Flow::Writing),
                    Err(error) => return Err(error),
                }
            }
            self.sent = 0;
            self.due.pop_front();
            if request.close {
                return Ok(Flow::Over);
            }
        }
        Ok(Flow::Reading)
    }
}

impl Http {
    fn begin(&mut self, request: Message) {
        self.front.clear();
        let connection = if request.close { "connection: close\r\n" } else { "" };
        // `write!` to a Vec cannot fail.
        let _ = write!(
            self.front,
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n{connection}\r\n",
            request.number
        );
        self.front.extend_from_slice(&FILLER[..FILLER.len().min(request.number as usize)]);
    }
}
