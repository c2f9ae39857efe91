//! Is the application reachable past the mesh? (D12a)
//!
//! Without interception nothing stops another host from calling an application that listens on `0.0.0.0`. Such an application is
//! refused: its proxy does not forward to it, and the supervisor says so at the start.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The kernel's number for LISTEN (`include/net/tcp_states.h`).
const LISTEN: &str = "0A";

/// Where `port` is listened on, off loopback, in this network namespace.
pub fn exposed_listeners(port: u16) -> io::Result<Vec<SocketAddr>> {
    let mut found = listening(&fs::read_to_string("/proc/net/tcp")?, port);
    match fs::read_to_string("/proc/net/tcp6") {
        Ok(table) => found.extend(listening(&table, port)),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    found.retain(|address| !address.ip().to_canonical().is_loopback());
    Ok(found)
}

/// The listening addresses of `port` in a table of the form of `/proc/net/tcp` (proc(5)).
fn listening(table: &str, port: u16) -> Vec<SocketAddr> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace().skip(1);
            let (local, _, state) = (words.next()?, words.next()?, words.next()?);
            let (address, port_hex) = local.split_once(':')?;
            let here = u16::from_str_radix(port_hex, 16).ok()?;
            (state == LISTEN && here == port).then(|| Some(SocketAddr::new(ip(address)?, here)))?
        })
        .collect()
}

/// Addresses are printed as 32-bit words in the byte order of the machine.
fn ip(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let mut bytes = [0; 16];
            for part in 0..4 {
                bytes[part * 4..][..4].copy_from_slice(&word(part * 8)?);
            }
            Some(IpAddr::V6(Ipv6Addr::from(bytes)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn only_listeners_off_loopback_are_exposed() {
        let near = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(exposed_listeners(near.local_addr().unwrap().port()).unwrap(), Vec::new());
        let far = TcpListener::bind("0.0.0.0:0").unwrap();
        let address = far.local_addr().unwrap();
        assert_eq!(exposed_listeners(address.port()).unwrap(), vec![address]);
        if let Ok(six) = TcpListener::bind("[::]:0") {
            let address = six.local_addr().unwrap();
            assert_eq!(exposed_listeners(address.port()).unwrap(), vec![address]);
        }
        drop(far);
        assert_eq!(exposed_listeners(address.port()).unwrap(), Vec::new());
    }
}
