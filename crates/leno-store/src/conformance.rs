//! The suite that every backend passes: call [`run`] with a way to open the store under test.
//!
//! It forces compaction by writing [`Harness::compacting_writes`] records, so a harness opens its backend with a small log.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::contract::{Event, Expect, Key, Page, Store, StoreError, Version, WatchEnd, list_all};

/// How the suite gets at the backend.
pub trait Harness {
    /// Opens the store; called again after the one before was dropped, it opens the same data.
    fn open(&self) -> Arc<dyn Store>;
    /// Writes to one kind after which a cursor from before them is compacted.
    fn compacting_writes(&self) -> usize;
}

/// Runs every check; panics with what is wrong.
pub async fn run(harness: &dyn Harness) {
    {
        let store = harness.open();
        writes_demand_versions(&*store).await;
        lists_page(&*store).await;
        watches_see_everything_in_order(&*store).await;
        concurrent_writes_have_one_winner(&store).await;
        compaction_ends_watches(&*store, harness.compacting_writes()).await;
        strange_arguments_are_refused(&*store).await;
    }
    data_survives_reopening(harness).await;
}

fn key(kind: &str, name: &str) -> Key {
    Key::new(kind, "default", name)
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn put(store: &dyn Store, key: &Key, text: &str, expect: Expect) -> Result<Version, StoreError> {
    store.put(key, bytes(text), expect).await
}

async fn writes_demand_versions(store: &dyn Store) {
    let key = key("Versions", "a");
    assert_eq!(store.get(&key).await.expect("get"), None);
    assert!(matches!(store.delete(&key, Expect::Any).await, Err(StoreError::NotFound(_))), "delete of nothing");
    let missing = put(store, &key, "x", Expect::Version(Version::from_text("1"))).await;
    assert!(matches!(missing, Err(StoreError::Conflict { current: None, .. })), "{missing:?}");

    let first = put(store, &key, "one", Expect::Absent).await.expect("create");
    let again = put(store, &key, "two", Expect::Absent).await;
    assert!(matches!(&again, Err(StoreError::Conflict { current: Some(c), .. }) if *c == first), "{again:?}");
    let second = put(store, &key, "two", Expect::Version(first.clone())).await.expect("update");
    assert_ne!(first, second, "a write changes the version");
    assert!(matches!(put(store, &key, "3", Expect::Version(first.clone())).await, Err(StoreError::Conflict { .. })));
    let record = store.get(&key).await.expect("get").expect("exists");
    assert_eq!((record.value, record.version), (bytes("two"), second.clone()));

    assert!(matches!(store.delete(&key, Expect::Version(first)).await, Err(StoreError::Conflict { .. })));
    store.delete(&key, Expect::Version(second.clone())).await.expect("delete");
    assert_eq!(store.get(&key).await.expect("get"), None);
    let third = put(store, &key, "three", Expect::Absent).await.expect("create again");
    assert_ne!(second, third, "a version is never used again");
}

async fn lists_page(store: &dyn Store) {
    for (namespace, count) in [("a", 5), ("ab", 3)] {
        for i in 0..count {
            put(store, &Key::new("Pages", namespace, &format!("n{i}")), "v", Expect::Absent).await.expect("put");
        }
    }
    put(store, &Key::new("Pages2", "a", "n0"), "v", Expect::Absent).await.expect("put");
    let mut seen = Vec::new();
    let mut page = Page { limit: 2, continue_from: None };
    let mut cursors = Vec::new();
    loop {
        let part = store.list("Pages", None, page).await.expect("list");
        assert!(part.records.len() <= 2, "a page respects its limit");
        seen.extend(part.records.iter().map(|r| r.key.to_string()));
        cursors.push(part.cursor);
        // Written while the list is running: the watch from its cursor must show it.
        if cursors.len() == 1 {
            put(store, &Key::new("Pages", "a", "a-late"), "v", Expect::Absent).await.expect("put");
        }
        match part.continue_from {
            Some(next) => page = Page { limit: 2, continue_from: Some(next) },
            None => break,
        }
    }
    assert_eq!(seen.len(), 8, "{seen:?}");
    assert!(seen.is_sorted(), "{seen:?}");
    assert!(cursors.windows(2).all(|c| c[0] == c[1]), "pages share the first page's cursor");
    let mut watch = store.watch("Pages", &cursors[0]).await.expect("watch");
    let changes = watch.next().await.expect("the write during the list");
    assert_eq!(&*changes[0].event.key().name, "a-late");
    let (only, _) = list_all(store, "Pages", Some("ab")).await.expect("list");
    assert_eq!(only.len(), 3, "a namespace is not a prefix");
}

async fn watches_see_everything_in_order(store: &dyn Store) {
    let start = store.now("Watched").await.expect("now");
    let mut early = store.watch("Watched", &start).await.expect("watch");
    let mut versions = Vec::new();
    for i in 0..6 {
        versions
            .push(put(store, &key("Watched", &format!("w{}", i % 2)), &i.to_string(), Expect::Any).await.expect("put"));
        put(store, &key("Unwatched", "x"), "noise", Expect::Any).await.expect("put");
    }
    store.delete(&key("Watched", "w0"), Expect::Any).await.expect("delete");
    let mut late = store.watch("Watched", &start).await.expect("watch");
    let mut histories = Vec::new();
    for watch in [&mut early, &mut late] {
        let mut history = Vec::new();
        while history.len() < 7 {
            history.extend(watch.next().await.expect("changes"));
        }
        histories.push(history);
    }
    assert_eq!(histories[0], histories[1], "all watchers see one order");
    let puts: Vec<_> = histories[0]
        .iter()
        .filter_map(|c| match &c.event {
            Event::Put(record) => Some((record.value.clone(), record.version.clone())),
            Event::Delete(_) => None,
        })
        .collect();
    let expected: Vec<_> = (0..6).map(|i| (bytes(&i.to_string()), versions[i].clone())).collect();
    assert_eq!(puts, expected);
    assert_eq!(histories[0][6].event, Event::Delete(key("Watched", "w0")));
    let mut resumed = store.watch("Watched", &histories[0][3].cursor).await.expect("watch");
    assert_eq!(resumed.next().await.expect("changes")[0], histories[0][4], "resumes right after its cursor");
}

async fn concurrent_writes_have_one_winner(store: &Arc<dyn Store>) {
    let contested = key("Contest", "c");
    let mut version = put(&**store, &contested, "start", Expect::Absent).await.expect("create");
    for round in 0..8 {
        let writers: Vec<_> = (0..16)
            .map(|i| {
                let (key, value) = (contested.clone(), bytes(&format!("{round}:{i}")));
                let (store, version) = (Arc::clone(store), version.clone());
                async move { store.put(&key, value.clone(), Expect::Version(version)).await.map(|v| (v, value)) }
            })
            .collect();
        let mut set = tokio::task::JoinSet::new();
        for writer in writers {
            set.spawn(writer);
        }
        let mut winners = Vec::new();
        while let Some(done) = set.join_next().await {
            match done.expect("writers do not panic") {
                Ok(won) => winners.push(won),
                Err(StoreError::Conflict { .. }) => {}
                Err(other) => panic!("a loser gets a conflict, not {other}"),
            }
        }
        let [(won, value)] = winners.as_slice() else { panic!("{} winners", winners.len()) };
        let record = store.get(&contested).await.expect("get").expect("exists");
        assert_eq!((&record.version, &record.value), (won, value), "the winner's value is what is stored");
        version = won.clone();
    }
}

async fn compaction_ends_watches(store: &dyn Store, writes: usize) {
    let start = store.now("Compacted").await.expect("now");
    let mut slow = store.watch("Compacted", &start).await.expect("watch");
    for i in 0..writes {
        put(store, &key("Compacted", &format!("k{}", i % 4)), &i.to_string(), Expect::Any).await.expect("put");
    }
    assert_eq!(slow.next().await, Err(WatchEnd::Compacted));
    let mut resumed = store.watch("Compacted", &start).await.expect("watch");
    assert_eq!(resumed.next().await, Err(WatchEnd::Compacted));
    // The way out: list, then watch from the list's cursor.
    let (records, cursor) = list_all(store, "Compacted", None).await.expect("list");
    assert_eq!(records.len(), 4);
    let mut watch = store.watch("Compacted", &cursor).await.expect("watch");
    put(store, &key("Compacted", "k0"), "after", Expect::Any).await.expect("put");
    let changes = watch.next().await.expect("changes");
    assert!(
        matches!(&changes[..], [c] if matches!(&c.event, Event::Put(r) if r.value == bytes("after"))),
        "{changes:?}"
    );
}

async fn strange_arguments_are_refused(store: &dyn Store) {
    let nul = Key::new("Strange", "a\0b", "c");
    assert!(matches!(put(store, &nul, "v", Expect::Any).await, Err(StoreError::Malformed { .. })));
    let page = Page { limit: 1, continue_from: Some("nonsense".into()) };
    assert!(matches!(store.list("Strange", None, page).await, Err(StoreError::Malformed { .. })));
    let empty = put(store, &key("Strange", "empty"), "", Expect::Absent).await;
    assert!(empty.is_ok(), "an empty value is a value: {empty:?}");
    let odd = Key::new("Strange", "", "no-namespace");
    put(store, &odd, "v", Expect::Absent).await.expect("kinds without namespaces");
    assert_eq!(store.list("Strange", Some(""), Page::default()).await.expect("list").records.len(), 1);
}

async fn data_survives_reopening(harness: &dyn Harness) {
    let mut expected = BTreeMap::new();
    let before;
    {
        let store = harness.open();
        for i in 0..20 {
            let key = key("Reopened", &format!("r{i}"));
            let version = put(&*store, &key, &i.to_string(), Expect::Absent).await.expect("put");
            expected.insert(key.to_string(), version);
        }
        store.delete(&key("Reopened", "r7"), Expect::Any).await.expect("delete");
        expected.remove("Reopened/default/r7");
        before = store.now("Reopened").await.expect("now");
    }
    let store = harness.open();
    let (records, cursor) = list_all(&*store, "Reopened", None).await.expect("list");
    let found: BTreeMap<_, _> = records.into_iter().map(|r| (r.key.to_string(), r.version)).collect();
    assert_eq!(found, expected, "records and versions survive");
    assert_eq!(cursor, before, "cursors survive when nothing was written since");
    let next = put(&*store, &key("Reopened", "r0"), "new", Expect::Any).await.expect("put");
    assert!(!expected.values().any(|v| *v == next), "versions are not used again after reopening");
    let mut watch = store.watch("Reopened", &before).await.expect("watch");
    assert_eq!(watch.next().await.expect("changes").len(), 1, "the write after reopening");
}
