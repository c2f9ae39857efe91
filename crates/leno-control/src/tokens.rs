//! Join tokens: made by the administrator, redeemed once by a proxy, which thereby becomes a member (D6).
//!
//! ```text
//!   created ──redeem, key A──► redeemed by A ──redeem, key A──► (the same redemption: issued again)
//!      │                            └────────redeem, key B────► refused
//!      └──expired or deleted──────────────────────────────────► refused, whoever asks
//! ```
//!
//! A redemption grants the identity the token's services; nothing else makes a grant.

use std::collections::BTreeSet;
use std::sync::Arc;

use leno_api::{TokenInfo, TokenRequest, TokenResponse};
use leno_discovery::server::Refusal;
use leno_identity::{Issued, JoinToken, csr};
use leno_model::names::{DEFAULT_NAMESPACE, SYSTEM_NAMESPACE};
use leno_model::{Name, Reason, SpiffeId, TrustDomain};
use leno_runtime::clock::Clock;
use leno_store::{Expect, Store};

use crate::audit::{Audit, Principal, timestamp};
use crate::ca::{Ca, store_refusal};
use crate::records::{self, Grant, RecordError, Redemption, Token};

/// Lifetime of a token unless asked otherwise: long enough to paste it somewhere.
pub const DEFAULT_TTL_S: u64 = leno_plan::defaults::TOKEN_TTL.as_secs();
/// Longest lifetime: a token that lies around for longer is a password.
pub const MAX_TTL_S: u64 = 30 * 24 * 3600;
/// Most services of one token.
pub const MAX_SERVICES: usize = 64;
/// A used or expired token is kept for so long, so that the list can say what became of it.
const KEPT_S: u64 = 24 * 3600;

/// Why a token could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// The request is wrong.
    #[error("{0}")]
    Request(String),
    /// The store.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// A redemption.
#[derive(Debug)]
pub struct Redeemed {
    /// The certificate.
    pub issued: Issued,
    /// The namespace of the identity.
    pub namespace: String,
    /// What may be registered.
    pub services: BTreeSet<String>,
}

/// The tokens of a mesh.
pub struct Tokens {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Issues to redeemers.
    pub ca: Arc<Ca>,
    /// Where everything is written down.
    pub audit: Arc<Audit>,
    /// For lifetimes.
    pub clock: Arc<dyn Clock>,
}

impl Tokens {
    /// Makes a token.
    pub async fn create(&self, request: &TokenRequest) -> Result<TokenResponse, TokensError> {
        let record = self.record_for(request)?;
        let token = JoinToken::generate(self.ca.pin())
            .map_err(|e| TokensError::Request(format!("cannot make a token: {e}")))?;
        let record = Token { secret: token.secret_hash(), ..record(&token) };
        let key = records::key::<Token>("", token.id());
        records::save(&*self.store, &key, &record, Expect::Absent).await?;
        self.forget_old().await?;
        let info = self.info(token.id(), &record);
        let detail = format!("{} for {}", info.identity, info.services.join(","));
        self.audit.record(&Principal::Admin, "token.create", token.id(), "ok", &detail).await;
        Ok(TokenResponse { token: token.to_text().to_string(), info })
    }

    fn record_for(&self, request: &TokenRequest) -> Result<impl Fn(&JoinToken) -> Token + use<>, TokensError> {
        let bad = |e: leno_model::names::NameError| TokensError::Request(e.to_string());
        let namespace = Name::new(request.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)).map_err(bad)?;
        if namespace.as_str() == SYSTEM_NAMESPACE {
            return Err(TokensError::Request(format!("{SYSTEM_NAMESPACE} is the mesh's own namespace")));
        }
        let Some(first) = request.services.first() else {
            return Err(TokensError::Request("a token names at least one service".into()));
        };
        if request.services.len() > MAX_SERVICES {
            return Err(TokensError::Request(format!("a token names at most {MAX_SERVICES} services")));
        }
        let account = Name::new(request.service_account.as_deref().unwrap_or(first)).map_err(bad)?;
        let mut services = BTreeSet::new();
        for service in &request.services {
            services.insert(Name::new(service).map_err(bad)?.to_string());
        }
        let ttl = request.ttl_seconds.unwrap_or(DEFAULT_TTL_S);
        if !(1..=MAX_TTL_S).contains(&ttl) {
            return Err(TokensError::Request(format!("a lifetime of {ttl} s is outside 1 s to 30 days")));
        }
        let created = self.clock.unix_seconds();
        Ok(move |token: &JoinToken| Token {
            secret: token.secret_hash(),
            namespace: namespace.to_string(),
            service_account: account.to_string(),
            services: services.clone(),
            created,
            expires: created + ttl,
            redemption: None,
        })
    }

    async fn forget_old(&self) -> Result<(), RecordError> {
        let now = self.clock.unix_seconds();
        for (key, token) in records::load_all::<Token>(&*self.store).await? {
            if now > token.expires.saturating_add(KEPT_S) {
                records::remove(&*self.store, &key, Expect::Any).await?;
            }
        }
        Ok(())
    }

    /// All tokens, without their secrets.
    pub async fn list(&self) -> Result<Vec<TokenInfo>, RecordError> {
        let tokens = records::load_all::<Token>(&*self.store).await?;
        Ok(tokens.into_iter().map(|(key, token)| self.info(&key.name, &token)).collect())
    }

    /// Makes a token unusable. False if there is none.
    pub async fn delete(&self, id: &str) -> Result<bool, RecordError> {
        let key = records::key::<Token>("", id);
        if records::load::<Token>(&*self.store, &key).await?.is_none() {
            return Ok(false);
        }
        records::remove(&*self.store, &key, Expect::Any).await?;
        self.audit.record(&Principal::Admin, "token.delete", id, "ok", "").await;
        Ok(true)
    }

    fn info(&self, id: &str, token: &Token) -> TokenInfo {
        TokenInfo {
            id: id.to_owned(),
            identity: identity(self.ca.trust_domain(), token).map(|i| i.to_string()).unwrap_or_default(),
            namespace: token.namespace.clone(),
            services: token.services.iter().cloned().collect(),
            created: timestamp(token.created),
            expires: timestamp(token.expires),
            redeemed: token.redemption.as_ref().map(|r| timestamp(r.at)),
        }
    }

    /// Redeems a token: id and secret as they came, and a certificate request in DER.
    pub async fn redeem(&self, id: &str, secret: &str, request: &[u8], instance: &str) -> Result<Redeemed, Refusal> {
        let principal = Principal::Token(id.chars().take(64).collect());
        match self.try_redeem(&principal, id, secret, request).await {
            Ok(redeemed) => {
                let object = redeemed.issued.identity.as_str();
                self.audit.record(&principal, "enrolment", object, "ok", &format!("instance {instance}")).await;
                Ok(redeemed)
            }
            Err(refusal) => {
                let (reason, detail) = (refusal.reason.as_str(), refusal.detail.as_str());
                self.audit.refuse(&principal, "enrolment", instance, reason, detail).await;
                Err(refusal)
            }
        }
    }

    async fn try_redeem(
        &self,
        principal: &Principal,
        id: &str,
        secret: &str,
        request: &[u8],
    ) -> Result<Redeemed, Refusal> {
        let key = records::key::<Token>("", id);
        // Two redemptions at once: one writes, the other reads again and finds whose token it is.
        for _ in 0..4 {
            let found = records::load::<Token>(&*self.store, &key).await;
            let found = found.map_err(|e| store_refusal(&e))?;
            // One message for unknown and wrong: nobody learns which ids exist.
            let unknown = || Refusal::new(Reason::TokenInvalid, "the join token is unknown, used up or expired");
            let Some((token, version)) = found.filter(|(t, _)| t.secret.matches(secret)) else { return Err(unknown()) };
            let now = self.clock.unix_seconds();
            if now > token.expires {
                let detail = format!("the join token expired at {}", timestamp(token.expires));
                return Err(Refusal::new(Reason::TokenInvalid, detail));
            }
            let identity = identity(self.ca.trust_domain(), &token).ok_or_else(unknown)?;
            let request =
                csr::verify(request, &identity).map_err(|e| Refusal::new(Reason::UnauthorisedMember, e.to_string()))?;
            let this: String = request.spki_sha256().iter().map(|b| format!("{b:02x}")).collect();
            match &token.redemption {
                Some(redemption) if redemption.key == this => {}
                Some(_) => {
                    let detail = "the join token has been redeemed with another key";
                    return Err(Refusal::new(Reason::TokenInvalid, detail));
                }
                None => {
                    let redemption = Some(Redemption { key: this, at: now });
                    let redeemed = Token { redemption, ..token.clone() };
                    match records::save(&*self.store, &key, &redeemed, Expect::Version(version)).await {
                        Ok(_) => {}
                        Err(e) if e.is_conflict() => continue,
                        Err(e) => return Err(store_refusal(&e)),
                    }
                }
            }
            let issued = self.ca.issue(principal, &identity, &request).await?;
            self.add_grant(&token).await?;
            return Ok(Redeemed { issued, namespace: token.namespace, services: token.services });
        }
        Err(Refusal::new(Reason::Overloaded, "the join token is being redeemed by others at the same time"))
    }

    async fn add_grant(&self, token: &Token) -> Result<(), Refusal> {
        let key = records::key::<Grant>(&token.namespace, &token.service_account);
        let granted = records::update::<Grant>(&*self.store, &key, |old| {
            let mut grant = old.cloned().unwrap_or_default();
            grant.services.extend(token.services.iter().cloned());
            (old != Some(&grant)).then_some(grant)
        });
        granted.await.map(drop).map_err(|e| store_refusal(&e))
    }
}

fn identity(domain: &TrustDomain, token: &Token) -> Option<SpiffeId> {
    let (namespace, account) = (Name::new(&token.namespace).ok()?, Name::new(&token.service_account).ok()?);
    Some(SpiffeId::workload(domain, &namespace, &account))
}
