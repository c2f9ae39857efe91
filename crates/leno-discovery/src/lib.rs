//! The native discovery protocol.
