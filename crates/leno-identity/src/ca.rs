//! The certificate authority: a root whose key signs only intermediates, and an issuing intermediate that signs leaves.
//!
//! ```text
//!   root N (10 years, key in root-N.key) ──signs──▶ issuing N (1 year, re-made in its last third)
//!      │                                                 └──signs──▶ leaf (24 h): identity from the caller's
//!      └──cross-signs root N+1 during a rotation                      credential, public key from the request
//! ```
//!
//! The identity of a leaf is an argument that the caller has authorised; nothing in a request can widen it.
//! An [`Authority`] is owned by one task of the control plane; its methods block on files for milliseconds.

mod certify;
pub mod rotation;
mod storage;

use std::path::Path;

use leno_model::{SpiffeId, TrustDomain};
use rustls_pki_types::CertificateDer;

use crate::bundle::RootCert;
use crate::certificate::Serial;
use crate::csr::VerifiedCsr;
use crate::token::RootPin;
use rotation::{Progress, Rotation, RotationError, Step};
use storage::{Generation, State, Storage};

/// Leaf lifetime unless the caller says otherwise (D6).
pub const DEFAULT_TTL_S: u64 = 24 * 3600;
/// Shortest leaf lifetime: below this a renewal at half-life races its own handshake.
pub const MIN_TTL_S: u64 = 5;
/// Longest leaf lifetime: a third of the intermediate's, so that a leaf never outlives what signed it.
pub const MAX_TTL_S: u64 = 90 * 24 * 3600;
/// Leaves begin this long before they were issued, or half their lifetime: clocks differ (D6).
pub const MAX_BACKDATE_S: u64 = 300;

/// Why the authority could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file has content that does not belong there.
    #[error("{path}: {detail}")]
    Damaged {
        /// Which.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// The data directory belongs to another mesh.
    #[error(
        "the authority in {path} is of trust domain `{found}`, not `{wanted}`: a trust domain is fixed at first start"
    )]
    OtherTrustDomain {
        /// Which.
        path: String,
        /// What it is of.
        found: TrustDomain,
        /// What was asked for.
        wanted: TrustDomain,
    },
    /// The identity is of another trust domain.
    #[error("cannot issue for `{0}`: it is not of this authority's trust domain")]
    ForeignIdentity(SpiffeId),
    /// A lifetime outside [`MIN_TTL_S`] to [`MAX_TTL_S`].
    #[error("a leaf lifetime of {0} s is outside 5 s to 90 days")]
    Ttl(u64),
    /// A rotation step out of order.
    #[error(transparent)]
    Rotation(#[from] RotationError),
    /// The cryptographic library refused.
    #[error("cannot make a certificate: {0}")]
    Crypto(String),
}

/// A freshly issued leaf and what leads to it.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Leaf, intermediate, root: what a member presents. The root is there so that a join token's pin can be checked.
    pub chain: Vec<CertificateDer<'static>>,
    /// For the control plane's own certificate: the root signed by its predecessor, and that predecessor, so that a
    /// member or token that knows only the old root finds its way over a rotation.
    pub cross: Vec<CertificateDer<'static>>,
    /// The identity, as given by the caller.
    pub identity: SpiffeId,
    /// The leaf's serial number, for the audit log and revocation.
    pub serial: Serial,
    /// Start of validity, Unix seconds.
    pub not_before: u64,
    /// End of validity, Unix seconds.
    pub not_after: u64,
    /// The root it chains to.
    pub root: RootPin,
}

impl Issued {
    /// What the control plane presents: [`Self::chain`] followed by [`Self::cross`].
    #[must_use]
    pub fn chain_with_cross(&self) -> Vec<CertificateDer<'static>> {
        self.chain.iter().chain(&self.cross).cloned().collect()
    }
}

/// The authority of one trust domain.
#[derive(Debug)]
pub struct Authority {
    storage: Storage,
    state: State,
    generations: Vec<Generation>,
}

impl Authority {
    /// Opens the authority in `dir` (usually `DATA_DIR/ca`), or creates it at first start. The caller holds the data
    /// directory's lock.
    pub fn open_or_create(dir: &Path, domain: &TrustDomain, now: u64) -> Result<Self, CaError> {
        Self::load(Storage::at(dir)?, domain, now)
    }

    /// An authority that lives and dies with the process: for tests, and meshes of a single process.
    pub fn in_memory(domain: &TrustDomain, now: u64) -> Result<Self, CaError> {
        Self::load(Storage::none(), domain, now)
    }

    fn load(storage: Storage, domain: &TrustDomain, now: u64) -> Result<Self, CaError> {
        let Some(state) = storage.read_state()? else {
            let first = certify::first_generation(domain, now)?;
            let state = State::first(domain.clone());
            // The state is written last: without it the other files count for nothing.
            storage.write_generation(&first)?;
            storage.write_state(&state)?;
            return Ok(Self { storage, state, generations: vec![first] });
        };
        if state.trust_domain != *domain {
            let (found, wanted) = (state.trust_domain, domain.clone());
            return Err(CaError::OtherTrustDomain { path: storage.describe(), found, wanted });
        }
        let trusted = state.rotation.trusted();
        let generations = trusted.into_iter().map(|n| storage.read_generation(n)).collect::<Result<Vec<_>, _>>()?;
        let mut authority = Self { storage, state, generations };
        authority.maintain(now)?;
        Ok(authority)
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.state.trust_domain
    }

    /// The roots that belong into the trust bundle now, the issuing one first.
    #[must_use]
    pub fn roots(&self) -> Vec<RootCert> {
        let issuing = self.state.rotation.issuing();
        let mut roots: Vec<&Generation> = self.generations.iter().collect();
        roots.sort_by_key(|g| (g.number != issuing, g.number));
        roots.into_iter().map(|g| g.root.clone()).collect()
    }

    /// The pin for join tokens made now: the root under which the control plane's own certificate is issued.
    #[must_use]
    pub fn pin(&self) -> RootPin {
        self.generation(self.state.rotation.issuing()).root.pin()
    }

    /// Where the rotation stands.
    #[must_use]
    pub fn rotation(&self) -> &Rotation {
        &self.state.rotation
    }

    /// Issues a leaf for the key of `csr` to `identity`, which the caller has authorised.
    pub fn issue(&mut self, csr: &VerifiedCsr, identity: &SpiffeId, ttl_s: u64, now: u64) -> Result<Issued, CaError> {
        if identity.trust_domain() != self.state.trust_domain.as_str() {
            return Err(CaError::ForeignIdentity(identity.clone()));
        }
        if !(MIN_TTL_S..=MAX_TTL_S).contains(&ttl_s) {
            return Err(CaError::Ttl(ttl_s));
        }
        self.maintain(now)?;
        if ttl_s > self.state.longest_ttl_s {
            // Before the first such leaf exists: a rotation waits for the longest that was ever given out.
            self.state.longest_ttl_s = ttl_s;
            self.storage.write_state(&self.state)?;
        }
        let generation = self.generation(self.state.rotation.issuing());
        let previous = self.generations.iter().find(|g| g.number < generation.number);
        certify::leaf(generation, previous, csr, identity, ttl_s, now)
    }

    /// Re-makes intermediates that are in the last third of their lives. Called by [`Self::issue`]; call it daily too.
    pub fn maintain(&mut self, now: u64) -> Result<(), CaError> {
        for generation in &mut self.generations {
            if generation.issuing_is_old(now) {
                certify::renew_issuing(generation, now)?;
                self.storage.write_issuing(generation)?;
            }
        }
        Ok(())
    }

    /// Begins a rotation: a new root joins the bundle, leaves are still issued under the old one.
    pub fn start_rotation(&mut self, now: u64) -> Result<(), CaError> {
        let rotation = self.state.rotation.start(now)?;
        let old = self.generation(self.state.rotation.issuing());
        let next = certify::next_generation(old, &self.state.trust_domain, now)?;
        self.storage.write_generation(&next)?;
        self.commit(rotation)?;
        self.generations.push(next);
        Ok(())
    }

    /// Takes the next step of a rotation if the facts permit it; returns the step taken. After each the caller
    /// distributes [`Self::roots`]; after [`Step::SwitchIssuer`] it re-issues its own certificate, after [`Step::RetireOld`] it
    /// calls [`Self::forget_retired`].
    pub fn advance_rotation(&mut self, progress: &Progress, now: u64) -> Result<Option<Step>, CaError> {
        let Some(step) = self.state.rotation.due(progress, now, self.state.longest_ttl_s) else { return Ok(None) };
        let rotation = self.state.rotation.take(step, now)?;
        self.commit(rotation)?;
        if let Step::RetireOld { previous } = step {
            self.generations.retain(|g| g.number != previous);
        }
        Ok(Some(step))
    }

    /// Deletes what is left of the keys of retired roots. Apart from the step, which is complete without it: a key that cannot
    /// be deleted must not keep the retirement from being made known. May be repeated.
    pub fn forget_retired(&self) -> Result<(), CaError> {
        let oldest = self.state.rotation.trusted()[0];
        (1..oldest).try_for_each(|retired| self.storage.forget_keys(retired))
    }

    fn commit(&mut self, rotation: Rotation) -> Result<(), CaError> {
        let state = State { rotation, ..self.state.clone() };
        self.storage.write_state(&state)?;
        self.state = state;
        Ok(())
    }

    fn generation(&self, number: u32) -> &Generation {
        self.generations.iter().find(|g| g.number == number).expect("every trusted generation is loaded")
    }
}

#[cfg(test)]
pub(crate) fn test_root() -> RootCert {
    Authority::in_memory(&TrustDomain::default(), 1_800_000_000).unwrap().roots().remove(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::{check_chain, check_leaf};
    use crate::keys::KeyPair;
    use std::collections::BTreeSet;

    const NOW: u64 = 1_800_000_000;
    const DAY: u64 = 86_400;

    fn web() -> SpiffeId {
        SpiffeId::new("spiffe://mesh.leno/ns/shop/sa/web").unwrap()
    }

    fn request() -> VerifiedCsr {
        crate::csr::verify(&crate::csr::make(&KeyPair::generate().unwrap()).unwrap(), &web()).unwrap()
    }

    #[test]
    fn leaves_keep_the_rules_and_name_whom_the_caller_authorised() {
        let mut authority = Authority::in_memory(&TrustDomain::default(), NOW).unwrap();
        let csr = request();
        let issued = authority.issue(&csr, &web(), DEFAULT_TTL_S, NOW).unwrap();
        let facts = check_chain(&issued.chain[0], &issued.chain[1..]).unwrap();
        assert_eq!(facts.spiffe, web());
        assert_eq!((facts.serial, facts.not_before, facts.not_after), (issued.serial, NOW - 300, NOW + DAY));
        assert_eq!(crate::certificate::spki_pin(&issued.chain[2]), Some(authority.pin()));
        assert_eq!(crate::certificate::spki_pin(&issued.chain[0]).unwrap().0, csr.spki_sha256());
        assert!(issued.cross.is_empty());
    }

    #[test]
    fn short_leaves_are_backdated_by_half_their_life() {
        let mut authority = Authority::in_memory(&TrustDomain::default(), NOW).unwrap();
        let issued = authority.issue(&request(), &web(), 10, NOW).unwrap();
        assert_eq!((issued.not_before, issued.not_after), (NOW - 5, NOW + 10));
        for ttl in [0, MIN_TTL_S - 1, MAX_TTL_S + 1] {
            assert!(matches!(authority.issue(&request(), &web(), ttl, NOW), Err(CaError::Ttl(_))));
        }
        let foreign = SpiffeId::new("spiffe://other.mesh/ns/shop/sa/web").unwrap();
        assert!(matches!(authority.issue(&request(), &foreign, 10, NOW), Err(CaError::ForeignIdentity(_))));
    }

    #[test]
    fn serials_are_positive_random_and_distinct() {
        let mut authority = Authority::in_memory(&TrustDomain::default(), NOW).unwrap();
        let csr = request();
        let serials: BTreeSet<Serial> =
            (0..50).map(|_| authority.issue(&csr, &web(), 60, NOW).unwrap().serial).collect();
        assert_eq!(serials.len(), 50);
        assert!(serials.iter().all(|s| s.as_bytes().len() >= 14 && s.as_bytes()[0] < 0x80));
    }

    #[test]
    fn the_authority_survives_a_restart_with_closed_files() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca");
        let domain = TrustDomain::default();
        let pin = Authority::open_or_create(&path, &domain, NOW).unwrap().pin();
        let mut again = Authority::open_or_create(&path, &domain, NOW + 5).unwrap();
        assert_eq!(again.pin(), pin);
        assert_eq!(again.issue(&request(), &web(), 60, NOW).unwrap().root, pin);
        for entry in std::fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let other = TrustDomain::new("other.mesh").unwrap();
        assert!(matches!(Authority::open_or_create(&path, &other, NOW), Err(CaError::OtherTrustDomain { .. })));
    }

    #[test]
    fn damaged_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let domain = TrustDomain::default();
        for (file, junk) in [("state.json", "{"), ("root-1.pem", "x"), ("issuing-1.pem", ""), ("root-1.key", "y")] {
            let path = dir.path().join(file.replace('.', "-"));
            Authority::open_or_create(&path, &domain, NOW).unwrap();
            std::fs::write(path.join(file), junk).unwrap();
            let error = Authority::open_or_create(&path, &domain, NOW).unwrap_err();
            assert!(matches!(&error, CaError::Damaged { path, .. } if path.ends_with(file)), "{error}");
        }
    }

    #[test]
    fn a_half_written_first_start_begins_again() {
        let dir = tempfile::tempdir().unwrap();
        let domain = TrustDomain::default();
        Authority::open_or_create(dir.path(), &domain, NOW).unwrap();
        std::fs::remove_file(dir.path().join("state.json")).unwrap();
        let authority = Authority::open_or_create(dir.path(), &domain, NOW).unwrap();
        assert_eq!(Authority::open_or_create(dir.path(), &domain, NOW).unwrap().pin(), authority.pin());
    }

    #[test]
    fn the_intermediate_is_renewed_before_it_ends() {
        let mut authority = Authority::in_memory(&TrustDomain::default(), NOW).unwrap();
        let first = authority.issue(&request(), &web(), DAY, NOW).unwrap();
        let later = NOW + 250 * DAY;
        let second = authority.issue(&request(), &web(), MAX_TTL_S, later).unwrap();
        assert_ne!(first.chain[1], second.chain[1]);
        assert_eq!(first.chain[2], second.chain[2]);
        assert!(crate::certificate::validity(&second.chain[1]).unwrap().1 > second.not_after);
    }

    #[test]
    fn a_rotation_runs_through_and_survives_restarts_at_every_step() {
        let dir = tempfile::tempdir().unwrap();
        let domain = TrustDomain::default();
        let open = |now| Authority::open_or_create(dir.path(), &domain, now).unwrap();
        let mut authority = open(NOW);
        let old = authority.pin();
        authority.issue(&request(), &web(), DAY, NOW).unwrap();
        authority.start_rotation(NOW).unwrap();
        assert!(authority.start_rotation(NOW).is_err());

        let mut authority = open(NOW + 1);
        assert_eq!(authority.roots().len(), 2);
        assert_eq!(authority.issue(&request(), &web(), DAY, NOW + 1).unwrap().root, old);
        let waiting = Progress { unacknowledged: 3, on_previous: 5 };
        assert_eq!(authority.advance_rotation(&waiting, NOW + 2).unwrap(), None);
        let acknowledged = Progress { unacknowledged: 0, on_previous: 5 };
        let step = authority.advance_rotation(&acknowledged, NOW + 3).unwrap();
        assert_eq!(step, Some(Step::SwitchIssuer { next: 2 }));

        let mut authority = open(NOW + 4);
        let issued = authority.issue(&request(), &web(), DAY, NOW + 4).unwrap();
        assert_ne!(issued.root, old);
        assert_eq!(issued.root, authority.pin());
        assert_eq!(crate::certificate::spki_pin(issued.chain_with_cross().last().unwrap()), Some(old));
        assert_eq!(authority.roots().iter().map(RootCert::pin).collect::<Vec<_>>(), [issued.root, old]);
        assert_eq!(authority.advance_rotation(&acknowledged, NOW + 5).unwrap(), None);
        let replaced = Progress { unacknowledged: 0, on_previous: 0 };
        assert_eq!(authority.advance_rotation(&replaced, NOW + 6).unwrap(), Some(Step::RetireOld { previous: 1 }));

        // A directory in the key's place cannot be unlinked: the step stands, and the key is forgotten when that is possible.
        let key = dir.path().join("root-1.key");
        std::fs::remove_file(&key).unwrap();
        std::fs::create_dir(&key).unwrap();
        assert!(matches!(authority.forget_retired(), Err(CaError::File { .. })));
        std::fs::remove_dir(&key).unwrap();
        std::fs::write(&key, "a secret").unwrap();

        let authority = open(NOW + 7);
        authority.forget_retired().unwrap();
        assert_eq!(authority.roots().len(), 1);
        assert_eq!(authority.pin(), issued.root);
        assert!(!dir.path().join("root-1.key").exists());
        assert!(!dir.path().join("issuing-1.pem").exists());
    }

    #[test]
    fn leaves_are_not_roots() {
        let mut authority = Authority::in_memory(&TrustDomain::default(), NOW).unwrap();
        let issued = authority.issue(&request(), &web(), DAY, NOW).unwrap();
        assert!(RootCert::from_der(&issued.chain[0]).is_err());
        assert!(check_leaf(&issued.chain[1]).is_err());
    }
}
