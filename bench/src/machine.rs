//! What was measured on, and whether it was quiet.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use testbed::process::run;
use testbed::skip::which;

/// Share of all CPUs that others use above which figures are worthless.
const QUIET: f64 = 0.05;

/// CPU time since the machine started: busy, and all.
#[derive(Debug, Clone, Copy)]
struct Busy {
    busy: f64,
    all: f64,
}

fn busy() -> Busy {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let numbers: Vec<f64> = line.split_whitespace().skip(1).take(8).filter_map(|n| n.parse().ok()).collect();
    let all: f64 = numbers.iter().sum();
    // Idle and waiting for disks; what the hypervisor took (`steal`) counts as busy.
    let idle: f64 = numbers.iter().skip(3).take(2).sum();
    Busy { busy: all - idle, all }
}

/// Looks for half a second while the bench itself rests; the share of all CPUs that others used.
pub fn used_by_others() -> f64 {
    let before = busy();
    std::thread::sleep(Duration::from_millis(500));
    let after = busy();
    (after.busy - before.busy) / (after.all - before.all).max(1.0)
}

/// A warning if the machine is not quiet.
pub fn warning(share: f64) -> Option<String> {
    (share > QUIET).then(|| format!("others use {:.0} % of this machine: these figures are worthless", share * 100.0))
}

/// Date, machine and versions.
pub fn facts() -> Value {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).map(|l| l.trim_matches([' ', '\t', ':']));
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    json!({
        "date": date(),
        "cpu": model.unwrap_or("unknown"),
        "cpus": cpus,
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "nginx": version("nginx", &["-v"]),
        "haproxy": version("haproxy", &["-v"]),
        "envoy": version(&std::env::var("ENVOY").unwrap_or_else(|_| "envoy".to_owned()), &["--version"]),
        "leno": version(&testbed::mesh::leno().display().to_string(), &["--version"]),
        "commit": commit(),
    })
}

fn version(program: &str, arguments: &[&str]) -> String {
    let Some(path) = which(program) else { return "not installed".to_owned() };
    let mut command = std::process::Command::new(path);
    let output = run(command.args(arguments), Duration::from_secs(20));
    number(&(output.stdout + &output.stderr)).unwrap_or("unknown").to_owned()
}

/// The first word that is a version number, whatever stands around it.
fn number(text: &str) -> Option<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.'));
    words.into_iter().find(|w| w.contains('.') && w.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
}

/// What is measured, if this is a checkout.
fn commit() -> String {
    let mut command = std::process::Command::new("git");
    let output = run(
        command.args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]),
        Duration::from_secs(20),
    );
    if output.code == 0 { output.stdout.trim().to_owned() } else { "no checkout".to_owned() }
}

/// Today, as YYYY-MM-DD in UTC.
fn date() -> String {
    let days = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400;
    let mut command = std::process::Command::new("date");
    let output = run(command.args(["-u", "+%Y-%m-%d"]), Duration::from_secs(10));
    if output.code == 0 { output.stdout.trim().to_owned() } else { format!("day {days} since 1970") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        let said = [
            ("nginx version: nginx/1.22.1", "1.22.1"),
            ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/", "2.6.12"),
            ("/opt/e.v/envoy  version: 9e5580933739775e8bce/1.40.0/Clean/RELEASE/BoringSSL", "1.40.0"),
            ("leno 0.1.0", "0.1.0"),
        ];
        for (text, expected) in said {
            assert_eq!(number(text), Some(expected), "{text}");
        }
    }
}
