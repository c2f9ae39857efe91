//! Our certificate and the trust bundle over time: each change is stored, then becomes a TLS context of the next generation.

use std::sync::Arc;
use std::time::Duration;

use leno_discovery::proto;
use leno_identity::{KeyPair, TrustBundle, csr};
use leno_net::tls::{TlsContext, TlsError, TlsIdentity};
use leno_runtime::{Clock, Random, SeededRandom};

use super::enrol::{self, JoinError, accept_issued, own_root};
use super::renewal::Renewal;
use super::state_dir::{StateDir, StoredIdentity};

/// No answer to a renewal for so long counts as a failure.
const ANSWER: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Trust {
    context: TlsContext,
    bundle: Arc<TrustBundle>,
    renewal: Renewal,
    /// The renewal under way: its number, its key, and when it was asked for.
    pending: Option<(u64, KeyPair, Duration)>,
    next_id: u64,
    renewals: u64,
    random: SeededRandom,
    /// Where it is kept; nowhere once a successor keeps its own there.
    dir: Option<StateDir>,
    clock: Arc<dyn Clock>,
}

impl Trust {
    pub(super) fn new(stored: StoredIdentity, dir: StateDir, clock: Arc<dyn Clock>) -> Result<Self, TlsError> {
        let bundle = Arc::new(stored.bundle);
        let context = TlsContext::new(stored.tls, bundle.clone(), 1, clock.clone())?;
        let mut random = SeededRandom::from_system();
        let renewal = Renewal::of(context.identity().leaf().not_after, clock.unix_time(), random.unit());
        let (pending, next_id, renewals) = (None, 1, 0);
        let dir = Some(dir);
        Ok(Self { context, bundle, renewal, pending, next_id, renewals, random, dir, clock })
    }

    /// From now on everything is kept in memory only.
    pub(super) fn leave_files(&mut self) {
        self.dir = None;
    }

    /// What new connections use.
    pub(super) fn context(&self) -> &TlsContext {
        &self.context
    }

    pub(super) fn bundle_version(&self) -> u64 {
        self.bundle.version
    }

    pub(super) fn renewals(&self) -> u64 {
        self.renewals
    }

    pub(super) fn is_expired(&self) -> bool {
        self.renewal.is_expired(self.clock.unix_time())
    }

    /// The control plane took our leaf for expired.
    pub(super) fn expire(&mut self) {
        self.renewal.expire();
    }

    /// How long until a renewal is to be asked for, or given up.
    pub(super) fn wait(&self) -> Duration {
        let now = self.clock.unix_time();
        match &self.pending {
            Some((_, _, asked)) => (*asked + ANSWER).saturating_sub(now),
            None => self.renewal.wait(now),
        }
    }

    /// Whether a renewal is to be asked for now. One that was not answered is given up.
    pub(super) fn is_due(&mut self) -> bool {
        if self.pending.is_some() && self.wait().is_zero() {
            self.failed("no answer");
        }
        self.pending.is_none() && self.wait().is_zero()
    }

    /// Makes a key and a request for it.
    pub(super) fn request(&mut self) -> Result<(u64, Vec<u8>), JoinError> {
        let key = KeyPair::generate()?;
        let request = csr::make(&key)?;
        let id = self.next_id;
        self.next_id += 1;
        self.pending = Some((id, key, self.clock.unix_time()));
        Ok((id, request))
    }

    /// The stream is gone, and with it the answer; ask again on the next one.
    pub(super) fn interrupted(&mut self) {
        self.pending = None;
    }

    /// The renewal was refused or could not be asked for.
    pub(super) fn failed(&mut self, why: &str) {
        tracing::warn!(identity = %self.context.identity().spiffe(), why, "the certificate was not renewed; trying again");
        self.pending = None;
        let chance = self.random.unit();
        self.renewal.failed(self.clock.unix_time(), chance);
    }

    /// Whether `id` names the renewal under way.
    pub(super) fn is_pending(&self, id: &str) -> bool {
        self.pending.as_ref().is_some_and(|(pending, ..)| pending.to_string() == id)
    }

    /// A certificate has come. True if it is in use now.
    pub(super) fn issued(&mut self, issued: &proto::Issued) -> bool {
        let Some((_, key, _)) = self.pending.take_if(|(id, ..)| *id == issued.id) else { return false };
        match accept_issued(&self.context, &key, issued) {
            Ok(tls) => self.renewed(&key, tls),
            Err(error) => {
                self.failed(&error.to_string());
                false
            }
        }
    }

    /// Uses a renewed certificate.
    pub(super) fn renewed(&mut self, key: &KeyPair, tls: TlsIdentity) -> bool {
        if let Some(Err(error)) = self.dir.as_ref().map(|dir| dir.store_identity(key, &tls)) {
            // In use nevertheless: a full disk must not end the membership. After a restart the old one is renewed again.
            tracing::error!(%error, "the renewed certificate could not be stored");
        }
        let (now, chance) = (self.clock.unix_time(), self.random.unit());
        match self.switch(tls.clone(), self.bundle.clone()) {
            Ok(()) => {
                self.renewal = Renewal::of(tls.leaf().not_after, now, chance);
                self.renewals += 1;
                tracing::info!(serial = %tls.serial(), "certificate renewed");
                self.follow_root();
                true
            }
            Err(error) => {
                self.failed(&error.to_string());
                false
            }
        }
    }

    /// Uses a newer bundle. An unusable one is refused and the old one kept.
    pub(super) fn bundle(&mut self, message: &proto::Bundle) -> Result<(), JoinError> {
        let bundle = Arc::new(enrol::bundle(message)?);
        self.switch(self.context.identity().clone(), bundle.clone())?;
        if let Some(Err(error)) = self.dir.as_ref().map(|dir| dir.store_bundle(&bundle)) {
            tracing::error!(%error, "the trust bundle could not be stored");
        }
        self.bundle = bundle;
        self.follow_root();
        Ok(())
    }

    fn switch(&mut self, tls: TlsIdentity, bundle: Arc<TrustBundle>) -> Result<(), TlsError> {
        self.context = TlsContext::new(tls, bundle, self.context.generation() + 1, self.clock.clone())?;
        Ok(())
    }

    /// The first root of our domain is the one that issues now. A leaf under another is replaced soon, so that a rotation
    /// does not wait for half a day.
    fn follow_root(&mut self) {
        let identity = self.context.identity();
        let issuing = self.bundle.roots(&identity.trust_domain()).first().map(leno_identity::RootCert::pin);
        if let (Some(issuing), Some(own)) = (issuing, own_root(identity))
            && own != issuing
        {
            let chance = self.random.unit();
            self.renewal.hasten(self.clock.unix_time(), chance);
        }
    }
}
