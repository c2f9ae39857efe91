//! What processes used, as the kernel accounts it in /proc.
//!
//! CPU comes from `schedstat`: nanoseconds on a CPU, of every thread. A noisy neighbour moves latencies, not it. A thread
//! that ended between two looks takes its share with it; proxies do not end threads under load.

use std::io;
use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

/// Counters since the process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Nanoseconds on a CPU.
    pub cpu: u64,
    /// Context switches, asked for or not.
    pub switches: u64,
}

impl Sub for Usage {
    type Output = Self;
    fn sub(self, before: Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(before.cpu), switches: self.switches.saturating_sub(before.switches) }
    }
}

impl Add for Usage {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { cpu: self.cpu + other.cpu, switches: self.switches + other.switches }
    }
}

/// Memory now, in kB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Resident, files included.
    pub resident: u64,
    /// Resident and not backed by a file: what the process made itself.
    pub anonymous: u64,
}

/// The sum over these processes.
pub fn of(pids: &[u32]) -> io::Result<Usage> {
    let mut sum = Usage::default();
    for pid in pids {
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let folder = task?.path();
            // A thread may end between the listing and the reading.
            let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
            sum.cpu += first_number(&read("schedstat"));
            let status = read("status");
            sum.switches += field(&status, "voluntary_ctxt_switches:") + field(&status, "nonvoluntary_ctxt_switches:");
        }
    }
    Ok(sum)
}

/// The sum over these processes.
pub fn memory(pids: &[u32]) -> io::Result<Memory> {
    let mut sum = Memory::default();
    for pid in pids {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        sum.resident += field(&text, "Rss:");
        sum.anonymous += field(&text, "Anonymous:");
    }
    Ok(sum)
}

fn field(text: &str, name: &str) -> u64 {
    text.lines().find_map(|l| l.strip_prefix(name)).map_or(0, first_number)
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_is_seen_working() {
        let own = [std::process::id()];
        let before = of(&own).unwrap();
        let mut x = 0u64;
        while (of(&own).unwrap() - before).cpu == 0 {
            x = std::hint::black_box(x.wrapping_mul(31) + 1);
        }
        let memory = memory(&own).unwrap();
        assert!(memory.anonymous > 0 && memory.resident > memory.anonymous, "{memory:?}");
    }
}
