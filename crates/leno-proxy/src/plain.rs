//! Unprotected connections: to the application on this host, and to endpoints outside the mesh.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use leno_http::{Body, Method, Request, RequestHead, Response, StreamError, h1, h2, tcp};
use leno_model::AppProtocol;

/// Clients for plain HTTP/1 and HTTP/2, and plain TCP.
pub struct PlainPool {
    h1: h1::Client,
    h2: h2::Client,
}

impl PlainPool {
    /// A pool without connections.
    #[must_use]
    pub fn new() -> Self {
        Self { h1: h1::Client::new(h1::ClientSettings::default()), h2: h2::Client::new(h2::ClientSettings::default()) }
    }

    /// Sends a request in the protocol that the other side is declared to speak.
    pub async fn send(
        &self,
        address: SocketAddr,
        protocol: AppProtocol,
        request: Request,
    ) -> Result<Response, StreamError> {
        match protocol {
            AppProtocol::Http2 | AppProtocol::Grpc => self.h2.send(address, request).await,
            AppProtocol::Http | AppProtocol::Tcp => self.h1.send(address, request).await,
        }
    }

    /// Opens a TCP connection; the answer's body is what the other side sends. Each direction ends on its own.
    pub async fn tcp(&self, address: SocketAddr, limit: Duration, body: Body) -> Result<Response, StreamError> {
        tcp::send(address, Request::new(stream_head(), body), limit).await
    }
}

/// The head of what has none.
#[must_use]
pub fn stream_head() -> RequestHead {
    RequestHead::new(Method::Connect, Bytes::new(), Bytes::new())
}
