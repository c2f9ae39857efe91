//! This process, its children, its limits.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions};

pub use libc::{SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGUSR1};

/// What a process has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory in bytes.
    pub rss_bytes: u64,
    /// Processor time, user and kernel, of all threads.
    pub cpu: Duration,
    /// Threads.
    pub threads: u32,
}

/// The user that this process acts as.
#[must_use]
pub fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Workers for the processors that this process may use: affinity and cgroup quota (v1 and v2) count, at least 1.
#[must_use]
pub fn worker_count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Open files permitted now.
#[must_use]
pub fn open_file_limit() -> u64 {
    rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the permitted number of open files as far as is allowed, and returns it. Connections are capped by it.
pub fn raise_open_file_limit() -> io::Result<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        rustix::process::setrlimit(Resource::Nofile, raised)?;
    }
    Ok(open_file_limit())
}

/// The child that `command` starts gets `signal` when the *thread* that started it ends (prctl(2)): start it from a
/// thread that lives as long as the process.
#[expect(unsafe_code, reason = "Command::pre_exec is unsafe")]
pub fn die_with_parent(command: &mut Command, signal: i32) {
    let parent = std::process::id();
    let set = move || {
        // SAFETY: prctl(PR_SET_PDEATHSIG) takes a number and touches this process only.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::c_ulong::from(signal.cast_unsigned())) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // The parent may have ended before the call: then no signal would ever come.
        // SAFETY: getppid has no preconditions.
        if unsafe { libc::getppid() }.cast_unsigned() != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two system calls; errors are made from numbers, without
    // allocation.
    unsafe { command.pre_exec(set) };
}

/// Lets a write to a closed pipe end the process silently (SIGPIPE), as programs that print an answer do. Rust ignores the
/// signal, which turns it into a panic of `println!`.
#[expect(unsafe_code, reason = "signal(2)")]
pub fn end_on_closed_pipe() {
    // SAFETY: the default action is installed; no handler of ours runs.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Sends a signal to one process. Only for children that were not waited for yet: a number may be used again.
pub fn send_signal(pid: u32, signal: i32) -> io::Result<()> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("no such {what}"));
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| invalid("process number"))?;
    let signal = Signal::from_named_raw(signal).ok_or_else(|| invalid("signal"))?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

/// What a process has used so far; `None` once it is gone.
#[must_use]
pub fn usage(pid: u32) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything; fields are counted after its end (proc_pid_stat(5), field 3 on).
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = number(14)? + number(15)?;
    let nanos = ticks.saturating_mul(1_000_000_000 / rustix::param::clock_ticks_per_second());
    Some(Usage {
        rss_bytes: number(24)? * u64::try_from(rustix::param::page_size()).ok()?,
        cpu: Duration::from_nanos(nanos),
        threads: u32::try_from(number(20)?).ok()?,
    })
}

/// A process that has this socket open, as far as this user may look.
#[must_use]
pub fn pid_of_socket(inode: u64) -> Option<u32> {
    let wanted = format!("socket:[{inode}]");
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Ok(fds) = std::fs::read_dir(entry.path().join("fd")) else { continue };
        if fds.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|l| l.as_os_str() == wanted.as_str())) {
            return Some(pid);
        }
    }
    None
}

/// Whether a process was started by another one, or by one that it started.
#[must_use]
pub fn is_descendant(pid: u32, ancestor: u32) -> bool {
    let mut at = pid;
    // Bounded by the kernel's own limit on nesting in practice; process ids may be reused while this walks.
    for _ in 0..64 {
        if at == ancestor {
            return true;
        }
        let Some(parent) = parent_of(at).filter(|p| *p != 0) else { return false };
        at = parent;
    }
    false
}

/// From now on this process is the parent of whatever its descendants leave behind when they end, in place of init (prctl(2),
/// `PR_SET_CHILD_SUBREAPER`): it can find and end them, and has to [`reap`] them.
pub fn adopt_orphans() -> io::Result<()> {
    // Any number but none turns it on.
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// The processes that a process started or adopted, and theirs, all the way down; those that ended and were not waited for too.
#[must_use]
pub fn descendants(pid: u32) -> Vec<u32> {
    let numbers = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let all = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pairs: Vec<(u32, u32)> = all.filter_map(|child| Some((child, parent_of(child)?))).collect();
    let mut found = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        let children = pairs.iter().filter(|(child, p)| *p == parent && !found.contains(child));
        let children: Vec<u32> = children.map(|(child, _)| *child).collect();
        found.extend(&children);
        parents.extend(children);
    }
    found
}

/// Takes note of the end of a child that was adopted, so that its number is free again; does nothing while it runs. Never for a
/// child that somebody else in this process waits for.
pub fn reap(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // An error means that it is not our child: then there is nothing to do.
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// `PPid` of proc_pid_status(5).
fn parent_of(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    #[test]
    fn descent_is_followed_upwards() {
        let parent = std::os::unix::process::parent_id();
        let me = std::process::id();
        assert!(is_descendant(me, me) && is_descendant(me, parent) && is_descendant(me, 1));
        assert!(!is_descendant(parent, me) && !is_descendant(u32::MAX, me));
    }

    #[test]
    fn descendants_are_found_at_any_depth() {
        // `true` keeps the shell from becoming the sleep itself.
        let mut child = Command::new("sh").args(["-c", "sleep 600; true"]).stdin(Stdio::null()).spawn().unwrap();
        let me = std::process::id();
        let grandchild = loop {
            if let Some(pid) = descendants(child.id()).first() {
                break *pid;
            }
            std::thread::yield_now();
        };
        let all = descendants(me);
        assert!(all.contains(&child.id()) && all.contains(&grandchild) && !all.contains(&me), "{all:?}");
        // Neither is an orphan of ours, and both run: nothing happens.
        reap(grandchild);
        reap(u32::MAX);
        child.kill().unwrap();
        child.wait().unwrap();
        send_signal(grandchild, libc::SIGKILL).unwrap();
    }

    #[test]
    fn this_process_has_used_something() {
        let used = usage(std::process::id()).unwrap();
        assert!(used.rss_bytes > 100_000 && used.threads >= 1, "{used:?}");
        assert_eq!(usage(u32::MAX), None);
        assert!(worker_count() >= 1);
    }

    /// A thread's affinity is its own, so that this concerns no other test.
    #[test]
    #[expect(unsafe_code, reason = "sched_setaffinity(2)")]
    fn workers_follow_the_affinity() {
        let count = std::thread::spawn(|| {
            // SAFETY: an all-zero cpu_set_t is an empty set; the call reads it and concerns this thread only.
            unsafe {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                let first = (0..1024).find(|cpu| {
                    libc::CPU_ZERO(&mut set);
                    libc::CPU_SET(*cpu, &mut set);
                    libc::sched_setaffinity(0, size_of_val(&set), &raw const set) == 0
                });
                assert!(first.is_some(), "some processor may be used");
            }
            worker_count()
        });
        assert_eq!(count.join().unwrap(), 1);
    }

    #[test]
    fn the_file_limit_is_raised_to_what_is_allowed() {
        let raised = raise_open_file_limit().unwrap();
        assert_eq!(raised, open_file_limit());
        let limit = rustix::process::getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }

    #[test]
    fn signals_reach_children() {
        use std::os::unix::process::ExitStatusExt;
        let mut child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
        send_signal(child.id(), libc::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        assert!(send_signal(0, libc::SIGTERM).is_err());
        assert!(send_signal(u32::MAX, libc::SIGTERM).is_err());
    }

    #[test]
    fn a_child_dies_with_the_thread_that_started_it() {
        use std::os::unix::process::ExitStatusExt;
        let start = || {
            let mut command = Command::new("sleep");
            command.arg("600");
            die_with_parent(&mut command, libc::SIGKILL);
            command.spawn().unwrap()
        };
        let mut child = std::thread::spawn(start).join().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    }
}
