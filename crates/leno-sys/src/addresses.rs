//! Addresses of this host, and the one form in which an address is compared.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// An IPv4 address mapped into IPv6 (`::ffff:a.b.c.d`) becomes the IPv4 address that it is; flow labels go. Equal
/// destinations are equal only in this form.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => std::net::SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into(),
        },
        v4 => v4,
    }
}

/// The address that this host uses towards `destination`: what a member announces as its own when nothing else was
/// said. Sends nothing.
pub fn source_address_towards(destination: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if destination.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(destination)?;
    Ok(canonical(socket.local_addr()?).ip())
}

/// The addresses of the interfaces that are up, without loopback, link-local and multicast ones: those that another
/// host may reach.
pub fn local_addresses() -> io::Result<Vec<IpAddr>> {
    let mut addresses: Vec<IpAddr> = interface_addresses()?.into_iter().filter(|ip| is_routable(*ip)).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

fn is_routable(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local)
}

#[expect(unsafe_code, reason = "getifaddrs has no safe form in the standard library or rustix")]
fn interface_addresses() -> io::Result<Vec<IpAddr>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: `list` is a valid place for the pointer that getifaddrs writes.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut addresses = Vec::new();
    let mut at = list;
    while !at.is_null() {
        // SAFETY: `at` is a node of the list, which is not freed before the end of this function and is not changed.
        let interface = unsafe { &*at };
        let up = interface.ifa_flags & libc::IFF_UP.cast_unsigned() != 0;
        if up && !interface.ifa_addr.is_null() {
            // SAFETY: a non-null ifa_addr points to a sockaddr whose family tells its real type; the casts follow it,
            // and both real types are read through unaligned copies.
            let address = unsafe {
                match i32::from((*interface.ifa_addr).sa_family) {
                    libc::AF_INET => {
                        let v4 = interface.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned();
                        Some(IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes()))
                    }
                    libc::AF_INET6 => {
                        let v6 = interface.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned();
                        Some(IpAddr::from(v6.sin6_addr.s6_addr))
                    }
                    _ => None,
                }
            };
            addresses.extend(address);
        }
        at = interface.ifa_next;
    }
    // SAFETY: `list` came from getifaddrs and is freed once; no reference into it is left.
    unsafe { libc::freeifaddrs(list) };
    Ok(addresses)
}

/// The host's name.
#[must_use]
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_unwrapped() {
        for (text, expected) in [
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[fd00::1]:80", "[fd00::1]:80"),
            ("[::1]:0", "[::1]:0"),
        ] {
            assert_eq!(canonical(text.parse().unwrap()), expected.parse().unwrap(), "{text}");
        }
    }

    #[test]
    fn interfaces_include_loopback_but_routable_ones_do_not() {
        let all = interface_addresses().unwrap();
        assert!(all.contains(&Ipv4Addr::LOCALHOST.into()), "{all:?}");
        assert!(local_addresses().unwrap().iter().all(|ip| !ip.is_loopback()));
        for bad in ["127.0.0.1", "::1", "fe80::1", "169.254.1.1", "0.0.0.0", "ff02::1"] {
            assert!(!is_routable(bad.parse().unwrap()), "{bad}");
        }
    }

    #[test]
    fn the_way_to_loopback_is_loopback() {
        let ip = source_address_towards("127.0.0.1:9".parse().unwrap()).unwrap();
        assert_eq!(ip, IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert!(!hostname().is_empty());
    }
}
