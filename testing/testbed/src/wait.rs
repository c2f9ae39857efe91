//! Waiting for states, never for times.

use std::time::{Duration, Instant};

/// A state that has not come after this long will not come; generous because machines are shared.
pub const LIMIT: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(20);

/// Asks again and again until there is an answer; panics with the last complaint otherwise.
#[track_caller]
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(complaint) if start.elapsed() > LIMIT => panic!("{what}: not within {LIMIT:?}: {complaint}"),
            Err(_) => std::thread::sleep(STEP),
        }
    }
}
