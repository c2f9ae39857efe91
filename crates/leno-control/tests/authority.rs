//! The authority over months and through failures: streams that outlive leaves, changes cut short, rotations, restored backups.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use leno_api::{RevocationRequest, RotationPhase, TokenRequest};
use leno_control::audit::Audit;
use leno_control::ca::Ca;
use leno_control::ca::live::MAX_CLAIM;
use leno_control::own_certificate::OwnCertificate;
use leno_control::records::{self, Grant};
use leno_control::world::feed;
use leno_control::{Parts, Registry, Reports, Tokens, World, discovery};
use leno_discovery::client::{self, BoxedIo, Connector, ConnectorError, Stream};
use leno_discovery::limits;
use leno_discovery::proto::{self, client_message, server_message};
use leno_identity::{Authority, Issued, JoinToken, KeyPair, PeerIdentity, csr};
use leno_model::{Reason, TrustDomain};
use leno_net::tls::stream::{self, Expect, HANDSHAKE_TIMEOUT};
use leno_net::tls::{ALPN_H2, TlsContext, TlsIdentity};
use leno_runtime::clock::{Clock, ManualClock};
use leno_runtime::drain::drain;
use leno_runtime::scope::Scope;
use leno_store::contract::{BoxFuture, ListPage, Page, Watch};
use leno_store::{Cursor, Expect as Expected, Key, Record, RedbSettings, RedbStore, Store, StoreError, Version};
use tokio::net::{TcpListener, TcpStream};

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 24 * 3600;
const GRACE: Duration = Duration::from_secs(30);

/// A store whose disk fails when told to, once per telling.
struct Fragile {
    inner: RedbStore,
    failing: Mutex<Option<&'static str>>,
}

impl Fragile {
    /// The next write or delete of a record of this kind fails.
    fn fail(&self, kind: &'static str) {
        *self.failing.lock().unwrap() = Some(kind);
    }

    fn check(&self, key: &Key) -> Result<(), StoreError> {
        match self.failing.lock().unwrap().take_if(|kind| **kind == *key.kind) {
            Some(_) => Err(StoreError::Backend("no space left on device".into())),
            None => Ok(()),
        }
    }
}

impl Store for Fragile {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
        self.inner.get(key)
    }
    fn list<'a>(
        &'a self,
        kind: &'a str,
        namespace: Option<&'a str>,
        page: Page,
    ) -> BoxFuture<'a, Result<ListPage, StoreError>> {
        self.inner.list(kind, namespace, page)
    }
    fn put<'a>(&'a self, key: &'a Key, value: Bytes, expect: Expected) -> BoxFuture<'a, Result<Version, StoreError>> {
        Box::pin(async move {
            self.check(key)?;
            self.inner.put(key, value, expect).await
        })
    }
    fn delete<'a>(&'a self, key: &'a Key, expect: Expected) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.check(key)?;
            self.inner.delete(key, expect).await
        })
    }
    fn watch<'a>(&'a self, kind: &'a str, from: &'a Cursor) -> BoxFuture<'a, Result<Box<dyn Watch>, StoreError>> {
        self.inner.watch(kind, from)
    }
    fn now<'a>(&'a self, kind: &'a str) -> BoxFuture<'a, Result<Cursor, StoreError>> {
        self.inner.now(kind)
    }
}

struct Plane {
    clock: ManualClock,
    store: Arc<Fragile>,
    audit: Arc<Audit>,
    ca: Arc<Ca>,
    tokens: Arc<Tokens>,
    tasks: Scope,
    _directory: tempfile::TempDir,
}

impl Plane {
    async fn new(ttl_s: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(NOW);
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let inner = RedbStore::open(directory.path(), &RedbSettings::default()).unwrap();
        let store = Arc::new(Fragile { inner, failing: Mutex::default() });
        let audit = Arc::new(Audit::open(directory.path(), shared.clone()).unwrap());
        let authority = Authority::open_or_create(&directory.path().join("ca"), &TrustDomain::default(), NOW).unwrap();
        let ca = Ca::open(authority, ttl_s, GRACE, store.clone(), audit.clone(), shared.clone()).await.unwrap();
        let tokens = Tokens { store: store.clone(), ca: ca.clone(), audit: audit.clone(), clock: shared };
        let tasks = Scope::new("test");
        Self { clock, store, audit, ca, tokens: Arc::new(tokens), tasks, _directory: directory }
    }

    async fn join(&self) -> (Issued, KeyPair) {
        let services = vec!["web".to_owned()];
        let (namespace, service_account) = (Some("shop".into()), None);
        let request = TokenRequest { services, namespace, service_account, ttl_seconds: None };
        let token: JoinToken = self.tokens.create(&request).await.unwrap().token.parse().unwrap();
        let key = KeyPair::generate().unwrap();
        let request = csr::make(&key).unwrap();
        let redeemed = self.tokens.redeem(token.id(), token.secret(), &request, "i1").await.unwrap();
        (redeemed.issued, key)
    }

    fn version(&self) -> u64 {
        self.ca.bundle().borrow().version
    }

    /// Serves discovery, as the assembly does.
    async fn serve(&self) -> SocketAddr {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let (ca, audit, store) = (self.ca.clone(), self.audit.clone(), self.store.clone());
        let world = World::new(TrustDomain::default(), Vec::new());
        self.tasks.spawn("feed", feed::run(world.clone(), store.clone()));
        world.synced().await;
        let registry = Registry::new(world.clone(), store, ca.clone(), audit.clone(), clock.clone(), GRACE);
        let certificate = Arc::new(OwnCertificate::new(ca.clone(), clock.clone()).await.unwrap());
        let (tokens, reports) = (self.tokens.clone(), Arc::new(Reports::default()));
        let parts = Arc::new(Parts { world, registry, tokens, ca, reports, audit, clock, certificate });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (trigger, watch) = drain();
        self.tasks.spawn("discovery", async move {
            discovery::serve(parts, listener, watch).await;
            drop(trigger);
        });
        address
    }

    /// Opens a stream as a proxy does.
    async fn open(&self, address: SocketAddr, issued: &Issued, key: &KeyPair) -> Member {
        let bundle = self.ca.bundle().borrow().clone();
        let version = bundle.version;
        let identity = TlsIdentity::new(issued.chain.clone(), key).unwrap();
        let context = TlsContext::new(identity, bundle, 1, Arc::new(self.clock.clone())).unwrap();
        let expect = Expect::control_plane(context);
        let connector: Connector = Arc::new(move || {
            let expect = expect.clone();
            Box::pin(async move {
                let tcp = TcpStream::connect(address).await.unwrap();
                let tls = stream::connect(tcp, &expect, "control-plane", &[ALPN_H2], HANDSHAKE_TIMEOUT).await;
                tls.map(|io| Box::new(io) as BoxedIo).map_err(|e| ConnectorError { reason: e.reason, detail: e.detail })
            })
        });
        let hello = client_message::Kind::Hello(proto::Hello {
            protocol_min: limits::PROTOCOL,
            protocol_max: limits::PROTOCOL,
            instance: "i1".into(),
            bundle_version: version,
            ..proto::Hello::default()
        });
        let first = vec![proto::ClientMessage { kind: Some(hello) }];
        Member(client::connect(&connector, first).await.unwrap())
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

struct Member(Stream);

impl Member {
    /// The next message of these kinds; others are passed over.
    async fn next(&mut self, wanted: impl Fn(&server_message::Kind) -> bool) -> server_message::Kind {
        loop {
            let kind = self.0.next().await.unwrap().expect("the stream is open").kind.unwrap();
            if wanted(&kind) {
                return kind;
            }
        }
    }

    async fn renew(&mut self) -> Result<(), String> {
        use server_message::Kind;
        let csr = csr::make(&KeyPair::generate().unwrap()).unwrap().into();
        let renew = client_message::Kind::Renew(proto::RenewCertificate { id: 1, csr });
        self.0.outgoing.send(proto::ClientMessage { kind: Some(renew) }).await.unwrap();
        match self.next(|k| matches!(k, Kind::Issued(_) | Kind::Refused(_) | Kind::Goodbye(_))).await {
            Kind::Issued(_) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }
}

fn peer(issued: &Issued) -> PeerIdentity {
    PeerIdentity {
        spiffe: issued.identity.clone(),
        serial: issued.serial.clone(),
        not_before: issued.not_before,
        not_after: issued.not_after,
        root: issued.root,
    }
}

fn revocation_of(issued: &Issued) -> RevocationRequest {
    RevocationRequest { identity: Some(issued.identity.to_string()), ..RevocationRequest::default() }
}

#[tokio::test]
async fn a_stream_outlives_the_leaf_that_it_was_opened_with_and_not_its_newest() {
    let plane = Plane::new(24 * DAY).await;
    let address = plane.serve().await;
    let (issued, key) = plane.join().await;
    let mut member = plane.open(address, &issued, &key).await;
    for days in [20, 40, 60, 80] {
        plane.clock.advance(Duration::from_secs(20 * DAY));
        assert_eq!(member.renew().await, Ok(()), "after {days} days");
    }
    // From now on it does not renew: its leaf ends on day 104, and the stream with it.
    plane.clock.advance(Duration::from_secs(24 * DAY + 1));
    let said = member.next(|k| matches!(k, server_message::Kind::Goodbye(_))).await;
    let server_message::Kind::Goodbye(goodbye) = said else { unreachable!() };
    assert_eq!(goodbye.reason, Reason::CertificateExpired.as_str());
}

#[tokio::test]
async fn a_revocation_that_was_cut_short_is_completed_by_the_next() {
    let plane = Plane::new(DAY).await;
    let (web, _) = plane.join().await;
    let is_revoked = || plane.ca.bundle().borrow().revoked.identities.contains(&web.identity);
    let grant = records::key::<Grant>("shop", "web");
    plane.store.fail("leno:Grant");
    plane.ca.revoke(&revocation_of(&web)).await.unwrap_err();
    let revoked = plane.ca.revoke(&revocation_of(&web)).await.unwrap();
    assert!(is_revoked());
    assert!(plane.store.get(&grant).await.unwrap().is_none(), "the grant is withdrawn");
    assert_eq!(plane.ca.revocations().await.unwrap().len(), 1);

    // Taken back, and the bundle cannot be stored: the next tick publishes it.
    plane.store.fail("leno:Bundle");
    plane.ca.unrevoke(&revoked.id).await.unwrap_err();
    assert!(is_revoked());
    plane.ca.advance(0).await.unwrap();
    assert!(!is_revoked());
    assert!(!plane.ca.unrevoke(&revoked.id).await.unwrap(), "there is none any more");

    // Cut off where a dropped request would be: also then the tick publishes.
    let request = revocation_of(&web);
    {
        let mut revoking = std::pin::pin!(plane.ca.revoke(&request));
        while plane.ca.revocations().await.unwrap().is_empty() {
            let pending = poll_fn(|context| Poll::Ready(revoking.as_mut().poll(context).is_pending())).await;
            assert!(pending, "it was not cut short");
        }
    }
    assert!(!is_revoked());
    plane.ca.advance(0).await.unwrap();
    assert!(is_revoked());
    let log = plane.audit.tail(100).unwrap();
    assert!(log.iter().filter(|e| e.action == "revoke").count() >= 2 && log.iter().any(|e| e.action == "unrevoke"));
}

#[tokio::test]
async fn the_issuer_changes_only_once_the_new_root_is_known() {
    let plane = Plane::new(DAY).await;
    let (web, _) = plane.join().await;
    plane.clock.advance(GRACE);
    plane.ca.live().opened(7, peer(&web), "a", plane.version());
    let (rotated, step) = tokio::join!(plane.ca.rotate(), plane.ca.advance(0));
    rotated.unwrap();
    assert_eq!(step.unwrap(), None, "the member has not heard of the new root");
    assert_eq!(plane.ca.status(&[]).await.phase, RotationPhase::Distributing);

    // A rotation whose bundle could not be published is not judged by the one before.
    let plane = Plane::new(DAY).await;
    plane.clock.advance(GRACE);
    plane.ca.live().opened(7, peer(&web), "a", plane.version());
    plane.store.fail("leno:Bundle");
    plane.ca.rotate().await.unwrap_err();
    assert_eq!(plane.ca.advance(0).await.unwrap(), None);
    assert_eq!(plane.ca.bundle().borrow().roots(&TrustDomain::default()).len(), 2, "published by the tick");
}

#[tokio::test]
async fn an_old_root_is_retired_also_when_something_fails_on_the_way() {
    let plane = Plane::new(DAY).await;
    plane.clock.advance(GRACE);
    plane.ca.rotate().await.unwrap();
    plane.ca.advance(0).await.unwrap().unwrap();
    // Neither can the key be deleted nor the bundle be stored.
    let key = plane._directory.path().join("ca/root-1.key");
    std::fs::remove_file(&key).unwrap();
    std::fs::create_dir(&key).unwrap();
    plane.store.fail("leno:Bundle");
    plane.ca.advance(0).await.unwrap_err();
    let roots = || plane.ca.bundle().borrow().roots(&TrustDomain::default()).len();
    assert_eq!((plane.ca.status(&[]).await.phase, roots()), (RotationPhase::Idle, 2));
    plane.ca.advance(0).await.unwrap();
    assert_eq!(roots(), 1);
}

#[tokio::test]
async fn a_rotation_does_not_wait_for_who_cannot_renew() {
    let plane = Plane::new(DAY).await;
    let (web, _) = plane.join().await;
    plane.clock.advance(GRACE);
    plane.ca.live().opened(7, peer(&web), "a", plane.version());
    plane.ca.rotate().await.unwrap();
    plane.ca.live().bundle_applied(7, plane.version());
    plane.ca.advance(0).await.unwrap().unwrap();
    assert_eq!(plane.ca.advance(0).await.unwrap(), None);
    assert_eq!(plane.ca.status(&[]).await.waiting_for, ["shop/a"]);
    assert_eq!(plane.ca.stranded().await, []);

    // Revoked and taken back: its leaf is good again, and there is no grant to renew it by.
    let revoked = plane.ca.revoke(&revocation_of(&web)).await.unwrap();
    plane.ca.unrevoke(&revoked.id).await.unwrap();
    let status = plane.ca.status(&[]).await;
    assert_eq!((status.waiting_for, status.cannot_renew), (Vec::new(), vec!["shop/a".to_owned()]));
    let stranded = plane.ca.stranded().await;
    assert!(stranded.len() == 1 && stranded[0].message.contains("new token"), "{stranded:?}");
    plane.ca.advance(0).await.unwrap().unwrap();
    assert_eq!(plane.ca.status(&[]).await.phase, RotationPhase::Idle);
    assert_eq!(plane.ca.bundle().borrow().roots(&TrustDomain::default()).len(), 1);

    // A new token mends it.
    plane.join().await;
    assert_eq!(plane.ca.stranded().await, []);
}

#[tokio::test]
async fn a_restored_backup_catches_up_with_its_members() {
    let plane = Plane::new(DAY).await;
    let (web, _) = plane.join().await;
    plane.clock.advance(GRACE);
    let restored = plane.version();
    plane.ca.live().opened(7, peer(&web), "a", restored + 10);
    assert_eq!(plane.ca.live().behind(restored).count(), 1, "it holds a bundle that this control plane does not know");
    plane.ca.rotate().await.unwrap();
    assert_eq!(plane.ca.status(&[]).await.waiting_for, ["shop/a"]);
    assert_eq!(plane.ca.advance(0).await.unwrap(), None);
    assert_eq!(plane.version(), restored + 11, "later than what it holds, so that it takes it");

    // Also without a change; and it is remembered.
    plane.ca.live().opened(8, peer(&web), "b", restored + 20);
    plane.ca.advance(0).await.unwrap();
    assert_eq!(plane.version(), restored + 21);
    plane.ca.live().closed(8);
    plane.ca.revoke(&revocation_of(&web)).await.unwrap();
    assert_eq!(plane.version(), restored + 22);
    let log = plane.audit.tail(100).unwrap();
    assert_eq!(log.iter().filter(|e| e.action == "bundle.raise").count(), 2, "{log:?}");

    // A lie does not use the numbers up, and acknowledges nothing.
    plane.ca.live().opened(9, peer(&web), "liar", MAX_CLAIM + 1);
    plane.ca.advance(0).await.unwrap();
    assert_eq!(plane.version(), restored + 22);
    assert!(plane.ca.status(&[]).await.waiting_for.contains(&"shop/liar".to_owned()));
}
