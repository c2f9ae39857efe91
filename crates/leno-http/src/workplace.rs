//! Places where large futures work: a future that is through with one piece of work waits where it is for the next, so that it is
//! neither made, moved nor allocated for each, and whoever has nothing to do holds no room for one.

use std::any::{Any, TypeId};
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Places that a thread keeps of each kind. They are 2 to 3 KB each, so this is what a burst leaves behind.
const MAX_PLACES: usize = 128;

thread_local! {
    /// There are two or three kinds in a process: a list is faster than a table.
    static FREE: RefCell<Vec<(TypeId, Box<dyn Any>)>> = const { RefCell::new(Vec::new()) };
}

/// Over which work comes in, and what came of it goes out.
pub(crate) struct Desk<A, T> {
    work: Cell<Option<A>>,
    outcome: Cell<Option<T>>,
}

impl<A, T> Desk<A, T> {
    /// The next piece of work. Whoever brings it polls.
    pub async fn next(&self) -> A {
        poll_fn(|_| self.work.take().map_or(Poll::Pending, Poll::Ready)).await
    }

    /// Hands over what came of the last piece.
    pub fn give(&self, outcome: T) {
        self.outcome.set(Some(outcome));
    }
}

/// A future at its desk.
struct Place<A, T, F> {
    desk: Rc<Desk<A, T>>,
    worker: Pin<Box<F>>,
}

/// The free places of one kind.
type Free<A, T, F> = Vec<Place<A, T, F>>;

fn with_free<A: 'static, T: 'static, F: 'static, R>(work: impl FnOnce(&mut Free<A, T, F>) -> R) -> Option<R> {
    let of_kind = |free: &RefCell<Vec<(TypeId, Box<dyn Any>)>>| {
        let mut kinds = free.borrow_mut();
        let kind = TypeId::of::<F>();
        let at = kinds.iter().position(|(known, _)| *known == kind).unwrap_or_else(|| {
            kinds.push((kind, Box::new(Free::<A, T, F>::new())));
            kinds.len() - 1
        });
        work(kinds[at].1.downcast_mut().expect("entered under its own type"))
    };
    // A thread that ends has no places any more.
    FREE.try_with(of_kind).ok()
}

/// A piece of work in a place. Dropped before its end, it takes the future with it.
pub(crate) struct Job<A: 'static, T: 'static, F: 'static>(Option<Place<A, T, F>>);

impl<A, T, F: Future<Output = Infallible>> Job<A, T, F> {
    /// Gives `work` to a future that waits for some, or to one that `hire` makes. It must ask [`Desk::next`] for each piece and
    /// [`Desk::give`] what came of it.
    pub fn of(work: A, hire: impl FnOnce(Rc<Desk<A, T>>) -> F) -> Self {
        let place = with_free(Free::<A, T, F>::pop).flatten().unwrap_or_else(|| {
            let desk = Rc::new(Desk { work: Cell::new(None), outcome: Cell::new(None) });
            Place { worker: Box::pin(hire(Rc::clone(&desk))), desk }
        });
        place.desk.work.set(Some(work));
        Self(Some(place))
    }
}

impl<A, T, F: Future<Output = Infallible>> Future for Job<A, T, F> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let place = self.0.as_mut().expect("not polled after its end");
        let Poll::Pending = place.worker.as_mut().poll(cx);
        let Some(outcome) = place.desk.outcome.take() else { return Poll::Pending };
        let mut place = self.0.take();
        with_free(|free: &mut Free<A, T, F>| {
            if free.len() < MAX_PLACES {
                free.extend(place.take());
            }
        });
        Poll::Ready(outcome)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Gives back the address of a local, and what it got.
    async fn echo<A>(desk: Rc<Desk<A, (usize, A)>>) -> Infallible {
        let local = [0_u8; 100];
        loop {
            let work = desk.next().await;
            tokio::task::yield_now().await;
            desk.give((local.as_ptr().addr(), work));
        }
    }

    fn finish<T>(mut job: impl Future<Output = T> + Unpin) -> T {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut job).poll(&mut cx).is_pending());
        match Pin::new(&mut job).poll(&mut cx) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => panic!("it has yielded once"),
        }
    }

    #[test]
    fn a_place_is_used_again_and_holds_nothing_meanwhile() {
        let watched = Rc::new(7);
        let (first, given) = finish(Job::of(Rc::clone(&watched), echo));
        assert_eq!((*given, Rc::strong_count(&given)), (7, 2));
        drop(given);
        assert_eq!(Rc::strong_count(&watched), 1);
        let (second, _) = finish(Job::of(Rc::clone(&watched), echo));
        assert_eq!(first, second);
        let mut dropped = Job::of(Rc::clone(&watched), echo);
        assert!(Pin::new(&mut dropped).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(dropped);
        drop(Job::of(Rc::clone(&watched), echo));
        assert_eq!(Rc::strong_count(&watched), 1, "work that was not done is let go");
    }

    #[test]
    fn a_burst_is_given_back() {
        fn free<A: 'static, T: 'static, F: 'static>(_: impl FnOnce(Rc<Desk<A, T>>) -> F) -> usize {
            with_free(|free: &mut Free<A, T, F>| free.len()).unwrap()
        }
        let mut cx = Context::from_waker(Waker::noop());
        let mut jobs: Vec<_> = (0..200_u64).map(|n| Job::of(n, echo)).collect();
        assert_eq!(free(echo::<u64>), 0);
        for _ in 0..2 {
            jobs.iter_mut().for_each(|job| _ = Pin::new(job).poll(&mut cx));
        }
        assert_eq!((free(echo::<u64>), free(echo::<u32>)), (MAX_PLACES, 0), "each kind has places of its own");
    }
}
