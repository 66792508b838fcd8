//! `check`: counts everything again and compares it with what the records say. Changes nothing.
//!
//! Opening a store settles what a crash left, by intents and without looking at the rest. This is the
//! other way round: every record is read, and every fact that is kept in two places is compared. What
//! it finds is either damage from outside or a mistake in the store.
//!
//! It runs beside writes, and offline it is the same. A write under way looks like damage, so nothing
//! is reported that was seen without the lock of the account that it is about: each tree is walked
//! without any, and what looks wrong is read and looked at again with the account's lock held alone
//! (`Check::confirmed`); only then it is a problem. What needs an account to stand still from the
//! start, its counters beside a count of its memories, holds the lock for that count (`count.rs`).
//!
//! Memory stays bounded by the largest account's keys and distinct names, however many memories there
//! are.

mod count;
mod facts;
mod ledger;
mod names;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::domain::account::AccountKey;
use crate::domain::key::KeyHash;
use crate::domain::ledger::LedgerRow;
use crate::domain::usage::KeyNo;

use super::codec::{Record, VALUE_BYTES_MAX, decode};
use super::outbox;
use super::schema::{AccountRecord, KeyRecord, part};
use super::{Inner, Store, StoreError};

pub(super) use count::Counted;
pub(super) use names::{join_name, record_name};

/// Most problems that a report lists; the others are only counted.
pub const PROBLEMS_LISTED_MAX: usize = 1_000;
/// Records between two looks at whether to go on, and between two reports of progress.
const STRIDE: u64 = 256;

/// What a check of a store found.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// Accounts.
    pub accounts: u64,
    /// Keys, revoked ones included.
    pub keys: u64,
    /// Memories of all accounts.
    pub memories: u64,
    /// Rows of all ledgers.
    pub ledger_rows: u64,
    /// Accounts without an active key, whose last one an admin took. That is no problem.
    pub accounts_without_key: u64,
    /// What is wrong, in the order found; [`PROBLEMS_LISTED_MAX`] at most.
    pub problems: Vec<Problem>,
    /// How many problems there are, listed or not.
    pub problems_total: u64,
}

/// One fact that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The tree of the record that is wrong, or `blobs` for the database's directory of large values.
    pub tree: &'static str,
    /// Which record: public ids where it has them, else its key in hexadecimal. Never a secret.
    pub key: String,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.tree, self.key, self.what)
    }
}

impl CheckReport {
    /// Says whether nothing is wrong.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.problems_total == 0
    }

    /// Returns the last line of a report: what was counted, and how many problems there are.
    #[must_use]
    pub fn totals(&self) -> String {
        let (accounts, keys, memories) = (self.accounts, self.keys, self.memories);
        let without = match self.accounts_without_key {
            0 => String::new(),
            n => format!(", {n} accounts without a key (an admin revoked it)"),
        };
        let verdict = match self.problems_total {
            0 => "sound".to_owned(),
            1 => "1 problem".to_owned(),
            n => format!("{n} problems"),
        };
        let rows = self.ledger_rows;
        format!(
            "{accounts} accounts, {keys} keys, {memories} memories, {rows} ledger rows{without}: {verdict}"
        )
    }

    /// Returns how many problems are counted but not listed.
    #[must_use]
    pub fn unlisted(&self) -> u64 {
        let listed = u64::try_from(self.problems.len()).unwrap_or(u64::MAX);
        self.problems_total.saturating_sub(listed)
    }

    fn add(&mut self, problem: Problem) {
        self.problems_total = self.problems_total.saturating_add(1);
        if self.problems.len() < PROBLEMS_LISTED_MAX {
            self.problems.push(problem);
        }
    }
}

/// The report as an operator reads it: a line for each problem, then one with the totals.
impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        if self.unlisted() > 0 {
            writeln!(f, "and {} more", self.unlisted())?;
        }
        f.write_str(&self.totals())
    }
}

/// How far a long look at all records is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The tree that is being walked.
    pub tree: &'static str,
    /// Its records so far.
    pub records: u64,
}

/// Why a check beside writes gave no report.
#[derive(Debug, thiserror::Error)]
pub enum CheckRefusal {
    /// Another one is running.
    #[error("a check is running")]
    InProgress,
    /// The store failed, or stopped its writes on the way.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Reads every record and compares all that must agree. Changes nothing.
    ///
    /// May run beside writes: it blocks the thread that calls it, and holds up one account at a time,
    /// for as long as its memories take to count. `progress` is told now and then how far it is. Takes
    /// about twice as long as reading the whole database.
    ///
    /// # Errors
    ///
    /// [`StoreError::Database`] if the database cannot be read, [`StoreError::Unavailable`] if writes were
    /// stopped by a failed disk on the way: what was half written then looks like damage. Whatever is
    /// wrong with the records themselves is in the report instead.
    ///
    /// # Panics
    ///
    /// On a thread of an async runtime, if a write is under way; see [`Self::check_beside_writes`].
    pub fn check(&self, progress: &dyn Fn(Progress)) -> Result<CheckReport, StoreError> {
        Check::new(&*self.inner()?, progress, None).run()
    }

    /// Checks as [`Self::check`] does, on a thread of its own, and one at a time. Dropped, it stops.
    ///
    /// # Errors
    ///
    /// [`CheckRefusal`].
    pub async fn check_beside_writes(&self) -> Result<CheckReport, CheckRefusal> {
        let running = Running::begin(self.inner()?).ok_or(CheckRefusal::InProgress)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let _stop = StopOnDrop(Arc::clone(&stopped));
        let task = tokio::task::spawn_blocking(move || {
            // With the check, not with the one who waits for it: it may be gone before the check stops.
            let running = running;
            Check::new(&running.0, &|_| (), Some(&stopped)).run()
        });
        let report = task
            .await
            .map_err(|_| StoreError::Corrupt("a check was interrupted".to_owned()))??;
        Ok(report)
    }
}

/// The one check beside writes.
struct Running(Arc<Inner>);

impl Running {
    fn begin(inner: Arc<Inner>) -> Option<Self> {
        let was_running = inner.checking.swap(true, Ordering::AcqRel);
        (!was_running).then_some(Self(inner))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.checking.store(false, Ordering::Release);
    }
}

/// Stops a check when nobody waits for it any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A check under way.
pub(super) struct Check<'a> {
    inner: &'a Inner,
    progress: &'a dyn Fn(Progress),
    stopped: Option<&'a AtomicBool>,
    report: CheckReport,
    /// What the record that is looked at now has wrong, until it is confirmed.
    found: Vec<Problem>,
    /// Whether that is done now, with the lock of the account that it is about.
    confirming: bool,
    /// The owner of the piece looked at last, so that each owner is looked up once.
    last_owner: Option<PieceOwner>,
    /// The owner and revision of the pieces reported last: once is enough for all of them.
    last_orphan: Option<([u8; 33], u64)>,
    /// Recorded answers that are gone while their pieces are there.
    unswept: BTreeSet<[u8; 32]>,
    /// The lineage that holds the memory looked at last, the key that its JSON names, and whether that is of it.
    last_key: Option<(AccountKey, KeyNo, String, Option<bool>)>,
}

/// What pieces belong to, and what it says of them.
struct PieceOwner {
    name: [u8; 33],
    /// Revision and number of its pieces; `None` if there is no such record.
    record: Option<(u64, u16)>,
}

/// What is looked at of one record: whatever is wrong goes to [`Check::problem`], or is the error.
type Step<'a> = fn(&mut Check<'a>, &[u8], &sled::IVec) -> Result<(), StoreError>;

impl<'a> Check<'a> {
    pub(super) fn new(
        inner: &'a Inner,
        progress: &'a dyn Fn(Progress),
        stopped: Option<&'a AtomicBool>,
    ) -> Self {
        Self {
            inner,
            progress,
            stopped,
            report: CheckReport::default(),
            found: Vec::new(),
            confirming: false,
            last_owner: None,
            last_orphan: None,
            unswept: BTreeSet::new(),
            last_key: None,
        }
    }

    fn run(mut self) -> Result<CheckReport, StoreError> {
        let trees = &self.inner.trees;
        self.report.accounts = self.each("users", &trees.users, Self::user)?;
        self.each("names", &trees.names, Self::name)?;
        self.report.keys = self.each("keys", &trees.keys, Self::key)?;
        self.each("key_ids", &trees.key_ids, Self::key_id)?;
        self.each("account_keys", &trees.account_keys, Self::account_key)?;
        self.each("key_expiries", &trees.key_expiries, Self::key_expiry)?;
        self.each("barred", &trees.barred, Self::barred)?;
        self.usages()?;
        self.each("ledger", &trees.ledger, Self::ledger_owner)?;
        self.audit()?;
        let index = &trees.audit_accounts;
        self.each("audit_accounts", index, Self::audit_entry)?;
        self.memories()?;
        self.each("stats", &trees.stats, Self::saved_stats)?;
        self.each("stats_journal", &trees.stats_journal, Self::journal)?;
        self.each("replays", &trees.replays, Self::replay)?;
        // Before `replay_times`, which says of some orphans that a sweep is about to remove them.
        self.each("pieces", &trees.pieces, Self::piece)?;
        self.each("replay_times", &trees.replay_times, Self::replay_time)?;
        self.unswept()?;
        self.each("key_intents", &trees.key_intents, |_, _, _| {
            Err(damage("an intent is left that opening should have settled"))
        })?;
        self.each("erased_ledger", &trees.erased_ledger, |_, _, value| {
            decode::<LedgerRow>(value).map(drop)
        })?;
        self.each("plans", &trees.plans, Self::plans)?;
        self.each("outbox", &trees.outbox, Self::waiting_event)?;
        self.each("meta", &trees.meta, |check, _, _| {
            outbox::endpoints(&check.inner.trees).map(drop)
        })?;
        self.blobs();
        self.go_on()?;
        Ok(self.report)
    }

    /// Notes something that looks wrong; it counts once it is confirmed.
    fn problem(&mut self, tree: &'static str, key: impl Into<String>, what: impl Into<String>) {
        self.found.push(Problem {
            tree,
            key: key.into(),
            what: what.into(),
        });
    }

    /// Ends the check if nobody waits for it, or if half of a write may be there for good.
    fn go_on(&self) -> Result<(), StoreError> {
        let stopped = self.stopped.is_some_and(|s| s.load(Ordering::Acquire));
        if stopped || self.inner.committer.is_poisoned() {
            return Err(StoreError::Unavailable);
        }
        Ok(())
    }

    /// Counts a record of a walk; now and then tells how far it is and lets others run.
    fn walked(&self, tree: &'static str, records: &mut u64) -> Result<(), StoreError> {
        *records = records.saturating_add(1);
        if records.is_multiple_of(STRIDE) {
            self.go_on()?;
            let records = *records;
            (self.progress)(Progress { tree, records });
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Walks a tree. Returns how many records it has.
    fn each(
        &mut self,
        name: &'static str,
        tree: &sled::Tree,
        step: Step<'a>,
    ) -> Result<u64, StoreError> {
        let mut records = 0;
        for entry in tree {
            let (key, value) = entry?;
            self.walked(name, &mut records)?;
            self.record(name, tree, &key, &value, step)?;
        }
        (self.progress)(Progress {
            tree: name,
            records,
        });
        Ok(records)
    }

    /// Looks at one record without a lock; if something seems wrong, again while nobody writes.
    fn record(
        &mut self,
        name: &'static str,
        tree: &sled::Tree,
        key: &[u8],
        value: &sled::IVec,
        step: Step<'a>,
    ) -> Result<(), StoreError> {
        self.look(name, key, value, step)?;
        if self.found.is_empty() {
            return Ok(());
        }
        let mut value = value.clone();
        loop {
            let owner = self.owner(name, key, &value)?;
            let alone = owner.map(|account| self.inner.locks.alone_blocking(account));
            self.found.clear();
            // Half of an account that is being erased is no damage.
            if let Some(account) = owner
                && self.inner.is_erasing(account)?
            {
                return Ok(());
            }
            (self.last_owner, self.last_key) = (None, None);
            let Some(now) = tree.get(key)? else {
                return Ok(());
            };
            // A name that was given back and claimed by another account belongs to another lock now.
            if self.owner(name, key, &now)? != owner {
                value = now;
                continue;
            }
            self.confirming = true;
            let looked = self.look(name, key, &now, step);
            self.confirming = false;
            drop(alone);
            return looked.and_then(|()| self.confirmed());
        }
    }

    /// Looks at one record: its size, then what the step says.
    fn look(
        &mut self,
        tree: &'static str,
        key: &[u8],
        value: &sled::IVec,
        step: impl FnOnce(&mut Self, &[u8], &sled::IVec) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if value.len() > VALUE_BYTES_MAX {
            let what = format!("its value of {} bytes is too large", value.len());
            self.problem(tree, record_name(tree, key), what);
        }
        match step(self, key, value) {
            Err(StoreError::Corrupt(what)) => self.problem(tree, record_name(tree, key), what),
            outcome => outcome?,
        }
        Ok(())
    }

    /// Reports what was found while nobody wrote.
    fn confirmed(&mut self) -> Result<(), StoreError> {
        // A write that failed between two of its steps gives its lock back with half of it done.
        self.go_on()?;
        for problem in std::mem::take(&mut self.found) {
            self.report.add(problem);
        }
        Ok(())
    }

    /// Returns the account whose writes may touch a record. `None` if none does, or none can be told.
    fn owner(
        &self,
        tree: &str,
        key: &[u8],
        value: &sled::IVec,
    ) -> Result<Option<AccountKey>, StoreError> {
        let of_hash = |hash: Result<KeyHash, StoreError>| match hash {
            Ok(hash) => Ok(self.key_record(&hash)?.map(|record| record.account)),
            Err(_) => Ok(None),
        };
        match tree {
            "names" => Ok(decode(value).ok()),
            "keys" => Ok(decode::<KeyRecord>(value).ok().map(|key| key.account)),
            "key_ids" => of_hash(decode(value)),
            "meta" | "outbox" | "plans" | "audit" => Ok(None),
            "pieces" => Ok(part(key, 1).map(AccountKey)),
            "replay_times" | "key_expiries" => Ok(part(key, 8).map(AccountKey)),
            _ => Ok(part(key, 0).map(AccountKey)),
        }
    }

    /// Looks for pages that the database has put into files of their own: earlier releases did not sync those.
    fn blobs(&mut self) {
        let path = self.inner.directory.database_path().join("blobs");
        let mut found = |name: String, what: String| {
            self.report.add(Problem {
                tree: "blobs",
                key: name,
                what,
            });
        };
        match std::fs::read_dir(path) {
            Ok(entries) => {
                for entry in entries.flatten() {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    found(name, "a page is in a file of its own: `memoryos compact` takes it back into the log".to_owned());
                }
            }
            // The database makes the directory; without it there are no such values either.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => found(String::new(), format!("it cannot be read: {error}")),
        }
    }

    /// Returns a key's record. `None` if there is none, or none that can be read: that is named in `keys`.
    fn key_record(&self, hash: &KeyHash) -> Result<Option<KeyRecord>, StoreError> {
        readable(&self.inner.trees.keys, &hash.0)
    }

    /// Returns an account's record, as [`Self::key_record`] does a key's.
    fn account_record(&self, account: AccountKey) -> Result<Option<AccountRecord>, StoreError> {
        readable(&self.inner.trees.users, &account.0)
    }
}

/// Returns a record. `None` if it is not there or cannot be decoded.
pub(super) fn readable<T: Record + serde::de::DeserializeOwned>(
    tree: &sled::Tree,
    key: &[u8],
) -> Result<Option<T>, StoreError> {
    Ok(tree.get(key)?.and_then(|bytes| decode(&bytes).ok()))
}

/// Says whether an account has anything in a tree whose keys start with it.
pub(super) fn has_any(tree: &sled::Tree, account: AccountKey) -> Result<bool, StoreError> {
    Ok(tree.scan_prefix(account.0).next().transpose()?.is_some())
}

pub(super) fn damage(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}

/// Returns a key as the bytes that it must be.
pub(super) fn exact<const N: usize>(key: &[u8]) -> Result<[u8; N], StoreError> {
    key.try_into()
        .map_err(|_| StoreError::Corrupt(format!("its key is not {N} bytes")))
}

#[cfg(test)]
pub(super) mod tests;
