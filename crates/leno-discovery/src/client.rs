//! The proxy's wiring to tonic: opens the stream and makes the enrolment calls over an injected connector.
//!
//! The loop over [`crate::ClientSession`] is the caller's: it has more to wait for than messages.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::rt::TokioIo;
use leno_model::Reason;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tonic::transport::{Channel, Endpoint};

use crate::limits;
use crate::proto::{self, discovery_client::DiscoveryClient, enrollment_client::EnrollmentClient};

/// An established connection: what a connector gives.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// An established connection of any kind.
pub type BoxedIo = Box<dyn Io>;
/// The future of a connection.
pub type Connecting = Pin<Box<dyn Future<Output = Result<BoxedIo, ConnectorError>> + Send>>;

/// Makes one connection to the control plane: TCP, TLS, and the verification of the server.
pub type Connector = Arc<dyn Fn() -> Connecting + Send + Sync>;

/// Why there is no connection.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct ConnectorError {
    /// Of the closed set.
    pub reason: Reason,
    /// For people.
    pub detail: String,
}

/// Why there is no stream, or a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connector failed.
    #[error(transparent)]
    Connector(ConnectorError),
    /// The HTTP/2 handshake failed.
    #[error("control plane: {0}")]
    Transport(String),
    /// The connection ended in the middle.
    #[error("the connection to the control plane was lost: {0}")]
    Lost(String),
    /// The server refused; its words.
    #[error("the control plane refused: {}", .0.message())]
    Refused(Box<tonic::Status>),
}

impl ClientError {
    /// A refusal inside a stream, in the words of `Refused` or `Goodbye`.
    #[must_use]
    pub fn refused(reason: &str, detail: &str) -> Self {
        Self::Refused(Box::new(tonic::Status::unknown(format!("{reason}: {detail}"))))
    }

    /// The reason for logs and status.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Connector(e) => e.reason,
            Self::Transport(_) | Self::Lost(_) => Reason::ControlPlaneUnreachable,
            // `word: detail`, as the server's Refusal renders.
            Self::Refused(status) => status
                .message()
                .split_once(':')
                .and_then(|(word, _)| Reason::from_word(word))
                .unwrap_or(Reason::ControlPlaneUnreachable),
        }
    }

    /// Whether trying again without a change cannot help.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused(_) => matches!(
                self.reason(),
                Reason::TokenInvalid
                    | Reason::UnauthorisedMember
                    | Reason::CertificateRevoked
                    | Reason::CertificateInvalid
            ),
            Self::Connector(_) | Self::Transport(_) | Self::Lost(_) => false,
        }
    }
}

/// Messages that wait for the transport; the session keeps the rest and merges what it can.
const OUTGOING: usize = 16;

/// One open stream. Dropping it closes the connection.
pub struct Stream {
    /// Sends; full when the transport has no room.
    pub outgoing: mpsc::Sender<proto::ClientMessage>,
    incoming: tonic::Streaming<proto::ServerMessage>,
}

impl Stream {
    /// The next message; `None` when the server closed in order. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<proto::ServerMessage>, ClientError> {
        self.incoming.message().await.map_err(refused)
    }
}

/// Opens the discovery stream. Dropping the future gives the attempt up.
///
/// The response headers come with the server's first message, so that the first messages have to be in `first`: they are
/// sent before anything is awaited.
pub async fn connect(connector: &Connector, first: Vec<proto::ClientMessage>) -> Result<Stream, ClientError> {
    let channel = channel(connector).await?;
    let (outgoing, messages) = mpsc::channel(OUTGOING);
    let messages = tokio_stream::iter(first).chain(tokio_stream::wrappers::ReceiverStream::new(messages));
    let mut client = DiscoveryClient::new(channel)
        .max_decoding_message_size(limits::MAX_MESSAGE)
        .max_encoding_message_size(limits::MAX_MESSAGE);
    let incoming = client.connect(messages).await.map_err(refused)?.into_inner();
    Ok(Stream { outgoing, incoming })
}

/// Trades a join token for a certificate. The connector has verified the server against the token's pin: it only gives a
/// connection if that held, and nothing of the request is sent before.
pub async fn redeem(
    connector: &Connector,
    request: proto::RedeemRequest,
) -> Result<proto::RedeemResponse, ClientError> {
    let mut client = EnrollmentClient::new(channel(connector).await?);
    Ok(client.redeem(request).await.map_err(refused)?.into_inner())
}

fn refused(status: tonic::Status) -> ClientError {
    // What came from the server is the whole story; what was made here has the failure of the connection behind it.
    match std::error::Error::source(&status) {
        Some(_) => ClientError::Lost(status.message().to_owned()),
        None => ClientError::Refused(Box::new(status)),
    }
}

async fn channel(connector: &Connector) -> Result<Channel, ClientError> {
    let failure = Arc::new(Mutex::new(None));
    let dial = Dial { connector: connector.clone(), failure: failure.clone() };
    // The authority is never resolved: the connector knows where to go.
    let endpoint = Endpoint::from_static("http://control-plane.leno-system")
        .http2_keep_alive_interval(limits::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    endpoint.connect_with_connector(dial).await.map_err(|error| {
        let own = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        own.map_or_else(|| ClientError::Transport(error.to_string()), ClientError::Connector)
    })
}

/// The connector as the tower service that tonic wants; keeps the typed error, which tonic would turn into text.
struct Dial {
    connector: Connector,
    failure: Arc<Mutex<Option<ConnectorError>>>,
}

impl tower_service::Service<Uri> for Dial {
    type Response = TokioIo<BoxedIo>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connecting = (self.connector)();
        let failure = self.failure.clone();
        Box::pin(async move {
            connecting.await.map(TokioIo::new).map_err(|error| {
                let text = error.to_string();
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                io::Error::other(text)
            })
        })
    }
}
