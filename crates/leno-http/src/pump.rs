//! The task that sends a request's body while its answer is awaited, and the gate that holds the body back.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::task::AbortHandle;

/// Holds a body back until the other side wants it (100-continue, switches of protocols).
#[derive(Default)]
pub(crate) struct Gate {
    /// `Some(false)`: it will never be wanted.
    state: Cell<Option<bool>>,
    waker: RefCell<Option<Waker>>,
}

impl Gate {
    /// Decides once and for all.
    pub fn open(&self, wanted: bool) {
        if self.state.get().is_none() {
            self.state.set(Some(wanted));
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }

    pub fn is_closed(&self) -> bool {
        self.state.get().is_none()
    }

    /// Waits for the decision.
    pub async fn passed(&self) -> bool {
        poll_fn(|cx| match self.state.get() {
            Some(wanted) => Poll::Ready(wanted),
            None => {
                self.waker.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }
}

/// A running pump; aborted when dropped. `Ok(true)` is a body sent whole, `Ok(false)` one that was not wanted.
pub(crate) struct Pump<E> {
    state: Rc<State<E>>,
    task: Option<AbortHandle>,
}

struct State<E> {
    result: RefCell<Option<Result<bool, E>>>,
    is_over: Cell<bool>,
    is_whole: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl<E: 'static> Pump<E> {
    /// Goes as far as it can at once, so that what is there leaves in this turn, and on in a local task if that is not all.
    pub async fn start(work: impl Future<Output = Result<bool, E>> + 'static) -> Self {
        let mut work: Pin<Box<dyn Future<Output = _>>> = Box::pin(work);
        let state = Rc::new(State {
            result: RefCell::new(None),
            is_over: Cell::new(false),
            is_whole: Cell::new(false),
            waker: RefCell::new(None),
        });
        let task = match poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await {
            Poll::Ready(result) => {
                state.set(result);
                None
            }
            Poll::Pending => {
                let state = Rc::clone(&state);
                Some(tokio::task::spawn_local(async move { state.set(work.await) }).abort_handle())
            }
        };
        Self { state, task }
    }

    /// The failure, given once; `Ready(Ok)` once the pump has ended without one.
    pub fn poll_failure(&self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        match self.state.result.take() {
            Some(Err(error)) => Poll::Ready(Err(error)),
            Some(Ok(_)) => Poll::Ready(Ok(())),
            None => {
                self.state.waker.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }

    pub fn is_over(&self) -> bool {
        self.state.is_over.get()
    }

    /// The body was sent to its end.
    pub fn is_whole(&self) -> bool {
        self.state.is_whole.get()
    }

    /// Lets the pump run to its own end.
    pub fn detach(mut self) {
        self.task = None;
    }
}

impl<E> State<E> {
    fn set(&self, result: Result<bool, E>) {
        self.is_over.set(true);
        self.is_whole.set(matches!(result, Ok(true)));
        self.result.replace(Some(result));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl<E> Drop for Pump<E> {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
