//! A small client: one connection per call, typed methods, the admin token as bearer.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use crate::bodies::{ApplyResponse, ApplyResult, ErrorBody, ResourceList, WatchEvent};
use crate::members::{
    AuditEntry, CaStatus, Endpoint, Member, Overview, Revocation, RevocationRequest, TokenInfo, TokenRequest,
    TokenResponse,
};
use crate::routes;

/// Time for a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a whole answer; watches have none.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer read: a list page of 500 resources of ordinary size is far below.
const MAX_ANSWER: usize = 64 << 20;
/// Longest line of a watch: one resource, escaped.
const MAX_LINE: usize = 8 << 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The base is not `http://HOST:PORT`.
    #[error("`{0}` is not an API address: use http://HOST:PORT")]
    Address(String),
    /// No connection, or it broke.
    #[error("cannot reach the control plane at {address}: {detail}")]
    Unreachable {
        /// Where.
        address: String,
        /// What happened.
        detail: String,
    },
    /// The control plane refused; the body says why.
    #[error("{}", body.message)]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// What it said.
        body: ErrorBody,
    },
    /// The answer is not one of this API.
    #[error("{address} answered {status} with something that is not this API's: {detail}")]
    Protocol {
        /// Where.
        address: String,
        /// The HTTP status.
        status: StatusCode,
        /// What is wrong.
        detail: String,
    },
}

impl ClientError {
    /// Whether what was asked for does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::NOT_FOUND)
    }
}

/// A client of one control plane. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    /// `host:port` as in the Host header.
    authority: String,
    token: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.authority)
    }
}

/// A call's connection together with its answer; reading the answer drives the connection.
struct Exchange {
    connection: Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>,
    response: Response<Incoming>,
}

impl Exchange {
    /// The next data frame, or none at the end.
    async fn frame(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            let frame = poll_fn(|cx| {
                // Polled first: it is what fills the body. An error of its own shows in the body as well.
                if let Some(connection) = &mut self.connection
                    && connection.as_mut().poll(cx).is_ready()
                {
                    self.connection = None;
                }
                match Pin::new(self.response.body_mut()).poll_frame(cx) {
                    Poll::Ready(frame) => Poll::Ready(frame),
                    Poll::Pending => Poll::Pending,
                }
            })
            .await;
            match frame {
                None => return Ok(None),
                Some(Err(e)) => return Err(e.to_string()),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

impl Client {
    /// A client of `base` (`http://HOST:PORT`).
    pub fn new(base: &str, token: Option<&str>) -> Result<Self, ClientError> {
        let bad = || ClientError::Address(base.to_owned());
        let authority = base.strip_prefix("http://").ok_or_else(bad)?.trim_end_matches('/');
        let parsed: http::uri::Authority = authority.parse().map_err(|_| bad())?;
        if parsed.port_u16().is_none() || authority.contains('@') {
            return Err(bad());
        }
        let token = token.map(|t| Zeroizing::new(t.trim().to_owned())).filter(|t| !t.is_empty());
        if let Some(token) = &token
            && !token.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(ClientError::Address("the admin token has characters that no token has".into()));
        }
        Ok(Self { authority: authority.to_owned(), token })
    }

    fn unreachable(&self, detail: impl std::fmt::Display) -> ClientError {
        ClientError::Unreachable { address: format!("http://{}", self.authority), detail: detail.to_string() }
    }

    async fn open(&self, method: Method, path: &str, body: Option<(&str, Bytes)>) -> Result<Exchange, ClientError> {
        let connect = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.authority)).await;
        let stream = connect.map_err(|_| self.unreachable("no connection within 5 s"))?;
        let stream = stream.map_err(|e| self.unreachable(e))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|e| self.unreachable(e))?;
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.authority);
        request = request.header(header::ACCEPT, "application/json").header(header::CONNECTION, "close");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", **token));
        }
        let (media, body) = body.unwrap_or_default();
        if !media.is_empty() {
            request = request.header(header::CONTENT_TYPE, media);
        }
        let request = request.body(Full::new(body)).map_err(|e| self.unreachable(e))?;
        let mut connection: Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>> = Box::pin(connection);
        let answer = sender.send_request(request);
        let mut answer = std::pin::pin!(answer);
        let mut ended = false;
        let response = poll_fn(|cx| {
            if !ended && connection.as_mut().poll(cx).is_ready() {
                ended = true;
            }
            answer.as_mut().poll(cx)
        })
        .await
        .map_err(|e| self.unreachable(e))?;
        Ok(Exchange { connection: (!ended).then_some(connection), response })
    }

    async fn call_raw(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Bytes)>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let whole = async {
            let mut exchange = self.open(method, path, body).await?;
            let status = exchange.response.status();
            let mut answer = BytesMut::new();
            while let Some(data) = exchange.frame().await.map_err(|e| self.unreachable(e))? {
                if answer.len() + data.len() > MAX_ANSWER {
                    return Err(self.protocol(status, "the answer is too large"));
                }
                answer.extend_from_slice(&data);
            }
            Ok((status, answer.freeze()))
        };
        tokio::time::timeout(CALL_TIMEOUT, whole).await.map_err(|_| self.unreachable("no answer within 30 s"))?
    }

    fn protocol(&self, status: StatusCode, detail: impl std::fmt::Display) -> ClientError {
        ClientError::Protocol { address: self.authority.clone(), status, detail: detail.to_string() }
    }

    fn refused(&self, status: StatusCode, answer: &[u8]) -> ClientError {
        match serde_json::from_slice(answer) {
            Ok(body) => ClientError::Refused { status, body },
            Err(e) => self.protocol(status, e),
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Bytes)>,
    ) -> Result<T, ClientError> {
        let (status, answer) = self.call_raw(method, path, body).await?;
        if !status.is_success() {
            return Err(self.refused(status, &answer));
        }
        let answer = if answer.is_empty() { b"null".as_slice() } else { &answer };
        serde_json::from_slice(answer).map_err(|e| self.protocol(status, e))
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| self.unreachable(e))?;
        self.call(Method::POST, path, Some(("application/json", body.into()))).await
    }

    /// Applies documents. Refusals of single documents are in the answer, not an error; so are diagnostics.
    pub async fn apply(
        &self,
        text: &str,
        namespace: Option<&str>,
        dry_run: bool,
    ) -> Result<ApplyResponse, ClientError> {
        self.documents(routes::APPLY, text, namespace, dry_run).await
    }

    /// Deletes what the documents name.
    pub async fn delete_documents(
        &self,
        text: &str,
        namespace: Option<&str>,
        dry_run: bool,
    ) -> Result<ApplyResponse, ClientError> {
        self.documents(routes::DELETE, text, namespace, dry_run).await
    }

    async fn documents(
        &self,
        route: &str,
        text: &str,
        namespace: Option<&str>,
        dry_run: bool,
    ) -> Result<ApplyResponse, ClientError> {
        let path = routes::with_parameters(route, &[("namespace", namespace), ("dryRun", dry_run.then_some("true"))]);
        let body = Bytes::copy_from_slice(text.as_bytes());
        let (status, answer) = self.call_raw(Method::POST, &path, Some(("application/yaml", body))).await?;
        // Refused documents make it a 409 or 422 with the results all the same.
        serde_json::from_slice(&answer).map_err(|_| self.refused(status, &answer))
    }

    /// One resource as JSON.
    pub async fn get(&self, plural: &str, namespace: &str, name: &str) -> Result<Value, ClientError> {
        let parameters = [("plural", plural), ("namespace", namespace), ("name", name)];
        self.call(Method::GET, &routes::fill(routes::RESOURCE, &parameters), None).await
    }

    /// All resources of a kind, of one namespace or of all.
    pub async fn list(&self, plural: &str, namespace: Option<&str>) -> Result<ResourceList, ClientError> {
        let path = match namespace {
            Some(namespace) => routes::fill(routes::LIST, &[("plural", plural), ("namespace", namespace)]),
            None => routes::fill(routes::LIST_ALL, &[("plural", plural)]),
        };
        let mut whole: ResourceList = self.call(Method::GET, &path, None).await?;
        while let Some(next) = whole.continue_from.take() {
            let page = routes::with_parameters(&path, &[("continue", Some(&next))]);
            let page: ResourceList = self.call(Method::GET, &page, None).await?;
            whole.items.extend(page.items);
            whole.continue_from = page.continue_from;
        }
        Ok(whole)
    }

    /// Deletes one resource; with `version`, only if it has it.
    pub async fn delete(
        &self,
        plural: &str,
        namespace: &str,
        name: &str,
        version: Option<&str>,
    ) -> Result<ApplyResult, ClientError> {
        let parameters = [("plural", plural), ("namespace", namespace), ("name", name)];
        let path = routes::fill(routes::RESOURCE, &parameters);
        self.call(Method::DELETE, &routes::with_parameters(&path, &[("version", version)]), None).await
    }

    /// Changes of a kind. Without a cursor the present state comes first.
    pub async fn watch(
        &self,
        plural: &str,
        namespace: Option<&str>,
        cursor: Option<&str>,
    ) -> Result<WatchStream, ClientError> {
        let path = routes::fill(routes::WATCH, &[("plural", plural)]);
        let path = routes::with_parameters(&path, &[("namespace", namespace), ("cursor", cursor)]);
        let opening = self.open(Method::GET, &path, None);
        let opening = tokio::time::timeout(CALL_TIMEOUT, opening).await;
        let mut exchange = opening.map_err(|_| self.unreachable("no answer within 30 s"))??;
        let status = exchange.response.status();
        if status.is_success() {
            return Ok(WatchStream { exchange, buffer: BytesMut::new(), client: self.clone() });
        }
        let mut answer = BytesMut::new();
        while answer.len() < MAX_LINE
            && let Some(data) = exchange.frame().await.map_err(|e| self.unreachable(e))?
        {
            answer.extend_from_slice(&data);
        }
        Err(self.refused(status, &answer))
    }

    /// Creates a join token.
    pub async fn create_token(&self, request: &TokenRequest) -> Result<TokenResponse, ClientError> {
        self.post(routes::TOKENS, request).await
    }

    /// Join tokens, without their secrets.
    pub async fn tokens(&self) -> Result<Vec<TokenInfo>, ClientError> {
        self.call(Method::GET, routes::TOKENS, None).await
    }

    /// Makes a token unusable.
    pub async fn delete_token(&self, id: &str) -> Result<(), ClientError> {
        self.call(Method::DELETE, &routes::fill(routes::TOKEN, &[("id", id)]), None).await
    }

    /// The mesh at a glance.
    pub async fn overview(&self) -> Result<Overview, ClientError> {
        self.call(Method::GET, routes::OVERVIEW, None).await
    }

    /// Registered workloads.
    pub async fn members(&self, namespace: Option<&str>) -> Result<Vec<Member>, ClientError> {
        self.call(Method::GET, &routes::with_parameters(routes::MEMBERS, &[("namespace", namespace)]), None).await
    }

    /// Endpoints of services.
    pub async fn endpoints(
        &self,
        namespace: Option<&str>,
        service: Option<&str>,
    ) -> Result<Vec<Endpoint>, ClientError> {
        let parameters = [("namespace", namespace), ("service", service)];
        self.call(Method::GET, &routes::with_parameters(routes::ENDPOINTS, &parameters), None).await
    }

    /// The revocation list.
    pub async fn revocations(&self) -> Result<Vec<Revocation>, ClientError> {
        self.call(Method::GET, routes::REVOCATIONS, None).await
    }

    /// Revokes an identity or a serial.
    pub async fn revoke(&self, request: &RevocationRequest) -> Result<Revocation, ClientError> {
        self.post(routes::REVOCATIONS, request).await
    }

    /// Takes a revocation back.
    pub async fn unrevoke(&self, id: &str) -> Result<(), ClientError> {
        self.call(Method::DELETE, &routes::fill(routes::REVOCATION, &[("id", id)]), None).await
    }

    /// The certificate authority.
    pub async fn ca(&self) -> Result<CaStatus, ClientError> {
        self.call(Method::GET, routes::CA, None).await
    }

    /// Starts a root rotation.
    pub async fn rotate_root(&self) -> Result<CaStatus, ClientError> {
        self.call(Method::POST, routes::CA_ROTATE, None).await
    }

    /// The newest audit entries, oldest first.
    pub async fn audit(&self, limit: usize) -> Result<Vec<AuditEntry>, ClientError> {
        let limit = limit.to_string();
        self.call(Method::GET, &routes::with_parameters(routes::AUDIT, &[("limit", Some(&limit))]), None).await
    }

    /// Whether the control plane is ready; the text says why not.
    pub async fn ready(&self) -> Result<(bool, String), ClientError> {
        let (status, answer) = self.call_raw(Method::GET, routes::READYZ, None).await?;
        Ok((status.is_success(), String::from_utf8_lossy(&answer).into_owned()))
    }
}

/// A running watch. Dropping it ends it.
pub struct WatchStream {
    exchange: Exchange,
    buffer: BytesMut,
    client: Client,
}

impl WatchStream {
    /// The next event, or none when the server ended the stream. Cancel-safe: what was read stays in the buffer.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(end + 1);
                if line.len() == 1 {
                    continue;
                }
                let event = serde_json::from_slice(&line);
                return event.map(Some).map_err(|e| self.client.protocol(StatusCode::OK, e));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(self.client.protocol(StatusCode::OK, "a line of the watch is too long"));
            }
            match self.exchange.frame().await.map_err(|e| self.client.unreachable(e))? {
                Some(data) => self.buffer.extend_from_slice(&data),
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        for good in ["http://127.0.0.1:15101", "http://[::1]:15101/", "http://mesh.example:80"] {
            assert!(Client::new(good, None).is_ok(), "{good}");
        }
        for bad in ["127.0.0.1:1", "https://x:1", "http://x", "http://a@b:1", "http://", "http://x:y"] {
            assert!(matches!(Client::new(bad, None), Err(ClientError::Address(_))), "{bad}");
        }
        assert!(Client::new("http://x:1", Some("a\r\nb")).is_err());
    }
}
