//! Who may be at the other end: the one place that decides, for both directions and both drivers.
//!
//! Order: bounds → shape of the leaf → its own domain's roots → signatures up to one of them → validity → revocation →
//! permitted identities. Signatures come before validity, so that only a true member's clock or laziness is reported
//! as such; a stranger's expired certificate is untrusted, not expired.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use leno_identity::certificate::{check_chain, spki_pin};
use leno_identity::{
    CONTROL_PLANE_PATH, LeafFacts, PeerCertificateError, PeerIdentity, RootCert, RootPin, TrustBundle,
};
use leno_model::{SpiffeId, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};

use super::error::to_rustls;
use super::provider;

/// Which verified identities may be at the other end.
#[derive(Debug, Clone)]
pub enum Permitted {
    /// Any member of a trusted domain: a server, whose access policy decides later.
    AnyMember,
    /// One of these: origination, which knows the service's authorised identities. Empty means nobody.
    OneOf(Arc<[SpiffeId]>),
    /// The control plane of this trust domain.
    ControlPlane(TrustDomain),
}

impl Permitted {
    /// Refuses an identity that is not permitted.
    pub(super) fn check(&self, identity: &SpiffeId) -> Result<(), PeerCertificateError> {
        let fine = match self {
            Self::AnyMember => true,
            Self::OneOf(identities) => identities.contains(identity),
            Self::ControlPlane(domain) => {
                identity.trust_domain() == domain.as_str() && identity.path() == CONTROL_PLANE_PATH
            }
        };
        if fine {
            return Ok(());
        }
        Err(PeerCertificateError::IdentityMismatch { presented: identity.clone(), permitted: self.describe() })
    }

    fn describe(&self) -> String {
        match self {
            Self::AnyMember => "any member".into(),
            Self::ControlPlane(domain) => format!("spiffe://{domain}{CONTROL_PLANE_PATH}"),
            Self::OneOf(identities) => {
                let first: Vec<&str> = identities.iter().take(3).map(SpiffeId::as_str).collect();
                let more = if identities.len() > 3 { ", …" } else { "" };
                format!("{}{more}", first.join(", "))
            }
        }
    }
}

/// The roots of a bundle, prepared for verification.
#[derive(Debug)]
pub(super) struct Anchors {
    bundle: Arc<TrustBundle>,
    by_domain: BTreeMap<TrustDomain, Vec<(RootPin, TrustAnchor<'static>)>>,
}

impl Anchors {
    pub(super) fn new(bundle: Arc<TrustBundle>) -> Result<Self, PeerCertificateError> {
        let mut by_domain = BTreeMap::new();
        for (domain, roots) in &bundle.domains {
            let anchors = roots.iter().map(|r| Ok((r.pin(), anchor(r)?))).collect::<Result<Vec<_>, _>>()?;
            by_domain.insert(domain.clone(), anchors);
        }
        Ok(Self { bundle, by_domain })
    }

    pub(super) fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }
}

fn anchor(root: &RootCert) -> Result<TrustAnchor<'static>, PeerCertificateError> {
    let der = root.der();
    let anchor = webpki::anchor_from_trusted_cert(&der);
    anchor.map(|a| a.to_owned()).map_err(|e| PeerCertificateError::Malformed(format!("root {}: {e}", root.pin())))
}

/// Against what a chain is judged.
#[derive(Debug)]
pub(super) enum Trust {
    /// The trust bundle.
    Bundle { anchors: Arc<Anchors>, permitted: Permitted, expired_grace_s: u64 },
    /// The root named by a join token, and a control plane under it.
    Pin(RootPin),
}

/// Judges one connection's peer and remembers the verdict, for the library's errors say less.
#[derive(Debug)]
pub(super) struct Judge {
    trust: Trust,
    client_certificate_required: bool,
    verdict: OnceLock<Result<Verdict, PeerCertificateError>>,
}

/// A peer that was found good.
#[derive(Debug, Clone)]
pub(super) struct Verdict {
    pub peer: PeerIdentity,
    /// The root that matched the pin, which the joining side did not have before.
    pub pinned_root: Option<RootCert>,
}

impl Judge {
    pub(super) fn new(trust: Trust, client_certificate_required: bool) -> Arc<Self> {
        Arc::new(Self { trust, client_certificate_required, verdict: OnceLock::new() })
    }

    /// The peer, if one was judged good. Only after the handshake is complete has it proven to hold its key.
    pub(super) fn verdict(&self) -> Option<&Verdict> {
        self.verdict.get().and_then(|v| v.as_ref().ok())
    }

    /// Why the peer was refused, if it was.
    pub(super) fn refusal(&self) -> Option<&PeerCertificateError> {
        self.verdict.get().and_then(|v| v.as_ref().err())
    }

    fn judge(&self, leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let verdict = match &self.trust {
            Trust::Bundle { anchors, permitted, expired_grace_s } => {
                by_bundle(anchors, permitted, *expired_grace_s, leaf, others, now.as_secs())
            }
            Trust::Pin(pin) => by_pin(*pin, leaf, others, now.as_secs()),
        };
        let result = verdict.as_ref().map(|_| ()).map_err(to_rustls);
        // A connection has one handshake, so this is set once.
        let _ = self.verdict.set(verdict);
        result
    }
}

fn by_bundle(
    anchors: &Anchors,
    permitted: &Permitted,
    expired_grace_s: u64,
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    now: u64,
) -> Result<Verdict, PeerCertificateError> {
    let facts = check_chain(leaf, others)?;
    let domain = facts.trust_domain();
    let Some(roots) = anchors.by_domain.get(&domain) else {
        return Err(PeerCertificateError::UnknownTrustDomain(domain.to_string()));
    };
    let root = verify_chain(&facts, roots, leaf, others, now)?;
    facts.check_validity(now, expired_grace_s)?;
    anchors.bundle.check_revocation(&facts.spiffe, &facts.serial)?;
    permitted.check(&facts.spiffe)?;
    Ok(Verdict { peer: facts.verified(root), pinned_root: None })
}

fn by_pin(
    pin: RootPin,
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    now: u64,
) -> Result<Verdict, PeerCertificateError> {
    let facts = check_chain(leaf, others)?;
    let pinned = others.iter().find(|c| spki_pin(c) == Some(pin)).ok_or(PeerCertificateError::PinMismatch)?;
    let root = RootCert::from_der(pinned).map_err(|e| PeerCertificateError::Malformed(e.to_string()))?;
    verify_chain(&facts, &[(pin, anchor(&root)?)], leaf, others, now)?;
    facts.check_validity(now, 0)?;
    Permitted::ControlPlane(facts.trust_domain()).check(&facts.spiffe)?;
    Ok(Verdict { peer: facts.verified(pin), pinned_root: Some(root) })
}

/// Verifies signatures and CA rules up to one of `roots`, and says which.
fn verify_chain(
    facts: &LeafFacts,
    roots: &[(RootPin, TrustAnchor<'static>)],
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    now: u64,
) -> Result<RootPin, PeerCertificateError> {
    let untrusted = |detail: String| PeerCertificateError::Untrusted { identity: facts.spiffe.clone(), detail };
    // Within the leaf's own validity, which is judged apart with its own reasons and grace.
    let at = now.clamp(facts.not_before, facts.not_after);
    let anchors: Vec<TrustAnchor<'_>> = roots.iter().map(|(_, anchor)| anchor.clone()).collect();
    let certificate = webpki::EndEntityCert::try_from(leaf).map_err(|e| untrusted(e.to_string()))?;
    let path = certificate.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        others,
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(at)),
        // The leaf's rules demand both usages; this holds intermediates that carry the extension to the same.
        webpki::KeyUsage::client_auth(),
        None,
        None,
    );
    let path = path.map_err(|error| match error {
        webpki::Error::CertExpired { .. } => {
            PeerCertificateError::Expired { identity: facts.spiffe.clone(), ago_s: now.saturating_sub(at) }
        }
        webpki::Error::CertNotValidYet { not_before, .. } => PeerCertificateError::NotYetValid {
            identity: facts.spiffe.clone(),
            in_s: not_before.as_secs().saturating_sub(now),
        },
        other => untrusted(other.to_string()),
    })?;
    let used = &path.anchor().subject_public_key_info;
    let root = roots.iter().find(|(_, a)| a.subject_public_key_info == *used);
    root.map(|(pin, _)| *pin).ok_or_else(|| untrusted("the verified path ends at no known root".into()))
}

fn refuse_tls12() -> Error {
    Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered)
}

fn verify_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = &provider().signature_verification_algorithms;
    rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        // The SNI selects a workload on a shared port; identities, not host names, are what is verified.
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(leaf, others, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(refuse_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Judge {
    fn client_auth_mandatory(&self) -> bool {
        self.client_certificate_required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Members have one identity each; hints would only tell strangers about our roots.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(leaf, others, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(refuse_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
