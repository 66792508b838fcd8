//! API keys: made, listed, changed, rotated, revoked.

use crate::domain::account::{AccountKey, Email};
use crate::domain::event::Cause;
use crate::domain::key::{KeyId, Secret};
use crate::domain::plan::Plan;
use crate::domain::time::Timestamp;
use crate::domain::usage::KeyNo;
use crate::store::{AccountRow, KeyChange, KeyRefusal, KeyRow, OpError, Principal, Successor};

use super::{App, Caller, Failure, KeyLimits, SignedUp, new_key};

/// What a new key is called if nobody says.
const DEFAULT_DESCRIPTION: &str = "API key";

/// Whom a key is asked for.
#[derive(Debug)]
pub enum OwnerName {
    /// The account with this e-mail.
    Email(Email),
    /// The account with this id.
    AccountId(String),
}

/// A key that somebody wants.
#[derive(Debug)]
pub struct CreateKey {
    /// For whom; the caller's own account if `None`.
    pub owner: Option<OwnerName>,
    /// The plan that caps it.
    pub plan: Option<Plan>,
    /// What it is called.
    pub description: Option<String>,
    /// What else bounds it.
    pub limits: KeyLimits,
}

/// A key just made.
#[derive(Debug)]
pub struct CreatedKey {
    /// The account's public id.
    pub account_id: String,
    /// The key.
    pub key: KeyRow,
    /// Its plan: its own if it is capped, else the account's.
    pub plan: Plan,
    /// The key in clear for this once.
    pub secret: Secret,
}

/// A key just rotated.
#[derive(Debug)]
pub struct RotatedKey {
    /// Its successor.
    pub successor: CreatedKey,
    /// The key, as it is now.
    pub old: KeyRow,
}

/// A key just revoked.
#[derive(Debug)]
pub struct RevokedKey {
    /// The key.
    pub key: KeyRow,
}

/// How a request names a key.
#[derive(Debug)]
pub enum KeyAddress {
    /// By its id.
    Id(KeyId),
    /// By its masked form.
    Masked(String),
    /// By itself.
    Secret(Secret),
}

impl KeyAddress {
    /// Says what kind of name the text is. Every text is one: what is neither an id nor masked is a key.
    #[must_use]
    pub fn parse(text: String) -> Self {
        if let Some(id) = KeyId::parse(&text) {
            return Self::Id(id);
        }
        if text.contains("...") {
            Self::Masked(text)
        } else {
            Self::Secret(Secret::new(text))
        }
    }
}

impl App {
    /// Makes a key.
    ///
    /// # Errors
    ///
    /// [`Failure::PermissionDenied`], [`Failure::OwnerRequired`], [`Failure::UserNotFound`],
    /// [`Failure::PlanAboveAccount`], [`Failure::KeyLimitReached`].
    pub async fn create_key(
        &self,
        caller: &Caller,
        request: CreateKey,
        cause: Cause,
    ) -> Result<CreatedKey, Failure> {
        match caller {
            Caller::Nobody => Err(Failure::MissingCredentials),
            Caller::Key(principal) => {
                if let Some(owner) = &request.owner {
                    self.check_own(principal, owner)?;
                }
                self.key_for(principal.account, request, Some(principal.key_no), cause)
                    .await
            }
            Caller::Admin => self.create_key_as_admin(request, cause).await,
        }
    }

    fn check_own(&self, principal: &Principal, owner: &OwnerName) -> Result<(), Failure> {
        let own = self.store().account_id(principal.account)?;
        let is_own = match owner {
            OwnerName::Email(email) => email.as_str() == own,
            OwnerName::AccountId(id) => *id == own,
        };
        if is_own {
            return Ok(());
        }
        Err(Failure::PermissionDenied(
            "Permission denied - can only create API keys for your own account",
        ))
    }

    async fn create_key_as_admin(
        &self,
        mut request: CreateKey,
        cause: Cause,
    ) -> Result<CreatedKey, Failure> {
        let (id, email) = match request.owner.take() {
            None => return Err(Failure::OwnerRequired),
            Some(OwnerName::AccountId(id)) => (id, None),
            Some(OwnerName::Email(email)) => (email.as_str().to_owned(), Some(email)),
        };
        if let Some(account) = self.store().account_named(&id)? {
            return self.key_for(account, request, None, cause).await;
        }
        let Some(email) = email else {
            return Err(Failure::UserNotFound);
        };
        let plan = request.plan.unwrap_or_else(|| self.plans().least());
        let (most, asked) = (plan.credits_per_cycle(), request.limits.credits_per_cycle);
        if asked.is_some_and(|asked| asked > most) {
            return Err(Failure::CreditsAboveOwn(most));
        }
        let description = request
            .description
            .clone()
            .unwrap_or_else(|| "Initial account setup".to_owned());
        if let Some(made) = self
            .make_account(
                Some(email),
                plan,
                &description,
                &request.limits,
                cause.clone(),
            )
            .await?
        {
            log::info!(
                "account {} made by the admin",
                made.account.account.anonymous_id()
            );
            return first_key(made);
        }
        // Somebody was faster: the account is there now.
        let account = self
            .store()
            .account_named(&id)?
            .ok_or(Failure::Overloaded)?;
        self.key_for(account, request, None, cause).await
    }

    async fn key_for(
        &self,
        account: AccountKey,
        request: CreateKey,
        maker: Option<u32>,
        cause: Cause,
    ) -> Result<CreatedKey, Failure> {
        let secret = Secret::generate()?;
        let description = request
            .description
            .unwrap_or_else(|| DEFAULT_DESCRIPTION.to_owned());
        let key = new_key(&secret, description, request.plan, &request.limits)?;
        let now = self.now();
        let made = self
            .store()
            .create_key(account, key, maker, now, cause)
            .await;
        let key = made.map_err(key_failure)?;
        log::info!("key {} of {} made", key.id, account.anonymous_id());
        self.created(key, secret, now)
    }

    fn created(&self, key: KeyRow, secret: Secret, now: Timestamp) -> Result<CreatedKey, Failure> {
        let usage = self.store().usage(key.account, now)?;
        Ok(CreatedKey {
            account_id: self.store().account_id(key.account)?,
            plan: usage.balance_of_share(&key.share).plan,
            key,
            secret,
        })
    }

    /// Gives a key a successor that is as it is; the key itself works for `grace_seconds` more, without
    /// managing keys.
    ///
    /// # Errors
    ///
    /// As [`Self::change_key`]; [`Failure::KeyLimitReached`].
    pub async fn rotate_key(
        &self,
        caller: &Caller,
        address: KeyAddress,
        grace_seconds: u32,
        cause: Cause,
    ) -> Result<RotatedKey, Failure> {
        let now = self.now();
        let (own, by) = asker(caller)?;
        let denied = "Permission denied - can only rotate your own API keys";
        let key = self.addressed_key(own, address, denied, now).await?;
        let secret = Secret::generate()?;
        let successor = Successor {
            hash: secret.hash(),
            id: KeyId::generate()?,
            masked: secret.masked(),
            grace_seconds,
        };
        let rotated = self
            .store()
            .rotate_key(key.account, &key.id, successor, by, now, cause)
            .await;
        let (new, old) = rotated.map_err(key_failure)?;
        let account = key.account.anonymous_id();
        log::info!("key {} of {account} rotated into {}", old.id, new.id);
        let successor = self.created(new, secret, now)?;
        Ok(RotatedKey { successor, old })
    }

    /// Changes a key. Returns its account and the key as it is then.
    ///
    /// # Errors
    ///
    /// [`Failure::KeyNotFound`], [`Failure::PermissionDenied`], [`Failure::AmbiguousKey`],
    /// [`Failure::KeyNotActive`], [`Failure::KeyRotated`], [`Failure::LastManagingKey`], and what says that the
    /// key would have more than the one that asks: [`Failure::InsufficientScope`],
    /// [`Failure::OutlivesMaker`], [`Failure::PlanAboveAccount`], [`Failure::CreditsAboveOwn`].
    pub async fn change_key(
        &self,
        caller: &Caller,
        address: KeyAddress,
        change: KeyChange,
        cause: Cause,
    ) -> Result<(AccountRow, KeyRow), Failure> {
        let now = self.now();
        let (own, by) = asker(caller)?;
        let denied = "Permission denied - can only change your own API keys";
        let key = self.addressed_key(own, address, denied, now).await?;
        let changed = self
            .store()
            .change_key(key.account, &key.id, change, by, now, cause)
            .await;
        let changed = changed.map_err(key_failure)?;
        log::info!("key {} of {} changed", key.id, key.account.anonymous_id());
        let account = self.store().account(key.account, now)?;
        let account = account.ok_or(Failure::KeyNotFound)?;
        Ok((account, changed))
    }

    /// Returns an account and all its keys, oldest first; only the active ones unless `revoked_too`.
    ///
    /// # Errors
    ///
    /// Whatever the store says.
    pub async fn keys_of(
        &self,
        principal: &Principal,
        revoked_too: bool,
    ) -> Result<(AccountRow, Vec<KeyRow>), Failure> {
        self.account_and_keys(principal.account, revoked_too).await
    }

    /// Returns keys of all accounts and how many there are; for the admin.
    ///
    /// # Errors
    ///
    /// Whatever the store says.
    pub async fn all_keys(
        &self,
        revoked_too: bool,
        skip: u64,
        limit: u64,
    ) -> Result<(Vec<(AccountRow, KeyRow)>, u64), Failure> {
        let now = self.now();
        self.blocking(move |store| store.all_keys(revoked_too, skip, limit, now))
            .await
    }

    /// Revokes a key.
    ///
    /// # Errors
    ///
    /// [`Failure::KeyNotFound`], [`Failure::PermissionDenied`], [`Failure::AmbiguousKey`],
    /// [`Failure::LastActiveKey`].
    pub async fn revoke_key(
        &self,
        caller: &Caller,
        address: KeyAddress,
        cause: Cause,
    ) -> Result<RevokedKey, Failure> {
        let now = self.now();
        let (own, by) = match caller {
            Caller::Nobody => return Err(Failure::MissingCredentials),
            Caller::Key(principal) => (Some(principal.account), principal.key_id.to_string()),
            Caller::Admin => (None, "admin".to_owned()),
        };
        let denied = "Permission denied - can only revoke your own API keys";
        let key = self.addressed_key(own, address, denied, now).await?;
        let revoked = self
            .store()
            .revoke_key(key.account, &key.id, own.is_none(), now, cause.clone())
            .await;
        let revoked = revoked.map_err(|error| match error {
            OpError::Refused(KeyRefusal::LastManager) => {
                log::info!("revoking key {} refused: no other manages keys", key.id);
                self.key_kept(key.account, key.id.clone(), cause);
                let row = self.store().account(key.account, now);
                let others = row.is_ok_and(|row| row.is_some_and(|row| row.keys.len() > 1));
                Failure::LastActiveKey { others }
            }
            error => key_failure(error),
        })?;
        log::info!(
            "key {} of {} revoked by {by}",
            revoked.id,
            key.account.anonymous_id()
        );
        Ok(RevokedKey { key: revoked })
    }

    /// Finds the key that a request names; `own` is the account that asks, `None` for the admin. `denied` says
    /// what it may do with its own keys only.
    async fn addressed_key(
        &self,
        own: Option<AccountKey>,
        address: KeyAddress,
        denied: &'static str,
        now: Timestamp,
    ) -> Result<KeyRow, Failure> {
        let is_own = |key: &KeyRow| own.is_none_or(|account| account == key.account);
        // First as the key itself: one that an operator chose can look like an id or a mask.
        let hash = match &address {
            KeyAddress::Id(id) => Secret::new(id.as_str()).hash(),
            KeyAddress::Masked(text) => Secret::new(text.as_str()).hash(),
            KeyAddress::Secret(secret) => secret.hash(),
        };
        if let Some(key) = self.store().key_by_hash(&hash, now)? {
            if !is_own(&key) {
                return Err(Failure::PermissionDenied(denied));
            }
            return Ok(key);
        }
        match address {
            KeyAddress::Secret(_) => Err(Failure::KeyNotFound),
            KeyAddress::Id(id) => {
                // Another account's id is not there: an id is no proof of anything.
                let key = self.store().key_by_id(&id, now)?;
                key.filter(is_own).ok_or(Failure::KeyNotFound)
            }
            KeyAddress::Masked(masked) => {
                let fits = move |keys: Vec<KeyRow>| {
                    keys.into_iter()
                        .filter(move |key| key.masked == masked)
                        .collect::<Vec<_>>()
                };
                let found = match own {
                    Some(account) => {
                        self.blocking(move |store| Ok(fits(store.keys(account, now)?)))
                            .await?
                    }
                    None => {
                        self.blocking(move |store| {
                            let (keys, _) = store.all_keys(true, 0, u64::MAX, now)?;
                            Ok(fits(keys.into_iter().map(|(_, key)| key).collect()))
                        })
                        .await?
                    }
                };
                let mut found = found.into_iter();
                let key = found.next().ok_or(Failure::KeyNotFound)?;
                if found.next().is_some() {
                    Err(Failure::AmbiguousKey)
                } else {
                    Ok(key)
                }
            }
        }
    }
}

/// Returns the account whose keys the caller may change, and the number of the key that asks; neither for an
/// admin.
fn asker(caller: &Caller) -> Result<(Option<AccountKey>, Option<KeyNo>), Failure> {
    match caller {
        Caller::Nobody => Err(Failure::MissingCredentials),
        Caller::Key(principal) => Ok((Some(principal.account), Some(principal.key_no))),
        Caller::Admin => Ok((None, None)),
    }
}

/// The first key of an account that the admin has just made.
fn first_key(made: SignedUp) -> Result<CreatedKey, Failure> {
    let plan = made.account.usage.plan();
    let key = made.account.keys.into_iter().next();
    let key = key.ok_or_else(|| Failure::Internal("a new account has no key".to_owned()))?;
    Ok(CreatedKey {
        account_id: made.account.account_id,
        key,
        plan,
        secret: made.secret,
    })
}

/// Why a key was not made, changed or rotated.
fn key_failure(error: OpError<KeyRefusal>) -> Failure {
    match error {
        OpError::Refused(refusal) => match refusal {
            KeyRefusal::LimitReached => Failure::KeyLimitReached,
            KeyRefusal::AboveOwnPlan(own) => Failure::PlanAboveAccount(own),
            KeyRefusal::AboveOwnCredits(most) => Failure::CreditsAboveOwn(most),
            KeyRefusal::Beyond(scope) => Failure::InsufficientScope(scope),
            KeyRefusal::Outlives(end) => Failure::OutlivesMaker(end),
            KeyRefusal::MakerRevoked => Failure::KeyRevoked,
            KeyRefusal::MakerExpired => Failure::KeyExpired,
            KeyRefusal::LastManager => Failure::LastManagingKey,
            KeyRefusal::Rotated => Failure::KeyRotated,
            KeyRefusal::NotActive => Failure::KeyNotActive,
            KeyRefusal::Exists => Failure::Internal("a new key was there already".to_owned()),
        },
        OpError::Store(error) => error.into(),
    }
}
