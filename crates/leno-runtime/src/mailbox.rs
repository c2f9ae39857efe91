//! A mailbox of one: the newest value wins, an unread older one is dropped. For snapshots handed from the control
//! thread to workers: a worker that was busy wants the latest, not the history.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

#[derive(Debug)]
struct Slot<T> {
    state: Mutex<State<T>>,
    arrived: Notify,
}

#[derive(Debug)]
struct State<T> {
    value: Option<T>,
    closed: bool,
}

/// Puts values in.
#[derive(Debug)]
pub struct Sender<T>(Arc<Slot<T>>);

/// Takes values out; one per mailbox.
#[derive(Debug)]
pub struct Receiver<T>(Arc<Slot<T>>);

/// Makes the two ends.
#[must_use]
pub fn mailbox<T>() -> (Sender<T>, Receiver<T>) {
    let slot = Arc::new(Slot { state: Mutex::new(State { value: None, closed: false }), arrived: Notify::new() });
    (Sender(slot.clone()), Receiver(slot))
}

impl<T> Slot<T> {
    fn with<R>(&self, f: impl FnOnce(&mut State<T>) -> R) -> R {
        // A panic elsewhere cannot leave the slot half changed.
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Sender<T> {
    /// Replaces what was not taken yet. False if the receiver is gone.
    pub fn put(&self, value: T) -> bool {
        let accepted = self.0.with(|state| {
            let open = !state.closed;
            if open {
                state.value = Some(value);
            }
            open
        });
        self.0.arrived.notify_one();
        accepted
    }
}

impl<T> Receiver<T> {
    /// What has arrived, without waiting.
    pub fn take(&mut self) -> Option<T> {
        self.0.with(|state| state.value.take())
    }

    /// Waits for a value; `None` when the sender is gone and nothing is left. Cancel safe.
    pub async fn recv(&mut self) -> Option<T> {
        loop {
            // notify_one stores a permit, so a value put between the look and the wait is not missed.
            let (value, closed) = self.0.with(|state| (state.value.take(), state.closed));
            if value.is_some() || closed {
                return value;
            }
            self.0.arrived.notified().await;
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.with(|state| state.closed = true);
        self.0.arrived.notify_one();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        // The value goes at once, not when the sender does: it may hold connections or memory.
        let value = self.0.with(|state| {
            state.closed = true;
            state.value.take()
        });
        drop(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_value_wins() {
        let (sender, mut receiver) = mailbox();
        assert_eq!(receiver.take(), None);
        assert!(sender.put(1) && sender.put(2));
        assert_eq!(receiver.recv().await, Some(2));
        let (value, ()) = tokio::join!(receiver.recv(), async {
            sender.put(3);
        });
        assert_eq!(value, Some(3));
        sender.put(4);
        drop(sender);
        assert_eq!((receiver.recv().await, receiver.recv().await), (Some(4), None));
    }

    #[test]
    fn a_gone_receiver_is_noticed_and_frees_the_value() {
        let (sender, receiver) = mailbox();
        let value = Arc::new(());
        sender.put(value.clone());
        drop(receiver);
        assert_eq!(Arc::strong_count(&value), 1);
        assert!(!sender.put(value.clone()));
    }
}
