//! Interim responses between a handler and the connection that sends them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use crate::head::ResponseHead;

/// Interim responses on their way to the client; [`crate::InterimSink`] bounds their number.
#[derive(Default)]
pub(super) struct Outbox {
    queue: RefCell<VecDeque<ResponseHead>>,
    waker: RefCell<Option<Waker>>,
    /// A 100 is on its way or out.
    pub continued: Cell<bool>,
}

impl Outbox {
    pub fn push(&self, head: ResponseHead) {
        // One 100 is enough: it may have been sent because the body was asked for before the application's own came.
        if head.status == 100 && self.continued.replace(true) {
            return;
        }
        self.queue.borrow_mut().push_back(head);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// For the next exchange. Whom to wake stays: it is the same connection's task.
    pub fn clear(&self) {
        self.queue.borrow_mut().clear();
        self.continued.set(false);
    }

    pub fn take(&self) -> Option<ResponseHead> {
        self.queue.borrow_mut().pop_front()
    }

    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<ResponseHead> {
        match self.take() {
            Some(head) => Poll::Ready(head),
            None => {
                let mut waker = self.waker.borrow_mut();
                match &mut *waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}
