//! API keys: made, changed, rotated, revoked, ended by their time.
//!
//! Each is done by whoever holds the account alone. An intent in `key_intents` is written first and removed
//! last; the step that decides is a swap of the account's record, which carries the event too; `recovery`
//! settles what it finds.

use crate::domain::account::AccountKey;
use crate::domain::event::{Actor, Cause, EventKind};
use crate::domain::key::{KeyHash, KeyId};
use crate::domain::plan::Plan;
use crate::domain::scope::{Scope, Scopes};
use crate::domain::time::Timestamp;
use crate::domain::usage::{KeyNo, Share, Usage};

use super::codec::{decode, encode};
use super::keys::{ACTIVE_KEYS_MAX, KeyRow, NewKey, name_key};
use super::schema::{
    AccountRecord, ActiveKey, KeyIntent, KeyRecord, Retired, Revoked, account_key_key, expiry_key,
    op_key,
};
use super::swap::SwapError;
use super::{Inner, OpError, Ordering, Store, StoreError};

/// Expired keys that one sweep looks at.
const SWEEP_KEYS: usize = 1_000;

/// Why a key was not made, changed, rotated or revoked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefusal {
    /// The account has [`ACTIVE_KEYS_MAX`] active keys.
    #[error("the account has {ACTIVE_KEYS_MAX} active keys")]
    LimitReached,
    /// The plan asked for is above what the maker has.
    #[error("the plan is above {0}")]
    AboveOwnPlan(Plan),
    /// More credits of a cycle are asked for than the maker, or the key's plan, has.
    #[error("only {0} credits of a cycle can be given")]
    AboveOwnCredits(u64),
    /// A scope is asked for that the maker does not have, or the maker may not do this at all.
    #[error("the scope {0} is missing")]
    Beyond(Scope),
    /// The key would outlive the maker, who ends then.
    #[error("the key that asks ends at {0}")]
    Outlives(Timestamp),
    /// The key exists already; only an operator can choose one.
    #[error("the key exists already")]
    Exists,
    /// The key that asks was revoked meanwhile.
    #[error("the key that asks was revoked")]
    MakerRevoked,
    /// No key would be left that manages keys and does not end.
    #[error("it is the last key that manages keys")]
    LastManager,
    /// It has a successor already.
    #[error("the key was rotated before")]
    Rotated,
    /// It was revoked, or its time has come.
    #[error("the key is not active")]
    NotActive,
}

/// What is to be changed of a key; `None` leaves it as it is.
#[derive(Clone, Debug, Default)]
pub struct KeyChange {
    /// What its owner calls it.
    pub description: Option<String>,
    /// What it may do.
    pub scopes: Option<Scopes>,
    /// When it ends; `Some(None)` for never.
    pub expires_at: Option<Option<Timestamp>>,
    /// Most credits of a cycle; `Some(None)` for its plan's.
    pub credits_cap: Option<Option<u64>>,
}

/// The successor of a key. The secret itself never reaches the store.
#[derive(Clone, Debug)]
pub struct Successor {
    /// SHA-256 of the secret.
    pub hash: KeyHash,
    /// Its public id.
    pub id: KeyId,
    /// Its masked form.
    pub masked: String,
    /// Seconds for which the old key still works; 0 revokes it at once.
    pub grace_seconds: u32,
}

/// What a key may give away: what it has itself. An admin may give anything.
struct Rights {
    scopes: Scopes,
    cap: Option<Plan>,
    credits_cap: Option<u64>,
    expires_at: Option<Timestamp>,
}

impl Store {
    /// Makes a key for an account. `maker` is the key that asks, if it is one: what is left open becomes as
    /// the maker's, and nothing may go beyond it.
    ///
    /// # Errors
    ///
    /// [`KeyRefusal`]; nothing was made then.
    pub async fn create_key(
        &self,
        account: AccountKey,
        key: NewKey,
        maker: Option<KeyNo>,
        now: Timestamp,
        cause: Cause,
    ) -> Result<KeyRow, OpError<KeyRefusal>> {
        let step = |inner: &Inner| inner.create_key(account, key, maker, now, cause);
        self.change_keys(account, step).await
    }

    /// Revokes a key; one that is revoked stays as it was. Returns the key as it is then.
    ///
    /// # Errors
    ///
    /// [`KeyRefusal::LastManager`], unless `allow_last`; [`KeyRefusal::Beyond`].
    pub async fn revoke_key(
        &self,
        account: AccountKey,
        id: &KeyId,
        allow_last: bool,
        now: Timestamp,
        cause: Cause,
    ) -> Result<KeyRow, OpError<KeyRefusal>> {
        let step = |inner: &Inner| inner.revoke_key(account, id, allow_last, now, cause);
        self.change_keys(account, step).await
    }

    /// Gives a key a successor that is as it is. Returns the successor and the old key.
    ///
    /// # Errors
    ///
    /// [`KeyRefusal`]; nothing was changed then.
    pub async fn rotate_key(
        &self,
        account: AccountKey,
        id: &KeyId,
        successor: Successor,
        by: Option<KeyNo>,
        now: Timestamp,
        cause: Cause,
    ) -> Result<(KeyRow, KeyRow), OpError<KeyRefusal>> {
        let step = |inner: &Inner| inner.rotate_key(account, id, successor, by, now, cause);
        self.change_keys(account, step).await
    }

    /// Changes a key. Returns it as it is then.
    ///
    /// # Errors
    ///
    /// [`KeyRefusal`]; nothing was changed then.
    pub async fn change_key(
        &self,
        account: AccountKey,
        id: &KeyId,
        change: KeyChange,
        by: Option<KeyNo>,
        now: Timestamp,
        cause: Cause,
    ) -> Result<KeyRow, OpError<KeyRefusal>> {
        let step = |inner: &Inner| inner.change_key(account, id, change, by, now, cause);
        self.change_keys(account, step).await
    }

    /// Ends keys whose time has come, a bounded number of them. Returns how many.
    ///
    /// They were refused before; this takes them from the account's list of active keys.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written.
    pub async fn sweep_expired_keys(&self, now: Timestamp) -> Result<u64, StoreError> {
        let inner = self.inner()?;
        let end = expiry_key(now, AccountKey([0xFF; 16]), KeyNo::MAX);
        let due = inner.trees.key_expiries.range(..=end).keys();
        let mut ended = 0u64;
        for key in due.take(SWEEP_KEYS) {
            let key = key?;
            let (Some(account), Some(no)) = (
                super::schema::part(&key, 8).map(AccountKey),
                super::schema::part(&key, 24).map(KeyNo::from_be_bytes),
            ) else {
                inner.trees.key_expiries.remove(&key)?;
                continue;
            };
            let is_ended = self
                .change_keys(account, |inner| inner.expire_key(account, no, &key, now))
                .await
                .map_err(super::usage::never_refused);
            let is_ended = match is_ended {
                // It is being erased, and takes its entries along.
                Err(StoreError::NoAccount) => continue,
                is_ended => is_ended?,
            };
            ended = ended.saturating_add(u64::from(is_ended));
        }
        Ok(ended)
    }

    async fn change_keys<T>(
        &self,
        account: AccountKey,
        step: impl FnOnce(&Inner) -> Result<T, SwapError<KeyRefusal>>,
    ) -> Result<T, OpError<KeyRefusal>> {
        let inner = self.inner()?;
        let ticket = inner.admit()?;
        let done = inner
            .run_alone(account, || {
                let done = step(&inner)?;
                inner.hand_over(account)?;
                Ok(done)
            })
            .await?;
        // Also if nothing was to be done any more: that answer too says that it is on the disk.
        ticket.commit().await?;
        Ok(done)
    }
}

impl Inner {
    /// Writes what finds a key: its record, its id, its number, when it ends. Refuses a hash that is taken.
    pub(super) fn insert_key(
        &self,
        hash: &KeyHash,
        record: &KeyRecord,
    ) -> Result<(), SwapError<KeyRefusal>> {
        let bytes = encode(record)?;
        self.index_expiry(record)?;
        self.swap(&self.trees.keys, &hash.0, |current| match current {
            None => Ok((Some(bytes.clone()), ())),
            Some(_) => Err(SwapError::Refused(KeyRefusal::Exists)),
        })?;
        Ok(name_key(&self.trees, hash, record)?)
    }

    /// Removes what [`Self::insert_key`] wrote, if it is this account's.
    pub(super) fn remove_key(
        &self,
        account: AccountKey,
        no: KeyNo,
        hash: &KeyHash,
        id: &KeyId,
    ) -> Result<(), StoreError> {
        if let Some(record) = self
            .key_record(hash)?
            .filter(|record| record.account == account && record.id == *id)
        {
            if let Some(end) = record.expires_at {
                let index = expiry_key(end, account, no);
                self.trees.key_expiries.remove(index)?;
            }
            self.trees.keys.remove(hash.0)?;
        }
        self.trees.key_ids.remove(id.as_str())?;
        self.trees
            .account_keys
            .remove(account_key_key(account, no))?;
        Ok(())
    }

    fn create_key(
        &self,
        account: AccountKey,
        key: NewKey,
        maker: Option<KeyNo>,
        now: Timestamp,
        cause: Cause,
    ) -> Result<KeyRow, SwapError<KeyRefusal>> {
        let usage = self.usage(account)?;
        let users = self.account_record(account)?;
        let rights = self.rights(&users, &usage, maker, now)?;
        let given = rights.give(&key, &usage).map_err(SwapError::Refused)?;
        if users.active.len() >= ACTIVE_KEYS_MAX {
            return Err(SwapError::Refused(KeyRefusal::LimitReached));
        }
        if self.key_record(&key.hash)?.is_some() {
            return Err(SwapError::Refused(KeyRefusal::Exists));
        }
        // Nobody else changes the account meanwhile, so the number is free.
        let no = usage.next_key_no;
        let steps = self.steps();
        let intent = op_key(account, u64::from(no));
        let mint = KeyIntent::Mint {
            no,
            hash: key.hash,
            id: key.id.clone(),
        };
        self.trees.key_intents.insert(intent, encode(&mint)?)?;
        let record = KeyRecord {
            lineage: no,
            scopes: given.scopes,
            expires_at: given.expires_at,
            ..key.record(account, no, now, &cause.actor)
        };
        self.insert_key(&key.hash, &record)?;
        let share = Share {
            credits_cap: given.credits_cap,
            ..Share::new(no, given.cap)
        };
        let usage = self.swap_usage(account, |usage| {
            usage.next_key_no = no.saturating_add(1);
            usage.shares.push(share.clone());
            Ok(usage.clone())
        })?;
        let created = EventKind::KeyCreated { key: key.id };
        self.swap_account(account, |account| {
            account.active.push(ActiveKey {
                no,
                hash: key.hash,
                lineage: no,
            });
            account.events.push(now, cause.clone(), created.clone());
        })?;
        self.trees.key_intents.remove(intent)?;
        self.count_keys(users.active.len(), users.active.len().saturating_add(1));
        steps.complete();
        Ok(self.key_row(record, &usage, now)?)
    }

    fn revoke_key(
        &self,
        account: AccountKey,
        id: &KeyId,
        allow_last: bool,
        now: Timestamp,
        cause: Cause,
    ) -> Result<KeyRow, SwapError<KeyRefusal>> {
        let (hash, record) = self.key_called(id)?;
        let is_over = record.expires_at.is_some_and(|end| end <= now);
        if record.revoked.is_none() && !is_over {
            let users = self.account_record(account)?;
            if !allow_last {
                self.keeps_a_manager(&users, &record, false)?;
            }
            let by = Some(by_of(&cause.actor));
            let revoke = KeyIntent::Revoke {
                no: record.no,
                hash,
                at: now,
                by: by.clone(),
            };
            let kind = EventKind::KeyRevoked { key: id.clone() };
            let end = Revoked {
                at: now,
                by,
                expired: false,
            };
            self.end_key(&users, &record, &hash, &revoke, end, (now, cause, kind))?;
        }
        let (_, record) = self.key_called(id)?;
        let mut usage = self.usage(account)?;
        usage.roll_over(now);
        Ok(self.key_row(record, &usage, now)?)
    }

    /// Ends a key whose time has come, and forgets the entry of the index that said so.
    fn expire_key(
        &self,
        account: AccountKey,
        no: KeyNo,
        index: &[u8],
        now: Timestamp,
    ) -> Result<bool, SwapError<KeyRefusal>> {
        let mut is_ended = false;
        if let Some((hash, record)) = self.key_numbered(account, no)?
            && record.revoked.is_none()
            && let Some(at) = record.expires_at.filter(|end| *end <= now)
        {
            let users = self.account_record(account)?;
            let expire = KeyIntent::Expire { no, hash, at };
            let kind = EventKind::KeyExpired {
                key: record.id.clone(),
            };
            let end = Revoked {
                at,
                by: None,
                expired: true,
            };
            let event = (now, Cause::service(), kind);
            self.end_key(&users, &record, &hash, &expire, end, event)?;
            is_ended = true;
        }
        self.trees.key_expiries.remove(index)?;
        Ok(is_ended)
    }

    /// Takes a key from the active ones, with its event, and retires it.
    fn end_key(
        &self,
        users: &AccountRecord,
        record: &KeyRecord,
        hash: &KeyHash,
        intent: &KeyIntent,
        end: Revoked,
        (now, cause, kind): (Timestamp, Cause, EventKind),
    ) -> Result<(), SwapError<KeyRefusal>> {
        let account = record.account;
        let steps = self.steps();
        let key = op_key(account, u64::from(record.no));
        self.trees.key_intents.insert(key, encode(intent)?)?;
        self.swap_account(account, |account| {
            account.active.retain(|key| key.no != record.no);
            account.events.push(now, cause.clone(), kind.clone());
        })?;
        self.retire_key(account, hash, end)?;
        self.trees.key_intents.remove(key)?;
        self.count_keys(users.active.len(), users.active.len().saturating_sub(1));
        steps.complete();
        Ok(())
    }

    fn rotate_key(
        &self,
        account: AccountKey,
        id: &KeyId,
        successor: Successor,
        by: Option<KeyNo>,
        now: Timestamp,
        cause: Cause,
    ) -> Result<(KeyRow, KeyRow), SwapError<KeyRefusal>> {
        let usage = self.usage(account)?;
        let users = self.account_record(account)?;
        let (old_hash, old) = self.key_called(id)?;
        is_active(&old, now).map_err(SwapError::Refused)?;
        let share = usage.share(old.lineage);
        self.rights(&users, &usage, by, now)?
            .cover(&old, share, &usage)
            .map_err(SwapError::Refused)?;
        let grace = successor.grace_seconds;
        if grace > 0 && users.active.len() >= ACTIVE_KEYS_MAX {
            return Err(SwapError::Refused(KeyRefusal::LimitReached));
        }
        if self.key_record(&successor.hash)?.is_some() {
            return Err(SwapError::Refused(KeyRefusal::Exists));
        }
        let end = now.plus_seconds(i64::from(grace));
        let until = old.expires_at.map_or(end, |own| own.min(end));
        let no = usage.next_key_no;
        let steps = self.steps();
        let intent = op_key(account, u64::from(no));
        let rotate = KeyIntent::Rotate {
            no,
            hash: successor.hash,
            id: successor.id.clone(),
            old: old_hash,
            at: now,
            until,
            by: Some(by_of(&cause.actor)),
        };
        self.trees.key_intents.insert(intent, encode(&rotate)?)?;
        let record = KeyRecord {
            no,
            id: successor.id.clone(),
            masked: successor.masked,
            created_at: now,
            created_by: Some(by_of(&cause.actor)),
            retired: None,
            ..old.clone()
        };
        self.insert_key(&successor.hash, &record)?;
        self.swap_usage::<_, KeyRefusal>(account, |usage| {
            usage.next_key_no = no.saturating_add(1);
            Ok(())
        })?;
        let kind = EventKind::KeyRotated {
            key: id.clone(),
            successor: successor.id.clone(),
            grace_seconds: grace,
        };
        self.swap_account(account, |account| {
            if until <= now {
                account.active.retain(|key| key.no != old.no);
            }
            account.active.push(ActiveKey {
                no,
                hash: successor.hash,
                lineage: old.lineage,
            });
            account.events.push(now, cause.clone(), kind.clone());
        })?;
        self.supersede(&old_hash, &successor.id, now, until, by_of(&cause.actor))?;
        self.trees.key_intents.remove(intent)?;
        let left = usize::from(until > now);
        let before = users.active.len();
        self.count_keys(before, before.saturating_add(left));
        steps.complete();
        let usage = self.usage(account)?;
        let (_, old) = self.key_called(id)?;
        Ok((
            self.key_row(record, &usage, now)?,
            self.key_row(old, &usage, now)?,
        ))
    }

    /// Notes in a key's record that it has a successor, and when it ends. Done again, it ends the same.
    pub(super) fn supersede(
        &self,
        hash: &KeyHash,
        successor: &KeyId,
        at: Timestamp,
        until: Timestamp,
        by: String,
    ) -> Result<(), StoreError> {
        let Some(mut record) = self.key_record(hash)? else {
            return Ok(());
        };
        record.successor = Some(successor.clone());
        if until <= at {
            record.revoked.get_or_insert(Revoked {
                at,
                by: Some(by),
                expired: false,
            });
        } else {
            record.expires_at = Some(until);
            self.index_expiry(&record)?;
        }
        self.trees.keys.insert(hash.0, encode(&record)?)?;
        Ok(())
    }

    fn change_key(
        &self,
        account: AccountKey,
        id: &KeyId,
        change: KeyChange,
        by: Option<KeyNo>,
        now: Timestamp,
        cause: Cause,
    ) -> Result<KeyRow, SwapError<KeyRefusal>> {
        let usage = self.usage(account)?;
        let users = self.account_record(account)?;
        let (hash, old) = self.key_called(id)?;
        is_active(&old, now).map_err(SwapError::Refused)?;
        let share = usage.share(old.lineage);
        let old_credits = share.and_then(|share| share.credits_cap);
        let fields = change.fields(&old, old_credits);
        let mut record = old.clone();
        record.description = change.description.unwrap_or(record.description);
        record.scopes = change.scopes.unwrap_or(record.scopes);
        record.expires_at = change.expires_at.unwrap_or(record.expires_at);
        let credits_cap = change.credits_cap.unwrap_or(old_credits);
        let rights = self.rights(&users, &usage, by, now)?;
        rights
            .widen(&old, old_credits, &record, credits_cap)
            .map_err(SwapError::Refused)?;
        let own = share.and_then(|share| usage.cap_of(share));
        let plan = own.map_or(usage.plan(), |cap| cap.min(usage.plan()));
        if change.credits_cap.is_some() && credits_cap.is_some_and(|c| c > plan.credits_per_cycle())
        {
            let most = plan.credits_per_cycle();
            return Err(SwapError::Refused(KeyRefusal::AboveOwnCredits(most)));
        }
        self.keeps_a_manager(&users, &old, record.manages())?;
        if !fields.is_empty() {
            let steps = self.steps();
            let intent = op_key(account, u64::from(old.no));
            let changed = KeyIntent::Change {
                hash,
                event_no: users.events.last_no.saturating_add(1),
                description: record.description.clone(),
                scopes: record.scopes,
                expires_at: record.expires_at,
                credits_cap,
            };
            self.trees.key_intents.insert(intent, encode(&changed)?)?;
            let kind = EventKind::KeyChanged {
                key: id.clone(),
                fields,
            };
            self.swap_account(account, |account| {
                account.events.push(now, cause.clone(), kind.clone());
            })?;
            self.apply_change(&hash, &record, credits_cap)?;
            self.trees.key_intents.remove(intent)?;
            steps.complete();
        }
        let mut usage = self.usage(account)?;
        usage.roll_over(now);
        Ok(self.key_row(record, &usage, now)?)
    }

    /// Writes a changed key. Done again, it ends the same.
    pub(super) fn apply_change(
        &self,
        hash: &KeyHash,
        record: &KeyRecord,
        credits_cap: Option<u64>,
    ) -> Result<(), StoreError> {
        self.index_expiry(record)?;
        self.trees.keys.insert(hash.0, encode(record)?)?;
        self.swap_usage::<_, std::convert::Infallible>(record.account, |usage| {
            let lineage = record.lineage;
            let share = usage.shares.iter_mut().find(|s| s.key_no == lineage);
            if let Some(share) = share {
                share.credits_cap = credits_cap;
            }
            Ok(())
        })
        .map_err(StoreError::of_swap)
    }

    /// Notes the end of a key in its record; with the last of its lineage moves the share from the usage into
    /// the record of the first. Done again after a crash, it ends the same.
    pub(super) fn retire_key(
        &self,
        account: AccountKey,
        hash: &KeyHash,
        end: Revoked,
    ) -> Result<(), StoreError> {
        let gone = || StoreError::Corrupt("the record of a revoked key is gone".to_owned());
        let mut record = self.key_record(hash)?.ok_or_else(gone)?;
        let lineage = record.lineage;
        if record.revoked.is_none() {
            record.revoked = Some(end);
            self.trees.keys.insert(hash.0, encode(&record)?)?;
        }
        let users = self.account_record(account)?;
        if users.active.iter().any(|key| key.lineage == lineage) {
            return Ok(());
        }
        let usage = self.usage(account)?;
        // No share: the record has it already, for it is written before the share is dropped.
        let Some(share) = usage.share(lineage).cloned() else {
            return Ok(());
        };
        let (first_hash, mut first) = self.key_numbered(account, lineage)?.ok_or_else(gone)?;
        first.retired = Some(Retired {
            cycle: usage.cycle,
            share,
            last_op: usage.next_op.saturating_sub(1),
        });
        self.trees.keys.insert(first_hash.0, encode(&first)?)?;
        self.swap_usage::<_, std::convert::Infallible>(account, |usage| {
            usage.shares.retain(|share| share.key_no != lineage);
            Ok(())
        })
        .map_err(StoreError::of_swap)
    }

    /// Changes an account's record; the caller holds the account alone.
    pub(super) fn swap_account<E>(
        &self,
        account: AccountKey,
        change: impl Fn(&mut AccountRecord),
    ) -> Result<(), SwapError<E>> {
        self.swap(&self.trees.users, &account.0, |current| {
            let mut record: AccountRecord = decode(current.ok_or(StoreError::NoAccount)?)?;
            change(&mut record);
            Ok((Some(encode(&record)?), ()))
        })
    }

    fn index_expiry(&self, record: &KeyRecord) -> Result<(), StoreError> {
        if let Some(end) = record.expires_at {
            let index = expiry_key(end, record.account, record.no);
            self.trees.key_expiries.insert(index, &[])?;
        }
        Ok(())
    }

    fn key_called(&self, id: &KeyId) -> Result<(KeyHash, KeyRecord), StoreError> {
        let missing = || StoreError::Corrupt(format!("the record of {id} is gone"));
        let hash = self.trees.key_ids.get(id.as_str())?;
        let hash: KeyHash = decode(&hash.ok_or_else(missing)?)?;
        Ok((hash, self.key_record(&hash)?.ok_or_else(missing)?))
    }

    /// Refuses to take its managing from the last key of the account that manages keys and does not end.
    fn keeps_a_manager(
        &self,
        users: &AccountRecord,
        of: &KeyRecord,
        manages_still: bool,
    ) -> Result<(), SwapError<KeyRefusal>> {
        let is_only_key = users.active.iter().all(|key| key.no == of.no);
        if manages_still || !(of.manages() || is_only_key) {
            return Ok(());
        }
        for other in users.active.iter().filter(|key| key.no != of.no) {
            if self
                .key_record(&other.hash)?
                .is_some_and(|key| key.manages())
            {
                return Ok(());
            }
        }
        Err(SwapError::Refused(KeyRefusal::LastManager))
    }

    /// Returns what the key that asks may give away; `None` for an admin, who has no bounds but the plan.
    fn rights(
        &self,
        users: &AccountRecord,
        usage: &Usage,
        maker: Option<KeyNo>,
        now: Timestamp,
    ) -> Result<Rights, SwapError<KeyRefusal>> {
        let Some(no) = maker else {
            return Ok(Rights {
                scopes: Scopes::ALL,
                cap: None,
                credits_cap: None,
                expires_at: None,
            });
        };
        // Without this a capped key could make an uncapped one while it is being revoked.
        let revoked = || SwapError::Refused(KeyRefusal::MakerRevoked);
        let active = users.active.iter().find(|key| key.no == no);
        let record = self.key_record(&active.ok_or_else(revoked)?.hash)?;
        let record = record.ok_or_else(revoked)?;
        if record.expires_at.is_some_and(|end| end <= now) {
            return Err(revoked());
        }
        if !record.scopes_now().contains(Scope::Keys) {
            return Err(SwapError::Refused(KeyRefusal::Beyond(Scope::Keys)));
        }
        let share = usage.share(record.lineage).ok_or_else(revoked)?;
        Ok(Rights {
            scopes: record.scopes,
            cap: usage.cap_of(share),
            credits_cap: share.credits_cap,
            expires_at: record.expires_at,
        })
    }

    /// Keeps the counters over all accounts: an account had so many active keys, and has so many now.
    fn count_keys(&self, before: usize, after: usize) {
        let totals = &self.totals;
        let add = |total: &super::AtomicU64, up: bool| {
            if up {
                total.fetch_add(1, Ordering::Relaxed);
            } else {
                total.fetch_sub(1, Ordering::Relaxed);
            }
        };
        if before != after {
            add(&totals.active_keys, after > before);
        }
        if (before == 0) != (after == 0) {
            add(&totals.active_accounts, before == 0);
        }
    }
}

/// What a new key gets.
struct Given {
    scopes: Scopes,
    cap: Option<Plan>,
    credits_cap: Option<u64>,
    expires_at: Option<Timestamp>,
}

impl Rights {
    /// Decides what a new key gets. Source: the HTTP contract, `POST /apikey/new`.
    fn give(&self, key: &NewKey, usage: &Usage) -> Result<Given, KeyRefusal> {
        let own = self.cap.map_or(usage.plan(), |cap| cap.min(usage.plan()));
        if key.cap.is_some_and(|plan| plan > own) {
            return Err(KeyRefusal::AboveOwnPlan(own));
        }
        let cap = key.cap.or(self.cap);
        let plan = cap.map_or(own, |cap| cap.min(own));
        let most = self.credits_cap.unwrap_or(u64::MAX);
        if let Some(asked) = key.credits_cap
            && asked > most.min(plan.credits_per_cycle())
        {
            let most = most.min(plan.credits_per_cycle());
            return Err(KeyRefusal::AboveOwnCredits(most));
        }
        let given = Given {
            scopes: key.scopes.unwrap_or(self.scopes),
            cap,
            credits_cap: key.credits_cap.or(self.credits_cap),
            expires_at: key.expires_at.or(self.expires_at),
        };
        self.cover_scopes(given.scopes)?;
        self.cover_end(given.expires_at)?;
        Ok(given)
    }

    /// Checks that a key which is given anew, in clear, has no more than the key that asks for it.
    fn cover(
        &self,
        key: &KeyRecord,
        share: Option<&Share>,
        usage: &Usage,
    ) -> Result<(), KeyRefusal> {
        self.cover_scopes(key.scopes)?;
        self.cover_end(key.expires_at)?;
        if let Some(own) = self.cap
            && share
                .and_then(|share| usage.cap_of(share))
                .is_none_or(|cap| cap > own)
        {
            return Err(KeyRefusal::AboveOwnPlan(own));
        }
        self.cover_credits(share.and_then(|share| share.credits_cap))
    }

    /// Checks what a change adds to a key.
    fn widen(
        &self,
        old: &KeyRecord,
        old_credits: Option<u64>,
        new: &KeyRecord,
        new_credits: Option<u64>,
    ) -> Result<(), KeyRefusal> {
        let added = new.scopes.iter().filter(|s| !old.scopes.contains(*s));
        self.cover_scopes(added.collect())?;
        let is_longer = match (old.expires_at, new.expires_at) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(old), Some(new)) => new > old,
        };
        if is_longer {
            self.cover_end(new.expires_at)?;
        }
        let is_more = match (old_credits, new_credits) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(old), Some(new)) => new > old,
        };
        if is_more {
            self.cover_credits(new_credits)?;
        }
        Ok(())
    }

    fn cover_scopes(&self, scopes: Scopes) -> Result<(), KeyRefusal> {
        scopes
            .first_beyond(self.scopes)
            .map_or(Ok(()), |scope| Err(KeyRefusal::Beyond(scope)))
    }

    fn cover_end(&self, end: Option<Timestamp>) -> Result<(), KeyRefusal> {
        match self.expires_at {
            Some(own) if end.is_none_or(|end| end > own) => Err(KeyRefusal::Outlives(own)),
            _ => Ok(()),
        }
    }

    fn cover_credits(&self, credits: Option<u64>) -> Result<(), KeyRefusal> {
        match self.credits_cap {
            Some(own) if credits.is_none_or(|credits| credits > own) => {
                Err(KeyRefusal::AboveOwnCredits(own))
            }
            _ => Ok(()),
        }
    }
}

impl KeyChange {
    /// Returns the names of what it really changes.
    fn fields(&self, old: &KeyRecord, old_credits: Option<u64>) -> Vec<String> {
        let changes = [
            (
                "description",
                self.description
                    .as_ref()
                    .is_some_and(|d| *d != old.description),
            ),
            ("scopes", self.scopes.is_some_and(|s| s != old.scopes)),
            (
                "expires_at",
                self.expires_at.is_some_and(|end| end != old.expires_at),
            ),
            (
                "credits_per_cycle",
                self.credits_cap.is_some_and(|cap| cap != old_credits),
            ),
        ];
        let changed = changes.into_iter().filter(|(_, changed)| *changed);
        changed.map(|(name, _)| name.to_owned()).collect()
    }
}

impl NewKey {
    /// Returns the record of the key as the first of its lineage.
    pub(super) fn record(
        &self,
        account: AccountKey,
        no: KeyNo,
        now: Timestamp,
        by: &Actor,
    ) -> KeyRecord {
        KeyRecord {
            account,
            no,
            id: self.id.clone(),
            masked: self.masked.clone(),
            description: self.description.clone(),
            created_at: now,
            created_by: match by {
                Actor::Nobody => None,
                by => Some(by_of(by)),
            },
            lineage: no,
            scopes: self.scopes.unwrap_or(Scopes::ALL),
            expires_at: self.expires_at,
            successor: None,
            revoked: None,
            retired: None,
        }
    }
}

fn is_active(key: &KeyRecord, now: Timestamp) -> Result<(), KeyRefusal> {
    if key.revoked.is_some() || key.expires_at.is_some_and(|end| end <= now) {
        return Err(KeyRefusal::NotActive);
    }
    match key.successor {
        Some(_) => Err(KeyRefusal::Rotated),
        None => Ok(()),
    }
}

fn by_of(actor: &Actor) -> String {
    actor.to_string()
}
