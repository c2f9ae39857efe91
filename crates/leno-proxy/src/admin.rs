//! The admin port: readiness, metrics, plan dump, effective settings. Runs on the control thread, so that it answers when the
//! workers are saturated.
//!
//! | path | answers | to whom |
//! |---|---|---|
//! | `/healthz` | 200 while the process lives | everyone who reaches the port |
//! | `/ready` | 200, or 503 with what is missing | everyone |
//! | `/metrics` | Prometheus text | everyone |
//! | `/plan` | what the proxy executes, as JSON | loopback |
//! | `/config` | effective settings, secrets masked | loopback |
//! | `/version` | the version | loopback |
//!
//! Bounded against slow and many clients: [`MAX_CONNECTIONS`], above which the oldest is closed, [`HEAD_TIMEOUT`] for a head and
//! [`CONNECTION_LIFE`] for a connection.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use leno_plan::host::{Host, HostName};

/// Open admin connections. A scraper and an operator need a handful; with the newest served, a flood cannot lock them out.
pub const MAX_CONNECTIONS: usize = 32;
/// For a request head, and for the pause between two requests on one connection.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// For everything on one connection; a reader that takes a plan dump byte by byte is cut off.
pub const CONNECTION_LIFE: Duration = Duration::from_secs(60);
/// Pause after a failed accept, which is nearly always for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the admin port shows. The functions run on the control thread and must not block.
pub struct AdminPages {
    /// What is missing before the proxy is ready; empty when it is.
    pub missing: Box<dyn Fn() -> Vec<String>>,
    /// Prometheus text.
    pub metrics: Box<dyn Fn() -> String>,
    /// What the proxy executes; asks the workers, so it may take a moment.
    pub plan: Box<dyn Fn() -> LocalBoxFuture<'static, serde_json::Value>>,
    /// Effective settings, secrets masked.
    pub config: Box<dyn Fn() -> serde_json::Value>,
}

/// Serves the admin port until dropped; open connections end with it. Must run inside a `LocalSet`.
pub async fn serve(listener: TcpListener, pages: AdminPages) {
    let pages = std::rc::Rc::new(pages);
    let mut open: VecDeque<oneshot::Sender<()>> = VecDeque::new();
    loop {
        let Ok((io, peer)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        open.retain(|connection| !connection.is_closed());
        if open.len() >= MAX_CONNECTIONS {
            open.pop_front();
        }
        let (keep, mut closed) = oneshot::channel::<()>();
        open.push_back(keep);
        let pages = std::rc::Rc::clone(&pages);
        tokio::task::spawn_local(async move {
            tokio::select! {
                () = connection(io, peer, &pages) => {}
                _ = &mut closed => {}
                () = tokio::time::sleep(CONNECTION_LIFE) => {}
            }
        });
    }
}

/// One connection; dropping it closes the socket.
async fn connection(io: TcpStream, peer: SocketAddr, pages: &AdminPages) {
    let service = service_fn(async |request: Request<Incoming>| {
        let host = request.headers().get("host").map(http::HeaderValue::as_bytes);
        Ok::<_, Infallible>(page(pages, peer, request.method(), host, request.uri().path()).await)
    });
    // An error here is the client's: it went away, was too slow, or sent no HTTP. There is nothing to decide on it.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(16 * 1024)
        .max_headers(64)
        .serve_connection(TokioIo::new(io), service)
        .await;
}

async fn page(
    pages: &AdminPages,
    peer: SocketAddr,
    method: &Method,
    host: Option<&[u8]>,
    path: &str,
) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    match path {
        "/healthz" => return text(StatusCode::OK, "ok\n".to_owned()),
        "/ready" => {
            let missing = (pages.missing)();
            return match missing.is_empty() {
                true => text(StatusCode::OK, "ready\n".to_owned()),
                false => text(StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", missing.join(", "))),
            };
        }
        "/metrics" => return typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", (pages.metrics)()),
        _ => {}
    }
    if !peer.ip().to_canonical().is_loopback() {
        return text(StatusCode::FORBIDDEN, "only from this host\n".to_owned());
    }
    // A page in a browser can make a name of its own point to 127.0.0.1 and read what it gets (DNS rebinding).
    if !host.is_some_and(host_is_local) {
        return text(StatusCode::FORBIDDEN, "ask by address or as localhost\n".to_owned());
    }
    match path {
        "/plan" => json(&(pages.plan)().await),
        "/config" => json(&(pages.config)()),
        "/version" => text(StatusCode::OK, format!("leno {}\n", env!("CARGO_PKG_VERSION"))),
        _ => text(StatusCode::NOT_FOUND, "pages: /ready /healthz /metrics /plan /config /version\n".to_owned()),
    }
}

fn host_is_local(host: &[u8]) -> bool {
    match Host::parse(host) {
        Ok(Host { name: HostName::Address(_), .. }) => true,
        Ok(Host { name: HostName::Name(name), .. }) => name == "localhost",
        Err(_) => false,
    }
}

fn json(value: &serde_json::Value) -> Response<Full<Bytes>> {
    typed(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn pages() -> AdminPages {
        AdminPages {
            missing: Box::new(|| vec!["a certificate".to_owned()]),
            metrics: Box::new(|| "leno_up 1\n".to_owned()),
            plan: Box::new(|| Box::pin(async { serde_json::json!({"version": 7}) })),
            config: Box::new(|| serde_json::json!({"token": "(secret)"})),
        }
    }

    #[tokio::test]
    async fn who_may_see_what() {
        let (near, far) = ("127.0.0.1:9".parse().unwrap(), "192.0.2.1:9".parse().unwrap());
        for (peer, host, path, expected) in [
            (far, "x", "/healthz", 200),
            (far, "x", "/ready", 503),
            (far, "x", "/metrics", 200),
            (far, "x", "/plan", 403),
            (near, "127.0.0.1:15020", "/plan", 200),
            (near, "[::1]:15020", "/config", 200),
            (near, "localhost:1", "/version", 200),
            (near, "evil.example", "/config", 403),
            (near, "localhost", "/other", 404),
        ] {
            let answer = page(&pages(), peer, &Method::GET, Some(host.as_bytes()), path).await;
            assert_eq!(answer.status().as_u16(), expected, "{peer} {host} {path}");
        }
        assert_eq!(page(&pages(), near, &Method::POST, None, "/ready").await.status(), 405);
    }

    #[tokio::test]
    async fn silent_clients_do_not_lock_out_the_next() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                tokio::task::spawn_local(serve(listener, pages()));
                let mut silent = Vec::new();
                for _ in 0..MAX_CONNECTIONS * 2 {
                    let mut io = TcpStream::connect(address).await.unwrap();
                    io.write_all(b"GET /ready HT").await.unwrap();
                    silent.push(io);
                }
                let mut io = TcpStream::connect(address).await.unwrap();
                io.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
                let mut answer = String::new();
                io.read_to_string(&mut answer).await.unwrap();
                assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
                let mut first = Vec::new();
                silent[0].read_to_end(&mut first).await.ok();
                assert!(first.is_empty(), "the oldest was closed");
            })
            .await;
    }
}
