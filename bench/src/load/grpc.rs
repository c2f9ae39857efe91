//! gRPC load: unary calls, or round trips of messages on streams that stay open; closed loop, one thread.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use tokio::net::TcpStream;
use tokio::task::{LocalSet, spawn_local};

use super::Common;
use crate::app::grpc::{ANSWER, message};
use crate::outcome::{Outcome, Window};

/// Bytes of a message that the generator sends.
const ASKED: u32 = 128;
/// Windows larger than what is under way, so that the generator never is what holds back.
const WINDOW: u32 = 4 << 20;
/// How often the loop looks whether the window begins or ends; both are told exactly when they were.
const TURN: Duration = Duration::from_millis(2);

/// Options of gRPC load.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Calls under way at once on each connection
    #[arg(long, default_value_t = 1)]
    streams: u32,
    /// Round trips of messages on open streams instead of calls
    #[arg(long)]
    streaming: bool,
}

/// Shared by the tasks of one thread.
type Shared = Rc<RefCell<Window>>;

/// Runs it to its end.
pub fn run(options: Options) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let window: Shared = Rc::new(RefCell::new(options.common.window()));
        for _ in 0..options.common.connections {
            let sender = connect(options.common.target).await?;
            for _ in 0..options.streams {
                let (sender, window, options) = (sender.clone(), window.clone(), options.clone());
                spawn_local(async move {
                    let ended = if options.streaming {
                        stream(sender, &options, &window).await
                    } else {
                        calls(sender, &options, &window).await
                    };
                    if ended.is_err() {
                        window.borrow_mut().failed();
                    }
                });
            }
        }
        while window.borrow_mut().goes_on(Instant::now()) {
            tokio::time::sleep(TURN).await;
        }
        let over = window.replace(Window::new(Duration::ZERO, Duration::ZERO, Vec::new()));
        Ok(over.finish())
    })
}

async fn connect(target: SocketAddr) -> anyhow::Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let (sender, connection) = builder.handshake(stream).await?;
    spawn_local(async move {
        // Its end is seen by the calls on it.
        let _ = connection.await;
    });
    Ok(sender)
}

fn request(target: SocketAddr, method: &str) -> anyhow::Result<Request<()>> {
    let request = Request::post(format!("http://{target}/bench.Echo/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    Ok(request)
}

async fn calls(mut sender: SendRequest<Bytes>, options: &Options, window: &Shared) -> anyhow::Result<()> {
    let (asked, expected) = (message(ASKED), ANSWER as usize + 5);
    loop {
        sender = sender.ready().await?;
        let begun = Instant::now();
        let (response, mut send) = sender.send_request(request(options.common.target, "Unary")?, false)?;
        send.send_data(asked.clone(), true)?;
        let fine = answer(response, expected).await;
        let mut window = window.borrow_mut();
        match fine {
            Ok(()) => window.succeeded(begun.elapsed().as_nanos() as u64),
            Err(_) => window.failed(),
        }
    }
}

/// The whole of an answer, which must be as long as expected and end with `grpc-status: 0`.
async fn answer(response: ResponseFuture, expected: usize) -> anyhow::Result<()> {
    let response = response.await?;
    ensure!(response.status() == 200, "status {}", response.status());
    let mut body = response.into_body();
    let mut length = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        length += data.len();
        body.flow_control().release_capacity(data.len())?;
    }
    let trailers = body.trailers().await?.context("no trailers")?;
    ensure!(length == expected, "{length} bytes, not {expected}");
    ensure!(trailers.get("grpc-status").is_some_and(|s| s == "0"), "{trailers:?}");
    Ok(())
}

async fn stream(mut sender: SendRequest<Bytes>, options: &Options, window: &Shared) -> anyhow::Result<()> {
    let sent = message(ASKED);
    sender = sender.ready().await?;
    let (response, mut send) = sender.send_request(request(options.common.target, "Stream")?, false)?;
    // The first message goes before the answer's head is awaited: some proxies hold the head back until then.
    let mut begun = Instant::now();
    send.send_data(sent.clone(), false)?;
    let mut body = response.await?.into_body();
    let mut missing = sent.len();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        missing = missing.checked_sub(data.len()).context("more came back than was sent")?;
        if missing == 0 {
            window.borrow_mut().succeeded(begun.elapsed().as_nanos() as u64);
            begun = Instant::now();
            send.send_data(sent.clone(), false)?;
            missing = sent.len();
        }
    }
    anyhow::bail!("the stream ended")
}
