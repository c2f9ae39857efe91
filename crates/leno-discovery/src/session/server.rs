//! The control plane's end of a stream.
//!
//! ```text
//!             Hello                  welcome()
//!  Opening ----------> Greeting --------------------> Open
//!     |  deadline         |                            |
//!     +-------------------+---------- goodbye() -------+----> Ended (after Goodbye is taken)
//!
//!  a subscription:
//!     asked --grant--> compare all --> send what differs, newest version at the time of sending --> Complete
//!       |                 ^   (a change marks its key; marks do not queue twice)      |
//!       +--deny--> gone   +-------------------- marks --------------------------------+
//!     or, when the collection does not exist: Missing, and wait for marks
//! ```
//!
//! Nothing but marks (keys) waits for a slow proxy: bodies are looked up at the moment the transport takes a message, so it
//! gets the newest version of each resource and skips those between. Memory per stream is bounded by the number of resources
//! subscribed, plus [`limits::MAX_ANSWERS`] answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use leno_model::Reason;

use super::ProtocolError;
use crate::collection::{CollectionName, Digest, Entry, Key};
use crate::limits;
use crate::proto::{self, ServerMessage, client_message, server_message::Kind};

/// Whether a collection is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Not known yet; nothing is sent until it is.
    Pending,
    /// It does not exist.
    Missing,
    /// It exists.
    Present,
}

/// The collections as they are now; asked at the moment of sending.
pub trait View {
    /// Whether the collection is there.
    fn presence(&self, collection: &CollectionName) -> Presence;
    /// One resource, if it exists.
    fn entry(&self, collection: &CollectionName, key: &Key) -> Option<Entry>;
    /// Keys and versions of all resources of the collection.
    fn versions(&self, collection: &CollectionName) -> Vec<(Key, u64)>;
}

/// What the control plane has to act on.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerEvent {
    /// Answer with [`ServerSession::welcome`] or [`ServerSession::goodbye`].
    Hello(proto::Hello),
    /// Answer with [`ServerSession::grant`] or [`ServerSession::deny`].
    Subscribe(CollectionName),
    /// The subscription is gone.
    Unsubscribed(CollectionName),
    /// The proxy uses this version.
    Applied {
        /// Where.
        collection: CollectionName,
        /// Which.
        key: Key,
        /// The version it was sent.
        version: u64,
    },
    /// The proxy refuses this version and stays with its last good one.
    Rejected {
        /// Where.
        collection: CollectionName,
        /// Which.
        key: Key,
        /// The version it was sent.
        version: u64,
        /// Printable, at most [`limits::MAX_DIAGNOSTIC`] bytes.
        diagnostic: String,
    },
    /// Answer with `Registered` or `Refused`.
    Register(proto::Register),
    /// Answer with `Deregistered` or `Refused`.
    Deregister(proto::Deregister),
    /// Answer with `Issued` or `Refused`.
    Renew(proto::RenewCertificate),
    /// An answer to a query.
    Answer(proto::QueryAnswer),
    /// The proxy judges by this bundle version.
    BundleApplied(u64),
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum State {
    Opening,
    Greeting,
    Open,
    Ended,
}

#[derive(Debug, Default)]
struct Subscription {
    granted: bool,
    /// The client's number for it.
    id: u64,
    /// How many resources the client said it holds.
    claimed: usize,
    /// What the client has, or will have once it has read what was taken from this session.
    sent: BTreeMap<Key, u64>,
    digest: Digest,
    /// Sent and neither applied nor rejected.
    awaiting: BTreeMap<Key, u64>,
    /// Keys to compare again, oldest mark first, each once.
    marks: VecDeque<Key>,
    marked: BTreeSet<Key>,
    /// Marks left of the batch that the next `Complete` ends: without batches a key that changes all the time would keep
    /// the client from ever seeing one.
    batch: usize,
    compare_all: bool,
    owes_complete: bool,
    told_missing: bool,
}

impl Subscription {
    fn mark(&mut self, key: Key) {
        if self.marked.insert(key.clone()) {
            self.marks.push_back(key);
        }
    }

    fn set_sent(&mut self, key: &Key, version: Option<u64>) {
        let before = match version {
            Some(v) => self.sent.insert(key.clone(), v),
            None => self.sent.remove(key),
        };
        if let Some(before) = before {
            self.digest.remove(key, before);
        }
        if let Some(v) = version {
            self.digest.add(key, v);
        }
    }

    fn forget_all(&mut self) {
        self.sent.clear();
        self.awaiting.clear();
        self.marks.clear();
        self.marked.clear();
        self.digest = Digest::default();
        self.batch = 0;
        self.owes_complete = false;
    }

    /// The next message of this collection; none until it is marked again.
    fn next(&mut self, name: &CollectionName, view: &dyn View) -> Option<Kind> {
        match view.presence(name) {
            Presence::Pending => return None,
            Presence::Missing => {
                self.forget_all();
                self.compare_all = false;
                let told = std::mem::replace(&mut self.told_missing, true);
                return (!told)
                    .then(|| Kind::Missing(proto::Missing { collection: name.to_string(), subscription: self.id }));
            }
            Presence::Present => {}
        }
        let compare_all = std::mem::take(&mut self.compare_all) | std::mem::take(&mut self.told_missing);
        if compare_all {
            self.compare(&view.versions(name));
        }
        if self.batch == 0 && !self.owes_complete {
            self.batch = self.marks.len();
        }
        while self.batch > 0 {
            self.batch -= 1;
            let Some(key) = self.marks.pop_front() else { break };
            self.marked.remove(&key);
            if let Some(message) = self.difference(name, &key, view) {
                self.owes_complete = true;
                return Some(message);
            }
        }
        self.batch = 0;
        if std::mem::take(&mut self.owes_complete) {
            let (collection, version, subscription) = (name.to_string(), self.digest.version(), self.id);
            return Some(Kind::Complete(proto::Complete { collection, version, subscription }));
        }
        None
    }

    fn compare(&mut self, versions: &[(Key, u64)]) {
        let present: BTreeSet<&Key> = versions.iter().map(|(k, _)| k).collect();
        let gone: Vec<Key> = self.sent.keys().filter(|k| !present.contains(k)).cloned().collect();
        for (key, version) in versions {
            if self.sent.get(key) != Some(version) {
                self.mark(key.clone());
            }
        }
        for key in gone {
            self.mark(key);
        }
        self.batch = self.marks.len();
        self.owes_complete = true;
    }

    fn difference(&mut self, name: &CollectionName, key: &Key, view: &dyn View) -> Option<Kind> {
        let template = proto::Resource {
            collection: name.to_string(),
            key: Some(key.to_proto()),
            subscription: self.id,
            ..proto::Resource::default()
        };
        let resource = match (view.entry(name, key), self.sent.get(key)) {
            (Some(entry), sent) if sent != Some(&entry.version) => {
                self.set_sent(key, Some(entry.version));
                self.awaiting.insert(key.clone(), entry.version);
                proto::Resource { version: entry.version, body: entry.body, ..template }
            }
            (None, Some(_)) => {
                self.set_sent(key, None);
                self.awaiting.remove(key);
                proto::Resource { deleted: true, ..template }
            }
            _ => return None,
        };
        Some(Kind::Resource(resource))
    }
}

/// One stream, seen from the control plane. See the module's drawing.
#[derive(Debug)]
pub struct ServerSession {
    state: State,
    hello_deadline: Instant,
    subscriptions: BTreeMap<CollectionName, Subscription>,
    /// Subscriptions that may have something to send, served in turn so that a large one does not hold up the others.
    turn: VecDeque<CollectionName>,
    in_turn: BTreeSet<CollectionName>,
    answers: VecDeque<Kind>,
    /// The newest bundle not sent yet; one that is overtaken is never sent.
    bundle: Option<proto::Bundle>,
    bundle_version: u64,
    claimed: usize,
    goodbye: Option<proto::Goodbye>,
}

impl ServerSession {
    /// A stream that has just been opened.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            state: State::Opening,
            hello_deadline: now + limits::HELLO_TIMEOUT,
            subscriptions: BTreeMap::new(),
            turn: VecDeque::new(),
            in_turn: BTreeSet::new(),
            answers: VecDeque::new(),
            bundle: None,
            bundle_version: 0,
            claimed: 0,
            goodbye: None,
        }
    }

    /// When the stream must be ended unless a `Hello` has come.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        (self.state == State::Opening).then_some(self.hello_deadline)
    }

    /// Takes a message from the proxy. Call only while [`may_read`](Self::may_read).
    pub fn receive(&mut self, message: proto::ClientMessage) -> Result<Vec<ServerEvent>, ProtocolError> {
        use client_message::Kind;
        // A member of the oneof that this version does not know.
        let Some(kind) = message.kind else { return Ok(Vec::new()) };
        match (kind, self.state) {
            (_, State::Ended) => Ok(Vec::new()),
            (Kind::Hello(hello), State::Opening) => self.hello(hello),
            (_, State::Opening) => Err(ProtocolError::NoHello),
            (Kind::Hello(_), _) => Err(ProtocolError::Greeted),
            (Kind::Subscribe(subscribe), _) => self.subscribe(subscribe),
            (Kind::Unsubscribe(message), _) => {
                let name: CollectionName = message.collection.parse()?;
                let gone = self.forget(&name);
                Ok(gone.map(|_| ServerEvent::Unsubscribed(name)).into_iter().collect())
            }
            (Kind::Applied(list), _) => self.applied(list),
            (Kind::Register(message), _) => Ok(vec![ServerEvent::Register(message)]),
            (Kind::Deregister(message), _) => Ok(vec![ServerEvent::Deregister(message)]),
            (Kind::Renew(message), _) => Ok(vec![ServerEvent::Renew(message)]),
            (Kind::Answer(message), _) => Ok(vec![ServerEvent::Answer(message)]),
            (Kind::BundleApplied(message), _) => Ok(vec![ServerEvent::BundleApplied(message.version)]),
        }
    }

    fn hello(&mut self, hello: proto::Hello) -> Result<Vec<ServerEvent>, ProtocolError> {
        if hello.protocol_min > limits::PROTOCOL || hello.protocol_max < limits::PROTOCOL {
            return Err(ProtocolError::Version(hello.protocol_min, hello.protocol_max));
        }
        self.state = State::Greeting;
        self.bundle_version = hello.bundle_version;
        Ok(vec![ServerEvent::Hello(hello)])
    }

    fn forget(&mut self, name: &CollectionName) -> Option<Subscription> {
        let gone = self.subscriptions.remove(name);
        self.claimed -= gone.as_ref().map_or(0, |s| s.claimed);
        gone
    }

    fn subscribe(&mut self, message: proto::Subscribe) -> Result<Vec<ServerEvent>, ProtocolError> {
        let name: CollectionName = message.collection.parse()?;
        self.forget(&name);
        let mut subscription =
            Subscription { id: message.subscription, claimed: message.have.len(), ..Subscription::default() };
        self.claimed += subscription.claimed;
        if self.claimed > limits::MAX_HELD {
            return Err(ProtocolError::TooManyHeld);
        }
        for have in message.have {
            let key = Key::from_proto(have.key).ok_or(ProtocolError::Key)?;
            subscription.set_sent(&key, Some(have.version));
        }
        self.subscriptions.insert(name.clone(), subscription);
        if self.subscriptions.len() > limits::MAX_SUBSCRIPTIONS {
            return Err(ProtocolError::TooManySubscriptions);
        }
        Ok(vec![ServerEvent::Subscribe(name)])
    }

    fn applied(&mut self, list: proto::AppliedList) -> Result<Vec<ServerEvent>, ProtocolError> {
        let mut events = Vec::new();
        for applied in list.applied {
            let collection: CollectionName = applied.collection.parse()?;
            let key = Key::from_proto(applied.key).ok_or(ProtocolError::Key)?;
            let version = applied.version;
            let Some(subscription) = self.subscriptions.get_mut(&collection) else { continue };
            // An answer to a version that has been overtaken, or that was answered before, says nothing.
            if subscription.awaiting.get(&key) != Some(&version) {
                continue;
            }
            subscription.awaiting.remove(&key);
            events.push(if applied.error.is_empty() {
                ServerEvent::Applied { collection, key, version }
            } else {
                ServerEvent::Rejected { collection, key, version, diagnostic: printable(&applied.error) }
            });
        }
        Ok(events)
    }

    /// Answers a `Hello`.
    pub fn welcome(&mut self, welcome: proto::Welcome) {
        if self.state == State::Greeting {
            self.state = State::Open;
            self.answers.push_front(Kind::Welcome(welcome));
        }
    }

    /// Permits a subscription; what the client lacks will be sent.
    pub fn grant(&mut self, name: &CollectionName) {
        if let Some(subscription) = self.subscriptions.get_mut(name) {
            subscription.granted = true;
            subscription.compare_all = true;
            self.queue(name);
        }
    }

    /// Refuses a subscription.
    pub fn deny(&mut self, name: &CollectionName, reason: Reason, detail: &str) {
        if let Some(Subscription { id: subscription, .. }) = self.forget(name) {
            let (reason, detail) = (reason.as_str().to_owned(), detail.to_owned());
            let denied = proto::Denied { collection: name.to_string(), reason, detail, subscription };
            self.answers.push_back(Kind::Denied(denied));
        }
    }

    /// Something of a collection may have changed; with no keys, all of it.
    pub fn changed(&mut self, name: &CollectionName, keys: Option<&[Key]>) {
        let Some(subscription) = self.subscriptions.get_mut(name).filter(|s| s.granted) else { return };
        match keys {
            Some(keys) => keys.iter().for_each(|k| subscription.mark(k.clone())),
            None => subscription.compare_all = true,
        }
        self.queue(name);
    }

    fn queue(&mut self, name: &CollectionName) {
        if self.in_turn.insert(name.clone()) {
            self.turn.push_back(name.clone());
        }
    }

    /// Queues an answer: `Registered`, `Deregistered`, `Refused`, `Issued`, `Query`.
    pub fn answer(&mut self, kind: Kind) {
        self.answers.push_back(kind);
    }

    /// Has the client hold this bundle, unless it holds it or a newer one.
    pub fn bundle(&mut self, bundle: &proto::Bundle) {
        let newest = self.bundle.as_ref().map_or(self.bundle_version, |b| b.version.max(self.bundle_version));
        if bundle.version > newest {
            self.bundle = Some(bundle.clone());
        }
    }

    /// Ends the stream once the client has read the answers given before.
    pub fn goodbye(&mut self, reason: Reason, detail: &str, retry_after_ms: u32) {
        if self.goodbye.is_none() && self.state != State::Ended {
            let (reason, detail) = (reason.as_str().to_owned(), detail.to_owned());
            self.goodbye = Some(proto::Goodbye { reason, detail, retry_after_ms });
        }
    }

    /// The connection is gone.
    pub fn end(&mut self) {
        self.state = State::Ended;
    }

    /// Whether to read on: not while the client leaves its answers unread.
    #[must_use]
    pub fn may_read(&self) -> bool {
        self.answers.len() < limits::MAX_ANSWERS
    }

    /// Whether the stream is over, or will be as soon as the client has read what is left.
    #[must_use]
    pub fn ending(&self) -> bool {
        self.goodbye.is_some() || self.state == State::Ended
    }

    /// Whether the stream is over.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.state == State::Ended
    }

    /// The collections subscribed to.
    pub fn subscriptions(&self) -> impl Iterator<Item = &CollectionName> {
        self.subscriptions.keys()
    }

    /// Versions sent and not answered yet.
    #[must_use]
    pub fn awaiting(&self) -> usize {
        self.subscriptions.values().map(|s| s.awaiting.len()).sum()
    }

    /// Keys and answers that wait to be sent: what a slow reader costs.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.answers.len() + self.turn.len() + self.subscriptions.values().map(|s| s.marks.len()).sum::<usize>()
    }

    /// The next message, taken when the transport has room for it.
    pub fn next_message(&mut self, view: &dyn View) -> Option<ServerMessage> {
        if self.state == State::Ended {
            return None;
        }
        let kind = self.next_kind(view)?;
        Some(ServerMessage { kind: Some(kind) })
    }

    fn next_kind(&mut self, view: &dyn View) -> Option<Kind> {
        if let Some(answer) = self.answers.pop_front() {
            return Some(answer);
        }
        if let Some(goodbye) = self.goodbye.take() {
            self.state = State::Ended;
            return Some(Kind::Goodbye(goodbye));
        }
        if self.state != State::Open {
            return None;
        }
        if let Some(bundle) = self.bundle.take() {
            self.bundle_version = bundle.version;
            return Some(Kind::Bundle(bundle));
        }
        while let Some(name) = self.turn.pop_front() {
            if let Some(subscription) = self.subscriptions.get_mut(&name).filter(|s| s.granted)
                && let Some(message) = subscription.next(&name, view)
            {
                self.turn.push_back(name);
                return Some(message);
            }
            self.in_turn.remove(&name);
        }
        None
    }
}

/// What a peer says of itself ends up in logs and status: without control characters, and of bounded length.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut out: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if out.len() > limits::MAX_DIAGNOSTIC {
        let end = (0..=limits::MAX_DIAGNOSTIC).rev().find(|&i| out.is_char_boundary(i)).unwrap_or(0);
        out.truncate(end);
    }
    out
}
