//! Certificate requests (PKCS#10, RFC 2986).
//!
//! A request proves possession of a key and carries nothing else: the authority takes the identity from the caller's
//! credential, never from the request. A request that names anything but that identity is refused rather than
//! ignored, because whoever sent it expects to get what it named.

use leno_model::SpiffeId;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::keys::{KeyError, KeyPair};

/// Longest request read: one of P-256 with a maximal identity has under 3 KB.
pub const MAX_CSR: usize = 8 * 1024;

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Over [`MAX_CSR`].
    #[error("a certificate request of {0} bytes is longer than 8192")]
    TooLong(usize),
    /// Not DER of PKCS#10, or followed by other bytes.
    #[error("the certificate request is malformed: {0}")]
    Malformed(String),
    /// The key or the signature is not ECDSA P-256 with SHA-256.
    #[error("the certificate request's key is not ECDSA P-256 with SHA-256")]
    Algorithm,
    /// The signature does not verify: the sender does not hold the key.
    #[error("the certificate request's signature does not verify")]
    Signature,
    /// It asks for a subject.
    #[error("the certificate request names a subject `{0}`; the identity comes from the credential alone")]
    Subject(String),
    /// It asks for a name other than the identity that the credential gives.
    #[error("the certificate request names `{asked}`, but the credential is for `{permitted}`")]
    OtherIdentity {
        /// What was asked for.
        asked: String,
        /// What the credential gives.
        permitted: SpiffeId,
    },
    /// It asks for an extension or attribute.
    #[error("the certificate request asks for {0}, which is never granted on request")]
    Extension(String),
}

/// A request whose signature was verified: the holder of this public key wants a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCsr {
    spki: Vec<u8>,
}

impl VerifiedCsr {
    /// The public key, SubjectPublicKeyInfo DER.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of the public key: redeeming a token twice with the same key is the same redemption.
    #[must_use]
    pub fn spki_sha256(&self) -> [u8; 32] {
        crate::sha256(&self.spki)
    }
}

/// Makes a request for `key` that names nothing; DER.
pub fn make(key: &KeyPair) -> Result<Vec<u8>, KeyError> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let request = params.serialize_request(key.rcgen()).map_err(|e| KeyError::Generate(e.to_string()))?;
    Ok(request.der().to_vec())
}

/// Parses a request and verifies that its sender holds the key and asks for nothing but `permitted`.
pub fn verify(der: &[u8], permitted: &SpiffeId) -> Result<VerifiedCsr, CsrError> {
    if der.len() > MAX_CSR {
        return Err(CsrError::TooLong(der.len()));
    }
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|e| CsrError::Malformed(e.to_string()))?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed(format!("{} bytes follow it", rest.len())));
    }
    verify_signature(&request)?;
    let info = &request.certification_request_info;
    if info.subject.iter().next().is_some() {
        return Err(CsrError::Subject(info.subject.to_string()));
    }
    for attribute in info.iter_attributes() {
        match attribute.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(extensions) => {
                for extension in &extensions.extensions {
                    check_extension(extension.parsed_extension(), &extension.oid.to_string(), permitted)?;
                }
            }
            _ => return Err(CsrError::Extension(format!("attribute {}", attribute.oid))),
        }
    }
    Ok(VerifiedCsr { spki: info.subject_pki.raw.to_vec() })
}

fn verify_signature(request: &X509CertificationRequest<'_>) -> Result<(), CsrError> {
    const ECDSA_WITH_SHA256: &str = "1.2.840.10045.4.3.2"; // RFC 5758 section 3.2
    const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1"; // RFC 5480 section 2.1.1
    const P256: &str = "1.2.840.10045.3.1.7";
    let info = &request.certification_request_info;
    let curve = info.subject_pki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
    if request.signature_algorithm.algorithm.to_id_string() != ECDSA_WITH_SHA256
        || info.subject_pki.algorithm.algorithm.to_id_string() != EC_PUBLIC_KEY
        || curve.is_none_or(|c| c.to_id_string() != P256)
    {
        return Err(CsrError::Algorithm);
    }
    let key = aws_lc_rs::signature::UnparsedPublicKey::new(
        &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
        info.subject_pki.subject_public_key.data.as_ref(),
    );
    key.verify(info.raw, request.signature_value.data.as_ref()).map_err(|_| CsrError::Signature)
}

fn check_extension(extension: &ParsedExtension<'_>, oid: &str, permitted: &SpiffeId) -> Result<(), CsrError> {
    let ParsedExtension::SubjectAlternativeName(names) = extension else {
        return Err(CsrError::Extension(format!("extension {oid}")));
    };
    // The one name that may be asked for is the one that is granted anyway.
    match names.general_names.as_slice() {
        [GeneralName::URI(uri)] if *uri == permitted.as_str() => Ok(()),
        other => {
            let asked: Vec<String> = other.iter().map(ToString::to_string).collect();
            Err(CsrError::OtherIdentity { asked: asked.join(", "), permitted: permitted.clone() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "spiffe://mesh.leno/ns/shop/sa/web";

    fn web() -> SpiffeId {
        SpiffeId::new(WEB).unwrap()
    }

    fn request(key: &KeyPair, change: impl FnOnce(&mut rcgen::CertificateParams)) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        params.serialize_request(key.rcgen()).unwrap().der().to_vec()
    }

    #[test]
    fn a_request_proves_its_key() {
        let key = KeyPair::generate().unwrap();
        let csr = verify(&make(&key).unwrap(), &web()).unwrap();
        assert_eq!(csr.spki_der(), key.spki_der());
        assert_eq!(csr.spki_sha256(), key.spki_sha256());
    }

    #[test]
    fn the_granted_name_may_be_asked_for() {
        let key = KeyPair::generate().unwrap();
        let der = request(&key, |p| p.subject_alt_names.push(rcgen::SanType::URI(WEB.try_into().unwrap())));
        assert!(verify(&der, &web()).is_ok());
    }

    #[test]
    fn other_and_extra_names_are_refused() {
        let key = KeyPair::generate().unwrap();
        let uri = |text: &str| rcgen::SanType::URI(text.try_into().unwrap());
        let dns = rcgen::SanType::DnsName("web.shop".try_into().unwrap());
        let admin = "spiffe://mesh.leno/ns/leno-system/sa/control-plane";
        for names in [vec![uri(admin)], vec![uri(WEB), uri(admin)], vec![dns.clone()], vec![uri(WEB), dns]] {
            let der = request(&key, |p| p.subject_alt_names = names);
            assert!(matches!(verify(&der, &web()), Err(CsrError::OtherIdentity { .. })));
        }
        let der = request(&key, |p| p.distinguished_name.push(rcgen::DnType::CommonName, "root"));
        assert!(matches!(verify(&der, &web()), Err(CsrError::Subject(_))));
        let der = request(&key, |p| p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
        assert!(matches!(verify(&der, &web()), Err(CsrError::Extension(_))));
        let der = request(&key, |p| p.key_usages.push(rcgen::KeyUsagePurpose::KeyCertSign));
        assert!(matches!(verify(&der, &web()), Err(CsrError::Extension(_))));
    }

    #[test]
    fn forged_and_malformed_requests_are_refused() {
        let der = make(&KeyPair::generate().unwrap()).unwrap();
        let mut forged = der.clone();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert!(matches!(verify(&forged, &web()), Err(CsrError::Signature)));
        // Another key's public half under this signature.
        let other = KeyPair::generate().unwrap().spki_der();
        let at = der.windows(26).position(|w| w == &other[..26]).unwrap();
        let mut swapped = der.clone();
        swapped[at..at + other.len()].copy_from_slice(&other);
        assert!(matches!(verify(&swapped, &web()), Err(CsrError::Signature)));
        let mut longer = der.clone();
        longer.push(0);
        assert!(matches!(verify(&longer, &web()), Err(CsrError::Malformed(_))));
        assert!(matches!(verify(&der[..der.len() - 1], &web()), Err(CsrError::Malformed(_))));
        assert!(matches!(verify(&vec![0x30; MAX_CSR + 1], &web()), Err(CsrError::TooLong(_))));
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let der = params.serialize_request(&p384).unwrap().der().to_vec();
        assert!(matches!(verify(&der, &web()), Err(CsrError::Algorithm)));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            proptest::prop_assert!(verify(&bytes, &web()).is_err());
        }
    }
}
