//! Who calls: a key's account, the admin, or nobody.

use std::sync::Arc;

use crate::domain::key::Secret;
use crate::store::{KeyState, Principal};

use super::{App, Failure};

/// The admin key of a server that listens on loopback only and has no other.
pub const DEFAULT_ADMIN_KEY: &str = "admin-secret-key";

/// Who is the admin.
#[derive(Debug)]
pub enum AdminAccess {
    /// Whoever has one of these keys.
    Key {
        /// The key.
        current: Secret,
        /// The one before, while it is being replaced.
        previous: Option<Secret>,
    },
    /// Whoever has [`DEFAULT_ADMIN_KEY`] and calls from this machine without a proxy.
    LoopbackDefault,
    /// Nobody, until the operator sets a key.
    Disabled,
}

/// What a request brings to prove that it is the admin's.
#[derive(Debug)]
pub struct AdminProof {
    /// The admin key, as sent.
    pub key: Secret,
    /// Whether the request comes straight from this machine: a loopback `Host`, no `Origin`, no
    /// `Forwarded` and no `X-Forwarded-*`. Without it a page in a browser could use the default key.
    pub is_local: bool,
}

/// Who calls.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Nobody in particular.
    Nobody,
    /// An account, by one of its keys.
    Key(Arc<Principal>),
    /// The admin.
    Admin,
}

impl App {
    /// Returns whom an API key belongs to.
    ///
    /// # Errors
    ///
    /// [`Failure::InvalidKey`], [`Failure::KeyRevoked`], [`Failure::KeyExpired`],
    /// [`Failure::AccountSuspended`].
    pub fn authenticate(&self, key: &Secret) -> Result<Arc<Principal>, Failure> {
        if !key.is_plausible() {
            return Err(Failure::InvalidKey);
        }
        match self.store().authenticate(&key.hash(), self.now())? {
            None => Err(Failure::InvalidKey),
            Some(KeyState::Revoked(_)) => Err(Failure::KeyRevoked),
            Some(KeyState::Expired(_)) => Err(Failure::KeyExpired),
            Some(KeyState::Suspended(_)) => Err(Failure::AccountSuspended),
            Some(KeyState::Active(principal)) => Ok(principal),
        }
    }

    /// Checks an admin key.
    ///
    /// # Errors
    ///
    /// [`Failure::AdminRequired`] if it is wrong, [`Failure::AdminDisabled`] if none could be right.
    pub fn authenticate_admin(&self, proof: &AdminProof) -> Result<(), Failure> {
        let default = Secret::new(DEFAULT_ADMIN_KEY);
        match &self.settings().admin {
            AdminAccess::Disabled => Err(Failure::AdminDisabled),
            AdminAccess::Key { current, previous } => {
                // Both are compared each time: the time tells nothing of which is near.
                let is_current = proof.key.same_as(current);
                let is_previous = previous.as_ref().is_some_and(|key| proof.key.same_as(key));
                if is_current | is_previous {
                    Ok(())
                } else {
                    Err(Failure::AdminRequired)
                }
            }
            AdminAccess::LoopbackDefault if !proof.is_local => Err(Failure::AdminDisabled),
            AdminAccess::LoopbackDefault if proof.key.same_as(&default) => Ok(()),
            AdminAccess::LoopbackDefault => Err(Failure::AdminRequired),
        }
    }

    /// Says why an admin request without an admin key is refused.
    #[must_use]
    pub fn missing_admin_key(&self) -> Failure {
        match self.settings().admin {
            AdminAccess::Disabled => Failure::AdminDisabled,
            AdminAccess::Key { .. } | AdminAccess::LoopbackDefault => Failure::AdminRequired,
        }
    }
}
