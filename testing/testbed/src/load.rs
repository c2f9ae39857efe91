//! Load that tells every request that did not end well: a fixed number by h2load, or around an event by a client of our own.

use std::time::Duration;

use crate::network::Host;
use crate::process::{Process, run};

/// What h2load counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Requests that got an answer of any status.
    pub done: u64,
    /// Answers with 2xx.
    pub fine: u64,
    /// Everything else: other statuses, broken connections, timeouts.
    pub bad: u64,
    /// Sent once more because a kept connection ended before any of the answer; by [`Load`] only.
    pub resent: u64,
    /// Connections that nobody accepted; by [`Load`] only.
    pub refused: u64,
}

impl Report {
    /// Nothing was lost, nor had to be sent again, nor found the door closed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.bad == 0 && self.resent == 0 && self.refused == 0
    }
}

/// Load under way, by `programs/load.py`: keep-alive connections that are opened again when they were closed, as every HTTP
/// client does. It begins before [`Load::start`] returns and goes on after [`Load::finish`] is called, so that it spans
/// whatever a scenario does in between, however slow the machine is.
pub struct Load {
    process: Process,
    _folder: tempfile::TempDir,
}

/// Requests that must be answered before and after what a scenario does.
const AROUND: u64 = 200;

impl Load {
    /// Requests over `connections` HTTP/1.1 keep-alive connections, at most `rate` requests/s in all.
    #[track_caller]
    #[must_use]
    pub fn start(host: &Host, url: &str, connections: u32, rate: u32) -> Self {
        let mut command = host.command(crate::apps::PYTHON);
        command.arg(crate::apps::program("load.py")).args([url, &connections.to_string(), &rate.to_string()]);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut load = Self { process: Process::start("load", &mut command, folder.path()), _folder: folder };
        load.answered(AROUND);
        load
    }

    /// Waits until `more` requests than now were answered well.
    #[track_caller]
    fn answered(&mut self, more: u64) {
        let goal = self.report().fine + more;
        crate::wait::until("the load goes on", || {
            assert!(self.process.is_running(), "the load ended by itself: {}", self.process.log());
            if self.report().fine >= goal { Ok(()) } else { Err(format!("{:?} of {goal}", self.report())) }
        });
    }

    fn report(&self) -> Report {
        let log = self.process.log();
        let counts = |line: &str| {
            let numbers: Vec<u64> = line.split(' ').map_while(|n| n.parse().ok()).collect();
            <[u64; 4]>::try_from(numbers).ok()
        };
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        let [fine, bad, resent, refused] = whole.lines().rev().find_map(counts).unwrap_or_default();
        Report { done: fine + bad, fine, bad, resent, refused }
    }

    /// Waits until the load has gone on for a while, and ends it.
    #[track_caller]
    #[must_use]
    pub fn finish(mut self) -> Report {
        self.answered(AROUND);
        self.stop()
    }

    /// Ends it now: what it called is gone.
    #[track_caller]
    #[must_use]
    pub fn stop(mut self) -> Report {
        self.process.signal(rustix::process::Signal::TERM);
        let status = self.process.wait();
        let (log, report) = (self.process.log(), self.report());
        assert!(status.success() && log.trim_end().ends_with("end"), "{status}: {log}");
        log.lines().filter(|l| l.starts_with('#')).for_each(|l| println!("{l}"));
        report
    }
}

/// A fixed number of requests over `connections` connections.
#[track_caller]
#[must_use]
pub fn requests(host: &Host, url: &str, connections: u32, count: u32) -> Report {
    let mut command = host.command("h2load");
    command.args(["--h1", "-t", "1", "-c", &connections.to_string(), "-n", &count.to_string(), url]);
    report(&run(&mut command, Duration::from_secs(120)).ok())
}

/// Reads `requests: 10 total, 10 started, 10 done, 10 succeeded, 0 failed, 0 errored, 0 timeout` and the status line.
#[track_caller]
fn report(text: &str) -> Report {
    let number = |line: &str, word: &str| -> u64 {
        text.lines()
            .find(|l| l.starts_with(line))
            .and_then(|l| l[line.len()..].split(',').find(|part| part.trim().ends_with(word)))
            .and_then(|part| part.trim().split(' ').next()?.parse().ok())
            .unwrap_or_else(|| panic!("no `{line} … {word}` in\n{text}"))
    };
    let done = number("requests:", " done");
    let fine = number("status codes:", " 2xx");
    let bad = number("requests:", " failed").max(number("requests:", " errored") + number("requests:", " timeout"))
        + number("status codes:", " 3xx")
        + number("status codes:", " 4xx")
        + number("status codes:", " 5xx");
    Report { done, fine, bad, resent: 0, refused: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let text = "requests: 12 total, 11 started, 10 done, 7 succeeded, 3 failed, 1 errored, 0 timeout\n\
                    status codes: 7 2xx, 0 3xx, 1 4xx, 1 5xx\n";
        assert_eq!(report(text), Report { done: 10, fine: 7, bad: 5, resent: 0, refused: 0 });
    }
}
