//! MemoryOS beside a bare hyper server, PostgreSQL and Redis, in one run; `README.md` says why that is fair.
//!
//! - [`process`]: commands and servers that end with the run, however it ends.
//! - [`http`]: an HTTP client that counts bytes, for filling and for samples.
//! - [`wrk`]: a load over HTTP, and what it came to.
//! - [`memoryos`], [`reference`](mod@reference), [`postgres`], [`redis`]: the four that are compared.
//! - [`measure`]: rounds in turn.
//! - [`results`]: what a run came to: types of the JSON, ratios.
//! - [`machine`]: where it ran.
//! - [`table`], [`chart`]: what is shown of it.

pub mod chart;
pub mod http;
pub mod machine;
pub mod measure;
pub mod memoryos;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod reference;
pub mod results;
pub mod table;
pub mod wrk;

use std::path::PathBuf;

/// What the three services hold and what is put into them.
#[derive(Debug, Clone)]
pub struct Load {
    /// Accounts, each with one key.
    pub accounts: usize,
    /// Memories of each account before the first round.
    pub memories_each: usize,
    /// A memory as it is sent and stored: JSON of 300 bytes.
    pub memory: String,
    /// The folder of the scripts that the load generators run.
    pub scripts: PathBuf,
}

/// Credits of each account in a cycle: no run spends them.
pub const CREDITS: u64 = 100_000_000;
/// Memories that each account may hold: no run fills it.
pub const ROOM: u64 = 10_000_000;
/// Bytes of a memory.
pub const MEMORY_BYTES: usize = 300;

/// Makes a memory of exactly [`MEMORY_BYTES`] bytes of JSON.
#[must_use]
pub fn memory() -> String {
    let with = |output: &str| {
        format!(
            r#"{{"topic":"Coffee","type":"Preference","category":"food","input":"How does Ana take it?","output":"{output}","success":true}}"#
        )
    };
    let rest = MEMORY_BYTES.saturating_sub(with("").len());
    let words = "Black, no sugar, in the small blue cup. ".repeat(MEMORY_BYTES);
    with(&words.chars().take(rest).collect::<String>())
}
