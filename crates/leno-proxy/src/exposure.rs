//! Is the application reachable past the mesh? (D12a)
//!
//! Without interception nothing stops another host from calling an application that listens on `0.0.0.0`. Such an application is
//! refused: its proxy does not forward to it, and the supervisor says so at the start.

use std::io;
use std::net::SocketAddr;

/// Where `port` is listened on, off loopback, in this network namespace.
pub fn exposed_listeners(port: u16) -> io::Result<Vec<SocketAddr>> {
    let mut found = leno_sys::listeners(port)?;
    found.retain(|address| !address.ip().to_canonical().is_loopback());
    Ok(found)
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
