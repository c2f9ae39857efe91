//! The access log: one JSON line per request or TCP stream, written off the hot thread.
//!
//! A worker fills an [`AccessRecord`] (reference counts, no formatting) and hands it to a bounded channel; one writer thread makes
//! lines of them. When the channel is full the record is dropped and counted: logging never slows traffic.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use leno_model::{AppProtocol, NamespacedName, Reason, SpiffeId};

use crate::metrics::Direction;
use crate::trace::RequestId;

mod line;

pub use line::render;

/// Records between workers and writer. At 100,000 requests/s the writer may be away for 80 ms; the pointers take 64 KB.
pub const CHANNEL: usize = 8192;
/// How long the busy writer lets records gather before it looks again. Without this every record of a quiet moment would cost its
/// worker a system call to wake the writer.
const GATHER: Duration = Duration::from_millis(20);
/// After so many looks that found nothing, the writer sleeps until a record comes.
const IDLE_LOOKS: u32 = 50;

/// What happened to one request or TCP stream.
#[derive(Debug, Clone)]
pub struct AccessRecord {
    /// When it began, in nanoseconds since the Unix epoch.
    pub time: u64,
    /// The request's id, which is its trace id.
    pub request_id: RequestId,
    /// As seen from the workload.
    pub direction: Direction,
    /// The caller's identity.
    pub source: Option<SpiffeId>,
    /// The identity of who answered.
    pub destination: Option<SpiffeId>,
    /// The service that was called; absent for what is outside the mesh.
    pub service: Option<NamespacedName>,
    /// The rule that was taken.
    pub route: Option<Arc<str>>,
    /// What was spoken.
    pub protocol: Option<AppProtocol>,
    /// The method.
    pub method: Option<Bytes>,
    /// `Host` or `:authority`.
    pub authority: Option<Bytes>,
    /// The path without its query, which may hold secrets.
    pub path: Option<Bytes>,
    /// The HTTP status that the caller got.
    pub status: Option<u16>,
    /// The gRPC status that the caller got.
    pub grpc_status: Option<u8>,
    /// Why it was refused or failed.
    pub reason: Option<Reason>,
    /// From its first byte to the answer's last, in nanoseconds.
    pub duration: u64,
    /// From sending to the answer's head, in nanoseconds.
    pub upstream: Option<u64>,
    /// Connecting and handshaking, if that was needed, in nanoseconds.
    pub connect: Option<u64>,
    /// Body bytes from the caller.
    pub bytes_in: u64,
    /// Body bytes to the caller.
    pub bytes_out: u64,
    /// How often it was sent.
    pub attempts: u32,
    /// Where it was sent last.
    pub endpoint: Option<SocketAddr>,
    /// The access policy that decided.
    pub policy: Option<Arc<str>>,
    /// What the reason alone does not tell.
    pub detail: Option<Box<str>>,
}

impl AccessRecord {
    /// A record in which nothing is known yet.
    #[must_use]
    pub fn new(time: u64, request_id: RequestId, direction: Direction) -> Self {
        Self {
            time,
            request_id,
            direction,
            source: None,
            destination: None,
            service: None,
            route: None,
            protocol: None,
            method: None,
            authority: None,
            path: None,
            status: None,
            grpc_status: None,
            reason: None,
            duration: 0,
            upstream: None,
            connect: None,
            bytes_in: 0,
            bytes_out: 0,
            attempts: 0,
            endpoint: None,
            policy: None,
            detail: None,
        }
    }
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Nowhere; workers do not even fill records.
    Off,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Appended to a file.
    File(PathBuf),
}

enum Message {
    Record(Box<AccessRecord>),
    /// Answered when all before it is written.
    Flush(SyncSender<()>),
}

/// The workers' end. Cheap to clone.
#[derive(Clone)]
pub struct LogSender {
    channel: Option<SyncSender<Message>>,
    dropped: Arc<AtomicU64>,
}

impl LogSender {
    /// A sender that takes nothing.
    #[must_use]
    pub fn off() -> Self {
        Self { channel: None, dropped: Arc::default() }
    }

    /// Whether records are wanted: ask before filling one.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.channel.is_some()
    }

    /// Hands a record over, or drops and counts it if the channel is full or the writer gone.
    pub fn send(&self, record: AccessRecord) {
        let Some(channel) = &self.channel else { return };
        if channel.try_send(Message::Record(Box::new(record))).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// The writer thread.
pub struct LogWriter {
    sender: LogSender,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    /// Opens the target and starts the thread. `dropped` counts records that were dropped or could not be written
    /// ([`crate::metrics::Metrics::log_drops`]).
    pub fn start(target: &LogTarget, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        let out: Box<dyn Write + Send> = match target {
            LogTarget::Off => return Ok(Self { sender: LogSender { channel: None, dropped }, thread: None }),
            LogTarget::Stdout => Box::new(io::stdout()),
            LogTarget::Stderr => Box::new(io::stderr()),
            LogTarget::File(path) => Box::new(open(path)?),
        };
        Self::start_on(out, dropped)
    }

    fn start_on(out: Box<dyn Write + Send>, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        let (channel, records) = sync_channel(CHANNEL);
        let lost = dropped.clone();
        let work = move || write_all(&records, BufWriter::with_capacity(64 * 1024, out), &lost);
        let thread = std::thread::Builder::new().name("leno-access-log".into()).spawn(work)?;
        Ok(Self { sender: LogSender { channel: Some(channel), dropped }, thread: Some(thread) })
    }

    /// An end for a worker.
    #[must_use]
    pub fn sender(&self) -> LogSender {
        self.sender.clone()
    }

    /// Waits until all that was sent before is written, at most `limit`. Whether it was.
    pub fn flush(&self, limit: Duration) -> bool {
        let Some(channel) = &self.sender.channel else { return true };
        let (done, wait) = sync_channel(1);
        channel.try_send(Message::Flush(done)).is_ok() && wait.recv_timeout(limit).is_ok()
    }

    /// Writes what is left and ends the thread; the workers' senders must be dropped, or it waits for them.
    pub fn close(mut self) {
        self.sender.channel = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the writer was printed by its own thread; there is nothing left to save.
            let _ = thread.join();
        }
    }
}

/// Appends; others may not read who called whom.
fn open(path: &PathBuf) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

/// The thread: gathers while busy, sleeps in `recv` while idle, ends when every sender is gone.
fn write_all(records: &Receiver<Message>, mut out: BufWriter<Box<dyn Write + Send>>, lost: &AtomicU64) {
    let mut line = Vec::with_capacity(1024);
    let mut idle = 0;
    loop {
        let message = match records.try_recv() {
            Ok(message) => message,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                count_failure(out.flush(), lost);
                if idle < IDLE_LOOKS {
                    idle += 1;
                    std::thread::sleep(GATHER);
                    continue;
                }
                let Ok(message) = records.recv() else { break };
                message
            }
        };
        idle = 0;
        match message {
            Message::Record(record) => {
                line.clear();
                render(&record, &mut line);
                count_failure(out.write_all(&line), lost);
            }
            Message::Flush(done) => {
                count_failure(out.flush(), lost);
                // Whoever asked may have stopped waiting.
                let _ = done.try_send(());
            }
        }
    }
    count_failure(out.flush(), lost);
}

/// A full disk or closed pipe shows in the metric; the log itself cannot say it.
fn count_failure(result: io::Result<()>, lost: &AtomicU64) {
    if result.is_err() {
        lost.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests;
