//! The one table: which crate lies in which layer, what it may use, what it must not.

/// A crate of the workspace and its limits.
pub struct Crate {
    /// Folder and package name.
    pub name: &'static str,
    /// Layers count upwards; a crate may use only lower layers, or those named in `beside`.
    pub layer: u8,
    /// Crates of the same layer that it may use.
    pub beside: &'static [&'static str],
    /// Pure: no tokio, sockets, files, clock, randomness or unordered iteration.
    pub pure: bool,
}

const fn plain(name: &'static str, layer: u8) -> Crate {
    Crate { name, layer, beside: &[], pure: false }
}

/// From the ground up.
pub const CRATES: &[Crate] = &[
    plain("leno-runtime", 0),
    plain("leno-sys", 0),
    Crate { name: "leno-model", layer: 0, beside: &[], pure: true },
    Crate { name: "leno-telemetry", layer: 0, beside: &["leno-model"], pure: false },
    Crate { name: "leno-plan", layer: 1, beside: &[], pure: true },
    Crate { name: "leno-compile", layer: 2, beside: &[], pure: true },
    plain("leno-discovery", 2),
    plain("leno-identity", 2),
    Crate { name: "leno-net", layer: 2, beside: &["leno-identity"], pure: false },
    plain("leno-http", 3),
    plain("leno-store", 3),
    plain("leno-api", 3),
    plain("leno-control", 4),
    plain("leno-proxy", 4),
    plain("leno-cli", 5),
    plain("leno", 6),
];

/// The longest permitted chain of dependencies between our crates, counted in edges without the binary.
pub const LONGEST_CHAIN: usize = 6;

/// Third-party crates that a pure crate may use.
pub const PURE_ALLOWED: &[&str] =
    &["serde", "serde_json", "schemars", "saphyr-parser", "regex-automata", "strsim", "thiserror", "smallvec"];

/// What must not stand in the source of a pure crate.
pub const IMPURE: &[&str] = &[
    "tokio::",
    "std::net::Tcp",
    "std::net::Udp",
    "std::fs",
    "std::io::std",
    "std::env",
    "std::thread",
    "std::process",
    "Instant::now",
    "SystemTime::now",
    "HashMap",
    "HashSet",
    "getrandom",
];

/// Libraries that one crate alone uses directly, so that replacing them is one crate's work.
pub const SOLE_USERS: &[(&str, &str)] = &[
    ("rustls", "leno-net"),
    ("tokio-rustls", "leno-net"),
    ("h2", "leno-http"),
    ("httparse", "leno-http"),
    ("redb", "leno-store"),
    ("rcgen", "leno-identity"),
    ("axum", "leno-control"),
    ("saphyr-parser", "leno-model"),
];

/// The only crate with `unsafe`.
pub const UNSAFE_HOME: &str = "leno-sys";

/// Module names that say nothing.
pub const EMPTY_NAMES: &[&str] = &["mod", "common", "util", "utils", "helpers", "misc", "manager", "types", "prelude"];

/// Lines of a file (tests cut off) and of a function above which the ratchet holds them.
pub const FILE_LINES: usize = 600;
/// See [`FILE_LINES`].
pub const FUNCTION_LINES: usize = 100;
