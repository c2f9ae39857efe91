//! Tasks for streams: one that is through with its stream waits for the next, so that in the steady state none is made.
//!
//! A stream has a task of its own for its time: a panic in one ends no other.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

use crate::room::Guest;

/// Tasks that wait, per worker: as many as streams begin in one turn of a busy one. Each is a few hundred bytes.
const MAX_WAITING: usize = 128;

/// The tasks of one worker that wait for a stream.
#[derive(Default)]
pub(crate) struct Crew {
    waiting: RefCell<Vec<Rc<Post>>>,
}

/// Where a task waits.
#[derive(Default)]
struct Post {
    next: Cell<Option<Guest>>,
    waker: Cell<Option<Waker>>,
    /// Its task is no more.
    is_left: Cell<bool>,
}

impl Crew {
    /// Runs `work` in a task of its own on this thread's local set.
    pub fn run(self: &Rc<Self>, work: impl Future<Output = ()> + 'static) {
        let guest = Guest::of(work);
        loop {
            let waiting = self.waiting.borrow_mut().pop();
            match waiting {
                // Its local set has ended before the crew.
                Some(post) if post.is_left.get() => {}
                Some(post) => {
                    post.next.set(Some(guest));
                    if let Some(waker) = post.waker.take() {
                        waker.wake();
                    }
                    return;
                }
                None => {
                    tokio::task::spawn_local(member(Rc::downgrade(self), guest));
                    return;
                }
            }
        }
    }

    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // Nobody will come any more.
        self.waiting.take().iter().filter_map(|post| post.waker.take()).for_each(Waker::wake);
    }
}

/// Says that a task is no more, however it ended.
struct Leaving(Rc<Post>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.is_left.set(true);
    }
}

async fn member(crew: Weak<Crew>, first: Guest) {
    let at = Leaving(Rc::default());
    let post = &at.0;
    let mut guest = first;
    loop {
        poll_fn(|cx| guest.poll(cx)).await;
        guest.leave();
        match crew.upgrade() {
            Some(crew) if crew.waiting.borrow().len() < MAX_WAITING => crew.waiting.borrow_mut().push(Rc::clone(post)),
            _ => return,
        }
        let next = poll_fn(|cx| match post.next.take() {
            Some(next) => Poll::Ready(Some(next)),
            None if crew.strong_count() == 0 => Poll::Ready(None),
            None => {
                post.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        });
        match next.await {
            Some(next) => guest = next,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::LocalSet;

    #[tokio::test]
    async fn tasks_are_used_again_and_a_panic_ends_only_its_own() {
        let local = LocalSet::new();
        let crew = Rc::new(Crew::default());
        let done = Rc::new(Cell::new(0));
        let one = |fails: bool| {
            let done = Rc::clone(&done);
            async move {
                tokio::task::yield_now().await;
                assert!(!fails, "on purpose");
                done.set(done.get() + 1);
            }
        };
        local
            .run_until(async {
                for round in 1..=3 {
                    (0..3).for_each(|_| crew.run(one(false)));
                    while done.get() < 3 * round || crew.waiting() < 3 {
                        tokio::task::yield_now().await;
                    }
                    assert_eq!(crew.waiting(), 3, "no more tasks than there were streams at once");
                }
                crew.run(one(true));
                crew.run(one(false));
                while done.get() < 10 || crew.waiting() < 2 {
                    tokio::task::yield_now().await;
                }
                assert_eq!(crew.waiting(), 2, "the third is gone");
            })
            .await;
    }

    #[tokio::test]
    async fn tasks_of_a_local_set_that_has_ended_get_nothing() {
        let crew = Rc::new(Crew::default());
        for _ in 0..2 {
            let local = LocalSet::new();
            let is_done = Rc::new(Cell::new(false));
            let told = Rc::clone(&is_done);
            local
                .run_until(async {
                    crew.run(async move { told.set(true) });
                    while !is_done.get() || crew.waiting() == 0 {
                        tokio::task::yield_now().await;
                    }
                })
                .await;
        }
    }
}
