//! A closed loop over one hop, to look at with a profiler: `hop_load CALLERS SECONDS BYTES`. Termination and origination are
//! threads of one process; the CPU time is that of both.

#![expect(clippy::unwrap_used, reason = "a tool for people: a failure may as well end it here")]

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use leno_http::hop::{Connection, HopSettings, Registry, StreamKind, StreamMeta, serve};
use leno_http::{Body, BodyLength, DrainWatch, Method, Refusal, Request, RequestHead, Response, ResponseHead};
use leno_identity::ca::Authority;
use leno_identity::{KeyPair, TrustBundle, csr};
use leno_model::{AppProtocol, Name, SpiffeId, TrustDomain};
use leno_net::tls::{ALPN_HOP, TlsContext, TlsIdentity, TlsSession};
use leno_runtime::{Clock, SystemClock};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

fn main() {
    let arguments: Vec<u64> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    let &[callers, seconds, bytes] = &arguments[..] else { panic!("hop_load CALLERS SECONDS BYTES") };
    let domain = TrustDomain::default();
    let now = SystemClock::new().unix_seconds();
    let mut authority = Authority::in_memory(&domain, now).unwrap();
    let id = SpiffeId::workload(&domain, &Name::new("shop").unwrap(), &Name::new("web").unwrap());
    let mut context = || {
        let key = KeyPair::generate().unwrap();
        let request = csr::verify(&csr::make(&key).unwrap(), &id).unwrap();
        let issued = authority.issue(&request, &id, 3600, now).unwrap();
        let bundle = Arc::new(TrustBundle::single(1, domain.clone(), authority.roots()));
        TlsContext::new(TlsIdentity::new(issued.chain, &key).unwrap(), bundle, 1, SystemClock::shared()).unwrap()
    };
    let (ours, theirs) = (context(), context());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || worker(terminate(listener, theirs, bytes)));
    worker(originate(address, ours, id, callers, seconds));
}

fn worker(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, work);
}

async fn terminate(listener: std::net::TcpListener, context: TlsContext, bytes: u64) {
    let listener = TcpListener::from_std(listener).unwrap();
    let answer = Bytes::from(vec![b'x'; usize::try_from(bytes).unwrap()]);
    let (io, _) = listener.accept().await.unwrap();
    let tls = TlsSession::server(&context, &[ALPN_HOP]).unwrap();
    let handler = move |_, _, _| {
        let mut head = ResponseHead::new(200);
        head.length = BodyLength::Exact(answer.len() as u64);
        head.fields.append("content-type", b"text/plain");
        let response = Response::new(head, Body::Full(answer.clone()));
        async { Ok::<_, Refusal>(response) }
    };
    // A task, as in the proxy: the root future of a runtime pays an extra look at the driver for every wake.
    let serving = tokio::task::spawn_local(async move {
        serve(io, tls, HopSettings::termination(), &Registry::new(), handler, DrainWatch::never()).await
    });
    let _ = serving.await;
}

async fn originate(address: SocketAddr, context: TlsContext, peer: SpiffeId, callers: u64, seconds: u64) {
    let io = TcpStream::connect(address).await.unwrap();
    let tls = TlsSession::client(&context, Arc::from([peer]), "web.shop", &[ALPN_HOP]).unwrap();
    let hop = Connection::start(io, tls, HopSettings::origination(), &Registry::new());
    hop.ready().await.unwrap();
    let done = Rc::new(Cell::new(0_u64));
    let (start, cpu) = (Instant::now(), cpu_ticks());
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (hop, done) = (Rc::clone(&hop), Rc::clone(&done));
            tokio::task::spawn_local(async move {
                while start.elapsed() < Duration::from_secs(seconds) {
                    one(&hop).await;
                    done.set(done.get() + 1);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let rate = done.get() as f64 / start.elapsed().as_secs_f64();
    // A tick is 10 ms on every Linux that we know (USER_HZ).
    let micros = (cpu_ticks() - cpu) as f64 * 10_000.0 / done.get() as f64;
    println!("{callers} callers: {rate:.0} requests/s, {micros:.2} µs CPU per request, both ends together");
}

async fn one(hop: &Connection) {
    let meta = StreamMeta {
        service: Bytes::from_static(b"shop/web"),
        port: 80,
        kind: StreamKind::Http,
        protocol: AppProtocol::Http,
        attempt: 0,
        deadline_ms: None,
    };
    let mut head = RequestHead::new(Method::Get, Bytes::from_static(b"web.shop"), Bytes::from_static(b"/index.html"));
    head.fields.append("user-agent", b"hop_load/1");
    head.fields.append("accept", b"*/*");
    let mut body = hop.open(&meta, Request::new(head, Body::Empty)).await.unwrap().body;
    while let Some(frame) = body.next().await {
        frame.unwrap();
    }
}

/// User and system time of this process, fields 14 and 15 of `/proc/self/stat`.
fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    after_name.split_whitespace().skip(11).take(2).map(|f| f.parse::<u64>().unwrap()).sum()
}
