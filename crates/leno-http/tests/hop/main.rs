//! Two real ends of a hop over loopback TCP and real TLS.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod dishonest;
mod mesh;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use leno_http::hop::{Connection, HopSettings, Pool, Registry, StreamKind};
use leno_http::mux::limits::{MAX_STREAMS, SEND_QUEUE, STREAM_WINDOW};
use leno_http::{Body, Fields, Frame, InterimSink, Refusal, Response, ResponseHead, StreamError};
use leno_model::Reason;
use leno_net::tls::{ALPN_HOP, Buffer, TlsSession};
use mesh::{CHUNK, Mesh, Server, Silence, Source, data, fed, get, meta, now, ok, on_worker, post, small, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const CONNECT: Duration = Duration::from_secs(2);

#[test]
fn a_request_with_everything_arrives_and_so_does_its_response() {
    on_worker(async {
        let mesh = Mesh::new();
        let server = Server::start(&mesh, |meta, peer, request| async move {
            assert_eq!((&meta.service[..], meta.port), (&b"shop/cart"[..], 80));
            assert_eq!(request.head.fields.get("x-a"), Some(&b"1"[..]));
            let interim = request.interim.expect("the hop carries 1xx");
            let mut early = ResponseHead::new(103);
            early.fields.append("link", b"</a.css>");
            interim.send(early);
            let mut response = ok(request.body);
            response.head.fields.append("x-caller", peer.identity.spiffe.as_str().as_bytes());
            Ok(response)
        })
        .await;
        let (hop, _) = mesh.connect(&server).await;
        assert_eq!(hop.peer().unwrap().identity.spiffe, mesh.id("shop"));
        assert_eq!(hop.peer().unwrap().handshake.group, "X25519MLKEM768");
        let (feed, body) = fed();
        let mut request = post("/echo?q=1", body);
        request.head.fields.append("X-A", b"1");
        let seen = Rc::new(RefCell::new(Vec::new()));
        let see = Rc::clone(&seen);
        request.interim = Some(InterimSink::new(move |head| see.borrow_mut().push(head.status)));
        let mut response = hop.open(&meta(StreamKind::Http), request).await.unwrap();
        assert_eq!(response.head.fields.get_str("x-caller"), Some(mesh.id("web").as_str()));
        assert_eq!(*seen.borrow(), [103]);
        // Both directions at once, as gRPC does.
        for text in ["one", "two"] {
            feed.send(Ok(data(text))).await.unwrap();
            assert_eq!(response.body.next().await, Some(Ok(data(text))));
        }
        feed.send(Ok(Frame::Trailers([("grpc-status", &b"0"[..])].into_iter().collect::<Fields>()))).await.unwrap();
        let Some(Ok(Frame::Trailers(trailers))) = response.body.next().await else { panic!("trailers") };
        assert_eq!(trailers.get("grpc-status"), Some(&b"0"[..]));
        assert_eq!(response.body.next().await, None);
        until("both ends forget the stream", || {
            hop.streams() == 0 && server.registry.hops().iter().all(|h| h.streams == 0)
        })
        .await;
    });
}

#[test]
fn requests_at_the_same_time_share_one_hop() {
    on_worker(async {
        let mesh = Mesh::new();
        let server = Server::start(&mesh, |_, _, request| async move {
            Ok(ok(Body::Full(Bytes::copy_from_slice(request.head.path()))))
        })
        .await;
        let context = mesh.context("web");
        let pool = Rc::new(Pool::new(Registry::new()));
        let tasks: Vec<_> = (0..300)
            .map(|n| {
                let (mesh, pool, context, address) =
                    (Rc::clone(&mesh), Rc::clone(&pool), context.clone(), server.address);
                tokio::task::spawn_local(async move {
                    let settings = HopSettings::origination();
                    let hop = pool.get(&"key", address, CONNECT, &settings, || mesh.session(&context)).await.unwrap();
                    let path = format!("/{n}");
                    let response = hop.open(&meta(StreamKind::Http), get(&path)).await.unwrap();
                    assert_eq!(response.body.collect(100).await.unwrap().unwrap(), path);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!((pool.len(), server.drains.borrow().len()), (1, 1));
    });
}

/// The handler of the bulk tests: `/bulk` gives 64 MiB, `/upload` counts what it gets, everything else is small.
async fn bulk_server(mesh: &Mesh, given: Rc<Cell<usize>>) -> Server {
    Server::start(mesh, move |_, _, request| {
        let given = Rc::clone(&given);
        async move {
            match request.head.path() {
                b"/bulk" => {
                    let is_dropped = Rc::default();
                    Ok(ok(Body::custom(Source { left: BULK, given, is_dropped })))
                }
                b"/upload" => {
                    let mut body = request.body;
                    let mut sum = 0;
                    while let Some(frame) = body.next().await {
                        if let Ok(Frame::Data(bytes)) = frame {
                            sum += bytes.len();
                        }
                    }
                    Ok(ok(Body::Full(sum.to_string().into())))
                }
                _ => Ok(ok(Body::Full(Bytes::from_static(b"small")))),
            }
        }
    })
    .await
}

const BULK: usize = 64 << 20;
/// What may be between the source of a body and its reader: the window, the sender's queue, and the chunk at each side.
const BETWEEN: usize = STREAM_WINDOW as usize + SEND_QUEUE + 2 * CHUNK;

#[test]
fn a_bulk_body_beside_small_requests_keeps_memory_flat() {
    on_worker(async {
        let mesh = Mesh::new();
        let given = Rc::new(Cell::new(0));
        let server = bulk_server(&mesh, Rc::clone(&given)).await;
        let (hop, registry) = mesh.connect(&server).await;
        let mut bulk = hop.open(&meta(StreamKind::Http), get("/bulk")).await.unwrap().body;
        let taken = Rc::new(Cell::new(0));
        let reader = {
            let (taken, given) = (Rc::clone(&taken), Rc::clone(&given));
            tokio::task::spawn_local(async move {
                let mut most = 0;
                while let Some(frame) = bulk.next().await {
                    let Ok(Frame::Data(bytes)) = frame else { panic!("{frame:?}") };
                    taken.set(taken.get() + bytes.len());
                    most = most.max(given.get() - taken.get());
                }
                most
            })
        };
        let upload = {
            let hop = Rc::clone(&hop);
            tokio::task::spawn_local(async move {
                let response = hop.open(&meta(StreamKind::Http), post("/upload", Source::of(BULK).0)).await.unwrap();
                response.body.collect(100).await.unwrap().unwrap()
            })
        };
        let (mut count, mut held) = (0, 0);
        while !reader.is_finished() {
            small(&hop).await;
            held = held.max(registry.bytes_held()).max(server.registry.bytes_held());
            count += 1;
        }
        assert!(count > 50, "only {count} small requests came through beside the bulk bodies");
        assert_eq!(taken.get(), BULK);
        let most = reader.await.unwrap();
        assert!(most <= BETWEEN && held <= 2 * STREAM_WINDOW as usize, "{most} bytes between, {held} held");
        assert_eq!(upload.await.unwrap(), BULK.to_string());
        assert_eq!(registry.bytes_held() + server.registry.bytes_held(), 0);
    });
}

#[test]
fn a_stalled_reader_stops_its_own_source_and_nobody_else() {
    on_worker(async {
        let mesh = Mesh::new();
        let given = Rc::new(Cell::new(0));
        let server = bulk_server(&mesh, Rc::clone(&given)).await;
        let (hop, registry) = mesh.connect(&server).await;
        let mut bulk = hop.open(&meta(StreamKind::Http), get("/bulk")).await.unwrap().body;
        until("the window is full", || registry.bytes_held() == STREAM_WINDOW as usize).await;
        for _ in 0..100 {
            small(&hop).await;
        }
        assert!(given.get() <= BETWEEN, "{} bytes were taken from the source", given.get());
        let mut sum = 0;
        while let Some(Ok(Frame::Data(bytes))) = bulk.next().await {
            sum += bytes.len();
        }
        assert_eq!((sum, registry.bytes_held()), (BULK, 0));
    });
}

#[test]
fn whoever_goes_away_takes_the_other_side_along() {
    on_worker(async {
        let mesh = Mesh::new();
        let (source, _, source_gone) = Source::of(BULK);
        let handler_gone = Rc::new(Cell::new(false));
        let (source, waiting) = (Rc::new(RefCell::new(Some(source))), Rc::clone(&handler_gone));
        let reached = Rc::new(Cell::new(false));
        let reach = Rc::clone(&reached);
        let server = Server::start(&mesh, move |_, _, request| {
            let (source, waiting, reach) = (Rc::clone(&source), Rc::clone(&waiting), Rc::clone(&reach));
            async move {
                if request.head.path() == b"/bulk" {
                    return Ok(ok(source.borrow_mut().take().unwrap()));
                }
                let _guard = Silence(waiting);
                reach.set(true);
                std::future::pending().await
            }
        })
        .await;
        let (hop, registry) = mesh.connect(&server).await;
        // The response's body is dropped: its source goes, and so does the request's.
        let request_gone = Rc::new(Cell::new(false));
        let silence = Body::custom(Silence(Rc::clone(&request_gone)));
        let mut response = hop.open(&meta(StreamKind::Http), post("/bulk", silence)).await.unwrap();
        assert!(matches!(response.body.next().await, Some(Ok(Frame::Data(_)))));
        drop(response);
        until("both sources are gone", || source_gone.get() && request_gone.get()).await;
        // The whole call is dropped: the handler goes.
        let call = {
            let hop = Rc::clone(&hop);
            tokio::task::spawn_local(async move { hop.open(&meta(StreamKind::Http), get("/wait")).await })
        };
        until("the handler runs", || reached.get()).await;
        call.abort();
        until("the handler is gone", || handler_gone.get()).await;
        until("no stream is left", || hop.streams() == 0 && server.registry.hops()[0].streams == 0).await;
        assert_eq!(registry.bytes_held(), 0);
    });
}

#[test]
fn a_broken_request_body_ends_the_handlers_body_with_its_reason() {
    on_worker(async {
        let mesh = Mesh::new();
        let seen = Rc::new(RefCell::new(Vec::new()));
        let see = Rc::clone(&seen);
        let server = Server::start(&mesh, move |_, _, request| {
            let see = Rc::clone(&see);
            async move {
                let mut body = request.body;
                tokio::task::spawn_local(async move {
                    while let Some(frame) = body.next().await {
                        see.borrow_mut().push(frame.map_err(|error| error.reason));
                    }
                });
                std::future::pending().await
            }
        })
        .await;
        let (hop, _) = mesh.connect(&server).await;
        let (feed, body) = fed();
        feed.send(Ok(data("half"))).await.unwrap();
        let call = {
            let hop = Rc::clone(&hop);
            tokio::task::spawn_local(async move { hop.open(&meta(StreamKind::Http), post("/", body)).await })
        };
        until("the handler reads", || seen.borrow().len() == 1).await;
        feed.send(Err(Reason::DownstreamReset)).await.unwrap();
        let error = call.await.unwrap().unwrap_err();
        assert_eq!((error.reason, error.unprocessed), (Reason::DownstreamReset, false));
        until("the handler's body broke off", || seen.borrow().len() == 2).await;
        assert_eq!(*seen.borrow(), [Ok(data("half")), Err(Reason::DownstreamReset)]);
    });
}

#[test]
fn tcp_streams_end_each_direction_on_its_own() {
    on_worker(async {
        let mesh = Mesh::new();
        let server = Server::start(&mesh, |meta, _, request| async move {
            assert_eq!(meta.kind, StreamKind::Tcp);
            let (feed, answer) = fed();
            let mut body = request.body;
            tokio::task::spawn_local(async move {
                feed.send(Ok(data("hello "))).await.unwrap();
                let mut all = Vec::new();
                while let Some(Ok(Frame::Data(bytes))) = body.next().await {
                    all.extend_from_slice(&bytes);
                }
                // Only after the caller's side has ended.
                feed.send(Ok(Frame::Data(all.into()))).await.unwrap();
            });
            Ok(ok(answer))
        })
        .await;
        let (hop, _) = mesh.connect(&server).await;
        let (feed, body) = fed();
        let mut response = hop.open(&meta(StreamKind::Tcp), post("", body)).await.unwrap();
        // The server speaks first.
        assert_eq!(response.body.next().await, Some(Ok(data("hello "))));
        feed.send(Ok(data("wor"))).await.unwrap();
        feed.send(Ok(data("ld"))).await.unwrap();
        drop(feed);
        assert_eq!(response.body.collect(100).await.unwrap().unwrap(), "world");
    });
}

#[test]
fn an_early_answer_stops_the_upload() {
    on_worker(async {
        let mesh = Mesh::new();
        let server = Server::start(&mesh, |_, _, _| async move {
            let mut response = ok(Body::Full(Bytes::from_static(b"too large")));
            response.head.status = 413;
            Ok(response)
        })
        .await;
        let (hop, _) = mesh.connect(&server).await;
        let (source, given, is_dropped) = Source::of(BULK);
        let response = hop.open(&meta(StreamKind::Http), post("/", source)).await.unwrap();
        assert_eq!(response.head.status, 413);
        assert_eq!(response.body.collect(100).await.unwrap().unwrap(), "too large");
        until("the upload's source is gone", || is_dropped.get()).await;
        assert!(given.get() < BULK / 2);
        until("no stream is left", || hop.streams() == 0).await;
    });
}

#[test]
fn refusals_arrive_as_reasons_or_as_the_status_they_name() {
    on_worker(async {
        let mesh = Mesh::new();
        let server = Server::start(&mesh, |_, _, request| async move {
            let mut refusal = Refusal::new(Reason::DeniedByPolicy, "policy p");
            refusal.unprocessed = request.head.path() != b"/processed";
            refusal.status = (request.head.path() == b"/teapot").then_some(418);
            Err::<Response, _>(refusal)
        })
        .await;
        let (hop, _) = mesh.connect(&server).await;
        let error = hop.open(&meta(StreamKind::Http), get("/")).await.unwrap_err();
        assert_eq!(error, StreamError::unprocessed(Reason::DeniedByPolicy, "policy p"));
        assert!(!hop.open(&meta(StreamKind::Http), get("/processed")).await.unwrap_err().unprocessed);
        let teapot = hop.open(&meta(StreamKind::Http), get("/teapot")).await.unwrap();
        assert_eq!((teapot.head.status, teapot.head.fields.get_str("leno-reason")), (418, Some("denied_by_policy")));
    });
}

#[test]
fn hops_that_are_told_to_drain_under_load_fail_no_request() {
    on_worker(async {
        let mesh = Mesh::new();
        let server = Server::start(&mesh, |_, _, request| async move {
            // Half of the bodies are still being sent when the drain begins.
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            Ok(ok(request.body))
        })
        .await;
        let context = mesh.context("web");
        let (pool, is_over) = (Rc::new(Pool::new(Registry::new())), Rc::new(Cell::new(false)));
        let load: Vec<_> = (0..16)
            .map(|_| {
                let (mesh, pool, context) = (Rc::clone(&mesh), Rc::clone(&pool), context.clone());
                let (address, is_over) = (server.address, Rc::clone(&is_over));
                tokio::task::spawn_local(async move {
                    let mut done = 0;
                    while !is_over.get() {
                        let settings = HopSettings::origination();
                        let hop = pool.get(&0, address, CONNECT, &settings, || mesh.session(&context)).await.unwrap();
                        let body = Source::of(40_000).0;
                        let response =
                            hop.open(&meta(StreamKind::Http), post("/", body)).await.expect("no request fails");
                        assert_eq!(response.body.collect(50_000).await.unwrap().unwrap().len(), 40_000);
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        for drained in 0..10 {
            until("the next hop is there", || server.drains.borrow().len() > drained).await;
            let before = server.registry.stats().bytes_received();
            until("it is in use", || server.registry.stats().bytes_received() > before + 500_000).await;
            server.drains.borrow()[drained].drain();
            until("it is closed", || server.outcomes.borrow().len() > drained).await;
        }
        is_over.set(true);
        for task in load {
            assert!(task.await.unwrap() > 5);
        }
        assert!(server.outcomes.borrow().iter().all(Result::is_ok), "{:?}", server.outcomes.borrow());
    });
}

#[test]
fn a_revoked_peer_loses_its_hops_and_learns_why() {
    on_worker(async {
        let mesh = Mesh::new();
        let server = Server::start(&mesh, |_, _, _| std::future::pending::<Result<Response, Refusal>>()).await;
        let (hop, _) = mesh.connect(&server).await;
        let call = {
            let hop = Rc::clone(&hop);
            tokio::task::spawn_local(async move { hop.open(&meta(StreamKind::Http), get("/")).await })
        };
        until("the stream is open", || server.registry.hops().iter().any(|h| h.streams == 1)).await;
        let other = mesh.id("other");
        assert_eq!(server.registry.close_if(|p| p.identity.spiffe == other, Reason::CertificateRevoked, ""), 0);
        let web = mesh.id("web");
        assert_eq!(server.registry.close_if(|p| p.identity.spiffe == web, Reason::CertificateRevoked, "serial 7"), 1);
        let error = call.await.unwrap().unwrap_err();
        assert_eq!((error.reason, error.unprocessed), (Reason::CertificateRevoked, false));
        hop.closed().await;
        until("the termination has closed", || server.outcomes.borrow().len() == 1).await;
    });
}

#[test]
fn a_hop_whose_leaf_ends_takes_no_new_streams_and_finishes_the_old() {
    on_worker(async {
        let mesh = Mesh::new();
        let server = Server::start(&mesh, |_, _, request| async move { Ok(ok(request.body)) }).await;
        let registry = Registry::new();
        let io = TcpStream::connect(server.address).await.unwrap();
        let tls = mesh.session(&mesh.context("web")).unwrap();
        let settings = HopSettings { local_not_after: Some(now() + 1), ..HopSettings::origination() };
        let hop = Connection::start(io, tls, settings, &registry);
        hop.ready().await.unwrap();
        let (feed, body) = fed();
        let mut old = hop.open(&meta(StreamKind::Http), post("/", body)).await.unwrap();
        while hop.has_room() {
            tokio::task::yield_now().await;
        }
        let refused = hop.open(&meta(StreamKind::Http), get("/")).await.unwrap_err();
        assert_eq!((refused.reason, refused.unprocessed), (Reason::RefusedStream, true));
        feed.send(Ok(data("still here"))).await.unwrap();
        assert_eq!(old.body.next().await, Some(Ok(data("still here"))));
        drop(feed);
        assert_eq!(old.body.next().await, None);
        hop.closed().await;
        until("the termination has closed", || server.outcomes.borrow().len() == 1).await;
        assert_eq!(server.outcomes.borrow()[0], Ok(()));
    });
}

#[test]
fn an_old_hop_is_replaced_and_finishes_its_streams() {
    on_worker(async {
        let mesh = Mesh::new();
        let server = Server::start(&mesh, |_, _, request| async move { Ok(ok(request.body)) }).await;
        let (pool, context) = (Pool::new(Registry::new()), mesh.context("web"));
        let settings = HopSettings { max_age: Duration::from_secs(1), ..HopSettings::origination() };
        let old = pool.get(&0, server.address, CONNECT, &settings, || mesh.session(&context)).await.unwrap();
        let (feed, body) = fed();
        let mut response = old.open(&meta(StreamKind::Tcp), post("", body)).await.unwrap();
        until("it takes no new streams", || old.is_draining()).await;
        let new = pool.get(&0, server.address, CONNECT, &settings, || mesh.session(&context)).await.unwrap();
        assert!(!Rc::ptr_eq(&old, &new));
        feed.send(Ok(data("still here"))).await.unwrap();
        assert_eq!(response.body.next().await, Some(Ok(data("still here"))));
        drop(feed);
        assert_eq!(response.body.next().await, None);
        old.closed().await;
    });
}

#[test]
fn an_idle_hop_closes_and_the_next_request_makes_another() {
    on_worker(async {
        let mesh = Mesh::new();
        let server = Server::start(&mesh, |_, _, _| async { Ok(ok(Body::Full(Bytes::from_static(b"small")))) }).await;
        let (pool, context) = (Pool::new(Registry::new()), mesh.context("web"));
        let settings = HopSettings { idle_timeout: Duration::from_millis(250), ..HopSettings::origination() };
        for hops in 1..=2 {
            let hop = pool.get(&0, server.address, CONNECT, &settings, || mesh.session(&context)).await.unwrap();
            small(&hop).await;
            hop.closed().await;
            assert_eq!((pool.len(), server.drains.borrow().len()), (0, hops));
        }
    });
}

#[test]
fn more_streams_than_one_hop_takes_open_another() {
    on_worker(async {
        let mesh = Mesh::new();
        let server = Server::start(&mesh, |_, _, _| std::future::pending::<Result<Response, Refusal>>()).await;
        let (pool, context) = (Rc::new(Pool::new(Registry::new())), mesh.context("web"));
        let calls: Vec<_> = (0..MAX_STREAMS + 10)
            .map(|_| {
                let (mesh, pool, context, address) =
                    (Rc::clone(&mesh), Rc::clone(&pool), context.clone(), server.address);
                tokio::task::spawn_local(async move {
                    let settings = HopSettings::origination();
                    let hop = pool.get(&0, address, CONNECT, &settings, || mesh.session(&context)).await.unwrap();
                    hop.open(&meta(StreamKind::Http), get("/")).await
                })
            })
            .collect();
        let open = || server.registry.hops().iter().map(|h| h.streams).sum::<u32>();
        until("all are open", || open() == MAX_STREAMS + 10).await;
        assert_eq!(pool.len(), 2);
        calls.iter().for_each(tokio::task::JoinHandle::abort);
        until("all are gone", || open() == 0).await;
    });
}

#[test]
fn a_hop_that_cannot_be_made_says_why_and_nothing_was_processed() {
    on_worker(async {
        let (mesh, foreign) = (Mesh::new(), Mesh::new());
        let handler = |_, _, _| async { Ok(ok(Body::Empty)) };
        let server = Server::start(&mesh, handler).await;
        let impostor = Server::with(mesh.context("other"), HopSettings::termination(), handler).await;
        let stranger = Server::with(foreign.context("shop"), HopSettings::termination(), handler).await;
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let talker = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let talker_address = talker.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            let mut io = talker.accept().await.unwrap().0;
            let _ = io.write_all(b"SSH-2.0-OpenSSH_9\r\n").await;
            let _ = io.read_to_end(&mut Vec::new()).await;
        });
        let settings = HopSettings::origination();
        let web = mesh.context("web");
        for (what, address, context, expected) in [
            ("nobody listens", closed, &web, Reason::ConnectRefused),
            ("silence", silent.local_addr().unwrap(), &web, Reason::UpstreamTlsFailed),
            ("another protocol", talker_address, &web, Reason::UpstreamTlsFailed),
            ("another identity", impostor.address, &web, Reason::PeerIdentityMismatch),
            ("another authority", stranger.address, &web, Reason::PeerUntrusted),
            ("we are the strangers", server.address, &foreign.context("web"), Reason::PeerUntrusted),
        ] {
            let is_verdict = matches!(expected, Reason::PeerIdentityMismatch | Reason::PeerUntrusted);
            // Only silence is waited out.
            let mut settings = settings.clone();
            if what == "silence" {
                settings.handshake_timeout = Duration::from_millis(300);
            }
            let pool = Pool::new(Registry::new());
            let failure = pool.get(&0, address, CONNECT, &settings, || mesh.session(context)).await.unwrap_err();
            assert_eq!(failure.is_verdict, is_verdict, "{what}: {failure}");
            let error = failure.error;
            assert_eq!((error.reason, error.unprocessed), (expected, true), "{what}: {error}");
            assert!(pool.is_empty());
        }
    });
}

#[test]
fn a_termination_survives_whatever_connects() {
    on_worker(async {
        let mesh = Mesh::new();
        let settings = HopSettings { handshake_timeout: Duration::from_secs(1), ..HopSettings::termination() };
        let handler = |_, _, _| async { Ok(ok(Body::Full(Bytes::from_static(b"small")))) };
        let server = Server::with(mesh.context("shop"), settings, handler).await;
        let outcome = |n: usize| server.outcomes.borrow()[n].clone().map_err(|e| e.reason);
        let (hop, _) = mesh.connect(&server).await;
        for (n, (bytes, expected)) in [
            (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], Reason::PlaintextRefused),
            (b"\x16\x03\x01\x02\x00garbage that is no client hello, but long enough", Reason::HeadTimeout),
            (b"", Reason::HeadTimeout),
        ]
        .into_iter()
        .enumerate()
        {
            let mut io = TcpStream::connect(server.address).await.unwrap();
            io.write_all(bytes).await.unwrap();
            // Cut off, not left open.
            let _ = io.read_to_end(&mut Vec::new()).await;
            until("the termination is through with it", || server.outcomes.borrow().len() > n).await;
            assert_eq!(outcome(n), Err(expected), "{:?}", String::from_utf8_lossy(bytes));
            small(&hop).await;
        }
        // A member that breaks the rules: HEAD before HELLO.
        let mut io = TcpStream::connect(server.address).await.unwrap();
        let mut tls = mesh.session(&mesh.context("web")).unwrap();
        tls.write(&[0, 0, 1, 1, 1, 0, 0, 0, 1, b'x']).unwrap();
        let (mut plain, mut buffer) = (Buffer::new(), vec![0; 16 * 1024]);
        loop {
            let mut sealed = Buffer::new();
            tls.take_tls(&mut sealed);
            let _ = io.write_all(&sealed).await;
            match io.read(&mut buffer).await {
                Ok(n) if n > 0 => tls.read_tls(&buffer[..n], &mut plain).unwrap(),
                _ => break,
            };
        }
        assert!(plain.windows(17).any(|w| w == b"malformed_request"), "it is told why");
        until("the termination is through with it", || server.outcomes.borrow().len() == 4).await;
        assert_eq!(outcome(3), Err(Reason::MalformedRequest));
        assert_eq!(server.registry.stats().protocol_errors(), 1);
        small(&hop).await;
    });
}

#[test]
fn a_lost_connection_breaks_its_streams_off() {
    on_worker(async {
        let mesh = Mesh::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (registry, context) = (Registry::new(), mesh.context("shop"));
        let serving = tokio::task::spawn_local(async move {
            let io = listener.accept().await.unwrap().0;
            let tls = TlsSession::server(&context, &[ALPN_HOP]).unwrap();
            let handler = |_, _, _| async { Ok(ok(Source::of(1 << 30).0)) };
            let never = leno_http::DrainWatch::never();
            leno_http::hop::serve(io, tls, HopSettings::termination(), &registry, handler, never).await
        });
        let registry = Registry::new();
        let io = TcpStream::connect(address).await.unwrap();
        let tls = TlsSession::client(&mesh.context("web"), Arc::from([mesh.id("shop")]), "x.y", &[ALPN_HOP]).unwrap();
        let hop = Connection::start(io, tls, HopSettings::origination(), &registry);
        hop.ready().await.unwrap();
        let mut body = hop.open(&meta(StreamKind::Http), get("/")).await.unwrap().body;
        assert!(matches!(body.next().await, Some(Ok(Frame::Data(_)))));
        // As when the termination's process is killed.
        serving.abort();
        let error = loop {
            match body.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error,
                None => panic!("a broken body must not look finished"),
            }
        };
        assert_eq!(error.reason, Reason::UpstreamReset);
        hop.closed().await;
        assert_eq!((hop.streams(), registry.bytes_held()), (0, 0));
        assert!(hop.open(&meta(StreamKind::Http), get("/")).await.unwrap_err().unprocessed);
    });
}
