//! `/proc/net/tcp` and `/proc/net/tcp6` (proc_net_tcp in the kernel's documentation).

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::addresses::canonical;
use crate::diag::Found;

/// Every TCP socket of one family in this network namespace. A mapped IPv4 address is given as IPv4.
pub(crate) fn sockets(v4: bool) -> io::Result<Vec<Found>> {
    let text = std::fs::read_to_string(if v4 { "/proc/net/tcp" } else { "/proc/net/tcp6" });
    match text {
        Ok(text) => Ok(text.lines().skip(1).filter_map(parse_line).collect()),
        // Without IPv6 there is no such file, and no such socket.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !v4 => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn parse_line(line: &str) -> Option<Found> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    Some(Found {
        local: parse_address(fields.get(1)?)?,
        remote: parse_address(fields.get(2)?)?,
        state: u8::from_str_radix(fields.get(3)?, 16).ok()?,
        uid: fields.get(7)?.parse().ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// 32-bit words in the host's byte order, as hexadecimal; then the port.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let mut bytes = [0u8; 16];
            for (number, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(number * 8)?);
            }
            IpAddr::from(bytes)
        }
        _ => return None,
    };
    Some(canonical(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_junk_is_skipped() {
        let line = "   0: 0100007F:1F90 0200007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 54321 1";
        let found = parse_line(line).unwrap();
        if cfg!(target_endian = "little") {
            assert_eq!(found.local, "127.0.0.1:8080".parse().unwrap());
            assert_eq!(found.remote, "127.0.0.2:50000".parse().unwrap());
        }
        assert_eq!((found.state, found.uid, found.inode), (1, 1000, 54321));
        for junk in ["", "0: x:1 y:2", "0: 0100007F 0200007F:1 01", "a b c d e f g h i j k"] {
            assert_eq!(parse_line(junk), None, "{junk}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_line_panics(line in ".{0,200}") {
            let _ = parse_line(&line);
        }
    }
}
