//! Waiting for states, never for times.

use std::time::{Duration, Instant};

/// A state that has not come after this long will not come; generous because machines are shared.
pub const LIMIT: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(20);

/// Asks again and again until there is an answer; panics with the last complaint otherwise.
#[track_caller]
pub fn until<T>(what: &str, ask: impl FnMut() -> Result<T, String>) -> T {
    until_within(LIMIT, what, ask)
}

/// [`until`] for what takes long by design: `limit` is beyond the longest that it may take.
#[track_caller]
pub fn until_within<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(complaint) if start.elapsed() > limit => panic!("{what}: not within {limit:?}: {complaint}"),
            Err(_) => std::thread::sleep(STEP),
        }
    }
}
