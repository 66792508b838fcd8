//! Sign-up, and what an account or key has left.

use crate::domain::account::{AccountKey, Email};
use crate::domain::event::{Actor, Cause};
use crate::domain::key::Secret;
use crate::domain::plan::Plan;
use crate::domain::time::Timestamp;
use crate::domain::usage::Balance;
use crate::store::{AccountRow, KeyRow, NameTaken, NewAccount, OpError, Principal};

use super::{App, Failure, KeyLimits, new_key, random_bits};

/// The name of the account that `JAVLIN_API_KEY` belongs to.
const DEFAULT_ACCOUNT: &str = "default";

/// Who wants an account.
#[derive(Debug)]
pub struct SignUp {
    /// The e-mail, if one is given.
    pub email: Option<Email>,
    /// The plan.
    pub plan: Plan,
}

/// An account just made.
#[derive(Debug)]
pub struct SignedUp {
    /// The account.
    pub account: AccountRow,
    /// Its first key, in clear for this once.
    pub secret: Secret,
}

/// What a key has left, and whose it is.
#[derive(Debug)]
pub struct Credits {
    /// The account's public id.
    pub account_id: String,
    /// The numbers.
    pub balance: Balance,
    /// The last metered request of the key if it is capped, else of the account.
    pub last_activity: Option<Timestamp>,
    /// The time of the answer.
    pub now: Timestamp,
}

impl App {
    /// Makes an account with its first key.
    ///
    /// # Errors
    ///
    /// [`Failure::SignupClosed`], [`Failure::PlanNotOpen`], [`Failure::UserExists`].
    pub async fn sign_up(&self, request: SignUp, cause: Cause) -> Result<SignedUp, Failure> {
        let open = &self.settings().signup_plans;
        if open.is_empty() {
            return Err(Failure::SignupClosed);
        }
        if !open.contains(&request.plan) {
            return Err(Failure::PlanNotOpen(request.plan));
        }
        let made = self
            .make_account(
                request.email,
                request.plan,
                "Initial account creation",
                &KeyLimits::default(),
                cause,
            )
            .await?
            .ok_or(Failure::UserExists)?;
        log::info!(
            "account {} signed up on {}",
            made.account.account.anonymous_id(),
            request.plan
        );
        Ok(made)
    }

    /// Makes an account. `None` if the e-mail has one.
    pub(super) async fn make_account(
        &self,
        email: Option<Email>,
        plan: Plan,
        description: &str,
        limits: &KeyLimits,
        cause: Cause,
    ) -> Result<Option<SignedUp>, Failure> {
        let secret = Secret::generate()?;
        let now = self.now();
        let new = NewAccount {
            account: AccountKey::new(now.millis(), random_bits()),
            name: email.map(|email| email.as_str().to_owned()),
            plan,
            key: new_key(&secret, description.to_owned(), None, limits)?,
            created_at: now,
            cause,
        };
        match self.store().create_account(new).await {
            Ok(account) => Ok(Some(SignedUp { account, secret })),
            Err(OpError::Refused(NameTaken::Name)) => Ok(None),
            Err(OpError::Refused(NameTaken::NoManager)) => Err(Failure::LastManagingKey),
            Err(OpError::Refused(NameTaken::Key)) => {
                Err(Failure::Internal("a new key was there already".to_owned()))
            }
            Err(OpError::Store(error)) => Err(error.into()),
        }
    }

    /// Makes the operator's key, `JAVLIN_API_KEY`, an active key of the account `default`; at start.
    ///
    /// Does nothing if the key is there, and warns if it was revoked: revoked stays revoked.
    ///
    /// # Errors
    ///
    /// Whatever the store says.
    pub async fn ensure_default_key(&self, secret: &Secret) -> Result<(), Failure> {
        match self.authenticate(secret) {
            Ok(_) | Err(Failure::AccountSuspended) => return Ok(()),
            Err(Failure::KeyRevoked | Failure::KeyExpired) => {
                log::warn!("JAVLIN_API_KEY was revoked and stays revoked; set another or unset it");
                return Ok(());
            }
            Err(Failure::InvalidKey) => {}
            Err(failure) => return Err(failure),
        }
        let now = self.now();
        let cause = Cause {
            actor: Actor::Admin,
            ..Cause::service()
        };
        let (name, limits) = ("JAVLIN_API_KEY".to_owned(), KeyLimits::default());
        let key = new_key(secret, name, None, &limits)?;
        let made = if let Some(account) = self.store().account_named(DEFAULT_ACCOUNT)? {
            self.store()
                .create_key(account, key, None, now, cause)
                .await
                .map(drop)
                .map_err(key_not_made)
        } else {
            let new = NewAccount {
                account: AccountKey::new(now.millis(), random_bits()),
                name: Some(DEFAULT_ACCOUNT.to_owned()),
                plan: self.plans().most(),
                key,
                created_at: now,
                cause,
            };
            self.store()
                .create_account(new)
                .await
                .map(drop)
                .map_err(key_not_made)
        };
        made?;
        log::info!("JAVLIN_API_KEY is a key of the account {DEFAULT_ACCOUNT}");
        Ok(())
    }

    /// Returns what a key has left.
    ///
    /// # Errors
    ///
    /// [`Failure::KeyRevoked`] if it was revoked meanwhile.
    pub fn credits(&self, principal: &Principal) -> Result<Credits, Failure> {
        let now = self.now();
        let seen = self.store().see_usage(principal.account, now, |usage| {
            let share = usage.share(principal.lineage)?;
            let balance = usage.balance_of_share(share);
            let last_activity = if balance.capped {
                share.last_activity
            } else {
                usage.last_activity
            };
            Some((balance, last_activity))
        })?;
        let (balance, last_activity) = seen.ok_or(Failure::KeyRevoked)?;
        let account_id = self.store().account_id(principal.account)?;
        Ok(Credits {
            account_id,
            balance,
            last_activity,
            now,
        })
    }

    /// Returns the account and the key that a request acts with.
    ///
    /// # Errors
    ///
    /// [`Failure::KeyRevoked`] and [`Failure::KeyExpired`] if it has ended meanwhile.
    pub fn who_is(&self, principal: &Principal) -> Result<(AccountRow, KeyRow), Failure> {
        let now = self.now();
        let account = self.store().account(principal.account, now)?;
        let account = account.ok_or(Failure::InvalidKey)?;
        let key = self.store().key_by_id(&principal.key_id, now)?;
        match key {
            Some(key) if key.ended_at.is_none() => Ok((account, key)),
            Some(key) if key.expired => Err(Failure::KeyExpired),
            _ => Err(Failure::KeyRevoked),
        }
    }
}

/// Why the operator's key was not made; a refusal by the rules is told in its own words.
fn key_not_made<E: std::error::Error>(error: OpError<E>) -> Failure {
    match error {
        OpError::Store(error) => error.into(),
        OpError::Refused(refusal) => Failure::Internal(refusal.to_string()),
    }
}
