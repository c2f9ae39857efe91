//! A proxy's control thread against a real control plane: joining, subscribing, registering, renewing, leaving, and what each
//! side refuses.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

#[path = "support/plane.rs"]
mod plane;

use std::collections::BTreeMap;
use std::os::fd::IntoRawFd;
use std::time::Duration;

use leno_api::RevocationRequest;
use leno_discovery::client::{self as wire, BoxedIo, Stream};
use leno_discovery::proto::{self, client_message, server_message};
use leno_discovery::session::ClientSettings;
use leno_discovery::{ClientEvent, ClientSession, CollectionName, Entry, Key};
use leno_model::Reason;
use leno_net::tls::stream::Expect;
use leno_proxy::ProxySettings;
use leno_proxy::control::connect::{Targets, connector};
use leno_proxy::control::state_dir::StateDir;
use leno_proxy::settings::{ListenAt, Secret};
use leno_proxy::snapshot::DestinationState;
use leno_runtime::{Clock, SystemClock};

use plane::{HOP, Member, Plane, local, service, settings, until};

fn endpoints(member: &Member, name: &str) -> Option<usize> {
    let snapshot = member.link.snapshots.borrow();
    match &snapshot.outbound.get(&service(name))?.state {
        DestinationState::Ready(plan) => Some(plan.ports.values().map(|p| p.endpoints.len()).max().unwrap_or(0)),
        _ => None,
    }
}

#[test]
fn members_find_each_other_and_leave_at_once() {
    local(async {
        let plane = Plane::start().await;
        let web = plane.join("web", Some(8080)).await;
        web.handle.serve(HOP.parse().unwrap()).await;
        web.handle.wait_for(|s| s.registered).await;
        let inbound =
            |m: &Member| m.link.snapshots.borrow().inbound.get(&service("web")).is_some_and(|p| !p.ports.is_empty());
        until("the inbound plan", || inbound(&web)).await;

        let cart = plane.join("cart", None).await;
        cart.wish("web").await;
        until("the endpoint", || endpoints(&cart, "web") == Some(1)).await;
        {
            let snapshot = cart.link.snapshots.borrow();
            let DestinationState::Ready(plan) = &snapshot.outbound[&service("web")].state else { panic!() };
            let identities: Vec<&str> = plan.identities.iter().map(|i| i.as_str()).collect();
            assert_eq!(identities, ["spiffe://mesh.leno/ns/default/sa/web"]);
            assert_eq!(plan.ports[&80].endpoints.as_slice()[0].transports[0].addr().to_string(), HOP);
        }
        // "Does not exist" is an answer, and not the last one.
        cart.wish("later").await;
        let missing = |m: &Member| {
            let snapshot = m.link.snapshots.borrow();
            snapshot.outbound.get(&service("later")).is_some_and(|d| matches!(d.state, DestinationState::Missing))
        };
        until("the answer that there is none", || missing(&cart)).await;
        let later = plane.join("later", Some(9000)).await;
        later.handle.serve(HOP.parse().unwrap()).await;
        until("the service that appeared", || endpoints(&cart, "later") == Some(1)).await;

        web.handle.drain().await;
        assert!(web.handle.status().connected, "the drain was acknowledged, not given up");
        until("the endpoint to go", || endpoints(&cart, "web") == Some(0)).await;
        assert!(!web.handle.status().registered);
    });
}

#[test]
fn a_control_plane_with_another_root_gets_no_secret() {
    local(async {
        let (real, false_one) = (Plane::start().await, Plane::start().await);
        let token = real.token(&["web"]).await;
        let place = tempfile::tempdir().unwrap();
        let mut settings = settings(&false_one, place.path(), "web", None);
        settings.token = Some(token);
        let error = plane::prepare_error(settings).await;
        assert_eq!(error.reason(), Reason::PeerUntrusted, "{error}");
        let audit = false_one.api.audit(100).await.unwrap();
        assert!(!audit.iter().any(|e| e.action == "enrolment"), "nothing was asked of it: {audit:?}");
    });
}

#[test]
fn a_token_is_good_for_one_key_and_one_identity() {
    local(async {
        let plane = Plane::start().await;
        let token = plane.token(&["web"]).await;
        let web = plane.join_with("web", Some(8080), token.clone()).await;
        // Another key.
        let place = tempfile::tempdir().unwrap();
        let mut other = settings(&plane, place.path(), "web", None);
        other.token = Some(token.clone());
        let error = plane::prepare_error(other).await;
        assert_eq!(error.reason(), Reason::TokenInvalid, "{error}");
        // The stored identity needs no token, and is nobody else's.
        let mut again = settings(&plane, web.place.path(), "web", None);
        again.token = None;
        plane::prepare(again).await.unwrap();
        let error = plane::prepare_error(settings(&plane, web.place.path(), "cart", None)).await;
        assert_eq!(error.reason(), Reason::UnauthorisedMember, "{error}");
        // Neither token nor identity; and a token that is cut.
        let empty = tempfile::tempdir().unwrap();
        let mut none = settings(&plane, empty.path(), "web", None);
        assert_eq!(plane::prepare_error(none.clone()).await.reason(), Reason::TokenInvalid);
        none.token = Some(leno_proxy::settings::Secret::new(&token.reveal()[..40]));
        assert_eq!(plane::prepare_error(none).await.reason(), Reason::TokenInvalid);
        let refused = plane.api.audit(100).await.unwrap();
        assert!(refused.iter().any(|e| e.action == "enrolment" && e.outcome == "token_invalid"), "{refused:?}");
    });
}

/// A client of the protocol that says what it likes, with `member`'s certificate.
struct Raw {
    session: ClientSession,
    stream: Stream,
    resources: usize,
}

impl Raw {
    async fn open(plane: &Plane, member: &Member, held: &BTreeMap<Key, Entry>, collection: &CollectionName) -> Self {
        let context = member.link.snapshots.borrow().tls.clone().unwrap();
        let targets = Targets::new(vec![plane.plane().discovery().to_string()]);
        let now = std::time::Instant::now();
        let mut session = ClientSession::new(ClientSettings::default(), now);
        session.subscribe(collection, held.clone(), now);
        session.connected();
        let first = std::iter::from_fn(|| session.next_message()).collect();
        let connector = connector(&targets, Expect::control_plane((*context).clone()));
        let stream = wire::connect(&connector, first).await.unwrap();
        Self { session, stream, resources: 0 }
    }

    async fn send(&mut self, kind: client_message::Kind) {
        self.stream.outgoing.send(proto::ClientMessage { kind: Some(kind) }).await.unwrap();
    }

    async fn next(&mut self) -> ClientEvent {
        loop {
            let message = self.stream.next().await.unwrap().expect("the stream goes on");
            self.resources += usize::from(matches!(message.kind, Some(server_message::Kind::Resource(_))));
            match self.session.receive(message).unwrap() {
                Some(ClientEvent::Welcome(_) | ClientEvent::Bundle(_)) | None => {}
                Some(event) => return event,
            }
        }
    }
}

#[test]
fn a_credential_opens_its_own_service_and_no_other() {
    local(async {
        let plane = Plane::start().await;
        let web = plane.join("web", Some(8080)).await;
        web.handle.serve(HOP.parse().unwrap()).await;
        web.handle.wait_for(|s| s.registered).await;
        let bank = plane.join("bank", Some(8081)).await;
        bank.handle.serve(HOP.parse().unwrap()).await;
        bank.handle.wait_for(|s| s.registered).await;

        let foreign = CollectionName::Inbound(service("bank"));
        let mut raw = Raw::open(&plane, &web, &BTreeMap::new(), &foreign).await;
        let event = raw.next().await;
        assert!(matches!(&event, ClientEvent::Denied { reason, .. } if reason == "unauthorised_member"), "{event:?}");

        let register = |namespace: &str, name: &str| {
            client_message::Kind::Register(proto::Register {
                instance: "evil".into(),
                generation: u64::MAX,
                namespace: namespace.into(),
                services: vec![proto::RegisteredService { name: name.into(), ports: vec![] }],
                addresses: vec![proto::TransportAddress {
                    transport: "leno/1".into(),
                    address: "127.0.0.1:6666".into(),
                    port: 0,
                }],
                labels: [("app".to_owned(), "bank".to_owned())].into(),
                ..proto::Register::default()
            })
        };
        for (namespace, name) in [("default", "bank"), ("other", "web")] {
            raw.send(register(namespace, name)).await;
            let event = raw.next().await;
            assert!(
                matches!(&event, ClientEvent::Refused(r) if r.reason == "unauthorised_member"),
                "{namespace}/{name}: {event:?}"
            );
        }
        // A CSR for another identity.
        let key = leno_identity::KeyPair::generate().unwrap();
        let mut csr = leno_identity::csr::make(&key).unwrap();
        *csr.last_mut().unwrap() ^= 1;
        raw.send(client_message::Kind::Renew(proto::RenewCertificate { id: 5, csr: csr.into() })).await;
        let event = raw.next().await;
        assert!(matches!(&event, ClientEvent::Refused(r) if r.subject == "5"), "{event:?}");
        // The stream goes on, and nobody was told of evil endpoints.
        raw.send(client_message::Kind::Renew(proto::RenewCertificate {
            id: 6,
            csr: leno_identity::csr::make(&key).unwrap().into(),
        }))
        .await;
        let event = raw.next().await;
        assert!(matches!(&event, ClientEvent::Issued(i) if i.id == 6), "{event:?}");
        let members = plane.api.members(None).await.unwrap();
        assert!(members.iter().all(|m| m.instance != "evil"), "{members:?}");
        let audit = plane.api.audit(100).await.unwrap();
        assert!(audit.iter().any(|e| e.action == "register" && e.outcome == "unauthorised_member"), "{audit:?}");
        assert!(audit.iter().any(|e| e.action == "subscribe" && e.principal.ends_with("/sa/web")), "{audit:?}");
    });
}

#[test]
fn a_refusal_by_a_proxy_is_seen_by_the_operator_until_it_is_gone() {
    local(async {
        let plane = Plane::start().await;
        let web = plane.join("web", Some(8080)).await;
        web.handle.serve(HOP.parse().unwrap()).await;
        web.handle.wait_for(|s| s.registered).await;
        let collection = CollectionName::Outbound(service("web"));
        let mut raw = Raw::open(&plane, &web, &BTreeMap::new(), &collection).await;
        let change = loop {
            if let ClientEvent::Update { changes, .. } = raw.next().await
                && let Some(change) = changes.into_iter().find(|c| c.key.kind() == "Service" && c.entry.is_some())
            {
                break change;
            }
        };
        let version = change.entry.as_ref().unwrap().version;
        for (version, text) in [(version ^ 1, "of a version that was not sent"), (version, "no\nport")] {
            raw.session.applied(&collection, &change.key, version, Err(text));
        }
        let message = raw.session.next_message().unwrap();
        raw.stream.outgoing.send(message).await.unwrap();
        let nacks = loop {
            let nacks = plane.api.overview().await.unwrap().nacks;
            if !nacks.is_empty() {
                break nacks;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert_eq!((nacks.len(), nacks[0].proxies, nacks[0].error.as_str()), (1, 1, "no port"));
        assert_eq!(nacks[0].resource, "Service default/web");
        drop(raw);
        while !plane.api.overview().await.unwrap().nacks.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn a_resource_over_the_limit_closes_and_takes_no_stream_with_it() {
    local(async {
        let mut plane = Plane::start().await;
        let web = plane.join("web", Some(8080)).await;
        web.handle.serve(HOP.parse().unwrap()).await;
        web.handle.wait_for(|s| s.registered).await;
        let cart = leno_model::SpiffeId::new("spiffe://mesh.leno/ns/default/sa/cart").unwrap();
        let may_call = || {
            let snapshot = web.link.snapshots.borrow();
            let port = snapshot.inbound.get(&service("web")).and_then(|plan| plan.ports.get(&80).cloned());
            port.map(|port| port.access.decide(Some(&cart), 80, None).allowed)
        };
        until("the inbound plan", || may_call() == Some(true)).await;

        plane.stop().await;
        let (api, kind) = ("leno.dev/v1alpha1", "AccessPolicy");
        let policy = |note: &str| {
            format!(
                r#"{{"apiVersion":"{api}","kind":"{kind}","metadata":{{"name":"large","namespace":"default","annotations":{{"note":"{note}"}}}},"spec":{{"rules":[{{"action":"allow"}}]}}}}"#
            )
        };
        plane.put(kind, "large", policy(&"x".repeat(leno_model::MAX_RESOURCE))).await;
        plane.restart().await;
        until("the policy that is refused to close", || may_call() == Some(false)).await;
        web.handle.wait_for(|s| s.connected && s.registered).await;
        let nack = loop {
            let nacks = plane.api.overview().await.unwrap().nacks;
            if let Some(nack) = nacks.into_iter().find(|n| n.resource == "AccessPolicy default/large") {
                break nack;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert!(nack.error.contains("at most 1048576"), "{nack:?}");
        let status = web.handle.status();
        assert!(status.connected && status.problem.is_none(), "{:?}", status.problem);
        // Over the same stream comes what opens it again.
        plane.apply(&policy("small")).await;
        until("the smaller one", || may_call() == Some(true)).await;
    });
}

#[test]
fn a_resume_is_answered_with_what_changed() {
    local(async {
        let plane = Plane::start().await;
        let web = plane.join("web", Some(8080)).await;
        web.handle.serve(HOP.parse().unwrap()).await;
        web.handle.wait_for(|s| s.registered).await;
        let collection = CollectionName::Outbound(service("web"));
        let mut raw = Raw::open(&plane, &web, &BTreeMap::new(), &collection).await;
        // Endpoint, service and virtual address come by themselves, each a change of its own.
        let settled = |raw: &Raw| {
            let held = raw.session.held(&collection).unwrap();
            let has = |kind: &str, text: &str| {
                held.iter().any(|(k, e)| k.kind() == kind && String::from_utf8_lossy(&e.body).contains(text))
            };
            has("Endpoint", "") && has("ServiceInfo", "vips") && has("Service", "ports")
        };
        while !settled(&raw) {
            raw.next().await;
        }
        let held = raw.session.held(&collection).unwrap().clone();
        drop(raw);
        let mut raw = Raw::open(&plane, &web, &held, &collection).await;
        assert!(matches!(raw.next().await, ClientEvent::Update { changes, .. } if changes.is_empty()));
        assert_eq!(raw.resources, 0, "nothing has changed");
        plane
            .apply(
                "apiVersion: v1\nkind: Service\nmetadata: {name: web, labels: {a: b}}\nspec: {ports: [{port: 80}]}\n",
            )
            .await;
        let event = raw.next().await;
        let ClientEvent::Update { changes, .. } = event else { panic!("{event:?}") };
        assert_eq!(changes.iter().map(|c| c.key.kind()).collect::<Vec<_>>(), ["Service"], "an edit is one message");
    });
}

#[test]
fn a_restart_serves_what_was_stored_without_the_control_plane() {
    local(async {
        let mut plane = Plane::start().await;
        let web = plane.join("web", Some(8080)).await;
        web.handle.serve(HOP.parse().unwrap()).await;
        let cart = plane.join("cart", None).await;
        cart.wish("web").await;
        until("the endpoint", || endpoints(&cart, "web") == Some(1)).await;
        let dir = StateDir::open(cart.place.path()).unwrap();
        let outbound = CollectionName::Outbound(service("web"));
        let stored =
            |kind: &str| dir.collections().iter().any(|(n, e)| *n == outbound && e.keys().any(|k| k.kind() == kind));
        until("the file", || stored("Endpoint")).await;
        plane.stop().await;
        cart.handle.wait_for(|s| !s.connected && s.problem.is_some()).await;
        assert_eq!(endpoints(&cart, "web"), Some(1), "nothing is forgotten because nobody answers");

        let Member { place, .. } = cart;
        let again = plane::run(settings(&plane, place.path(), "cart", None), place).await;
        assert_eq!(endpoints(&again, "web"), Some(1));
        let snapshot = again.link.snapshots.borrow().clone();
        let tls = snapshot.tls.clone().unwrap();
        assert_eq!(tls.identity().spiffe().as_str(), "spiffe://mesh.leno/ns/default/sa/cart");
        again.handle.wait_for(|s| s.collections[&outbound.to_string()].state == "stored").await;

        // It comes back with the same data, and nothing was lost.
        plane.restart().await;
        again.handle.wait_for(|s| s.connected && s.collections[&outbound.to_string()].state == "current").await;
        assert_eq!(endpoints(&again, "web"), Some(1), "the registration survived the restart");
        web.handle.wait_for(|s| s.registered).await;
    });
}

#[test]
fn leaves_are_renewed_with_new_keys_and_a_root_is_rotated_under_way() {
    local(async {
        let plane = Plane::start_with(|s| {
            s.leaf_ttl = Duration::from_secs(5);
            s.registration_grace = Duration::from_secs(1);
        })
        .await;
        let web = plane.join("web", Some(8080)).await;
        web.handle.serve(HOP.parse().unwrap()).await;
        web.handle.wait_for(|s| s.registered).await;
        let tls = || web.link.snapshots.borrow().tls.clone().unwrap();
        let first = tls();
        web.handle.wait_for(|s| s.renewals >= 2).await;
        let now = tls();
        assert_ne!(first.identity().serial(), now.identity().serial());
        assert!(now.generation() > first.generation());
        let spki =
            |t: &leno_net::tls::TlsContext| leno_identity::certificate::spki_pin(&t.identity().chain()[0]).unwrap();
        assert_ne!(spki(&first), spki(&now), "every leaf has a key of its own");

        let old = plane.api.ca().await.unwrap().roots;
        assert_eq!(old.len(), 1);
        plane.api.rotate_root().await.unwrap();
        loop {
            let roots = plane.api.ca().await.unwrap().roots;
            if roots.len() == 1 && roots[0].pin != old[0].pin {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        until("the bundle without the old root", || {
            let tls = tls();
            let bundle = tls.bundle();
            let roots = bundle.roots(&tls.identity().trust_domain());
            roots.len() == 1 && roots[0].pin().to_string() != old[0].pin
        })
        .await;
        assert!(tls().check_own_validity().is_ok());
        assert!(web.handle.status().connected, "no stream was lost to it");
    });
}

#[test]
fn an_expired_leaf_renews_and_then_is_a_member_again() {
    local(async {
        let mut plane = Plane::start_with(|s| s.leaf_ttl = Duration::from_secs(5)).await;
        let web = plane.join("web", None).await;
        web.handle.wait_for(|s| s.connected).await;
        plane.stop().await;
        let tls = || web.link.snapshots.borrow().tls.clone().unwrap();
        until("the leaf to expire", || tls().check_own_validity().is_err()).await;
        let expired = tls().identity().serial().clone();
        plane.restart().await;
        web.handle.wait_for(|s| s.connected).await;
        assert_ne!(*tls().identity().serial(), expired);
        assert!(tls().check_own_validity().is_ok());
    });
}

#[test]
fn a_stream_ends_with_the_leaf_that_could_not_be_renewed_over_it() {
    local(async {
        let plane = Plane::start_with(|s| s.leaf_ttl = Duration::from_secs(5)).await;
        let web = plane.join("web", None).await;
        web.handle.wait_for(|s| s.connected).await;
        let grant = plane.take_grant("web").await;
        let tls = || web.link.snapshots.borrow().tls.clone().unwrap();
        web.handle.wait_for(|s| !s.connected).await;
        let now = SystemClock::new().unix_seconds();
        assert!(now >= web.handle.status().not_after, "not before it has expired");
        plane.give_grant("web", &grant).await;
        web.handle.wait_for(|s| s.connected).await;
        assert!(tls().check_own_validity().is_ok());
    });
}

#[test]
fn a_revoked_identity_is_sent_away_and_everybody_is_told() {
    local(async {
        let plane = Plane::start().await;
        let web = plane.join("web", Some(8080)).await;
        web.handle.serve(HOP.parse().unwrap()).await;
        web.handle.wait_for(|s| s.registered).await;
        let cart = plane.join("cart", None).await;
        cart.handle.wait_for(|s| s.connected).await;
        let identity = web.handle.status().identity.clone();
        let request = RevocationRequest { identity: Some(identity.clone()), serial: None, comment: String::new() };
        plane.api.revoke(&request).await.unwrap();
        web.handle
            .wait_for(|s| !s.connected && s.problem.as_deref().is_some_and(|p| p.starts_with("certificate_revoked")))
            .await;
        until("the revocation", || {
            let tls = cart.link.snapshots.borrow().tls.clone().unwrap();
            tls.bundle().revoked.identities.iter().any(|i| i.as_str() == identity)
        })
        .await;
    });
}

#[test]
fn a_new_token_brings_back_a_member_whose_identity_is_refused() {
    local(async {
        let plane = Plane::start().await;
        let token = plane.token(&["web"]).await;
        let Member { handle, place, .. } = plane.join_with("web", None, token.clone()).await;
        let (identity, serial) = (handle.status().identity.clone(), handle.status().serial.clone());
        let request = RevocationRequest { identity: Some(identity), serial: None, comment: String::new() };
        let revocation = plane.api.revoke(&request).await.unwrap();
        plane.api.unrevoke(&revocation.id).await.unwrap();
        let start = |token: Option<Secret>| {
            let mut settings = settings(&plane, place.path(), "web", None);
            settings.token = token;
            settings
        };
        let serial_of = |settings| async { plane::prepare(settings).await.unwrap().handle().status().serial.clone() };
        // The old token changes nothing, nor does one that cannot be redeemed; the stored identity is what there is.
        let used = plane.token(&["web"]).await;
        plane.join_with("web", None, used.clone()).await;
        for token in [None, Some(token), Some(used), Some(Secret::new("nonsense"))] {
            assert_eq!(serial_of(start(token)).await, serial);
        }
        let new = plane.token(&["web"]).await;
        let renewed = serial_of(start(Some(new.clone()))).await;
        assert_ne!(renewed, serial, "the new token was redeemed");
        assert_eq!(serial_of(start(Some(new))).await, renewed, "once");
        let back = plane::run(start(None), place).await;
        back.handle.wait_for(|s| s.connected).await;
    });
}

#[test]
fn silence_and_garbage_on_the_port_hold_nobody_up() {
    local(async {
        use tokio::io::AsyncWriteExt as _;
        let plane = Plane::start().await;
        let address = plane.plane().discovery();
        let mut noise = Vec::new();
        for n in 0..300u32 {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            if n % 3 == 0 {
                let garbage: Vec<u8> = (0..600).map(|i| u8::try_from((i * 7 + n) % 251).unwrap()).collect();
                stream.write_all(&garbage).await.unwrap();
            }
            noise.push(stream);
        }
        // TLS without a certificate, and then nothing.
        let pin = plane.token(&["nobody"]).await.reveal().parse::<leno_identity::JoinToken>().unwrap().pin();
        let expect = Expect::Pinned { pin, clock: SystemClock::shared() };
        let idle = connector(&Targets::new(vec![address.to_string()]), expect)().await.unwrap();
        let web = plane.join("web", Some(8080)).await;
        web.handle.serve(HOP.parse().unwrap()).await;
        web.handle.wait_for(|s| s.registered).await;
        // Every one of them is cut off by the server.
        let noise = noise.into_iter().map(|s| Box::new(s) as BoxedIo).chain([idle]);
        for mut stream in noise {
            let mut rest = Vec::new();
            let end = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest);
            let _ = tokio::time::timeout(Duration::from_secs(30), end).await.expect("it was never cut off");
        }
        assert!(web.handle.status().connected);
    });
}

#[test]
fn a_retired_proxy_hears_everything_and_writes_nothing() {
    local(async {
        let plane = Plane::start_with(|s| s.leaf_ttl = Duration::from_secs(5)).await;
        let web = plane.join("web", Some(8080)).await;
        web.handle.serve(HOP.parse().unwrap()).await;
        web.handle.wait_for(|s| s.registered).await;
        let dir = StateDir::open(web.place.path()).unwrap();
        let stored = || dir.collections().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        until("the files", || stored() == [CollectionName::Mesh, CollectionName::Inbound(service("web"))]).await;
        web.handle.retire().await;
        let status = web.handle.status().clone();
        web.handle.wait_for(|s| !s.registered).await;
        let identity = || std::fs::read(web.place.path().join("identity.pem")).unwrap();
        let before = identity();
        plane
            .apply(
                "apiVersion: leno.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh, namespace: leno-system}\n\
                 spec: {access: deny}\n",
            )
            .await;
        let caller = leno_model::SpiffeId::new("spiffe://mesh.leno/ns/default/sa/cart").unwrap();
        until("the policy", || {
            let snapshot = web.link.snapshots.borrow();
            !snapshot.inbound[&service("web")].ports[&80].access.decide(Some(&caller), 80, None).allowed
        })
        .await;
        let renewals = status.renewals;
        web.handle.wait_for(|s| s.renewals > renewals + 1).await;
        assert_eq!(plane.api.members(None).await.unwrap().len(), 1, "the registration is the successor's to end");
        assert!(identity() == before, "the certificate on disk is the successor's");
        let mesh = dir.collections().remove(0).1;
        assert!(!mesh.values().any(|e| String::from_utf8_lossy(&e.body).contains("deny")), "and so is the rest");
    });
}

#[test]
fn a_state_directory_has_one_proxy() {
    let place = tempfile::tempdir().unwrap();
    let held = StateDir::open(place.path()).unwrap().lock().unwrap();
    let start = |supervised| {
        let mut settings = ProxySettings::new(service("web"), place.path().to_owned());
        settings.join = vec!["127.0.0.1:9".to_owned()];
        settings.supervised = supervised;
        leno_proxy::run(settings).unwrap_err().to_string()
    };
    let error = start(false);
    assert!(error.contains("--state-dir") && error.contains(&format!("process {}", std::process::id())), "{error}");
    // Successors share it under their supervisor's lock: the next thing that is missing is a token.
    assert!(start(true).contains("join token"));
    drop(held);
    assert!(start(false).contains("join token"));
}

#[test]
fn a_retired_proxy_leaves_its_admin_port_to_the_successor() {
    use std::io::{Read as _, Write as _};
    local(async {
        let plane = Plane::start().await;
        let place = tempfile::tempdir().unwrap();
        let mut settings = settings(&plane, place.path(), "web", None);
        settings.token = Some(plane.token(&["web"]).await);
        // As the supervisor does: the sockets outlive the proxy.
        let socket = || {
            let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = socket.local_addr().unwrap();
            let inherited = Some(socket.try_clone().unwrap().into_raw_fd());
            (socket, address, ListenAt { address, inherited })
        };
        let (_admin, admin, admin_at) = socket();
        let (_forward, forward, forward_at) = socket();
        (settings.admin, settings.forward) = (admin_at, Some(forward_at));
        let proxy = std::thread::spawn(|| leno_proxy::run(settings).map_err(|e| e.to_string()));
        let asking = tokio::task::spawn_blocking(move || {
            let open = |address| {
                let io = std::net::TcpStream::connect(address).unwrap();
                io.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                io
            };
            // However much comes at once: an answer or the end.
            let ask = |io: &mut std::net::TcpStream, path: &str, host: &str| {
                let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
                io.write_all(request.as_bytes()).is_ok() && io.read(&mut [0; 4096]).is_ok_and(|n| n > 0)
            };
            let mut operator = open(admin);
            assert!(ask(&mut operator, "/healthz", "localhost"));
            let mut caller = open(forward);
            assert!(ask(&mut caller, "http://a.b.c.mesh/", "a.b.c.mesh"));
            let signalled =
                std::process::Command::new("kill").args(["-USR1", &std::process::id().to_string()]).status();
            assert!(signalled.unwrap().success());
            while ask(&mut operator, "/healthz", "localhost") {}
            // An idle caller has seconds to come back: the proxy closed the admin port because it retired, not because it ended.
            assert!(ask(&mut caller, "http://a.b.c.mesh/", "a.b.c.mesh"));
            proxy.join().unwrap().unwrap();
        });
        asking.await.unwrap();
    });
}
