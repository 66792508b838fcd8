//! Accounts: made once for each name, listed for the admin.

use std::collections::HashSet;
use std::ops::Bound;

use crate::domain::account::AccountKey;
use crate::domain::event::{Cause, EventKind};
use crate::domain::plan::Plan;
use crate::domain::scope::{Scope, Scopes};
use crate::domain::time::Timestamp;
use crate::domain::usage::{Share, Usage};

use super::codec::{decode, encode};
use super::key_changes::KeyRefusal;
use super::keys::{KeyRow, NewKey};
use super::schema::{AccountRecord, ActiveKey, KeyIntent, Standing, op_key, part};
use super::swap::SwapError;
use super::{Inner, OpError, Ordering, Store, StoreError};

/// An account to be made, with its first key.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// Its name inside; random enough to be nobody else's.
    pub account: AccountKey,
    /// The e-mail, or the name of a built-in account; `None` for neither.
    pub name: Option<String>,
    /// What it buys.
    pub plan: Plan,
    /// Its first key.
    pub key: NewKey,
    /// When it is made; also the anchor of its billing cycles.
    pub created_at: Timestamp,
    /// Who makes it.
    pub cause: Cause,
}

/// Why an account was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameTaken {
    /// An account has that e-mail or name.
    #[error("an account with that name exists")]
    Name,
    /// A key has that hash; only an operator can choose one.
    #[error("the key exists already")]
    Key,
    /// The first key of an account has to manage keys, and not to end.
    #[error("the first key of an account must have the scope keys and no end")]
    NoManager,
}

/// An account as the admin sees it.
#[derive(Clone, Debug)]
pub struct AccountRow {
    /// Its name inside.
    pub account: AccountKey,
    /// Its public id.
    pub account_id: String,
    /// Its e-mail.
    pub email: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether it has an active key.
    pub active: bool,
    /// Whether an admin has suspended it.
    pub suspended: bool,
    /// Since when it is suspended, or is no more; when it was made if it never was.
    pub standing_since: Timestamp,
    /// Its counters.
    pub usage: Usage,
    /// Its active keys, oldest first.
    pub keys: Vec<KeyRow>,
}

impl AccountRow {
    /// Returns the word for its state: `suspended`, else `active` or `inactive` by whether it has an active
    /// key.
    #[must_use]
    pub const fn status(&self) -> &'static str {
        match (self.suspended, self.active) {
            (true, _) => "suspended",
            (false, true) => "active",
            (false, false) => "inactive",
        }
    }
}

/// Which accounts a list is about.
#[derive(Clone, Debug, Default)]
pub struct AccountFilter {
    /// Part of the account id or the e-mail, in any case; all accounts if `None`.
    pub contains: Option<String>,
    /// The beginning of the e-mail, in any case; then accounts come by their e-mail.
    pub email_prefix: Option<String>,
}

/// Some accounts, oldest first unless they were searched by e-mail, and how many match in all.
#[derive(Clone, Debug)]
pub struct AccountsPage {
    /// The accounts of the page.
    pub rows: Vec<AccountRow>,
    /// How many match.
    pub total: u64,
    /// How many of those have an active key.
    pub active: u64,
}

impl Store {
    /// Returns the account that has this e-mail, built-in name or `acct_…` id. `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a record cannot be read.
    pub fn account_named(&self, account_id: &str) -> Result<Option<AccountKey>, StoreError> {
        let inner = self.inner()?;
        if let Some(account) = inner.trees.names.get(account_id)? {
            let account: AccountKey = decode(&account)?;
            // A claim without an account is a sign-up under way.
            return Ok(inner
                .trees
                .users
                .contains_key(account.0)?
                .then_some(account));
        }
        let Some(account) = AccountKey::parse_anonymous_id(account_id) else {
            return Ok(None);
        };
        let Some(record) = inner.trees.users.get(account.0)? else {
            return Ok(None);
        };
        let record: AccountRecord = decode(&record)?;
        // An account with a name is known by it alone.
        Ok(record.name.is_none().then_some(account))
    }

    /// Returns an account. `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a record cannot be read.
    pub fn account(
        &self,
        account: AccountKey,
        now: Timestamp,
    ) -> Result<Option<AccountRow>, StoreError> {
        let inner = self.inner()?;
        let Some(bytes) = inner.trees.users.get(account.0)? else {
            return Ok(None);
        };
        self.account_row(account, &decode(&bytes)?, now).map(Some)
    }

    /// Returns an account's public id.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if its record cannot be read.
    pub fn account_id(&self, account: AccountKey) -> Result<String, StoreError> {
        let inner = self.look()?;
        let read = || Ok(inner.account_record(account)?.account_id(account));
        inner.names.read(account, read, String::clone)
    }

    /// Makes an account, its usage and its first key.
    ///
    /// # Errors
    ///
    /// [`NameTaken`]; nothing was made then.
    pub async fn create_account(&self, new: NewAccount) -> Result<AccountRow, OpError<NameTaken>> {
        let inner = self.inner()?;
        if let Some(name) = &new.name
            && inner
                .trees
                .names
                .contains_key(name)
                .map_err(StoreError::from)?
        {
            return Err(OpError::Refused(NameTaken::Name));
        }
        let ticket = inner.admit()?;
        let (account, now) = (new.account, new.created_at);
        inner
            .run_alone(account, || inner.create_account(new))
            .await?;
        ticket.commit().await?;
        let row = self.account(account, now)?;
        Ok(row.ok_or_else(|| StoreError::Corrupt("a new account is gone".to_owned()))?)
    }

    /// Returns the accounts that match, from number `skip` on (0 is the oldest), `limit` at most.
    ///
    /// Costs a look at each account that matches if the beginning of an e-mail is given, at every account if
    /// a part is, else at `skip + limit`.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a record cannot be read.
    pub fn accounts(
        &self,
        filter: &AccountFilter,
        skip: u64,
        limit: u64,
        now: Timestamp,
    ) -> Result<AccountsPage, StoreError> {
        let inner = self.inner()?;
        if let Some(prefix) = &filter.email_prefix {
            let prefix = prefix.to_ascii_lowercase();
            return self.accounts_by_email(&prefix, filter, skip, limit, now);
        }
        let totals = &inner.totals;
        let needle = filter.contains.as_deref().map(str::to_lowercase);
        let overdue = inner.overdue(now)?;
        let is_active = |account: AccountKey, record: &AccountRecord| {
            let mut active = record.active.iter();
            active.any(|key| !overdue.contains(&(account, key.no)))
        };
        let (mut total, mut active, mut rows) = (0u64, 0u64, Vec::new());
        let end = skip.saturating_add(limit);
        for entry in &inner.trees.users {
            let (key, bytes) = entry?;
            let record: AccountRecord = decode(&bytes)?;
            let account = AccountKey(part(&key, 0).ok_or_else(bad_key)?);
            if let Some(needle) = &needle
                && !record.account_id(account).to_lowercase().contains(needle)
            {
                continue;
            }
            if (skip..end).contains(&total) {
                match self.account_row(account, &record, now) {
                    // Erased since its record was read.
                    Err(StoreError::NoAccount) => continue,
                    row => rows.push(row?),
                }
            }
            total = total.saturating_add(1);
            active = active.saturating_add(u64::from(is_active(account, &record)));
            if needle.is_none() && total >= end {
                total = totals.accounts.load(Ordering::Relaxed).max(total);
                active = totals.active_accounts.load(Ordering::Relaxed);
                let over: HashSet<AccountKey> = overdue.iter().map(|(of, _)| *of).collect();
                for account in over {
                    let record = inner.account_record(account)?;
                    let is_over = !record.active.is_empty() && !is_active(account, &record);
                    active = active.saturating_sub(u64::from(is_over));
                }
                break;
            }
        }
        Ok(AccountsPage {
            rows,
            total,
            active,
        })
    }

    /// As [`Self::accounts`], of those whose e-mail begins so, by e-mail.
    fn accounts_by_email(
        &self,
        prefix: &str,
        filter: &AccountFilter,
        skip: u64,
        limit: u64,
        now: Timestamp,
    ) -> Result<AccountsPage, StoreError> {
        let inner = self.inner()?;
        let needle = filter.contains.as_deref().map(str::to_lowercase);
        let (mut total, mut active, mut rows) = (0u64, 0u64, Vec::new());
        let end = skip.saturating_add(limit);
        let overdue = inner.overdue(now)?;
        for entry in inner.trees.names.scan_prefix(prefix) {
            let (name, account) = entry?;
            let account: AccountKey = decode(&account)?;
            // A claim without its account is a sign-up, or a move to another e-mail, under way.
            let Some(bytes) = inner.trees.users.get(account.0)? else {
                continue;
            };
            let record: AccountRecord = decode(&bytes)?;
            let Some(email) = record.email().filter(|email| email.as_bytes() == &*name) else {
                continue;
            };
            if needle
                .as_ref()
                .is_some_and(|needle| !email.contains(needle))
            {
                continue;
            }
            if (skip..end).contains(&total) {
                rows.push(self.account_row(account, &record, now)?);
            }
            total = total.saturating_add(1);
            let mut keys = record.active.iter();
            let is_active = keys.any(|key| !overdue.contains(&(account, key.no)));
            active = active.saturating_add(u64::from(is_active));
        }
        Ok(AccountsPage {
            rows,
            total,
            active,
        })
    }

    /// Suspends an account, so that every key of it is refused, or lets it in again. What it is already it
    /// stays. Returns whether that was a change.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written.
    pub async fn suspend(
        &self,
        account: AccountKey,
        suspended: bool,
        now: Timestamp,
        cause: Cause,
    ) -> Result<bool, StoreError> {
        let inner = self.inner()?;
        let ticket = inner.admit()?;
        let changed = inner
            .run_alone(account, || inner.suspend(account, suspended, now, &cause))
            .await
            .map_err(super::usage::never_refused::<std::convert::Infallible>)?;
        ticket.commit().await?;
        Ok(changed)
    }

    /// Returns accounts after `after` (from the oldest if `None`), oldest first, `limit` at most.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a record cannot be read.
    pub fn accounts_after(
        &self,
        after: Option<AccountKey>,
        limit: usize,
    ) -> Result<Vec<AccountKey>, StoreError> {
        let inner = self.inner()?;
        let first = after.map_or(Bound::Unbounded, |account| Bound::Excluded(account.0));
        let range = inner
            .trees
            .users
            .range::<[u8; 16], _>((first, Bound::Unbounded));
        range
            .keys()
            .take(limit)
            .map(|key| part(&key?, 0).map(AccountKey).ok_or_else(bad_key))
            .collect()
    }

    /// Returns the keys of all accounts, oldest account first, each account's oldest key first: `limit`
    /// of them from number `skip` on, with their accounts, and how many there are.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a record cannot be read.
    pub fn all_keys(
        &self,
        revoked_too: bool,
        skip: u64,
        limit: u64,
        now: Timestamp,
    ) -> Result<(Vec<(AccountRow, KeyRow)>, u64), StoreError> {
        let inner = self.inner()?;
        let end = skip.saturating_add(limit);
        let overdue = inner.overdue(now)?;
        let (mut total, mut rows) = (0u64, Vec::new());
        for entry in &inner.trees.users {
            let (key, bytes) = entry?;
            let record: AccountRecord = decode(&bytes)?;
            let account = AccountKey(part(&key, 0).ok_or_else(bad_key)?);
            let count = if revoked_too {
                inner.trees.account_keys.scan_prefix(account.0).count()
            } else {
                let active = record.active.iter();
                active
                    .filter(|key| !overdue.contains(&(account, key.no)))
                    .count()
            };
            let next = total.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
            if next > skip && total < end {
                let read = self.account_row(account, &record, now).and_then(|row| {
                    let keys = if revoked_too {
                        self.keys(account, now)?
                    } else {
                        row.keys.clone()
                    };
                    Ok((row, keys))
                });
                let (row, keys) = match read {
                    // Erased since its record was read.
                    Err(StoreError::NoAccount) => continue,
                    read => read?,
                };
                let wanted = (total..).zip(keys).filter(|(n, _)| (skip..end).contains(n));
                rows.extend(wanted.map(|(_, key)| (row.clone(), key)));
            }
            total = next;
        }
        Ok((rows, total))
    }

    fn account_row(
        &self,
        account: AccountKey,
        record: &AccountRecord,
        now: Timestamp,
    ) -> Result<AccountRow, StoreError> {
        let inner = self.inner()?;
        let usage = self.usage(account, now)?;
        let mut keys = Vec::with_capacity(record.active.len());
        for active in &record.active {
            if let Some(key) = inner.key_record(&active.hash)? {
                keys.push(inner.key_row(key, &usage, now)?);
            }
        }
        // One whose time has come is listed until the next sweep, but is active no more.
        keys.retain(|key| key.ended_at.is_none());
        Ok(AccountRow {
            account,
            account_id: record.account_id(account),
            email: record.email().map(str::to_owned),
            created_at: record.created_at,
            active: !keys.is_empty(),
            suspended: record.standing == Standing::Suspended,
            standing_since: record.standing_since.unwrap_or(record.created_at),
            usage,
            keys,
        })
    }
}

impl Inner {
    /// Returns an account's public id. `None` if it is gone.
    pub(super) fn public_id(&self, account: AccountKey) -> Result<Option<String>, StoreError> {
        let record = self.trees.users.get(account.0)?;
        let record = record.map(|bytes| decode::<AccountRecord>(&bytes));
        Ok(record.transpose()?.map(|record| record.account_id(account)))
    }

    pub(super) fn account_record(&self, account: AccountKey) -> Result<AccountRecord, StoreError> {
        let bytes = self.trees.users.get(account.0)?;
        decode(&bytes.ok_or(StoreError::NoAccount)?)
    }

    fn suspend(
        &self,
        account: AccountKey,
        suspended: bool,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<bool, SwapError<std::convert::Infallible>> {
        let (from, to, kind) = if suspended {
            (Standing::Good, Standing::Suspended, EventKind::Suspended)
        } else {
            (Standing::Suspended, Standing::Good, EventKind::Reactivated)
        };
        if self.account_record(account)?.standing != from {
            return Ok(false);
        }
        let steps = self.steps();
        let intent = op_key(account, 0);
        self.trees
            .key_intents
            .insert(intent, encode(&KeyIntent::Bar)?)?;
        self.swap_account(account, |record| {
            record.standing = to;
            record.standing_since = Some(now);
            record.events.push(now, cause.clone(), kind.clone());
        })?;
        self.bar(account, to)?;
        self.trees.key_intents.remove(intent)?;
        steps.complete();
        self.hand_over(account)?;
        Ok(true)
    }

    /// Makes the index of accounts that are not let in agree with an account's standing.
    pub(super) fn bar(&self, account: AccountKey, standing: Standing) -> Result<(), StoreError> {
        let barred = &self.totals.barred;
        if standing == Standing::Good {
            if self.trees.barred.remove(account.0)?.is_some() {
                barred.fetch_sub(1, Ordering::AcqRel);
            }
        } else if self.trees.barred.insert(account.0, &[])?.is_none() {
            barred.fetch_add(1, Ordering::AcqRel);
        }
        Ok(())
    }

    fn create_account(&self, new: NewAccount) -> Result<(), SwapError<NameTaken>> {
        let account = new.account;
        let scopes = new.key.scopes.unwrap_or(Scopes::ALL);
        if !scopes.contains(Scope::Keys) || new.key.expires_at.is_some() {
            return Err(SwapError::Refused(NameTaken::NoManager));
        }
        let steps = self.steps();
        let intent = op_key(account, 0);
        let (hash, id) = (new.key.hash, new.key.id.clone());
        let sign_up = KeyIntent::SignUp {
            name: new.name.clone(),
            hash,
            id: id.clone(),
        };
        self.trees.key_intents.insert(intent, encode(&sign_up)?)?;
        if let Some(name) = &new.name {
            let claimed = self.swap(
                &self.trees.names,
                name.as_bytes(),
                |current| match current {
                    None => Ok((Some(encode(&account)?), ())),
                    Some(_) => Err(SwapError::Refused(NameTaken::Name)),
                },
            );
            if let Err(SwapError::Refused(_)) = &claimed {
                self.trees.key_intents.remove(intent)?;
                steps.complete();
                return claimed;
            }
            claimed?;
        }
        let record = new.key.record(account, 1, new.created_at, &new.cause.actor);
        match self.insert_key(&hash, &record) {
            Ok(()) => {}
            Err(SwapError::Refused(KeyRefusal::Exists)) => {
                self.undo_sign_up(account, new.name.as_deref(), &hash, &record.id)?;
                self.trees.key_intents.remove(intent)?;
                steps.complete();
                return Err(SwapError::Refused(NameTaken::Key));
            }
            Err(SwapError::Failed(error)) => return Err(SwapError::Failed(error)),
            Err(_) => return Err(SwapError::Contended),
        }
        let mut usage = Usage::new(new.plan, new.created_at);
        usage.next_key_no = 2;
        usage.shares.push(Share {
            credits_cap: new.key.credits_cap,
            ..Share::new(1, new.key.cap)
        });
        self.put_usage(account, &usage)?;
        let first = ActiveKey {
            no: 1,
            hash,
            lineage: 1,
        };
        let mut users = AccountRecord::new(new.name, new.created_at, vec![first]);
        let plan = new.plan.name().to_owned();
        for kind in [
            EventKind::SignedUp { plan },
            EventKind::KeyCreated { key: id },
        ] {
            users.events.push(new.created_at, new.cause.clone(), kind);
        }
        let users = encode(&users)?;
        let put = || self.trees.users.insert(account.0, users);
        self.names.write(account, put)?;
        self.trees.key_intents.remove(intent)?;
        for total in [
            &self.totals.accounts,
            &self.totals.active_accounts,
            &self.totals.active_keys,
        ] {
            total.fetch_add(1, Ordering::Relaxed);
        }
        steps.complete();
        Ok(self.hand_over(account)?)
    }

    /// Removes whatever a sign-up has written before its account record.
    pub(super) fn undo_sign_up(
        &self,
        account: AccountKey,
        name: Option<&str>,
        hash: &crate::domain::key::KeyHash,
        id: &crate::domain::key::KeyId,
    ) -> Result<(), StoreError> {
        self.remove_usage(account)?;
        self.remove_key(account, 1, hash, id)?;
        if let Some(name) = name
            && let Some(owner) = self.trees.names.get(name)?
            && decode::<AccountKey>(&owner)? == account
        {
            self.trees.names.remove(name)?;
        }
        Ok(())
    }
}

fn bad_key() -> StoreError {
    StoreError::Corrupt("a key of the tree users is not 16 bytes".to_owned())
}
