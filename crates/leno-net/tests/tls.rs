//! TLS sessions end to end in memory: what is negotiated, who is refused and with which reason, and how a mesh's root
//! is replaced under its members.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::sync::Arc;
use std::time::Duration;

use leno_identity::ca::rotation::{Progress, Step};
use leno_identity::{Authority, KeyPair, RootCert, TrustBundle, control_plane_identity, csr};
use leno_model::{Reason, SpiffeId, TrustDomain};
use leno_net::tls::{ALPN_HOP, Buffer};
use leno_net::{TlsContext, TlsError, TlsIdentity, TlsSession};
use leno_runtime::{Clock, ManualClock, Random, SeededRandom};

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

struct Mesh {
    authority: Authority,
    domain: TrustDomain,
    clock: ManualClock,
}

impl Mesh {
    fn new(domain: &str) -> Self {
        let domain = TrustDomain::new(domain).unwrap();
        Self { authority: Authority::in_memory(&domain, NOW).unwrap(), domain, clock: ManualClock::at(NOW) }
    }

    fn id(&self, account: &str) -> SpiffeId {
        SpiffeId::new(&format!("spiffe://{}/ns/shop/sa/{account}", self.domain)).unwrap()
    }

    fn bundle(&self) -> TrustBundle {
        TrustBundle::single(1, self.domain.clone(), self.authority.roots())
    }

    fn identity(&mut self, id: &SpiffeId, ttl_s: u64) -> TlsIdentity {
        let key = KeyPair::generate().unwrap();
        let request = csr::verify(&csr::make(&key).unwrap(), id).unwrap();
        let issued = self.authority.issue(&request, id, ttl_s, self.clock.unix_seconds()).unwrap();
        TlsIdentity::new(issued.chain_with_cross(), &key).unwrap()
    }

    fn context(&self, identity: TlsIdentity, bundle: TrustBundle) -> TlsContext {
        TlsContext::new(identity, Arc::new(bundle), 1, Arc::new(self.clock.clone())).unwrap()
    }

    fn member(&mut self, account: &str) -> TlsContext {
        let identity = self.identity(&self.id(account), DAY);
        self.context(identity, self.bundle())
    }
}

fn client(context: &TlsContext, permitted: &[&SpiffeId]) -> TlsSession {
    let permitted: Vec<SpiffeId> = permitted.iter().map(|id| (*id).clone()).collect();
    TlsSession::client(context, permitted.into(), "w-1f", &[ALPN_HOP]).unwrap()
}

fn server(context: &TlsContext) -> TlsSession {
    TlsSession::server(context, &[ALPN_HOP]).unwrap()
}

/// Carries bytes both ways, in pieces of `step`, until nothing moves. Returns each side's first error.
fn pump(a: &mut TlsSession, b: &mut TlsSession, step: usize) -> (Result<(), TlsError>, Result<(), TlsError>) {
    fn carry(from: &mut TlsSession, to: &mut TlsSession, step: usize, result: &mut Result<(), TlsError>) -> bool {
        let mut wire = Buffer::new();
        from.take_tls(&mut wire);
        for piece in wire.chunks(step) {
            if result.is_ok() {
                *result = to.read_tls(piece, &mut Buffer::new()).map(|_| ());
            }
        }
        !wire.is_empty()
    }
    let (mut at_a, mut at_b) = (Ok(()), Ok(()));
    loop {
        let forth = carry(a, b, step, &mut at_b);
        let back = carry(b, a, step, &mut at_a);
        if !forth && !back {
            return (at_a, at_b);
        }
    }
}

/// The reasons that client and server give, and whether the other side refused.
fn outcome(a: &TlsContext, permitted: &[&SpiffeId], b: &TlsContext) -> (Result<(), Reason>, Result<(), Reason>) {
    let (at_client, at_server) = pump(&mut client(a, permitted), &mut server(b), usize::MAX);
    (at_client.map_err(|e| e.reason), at_server.map_err(|e| e.reason))
}

#[test]
fn members_meet_over_tls13_with_the_hybrid_group() {
    let mut mesh = Mesh::new("mesh.leno");
    let (web, cart) = (mesh.member("web"), mesh.member("cart"));
    for step in [usize::MAX, 1000, 1] {
        let (mut a, mut b) = (client(&web, &[&mesh.id("cart")]), server(&cart));
        assert!(a.is_handshaking() && a.peer().is_none());
        assert_eq!(pump(&mut a, &mut b, step), (Ok(()), Ok(())));
        for session in [&a, &b] {
            assert!(!session.is_handshaking());
            let info = session.handshake_info();
            assert_eq!((info.version.as_str(), info.group.as_str()), ("TLSv1_3", "X25519MLKEM768"));
            assert_eq!(info.cipher, "TLS13_AES_128_GCM_SHA256");
            assert_eq!(session.alpn(), Some(ALPN_HOP));
            assert_eq!(session.generation(), 1);
        }
        let (at_a, at_b) = (a.peer().unwrap(), b.peer().unwrap());
        assert_eq!((&at_a.spiffe, &at_b.spiffe), (&mesh.id("cart"), &mesh.id("web")));
        assert_eq!((&at_a.serial, &at_b.serial), (b.local_serial(), a.local_serial()));
        assert_eq!(at_a.root, mesh.authority.pin());
        assert_eq!(b.sni(), Some("w-1f"));
    }
}

#[test]
fn bytes_arrive_whole_however_they_are_cut() {
    let mut mesh = Mesh::new("mesh.leno");
    let (web, cart) = (mesh.member("web"), mesh.member("cart"));
    let body: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    for step in [1usize, 7, 4096, 65_536, usize::MAX] {
        let (mut a, mut b) = (client(&web, &[&mesh.id("cart")]), server(&cart));
        // Written before the handshake: kept, and sent once the peer is verified.
        a.write(b"early").unwrap();
        pump(&mut a, &mut b, usize::MAX).0.unwrap();
        let size = if step == 1 { 20_000 } else { body.len() };
        a.write(&body[..size]).unwrap();
        a.close_notify();
        let (mut wire, mut plain) = (Buffer::new(), Buffer::new());
        a.take_tls(&mut wire);
        let mut counted = 0;
        for piece in wire.chunks(step) {
            counted += b.read_tls(piece, &mut plain).unwrap();
        }
        assert_eq!(counted, plain.len());
        assert_eq!(plain[..], body[..size], "pump took `early` already");
        assert!(b.peer_closed() && !a.peer_closed());
        // Half-close: the other direction still works.
        b.write(b"answer").unwrap();
        let (mut wire, mut plain) = (Buffer::new(), Buffer::new());
        b.take_tls(&mut wire);
        a.read_tls(&wire, &mut plain).unwrap();
        assert_eq!(&plain[..], b"answer");
    }
}

#[test]
fn nothing_written_early_leaves_before_the_peer_is_verified() {
    let mut mesh = Mesh::new("mesh.leno");
    let (web, cart) = (mesh.member("web"), mesh.member("cart"));
    let (mut a, mut b) = (client(&web, &[&mesh.id("other")]), server(&cart));
    a.write(&[b'S'; 5000]).unwrap();
    let (mut hello, mut answer, mut rest) = (Buffer::new(), Buffer::new(), Buffer::new());
    a.take_tls(&mut hello);
    b.read_tls(&hello, &mut Buffer::new()).unwrap();
    b.take_tls(&mut answer);
    let error = a.read_tls(&answer, &mut Buffer::new()).unwrap_err();
    assert_eq!(error.reason, Reason::PeerIdentityMismatch);
    a.take_tls(&mut rest);
    assert!(rest.len() < 100, "an alert, not {} bytes", rest.len());
}

#[test]
fn no_ticket_is_sent_and_no_session_is_kept() {
    let mut mesh = Mesh::new("mesh.leno");
    let (web, cart) = (mesh.member("web"), mesh.member("cart"));
    let (mut a, mut b) = (client(&web, &[&mesh.id("cart")]), server(&cart));
    let (mut wire, mut plain) = (Buffer::new(), Buffer::new());
    a.take_tls(&mut wire);
    b.read_tls(&wire, &mut plain).unwrap();
    wire.clear();
    b.take_tls(&mut wire);
    a.read_tls(&wire, &mut plain).unwrap();
    wire.clear();
    a.take_tls(&mut wire);
    b.read_tls(&wire, &mut plain).unwrap();
    assert!(!a.is_handshaking() && !b.is_handshaking());
    assert!(!b.wants_write(), "a NewSessionTicket would be waiting here");
}

#[test]
fn only_permitted_identities_are_accepted_and_the_server_is_told() {
    let mut mesh = Mesh::new("mesh.leno");
    let (web, cart) = (mesh.member("web"), mesh.member("cart"));
    let (cart_id, other) = (mesh.id("cart"), mesh.id("other"));
    assert_eq!(outcome(&web, &[&other, &cart_id], &cart), (Ok(()), Ok(())));
    let refused = (Err(Reason::PeerIdentityMismatch), Err(Reason::PeerIdentityMismatch));
    assert_eq!(outcome(&web, &[&other], &cart), refused);
    assert_eq!(outcome(&web, &[], &cart), refused, "an empty list permits nobody");
    let (at_client, at_server) = pump(&mut client(&web, &[&other]), &mut server(&cart), usize::MAX);
    let (at_client, at_server) = (at_client.unwrap_err(), at_server.unwrap_err());
    assert!(!at_client.by_peer && at_client.detail.contains("sa/cart") && at_client.detail.contains("sa/other"));
    assert!(at_server.by_peer && at_server.detail.contains("AccessDenied"), "{at_server}");
}

#[test]
fn expiry_and_skew_have_their_own_reasons() {
    let mut mesh = Mesh::new("mesh.leno");
    let web = mesh.member("web");
    let brief = mesh.identity(&mesh.id("cart"), 10);
    let cart = mesh.context(brief, mesh.bundle());
    let cart_id = mesh.id("cart");
    let expired = Err(Reason::CertificateExpired);
    assert_eq!(outcome(&web, &[&cart_id], &cart), (Ok(()), Ok(())));
    mesh.clock.advance(Duration::from_secs(11));
    assert_eq!(outcome(&web, &[&cart_id], &cart), (expired, expired));
    // As a client too: the server refuses it, and its alert says why.
    assert_eq!(outcome(&cart, &[&mesh.id("web")], &web), (expired, expired));
    assert_eq!(cart.check_own_validity().unwrap_err().reason, Reason::CertificateExpired);
    mesh.clock.set_unix_seconds(NOW - 301);
    let (at_client, at_server) = outcome(&web, &[&cart_id], &cart);
    assert_eq!(at_client, Err(Reason::ClockSkew));
    // TLS has one alert for both (RFC 8446 section 6.2).
    assert_eq!(at_server, expired);
    mesh.clock.set_unix_seconds(NOW - 4);
    assert_eq!(outcome(&web, &[&cart_id], &cart), (Ok(()), Ok(())), "leaves are backdated");
}

#[test]
fn trust_domains_cannot_be_confused() {
    let (mut ours, mut theirs) = (Mesh::new("a.mesh"), Mesh::new("b.mesh"));
    let both = |ours: &Mesh, theirs: &Mesh| {
        let mut bundle = ours.bundle();
        bundle.domains.extend(theirs.bundle().domains);
        bundle
    };
    let web = ours.identity(&ours.id("web"), DAY);
    let web = ours.context(web, both(&ours, &theirs));
    let cart = theirs.identity(&theirs.id("cart"), DAY);
    let cart = theirs.context(cart, both(&ours, &theirs));
    let cart_id = theirs.id("cart");
    assert_eq!(outcome(&web, &[&cart_id], &cart), (Ok(()), Ok(())), "federated meshes meet");
    // Without the other's roots: unknown, and the other side is told.
    let alone = ours.member("web");
    assert_eq!(outcome(&alone, &[&cart_id], &cart).0, Err(Reason::PeerUntrusted));
    assert_eq!(outcome(&cart, &[&ours.id("web")], &alone), (Err(Reason::PeerUntrusted), Err(Reason::PeerUntrusted)));
    // An authority of b.mesh that signs for a.mesh is judged by a.mesh's roots, so it is a stranger.
    let mut liar = Mesh::new("a.mesh");
    let fake = liar.identity(&ours.id("cart"), DAY);
    let mut swapped = ours.bundle();
    swapped.domains.insert(theirs.domain.clone(), liar.authority.roots());
    let believing = ours.identity(&ours.id("web"), DAY);
    let believing = ours.context(believing, swapped.clone());
    let fake = liar.context(fake, swapped);
    assert_eq!(outcome(&believing, &[&ours.id("cart")], &fake).0, Err(Reason::PeerUntrusted));
}

#[test]
fn the_revocation_list_refuses_new_and_live_connections() {
    let mut mesh = Mesh::new("mesh.leno");
    let (web, cart) = (mesh.identity(&mesh.id("web"), DAY), mesh.member("cart"));
    let (web_id, cart_id) = (mesh.id("web"), mesh.id("cart"));
    let mut by_identity = mesh.bundle();
    by_identity.revoked.identities.insert(cart_id.clone());
    let mut by_serial = mesh.bundle();
    by_serial.revoked.serials.insert(cart.identity().serial().clone());
    let before = mesh.context(web.clone(), mesh.bundle());
    let (mut a, mut b) = (client(&before, &[&cart_id]), server(&cart));
    assert_eq!(pump(&mut a, &mut b, usize::MAX), (Ok(()), Ok(())));
    for bundle in [by_identity, by_serial] {
        let after = mesh.context(web.clone(), bundle);
        let revoked = Err(Reason::CertificateRevoked);
        assert_eq!(outcome(&after, &[&cart_id], &cart), (revoked, revoked));
        assert_eq!(outcome(&cart, &[&web_id], &after), (revoked, revoked));
        assert_eq!(after.recheck(a.peer().unwrap()).unwrap_err().reason, Reason::CertificateRevoked);
        assert_eq!(after.recheck(b.peer().unwrap()), Ok(()), "the other is not revoked");
    }
    mesh.clock.advance(Duration::from_secs(DAY + 1));
    assert_eq!(before.recheck(a.peer().unwrap()).unwrap_err().reason, Reason::CertificateExpired);
}

#[test]
fn a_root_is_rotated_under_live_members() {
    let mut mesh = Mesh::new("mesh.leno");
    let domain = mesh.domain.clone();
    let ids = [mesh.id("web"), mesh.id("cart")];
    let old_bundle = mesh.bundle();
    let mut identities = ids.clone().map(|id| mesh.identity(&id, DAY));
    let old_identity = identities[1].clone();
    let mut bundles = [old_bundle.clone(), old_bundle.clone()];
    let meet = |mesh: &Mesh, identities: &[TlsIdentity; 2], bundles: &[TrustBundle; 2], when: &str| {
        for (a, b) in [(0, 1), (1, 0)] {
            let from = mesh.context(identities[a].clone(), bundles[a].clone());
            let to = mesh.context(identities[b].clone(), bundles[b].clone());
            assert_eq!(outcome(&from, &[&ids[b]], &to), (Ok(()), Ok(())), "{when}");
        }
    };
    mesh.authority.start_rotation(NOW).unwrap();
    bundles[0] = mesh.bundle();
    meet(&mesh, &identities, &bundles, "one has the new root");
    bundles[1] = mesh.bundle();
    let acknowledged = Progress { unacknowledged: 0, on_previous: 2 };
    assert_eq!(mesh.authority.advance_rotation(&acknowledged, NOW).unwrap(), Some(Step::SwitchIssuer { next: 2 }));
    identities[0] = mesh.identity(&ids[0], DAY);
    meet(&mesh, &identities, &bundles, "one has a new leaf");
    identities[1] = mesh.identity(&ids[1], DAY);
    let (first, second) = (identities[0].clone(), mesh.bundle());
    let live = mesh.context(first.clone(), second);
    let (mut a, mut b) = (client(&live, &[&ids[1]]), server(&mesh.context(old_identity.clone(), mesh.bundle())));
    assert_eq!(pump(&mut a, &mut b, usize::MAX), (Ok(()), Ok(())));

    // The control plane's certificate of the new root still convinces a member that slept and knows the old root only.
    let control_plane = control_plane_identity(&domain);
    let control = mesh.identity(&control_plane, DAY);
    let sleeper = mesh.context(old_identity.clone(), old_bundle);
    let control = mesh.context(control, mesh.bundle());
    assert_eq!(outcome(&sleeper, &[&control_plane], &control), (Ok(()), Ok(())));

    let replaced = Progress { unacknowledged: 0, on_previous: 0 };
    assert_eq!(mesh.authority.advance_rotation(&replaced, NOW).unwrap(), Some(Step::RetireOld { previous: 1 }));
    bundles = [mesh.bundle(), mesh.bundle()];
    meet(&mesh, &identities, &bundles, "the old root is retired");
    // Leaves of the old root are refused, new connections and live ones.
    let retired = mesh.context(first, mesh.bundle());
    let stale = mesh.context(old_identity, mesh.bundle());
    let untrusted = Err(Reason::PeerUntrusted);
    assert_eq!(outcome(&retired, &[&ids[1]], &stale), (untrusted, untrusted));
    assert_eq!(outcome(&stale, &[&ids[0]], &retired), (untrusted, untrusted));
    assert_eq!(retired.recheck(a.peer().unwrap()).unwrap_err().reason, Reason::PeerUntrusted);
    assert_eq!(live.recheck(a.peer().unwrap()), Ok(()));
}

#[test]
fn plaintext_and_garbage_are_refused() {
    let mut mesh = Mesh::new("mesh.leno");
    let cart = mesh.member("cart");
    for plain in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/2.0", b"\x00", b"*1\r\n$4\r\nPING\r\n", &[0xff; 100]] {
        let error = server(&cart).read_tls(plain, &mut Buffer::new()).unwrap_err();
        assert_eq!(error.reason, Reason::PlaintextRefused, "{plain:?}");
    }
    // Looks like a handshake record and is none; then a TLS 1.2 ClientHello without extensions.
    let mut old = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3];
    old.extend([7; 32]);
    old.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
    for (bytes, alert) in [(vec![0x16, 3, 1, 0, 4, 9, 9, 9, 9], None), (old, Some(40))] {
        let mut session = server(&cart);
        let error = session.read_tls(&bytes, &mut Buffer::new()).unwrap_err();
        assert_eq!(error.reason, Reason::MalformedRequest, "{error}");
        let mut wire = Buffer::new();
        session.take_tls(&mut wire);
        if let Some(alert) = alert {
            assert_eq!((wire[0], wire[6]), (21, alert), "the alert is handshake_failure");
        }
    }
    let web = mesh.member("web");
    let error = client(&web, &[]).read_tls(b"HTTP/1.1 400 Bad Request\r\n", &mut Buffer::new()).unwrap_err();
    assert_eq!(error.reason, Reason::UpstreamTlsFailed);
}

#[test]
fn a_peer_without_our_protocol_and_odd_names_are_refused() {
    let mut mesh = Mesh::new("mesh.leno");
    let (web, cart) = (mesh.member("web"), mesh.member("cart"));
    let permitted: Arc<[SpiffeId]> = vec![mesh.id("cart")].into();
    let mut other = TlsSession::client(&web, permitted.clone(), "w", &[b"h2"]).unwrap();
    let (at_client, at_server) = pump(&mut other, &mut server(&cart), usize::MAX);
    assert_eq!(at_client.unwrap_err().reason, Reason::UpstreamTlsFailed);
    assert_eq!(at_server.unwrap_err().reason, Reason::MalformedRequest);
    for bad in ["", "a b", "-", "ä", "a\0b", &"x".repeat(300)] {
        assert!(TlsSession::client(&web, permitted.clone(), bad, &[]).is_err(), "{bad:?}");
    }
}

#[test]
fn keys_and_chains_must_fit() {
    let mut mesh = Mesh::new("mesh.leno");
    let chain = mesh.member("web").identity().chain().to_vec();
    let error = TlsIdentity::new(chain, &KeyPair::generate().unwrap()).unwrap_err();
    assert_eq!(error.reason, Reason::CertificateInvalid);
    assert!(TlsIdentity::new(vec![], &KeyPair::generate().unwrap()).is_err());
    assert!(RootCert::from_der(mesh.member("web").identity().chain()[0].as_ref()).is_err());
}

/// Bytes that an attacker on the path changes, cuts or makes up: an error or silence, never a panic, never a peer.
#[test]
fn damaged_handshakes_end_in_an_error_or_in_nothing() {
    let mut mesh = Mesh::new("mesh.leno");
    let (web, cart) = (mesh.member("web"), mesh.member("cart"));
    let mut random = SeededRandom::new(42);
    let mut pick = |bound: usize| usize::try_from(random.below(bound as u64)).unwrap();
    for round in 0..120 {
        let (mut a, mut b) = (client(&web, &[&mesh.id("cart")]), server(&cart));
        let mut wire = Buffer::new();
        a.take_tls(&mut wire);
        let mut damaged = |wire: &Buffer| {
            let mut wire = wire.to_vec();
            let at = pick(wire.len());
            match pick(3) {
                0 => wire[at] ^= 1 << pick(8),
                1 => wire.truncate(at),
                _ => wire.insert(at, 0x16),
            }
            wire
        };
        if round % 2 == 0 {
            let _ = b.read_tls(&damaged(&wire), &mut Buffer::new());
        } else {
            b.read_tls(&wire, &mut Buffer::new()).unwrap();
            wire.clear();
            b.take_tls(&mut wire);
            a.read_tls(&wire, &mut Buffer::new()).unwrap();
            wire.clear();
            a.take_tls(&mut wire);
            let _ = b.read_tls(&damaged(&wire), &mut Buffer::new());
        }
        // A flipped bit of the change_cipher_spec for middleboxes may pass: it means nothing (RFC 8446 section 5).
        if let Some(peer) = b.peer() {
            assert_eq!(peer.spiffe, mesh.id("web"));
        }
    }
}
