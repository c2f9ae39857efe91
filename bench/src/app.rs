//! The application at the end of every pair: one thread (gRPC has its own), answers from memory, so that the proxies are what is measured.

pub mod grpc;
mod http;
mod serve;
mod tcp;

pub use serve::{Flow, Kind, Session, run};
