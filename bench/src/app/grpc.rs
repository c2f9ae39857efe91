//! The gRPC side, on a thread of its own: `bench.Echo/Unary` answers with 1 KB, `bench.Echo/Stream` sends back what comes.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

/// A gRPC message: not compressed, its length, its bytes.
#[must_use]
pub fn message(length: u32) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.resize(5 + length as usize, b'x');
    bytes.into()
}

/// Bytes of the answer to a unary call.
pub const ANSWER: u32 = 1024;
/// No stream of a generator may be refused.
const STREAMS: u32 = 4096;
/// Windows larger than what a generator has under way, so that the application never is what holds back.
const WINDOW: u32 = 4 << 20;

/// Serves for ever.
pub fn run(address: SocketAddr) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(address).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            spawn_local(async move {
                // A connection that the peer breaks is the peer's affair; the generator counts what it missed.
                let _ = connection(stream).await;
            });
        }
    })
}

async fn connection(stream: TcpStream) -> Result<(), h2::Error> {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(STREAMS).initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let mut connection = builder.handshake(stream).await?;
    let answer = message(ANSWER);
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        let answer = answer.clone();
        spawn_local(async move {
            let _ = serve(request, respond, answer).await;
        });
    }
    Ok(())
}

async fn serve(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    answer: Bytes,
) -> Result<(), h2::Error> {
    let streaming = request.uri().path().ends_with("/Stream");
    let mut body = request.into_body();
    let mut response = Response::new(());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut send = respond.send_response(response, false)?;
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        if streaming {
            send.send_data(data, false)?;
        }
    }
    if !streaming {
        send.send_data(answer, false)?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    send.send_trailers(trailers)
}
