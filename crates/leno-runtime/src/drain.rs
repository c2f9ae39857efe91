//! Ending without losing work, in two stages.
//!
//! ```text
//!   Running ──start──▶ Draining ──(last guard dropped)──▶ finished
//!                          └──────(deadline)────────────▶ Forced
//! ```
//!
//! Whoever holds work in flight holds a [`DrainGuard`]; listeners and connections watch [`DrainWatch`]. In `Draining`
//! no new work is taken; in `Forced` what remains is cut off.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Running,
    Draining,
    Forced,
}

#[derive(Debug, Default)]
struct InFlight {
    count: AtomicUsize,
    idle: Notify,
}

/// Starts the drain; held by whoever decides.
#[derive(Debug)]
pub struct DrainTrigger {
    stage: watch::Sender<Stage>,
    in_flight: Arc<InFlight>,
}

/// Sees the drain; cheap to clone, across threads too.
#[derive(Debug, Clone)]
pub struct DrainWatch {
    stage: watch::Receiver<Stage>,
    in_flight: Arc<InFlight>,
}

/// One piece of work in flight, until dropped.
#[derive(Debug)]
pub struct DrainGuard {
    in_flight: Arc<InFlight>,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainOutcome {
    /// All work finished.
    Finished,
    /// The deadline came first; so much work was cut off.
    Forced {
        /// Guards that were alive at the deadline.
        remaining: usize,
    },
}

/// Makes the two ends.
#[must_use]
pub fn drain() -> (DrainTrigger, DrainWatch) {
    let (sender, receiver) = watch::channel(Stage::Running);
    let in_flight = Arc::new(InFlight::default());
    (DrainTrigger { stage: sender, in_flight: in_flight.clone() }, DrainWatch { stage: receiver, in_flight })
}

impl DrainTrigger {
    /// Begins the drain; again has no effect.
    pub fn start(&self) {
        self.stage.send_if_modified(|s| {
            *s < Stage::Draining && {
                *s = Stage::Draining;
                true
            }
        });
    }

    /// Cuts off what remains.
    pub fn force(&self) {
        self.stage.send_if_modified(|s| {
            *s < Stage::Forced && {
                *s = Stage::Forced;
                true
            }
        });
    }

    /// Guards alive.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.count.load(Ordering::SeqCst)
    }

    /// Waits until no guard is alive. Dropping the future has no effect.
    pub async fn idle(&self) {
        loop {
            let mut idle = std::pin::pin!(self.in_flight.idle.notified());
            // Registered before the count is read, or the last drop between the two would be missed.
            idle.as_mut().enable();
            if self.in_flight() == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Starts, waits for work to end, and forces at the deadline. Dropped early, it leaves the drain in `Draining`.
    pub async fn run(&self, deadline: Duration) -> DrainOutcome {
        self.start();
        if tokio::time::timeout(deadline, self.idle()).await.is_ok() {
            return DrainOutcome::Finished;
        }
        let remaining = self.in_flight();
        self.force();
        if remaining == 0 { DrainOutcome::Finished } else { DrainOutcome::Forced { remaining } }
    }
}

impl DrainWatch {
    /// Whether no new work may be taken.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.stage.borrow() >= Stage::Draining
    }

    /// Whether what remains is being cut off.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        *self.stage.borrow() >= Stage::Forced
    }

    /// Waits until the drain begins (or its trigger is gone). Cancel safe.
    pub async fn draining(&self) {
        self.reached(Stage::Draining).await;
    }

    /// Waits until the rest is cut off (or the trigger is gone). Cancel safe.
    pub async fn forced(&self) {
        self.reached(Stage::Forced).await;
    }

    async fn reached(&self, stage: Stage) {
        // An error means that the trigger is gone: nobody is left to wait for.
        let _ = self.stage.clone().wait_for(|s| *s >= stage).await;
    }

    /// Counts a piece of work until the guard is dropped.
    #[must_use]
    pub fn guard(&self) -> DrainGuard {
        self.in_flight.count.fetch_add(1, Ordering::SeqCst);
        DrainGuard { in_flight: self.in_flight.clone() }
    }

    /// A watch that never drains, for tests and one-shot commands.
    #[must_use]
    pub fn never() -> Self {
        let (trigger, watch) = drain();
        // Leaked on purpose: a dropped trigger would count as a drain.
        std::mem::forget(trigger);
        watch
    }
}

impl Drop for DrainGuard {
    fn drop(&mut self) {
        if self.in_flight.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.in_flight.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_with_its_last_guard() {
        let (trigger, watch) = drain();
        let (first, second) = (watch.guard(), watch.guard());
        assert!(!watch.is_draining());
        let waiting = async {
            watch.draining().await;
            drop(first);
            assert_eq!(trigger.in_flight(), 1);
            drop(second);
        };
        let (outcome, ()) = tokio::join!(trigger.run(Duration::from_secs(30)), waiting);
        assert_eq!(outcome, DrainOutcome::Finished);
        assert!(watch.is_draining() && !watch.is_forced());
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_forces_and_counts_what_remains() {
        let (trigger, watch) = drain();
        let _stuck = watch.guard();
        let outcome = trigger.run(Duration::from_secs(30)).await;
        assert_eq!(outcome, DrainOutcome::Forced { remaining: 1 });
        watch.forced().await;
    }

    #[tokio::test(start_paused = true)]
    async fn starting_again_does_not_go_back() {
        let (trigger, watch) = drain();
        trigger.force();
        trigger.start();
        assert!(watch.is_forced());
        assert_eq!(trigger.run(Duration::ZERO).await, DrainOutcome::Finished);
        let never = DrainWatch::never();
        assert!(tokio::time::timeout(Duration::from_secs(1), never.draining()).await.is_err());
    }
}
