//! The hop: frames, the state of both ends, heads as text.

use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use leno_http::body::Frame;
use leno_http::hop::limits::{Budget, WORKER_BUDGET};
use leno_http::hop::state::{Engine, HeadPart, Side, StreamKey};
use leno_http::hop::{StreamKind, StreamMeta, frame, head_text};
use leno_http::{HeadError, Method, RequestHead};
use leno_model::{AppProtocol, Reason};

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// One end with a driver that does everything a driver can do, and keeps what an outsider would have seen.
struct End {
    engine: Engine,
    budget: Rc<Budget>,
    streams: Vec<StreamKey>,
    bodies: Vec<Vec<u8>>,
    seen: Vec<String>,
    is_over: bool,
}

impl End {
    fn new(options: u8) -> Self {
        let budget = Rc::new(Budget::default());
        let side = if options & 1 == 0 { Side::Termination } else { Side::Origination };
        let mut engine = Engine::new(side, Rc::clone(&budget));
        let mut hello = Vec::new();
        frame::Hello {
            oldest: frame::VERSION,
            newest: frame::VERSION,
            stream_window: 64 * 1024,
            connection_window: 128 * 1024,
            max_streams: 16,
        }
        .put(&mut hello);
        // Most inputs begin behind HELLO; a quarter says it themselves.
        if options & 6 != 6 {
            engine.receive(&hello, Duration::ZERO).expect("a fine HELLO");
        }
        let mut streams = Vec::new();
        if side == Side::Origination {
            for n in 0..3 {
                streams.extend(engine.open(|out| put(out, b"request"), n == 0));
            }
        }
        let bodies = vec![Vec::new(); streams.len()];
        Self { engine, budget, streams, bodies, seen: Vec::new(), is_over: false }
    }

    fn receive(&mut self, bytes: &[u8], now: Duration) {
        if self.is_over {
            return;
        }
        if let Err(error) = self.engine.receive(bytes, now) {
            self.seen.push(error.to_string());
            self.engine.close(Reason::UpstreamProtocolError, &error.to_string());
            self.is_over = true;
        }
    }

    /// Reads everything that can be read and answers what came.
    fn act(&mut self, options: u8) {
        while let Some(accepted) = self.engine.next_accepted() {
            self.seen.push(format!("{:?} {}", accepted.text, accepted.is_ended));
            if options & 8 != 0 {
                let _ = self.engine.send_head(accepted.key, false, |out| put(out, b"200"));
                self.engine.send_data(accepted.key, Bytes::from_static(&[7; 20_000]));
                self.engine.send_end(accepted.key, None);
            }
            self.streams.push(accepted.key);
            self.bodies.push(Vec::new());
        }
        for index in 0..self.streams.len() {
            self.read(index);
        }
        if options & 16 != 0
            && let Some(key) = self.streams.first()
        {
            self.engine.release(*key);
        }
    }

    fn read(&mut self, index: usize) {
        let key = self.streams[index];
        while let Poll::Ready(part) = self.engine.poll_head(key, &cx()) {
            let is_end = !matches!(part, Ok(HeadPart::Interim(_)));
            let Ok(part) = part else { break };
            self.seen.push(format!("{index} {part:?}"));
            if is_end {
                break;
            }
        }
        loop {
            match self.engine.poll_body(key, &cx()) {
                Poll::Ready(Some(Ok(Frame::Data(data)))) => self.bodies[index].extend_from_slice(&data),
                Poll::Ready(Some(Ok(Frame::Trailers(fields)))) => self.seen.push(format!("{index} {fields:?}")),
                Poll::Ready(Some(Err(_)) | None) | Poll::Pending => return,
            }
        }
    }

    /// What the other side would get; it must be frames.
    fn produce(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.engine.produce(&mut out, 1 << 20);
        let mut rest = &out[..];
        while let Some(taken) = frame::take(&mut rest).expect("our own frames are fine") {
            assert!(taken.kind.is_some());
        }
        assert!(rest.is_empty(), "no half frames");
        assert!(self.budget.held() <= WORKER_BUDGET);
        out
    }
}

/// What an end of a hop gives its owner and its peer.
#[derive(Debug, PartialEq, Eq)]
pub struct Observed {
    /// Heads, trailers and the protocol error, in order.
    pub seen: Vec<String>,
    /// The bytes of each stream.
    pub bodies: Vec<Vec<u8>>,
    /// What went to the peer.
    pub answered: Vec<u8>,
}

/// Feeds a peer's bytes in pieces: to a termination if `options` is even, else to an origination with three streams. Nothing
/// is done in between, because that may change what the peer is allowed.
pub fn observe<'a>(options: u8, pieces: impl Iterator<Item = &'a [u8]>) -> Observed {
    let mut end = End::new(options);
    pieces.for_each(|piece| end.receive(piece, Duration::ZERO));
    let answered = end.produce();
    end.act(0);
    Observed { seen: end.seen, bodies: end.bodies, answered }
}

fn put(out: &mut Vec<u8>, text: &[u8]) -> Result<(), HeadError> {
    out.extend_from_slice(text);
    Ok(())
}

/// Any bytes, cut in two ways, do the same to an end of a hop, and whatever it answers is well-formed.
///
/// Input: one byte of options, one that says how many bytes of a cutting pattern follow, the pattern, the peer's frames.
pub fn run(data: &[u8]) {
    let [options, count, rest @ ..] = data else { return };
    let (pattern, bytes) = rest.split_at(usize::from(*count).min(rest.len()).min(8));
    let (whole, pieces) = (observe(*options, std::iter::once(bytes)), observe(*options, crate::cut(bytes, pattern)));
    assert_eq!(whole, pieces, "the cut decides what is seen");

    let mut busy = End::new(*options);
    for (step, piece) in crate::cut(bytes, pattern).enumerate() {
        let now = Duration::from_secs(step as u64);
        busy.receive(piece, now);
        busy.act(*options);
        busy.produce();
        if !busy.is_over && busy.engine.tick(now).is_err() {
            busy.engine.close(Reason::UpstreamProtocolError, "no sign of life");
            busy.is_over = true;
        }
    }
    busy.engine.drain(Reason::Draining, Duration::ZERO);
    busy.produce();
    busy.engine.fail(Reason::UpstreamReset, "lost");
    busy.act(0);
    for key in std::mem::take(&mut busy.streams) {
        busy.engine.release(key);
    }
    assert_eq!((busy.engine.open_streams(), busy.budget.held()), (0, 0), "something was left behind");
    assert!(busy.engine.is_drained());
    drop(busy.engine);
    assert_eq!(busy.budget.granted(), 0, "windows grew and never fell back");
}

/// What our writer makes of a head, the far end's reader takes for the same head. A head that cannot be written is refused
/// to the caller, which is fine.
pub(crate) fn same_over_the_hop(head: &RequestHead) {
    // A tunnel crosses the hop as a TCP stream, never as this.
    if head.method == Method::Connect {
        return;
    }
    let meta = StreamMeta {
        service: Bytes::from_static(b"shop/web"),
        port: 80,
        kind: StreamKind::Http,
        protocol: AppProtocol::Http,
        attempt: 0,
        deadline_ms: None,
    };
    let mut text = Vec::new();
    if head_text::put_request(&mut text, &meta, head).is_err() {
        return;
    }
    let (_, read) = match head_text::parse_request(&Bytes::from(text.clone())) {
        Ok(read) => read,
        Err(error) => panic!("written but not read: {error}: {:?}", String::from_utf8_lossy(&text)),
    };
    let mut expected = head.clone();
    expected.fields.remove_if(|name, _| leno_http::hygiene::is_owned_by_writers(name));
    expected.upgrade = read.upgrade.clone();
    assert_eq!(read, expected, "{:?}", String::from_utf8_lossy(&text));
    assert_eq!(read.upgrade.is_some(), head.upgrade.is_some());
}

/// A peer's heads as text: whatever is accepted is written and read again as the same, also as HTTP/1.
pub fn heads(data: &[u8]) {
    let [which, text @ ..] = data else { return };
    let text = Bytes::copy_from_slice(text);
    match which % 4 {
        0 => {
            let Ok((meta, head)) = head_text::parse_request(&text) else { return };
            let (namespace, name) = meta.service_parts();
            assert!(!namespace.is_empty() && !name.is_empty());
            let mut again = Vec::new();
            head_text::put_request(&mut again, &meta, &head).expect("what we accept we can say");
            assert_eq!(head_text::parse_request(&Bytes::from(again)).expect("and read"), (meta.clone(), head.clone()));
            if meta.kind == StreamKind::Http {
                crate::h1::same_when_forwarded(&head);
            }
        }
        1 | 2 => {
            let parse = if which % 4 == 1 { head_text::parse_response } else { head_text::parse_interim };
            let Ok(head) = parse(&text) else { return };
            let mut again = Vec::new();
            head_text::put_response(&mut again, &head).expect("what we accept we can say");
            assert_eq!(parse(&Bytes::from(again)).expect("and read"), head);
        }
        _ => {
            if let Ok(fields) = head_text::parse_trailers(text) {
                assert!(fields.iter().all(|(name, _)| !leno_http::hygiene::forbidden_in_trailers(name)));
            }
        }
    }
}
