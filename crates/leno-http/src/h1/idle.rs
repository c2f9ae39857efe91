//! What ends an idle connection: silence, or a drain.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep};

use crate::serve::{DrainWatch, ServerSettings};

/// An idle connection's time.
///
/// The timer is left running from one request to the next, because setting one costs more than being woken by one that is early,
/// once in a while.
pub(super) struct Idle {
    since: Instant,
    timer: Pin<Box<Sleep>>,
    /// The timer and the drain know whom to wake.
    is_heard: bool,
    /// `None` once it has begun.
    drain: Option<Pin<Box<dyn Future<Output = ()>>>>,
    is_draining: bool,
}

impl Idle {
    /// Idle from now on.
    pub fn new(settings: &ServerSettings, drain: &DrainWatch) -> Self {
        let (since, mut drain) = (Instant::now(), drain.clone());
        Self {
            since,
            timer: Box::pin(tokio::time::sleep_until(since + settings.idle_timeout)),
            is_heard: false,
            drain: Some(Box::pin(async move { drain.draining().await })),
            is_draining: false,
        }
    }

    /// Idle again, from now on.
    pub fn begin(&mut self) {
        self.since = Instant::now();
    }

    /// Ready when the connection has been idle for too long.
    pub fn poll_over(&mut self, settings: &ServerSettings, drain: &DrainWatch, cx: &mut Context<'_>) -> Poll<()> {
        // Asked once, which registers this task; from then on being woken is enough, and looking is cheap.
        let is_draining = match &mut self.drain {
            Some(drain) if !self.is_heard => drain.as_mut().poll(cx).is_ready(),
            _ => drain.is_draining(),
        };
        if is_draining && !self.is_draining {
            self.is_draining = true;
            self.drain = None;
            self.since = Instant::now();
            self.set_timer(self.since + settings.drain_idle);
        }
        let limit = if self.is_draining { settings.drain_idle } else { settings.idle_timeout };
        while self.has_fired(cx) {
            // It has run since an earlier request, and may be early for this one.
            if self.since + limit <= Instant::now() {
                return Poll::Ready(());
            }
            self.set_timer(self.since + limit);
        }
        Poll::Pending
    }

    fn set_timer(&mut self, at: Instant) {
        self.timer.as_mut().reset(at);
        self.is_heard = false;
    }

    fn has_fired(&mut self, cx: &mut Context<'_>) -> bool {
        if self.is_heard {
            return self.timer.is_elapsed();
        }
        let has_fired = self.timer.as_mut().poll(cx).is_ready();
        // A task that has used up its share of this turn is told "pending" without being registered; it is polled again.
        self.is_heard = !has_fired && tokio::task::coop::has_budget_remaining();
        has_fired
    }
}
