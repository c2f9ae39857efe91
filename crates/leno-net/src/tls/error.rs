//! Why a TLS session failed, as a [`Reason`] with a detail for the log.

use std::io;

use leno_identity::PeerCertificateError;
use leno_model::Reason;
use rustls::{AlertDescription, CertificateError, Error};

/// A failed session. `reason` says whose fault and whether a retry is safe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct TlsError {
    /// The member of the closed set.
    pub reason: Reason,
    /// For the log: what exactly, with identities and serials.
    pub detail: String,
    /// Whether the peer refused us (it sent an alert), rather than we it.
    pub by_peer: bool,
}

/// Which end we are: a malformed message is the other side's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

impl TlsError {
    /// Ours, with a detail.
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), by_peer: false }
    }

    /// From the TLS library; `judged` is what our own judge said, which is more exact than what the library repeats.
    pub(super) fn from_rustls(error: &Error, judged: Option<&PeerCertificateError>, role: Role) -> Self {
        if let (Error::InvalidCertificate(_), Some(judged)) = (error, judged) {
            return judged.clone().into();
        }
        let fallback = match role {
            Role::Client => Reason::UpstreamTlsFailed,
            Role::Server => Reason::MalformedRequest,
        };
        match error {
            Error::AlertReceived(alert) => {
                let detail = format!("the peer refused the handshake with alert {alert:?}");
                Self { reason: reason_of(*alert).unwrap_or(fallback), detail, by_peer: true }
            }
            Error::NoCertificatesPresented => PeerCertificateError::Missing.into(),
            Error::InvalidCertificate(CertificateError::BadSignature) => {
                Self::new(Reason::PeerUntrusted, "the peer does not hold the key of the certificate it presented")
            }
            other => Self::new(fallback, format!("TLS failed: {other}")),
        }
    }

    /// From an error of a [`super::stream::TlsStream`]: with TLS 1.3 a client learns only at its first read that the
    /// server refused its certificate.
    #[must_use]
    pub fn from_io(error: &io::Error) -> Option<Self> {
        let inner = error.get_ref()?;
        if let Some(error) = inner.downcast_ref::<Self>() {
            return Some(error.clone());
        }
        inner.downcast_ref::<Error>().map(|e| Self::from_rustls(e, None, Role::Client))
    }
}

impl From<PeerCertificateError> for TlsError {
    fn from(error: PeerCertificateError) -> Self {
        Self::new(error.reason(), error.to_string())
    }
}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// What an alert says about our certificate (RFC 8446 section 6.2).
fn reason_of(alert: AlertDescription) -> Option<Reason> {
    use AlertDescription as A;
    Some(match alert {
        A::CertificateExpired => Reason::CertificateExpired,
        A::CertificateRevoked => Reason::CertificateRevoked,
        A::UnknownCA | A::CertificateRequired => Reason::PeerUntrusted,
        A::AccessDenied => Reason::PeerIdentityMismatch,
        A::BadCertificate | A::UnsupportedCertificate | A::CertificateUnknown => Reason::CertificateInvalid,
        _ => return None,
    })
}

/// The alert that tells the peer what is wrong with its certificate; rustls picks it by the error returned.
pub(super) fn to_rustls(error: &PeerCertificateError) -> Error {
    use PeerCertificateError as E;
    Error::InvalidCertificate(match error {
        E::Expired { .. } => CertificateError::Expired,
        E::NotYetValid { .. } => CertificateError::NotValidYet,
        E::Revoked { .. } => CertificateError::Revoked,
        E::Missing | E::UnknownTrustDomain(_) | E::Untrusted { .. } | E::PinMismatch => CertificateError::UnknownIssuer,
        E::IdentityMismatch { .. } => CertificateError::ApplicationVerificationFailure,
        E::KeyUsage(_) | E::ExtendedKeyUsage(_) => CertificateError::InvalidPurpose,
        _ => CertificateError::BadEncoding,
    })
}
