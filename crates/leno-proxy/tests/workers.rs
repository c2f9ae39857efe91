//! Several workers and many endpoints: who gets the sockets, who keeps which hops, and what each endpoint gets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

#[path = "support/app.rs"]
#[expect(dead_code, reason = "shared by several tests")]
mod app;
#[path = "support/client.rs"]
#[expect(dead_code, reason = "shared by several tests")]
mod client;
#[path = "support/mesh.rs"]
#[expect(dead_code, reason = "shared by several tests")]
mod mesh;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use leno_model::AppProtocol;
use leno_plan::{Algorithm, BalancePolicy, CallPolicy, Endpoint, Transport};
use leno_proxy::plane::Command;
use leno_proxy::settings::ListenAt;
use leno_telemetry::access_log::{LogTarget, LogWriter};
use serde_json::Value;

use app::App;
use client::Caller;
use mesh::{Member, Mesh, open_access, plan, settings};

const WORKERS: usize = 4;
const ENDPOINTS: usize = 1000;
/// Connections of local callers.
const CALLERS: usize = 64;
/// Requests of each of them.
const REQUESTS: usize = 400;

/// What each worker sees.
fn views(member: &Member) -> Vec<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ask = |worker: &tokio::sync::mpsc::WeakSender<Command>| {
        runtime.block_on(async {
            let (answer, view) = tokio::sync::oneshot::channel();
            worker.upgrade().unwrap().send(Command::View(answer)).await.unwrap();
            view.await.unwrap()
        })
    };
    member.plane.weak_workers().iter().map(ask).collect()
}

fn count(view: &Value, pointer: &str) -> usize {
    view.pointer(pointer).and_then(Value::as_array).map_or(0, Vec::len)
}

/// One terminating proxy that can be reached at a thousand loopback addresses, as a thousand instances.
fn endpoints(hop: SocketAddr) -> Vec<Arc<Endpoint>> {
    let endpoint = |n: usize| {
        let address = SocketAddr::from(([127, 1, (n / 250) as u8, (n % 250) as u8 + 1], hop.port()));
        let key: Arc<str> = format!("web-{n:04}").into();
        let transports = vec![Transport::Leno { addr: address, sni: key.clone() }];
        Arc::new(Endpoint { key, transports, zone: None, labels: Arc::default(), weight: 1 })
    };
    (0..ENDPOINTS).map(endpoint).collect()
}

#[test]
fn four_workers_share_a_thousand_endpoints() {
    // Both ends of every hop are in this process.
    let descriptors = leno_sys::raise_open_file_limit().unwrap();
    assert!(descriptors >= 4096, "{descriptors} descriptors are too few for {ENDPOINTS} hops with both ends");
    let application = App::http("web");
    let mut mesh = Mesh::new();
    let mut serving = settings("web", Some((application.address, AppProtocol::Http)), &[]);
    serving.hop = ListenAt::any(0);
    let mut server = Member::start(&mut mesh, serving);
    server.serves("web", application.address, AppProtocol::Http, open_access());

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let dropped = Arc::new(AtomicU64::new(0));
    let log = LogWriter::start(&LogTarget::File(file.clone()), Arc::clone(&dropped)).unwrap();
    let mut calling = settings("caller", None, &["web"]);
    calling.workers = WORKERS;
    let mut client = Member::start_logging(&mut mesh, calling, log.sender());
    let balance = BalancePolicy { algorithm: Algorithm::LeastRequest, ..BalancePolicy::default() };
    let mut web = plan("web", AppProtocol::Http, endpoints(server.hop));
    web.policy = Arc::new(CallPolicy { balance, ..CallPolicy::default() });
    client.calls(web);

    // At once: a socket counts on its worker from when it was handed over, not from when the worker gets to it.
    let local = client.upstreams[0];
    let mut callers: Vec<Caller> = (0..CALLERS).map(|_| Caller::new(local)).collect();
    for caller in &mut callers {
        let answer = caller.get("web", "/hello");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let connections: Vec<u64> = views(&client).iter().map(|v| v["connections"].as_u64().unwrap()).collect();
    assert_eq!(connections, [(CALLERS / WORKERS) as u64; WORKERS], "the least loaded worker gets the next");

    std::thread::scope(|scope| {
        for caller in &mut callers {
            scope.spawn(move || {
                for _ in 1..REQUESTS {
                    assert_eq!(caller.get("web", "/hello").status, 200);
                }
            });
        }
    });

    let views = views(&client);
    let hops: Vec<usize> = views.iter().map(|v| count(v, "/hops")).collect();
    assert!(log.flush(Duration::from_secs(20)), "the log is written");
    assert_eq!(dropped.load(Ordering::Relaxed), 0);
    let mut requests: BTreeMap<SocketAddr, usize> = BTreeMap::new();
    for line in std::fs::read_to_string(&file).unwrap().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        *requests.entry(record["endpoint"].as_str().unwrap().parse().unwrap()).or_default() += 1;
    }
    let (least, most) = (requests.values().min().unwrap(), requests.values().max().unwrap());
    let mean = (CALLERS * REQUESTS) as f64 / ENDPOINTS as f64;
    let variance = requests.values().map(|n| (*n as f64 - mean).powi(2)).sum::<f64>() / ENDPOINTS as f64;
    println!(
        "{WORKERS} workers, {ENDPOINTS} endpoints: {} hop connections ({hops:?}); requests per endpoint: {mean:.1} in the \
         mean, standard deviation {:.1} (by chance alone {:.1}), least {least}, most {most}",
        hops.iter().sum::<usize>(),
        variance.sqrt(),
        mean.sqrt()
    );
    assert_eq!(requests.values().sum::<usize>(), CALLERS * REQUESTS);
    assert_eq!(requests.len(), ENDPOINTS, "every endpoint has got requests");
    assert_eq!(hops, [ENDPOINTS / WORKERS; WORKERS], "one hop connection per endpoint in all");
    // By chance alone an endpoint is out of these bounds once in millions of runs.
    assert!(*least as f64 >= mean / 8.0 && *most as f64 <= mean * 3.0, "least {least}, most {most}, mean {mean}");
}
