//! What a request allocates in the steady state: two real data planes, counted on their worker threads.
//!
//! `LENO_TRACE_ALLOCATIONS=1` with `--nocapture` prints where the allocations of a request are made, as a failure does.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

#[path = "support/mesh.rs"]
#[expect(dead_code, reason = "shared by several tests")]
mod mesh;

use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use leno_model::AppProtocol;
use leno_sys::allocation::Observed;
use mesh::Pair;

#[global_allocator]
static ALLOCATOR: Observed = Observed::new(seen);

/// Allocations and their bytes on threads that count.
static COUNT: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
static IS_TRACING: AtomicBool = AtomicBool::new(false);
static TRACES: Mutex<Vec<(usize, Backtrace)>> = Mutex::new(Vec::new());

thread_local! {
    /// This thread is the test's, not a proxy's, or is tracing an allocation just now.
    static IS_LEFT_OUT: Cell<bool> = const { Cell::new(false) };
}

fn seen(bytes: usize) {
    if IS_LEFT_OUT.get() {
        return;
    }
    COUNT.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    if IS_TRACING.load(Ordering::Relaxed) {
        IS_LEFT_OUT.set(true);
        let trace = Backtrace::force_capture();
        TRACES.lock().unwrap().push((bytes, trace));
        IS_LEFT_OUT.set(false);
    }
}

/// An application that answers every request with the same bytes and allocates nothing meanwhile.
fn app(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut io in listener.incoming().flatten() {
            std::thread::spawn(move || {
                IS_LEFT_OUT.set(true);
                let (mut buffer, mut filled) = ([0; 16 * 1024], 0);
                while let Ok(length @ 1..) = io.read(&mut buffer[filled..]) {
                    filled += length;
                    if buffer[..filled].ends_with(b"\r\n\r\n") {
                        filled = 0;
                        if io.write_all(answer).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

/// One request after the other on one connection; `length` is what the answer's body ends with.
fn call(io: &mut TcpStream, request: &[u8], times: usize) {
    let mut buffer = [0; 16 * 1024];
    for _ in 0..times {
        io.write_all(request).unwrap();
        let mut filled = 0;
        while !buffer[..filled].ends_with(b"$") {
            let length = io.read(&mut buffer[filled..]).unwrap();
            assert!(length > 0, "the proxy closed the connection: {}", String::from_utf8_lossy(&buffer[..filled]));
            filled += length;
        }
        assert!(buffer.starts_with(b"HTTP/1.1 200"));
    }
}

/// The nearest frames of our own crates, or of whoever else is on a worker's stack.
fn site(trace: &Backtrace) -> String {
    let text = trace.to_string();
    let frames: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.starts_with("at ")).collect();
    let names = frames.iter().filter_map(|l| l.split_once(": ")).map(|(_, name)| name);
    let is_ours =
        |n: &&str| n.contains("leno_") && !n.contains("leno_sys") || n.contains("bytes::") || n.contains("tokio::");
    let mut found: Vec<&str> = names.filter(is_ours).take(5).collect();
    found.retain(|n| !n.is_empty());
    found.join(" < ")
}

fn report(requests: usize) -> String {
    let mut sites: BTreeMap<(String, usize), usize> = BTreeMap::new();
    for (bytes, trace) in TRACES.lock().unwrap().iter() {
        *sites.entry((site(trace), *bytes)).or_default() += 1;
    }
    let mut sorted: Vec<_> = sites.into_iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let line = |((site, bytes), count): ((String, usize), usize)| {
        format!("{:6.2} × {bytes:5} bytes  {site}\n", count as f64 / requests as f64)
    };
    sorted.into_iter().map(line).collect()
}

/// What one request may allocate, at both proxies together: nothing.
const MOST: f64 = 0.0;

#[test]
fn a_request_in_the_steady_state_allocates_nothing() {
    IS_LEFT_OUT.set(true);
    let mut answer =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nserver: app\r\ncontent-length: 1024\r\n\r\n".to_vec();
    answer.extend_from_slice(&[b'x'; 1023]);
    answer.push(b'$');
    let pair = Pair::new(app(answer.leak()), AppProtocol::Http);
    let mut io = TcpStream::connect(pair.local()).unwrap();
    io.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let request = b"GET /index.html HTTP/1.1\r\nhost: web.shop\r\nuser-agent: test/1\r\naccept: */*\r\n\r\n";
    call(&mut io, request, 500);

    const REQUESTS: usize = 2000;
    let before = (COUNT.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
    call(&mut io, request, REQUESTS);
    let count = (COUNT.load(Ordering::Relaxed) - before.0) as f64 / REQUESTS as f64;
    let bytes = (BYTES.load(Ordering::Relaxed) - before.1) as f64 / REQUESTS as f64;
    println!("{count:.2} allocations and {bytes:.0} bytes per request at both proxies together");
    // Less than a half is the proxies' ticks, once a second.
    let is_fine = count <= MOST + 0.5;
    if is_fine && std::env::var_os("LENO_TRACE_ALLOCATIONS").is_none() {
        return;
    }
    IS_TRACING.store(true, Ordering::Relaxed);
    call(&mut io, request, 20);
    IS_TRACING.store(false, Ordering::Relaxed);
    println!("{}", report(20));
    assert!(is_fine, "{count:.2} allocations per request; at most {MOST} are due. The list is above.");
}
