//! An account beside a count of its memories: the part of a check that needs it to stand still.

use std::collections::HashMap;

use crate::domain::account::AccountKey;
use crate::domain::cycle::boundary;
use crate::domain::memory::MemoryId;
use crate::domain::usage::{KeyNo, Usage};

use super::super::codec::{decode, decode_borrowed};
use super::super::memories::memory_id;
use super::super::schema::{KeyRecord, MemoryHead, part};
use super::super::stats::Counts;
use super::super::usage::decode_usage;
use super::super::{Inner, StoreError};
use super::{Check, Progress, exact};

/// The memories of one account, counted.
#[derive(Default)]
pub(in crate::store) struct Counted {
    /// All records.
    pub total: u64,
    /// Those that cannot be read; what follows is of the others.
    pub unreadable: u64,
    pub by_key: HashMap<KeyNo, u64>,
    pub counts: Counts,
    pub newest: MemoryId,
    pub newest_revision: u64,
}

impl Counted {
    /// Counts an account's memories by their heads. The caller holds the account alone.
    pub(in crate::store) fn of(inner: &Inner, account: AccountKey) -> Result<Self, StoreError> {
        let mut counted = Self::default();
        for entry in inner.trees.memories.scan_prefix(account.0) {
            let (key, value) = entry?;
            counted.total = counted.total.saturating_add(1);
            let head = decode_borrowed::<MemoryHead<'_>>(&value);
            let (32, Ok(id), Ok(head)) = (key.len(), memory_id(&key), head) else {
                counted.unreadable = counted.unreadable.saturating_add(1);
                continue;
            };
            let of_key = counted.by_key.entry(head.key_no).or_default();
            *of_key = of_key.saturating_add(1);
            counted.counts.count(&head.facets());
            counted.newest = counted.newest.max(id);
            counted.newest_revision = counted.newest_revision.max(head.revision);
        }
        Ok(counted)
    }
}

/// A key of an account, as `account_keys` finds it; `None` if its record is not there or another's, which
/// is named elsewhere.
pub(super) type OwnKey = (KeyNo, Option<KeyRecord>);

impl Check<'_> {
    /// Compares each account's usage with its keys and its memories, the account alone.
    pub(super) fn usages(&mut self) -> Result<(), StoreError> {
        let tree = &self.inner.trees.usage;
        let mut records = 0;
        for key in tree.iter().keys() {
            let key = key?;
            records = u64::saturating_add(records, 1);
            // Each account may take long: others are let in between any two.
            self.go_on()?;
            std::thread::yield_now();
            let alone = part(&key, 0)
                .map(AccountKey)
                .map(|account| self.inner.locks.alone_blocking(account));
            if let Some(value) = tree.get(&key)? {
                self.look("usage", &key, &value, Self::usage)?;
            }
            drop(alone);
            self.confirmed()?;
            (self.progress)(Progress {
                tree: "usage",
                records,
            });
        }
        Ok(())
    }

    fn usage(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
        let account = AccountKey(exact(key)?);
        let counted = Counted::of(self.inner, account)?;
        if counted.unreadable == 0 {
            self.compare_stats(account, &counted)?;
        }
        let usage = decode_usage(value, self.inner.plans)?;
        let keys = self.own_keys(account)?;
        self.rules_of_usage(account, &usage, &keys);
        self.intents(account, &usage);
        self.ledger(account, &usage, &keys)?;
        self.events("usage", account, &usage.events);
        let id = account.anonymous_id();
        if usage.held != counted.total {
            let (held, total) = (usage.held, counted.total);
            let what = format!("it counts {held} memories, {total} are there");
            self.problem("usage", &id, what);
        }
        if counted.newest > usage.newest {
            let what = format!("{} is newer than the last memory it gave", counted.newest);
            self.problem("usage", &id, what);
        }
        if counted.newest_revision >= usage.next_op {
            let (made, next) = (counted.newest_revision, usage.next_op);
            let what = format!("a memory is of write {made}, its next write is {next}");
            self.problem("usage", &id, what);
        }
        match self.account_record(account)? {
            None => self.problem("usage", &id, "its account is not there"),
            Some(record) => {
                let mut active: Vec<KeyNo> = record.active.iter().map(|k| k.lineage).collect();
                let mut shares: Vec<KeyNo> = usage.shares.iter().map(|s| s.key_no).collect();
                active.sort_unstable();
                active.dedup();
                shares.sort_unstable();
                if active != shares {
                    let what =
                        format!("it has shares of the lineages {shares:?}, active are {active:?}");
                    self.problem("usage", &id, what);
                }
                if active.is_empty() {
                    let without = &mut self.report.accounts_without_key;
                    *without = without.saturating_add(1);
                }
            }
        }
        if counted.unreadable == 0 {
            self.compare_held(account, &usage, &keys, counted.by_key);
        }
        Ok(())
    }

    /// Returns the keys of an account, revoked ones too.
    fn own_keys(&self, account: AccountKey) -> Result<Vec<OwnKey>, StoreError> {
        let mut keys = Vec::new();
        for entry in self.inner.trees.account_keys.scan_prefix(account.0) {
            let (key, hash) = entry?;
            let (Some(no), Ok(hash)) = (part(&key, 16).map(KeyNo::from_be_bytes), decode(&hash))
            else {
                continue;
            };
            let record = self.key_record(&hash)?;
            keys.push((no, record.filter(|r| (r.account, r.no) == (account, no))));
        }
        Ok(keys)
    }

    /// Checks what holds of a usage by itself, and of the credits of the account and its keys.
    fn rules_of_usage(&mut self, account: AccountKey, usage: &Usage, keys: &[OwnKey]) {
        let id = account.anonymous_id();
        let most = self.inner.catalog.memories_most;
        let mut wrong = |what: String| self.problem("usage", &id, what);
        if usage.used > usage.granted {
            let (used, granted) = (usage.used, usage.granted);
            wrong(format!("{used} credits used of {granted} granted"));
        }
        if usage.used > usage.used_ever {
            let (used, ever) = (usage.used, usage.used_ever);
            wrong(format!("{used} credits used in the cycle, {ever} ever"));
        }
        if usage.cycle_end != boundary(usage.anchor, usage.cycle.saturating_add(1)) {
            wrong("its cycle does not end where its months say".to_owned());
        }
        // A plan may go down while its memories stay; but nobody was ever sold more than the largest.
        if usage.held > most {
            wrong(format!(
                "it holds {}, more than any plan ever had",
                usage.held
            ));
        }
        for share in &usage.shares {
            let no = share.key_no;
            if share.used > share.used_ever {
                wrong(format!("its key {no} used more in the cycle than ever"));
            }
        }
        // Every debit is one key's: the account's numbers are the sums of its keys', revoked ones too.
        let mut known = true;
        let (mut used, mut ever) = (0u64, 0u64);
        for share in &usage.shares {
            used = used.saturating_add(share.used);
            ever = ever.saturating_add(share.used_ever);
        }
        for (no, key) in keys {
            let end = key.as_ref().map(|key| key.retired.as_ref());
            known &= end.is_some() || usage.share(*no).is_some();
            let Some(end) = end.flatten() else { continue };
            if end.cycle == usage.cycle {
                used = used.saturating_add(end.share.used);
            }
            ever = ever.saturating_add(end.share.used_ever);
        }
        if known && (used, ever) != (usage.used, usage.used_ever) {
            let (own, own_ever) = (usage.used, usage.used_ever);
            wrong(format!(
                "{own} credits used, {own_ever} ever, but its keys used {used}, {ever} ever"
            ));
        }
        let again = keys.iter().filter(|(no, _)| *no >= usage.next_key_no);
        for (no, _) in again {
            wrong(format!("the number {no} of a key would be given again"));
        }
    }

    /// Checks that no write is under way, for nobody else holds the account.
    fn intents(&mut self, account: AccountKey, usage: &Usage) {
        let id = account.anonymous_id();
        let is_open = |op: u64| !self.inner.locks.is_done(account, op);
        let open = usage.intents.iter().filter(|i| is_open(i.op)).count();
        if open > 0 {
            let what = format!("{open} intents are left that opening should have settled");
            self.problem("usage", &id, what);
        }
        let mut ops: Vec<u64> = usage.intents.iter().map(|intent| intent.op).collect();
        ops.dedup();
        if ops.len() != usage.intents.len() || !ops.is_sorted() {
            self.problem("usage", &id, "its intents are not in the order of writes");
        }
        if ops.last().is_some_and(|op| *op >= usage.next_op) {
            self.problem("usage", &id, "an intent is of a write not made yet");
        }
    }

    /// Compares what each key of an account says it holds with the memories stored with it.
    fn compare_held(
        &mut self,
        account: AccountKey,
        usage: &Usage,
        keys: &[OwnKey],
        mut by_key: HashMap<KeyNo, u64>,
    ) {
        let id = account.anonymous_id();
        for (no, record) in keys {
            let there = by_key.remove(no).unwrap_or(0);
            let Some(record) = record else { continue };
            if let Some(retired) = &record.retired {
                let held = retired.share.held;
                if held != there {
                    let what = format!("it counts {held} memories, {there} are there");
                    self.problem("keys", record.id.as_str(), what);
                }
            } else if let Some(share) = usage.share(*no)
                && share.held != there
            {
                let held = share.held;
                let what = format!("its key {no} counts {held} memories, {there} are there");
                self.problem("usage", &id, what);
            }
        }
        let mut strange: Vec<(KeyNo, u64)> = by_key.into_iter().collect();
        strange.sort_unstable();
        for (no, count) in strange {
            let what =
                format!("{count} memories were stored with the key {no}, which is not there");
            self.problem("usage", &id, what);
        }
    }

    /// Compares the saved aggregates, brought up to date, and those in memory with a recount.
    fn compare_stats(&mut self, account: AccountKey, counted: &Counted) -> Result<(), StoreError> {
        let id = account.anonymous_id();
        match self.inner.derive_stats(account) {
            Ok(cached) if cached.counts == counted.counts => {}
            Ok(cached) => {
                let what = format!(
                    "the saved aggregates come to {} memories, a recount to {}, or they differ in names",
                    cached.counts.total, counted.counts.total
                );
                self.problem("stats", &id, what);
            }
            Err(StoreError::Corrupt(what)) => self.problem("stats", &id, what),
            Err(error) => return Err(error),
        }
        let in_memory = self.inner.stats.counts(account);
        if in_memory.is_some_and(|counts| counts != counted.counts) {
            self.problem(
                "stats",
                &id,
                "the aggregates in memory differ from a recount",
            );
        }
        Ok(())
    }
}
