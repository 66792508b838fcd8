//! Tests of the whole program, over HTTP where it has any, in one binary.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::similar_names,
    reason = "a test that fails may panic"
)]

mod import;
mod openapi;
mod process;
mod tidy;
