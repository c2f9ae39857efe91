//! The memory of a process, sampled while something is done to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two samples: short against what a flood takes, long against the cost of reading one file.
const SAMPLE: Duration = Duration::from_millis(5);
/// Between two looks of [`settled`], and how many of them must say the same.
const LOOK: (Duration, usize) = (Duration::from_millis(100), 15);
/// What may come and go between two looks without being a change: a page or two of a tick, in KiB.
const SAME: u64 = 64;

/// Anonymous resident memory in KiB: heap and stacks, without the pages of the binary, which the kernel can drop.
#[must_use]
pub fn anonymous_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let mut pages = text.split(' ').skip(1).map_while(|n| n.parse::<u64>().ok());
    let (resident, shared) = (pages.next().unwrap_or_default(), pages.next().unwrap_or_default());
    resident.saturating_sub(shared) * rustix::param::page_size() as u64 / 1024
}

/// Waits until the memory neither grows nor shrinks any more, and gives it in KiB.
#[track_caller]
#[must_use]
pub fn settled(pid: u32) -> u64 {
    let mut last = Vec::new();
    crate::wait::until("the memory stays the same", || {
        std::thread::sleep(LOOK.0);
        last.push(anonymous_kib(pid));
        let recent = &last[last.len().saturating_sub(LOOK.1)..];
        let (least, most) = (recent.iter().min().copied(), recent.iter().max().copied());
        let (least, most) = (least.unwrap_or_default(), most.unwrap_or_default());
        if recent.len() == LOOK.1 && most - least <= SAME { Ok(most) } else { Err(format!("{last:?} KiB")) }
    })
}

/// A process under observation.
pub struct Watch {
    name: String,
    pid: u32,
    before: u64,
    peak: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    sampler: Option<JoinHandle<()>>,
}

impl Watch {
    /// Takes the memory of now as the baseline, and samples from here on.
    #[must_use]
    pub fn start(name: &str, pid: u32) -> Self {
        let before = anonymous_kib(pid);
        let (peak, end) = (Arc::new(AtomicU64::new(before)), Arc::new(AtomicBool::new(false)));
        let sampler = {
            let (peak, end) = (Arc::clone(&peak), Arc::clone(&end));
            std::thread::spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    peak.fetch_max(anonymous_kib(pid), Ordering::Relaxed);
                    std::thread::sleep(SAMPLE);
                }
            })
        };
        Self { name: name.to_owned(), pid, before, peak, end, sampler: Some(sampler) }
    }

    /// What it grew to so far above the baseline, in KiB.
    #[must_use]
    pub fn growth(&self) -> u64 {
        self.peak.load(Ordering::Relaxed).saturating_sub(self.before)
    }

    /// Ends the sampling, prints the memory before, at its peak and after, and demands that it grew by no more than `peak` MiB and
    /// that all but `slack` MiB of the growth is given back, for which it waits `limit`.
    #[track_caller]
    pub fn bounded(self, attack: &str, peak: u64, slack: u64, limit: Duration) {
        let allowed = self.before + slack * 1024;
        let start = std::time::Instant::now();
        let after = loop {
            let now = anonymous_kib(self.pid);
            if now <= allowed || start.elapsed() > limit {
                break now;
            }
            std::thread::sleep(LOOK.0);
        };
        let most = self.peak.load(Ordering::Relaxed);
        let mib = |kib: u64| kib as f64 / 1024.0;
        println!(
            "memory, {attack}, {}: before {:.1} MiB, peak {:.1} MiB, after {:.1} MiB",
            self.name,
            mib(self.before),
            mib(most),
            mib(after)
        );
        assert!(most > 0 && after > 0, "{} has ended", self.name);
        let grown = mib(most - self.before);
        assert!(
            most <= self.before + peak * 1024,
            "{attack}: {} grew by {grown:.1} MiB, not {peak} at most",
            self.name
        );
        assert!(after <= allowed, "{attack}: {} keeps {:.1} MiB", self.name, mib(after - self.before));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(sampler) = self.sampler.take() {
            let _ = sampler.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_seen_and_its_end_as_well() {
        let watch = Watch::start("this test", std::process::id());
        let block = vec![1_u8; 64 << 20];
        crate::wait::until("the block is seen", || match watch.growth() {
            grown if grown >= 64 * 1024 => Ok(()),
            grown => Err(format!("{grown} KiB of {}", block.len() / 1024)),
        });
        drop(block);
        watch.bounded("a block", 80, 16, Duration::from_secs(30));
    }
}
