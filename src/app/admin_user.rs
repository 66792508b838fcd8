//! What an admin does with one account: looks at it, gives or takes credits, suspends it, moves it to
//! another e-mail address.

use crate::domain::account::{AccountKey, Email};
use crate::domain::event::Cause;
use crate::domain::time::Timestamp;
use crate::domain::usage::Usage;
use crate::store::{AccountRow, Adjust, KeyRow, NameTaken, OpError, ReplayRefusal, StoreError};

use super::memories::idempotency_hashes;
use super::{App, Failure, Target};

/// Keys that one answer lists besides the active ones: the newest. Ended keys are kept for ever, so that there
/// may be any number.
const KEYS_LISTED_MAX: usize = 1_000;

/// Credits that an admin wants to give or take.
#[derive(Debug)]
pub struct AdjustRequest {
    /// Whose.
    pub target: Target,
    /// How many, not 0, [`crate::domain::usage::ADJUST_MAX`] at most; below 0 to take them.
    pub amount: i64,
    /// The client's `Idempotency-Key`, and the body's bytes that it stands for.
    pub idempotency: (String, Vec<u8>),
}

/// Credits just given or taken.
#[derive(Debug)]
pub struct Adjusted<'a> {
    /// The account's public id.
    pub account_id: String,
    /// How many; below 0 if they were taken.
    pub amount: i64,
    /// The counters after it.
    pub usage: &'a Usage,
    /// When.
    pub at: Timestamp,
}

/// An answer that is on record, made just now or before.
#[derive(Debug)]
pub struct Recorded {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: String,
    /// Whether it was recorded before.
    pub replayed: bool,
}

/// An account that has another e-mail address, or had it already.
#[derive(Debug)]
pub struct Moved {
    /// The account's public id before.
    pub previous_account_id: String,
    /// Its public id now: the e-mail address.
    pub account_id: String,
    /// Whether that was a change.
    pub changed: bool,
}

impl App {
    /// Returns an account and its keys, oldest first; only the active ones unless `revoked_too`.
    ///
    /// # Errors
    ///
    /// [`Failure::UserNotFound`].
    pub async fn user(
        &self,
        target: &Target,
        revoked_too: bool,
    ) -> Result<(AccountRow, Vec<KeyRow>), Failure> {
        let account = self.target_account(target)?;
        self.account_and_keys(account, revoked_too).await
    }

    /// Gives an account credits of its running cycle, or takes some that are left. `respond` makes the
    /// answer's body.
    ///
    /// # Errors
    ///
    /// [`Failure::UserNotFound`], [`Failure::IdempotencyKeyReused`], [`Failure::IdempotencyInFlight`],
    /// [`Failure::TooFewCredits`].
    pub async fn adjust_credits(
        &self,
        request: &AdjustRequest,
        cause: Cause,
        respond: impl FnOnce(&Adjusted<'_>) -> String,
    ) -> Result<Recorded, Failure> {
        let account = self.target_account(&request.target)?;
        let (now, amount) = (self.now(), request.amount);
        let (key, body) = &request.idempotency;
        // Names of their own: no client's Idempotency-Key has a NUL, so none meets an admin's.
        let name = format!("admin\0{key}");
        let (key, fingerprint) = idempotency_hashes("POST /admin/user/credits", &name, body);
        let replay = match self
            .store()
            .begin_replay(account, key, fingerprint, now)
            .await
        {
            Ok(replay) => replay,
            Err(ReplayRefusal::Answered { status, body }) => {
                return Ok(Recorded {
                    status,
                    body,
                    replayed: true,
                });
            }
            Err(ReplayRefusal::InFlight) => return Err(Failure::IdempotencyInFlight),
            Err(ReplayRefusal::Reused) => return Err(Failure::IdempotencyKeyReused),
            Err(ReplayRefusal::Store(error)) => return Err(error.into()),
        };
        let account_id = self.store().account_id(account)?;
        let adjust = Adjust {
            account,
            amount,
            now,
            cause,
            replay: &replay,
        };
        let respond = |usage: &Usage| {
            respond(&Adjusted {
                account_id,
                amount,
                usage,
                at: now,
            })
        };
        let body = self.store().adjust(adjust, respond).await;
        let body = body.map_err(|error| match error {
            OpError::Refused(refusal) => Failure::of_usage(refusal, 0),
            OpError::Store(error) => error.into(),
        })?;
        log::info!("credits of {} adjusted by {amount}", account.anonymous_id());
        Ok(Recorded {
            status: 200,
            body,
            replayed: false,
        })
    }

    /// Suspends an account, so that every key of it is refused from the answer on, or lets it in again. What
    /// it is already it stays. Returns the account as it is then.
    ///
    /// # Errors
    ///
    /// [`Failure::UserNotFound`].
    pub async fn suspend(
        &self,
        target: &Target,
        suspended: bool,
        cause: Cause,
    ) -> Result<AccountRow, Failure> {
        let account = self.target_account(target)?;
        let now = self.now();
        if self.store().suspend(account, suspended, now, cause).await? {
            let what = if suspended {
                "suspended"
            } else {
                "reactivated"
            };
            log::info!("account {} {what}", account.anonymous_id());
        }
        let row = self.store().account(account, now)?;
        row.ok_or(Failure::UserNotFound)
    }

    /// Moves an account to another e-mail address, which is its account id from then on. The old address can
    /// sign up afresh.
    ///
    /// # Errors
    ///
    /// [`Failure::UserNotFound`], [`Failure::UserExists`] if the address has another account.
    pub async fn change_email(
        &self,
        target: &Target,
        email: &Email,
        cause: Cause,
    ) -> Result<Moved, Failure> {
        let account = self.target_account(target)?;
        let previous_account_id = self.store().account_id(account)?;
        let moved = self
            .store()
            .rename(account, email.as_str(), self.now(), cause);
        let changed = moved.await.map_err(|error| match error {
            OpError::Refused(NameTaken::Name) => Failure::UserExists,
            OpError::Refused(refusal) => Failure::Internal(refusal.to_string()),
            OpError::Store(error) => error.into(),
        })?;
        if changed {
            let id = account.anonymous_id();
            log::info!("account {id} moved to another e-mail address");
        }
        Ok(Moved {
            previous_account_id,
            account_id: email.as_str().to_owned(),
            changed,
        })
    }

    fn target_account(&self, target: &Target) -> Result<AccountKey, Failure> {
        self.target(target)?.ok_or(Failure::UserNotFound)
    }

    /// Returns an account and its keys, oldest first; only the active ones unless `revoked_too`.
    pub(super) async fn account_and_keys(
        &self,
        account: AccountKey,
        revoked_too: bool,
    ) -> Result<(AccountRow, Vec<KeyRow>), Failure> {
        let now = self.now();
        self.blocking(move |store| {
            let row = store.account(account, now)?;
            let row = row.ok_or(StoreError::NoAccount)?;
            let keys = if revoked_too {
                store.newest_keys(account, KEYS_LISTED_MAX, now)?
            } else {
                row.keys.clone()
            };
            Ok((row, keys))
        })
        .await
    }
}
