//! The new data directory of an import: accounts and memories that were never in a store.
//!
//! How it is written all or nothing is in `place.rs`.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use crate::domain::account::AccountKey;
use crate::domain::event::{Cause, EventKind};
use crate::domain::key::{KeyHash, KeyId};
use crate::domain::memory::{MemoryId, NewMemory, Stamp};
use crate::domain::scope::Scopes;
use crate::domain::time::Timestamp;
use crate::domain::usage::{KeyNo, Share, Usage};

use super::audit::record_in;
use super::codec::encode;
use super::directory::{IMPORTED_FILE, Making, failed};
use super::error::{OpenError, StoreError};
use super::keys::name_key;
use super::memories::{head_facets, write_memory};
use super::place::{Built, Found, NewTarget, Site, TargetError, hex, look};
use super::schema::{AccountRecord, ActiveKey, KeyRecord, MemoryHead, Retired, Revoked};
use super::stats::{Counts, write_snapshot};

/// What an import finds where it shall write.
#[derive(Debug)]
pub enum Target {
    /// A directory that this very import made, whatever was done with it since.
    Imported,
    /// Nothing, or what an import that was interrupted left.
    New(NewTarget),
}

/// An account with all its keys.
#[derive(Clone, Debug)]
pub struct BulkAccount {
    /// Its name inside; random enough to be nobody else's.
    pub account: AccountKey,
    /// The e-mail; `None` for none.
    pub name: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its plan, cycle, credits, and a share for each active key. What it holds is counted by [`Bulk`].
    pub usage: Usage,
    /// Its keys, by number.
    pub keys: Vec<BulkKey>,
}

/// A key of an account, active or not.
#[derive(Clone, Debug)]
pub struct BulkKey {
    /// Its number within the account.
    pub no: KeyNo,
    /// SHA-256 of the secret.
    pub hash: KeyHash,
    /// Its public id.
    pub id: KeyId,
    /// Its masked form.
    pub masked: String,
    /// What its owner calls it.
    pub description: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// A key id, `admin`, or nobody.
    pub created_by: Option<String>,
    /// `None` if it is active.
    pub revoked: Option<BulkRevoked>,
}

/// The end of a key.
#[derive(Clone, Debug)]
pub struct BulkRevoked {
    /// When it was revoked.
    pub at: Timestamp,
    /// A key id, `admin`, or nobody.
    pub by: Option<String>,
    /// Its counters in the account's current cycle.
    pub share: Share,
}

/// A memory of an account. Those of one account are put in their order, the newest last.
#[derive(Clone, Copy, Debug)]
pub struct BulkMemory<'a> {
    /// Whose it is.
    pub account: AccountKey,
    /// The key that stored it.
    pub key_no: KeyNo,
    /// That key's public id.
    pub key_id: &'a str,
    /// The id it gets, unless a memory of the account put before has a later one.
    pub id: MemoryId,
    /// When it was added.
    pub timestamp: Timestamp,
    /// What is in it.
    pub memory: &'a NewMemory,
}

/// What was put of one account so far.
#[derive(Debug, Default)]
struct Put {
    newest: MemoryId,
    held: u64,
    by_key: HashMap<KeyNo, u64>,
    counts: Counts,
}

/// A data directory that is being written. Dropped before it is [`Built`], it is cleared away.
#[derive(Debug)]
pub struct Bulk {
    site: Site,
    put: HashMap<AccountKey, Put>,
    accounts: u64,
    memories: u64,
}

/// Looks at what is in the way of an import with this fingerprint. Makes no directory.
///
/// # Errors
///
/// [`TargetError`]; nothing was changed then.
pub fn target(path: &Path, fingerprint: &[u8; 32]) -> Result<Target, TargetError> {
    let directory = match look(path, Making::Import)? {
        Found::New(target) => return Ok(Target::New(target)),
        Found::Data(directory) => directory,
    };
    let made_by = match fs::read_to_string(path.join(IMPORTED_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text.map_err(|error| failed(path, error))?,
    };
    if made_by.trim() == hex(fingerprint) {
        Ok(Target::Imported)
    } else {
        Err(Making::Import.refusal(directory.display()))
    }
}

impl NewTarget {
    /// Begins to write: marks the directory, clears what an interrupted import left.
    ///
    /// # Errors
    ///
    /// [`TargetError`], also if somebody else was faster; what is there stays then.
    pub fn start(self) -> Result<Bulk, TargetError> {
        Ok(Bulk {
            site: self.open_site()?,
            put: HashMap::new(),
            accounts: 0,
            memories: 0,
        })
    }
}

impl Bulk {
    /// Puts the next memory of an account.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written.
    pub fn put_memory(&mut self, new: BulkMemory<'_>) -> Result<(), StoreError> {
        let put = self.put.entry(new.account).or_default();
        let id = new.id.after(put.newest);
        put.newest = id;
        put.held = put.held.saturating_add(1);
        let of_key = put.by_key.entry(new.key_no).or_default();
        *of_key = of_key.saturating_add(1);
        put.counts.count(&head_facets(new.memory));
        self.memories = self.memories.saturating_add(1);
        let json = new.memory.entry_json(&Stamp {
            id,
            timestamp: new.timestamp,
            key_id: new.key_id,
            updated_at: None,
        });
        let head = MemoryHead {
            // As if each had been a write of its own.
            revision: put.held,
            key_no: new.key_no,
            timestamp: new.timestamp,
            success: new.memory.success,
            category: &new.memory.category,
            kind: &new.memory.kind,
            pieces: 0,
            json: &json,
        };
        write_memory(&self.site.trees, new.account, id, head)
    }

    /// Puts an account, once all its memories are put: counts what it holds, saves its aggregates.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written.
    pub fn put_account(&mut self, new: BulkAccount) -> Result<(), StoreError> {
        let account = new.account;
        self.accounts = self.accounts.saturating_add(1);
        let put = self.put.remove(&account).unwrap_or_default();
        let held_by = |no: KeyNo| put.by_key.get(&no).copied().unwrap_or(0);
        let mut usage = new.usage;
        usage.held = put.held;
        usage.newest = put.newest;
        usage.next_op = put.held.saturating_add(1);
        usage.open_ledger(usage.last_activity.unwrap_or(usage.anchor));
        for share in &mut usage.shares {
            share.held = held_by(share.key_no);
        }
        if put.held > 0 {
            usage.stats_due =
                write_snapshot(&self.site.trees, account, &put.counts, put.newest, put.held)?;
        }
        let mut active = Vec::new();
        for key in new.keys {
            if key.revoked.is_none() {
                active.push(ActiveKey {
                    no: key.no,
                    hash: key.hash,
                    lineage: key.no,
                });
            }
            let held = held_by(key.no);
            self.put_key(account, key, &usage, held)?;
        }
        self.site.trees.usage.insert(account.0, encode(&usage)?)?;
        if let Some(name) = &new.name {
            self.site
                .trees
                .names
                .insert(name.as_str(), encode(&account)?)?;
        }
        let record = AccountRecord::new(new.name, new.created_at, active);
        self.site.trees.users.insert(account.0, encode(&record)?)?;
        Ok(())
    }

    fn put_key(
        &self,
        account: AccountKey,
        key: BulkKey,
        usage: &Usage,
        held: u64,
    ) -> Result<(), StoreError> {
        let (revoked, retired) = match key.revoked {
            None => (None, None),
            Some(end) => (
                Some(Revoked {
                    at: end.at,
                    by: end.by,
                    expired: false,
                }),
                Some(Retired {
                    cycle: usage.cycle,
                    share: Share { held, ..end.share },
                    last_op: usage.next_op.saturating_sub(1),
                }),
            ),
        };
        let record = KeyRecord {
            account,
            no: key.no,
            id: key.id,
            masked: key.masked,
            description: key.description,
            created_at: key.created_at,
            created_by: key.created_by,
            lineage: key.no,
            scopes: Scopes::ALL,
            expires_at: None,
            successor: None,
            revoked,
            retired,
        };
        self.site.trees.keys.insert(key.hash.0, encode(&record)?)?;
        name_key(&self.site.trees, &key.hash, &record)
    }

    /// Puts what the import did into the audit log.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written.
    pub fn record(&self, at: Timestamp) -> Result<(), StoreError> {
        let kind = EventKind::Imported {
            accounts: self.accounts,
            memories: self.memories,
        };
        record_in(&self.site.trees, at, Cause::operator(), kind)
    }

    /// Closes the database, makes it durable and moves it to its place.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; everything is cleared away then.
    pub fn build(self) -> Result<Built, OpenError> {
        self.site.build()
    }
}
