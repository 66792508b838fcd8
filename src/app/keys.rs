//! API keys: made, listed, revoked.

use crate::domain::account::{AccountKey, Email};
use crate::domain::event::Cause;
use crate::domain::key::{KeyId, Secret};
use crate::domain::plan::Plan;
use crate::domain::time::Timestamp;
use crate::store::{AccountRow, KeyRefusal, KeyRow, OpError, Principal};

use super::{App, Caller, Failure, SignedUp, new_key};

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
        let description = request
            .description
            .clone()
            .unwrap_or_else(|| "Initial account setup".to_owned());
        if let Some(made) = self
            .make_account(Some(email), plan, &description, cause.clone())
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
        let key = new_key(&secret, description, request.plan)?;
        let now = self.now();
        let made = self
            .store()
            .create_key(account, key, maker, now, cause)
            .await;
        let key = made.map_err(key_failure)?;
        log::info!("key {} of {} made", key.id, account.anonymous_id());
        let plan = self
            .store()
            .usage(account, now)?
            .balance_of_share(&key.share)
            .plan;
        Ok(CreatedKey {
            account_id: self.store().account_id(account)?,
            key,
            plan,
            secret,
        })
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
        let key = self.addressed_key(own, address, now).await?;
        let revoked = self
            .store()
            .revoke_key(key.account, &key.id, own.is_none(), now, cause.clone())
            .await;
        let revoked = revoked.map_err(|error| match error {
            OpError::Refused(KeyRefusal::LastManager) => {
                log::info!("revoking key {} refused: it is the only active one", key.id);
                self.key_kept(key.account, key.id.clone(), cause);
                Failure::LastActiveKey
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

    /// Finds the key that a request names; `own` is the account that asks, `None` for the admin.
    async fn addressed_key(
        &self,
        own: Option<AccountKey>,
        address: KeyAddress,
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
                return Err(Failure::PermissionDenied(
                    "Permission denied - can only revoke your own API keys",
                ));
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
            KeyRefusal::LastManager => Failure::LastManagingKey,
            KeyRefusal::Rotated => Failure::KeyRotated,
            KeyRefusal::NotActive => Failure::KeyNotActive,
            KeyRefusal::Exists => Failure::Internal("a new key was there already".to_owned()),
        },
        OpError::Store(error) => error.into(),
    }
}
