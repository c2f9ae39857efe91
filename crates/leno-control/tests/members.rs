//! Joining, renewing, registering, leaving and expiring, against a real store with a clock that the test moves.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use leno_api::{RevocationRequest, RotationPhase, TokenRequest};
use leno_control::audit::Audit;
use leno_control::ca::{Ca, EXPIRED_RENEWAL_S};
use leno_control::registry::MAX_PROBES;
use leno_control::registry::admission::{RegisteredAddress, RegisteredPort, RegisteredService};
use leno_control::world::feed;
use leno_control::{Registration, Registry, Tokens, World, vip};
use leno_identity::{Authority, Issued, JoinToken, KeyPair, PeerIdentity, csr};
use leno_model::{Kind, Reason, SpiffeId, TrustDomain};
use leno_runtime::clock::{Clock, ManualClock};
use leno_runtime::scope::Scope;
use leno_store::{
    BoxFuture, Cursor, Expect, Key, ListPage, Page, Record, RedbSettings, RedbStore, Store, StoreError, Version, Watch,
};
use tokio::sync::oneshot;

const NOW: u64 = 1_800_000_000;
const TTL_S: u64 = 3600;
const GRACE: Duration = Duration::from_secs(30);

struct Mesh {
    clock: ManualClock,
    store: Arc<dyn Store>,
    world: Arc<World>,
    ca: Arc<Ca>,
    tokens: Tokens,
    registry: Arc<Registry>,
    audit: Arc<Audit>,
    feed: Scope,
    _directory: tempfile::TempDir,
}

impl Mesh {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(NOW);
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let store: Arc<dyn Store> = Arc::new(RedbStore::open(directory.path(), &RedbSettings::default()).unwrap());
        let audit = Arc::new(Audit::open(directory.path(), shared.clone()).unwrap());
        let authority = Authority::in_memory(&TrustDomain::default(), NOW).unwrap();
        let ca = Ca::open(authority, TTL_S, GRACE, store.clone(), audit.clone(), shared.clone()).await.unwrap();
        let world = World::new(TrustDomain::default(), vec![vip::PREFIX4.into()]);
        let feed = Scope::new("feed");
        feed.spawn("feed", feed::run(world.clone(), store.clone()));
        world.synced().await;
        let registry = Registry::new(world.clone(), store.clone(), ca.clone(), audit.clone(), shared.clone(), GRACE);
        let tokens = Tokens { store: store.clone(), ca: ca.clone(), audit: audit.clone(), clock: shared };
        Self { clock, store, world, ca, tokens, registry, audit, feed, _directory: directory }
    }

    async fn token(&self, services: &[&str]) -> JoinToken {
        let request = TokenRequest {
            services: services.iter().map(|s| (*s).to_owned()).collect(),
            namespace: Some("shop".into()),
            service_account: None,
            ttl_seconds: Some(60),
        };
        self.tokens.create(&request).await.unwrap().token.parse().unwrap()
    }

    async fn redeem(&self, token: &JoinToken, key: &KeyPair) -> Result<Issued, Reason> {
        let request = csr::make(key).unwrap();
        let redeemed = self.tokens.redeem(token.id(), token.secret(), &request, "i1").await;
        redeemed.map(|r| r.issued).map_err(|r| r.reason)
    }

    async fn join(&self, services: &[&str]) -> PeerIdentity {
        let token = self.token(services).await;
        peer(&self.redeem(&token, &KeyPair::generate().unwrap()).await.unwrap())
    }

    /// Waits until the world has taken in what the store has.
    async fn until(&self, reached: impl Fn(&World) -> bool) {
        let mut ticks = self.world.ticks();
        while !reached(&self.world) {
            ticks.changed().await.unwrap();
        }
    }

    async fn instances(&self) -> Vec<String> {
        let (records, _) = leno_store::contract::list_all(&*self.store, "Workload", None).await.unwrap();
        records.iter().map(|r| r.key.name.to_string()).collect()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.feed.cancel();
    }
}

/// What is due once, with the probes to their end.
async fn tick(registry: &Arc<Registry>) {
    join_all(registry.tick(MAX_PROBES).await).await;
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

fn registration(instance: &str, generation: u64, services: &[&str]) -> Registration {
    let port = RegisteredPort { port: 80, target_port: 8080, protocol: "http".into(), name: String::new() };
    let service = |name: &&str| RegisteredService { name: (*name).to_owned(), ports: vec![port.clone()] };
    Registration {
        instance: instance.into(),
        generation,
        namespace: "shop".into(),
        services: services.iter().map(service).collect(),
        // Nothing listens there, and the host answers: a probe finds it dead.
        addresses: vec![RegisteredAddress { transport: "leno/1".into(), address: "127.0.0.1:1".into(), port: 0 }],
        ..Registration::default()
    }
}

#[tokio::test]
async fn a_token_is_redeemed_once_per_key() {
    let mesh = Mesh::new().await;
    let token = mesh.token(&["web", "api"]).await;
    let key = KeyPair::generate().unwrap();
    let first = mesh.redeem(&token, &key).await.unwrap();
    assert_eq!(first.identity.as_str(), "spiffe://mesh.leno/ns/shop/sa/web");
    let again = mesh.redeem(&token, &key).await.unwrap();
    assert_ne!(first.serial, again.serial, "the same redemption, issued again");
    assert_eq!(mesh.redeem(&token, &KeyPair::generate().unwrap()).await.unwrap_err(), Reason::TokenInvalid);

    // A wrong secret, an unknown id, a request for another identity, garbage.
    let other = mesh.token(&["cart"]).await;
    let request = csr::make(&key).unwrap();
    let try_it = async |id: &str, secret: &str, request: &[u8]| {
        mesh.tokens.redeem(id, secret, request, "i1").await.unwrap_err().reason
    };
    assert_eq!(try_it(other.id(), token.secret(), &request).await, Reason::TokenInvalid);
    assert_eq!(try_it("0000000000000000", token.secret(), &request).await, Reason::TokenInvalid);
    assert_eq!(try_it(other.id(), other.secret(), b"junk").await, Reason::UnauthorisedMember);
    assert_eq!(mesh.tokens.list().await.unwrap().iter().filter(|t| t.redeemed.is_some()).count(), 1);

    // Expired: for the key that has it, and for a fresh one.
    mesh.clock.advance(Duration::from_secs(61));
    assert_eq!(mesh.redeem(&token, &key).await.unwrap_err(), Reason::TokenInvalid);
    assert_eq!(mesh.redeem(&other, &key).await.unwrap_err(), Reason::TokenInvalid);

    let log = mesh.audit.tail(100).unwrap();
    let refused = log.iter().filter(|e| e.action == "enrolment" && e.outcome == "token_invalid").count();
    assert_eq!(refused, 5, "{log:?}");
    let issued: Vec<_> = log.iter().filter(|e| e.action == "certificate.issue").collect();
    assert_eq!(issued.len(), 2);
    assert!(issued[0].detail.contains(&first.serial.to_string()));
    assert!(!std::fs::read_to_string(mesh._directory.path().join("audit.log")).unwrap().contains(token.secret()));
}

#[tokio::test]
async fn of_two_keys_at_once_one_wins() {
    let mesh = Mesh::new().await;
    let token = mesh.token(&["web"]).await;
    let keys: Vec<_> = (0..4).map(|_| KeyPair::generate().unwrap()).collect();
    let tries = futures_util::future::join_all(keys.iter().map(|k| mesh.redeem(&token, k))).await;
    assert_eq!(tries.iter().filter(|t| t.is_ok()).count(), 1, "{tries:?}");
}

#[tokio::test]
async fn leaves_renew_also_when_they_have_expired_for_a_while() {
    let mesh = Mesh::new().await;
    let web = mesh.join(&["web"]).await;
    let key = KeyPair::generate().unwrap();
    let request = csr::make(&key).unwrap();
    let renewed = mesh.ca.renew(&web, &request, None).await.unwrap();
    assert_eq!((renewed.identity.clone(), renewed.not_after), (web.spiffe.clone(), NOW + TTL_S));
    mesh.clock.advance(Duration::from_secs(TTL_S + EXPIRED_RENEWAL_S));
    assert!(mesh.ca.renew(&web, &request, None).await.is_ok(), "a laptop comes back");
    mesh.clock.advance(Duration::from_secs(1));
    assert_eq!(mesh.ca.renew(&web, &request, None).await.unwrap_err().reason, Reason::CertificateExpired);

    // Whoever has no grant does not renew, whatever its certificate says.
    let stranger = PeerIdentity {
        spiffe: SpiffeId::new("spiffe://mesh.leno/ns/shop/sa/stranger").unwrap(),
        not_after: mesh.clock.unix_seconds() + 10,
        ..web.clone()
    };
    assert_eq!(mesh.ca.renew(&stranger, &request, None).await.unwrap_err().reason, Reason::UnauthorisedMember);
    let now = PeerIdentity { not_after: mesh.clock.unix_seconds() + 10, ..web };
    assert_eq!(mesh.ca.renew(&now, b"junk", None).await.unwrap_err().reason, Reason::UnauthorisedMember);
}

#[tokio::test]
async fn a_revoked_identity_is_out_until_a_new_token() {
    let mesh = Mesh::new().await;
    let web = mesh.join(&["web"]).await;
    let mut bundle = mesh.ca.bundle();
    let before = bundle.borrow_and_update().version;
    let request = RevocationRequest { identity: Some(web.spiffe.to_string()), ..RevocationRequest::default() };
    let revoked = mesh.ca.revoke(&request).await.unwrap();
    assert!(bundle.has_changed().unwrap());
    assert!(bundle.borrow().revoked.identities.contains(&web.spiffe) && bundle.borrow().version > before);
    assert_eq!(mesh.ca.revoke(&request).await.unwrap().id, revoked.id, "twice is once");
    let csr = csr::make(&KeyPair::generate().unwrap()).unwrap();
    assert_eq!(mesh.ca.renew(&web, &csr, None).await.unwrap_err().reason, Reason::CertificateRevoked);
    let token = mesh.token(&["web"]).await;
    let key = KeyPair::generate().unwrap();
    assert_eq!(mesh.redeem(&token, &key).await.unwrap_err(), Reason::CertificateRevoked);
    let refused = mesh.registry.register(&web.spiffe, 1, &registration("a", 1, &["web"])).await;
    assert_eq!(refused.unwrap_err().reason, Reason::UnauthorisedMember);

    mesh.ca.unrevoke(&revoked.id).await.unwrap();
    assert_eq!(
        mesh.ca.renew(&web, &csr, None).await.unwrap_err().reason,
        Reason::UnauthorisedMember,
        "the grant is gone"
    );
    assert!(mesh.redeem(&token, &key).await.is_ok());
    assert!(mesh.ca.renew(&web, &csr, None).await.is_ok());
}

#[tokio::test]
async fn a_credential_registers_its_services_and_no_others() {
    let mesh = Mesh::new().await;
    let joined = mesh.join(&["web"]).await;
    mesh.ca.live().opened(1, joined.clone(), "a", 1);
    let web = joined.spiffe;
    mesh.registry.register(&web, 1, &registration("a", 1, &["web"])).await.unwrap();
    mesh.until(|w| w.read(|c| c.has_service("shop", "web"))).await;
    let service = mesh.world.read(|c| c.resource(Kind::Service, "shop", "web")).unwrap();
    assert_eq!(service.metadata.annotations["leno.dev/created-from-registration"], "true");
    assert_eq!(mesh.world.read(|c| c.service_info("shop", "web")).identities, std::slice::from_ref(&web));

    for bad in [
        registration("a", 1, &["bank"]),
        registration("a", 1, &["web", "bank"]),
        Registration { namespace: "bank".into(), ..registration("a", 1, &["web"]) },
        // Labels and names of other services are labels.
        Registration { labels: [("service".to_owned(), "bank".to_owned())].into(), ..registration("a", 1, &["bank"]) },
    ] {
        assert_eq!(mesh.registry.register(&web, 1, &bad).await.unwrap_err().reason, Reason::UnauthorisedMember);
    }
    assert_eq!(mesh.instances().await, ["web.a"]);
    let refused = mesh.registry.refused();
    assert!(refused.len() == 1 && refused[0].member == "shop/a", "{refused:?}");
    assert!(refused[0].message.contains("may not register bank in shop"), "{refused:?}");
    let log = mesh.audit.tail(100).unwrap();
    assert_eq!(log.iter().filter(|e| e.action == "register" && e.principal == web.as_str()).count(), 5, "{log:?}");
    // It is told until it is mended, or gone.
    mesh.registry.register(&web, 1, &registration("a", 1, &["web"])).await.unwrap();
    assert_eq!(mesh.registry.refused(), []);
    mesh.registry.register(&web, 1, &registration("a", 1, &["bank"])).await.unwrap_err();
    mesh.ca.live().closed(1);
    assert_eq!(mesh.registry.refused(), []);
}

#[tokio::test]
async fn generations_decide_who_replaces_and_removes_whom() {
    let mesh = Mesh::new().await;
    let web = mesh.join(&["web"]).await.spiffe;
    mesh.registry.register(&web, 1, &registration("a", 5, &["web"])).await.unwrap();
    let older = mesh.registry.register(&web, 2, &registration("a", 4, &["web"])).await;
    assert_eq!(older.unwrap_err().reason, Reason::Draining);
    mesh.registry.register(&web, 3, &registration("a", 6, &["web"])).await.unwrap();
    // The predecessor goes: its stream and its deregistration take nothing with them.
    mesh.registry.stream_lost(1);
    mesh.registry.deregister(&web, "a", 5).await.unwrap();
    mesh.clock.advance(GRACE * 2);
    tick(&mesh.registry).await;
    assert_eq!(mesh.instances().await, ["web.a"]);
    mesh.registry.deregister(&web, "a", 6).await.unwrap();
    assert_eq!(mesh.instances().await, [""; 0], "a drain is immediate");
    mesh.registry.deregister(&web, "a", 6).await.unwrap();
}

#[tokio::test]
async fn a_lost_instance_has_its_grace_also_over_a_restart() {
    let mesh = Mesh::new().await;
    let web = mesh.join(&["web"]).await.spiffe;
    mesh.registry.register(&web, 1, &registration("a", 1, &["web"])).await.unwrap();
    mesh.registry.register(&web, 2, &registration("b", 1, &["web"])).await.unwrap();
    mesh.registry.stream_lost(1);
    mesh.clock.advance(GRACE - Duration::from_secs(1));
    tick(&mesh.registry).await;
    assert_eq!(mesh.registry.counts(), (1, 1));
    assert_eq!(mesh.instances().await, ["web.a", "web.b"]);

    // Another control plane takes over: everyone's grace begins with it.
    let clock: Arc<dyn Clock> = Arc::new(mesh.clock.clone());
    let taken_over =
        Registry::new(mesh.world.clone(), mesh.store.clone(), mesh.ca.clone(), mesh.audit.clone(), clock, GRACE);
    assert_eq!(taken_over.load().await.unwrap(), 2);
    taken_over.register(&web, 9, &registration("b", 1, &["web"])).await.unwrap();
    mesh.clock.advance(GRACE - Duration::from_secs(1));
    tick(&taken_over).await;
    assert_eq!(mesh.instances().await, ["web.a", "web.b"]);
    mesh.clock.advance(Duration::from_secs(1));
    tick(&taken_over).await;
    assert_eq!(mesh.instances().await, ["web.b"], "one of two expires alone");
}

type Other = BoxFuture<'static, ()>;

/// A store during whose first delete something else goes on, as far as it can.
struct Racing {
    inner: Arc<dyn Store>,
    /// And who gets what of it is left.
    other: Mutex<Option<(Other, oneshot::Sender<Other>)>>,
}

impl Store for Racing {
    fn delete<'a>(&'a self, key: &'a Key, expect: Expect) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let other = self.other.lock().unwrap().take();
            if let Some((mut other, left)) = other {
                let mut done = false;
                // Reads of the store are answered at once. What is not done by then waits for this delete.
                for _ in 0..100 {
                    done = done || poll_fn(|context| Poll::Ready(other.as_mut().poll(context).is_ready())).await;
                    tokio::task::yield_now().await;
                }
                if !done {
                    drop(left.send(other));
                }
            }
            self.inner.delete(key, expect).await
        })
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
        self.inner.get(key)
    }
    fn put<'a>(&'a self, key: &'a Key, value: Bytes, expect: Expect) -> BoxFuture<'a, Result<Version, StoreError>> {
        self.inner.put(key, value, expect)
    }
    fn list<'a>(
        &'a self,
        kind: &'a str,
        namespace: Option<&'a str>,
        page: Page,
    ) -> BoxFuture<'a, Result<ListPage, StoreError>> {
        self.inner.list(kind, namespace, page)
    }
    fn watch<'a>(&'a self, kind: &'a str, from: &'a Cursor) -> BoxFuture<'a, Result<Box<dyn Watch>, StoreError>> {
        self.inner.watch(kind, from)
    }
    fn now<'a>(&'a self, kind: &'a str) -> BoxFuture<'a, Result<Cursor, StoreError>> {
        self.inner.now(kind)
    }
}

#[tokio::test]
async fn who_comes_back_while_expiries_run_is_registered() {
    let mesh = Mesh::new().await;
    let (api, web) = (mesh.join(&["api"]).await.spiffe, mesh.join(&["web"]).await.spiffe);
    let store = Arc::new(Racing { inner: mesh.store.clone(), other: Mutex::default() });
    let clock: Arc<dyn Clock> = Arc::new(mesh.clock.clone());
    let registry = Registry::new(mesh.world.clone(), store.clone(), mesh.ca.clone(), mesh.audit.clone(), clock, GRACE);
    registry.register(&api, 1, &registration("a", 1, &["api"])).await.unwrap();
    registry.register(&web, 2, &registration("b", 1, &["web"])).await.unwrap();
    registry.stream_lost(1);
    registry.stream_lost(2);
    mesh.clock.advance(GRACE);
    // Both are due. While the first is deleted, both come back as they were.
    let back = registry.clone();
    let (left, unfinished) = oneshot::channel();
    *store.other.lock().unwrap() = Some((
        Box::pin(async move {
            let (a, b) = (registration("a", 1, &["api"]), registration("b", 1, &["web"]));
            let (a, b) = tokio::join!(back.register(&api, 3, &a), back.register(&web, 4, &b));
            a.and(b).unwrap();
        }),
        left,
    ));
    let finish = async {
        if let Ok(unfinished) = unfinished.await {
            unfinished.await;
        }
    };
    tokio::join!(tick(&registry), finish);
    assert_eq!(mesh.instances().await, ["api.a", "web.b"], "both were told that they are registered");
    assert_eq!(registry.counts(), (2, 0));
    // And they are watched over: lost again, they go.
    registry.stream_lost(3);
    registry.stream_lost(4);
    mesh.clock.advance(GRACE);
    tick(&registry).await;
    assert_eq!((mesh.instances().await, registry.counts()), (Vec::new(), (0, 0)));
}

#[tokio::test]
async fn probes_without_an_answer_hold_up_no_expiry() {
    let mesh = Mesh::new().await;
    let (api, web) = (mesh.join(&["api"]).await.spiffe, mesh.join(&["web"]).await.spiffe);
    for (stream, name) in (1..).zip(["a", "b"]) {
        mesh.registry.register(&web, stream, &registration(name, 1, &["web"])).await.unwrap();
        mesh.registry.stream_lost(stream);
    }
    mesh.registry.register(&api, 3, &registration("c", 1, &["api"])).await.unwrap();
    mesh.clock.advance(GRACE);
    let under_way = mesh.registry.tick(MAX_PROBES).await;
    assert_eq!(under_way.len(), 2, "lost together: both are probed, and nobody has answered yet");
    mesh.registry.stream_lost(3);
    mesh.clock.advance(GRACE);
    assert_eq!(mesh.registry.tick(0).await.len(), 0, "no room for more probes");
    assert_eq!(mesh.instances().await, ["web.a", "web.b"]);
}

#[tokio::test]
async fn instances_lost_together_are_probed_before_they_go() {
    let mesh = Mesh::new().await;
    let web = mesh.join(&["web"]).await.spiffe;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    for (stream, name) in (1..).zip(["a", "b", "c"]) {
        let mut given = registration(name, 1, &["web"]);
        if name == "c" {
            given.addresses[0].address = listener.local_addr().unwrap().to_string();
        }
        mesh.registry.register(&web, stream, &given).await.unwrap();
    }
    mesh.until(|w| w.read(|c| c.resources(Kind::Workload).count() == 3)).await;
    for stream in 1..=3 {
        mesh.registry.stream_lost(stream);
    }
    mesh.clock.advance(GRACE);
    tick(&mesh.registry).await;
    assert_eq!(mesh.instances().await.len(), 3, "the first tick only probes");
    tick(&mesh.registry).await;
    assert_eq!(mesh.instances().await, ["web.c"], "two were refused; the third answers and stays");
    // Alone now, it is no mass: who does not come back within the grace goes.
    tick(&mesh.registry).await;
    assert_eq!(mesh.instances().await, [""; 0]);
}

#[tokio::test]
async fn hosts_that_lose_their_power_together_expire() {
    let mesh = Mesh::new().await;
    let web = mesh.join(&["web"]).await.spiffe;
    for (stream, name) in (1..).zip(["a", "b", "c", "d"]) {
        let mut given = registration(name, 1, &["web"]);
        // As of a host that is not there any more: no answer, and no refusal either.
        given.addresses[0].address = "[fe80::1]:9".into();
        mesh.registry.register(&web, stream, &given).await.unwrap();
    }
    mesh.until(|w| w.read(|c| c.resources(Kind::Workload).count() == 4)).await;
    for stream in 1..=2 {
        mesh.registry.stream_lost(stream);
    }
    assert_eq!(mesh.registry.lost(), ["shop/a", "shop/b"]);
    mesh.clock.advance(GRACE);
    let mut waited = Duration::ZERO;
    while mesh.instances().await.len() == 4 && waited < GRACE * 10 {
        tick(&mesh.registry).await;
        mesh.clock.advance(Duration::from_secs(10));
        waited += Duration::from_secs(10);
    }
    tick(&mesh.registry).await;
    assert_eq!(mesh.instances().await, ["web.c", "web.d"]);
    assert!(waited > GRACE * 2, "not before they were silent for two graces: {waited:?}");
    assert_eq!(mesh.registry.lost(), [""; 0]);
}

#[tokio::test]
async fn a_registration_that_fails_half_way_leaves_no_endpoint_behind() {
    let mesh = Mesh::new().await;
    let web = mesh.join(&["web"]).await.spiffe;
    let key = leno_store::Key::new("Service", "shop", "web");
    mesh.store.put(&key, "junk".into(), leno_store::Expect::Absent).await.unwrap();
    let refused = mesh.registry.register(&web, 1, &registration("a", 1, &["web"])).await;
    assert_eq!(refused.unwrap_err().reason, Reason::ControlPlaneUnreachable);
    assert_eq!(mesh.instances().await, [""; 0]);
    // The same half-way once more, now with a record from before: its stream's end is its end.
    mesh.store.delete(&key, leno_store::Expect::Any).await.unwrap();
    mesh.registry.register(&web, 1, &registration("a", 1, &["web"])).await.unwrap();
    mesh.store.put(&key, "junk".into(), leno_store::Expect::Any).await.unwrap();
    mesh.registry.register(&web, 2, &registration("a", 2, &["web"])).await.unwrap_err();
    mesh.registry.stream_lost(1);
    mesh.registry.stream_lost(2);
    mesh.clock.advance(GRACE);
    tick(&mesh.registry).await;
    assert_eq!((mesh.instances().await, mesh.registry.counts()), (Vec::new(), (0, 0)));
}

#[tokio::test]
async fn services_get_addresses_that_they_keep() {
    let mesh = Mesh::new().await;
    let prefix = "fd00:1:2::".parse().unwrap();
    let web = mesh.join(&["web", "api"]).await.spiffe;
    mesh.registry.register(&web, 1, &registration("a", 1, &["web", "api"])).await.unwrap();
    mesh.until(|w| w.read(|c| c.services().count() == 2)).await;
    vip::reconcile(&mesh.world, &*mesh.store, prefix, NOW).await.unwrap();
    let vips = |w: &World, name: &str| w.read(|c| c.service_info("shop", name)).vips;
    mesh.until(|w| vips(w, "web").len() == 2 && vips(w, "api").len() == 2).await;
    let of_web = vips(&mesh.world, "web");
    assert_ne!(of_web, vips(&mesh.world, "api"));
    assert!(of_web[0].to_string().starts_with("244.0.") && of_web[1].to_string().starts_with("fd00:1:2::"));
    assert_eq!(vip::reconcile(&mesh.world, &*mesh.store, prefix, NOW).await.unwrap(), vip::Plan::default());

    // Gone and back within the day: the same address.
    let key = leno_store::Key::new("Service", "shop", "web");
    let record = mesh.store.get(&key).await.unwrap().unwrap();
    mesh.store.delete(&key, leno_store::Expect::Any).await.unwrap();
    mesh.until(|w| !w.read(|c| c.has_service("shop", "web"))).await;
    vip::reconcile(&mesh.world, &*mesh.store, prefix, NOW + 10).await.unwrap();
    mesh.until(|w| w.read(|c| c.vips().values().any(|v| v.released == Some(NOW + 10)))).await;
    mesh.store.put(&key, record.value, leno_store::Expect::Absent).await.unwrap();
    mesh.until(|w| w.read(|c| c.has_service("shop", "web"))).await;
    vip::reconcile(&mesh.world, &*mesh.store, prefix, NOW + 20).await.unwrap();
    mesh.until(|w| vips(w, "web").len() == 2).await;
    assert_eq!(vips(&mesh.world, "web"), of_web);
}

#[tokio::test]
async fn a_rotation_waits_for_every_live_member() {
    let mesh = Mesh::new().await;
    let web = mesh.join(&["web"]).await;
    let old = mesh.ca.pin();
    let version = mesh.ca.bundle().borrow().version;
    mesh.ca.live().opened(7, web.clone(), "a", version);
    mesh.ca.rotate().await.unwrap();
    let with_both = mesh.ca.bundle().borrow().version;
    assert!(with_both > version);
    assert_eq!(mesh.ca.status(&[]).await.waiting_for, ["shop/a"]);

    // Not in the first moments of the process: who has not reconnected yet is not gone.
    mesh.ca.live().bundle_applied(7, with_both);
    assert_eq!(mesh.ca.advance(0).await.unwrap(), None);
    mesh.clock.advance(GRACE);
    assert_eq!(mesh.ca.advance(1).await.unwrap(), None, "a lost registration may come back with the old bundle");
    assert_eq!(mesh.ca.status(&["shop/b".into()]).await.waiting_for, ["shop/b (lost)"]);
    assert!(mesh.ca.advance(0).await.unwrap().is_some(), "everyone has both roots: the issuer changes");
    assert_ne!(mesh.ca.pin(), old);

    mesh.clock.advance(Duration::from_secs(60));
    assert_eq!(mesh.ca.advance(0).await.unwrap(), None);
    assert_eq!(mesh.ca.status(&[]).await.phase, RotationPhase::Reissuing);
    let csr = csr::make(&KeyPair::generate().unwrap()).unwrap();
    let renewed = mesh.ca.renew(&web, &csr, Some(7)).await.unwrap();
    assert_eq!(renewed.root, mesh.ca.pin());
    mesh.ca.advance(0).await.unwrap();
    assert_eq!(mesh.ca.status(&[]).await.roots.len(), 2, "the new leaf has to be in use first");
    mesh.clock.advance(Duration::from_secs(5));
    mesh.ca.advance(0).await.unwrap();
    let status = mesh.ca.status(&[]).await;
    assert_eq!((status.phase, status.roots.len()), (RotationPhase::Idle, 1));
    assert!(!mesh.ca.bundle().borrow().has_root(&TrustDomain::default(), old), "leaves of the old root are refused");
}

#[tokio::test]
async fn a_member_that_never_comes_back_does_not_hold_a_rotation_for_ever() {
    let mesh = Mesh::new().await;
    let web = mesh.join(&["web"]).await;
    mesh.ca.live().opened(7, web, "a", 1);
    mesh.ca.rotate().await.unwrap();
    // Its last leaf expires after the longest lifetime that was ever issued.
    mesh.clock.advance(Duration::from_secs(leno_identity::ca::DEFAULT_TTL_S + 1));
    assert!(mesh.ca.advance(0).await.unwrap().is_some());
    mesh.clock.advance(Duration::from_secs(leno_identity::ca::DEFAULT_TTL_S + 1));
    mesh.ca.advance(0).await.unwrap();
    assert_eq!(mesh.ca.status(&[]).await.phase, RotationPhase::Idle);
}
