//! One TCP stream as fast as it goes: what counts is bits per second of CPU of both proxies together.

use crate::runner::{self, Times};
use crate::sample::{ANONYMOUS, BUSY, GBPS, GBPS_PER_CORE, GENERATOR, RESIDENT, Sample};
use crate::setups::{Pair, Site, Speech};

/// See the module.
pub fn run(site: &Site<'_>, pair: &mut Pair, times: Times) -> anyhow::Result<Sample> {
    let outcome = runner::load(site, pair, Speech::Tcp, &["bulk"], times)?;
    let gigabits = outcome.bytes as f64 * 8.0 / 1e9;
    let cpu = outcome.usage.cpu as f64 / 1e9;
    let mut sample = Sample::default();
    sample.set(GBPS, gigabits / outcome.seconds);
    sample.set(GBPS_PER_CORE, gigabits / cpu);
    sample.set(BUSY, cpu / outcome.seconds * 100.0);
    sample.set(GENERATOR, outcome.own_share * 100.0);
    sample.set(RESIDENT, outcome.memory.resident as f64 / 2048.0);
    sample.set(ANONYMOUS, outcome.memory.anonymous as f64 / 2048.0);
    Ok(sample)
}
