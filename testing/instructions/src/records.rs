//! What is recorded of a request, and how a worker gets a new snapshot.

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Arc;

use leno_model::{AppProtocol, NamespacedName, SpiffeId};
use leno_runtime::mailbox::mailbox;
use leno_telemetry::metrics::{Direction, EdgeMemo, EdgeRef, Metrics, Outcome};
use leno_telemetry::{RemoteSpan, Span};

/// A finished request on an edge that is known.
pub fn metrics() -> Box<dyn FnMut()> {
    let metrics = Metrics::default();
    let (worker, memo) = (metrics.worker(), EdgeMemo::default());
    let service = NamespacedName::new("shop", "web").unwrap();
    let caller = SpiffeId::new("spiffe://mesh.leno/ns/shop/sa/caller").unwrap();
    let route: Arc<str> = "default".into();
    let mut nanos = 1_000_u64;
    Box::new(move || {
        let edge = EdgeRef {
            direction: Direction::Inbound,
            source: Some(&caller),
            service: Some(&service),
            destination: None,
            route: Some(&route),
            protocol: Some(AppProtocol::Http),
        };
        let cells = memo.get(&worker, black_box(edge));
        drop(black_box(cells.begin()));
        nanos = nanos % 50_000_000 + 977;
        cells.finished(Outcome::new(Some(200), None, None), nanos);
        cells.bytes_in(0);
        cells.bytes_out(1024);
        black_box(&metrics);
    })
}

/// The caller's span is read, and ours written for who comes next.
pub fn trace_span() -> Box<dyn FnMut()> {
    const CALLER: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    Box::new(move || {
        let remote = RemoteSpan::parse([black_box(CALLER)]);
        let span = Span::child_of(remote.as_ref(), || black_box(4711));
        assert!(span.parent.is_some());
        black_box(span.traceparent());
    })
}

/// From the control thread's mailbox to the worker: what the worker pays between two events. What is under way is judged
/// again besides, which depends on how much that is.
pub fn snapshot_swap() -> Box<dyn FnMut()> {
    let (sender, mut receiver) = mailbox::<Arc<Vec<u64>>>();
    let versions = [Arc::new(vec![1_u64; 100]), Arc::new(vec![2_u64; 100])];
    let current = RefCell::new(Arc::clone(&versions[0]));
    let mut turn = 0_usize;
    Box::new(move || {
        turn += 1;
        assert!(sender.put(Arc::clone(&versions[turn % 2])));
        let next = receiver.take().expect("put just now");
        drop(black_box(current.replace(next)));
    })
}
