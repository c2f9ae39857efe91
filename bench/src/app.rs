//! The application at the end of every pair: one thread, answers from memory, so that the proxies are what is measured.

mod http;
mod serve;
mod tcp;

pub use serve::{Flow, Kind, Session, run};
