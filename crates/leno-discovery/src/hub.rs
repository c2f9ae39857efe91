//! The collections as they are now, shared by all streams of a control plane: each resource encoded once.
//!
//! Whoever computes collections calls [`Hub::replace`], [`Hub::update`] and [`Hub::missing`]; subscribers are told which keys
//! to look at again and fetch the bytes when they can send them. Only collections that somebody is subscribed to are kept.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::collection::{CollectionName, Entry, Key};
use crate::session::{Presence, View};

/// Is told that keys of a collection may have changed; with no keys, all of it. Called while whoever computes collections may
/// hold locks of its own: it must be quick and must not call back.
pub trait Subscriber: Send + Sync {
    /// See the trait.
    fn changed(&self, collection: &CollectionName, keys: Option<&[Key]>);
}

type Subscribers = HashMap<u64, Arc<dyn Subscriber>>;

struct Feed {
    presence: Presence,
    entries: BTreeMap<Key, Entry>,
    subscribers: Subscribers,
}

/// See the module.
#[derive(Default)]
pub struct Hub {
    feeds: RwLock<HashMap<CollectionName, Feed>>,
}

impl Hub {
    /// A hub without collections.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<CollectionName, Feed>> {
        // A panic while the lock was held leaves whole entries: every change below is one insert or remove.
        self.feeds.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<CollectionName, Feed>> {
        self.feeds.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a subscriber. True if it is the first: the collection has to be computed and given to the hub.
    pub fn subscribe(&self, name: &CollectionName, id: u64, subscriber: Arc<dyn Subscriber>) -> bool {
        let mut feeds = self.write();
        let mut first = false;
        let feed = feeds.entry(name.clone()).or_insert_with(|| {
            first = true;
            Feed { presence: Presence::Pending, entries: BTreeMap::new(), subscribers: HashMap::new() }
        });
        feed.subscribers.insert(id, subscriber);
        first
    }

    /// Removes a subscriber. True if it was the last: the collection is forgotten.
    pub fn unsubscribe(&self, name: &CollectionName, id: u64) -> bool {
        let mut feeds = self.write();
        let Some(feed) = feeds.get_mut(name) else { return false };
        feed.subscribers.remove(&id);
        let last = feed.subscribers.is_empty();
        if last {
            feeds.remove(name);
        }
        last
    }

    /// Whether anybody is subscribed.
    #[must_use]
    pub fn is_watched(&self, name: &CollectionName) -> bool {
        self.read().contains_key(name)
    }

    /// The collections that somebody is subscribed to.
    #[must_use]
    pub fn watched(&self) -> Vec<CollectionName> {
        self.read().keys().cloned().collect()
    }

    /// How many streams are subscribed to a collection.
    #[must_use]
    pub fn subscribers(&self, name: &CollectionName) -> usize {
        self.read().get(name).map_or(0, |f| f.subscribers.len())
    }

    /// Sets the whole content of a collection; only what differs is sent. Returns how many resources changed.
    pub fn replace(&self, name: &CollectionName, next: BTreeMap<Key, Entry>) -> usize {
        self.edit(name, |entries| {
            let mut keys: Vec<Key> = entries.keys().filter(|k| !next.contains_key(k)).cloned().collect();
            entries.retain(|k, _| next.contains_key(k));
            for (key, entry) in next {
                // Equal content keeps the bytes that are shared already.
                if entries.get(&key).is_none_or(|e| e.version != entry.version) {
                    keys.push(key.clone());
                    entries.insert(key, entry);
                }
            }
            keys
        })
    }

    /// Sets or (with no body) removes some resources of a collection. Returns how many changed.
    ///
    /// A collection that nobody has given to the hub yet is left alone: its whole content is on its way.
    pub fn update(&self, name: &CollectionName, changes: Vec<(Key, Option<Entry>)>) -> usize {
        if self.presence(name) == Presence::Pending {
            return 0;
        }
        self.edit(name, |entries| {
            let mut keys = Vec::new();
            for (key, entry) in changes {
                let before = entries.get(&key).map(|e| e.version);
                if before != entry.as_ref().map(|e| e.version) {
                    keys.push(key.clone());
                    match entry {
                        Some(entry) => entries.insert(key, entry),
                        None => entries.remove(&key),
                    };
                }
            }
            keys
        })
    }

    /// Says that the collection does not exist.
    pub fn missing(&self, name: &CollectionName) {
        let subscribers = {
            let mut feeds = self.write();
            let Some(feed) = feeds.get_mut(name).filter(|f| f.presence != Presence::Missing) else { return };
            feed.presence = Presence::Missing;
            feed.entries.clear();
            feed.told()
        };
        tell(&subscribers, name, None);
    }

    /// The subscribers are told after the lock is gone: they take their own, and hold it when they look things up here.
    fn edit(&self, name: &CollectionName, change: impl FnOnce(&mut BTreeMap<Key, Entry>) -> Vec<Key>) -> usize {
        let (keys, appeared, subscribers) = {
            let mut feeds = self.write();
            let Some(feed) = feeds.get_mut(name) else { return 0 };
            let keys = change(&mut feed.entries);
            let appeared = std::mem::replace(&mut feed.presence, Presence::Present) != Presence::Present;
            (keys, appeared, feed.told())
        };
        if appeared {
            tell(&subscribers, name, None);
        } else if !keys.is_empty() {
            tell(&subscribers, name, Some(&keys));
        }
        keys.len()
    }
}

impl Feed {
    fn told(&self) -> Vec<Arc<dyn Subscriber>> {
        self.subscribers.values().cloned().collect()
    }
}

fn tell(subscribers: &[Arc<dyn Subscriber>], name: &CollectionName, keys: Option<&[Key]>) {
    for subscriber in subscribers {
        subscriber.changed(name, keys);
    }
}

impl View for Hub {
    fn presence(&self, collection: &CollectionName) -> Presence {
        self.read().get(collection).map_or(Presence::Pending, |f| f.presence)
    }

    fn entry(&self, collection: &CollectionName, key: &Key) -> Option<Entry> {
        self.read().get(collection)?.entries.get(key).cloned()
    }

    fn versions(&self, collection: &CollectionName) -> Vec<(Key, u64)> {
        let feeds = self.read();
        let Some(feed) = feeds.get(collection) else { return Vec::new() };
        feed.entries.iter().map(|(k, e)| (k.clone(), e.version)).collect()
    }
}
