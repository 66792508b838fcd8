//! Behaviour over real HTTP, one file a topic, in one binary.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets what it does not expect has to fail at once"
)]

mod accounts;
mod admin;
mod credits;
mod faults;
mod harness;
mod idempotency;
mod keys;
mod memories;
mod protocol;
