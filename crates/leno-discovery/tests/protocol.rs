//! What peers may not do, and how long is waited.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::time::{Duration, Instant};

use leno_discovery::limits;
use leno_discovery::proto::{self, ClientMessage, client_message, server_message};
use leno_discovery::session::{ClientSettings, Presence, View, server::printable};
use leno_discovery::{
    ClientEvent, ClientSession, CollectionName, Entry, Key, ProtocolError, ServerEvent, ServerSession,
};
use leno_model::Reason;

struct Nothing;
impl View for Nothing {
    fn presence(&self, _: &CollectionName) -> Presence {
        Presence::Missing
    }
    fn entry(&self, _: &CollectionName, _: &Key) -> Option<Entry> {
        None
    }
    fn versions(&self, _: &CollectionName) -> Vec<(Key, u64)> {
        Vec::new()
    }
}

fn client(kind: client_message::Kind) -> ClientMessage {
    ClientMessage { kind: Some(kind) }
}

fn hello(min: u32, max: u32) -> ClientMessage {
    client(client_message::Kind::Hello(proto::Hello { protocol_min: min, protocol_max: max, ..Default::default() }))
}

fn subscribe(collection: &str, have: usize) -> ClientMessage {
    let have = (0..have)
        .map(|n| proto::Have { key: Some(Key::new("Endpoint", "a", &n.to_string()).to_proto()), version: 1 })
        .collect();
    let subscribe = proto::Subscribe { collection: collection.to_owned(), subscription: 1, have };
    client(client_message::Kind::Subscribe(subscribe))
}

fn opened() -> ServerSession {
    let mut session = ServerSession::new(Instant::now());
    session.receive(hello(1, 1)).unwrap();
    session.welcome(proto::Welcome { protocol: 1, ..Default::default() });
    session
}

#[test]
fn a_stream_begins_with_one_hello() {
    let mut session = ServerSession::new(Instant::now());
    assert_eq!(session.receive(subscribe("mesh", 0)), Err(ProtocolError::NoHello));
    assert_eq!(session.receive(hello(2, 9)), Err(ProtocolError::Version(2, 9)));
    assert!(session.deadline().is_some());
    assert!(matches!(session.receive(hello(1, 9)).unwrap()[..], [ServerEvent::Hello(_)]));
    assert_eq!(session.deadline(), None);
    assert_eq!(session.receive(hello(1, 1)), Err(ProtocolError::Greeted));
    assert_eq!(session.receive(ClientMessage { kind: None }), Ok(vec![]), "a message of a later version is skipped");
}

#[test]
fn subscriptions_are_bounded_and_named() {
    let mut session = opened();
    assert!(matches!(session.receive(subscribe("out:a/../b", 0)), Err(ProtocolError::Collection(_))));
    for n in 0..limits::MAX_SUBSCRIPTIONS {
        session.receive(subscribe(&format!("out:a/s{n}"), 0)).unwrap();
    }
    assert_eq!(session.receive(subscribe("out:a/more", 0)), Err(ProtocolError::TooManySubscriptions));
    let mut session = opened();
    let mut outcome = Ok(vec![]);
    for n in 0..=limits::MAX_HELD / 50_000 {
        outcome = session.receive(subscribe(&format!("out:a/s{n}"), 50_000));
    }
    assert_eq!(outcome, Err(ProtocolError::TooManyHeld));
    // Subscribing again and again holds nothing more.
    let mut session = opened();
    for _ in 0..6 {
        session.receive(subscribe("out:a/b", 50_000)).unwrap();
        session.grant(&"out:a/b".parse().unwrap());
    }
    assert!(session.backlog() <= 2, "{}", session.backlog());
}

#[test]
fn malformed_keys_are_refused() {
    let mut session = opened();
    for key in
        [None, Some(Key::new("", "a", "b").to_proto()), Some(Key::new("Service", "a", &"x".repeat(300)).to_proto())]
    {
        let applied = vec![proto::Applied { collection: "mesh".into(), key, ..Default::default() }];
        let message = client(client_message::Kind::Applied(proto::AppliedList { applied }));
        assert_eq!(session.receive(message), Err(ProtocolError::Key));
    }
}

#[test]
fn a_client_that_does_not_read_its_answers_is_not_read() {
    let mut session = opened();
    let mut reads = 0;
    while session.may_read() {
        reads += 1;
        session.answer(server_message::Kind::Registered(proto::Registered::default()));
    }
    assert!(reads <= limits::MAX_ANSWERS);
    while session.next_message(&Nothing).is_some() {}
    assert!(session.may_read());
}

#[test]
fn acknowledgements_of_what_was_not_sent_say_nothing() {
    let mut session = opened();
    session.receive(subscribe("mesh", 0)).unwrap();
    session.grant(&CollectionName::Mesh);
    let key = Some(Key::new("Service", "a", "b").to_proto());
    let applied = vec![proto::Applied { collection: "mesh".into(), key, version: 7, error: "x".into() }];
    let message = client(client_message::Kind::Applied(proto::AppliedList { applied }));
    assert_eq!(session.receive(message), Ok(vec![]), "no nack loop, no forged status");
}

#[test]
fn goodbye_comes_after_the_answers_and_is_the_last() {
    let mut session = opened();
    session.answer(server_message::Kind::Registered(proto::Registered::default()));
    session.goodbye(Reason::CertificateRevoked, "revoked", 0);
    let mut kinds = Vec::new();
    while let Some(message) = session.next_message(&Nothing) {
        kinds.push(message.kind.unwrap());
    }
    assert!(
        matches!(&kinds[..], [_, server_message::Kind::Registered(_), server_message::Kind::Goodbye(g)] if g.reason == "certificate_revoked")
    );
    assert!(session.ended());
}

#[test]
fn only_the_newest_bundle_is_sent() {
    let mut session = opened();
    for version in [3, 5, 4] {
        session.bundle(&proto::Bundle { version, ..Default::default() });
    }
    let mut bundles = Vec::new();
    while let Some(message) = session.next_message(&Nothing) {
        if let Some(server_message::Kind::Bundle(b)) = message.kind {
            bundles.push(b.version);
        }
    }
    assert_eq!(bundles, [5]);
    session.bundle(&proto::Bundle { version: bundles[0], ..Default::default() });
    assert!(session.next_message(&Nothing).is_none(), "one that the client holds is not sent again");
}

#[test]
fn diagnostics_are_printable_and_short() {
    let text = printable(&format!("a\n\x1b[31m{}", "é".repeat(5000)));
    assert!(text.len() <= limits::MAX_DIAGNOSTIC && !text.contains(['\n', '\x1b']));
}

#[test]
fn a_first_answer_is_awaited_for_a_second_and_reported_once() {
    let start = Instant::now();
    let mut session = ClientSession::new(ClientSettings::default(), start);
    session.subscribe(&CollectionName::Mesh, Default::default(), start);
    let held = [(Key::new("Service", "a", "b"), Entry::new("{}".into()))].into();
    session.subscribe(&"out:a/b".parse().unwrap(), held, start);
    assert_eq!(session.deadline(), Some(start + limits::FIRST_ANSWER));
    assert_eq!(session.tick(start + Duration::from_millis(999)), []);
    assert_eq!(session.tick(start + limits::FIRST_ANSWER), [ClientEvent::Unanswered(CollectionName::Mesh)]);
    assert_eq!((session.deadline(), session.tick(start + Duration::from_secs(9))), (None, vec![]));
}

#[test]
fn backoff_grows_is_jittered_and_bounded() {
    let now = Instant::now();
    let mut session = ClientSession::new(ClientSettings::default(), now);
    let mut delays = Vec::new();
    for _ in 0..12 {
        session.connected();
        session.disconnected(now, 0.5);
        delays.push(session.attempt_at().unwrap() - now);
    }
    assert!(delays.windows(2).all(|w| w[0] <= w[1]), "{delays:?}");
    assert_eq!((delays[0], delays[11]), limits::BACKOFF);
    session.connected();
    session.disconnected(now, 0.0);
    let short = session.attempt_at().unwrap() - now;
    session.connected();
    session.disconnected(now, 1.0);
    assert!(session.attempt_at().unwrap() - now > 2 * short, "proxies that lost their server together come apart");
    // A welcome ends the series; a server that says goodbye chooses, within reason, how long.
    session.connected();
    let welcome = server_message::Kind::Welcome(proto::Welcome { protocol: 1, ..Default::default() });
    session.receive(proto::ServerMessage { kind: Some(welcome) }).unwrap();
    let goodbye = proto::Goodbye { retry_after_ms: u32::MAX, ..Default::default() };
    session.receive(proto::ServerMessage { kind: Some(server_message::Kind::Goodbye(goodbye)) }).unwrap();
    session.disconnected(now, 0.5);
    assert_eq!(session.attempt_at().unwrap() - now, limits::BACKOFF.0 + Duration::from_secs(30));
}

#[test]
fn a_resource_over_the_limit_is_handed_on_to_be_refused() {
    let mut session = ClientSession::new(ClientSettings::default(), Instant::now());
    session.subscribe(&CollectionName::Mesh, Default::default(), Instant::now());
    session.connected();
    let subscription = std::iter::from_fn(|| session.next_message())
        .find_map(|m| match m.kind {
            Some(client_message::Kind::Subscribe(s)) => Some(s.subscription),
            _ => None,
        })
        .unwrap();
    let welcome = proto::Welcome { protocol: 1, ..Default::default() };
    let key = Key::new("AccessPolicy", "a", "b");
    let resource = proto::Resource {
        collection: "mesh".into(),
        key: Some(key.to_proto()),
        version: 7,
        body: vec![b' '; leno_model::MAX_RESOURCE + 1].into(),
        subscription,
        ..Default::default()
    };
    let complete = proto::Complete { collection: "mesh".into(), version: 1, subscription };
    let mut last = None;
    for kind in [
        server_message::Kind::Welcome(welcome),
        server_message::Kind::Resource(resource),
        server_message::Kind::Complete(complete),
    ] {
        last = session.receive(proto::ServerMessage { kind: Some(kind) }).unwrap();
    }
    let Some(ClientEvent::Update { changes, .. }) = last else { panic!("{last:?}") };
    assert_eq!(changes.iter().map(|c| &c.key).collect::<Vec<_>>(), [&key]);
    session.applied(&CollectionName::Mesh, &key, 7, Err("too large"));
    assert!(session.is_up() && session.has_message(), "the refusal is said on the same stream");
}

#[test]
fn a_server_that_misbehaves_is_left() {
    let mut session = ClientSession::new(ClientSettings::default(), Instant::now());
    session.connected();
    let receive = |session: &mut ClientSession, kind| session.receive(proto::ServerMessage { kind: Some(kind) });
    let resource = proto::Resource { collection: "nonsense".into(), ..Default::default() };
    assert!(matches!(
        receive(&mut session, server_message::Kind::Resource(resource)),
        Err(ProtocolError::Collection(_))
    ));
    let unasked = proto::Complete { collection: "out:a/b".into(), version: 1, subscription: 0 };
    assert_eq!(receive(&mut session, server_message::Kind::Complete(unasked)), Ok(None));
    session.bundle_applied(5);
    let old = proto::Bundle { version: 4, ..Default::default() };
    assert_eq!(receive(&mut session, server_message::Kind::Bundle(old)), Ok(None), "a retired root must not come back");
}
