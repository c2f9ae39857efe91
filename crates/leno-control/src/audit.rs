//! The audit log: one JSON line per write, issuance and refusal, durable before the answer goes out (D14).
//!
//! A writer thread appends and syncs; entries that wait share one sync. The file is rotated by size, so the log is bounded.
//! Refusals are thinned, so that a flood of them cannot push the rest out: each member by itself, and everybody without a
//! credential together, so that nobody's flood hides what others are refused.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use leno_api::AuditEntry;
use leno_runtime::clock::Clock;
use tokio::sync::{mpsc, oneshot};

/// File name in the data directory.
pub const FILE_NAME: &str = "audit.log";
/// A file of this size is put aside: some 60,000 entries.
const MAX_FILE: u64 = 16 << 20;
/// Files put aside, `audit.log.1` the newest.
const KEPT: usize = 4;
/// Entries waiting to be written; callers wait when it is full.
const QUEUE: usize = 1024;
/// Entries of one sync.
const MAX_BATCH: usize = 256;
/// Bytes kept of what a disk did not take; what is beyond them is lost, and counted in the log.
const MAX_UNWRITTEN: usize = 1 << 20;
/// Longest part of an entry in characters: it may come from a peer.
const MAX_PART: usize = 1000;
/// Refusals written per minute and source.
const REFUSALS_PER_MINUTE: u32 = 60;
/// Sources that are counted apart in a minute; those beyond share what one has.
const MAX_SOURCES: usize = 1024;

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// The holder of the admin token.
    Admin,
    /// The control plane by itself.
    ControlPlane,
    /// A workload with a verified certificate.
    Workload(String),
    /// Whoever presented this join token, or tried to.
    Token(String),
}

impl Principal {
    fn text(&self) -> String {
        match self {
            Self::Admin => "admin".into(),
            Self::ControlPlane => "control-plane".into(),
            Self::Workload(identity) => identity.clone(),
            Self::Token(id) => format!("token {id}"),
        }
    }

    /// Whose budget a refusal is taken from. Whoever has no certificate can say any token, so all tokens are one, but for what
    /// was tried: the API and enrolment are different ports.
    fn source<'a>(&'a self, action: &'a str) -> &'a str {
        match self {
            Self::Workload(identity) => identity,
            Self::Admin | Self::ControlPlane | Self::Token(_) => action,
        }
    }
}

struct Line {
    text: Vec<u8>,
    written: oneshot::Sender<()>,
}

#[derive(Default)]
struct Budget {
    /// In this minute.
    written: u32,
    /// Since the last one that was written.
    suppressed: u64,
}

#[derive(Default)]
struct Thinning {
    minute: u64,
    sources: HashMap<String, Budget>,
    /// Ever suppressed.
    suppressed_total: u64,
}

impl Thinning {
    /// Whether one more may be written, and how many were not since the last.
    fn admit(&mut self, source: &str, minute: u64) -> Option<u64> {
        if self.minute != minute {
            self.minute = minute;
            self.sources.retain(|_, budget| budget.suppressed > 0);
            self.sources.values_mut().for_each(|budget| budget.written = 0);
        }
        let apart = self.sources.len() < MAX_SOURCES || self.sources.contains_key(source);
        let budget = self.sources.entry(if apart { source } else { "" }.to_owned()).or_default();
        if budget.written >= REFUSALS_PER_MINUTE {
            budget.suppressed += 1;
            self.suppressed_total += 1;
            return None;
        }
        budget.written += 1;
        Some(std::mem::take(&mut budget.suppressed))
    }
}

/// The audit log. Dropping it writes what is queued.
pub struct Audit {
    clock: Arc<dyn Clock>,
    path: PathBuf,
    queue: Option<mpsc::Sender<Line>>,
    writer: Option<JoinHandle<()>>,
    thinning: Mutex<Thinning>,
    /// Why the newest entries are not on disk.
    problem: Arc<Mutex<Option<String>>>,
}

impl Audit {
    /// Opens or creates the log in `directory`.
    pub fn open(directory: &Path, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let path = directory.join(FILE_NAME);
        let file = open(&path)?;
        let (queue, lines) = mpsc::channel(QUEUE);
        let problem = Arc::default();
        let mut writer = Writer {
            path: path.clone(),
            size: file.metadata()?.len(),
            file,
            unwritten: Vec::new(),
            problem: Arc::clone(&problem),
        };
        writer.end_torn_line()?;
        let writer = std::thread::Builder::new().name("audit-writer".into()).spawn(move || writer.run(lines))?;
        Ok(Self { clock, path, queue: Some(queue), writer: Some(writer), thinning: Mutex::default(), problem })
    }

    /// Writes an entry and waits until it is durable. A disk that fails is logged, not hidden, and does not stop the mesh.
    pub async fn record(&self, principal: &Principal, action: &str, object: &str, outcome: &str, detail: &str) {
        let entry = AuditEntry {
            at: timestamp(self.clock.unix_seconds()),
            principal: clip(&principal.text()),
            action: action.to_owned(),
            object: clip(object),
            outcome: clip(outcome),
            detail: clip(detail),
        };
        let mut text = serde_json::to_vec(&entry).expect("plain data");
        text.push(b'\n');
        self.write(text).await;
    }

    async fn write(&self, text: Vec<u8>) {
        let (written, done) = oneshot::channel();
        if let Some(queue) = &self.queue
            && queue.send(Line { text, written }).await.is_ok()
        {
            // An error means that the writer is gone, which it has logged.
            let _ = done.await;
        }
    }

    /// Why entries are not on disk, if so.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a write may begin, which must be audited: tries once more to write what is left.
    ///
    /// # Errors
    /// Why not.
    pub async fn ready(&self) -> Result<(), String> {
        if self.problem().is_some() {
            self.write(Vec::new()).await;
        }
        self.problem().map_or(Ok(()), Err)
    }

    /// As [`Self::record`], for refusals, which anybody can provoke: at most so many a minute and source, the rest counted.
    pub async fn refuse(&self, principal: &Principal, action: &str, object: &str, reason: &str, detail: &str) {
        let minute = self.clock.monotonic_nanos() / 60_000_000_000;
        let admitted = {
            let mut thinning = self.thinning.lock().unwrap_or_else(PoisonError::into_inner);
            thinning.admit(principal.source(action), minute)
        };
        let Some(suppressed) = admitted else { return };
        let more = if suppressed > 0 { format!("{detail} ({suppressed} more not listed)") } else { detail.to_owned() };
        self.record(principal, action, object, reason, &more).await;
    }

    /// Refusals that were counted and not written.
    #[must_use]
    pub fn suppressed_total(&self) -> u64 {
        self.thinning.lock().unwrap_or_else(PoisonError::into_inner).suppressed_total
    }

    /// The newest entries, oldest first.
    pub fn tail(&self, limit: usize) -> io::Result<Vec<AuditEntry>> {
        let mut newest = Vec::new();
        for path in std::iter::once(self.path.clone()).chain((1..=KEPT).map(|n| aside(&self.path, n))) {
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                Err(e) => return Err(e),
            };
            let mut lines = std::collections::VecDeque::with_capacity(limit.min(1024));
            for line in BufReader::new(file).lines() {
                // A line cut by a crash does not decode and is left out.
                if let Ok(entry) = serde_json::from_str::<AuditEntry>(&line?) {
                    if lines.len() == limit {
                        lines.pop_front();
                    }
                    lines.push_back(entry);
                }
            }
            newest.extend(lines.into_iter().rev());
            if newest.len() >= limit {
                break;
            }
        }
        newest.truncate(limit);
        newest.reverse();
        Ok(newest)
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the audit log's writer panicked");
        }
    }
}

struct Writer {
    path: PathBuf,
    file: File,
    size: u64,
    /// What the disk did not take.
    unwritten: Vec<u8>,
    problem: Arc<Mutex<Option<String>>>,
}

impl Writer {
    fn run(mut self, mut lines: mpsc::Receiver<Line>) {
        while let Some(first) = lines.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < MAX_BATCH
                && let Ok(next) = lines.try_recv()
            {
                batch.push(next);
            }
            let outcome = self.write(&batch);
            if let Err(error) = &outcome {
                tracing::error!(path = %self.path.display(), %error, entries = batch.len(), "the audit log cannot be written");
            }
            let problem = outcome.err().map(|error| format!("{} cannot be written: {error}", self.path.display()));
            *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
            for line in batch {
                // A caller that went away does not need to know.
                let _ = line.written.send(());
            }
        }
    }

    fn write(&mut self, batch: &[Line]) -> io::Result<()> {
        // First of all: whatever fails below, the entries are kept, and no more of them than that.
        let before = self.unwritten.len();
        self.unwritten.extend(batch.iter().flat_map(|l| l.text.iter().copied()));
        if self.unwritten.len() > MAX_UNWRITTEN {
            self.unwritten.truncate(before);
            tracing::error!(entries = batch.len(), "entries of the audit log are lost");
        }
        self.put_aside()?;
        if let Err(error) = self.file.write_all(&self.unwritten).and_then(|()| self.file.sync_data()) {
            // What was written of it comes again, whole: behind what could not be taken back on a line of its own.
            if self.file.set_len(self.size).is_err() && self.unwritten.first() != Some(&b'\n') {
                self.unwritten.insert(0, b'\n');
            }
            return Err(error);
        }
        self.size += self.unwritten.len() as u64;
        self.unwritten = Vec::new();
        Ok(())
    }

    /// Begins a new file if this one is full.
    fn put_aside(&mut self) -> io::Result<()> {
        if self.size < MAX_FILE {
            return Ok(());
        }
        for n in (1..KEPT).rev() {
            match std::fs::rename(aside(&self.path, n), aside(&self.path, n + 1)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        std::fs::rename(&self.path, aside(&self.path, 1))?;
        self.file = open(&self.path)?;
        self.size = 0;
        Ok(())
    }

    /// A line that a crash cut must not take the next one along.
    fn end_torn_line(&mut self) -> io::Result<()> {
        let mut last = [b'\n'];
        if self.size > 0 {
            std::os::unix::fs::FileExt::read_exact_at(&File::open(&self.path)?, &mut last, self.size - 1)?;
        }
        if last != *b"\n" {
            self.unwritten.push(b'\n');
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn aside(path: &Path, n: usize) -> PathBuf {
    path.with_extension(format!("log.{n}"))
}

fn clip(text: &str) -> String {
    text.chars().take(MAX_PART).collect()
}

/// Unix seconds as RFC 3339 in UTC.
#[must_use]
pub fn timestamp(unix_seconds: u64) -> String {
    let seconds = i64::try_from(unix_seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| unix_seconds.to_string(), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use leno_runtime::clock::ManualClock;
    use std::time::Duration;

    #[tokio::test]
    async fn a_disk_that_takes_nothing_is_said() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", directory.path().join(FILE_NAME)).unwrap();
        let audit = Audit::open(directory.path(), Arc::new(ManualClock::at(1_800_000_000))).unwrap();
        assert!(audit.ready().await.is_ok());
        audit.record(&Principal::Admin, "apply", "Service shop/web", "ok", "").await;
        assert!(audit.problem().is_some_and(|p| p.contains("cannot be written")));
        assert!(audit.ready().await.is_err());
    }

    /// As when the disk is full for a day: what is kept for it is bounded, also when nothing can be taken back.
    #[test]
    fn what_waits_for_a_disk_is_bounded_and_comes_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let mut writer =
            Writer { path: path.clone(), file: full, size: 0, unwritten: Vec::new(), problem: Arc::default() };
        let line = |text: &str| Line { text: text.as_bytes().to_vec(), written: oneshot::channel().0 };
        assert!(writer.write(&[line("first\n")]).is_err());
        for _ in 0..3 {
            assert!(writer.write(&[line(&"x".repeat(MAX_UNWRITTEN / 2))]).is_err());
            assert!(writer.unwritten.len() <= MAX_UNWRITTEN + 1, "{}", writer.unwritten.len());
        }
        // It is full and cannot be put aside: kept as well.
        (writer.unwritten, writer.size) = (Vec::new(), MAX_FILE);
        assert!(writer.write(&[line("kept\n")]).is_err());
        (writer.file, writer.size) = (open(&path).unwrap(), 0);
        writer.write(&[line("last\n")]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().trim_start(), "kept\nlast\n");
    }

    #[tokio::test]
    async fn a_line_that_a_crash_cut_takes_no_other_along() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE_NAME), "{\"at\":\"20").unwrap();
        let audit = Audit::open(directory.path(), Arc::new(ManualClock::at(1_800_000_000))).unwrap();
        audit.record(&Principal::Admin, "apply", "Service shop/web", "ok", "").await;
        assert_eq!(audit.tail(10).unwrap().len(), 1);
    }

    #[tokio::test]
    async fn entries_are_durable_bounded_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(1_800_000_000);
        let audit = Audit::open(directory.path(), Arc::new(clock.clone())).unwrap();
        for i in 0..5 {
            audit.record(&Principal::Admin, "apply", &format!("Service shop/web{i}"), "ok", "line\nbreak").await;
        }
        let text = std::fs::read_to_string(directory.path().join(FILE_NAME)).unwrap();
        assert_eq!(text.lines().count(), 5, "a control character stays inside its line");
        let tail = audit.tail(2).unwrap();
        assert_eq!(
            tail.iter().map(|e| e.object.as_str()).collect::<Vec<_>>(),
            ["Service shop/web3", "Service shop/web4"]
        );
        assert_eq!((tail[0].at.as_str(), tail[0].principal.as_str()), ("2027-01-15T08:00:00Z", "admin"));
        for _ in 0..200 {
            audit.refuse(&Principal::Token("x".into()), "enrolment", "", "token_invalid", &"y".repeat(5000)).await;
        }
        let web = Principal::Workload("spiffe://mesh.leno/ns/shop/sa/web".into());
        audit.refuse(&web, "register", "i1", "unauthorised_member", "seen all the same").await;
        clock.advance(Duration::from_secs(61));
        audit.refuse(&Principal::Token("x".into()), "enrolment", "", "token_invalid", "again").await;
        let tail = audit.tail(1000).unwrap();
        assert_eq!(tail.len(), 5 + 60 + 1 + 1);
        assert_eq!(tail[65].detail, "seen all the same", "what anybody can provoke hides no member");
        assert_eq!(tail.last().unwrap().detail, "again (140 more not listed)");
        assert_eq!(tail[10].detail.len(), MAX_PART);
    }

    #[test]
    fn sources_are_bounded_and_what_is_beyond_shares_one_budget() {
        let mut thinning = Thinning::default();
        let written = (0..MAX_SOURCES + 1000).filter(|i| thinning.admit(&format!("member {i}"), 0).is_some()).count();
        assert_eq!(written, MAX_SOURCES + REFUSALS_PER_MINUTE as usize);
        assert_eq!((thinning.sources.len(), thinning.suppressed_total), (MAX_SOURCES + 1, 940));
        assert_eq!(thinning.admit("member 1", 1), Some(0));
        assert_eq!(thinning.sources.len(), 2, "one that owes a count, and a new one");
    }

    #[tokio::test]
    async fn a_full_file_is_put_aside_and_still_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        let old = AuditEntry {
            at: "then".into(),
            principal: "admin".into(),
            action: "apply".into(),
            object: "old".into(),
            outcome: "ok".into(),
            detail: String::new(),
        };
        let mut file = serde_json::to_string(&old).unwrap() + "\n";
        file.push_str(&("x".repeat(usize::try_from(MAX_FILE).unwrap()) + "\n"));
        std::fs::write(&path, file).unwrap();
        let audit = Audit::open(directory.path(), Arc::new(ManualClock::at(0))).unwrap();
        audit.record(&Principal::ControlPlane, "apply", "new", "ok", "").await;
        assert!(std::fs::metadata(&path).unwrap().len() < 1000);
        let objects: Vec<_> = audit.tail(10).unwrap().into_iter().map(|e| e.object).collect();
        assert_eq!(objects, ["old", "new"]);
    }
}
