//! Connections of the REST port: a cap on their number, limits on heads, timeouts, drain (BAD_INPUTS 8, 9, 17).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use leno_runtime::drain::DrainWatch;
use leno_runtime::scope::Scope;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower_service::Service;

/// Connections at one time; further ones wait in the listener's backlog until an idle one is cut off.
pub const MAX_CONNECTIONS: usize = 256;
/// Time for a request head to arrive, which is also how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest request head in bytes.
const MAX_HEAD: usize = 32 << 10;
/// Most header fields.
const MAX_HEADERS: usize = 64;
/// Pause when accepting fails, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the drain begins; then open requests finish, and at the end of the drain they are dropped.
pub async fn serve(listener: TcpListener, router: Router, drain: DrainWatch) {
    let connections = Scope::new("rest");
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            // Cancel-safe: a permit or connection that was not taken is not lost.
            accepted = accept(&listener, &room) => accepted,
            () = drain.draining() => break,
        };
        let Some((stream, permit)) = accepted else { continue };
        let (router, drain) = (router.clone(), drain.clone());
        connections.spawn("connection", async move {
            connection(stream, router, drain).await;
            drop(permit);
        });
    }
    tokio::select! {
        () = connections.join() => {}
        () = drain.forced() => {
            connections.cancel();
            connections.join().await;
        }
    }
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, permit)),
        Err(error) => {
            tracing::warn!(%error, "the REST port cannot accept");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn connection(stream: TcpStream, router: Router, drain: DrainWatch) {
    let _in_flight = drain.guard();
    // Lines of a watch are small and must not wait for more.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let mut router = router.clone();
        async move { router.call(request).await }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = drain.draining() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Garbage, silence and resets of clients: hyper has answered what can be answered.
        tracing::debug!(%error, "a connection to the REST port ended");
    }
}
