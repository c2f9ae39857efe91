//! HTTP/2 and gRPC of all kinds through two real data planes.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

#[path = "support/mesh.rs"]
#[expect(dead_code, reason = "shared by several tests")]
mod mesh;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response};
use leno_model::AppProtocol;
use leno_plan::{AccessPlan, DefaultAccess};
use mesh::{Pair, identity, open_access};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// What the application has seen.
#[derive(Default)]
struct Counts {
    calls: AtomicUsize,
    cancelled: AtomicUsize,
}

/// A gRPC application: echoes every message as it comes, then says grpc-status 0. `/x/Never` never answers.
async fn app() -> (SocketAddr, Arc<Counts>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let counts = Arc::new(Counts::default());
    let counted = counts.clone();
    tokio::task::spawn_local(async move {
        while let Ok((io, _)) = listener.accept().await {
            let counts = counted.clone();
            tokio::task::spawn_local(async move {
                let Ok(mut connection) = h2::server::handshake(io).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let counts = counts.clone();
                    tokio::task::spawn_local(async move {
                        counts.calls.fetch_add(1, Ordering::SeqCst);
                        if serve(request, respond).await.is_none() {
                            counts.cancelled.fetch_add(1, Ordering::SeqCst);
                        }
                    });
                }
            });
        }
    });
    (address, counts)
}

async fn serve(request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>) -> Option<()> {
    let source = request.headers().get("leno-source-identity")?.clone();
    let path = request.uri().path().to_owned();
    let mut body = request.into_body();
    if path == "/x/Never" {
        // Ends when the stream is reset.
        std::future::poll_fn(|cx| respond.poll_reset(cx)).await.ok()?;
        return None;
    }
    let head =
        Response::builder().header("content-type", "application/grpc").header("x-source", source).body(()).unwrap();
    let mut send = respond.send_response(head, false).ok()?;
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        body.flow_control().release_capacity(data.len()).ok()?;
        write(&mut send, data).await?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    send.send_trailers(trailers).ok()
}

/// Sends all bytes, waiting for window.
async fn write(send: &mut SendStream<Bytes>, mut data: Bytes) -> Option<()> {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let granted = std::future::poll_fn(|cx| send.poll_capacity(cx)).await?.ok()?;
        send.send_data(data.split_to(granted.min(data.len())), false).ok()?;
    }
    Some(())
}

async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(TcpStream::connect(address).await.unwrap()).await.unwrap();
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    client
}

fn call(path: &str) -> http::request::Builder {
    let uri = format!("http://web{path}");
    Request::builder().method(Method::POST).uri(uri).header("content-type", "application/grpc").header("te", "trailers")
}

async fn read(body: &mut RecvStream, length: usize) -> Bytes {
    let mut all = Vec::new();
    while all.len() < length {
        let data = body.data().await.expect("more data").unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    all.into()
}

fn run(test: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(30), test()).await.expect("the test ends");
    });
}

#[test]
fn unary_calls_have_their_trailers() {
    run(async || {
        let (address, counts) = app().await;
        let pair = Pair::new(address, AppProtocol::Grpc);
        let mut client = connect(pair.local()).await;
        for n in 0..3 {
            let (answer, mut send) = client.send_request(call("/x/Echo").body(()).unwrap(), false).unwrap();
            send.send_data(Bytes::from(format!("hello {n}")), true).unwrap();
            let answer = answer.await.unwrap();
            assert_eq!(answer.headers()["x-source"], identity("caller").as_str());
            let mut body = answer.into_body();
            assert_eq!(read(&mut body, 7).await, format!("hello {n}"));
            assert!(body.data().await.is_none());
            assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
        }
        assert_eq!(counts.calls.load(Ordering::SeqCst), 3);
        let metrics = pair.client.metrics();
        let line = metrics.lines().find(|l| l.starts_with("leno_requests_total") && l.contains("grpc")).unwrap();
        assert!(line.ends_with(" 3"), "{line}");
    });
}

#[test]
fn streams_flow_both_ways_at_once() {
    run(async || {
        let (address, _) = app().await;
        let pair = Pair::new(address, AppProtocol::Grpc);
        let mut client = connect(pair.local()).await;
        let (answer, mut send) = client.send_request(call("/x/Chat").body(()).unwrap(), false).unwrap();
        write(&mut send, Bytes::from_static(b"one")).await.unwrap();
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(read(&mut body, 3).await, "one");
        write(&mut send, Bytes::from_static(b"three")).await.unwrap();
        assert_eq!(read(&mut body, 5).await, "three");
        // More than every window on the way.
        let big = Bytes::from(vec![b'x'; 4 << 20]);
        let (sent, got) = tokio::join!(write(&mut send, big.clone()), read(&mut body, big.len()));
        assert!(sent.is_some() && got == big);
        send.send_data(Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none());
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    });
}

#[test]
fn a_denied_call_gets_a_grpc_status() {
    run(async || {
        let (address, counts) = app().await;
        let closed = AccessPlan::open(DefaultAccess::Deny);
        let pair = Pair::with_access(address, AppProtocol::Grpc, closed);
        let mut client = connect(pair.local()).await;
        let (answer, _) = client.send_request(call("/x/Echo").body(()).unwrap(), true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!((answer.status().as_u16(), &answer.headers()["grpc-status"]), (200, &"7".parse().unwrap()));
        assert_eq!(answer.headers()["leno-reason"], "denied_by_policy");
        assert_eq!(counts.calls.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn a_deadline_ends_the_call_at_both_ends() {
    run(async || {
        let (address, counts) = app().await;
        let pair = Pair::with_access(address, AppProtocol::Grpc, open_access());
        let mut client = connect(pair.local()).await;
        let request = call("/x/Never").header("grpc-timeout", "300m").body(()).unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "4");
        while counts.cancelled.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn a_deadline_in_the_middle_of_an_answer_is_a_status_and_not_a_reset() {
    run(async || {
        let (address, _) = app().await;
        let pair = Pair::with_access(address, AppProtocol::Grpc, open_access());
        let mut client = connect(pair.local()).await;
        let request = call("/x/Echo").header("grpc-timeout", "500m").body(()).unwrap();
        let (answer, mut send) = client.send_request(request, false).unwrap();
        write(&mut send, Bytes::from_static(b"one")).await.unwrap();
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(read(&mut body, 3).await, "one");
        assert!(body.data().await.is_none());
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "4");
    });
}

#[test]
fn a_cancelled_call_is_cancelled_at_the_application() {
    run(async || {
        let (address, counts) = app().await;
        let pair = Pair::new(address, AppProtocol::Grpc);
        let mut client = connect(pair.local()).await;
        let (answer, mut send) = client.send_request(call("/x/Never").body(()).unwrap(), false).unwrap();
        while counts.calls.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        send.send_reset(h2::Reason::CANCEL);
        drop(answer);
        while counts.cancelled.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}
