//! The binary `memoryos`.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Settings of the allocator, which looks for them under this name: memory that was freed goes back to the system
/// within a second, also while nothing is asked for.
#[expect(unsafe_code, reason = "the name is the allocator's")]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static ALLOCATOR_SETTINGS: &[u8] =
    b"narenas:2,dirty_decay_ms:1000,muzzy_decay_ms:0,background_thread:true\0";

fn main() -> ExitCode {
    memoryos::cli::run()
}
