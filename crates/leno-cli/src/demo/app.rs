//! One service of the demo's shop: answers over HTTP/1.1, and calls others through its local upstream ports.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::Failure;
use crate::arguments::DemoAppArguments;

/// A service called by this one takes at most this long; the shop must answer even when a part of it hangs.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// An answer of another service larger than this is cut; the shop's own are a few hundred bytes.
const ANSWER_LIMIT: usize = 64 << 10;

struct App {
    name: String,
    version: String,
    calls: Vec<(String, SocketAddr)>,
    fail_percent: u32,
    latency: Duration,
}

/// Serves until the process is ended.
pub fn run(arguments: &DemoAppArguments) -> Result<ExitCode, Failure> {
    let calls = arguments.calls.iter().map(|name| upstream(name)).collect::<Result<Vec<_>, Failure>>()?;
    let app = Rc::new(App {
        name: arguments.name.clone(),
        version: arguments.version_label.clone(),
        calls,
        fail_percent: arguments.fail_percent,
        latency: Duration::from_millis(arguments.latency_ms),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(arguments.listen).await?;
        loop {
            let (socket, _) = listener.accept().await?;
            let app = Rc::clone(&app);
            tokio::task::spawn_local(async move {
                let service = hyper::service::service_fn(move |request| {
                    let app = Rc::clone(&app);
                    async move { Ok::<_, Infallible>(app.answer(request).await) }
                });
                // A connection that breaks is the caller's business; nobody reads a demo service's log.
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
            });
        }
    })
}

/// Where a service is reached: the local port that `leno run` announces in the environment.
fn upstream(name: &str) -> Result<(String, SocketAddr), Failure> {
    let variable = format!("LENO_UPSTREAM_{}_DEFAULT", name.to_ascii_uppercase().replace('-', "_"));
    let address = std::env::var(&variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Failure::Usage(format!("--call {name}: {variable} holds no address; start under leno run")))?;
    Ok((name.to_owned(), address))
}

impl App {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency.mul_f64(0.5 + f64::from(chance(100)) / 100.0)).await;
        }
        if chance(100) < self.fail_percent {
            return respond(
                StatusCode::SERVICE_UNAVAILABLE,
                &json!({"service": self.name, "error": "this instance is ill"}),
            );
        }
        let trace = request.headers().get("traceparent").cloned();
        let mut answers = serde_json::Map::new();
        let mut status = StatusCode::OK;
        for (name, address) in &self.calls {
            let call = call(*address, name, request.uri().path(), trace.as_ref());
            let answer = match tokio::time::timeout(CALL_LIMIT, call).await {
                Ok(Ok((200, answer))) => answer,
                Ok(Ok((code, answer))) => {
                    status = StatusCode::BAD_GATEWAY;
                    json!({"status": code, "answer": answer})
                }
                Ok(Err(error)) => {
                    status = StatusCode::BAD_GATEWAY;
                    json!({"error": error.to_string()})
                }
                Err(_) => {
                    status = StatusCode::GATEWAY_TIMEOUT;
                    json!({"error": "no answer in time"})
                }
            };
            answers.insert(name.clone(), answer);
        }
        respond(status, &json!({"service": self.name, "version": self.version, "calls": answers}))
    }
}

fn respond(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}

/// A GET through a local upstream port; the trace context is passed on so that one request is one trace.
pub async fn call(
    address: SocketAddr,
    host: &str,
    path: &str,
    trace: Option<&hyper::header::HeaderValue>,
) -> anyhow::Result<(u16, Value)> {
    let socket = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let driver = tokio::task::spawn_local(connection);
    let mut request = Request::get(path).header("host", host);
    if let Some(trace) = trace {
        request = request.header("traceparent", trace);
    }
    let response = sender.send_request(request.body(Full::<Bytes>::default())?).await?;
    let status = response.status().as_u16();
    let body = http_body_util::Limited::new(response.into_body(), ANSWER_LIMIT)
        .collect()
        .await
        .map_err(|e| anyhow::anyhow!("{e}"))?
        .to_bytes();
    driver.abort();
    Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}

/// A number below `bound`, for latency and failures of the demo only.
pub fn chance(bound: u32) -> u32 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u32::from_le_bytes(bytes) % bound.max(1),
        Err(_) => 0,
    }
}
