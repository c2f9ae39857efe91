//! Places for the futures of streams: one that is done leaves its place to the next of its kind, so that a stream asks the allocator
//! for nothing.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Places that a thread keeps of each kind of future. They are 2 to 3 KB each, so this is what a burst leaves behind.
const MAX_ROOMS: usize = 128;

/// The free places of one kind, on the heap like what they hold.
type Free<F> = Vec<Pin<Box<Option<F>>>>;

thread_local! {
    /// There are two or three kinds in a process: a list is faster than a table.
    static FREE: RefCell<Vec<(TypeId, Box<dyn Any>)>> = const { RefCell::new(Vec::new()) };
}

fn with_free<F: 'static, T>(work: impl FnOnce(&mut Free<F>) -> T) -> Option<T> {
    let of_kind = |free: &RefCell<Vec<(TypeId, Box<dyn Any>)>>| {
        let mut kinds = free.borrow_mut();
        let kind = TypeId::of::<F>();
        let at = kinds.iter().position(|(known, _)| *known == kind).unwrap_or_else(|| {
            kinds.push((kind, Box::new(Free::<F>::new())));
            kinds.len() - 1
        });
        work(kinds[at].1.downcast_mut().expect("entered under its own type"))
    };
    // A thread that ends has no places any more.
    FREE.try_with(of_kind).ok()
}

/// A future of some kind in its place. Dropped before its end, it takes the place with it.
pub(crate) struct Guest(Pin<Box<dyn Stay>>);

impl Guest {
    /// Moves a future into a place that another one has left, or into a new one.
    pub fn of<F: Future<Output = ()> + 'static>(future: F) -> Self {
        let mut place = with_free(Free::<F>::pop).flatten().unwrap_or_else(|| Box::pin(None));
        place.as_mut().set(Some(future));
        Self(place)
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().stay(cx)
    }

    /// Leaves the place to the next.
    pub fn leave(self) {
        self.0.leave();
    }
}

trait Stay {
    fn stay(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()>;
    fn leave(self: Pin<Box<Self>>);
}

impl<F: Future<Output = ()> + 'static> Stay for Option<F> {
    fn stay(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.as_pin_mut().expect("set when made").poll(cx)
    }

    fn leave(mut self: Pin<Box<Self>>) {
        self.as_mut().set(None);
        with_free(|free| {
            if free.len() < MAX_ROOMS {
                free.push(self);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::task::Waker;

    use super::*;

    async fn held<T>(value: T) {
        drop(value);
    }

    #[test]
    fn a_place_is_used_again_and_holds_nothing_meanwhile() {
        let watched = Rc::new(7);
        let mut cx = Context::from_waker(Waker::noop());
        let mut first = Guest::of(held(Rc::clone(&watched)));
        let place = std::ptr::from_ref(&*first.0).addr();
        assert!(first.poll(&mut cx).is_ready());
        first.leave();
        assert_eq!(Rc::strong_count(&watched), 1);
        let second = Guest::of(held(Rc::clone(&watched)));
        assert_eq!(std::ptr::from_ref(&*second.0).addr(), place);
        second.leave();
        assert_eq!(Rc::strong_count(&watched), 1, "a future that never ran is dropped, too");
    }

    /// Free places of the kind of this future.
    fn free_for<F: 'static>(_: &F) -> usize {
        with_free::<F, _>(|free| free.len()).unwrap()
    }

    #[test]
    fn a_burst_is_given_back() {
        let guests: Vec<_> = (0..200_u64).map(|n| Guest::of(held(n))).collect();
        assert_eq!(free_for(&held(0_u64)), 0);
        guests.into_iter().for_each(Guest::leave);
        assert_eq!(free_for(&held(0_u64)), MAX_ROOMS);
        assert_eq!(free_for(&held(0_u32)), 0, "another kind has places of its own");
    }
}
