//! The proxy's end of a stream, over any number of connections.
//!
//! ```text
//!           attempt_at() reached
//!   Down ----------------------------> Opening --Welcome--> Up
//!    ^   connected(): Hello,              |                 |
//!    |   Subscribe{have} for everything   |                 |
//!    +------ disconnected(): backoff -----+-----------------+
//!
//!   a collection:   Waiting --1 s--> Waiting (reported unanswered)
//!      resources are staged and take effect together:
//!      Waiting | Missing | Held  --Complete--> Held     --Missing--> Missing     --Denied--> Denied
//! ```
//!
//! What is held survives a disconnect and is offered on resume, so that only changes come; what was staged and not completed
//! is dropped and comes again.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::ProtocolError;
use super::server::printable;
use crate::collection::{CollectionName, Entry, Key};
use crate::limits;
use crate::proto::{self, ClientMessage, client_message, server_message};

/// What the client says of itself.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// Stays the same over restarts.
    pub instance: String,
    /// Name and version, for display.
    pub software: String,
    /// Optional features.
    pub capabilities: Vec<String>,
    /// Locality.
    pub zone: String,
    /// How many held resources are offered on resume; what is beyond is asked for whole.
    pub max_offered: usize,
}

impl Default for ClientSettings {
    fn default() -> Self {
        let (instance, software, capabilities, zone) = Default::default();
        Self { instance, software, capabilities, zone, max_offered: limits::MAX_OFFERED }
    }
}

/// One change of a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which resource.
    pub key: Key,
    /// What it is now; `None` when it is gone.
    pub entry: Option<Entry>,
}

/// What the proxy has to act on.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientEvent {
    /// The stream is up.
    Welcome(proto::Welcome),
    /// The collection is as the server has it. Without changes, what is held was still right. Answer every change that has
    /// an entry with [`ClientSession::applied`].
    Update {
        /// Which collection.
        collection: CollectionName,
        /// All changes since the last update, to be taken together.
        changes: Vec<Change>,
        /// Names the state of the whole collection, for display.
        version: u64,
    },
    /// The collection does not exist (any more).
    Missing(CollectionName),
    /// The credential does not permit the subscription; it is tried again with the next connection.
    Denied {
        /// Which collection.
        collection: CollectionName,
        /// A word of the closed set of reasons, or what a newer server says.
        reason: String,
        /// For people.
        detail: String,
    },
    /// No first answer within [`limits::FIRST_ANSWER`]; reported once per wait.
    Unanswered(CollectionName),
    /// The registration is stored.
    Registered(proto::Registered),
    /// The registration is gone.
    Deregistered(proto::Deregistered),
    /// A request was refused.
    Refused(proto::Refused),
    /// A certificate was issued.
    Issued(proto::Issued),
    /// A newer trust bundle. Answer with [`ClientSession::bundle_applied`].
    Bundle(proto::Bundle),
    /// Answer with [`ClientSession::answer`].
    Query(proto::Query),
    /// The server ends the stream on purpose; the connection will close.
    Goodbye(proto::Goodbye),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Down,
    Opening,
    Up,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Waiting { since: Instant, reported: bool },
    Held,
    Missing,
    Denied,
}

#[derive(Debug)]
struct Collection {
    status: Status,
    held: BTreeMap<Key, Entry>,
    staged: BTreeMap<Key, Option<Entry>>,
    /// The number of this subscription on this stream.
    id: u64,
    /// What is held was not offered: the first answer is the whole, and what is not in it is gone.
    whole: bool,
}

/// The proxy's side of the protocol. See the module's drawing.
#[derive(Debug)]
pub struct ClientSession {
    settings: ClientSettings,
    link: Link,
    collections: BTreeMap<CollectionName, Collection>,
    outbox: VecDeque<client_message::Kind>,
    applied: VecDeque<proto::Applied>,
    registration: Option<proto::Register>,
    bundle_version: u64,
    next_id: u64,
    /// Resources offered on this stream.
    offered: usize,
    failures: u32,
    attempt_at: Instant,
    retry_after: Duration,
}

impl ClientSession {
    /// A client that connects at once.
    #[must_use]
    pub fn new(settings: ClientSettings, now: Instant) -> Self {
        Self {
            settings,
            link: Link::Down,
            collections: BTreeMap::new(),
            outbox: VecDeque::new(),
            applied: VecDeque::new(),
            registration: None,
            bundle_version: 0,
            next_id: 1,
            offered: 0,
            failures: 0,
            attempt_at: now,
            retry_after: Duration::ZERO,
        }
    }

    /// Starts a subscription, with what is held from an earlier run (empty for nothing). Does nothing if it stands.
    pub fn subscribe(&mut self, name: &CollectionName, held: BTreeMap<Key, Entry>, now: Instant) {
        if self.collections.contains_key(name) {
            return;
        }
        let status = if held.is_empty() { Status::Waiting { since: now, reported: false } } else { Status::Held };
        let collection = Collection { status, held, staged: BTreeMap::new(), id: 0, whole: false };
        self.collections.insert(name.clone(), collection);
        if self.link != Link::Down {
            self.push_subscribe(name);
        }
    }

    /// Ends a subscription and forgets what was held.
    pub fn unsubscribe(&mut self, name: &CollectionName) {
        if self.collections.remove(name).is_some() && self.link != Link::Down {
            let message = proto::Unsubscribe { collection: name.to_string() };
            self.outbox.push_back(client_message::Kind::Unsubscribe(message));
        }
    }

    /// Whether a subscription stands.
    #[must_use]
    pub fn is_subscribed(&self, name: &CollectionName) -> bool {
        self.collections.contains_key(name)
    }

    /// The collections subscribed to.
    pub fn subscriptions(&self) -> impl Iterator<Item = &CollectionName> {
        self.collections.keys()
    }

    /// What is held of a collection, as of its last `Complete`.
    #[must_use]
    pub fn held(&self, name: &CollectionName) -> Option<&BTreeMap<Key, Entry>> {
        self.collections.get(name).map(|c| &c.held)
    }

    /// Registers the workload. Call it again after every [`ClientEvent::Welcome`]: the address that peers are to use may
    /// depend on the connection.
    pub fn register(&mut self, registration: proto::Register) {
        if self.link == Link::Up {
            self.outbox.push_back(client_message::Kind::Register(registration.clone()));
        }
        self.registration = Some(registration);
    }

    /// Ends the registration. True if a server is there to acknowledge it.
    pub fn deregister(&mut self) -> bool {
        let Some(registration) = self.registration.take() else { return false };
        let (instance, generation) = (registration.instance, registration.generation);
        if self.link != Link::Up {
            return false;
        }
        self.outbox.push_back(client_message::Kind::Deregister(proto::Deregister { instance, generation }));
        true
    }

    /// Asks for a certificate. False if there is no connection; ask again after [`ClientEvent::Welcome`].
    pub fn renew(&mut self, id: u64, csr: bytes::Bytes) -> bool {
        if self.link == Link::Up {
            self.outbox.push_back(client_message::Kind::Renew(proto::RenewCertificate { id, csr }));
        }
        self.link == Link::Up
    }

    /// Answers a query.
    pub fn answer(&mut self, answer: proto::QueryAnswer) {
        if self.link == Link::Up {
            self.outbox.push_back(client_message::Kind::Answer(answer));
        }
    }

    /// The bundle version in use, at the start or after [`ClientEvent::Bundle`].
    pub fn bundle_applied(&mut self, version: u64) {
        self.bundle_version = version;
        if self.link == Link::Up {
            self.outbox.push_back(client_message::Kind::BundleApplied(proto::BundleApplied { version }));
        }
    }

    /// Acknowledges one resource version, or refuses it with a diagnostic.
    pub fn applied(&mut self, collection: &CollectionName, key: &Key, version: u64, result: Result<(), &str>) {
        if self.link == Link::Down {
            return;
        }
        let error = match result {
            Ok(()) => String::new(),
            Err("") => "refused".to_owned(),
            Err(diagnostic) => printable(diagnostic),
        };
        let (collection, key) = (collection.to_string(), Some(key.to_proto()));
        self.applied.push_back(proto::Applied { collection, key, version, error });
    }

    /// When to connect, while there is no connection.
    #[must_use]
    pub fn attempt_at(&self) -> Option<Instant> {
        (self.link == Link::Down).then_some(self.attempt_at)
    }

    /// Whether [`next_message`](Self::next_message) has something.
    #[must_use]
    pub fn has_message(&self) -> bool {
        !self.outbox.is_empty() || !self.applied.is_empty()
    }

    /// After [`disconnected`](Self::disconnected): connects again at once, e.g. with a new certificate.
    pub fn reconnect(&mut self, now: Instant) {
        self.failures = 0;
        self.attempt_at = now;
    }

    /// Whether the stream is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.link == Link::Up
    }

    /// A stream has been opened.
    pub fn connected(&mut self) {
        self.link = Link::Opening;
        self.outbox.clear();
        self.applied.clear();
        self.offered = 0;
        self.outbox.push_back(client_message::Kind::Hello(proto::Hello {
            protocol_min: limits::PROTOCOL,
            protocol_max: limits::PROTOCOL,
            capabilities: self.settings.capabilities.clone(),
            software: self.settings.software.clone(),
            instance: self.settings.instance.clone(),
            bundle_version: self.bundle_version,
            zone: self.settings.zone.clone(),
        }));
        let names: Vec<CollectionName> = self.collections.keys().cloned().collect();
        for name in names {
            self.push_subscribe(&name);
        }
    }

    fn push_subscribe(&mut self, name: &CollectionName) {
        let Some(collection) = self.collections.get_mut(name) else { return };
        collection.id = self.next_id;
        self.next_id += 1;
        let count = collection.held.len();
        let offer = count <= limits::MAX_OFFERED_EACH && self.offered + count <= self.settings.max_offered;
        collection.whole = !offer;
        self.offered += if offer { count } else { 0 };
        let have = collection.held.iter().take(if offer { count } else { 0 });
        let have = have.map(|(k, e)| proto::Have { key: Some(k.to_proto()), version: e.version });
        self.outbox.push_back(client_message::Kind::Subscribe(proto::Subscribe {
            collection: name.to_string(),
            subscription: collection.id,
            have: have.collect(),
        }));
    }

    /// The stream, or an attempt at one, has ended. `jitter` is a random number of 0 to 1.
    pub fn disconnected(&mut self, now: Instant, jitter: f64) {
        self.link = Link::Down;
        self.outbox.clear();
        self.applied.clear();
        for collection in self.collections.values_mut() {
            collection.staged.clear();
        }
        let (first, longest) = limits::BACKOFF;
        let base = first.saturating_mul(1 << self.failures.min(10)).min(longest);
        self.failures += 1;
        // Half to one and a half times: proxies that lost their server together come back apart.
        let delay = base.mul_f64(0.5 + jitter.clamp(0.0, 1.0)) + std::mem::take(&mut self.retry_after);
        self.attempt_at = now + delay;
    }

    /// The next message to send.
    pub fn next_message(&mut self) -> Option<ClientMessage> {
        let kind = match self.outbox.pop_front() {
            Some(kind) => kind,
            None if !self.applied.is_empty() => {
                let count = self.applied.len().min(limits::MAX_APPLIED);
                client_message::Kind::Applied(proto::AppliedList { applied: self.applied.drain(..count).collect() })
            }
            None => return None,
        };
        Some(ClientMessage { kind: Some(kind) })
    }

    /// Takes a message from the server.
    pub fn receive(&mut self, message: proto::ServerMessage) -> Result<Option<ClientEvent>, ProtocolError> {
        use server_message::Kind;
        // A member of the oneof that this version does not know.
        let Some(kind) = message.kind else { return Ok(None) };
        Ok(match kind {
            Kind::Welcome(welcome) => Some(self.welcome(welcome)?),
            Kind::Resource(resource) => {
                self.stage(resource)?;
                None
            }
            Kind::Complete(complete) => self.complete(&complete.collection.parse()?, &complete),
            Kind::Missing(missing) => {
                let name: CollectionName = missing.collection.parse()?;
                self.settle(&name, missing.subscription, Status::Missing).then_some(ClientEvent::Missing(name))
            }
            Kind::Denied(proto::Denied { collection, reason, detail, subscription }) => {
                let name: CollectionName = collection.parse()?;
                let known = self.settle(&name, subscription, Status::Denied);
                let detail = printable(&detail);
                known.then_some(ClientEvent::Denied { collection: name, reason: printable(&reason), detail })
            }
            Kind::Registered(m) => Some(ClientEvent::Registered(m)),
            Kind::Deregistered(m) => Some(ClientEvent::Deregistered(m)),
            Kind::Refused(m) => Some(ClientEvent::Refused(m)),
            Kind::Issued(m) => Some(ClientEvent::Issued(m)),
            // Bundles only grow: an older one, from a control plane that lags, must not bring back a retired root.
            Kind::Bundle(m) => (m.version > self.bundle_version).then_some(ClientEvent::Bundle(m)),
            Kind::Query(m) => Some(ClientEvent::Query(m)),
            Kind::Goodbye(m) => {
                // Capped: a server cannot send a proxy away for good.
                self.retry_after = Duration::from_millis(m.retry_after_ms.into()).min(Duration::from_secs(30));
                Some(ClientEvent::Goodbye(m))
            }
        })
    }

    fn welcome(&mut self, welcome: proto::Welcome) -> Result<ClientEvent, ProtocolError> {
        if self.link != Link::Opening {
            return Err(ProtocolError::Greeted);
        }
        if welcome.protocol != limits::PROTOCOL {
            return Err(ProtocolError::Version(welcome.protocol, welcome.protocol));
        }
        self.link = Link::Up;
        self.failures = 0;
        Ok(ClientEvent::Welcome(welcome))
    }

    fn stage(&mut self, resource: proto::Resource) -> Result<(), ProtocolError> {
        let name: CollectionName = resource.collection.parse()?;
        let key = Key::from_proto(resource.key).ok_or(ProtocolError::Key)?;
        // A body of any size: whoever decodes it refuses it as one resource. A stream that ended over it would come back to it.
        // Of a subscription that was ended while this was on its way.
        let Some(collection) = self.current(&name, resource.subscription) else { return Ok(()) };
        let entry = (!resource.deleted).then_some(Entry { version: resource.version, body: resource.body });
        collection.staged.insert(key, entry);
        Ok(())
    }

    fn current(&mut self, name: &CollectionName, subscription: u64) -> Option<&mut Collection> {
        self.collections.get_mut(name).filter(|c| c.id == subscription)
    }

    fn complete(&mut self, name: &CollectionName, complete: &proto::Complete) -> Option<ClientEvent> {
        let collection = self.current(name, complete.subscription)?;
        collection.status = Status::Held;
        let mut changes = Vec::new();
        if std::mem::take(&mut collection.whole) {
            let gone = collection.held.keys().filter(|k| !collection.staged.contains_key(*k)).cloned();
            let gone: Vec<Key> = gone.collect();
            collection.staged.extend(gone.into_iter().map(|key| (key, None)));
        }
        for (key, entry) in std::mem::take(&mut collection.staged) {
            match &entry {
                Some(e) => collection.held.insert(key.clone(), e.clone()),
                None => collection.held.remove(&key),
            };
            changes.push(Change { key, entry });
        }
        Some(ClientEvent::Update { collection: name.clone(), changes, version: complete.version })
    }

    fn settle(&mut self, name: &CollectionName, subscription: u64, status: Status) -> bool {
        let Some(collection) = self.current(name, subscription) else { return false };
        collection.held.clear();
        collection.staged.clear();
        collection.status = status;
        true
    }

    /// When [`tick`](Self::tick) has something to report.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let waits = self.collections.values().filter_map(|c| match c.status {
            Status::Waiting { since, reported: false } => Some(since + limits::FIRST_ANSWER),
            _ => None,
        });
        waits.min()
    }

    /// Reports the collections that have waited too long for a first answer.
    pub fn tick(&mut self, now: Instant) -> Vec<ClientEvent> {
        let mut events = Vec::new();
        for (name, collection) in &mut self.collections {
            if let Status::Waiting { since, reported } = &mut collection.status
                && !*reported
                && now >= *since + limits::FIRST_ANSWER
            {
                *reported = true;
                events.push(ClientEvent::Unanswered(name.clone()));
            }
        }
        events
    }
}
