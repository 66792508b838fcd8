//! Every tree, its keys and its records, in one place.
//!
//! | tree | key | value |
//! | --- | --- | --- |
//! | `users` | account | [`AccountRecord`]: who it is and its active keys |
//! | `names` | e-mail, or `default` | account: claimed by a swap from nothing |
//! | `keys` | SHA-256 of the key | [`KeyRecord`] |
//! | `key_ids` | `key_…` | SHA-256 of the key |
//! | `account_keys` | account, number | SHA-256 of the key, also of revoked ones |
//! | `usage` | account | [`crate::domain::usage::Usage`]: counters, shares, intents |
//! | `memories` | account, id | [`MemoryHead`] |
//! | `pieces` | owner, revision, number | part of a value too long for one |
//! | `replays` | account, hash of the `Idempotency-Key` | [`ReplayRecord`] |
//! | `replay_times` | time, account, hash | nothing: which replays are the oldest |
//! | `stats` | account | [`StatsHead`]: saved aggregates |
//! | `stats_journal` | account, number of the write | [`crate::store::stats::Delta`]: changes since |
//! | `key_intents` | account, number | [`KeyIntent`]: sign-ups, new and revoked keys under way |
//! | `plans` | generation, number; or `head` | a plan of the catalog; which generation counts, and prices |
//! | `meta` | name | the probe of the flush |
//!
//! Numbers in keys are big-endian and of fixed width, so that a prefix is one account's and the order
//! is time's. No key starts with a number counted down: sled's reverse scan cannot take long runs of
//! `0xFF`.

use serde::{Deserialize, Serialize};

use crate::domain::account::AccountKey;
use crate::domain::key::{KeyHash, KeyId};
use crate::domain::memory::MemoryId;
use crate::domain::plan::PlanNo;
use crate::domain::time::Timestamp;
use crate::domain::usage::{KeyNo, Share};

/// The trees of a database.
#[derive(Clone, Debug)]
pub(crate) struct Trees {
    pub users: sled::Tree,
    pub names: sled::Tree,
    pub keys: sled::Tree,
    pub key_ids: sled::Tree,
    pub account_keys: sled::Tree,
    pub usage: sled::Tree,
    pub memories: sled::Tree,
    pub pieces: sled::Tree,
    pub replays: sled::Tree,
    pub replay_times: sled::Tree,
    pub stats: sled::Tree,
    pub stats_journal: sled::Tree,
    pub key_intents: sled::Tree,
    pub plans: sled::Tree,
    pub meta: sled::Tree,
}

impl Trees {
    /// Opens every tree, making those that are not there.
    pub(super) fn open(db: &sled::Db) -> sled::Result<Self> {
        Ok(Self {
            users: db.open_tree("users")?,
            names: db.open_tree("names")?,
            keys: db.open_tree("keys")?,
            key_ids: db.open_tree("key_ids")?,
            account_keys: db.open_tree("account_keys")?,
            usage: db.open_tree("usage")?,
            memories: db.open_tree("memories")?,
            pieces: db.open_tree("pieces")?,
            replays: db.open_tree("replays")?,
            replay_times: db.open_tree("replay_times")?,
            stats: db.open_tree("stats")?,
            stats_journal: db.open_tree("stats_journal")?,
            key_intents: db.open_tree("key_intents")?,
            plans: db.open_tree("plans")?,
            meta: db.open_tree("meta")?,
        })
    }
}

/// An account. The plan is not here but in its usage, where a plan change is one swap with the grant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AccountRecord {
    /// The e-mail, or the name of the built-in account `default`.
    pub name: Option<String>,
    pub created_at: Timestamp,
    /// The active keys, oldest first: the rule of the last key is one swap of this record.
    pub active: Vec<ActiveKey>,
}

impl AccountRecord {
    pub(super) fn account_id(&self, account: AccountKey) -> String {
        self.name.clone().unwrap_or_else(|| account.anonymous_id())
    }

    /// The e-mail, if the name is one.
    pub(super) fn email(&self) -> Option<&str> {
        self.name.as_deref().filter(|name| name.contains('@'))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ActiveKey {
    pub no: KeyNo,
    pub hash: KeyHash,
}

/// A key. Its counters are in the account's usage while it is active.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KeyRecord {
    pub account: AccountKey,
    pub no: KeyNo,
    pub id: KeyId,
    pub masked: String,
    pub description: String,
    pub created_at: Timestamp,
    pub created_by: Option<String>,
    pub revoked: Option<Revoked>,
}

/// The end of a key: its counters as they were, less what is deleted later.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Revoked {
    pub at: Timestamp,
    /// A key id, or `admin`.
    pub by: Option<String>,
    /// The billing cycle that `share.used` is of.
    pub cycle: u32,
    pub share: Share,
    /// The last delete that was counted in `share.held`.
    pub last_op: u64,
}

/// What `memories` holds: what is needed without reading the JSON, then the JSON that clients get.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MemoryHead<'a> {
    pub revision: u64,
    pub key_no: KeyNo,
    pub timestamp: Timestamp,
    pub success: bool,
    pub category: &'a str,
    pub kind: &'a str,
    /// How many pieces the JSON has; 0 if it is here.
    pub pieces: u16,
    pub json: &'a str,
}

/// An answer recorded under an `Idempotency-Key`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReplayRecord<'a> {
    /// SHA-256 of the operation and the request's body.
    pub fingerprint: [u8; 32],
    pub status: u16,
    pub recorded_at: Timestamp,
    /// Number of the write: the revision of the pieces.
    pub revision: u64,
    pub pieces: u16,
    pub body: &'a str,
}

/// Saved aggregates of an account; the names and counts are in pieces.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StatsHead {
    /// The last memory counted.
    pub through: MemoryId,
    /// The last write of which a change or delete is counted.
    pub op: u64,
    pub pieces: u16,
}

/// What was being done to keys when the process died.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum KeyIntent {
    SignUp {
        name: Option<String>,
        hash: KeyHash,
        id: KeyId,
    },
    Mint {
        no: KeyNo,
        hash: KeyHash,
        id: KeyId,
    },
    Revoke {
        no: KeyNo,
        hash: KeyHash,
        at: Timestamp,
        by: Option<String>,
    },
}

/// The key of the head of the catalog; no row has so short a key.
pub(crate) const PLANS_HEAD: &[u8; 4] = b"head";

/// Generation of the catalog, number of a plan.
pub(crate) fn plan_key(generation: u32, no: PlanNo) -> [u8; 6] {
    join(generation.to_be_bytes(), no.0.to_be_bytes())
}

/// Account, number of a key.
pub(crate) fn account_key_key(account: AccountKey, no: KeyNo) -> [u8; 20] {
    join(account.0, no.to_be_bytes())
}

/// Account, memory.
pub(crate) fn memory_key(account: AccountKey, id: MemoryId) -> [u8; 32] {
    join(account.0, id.to_bytes())
}

/// Account, number of a write.
pub(crate) fn op_key(account: AccountKey, op: u64) -> [u8; 24] {
    join(account.0, op.to_be_bytes())
}

/// Account, idempotency hash.
pub(crate) fn replay_key(account: AccountKey, key: [u8; 16]) -> [u8; 32] {
    join(account.0, key)
}

/// Time, account, idempotency hash.
pub(crate) fn replay_time_key(at: Timestamp, replay_key: [u8; 32]) -> [u8; 40] {
    join(
        u64::try_from(at.micros()).unwrap_or(0).to_be_bytes(),
        replay_key,
    )
}

/// Puts two keys of fixed width together.
pub(crate) fn join<const A: usize, const B: usize, const N: usize>(
    a: [u8; A],
    b: [u8; B],
) -> [u8; N] {
    const { assert!(A + B == N, "the parts of a key must fill it") };
    let mut key = [0; N];
    for (to, from) in key.iter_mut().zip(a.iter().chain(&b)) {
        *to = *from;
    }
    key
}

/// Returns the `N` bytes of a key that start at `from`.
pub(crate) fn part<const N: usize>(key: &[u8], from: usize) -> Option<[u8; N]> {
    key.get(from..from.checked_add(N)?)?.try_into().ok()
}
