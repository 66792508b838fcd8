//! Where events are sent: the operator's endpoints.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Most endpoints of a service.
pub const ENDPOINTS_MAX: usize = 8;

/// The name of an endpoint inside: the first 8 bytes of the SHA-256 of its URL. The URL itself, which can
/// hold a token, is in the configuration only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointId(pub [u8; 8]);

/// The events that are sent.
pub const EVENTS_SENT: [&str; 6] = [
    "credits.low",
    "credits.exhausted",
    "memory.near_limit",
    "key.created",
    "key.revoked",
    "plan.changed",
];

impl EndpointId {
    /// Returns the id of the endpoint with this URL.
    #[must_use]
    pub fn of_url(url: &str) -> Self {
        let hash = Sha256::digest(url.as_bytes());
        let mut id = [0; 8];
        for (to, from) in id.iter_mut().zip(hash) {
            *to = from;
        }
        Self(id)
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointId({self})")
    }
}
