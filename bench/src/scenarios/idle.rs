//! Many connections that do nothing: what each costs in memory.

use crate::runner;
use crate::sample::{CONNECTIONS, ERRORS, FAR_EACH, Metric, NEAR_BEFORE, NEAR_EACH, NEAR_RESIDENT, Sample};
use crate::setups::{Pair, Site, Speech};

/// Milliseconds of doing nothing before memory is read.
const REST: u64 = 5_000;

/// See the module.
pub fn run(site: &Site<'_>, pair: &mut Pair) -> anyhow::Result<Sample> {
    let connections = site.capacity.to_string();
    let words = ["idle", "--connections", &connections];
    let outcome = runner::load(site, pair, Speech::Http, &words, super::times(0, REST))?;
    let mut sample = Sample::default();
    let all: [Metric; 5] = [CONNECTIONS, NEAR_RESIDENT, NEAR_BEFORE, NEAR_EACH, FAR_EACH];
    for metric in all {
        if let Some(value) = outcome.more.get(metric.name) {
            sample.set(metric, *value);
        }
    }
    sample.set(ERRORS, outcome.errors as f64);
    pair.forget_logs();
    Ok(sample)
}
