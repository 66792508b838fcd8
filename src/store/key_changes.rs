//! API keys: made, changed, rotated, revoked, ended by their time.
//!
//! Each is done by whoever holds the account alone. An intent in `key_intents` is written first and removed
//! last; the step that decides is a swap of the account's record, which carries the event too; `recovery`
//! settles what it finds.

use std::collections::HashSet;

use crate::domain::account::AccountKey;
use crate::domain::event::{Actor, Cause, EventKind};
use crate::domain::key::{KeyHash, KeyId};
use crate::domain::plan::Plan;
use crate::domain::scope::{Scope, Scopes};
use crate::domain::time::Timestamp;
use crate::domain::usage::{KeyNo, Share, Usage};

use super::codec::{decode, encode};
use super::keys::{ACTIVE_KEYS_MAX, KeyRow, NewKey, index_expiry, name_key};
use super::schema::{
    AccountRecord, ActiveKey, KeyIntent, KeyRecord, Retired, Revoked, account_key_key, expiry_key,
    op_key, part,
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
    /// The time of the key that asks came meanwhile.
    #[error("the key that asks has expired")]
    MakerExpired,
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

/// What a key has, and so may give away. An admin may give anything.
struct Rights {
    scopes: Scopes,
    cap: Option<Plan>,
    credits_cap: Option<u64>,
    expires_at: Option<Timestamp>,
    /// Whose counters a key gets that it makes; `None` for its own.
    pool: Option<KeyNo>,
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
        let step = |inner: &Inner| inner.create_key(account, key, maker, now, &cause);
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
        let step = |inner: &Inner| inner.rotate_key(account, id, successor, by, now, &cause);
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
        let step = |inner: &Inner| inner.change_key(account, id, change, by, now, &cause);
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
        let (mut ended, mut failed) = (0u64, None);
        for key in inner.due(now).take(SWEEP_KEYS) {
            let key = key?;
            let Some((account, no)) = key_due(&key) else {
                inner.trees.key_expiries.remove(&key)?;
                continue;
            };
            let expired = self
                .change_keys(account, |inner| inner.expire_key(account, no, &key, now))
                .await
                .map_err(super::usage::never_refused);
            match expired {
                Ok(is_ended) => ended = ended.saturating_add(u64::from(is_ended)),
                // It is being erased, and takes its entries along.
                Err(StoreError::NoAccount) => {}
                // A damaged record holds up nobody else's.
                Err(error @ StoreError::Corrupt(_)) => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        failed.map_or(Ok(ended), Err)
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
    /// Returns the entries of the index of keys that end, up to `now`.
    fn due(&self, now: Timestamp) -> impl Iterator<Item = sled::Result<sled::IVec>> + use<> {
        let end = expiry_key(now, AccountKey([0xFF; 16]), KeyNo::MAX);
        self.trees.key_expiries.range(..=end).keys()
    }

    /// Returns the keys whose time has come and that no sweep has taken from their accounts' lists yet.
    pub(super) fn overdue(
        &self,
        now: Timestamp,
    ) -> Result<HashSet<(AccountKey, KeyNo)>, StoreError> {
        let mut overdue = HashSet::new();
        for key in self.due(now) {
            if let Some((account, no)) = key_due(&key?)
                && let Some((_, record)) = self.key_numbered(account, no)?
                && record.revoked.is_none()
                && record.expires_at.is_some_and(|end| end <= now)
            {
                overdue.insert((account, no));
            }
        }
        Ok(overdue)
    }

    /// Writes what finds a key: its record, its id, its number, when it ends. Refuses a hash that is taken.
    pub(super) fn insert_key(
        &self,
        hash: &KeyHash,
        record: &KeyRecord,
    ) -> Result<(), SwapError<KeyRefusal>> {
        let bytes = encode(record)?;
        self.keys.write(*hash, || {
            self.swap(&self.trees.keys, &hash.0, |current| match current {
                None => Ok((Some(bytes.clone()), ())),
                Some(_) => Err(SwapError::Refused(KeyRefusal::Exists)),
            })
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
            self.remove_key_record(hash)?;
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
        cause: &Cause,
    ) -> Result<KeyRow, SwapError<KeyRefusal>> {
        let rights = self.rights(account, maker, now)?;
        let given = rights.give(&key, &self.usage(account)?);
        let given = given.map_err(SwapError::Refused)?;
        self.make_room(account, now)?;
        let (usage, users) = (self.usage(account)?, self.account_record(account)?);
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
        let lineage = given.pool.unwrap_or(no);
        let record = KeyRecord {
            lineage,
            scopes: given.scopes,
            expires_at: given.expires_at,
            ..key.record(account, no, now, &cause.actor)
        };
        self.insert_key(&key.hash, &record)?;
        let share = Share {
            credits_cap: given.credits_cap,
            ..Share::new(no, given.cap)
        };
        let mut usage = self.swap_usage(account, |usage| {
            usage.next_key_no = no.saturating_add(1);
            if given.pool.is_none() {
                usage.shares.push(share.clone());
            }
            Ok(usage.clone())
        })?;
        let created = EventKind::KeyCreated { key: key.id };
        self.swap_account(account, |account| {
            account.active.push(ActiveKey {
                no,
                hash: key.hash,
                lineage,
            });
            account.events.push(now, cause.clone(), created.clone());
        })?;
        self.trees.key_intents.remove(intent)?;
        self.count_keys(users.active.len(), users.active.len().saturating_add(1));
        steps.complete();
        // Its counters may be those of its maker, of a cycle that is over.
        usage.roll_over(now);
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
        // Also if its time has come: a clock that is set back would let it in again.
        if record.revoked.is_none() {
            let users = self.account_record(account)?;
            // The only key that is left may be one that ends.
            let is_only = users.active.iter().all(|key| key.no == record.no);
            if !allow_last && (is_only || record.manages()) {
                self.leaves_a_manager(&users, record.no)?;
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
        cause: &Cause,
    ) -> Result<(KeyRow, KeyRow), SwapError<KeyRefusal>> {
        let rights = self.rights(account, by, now)?;
        let (old_hash, old) = self.key_called(id)?;
        is_active(&old, now).map_err(SwapError::Refused)?;
        let has = Rights::of(&old, &self.usage(account)?);
        rights.cover(&has).map_err(SwapError::Refused)?;
        let grace = successor.grace_seconds;
        if grace > 0 {
            self.make_room(account, now)?;
        }
        let (usage, users) = (self.usage(account)?, self.account_record(account)?);
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
        // Whoever watches for new and revoked keys alone hears of a rotation too.
        let mut kinds = vec![
            EventKind::KeyRotated {
                key: id.clone(),
                successor: successor.id.clone(),
                grace_seconds: grace,
            },
            EventKind::KeyCreated {
                key: successor.id.clone(),
            },
        ];
        if until <= now {
            kinds.push(EventKind::KeyRevoked { key: id.clone() });
        }
        self.swap_account(account, |account| {
            if until <= now {
                account.active.retain(|key| key.no != old.no);
            }
            account.active.push(ActiveKey {
                no,
                hash: successor.hash,
                lineage: old.lineage,
            });
            for kind in &kinds {
                account.events.push(now, cause.clone(), kind.clone());
            }
        })?;
        self.supersede(&old_hash, &successor.id, now, until, by_of(&cause.actor))?;
        self.trees.key_intents.remove(intent)?;
        let left = usize::from(until > now);
        let before = users.active.len();
        self.count_keys(before, before.saturating_add(left));
        steps.complete();
        let mut usage = self.usage(account)?;
        usage.roll_over(now);
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
            index_expiry(&self.trees, &record)?;
        }
        self.put_key_record(hash, &record)
    }

    fn change_key(
        &self,
        account: AccountKey,
        id: &KeyId,
        change: KeyChange,
        by: Option<KeyNo>,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<KeyRow, SwapError<KeyRefusal>> {
        let rights = self.rights(account, by, now)?;
        let (usage, users) = (self.usage(account)?, self.account_record(account)?);
        let (hash, old) = self.key_called(id)?;
        is_active(&old, now).map_err(SwapError::Refused)?;
        let has = Rights::of(&old, &usage);
        let fields = change.fields(&old, has.credits_cap);
        let mut record = old.clone();
        record.description = change.description.unwrap_or(record.description);
        record.scopes = change.scopes.unwrap_or(record.scopes);
        record.expires_at = change.expires_at.unwrap_or(record.expires_at);
        let credits_cap = change.credits_cap.unwrap_or(has.credits_cap);
        let gets = Rights {
            credits_cap,
            ..Rights::of(&record, &usage)
        };
        // Whoever bounds a key anew must have all that it has: what a weaker key takes nobody could give back.
        if fields.iter().any(|field| field != "description") {
            rights.cover(&has).map_err(SwapError::Refused)?;
        }
        // Whoever widens a key in one thing answers for all of it: a longer life, say, for each of its scopes.
        if has.cover(&gets).is_err() {
            rights.cover(&gets).map_err(SwapError::Refused)?;
        }
        let plan = has.cap.map_or(usage.plan(), |cap| cap.min(usage.plan()));
        let most = plan.credits_per_cycle();
        if let Some(Some(_)) = change.credits_cap.map(|cap| cap.filter(|cap| *cap > most)) {
            return Err(SwapError::Refused(KeyRefusal::AboveOwnCredits(most)));
        }
        if old.manages() && !record.manages() {
            self.leaves_a_manager(&users, old.no)?;
        }
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
        index_expiry(&self.trees, record)?;
        self.put_key_record(hash, record)?;
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
            self.put_key_record(hash, &record)?;
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
        self.put_key_record(&first_hash, &first)?;
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
        self.names.write(account, || {
            self.swap(&self.trees.users, &account.0, |current| {
                let mut record: AccountRecord = decode(current.ok_or(StoreError::NoAccount)?)?;
                change(&mut record);
                Ok((Some(encode(&record)?), ()))
            })
        })
    }

    fn key_called(&self, id: &KeyId) -> Result<(KeyHash, KeyRecord), StoreError> {
        let missing = || StoreError::Corrupt(format!("the record of {id} is gone"));
        let hash = self.trees.key_ids.get(id.as_str())?;
        let hash: KeyHash = decode(&hash.ok_or_else(missing)?)?;
        Ok((hash, self.key_record(&hash)?.ok_or_else(missing)?))
    }

    /// Refuses to go on if no key but this one manages keys and does not end.
    fn leaves_a_manager(
        &self,
        users: &AccountRecord,
        no: KeyNo,
    ) -> Result<(), SwapError<KeyRefusal>> {
        for other in users.active.iter().filter(|key| key.no != no) {
            let other = self.key_record(&other.hash)?;
            if other.is_some_and(|key| key.manages()) {
                return Ok(());
            }
        }
        Err(SwapError::Refused(KeyRefusal::LastManager))
    }

    /// Makes sure that the account can have one more active key: one whose time has come makes room, whether
    /// it was swept or not.
    fn make_room(&self, account: AccountKey, now: Timestamp) -> Result<(), SwapError<KeyRefusal>> {
        let users = self.account_record(account)?;
        if users.active.len() < ACTIVE_KEYS_MAX {
            return Ok(());
        }
        for key in &users.active {
            let record = self.key_record(&key.hash)?;
            let end = record.and_then(|record| record.expires_at);
            if let Some(end) = end.filter(|end| *end <= now) {
                let index = expiry_key(end, account, key.no);
                self.expire_key(account, key.no, &index, now)?;
                return Ok(());
            }
        }
        Err(SwapError::Refused(KeyRefusal::LimitReached))
    }

    /// Returns what the key that asks may give away; an admin, who is none, is bound by the plan alone.
    ///
    /// The key is looked at again here, by whoever holds the account alone: it may have been revoked, rotated
    /// or changed since it was let in.
    fn rights(
        &self,
        account: AccountKey,
        maker: Option<KeyNo>,
        now: Timestamp,
    ) -> Result<Rights, SwapError<KeyRefusal>> {
        let Some(no) = maker else {
            return Ok(Rights {
                scopes: Scopes::ALL,
                cap: None,
                credits_cap: None,
                expires_at: None,
                pool: None,
            });
        };
        let record = self.key_numbered(account, no)?.map(|(_, record)| record);
        let record = match record {
            Some(record) if record.revoked.is_none() => record,
            Some(record) if record.revoked.as_ref().is_some_and(|end| end.expired) => {
                return Err(SwapError::Refused(KeyRefusal::MakerExpired));
            }
            _ => return Err(SwapError::Refused(KeyRefusal::MakerRevoked)),
        };
        if record.expires_at.is_some_and(|end| end <= now) {
            return Err(SwapError::Refused(KeyRefusal::MakerExpired));
        }
        if !record.scopes_now().contains(Scope::Keys) {
            return Err(SwapError::Refused(KeyRefusal::Beyond(Scope::Keys)));
        }
        Ok(Rights::of(&record, &self.usage(account)?))
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

impl Rights {
    /// Returns what a key has.
    fn of(key: &KeyRecord, usage: &Usage) -> Self {
        let share = usage.share(key.lineage);
        Self {
            scopes: key.scopes,
            cap: share.and_then(|share| usage.cap_of(share)),
            credits_cap: share.and_then(|share| share.credits_cap),
            expires_at: key.expires_at,
            pool: share
                .filter(|share| share.credits_cap.is_some())
                .map(|share| share.key_no),
        }
    }

    /// Decides what a new key gets: what is asked for, and where nothing is, as much as the maker has.
    fn give(&self, key: &NewKey, usage: &Usage) -> Result<Self, KeyRefusal> {
        let own = self.cap.map_or(usage.plan(), |cap| cap.min(usage.plan()));
        let given = Self {
            scopes: key.scopes.unwrap_or(self.scopes),
            cap: key.cap.or(self.cap),
            credits_cap: key.credits_cap.or(self.credits_cap),
            expires_at: key.expires_at.or(self.expires_at),
            pool: self.pool.filter(|_| key.credits_cap != Some(0)),
        };
        self.cover_scopes(given.scopes)?;
        self.cover_end(given.expires_at)?;
        if key.cap.is_some_and(|plan| plan > own) {
            return Err(KeyRefusal::AboveOwnPlan(own));
        }
        let plan = given.cap.map_or(own, |cap| cap.min(own));
        let most = plan.credits_per_cycle();
        // A key with counters of its own would have the credits of its maker once more: where those are
        // bounded, it gets the maker's counters, or no credits.
        if given.pool.is_some() {
            let other = key
                .credits_cap
                .is_some_and(|asked| Some(asked) != self.credits_cap);
            if other || given.cap != self.cap {
                return Err(KeyRefusal::AboveOwnCredits(0));
            }
        } else if key.credits_cap.is_some_and(|asked| asked > most) {
            return Err(KeyRefusal::AboveOwnCredits(most));
        }
        Ok(given)
    }

    /// Checks that another key has no more than this one.
    fn cover(&self, other: &Self) -> Result<(), KeyRefusal> {
        self.cover_scopes(other.scopes)?;
        self.cover_end(other.expires_at)?;
        if let Some(own) = self.cap
            && other.cap.is_none_or(|cap| cap > own)
        {
            return Err(KeyRefusal::AboveOwnPlan(own));
        }
        match self.most_credits() {
            Some(own) if other.most_credits().is_none_or(|most| most > own) => {
                Err(KeyRefusal::AboveOwnCredits(own))
            }
            _ => Ok(()),
        }
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

    /// The credits of a cycle that a cap of either kind leaves; `None` if the key has none.
    fn most_credits(&self) -> Option<u64> {
        let of_plan = self.cap.map(Plan::credits_per_cycle);
        [of_plan, self.credits_cap].into_iter().flatten().min()
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
        let real = changes.into_iter().filter(|(_, is_real)| *is_real);
        real.map(|(name, _)| name.to_owned()).collect()
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

/// Returns the account and the number of the key that an entry of the index of keys that end is about.
fn key_due(key: &[u8]) -> Option<(AccountKey, KeyNo)> {
    Some((
        AccountKey(part(key, 8)?),
        KeyNo::from_be_bytes(part(key, 24)?),
    ))
}

fn is_active(key: &KeyRecord, now: Timestamp) -> Result<(), KeyRefusal> {
    if key.successor.is_some() {
        return Err(KeyRefusal::Rotated);
    }
    if key.revoked.is_some() || key.expires_at.is_some_and(|end| end <= now) {
        return Err(KeyRefusal::NotActive);
    }
    Ok(())
}

fn by_of(actor: &Actor) -> String {
    actor.to_string()
}

#[cfg(test)]
mod tests;
