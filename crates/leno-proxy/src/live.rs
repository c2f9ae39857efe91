//! Everything that is under way on one worker: requests, upgraded connections, TCP streams.
//!
//! One table serves three needs without a timer per request: idle exchanges are ended by a scan once a second, exchanges that a
//! new policy denies are ended when the snapshot changes, and a drain counts what is left.
//!
//! ```text
//!   begun ──▶ under way ──▶ finished (the guard is dropped)
//!                 │
//!                 └─ ended by the table (idle, denied, draining): body and waiter give the reason
//! ```

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use leno_model::Reason;
use slab::Slab;

/// How long an exchange may live on in a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A request with an answer: ended at the drain's first deadline.
    Request,
    /// TCP or an upgraded connection: ended at the second.
    Stream,
}

/// One exchange.
pub struct Live<J> {
    class: Cell<Class>,
    /// Tick of the last byte in either direction.
    active: Cell<u32>,
    /// Ticks without a byte after which it is ended; 0 for never.
    idle: Cell<u32>,
    ended: Cell<Option<Reason>>,
    /// The request body, the waiter for the response head and the response body may each wait.
    wakers: RefCell<[Option<Waker>; 3]>,
    /// What a new policy judges; `None` for what is never judged again.
    pub subject: J,
}

impl<J> Live<J> {
    /// Ends it for `reason`; the first reason stays.
    pub fn end(&self, reason: Reason) {
        if self.ended.get().is_none() {
            self.ended.set(Some(reason));
            let wakers = std::mem::take(&mut *self.wakers.borrow_mut());
            wakers.into_iter().flatten().for_each(Waker::wake);
        }
    }

    /// Why it was ended from outside, if it was.
    #[must_use]
    pub fn ended(&self) -> Option<Reason> {
        self.ended.get()
    }

    /// From now on a stream: an upgrade or CONNECT has been accepted.
    pub fn set_class(&self, class: Class) {
        self.class.set(class);
    }

    /// The class.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class.get()
    }

    /// Seconds without a byte after which it is ended; 0 for never.
    pub fn set_idle(&self, seconds: u32) {
        self.idle.set(seconds);
    }

    /// Notes that bytes have passed.
    pub fn touch(&self, now: u32) {
        self.active.set(now);
    }

    /// Ready with the reason when ended from outside. `side` is 0 for who waits for the head, 1 for the answer's body, 2 for the caller's.
    pub fn poll_ended(&self, side: usize, cx: &mut Context<'_>) -> Poll<Reason> {
        if let Some(reason) = self.ended.get() {
            return Poll::Ready(reason);
        }
        let slot = &mut self.wakers.borrow_mut()[side];
        if !slot.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *slot = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// What rows are about. Rows are used again, so it is made empty in place.
pub trait Subject: Default + 'static {
    /// Lets everything go that it holds.
    fn clear(&mut self);
}

impl<J: Subject> Live<J> {
    fn empty() -> Self {
        Self {
            class: Cell::new(Class::Request),
            active: Cell::new(0),
            idle: Cell::new(0),
            ended: Cell::new(None),
            wakers: RefCell::default(),
            subject: J::default(),
        }
    }

    fn clear(&mut self) {
        *self.ended.get_mut() = None;
        self.wakers.get_mut().fill(None);
        self.subject.clear();
    }
}

/// The exchanges of one worker.
pub struct LiveTable<J> {
    rows: RefCell<Slab<Rc<Live<J>>>>,
    /// Rows of exchanges that are over, to be used again.
    spare: RefCell<Vec<Rc<Live<J>>>>,
    tick: Cell<u32>,
}

/// Rows kept for exchanges to come: as many as end in one turn of a busy worker.
const MAX_SPARE: usize = 128;

impl<J> Default for LiveTable<J> {
    fn default() -> Self {
        Self { rows: RefCell::default(), spare: RefCell::default(), tick: Cell::new(0) }
    }
}

impl<J: Subject> LiveTable<J> {
    /// Enters an exchange, with an empty subject; it leaves when the guard is dropped.
    #[must_use]
    pub fn begin(self: &Rc<Self>, class: Class, idle: u32) -> LiveGuard<J> {
        // In a place that an earlier exchange has left, if there is one.
        let mut live = self.spare.borrow_mut().pop().unwrap_or_else(|| Rc::new(Live::empty()));
        let row = Rc::get_mut(&mut live).expect("kept only when nobody else has it");
        *row.class.get_mut() = class;
        *row.active.get_mut() = self.tick.get();
        *row.idle.get_mut() = idle;
        let key = self.rows.borrow_mut().insert(Rc::clone(&live));
        LiveGuard { table: Rc::clone(self), live, key }
    }

    /// A second has passed: ends what was idle for too long.
    pub fn tick(&self) {
        let now = self.tick.get().wrapping_add(1);
        self.tick.set(now);
        self.each(|live| {
            let idle = live.idle.get();
            // One tick more than asked, because the first may have been almost over when the last byte passed.
            if idle > 0 && now.wrapping_sub(live.active.get()) > idle {
                live.end(Reason::IdleTimeout);
            }
        });
    }

    /// Seconds since the worker's start.
    #[must_use]
    pub fn now(&self) -> u32 {
        self.tick.get()
    }

    /// Ends every exchange for which `verdict` gives a reason.
    pub fn judge(&self, verdict: impl Fn(&J) -> Option<Reason>) {
        self.each(|live| {
            if let Some(reason) = verdict(&live.subject) {
                live.end(reason);
            }
        });
    }

    /// Ends all of a class whose subject is `wanted`; how many there were.
    pub fn end_all(&self, class: Class, reason: Reason, wanted: impl Fn(&J) -> bool) -> usize {
        let ended = Cell::new(0);
        self.each(|live| {
            if live.class.get() == class && wanted(&live.subject) {
                live.end(reason);
                ended.set(ended.get() + 1);
            }
        });
        ended.get()
    }

    /// How many of a class, whose subject is `wanted`, are under way.
    #[must_use]
    pub fn count(&self, class: Class, wanted: impl Fn(&J) -> bool) -> usize {
        self.rows.borrow().iter().filter(|(_, live)| live.class.get() == class && wanted(&live.subject)).count()
    }

    /// Runs over a copy: ending an exchange may drop guards, which change the table.
    fn each(&self, f: impl Fn(&Live<J>)) {
        let all: Vec<Rc<Live<J>>> = self.rows.borrow().iter().map(|(_, live)| Rc::clone(live)).collect();
        all.iter().for_each(|live| f(live));
    }
}

/// Keeps an exchange in its table.
pub struct LiveGuard<J: Subject> {
    table: Rc<LiveTable<J>>,
    live: Rc<Live<J>>,
    key: usize,
}

impl<J: Subject> LiveGuard<J> {
    /// Notes that bytes have passed.
    pub fn touch(&self) {
        self.live.touch(self.table.tick.get());
    }

    /// The exchange, to be held by the body of the other direction.
    #[must_use]
    pub fn share(&self) -> Rc<Live<J>> {
        Rc::clone(&self.live)
    }
}

impl<J: Subject> std::ops::Deref for LiveGuard<J> {
    type Target = Live<J>;
    fn deref(&self) -> &Live<J> {
        &self.live
    }
}

impl<J: Subject> Drop for LiveGuard<J> {
    fn drop(&mut self) {
        let row = self.table.rows.borrow_mut().remove(self.key);
        drop(row);
        // Whoever still shares it keeps it as it is.
        let Some(live) = Rc::get_mut(&mut self.live) else { return };
        live.clear();
        let mut spare = self.table.spare.borrow_mut();
        if spare.len() < MAX_SPARE {
            spare.push(Rc::clone(&self.live));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Subject for () {
        fn clear(&mut self) {}
    }

    impl Subject for Cell<&'static str> {
        fn clear(&mut self) {
            self.set("");
        }
    }

    #[test]
    fn only_the_idle_are_ended() {
        let table = Rc::new(LiveTable::<()>::default());
        let idle = table.begin(Class::Request, 2);
        let busy = table.begin(Class::Request, 2);
        let patient = table.begin(Class::Stream, 0);
        for _ in 0..3 {
            table.tick();
            busy.touch();
        }
        assert_eq!(idle.ended(), Some(Reason::IdleTimeout));
        assert_eq!((busy.ended(), patient.ended()), (None, None));
        assert_eq!((table.count(Class::Request, |()| true), table.count(Class::Stream, |()| true)), (2, 1));
        drop((idle, busy));
        assert_eq!(table.count(Class::Request, |()| true), 0);
    }

    #[test]
    fn a_new_policy_ends_whom_it_denies() {
        let table = Rc::new(LiveTable::<Cell<&'static str>>::default());
        let (good, bad) = (table.begin(Class::Stream, 0), table.begin(Class::Stream, 0));
        bad.subject.set("bad");
        table.judge(|who| (who.get() == "bad").then_some(Reason::DeniedByPolicy));
        bad.end(Reason::Draining);
        assert_eq!((good.ended(), bad.ended()), (None, Some(Reason::DeniedByPolicy)), "the first reason stays");
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(bad.poll_ended(0, &mut cx), Poll::Ready(Reason::DeniedByPolicy));
        assert!(good.poll_ended(0, &mut cx).is_pending());
    }

    #[test]
    fn a_row_that_is_used_again_is_as_new() {
        let table = Rc::new(LiveTable::<Cell<&'static str>>::default());
        let first = table.begin(Class::Stream, 7);
        first.subject.set("first");
        let place = Rc::as_ptr(&first.share());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(first.poll_ended(1, &mut cx).is_pending());
        first.end(Reason::Draining);
        drop(first);
        let second = table.begin(Class::Request, 0);
        assert_eq!(Rc::as_ptr(&second.share()), place);
        assert_eq!((second.class(), second.ended(), second.idle.get()), (Class::Request, None, 0));
        assert_eq!(second.subject.get(), "");
        let shared = second.share();
        drop(second);
        let third = table.begin(Class::Request, 0);
        assert_ne!(Rc::as_ptr(&third.share()), Rc::as_ptr(&shared), "whoever still shares it keeps it");
    }
}
