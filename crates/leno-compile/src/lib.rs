//! Resources to plans.
