//! The `leno` binary: the command line, and the allocator that everything in it uses.

/// jemalloc gives memory back to the system after a burst, which glibc's allocator does not from a thread's arena.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    leno_cli::main()
}
