//! Every way in which a use case can end without doing what was asked.

use crate::domain::key::NoEntropy;
use crate::domain::memory::MemoryError;
use crate::domain::plan::{Plan, UnknownPlan};
use crate::domain::scope::Scope;
use crate::domain::time::Timestamp;
use crate::domain::usage::{Balance, Refusal};
use crate::store::{CheckRefusal, StoreError};

use super::limits::Exceeded;

/// Why a request was not done. `http` gives each a status, a code and words.
#[derive(Debug)]
pub enum Failure {
    /// No credential was sent.
    MissingCredentials,
    /// The key is nobody's.
    InvalidKey,
    /// The key was revoked.
    KeyRevoked,
    /// The key's time has come.
    KeyExpired,
    /// An admin has suspended the account.
    AccountSuspended,
    /// The key lacks this scope.
    InsufficientScope(Scope),
    /// The key would have more credits of a cycle than its maker, or its plan, who has so many.
    CreditsAboveOwn(u64),
    /// The key would outlive its maker, who ends then.
    OutlivesMaker(Timestamp),
    /// An account keeps a key that manages keys and does not end.
    LastManagingKey,
    /// The key has a successor already.
    KeyRotated,
    /// The key was revoked, or its time has come.
    KeyNotActive,
    /// Fewer credits are left than should be taken.
    TooFewCredits(Balance),
    /// The admin key is missing, empty or wrong.
    AdminRequired,
    /// There is no admin until the operator sets a key; or not from where the request came.
    AdminDisabled,
    /// The caller may not do this; says what it may.
    PermissionDenied(&'static str),
    /// The admin did not say for whom a key is.
    OwnerRequired,
    /// The body is no memory.
    InvalidMemory(MemoryError),
    /// No plan has that name.
    InvalidPlan(UnknownPlan),
    /// No plan was given.
    PlanRequired,
    /// What shall confirm an erasure is not the account's id.
    NotConfirmed,
    /// The `Idempotency-Key` was used with another body.
    IdempotencyKeyReused,
    /// A request with the same `Idempotency-Key` is being answered.
    IdempotencyInFlight,
    /// Nobody can sign up.
    SignupClosed,
    /// Nobody can sign up for this plan.
    PlanNotOpen(Plan),
    /// The key would be worth more than its maker, who has this plan.
    PlanAboveAccount(Plan),
    /// The e-mail has an account.
    UserExists,
    /// No such account.
    UserNotFound,
    /// No such key.
    KeyNotFound,
    /// The account has as many active keys as it can.
    KeyLimitReached,
    /// It is the account's only active key that manages keys and does not end.
    LastActiveKey {
        /// Whether other keys are active, which do not.
        others: bool,
    },
    /// More than one key has that masked form.
    AmbiguousKey,
    /// No such memory.
    MemoryNotFound,
    /// Too few credits.
    OutOfCredits {
        /// What is left.
        balance: Balance,
        /// What it would have cost.
        cost: u64,
    },
    /// No room for another memory.
    MemoryLimitExceeded(Balance),
    /// A backup is being made.
    BackupInProgress,
    /// A check is running.
    CheckInProgress,
    /// Too many requests of a kind.
    RateLimited(Exceeded),
    /// Too many writes wait.
    Overloaded,
    /// Nothing can be written. `outcome_unknown`: this write may or may not be there later.
    StorageUnavailable {
        /// Whether the write was begun.
        outcome_unknown: bool,
    },
    /// Nothing can be written, since little space is left on the disk.
    StorageFull,
    /// Our fault; the text is for the log only.
    Internal(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Internal(detail) => f.write_str(detail),
            other => write!(f, "{other:?}"),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::StorageFull,
            StoreError::Unavailable => Self::StorageUnavailable {
                outcome_unknown: false,
            },
            StoreError::OutcomeUnknown => Self::StorageUnavailable {
                outcome_unknown: true,
            },
            StoreError::Overloaded => Self::Overloaded,
            // Erased between the look at the key and the act.
            StoreError::NoAccount => Self::InvalidKey,
            error if error.is_disk_failure() => {
                log::error!("a read failed: {}", chain(&error));
                Self::StorageUnavailable {
                    outcome_unknown: false,
                }
            }
            error @ (StoreError::Database(_) | StoreError::Corrupt(_)) => {
                Self::Internal(chain(&error))
            }
        }
    }
}

impl From<CheckRefusal> for Failure {
    fn from(refusal: CheckRefusal) -> Self {
        match refusal {
            CheckRefusal::InProgress => Self::CheckInProgress,
            CheckRefusal::Store(error) => error.into(),
        }
    }
}

impl From<NoEntropy> for Failure {
    fn from(error: NoEntropy) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<UnknownPlan> for Failure {
    fn from(error: UnknownPlan) -> Self {
        Self::InvalidPlan(error)
    }
}

impl Failure {
    /// Turns a refusal by the rules of usage into the failure of a request that costs `cost`.
    #[must_use]
    pub fn of_usage(refusal: Refusal, cost: u64) -> Self {
        match refusal {
            Refusal::OutOfCredits(balance) => Self::OutOfCredits { balance, cost },
            Refusal::MemoryLimit(balance) => Self::MemoryLimitExceeded(balance),
            Refusal::KeyRevoked => Self::KeyRevoked,
            Refusal::TooFewToTake(balance) => Self::TooFewCredits(balance),
            Refusal::Busy => Self::Overloaded,
        }
    }
}

/// An error and its causes, for the log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
