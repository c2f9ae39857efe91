//! The authority at work: what is issued to whom, the trust bundle, revocation, and the rotation of the root (D6).
//!
//! Keys and certificates are `leno_identity::ca`'s; here is who may have one. Every issuance and refusal is audited before its
//! answer goes out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use leno_api::{CaStatus, RefusedMember, Revocation, RevocationRequest, RootInfo, RotationPhase};
use leno_discovery::server::Refusal;
use leno_identity::bundle::Revocations;
use leno_identity::ca::MAX_TTL_S;
use leno_identity::ca::rotation::{Progress, Rotation, Step};
use leno_identity::{Authority, CaError, Issued, KeyPair, PeerIdentity, Serial, TrustBundle, csr};
use leno_model::{Reason, SpiffeId, TrustDomain};
use leno_runtime::clock::Clock;
use leno_store::{Expect, Key, Store};
use tokio::sync::watch;

use crate::audit::{Audit, Principal, timestamp};
use crate::records::{self, BundleRecord, Grant, RecordError, RevocationRecord};

pub mod live;

use live::Live;

/// An expired leaf may renew for so long, if its key is proven and it is not revoked: a laptop comes back on Monday, or from
/// holidays (D6).
pub const EXPIRED_RENEWAL_S: u64 = leno_plan::defaults::EXPIRED_RENEWAL.as_secs();
/// After a renewal the old leaf counts as in use for this long: the proxy swaps it in, and hops begun meanwhile with the old one
/// are judged by bundles that still have its root.
const SETTLE_S: u64 = 3;
/// Most entries of the revocation list: it is sent to every proxy.
pub const MAX_REVOCATIONS: usize = 10_000;

/// Why the authority could not start or do what the administrator asked.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Certificates and files.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The store.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A key could not be made.
    #[error(transparent)]
    Key(#[from] leno_identity::KeyError),
    /// What was asked for cannot be revoked.
    #[error("{0}")]
    Request(String),
}

/// Whether the bundle lacks a change. Set before the change is made and cleared once it is published: what an error or a dropped
/// future cut short is published with the next tick.
#[derive(Default)]
struct Owed(bool);

/// The authority of a control plane.
pub struct Ca {
    authority: Mutex<Authority>,
    domain: TrustDomain,
    ttl_s: u64,
    store: Arc<dyn Store>,
    audit: Arc<Audit>,
    clock: Arc<dyn Clock>,
    bundle: watch::Sender<Arc<TrustBundle>>,
    live: Mutex<Live>,
    /// Held by whatever changes what the bundle is made of, until the bundle is published: so a phase of a rotation is only ever
    /// judged by the version that was published with it.
    changing: tokio::sync::Mutex<Owed>,
    /// Registrations that are lost may come back with what they had, so a rotation waits for them; not judged before everyone
    /// had this long to reconnect.
    grace: Duration,
    started_nanos: u64,
}

impl Ca {
    /// Opens the authority and publishes the bundle as the store and the files have it.
    pub async fn open(
        authority: Authority,
        ttl_s: u64,
        grace: Duration,
        store: Arc<dyn Store>,
        audit: Arc<Audit>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, AuthorityError> {
        let ca = Arc::new(Self {
            domain: authority.trust_domain().clone(),
            authority: Mutex::new(authority),
            ttl_s,
            store,
            audit,
            started_nanos: clock.monotonic_nanos(),
            clock,
            bundle: watch::Sender::new(Arc::new(TrustBundle::default())),
            live: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            grace,
        });
        ca.publish(&mut *ca.changing.lock().await).await?;
        Ok(ca)
    }

    fn authority(&self) -> MutexGuard<'_, Authority> {
        // A panic in the authority leaves its files whole: each is written in one piece.
        self.authority.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of open streams.
    pub fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The trust bundle, and its changes.
    #[must_use]
    pub fn bundle(&self) -> watch::Receiver<Arc<TrustBundle>> {
        self.bundle.subscribe()
    }

    /// The pin for join tokens made now.
    #[must_use]
    pub fn pin(&self) -> leno_identity::RootPin {
        self.authority().pin()
    }

    /// Lifetime of new leaves in seconds.
    #[must_use]
    pub fn ttl_s(&self) -> u64 {
        self.ttl_s
    }

    /// Issues the control plane's own certificate, for a new key.
    pub async fn issue_own(&self) -> Result<(Issued, KeyPair), AuthorityError> {
        let key = KeyPair::generate()?;
        let identity = leno_identity::control_plane_identity(&self.domain);
        let request = csr::verify(&csr::make(&key)?, &identity)
            .map_err(|e| AuthorityError::Request(format!("the control plane's own request: {e}")))?;
        let issued = self.authority().issue(&request, &identity, self.ttl_s, self.clock.unix_seconds())?;
        self.audited(&Principal::ControlPlane, "certificate.issue", &issued).await;
        Ok((issued, key))
    }

    async fn audited(&self, principal: &Principal, action: &str, issued: &Issued) {
        let detail = format!("serial {}, until {}", issued.serial, timestamp(issued.not_after));
        self.audit.record(principal, action, issued.identity.as_str(), "ok", &detail).await;
    }

    /// Issues to an identity that the caller has authorised, on the word of `principal`.
    pub async fn issue(
        &self,
        principal: &Principal,
        identity: &SpiffeId,
        request: &csr::VerifiedCsr,
    ) -> Result<Issued, Refusal> {
        if self.bundle.borrow().revoked.identities.contains(identity) {
            return Err(Refusal::new(Reason::CertificateRevoked, format!("{identity} is revoked")));
        }
        let now = self.clock.unix_seconds();
        let issued = self.authority().issue(request, identity, self.ttl_s, now);
        let issued = issued.map_err(|error| {
            tracing::error!(%identity, %error, "a certificate could not be issued");
            Refusal::new(
                Reason::ControlPlaneUnreachable,
                "the certificate authority failed; see the control plane's log",
            )
        })?;
        self.audited(principal, "certificate.issue", &issued).await;
        Ok(issued)
    }

    /// Renews the leaf of a peer that proved its key by TLS, also when the leaf has expired by no more than
    /// [`EXPIRED_RENEWAL_S`]. `peer` is as its newest leaf has it: a stream outlives the one that it was opened with. The request
    /// may ask for the peer's own identity and nothing else. With `stream`, the rotation counts the renewed leaf.
    pub async fn renew(&self, peer: &PeerIdentity, request: &[u8], stream: Option<u64>) -> Result<Issued, Refusal> {
        let principal = Principal::Workload(peer.spiffe.to_string());
        match self.admit_renewal(peer, request).await {
            Ok(request) => {
                let issued = self.issue(&principal, &peer.spiffe, &request).await?;
                if let Some(stream) = stream {
                    self.live().renewed(stream, issued.root, self.clock.unix_seconds());
                }
                Ok(issued)
            }
            Err(refusal) => {
                let (reason, detail) = (refusal.reason.as_str(), refusal.detail.as_str());
                self.audit.refuse(&principal, "certificate.renew", peer.spiffe.as_str(), reason, detail).await;
                Err(refusal)
            }
        }
    }

    async fn admit_renewal(&self, peer: &PeerIdentity, request: &[u8]) -> Result<csr::VerifiedCsr, Refusal> {
        let now = self.clock.unix_seconds();
        if now > peer.not_after.saturating_add(EXPIRED_RENEWAL_S) {
            let detail = format!("the certificate ended {}; join again with a new token", timestamp(peer.not_after));
            return Err(Refusal::new(Reason::CertificateExpired, detail));
        }
        if let Err(error) = self.bundle.borrow().check_revocation(&peer.spiffe, &peer.serial) {
            return Err(Refusal::new(Reason::CertificateRevoked, error.to_string()));
        }
        // A grant that was taken away is a credential that was taken away.
        let granted = match peer.spiffe.workload_parts() {
            Some((namespace, account)) => self.grant(namespace, account).await?.is_some(),
            None => false,
        };
        if !granted {
            let detail = format!("{} has no grant in this mesh; join with a token", peer.spiffe);
            return Err(Refusal::new(Reason::UnauthorisedMember, detail));
        }
        csr::verify(request, &peer.spiffe).map_err(|e| Refusal::new(Reason::UnauthorisedMember, e.to_string()))
    }

    /// What an identity may register, from the store.
    pub async fn grant(&self, namespace: &str, account: &str) -> Result<Option<Grant>, Refusal> {
        let found = records::load::<Grant>(&*self.store, &records::key::<Grant>(namespace, account)).await;
        found.map(|g| g.map(|(grant, _)| grant)).map_err(|error| store_refusal(&error))
    }

    /// Makes the bundle anew from roots and revocations; a different content gets the next version, durably. So does the same
    /// content when a member holds a later version: proxies take nothing but later ones.
    async fn publish(&self, owed: &mut Owed) -> Result<(), AuthorityError> {
        *owed = Owed(true);
        let now = self.clock.unix_seconds();
        let version = self.bundle.borrow().version;
        let ahead = self.live().ahead(version).map(|s| (s.peer.spiffe.to_string(), s.bundle));
        let claimed = ahead.as_ref().map_or(0, |(_, claimed)| *claimed);
        let mut revoked = Revocations::default();
        for (key, record) in records::load_all::<RevocationRecord>(&*self.store).await? {
            if record.until != 0 && record.until < now {
                records::remove(&*self.store, &key, Expect::Any).await?;
                continue;
            }
            revoked.identities.extend(record.identity.as_deref().and_then(|i| SpiffeId::new(i).ok()));
            revoked.serials.extend(record.serial.as_deref().and_then(|s| s.parse::<Serial>().ok()));
        }
        let mut bundle = TrustBundle::single(0, self.domain.clone(), self.authority().roots());
        bundle.revoked = revoked;
        // Written out, not hashed: it is small, and a difference then is a difference.
        let content = String::from_utf8_lossy(&bundle.to_json()).into_owned();
        let key = records::key::<BundleRecord>("", "bundle");
        let stored = records::update::<BundleRecord>(&*self.store, &key, |old| match old {
            Some(old) if old.content == content && old.version >= claimed => None,
            old => {
                let version = old.map_or(0, |o| o.version).max(claimed) + 1;
                Some(BundleRecord { version, content: content.clone() })
            }
        });
        bundle.version = stored.await?.map_or(1, |s| s.version);
        if let Some((member, claimed)) = ahead {
            tracing::warn!(
                %member,
                claimed,
                ours = version,
                "a member holds a later trust bundle: this is a restored backup"
            );
            let detail = format!("{member} holds version {claimed}, ours was {version} and is {}", bundle.version);
            // Thinned: a member may claim what it likes, as often as it likes.
            self.audit.refuse(&Principal::Workload(member), "bundle.raise", self.domain.as_str(), "ok", &detail).await;
        }
        self.bundle.send_if_modified(|now| {
            let changed = **now != bundle;
            if changed {
                *now = Arc::new(bundle);
            }
            changed
        });
        *owed = Owed(false);
        if let Err(error) = self.authority().forget_retired() {
            tracing::error!(%error, "a key of a retired root cannot be deleted: delete it by hand");
        }
        Ok(())
    }

    /// Revokes an identity or a serial. A revoked identity loses its grant as well, so that taking the revocation back does not
    /// bring a forgotten permission to life. Revoking again completes what an error cut short.
    pub async fn revoke(&self, request: &RevocationRequest) -> Result<Revocation, AuthorityError> {
        let now = self.clock.unix_seconds();
        let (identity, serial, until) = match (&request.identity, &request.serial) {
            (Some(identity), None) => (Some(self.revocable(identity)?), None, 0),
            (None, Some(serial)) => {
                let serial: Serial = serial.parse().map_err(AuthorityError::Request)?;
                (None, Some(serial.to_string()), now + MAX_TTL_S + EXPIRED_RENEWAL_S)
            }
            _ => return Err(AuthorityError::Request("revoke exactly one of identity and serial".into())),
        };
        let mut owed = self.changing.lock().await;
        let existing = records::load_all::<RevocationRecord>(&*self.store).await?;
        let full = existing.len() >= MAX_REVOCATIONS;
        let same = |(_, r): &(Key, RevocationRecord)| (&r.identity, &r.serial) == (&identity, &serial);
        let (id, record) = match existing.into_iter().find(same) {
            Some((key, record)) => (key.name.to_string(), record),
            None if full => {
                let message = format!("the revocation list is full ({MAX_REVOCATIONS}); rotate the root instead");
                return Err(AuthorityError::Request(message));
            }
            None => {
                let id = random_id();
                let comment = request.comment.chars().take(200).collect();
                let record = RevocationRecord { identity, serial, comment, created: now, until };
                *owed = Owed(true);
                let key = records::key::<RevocationRecord>("", &id);
                records::save(&*self.store, &key, &record, Expect::Absent).await?;
                (id, record)
            }
        };
        self.audit.record(&Principal::Admin, "revoke", subject(&record), "ok", &record.comment).await;
        if let Some(identity) = record.identity.as_deref().and_then(|i| SpiffeId::new(i).ok())
            && let Some((namespace, account)) = identity.workload_parts()
        {
            records::remove(&*self.store, &records::key::<Grant>(namespace, account), Expect::Any).await?;
        }
        self.publish(&mut owed).await?;
        Ok(revocation(&id, &record))
    }

    fn revocable(&self, text: &str) -> Result<String, AuthorityError> {
        let identity = SpiffeId::new(text).map_err(|e| AuthorityError::Request(e.to_string()))?;
        if identity.trust_domain() != self.domain.as_str() {
            return Err(AuthorityError::Request(format!("{identity} is not of this mesh ({})", self.domain)));
        }
        if identity == leno_identity::control_plane_identity(&self.domain) {
            let message = "the control plane's own identity cannot be revoked: rotate the root instead".into();
            return Err(AuthorityError::Request(message));
        }
        Ok(identity.to_string())
    }

    /// Takes a revocation back. False if there is none, also not in the bundle any more.
    pub async fn unrevoke(&self, id: &str) -> Result<bool, AuthorityError> {
        let mut owed = self.changing.lock().await;
        let key = records::key::<RevocationRecord>("", id);
        let found = records::load::<RevocationRecord>(&*self.store, &key).await?;
        if let Some((record, version)) = &found {
            *owed = Owed(true);
            records::remove(&*self.store, &key, Expect::Version(version.clone())).await?;
            self.audit.record(&Principal::Admin, "unrevoke", subject(record), "ok", "").await;
        }
        if owed.0 {
            self.publish(&mut owed).await?;
        }
        Ok(found.is_some())
    }

    /// The revocation list.
    pub async fn revocations(&self) -> Result<Vec<Revocation>, AuthorityError> {
        let records = records::load_all::<RevocationRecord>(&*self.store).await?;
        Ok(records.into_iter().map(|(key, record)| revocation(&key.name, &record)).collect())
    }

    /// Begins a rotation of the root.
    pub async fn rotate(&self) -> Result<(), AuthorityError> {
        let mut owed = self.changing.lock().await;
        self.authority().start_rotation(self.clock.unix_seconds())?;
        *owed = Owed(true);
        self.audit.record(&Principal::Admin, "ca.rotate", self.domain.as_str(), "ok", "").await;
        self.publish(&mut owed).await
    }

    /// Publishes what is owed, then takes the next step of a rotation if it is due, and returns it. `lost` is the number of
    /// registrations without a stream: they hold it up too.
    pub async fn advance(&self, lost: usize) -> Result<Option<Step>, AuthorityError> {
        let mut owed = self.changing.lock().await;
        if owed.0 || self.live().ahead(self.bundle.borrow().version).is_some() {
            self.publish(&mut owed).await?;
        }
        let now = self.clock.unix_seconds();
        let uptime = Duration::from_nanos(self.clock.monotonic_nanos().saturating_sub(self.started_nanos));
        if matches!(self.authority().rotation(), Rotation::Stable { .. }) || uptime < self.grace {
            return Ok(None);
        }
        let version = self.bundle.borrow().version;
        let unacknowledged = self.live().behind(version).count() + lost;
        let progress = Progress { unacknowledged, on_previous: self.on_previous(now).await.len() + lost };
        let step = self.authority().advance_rotation(&progress, now)?;
        let Some(step) = step else { return Ok(None) };
        *owed = Owed(true);
        let word = match step {
            Step::SwitchIssuer { .. } => "new leaves come from the new root",
            Step::RetireOld { .. } => "the old root is retired",
        };
        tracing::info!(step = word, "root rotation");
        self.audit.record(&Principal::ControlPlane, "ca.rotate", self.domain.as_str(), "ok", word).await;
        self.publish(&mut owed).await?;
        Ok(Some(step))
    }

    /// The streams whose leaves have to be renewed before the old root may go. Not those whose identity has no grant: they cannot
    /// renew, and would hold the rotation up until their leaves expire; they need a new token sooner or later.
    async fn on_previous(&self, now: u64) -> Vec<String> {
        let issuing = self.pin();
        let streams: Vec<_> = self.live().not_under(issuing, now.saturating_sub(SETTLE_S)).cloned().collect();
        let mut waiting = Vec::new();
        for stream in streams {
            if self.may_renew(&stream.peer.spiffe).await {
                waiting.push(stream.name());
            }
        }
        waiting
    }

    /// Whether an identity has a grant, which a renewal needs. A store that fails says nothing against it.
    async fn may_renew(&self, identity: &SpiffeId) -> bool {
        let Some((namespace, account)) = identity.workload_parts() else { return false };
        !matches!(self.grant(namespace, account).await, Ok(None))
    }

    /// Members that are connected and have no grant (any more): they can neither renew nor register.
    pub async fn stranded(&self) -> Vec<RefusedMember> {
        let streams: Vec<_> = self.live().iter().map(|(_, stream)| stream.clone()).collect();
        let mut stranded = Vec::new();
        for stream in streams {
            if !self.may_renew(&stream.peer.spiffe).await {
                let until = timestamp(stream.peer.not_after);
                let message = format!(
                    "it has no grant, which a revocation takes away for good, and can neither register nor renew; its certificate \
                     ends {until}: start it again with a new token"
                );
                let identity = stream.peer.spiffe.to_string();
                stranded.push(RefusedMember { member: stream.name(), identity, message });
            }
        }
        stranded
    }

    /// Roots and rotation, for people. `lost` names the registrations without a stream, which a rotation waits for as well.
    pub async fn status(&self, lost: &[String]) -> CaStatus {
        self.status_beside(lost, &self.stranded().await).await
    }

    /// The same where it is known already who is stranded, which is a question to the store for each member.
    pub async fn status_beside(&self, lost: &[String], stranded: &[RefusedMember]) -> CaStatus {
        let (bundle_version, now) = (self.bundle.borrow().version, self.clock.unix_seconds());
        let ((phase, since), roots, issuing) = {
            let authority = self.authority();
            let phase = match authority.rotation() {
                Rotation::Stable { .. } => (RotationPhase::Idle, now),
                Rotation::Distributing { since, .. } => (RotationPhase::Distributing, *since),
                Rotation::Replacing { since, .. } => (RotationPhase::Reissuing, *since),
            };
            (phase, authority.roots(), authority.pin())
        };
        let mut waiting_for: Vec<String> = match phase {
            RotationPhase::Distributing => self.live().behind(bundle_version).map(live::Stream::name).collect(),
            RotationPhase::Reissuing => self.on_previous(now).await,
            _ => Vec::new(),
        };
        if phase != RotationPhase::Idle {
            waiting_for.extend(lost.iter().map(|name| format!("{name} (lost)")));
        }
        let roots = roots.iter().map(|root| RootInfo {
            pin: root.pin().to_string(),
            not_after: leno_identity::certificate::validity(&root.der()).map(|v| timestamp(v.1)).unwrap_or_default(),
            issuing: root.pin() == issuing,
        });
        CaStatus {
            trust_domain: self.domain.to_string(),
            bundle_version,
            roots: roots.collect(),
            phase,
            phase_seconds: now.saturating_sub(since),
            waiting_for,
            cannot_renew: stranded.iter().map(|s| s.member.clone()).collect(),
            leaf_ttl_seconds: self.ttl_s,
        }
    }
}

/// Whom or what it revokes.
fn subject(record: &RevocationRecord) -> &str {
    record.identity.as_deref().or(record.serial.as_deref()).unwrap_or_default()
}

fn revocation(id: &str, record: &RevocationRecord) -> Revocation {
    Revocation {
        id: id.to_owned(),
        identity: record.identity.clone(),
        serial: record.serial.clone(),
        comment: record.comment.clone(),
        created: timestamp(record.created),
    }
}

/// A refusal because the store failed; what failed is logged here, the peer only learns that it may try again.
pub(crate) fn store_refusal(error: &RecordError) -> Refusal {
    tracing::error!(%error, "the store failed during a request of a proxy");
    Refusal::new(Reason::ControlPlaneUnreachable, "the control plane's store failed; try again")
}

/// 64 random bits in hex.
pub(crate) fn random_id() -> String {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the kernel's random source does not fail once it is up");
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
