//! Task scopes, drain, readiness, clock and randomness, backoff, signals.
