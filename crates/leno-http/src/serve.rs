//! What every server of this crate is told: limits and timeouts, when to drain, and whom to tell what no handler sees.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use leno_model::Reason;
use tokio::sync::watch;

use crate::refusal::Refusal;

/// Tells servers that the process is going away. Cheap to clone; may come from another thread.
#[derive(Debug, Clone)]
pub struct DrainWatch(watch::Receiver<bool>);

/// The other end of [`DrainWatch`].
#[derive(Debug)]
pub struct DrainSignal(watch::Sender<bool>);

impl DrainSignal {
    /// A signal and a watch on it.
    #[must_use]
    pub fn new() -> (Self, DrainWatch) {
        let (sender, receiver) = watch::channel(false);
        (Self(sender), DrainWatch(receiver))
    }

    /// Starts the drain; it cannot be taken back.
    pub fn drain(&self) {
        self.0.send_replace(true);
    }

    /// Another watch.
    #[must_use]
    pub fn watch(&self) -> DrainWatch {
        DrainWatch(self.0.subscribe())
    }
}

impl DrainWatch {
    /// A watch that never drains.
    #[must_use]
    pub fn never() -> Self {
        DrainSignal::new().1
    }

    /// Whether the drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.0.borrow()
    }

    /// Ends when the drain begins; never if its signal is gone. Cancel-safe.
    pub async fn draining(&mut self) {
        if self.0.wait_for(|draining| *draining).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Hears of what never reaches a handler, so that it is counted and logged all the same. Called on the worker's thread.
pub trait ServerEvents {
    /// A connection's bytes were refused before they became a request.
    fn refused(&self, refusal: &Refusal);
    /// An exchange ends early for `reason`; its handler or response body is dropped right after.
    fn cut(&self, reason: Reason);
}

/// Limits and timeouts of a server; the defaults are DESIGN section 7's.
#[derive(Clone)]
pub struct ServerSettings {
    /// From the first byte of a head to its last, and for an HTTP/2 preface.
    pub head_timeout: Duration,
    /// How long a connection may be silent between requests. 2 min: longer than the clients' own pools keep theirs
    /// (Go and Java 90 s, Node 5 s), so that they and not we begin the race about who closes.
    pub idle_timeout: Duration,
    /// In a drain, how long an idle HTTP/1 connection is kept for one more request, which is answered with `connection: close`: that
    /// request may be on its way already, and would be lost if the connection were closed under it. None by default.
    pub drain_idle: Duration,
    /// How long a response may be stuck because the client takes no bytes.
    pub write_timeout: Duration,
    /// After the client ended its side, how long an exchange may go on without sending it a byte. A FIN is both how a client says
    /// "that was all" and how its kernel closes for a client that has died: only the answer to our bytes tells them apart.
    pub half_close_grace: Duration,
    /// HTTP/2 streams at a time on one connection.
    pub max_streams: u32,
    /// Whom to tell.
    pub events: Option<Rc<dyn ServerEvents>>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            drain_idle: Duration::ZERO,
            write_timeout: Duration::from_secs(300),
            half_close_grace: Duration::from_secs(3),
            max_streams: 1024,
            events: None,
        }
    }
}

impl ServerSettings {
    pub(crate) fn tell_refused(&self, refusal: &Refusal) {
        if let Some(events) = &self.events {
            events.refused(refusal);
        }
    }

    pub(crate) fn tell_cut(&self, reason: Reason) {
        if let Some(events) = &self.events {
            events.cut(reason);
        }
    }
}

impl fmt::Debug for ServerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSettings")
            .field("head_timeout", &self.head_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .field("drain_idle", &self.drain_idle)
            .field("write_timeout", &self.write_timeout)
            .field("half_close_grace", &self.half_close_grace)
            .field("max_streams", &self.max_streams)
            .finish_non_exhaustive()
    }
}
