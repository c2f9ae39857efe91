//! Readiness as named guards: the process is ready when nobody holds one, and can say who still does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// What is still missing. Clones share it.
#[derive(Debug, Clone)]
pub struct Readiness {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pending: Mutex<BTreeMap<String, usize>>,
    count: watch::Sender<usize>,
}

/// Holds readiness back until dropped.
#[derive(Debug)]
#[must_use = "dropping the guard says that the task is ready"]
pub struct ReadyGuard {
    name: String,
    inner: Arc<Inner>,
}

impl Readiness {
    /// Ready until the first guard is taken: take them before anyone asks.
    #[must_use]
    pub fn new() -> Self {
        Self { inner: Arc::new(Inner { pending: Mutex::default(), count: watch::channel(0).0 }) }
    }

    /// Holds readiness back in this name, which operators see.
    pub fn pending(&self, name: impl Into<String>) -> ReadyGuard {
        let name = name.into();
        self.inner.change(|pending| *pending.entry(name.clone()).or_default() += 1);
        ReadyGuard { name, inner: self.inner.clone() }
    }

    /// Who holds it back, in order of name.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        self.inner.pending.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Whether nobody does.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.inner.count.borrow() == 0
    }

    /// Waits until nobody does. Cancel safe.
    pub async fn ready(&self) {
        let _ = self.inner.count.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Inner {
    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, usize>)) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut pending);
        self.count.send_replace(pending.len());
    }
}

impl Drop for ReadyGuard {
    fn drop(&mut self) {
        let name = &self.name;
        self.inner.change(|pending| match pending.get_mut(name) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                pending.remove(name);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn guards_name_what_is_missing() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let (a, b, again) = (readiness.pending("bundle"), readiness.pending("api"), readiness.pending("api"));
        assert_eq!(readiness.missing(), ["api", "bundle"]);
        drop((a, b));
        assert_eq!(readiness.missing(), ["api"]);
        assert!(!readiness.is_ready());
        let ((), ()) = tokio::join!(readiness.ready(), async { drop(again) });
        assert!(readiness.is_ready() && readiness.missing().is_empty());
    }
}
