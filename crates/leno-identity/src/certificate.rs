//! Certificates as facts, and the rules a peer's leaf must keep (SPIFFE X.509-SVID, sections 2 to 5).
//!
//! This looks at the leaf alone; the signatures of the chain are `leno-net::tls`'s to verify, against the roots of the
//! trust domain that the leaf names. Nothing here is trusted until both have agreed.

use std::fmt;
use std::str::FromStr;

use leno_model::{Reason, SpiffeId, TrustDomain};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::token::RootPin;

/// Most certificates in a chain: leaf, two intermediates, a cross-signed root and a root, and one to spare.
pub const MAX_CHAIN: usize = 6;
/// Largest single certificate: a P-256 leaf has under 1 KB, an RSA-4096 root with many extensions under 4 KB.
pub const MAX_CERTIFICATE: usize = 8 * 1024;
/// Longest serial number, RFC 5280 section 4.1.2.2 (20 octets, and a leading zero for the sign).
const MAX_SERIAL: usize = 21;

/// Why a peer's certificate was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerCertificateError {
    /// No certificate was presented.
    #[error("the peer presented no certificate")]
    Missing,
    /// More than [`MAX_CHAIN`].
    #[error("the peer's chain has {0} certificates, more than 6")]
    ChainTooLong(usize),
    /// Larger than [`MAX_CERTIFICATE`].
    #[error("a certificate of {0} bytes in the peer's chain is larger than 8192")]
    TooLarge(usize),
    /// Not X.509 v3, or followed by other bytes.
    #[error("the peer's certificate is malformed: {0}")]
    Malformed(String),
    /// A NUL byte in a name (CVE-2025-66220: what one parser cuts there, another reads on).
    #[error("a name in the peer's certificate contains a NUL byte")]
    NulInName,
    /// No URI SAN.
    #[error("the peer's certificate has no SPIFFE ID")]
    NoSpiffeId,
    /// Several URI SANs (SPIFFE X.509-SVID section 2 allows exactly one).
    #[error("the peer's certificate has {0} URI names instead of one")]
    SeveralUris(usize),
    /// A DNS, IP or other name beside the SPIFFE ID.
    #[error("the peer's certificate has a name that is not a SPIFFE ID: {0}")]
    OtherName(String),
    /// The URI is not a SPIFFE ID.
    #[error("the peer's certificate names no valid SPIFFE ID: {0}")]
    SpiffeId(String),
    /// A CA certificate was presented as a leaf.
    #[error("the peer presented a CA certificate as its own")]
    IsCa,
    /// Key usage lacks digitalSignature or has a CA's bits.
    #[error("the peer's certificate has the wrong key usage: {0}")]
    KeyUsage(&'static str),
    /// Extended key usage lacks clientAuth or serverAuth.
    #[error("the peer's certificate lacks the extended key usage {0}")]
    ExtendedKeyUsage(&'static str),
    /// The trust domain has no roots here.
    #[error("no roots are known for the trust domain `{0}` of the peer")]
    UnknownTrustDomain(String),
    /// The chain does not lead to a root of the leaf's own trust domain.
    #[error("the certificate of `{identity}` does not chain to a root of its trust domain: {detail}")]
    Untrusted {
        /// Whom the leaf claims to be.
        identity: SpiffeId,
        /// What the verifier said.
        detail: String,
    },
    /// Past its end.
    #[error("the certificate of `{identity}` expired {ago_s} s ago")]
    Expired {
        /// Whose.
        identity: SpiffeId,
        /// Seconds since the end of its validity.
        ago_s: u64,
    },
    /// Before its start: the clocks differ, for issued leaves are backdated.
    #[error("the certificate of `{identity}` becomes valid in {in_s} s: the clocks of the two hosts differ")]
    NotYetValid {
        /// Whose.
        identity: SpiffeId,
        /// Seconds until the start of its validity.
        in_s: u64,
    },
    /// On the revocation list.
    #[error("`{identity}` (serial {serial}) is revoked")]
    Revoked {
        /// Whose.
        identity: SpiffeId,
        /// Which certificate.
        serial: Serial,
    },
    /// Valid, but not whom we wanted.
    #[error("the peer is `{presented}`, which is not one of the permitted identities ({permitted})")]
    IdentityMismatch {
        /// Who it is.
        presented: SpiffeId,
        /// Whom we wanted, for the log.
        permitted: String,
    },
    /// The chain has no certificate whose key matches the pin of the join token.
    #[error("the control plane's root does not match the join token: this is another mesh, or not the control plane")]
    PinMismatch,
}

impl PeerCertificateError {
    /// The member of the closed set of reasons.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Missing | Self::UnknownTrustDomain(_) | Self::Untrusted { .. } | Self::PinMismatch => {
                Reason::PeerUntrusted
            }
            Self::Expired { .. } => Reason::CertificateExpired,
            Self::NotYetValid { .. } => Reason::ClockSkew,
            Self::Revoked { .. } => Reason::CertificateRevoked,
            Self::IdentityMismatch { .. } => Reason::PeerIdentityMismatch,
            Self::ChainTooLong(_)
            | Self::TooLarge(_)
            | Self::Malformed(_)
            | Self::NulInName
            | Self::NoSpiffeId
            | Self::SeveralUris(_)
            | Self::OtherName(_)
            | Self::SpiffeId(_)
            | Self::IsCa
            | Self::KeyUsage(_)
            | Self::ExtendedKeyUsage(_) => Reason::CertificateInvalid,
        }
    }
}

/// A certificate's serial number, big-endian without leading zeros; hexadecimal in text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Box<[u8]>);

impl Serial {
    /// From big-endian bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let start = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len().saturating_sub(1));
        Self(bytes[start..].into())
    }

    /// Big-endian bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

impl FromStr for Serial {
    type Err = String;

    /// Reads hexadecimal digits, with `:` between bytes as OpenSSL prints them or without.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        let malformed = || format!("`{text}` is not a serial number: hexadecimal, at most 20 bytes");
        if digits.is_empty() || digits.len() > MAX_SERIAL * 2 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(malformed());
        }
        let even = if digits.len() % 2 == 1 { format!("0{digits}") } else { digits };
        let bytes = (0..even.len()).step_by(2).map(|at| u8::from_str_radix(&even[at..at + 2], 16));
        Ok(Self::from_bytes(&bytes.collect::<Result<Vec<_>, _>>().map_err(|_| malformed())?))
    }
}

impl Serialize for Serial {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Serial {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a leaf says, after its shape was checked; the signatures were not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafFacts {
    /// Whom it names.
    pub spiffe: SpiffeId,
    /// Its serial number.
    pub serial: Serial,
    /// Start of validity, Unix seconds.
    pub not_before: u64,
    /// End of validity, Unix seconds (inclusive).
    pub not_after: u64,
}

/// A peer whose certificate was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Who it is.
    pub spiffe: SpiffeId,
    /// Its leaf's serial number.
    pub serial: Serial,
    /// Start of the leaf's validity, Unix seconds.
    pub not_before: u64,
    /// End of the leaf's validity, Unix seconds (inclusive).
    pub not_after: u64,
    /// The root that its chain led to.
    pub root: RootPin,
}

impl LeafFacts {
    /// The trust domain whose roots alone may judge this leaf.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain::new(self.spiffe.trust_domain()).expect("a SPIFFE ID has a valid trust domain")
    }

    /// Whether the leaf is valid at `now`, letting `expired_grace_s` seconds pass after its end.
    pub fn check_validity(&self, now: u64, expired_grace_s: u64) -> Result<(), PeerCertificateError> {
        if now < self.not_before {
            let in_s = self.not_before - now;
            return Err(PeerCertificateError::NotYetValid { identity: self.spiffe.clone(), in_s });
        }
        if now > self.not_after.saturating_add(expired_grace_s) {
            let ago_s = now - self.not_after;
            return Err(PeerCertificateError::Expired { identity: self.spiffe.clone(), ago_s });
        }
        Ok(())
    }

    /// After the chain was verified up to `root`.
    #[must_use]
    pub fn verified(self, root: RootPin) -> PeerIdentity {
        let Self { spiffe, serial, not_before, not_after } = self;
        PeerIdentity { spiffe, serial, not_before, not_after, root }
    }
}

impl PeerIdentity {
    /// Whether the leaf is past its end: such a peer may do nothing but renew (D6).
    #[must_use]
    pub fn is_expired(&self, now: u64) -> bool {
        now > self.not_after
    }
}

/// Bounds a chain before anything in it is parsed, and returns its leaf's facts.
pub fn check_chain(
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
) -> Result<LeafFacts, PeerCertificateError> {
    if others.len() + 1 > MAX_CHAIN {
        return Err(PeerCertificateError::ChainTooLong(others.len() + 1));
    }
    match others.iter().find(|c| c.len() > MAX_CERTIFICATE) {
        Some(large) => Err(PeerCertificateError::TooLarge(large.len())),
        None => check_leaf(leaf),
    }
}

/// Parses a leaf and checks every rule that needs no root and no clock.
pub fn check_leaf(der: &[u8]) -> Result<LeafFacts, PeerCertificateError> {
    if der.len() > MAX_CERTIFICATE {
        return Err(PeerCertificateError::TooLarge(der.len()));
    }
    let malformed = |detail: String| PeerCertificateError::Malformed(detail);
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|e| malformed(e.to_string()))?;
    if !rest.is_empty() {
        return Err(malformed(format!("{} bytes follow it", rest.len())));
    }
    // An unparsable or repeated extension must not pass for an absent one.
    certificate.extensions_map().map_err(|e| malformed(e.to_string()))?;
    if let Some(bad) = certificate.extensions().iter().find(|e| e.parsed_extension().error().is_some()) {
        return Err(malformed(format!("extension {}", bad.oid)));
    }
    let spiffe = spiffe_id(&certificate)?;
    check_usage(&certificate)?;
    let serial = certificate.raw_serial();
    if serial.is_empty() || serial.len() > MAX_SERIAL {
        return Err(malformed(format!("a serial number of {} bytes", serial.len())));
    }
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    let validity = certificate.validity();
    let (not_before, not_after) = (seconds(validity.not_before), seconds(validity.not_after));
    if not_before > not_after {
        return Err(malformed("its validity ends before it begins".into()));
    }
    Ok(LeafFacts { spiffe, serial: Serial::from_bytes(serial), not_before, not_after })
}

fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, PeerCertificateError> {
    let malformed = |e: x509_parser::error::X509Error| PeerCertificateError::Malformed(e.to_string());
    let names = certificate.subject_alternative_name().map_err(malformed)?;
    let names = names.map(|n| n.value.general_names.as_slice()).unwrap_or_default();
    let mut uris = Vec::new();
    for name in names {
        match name {
            GeneralName::URI(text) | GeneralName::DNSName(text) | GeneralName::RFC822Name(text)
                if text.contains('\0') =>
            {
                return Err(PeerCertificateError::NulInName);
            }
            GeneralName::Invalid(_, bytes) if bytes.contains(&0) => return Err(PeerCertificateError::NulInName),
            GeneralName::URI(text) => uris.push(*text),
            other => return Err(PeerCertificateError::OtherName(format!("{other}").chars().take(120).collect())),
        }
    }
    match uris[..] {
        [] => Err(PeerCertificateError::NoSpiffeId),
        [uri] => SpiffeId::new(uri).map_err(|e| PeerCertificateError::SpiffeId(e.to_string())),
        _ => Err(PeerCertificateError::SeveralUris(uris.len())),
    }
}

fn check_usage(certificate: &X509Certificate<'_>) -> Result<(), PeerCertificateError> {
    let malformed = |e: x509_parser::error::X509Error| PeerCertificateError::Malformed(e.to_string());
    if certificate.basic_constraints().map_err(malformed)?.is_some_and(|b| b.value.ca) {
        return Err(PeerCertificateError::IsCa);
    }
    match certificate.key_usage().map_err(malformed)? {
        None => return Err(PeerCertificateError::KeyUsage("it is missing")),
        Some(usage) if !usage.value.digital_signature() => {
            return Err(PeerCertificateError::KeyUsage("digitalSignature is not set"));
        }
        Some(usage) if usage.value.key_cert_sign() || usage.value.crl_sign() => {
            return Err(PeerCertificateError::KeyUsage("keyCertSign or cRLSign is set on a leaf"));
        }
        Some(_) => {}
    }
    let extended = certificate.extended_key_usage().map_err(malformed)?;
    match extended.map(|e| e.value) {
        None => Err(PeerCertificateError::ExtendedKeyUsage("extension")),
        Some(usage) if !usage.client_auth => Err(PeerCertificateError::ExtendedKeyUsage("clientAuth")),
        Some(usage) if !usage.server_auth => Err(PeerCertificateError::ExtendedKeyUsage("serverAuth")),
        Some(_) => Ok(()),
    }
}

/// Whether `der` is a CA certificate that may sign, and its subject's key; for roots that enter a bundle.
pub(crate) fn ca_spki(der: &[u8]) -> Result<Vec<u8>, String> {
    if der.len() > MAX_CERTIFICATE {
        return Err(format!("it has {} bytes, more than {MAX_CERTIFICATE}", der.len()));
    }
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|e| e.to_string())?;
    if !rest.is_empty() {
        return Err(format!("{} bytes follow it", rest.len()));
    }
    if !certificate.is_ca() {
        return Err("it is not a CA certificate".into());
    }
    let signs = certificate
        .extensions()
        .iter()
        .any(|e| matches!(e.parsed_extension(), ParsedExtension::KeyUsage(usage) if usage.key_cert_sign()));
    if !signs {
        return Err("its key usage lacks keyCertSign".into());
    }
    Ok(certificate.public_key().raw.to_vec())
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo, if it can be parsed; what a [`RootPin`] is compared with.
#[must_use]
pub fn spki_pin(der: &[u8]) -> Option<RootPin> {
    if der.len() > MAX_CERTIFICATE {
        return None;
    }
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(RootPin(crate::sha256(certificate.public_key().raw)))
}

/// Start and end of a certificate's validity, Unix seconds; for CA certificates, which have no [`LeafFacts`].
pub fn validity(der: &[u8]) -> Result<(u64, u64), String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|e| e.to_string())?;
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    Ok((seconds(certificate.validity().not_before), seconds(certificate.validity().not_after)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KeyPair;
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose as Eku, KeyUsagePurpose as Ku, SanType};

    const WEB: &str = "spiffe://mesh.leno/ns/shop/sa/web";

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn leaf(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![uri(WEB)];
        params.key_usages = vec![Ku::DigitalSignature];
        params.extended_key_usages = vec![Eku::ClientAuth, Eku::ServerAuth];
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x7f, 1, 2]));
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 1, 2);
        change(&mut params);
        params.self_signed(KeyPair::generate().unwrap().rcgen()).unwrap().der().to_vec()
    }

    #[test]
    fn a_proper_leaf_has_facts() {
        let facts = check_leaf(&leaf(|_| {})).unwrap();
        assert_eq!(facts.spiffe.as_str(), WEB);
        assert_eq!(facts.serial.to_string(), "7f0102");
        assert_eq!(facts.not_after - facts.not_before, 86_400);
        assert_eq!(facts.trust_domain().as_str(), "mesh.leno");
    }

    #[test]
    fn validity_tells_skew_from_expiry() {
        let facts = check_leaf(&leaf(|_| {})).unwrap();
        let reason = |now, grace| facts.check_validity(now, grace).map_err(|e| e.reason());
        assert_eq!(reason(facts.not_before, 0), Ok(()));
        assert_eq!(reason(facts.not_after, 0), Ok(()));
        assert_eq!(reason(facts.not_before - 1, 0), Err(Reason::ClockSkew));
        assert_eq!(reason(facts.not_after + 1, 0), Err(Reason::CertificateExpired));
        assert_eq!(reason(facts.not_after + 60, 60), Ok(()));
        assert_eq!(reason(facts.not_after + 61, 60), Err(Reason::CertificateExpired));
    }

    #[test]
    fn rule_breaking_leaves_are_refused_each_with_its_error() {
        use PeerCertificateError as E;
        let dns = || SanType::DnsName("web.shop".try_into().unwrap());
        type Expected = fn(&E) -> bool;
        let cases: Vec<(Vec<u8>, Expected)> = vec![
            (leaf(|p| p.subject_alt_names.clear()), |e| matches!(e, E::NoSpiffeId)),
            (leaf(|p| p.subject_alt_names.push(uri("spiffe://mesh.leno/ns/a/sa/b"))), |e| {
                matches!(e, E::SeveralUris(2))
            }),
            (leaf(|p| p.subject_alt_names.push(dns())), |e| matches!(e, E::OtherName(_))),
            (leaf(|p| p.subject_alt_names = vec![dns()]), |e| matches!(e, E::OtherName(_))),
            (leaf(|p| p.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()))), |e| {
                matches!(e, E::OtherName(_))
            }),
            (leaf(|p| p.subject_alt_names = vec![uri("https://mesh.leno/ns/a")]), |e| matches!(e, E::SpiffeId(_))),
            (leaf(|p| p.subject_alt_names = vec![uri("spiffe://mesh.leno/ns/../x")]), |e| matches!(e, E::SpiffeId(_))),
            (leaf(|p| p.subject_alt_names = vec![uri("spiffe://mesh.leno/ns/shop/sa/web\0.evil")]), |e| {
                matches!(e, E::NulInName)
            }),
            (leaf(|p| p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained)), |e| matches!(e, E::IsCa)),
            (leaf(|p| p.key_usages.clear()), |e| matches!(e, E::KeyUsage(_))),
            (leaf(|p| p.key_usages = vec![Ku::KeyEncipherment]), |e| matches!(e, E::KeyUsage(_))),
            (leaf(|p| p.key_usages.push(Ku::KeyCertSign)), |e| matches!(e, E::KeyUsage(_))),
            (leaf(|p| p.extended_key_usages.clear()), |e| matches!(e, E::ExtendedKeyUsage("extension"))),
            (leaf(|p| p.extended_key_usages = vec![Eku::ServerAuth]), |e| {
                matches!(e, E::ExtendedKeyUsage("clientAuth"))
            }),
            (leaf(|p| p.extended_key_usages = vec![Eku::ClientAuth]), |e| {
                matches!(e, E::ExtendedKeyUsage("serverAuth"))
            }),
            (vec![], |e| matches!(e, E::Malformed(_))),
            (vec![0x30; MAX_CERTIFICATE + 1], |e| matches!(e, E::TooLarge(_))),
            ([leaf(|_| {}), vec![0]].concat(), |e| matches!(e, E::Malformed(_))),
        ];
        for (number, (der, expected)) in cases.iter().enumerate() {
            let error = check_leaf(der).unwrap_err();
            assert!(expected(&error), "case {number}: {error:?}");
            assert_eq!(error.reason(), Reason::CertificateInvalid, "case {number}");
        }
    }

    #[test]
    fn long_chains_and_large_members_are_refused_before_parsing() {
        let leaf = CertificateDer::from(leaf(|_| {}));
        let others = vec![CertificateDer::from(vec![0u8; 10]); MAX_CHAIN];
        assert!(matches!(check_chain(&leaf, &others), Err(PeerCertificateError::ChainTooLong(7))));
        assert!(check_chain(&leaf, &others[1..]).is_ok());
        let large = [CertificateDer::from(vec![0u8; MAX_CERTIFICATE + 1])];
        assert!(matches!(check_chain(&leaf, &large), Err(PeerCertificateError::TooLarge(_))));
    }

    #[test]
    fn serials_read_as_openssl_prints_them() {
        assert_eq!("00:7F:01".parse::<Serial>().unwrap(), Serial::from_bytes(&[0x7f, 1]));
        assert_eq!("f01".parse::<Serial>().unwrap().to_string(), "0f01");
        assert_eq!(Serial::from_bytes(&[0, 0]).to_string(), "00");
        for bad in ["", "xyz", &"0".repeat(43), "-1"] {
            assert!(bad.parse::<Serial>().is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            proptest::prop_assert!(check_leaf(&bytes).is_err());
        }

        #[test]
        fn no_flipped_byte_panics(at in 0usize..400, value in proptest::num::u8::ANY) {
            let mut der = leaf(|_| {});
            let at = at % der.len();
            der[at] = value;
            let _ = check_leaf(&der);
        }
    }
}
