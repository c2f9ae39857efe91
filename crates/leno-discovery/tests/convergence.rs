//! Whatever happens to server, connection and client, in whatever order, a client that is left alone ends with what the
//! server has; and a client that does not read costs the server no more than the names of what it lacks.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use leno_discovery::proto::{ClientMessage, ServerMessage, Welcome, server_message::Kind};
use leno_discovery::session::{ClientSettings, Presence, View};
use leno_discovery::{ClientEvent, ClientSession, CollectionName, Entry, Key, ServerEvent, ServerSession};
use proptest::prelude::*;

#[derive(Default)]
struct World(RefCell<BTreeMap<CollectionName, BTreeMap<Key, Entry>>>);

impl View for World {
    fn presence(&self, collection: &CollectionName) -> Presence {
        if self.0.borrow().contains_key(collection) { Presence::Present } else { Presence::Missing }
    }
    fn entry(&self, collection: &CollectionName, key: &Key) -> Option<Entry> {
        self.0.borrow().get(collection)?.get(key).cloned()
    }
    fn versions(&self, collection: &CollectionName) -> Vec<(Key, u64)> {
        let world = self.0.borrow();
        world.get(collection).into_iter().flatten().map(|(k, e)| (k.clone(), e.version)).collect()
    }
}

/// One client, one server, and the messages on their way.
struct Pair {
    world: World,
    client: ClientSession,
    server: Option<ServerSession>,
    up: VecDeque<ClientMessage>,
    down: VecDeque<ServerMessage>,
    /// What the client's application made of the events: must equal what the session holds.
    replica: BTreeMap<CollectionName, BTreeMap<Key, Entry>>,
    received: usize,
    now: Instant,
}

#[derive(Debug, Clone)]
enum Step {
    Subscribe(u8),
    Unsubscribe(u8),
    Put(u8, u8, u8),
    Delete(u8, u8),
    Vanish(u8),
    Connect,
    Disconnect,
    ClientSends(u8),
    ServerReads(u8),
    ServerSends(u8),
    ClientReads(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0u8..3).prop_map(Step::Subscribe),
        1 => (0u8..3).prop_map(Step::Unsubscribe),
        6 => (0u8..3, 0u8..5, 0u8..4).prop_map(|(c, k, v)| Step::Put(c, k, v)),
        2 => (0u8..3, 0u8..5).prop_map(|(c, k)| Step::Delete(c, k)),
        1 => (0u8..3).prop_map(Step::Vanish),
        1 => Just(Step::Connect),
        1 => Just(Step::Disconnect),
        5 => (1u8..5).prop_map(Step::ClientSends),
        5 => (1u8..5).prop_map(Step::ServerReads),
        5 => (1u8..8).prop_map(Step::ServerSends),
        5 => (1u8..8).prop_map(Step::ClientReads),
    ];
    prop::collection::vec(step, 0..120)
}

fn collection(number: u8) -> CollectionName {
    match number {
        0 => CollectionName::Mesh,
        n => format!("out:shop/s{n}").parse().unwrap(),
    }
}

fn key(number: u8) -> Key {
    Key::new("Endpoint", "shop", &format!("k{number}"))
}

fn while_n(n: u8, mut step: impl FnMut() -> bool) {
    for _ in 0..n {
        if !step() {
            return;
        }
    }
}

impl Pair {
    fn new() -> Self {
        Self::offering(usize::MAX)
    }

    fn offering(max_offered: usize) -> Self {
        let now = Instant::now();
        Self {
            world: World::default(),
            client: ClientSession::new(ClientSettings { max_offered, ..ClientSettings::default() }, now),
            server: None,
            up: VecDeque::new(),
            down: VecDeque::new(),
            replica: BTreeMap::new(),
            received: 0,
            now,
        }
    }

    fn connect(&mut self) {
        if self.server.is_none() {
            self.client.connected();
            self.server = Some(ServerSession::new(self.now));
        }
    }

    fn disconnect(&mut self) {
        if self.server.take().is_some() {
            self.up.clear();
            self.down.clear();
            self.client.disconnected(self.now, 0.5);
        }
    }

    fn changed(&mut self, name: &CollectionName, keys: Option<&[Key]>) {
        if let Some(server) = &mut self.server {
            server.changed(name, keys);
        }
    }

    fn put(&mut self, c: u8, k: u8, value: u8) {
        let appeared = !self.world.0.borrow().contains_key(&collection(c));
        let entry = Entry::new(Bytes::from(vec![value]));
        self.world.0.borrow_mut().entry(collection(c)).or_default().insert(key(k), entry);
        let keys = [key(k)];
        self.changed(&collection(c), if appeared { None } else { Some(&keys) });
    }

    fn client_sends(&mut self) -> bool {
        if self.server.is_none() {
            return false;
        }
        let message = self.client.next_message();
        let some = message.is_some();
        self.up.extend(message);
        some
    }

    fn server_reads(&mut self) -> bool {
        let (Some(server), Some(message)) = (&mut self.server, self.up.pop_front()) else { return false };
        for event in server.receive(message).unwrap() {
            match event {
                ServerEvent::Hello(_) => server.welcome(Welcome { protocol: 1, ..Welcome::default() }),
                ServerEvent::Subscribe(name) => server.grant(&name),
                _ => {}
            }
        }
        true
    }

    fn server_sends(&mut self) -> bool {
        let Some(server) = &mut self.server else { return false };
        let message = server.next_message(&self.world);
        let some = message.is_some();
        self.down.extend(message);
        some
    }

    fn client_reads(&mut self) -> bool {
        let Some(message) = self.down.pop_front() else { return false };
        self.received += usize::from(matches!(message.kind, Some(Kind::Resource(_))));
        match self.client.receive(message).unwrap() {
            Some(ClientEvent::Update { collection, changes, .. }) => {
                let held = self.replica.entry(collection.clone()).or_default();
                for change in changes {
                    match &change.entry {
                        Some(entry) => {
                            held.insert(change.key.clone(), entry.clone());
                            self.client.applied(&collection, &change.key, entry.version, Ok(()));
                        }
                        None => {
                            held.remove(&change.key);
                        }
                    }
                }
            }
            Some(ClientEvent::Missing(collection)) => {
                self.replica.remove(&collection);
            }
            _ => {}
        }
        true
    }

    fn settle(&mut self) {
        self.connect();
        let mut turns = 0;
        while self.client_sends() | self.server_reads() | self.server_sends() | self.client_reads() {
            turns += 1;
            assert!(turns < 100_000, "it never settles");
        }
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Subscribe(c) => self.client.subscribe(&collection(c), BTreeMap::new(), self.now),
            Step::Unsubscribe(c) => {
                self.client.unsubscribe(&collection(c));
                self.replica.remove(&collection(c));
            }
            Step::Put(c, k, v) => self.put(c, k, v),
            Step::Delete(c, k) => {
                if let Some(resources) = self.world.0.borrow_mut().get_mut(&collection(c)) {
                    resources.remove(&key(k));
                }
                self.changed(&collection(c), Some(&[key(k)]));
            }
            Step::Vanish(c) => {
                self.world.0.borrow_mut().remove(&collection(c));
                self.changed(&collection(c), None);
            }
            Step::Connect => self.connect(),
            Step::Disconnect => self.disconnect(),
            Step::ClientSends(n) => while_n(n, || self.client_sends()),
            Step::ServerReads(n) => while_n(n, || self.server_reads()),
            Step::ServerSends(n) => while_n(n, || self.server_sends()),
            Step::ClientReads(n) => while_n(n, || self.client_reads()),
        }
    }

    fn check(&self) {
        let world = self.world.0.borrow();
        for name in self.client.subscriptions() {
            let expected = world.get(name).cloned().unwrap_or_default();
            assert_eq!(self.client.held(name), Some(&expected), "{name}");
            assert_eq!(self.replica.get(name).cloned().unwrap_or_default(), expected, "{name}");
        }
        assert_eq!(self.server.as_ref().unwrap().awaiting(), 0, "everything was acknowledged");
        assert_eq!(self.server.as_ref().unwrap().backlog(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_converges(steps in steps(), offered in 0usize..12) {
        let mut pair = Pair::offering(offered);
        for step in &steps {
            pair.run(step);
            // Five keys in each of three collections, and a few answers: a bound that no number of steps may move.
            if let Some(server) = &pair.server {
                prop_assert!(server.backlog() <= 3 * 6 + 8, "backlog {}", server.backlog());
            }
        }
        pair.settle();
        pair.check();
    }
}

#[test]
fn a_slow_client_gets_the_newest_version_only() {
    let mut pair = Pair::new();
    pair.put(1, 0, 0);
    pair.client.subscribe(&collection(1), BTreeMap::new(), pair.now);
    pair.settle();
    let before = pair.received;
    for round in 0..200u8 {
        pair.put(1, 0, round);
        pair.put(1, 1, round);
    }
    assert!(pair.server.as_ref().unwrap().backlog() <= 3, "two keys and one turn");
    pair.settle();
    assert_eq!(pair.received - before, 2, "one message per key, whatever the number of edits");
    pair.check();
}

#[test]
fn a_resume_sends_only_what_changed() {
    let mut pair = Pair::new();
    for k in 0..100 {
        pair.put(1, k, 0);
    }
    pair.client.subscribe(&collection(1), BTreeMap::new(), pair.now);
    pair.settle();
    assert_eq!(pair.received, 100);
    pair.disconnect();
    pair.put(1, 7, 1);
    pair.run(&Step::Delete(1, 8));
    pair.settle();
    assert_eq!(pair.received, 102, "one change and one deletion");
    pair.check();
}

#[test]
fn a_large_collection_does_not_hold_up_a_small_one() {
    let mut pair = Pair::new();
    for k in 0..200 {
        pair.put(1, k, 0);
    }
    pair.put(2, 0, 0);
    pair.client.subscribe(&collection(1), BTreeMap::new(), pair.now);
    pair.client.subscribe(&collection(2), BTreeMap::new(), pair.now);
    pair.connect();
    while pair.client_sends() | pair.server_reads() {}
    let mut messages = 0;
    while !pair.replica.contains_key(&collection(2)) {
        assert!(pair.server_sends() && pair.client_reads());
        messages += 1;
    }
    assert!(messages < 10, "{messages} messages before the small collection was complete");
}

#[test]
fn a_flapping_resource_does_not_withhold_complete() {
    let mut pair = Pair::new();
    for k in 0..5 {
        pair.put(1, k, 0);
    }
    pair.client.subscribe(&collection(1), BTreeMap::new(), pair.now);
    pair.connect();
    while pair.client_sends() | pair.server_reads() {}
    let mut value = 0;
    for _ in 0..20 {
        value += 1;
        pair.put(1, 0, value);
        pair.server_sends();
        pair.client_reads();
    }
    assert_eq!(pair.replica[&collection(1)].len(), 5);
}

#[test]
fn what_was_under_way_for_an_ended_subscription_is_not_an_answer() {
    let mut pair = Pair::new();
    pair.put(1, 0, 0);
    pair.client.subscribe(&collection(1), BTreeMap::new(), pair.now);
    pair.connect();
    while pair.client_sends() | pair.server_reads() | pair.server_sends() {}
    assert!(!pair.down.is_empty());
    pair.client.unsubscribe(&collection(1));
    pair.client.subscribe(&collection(1), BTreeMap::new(), pair.now);
    while pair.client_reads() {}
    assert!(pair.replica.is_empty(), "the first subscription's answer was taken for the second's");
    pair.settle();
    pair.check();
}
