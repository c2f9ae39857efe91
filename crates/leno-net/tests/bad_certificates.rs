//! Certificates that must be refused, each presented by a client and by a server that would accept anything itself.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::io::Cursor;
use std::sync::Arc;

use leno_identity::{KeyPair, RootCert, TrustBundle};
use leno_model::{Reason, SpiffeId, TrustDomain};
use leno_net::tls::Buffer;
use leno_net::{TlsContext, TlsIdentity, TlsSession};
use leno_runtime::ManualClock;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Eku, IsCa, Issuer, KeyUsagePurpose as Ku,
    SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{AlertDescription, Connection, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;
const WEB: &str = "spiffe://mesh.leno/ns/shop/sa/web";

/// Trusts everybody: the other side's judgement is what is tested.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// A certificate with its key, which may sign others whether it should or not.
struct Signer {
    der: CertificateDer<'static>,
    key: rcgen::KeyPair,
}

fn p256() -> rcgen::KeyPair {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

fn validity(params: &mut CertificateParams, from: u64, to: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + std::time::Duration::from_secs(from);
    params.not_after = epoch + std::time::Duration::from_secs(to);
}

fn root(name: &str) -> Signer {
    let key = p256();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![Ku::KeyCertSign];
    validity(&mut params, NOW - DAY, NOW + 100 * DAY);
    Signer { der: params.self_signed(&key).unwrap().der().clone(), key }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

impl Signer {
    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Signer {
        let key = p256();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "test");
        params.subject_alt_names = vec![uri(WEB)];
        params.key_usages = vec![Ku::DigitalSignature];
        params.extended_key_usages = vec![Eku::ClientAuth, Eku::ServerAuth];
        validity(&mut params, NOW - 60, NOW + DAY);
        change(&mut params);
        let issuer = Issuer::from_ca_cert_der(&self.der, &self.key).unwrap();
        Signer { der: params.signed_by(&key, &issuer).unwrap().der().clone(), key }
    }

    fn intermediate(&self, change: impl FnOnce(&mut CertificateParams)) -> Signer {
        self.issue(|params| {
            params.subject_alt_names.clear();
            params.extended_key_usages.clear();
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![Ku::KeyCertSign];
            params.distinguished_name.push(DnType::CommonName, "issuing");
            change(params);
        })
    }

    fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }
}

struct Case {
    name: &'static str,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    reason: Reason,
    alert: AlertDescription,
}

fn case(name: &'static str, leaf: &Signer, others: &[&Signer], reason: Reason, alert: AlertDescription) -> Case {
    let chain = std::iter::once(leaf).chain(others.iter().copied()).map(|s| s.der.clone()).collect();
    Case { name, chain, key: leaf.key_der(), reason, alert }
}

fn cases(ours: &Signer, theirs: &Signer) -> Vec<Case> {
    use AlertDescription as A;
    use Reason as R;
    let dns = || SanType::DnsName("web.shop".try_into().unwrap());
    let invalid = |name, change: &dyn Fn(&mut CertificateParams)| {
        case(name, &ours.issue(change), &[ours], R::CertificateInvalid, A::BadCertificate)
    };
    let wrong_use = |name, change: &dyn Fn(&mut CertificateParams)| {
        case(name, &ours.issue(change), &[ours], R::CertificateInvalid, A::UnsupportedCertificate)
    };
    let stranger = root("stranger");
    let other_domain = "spiffe://other.mesh/ns/shop/sa/web";
    let leaf = ours.issue(|_| {});
    let expired_intermediate = ours.intermediate(|p| validity(p, NOW - 2 * DAY, NOW - 30));
    let mut cases = vec![
        invalid("NUL in SAN", &|p| p.subject_alt_names = vec![uri("spiffe://mesh.leno/ns/shop/sa/web\0x")]),
        invalid("two URI SANs", &|p| p.subject_alt_names.push(uri("spiffe://mesh.leno/ns/a/sa/b"))),
        invalid("DNS beside the URI", &|p| p.subject_alt_names.push(dns())),
        invalid("IP beside the URI", &|p| p.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into()))),
        invalid("DNS only", &|p| p.subject_alt_names = vec![dns()]),
        invalid("no SAN", &|p| p.subject_alt_names.clear()),
        invalid("https URI", &|p| p.subject_alt_names = vec![uri("https://mesh.leno/ns/shop/sa/web")]),
        invalid("dots in path", &|p| p.subject_alt_names = vec![uri("spiffe://mesh.leno/ns/../sa/web")]),
        invalid("20 KB certificate", &|p| {
            p.custom_extensions.push(rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5; 20_000]));
        }),
        wrong_use("no EKU", &|p| p.extended_key_usages.clear()),
        wrong_use("EKU of another trade", &|p| p.extended_key_usages = vec![Eku::CodeSigning]),
        wrong_use("no key usage", &|p| p.key_usages.clear()),
        wrong_use("may sign certificates", &|p| p.key_usages.push(Ku::KeyCertSign)),
        case(
            "expired",
            &ours.issue(|p| validity(p, NOW - DAY, NOW - 1)),
            &[ours],
            R::CertificateExpired,
            A::CertificateExpired,
        ),
        case(
            "not yet valid",
            &ours.issue(|p| validity(p, NOW + 1, NOW + DAY)),
            &[ours],
            R::ClockSkew,
            A::CertificateExpired,
        ),
        case(
            "expired intermediate",
            &expired_intermediate.issue(|_| {}),
            &[&expired_intermediate, ours],
            R::CertificateExpired,
            A::CertificateExpired,
        ),
        case("foreign authority", &stranger.issue(|_| {}), &[&stranger], R::PeerUntrusted, A::UnknownCA),
        case(
            "expired and foreign",
            &stranger.issue(|p| validity(p, NOW - DAY, NOW - 1)),
            &[&stranger],
            R::PeerUntrusted,
            A::UnknownCA,
        ),
        case(
            "another domain's name from our root",
            &ours.issue(|p| p.subject_alt_names = vec![uri(other_domain)]),
            &[ours],
            R::PeerUntrusted,
            A::UnknownCA,
        ),
        case("our name from another domain's root", &theirs.issue(|_| {}), &[theirs], R::PeerUntrusted, A::UnknownCA),
        case(
            "unknown trust domain",
            &ours.issue(|p| p.subject_alt_names = vec![uri("spiffe://third.mesh/ns/a/sa/b")]),
            &[ours],
            R::PeerUntrusted,
            A::UnknownCA,
        ),
        case("signed by a leaf", &leaf.issue(|_| {}), &[&leaf, ours], R::PeerUntrusted, A::UnknownCA),
        case(
            "too deep",
            &ours.intermediate(|_| {}).intermediate(|_| {}).issue(|_| {}),
            &[ours],
            R::PeerUntrusted,
            A::UnknownCA,
        ),
        case("chain of forty", &leaf, &vec![ours; 39], R::CertificateInvalid, A::BadCertificate),
    ];
    let own = root("self");
    cases.push(case("a CA as itself", &own, &[], R::CertificateInvalid, A::BadCertificate));
    cases.push(Case {
        name: "the certificate of another's key",
        chain: vec![leaf.der.clone(), ours.der.clone()],
        key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(p256().serialize_der())),
        reason: R::PeerUntrusted,
        alert: A::DecryptError,
    });
    cases
}

fn context(ours: &Signer, theirs: &Signer) -> TlsContext {
    let root = |s: &Signer| vec![RootCert::from_der(&s.der).unwrap()];
    let mut bundle = TrustBundle::single(1, TrustDomain::default(), root(ours));
    bundle.domains.insert(TrustDomain::new("other.mesh").unwrap(), root(theirs));
    let mine = ours.issue(|p| p.subject_alt_names = vec![uri("spiffe://mesh.leno/ns/shop/sa/cart")]);
    let key = KeyPair::from_pem(&mine.key.serialize_pem()).unwrap();
    let identity = TlsIdentity::new(vec![mine.der.clone(), ours.der.clone()], &key).unwrap();
    TlsContext::new(identity, Arc::new(bundle), 1, Arc::new(ManualClock::at(NOW))).unwrap()
}

fn certified(case: &Case) -> Arc<rustls::sign::SingleCertAndKey> {
    // Built by hand, because a checked constructor would refuse a key that does not fit.
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&case.key).unwrap();
    Arc::new(rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(case.chain.clone(), key)))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn bad_client(case: &Case) -> Connection {
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_cert_resolver(certified(case));
    rustls::ClientConnection::new(Arc::new(config), "w".try_into().unwrap()).unwrap().into()
}

fn bad_server(case: &Case) -> Connection {
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(Anybody))
        .with_cert_resolver(certified(case));
    rustls::ServerConnection::new(Arc::new(config)).unwrap().into()
}

/// Carries bytes until nothing moves; our session's reason, and the alert that the other received.
fn pump(session: &mut TlsSession, other: &mut Connection) -> (Option<Reason>, Option<AlertDescription>) {
    let (mut reason, mut alert) = (None, None);
    loop {
        let (mut forth, mut back) = (Buffer::new(), Vec::new());
        session.take_tls(&mut forth);
        while other.wants_write() {
            other.write_tls(&mut back).unwrap();
        }
        if forth.is_empty() && back.is_empty() {
            return (reason, alert);
        }
        if reason.is_none()
            && let Err(error) = session.read_tls(&back, &mut Buffer::new())
        {
            reason = Some(error.reason);
        }
        let mut forth = Cursor::new(&forth[..]);
        while forth.position() < forth.get_ref().len() as u64 && alert.is_none() {
            other.read_tls(&mut forth).unwrap();
            if let Err(Error::AlertReceived(received)) = other.process_new_packets() {
                alert = Some(received);
            }
        }
    }
}

#[test]
fn the_test_accepts_a_good_certificate() {
    let (ours, theirs) = (root("ours"), root("theirs"));
    let context = context(&ours, &theirs);
    let good = case("good", &ours.issue(|_| {}), &[&ours], Reason::NoRoute, AlertDescription::CloseNotify);
    let mut server = TlsSession::server(&context, &[]).unwrap();
    assert_eq!(pump(&mut server, &mut bad_client(&good)), (None, None));
    assert_eq!(server.peer().unwrap().spiffe.as_str(), WEB);
    let permitted: Arc<[SpiffeId]> = vec![SpiffeId::new(WEB).unwrap()].into();
    let mut client = TlsSession::client(&context, permitted, "w", &[]).unwrap();
    assert_eq!(pump(&mut client, &mut bad_server(&good)), (None, None));
    assert_eq!(client.peer().unwrap().spiffe.as_str(), WEB);
}

#[test]
fn servers_refuse_bad_clients_and_say_why() {
    let (ours, theirs) = (root("ours"), root("theirs"));
    let context = context(&ours, &theirs);
    for case in cases(&ours, &theirs) {
        let mut session = TlsSession::server(&context, &[]).unwrap();
        let (reason, alert) = pump(&mut session, &mut bad_client(&case));
        assert_eq!((reason, alert), (Some(case.reason), Some(case.alert)), "{}", case.name);
        assert!(session.peer().is_none(), "{}", case.name);
    }
}

#[test]
fn clients_refuse_bad_servers_and_say_why() {
    let (ours, theirs) = (root("ours"), root("theirs"));
    let context = context(&ours, &theirs);
    // Every identity that the cases name is permitted, so that only the certificate itself is judged.
    let permitted: Arc<[SpiffeId]> = [WEB, "spiffe://other.mesh/ns/shop/sa/web", "spiffe://third.mesh/ns/a/sa/b"]
        .map(|t| SpiffeId::new(t).unwrap())
        .into();
    for case in cases(&ours, &theirs) {
        let mut session = TlsSession::client(&context, permitted.clone(), "w", &[]).unwrap();
        let (reason, alert) = pump(&mut session, &mut bad_server(&case));
        assert_eq!((reason, alert), (Some(case.reason), Some(case.alert)), "{}", case.name);
    }
}

#[test]
fn a_client_without_certificate_is_refused() {
    let (ours, theirs) = (root("ours"), root("theirs"));
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    let mut other = rustls::ClientConnection::new(Arc::new(config), "w".try_into().unwrap()).unwrap().into();
    let mut session = TlsSession::server(&context(&ours, &theirs), &[]).unwrap();
    let (reason, alert) = pump(&mut session, &mut other);
    assert_eq!((reason, alert), (Some(Reason::PeerUntrusted), Some(AlertDescription::CertificateRequired)));
}
