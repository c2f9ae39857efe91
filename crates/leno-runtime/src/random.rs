//! Chance as an argument. Not for secrets: those come from the system's source directly.

/// A source of numbers that look random.
pub trait Random {
    /// 64 uniform bits.
    fn next_u64(&mut self) -> u64;

    /// Uniform in `0..bound`; 0 for a bound of 0.
    fn below(&mut self, bound: u64) -> u64 {
        // Multiply-shift (Lemire 2019); the bias is under bound / 2^64.
        let wide = u128::from(self.next_u64()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the upper half of 128 bits")
    }

    /// Uniform in `0.0..1.0`.
    fn unit(&mut self) -> f64 {
        // 53 bits fill an f64's fraction exactly.
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// xoshiro256++ (Blackman and Vigna 2019): fast, and repeatable from its seed.
#[derive(Debug, Clone)]
pub struct SeededRandom {
    state: [u64; 4],
}

impl SeededRandom {
    /// The same seed gives the same numbers on every machine.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut z = seed;
        let state = std::array::from_fn(|_| {
            // splitmix64, as the authors advise for seeding.
            z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut x = z;
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^ (x >> 31)
        });
        Self { state }
    }

    /// Seeded by the system.
    #[must_use]
    pub fn from_system() -> Self {
        let mut seed = [0u8; 8];
        // Without a system source a fixed seed is still correct: nothing secret depends on it.
        if getrandom::fill(&mut seed).is_err() {
            tracing::warn!("no system randomness: load balancing starts from a fixed seed");
        }
        Self::new(u64::from_le_bytes(seed))
    }
}

impl Random for SeededRandom {
    fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_repeat_and_differ() {
        let draw = |seed| {
            let mut random = SeededRandom::new(seed);
            (0..8).map(|_| random.next_u64()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn ranges_hold_and_are_even() {
        let mut random = SeededRandom::new(7);
        let mut counts = [0u32; 10];
        for _ in 0..100_000 {
            counts[usize::try_from(random.below(10)).unwrap()] += 1;
            let unit = random.unit();
            assert!((0.0..1.0).contains(&unit));
        }
        assert!(counts.iter().all(|c| (9_500..10_500).contains(c)), "{counts:?}");
        assert_eq!(random.below(0), 0);
    }
}
