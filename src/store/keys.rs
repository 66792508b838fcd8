//! API keys: found by their hash, listed.
//!
//! A key is in four places: its record in `keys`, its id in `key_ids`, its number in `account_keys`,
//! and, while it is active, its entry in the account's record. Keys that were rotated into each other are a
//! lineage: they have one share of the account's usage, and one cap. How keys change is in `key_changes`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::account::AccountKey;
use crate::domain::key::{KeyHash, KeyId};
use crate::domain::plan::Plan;
use crate::domain::scope::{Scope, Scopes};
use crate::domain::time::Timestamp;
use crate::domain::usage::{KeyNo, Payer, Share, Usage};

use super::codec::{decode, encode};
use super::schema::{KeyRecord, Standing, Trees, account_key_key, expiry_key, part};
use super::{Inner, Ordering, Store, StoreError};

/// Most active keys of an account.
pub const ACTIVE_KEYS_MAX: usize = 100;

/// Whom a request acts for.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The account.
    pub account: AccountKey,
    /// The key's number within the account.
    pub key_no: KeyNo,
    /// The number of the first key of its lineage: whose share it spends.
    pub lineage: KeyNo,
    /// The key's public id.
    pub key_id: KeyId,
    /// The key's masked form.
    pub masked: String,
    /// What it may do now.
    pub scopes: Scopes,
}

impl Principal {
    /// Returns who pays for its requests.
    #[must_use]
    pub const fn payer(&self) -> Payer {
        Payer {
            key_no: self.key_no,
            lineage: self.lineage,
        }
    }
}

/// Whether a key still opens anything.
#[derive(Clone, Debug)]
pub enum KeyState {
    /// It does.
    Active(Arc<Principal>),
    /// It did, until it was revoked.
    Revoked(Arc<Principal>),
    /// It did, until its time had come.
    Expired(Arc<Principal>),
    /// It would, but for an admin who has suspended the account.
    Suspended(Arc<Principal>),
}

/// What of a key's record tells whom it opens anything for.
#[derive(Clone, Debug)]
pub(super) struct KeptKey {
    principal: Arc<Principal>,
    expires_at: Option<Timestamp>,
    end: Option<End>,
}

/// How a key ended.
#[derive(Clone, Copy, Debug)]
enum End {
    Revoked,
    Expired,
}

impl KeptKey {
    fn of(record: KeyRecord) -> Self {
        let end = record.revoked.as_ref().map(|revoked| {
            if revoked.expired {
                End::Expired
            } else {
                End::Revoked
            }
        });
        let principal = Principal {
            account: record.account,
            key_no: record.no,
            lineage: record.lineage,
            scopes: record.scopes_now(),
            key_id: record.id,
            masked: record.masked,
        };
        Self {
            principal: Arc::new(principal),
            expires_at: record.expires_at,
            end,
        }
    }
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
    /// The plan that caps it; `None` for its maker's cap.
    pub cap: Option<Plan>,
    /// Most credits of a cycle; `None` for its maker's cap.
    pub credits_cap: Option<u64>,
    /// What it may do; `None` for what its maker may.
    pub scopes: Option<Scopes>,
    /// When it ends; `None` for when its maker does.
    pub expires_at: Option<Timestamp>,
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
    /// What it was made or changed to be able to do.
    pub scopes: Scopes,
    /// From when on it is refused, if that is known beforehand.
    pub expires_at: Option<Timestamp>,
    /// The key that it was rotated into.
    pub successor: Option<KeyId>,
    /// When it was revoked, or came to its end.
    pub ended_at: Option<Timestamp>,
    /// Whether it ended because its time had come.
    pub expired: bool,
    /// The counters of its lineage, as of the account's current cycle.
    pub share: Share,
}

impl KeyRow {
    /// Returns what it may do now: one that was rotated manages no keys.
    #[must_use]
    pub const fn scopes_now(&self) -> Scopes {
        match self.successor {
            Some(_) => self.scopes.without(Scope::Keys),
            None => self.scopes,
        }
    }
}

impl Store {
    /// Returns whose key has this hash, and whether it still opens anything. `None` if nobody's.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a record cannot be read.
    pub fn authenticate(
        &self,
        hash: &KeyHash,
        now: Timestamp,
    ) -> Result<Option<KeyState>, StoreError> {
        let inner = self.look()?;
        let Some(key) = inner.kept_key(hash)? else {
            return Ok(None);
        };
        let KeptKey {
            principal,
            expires_at,
            end,
        } = key;
        let account = principal.account;
        let is_barred = || -> Result<bool, StoreError> {
            // Most services have nobody suspended.
            Ok(inner.totals.barred.load(Ordering::Acquire) > 0
                && inner.trees.barred.contains_key(account.0)?)
        };
        Ok(Some(match end {
            Some(End::Expired) => KeyState::Expired(principal),
            Some(End::Revoked) => KeyState::Revoked(principal),
            None if expires_at.is_some_and(|end| end <= now) => KeyState::Expired(principal),
            None if is_barred()? => match inner.account_record(account) {
                Ok(account) if account.standing == Standing::Good => KeyState::Active(principal),
                Ok(account) if account.standing == Standing::Suspended => {
                    KeyState::Suspended(principal)
                }
                // The account is being erased: its keys are nobody's.
                Ok(_) | Err(StoreError::NoAccount) => return Ok(None),
                Err(error) => return Err(error),
            },
            None => KeyState::Active(principal),
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
        let usage = match self.usage(record.account, now) {
            // Its account is being erased: the key is nobody's.
            Err(StoreError::NoAccount) => return Ok(None),
            usage => usage?,
        };
        inner.key_row(record, &usage, now).map(Some)
    }

    /// Returns the active keys of an account and the newest others, `limit` of them at most, oldest first.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a record cannot be read.
    pub fn newest_keys(
        &self,
        account: AccountKey,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<KeyRow>, StoreError> {
        let inner = self.inner()?;
        let usage = self.usage(account, now)?;
        let active = inner.account_record(account)?.active;
        let mut hashes: BTreeMap<KeyNo, KeyHash> =
            active.iter().map(|key| (key.no, key.hash)).collect();
        let numbers = inner.trees.account_keys.scan_prefix(account.0).rev();
        for entry in numbers.take(limit) {
            let (key, hash) = entry?;
            if let Some(no) = part(&key, 16).map(KeyNo::from_be_bytes) {
                hashes.insert(no, decode(&hash)?);
            }
        }
        let mut rows = Vec::new();
        for hash in hashes.values() {
            if let Some(record) = inner.key_record(hash)? {
                rows.push(inner.key_row(record, &usage, now)?);
            }
        }
        Ok(rows)
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
                rows.push(inner.key_row(record, &usage, now)?);
            }
        }
        Ok(rows)
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

    /// Returns what is kept of a key. `None` if there is none.
    fn kept_key(&self, hash: &KeyHash) -> Result<Option<KeptKey>, StoreError> {
        // Nothing is kept of hashes that are no key's: anybody can think of one.
        let load = || match self.key_record(hash) {
            Ok(Some(record)) => Ok(KeptKey::of(record)),
            Ok(None) => Err(None),
            Err(error) => Err(Some(error)),
        };
        match self.keys.read(*hash, load, KeptKey::clone) {
            Ok(key) => Ok(Some(key)),
            Err(None) => Ok(None),
            Err(Some(error)) => Err(error),
        }
    }

    /// Writes a key's record.
    pub(super) fn put_key_record(
        &self,
        hash: &KeyHash,
        record: &KeyRecord,
    ) -> Result<(), StoreError> {
        let bytes = encode(record)?;
        let put = || self.trees.keys.insert(hash.0, bytes);
        self.keys.write(*hash, put)?;
        Ok(())
    }

    /// Removes a key's record.
    pub(super) fn remove_key_record(&self, hash: &KeyHash) -> Result<(), StoreError> {
        let remove = || self.trees.keys.remove(hash.0);
        self.keys.write(*hash, remove)?;
        Ok(())
    }

    /// Counts a memory less for the retired lineage that had stored it; once for each write.
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
        if let Some(retired) = record
            .retired
            .as_mut()
            .filter(|retired| retired.last_op < op)
        {
            retired.last_op = op;
            retired.share.held = retired.share.held.saturating_sub(1);
            self.put_key_record(&hash, &record)?;
        }
        Ok(())
    }

    /// Corrects what retired lineages are said to hold. The caller holds the account alone.
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
            if let Some(retired) = record.retired.as_mut().filter(|r| r.share.held != held) {
                retired.share.held = held;
                self.put_key_record(&hash, &record)?;
            }
        }
        Ok(())
    }

    /// Puts a key's record and the counters of its lineage together.
    pub(super) fn key_row(
        &self,
        record: KeyRecord,
        usage: &Usage,
        now: Timestamp,
    ) -> Result<KeyRow, StoreError> {
        let share = match usage.share(record.lineage) {
            Some(share) => Some(share.clone()),
            None if record.lineage == record.no => retired_share(&record, usage),
            None => self
                .key_numbered(record.account, record.lineage)?
                .and_then(|(_, first)| retired_share(&first, usage)),
        };
        let over = record.expires_at.filter(|end| *end <= now);
        Ok(KeyRow {
            account: record.account,
            id: record.id,
            masked: record.masked,
            description: record.description,
            created_at: record.created_at,
            scopes: record.scopes,
            expires_at: record.expires_at,
            successor: record.successor,
            ended_at: record.revoked.as_ref().map(|end| end.at).or(over),
            expired: record.revoked.map_or(over.is_some(), |end| end.expired),
            share: share.unwrap_or_else(|| Share::new(record.lineage, None)),
        })
    }

    /// Returns the key of an account with this number. `None` if there is none.
    pub(super) fn key_numbered(
        &self,
        account: AccountKey,
        no: KeyNo,
    ) -> Result<Option<(KeyHash, KeyRecord)>, StoreError> {
        let Some(hash) = self.trees.account_keys.get(account_key_key(account, no))? else {
            return Ok(None);
        };
        let hash: KeyHash = decode(&hash)?;
        Ok(self.key_record(&hash)?.map(|record| (hash, record)))
    }
}

fn retired_share(record: &KeyRecord, usage: &Usage) -> Option<Share> {
    let retired = record.retired.as_ref()?;
    let mut share = retired.share.clone();
    if retired.cycle != usage.cycle {
        share.used = 0;
    }
    Some(share)
}

/// Writes what finds a key's record: its id, its number, the time of its end.
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
    index_expiry(trees, record)
}

/// Notes when a key ends, for the sweep. An entry that is not true any more stays until its time: the key's
/// record decides.
pub(super) fn index_expiry(trees: &Trees, record: &KeyRecord) -> Result<(), StoreError> {
    if let Some(end) = record.expires_at.filter(|_| record.revoked.is_none()) {
        let index = expiry_key(end, record.account, record.no);
        trees.key_expiries.insert(index, &[])?;
    }
    Ok(())
}
