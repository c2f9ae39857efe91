//! The world: what the store says, kept in memory as the collections that proxies subscribe to (D1).
//!
//! ```text
//!   store ── watch per kind ──► feed ──► Contents: resources, indexes by target, endpoints by service
//!                                           │ what a change touches is found by index
//!                                           ▼
//!                                   collections `mesh`, `out:…`, `in:…` ──► changes ──► observers (the discovery hub)
//! ```
//!
//! A resource is encoded once per change, without status and store version, so that a write of status alone tells proxies
//! nothing. Everything here is a cache: it is rebuilt from the store at every start.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use leno_discovery::{CollectionName, Entry, Key};
use leno_model::{NamespacedName, Resource, SpiffeId, TrustDomain};
use tokio::sync::watch;

pub mod contents;
pub mod encode;
pub mod feed;

use contents::{Contents, Input};

/// One change of one collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The collection exists now; its resources follow as `Put`s.
    Appeared(CollectionName),
    /// The collection does not exist any more, and so none of its resources.
    Vanished(CollectionName),
    /// A resource is new or different.
    Put(CollectionName, Key, Entry),
    /// A resource is gone.
    Delete(CollectionName, Key),
}

impl Change {
    /// The collection it is about.
    #[must_use]
    pub fn collection(&self) -> &CollectionName {
        match self {
            Self::Appeared(c) | Self::Vanished(c) | Self::Put(c, ..) | Self::Delete(c, _) => c,
        }
    }
}

/// Gets every change, in order, right when the world has it. Called with the world locked: it must not call back and must be
/// quick.
pub trait Observer: Send + Sync {
    /// The changes that one write caused; complete for each collection that it names.
    fn changed(&self, changes: &[Change]);
}

/// The read view of the mesh.
pub struct World {
    trust_domain: TrustDomain,
    contents: Mutex<Contents>,
    observers: RwLock<Vec<Arc<dyn Observer>>>,
    /// Kinds still to be listed for the first time; 0 means that the view is whole.
    pending: watch::Sender<usize>,
    /// Bumped with every change of what the reconcilers look at.
    changes: watch::Sender<u64>,
}

impl World {
    /// An empty world; [`feed::run`] fills it.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, prefixes: Vec<String>) -> Arc<Self> {
        Arc::new(Self {
            contents: Mutex::new(Contents::new(trust_domain.clone(), prefixes)),
            trust_domain,
            observers: RwLock::new(Vec::new()),
            pending: watch::Sender::new(feed::KINDS.len()),
            changes: watch::Sender::new(0),
        })
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Adds an observer. It sees changes from now on; what is there already it reads by [`Self::snapshot_with`].
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        self.observers.write().unwrap_or_else(PoisonError::into_inner).push(observer);
    }

    /// Waits until every kind was read from the store once. Cancel-safe.
    pub async fn synced(&self) {
        let mut pending = self.pending.subscribe();
        // The sender lives in self, so this cannot fail while self is borrowed.
        let _ = pending.wait_for(|p| *p == 0).await;
    }

    /// Whether every kind was read from the store once.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        *self.pending.borrow() == 0
    }

    /// Ticks after changes; for reconcilers, which then look at the whole.
    #[must_use]
    pub fn ticks(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The resources of a collection, or none if it does not exist.
    #[must_use]
    pub fn snapshot(&self, collection: &CollectionName) -> Option<BTreeMap<Key, Entry>> {
        self.lock().collection(collection)
    }

    /// Calls `then` with a collection's resources while no change can happen, so that what `then` registers misses none.
    pub fn snapshot_with<R>(
        &self,
        collection: &CollectionName,
        then: impl FnOnce(Option<BTreeMap<Key, Entry>>) -> R,
    ) -> R {
        let contents = self.lock();
        then(contents.collection(collection))
    }

    /// Whether this identity may register this service (D5).
    #[must_use]
    pub fn permits(&self, identity: &SpiffeId, service: &NamespacedName) -> bool {
        self.lock().permits(identity, service)
    }

    /// Reads something under the lock; `read` must be quick.
    pub fn read<R>(&self, read: impl FnOnce(&Contents) -> R) -> R {
        read(&self.lock())
    }

    /// Takes changes of the store in and tells the observers.
    pub fn apply(&self, inputs: Vec<Input>) {
        let mut contents = self.lock();
        let mut changes = Vec::new();
        for input in inputs {
            contents.apply(input, &mut changes);
        }
        // Still locked: observers see changes in the order in which snapshots contain them.
        if !changes.is_empty() {
            for observer in self.observers.read().unwrap_or_else(PoisonError::into_inner).iter() {
                observer.changed(&changes);
            }
        }
        drop(contents);
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn kind_listed(&self) {
        self.pending.send_modify(|p| *p = p.saturating_sub(1));
    }

    // A panic under the lock is a bug in one change; the view stays what it was up to there and the next relist mends it.
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A resource as the store has it: its raw form with the version filled in.
#[must_use]
pub fn with_version(mut resource: Resource, version: &str) -> Resource {
    resource.metadata.resource_version = version.to_owned();
    resource
}
