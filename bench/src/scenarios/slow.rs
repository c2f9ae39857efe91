//! A client that reads 1 GB slowly, beside small requests at a low rate: what the others feel of it.

use crate::report::Spread;
use crate::runner;
use crate::sample::{CPU, CPU_FAR, CPU_NEAR, ERRORS, P50, P99, P99_BEFORE, P99_RATIO, P999, RATE, SWITCHES, Sample};
use crate::setups::{Pair, Site, Speech};

/// Alternating windows: without, with, without, with. A p99 of one window says little on a shared machine.
const ALTERNATIONS: usize = 10;
/// Milliseconds before and of each window: 1,200 requests each.
const WINDOW: (u64, u64) = (300, 1_200);
const LOAD: [&str; 5] = ["http", "--connections", "16", "--rate", "1000"];

/// See the module.
pub fn run(site: &Site<'_>, pair: &mut Pair) -> anyhow::Result<Sample> {
    let times = super::times(WINDOW.0, WINDOW.1);
    let (mut without, mut with, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut sample, mut errors) = (Sample::default(), 0);
    for turn in 0..ALTERNATIONS {
        let seed = turn.to_string();
        let quiet = [&LOAD[..], &["--seed", &seed]].concat();
        let disturbed = [&quiet[..], &["--slow-reader"]].concat();
        // Which of the two comes first alternates too.
        let order = if turn % 2 == 0 { [false, true] } else { [true, false] };
        let mut p99 = [0.0; 2];
        for slow in order {
            let words = if slow { &disturbed } else { &quiet };
            let outcome = runner::load(site, pair, Speech::Http, words, times)?;
            errors += outcome.errors;
            p99[usize::from(slow)] = outcome.p99;
            if slow {
                sample.fill(&outcome);
            }
        }
        without.push(p99[0]);
        with.push(p99[1]);
        ratios.push(p99[1] / p99[0]);
    }
    let middle = |values: Vec<f64>| Spread::of(values.into_iter()).map_or(0.0, |s| s.median);
    // Of a single window, and not of what this is about.
    for metric in [RATE, CPU, CPU_NEAR, CPU_FAR, SWITCHES, P50, P999] {
        sample.values.remove(metric.name);
    }
    sample.set(P99_BEFORE, middle(without));
    sample.set(P99, middle(with));
    sample.set(P99_RATIO, middle(ratios));
    sample.set(ERRORS, errors as f64);
    pair.forget_logs();
    Ok(sample)
}
