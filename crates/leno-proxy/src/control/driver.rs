//! The control thread's loop: one place that waits for everything it can be woken by.

mod telling;

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leno_discovery::client::{self, ClientError, Stream};
use leno_discovery::proto;
use leno_discovery::session::ClientSettings;
use leno_discovery::{ClientEvent, ClientSession, CollectionName, limits};
use leno_identity::KeyPair;
use leno_model::SpiffeId;
use leno_net::tls::TlsIdentity;
use leno_net::tls::stream::Expect;
use leno_runtime::{Clock, Random, SeededRandom};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::connect::{Targets, connector};
use super::destinations::{Destinations, Wanted, seconds};
use super::enrol::{JoinError, renew_apart};
use super::state_dir::StateDir;
use super::status::ControlStatus;
use super::trust::Trust;
use super::{Command, registration};
use crate::settings::ProxySettings;
use crate::snapshot::{ControlLink, Snapshot, Wish};

/// How often idle destinations are looked for.
const SWEEP: Duration = Duration::from_secs(30);
/// Changes are gathered for so long before they are written to disk: a burst of edits costs one write.
const STORE_AFTER: Duration = Duration::from_millis(200);
/// Pause after a registration that was refused. What refused it may pass: a store that failed, a grant that is on its way.
const REGISTER_AGAIN: Duration = Duration::from_secs(10);

/// What a driver is made of.
pub(super) struct Parts {
    pub(super) settings: Arc<ProxySettings>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) dir: StateDir,
    pub(super) targets: Arc<Targets>,
    pub(super) trust: Trust,
    pub(super) destinations: Destinations,
    pub(super) client: ClientSettings,
    pub(super) generation: u64,
}

/// An attempt at a stream, or at renewing an expired leaf first.
enum Attempt {
    Stream(Box<Result<Stream, ClientError>>),
    Renewed(Box<Result<(KeyPair, TlsIdentity), JoinError>>),
}

type Attempting = Pin<Box<dyn Future<Output = Attempt>>>;

/// See the module.
pub(super) struct Driver {
    parts: Parts,
    session: ClientSession,
    commands: mpsc::Receiver<Command>,
    status: watch::Sender<Arc<ControlStatus>>,
    random: SeededRandom,
    version: u64,
    /// Where the hop listens, once it does.
    hop: Option<std::net::SocketAddr>,
    registered: bool,
    register_at: Option<Instant>,
    /// A stream that has not said Welcome by then is left.
    welcome_by: Option<Instant>,
    draining: Option<oneshot::Sender<()>>,
    /// A successor registers and writes the files; here only what is under way is seen to its end.
    retired: bool,
    problem: Option<String>,
    unanswered: u64,
    /// Collections whose file is not what is in use.
    unsaved: BTreeSet<CollectionName>,
    save_at: Option<Instant>,
    saving: Option<JoinHandle<bool>>,
    /// The write under way has everything that a start needs.
    saving_start: bool,
    /// See [`ControlStatus`].
    prepared: bool,
    kept: bool,
    sweep_at: Instant,
    /// The snapshot or the status is not what workers and operators see.
    dirty: bool,
}

/// What woke the loop.
enum Woken {
    Wish(Wish),
    Command(Command),
    Message(Result<Option<proto::ServerMessage>, ClientError>),
    Room(mpsc::OwnedPermit<proto::ClientMessage>),
    NoRoom,
    Attempt(Attempt),
    /// A write has ended; whether all of it is on disk.
    Saved(bool),
    Time,
    End,
}

impl Driver {
    pub(super) fn new(parts: Parts, commands: mpsc::Receiver<Command>) -> (Self, watch::Receiver<Arc<ControlStatus>>) {
        let now = Instant::now();
        let mut session = ClientSession::new(parts.client.clone(), now);
        session.bundle_applied(parts.trust.bundle_version());
        for (name, held) in parts.destinations.subscriptions() {
            session.subscribe(&name, held, now);
        }
        let (status, receiver) = watch::channel(Arc::default());
        // From disk. An upstream that was not there when it was written is no reason to wait.
        let kept = parts.destinations.inbound_answered();
        let mut driver = Self {
            parts,
            session,
            commands,
            status,
            random: SeededRandom::from_system(),
            version: 1,
            hop: None,
            registered: false,
            register_at: None,
            welcome_by: None,
            draining: None,
            retired: false,
            problem: None,
            unanswered: 0,
            unsaved: BTreeSet::new(),
            save_at: None,
            saving: None,
            saving_start: false,
            prepared: kept,
            kept,
            sweep_at: now + SWEEP,
            dirty: false,
        };
        driver.follow_backends();
        driver.tell_status();
        (driver, receiver)
    }

    pub(super) fn identity(&self) -> &SpiffeId {
        self.parts.trust.context().identity().spiffe()
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        self.parts.destinations.snapshot(self.version, self.parts.trust.context().clone())
    }

    /// Until every handle and worker is gone.
    pub(super) async fn run(mut self, mut link: ControlLink) {
        let mut stream: Option<Stream> = None;
        let mut attempting: Option<Attempting> = None;
        loop {
            if stream.is_none()
                && attempting.is_none()
                && self.session.attempt_at().is_some_and(|t| t <= Instant::now())
            {
                attempting = Some(self.attempt());
            }
            match self.wait(&mut link, &mut stream, &mut attempting).await {
                Woken::End => break,
                Woken::Wish(Wish::Destination(service)) => self.wish(&service),
                Woken::Command(command) => self.command(command),
                Woken::Room(permit) => {
                    if let Some(message) = self.session.next_message() {
                        permit.send(message);
                    }
                }
                Woken::Message(Ok(Some(message))) => {
                    if !self.message(message) {
                        stream = None;
                        self.lost(None);
                    }
                }
                Woken::Message(Ok(None)) | Woken::NoRoom => {
                    stream = None;
                    self.lost(None);
                }
                Woken::Message(Err(error)) => {
                    stream = None;
                    self.lost(Some((error.reason(), error.to_string())));
                }
                Woken::Attempt(outcome) => {
                    attempting = None;
                    stream = self.attempted(outcome);
                }
                Woken::Saved(is_whole) => self.saved(is_whole),
                Woken::Time => {}
            }
            if self.welcome_by.is_some_and(|t| t <= Instant::now()) {
                stream = None;
                let reason = leno_model::Reason::ControlPlaneUnreachable;
                self.lost(Some((reason, "the stream was opened, and no Welcome came".to_owned())));
            }
            if stream.is_some() && self.parts.trust.is_expired() {
                // Renewals over this stream have failed. The next attempt renews over a stream of its own.
                stream = None;
                let detail = "our certificate has expired; it is renewed apart".to_owned();
                self.lost(Some((leno_model::Reason::CertificateExpired, detail)));
            }
            self.on_time();
            if self.parts.trust.is_due() && self.session.is_up() {
                self.ask_for_certificate();
            }
            self.publish(&link);
        }
        if let Some(saving) = self.saving.take() {
            // The write under way must not come after the successor's.
            let _ = saving.await;
        }
    }

    /// Waits for whatever comes first. Every branch is cancel-safe: the futures that carry state live outside.
    async fn wait(
        &mut self,
        link: &mut ControlLink,
        stream: &mut Option<Stream>,
        attempting: &mut Option<Attempting>,
    ) -> Woken {
        let wake_at = self.wake_at();
        let outgoing = stream.as_ref().map(|s| s.outgoing.clone()).filter(|_| self.session.has_message());
        tokio::select! {
            message = next(stream) => Woken::Message(message),
            permit = reserve(outgoing) => permit.map_or(Woken::NoRoom, Woken::Room),
            wish = link.wishes.recv() => wish.map_or(Woken::End, Woken::Wish),
            command = self.commands.recv() => command.map_or(Woken::End, Woken::Command),
            outcome = attempted(attempting) => Woken::Attempt(outcome),
            is_whole = saved(&mut self.saving) => Woken::Saved(is_whole),
            () = tokio::time::sleep_until(wake_at.into()) => Woken::Time,
        }
    }

    fn wake_at(&self) -> Instant {
        let now = Instant::now();
        let renewal = self.session.is_up().then(|| now + self.parts.trust.wait());
        let save = self.save_at.filter(|_| self.saving.is_none());
        let own = [self.register_at, self.welcome_by, renewal, save, Some(self.sweep_at)];
        let all = [self.session.deadline(), self.session.attempt_at()].into_iter().chain(own);
        // An attempt that is overdue is under way.
        all.into_iter()
            .flatten()
            .filter(|t| *t > now)
            .min()
            .unwrap_or(self.sweep_at)
            .max(now + Duration::from_millis(1))
    }

    fn attempt(&mut self) -> Attempting {
        let (targets, context) = (self.parts.targets.clone(), self.parts.trust.context().clone());
        if self.parts.trust.is_expired() {
            let client = self.parts.client.clone();
            return Box::pin(async move { Attempt::Renewed(Box::new(renew_apart(&targets, &context, &client).await)) });
        }
        self.session.connected();
        let first: Vec<proto::ClientMessage> = std::iter::from_fn(|| self.session.next_message()).collect();
        let connector = connector(&targets, Expect::control_plane(context));
        Box::pin(async move { Attempt::Stream(Box::new(client::connect(&connector, first).await)) })
    }

    fn attempted(&mut self, outcome: Attempt) -> Option<Stream> {
        match outcome {
            Attempt::Stream(outcome) => match *outcome {
                Ok(stream) => {
                    self.welcome_by = Some(Instant::now() + limits::HELLO_TIMEOUT);
                    return Some(stream);
                }
                Err(error) => self.lost(Some((error.reason(), error.to_string()))),
            },
            Attempt::Renewed(outcome) => match *outcome {
                Ok((key, tls)) => {
                    self.parts.trust.renewed(&key, tls);
                    self.session.reconnect(Instant::now());
                    self.dirty = true;
                }
                Err(error) => self.lost(Some((error.reason(), error.to_string()))),
            },
        }
        None
    }

    fn lost(&mut self, problem: Option<(leno_model::Reason, String)>) {
        // What TLS said is the cause of what the layers above make of it.
        let problem = self.parts.targets.refusal.take().or(problem);
        let was_up = self.session.is_up();
        self.welcome_by = None;
        self.session.disconnected(Instant::now(), self.random.unit());
        self.parts.trust.interrupted();
        self.registered = false;
        // Nobody is left to acknowledge it: the registration ends by its grace.
        if let Some(done) = self.draining.take() {
            let _ = done.send(());
        }
        if let Some((reason, detail)) = problem {
            let text = format!("{reason}: {detail}");
            if was_up || self.problem.as_ref() != Some(&text) {
                tracing::warn!(%reason, detail, "no stream to the control plane; going on with what is known");
                if matches!(reason, leno_model::Reason::PeerUntrusted | leno_model::Reason::CertificateRevoked) {
                    tracing::warn!(
                        "the stored certificate is not accepted (its root was retired, or it was revoked): start this member again \
                         with a new token (`leno token create`)"
                    );
                }
            }
            self.problem = Some(text);
        } else if was_up {
            tracing::info!("the control plane closed the stream; connecting again");
        }
        self.dirty = true;
    }

    fn wish(&mut self, service: &leno_model::NamespacedName) {
        let Wanted { is_new, evicted } = self.parts.destinations.want(service, seconds(&*self.parts.clock));
        if let Some(evicted) = evicted {
            self.let_go(evicted);
        }
        if is_new {
            self.subscribe(service);
        }
    }

    fn let_go(&mut self, service: leno_model::NamespacedName) {
        let collection = CollectionName::Outbound(service);
        self.session.unsubscribe(&collection);
        self.settled(collection);
        self.dirty = true;
    }

    fn subscribe(&mut self, service: &leno_model::NamespacedName) {
        self.session.subscribe(&CollectionName::Outbound(service.clone()), Default::default(), Instant::now());
        self.dirty = true;
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Serve(hop) => {
                self.hop = Some(hop);
                self.register();
            }
            Command::Drain(done) => {
                self.hop = None;
                // A successor's registration is not ours to end.
                if !self.retired && self.session.deregister() {
                    self.draining = Some(done);
                } else {
                    let _ = done.send(());
                }
            }
            Command::Retire => self.retire(),
        }
    }

    /// Streams that are under way may last for hours: policy, revocations and renewals must reach them until their end.
    fn retire(&mut self) {
        self.retired = true;
        (self.hop, self.register_at) = (None, None);
        self.registered = false;
        self.parts.trust.leave_files();
        self.unsaved.clear();
        self.save_at = None;
        self.dirty = true;
    }

    /// Registers, as soon as peers could really be served.
    fn register(&mut self) {
        if !self.session.is_up() || !self.parts.destinations.inbound_answered() {
            return;
        }
        let Some(hop) = self.hop else { return };
        let Some(address) = registration::announced(&self.parts.settings, hop, self.parts.targets.local_address())
        else {
            return;
        };
        let registration = registration::message(&self.parts, address);
        self.session.register(registration);
    }

    /// Handles a message; false if the stream is to be left.
    fn message(&mut self, message: proto::ServerMessage) -> bool {
        match self.session.receive(message) {
            Ok(Some(event)) => self.event(event),
            Ok(None) => true,
            Err(error) => {
                tracing::warn!(%error, "the control plane broke the protocol");
                self.problem = Some(error.to_string());
                false
            }
        }
    }

    fn event(&mut self, event: ClientEvent) -> bool {
        self.dirty = true;
        match event {
            ClientEvent::Welcome(welcome) => {
                tracing::info!(software = welcome.software, "connected to the control plane");
                self.problem = None;
                self.welcome_by = None;
                self.register();
            }
            ClientEvent::Update { collection, changes, version } => {
                for verdict in self.parts.destinations.update(&collection, &changes, version) {
                    if let Some(error) = &verdict.error {
                        tracing::warn!(resource = %verdict.key, error, "a resource was refused; the last good one stays");
                    }
                    let result = verdict.error.as_deref().map_or(Ok(()), Err);
                    self.session.applied(&collection, &verdict.key, verdict.version, result);
                }
                self.follow_backends();
                self.settled(collection);
            }
            ClientEvent::Missing(collection) => {
                self.parts.destinations.ended(&collection, None);
                self.settled(collection);
            }
            ClientEvent::Denied { collection, reason, detail } => {
                tracing::warn!(%collection, reason, detail, "a subscription was denied");
                self.parts.destinations.ended(&collection, Some(&detail));
                self.settled(collection);
            }
            ClientEvent::Unanswered(_) => self.unanswered += 1,
            ClientEvent::Registered(_) => self.registered = true,
            ClientEvent::Deregistered(_) => {
                self.registered = false;
                if let Some(done) = self.draining.take() {
                    let _ = done.send(());
                }
            }
            ClientEvent::Refused(refused) => self.refused(&refused),
            ClientEvent::Issued(issued) => {
                self.parts.trust.issued(&issued);
            }
            ClientEvent::Bundle(bundle) => match self.parts.trust.bundle(&bundle) {
                Ok(()) => {
                    // Workers first: what is acknowledged is what they judge by.
                    self.session.bundle_applied(bundle.version);
                    tracing::info!(version = bundle.version, "trust bundle replaced");
                }
                Err(error) => tracing::error!(%error, "the trust bundle is refused; the last good one stays"),
            },
            ClientEvent::Query(query) => self.query(&query),
            ClientEvent::Goodbye(goodbye) => {
                let text = format!("{}: {}", goodbye.reason, goodbye.detail);
                tracing::warn!(problem = text, "the control plane ended the stream");
                if goodbye.reason == leno_model::Reason::CertificateExpired.as_str() {
                    self.parts.trust.expire();
                }
                self.problem = Some(text);
            }
        }
        true
    }

    fn refused(&mut self, refused: &proto::Refused) {
        let text = format!("{}: {}", refused.reason, refused.detail);
        match proto::refused::Request::try_from(refused.request) {
            Ok(proto::refused::Request::Renew) => {
                if self.parts.trust.is_pending(&refused.subject) {
                    self.parts.trust.failed(&text);
                }
            }
            Ok(proto::refused::Request::Deregister) => {
                // An older generation than the stored one: a successor has registered, nothing is left to remove.
                if let Some(done) = self.draining.take() {
                    let _ = done.send(());
                }
            }
            _ => {
                self.registered = false;
                tracing::error!(problem = text, "the registration was refused");
                // A newer generation of this instance is there: trying on would only be refused again.
                let superseded = refused.reason == leno_model::Reason::Draining.as_str();
                self.register_at = (!superseded).then(|| Instant::now() + REGISTER_AGAIN);
            }
        }
        self.problem = Some(text);
    }

    fn ask_for_certificate(&mut self) {
        match self.parts.trust.request() {
            Ok((id, request)) => {
                self.session.renew(id, request.into());
            }
            Err(error) => self.parts.trust.failed(&error.to_string()),
        }
    }

    /// A collection has been answered: its file follows, and it may have been the one that a registration waited for.
    fn settled(&mut self, collection: CollectionName) {
        let registrable = !matches!(collection, CollectionName::Outbound(_)) && !self.registered;
        if self.retired {
            return;
        }
        self.unsaved.insert(collection);
        // The proxy is not ready before the first ones are kept.
        let pause = if self.prepared { STORE_AFTER } else { Duration::ZERO };
        self.save_at.get_or_insert_with(|| Instant::now() + pause);
        if registrable {
            self.register();
        }
    }

    fn follow_backends(&mut self) {
        for service in self.parts.destinations.adopt_backends(seconds(&*self.parts.clock)) {
            self.subscribe(&service);
        }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        for event in self.session.tick(now) {
            self.event(event);
        }
        if self.register_at.is_some_and(|t| t <= now) {
            self.register_at = None;
            self.register();
        }
        if now >= self.sweep_at {
            self.sweep_at = now + SWEEP;
            for service in self.parts.destinations.drop_idle(seconds(&*self.parts.clock)) {
                self.let_go(service);
            }
        }
        if self.save_at.is_some_and(|t| t <= now) && self.saving.is_none() {
            self.save();
        }
    }
}

async fn next(stream: &mut Option<Stream>) -> Result<Option<proto::ServerMessage>, ClientError> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

async fn reserve(
    outgoing: Option<mpsc::Sender<proto::ClientMessage>>,
) -> Option<mpsc::OwnedPermit<proto::ClientMessage>> {
    match outgoing {
        Some(sender) => sender.reserve_owned().await.ok(),
        None => std::future::pending().await,
    }
}

async fn attempted(attempting: &mut Option<Attempting>) -> Attempt {
    match attempting {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn saved(saving: &mut Option<JoinHandle<bool>>) -> bool {
    match saving {
        // A panic in the writer was reported by the runtime; the files are written again with the next change.
        Some(handle) => handle.await.unwrap_or(false),
        None => std::future::pending().await,
    }
}
