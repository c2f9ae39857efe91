//! Which part of a service's endpoints is a worker's own, so that workers do not each keep a connection to every endpoint.
//!
//! ```text
//!   the endpoints of a zone in an order by chance, each as long as its weight:
//!
//!   ├─ a ─┼─── b ───┼─ c ─┼─ d ─┼ … ┼─ x ─┼──── y ────┼─ z ─┤
//!   ├───────── worker 0 ───────┼───────┼──── worker 3 ────┤
//! ```
//!
//! Parts are equally long, so that equally busy workers give every endpoint its share, and an endpoint that comes or goes moves
//! each border by no more than its own length: nearly all endpoints keep their worker and their connection. What a border cuts
//! belongs to both, to each with what lies in it. The order differs between processes: the busiest worker of each must not
//! call the same endpoints.

use super::shares::Draws;
use crate::defaults::PART_ENDPOINTS;
use crate::destination::Endpoint;
use crate::lookup::TextHash;

/// For which of how many workers a balancer chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// From 0.
    pub worker: usize,
    /// How many there are.
    pub workers: usize,
    /// The same for all workers of a process, another in each process.
    pub seed: u64,
}

impl Part {
    /// There is one worker.
    pub const WHOLE: Self = Self { worker: 0, workers: 1, seed: 0 };
}

/// The weight of each endpoint in a worker's part, 0 outside it; `None` if there are too few endpoints to part them.
pub(super) fn weights<'e>(part: Part, endpoints: impl ExactSizeIterator<Item = &'e Endpoint>) -> Option<Vec<u32>> {
    if part.workers < 2 || endpoints.len() / part.workers < PART_ENDPOINTS {
        return None;
    }
    let place = |e: &Endpoint| Draws::new(TextHash::new(0).text(e.key.as_bytes()).wide() ^ part.seed).next();
    let mut order: Vec<(u64, usize, u32)> = endpoints.enumerate().map(|(at, e)| (place(e), at, e.weight)).collect();
    order.sort_unstable();
    let total: u64 = order.iter().map(|(.., weight)| u64::from(*weight)).sum();
    // In units in which a worker's part is `total` long and an endpoint its weight times the number of workers.
    let workers = part.workers as u64;
    let (from, to) = (part.worker as u64 * total, (part.worker as u64 + 1) * total);
    let mut own = vec![0_u64; order.len()];
    let mut start = 0;
    for (_, at, weight) in order {
        let end = start + u64::from(weight) * workers;
        own[at] = end.min(to).saturating_sub(start.max(from));
        start = end;
    }
    // Weights are 32 bits wide; of very large ones the last bits do not matter.
    let most = own.iter().copied().max().unwrap_or(0);
    let excess = 32_u32.saturating_sub(most.leading_zeros());
    Some(own.into_iter().map(|weight| if weight == 0 { 0 } else { ((weight >> excess) as u32).max(1) }).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use proptest::prelude::*;

    fn endpoints(weights: &[u32]) -> Vec<Endpoint> {
        let endpoint = |(n, weight): (usize, &u32)| Endpoint {
            key: format!("web.{n}").into(),
            transports: vec![],
            zone: None,
            labels: Arc::default(),
            weight: *weight,
        };
        weights.iter().enumerate().map(endpoint).collect()
    }

    fn parts(workers: usize, seed: u64, endpoints: &[Endpoint]) -> Vec<Vec<u32>> {
        (0..workers).map(|worker| weights(Part { worker, workers, seed }, endpoints.iter()).unwrap()).collect()
    }

    #[test]
    fn few_endpoints_are_everybodys() {
        let few = endpoints(&[1; 4 * PART_ENDPOINTS - 1]);
        assert_eq!(weights(Part { worker: 0, workers: 4, seed: 1 }, few.iter()), None);
        assert!(weights(Part { worker: 0, workers: 3, seed: 1 }, few.iter()).is_some());
        assert_eq!(weights(Part::WHOLE, few.iter()), None);
    }

    #[test]
    fn an_endpoint_that_comes_moves_borders_by_one() {
        let (before, after) = (endpoints(&[1; 1000]), endpoints(&[1; 1001]));
        let (earlier, later) = (parts(4, 7, &before), parts(4, 7, &after));
        let moved = (0..1000).filter(|&at| (0..4).any(|w| (earlier[w][at] == 0) != (later[w][at] == 0))).count();
        assert!(moved <= 6, "{moved} of 1,000 endpoints have come to or left a worker");
    }

    #[test]
    fn processes_part_differently() {
        let all = endpoints(&[1; 1000]);
        let (one, other) = (parts(4, 1, &all), parts(4, 2, &all));
        let both = (0..1000).filter(|&at| one[0][at] > 0 && other[0][at] > 0).count();
        assert!((30..=95).contains(&both), "{both} endpoints are worker 0's in both, of 250 in each");
    }

    proptest! {
        #[test]
        fn parts_are_equal_and_cover_every_weight(
            weights in proptest::collection::vec(1_u32..50, 260..300), workers in 2_usize..=8, seed in any::<u64>(),
        ) {
            let all = endpoints(&weights);
            let parts = parts(workers, seed, &all);
            let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            for part in &parts {
                prop_assert_eq!(part.iter().map(|w| u64::from(*w)).sum::<u64>(), total);
            }
            for (at, weight) in weights.iter().enumerate() {
                let share: u64 = parts.iter().map(|part| u64::from(part[at])).sum();
                prop_assert_eq!(share, u64::from(*weight) * workers as u64);
            }
            let cut: usize = (0..weights.len()).map(|at| parts.iter().filter(|p| p[at] > 0).count() - 1).sum();
            prop_assert!(cut < workers, "{} borders for {} workers", cut, workers);
        }
    }

    #[test]
    fn the_largest_weights_fit() {
        let all = endpoints(&[u32::MAX; 256]);
        let parts = parts(8, 3, &all);
        for part in parts {
            assert_eq!(part.iter().filter(|w| **w > 0).count(), 32, "an eighth each, and no border cuts one");
        }
    }
}
