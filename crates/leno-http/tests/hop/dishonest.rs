//! Peers with a valid certificate that write heads no reader of ours would have let through.

use std::cell::RefCell;
use std::rc::Rc;

use leno_http::hop::frame::{self, Kind};
use leno_http::hop::{Connection, HopSettings, Registry, StreamKind};
use leno_http::{Body, InterimSink, Response};
use leno_model::Reason;
use leno_net::tls::{ALPN_HOP, Buffer, TlsSession};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::mesh::{Mesh, Server, get, meta, ok, on_worker, small, until};

const SMUGGLED: [&str; 8] = [
    "content-length: 5",
    "Transfer-Encoding: chunked",
    "host: other",
    "connection: close",
    "keep-alive: 1",
    "upgrade: h2c",
    "proxy-connection: close",
    "a: 1\r\nb: 2\0",
];

/// Frames by hand over a real session.
struct Raw {
    io: TcpStream,
    tls: TlsSession,
    plain: Vec<u8>,
}

impl Raw {
    fn new(io: TcpStream, tls: TlsSession) -> Self {
        Self { io, tls, plain: Vec::new() }
    }

    async fn send(&mut self, kind: Kind, flags: u8, stream: u32, payload: &[u8]) {
        let mut bytes = Vec::new();
        frame::put(&mut bytes, kind, flags, stream, payload);
        self.tls.write(&bytes).unwrap();
        self.flush().await;
    }

    async fn hello(&mut self) {
        self.send(Kind::Hello, 0, 0, &[0, 1, 0, 1]).await;
    }

    async fn flush(&mut self) {
        let mut sealed = Buffer::new();
        self.tls.take_tls(&mut sealed);
        self.io.write_all(&sealed).await.unwrap();
    }

    /// The next frame of `kind` on `stream`; others are passed over.
    async fn next(&mut self, kind: Kind, stream: u32) -> Vec<u8> {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            while self.plain.len() >= frame::HEADER {
                let length =
                    usize::from(self.plain[0]) << 16 | usize::from(self.plain[1]) << 8 | usize::from(self.plain[2]);
                if self.plain.len() < frame::HEADER + length {
                    break;
                }
                let found: Vec<u8> = self.plain.drain(..frame::HEADER + length).collect();
                if found[3] == kind as u8 && found[5..9] == stream.to_be_bytes() {
                    return found[frame::HEADER..].to_vec();
                }
            }
            let n = self.io.read(&mut buffer).await.unwrap();
            assert!(n > 0, "the peer closed the connection: {:?}", String::from_utf8_lossy(&self.plain));
            let mut opened = Buffer::new();
            self.tls.read_tls(&buffer[..n], &mut opened).unwrap();
            self.plain.extend_from_slice(&opened);
            self.flush().await;
        }
    }
}

#[test]
fn a_request_that_frames_or_names_another_host_is_refused_alone() {
    on_worker(async {
        let mesh = Mesh::new();
        let handled = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&handled);
        let server = Server::start(&mesh, move |_, _, request| {
            let seen = Rc::clone(&seen);
            async move {
                seen.borrow_mut().push(request.head.target.clone());
                match request.body.collect(1000).await {
                    Ok(_) => Ok(ok(Body::Full("small".into()))),
                    Err(error) => Err(leno_http::Refusal::new(error.reason, error.detail.to_string())),
                }
            }
        })
        .await;
        let io = TcpStream::connect(server.address).await.unwrap();
        let mut peer = Raw::new(io, mesh.session(&mesh.context("web")).unwrap());
        peer.hello().await;
        let mut stream = 1;
        let heads = SMUGGLED.map(|line| format!("POST / h=x l=*\r\n{line}\r\n")).into_iter().chain(
            [
                "GET http://evil/ h=x\r\n",
                "GET x h=x\r\n",
                "GET * h=x\r\n",
                "GET / h=a@b\r\n",
                "GET / u=h2c\r\n",
                "GET /\t\r\n",
            ]
            .map(String::from),
        );
        for head in heads {
            peer.send(Kind::Head, frame::END, stream, format!("shop/cart 80 http http\r\n{head}").as_bytes()).await;
            let reset = peer.next(Kind::Reset, stream).await;
            assert!(reset.starts_with(b"malformed_request"), "{head:?}: {}", String::from_utf8_lossy(&reset));
            stream += 2;
        }
        assert!(handled.borrow().is_empty(), "no handler saw any of them");
        for line in &SMUGGLED {
            peer.send(Kind::Head, 0, stream, b"shop/cart 80 http http\r\nPOST /ok h=x l=*\r\n").await;
            peer.send(Kind::Trailers, 0, stream, format!("{line}\r\n").as_bytes()).await;
            let reset = peer.next(Kind::Reset, stream).await;
            assert!(reset.starts_with(b"malformed_request"), "{line:?}: {}", String::from_utf8_lossy(&reset));
            stream += 2;
        }
        // The connection has gone through all of it, and takes an honest request.
        peer.send(Kind::Head, frame::END, stream, b"shop/cart 80 http http\r\nGET /ok?q h=x\r\na: 1\r\n").await;
        assert!(peer.next(Kind::Head, stream).await.starts_with(b"200"));
        assert_eq!(handled.borrow().last().unwrap(), "/ok?q");
    });
}

/// A termination that answers every stream with `frames` and then goes on reading; returns how the origination took it.
async fn answered(mesh: &Rc<Mesh>, frames: Vec<(Kind, u8, String)>) -> (Result<Response, Reason>, Vec<u16>, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = TlsSession::server(&mesh.context("shop"), &[ALPN_HOP]).unwrap();
    let peer = tokio::task::spawn_local(async move {
        let mut peer = Raw::new(listener.accept().await.unwrap().0, tls);
        peer.next(Kind::Hello, 0).await;
        peer.hello().await;
        peer.next(Kind::Head, 1).await;
        // A stream that has ended both ways is not reset any more.
        let is_over = frames.iter().any(|f| f.0 == Kind::Trailers);
        for (kind, flags, payload) in frames {
            peer.send(kind, flags, 1, payload.as_bytes()).await;
        }
        let reset = if is_over { Vec::new() } else { peer.next(Kind::Reset, 1).await };
        (reset, peer)
    });
    let io = TcpStream::connect(address).await.unwrap();
    let tls = mesh.session(&mesh.context("web")).unwrap();
    let hop = Connection::start(io, tls, HopSettings::origination(), &Registry::new());
    hop.ready().await.unwrap();
    let (seen, see) = (Rc::new(RefCell::new(Vec::new())), Rc::new(RefCell::new(Vec::new())));
    let sink = Rc::clone(&see);
    let mut request = get("/");
    request.interim = Some(InterimSink::new(move |head| sink.borrow_mut().push(head.status)));
    let mut outcome = hop.open(&meta(StreamKind::Http), request).await.map_err(|e| e.reason);
    if let Ok(response) = &mut outcome {
        while let Some(frame) = response.body.next().await {
            if let Err(error) = frame {
                outcome = Err(error.reason);
                break;
            }
        }
    }
    let (reset, _peer) = peer.await.unwrap();
    // The stream is over, the connection is not.
    assert!(!hop.is_draining());
    seen.borrow_mut().extend_from_slice(&see.borrow());
    (outcome, seen.take(), reset)
}

#[test]
fn a_response_that_frames_is_a_protocol_error_of_the_termination() {
    on_worker(async {
        let mesh = Mesh::new();
        let fine = || (Kind::Head, 0, "200 l=*\r\n".to_owned());
        let cases = SMUGGLED.iter().flat_map(|line| {
            [
                vec![(Kind::Head, 0, format!("200 l=*\r\n{line}\r\n"))],
                vec![(Kind::Info, 0, format!("103\r\n{line}\r\n")), fine()],
                vec![fine(), (Kind::Trailers, 0, format!("{line}\r\n"))],
            ]
        });
        // A final response in INFO, and the reverse, would leave the caller with one response too many or too few.
        let swapped = [
            vec![(Kind::Info, 0, "200 l=*\r\n".to_owned()), fine()],
            vec![(Kind::Head, 0, "103\r\n".to_owned())],
            vec![(Kind::Head, 0, "200 u=websocket\r\n".to_owned())],
        ];
        for frames in cases.chain(swapped) {
            let what = format!("{frames:?}");
            let ended = frames.iter().any(|f| f.0 == Kind::Trailers);
            let (outcome, interim, reset) = answered(&mesh, frames).await;
            assert_eq!(outcome.map(|r| r.head.status), Err(Reason::UpstreamProtocolError), "{what}");
            assert!(interim.is_empty(), "{what}");
            assert!(ended || reset.starts_with(b"upstream_protocol_error"), "{what}");
        }
    });
}

#[test]
fn what_an_application_says_about_its_connection_stays_there() {
    on_worker(async {
        let mesh = Mesh::new();
        let server = Server::start(&mesh, |_, _, _| async {
            let mut response = ok(Body::Full("small".into()));
            response.head.fields.append("Host", b"odd");
            response.head.fields.append("connection", b"close");
            response.head.fields.append("x-a", b"1");
            Ok(response)
        })
        .await;
        let (hop, _) = mesh.connect(&server).await;
        let response = hop.open(&meta(StreamKind::Http), get("/")).await.unwrap();
        let names: Vec<_> = response.head.fields.iter().map(|(name, _)| name.to_vec()).collect();
        assert_eq!(names, [b"x-a"]);
        small(&hop).await;
        until("the streams are over", || hop.streams() <= 1).await;
    });
}
