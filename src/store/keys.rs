//! API keys: found by their hash, made and revoked.
//!
//! A key is in four places: its record in `keys`, its id in `key_ids`, its number in `account_keys`,
//! and, while it is active, its share in the account's usage and its entry in the account's record. An
//! intent in `key_intents` is written first and removed last; `recovery` settles what it finds there.

use crate::domain::account::AccountKey;
use crate::domain::key::{KeyHash, KeyId};
use crate::domain::plan::Plan;
use crate::domain::time::Timestamp;
use crate::domain::usage::{KeyNo, Share, Usage};

use super::codec::{decode, encode};
use super::schema::{
    AccountRecord, ActiveKey, KeyIntent, KeyRecord, Revoked, Trees, account_key_key, op_key,
};
use super::swap::SwapError;
use super::{Inner, OpError, Ordering, Store, StoreError};

/// Most active keys of an account.
pub const ACTIVE_KEYS_MAX: usize = 100;

/// Whom a request acts for.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The account.
    pub account: AccountKey,
    /// The key's number within the account.
    pub key_no: KeyNo,
    /// The key's public id.
    pub key_id: KeyId,
    /// The key's masked form.
    pub masked: String,
}

/// Whether a key still opens anything.
#[derive(Clone, Debug)]
pub enum KeyState {
    /// It does.
    Active(Principal),
    /// It did.
    Revoked(Principal),
}

/// A key to be made. The secret itself never reaches the store.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// SHA-256 of the secret.
    pub hash: KeyHash,
    /// Its public id.
    pub id: KeyId,
    /// Its masked form.
    pub masked: String,
    /// What its owner calls it.
    pub description: String,
    /// The plan that caps it; `None` follows the account's.
    pub cap: Option<Plan>,
    /// A key id, `admin`, or nobody for the key of a sign-up.
    pub created_by: Option<String>,
}

/// A key as lists show it.
#[derive(Clone, Debug)]
pub struct KeyRow {
    /// The account it belongs to.
    pub account: AccountKey,
    /// Its public id.
    pub id: KeyId,
    /// Its masked form.
    pub masked: String,
    /// What its owner calls it.
    pub description: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Its counters, as of the account's current cycle.
    pub share: Share,
}

/// Why a key was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateKeyRefusal {
    /// The account has [`ACTIVE_KEYS_MAX`] active keys.
    #[error("the account has {ACTIVE_KEYS_MAX} active keys")]
    LimitReached,
    /// The cap asked for is above what the maker has.
    #[error("the plan is above {0}")]
    AboveOwn(Plan),
    /// The key exists already; only an operator can choose one.
    #[error("the key exists already")]
    Exists,
    /// The key that asks was revoked meanwhile.
    #[error("the key that asks was revoked")]
    MakerRevoked,
}

/// Why a key was not revoked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevokeRefusal {
    /// It is the account's last active one.
    #[error("it is the only active key")]
    LastActive,
}

impl Store {
    /// Returns whose key has this hash. `None` if nobody's.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the record cannot be read.
    pub fn authenticate(&self, hash: &KeyHash) -> Result<Option<KeyState>, StoreError> {
        let inner = self.inner()?;
        let Some(record) = inner.key_record(hash)? else {
            return Ok(None);
        };
        let principal = Principal {
            account: record.account,
            key_no: record.no,
            key_id: record.id,
            masked: record.masked,
        };
        Ok(Some(if record.revoked.is_some() {
            KeyState::Revoked(principal)
        } else {
            KeyState::Active(principal)
        }))
    }

    /// Returns the key with this id. `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the record cannot be read.
    pub fn key_by_id(&self, id: &KeyId, now: Timestamp) -> Result<Option<KeyRow>, StoreError> {
        let inner = self.inner()?;
        let Some(hash) = inner.trees.key_ids.get(id.as_str())? else {
            return Ok(None);
        };
        self.key_by_hash(&decode(&hash)?, now)
    }

    /// Returns the key with this hash. `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the record cannot be read.
    pub fn key_by_hash(
        &self,
        hash: &KeyHash,
        now: Timestamp,
    ) -> Result<Option<KeyRow>, StoreError> {
        let inner = self.inner()?;
        let Some(record) = inner.key_record(hash)? else {
            return Ok(None);
        };
        let usage = self.usage(record.account, now)?;
        Ok(Some(key_row(record, &usage)))
    }

    /// Returns the keys of an account, revoked ones included, oldest first.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a record cannot be read.
    pub fn keys(&self, account: AccountKey, now: Timestamp) -> Result<Vec<KeyRow>, StoreError> {
        let inner = self.inner()?;
        let usage = self.usage(account, now)?;
        let mut rows = Vec::new();
        for hash in inner.trees.account_keys.scan_prefix(account.0).values() {
            if let Some(record) = inner.key_record(&decode(&hash?)?)? {
                rows.push(key_row(record, &usage));
            }
        }
        Ok(rows)
    }

    /// Makes a key for an account.
    ///
    /// `maker` is the key that asks, if it is one: a capped key gives its own cap to the new one, and
    /// no more than it.
    ///
    /// # Errors
    ///
    /// Every [`CreateKeyRefusal`]; nothing was made then.
    pub async fn create_key(
        &self,
        account: AccountKey,
        key: NewKey,
        maker: Option<KeyNo>,
        now: Timestamp,
    ) -> Result<KeyRow, OpError<CreateKeyRefusal>> {
        let inner = self.inner()?;
        let ticket = inner.admit()?;
        let row = inner
            .run_alone(account, || inner.create_key(account, key, maker, now))
            .await?;
        ticket.commit().await?;
        Ok(row)
    }

    /// Revokes a key; one that is revoked stays as it was. Returns the key as it is then.
    ///
    /// # Errors
    ///
    /// [`RevokeRefusal::LastActive`], unless `allow_last`.
    pub async fn revoke_key(
        &self,
        account: AccountKey,
        id: &KeyId,
        by: &str,
        allow_last: bool,
        now: Timestamp,
    ) -> Result<KeyRow, OpError<RevokeRefusal>> {
        let inner = self.inner()?;
        let ticket = inner.admit()?;
        let row = inner
            .run_alone(account, || {
                inner.revoke_key(account, id, by, allow_last, now)
            })
            .await?;
        // Also for a key that was revoked before: that answer too says that it is on the disk.
        ticket.commit().await?;
        Ok(row)
    }
}

impl Inner {
    pub(super) fn key_record(&self, hash: &KeyHash) -> Result<Option<KeyRecord>, StoreError> {
        self.trees
            .keys
            .get(hash.0)?
            .map(|bytes| decode(&bytes))
            .transpose()
    }

    /// Writes what finds a key: its record, its id, its number. Refuses a hash that is taken.
    pub(super) fn insert_key(
        &self,
        hash: &KeyHash,
        record: &KeyRecord,
    ) -> Result<(), SwapError<CreateKeyRefusal>> {
        let bytes = encode(record)?;
        self.swap(&self.trees.keys, &hash.0, |current| match current {
            None => Ok((Some(bytes.clone()), ())),
            Some(_) => Err(SwapError::Refused(CreateKeyRefusal::Exists)),
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
        if self
            .key_record(hash)?
            .is_some_and(|record| record.account == account && record.id == *id)
        {
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
    ) -> Result<KeyRow, SwapError<CreateKeyRefusal>> {
        let usage = self.usage(account)?;
        let cap = cap_for(&usage, key.cap, maker).map_err(SwapError::Refused)?;
        let active = self.account_record(account)?.active.len();
        if active >= ACTIVE_KEYS_MAX {
            return Err(SwapError::Refused(CreateKeyRefusal::LimitReached));
        }
        if self.key_record(&key.hash)?.is_some() {
            return Err(SwapError::Refused(CreateKeyRefusal::Exists));
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
            account,
            no,
            id: key.id,
            masked: key.masked,
            description: key.description,
            created_at: now,
            created_by: key.created_by,
            revoked: None,
        };
        self.insert_key(&key.hash, &record)?;
        let usage = self.swap_usage(account, |usage| {
            usage.next_key_no = no.saturating_add(1);
            usage.shares.push(Share::new(no, cap));
            Ok(usage.clone())
        })?;
        self.swap_account(account, |account| {
            account.active.push(ActiveKey { no, hash: key.hash });
        })?;
        self.trees.key_intents.remove(intent)?;
        self.totals.active_keys.fetch_add(1, Ordering::Relaxed);
        if active == 0 {
            self.totals.active_accounts.fetch_add(1, Ordering::Relaxed);
        }
        steps.complete();
        Ok(key_row(record, &usage))
    }

    fn revoke_key(
        &self,
        account: AccountKey,
        id: &KeyId,
        by: &str,
        allow_last: bool,
        now: Timestamp,
    ) -> Result<KeyRow, SwapError<RevokeRefusal>> {
        let missing = || StoreError::Corrupt(format!("the record of {id} is gone"));
        let hash: KeyHash = decode(&self.trees.key_ids.get(id.as_str())?.ok_or_else(missing)?)?;
        let record = self.key_record(&hash)?.ok_or_else(missing)?;
        if record.revoked.is_none() {
            let active = self.account_record(account)?.active;
            if active.len() <= 1 && !allow_last {
                return Err(SwapError::Refused(RevokeRefusal::LastActive));
            }
            let steps = self.steps();
            let intent = op_key(account, u64::from(record.no));
            let by = Some(by.to_owned());
            let revoke = KeyIntent::Revoke {
                no: record.no,
                hash,
                at: now,
                by: by.clone(),
            };
            self.trees.key_intents.insert(intent, encode(&revoke)?)?;
            self.swap_account(account, |account| {
                account.active.retain(|key| key.no != record.no);
            })?;
            self.retire_key(account, record.no, &hash, now, by)?;
            self.trees.key_intents.remove(intent)?;
            self.totals.active_keys.fetch_sub(1, Ordering::Relaxed);
            if active.len() <= 1 {
                self.totals.active_accounts.fetch_sub(1, Ordering::Relaxed);
            }
            steps.complete();
        }
        let record = self.key_record(&hash)?.ok_or_else(missing)?;
        let mut usage = self.usage(account)?;
        usage.roll_over(now);
        Ok(key_row(record, &usage))
    }

    /// Moves a key's share from the usage into its own record. Done again after a crash, it ends the same.
    pub(super) fn retire_key(
        &self,
        account: AccountKey,
        no: KeyNo,
        hash: &KeyHash,
        at: Timestamp,
        by: Option<String>,
    ) -> Result<(), StoreError> {
        let usage = self.usage(account)?;
        // No share: the record has it already, for it is written before the share is dropped.
        let Some(share) = usage.share(no).cloned() else {
            return Ok(());
        };
        let mut record = self
            .key_record(hash)?
            .ok_or_else(|| StoreError::Corrupt("the record of a revoked key is gone".to_owned()))?;
        let last_op = usage.next_op.saturating_sub(1);
        record.revoked = Some(Revoked {
            at,
            by,
            cycle: usage.cycle,
            share,
            last_op,
        });
        self.trees.keys.insert(hash.0, encode(&record)?)?;
        self.swap_usage::<_, std::convert::Infallible>(account, |usage| {
            usage.shares.retain(|share| share.key_no != no);
            Ok(())
        })
        .map_err(|error| match error {
            SwapError::Failed(error) => error,
            SwapError::Contended | SwapError::Refused(_) => StoreError::Overloaded,
        })
    }

    /// Counts a memory less for the revoked key that had stored it; once for each write.
    pub(super) fn release_for_revoked(
        &self,
        account: AccountKey,
        no: KeyNo,
        op: u64,
    ) -> Result<(), StoreError> {
        let Some(hash) = self.trees.account_keys.get(account_key_key(account, no))? else {
            return Ok(());
        };
        let hash: KeyHash = decode(&hash)?;
        let Some(mut record) = self.key_record(&hash)? else {
            return Ok(());
        };
        if let Some(revoked) = record
            .revoked
            .as_mut()
            .filter(|revoked| revoked.last_op < op)
        {
            revoked.last_op = op;
            revoked.share.held = revoked.share.held.saturating_sub(1);
            self.trees.keys.insert(hash.0, encode(&record)?)?;
        }
        Ok(())
    }

    /// Corrects what revoked keys are said to hold. The caller holds the account alone.
    pub(super) fn correct_revoked(
        &self,
        account: AccountKey,
        held_by: impl Fn(KeyNo) -> u64,
    ) -> Result<(), StoreError> {
        for hash in self.trees.account_keys.scan_prefix(account.0).values() {
            let hash: KeyHash = decode(&hash?)?;
            let Some(mut record) = self.key_record(&hash)? else {
                continue;
            };
            let held = held_by(record.no);
            if let Some(revoked) = record.revoked.as_mut().filter(|r| r.share.held != held) {
                revoked.share.held = held;
                self.trees.keys.insert(hash.0, encode(&record)?)?;
            }
        }
        Ok(())
    }

    /// Changes an account's record; the caller holds the account alone.
    fn swap_account<E>(
        &self,
        account: AccountKey,
        change: impl Fn(&mut AccountRecord),
    ) -> Result<(), SwapError<E>> {
        self.swap(&self.trees.users, &account.0, |current| {
            let mut record: AccountRecord = decode(current.unwrap_or_default())?;
            change(&mut record);
            Ok((Some(encode(&record)?), ()))
        })
    }
}

/// Writes what finds a key's record: its id, its number.
pub(super) fn name_key(
    trees: &Trees,
    hash: &KeyHash,
    record: &KeyRecord,
) -> Result<(), StoreError> {
    let hash = encode(hash)?;
    trees.key_ids.insert(record.id.as_str(), hash.clone())?;
    trees
        .account_keys
        .insert(account_key_key(record.account, record.no), hash)?;
    Ok(())
}

/// Decides what caps a new key. Source: the HTTP contract, `POST /apikey/new`.
fn cap_for(
    usage: &Usage,
    asked: Option<Plan>,
    maker: Option<KeyNo>,
) -> Result<Option<Plan>, CreateKeyRefusal> {
    let makers_cap = match maker {
        None => None,
        // Without this a capped key could make an uncapped one while it is being revoked.
        Some(no) => usage.cap_of(usage.share(no).ok_or(CreateKeyRefusal::MakerRevoked)?),
    };
    let own = makers_cap.map_or(usage.plan(), |cap| cap.min(usage.plan()));
    match asked {
        Some(plan) if plan > own => Err(CreateKeyRefusal::AboveOwn(own)),
        Some(plan) => Ok(Some(plan)),
        None => Ok(makers_cap),
    }
}

/// Puts a key's record and its counters together.
pub(super) fn key_row(record: KeyRecord, usage: &Usage) -> KeyRow {
    let (revoked_at, share) = match record.revoked {
        None => (None, usage.share(record.no).cloned()),
        Some(mut revoked) => {
            if revoked.cycle != usage.cycle {
                revoked.share.used = 0;
            }
            (Some(revoked.at), Some(revoked.share))
        }
    };
    KeyRow {
        account: record.account,
        id: record.id,
        masked: record.masked,
        description: record.description,
        created_at: record.created_at,
        revoked_at,
        share: share.unwrap_or_else(|| Share::new(record.no, None)),
    }
}
