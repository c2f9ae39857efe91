//! The listening sockets that the supervisor owns and its proxies inherit.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;

use leno_proxy::settings::ProxySettings;

use crate::Failure;

/// Every listening socket of a member, by the name that `leno proxy --listen-fd` knows.
pub struct Sockets(Vec<(String, TcpListener)>);

impl Sockets {
    /// Binds all of them, or says which flag's address cannot be had and why.
    pub fn bind(settings: &ProxySettings) -> Result<Self, Failure> {
        let mut sockets = Vec::new();
        let mut bind = |name: String, flag: &str, address: SocketAddr| -> Result<(), Failure> {
            let socket = leno_net::listen::bind_std(address)
                .map_err(|e| Failure::Failed(anyhow::anyhow!("{flag}: cannot listen on {address}: {e}")))?;
            sockets.push((name, socket));
            Ok(())
        };
        bind("hop".to_owned(), "--hop", settings.hop.address)?;
        bind("admin".to_owned(), "--admin", settings.admin.address)?;
        if let Some(forward) = &settings.forward {
            bind("forward".to_owned(), "--forward-proxy", forward.address)?;
        }
        for (position, upstream) in settings.upstreams.iter().enumerate() {
            bind(format!("upstream-{position}"), "--upstream", upstream.listen.address)?;
        }
        Ok(Self(sockets))
    }

    /// `--listen-fd NAME=FD` for every socket.
    pub fn arguments(&self) -> Vec<String> {
        self.0.iter().map(|(name, socket)| format!("--listen-fd={name}={}", socket.as_raw_fd())).collect()
    }

    /// Lets the next child inherit the sockets, or keeps them from it. The supervisor starts processes one at a time on
    /// one thread, so the program never starts while they are inheritable.
    pub fn set_inheritable(&self, inheritable: bool) -> std::io::Result<()> {
        self.0.iter().try_for_each(|(_, s)| leno_sys::fds::set_inheritable(s, inheritable))
    }
}
