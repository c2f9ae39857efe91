//! Making certificates: roots, intermediates, leaves. The only place that fills in X.509 fields.

use leno_model::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;

use super::storage::{Generation, Issuing};
use super::{CaError, Issued, MAX_BACKDATE_S};
use crate::bundle::RootCert;
use crate::certificate::Serial;
use crate::csr::VerifiedCsr;
use crate::keys::KeyPair;

const DAY: u64 = 24 * 3600;
/// Ten years: rotation, not expiry, is how a root is meant to end.
const ROOT_LIFE_S: u64 = 3650 * DAY;
/// One year; re-made in the last third.
pub(super) const ISSUING_LIFE_S: u64 = 365 * DAY;
/// CA certificates begin an hour early: a member whose clock is behind by less must not refuse a fresh mesh.
const CA_BACKDATE_S: u64 = 3600;
/// Random bytes of a serial number (CA/Browser Forum asks for 8; with 16 none repeats).
const SERIAL_BYTES: usize = 16;

fn crypto(error: &impl ToString) -> CaError {
    CaError::Crypto(error.to_string())
}

pub(super) fn first_generation(domain: &TrustDomain, now: u64) -> Result<Generation, CaError> {
    generation(1, domain, now)
}

/// The next root with its intermediate, and its certificate signed by the present root.
pub(super) fn next_generation(old: &Generation, domain: &TrustDomain, now: u64) -> Result<Generation, CaError> {
    let mut next = generation(old.number + 1, domain, now)?;
    let old_root = old.root.der();
    let issuer = Issuer::from_ca_cert_der(&old_root, old.root_key.rcgen()).map_err(|e| crypto(&e))?;
    let mut params = root_params(next.number, domain, now)?;
    params.use_authority_key_identifier_extension = true;
    let cross = params.signed_by(next.root_key.rcgen(), &issuer).map_err(|e| crypto(&e))?;
    next.cross = Some(cross.der().clone());
    Ok(next)
}

fn generation(number: u32, domain: &TrustDomain, now: u64) -> Result<Generation, CaError> {
    let root_key = KeyPair::generate().map_err(|e| crypto(&e))?;
    let root = root_params(number, domain, now)?.self_signed(root_key.rcgen()).map_err(|e| crypto(&e))?;
    let root = RootCert::from_der(root.der()).map_err(|e| crypto(&e))?;
    let issuing = issuing(number, &root, &root_key, now)?;
    Ok(Generation { number, root_key, root, issuing, cross: None })
}

pub(super) fn renew_issuing(generation: &mut Generation, now: u64) -> Result<(), CaError> {
    generation.issuing = issuing(generation.number, &generation.root, &generation.root_key, now)?;
    Ok(())
}

fn root_params(number: u32, domain: &TrustDomain, now: u64) -> Result<CertificateParams, CaError> {
    // Distinct names per generation, so that path building never tries one root's key for the other.
    let mut params =
        params(&format!("Leno root {number} {domain}"), now.saturating_sub(CA_BACKDATE_S), now + ROOT_LIFE_S)?;
    // Two below a root: the issuing intermediate, and a successor that is cross-signed during a rotation.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(2));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn issuing(number: u32, root: &RootCert, root_key: &KeyPair, now: u64) -> Result<Issuing, CaError> {
    let key = KeyPair::generate().map_err(|e| crypto(&e))?;
    let not_after = now + ISSUING_LIFE_S;
    let mut params = params(&format!("Leno issuing {number}"), now.saturating_sub(CA_BACKDATE_S), not_after)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    let root_der = root.der();
    let issuer = Issuer::from_ca_cert_der(&root_der, root_key.rcgen()).map_err(|e| crypto(&e))?;
    let certificate = params.signed_by(key.rcgen(), &issuer).map_err(|e| crypto(&e))?;
    Ok(Issuing { key, certificate: certificate.der().clone(), not_after })
}

/// A leaf under `generation`, and for the control plane the way to it from `previous`.
pub(super) fn leaf(
    generation: &Generation,
    previous: Option<&Generation>,
    csr: &VerifiedCsr,
    identity: &SpiffeId,
    ttl_s: u64,
    now: u64,
) -> Result<Issued, CaError> {
    let not_before = now.saturating_sub(MAX_BACKDATE_S.min(ttl_s / 2));
    let not_after = now + ttl_s;
    let mut params = params("", not_before, not_after)?;
    let uri = identity.as_str().try_into().map_err(|e| crypto(&e))?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Both: a member calls and is called with the same certificate.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let serial = params.serial_number.as_ref().map(|s| Serial::from_bytes(s.as_ref())).expect("params sets it");
    let issuing = &generation.issuing;
    let issuer = Issuer::from_ca_cert_der(&issuing.certificate, issuing.key.rcgen()).map_err(|e| crypto(&e))?;
    let key = SubjectPublicKeyInfo::from_der(csr.spki_der()).map_err(|e| crypto(&e))?;
    let certificate = params.signed_by(&key, &issuer).map_err(|e| crypto(&e))?;
    let chain = vec![certificate.der().clone(), issuing.certificate.clone(), generation.root.der().into_owned()];
    let cross = match (&generation.cross, previous) {
        (Some(cross), Some(previous)) => vec![cross.clone(), previous.root.der().into_owned()],
        (Some(cross), None) => vec![cross.clone()],
        (None, _) => Vec::new(),
    };
    let root = generation.root.pin();
    Ok(Issued { chain, cross, identity: identity.clone(), serial, not_before, not_after, root })
}

fn params(name: &str, not_before: u64, not_after: u64) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Leno");
    if !name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    params.serial_number = Some(random_serial()?);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + std::time::Duration::from_secs(not_before);
    params.not_after = epoch + std::time::Duration::from_secs(not_after);
    Ok(params)
}

fn random_serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0u8; SERIAL_BYTES];
    getrandom::fill(&mut bytes).map_err(|e| crypto(&e))?;
    // Positive and of fixed length in DER (RFC 5280 section 4.1.2.2).
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// A stored intermediate's end, read back from its certificate.
pub(super) fn issuing_end(certificate: &CertificateDer<'_>) -> Result<u64, String> {
    crate::certificate::validity(certificate).map(|(_, end)| end)
}
