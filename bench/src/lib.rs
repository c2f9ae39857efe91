//! Leno beside other proxies: load, application and measurement, shared by the programs of this package.
//!
//! *Owns*: the load generator, the application it calls, histograms, reading what processes used.
//!
//! *Must not know*: which proxies there are (that is `main.rs` and below it). *Start reading at*: [`load`], then
//! [`outcome::Outcome`].

pub mod app;
pub mod histogram;
pub mod http1;
pub mod load;
pub mod outcome;
pub mod reactor;
pub mod usage;
