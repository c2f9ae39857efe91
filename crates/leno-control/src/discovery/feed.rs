//! From the world's changes to the hub: the bytes that the world encoded once are the ones that are sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use leno_discovery::{CollectionName, Entry, Hub, Key};

use crate::world::{Change, Observer, World};

/// See the module.
pub(super) struct Feed(pub(super) Arc<Hub>);

impl Observer for Feed {
    fn changed(&self, changes: &[Change]) {
        // One update per collection, so that its subscribers get one `Complete`.
        let mut by_collection: BTreeMap<&CollectionName, Vec<(Key, Option<Entry>)>> = BTreeMap::new();
        for change in changes {
            let name = change.collection();
            match change {
                // Whatever was gathered for it is gone with it.
                Change::Vanished(_) => {
                    by_collection.remove(name);
                    self.0.missing(name);
                }
                Change::Appeared(_) => {
                    by_collection.entry(name).or_default();
                }
                Change::Put(_, key, entry) => {
                    by_collection.entry(name).or_default().push((key.clone(), Some(entry.clone())));
                }
                Change::Delete(_, key) => by_collection.entry(name).or_default().push((key.clone(), None)),
            }
        }
        for (name, changes) in by_collection {
            self.0.update(name, changes);
        }
    }
}

/// Gives a collection to the hub, so that no change is missed between reading it and observing it.
pub(super) fn fill(world: &World, hub: &Hub, collection: &CollectionName) {
    world.snapshot_with(collection, |resources| match resources {
        Some(resources) => drop(hub.replace(collection, resources)),
        None => hub.missing(collection),
    });
}
