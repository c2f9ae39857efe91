//! One end of a multiplexed connection, of the hop or of HTTP/2, with a driver that does everything a driver can do.

use std::fmt::Debug;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use leno_http::body::Frame;
use leno_http::mux::limits::{Budget, WORKER_BUDGET};
use leno_http::mux::{Engine, HeadPart, ProtocolError, Side, StreamKey, Wire};
use leno_model::Reason;

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// What the driver needs to know of a protocol.
pub trait Spoken: Wire<Request: Debug, Response: Debug> {
    /// A new end.
    fn engine(side: Side, budget: Rc<Budget>) -> Engine<Self>;
    /// What a peer says first, to an end of that side.
    fn greeting(side: Side) -> Vec<u8>;
    /// Appends a request's head.
    fn put_request(out: &mut Vec<u8>);
    /// Appends a response's head.
    fn put_response(out: &mut Vec<u8>);
    /// Ends the connection for what the peer did.
    fn close_for(engine: &mut Engine<Self>, error: &ProtocolError);
    /// Asserts that these are whole frames.
    fn check_frames(out: &[u8], is_first: bool);
    /// A request that was accepted.
    fn check_request(_: &Self::Request) {}
    /// A response's head.
    fn check_response(_: &Self::Response) {}
}

/// One end, and what an outsider would have seen of it.
struct End<W: Spoken> {
    engine: Engine<W>,
    budget: Rc<Budget>,
    streams: Vec<StreamKey>,
    bodies: Vec<Vec<u8>>,
    seen: Vec<String>,
    is_over: bool,
    has_produced: bool,
}

impl<W: Spoken> End<W> {
    fn new(options: u8) -> Self {
        let budget = Rc::new(Budget::default());
        let side = if options & 1 == 0 { Side::Termination } else { Side::Origination };
        let mut engine = W::engine(side, Rc::clone(&budget));
        // Most inputs begin behind the greeting; a quarter says it themselves.
        if options & 6 != 6 {
            engine.receive(&W::greeting(side), Duration::ZERO).expect("a fine greeting");
        }
        let mut streams = Vec::new();
        if side == Side::Origination {
            for n in 0..3 {
                streams.extend(engine.open(
                    |out| {
                        W::put_request(out);
                        Ok(())
                    },
                    n == 0,
                ));
            }
        }
        let bodies = vec![Vec::new(); streams.len()];
        Self { engine, budget, streams, bodies, seen: Vec::new(), is_over: false, has_produced: false }
    }

    fn receive(&mut self, bytes: &[u8], now: Duration) {
        if self.is_over {
            return;
        }
        if let Err(error) = self.engine.receive(bytes, now) {
            self.seen.push(error.to_string());
            W::close_for(&mut self.engine, &error);
            self.is_over = true;
        }
    }

    /// Reads everything that can be read and answers what came.
    fn act(&mut self, options: u8) {
        while let Some(accepted) = self.engine.next_accepted() {
            W::check_request(&accepted.head);
            self.seen.push(format!("{:?} {}", accepted.head, accepted.is_ended));
            if options & 8 != 0 {
                let _ = self.engine.send_head(accepted.key, false, |out| {
                    W::put_response(out);
                    Ok(())
                });
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
            let (HeadPart::Interim(head) | HeadPart::Final(head, _)) = &part;
            W::check_response(head);
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
        W::check_frames(&out, !self.has_produced && self.engine.side() == Side::Origination);
        self.has_produced = true;
        assert!(self.budget.held() <= WORKER_BUDGET);
        out
    }
}

/// What an end gives its owner and its peer.
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
pub fn observe<'a, W: Spoken>(options: u8, pieces: impl Iterator<Item = &'a [u8]>) -> Observed {
    let mut end = End::<W>::new(options);
    pieces.for_each(|piece| end.receive(piece, Duration::ZERO));
    let answered = end.produce();
    end.act(0);
    Observed { seen: end.seen, bodies: end.bodies, answered }
}

/// Any bytes, cut in two ways, do the same to an end, and whatever it answers is well-formed.
///
/// Input: one byte of options, one that says how many bytes of a cutting pattern follow, the pattern, the peer's frames.
pub fn run<W: Spoken>(data: &[u8]) {
    let [options, count, rest @ ..] = data else { return };
    let (pattern, bytes) = rest.split_at(usize::from(*count).min(rest.len()).min(8));
    let whole = observe::<W>(*options, std::iter::once(bytes));
    let pieces = observe::<W>(*options, crate::cut(bytes, pattern));
    assert_eq!(whole, pieces, "the cut decides what is seen");

    let mut busy = End::<W>::new(*options);
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
