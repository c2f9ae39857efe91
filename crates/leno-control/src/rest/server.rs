//! Connections of the REST port: a cap on their number, limits on heads, timeouts, drain (BAD_INPUTS 8, 9, 17).

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use leno_runtime::drain::DrainWatch;
use leno_runtime::scope::Scope;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
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

/// Bytes that are read and thrown away after the last answer of a connection, and the time for it. A socket that is closed while
/// bytes come in is reset, and a reset that overtakes the answer takes it away (RFC 9112 section 9.6). Large enough for a file sent
/// by mistake from this host or the next one.
const LINGER_BYTES: usize = 64 << 20;
const LINGER_TIME: Duration = Duration::from_secs(2);
/// Piece by which is thrown away.
const LINGER_PIECE: usize = 64 << 10;

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
        // Boxed: a connection is polled without its shutdown below, for which its requests must be movable.
        Box::pin(async move { router.call(request).await })
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
    let mut connection = builder.serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        ended = poll_fn(|context| connection.poll_without_shutdown(context)) => ended,
        () = drain.draining() => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|context| connection.poll_without_shutdown(context)).await
        }
    };
    let stream = connection.into_parts().io.into_inner();
    let _ = tokio::time::timeout(LINGER_TIME, linger(stream)).await;
    if let Err(error) = ended {
        // Garbage, silence and resets of clients: hyper has answered what can be answered.
        tracing::debug!(%error, "a connection to the REST port ended");
    }
}

/// Says that nothing more will come, and reads what the client still sends, until it has understood. Dropping this closes at once.
async fn linger(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut piece = vec![0; LINGER_PIECE];
    let mut left = LINGER_BYTES;
    while left > 0
        && let Ok(count @ 1..) = stream.read(&mut piece).await
    {
        left = left.saturating_sub(count);
    }
}
