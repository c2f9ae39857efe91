//! HTTP/2: frames, header blocks, the state of both ends, and heads as the hop and HTTP/1 would carry them on.

use std::net::SocketAddr;
use std::rc::Rc;

use leno_http::h2::Engine;
use leno_http::h2::wire::{self, Http2Wire};
use leno_http::mux::limits::Budget;
use leno_http::mux::{ProtocolError, Side, Wire};
use leno_http::{BodyLength, MAX_FIELDS, MAX_HEAD, Method, Refusal, RequestHead, ResponseHead, Version};

use crate::mux::{self, Observed, Spoken};

impl Spoken for Http2Wire {
    fn engine(side: Side, budget: Rc<Budget>) -> Engine {
        Engine::with_wire(side, budget, Self::new(side, 16))
    }

    fn greeting(side: Side) -> Vec<u8> {
        // What the other end of ours would say.
        let other = if side == Side::Termination { Side::Origination } else { Side::Termination };
        let mut out = Vec::new();
        Self::new(other, 16).put_greeting(&mut out);
        out
    }

    fn put_request(out: &mut Vec<u8>) {
        wire::put_request(out, &RequestHead::new(Method::Post, "web", "/"), address());
    }

    fn put_response(out: &mut Vec<u8>) {
        wire::put_response(out, &ResponseHead::new(200)).expect("a fine head");
    }

    fn close_for(engine: &mut Engine, error: &ProtocolError) {
        engine.close_for(error);
    }

    fn check_frames(out: &[u8], has_preface: bool) {
        let mut rest = if has_preface { out.strip_prefix(wire::PREFACE).expect("the preface is first") } else { out };
        // A client takes no preface.
        let mut reader = Self::new(Side::Origination, 1);
        while reader.take(&mut rest).expect("our own frames are fine").is_some() {}
        assert!(rest.is_empty(), "no half frames");
    }

    fn check_request(head: &Result<RequestHead, Refusal>) {
        let Ok(head) = head else { return };
        assert!(head.fields.len() <= MAX_FIELDS && head.fields.wire_len() <= 2 * MAX_HEAD);
        // What is forwarded must be the request that was judged, whichever protocol it goes on in.
        assert_eq!(again(head), *head);
        crate::hop::same_over_the_hop(head);
        if head.method != Method::Connect {
            crate::h1::same_when_forwarded(&RequestHead { version: Version::Http11, ..head.clone() });
        }
    }

    fn check_response(head: &ResponseHead) {
        assert!(head.fields.len() <= MAX_FIELDS);
        let mut out = Vec::new();
        wire::put_response(&mut out, head).expect("what we accept we can say");
    }
}

fn address() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 80))
}

/// A request that one end sends and the other takes.
fn again(head: &RequestHead) -> RequestHead {
    let mut client = Http2Wire::engine(Side::Origination, Rc::default());
    let mut server = Http2Wire::engine(Side::Termination, Rc::default());
    client.receive(&Http2Wire::greeting(Side::Origination), std::time::Duration::ZERO).expect("a fine greeting");
    let is_end = head.length == BodyLength::None;
    client
        .open(
            |out| {
                wire::put_request(out, head, address());
                Ok(())
            },
            is_end,
        )
        .expect("there is room");
    let mut bytes = Vec::new();
    client.produce(&mut bytes, 1 << 20);
    server.receive(&bytes, std::time::Duration::ZERO).expect("what we write we take");
    server.next_accepted().expect("a stream").head.expect("a head that was fine before")
}

/// See [`mux::observe`].
pub fn observe<'a>(options: u8, pieces: impl Iterator<Item = &'a [u8]>) -> Observed {
    mux::observe::<Http2Wire>(options, pieces)
}

/// See [`mux::run`].
pub fn run(data: &[u8]) {
    mux::run::<Http2Wire>(data);
}
