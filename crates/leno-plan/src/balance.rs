//! Which endpoint a request goes to.

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// Power of two choices over peak-EWMA latency × (outstanding + 1).
    #[default]
    PeakEwma,
    /// Power of two choices over outstanding requests.
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// By chance.
    Random,
}

/// Balancing of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalancePolicy {
    /// How an endpoint is chosen.
    pub algorithm: Algorithm,
    /// Prefer endpoints of the caller's zone while the ready share of them is at least this; `None` ignores zones.
    pub zone_spill_percent: Option<u8>,
}

impl Default for BalancePolicy {
    fn default() -> Self {
        Self { algorithm: Algorithm::default(), zone_spill_percent: Some(crate::defaults::ZONE_SPILL_PERCENT) }
    }
}
