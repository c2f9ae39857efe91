//! redb panics on some damaged files instead of saying that they are damaged. Here that becomes an error with the file's name.
//!
//! Whatever reads or writes the database file runs inside [`contained`]. The panic itself is kept out of the log: its message
//! is in the error, and a backtrace into a dependency tells an operator nothing.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::Path;
use std::sync::Once;

use crate::contract::StoreError;

thread_local! {
    /// Whether this thread is at work on a database file.
    static AT_WORK: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on the file at `path`; a panic in it is [`StoreError::Damaged`]. What `work` had half done is dropped while the panic
/// unwinds: a transaction that was not committed is as if it had never begun.
pub(super) fn contained<T>(path: &Path, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    quiet_hook();
    let before = AT_WORK.replace(true);
    // What redb leaves behind is used again: a lock that was held over the panic is poisoned, which is a panic again and ends here
    // too, until the writer opens the file anew.
    let outcome = catch_unwind(AssertUnwindSafe(work));
    AT_WORK.set(before);
    match outcome {
        // Who noticed does not know which file it is.
        Ok(outcome) => outcome.map_err(|error| match error {
            StoreError::Damaged { detail, .. } => damaged(path, &detail),
            other => other,
        }),
        Err(panic) => Err(damaged(path, &said(&*panic))),
    }
}

/// A file that is damaged, in the words of whoever noticed.
pub(super) fn damaged(path: &Path, detail: &str) -> StoreError {
    StoreError::Damaged { path: path.display().to_string(), detail: detail.to_owned() }
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic").lines().next().unwrap_or_default().to_owned()
}

/// Once for the process: panics on other threads and outside of this module are told as before.
fn quiet_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |info| {
            if !AT_WORK.get() {
                others(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_damaged_file_and_the_next_piece_of_work_is_done() {
        let path = Path::new("/data/store.redb");
        let number = 7;
        let error = contained::<()>(path, || panic!("page {number} is odd")).unwrap_err().to_string();
        assert!(error.contains("/data/store.redb") && error.contains("page 7 is odd") && error.contains("backup"));
        assert_eq!(contained(path, || Ok(1)).unwrap(), 1);
        assert!(!AT_WORK.get());
    }
}
