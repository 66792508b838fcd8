//! Every tree, its keys and its records, in one place.
//!
//! | tree | key | value |
//! | --- | --- | --- |
//! | `users` | account | [`AccountRecord`]: who it is and its active keys |
//! | `names` | e-mail, or `default` | account: claimed by a swap from nothing |
//! | `keys` | SHA-256 of the key | [`KeyRecord`] |
//! | `key_ids` | `key_…` | SHA-256 of the key |
//! | `account_keys` | account, number | SHA-256 of the key, also of revoked ones |
//! | `usage` | account | [`crate::domain::usage::Usage`]: counters, shares, intents, newest ledger rows |
//! | `ledger` | account, number | [`LedgerRow`]: those that left the usage |
//! | `barred` | account | nothing: accounts whose keys are all refused |
//! | `key_expiries` | time, account, number | nothing: keys whose time will come |
//! | `erasures` | account | [`crate::store::erase::ErasureIntent`]: accounts that are being erased |
//! | `erased_ledger` | random id, number | [`LedgerRow`]: amounts of accounts that were erased |
//! | `audit` | number | [`AuditRow`]: the audit log, over all accounts |
//! | `audit_accounts` | account, number | nothing: which rows of the audit log are the account's |
//! | `memories` | account, id | [`MemoryHead`] |
//! | `pieces` | owner, revision, number | part of a value too long for one |
//! | `replays` | account, hash of the `Idempotency-Key` | [`ReplayRecord`] |
//! | `replay_times` | time, account, hash | nothing: which replays are the oldest |
//! | `stats` | account | [`StatsHead`]: saved aggregates |
//! | `stats_journal` | account, number of the write | [`crate::store::stats::Delta`]: changes since |
//! | `key_intents` | account, number | [`KeyIntent`]: sign-ups, new and revoked keys under way |
//! | `plans` | generation, number; or `head` | a plan of the catalog; which generation counts, and prices |
//! | `outbox` | endpoint, time, id of the event | [`crate::store::outbox::OutboxRecord`]: not delivered yet |
//! | `meta` | name | the probe of the flush, the endpoints of webhooks |
//!
//! Numbers in keys are big-endian and of fixed width, so that a prefix is one account's and the order
//! is time's. No key starts with a number counted down: sled's reverse scan cannot take long runs of
//! `0xFF`.

use serde::{Deserialize, Serialize};

use crate::domain::account::AccountKey;
use crate::domain::audit::AuditEntry;
use crate::domain::event::EventTail;
use crate::domain::key::{KeyHash, KeyId};
use crate::domain::ledger::LedgerRow;
use crate::domain::memory::MemoryId;
use crate::domain::plan::PlanNo;
use crate::domain::scope::{Scope, Scopes};
use crate::domain::time::Timestamp;
use crate::domain::usage::{KeyNo, Share, Usage};

use super::codec::Record;
use super::error::StoreError;

mod v1;

/// The trees of a database.
#[derive(Clone, Debug)]
pub(crate) struct Trees {
    pub users: sled::Tree,
    pub names: sled::Tree,
    pub keys: sled::Tree,
    pub key_ids: sled::Tree,
    pub account_keys: sled::Tree,
    pub usage: sled::Tree,
    pub ledger: sled::Tree,
    pub barred: sled::Tree,
    pub key_expiries: sled::Tree,
    pub audit: sled::Tree,
    pub audit_accounts: sled::Tree,
    pub erasures: sled::Tree,
    pub erased_ledger: sled::Tree,
    pub memories: sled::Tree,
    pub pieces: sled::Tree,
    pub replays: sled::Tree,
    pub replay_times: sled::Tree,
    pub stats: sled::Tree,
    pub stats_journal: sled::Tree,
    pub key_intents: sled::Tree,
    pub outbox: sled::Tree,
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
            ledger: db.open_tree("ledger")?,
            barred: db.open_tree("barred")?,
            key_expiries: db.open_tree("key_expiries")?,
            audit: db.open_tree("audit")?,
            audit_accounts: db.open_tree("audit_accounts")?,
            erasures: db.open_tree("erasures")?,
            erased_ledger: db.open_tree("erased_ledger")?,
            memories: db.open_tree("memories")?,
            pieces: db.open_tree("pieces")?,
            replays: db.open_tree("replays")?,
            replay_times: db.open_tree("replay_times")?,
            stats: db.open_tree("stats")?,
            stats_journal: db.open_tree("stats_journal")?,
            key_intents: db.open_tree("key_intents")?,
            outbox: db.open_tree("outbox")?,
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
    /// Whether its keys are let in.
    pub standing: Standing,
    /// Since when; `None` if it never changed.
    pub standing_since: Option<Timestamp>,
    /// Events on their way to the audit log.
    pub events: EventTail,
}

/// Whether an account's keys are let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Standing {
    Good,
    /// An admin has suspended the account.
    Suspended,
    /// The account is being erased.
    Erasing,
}

impl AccountRecord {
    pub(super) fn new(name: Option<String>, created_at: Timestamp, active: Vec<ActiveKey>) -> Self {
        Self {
            name,
            created_at,
            active,
            standing: Standing::Good,
            standing_since: None,
            events: EventTail::default(),
        }
    }

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
    /// The first key of those that were rotated into each other up to this one.
    pub lineage: KeyNo,
}

/// A key. The counters of its lineage are in the account's usage while a key of that is active.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KeyRecord {
    pub account: AccountKey,
    pub no: KeyNo,
    pub id: KeyId,
    pub masked: String,
    pub description: String,
    pub created_at: Timestamp,
    pub created_by: Option<String>,
    /// The first key of those that were rotated into each other up to this one.
    pub lineage: KeyNo,
    pub scopes: Scopes,
    /// From when on it is refused.
    pub expires_at: Option<Timestamp>,
    /// The key that it was rotated into.
    pub successor: Option<KeyId>,
    pub revoked: Option<Revoked>,
    /// In the record of a lineage's first key, once no key of the lineage is active.
    pub retired: Option<Retired>,
}

impl KeyRecord {
    /// Returns what it may do now: one that has a successor manages no keys.
    pub(super) fn scopes_now(&self) -> Scopes {
        match self.successor {
            Some(_) => self.scopes.without(Scope::Keys),
            None => self.scopes,
        }
    }

    /// Says whether it can be relied on to manage keys for as long as nobody changes it.
    pub(super) fn manages(&self) -> bool {
        self.scopes_now().contains(Scope::Keys) && self.expires_at.is_none()
    }
}

/// The end of a key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Revoked {
    pub at: Timestamp,
    /// A key id, or `admin`.
    pub by: Option<String>,
    /// Whether it came of itself.
    pub expired: bool,
}

/// The end of a lineage: its counters as they were, less what is deleted later.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Retired {
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
    /// A key's time has come.
    Expire {
        no: KeyNo,
        hash: KeyHash,
        at: Timestamp,
    },
    /// A key gets a successor, which is active from then on.
    Rotate {
        no: KeyNo,
        hash: KeyHash,
        id: KeyId,
        old: KeyHash,
        at: Timestamp,
        /// When the old key ends; at once if that is `at`.
        until: Timestamp,
        by: Option<String>,
    },
    /// A key is changed. Done once the account's record has the event of this number.
    Change {
        hash: KeyHash,
        event_no: u64,
        description: String,
        scopes: Scopes,
        expires_at: Option<Timestamp>,
        credits_cap: Option<u64>,
    },
    /// The index of suspended accounts follows the account's record.
    Bar,
    /// An account moves to another name. Done once the account's record has it.
    Rename {
        from: Option<String>,
        to: String,
    },
}

/// A row of the audit log; its key is its number.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AuditRow {
    pub entry: AuditEntry,
    /// The record that carried the event, and the event's number in it; 0 if none did.
    pub carrier: Carrier,
    pub event_no: u64,
    /// The latest time of this row and all before it: it never goes back, so a time can be looked for.
    pub latest: Timestamp,
}

/// The record that carried an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Carrier {
    Nothing,
    Account,
    Usage,
}

impl Record for KeyIntent {}
impl Record for LedgerRow {}
impl Record for AuditRow {}
impl Record for StatsHead {}
impl Record for MemoryHead<'_> {}
impl Record for ReplayRecord<'_> {}
impl Record for AccountRecord {
    const VERSION: u8 = 2;

    fn upgrade(_: u8, bytes: &[u8]) -> Option<Result<Self, StoreError>> {
        Some(v1::account(bytes))
    }
}
impl Record for KeyRecord {
    const VERSION: u8 = 2;

    fn upgrade(_: u8, bytes: &[u8]) -> Option<Result<Self, StoreError>> {
        Some(v1::key(bytes))
    }
}
impl Record for Usage {
    const VERSION: u8 = 2;

    fn upgrade(_: u8, bytes: &[u8]) -> Option<Result<Self, StoreError>> {
        Some(v1::usage(bytes))
    }
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

/// Time, account, number of a key.
pub(crate) fn expiry_key(at: Timestamp, account: AccountKey, no: KeyNo) -> [u8; 28] {
    join(
        u64::try_from(at.micros()).unwrap_or(0).to_be_bytes(),
        account_key_key(account, no),
    )
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
