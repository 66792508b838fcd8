//! The rules: no input or output, no clock, no async. Everything here is a value or a function of values.
//!
//! | word | means |
//! | --- | --- |
//! | account | who owns memories and pays; all its keys see the same memories |
//! | API key | the secret, shown once; stored as its [`key::KeyHash`], named by its [`key::KeyId`] |
//! | plan | what an account may spend in a cycle and hold: [`plan::Plan`] |
//! | catalog | the plans and prices that are sold: [`catalog::Catalog`] |
//! | credits | the unit; they belong to the account, so minting keys mints none |
//! | usage | counters of an account and, for its own share, of each key: [`usage::Usage`] |
//! | scope | what a key may do: [`scope::Scope`] |
//! | ledger | a row for each credit that came or went: [`ledger`] |
//! | event | something that an audit or a receiver of webhooks wants to know: [`event`] |
//! | billing cycle | `[start, end)`, counted from the account's anchor: [`cycle`] |
//! | memory | one stored item: [`memory::NewMemory`] |

pub mod account;
pub mod audit;
pub mod catalog;
pub mod cycle;
pub mod event;
pub mod json;
pub mod key;
pub mod ledger;
pub mod memory;
pub mod plan;
pub mod scope;
pub mod statement;
pub mod time;
pub mod usage;
pub mod webhook;
