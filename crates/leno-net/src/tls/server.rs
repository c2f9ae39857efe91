//! A server's side whose certificates are replaced without a restart.

use std::sync::{PoisonError, RwLock};

use super::context::TlsContext;

/// What [`super::stream::accept`] needs; the context is swapped by renewals and new bundles, live connections keep
/// theirs.
#[derive(Debug)]
pub struct ReloadableServer {
    context: RwLock<TlsContext>,
    alpn: Vec<Vec<u8>>,
    client_certificate_required: bool,
    expired_grace_s: u64,
}

impl ReloadableServer {
    /// A server that demands a client certificate.
    #[must_use]
    pub fn new(context: TlsContext, alpn: &[&[u8]]) -> Self {
        let alpn = alpn.iter().map(|p| p.to_vec()).collect();
        Self { context: RwLock::new(context), alpn, client_certificate_required: true, expired_grace_s: 0 }
    }

    /// Lets clients come without a certificate (enrolment); one that is presented must be good.
    #[must_use]
    pub fn client_certificate_optional(mut self) -> Self {
        self.client_certificate_required = false;
        self
    }

    /// Accepts leaves for so long after their end. The caller must let such a peer do nothing but renew:
    /// `PeerIdentity::is_expired`.
    #[must_use]
    pub fn expired_grace_s(mut self, seconds: u64) -> Self {
        self.expired_grace_s = seconds;
        self
    }

    /// Uses `context` for connections accepted from now on.
    pub fn replace(&self, context: TlsContext) {
        *self.context.write().unwrap_or_else(PoisonError::into_inner) = context;
    }

    /// The context in use.
    #[must_use]
    pub fn context(&self) -> TlsContext {
        self.context.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn alpn(&self) -> Vec<&[u8]> {
        self.alpn.iter().map(Vec::as_slice).collect()
    }

    pub(super) fn client_certificate_required(&self) -> bool {
        self.client_certificate_required
    }

    pub(super) fn grace_s(&self) -> u64 {
        self.expired_grace_s
    }
}
