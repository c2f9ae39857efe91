//! Joining the mesh: a token is traded for a certificate, once; after that the stored identity is used.
//!
//! ```text
//!   identity.pem? ── yes ── expired? ── no ──► use it
//!        │                     └─ yes ──► renew over a stream of its own ──► use it
//!        no ── token ──► handshake, root compared with the token's pin ──► only now the secret ──► store ──► use it
//! ```
//!
//! A token other than the one that was joined with is redeemed as well: so a member comes back whose stored identity is refused,
//! because its root was retired or its revocation was taken back. If the token is of no use, the stored identity is used.

use std::sync::Arc;
use std::time::Duration;

use leno_discovery::client::{self, ClientError};
use leno_discovery::limits;
use leno_discovery::proto::{self, client_message, server_message};
use leno_discovery::session::ClientSettings;
use leno_identity::bundle::{BundleError, Revocations};
use leno_identity::{JoinToken, KeyError, KeyPair, RootPin, Serial, TokenError, TrustBundle, csr};
use leno_model::{Reason, SpiffeId, TrustDomain};
use leno_net::tls::stream::Expect;
use leno_net::tls::{TlsContext, TlsError, TlsIdentity};
use leno_runtime::{Backoff, Clock, SeededRandom};
use rustls_pki_types::CertificateDer;

use super::connect::{Targets, connector};
use super::state_dir::{StateDir, StateError, StoredIdentity};
use crate::settings::ProxySettings;

/// How long the control plane may take to answer one renewal.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a proxy cannot become a member.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The identity in it cannot be read.
    #[error("{0}\n      start this member with a new token (`leno token create`), or restore the file")]
    Damaged(StateError),
    /// The token is malformed.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Neither a stored identity nor a token.
    #[error("{0} holds no identity: a join token is needed (make one with `leno token create`)")]
    NoToken(String),
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The control plane refused, or another one answered.
    #[error("{0}")]
    Refused(#[from] ClientError),
    /// What was issued cannot be used.
    #[error("the control plane issued an unusable certificate: {0}")]
    Issued(#[from] TlsError),
    /// What was sent as bundle cannot be used.
    #[error("the control plane sent an unusable trust bundle: {0}")]
    Bundle(#[from] BundleError),
    /// The bundle does not hold the root that the token names.
    #[error("the trust bundle does not hold the root that the join token names")]
    BundleWithoutPin,
    /// The credential is somebody else's.
    #[error("unauthorised_member: the credential is for `{is}`, but this proxy is to be `{wanted}`")]
    OtherIdentity {
        /// Whose it is.
        is: SpiffeId,
        /// Namespace and service account that the settings ask for.
        wanted: String,
    },
    /// The credential does not permit the service.
    #[error(
        "unauthorised_member: the join token does not permit to register the service `{0}`; make one with `leno token create --service NAME`"
    )]
    ServiceNotPermitted(String),
    /// No answer to a renewal.
    #[error("the control plane did not answer the renewal within 10 s")]
    NoAnswer,
}

impl JoinError {
    /// The reason for logs and status.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Token(_) | Self::NoToken(_) => Reason::TokenInvalid,
            Self::Refused(error) => error.reason(),
            Self::Issued(error) => error.reason,
            Self::OtherIdentity { .. } | Self::ServiceNotPermitted(_) => Reason::UnauthorisedMember,
            Self::Bundle(_) | Self::BundleWithoutPin => Reason::PeerUntrusted,
            Self::State(_) | Self::Damaged(_) | Self::Key(_) => Reason::CertificateInvalid,
            Self::NoAnswer => Reason::ControlPlaneUnreachable,
        }
    }

    /// Whether waiting and trying again can help: the control plane is not there, or not itself yet.
    fn is_passing(&self) -> bool {
        match self {
            Self::NoAnswer => true,
            Self::Refused(error) => {
                !error.is_final() && !matches!(error.reason(), Reason::PeerUntrusted | Reason::PeerIdentityMismatch)
            }
            _ => false,
        }
    }
}

/// Everything that joining needs.
pub(super) struct Joining<'a> {
    pub(super) settings: &'a ProxySettings,
    pub(super) dir: &'a StateDir,
    pub(super) targets: &'a Arc<Targets>,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) instance: &'a str,
}

impl Joining<'_> {
    /// The identity to begin with: the stored one, also if it has expired, or one by the token. Dropping the future gives up; a
    /// redemption that was under way can be repeated.
    pub(super) async fn identity(&self) -> Result<StoredIdentity, JoinError> {
        let token: Option<Result<JoinToken, _>> = self.settings.token.as_ref().map(|t| t.reveal().parse());
        let stored = match (self.dir.identity(), &token) {
            (Err(error @ StateError::Content { .. }), Some(Ok(_))) => {
                tracing::warn!(%error, "the stored identity is damaged; joining anew");
                None
            }
            (Err(error @ StateError::Content { .. }), _) => return Err(JoinError::Damaged(error)),
            (stored, _) => stored?,
        };
        let Some(stored) = stored else {
            let none = || JoinError::NoToken(self.settings.state_dir.display().to_string());
            return self.join(&token.ok_or_else(none)??).await;
        };
        let fits = self.check_identity(stored.tls.spiffe());
        let joined_with = self.dir.joined_with()?;
        if let Some(Ok(token)) = token.filter(|t| joined_with.as_deref() != t.as_ref().ok().map(JoinToken::id)) {
            match self.redeem(&token).await {
                Ok(identity) => return Ok(identity),
                Err(error) => {
                    tracing::warn!(reason = %error.reason(), %error, "the new token is of no use; going on with the stored identity");
                }
            }
        }
        fits.map(|()| stored)
    }

    /// Tries on while the control plane cannot be reached; ends at once if it refuses.
    async fn join(&self, token: &JoinToken) -> Result<StoredIdentity, JoinError> {
        let mut backoff = Backoff::new(limits::BACKOFF.0, limits::BACKOFF.1);
        let mut random = SeededRandom::from_system();
        loop {
            match self.redeem(token).await {
                Ok(identity) => return Ok(identity),
                Err(error) if error.is_passing() => {
                    if backoff.failures() == 0 {
                        tracing::warn!(reason = %error.reason(), %error, "cannot join yet; trying on");
                    }
                    tokio::time::sleep(backoff.next(&mut random)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn redeem(&self, token: &JoinToken) -> Result<StoredIdentity, JoinError> {
        let key = self.dir.joining_key()?;
        // The connector only gives a connection whose root matches the pin: the secret goes nowhere else.
        let expect = Expect::Pinned { pin: token.pin(), clock: self.clock.clone() };
        let request = proto::RedeemRequest {
            token_id: token.id().to_owned(),
            token_secret: token.secret().to_owned(),
            csr: csr::make(&key)?.into(),
            instance: self.instance.to_owned(),
        };
        let response = client::redeem(&connector(self.targets, expect), request).await?;
        let tls = TlsIdentity::new(chain(&response.chain), &key)?;
        self.check_identity(tls.spiffe())?;
        let service = self.settings.service.name.as_str();
        if !self.settings.ports.is_empty() && !response.services.iter().any(|s| s == service) {
            return Err(JoinError::ServiceNotPermitted(self.settings.service.to_string()));
        }
        let bundle = bundle(&response.bundle.unwrap_or_default())?;
        if !bundle.has_root(&tls.trust_domain(), token.pin()) {
            return Err(JoinError::BundleWithoutPin);
        }
        self.dir.store_bundle(&bundle)?;
        self.dir.store_identity(&key, &tls)?;
        self.dir.store_joined_with(token.id())?;
        self.dir.forget_joining_key();
        tracing::info!(identity = %tls.spiffe(), serial = %tls.serial(), "joined the mesh");
        Ok(StoredIdentity { tls, bundle })
    }

    fn check_identity(&self, identity: &SpiffeId) -> Result<(), JoinError> {
        let namespace = self.settings.service.namespace.as_str();
        let account = self.settings.service_account.as_ref().unwrap_or(&self.settings.service.name).as_str();
        if identity.workload_parts() == Some((namespace, account)) {
            return Ok(());
        }
        let wanted = format!("ns/{namespace}/sa/{account}");
        Err(JoinError::OtherIdentity { is: identity.clone(), wanted })
    }
}

/// A chain from the wire.
pub(super) fn chain(der: &[bytes::Bytes]) -> Vec<CertificateDer<'static>> {
    der.iter().map(|c| CertificateDer::from(c.to_vec())).collect()
}

/// A bundle from the wire. A trust domain or identity that this version cannot read makes the whole bundle unusable: leaving
/// out a revocation would be failing open.
pub(super) fn bundle(message: &proto::Bundle) -> Result<TrustBundle, BundleError> {
    let malformed = |e: &dyn ToString| BundleError::Malformed(e.to_string());
    let mut domains = Vec::new();
    for domain in &message.domains {
        let name = TrustDomain::new(&domain.trust_domain).map_err(|e| malformed(&e))?;
        domains.push((name, domain.roots.iter().map(|r| &r[..]).collect()));
    }
    let mut revoked = Revocations::default();
    for identity in &message.revoked_identities {
        revoked.identities.insert(SpiffeId::new(identity).map_err(|e| malformed(&e))?);
    }
    for serial in &message.revoked_serials {
        revoked.serials.insert(serial.parse::<Serial>().map_err(|e| malformed(&e))?);
    }
    TrustBundle::from_der(message.version, domains, revoked)
}

/// Renews over a stream of its own, which is all that an expired leaf may do. Returns the new key with its certificate.
pub(super) async fn renew_apart(
    targets: &Arc<Targets>,
    context: &TlsContext,
    settings: &ClientSettings,
) -> Result<(KeyPair, TlsIdentity), JoinError> {
    let key = KeyPair::generate()?;
    let kinds = [
        client_message::Kind::Hello(proto::Hello {
            protocol_min: limits::PROTOCOL,
            protocol_max: limits::PROTOCOL,
            software: settings.software.clone(),
            instance: settings.instance.clone(),
            // Whatever the server has is not wanted here.
            bundle_version: u64::MAX,
            ..proto::Hello::default()
        }),
        client_message::Kind::Renew(proto::RenewCertificate { id: 1, csr: csr::make(&key)?.into() }),
    ];
    let first = kinds.map(|kind| proto::ClientMessage { kind: Some(kind) }).into();
    let connector = connector(targets, Expect::control_plane(context.clone()));
    let exchange = async {
        let mut stream = client::connect(&connector, first).await?;
        loop {
            match stream.next().await?.and_then(|m| m.kind) {
                Some(server_message::Kind::Issued(issued)) => return Ok(issued),
                Some(server_message::Kind::Refused(proto::Refused { reason, detail, .. }))
                | Some(server_message::Kind::Goodbye(proto::Goodbye { reason, detail, .. })) => {
                    return Err(JoinError::Refused(ClientError::refused(&reason, &detail)));
                }
                Some(_) => {}
                None => return Err(JoinError::NoAnswer),
            }
        }
    };
    let issued = tokio::time::timeout(RENEWAL_TIMEOUT, exchange).await.map_err(|_| JoinError::NoAnswer)??;
    let tls = accept_issued(context, &key, &issued)?;
    Ok((key, tls))
}

/// Checks a renewed certificate: for our key, and for nobody but us.
pub(super) fn accept_issued(
    context: &TlsContext,
    key: &KeyPair,
    issued: &proto::Issued,
) -> Result<TlsIdentity, JoinError> {
    let tls = TlsIdentity::new(chain(&issued.chain), key)?;
    let before = context.identity().spiffe();
    if tls.spiffe() != before {
        return Err(JoinError::OtherIdentity { is: tls.spiffe().clone(), wanted: before.to_string() });
    }
    Ok(tls)
}

/// The root that our own chain leads to, by its last certificate.
pub(super) fn own_root(identity: &TlsIdentity) -> Option<RootPin> {
    identity.chain().last().and_then(|root| leno_identity::certificate::spki_pin(root))
}
