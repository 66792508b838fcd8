//! The store: sled, and nothing but sled. What the rest of the program sees are operations.
//!
//! Each operation is atomic, also across a crash: it is there whole after the next start, or not at
//! all. An operation that changes something returns when it is on the disk. Time, ids and secrets come
//! from the caller. The order of the steps of each operation, and how a crash between any two of them is
//! settled, is written down in `ARCHITECTURE.md` and beside the code.

mod accounts;
mod adjust;
mod archive;
mod audit;
mod audit_read;
mod backup;
mod backup_file;
mod backup_folder;
mod bulk;
mod check;
mod codec;
mod committer;
mod compact;
mod directory;
mod erase;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod high_water;
mod kept;
mod key_changes;
mod keys;
mod ledger;
mod locks;
mod memories;
mod newest;
mod outbox;
mod pieces;
mod place;
mod plans;
mod recovery;
mod rename;
mod reopen;
mod repair;
mod replays;
mod residue;
mod restore;
mod schema;
mod sequence;
mod stats;
#[cfg(test)]
mod storms;
mod swap;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod usage;
mod usages;
mod waiters;
mod watchdog;

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};

use crate::domain::account::AccountKey;
use crate::domain::catalog::Catalog;
use crate::domain::key::KeyHash;
use crate::domain::plan::Plans;

pub use accounts::{AccountFilter, AccountRow, AccountsPage, NameTaken, NewAccount};
pub use adjust::Adjust;
pub use archive::{ArchiveError, BACKUP_FORMAT, BackupContents};
pub use audit_read::{AuditFault, AuditFilter, AuditItem, AuditPage};
pub use backup::{Backup, BackupError, BackupProgress};
pub use backup_folder::{BackupCause, BackupFolder};
pub use bulk::{Bulk, BulkAccount, BulkKey, BulkMemory, BulkRevoked, Target, target};
pub use check::{CheckRefusal, CheckReport, PROBLEMS_LISTED_MAX, Problem, Progress};
pub use compact::{CompactError, CompactProgress, CompactStep, Compacted, compact};
pub use directory::{BACKUPS_FOLDER, FORMAT, FileSystem, holds_data};
pub use erase::{EraseRefusal, Erased, Erasure};
pub use error::{OpenError, StoreError};
pub use key_changes::{KeyChange, KeyRefusal, Successor};
pub use keys::{ACTIVE_KEYS_MAX, KeyRow, KeyState, NewKey, Principal};
pub use memories::{
    AddMemory, Added, Changed, Deleted, Page, PageStart, UpdateMemory, UpdateRefusal,
};
pub use outbox::{DueEvent, OutboxState};
pub use place::{Built, NewTarget, TargetError};
pub use plans::{ApplyError, PlanInUse, PlanUse};
pub use reopen::Reopened;
pub use replays::{Replay, ReplayRefusal};
pub use residue::{
    ResidueError, ResidueReport, ResidueStep, ResidueText, ResidueTextError, find_residue,
};
pub use restore::{RestoreError, RestoreStep, Restored, restore};
pub use stats::Stats;
pub use usage::Debited;

use committer::Committer;
use directory::{Contents, DataDirectory};
use high_water::HighWater;
use kept::Kept;
use keys::KeptKey;
use locks::AccountLocks;
use newest::NewestPages;
use recovery::OnDamage;
use schema::Trees;
use swap::SwapError;
use usages::Usages;

/// Most usages, keys and names of accounts, each, that are kept decoded; about 1 KiB for all of an account.
const KEPT_MAX: usize = 16_384;
/// Bytes of first pages that are kept, as a part of the page cache's.
const PAGES_PART: u64 = 2;

/// How to open a store.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of the page cache. Resident memory is 1.2 to 1.6 times that, and 35 MB a million records.
    pub cache_bytes: u64,
    /// Most writes that may wait for the disk; beyond it a write is refused as overloaded.
    pub waiting_writes_max: usize,
    /// Free bytes of the file system at which writes stop, before the database itself meets a full
    /// disk: after that it could not even read what it was writing, and would have to be opened anew.
    /// Writes go on by themselves once there is space again. 0 turns it off.
    pub reserve_bytes: u64,
    /// Called once when a flush does not end, after writes were stopped: for a server, to end the process.
    pub on_hung_disk: fn(),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            waiting_writes_max: 2_048,
            reserve_bytes: 8 << 20,
            on_hung_disk: || {},
        }
    }
}

/// How an operation ends that did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum OpError<E: std::error::Error> {
    /// The rules said no; nothing was changed.
    #[error(transparent)]
    Refused(E),
    /// The machine failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An open store. Clones share it; it is closed, flushed once more, when the last one goes.
#[derive(Clone, Debug)]
pub struct Store(Arc<Handle>);

/// What outlives the database when it is opened anew; see [`reopen`].
#[derive(Debug)]
struct Handle {
    /// `None` while the database is being opened anew.
    inner: ArcSwapOption<Inner>,
    /// Whether there is a database, for those who wait for it.
    state: watch::Sender<State>,
    /// Rung when writes are stopped by a failure.
    alarm: Arc<Notify>,
    /// Idempotency keys of requests that are being answered.
    in_flight: Mutex<HashSet<[u8; 32]>>,
    options: Options,
    /// The one table of plans, however often the database is opened anew.
    catalog: Catalog,
    /// Last, so that the directory's lock is freed after the files are closed.
    directory: Arc<DataDirectory>,
}

/// Whether there is a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// There will be one in a moment.
    Opening,
    /// The attempt to open it anew failed.
    Closed,
}

/// The open database. Each operation holds it from its beginning to its end.
#[derive(Debug)]
struct Inner {
    /// First, so that it is dropped first: its last flush needs the database.
    committer: Committer,
    trees: Trees,
    db: sled::Db,
    locks: AccountLocks,
    plans: &'static Plans,
    catalog: Catalog,
    stats: stats::Cache,
    usages: Arc<Usages>,
    keys: Kept<KeyHash, KeptKey>,
    /// Public ids of accounts.
    names: Kept<AccountKey, String>,
    newest: NewestPages,
    /// The end of the audit log; whoever appends holds it.
    audit: Mutex<audit::Head>,
    /// Accounts whose erasure somebody is working on.
    erasing: Mutex<HashSet<AccountKey>>,
    totals: Totals,
    outbox: outbox::Outbox,
    waiting_writes: Semaphore,
    /// Whether a check runs beside writes.
    checking: AtomicBool,
    /// See [`Options::reserve_bytes`].
    reserve_bytes: AtomicU64,
    directory: Arc<DataDirectory>,
}

/// Counters over all accounts: derived when the store is opened, kept up from then on.
#[derive(Debug, Default)]
struct Totals {
    accounts: AtomicU64,
    active_accounts: AtomicU64,
    active_keys: AtomicU64,
    memories: AtomicU64,
    /// Accounts whose keys are all refused.
    barred: AtomicU64,
}

/// What `/health` tells of the store. Costs the same however much is stored.
#[derive(Clone, Copy, Debug)]
pub struct Health {
    /// Whether a record can be read.
    pub readable: bool,
    /// Whether writes go on: the disk has not failed and is not full.
    pub writable: bool,
    /// Bytes that a program without privileges can still write to the file system; `None` if it does not say.
    pub free_bytes: Option<u64>,
    /// See [`Options::reserve_bytes`].
    pub reserve_bytes: u64,
    /// Bytes of the database's files.
    pub database_bytes: u64,
    /// Memories of all accounts.
    pub memories: u64,
    /// Accounts.
    pub accounts: u64,
    /// Active keys of all accounts.
    pub active_keys: u64,
}

/// What opening found.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The kind of file system that the directory is on.
    pub file_system: FileSystem,
    /// Writes that a crash had interrupted and that were finished or undone.
    pub settled: u64,
    /// Whether the directory was made just now.
    pub created: bool,
}

impl Store {
    /// Opens the store in `directory`, makes it if there is none, and settles what a crash left.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; nothing in the directory was changed then, unless recovery itself failed.
    pub fn open(directory: &Path, options: Options) -> Result<(Self, Opened), OpenError> {
        Self::open_with(directory, options, OnDamage::Stop)
    }

    /// Opens the store as [`Self::open`] does, but passes over records that are damaged: what was under way
    /// there is not settled. For a check; a service must not run on such a store.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_to_check(directory: &Path, options: Options) -> Result<(Self, Opened), OpenError> {
        Self::open_with(directory, options, OnDamage::PassOver)
    }

    /// Opens the store as [`Self::open_to_check`] does, but also goes on, with a warning, where writes are
    /// gone that were on the disk: no later open misses them. For a repair.
    ///
    /// # Errors
    ///
    /// As [`Self::open`], but never [`OpenError::Lost`].
    pub fn open_damaged(directory: &Path, options: Options) -> Result<(Self, Opened), OpenError> {
        Self::open_with(directory, options, OnDamage::Repair)
    }

    fn open_with(
        directory: &Path,
        options: Options,
        damage: OnDamage,
    ) -> Result<(Self, Opened), OpenError> {
        let (directory, contents) = DataDirectory::take(directory)?;
        Self::open_taken(directory, contents, options, damage)
    }

    /// Opens the store in a directory that is taken already.
    fn open_taken(
        directory: DataDirectory,
        contents: Contents,
        options: Options,
        damage: OnDamage,
    ) -> Result<(Self, Opened), OpenError> {
        let created = directory.make_ready(contents)?;
        let (directory, alarm) = (Arc::new(directory), Arc::new(Notify::new()));
        if directory.is_unsynced() {
            directory.write_again()?;
        }
        let (inner, settled) = Inner::open(&directory, &alarm, options, None, damage)?;
        directory.mark_synced()?;
        let opened = Opened {
            file_system: directory.file_system(),
            settled,
            created,
        };
        let handle = Handle {
            state: watch::Sender::new(State::Open),
            alarm,
            in_flight: Mutex::default(),
            options,
            catalog: inner.catalog,
            inner: ArcSwapOption::from_pointee(inner),
            directory,
        };
        Ok((Self(Arc::new(handle)), opened))
    }

    /// Returns the open database.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] while it is being opened anew.
    fn inner(&self) -> Result<Arc<Inner>, StoreError> {
        self.0.inner.load_full().ok_or(StoreError::Unavailable)
    }

    /// As [`Self::inner`], for what does not wait: threads that look at the same time do not meet in a counter.
    fn look(&self) -> Result<Look, StoreError> {
        let inner = self.0.inner.load();
        if inner.is_none() {
            return Err(StoreError::Unavailable);
        }
        Ok(Look(inner))
    }

    /// Returns what `/health` tells. While the database is being opened anew, its figures are 0.
    #[must_use]
    pub fn health(&self) -> Health {
        let inner = self.inner().ok();
        let count = |of: fn(&Totals) -> &AtomicU64| {
            let totals = inner.as_ref().map(|inner| &inner.totals);
            totals.map_or(0, |totals| of(totals).load(Ordering::Relaxed))
        };
        let is = |says: fn(&Inner) -> bool| inner.as_ref().is_some_and(|inner| says(inner));
        Health {
            readable: is(|inner| inner.trees.meta.get(directory::PROBE).is_ok()),
            writable: is(|inner| inner.takes_writes().is_ok()),
            free_bytes: self.0.directory.free_bytes(),
            reserve_bytes: self.0.options.reserve_bytes,
            database_bytes: inner
                .as_ref()
                .and_then(|inner| inner.db.size_on_disk().ok())
                .unwrap_or(0),
            memories: count(|totals| &totals.memories),
            accounts: count(|totals| &totals.accounts),
            active_keys: count(|totals| &totals.active_keys),
        }
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    ///
    /// [`StoreError::OutcomeUnknown`] if the disk failed, now or before.
    pub async fn flush(&self) -> Result<(), StoreError> {
        let inner = self.inner()?;
        if self.0.directory.is_gone() {
            return Err(StoreError::OutcomeUnknown);
        }
        inner.write_reads()?;
        let flushed = inner.committer.flushed().await;
        flushed.map_err(|_| StoreError::OutcomeUnknown)
    }

    /// Stops writes as a failed disk does that does not come back: nothing opens the database anew, unless
    /// [`Self::reopen`] is called. For tests of what happens then.
    #[doc(hidden)]
    pub fn poison_for_test(&self) {
        if let Ok(inner) = self.inner() {
            inner.committer.poison_for_test();
        }
    }
}

/// A look at the open database.
struct Look(arc_swap::Guard<Option<Arc<Inner>>>);

impl std::ops::Deref for Look {
    type Target = Inner;

    #[expect(clippy::expect_used, reason = "made of one that is there")]
    fn deref(&self) -> &Inner {
        self.0.as_ref().expect("an open database")
    }
}

impl Handle {
    fn in_flight(&self) -> MutexGuard<'_, HashSet<[u8; 32]>> {
        // So that whoever looks and locks again, to act on it, meets others: for the storms.
        #[cfg(test)]
        std::thread::yield_now();
        locks::lock(&self.in_flight)
    }
}

#[cfg(test)]
impl Store {
    /// Fills the disk, as far as the store can tell, or empties it again.
    fn set_reserve(&self, bytes: u64) {
        let inner = self.inner().unwrap();
        inner.reserve_bytes.store(bytes, Ordering::Relaxed);
    }

    fn trees(&self) -> Trees {
        let inner = self.inner().unwrap();
        // A test looks at the trees themselves.
        inner.write_reads().unwrap();
        inner.trees.clone()
    }

    /// To be called after the trees themselves were written.
    fn forget_kept(&self) {
        self.inner().unwrap().forget_kept();
    }
}

/// The right to write: taken before the first step of an operation, given back when it is durable.
struct WriteTicket<'a> {
    inner: &'a Inner,
    _permit: SemaphorePermit<'a>,
}

impl WriteTicket<'_> {
    /// Waits until everything written so far is on the disk.
    async fn commit(self) -> Result<(), StoreError> {
        self.inner
            .committer
            .flushed()
            .await
            .map_err(|_| StoreError::OutcomeUnknown)
    }
}

/// Marks the steps after an operation's first write. Dropped on the way, by an error or a panic, it
/// stops all writes: the next start settles the operation from its intent.
struct Steps<'a> {
    inner: &'a Inner,
    complete: bool,
}

impl Steps<'_> {
    fn complete(mut self) {
        self.complete = true;
    }
}

impl Drop for Steps<'_> {
    fn drop(&mut self) {
        if !self.complete {
            self.inner
                .committer
                .poison(&"a write was interrupted between two of its steps");
        }
    }
}

impl Inner {
    /// Opens the database and settles what a crash left. Returns how many writes that were. `catalog` is what
    /// the process has already, if it has.
    fn open(
        directory: &Arc<DataDirectory>,
        alarm: &Arc<Notify>,
        options: Options,
        catalog: Option<Catalog>,
        damage: OnDamage,
    ) -> Result<(Self, u64), OpenError> {
        let db = directory.open_database(options.cache_bytes)?;
        let recovering = |source| OpenError::Recovery {
            path: directory.display(),
            source,
        };
        let of_database = |error| OpenError::of_database(directory.path(), error);
        let counted = HighWater::look(&db, directory.path(), damage)?;
        let trees = Trees::open(&db).map_err(of_database)?;
        let mut high_water = HighWater::new(trees.meta.clone(), directory.path(), counted);
        directory::make_durable(&db, &mut high_water, directory)?;
        directory.look_for_space(options.reserve_bytes);
        let marked = Arc::clone(directory);
        let head = audit::Head::read(&trees.audit, damage).map_err(recovering)?;
        audit::index_accounts(&trees, damage).map_err(recovering)?;
        let catalog = match catalog {
            Some(catalog) => catalog,
            None => Self::read_catalog(&trees, damage).map_err(recovering)?,
        };
        let usages = Arc::new(Usages::new(&trees, catalog.plans, KEPT_MAX));
        let committer = Committer::start(
            db.clone(),
            high_water,
            Arc::clone(&usages),
            Box::new(move || marked.mark_unsynced()),
            Arc::clone(alarm),
            options.on_hung_disk,
        )
        .map_err(|error| directory::failed(directory.path(), error))?;
        let outbox = outbox::Outbox::open(&trees, damage).map_err(recovering)?;
        let pages_bytes = options.cache_bytes / PAGES_PART;
        let pages_bytes = usize::try_from(pages_bytes).unwrap_or(usize::MAX);
        let inner = Self {
            committer,
            trees,
            db,
            locks: AccountLocks::new(),
            plans: catalog.plans,
            catalog,
            stats: stats::Cache::new(),
            usages,
            keys: Kept::new(KEPT_MAX, |_| true),
            names: Kept::new(KEPT_MAX, |_| true),
            newest: NewestPages::new(pages_bytes),
            audit: Mutex::new(head),
            erasing: Mutex::default(),
            totals: Totals::default(),
            outbox,
            waiting_writes: Semaphore::new(options.waiting_writes_max),
            checking: AtomicBool::new(false),
            reserve_bytes: AtomicU64::new(options.reserve_bytes),
            directory: Arc::clone(directory),
        };
        let settled = inner.recover(damage).map_err(recovering)?;
        Ok((inner, settled))
    }

    /// Writes what reads have debited, for whoever looks at the tree of usages itself.
    fn write_reads(&self) -> Result<(), StoreError> {
        if self.committer.is_poisoned() {
            return Ok(());
        }
        let written = self.usages.write_reads(usize::MAX);
        if let Err(StoreError::Database(error @ sled::Error::Io(_))) = &written {
            self.committer.poison(error);
        }
        written.map(drop)
    }

    /// Says whether anything may be written: the disk is not about to be full, and has not failed.
    fn takes_writes(&self) -> Result<(), StoreError> {
        let reserve = self.reserve_bytes.load(Ordering::Relaxed);
        if !self.directory.has_space(reserve) {
            return Err(StoreError::Full);
        }
        if self.committer.is_poisoned() || self.directory.is_gone() {
            return Err(StoreError::Unavailable);
        }
        Ok(())
    }

    /// Admits a write, or refuses it before anything is changed.
    fn admit(&self) -> Result<WriteTicket<'_>, StoreError> {
        self.takes_writes()?;
        let permit = self
            .waiting_writes
            .try_acquire()
            .map_err(|_| StoreError::Overloaded)?;
        Ok(WriteTicket {
            inner: self,
            _permit: permit,
        })
    }

    /// Forgets what is kept of records: a repair writes the trees themselves.
    fn forget_kept(&self) {
        self.usages.forget_all();
        self.keys.forget_all();
        self.names.forget_all();
    }

    fn steps(&self) -> Steps<'_> {
        // So that there is a flush soon, for the watchdog to see, also if a step never returns.
        self.committer.mark_dirty();
        Steps {
            inner: self,
            complete: false,
        }
    }

    /// Runs a step that meets others in a compare-and-swap: beside them first, alone if it lost too
    /// many races.
    async fn run_shared<T, E: std::error::Error>(
        &self,
        account: AccountKey,
        mut step: impl FnMut() -> Result<T, SwapError<E>>,
    ) -> Result<T, OpError<E>> {
        let shared = self.locks.shared(account).await;
        let outcome = step();
        drop(shared);
        if matches!(outcome, Err(SwapError::Contended)) {
            return self.run_alone(account, step).await;
        }
        self.ended(outcome)
    }

    /// Runs a step while nobody else touches the account.
    async fn run_alone<T, E: std::error::Error>(
        &self,
        account: AccountKey,
        step: impl FnOnce() -> Result<T, SwapError<E>>,
    ) -> Result<T, OpError<E>> {
        let alone = self.locks.alone(account).await;
        let outcome = step();
        drop(alone);
        self.ended(outcome)
    }

    fn ended<T, E: std::error::Error>(
        &self,
        outcome: Result<T, SwapError<E>>,
    ) -> Result<T, OpError<E>> {
        outcome.map_err(|error| match error {
            SwapError::Refused(refusal) => OpError::Refused(refusal),
            SwapError::Contended => OpError::Store(StoreError::Overloaded),
            SwapError::Failed(error) if self.committer.is_poisoned() => {
                log::error!("a write failed: {error}");
                OpError::Store(StoreError::OutcomeUnknown)
            }
            SwapError::Failed(error) => OpError::Store(error),
        })
    }

    /// Runs a [`swap::swap`]; a failed write stops all writes.
    fn swap<T, E>(
        &self,
        tree: &sled::Tree,
        key: &[u8],
        step: impl FnMut(Option<&[u8]>) -> Result<(Option<Vec<u8>>, T), SwapError<E>>,
    ) -> Result<T, SwapError<E>> {
        self.stop_if_failed(swap::swap(tree, key, step))
    }

    /// Stops all writes if this one has failed.
    fn stop_if_failed<T, E>(&self, outcome: Result<T, SwapError<E>>) -> Result<T, SwapError<E>> {
        if let Err(SwapError::Failed(StoreError::Database(error @ sled::Error::Io(_)))) = &outcome {
            self.committer.poison(error);
        }
        outcome
    }
}
