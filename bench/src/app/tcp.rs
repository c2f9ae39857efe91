//! The TCP side. The first byte of a connection says what it is for:
//!
//! | byte | then |
//! |---|---|
//! | `e` | everything comes back |
//! | `s` | bytes are sent for as long as they are taken |

use std::io::{self, Write};
use std::net::TcpStream;

use super::{Flow, Session};

static FILLER: [u8; 256 << 10] = [b'x'; 256 << 10];

/// One connection.
#[derive(Default)]
pub struct Tcp {
    purpose: Option<u8>,
    unsent: Vec<u8>,
}

impl Session for Tcp {
    fn received(&mut self, bytes: &[u8]) -> io::Result<()> {
        let bytes = match (self.purpose, bytes.split_first()) {
            (None, Some((first, rest))) => {
                self.purpose = Some(*first);
                rest
            }
            _ => bytes,
        };
        if self.purpose == Some(b'e') {
            self.unsent.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn send(&mut self, stream: &mut TcpStream) -> io::Result<Flow> {
        if self.purpose == Some(b's') {
            return match stream.write(&FILLER) {
                Ok(_) => Ok(Flow::Writing),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Flow::Writing),
                Err(error) => Err(error),
            };
        }
        while !self.unsent.is_empty() {
            match stream.write(&self.unsent) {
                Ok(length) => drop(self.unsent.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Flow::Writing),
                Err(error) => return Err(error),
            }
        }
        Ok(Flow::Reading)
    }
}
