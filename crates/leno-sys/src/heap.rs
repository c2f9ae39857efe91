//! How the allocator of the binary is tuned (docs/adr/0011): jemalloc reads its options from a symbol of this name, before `main`.
//!
//! The environment variable `MALLOC_CONF` has the last word, so an operator can try others.

macro_rules! settings {
    () => {
        "background_thread:true,narenas:2,dirty_decay_ms:1000,muzzy_decay_ms:0,thp:never"
    };
}

/// The options, as jemalloc's manual names them:
///
/// - `background_thread`: a thread of jemalloc's own gives memory back while nobody allocates. Without it an idle proxy keeps what a
///   burst needed until the next burst.
/// - `dirty_decay_ms`, `muzzy_decay_ms`: freed pages go back within a second, and at once to the system's count instead of lazily.
/// - `narenas`: the worker and all other threads. More arenas hold more pages that are partly used, and one thread never uses two.
/// - `thp`: no huge pages, of which one small allocation would hold 2 MiB.
pub const SETTINGS: &str = settings!();

const WITH_END: &str = concat!(settings!(), "\0");

/// Bytes of the options with the NUL at their end.
pub const LENGTH: usize = WITH_END.len();

/// Names what jemalloc finds, for the binary to name this: the linker then takes both along. Naming that one alone is not enough, since
/// jemalloc's own empty one would do.
pub static TUNING: &&[u8; LENGTH] = &MALLOC_CONF;

#[expect(unsafe_code, reason = "a symbol of a fixed name could take the place of somebody else's")]
// SAFETY: jemalloc defines `malloc_conf` weakly, as `const char *`, for programs to define it. This is a pointer to bytes that end
// with NUL and live for ever; no other crate of the workspace defines it.
#[unsafe(export_name = "malloc_conf")]
static MALLOC_CONF: &[u8; LENGTH] = match WITH_END.as_bytes().first_chunk() {
    Some(bytes) => bytes,
    None => panic!("as long as itself"),
};
