//! One fuzz target per parser of bytes that a peer or a user sends (DESIGN section 11).
//!
//! A target takes any bytes and panics when something is wrong: not only when the parser itself panics, but also when two
//! ways of feeding it disagree, or when what it accepted is not read the same by the far end. `scripts/fuzz` runs them under
//! libFuzzer; the seeds, and every input that ever found something, run as an ordinary test.

mod discovery;
pub mod h1;
pub mod h2;
pub mod hop;
pub mod mux;
mod text;

/// Panics if `data` shows a defect.
pub type Target = fn(data: &[u8]);

/// Every target: its name, which is also its folder below `seeds/`, and the function.
pub const TARGETS: &[(&str, Target)] = &[
    ("h1", h1::run),
    ("h2", h2::run),
    ("hop", hop::run),
    ("hop_heads", hop::heads),
    ("discovery", discovery::run),
    ("yaml", text::yaml),
    ("names", text::names),
];

/// The target of a name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}

/// The names, for messages.
#[must_use]
pub fn names() -> String {
    TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// Cuts `bytes` into pieces whose lengths `pattern` gives less one, again and again; one piece if it gives none.
pub fn cut<'a>(bytes: &'a [u8], pattern: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = pattern.iter().map(|b| usize::from(*b) + 1).cycle();
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, tail) = rest.split_at(lengths.next().unwrap_or(rest.len()).min(rest.len()));
        rest = tail;
        Some(piece)
    })
}
