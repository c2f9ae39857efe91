//! Drawing by weight in constant time, and randomness from one number.

/// A stream of numbers from one random number (SplitMix64): a pick needs several, its caller supplies one.
#[derive(Debug)]
pub(super) struct Draws(u64);

impl Draws {
    pub(super) fn new(random: u64) -> Self {
        Self(random)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `0..bound`.
    fn below(&mut self, bound: u64) -> u64 {
        scale(self.next(), bound)
    }

    /// Uniform in `0.0..1.0`.
    pub(super) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// 2^64 divided by the golden ratio: its multiples spread most evenly over the range (Weyl sequence).
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Maps the whole range of `u64` to `0..bound`.
fn scale(value: u64, bound: u64) -> u64 {
    ((u128::from(value) * u128::from(bound)) >> 64) as u64
}

/// The shares of a list of endpoints.
#[derive(Debug)]
pub(super) enum Shares {
    /// All the same, of so many.
    Equal(usize),
    /// By weight.
    Weighted {
        /// Vose's alias method: a column keeps points below its cut, the others go to its alias.
        columns: Vec<(u64, usize)>,
        /// Where each one's share ends, for taking turns.
        ends: Vec<u64>,
        /// Sum of the weights.
        total: u64,
    },
}

impl Shares {
    /// Weights are positive.
    pub(super) fn new(weights: &[u32]) -> Self {
        if weights.windows(2).all(|w| w[0] == w[1]) {
            return Self::Equal(weights.len());
        }
        let count = weights.len() as u64;
        let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        // What each has, in units in which a column holds `total`.
        let mut left: Vec<u64> = weights.iter().map(|w| u64::from(*w) * count).collect();
        let mut columns: Vec<(u64, usize)> = (0..weights.len()).map(|at| (total, at)).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..weights.len()).partition(|&at| left[at] < total);
        while let (Some(poor), Some(&rich)) = (small.pop(), large.last()) {
            columns[poor] = (left[poor], rich);
            left[rich] -= total - left[poor];
            if left[rich] < total {
                large.pop();
                small.push(rich);
            }
        }
        let mut end = 0;
        let ends = weights.iter().map(|w| {
            end += u64::from(*w);
            end
        });
        Self::Weighted { ends: ends.collect(), columns, total }
    }

    /// By chance.
    pub(super) fn draw(&self, draws: &mut Draws) -> usize {
        match self {
            Self::Equal(count) => draws.below(*count as u64) as usize,
            Self::Weighted { columns, total, .. } => {
                let at = draws.below(columns.len() as u64) as usize;
                let (cut, alias) = columns[at];
                if draws.below(*total) < cut { at } else { alias }
            }
        }
    }

    /// In turn: with weights, evenly interleaved.
    pub(super) fn in_turn(&self, turn: u64) -> usize {
        match self {
            Self::Equal(count) => (turn % *count as u64) as usize,
            Self::Weighted { ends, total, .. } => {
                let point = scale(turn.wrapping_mul(GOLDEN), *total);
                ends.partition_point(|end| *end <= point)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_alias_table_keeps_every_weight_exactly(weights in proptest::collection::vec(1_u32..10_000, 1..40)) {
            let Shares::Weighted { columns, total, .. } = Shares::new(&weights) else { return Ok(()) };
            let mut mass = vec![0_u64; weights.len()];
            for (at, (cut, alias)) in columns.iter().enumerate() {
                mass[at] += cut;
                mass[*alias] += total - cut;
            }
            for (weight, mass) in weights.iter().zip(mass) {
                prop_assert_eq!(u64::from(*weight) * weights.len() as u64, mass);
            }
        }

        #[test]
        fn turns_keep_weights_within_one_and_a_half_points(
            weights in proptest::collection::vec(1_u32..100, 2..8), start in any::<u64>(),
        ) {
            let shares = Shares::new(&weights);
            let mut counts = vec![0_u32; weights.len()];
            for n in 0..10_000 {
                counts[shares.in_turn(start.wrapping_add(n))] += 1;
            }
            let total: u32 = weights.iter().sum();
            for (weight, count) in weights.iter().zip(counts) {
                let (wanted, got) = (100.0 * f64::from(*weight) / f64::from(total), f64::from(count) / 100.0);
                prop_assert!((wanted - got).abs() <= 1.5, "{} wanted, {} got", wanted, got);
            }
        }
    }
}
