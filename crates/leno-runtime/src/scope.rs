//! Task scopes: every task is spawned in a named scope that counts it, reports its panic, and can end it.
//!
//! A task ends in one of three ways: its future returns, it panics (logged here, once, with its name), or the scope is
//! cancelled and the future is dropped where it stands. Nothing outlives [`Scope::join`] after [`Scope::cancel`].

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::task::AbortHandle;

/// Owns tasks. Clones share them.
#[derive(Debug, Clone)]
pub struct Scope {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: &'static str,
    running: AtomicUsize,
    panics: AtomicUsize,
    cancelled: AtomicBool,
    cancel: Arc<Notify>,
    idle: Notify,
}

/// How [`Scope::drain`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScopeReport {
    /// Tasks that had to be cancelled at the deadline.
    pub cancelled: usize,
    /// Tasks that panicked during the scope's life.
    pub panicked: usize,
}

/// Aborts its task when dropped: for work whose result nobody wants once its owner is gone.
#[derive(Debug)]
pub struct AbortOnDrop(AbortHandle);

impl From<AbortHandle> for AbortOnDrop {
    fn from(handle: AbortHandle) -> Self {
        Self(handle)
    }
}

impl AbortOnDrop {
    /// Whether the task has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Counts one task, however it ends.
struct Counted(Arc<Inner>);

impl Drop for Counted {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

pin_project! {
    /// A task of a scope. By hand and not an `async` block: that holds what it is given twice, once as it came and once pinned,
    /// which is kilobytes for each connection.
    struct Supervised<F> {
        #[pin]
        future: F,
        #[pin]
        cancel: OwnedNotified,
        // Behind the future: whoever waits for the scope finds that what its tasks held is gone.
        counted: Counted,
        task: &'static str,
        is_registered: bool,
    }
}

impl<F: Future<Output = ()>> Future for Supervised<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let inner = &this.counted.0;
        // Asked once, which registers this task; from then on being woken and looking at the flag is enough.
        let is_woken = !std::mem::replace(this.is_registered, true) && this.cancel.poll(context).is_ready();
        if is_woken || inner.cancelled.load(Ordering::SeqCst) {
            return Poll::Ready(());
        }
        poll_caught(this.future, context).map(|outcome| {
            if let Err(panic) = outcome {
                inner.panics.fetch_add(1, Ordering::SeqCst);
                tracing::error!(scope = inner.name, task = *this.task, panic = describe(&*panic), "task panicked");
            }
        })
    }
}

impl Scope {
    /// The name appears in logs.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        let inner = Inner {
            name,
            running: AtomicUsize::new(0),
            panics: AtomicUsize::new(0),
            cancelled: AtomicBool::new(false),
            cancel: Arc::new(Notify::new()),
            idle: Notify::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Runs a task on the runtime. In a cancelled scope it is dropped before it starts.
    #[expect(clippy::disallowed_methods, reason = "this is the place that the ban points to")]
    pub fn spawn(&self, task: &'static str, future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        tokio::spawn(self.supervise(task, future)).abort_handle()
    }

    /// Runs a task on this thread's `LocalSet`; panics outside one.
    pub fn spawn_local(&self, task: &'static str, future: impl Future<Output = ()> + 'static) -> AbortHandle {
        tokio::task::spawn_local(self.supervise(task, future)).abort_handle()
    }

    fn supervise<F: Future<Output = ()>>(&self, task: &'static str, future: F) -> Supervised<F> {
        self.inner.running.fetch_add(1, Ordering::SeqCst);
        // Counted from here, so that a task which never gets to run is counted out when it is dropped.
        let counted = Counted(self.inner.clone());
        Supervised { future, cancel: self.inner.cancel.clone().notified_owned(), counted, task, is_registered: false }
    }

    /// Tasks running.
    #[must_use]
    pub fn count(&self) -> usize {
        self.inner.running.load(Ordering::SeqCst)
    }

    /// Tasks that panicked so far.
    #[must_use]
    pub fn panics(&self) -> usize {
        self.inner.panics.load(Ordering::SeqCst)
    }

    /// Drops every task's future at its next poll, and every task spawned from now on.
    pub fn cancel(&self) {
        self.inner.cancelled.store(true, Ordering::SeqCst);
        self.inner.cancel.notify_waiters();
    }

    /// Waits until no task runs. Cancel safe.
    pub async fn join(&self) {
        loop {
            let mut idle = pin!(self.inner.idle.notified());
            idle.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Waits for the tasks to end by themselves, cancels the rest at the deadline and waits for those.
    pub async fn drain(&self, deadline: Duration) -> ScopeReport {
        let mut cancelled = 0;
        if tokio::time::timeout(deadline, self.join()).await.is_err() {
            cancelled = self.count();
            self.cancel();
            self.join().await;
        }
        ScopeReport { cancelled, panicked: self.panics() }
    }
}

fn poll_caught<F: Future<Output = ()>>(
    future: std::pin::Pin<&mut F>,
    context: &mut Context<'_>,
) -> Poll<Result<(), Box<dyn Any + Send>>> {
    // Unwind safe: after a panic the future is dropped and never polled again.
    match catch_unwind(AssertUnwindSafe(|| future.poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    }
}

fn describe(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "of unknown type",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tasks_are_counted_and_joined() {
        let scope = Scope::new("test");
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        scope.spawn("waits", async move {
            let _ = receiver.await;
        });
        scope.spawn("ends", async {});
        assert_eq!(scope.count(), 2);
        drop(sender);
        scope.join().await;
        assert_eq!(scope.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_cancels_what_does_not_end_and_runs_its_destructors() {
        let scope = Scope::new("test");
        let (alive, mut dropped) = tokio::sync::oneshot::channel::<()>();
        scope.spawn("stuck", async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        let report = scope.drain(Duration::from_secs(5)).await;
        assert_eq!(report, ScopeReport { cancelled: 1, panicked: 0 });
        assert!(dropped.try_recv().is_err(), "the future was dropped");
        scope.spawn("late", async { panic!("must not run") });
        scope.join().await;
        assert_eq!(scope.panics(), 0);
    }

    #[tokio::test]
    async fn a_panic_is_counted_and_spares_the_others() {
        let scope = Scope::new("test");
        scope.spawn("bad", async { panic!("on purpose") });
        let (sender, receiver) = tokio::sync::oneshot::channel();
        scope.spawn("good", async move {
            let _ = sender.send(7);
        });
        assert_eq!(receiver.await, Ok(7));
        scope.join().await;
        assert_eq!(scope.panics(), 1);
    }

    #[tokio::test]
    async fn local_tasks_and_abort_on_drop() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let scope = Scope::new("local");
                let not_send = std::rc::Rc::new(5);
                scope.spawn_local("rc", async move {
                    assert_eq!(*not_send, 5);
                });
                let handle = AbortOnDrop::from(scope.spawn_local("stuck", std::future::pending()));
                assert_eq!(scope.count(), 2);
                assert!(!handle.is_finished());
                drop(handle);
                scope.join().await;
                assert_eq!(scope.count(), 0);
            })
            .await;
    }
}
