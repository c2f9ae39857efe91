//! What the program started and left behind when it ended: workers of a master that was killed, jobs of a shell. They would keep its
//! ports, and would run outside of every supervision.
//!
//! The supervisor is their parent from the moment they are orphans, whatever group or session they made for themselves.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Supervisor;
use super::proxy_process::SIGTERM;

/// `signal(7)`.
const SIGKILL: i32 = 9;
/// Between two looks at who is still there.
const LOOK: Duration = Duration::from_millis(20);
/// Killed processes are gone within moments; one that is not hangs in the kernel, and nobody can end it.
const KILL_LIMIT: Duration = Duration::from_secs(2);

impl Supervisor {
    /// The descendants of the supervisor that are not its proxies, and not the program while that runs.
    fn left_behind(&self) -> Vec<u32> {
        let own = std::iter::once(&self.proxy).chain(&self.retiring).filter_map(|p| p.id());
        let own: Vec<u32> = own.chain(self.program.id()).collect();
        let mut all = leno_sys::process::descendants(std::process::id());
        all.retain(|pid| !own.contains(pid));
        all
    }

    /// Takes note of the end of orphans.
    pub(super) fn reap_left_behind(&self) {
        self.left_behind().into_iter().for_each(leno_sys::process::reap);
    }

    /// Once the program has ended: asks everything it left behind to end, and kills it after `grace`, or at the next signal to stop.
    pub(super) async fn end_left_behind(&mut self, grace: Duration) {
        let mut asked = BTreeSet::new();
        let (mut kill_at, mut told) = (Instant::now() + grace, false);
        loop {
            self.reap_left_behind();
            let left = self.left_behind();
            if left.is_empty() {
                return;
            }
            if !std::mem::replace(&mut told, true) {
                tracing::warn!("the program left {} processes behind, which are ended", left.len());
            }
            let now = Instant::now();
            if now > kill_at + KILL_LIMIT {
                tracing::error!("processes that the program left behind cannot be ended: {left:?}");
                return;
            }
            for pid in left {
                // Each is asked once, also one that another of them starts only now.
                if now >= kill_at {
                    let _ = leno_sys::process::send_signal(pid, SIGKILL);
                } else if asked.insert(pid) {
                    let _ = leno_sys::process::send_signal(pid, SIGTERM);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = self.signals.terminate.recv() => kill_at = Instant::now(),
                _ = self.signals.interrupt.recv() => kill_at = Instant::now(),
            }
        }
    }
}
