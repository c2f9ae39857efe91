//! Unprotected connections: to the application on this host, and to endpoints outside the mesh.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use leno_http::{Body, Method, Request, RequestHead, Response, Sending, StreamError, h1, h2, tcp};
use leno_model::AppProtocol;

/// Clients for plain HTTP/1 and HTTP/2, and plain TCP.
pub struct PlainPool {
    h1: h1::Client,
    h2: h2::Client,
    guard: h1::ConnectGuard,
}

impl PlainPool {
    /// A pool without connections; `guard` is asked before each.
    #[must_use]
    pub fn new(guard: h1::ConnectGuard) -> Self {
        let h1 = h1::Client::new(h1::ClientSettings { guard: guard.clone(), ..h1::ClientSettings::default() });
        let h2 = h2::Client::new(h2::ClientSettings { guard: guard.clone(), ..h2::ClientSettings::default() });
        Self { h1, h2, guard }
    }

    /// Sends a request in the protocol that the other side is declared to speak; `limit` is on connecting.
    pub fn send(&self, address: SocketAddr, protocol: AppProtocol, request: Request, limit: Duration) -> Sending {
        match protocol {
            AppProtocol::Http2 | AppProtocol::Grpc => {
                let h2 = self.h2.clone();
                Sending::boxed(async move { h2.send_within(address, request, limit).await })
            }
            AppProtocol::Http | AppProtocol::Tcp => self.h1.send_within(address, request, limit),
        }
    }

    /// Opens a TCP connection; the answer's body is what the other side sends. Each direction ends on its own.
    pub async fn tcp(&self, address: SocketAddr, limit: Duration, body: Body) -> Result<Response, StreamError> {
        self.guard.check(address)?;
        tcp::send(address, Request::new(stream_head(), body), limit).await
    }
}

/// The head of what has none.
#[must_use]
pub fn stream_head() -> RequestHead {
    RequestHead::new(Method::Connect, Bytes::new(), Bytes::new())
}
