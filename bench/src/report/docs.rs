//! The figures of the docs: tables between markers of README and guide, plots beside the guide.

use std::path::Path;

use anyhow::Context;

use super::plot::{Chart, Series};
use super::{Results, Spread};
use crate::sample::{CPU, GBPS_PER_CORE, Metric, NEAR_EACH, P99, SWITCHES, SYSCALLS};

/// Scenarios of the short table.
const SHORT: &[(&str, &str)] = &[("h1-c1", "1 connection"), ("h1-c8", "8"), ("h1-c64", "64"), ("h1-c256", "256")];

/// The table of the README: CPU per request as a ratio to the relay, and memory.
pub fn short(results: &Results, heading: &str, pairs: &[String]) -> String {
    let titles: Vec<&str> = SHORT.iter().map(|(_, title)| *title).collect();
    let mut text = format!(
        "CPU per request and proxy of a pair, as a ratio to a bare TCP relay (no TLS, no HTTP) of the same run; 1 KB answers over \
         HTTP/1.1\nkeep-alive, mutual TLS between the proxies. `leno-all` has an access policy, a route and an access record of \
         every request besides.\n\n| pair | {} | p99 ms, 64 | RSS, 256 connections |\n|---|{}\n",
        titles.join(" | "),
        "---|".repeat(titles.len() + 2)
    );
    for pair in pairs.iter().filter(|p| *p != "relay") {
        let ratio = |scenario: &str| results.ratio(scenario, pair, "relay", CPU).map(|s| s.median);
        if SHORT.iter().all(|(scenario, _)| ratio(scenario).is_none()) {
            continue;
        }
        let cells: Vec<String> = SHORT.iter().map(|(scenario, _)| print(ratio(scenario), 2)).collect();
        let of = |scenario: &str, metric: Metric| results.of(scenario, pair, metric).map(|s: Spread| s.median);
        text.push_str(&format!(
            "| {} | {} | {} | {} MB |\n",
            if pair.starts_with("leno") { format!("**{pair}**") } else { pair.clone() },
            cells.join(" | "),
            print(of("h1-c64", P99).map(|v| v / 1e3), 1),
            print(of("h1-c256", crate::sample::RESIDENT), 0)
        ));
    }
    let first = heading.lines().next().unwrap_or_default();
    text + &format!(
        "\n{first} Repeat it with `scripts/bench`; more in [docs/guide/benchmarks.md](docs/guide/benchmarks.md).\n"
    )
}

fn print(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |v| format!("{v:.digits$}"))
}

/// Distinguishable without colours too: light and dark alternate.
fn colour(pair: &str) -> &'static str {
    const COLOURS: [&str; 7] = ["#8a8f98", "#c2c7cf", "#6f9fd8", "#e3c277", "#a87b22", "#7fd0b4", "#12805c"];
    let place = crate::setups::PAIRS.iter().position(|p| *p == pair);
    place.and_then(|p| COLOURS.get(p)).copied().unwrap_or("#000")
}

/// Name and text of each plot.
pub fn plots(results: &Results, pairs: &[String]) -> Vec<(&'static str, String)> {
    let http = ["h1-c1", "h1-c8", "h1-c64", "h1-c256", "h1-16k", "h1-post", "h1-headers", "low"];
    let grpc = ["grpc-1", "grpc-64", "grpc-256", "grpc-stream"];
    let chart = |title: &str, scenarios: &[&str], metric: Metric, relative: bool, digits| {
        let value = |scenario: &str, pair: &str| {
            let spread = if relative {
                results.ratio(scenario, pair, "relay", metric)
            } else {
                results.of(scenario, pair, metric)
            };
            spread.map(|s| s.median)
        };
        let measured = scenarios.iter().copied().filter(|s| pairs.iter().any(|p| value(s, p).is_some()));
        let groups: Vec<&str> = measured.collect();
        let series = pairs.iter().map(|pair| Series {
            name: pair.clone(),
            colour: colour(pair),
            values: groups.iter().map(|s| value(s, pair)).collect(),
        });
        Chart {
            title: title.to_owned(),
            series: series.filter(|s| s.values.iter().any(Option::is_some)).collect(),
            groups: groups.iter().map(|s| (*s).to_owned()).collect(),
            line: relative.then_some(1.0),
            digits,
        }
    };
    let charts = [
        ("cpu-http", chart("HTTP/1.1: CPU per request and proxy, × bare relay (less is better)", &http, CPU, true, 1)),
        ("cpu-grpc", chart("gRPC: CPU per call and proxy, µs (less is better)", &grpc, CPU, false, 0)),
        (
            "p99",
            chart("p99, × bare relay (less is better)", &["h1-c1", "h1-c64", "low", "loss", "delay"], P99, true, 1),
        ),
        ("syscalls", chart("System calls per request and proxy", &["h1-c1", "h1-c64", "grpc-64"], SYSCALLS, false, 1)),
        ("switches", chart("Context switches per request and proxy", &["h1-c1", "low"], SWITCHES, false, 1)),
        ("bulk", chart("TCP: Gb/s per core of both proxies (more is better)", &["tcp-bulk"], GBPS_PER_CORE, false, 1)),
        ("idle", chart("Anonymous memory per idle connection, KB (less is better)", &["idle"], NEAR_EACH, false, 1)),
    ];
    charts.into_iter().filter_map(|(name, chart)| Some((name, chart.svg()?))).collect()
}

/// Cells of the README's table that would be empty though the pair has others.
fn gaps(results: &Results, pairs: &[String]) -> Vec<String> {
    let measured = |scenario: &str, pair: &str| results.ratio(scenario, pair, "relay", CPU).is_some();
    let missing = |(scenario, _): &&(&str, &str)| !pairs.iter().any(|p| p != "relay" && measured(scenario, p));
    let whole: Vec<&str> = SHORT.iter().filter(missing).map(|(scenario, _)| *scenario).collect();
    let mut gaps: Vec<String> = whole.iter().map(|scenario| format!("{scenario} was not measured")).collect();
    for pair in pairs.iter().filter(|p| *p != "relay" && SHORT.iter().any(|(s, _)| measured(s, p))) {
        let missing = SHORT.iter().filter(|(s, _)| !whole.contains(s) && !measured(s, pair));
        gaps.extend(missing.map(|(scenario, _)| format!("{scenario} has nothing of {pair}")));
    }
    gaps
}

/// Writes what `short`, the report and `plots` give into a checkout, and takes plots away that this run does not have. The README is
/// what people quote: it is only written by a run that is whole, and for which nobody says `unfit`; the reasons are returned.
pub fn write(
    root: &Path,
    results: &Results,
    report: &str,
    heading: &str,
    pairs: &[String],
    mut unfit: Vec<String>,
) -> anyhow::Result<Vec<String>> {
    let folder = root.join("docs/guide/benchmarks");
    std::fs::create_dir_all(&folder)?;
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "svg") {
            std::fs::remove_file(path)?;
        }
    }
    let mut figures = String::new();
    for (name, svg) in plots(results, pairs) {
        std::fs::write(folder.join(format!("{name}.svg")), svg)?;
        figures.push_str(&format!("![{name}](benchmarks/{name}.svg)\n"));
    }
    replace(&root.join("docs/guide/benchmarks.md"), "figures", &format!("{figures}\n{report}"))?;
    unfit.extend(gaps(results, pairs));
    if unfit.is_empty() {
        replace(&root.join("README.md"), "bench", &short(results, heading, pairs))?;
    }
    Ok(unfit)
}

/// Replaces what stands between `<!-- name -->` and `<!-- /name -->`.
fn replace(file: &Path, name: &str, with: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let missing = || format!("{} has no {open}", file.display());
    let begin = text.find(&open).with_context(missing)? + open.len();
    let end = begin + text[begin..].find(&close).with_context(missing)?;
    std::fs::write(file, format!("{}{with}{}", &text[..begin], &text[end..]))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sample;

    #[test]
    fn the_docs_get_tables_and_plots_and_keep_the_rest() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("docs/guide")).unwrap();
        std::fs::write(root.path().join("README.md"), "a\n<!-- bench -->\nold\n<!-- /bench -->\nb\n").unwrap();
        let guide = root.path().join("docs/guide/benchmarks.md");
        std::fs::write(&guide, "c\n<!-- figures -->\n<!-- /figures -->\nd\n").unwrap();
        let old = root.path().join("docs/guide/benchmarks/idle.svg");
        std::fs::create_dir_all(old.parent().unwrap()).unwrap();
        std::fs::write(&old, "of another run").unwrap();
        let mut results = Results::default();
        let measure = |results: &mut Results, scenario: &str| {
            for (pair, cpu) in [("relay", 10.0), ("leno", 8.0)] {
                let mut sample = Sample { scenario: scenario.into(), pair: pair.into(), ..Sample::default() };
                sample.set(CPU, cpu);
                results.samples.push(sample);
            }
        };
        let pairs = ["relay", "leno"].map(str::to_owned);
        let write = |results: &Results, unfit: &[&str]| {
            let unfit = unfit.iter().map(|u| (*u).to_owned()).collect();
            let left = write(root.path(), results, "REPORT\n", "today\nmore", &pairs, unfit).unwrap();
            (left, std::fs::read_to_string(root.path().join("README.md")).unwrap())
        };
        measure(&mut results, "h1-c64");
        // A part of the table, or a busy machine, is not for the README; the guide has it all the same, without old plots.
        let (left, readme) = write(&results, &[]);
        assert!(left.len() == 3 && left[0] == "h1-c1 was not measured" && readme.contains("old"), "{left:?} {readme}");
        assert!(!old.exists());
        for (scenario, _) in SHORT.iter().filter(|(s, _)| *s != "h1-c64") {
            measure(&mut results, scenario);
        }
        let (left, readme) = write(&results, &["others use 50 %"]);
        assert!(left == ["others use 50 %"] && readme.contains("old"), "{left:?} {readme}");
        let (left, readme) = write(&results, &[]);
        assert_eq!(left, Vec::<String>::new());
        assert!(readme.starts_with("a\n") && readme.ends_with("<!-- /bench -->\nb\n"), "{readme}");
        assert!(readme.contains("| **leno** | 0.80 | 0.80 | 0.80 | 0.80 |") && !readme.contains("old"), "{readme}");
        let guide = std::fs::read_to_string(guide).unwrap();
        assert!(guide.contains("![cpu-http](benchmarks/cpu-http.svg)\n\nREPORT\n<!-- /figures -->\nd"), "{guide}");
        assert!(root.path().join("docs/guide/benchmarks/cpu-http.svg").exists());
    }
}
