//! Tests of the whole program, over HTTP where it has any, one file a topic, in one binary.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::similar_names,
    reason = "a test that meets what it does not expect has to fail at once"
)]

mod accounts;
mod admin;
mod admin_user;
mod audit;
mod backups;
mod credits;
mod database;
mod erasure;
mod faults;
mod harness;
mod idempotency;
mod import;
mod key_rights;
mod keys;
mod ledger;
mod limits;
mod memories;
mod openapi;
mod process;
mod protocol;
mod tidy;
mod webhooks;
