//! The trust bundle: whom to believe, per trust domain, and whom not to any more.
//!
//! It travels as JSON on disk and in the API, and as DER roots in the discovery protocol. Versions only grow; a proxy
//! reports the version it uses, which is how a rotation knows that a new root has arrived everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use leno_model::{SpiffeId, TrustDomain};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::certificate::{PeerCertificateError, Serial, ca_spki};
use crate::token::RootPin;

/// Most roots per trust domain: two during a rotation, and room for a federated peer's own habits.
pub const MAX_ROOTS: usize = 8;

/// Why a bundle was refused. A refused bundle never replaces a good one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// A root that is not a CA certificate.
    #[error("not a usable root certificate: {0}")]
    Root(String),
    /// A trust domain without roots, or with more than [`MAX_ROOTS`].
    #[error("trust domain `{0}` has {1} roots; 1 to 8 are allowed")]
    RootCount(TrustDomain, usize),
    /// Not the JSON form.
    #[error("malformed trust bundle: {0}")]
    Malformed(String),
}

/// A root certificate, checked to be a CA's. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct RootCert {
    der: Arc<[u8]>,
    pin: RootPin,
}

impl RootCert {
    /// Checks that `der` is one CA certificate that may sign certificates.
    pub fn from_der(der: &[u8]) -> Result<Self, BundleError> {
        let spki = ca_spki(der).map_err(BundleError::Root)?;
        Ok(Self { der: der.into(), pin: RootPin(crate::sha256(&spki)) })
    }

    /// As DER.
    #[must_use]
    pub fn der(&self) -> CertificateDer<'_> {
        CertificateDer::from_slice(&self.der)
    }

    /// SHA-256 of its public key.
    #[must_use]
    pub fn pin(&self) -> RootPin {
        self.pin
    }
}

impl std::fmt::Debug for RootCert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RootCert({})", self.pin)
    }
}

impl Serialize for RootCert {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(&self.der))
    }
}

impl<'de> Deserialize<'de> for RootCert {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let der = STANDARD.decode(String::deserialize(d)?).map_err(serde::de::Error::custom)?;
        Self::from_der(&der).map_err(serde::de::Error::custom)
    }
}

/// Identities and certificates that are refused although their chains are good.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocations {
    /// Everything issued to these.
    #[serde(default)]
    pub identities: BTreeSet<SpiffeId>,
    /// Single certificates. Serials are random 128-bit numbers, so they need no issuer beside them.
    #[serde(default)]
    pub serials: BTreeSet<Serial>,
}

impl Revocations {
    /// Whether a certificate is refused.
    #[must_use]
    pub fn covers(&self, identity: &SpiffeId, serial: &Serial) -> bool {
        self.identities.contains(identity) || self.serials.contains(serial)
    }
}

/// Roots per trust domain, and the revocation list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustBundle {
    /// Grows with every change.
    pub version: u64,
    /// A chain is judged by the roots of its own leaf's domain only.
    pub domains: BTreeMap<TrustDomain, Vec<RootCert>>,
    /// The revocation list.
    #[serde(default)]
    pub revoked: Revocations,
}

impl TrustBundle {
    /// A bundle of one domain without revocations.
    #[must_use]
    pub fn single(version: u64, domain: TrustDomain, roots: Vec<RootCert>) -> Self {
        Self { version, domains: BTreeMap::from([(domain, roots)]), revoked: Revocations::default() }
    }

    /// From the wire's parts: DER roots per domain.
    pub fn from_der<'a>(
        version: u64,
        domains: impl IntoIterator<Item = (TrustDomain, Vec<&'a [u8]>)>,
        revoked: Revocations,
    ) -> Result<Self, BundleError> {
        let mut bundle = Self { version, domains: BTreeMap::new(), revoked };
        for (domain, roots) in domains {
            let roots = roots.into_iter().map(RootCert::from_der).collect::<Result<Vec<_>, _>>()?;
            bundle.domains.insert(domain, roots);
        }
        bundle.check()
    }

    /// From JSON.
    pub fn from_json(text: &[u8]) -> Result<Self, BundleError> {
        serde_json::from_slice::<Self>(text).map_err(|e| BundleError::Malformed(e.to_string()))?.check()
    }

    /// To JSON, the same bytes for the same bundle.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("maps with text keys and no failing types")
    }

    fn check(self) -> Result<Self, BundleError> {
        match self.domains.iter().find(|(_, roots)| roots.is_empty() || roots.len() > MAX_ROOTS) {
            Some((domain, roots)) => Err(BundleError::RootCount(domain.clone(), roots.len())),
            None => Ok(self),
        }
    }

    /// The roots that may judge a leaf of this domain; none is an empty slice.
    #[must_use]
    pub fn roots(&self, domain: &TrustDomain) -> &[RootCert] {
        self.domains.get(domain).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether a root with this key is in the domain's list.
    #[must_use]
    pub fn has_root(&self, domain: &TrustDomain, pin: RootPin) -> bool {
        self.roots(domain).iter().any(|r| r.pin() == pin)
    }

    /// Refuses what the revocation list covers.
    pub fn check_revocation(&self, identity: &SpiffeId, serial: &Serial) -> Result<(), PeerCertificateError> {
        if self.revoked.covers(identity, serial) {
            return Err(PeerCertificateError::Revoked { identity: identity.clone(), serial: serial.clone() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::test_root;

    #[test]
    fn json_and_der_forms_round_trip() {
        let (a, b) = (TrustDomain::new("a.mesh").unwrap(), TrustDomain::new("b.mesh").unwrap());
        let mut bundle = TrustBundle::single(7, a.clone(), vec![test_root(), test_root()]);
        bundle.domains.insert(b.clone(), vec![test_root()]);
        bundle.revoked.identities.insert(SpiffeId::new("spiffe://a.mesh/ns/x/sa/y").unwrap());
        bundle.revoked.serials.insert(Serial::from_bytes(&[1, 2, 3]));
        assert_eq!(TrustBundle::from_json(&bundle.to_json()).unwrap(), bundle);
        let ders: Vec<(TrustDomain, Vec<CertificateDer<'_>>)> =
            bundle.domains.iter().map(|(d, r)| (d.clone(), r.iter().map(RootCert::der).collect())).collect();
        let parts = ders.iter().map(|(d, r)| (d.clone(), r.iter().map(|c| c.as_ref()).collect()));
        assert_eq!(TrustBundle::from_der(7, parts, bundle.revoked.clone()).unwrap(), bundle);
        assert!(bundle.has_root(&b, bundle.roots(&b)[0].pin()));
        assert!(!bundle.has_root(&a, bundle.roots(&b)[0].pin()));
    }

    #[test]
    fn revocations_cover_identities_and_serials() {
        let (x, y) = (SpiffeId::new("spiffe://m/ns/a/sa/x").unwrap(), SpiffeId::new("spiffe://m/ns/a/sa/y").unwrap());
        let (one, two) = (Serial::from_bytes(&[1]), Serial::from_bytes(&[2]));
        let mut bundle = TrustBundle::default();
        assert!(bundle.check_revocation(&x, &one).is_ok());
        bundle.revoked.identities.insert(x.clone());
        bundle.revoked.serials.insert(two.clone());
        assert_eq!(bundle.check_revocation(&x, &one).unwrap_err().reason(), leno_model::Reason::CertificateRevoked);
        assert!(bundle.check_revocation(&y, &one).is_ok());
        assert!(bundle.check_revocation(&y, &two).is_err());
    }

    #[test]
    fn bad_bundles_are_refused() {
        let domain = TrustDomain::default();
        assert!(matches!(RootCert::from_der(b"junk"), Err(BundleError::Root(_))));
        let none = TrustBundle::single(1, domain.clone(), vec![]);
        assert!(matches!(TrustBundle::from_json(&none.to_json()), Err(BundleError::RootCount(_, 0))));
        let many = TrustBundle::single(1, domain, vec![test_root(); MAX_ROOTS + 1]);
        assert!(matches!(TrustBundle::from_json(&many.to_json()), Err(BundleError::RootCount(_, 9))));
        assert!(matches!(TrustBundle::from_json(b"{"), Err(BundleError::Malformed(_))));
    }
}
