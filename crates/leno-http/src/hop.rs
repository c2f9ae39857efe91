//! The hop: one multiplexed, mutually authenticated connection from a member's proxy to another's.
//!
//! *Start reading at*: docs/reference/hop.md, then [`frame`] for the bytes, `state` for the rules.

mod chunks;
pub mod frame;
pub mod head_text;
pub mod limits;
mod state;
