//! Instructions that small pieces of the engine execute, counted exactly by valgrind and held against a committed list.
//!
//! A time says how busy the machine was; a count says what the code does, and is the same in every run. Each piece runs twice,
//! and the difference of the two counts is that of the additional runs alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

/// What the pieces cost now, by name; the first line names the compiler.
const BASELINE: &str = "testing/instructions/baseline.txt";
/// Of this package.
const PACKAGE: &str = "instructions";
/// Runs in the short and in the long of the two counts.
const TIMES: (u64, u64) = (100, 1100);
/// Growth that is an error, in thousandths.
const MOST_GROWTH: u64 = 30;
/// Other people's code, whose path depends on the processor: reported, not held.
const REPORTED_ONLY: &str = "tls_";

/// What to do with the counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Print them.
    Print,
    /// Print them, and fail if one has grown.
    Check,
    /// Print them and make them the baseline.
    Update,
}

/// Builds, counts, prints, and does what `mode` says.
pub fn run(root: &Path, mode: Mode) -> anyhow::Result<()> {
    let compiler = output(Command::new("rustc").arg("-V"))?.trim().to_owned();
    let file = root.join(BASELINE);
    let baseline = Baseline::parse(&std::fs::read_to_string(&file).unwrap_or_default());
    let program = build(root)?;
    let names = output(Command::new(&program).arg("list"))?;
    let mut counts = BTreeMap::new();
    for name in names.lines() {
        let (short, long) = (count(&program, name, TIMES.0)?, count(&program, name, TIMES.1)?);
        ensure!(long > short, "{name} executes nothing");
        let each = (long - short) / (TIMES.1 - TIMES.0);
        println!("{}", line(name, each, baseline.counts.get(name).copied()));
        counts.insert(name.to_owned(), each);
    }
    match mode {
        Mode::Print => Ok(()),
        Mode::Update => {
            std::fs::write(&file, Baseline { compiler, counts }.print()).with_context(|| format!("writing {BASELINE}"))
        }
        Mode::Check if baseline.compiler != compiler => {
            println!("instructions: not held: the baseline is of {}, this is {compiler}", baseline.compiler);
            Ok(())
        }
        Mode::Check => {
            let findings = findings(&baseline.counts, &counts);
            if findings.is_empty() {
                println!("instructions: {} pieces, none has grown by more than 3 %", counts.len());
                return Ok(());
            }
            bail!("{}\nif that is what it must cost: cargo xtask instructions --update", findings.join("\n"))
        }
    }
}

/// In a target folder of its own: its profile is nobody else's.
fn build(root: &Path) -> anyhow::Result<PathBuf> {
    let folder = root.join("target/instructions");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", PACKAGE, "--profile", PACKAGE, "--target-dir"])
        .arg(&folder)
        .current_dir(root)
        .status()?;
    ensure!(status.success(), "building {PACKAGE} failed");
    Ok(folder.join(PACKAGE).join(PACKAGE))
}

/// Instructions of `times` runs and all that is around them.
fn count(program: &Path, name: &str, times: u64) -> anyhow::Result<u64> {
    // Without an environment, because its size moves the stack, and alignment decides about instructions in memcpy. Digits
    // are as many in both counts for the same reason.
    let ran = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(program)
        .args([name.to_owned(), format!("{times:06}")])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .output()
        .context("running valgrind: scripts/setup test installs it")?;
    let text = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.success(), "{name} failed:\n{text}");
    refs(&text).with_context(|| format!("no count in what valgrind says of {name}:\n{text}"))
}

/// The number in `==1== I   refs:      1,234`.
fn refs(text: &str) -> Option<u64> {
    let line = text.lines().find(|l| l.contains("I   refs:"))?;
    line.rsplit(':').next()?.replace(',', "").trim().parse().ok()
}

fn line(name: &str, now: u64, before: Option<u64>) -> String {
    match before {
        Some(before) if before > 0 => {
            let change = (now as f64 / before as f64 - 1.0) * 100.0;
            format!("{name:24} {now:>9}  {change:+6.1} %")
        }
        _ => format!("{name:24} {now:>9}  new"),
    }
}

/// What has grown, is new or is gone.
fn findings(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> Vec<String> {
    let mut findings = Vec::new();
    for (name, count) in now.iter().filter(|(name, _)| !name.starts_with(REPORTED_ONLY)) {
        match before.get(name) {
            None => findings.push(format!("{name} is not in {BASELINE}")),
            Some(held) if count * 1000 > held * (1000 + MOST_GROWTH) => {
                findings.push(format!("{name} grew from {held} to {count} instructions"));
            }
            Some(_) => {}
        }
    }
    findings.extend(before.keys().filter(|n| !now.contains_key(*n)).map(|n| format!("{n} is in {BASELINE} but gone")));
    findings
}

#[derive(Debug, PartialEq, Eq, Default)]
struct Baseline {
    compiler: String,
    counts: BTreeMap<String, u64>,
}

impl Baseline {
    fn parse(text: &str) -> Self {
        let compiler = text.lines().next().and_then(|l| l.strip_prefix("# ")).unwrap_or_default().to_owned();
        let counts = text
            .lines()
            .filter_map(|l| l.split_once(' '))
            .filter_map(|(count, name)| Some((name.to_owned(), count.parse().ok()?)))
            .collect();
        Self { compiler, counts }
    }

    fn print(&self) -> String {
        let mut text = format!("# {}\n", self.compiler);
        for (name, count) in &self.counts {
            text.push_str(&format!("{count} {name}\n"));
        }
        text
    }
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let ran = command.output().with_context(|| format!("running {command:?}"))?;
    ensure!(ran.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(String::from_utf8(ran.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(list: &[(&str, u64)]) -> BTreeMap<String, u64> {
        list.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn growth_is_found_and_noise_of_others_is_not() {
        let before = counts(&[("a", 1000), ("b", 1000), ("tls_c", 1000), ("gone", 1)]);
        let now = counts(&[("a", 1030), ("b", 1031), ("tls_c", 5000), ("new", 1)]);
        let found = findings(&before, &now);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("b grew") && found[1].starts_with("new") && found[2].starts_with("gone"));
    }

    #[test]
    fn what_valgrind_says_is_read() {
        assert_eq!(refs("==9== \n==9== I   refs:      1,234,567\n"), Some(1_234_567));
        assert_eq!(refs("nothing"), None);
    }

    #[test]
    fn a_baseline_survives() {
        let baseline = Baseline { compiler: "rustc 1.0".to_owned(), counts: counts(&[("a", 1), ("b", 22)]) };
        assert_eq!(Baseline::parse(&baseline.print()), baseline);
    }
}
