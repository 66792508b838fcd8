//! Webhooks: tells the operator's own services what happened, signed, at least once, in no promised order.
//!
//! Events wait in the store's outbox, which they reach by the write that makes their effect. For each
//! endpoint a [`sender`] takes what is due, and [`delivery`] sends it: only to an address that [`guard`]
//! allows, with a [`signature`]. What is not answered with 2xx is due again later ([`backoff`]).

pub mod backoff;
pub mod delivery;
pub mod endpoint;
pub mod guard;
pub mod sender;
pub mod signature;

pub use backoff::Schedule;
pub use delivery::Courier;
pub use endpoint::{Endpoint, EndpointError};
pub use sender::Senders;
