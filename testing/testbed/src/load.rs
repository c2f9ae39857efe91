//! Load that tells every request that did not end well: a fixed number by h2load, for some time by a client of our own.

use std::time::Duration;

use crate::network::Host;
use crate::process::{Output, run};

/// What h2load counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Requests that got an answer of any status.
    pub done: u64,
    /// Answers with 2xx.
    pub fine: u64,
    /// Everything else: other statuses, broken connections, timeouts.
    pub bad: u64,
}

/// Load under way on a thread, by `programs/load.py`: keep-alive connections that are opened again when they were closed,
/// as every HTTP client does.
pub struct Load(std::thread::JoinHandle<Output>);

impl Load {
    /// `seconds` of requests over `connections` HTTP/1.1 keep-alive connections, at most `rate` requests/s in all.
    #[must_use]
    pub fn start(host: &Host, url: &str, connections: u32, seconds: u32, rate: u32) -> Self {
        let mut command = host.command(crate::apps::PYTHON);
        let numbers = [connections, seconds, rate].map(|n| n.to_string());
        command.arg(crate::apps::program("load.py")).arg(url).args(numbers);
        let limit = Duration::from_secs(u64::from(seconds) + 60);
        Self(std::thread::spawn(move || run(&mut command, limit)))
    }

    /// Waits for the end.
    #[track_caller]
    #[must_use]
    pub fn finish(self) -> Report {
        let text = self.0.join().expect("the load thread").ok();
        let counts: Vec<u64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [fine, bad] = counts[..] else { panic!("what load.py said: {text}") };
        if bad > 0 {
            println!("{text}");
        }
        Report { done: fine + bad, fine, bad }
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
    Report { done, fine, bad }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let text = "requests: 12 total, 11 started, 10 done, 7 succeeded, 3 failed, 1 errored, 0 timeout\n\
                    status codes: 7 2xx, 0 3xx, 1 4xx, 1 5xx\n";
        assert_eq!(report(text), Report { done: 10, fine: 7, bad: 5 });
    }
}
