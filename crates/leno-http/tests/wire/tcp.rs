//! Raw TCP through a server side and a client side, as two proxies would pass it on.

use std::net::SocketAddr;
use std::time::Duration;

use leno_http::{Method, Refusal, Request, RequestHead, Response, ServerSettings, tcp};
use leno_model::Reason;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::support::{End, Frames, Raw, data, run};

/// A relay to `target`; the address to call.
async fn relay(target: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (io, _) = listener.accept().await.unwrap();
            tokio::task::spawn_local(async move {
                let head = RequestHead::new(Method::Connect, "db", "db:5432");
                let settings = ServerSettings::default();
                let handler = |request: Request| async move {
                    tcp::send(target, request, Duration::from_secs(2)).await.map_err(Refusal::from)
                };
                tcp::serve(io, &settings, head, handler).await;
            });
        }
    });
    address
}

#[test]
fn the_server_speaks_first_and_each_side_ends_on_its_own() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = relay(listener.local_addr().unwrap()).await;
        let mut client = Raw::connect(address).await;
        let mut server = Raw(listener.accept().await.unwrap().0);
        server.send("220 hello").await;
        client.read_until("hello").await;
        client.send("first").await;
        server.read_until("first").await;
        // The client ends; the server's answer still comes.
        client.0.shutdown().await.unwrap();
        assert_eq!(server.read_all().await, "");
        server.send("second").await;
        client.read_until("second").await;
        drop(server);
        assert_eq!(client.read_all().await, "");
    });
}

#[test]
fn the_server_may_end_first() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = relay(listener.local_addr().unwrap()).await;
        let mut client = Raw::connect(address).await;
        let mut server = Raw(listener.accept().await.unwrap().0);
        server.0.shutdown().await.unwrap();
        assert_eq!(client.read_all().await, "");
        client.send("still here").await;
        client.0.shutdown().await.unwrap();
        assert_eq!(server.read_all().await, "still here");
    });
}

#[test]
fn resets_travel_both_ways() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = relay(listener.local_addr().unwrap()).await;
        for is_client in [true, false] {
            let client = Raw::connect(address).await;
            let server = Raw(listener.accept().await.unwrap().0);
            let (resets, mut feels) = if is_client { (client, server) } else { (server, client) };
            resets.reset();
            assert!(feels.is_reset().await, "client resets: {is_client}");
        }
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut refused = Raw::connect(relay(free).await).await;
        assert!(refused.is_reset().await);
    });
}

#[test]
fn a_stream_that_breaks_off_is_no_finished_stream() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let body = Frames::new(vec![data("half")], End::Error).body();
        let head = RequestHead::new(Method::Connect, "db", "db:1");
        let mut response = tcp::send(target, Request::new(head, body), Duration::from_secs(2)).await.unwrap();
        let mut server = Raw(listener.accept().await.unwrap().0);
        assert_eq!(response.body.next().await.unwrap().unwrap_err().reason, Reason::UpstreamReset);
        drop(response);
        assert!(server.is_reset().await);
    });
}

#[test]
fn a_gigabyte_is_not_needed_to_see_that_nothing_piles_up() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = relay(listener.local_addr().unwrap()).await;
        let mut client = Raw::connect(address).await;
        let server = Raw(listener.accept().await.unwrap().0);
        // The server does not read: after the sockets' buffers, writing stops.
        let mut sent = 0;
        while let Ok(Ok(length)) =
            tokio::time::timeout(Duration::from_millis(50), client.0.write(&[b'x'; 65_536])).await
        {
            sent += length;
            assert!(sent < 64 << 20, "64 MB piled up somewhere");
        }
        drop(server);
    });
}

#[test]
fn a_refusal_resets() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = Raw::connect(listener.local_addr().unwrap()).await;
        let (io, _) = listener.accept().await.unwrap();
        let head = RequestHead::new(Method::Connect, "db", "db:1");
        let settings = ServerSettings::default();
        tcp::serve(io, &settings, head, |_| async { Err::<Response, _>(Refusal::new(Reason::DeniedByPolicy, "")) })
            .await;
        assert!(client.is_reset().await);
    });
}
