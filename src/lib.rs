//! MemoryOS: a memory service for AI assistants in one binary.
//!
//! | module | is | in reading order |
//! | --- | --- | --- |
//! | [`domain`] | the rules: plans, cycles, usage, keys, memories | 1 |
//! | [`store`] | the rules' facts on the disk, as atomic operations on sled | 2 |
//! | [`app`] | the use cases | 3 |
//! | [`http`] | routes, credentials, bodies, answers | 4 |
//! | [`server`] | listening, serving, stopping | 5 |
//! | [`webhooks`] | events sent to the operator's own services | 6 |
//! | [`import`] | the old program's files | 7 |
//! | [`config`], [`cli`], [`telemetry`], [`progress`], [`clock`] | settings, commands, the log, bars, the time | 8 |
//! | `fuzzing` | what must hold for any bytes; built for tests and `cargo fuzz` only | 9 |
//!
//! `ARCHITECTURE.md` has the map, what is absent, and one request walked through.

#![cfg_attr(
    test,
    expect(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        reason = "a test that overflows fails, as it should"
    )
)]

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod http;
pub mod import;
pub mod plans_file;
pub mod progress;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod webhooks;
mod workers;
