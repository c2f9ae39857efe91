//! What a process is and whom it trusts at one moment: our chain and key, the trust bundle, a clock.

use std::fmt;
use std::sync::Arc;

use leno_identity::certificate::check_chain;
use leno_identity::{KeyPair, LeafFacts, PeerCertificateError, PeerIdentity, Serial, TrustBundle};
use leno_model::{Reason, SpiffeId, TrustDomain};
use leno_runtime::Clock;
use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::error::TlsError;
use super::judge::{Anchors, Judge};
use super::provider;

/// Our chain and key, checked to be what a peer will accept in form.
#[derive(Clone)]
pub struct TlsIdentity {
    certified: Arc<CertifiedKey>,
    leaf: LeafFacts,
}

impl TlsIdentity {
    /// Checks that the chain's leaf keeps the rules and belongs to the key. The chain is leaf, intermediate, root.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Result<Self, TlsError> {
        let Some((first, others)) = chain.split_first() else { return Err(PeerCertificateError::Missing.into()) };
        let leaf = check_chain(first, others)?;
        let certified = CertifiedKey::from_der(chain, key.private_key_der(), provider())
            .map_err(|e| TlsError::new(Reason::CertificateInvalid, format!("our chain and key do not fit: {e}")))?;
        Ok(Self { certified: Arc::new(certified), leaf })
    }

    /// Who we are.
    #[must_use]
    pub fn spiffe(&self) -> &SpiffeId {
        &self.leaf.spiffe
    }

    /// Our leaf's serial number.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        &self.leaf.serial
    }

    /// Our leaf's facts, with its validity.
    #[must_use]
    pub fn leaf(&self) -> &LeafFacts {
        &self.leaf
    }

    /// Our trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        self.leaf.trust_domain()
    }

    /// The chain as it is presented.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    pub(super) fn resolver(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(self.certified.clone()))
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsIdentity({}, serial {})", self.leaf.spiffe, self.leaf.serial)
    }
}

/// Identity, bundle and clock. Immutable and cheap to clone; a renewal or a new bundle makes another with a higher
/// generation, and sessions keep the one they began with.
#[derive(Debug, Clone)]
pub struct TlsContext {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    identity: TlsIdentity,
    anchors: Arc<Anchors>,
    generation: u64,
    clock: Arc<dyn Clock>,
}

impl TlsContext {
    /// `generation` grows with every renewal and bundle; connections are keyed by it.
    pub fn new(
        identity: TlsIdentity,
        bundle: Arc<TrustBundle>,
        generation: u64,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TlsError> {
        let anchors = Arc::new(Anchors::new(bundle)?);
        Ok(Self { inner: Arc::new(Inner { identity, anchors, generation, clock }) })
    }

    /// Who we are.
    #[must_use]
    pub fn identity(&self) -> &TlsIdentity {
        &self.inner.identity
    }

    /// Whom we trust.
    #[must_use]
    pub fn bundle(&self) -> &TrustBundle {
        self.inner.anchors.bundle()
    }

    /// Which renewal or bundle this is.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.inner.generation
    }

    /// Judges a live connection's peer again, as of now and by this context's bundle: expired, revoked, or of a root
    /// that has been retired. A hop that fails takes no new streams.
    pub fn recheck(&self, peer: &PeerIdentity) -> Result<(), TlsError> {
        let PeerIdentity { spiffe, serial, not_before, not_after, root } = peer.clone();
        let facts = LeafFacts { spiffe, serial, not_before, not_after };
        let bundle = self.bundle();
        if !bundle.has_root(&facts.trust_domain(), root) {
            let detail = "its root has been retired".into();
            return Err(PeerCertificateError::Untrusted { identity: facts.spiffe, detail }.into());
        }
        bundle.check_revocation(&facts.spiffe, &facts.serial)?;
        Ok(facts.check_validity(self.inner.clock.unix_seconds(), 0)?)
    }

    /// Whether our own leaf is valid now; peers refuse it otherwise.
    pub fn check_own_validity(&self) -> Result<(), TlsError> {
        Ok(self.inner.identity.leaf.check_validity(self.inner.clock.unix_seconds(), 0)?)
    }

    pub(super) fn anchors(&self) -> Arc<Anchors> {
        self.inner.anchors.clone()
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        self.inner.clock.clone()
    }
}

#[derive(Debug)]
struct Time(Arc<dyn Clock>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0.unix_time()))
    }
}

/// The client's settings for one connection; without an identity for enrolment only.
pub(super) fn client_config(
    identity: Option<&TlsIdentity>,
    clock: Arc<dyn Clock>,
    judge: Arc<Judge>,
    alpn: &[&[u8]],
) -> ClientConfig {
    let builder = ClientConfig::builder_with_details(provider().clone(), Arc::new(Time(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3 suites and groups")
        .dangerous()
        .with_custom_certificate_verifier(judge);
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity.resolver()),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.key_log = super::key_log::key_log();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config
}

/// The server's settings for one connection.
pub(super) fn server_config(context: &TlsContext, judge: Arc<Judge>, alpn: &[&[u8]]) -> ServerConfig {
    let mut config = ServerConfig::builder_with_details(provider().clone(), Arc::new(Time(context.clock())))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3 suites and groups")
        .with_client_cert_verifier(judge)
        .with_cert_resolver(context.identity().resolver());
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.key_log = super::key_log::key_log();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config
}
