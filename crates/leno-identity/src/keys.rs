//! Private keys: ECDSA P-256, made where they are used, never printed, wiped when dropped.

use std::fmt;

use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize, Zeroizing};

/// Why a key could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The random source or the library failed.
    #[error("cannot make a key: {0}")]
    Generate(String),
    /// Not a PKCS#8 PEM of an ECDSA P-256 key. The text is the library's; it never contains key material.
    #[error("not a PKCS#8 ECDSA P-256 private key: {0}")]
    Malformed(String),
}

/// A P-256 key pair. `Debug` never prints it.
pub struct KeyPair {
    inner: rcgen::KeyPair,
}

impl KeyPair {
    /// Makes a new one from the system's random source.
    pub fn generate() -> Result<Self, KeyError> {
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .map(|inner| Self { inner })
            .map_err(|e| KeyError::Generate(e.to_string()))
    }

    /// Reads PKCS#8 PEM (`PRIVATE KEY`).
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        rcgen::KeyPair::from_pkcs8_pem_and_sign_algo(text, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map(|inner| Self { inner })
            .map_err(|e| KeyError::Malformed(e.to_string()))
    }

    /// Writes PKCS#8 PEM; the text is wiped when dropped.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.inner.serialize_pem())
    }

    /// The key for a TLS stack: a copy, PKCS#8.
    #[must_use]
    pub fn private_key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.inner.serialized_der().to_vec()))
    }

    /// The public half, SubjectPublicKeyInfo DER.
    #[must_use]
    pub fn spki_der(&self) -> Vec<u8> {
        rcgen::PublicKeyData::subject_public_key_info(&self.inner)
    }

    /// SHA-256 of [`Self::spki_der`]; tells one key from another without revealing it.
    #[must_use]
    pub fn spki_sha256(&self) -> [u8; 32] {
        crate::sha256(&self.spki_der())
    }

    pub(crate) fn rcgen(&self) -> &rcgen::KeyPair {
        &self.inner
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair(P-256, private)")
    }
}

impl Drop for KeyPair {
    fn drop(&mut self) {
        self.inner.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_round_trips_and_debug_is_silent() {
        let key = KeyPair::generate().unwrap();
        let pem = key.to_pem();
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----"));
        let again = KeyPair::from_pem(&pem).unwrap();
        assert_eq!(again.spki_der(), key.spki_der());
        assert_eq!(format!("{key:?}"), "KeyPair(P-256, private)");
        assert_ne!(KeyPair::generate().unwrap().spki_sha256(), key.spki_sha256());
    }

    #[test]
    fn other_keys_and_garbage_are_refused() {
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        for bad in ["", "garbage", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", &p384] {
            assert!(matches!(KeyPair::from_pem(bad), Err(KeyError::Malformed(_))), "{bad:.40}");
        }
    }
}
