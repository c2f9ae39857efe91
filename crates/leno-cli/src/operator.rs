//! The operator's commands: each asks the control plane's API, or only files, and prints.

pub mod apply;
pub mod ca;
pub mod connection;
pub mod files;
pub mod get;
pub mod lint;
pub mod print;
pub mod status;
pub mod token;
pub mod yaml;
