//! Aggregates behind `/stats`: derived, cheap to keep, cheap to ask for.
//!
//! What is on the disk is a snapshot: the counts of every memory up to one id. Adds cost nothing: their
//! ids only grow, so what a snapshot lacks is a short scan from its last id on. Changes and deletes of
//! memories that a snapshot counts are noted in a journal under the number of the write. A snapshot is
//! taken anew after about a thousand writes. So asking costs the same for a hundred memories and for a
//! million, after a crash too, and no counter is kept that a crash could leave wrong.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Mutex;

use lru::LruCache;
use serde::{Deserialize, Serialize};

use crate::domain::account::AccountKey;
use crate::domain::memory::MemoryId;
use crate::domain::usage::Usage;

use super::codec::{Record, decode, decode_borrowed, decode_long, encode, encode_long};
use super::locks::lock;
use super::memories::{Facets, memory_id};
use super::pieces::{self, Owner};
use super::schema::{MemoryHead, StatsHead, Trees, memory_key, op_key, part};
use super::usage::never_refused;
use super::{Inner, Store, StoreError};

/// Writes between two snapshots, if the account has fewer names than that.
pub(super) const WRITES_MIN: u64 = 1_000;
/// Most names that an answer lists of each kind.
const NAMES_MAX: usize = 1_000;
/// Accounts whose aggregates are kept in memory.
const CACHED_ACCOUNTS: usize = 256;
/// Names kept in memory over all those accounts, about 100 bytes each.
const CACHED_NAMES_MAX: usize = 500_000;

/// The aggregates of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Memories held.
    pub total: u64,
    /// Those whose `success` is true.
    pub successes: u64,
    /// The first 1,000 categories in byte order, with how many memories have them.
    pub categories: BTreeMap<String, u64>,
    /// The first 1,000 types, likewise.
    pub types: BTreeMap<String, u64>,
    /// Whether there are more names.
    pub truncated: bool,
}

/// All counts of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    /// Memories held.
    pub(super) total: u64,
    successes: u64,
    categories: BTreeMap<String, u64>,
    types: BTreeMap<String, u64>,
}

impl Record for Delta<'_> {}

/// What one write changes in the counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Delta<'a> {
    #[serde(borrow)]
    gone: Option<Facets<'a>>,
    #[serde(borrow)]
    come: Option<Facets<'a>>,
}

impl<'a> Delta<'a> {
    pub(super) const fn added(facets: Facets<'a>) -> Self {
        Self {
            gone: None,
            come: Some(facets),
        }
    }

    pub(super) const fn removed(facets: Facets<'a>) -> Self {
        Self {
            gone: Some(facets),
            come: None,
        }
    }

    pub(super) fn changed(old: Facets<'a>, new: Facets<'a>) -> Self {
        if old == new {
            return Self::default();
        }
        Self {
            gone: Some(old),
            come: Some(new),
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.gone.is_none() && self.come.is_none()
    }
}

impl Counts {
    fn apply(&mut self, delta: &Delta<'_>) {
        if let Some(facets) = &delta.gone {
            self.total = self.total.saturating_sub(1);
            self.successes = self.successes.saturating_sub(u64::from(facets.success));
            decrement(&mut self.categories, facets.category);
            decrement(&mut self.types, facets.kind);
        }
        if let Some(facets) = &delta.come {
            self.count(facets);
        }
    }

    pub(super) fn count(&mut self, facets: &Facets<'_>) {
        self.total = self.total.saturating_add(1);
        self.successes = self.successes.saturating_add(u64::from(facets.success));
        increment(&mut self.categories, facets.category);
        increment(&mut self.types, facets.kind);
    }

    fn names(&self) -> usize {
        self.categories.len().saturating_add(self.types.len())
    }

    fn listed(&self) -> Stats {
        let first = |names: &BTreeMap<String, u64>| {
            names
                .iter()
                .take(NAMES_MAX)
                .map(|(name, n)| (name.clone(), *n))
                .collect()
        };
        Stats {
            total: self.total,
            successes: self.successes,
            categories: first(&self.categories),
            types: first(&self.types),
            truncated: self.categories.len() > NAMES_MAX || self.types.len() > NAMES_MAX,
        }
    }
}

fn increment(names: &mut BTreeMap<String, u64>, name: &str) {
    match names.get_mut(name) {
        Some(count) => *count = count.saturating_add(1),
        None => drop(names.insert(name.to_owned(), 1)),
    }
}

fn decrement(names: &mut BTreeMap<String, u64>, name: &str) {
    if let Some(count) = names.get_mut(name) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            names.remove(name);
        }
    }
}

/// An account's counts in memory, and how far a snapshot of them reaches.
#[derive(Debug)]
pub(super) struct Cached {
    pub counts: Counts,
    /// The last memory of the snapshot on the disk.
    through: MemoryId,
    /// Memories and changes that the snapshot lacked when this was derived.
    tail: u64,
}

/// The aggregates of accounts that were asked for lately.
#[derive(Debug)]
pub(super) struct Cache {
    accounts: Mutex<LruCache<AccountKey, Cached>>,
}

impl Cache {
    pub(super) fn new() -> Self {
        let size = NonZeroUsize::new(CACHED_ACCOUNTS).unwrap_or(NonZeroUsize::MIN);
        Self {
            accounts: Mutex::new(LruCache::new(size)),
        }
    }

    /// Keeps the counts of an account up with a write, if they are in memory.
    pub(super) fn apply(&self, account: AccountKey, delta: &Delta<'_>) {
        if let Some(cached) = lock(&self.accounts).peek_mut(&account) {
            cached.counts.apply(delta);
        }
    }

    /// Returns the counts of an account, if they are in memory.
    pub(super) fn counts(&self, account: AccountKey) -> Option<Counts> {
        lock(&self.accounts)
            .peek(&account)
            .map(|cached| cached.counts.clone())
    }

    /// Drops the counts of an account.
    pub(super) fn forget(&self, account: AccountKey) {
        lock(&self.accounts).pop(&account);
    }

    fn listed(&self, account: AccountKey) -> Option<Stats> {
        lock(&self.accounts)
            .get(&account)
            .map(|cached| cached.counts.listed())
    }

    fn put(&self, account: AccountKey, cached: Cached) {
        let mut accounts = lock(&self.accounts);
        accounts.put(account, cached);
        let mut names: usize = accounts.iter().map(|(_, c)| c.counts.names()).sum();
        while names > CACHED_NAMES_MAX && accounts.len() > 1 {
            let Some((_, oldest)) = accounts.pop_lru() else {
                break;
            };
            names = names.saturating_sub(oldest.counts.names());
        }
    }
}

impl Store {
    /// Returns an account's aggregates.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a record cannot be read.
    pub async fn stats(&self, account: AccountKey) -> Result<Stats, StoreError> {
        self.opened().await;
        let inner = self.inner()?;
        if let Some(stats) = inner.stats.listed(account) {
            return Ok(stats);
        }
        let alone = inner.locks.alone(account).await;
        let task = tokio::task::spawn_blocking(move || {
            let stats = inner.load_stats(account);
            drop(alone);
            stats
        });
        task.await
            .map_err(|_| StoreError::Corrupt("counting was interrupted".to_owned()))?
    }

    /// Takes a snapshot of an account's aggregates, beside whatever else goes on.
    pub(super) fn save_stats_later(&self, account: AccountKey) {
        let Ok(inner) = self.inner() else { return };
        drop(tokio::spawn(async move {
            let alone = inner.locks.alone(account).await;
            let task = tokio::task::spawn_blocking(move || {
                let saved = inner.save_stats(account);
                drop(alone);
                saved
            });
            if let Ok(Err(error)) = task.await {
                log::warn!("the aggregates of an account could not be saved: {error}");
            }
        }));
    }
}

impl Inner {
    /// Returns the last memory that the saved aggregates count.
    pub(super) fn stats_through(&self, account: AccountKey) -> Result<MemoryId, StoreError> {
        if let Some(cached) = lock(&self.stats.accounts).peek(&account) {
            return Ok(cached.through);
        }
        Ok(self
            .stats_head(account)?
            .map_or(MemoryId::default(), |head| head.through))
    }

    pub(super) fn stats_head(&self, account: AccountKey) -> Result<Option<StatsHead>, StoreError> {
        self.trees
            .stats
            .get(account.0)?
            .map(|bytes| decode(&bytes))
            .transpose()
    }

    /// Derives an account's counts: snapshot, journal, and the memories since. The caller holds the
    /// account alone.
    pub(super) fn derive_stats(&self, account: AccountKey) -> Result<Cached, StoreError> {
        let (mut counts, mut through, mut op) = (Counts::default(), MemoryId::default(), 0);
        if let Some(head) = self.stats_head(account)? {
            let owner = Owner::stats(account.0);
            let saved = pieces::read(&self.trees.pieces, owner, head.op, head.pieces)?
                .ok_or_else(|| StoreError::Corrupt("saved aggregates are not whole".to_owned()))?;
            (counts, through, op) = (decode_long(&saved)?, head.through, head.op);
        }
        let mut tail = 0u64;
        let since = op_key(account, op.saturating_add(1));
        for delta in self
            .trees
            .stats_journal
            .range(since..=op_key(account, u64::MAX))
            .values()
        {
            counts.apply(&decode_borrowed::<Delta<'_>>(&delta?)?);
            tail = tail.saturating_add(1);
        }
        let last = memory_key(account, MemoryId::from_bytes([0xFF; 16]));
        for entry in self
            .trees
            .memories
            .range(memory_key(account, through)..last)
        {
            let (key, bytes) = entry?;
            if memory_id(&key)? > through {
                counts.count(&decode_borrowed::<MemoryHead<'_>>(&bytes)?.facets());
                tail = tail.saturating_add(1);
            }
        }
        Ok(Cached {
            counts,
            through,
            tail,
        })
    }

    /// Derives an account's counts and keeps them in memory. The caller holds the account alone.
    fn load_stats(&self, account: AccountKey) -> Result<Stats, StoreError> {
        let mut cached = self.derive_stats(account)?;
        // An import, or a crash before a snapshot: the next one who asks shall not count all of it again.
        if cached.tail > 2 * WRITES_MIN && self.takes_writes().is_ok() {
            self.replace_snapshot(account, &self.usage(account)?, &mut cached)?;
        }
        let stats = cached.counts.listed();
        self.stats.put(account, cached);
        Ok(stats)
    }

    /// Takes a snapshot, if one is due. The caller holds the account alone, so no write is under way.
    pub(super) fn save_stats(&self, account: AccountKey) -> Result<(), StoreError> {
        let usage = self.usage(account)?;
        if usage.next_op < usage.stats_due || self.takes_writes().is_err() {
            return Ok(());
        }
        let mut cached = self.derive_stats(account)?;
        let due = self.replace_snapshot(account, &usage, &mut cached)?;
        if lock(&self.stats.accounts).contains(&account) {
            self.stats.put(account, cached);
        }
        let swapped = self.swap_usage::<_, std::convert::Infallible>(account, |usage| {
            usage.stats_due = due;
            Ok(())
        });
        self.ended(swapped).map_err(never_refused)
    }

    /// Writes a snapshot of all there is, then removes the old one and the journal that it counts.
    /// Returns the number of the write with which the next one is due.
    fn replace_snapshot(
        &self,
        account: AccountKey,
        usage: &Usage,
        cached: &mut Cached,
    ) -> Result<u64, StoreError> {
        let op = usage.next_op.saturating_sub(1);
        (cached.through, cached.tail) = (usage.newest, 0);
        let due = self.snapshot_of(account, usage, &cached.counts)?;
        let owner = Owner::stats(account.0);
        pieces::remove_others(&self.trees.pieces, owner, Some(op))?;
        for key in self.trees.stats_journal.scan_prefix(account.0).keys() {
            let key = key?;
            if part::<8>(&key, 16).is_some_and(|number| u64::from_be_bytes(number) <= op) {
                self.trees.stats_journal.remove(key)?;
            }
        }
        self.committer.mark_dirty();
        Ok(due)
    }

    /// Writes a snapshot that says these counts are of everything written so far. The caller holds the
    /// account alone. Returns as [`Self::replace_snapshot`] does.
    pub(super) fn snapshot_of(
        &self,
        account: AccountKey,
        usage: &Usage,
        counts: &Counts,
    ) -> Result<u64, StoreError> {
        let op = usage.next_op.saturating_sub(1);
        write_snapshot(&self.trees, account, counts, usage.newest, op)
    }
}

/// Writes a snapshot: the counts of every memory up to `through`, and of what was done up to write
/// `op`. Returns the number of the write with which the next one is due.
pub(super) fn write_snapshot(
    trees: &Trees,
    account: AccountKey,
    counts: &Counts,
    through: MemoryId,
    op: u64,
) -> Result<u64, StoreError> {
    let owner = Owner::stats(account.0);
    let pieces = pieces::write(&trees.pieces, owner, op, &encode_long(counts)?)?;
    let head = StatsHead {
        through,
        op,
        pieces,
    };
    trees.stats.insert(account.0, encode(&head)?)?;
    let names = u64::try_from(counts.names()).unwrap_or(u64::MAX);
    Ok(op.saturating_add(1).saturating_add(names.max(WRITES_MIN)))
}
