//! The embedded store passes the suite, and loses nothing acknowledged when its process is killed.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use leno_store::conformance::{self, Harness};
use leno_store::contract::list_all;
use leno_store::{Cursor, DirectoryLock, Expect, Key, RedbSettings, RedbStore, Store, StoreError, WatchEnd};

struct Embedded(PathBuf);

const SMALL_LOG: usize = 16;

impl Harness for Embedded {
    fn open(&self) -> Arc<dyn Store> {
        let settings = RedbSettings { change_log: SMALL_LOG, ..RedbSettings::default() };
        Arc::new(RedbStore::open(&self.0, &settings).unwrap())
    }
    fn compacting_writes(&self) -> usize {
        SMALL_LOG + 1
    }
}

#[tokio::test]
async fn passes_the_suite() {
    let directory = tempfile::tempdir().unwrap();
    conformance::run(&Embedded(directory.path().to_owned())).await;
}

#[tokio::test]
async fn a_cursor_from_another_history_is_told_to_list_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = RedbStore::open(directory.path(), &RedbSettings::default()).unwrap();
    let mut watch = store.watch("K", &Cursor::from_text("99")).await.unwrap();
    assert_eq!(watch.next().await, Err(WatchEnd::Compacted));
    assert!(matches!(store.watch("K", &Cursor::from_text("x")).await.err(), Some(StoreError::Malformed { .. })));
}

#[tokio::test]
async fn concurrent_puts_share_commits() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(RedbStore::open(directory.path(), &RedbSettings::default()).unwrap());
    let mut set = tokio::task::JoinSet::new();
    for i in 0..2000 {
        let store = Arc::clone(&store);
        set.spawn(async move { store.put(&Key::new("K", "n", &format!("k{i}")), Bytes::new(), Expect::Absent).await });
    }
    while let Some(done) = set.join_next().await {
        done.unwrap().unwrap();
    }
    assert_eq!(list_all(&*store, "K", None).await.unwrap().0.len(), 2000);
    // 256 writes a commit at most, and the queue was full for most of them; one commit per write would be 2000.
    assert!(store.commits() < 200, "{} commits", store.commits());
}

const CHILD_DIRECTORY: &str = "LENO_STORE_TEST_CHILD";

/// Not a test of its own: the process that the next one kills. It writes for ever and prints what was acknowledged.
#[test]
fn child_that_writes_until_killed() {
    let Ok(directory) = std::env::var(CHILD_DIRECTORY) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let _lock = DirectoryLock::take(Path::new(&directory)).unwrap();
        let store = Arc::new(RedbStore::open(Path::new(&directory), &RedbSettings::default()).unwrap());
        let mut set = tokio::task::JoinSet::new();
        for writer in 0..8 {
            let store = Arc::clone(&store);
            set.spawn(async move {
                let key = Key::new("Killed", "n", &format!("w{writer}"));
                let start = store.get(&key).await.unwrap().map_or(0, |r| count(&r.value));
                for n in start + 1.. {
                    let value = Bytes::from(format!("{n}"));
                    store.put(&key, value, Expect::Any).await.unwrap();
                    println!("ack w{writer} {n}");
                }
            });
        }
        set.join_all().await;
    });
}

fn count(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

#[tokio::test]
async fn kill_in_the_middle_of_writes_loses_nothing_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    for round in 1..=5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_writes_until_killed", "--nocapture"])
            .env(CHILD_DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut acknowledged: HashMap<String, u64> = HashMap::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        let mut refused = None;
        while let Some(Ok(line)) = lines.next() {
            let mut words = line.split(' ');
            if words.next() != Some("ack") {
                continue;
            }
            let (writer, n) = (words.next().unwrap().to_owned(), words.next().unwrap().parse().unwrap());
            acknowledged.insert(writer, n);
            seen += 1;
            if seen == 10 {
                refused = Some(DirectoryLock::take(directory.path()).unwrap_err().to_string());
            }
            if seen == 40 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let refused = refused.expect("the child held the lock");
        assert!(refused.contains(&format!("process {}", child.id())), "{refused}");
        let _lock = DirectoryLock::take(directory.path()).expect("the lock died with its holder");
        let store = RedbStore::open(directory.path(), &RedbSettings::default()).unwrap();
        for (writer, n) in acknowledged {
            let record = store.get(&Key::new("Killed", "n", &writer)).await.unwrap().expect("an acknowledged record");
            assert!(count(&record.value) >= n, "{writer}: {n} acknowledged, {} found", count(&record.value));
        }
    }
}

/// Bytes from nowhere in any part of the file: an error that names the file, or the records as they were, never a panic.
#[tokio::test]
async fn a_damaged_file_is_an_error_with_its_name() {
    const PIECE: usize = 40 << 10;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = RedbStore::open(directory.path(), &RedbSettings::default()).unwrap();
    for i in 0..500 {
        let value = Bytes::from(vec![b'v'; 700]);
        store.put(&Key::new("K", "n", &format!("k{i}")), value, Expect::Absent).await.unwrap();
    }
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let mut found = 0;
    // A small generator of noise; the places are every piece of the file and some between.
    let mut state = 1u64;
    let mut noise = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    for start in (0..whole.len()).step_by(PIECE / 2) {
        let mut bytes = whole.clone();
        let end = (start + PIECE).min(bytes.len());
        bytes[start..end].fill_with(&mut noise);
        std::fs::write(&path, &bytes).unwrap();
        let error = match RedbStore::open(directory.path(), &RedbSettings::default()) {
            Err(error) => Some(error),
            Ok(store) => write_and_read(&store).await.err(),
        };
        if let Some(error) = error {
            let said = error.to_string();
            assert!(said.contains(&path.display().to_string()) && said.contains("backup"), "at {start}: {said}");
            found += 1;
        }
    }
    assert!(found > 0, "no damage was noticed");
    // Damage that comes while it is open is met by readers.
    std::fs::write(&path, &whole).unwrap();
    let store = RedbStore::open(directory.path(), &RedbSettings { cache_bytes: 0, ..RedbSettings::default() }).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let garbage: Vec<u8> = std::iter::repeat_with(&mut noise).take(whole.len() - 4096).collect();
    std::os::unix::fs::FileExt::write_all_at(&file, &garbage, 4096).unwrap();
    for _ in 0..2 {
        let error = write_and_read(&store).await.unwrap_err();
        assert!(error.to_string().contains("store.redb"), "{error}");
    }
}

async fn write_and_read(store: &RedbStore) -> Result<(), StoreError> {
    list_all(store, "K", None).await?;
    store.put(&Key::new("K", "n", "k7"), Bytes::from_static(b"new"), Expect::Any).await?;
    store.get(&Key::new("K", "n", "k7")).await?;
    Ok(())
}
