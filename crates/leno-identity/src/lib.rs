//! Who is who: keys, certificate requests, certificates as facts, trust bundles, join tokens and the certificate authority.
//!
//! *Owns*: what a mesh certificate must look like, what a bundle and a token contain, how the authority issues, persists
//! and rotates. Instants are arguments (`u64`, seconds since the Unix epoch).
//!
//! *Must not know*: routes, services, sockets, TLS sessions (`leno-net::tls` judges chains with these rules).
//!
//! *Start reading at*: [`certificate`] (the rules for a peer), then [`ca`] and [`ca::rotation`].

pub mod bundle;
pub mod ca;
pub mod certificate;
pub mod csr;
pub mod keys;
pub mod pem;
pub mod token;

pub use bundle::{RootCert, TrustBundle};
pub use ca::{Authority, CaError, Issued};
pub use certificate::{LeafFacts, PeerCertificateError, PeerIdentity, Serial};
pub use csr::{CsrError, VerifiedCsr};
pub use keys::{KeyError, KeyPair};
pub use token::{JoinToken, RootPin, SecretHash, TokenError};

use leno_model::{Name, SpiffeId, TrustDomain};

/// The service account of the control plane, in the system namespace.
pub const CONTROL_PLANE_ACCOUNT: &str = "control-plane";
/// The path of every control plane's identity.
pub const CONTROL_PLANE_PATH: &str = "/ns/leno-system/sa/control-plane";

/// The identity of the control plane of a trust domain.
#[must_use]
pub fn control_plane_identity(domain: &TrustDomain) -> SpiffeId {
    let namespace = Name::new(leno_model::names::SYSTEM_NAMESPACE).expect("a constant label");
    let account = Name::new(CONTROL_PLANE_ACCOUNT).expect("a constant label");
    SpiffeId::workload(domain, &namespace, &account)
}

/// SHA-256, as used for pins and stored secrets.
pub(crate) fn sha256(data: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, data);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
