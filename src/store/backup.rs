//! A backup of a store, while it is used: account by account, each as it was at one moment.
//!
//! An account's lock is held alone while its records are read, so every write of it is complete; only
//! its own requests wait, and those of the few accounts that share the lock: about 2 s for a million
//! memories. It is compressed and written on another thread, 32 MiB behind at most; nothing else is kept
//! in memory. What was read may not be on the disk yet: it is flushed before the footer is
//! written, so that a backup never holds what a crash can still undo. What the records are, and in
//! which order, is in `sequence.rs`; the file in `archive.rs` and `backup_file.rs`.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use crate::domain::account::AccountKey;
use crate::domain::key::KeyHash;
use crate::domain::time::Timestamp;
use crate::domain::usage::Usage;

use super::archive::{BackupContents, PutError, Writer};
use super::backup_file::BackupFile;
use super::codec::{decode, encode};
use super::pieces::Owner;
use super::schema::{PLANS_HEAD, op_key};
use super::sequence::Kind;
use super::{Inner, Ordering, Store, StoreError};

/// Records between two reports of how far it is, and two looks at whether it may go on.
const REPORT_RECORDS: u64 = 1_000;
/// Accounts that are looked up at a time.
const ACCOUNTS: usize = 1_000;

/// Is told how much is done and how much there is in all, and says whether to go on.
pub type BackupProgress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// A backup that was made.
#[derive(Clone, Copy, Debug)]
pub struct Backup {
    /// What is in it.
    pub contents: BackupContents,
    /// Bytes of the file.
    pub file_bytes: u64,
}

/// Why there is no backup. Each is one line; nothing was left behind.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Something has that name already.
    #[error("{0} exists already; name a new file, or move this one away")]
    Exists(String),
    /// The file cannot be written.
    #[error("cannot write {path}: {source}; no backup was made")]
    File {
        /// The file.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The disk has no more space than the store keeps free.
    #[error("cannot write {0}: too little space is left on its disk; no backup was made")]
    Full(String),
    /// The store failed, or stopped its writes, before the end.
    #[error("no backup was made: {0}")]
    Store(#[from] StoreError),
    /// The caller wanted no more of it.
    #[error("the backup was stopped; none was made")]
    Stopped,
}

impl Store {
    /// Writes a backup of all accounts to a new file, as of `now`. Blocks for as long as that takes.
    ///
    /// Whatever else goes on, but an account's own debits and writes while it is read. It holds every write
    /// that was acknowledged before it began, each account as it was at one moment between its beginning and its end, and
    /// nothing that a crash can undo.
    ///
    /// # Errors
    ///
    /// [`BackupError`]; the file is not there then.
    pub fn back_up(
        &self,
        file: &Path,
        now: Timestamp,
        progress: BackupProgress<'_>,
    ) -> Result<Backup, BackupError> {
        let display = file.display().to_string();
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                BackupError::Full(display.clone())
            }
            io::ErrorKind::AlreadyExists => BackupError::Exists(display.clone()),
            _ => BackupError::File {
                path: display.clone(),
                source,
            },
        };
        let ended = |error| match error {
            End::Put(PutError::File(error)) => failed(error),
            End::Put(PutError::Record(error)) => BackupError::Store(error),
            End::Stopped => BackupError::Stopped,
        };
        if file.try_exists().map_err(failed)? {
            return Err(BackupError::Exists(display));
        }
        let inner = self.inner()?;
        let folder = file.parent().and_then(|folder| folder.canonicalize().ok());
        let database = inner.directory.database_path().canonicalize();
        if let (Some(folder), Ok(database)) = (folder, database)
            && folder.starts_with(database)
        {
            let why = "that folder is the database's own; name another one";
            return Err(failed(io::Error::other(why)));
        }
        let reserve = inner.reserve_bytes.load(Ordering::Relaxed);
        let out = BackupFile::create(file, reserve).map_err(failed)?;
        let mut reading = Reading {
            inner: &inner,
            out: Writer::start(out, now).map_err(failed)?,
            progress,
            records: 0,
            memories: 0,
        };
        reading.plans().map_err(ended)?;
        reading.accounts(self).map_err(ended)?;
        let out = reading.out;
        // What was read is durable only now.
        inner
            .committer
            .flushed_blocking()
            .map_err(|_| StoreError::Unavailable)?;
        let (out, contents) = out.finish().map_err(|error| ended(End::Put(error)))?;
        let file_bytes = out.place().map_err(failed)?;
        Ok(Backup {
            contents,
            file_bytes,
        })
    }
}

/// Why reading ended early.
enum End {
    Put(PutError),
    Stopped,
}

impl<E: Into<PutError>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Put(error.into())
    }
}

impl From<sled::Error> for PutError {
    fn from(error: sled::Error) -> Self {
        Self::Record(error.into())
    }
}

/// A backup under way.
struct Reading<'a, 'p> {
    inner: &'a Inner,
    out: Writer<BackupFile>,
    progress: BackupProgress<'p>,
    records: u64,
    memories: u64,
}

impl Reading<'_, '_> {
    /// Reads the catalog, which nobody changes while the store is open for others.
    fn plans(&mut self) -> Result<(), End> {
        let tree = &self.inner.trees.plans;
        let Some(head) = tree.get(PLANS_HEAD)? else {
            return Ok(());
        };
        self.put(Kind::PlansHead, PLANS_HEAD, &head)?;
        let generation = self.inner.catalog.generation;
        for entry in tree.scan_prefix(generation.to_be_bytes()) {
            let (key, value) = entry?;
            self.put(Kind::Plan, &key, &value)?;
        }
        Ok(())
    }

    fn accounts(&mut self, store: &Store) -> Result<(), End> {
        let mut last = None;
        loop {
            let accounts = store.accounts_after(last, ACCOUNTS)?;
            for account in &accounts {
                let alone = self.inner.locks.alone_blocking(*account);
                let read = self.account(*account);
                drop(alone);
                read?;
            }
            last = accounts.last().copied();
            if accounts.len() < ACCOUNTS {
                self.erased()?;
                self.audit()?;
                return self.look();
            }
        }
    }

    /// Reads an account that nobody else touches.
    fn account(&mut self, account: AccountKey) -> Result<(), End> {
        let trees = &self.inner.trees;
        // An operation that broke off between two steps has stopped all writes before it gave up the lock.
        self.look()?;
        // What is in the log is in no record then: nothing is told twice after a restore.
        self.inner.hand_over(account)?;
        let Some(record) = trees.users.get(account.0)? else {
            return Ok(());
        };
        if let Some(intent) = trees.key_intents.scan_prefix(account.0).next() {
            intent?;
            return Err(under_way(account).into());
        }
        self.put(Kind::Account, &account.0, &record)?;
        let mut usage = self.inner.usage(account)?;
        self.settle(account, &mut usage)?;
        self.put(Kind::Usage, &account.0, &encode(&usage)?)?;
        for hash in trees.account_keys.scan_prefix(account.0).values() {
            let hash: KeyHash = decode(&hash?)?;
            let record = trees.keys.get(hash.0)?;
            let record = record.ok_or_else(|| gone(account, "a key"))?;
            self.put(Kind::Key, &hash.0, &record)?;
        }
        for entry in trees.memories.scan_prefix(account.0) {
            let (key, value) = entry?;
            self.put_long(account, Kind::Memory, &key, &value, Owner::memory)?;
            self.memories = self.memories.saturating_add(1);
        }
        for entry in trees.replays.scan_prefix(account.0) {
            let (key, value) = entry?;
            self.put_long(account, Kind::Replay, &key, &value, Owner::replay)?;
        }
        // Those that are still in the usage came with it.
        let gone = op_key(account, usage.ledger.gone());
        for entry in trees.ledger.range(op_key(account, 0)..=gone) {
            let (key, value) = entry?;
            self.put(Kind::Ledger, &key, &value)?;
        }
        Ok(())
    }

    /// Reads what is kept of the ledgers of erased accounts.
    fn erased(&mut self) -> Result<(), End> {
        for entry in &self.inner.trees.erased_ledger {
            let (key, value) = entry?;
            self.put(Kind::ErasedLedger, &key, &value)?;
        }
        Ok(())
    }

    /// Reads the audit log, as far as it has come now: it may tell of more than the accounts read before.
    fn audit(&mut self) -> Result<(), End> {
        let last = self.inner.audit_head().no;
        let rows = self.inner.trees.audit.range(..=last.to_be_bytes());
        for entry in rows {
            let (key, value) = entry?;
            self.put(Kind::Audit, &key, &value)?;
        }
        Ok(())
    }

    /// Leaves out of the usage what is no fact of the account: intents of complete writes, which its next
    /// write would drop, when its aggregates are due, which are not in a backup, and which rows of its
    /// ledger are being moved.
    fn settle(&self, account: AccountKey, usage: &mut Usage) -> Result<(), StoreError> {
        let locks = &self.inner.locks;
        if !usage.intents.iter().all(|i| locks.is_done(account, i.op)) {
            return Err(under_way(account));
        }
        usage.intents.clear();
        usage.stats_due = 0;
        usage.ledger.frozen = usage.ledger.gone();
        Ok(())
    }

    /// Writes a record and its pieces.
    fn put_long(
        &mut self,
        account: AccountKey,
        kind: Kind,
        key: &[u8],
        value: &[u8],
        owner: impl Fn([u8; 32]) -> Owner,
    ) -> Result<(), End> {
        let Some(pieces) = self.put(kind, key, value)? else {
            return Ok(());
        };
        let key = key
            .try_into()
            .map_err(|_| gone(account, "the key of a long value"))?;
        for number in 0..pieces.count {
            let piece = owner(key).piece(pieces.revision, number);
            let value = self.inner.trees.pieces.get(piece)?;
            let value = value.ok_or_else(|| gone(account, "a piece of a long value"))?;
            self.put(Kind::Piece, &piece, &value)?;
        }
        Ok(())
    }

    fn put(
        &mut self,
        kind: Kind,
        key: &[u8],
        value: &[u8],
    ) -> Result<Option<super::sequence::Pieces>, End> {
        let pieces = self.out.put(kind, key, value)?;
        self.records = self.records.saturating_add(1);
        if self.records.is_multiple_of(REPORT_RECORDS) {
            self.look()?;
        }
        Ok(pieces)
    }

    /// Tells how far it is, and ends the backup if it cannot become one or is not wanted any more.
    fn look(&mut self) -> Result<(), End> {
        if self.inner.committer.is_poisoned() {
            return Err(StoreError::Unavailable.into());
        }
        let all = self.inner.totals.memories.load(Ordering::Relaxed);
        match (self.progress)(self.memories, all.max(self.memories)) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(End::Stopped),
        }
    }
}

fn under_way(account: AccountKey) -> StoreError {
    let id = account.anonymous_id();
    StoreError::Corrupt(format!("a write of {id} is half done"))
}

fn gone(account: AccountKey, what: &str) -> StoreError {
    let id = account.anonymous_id();
    StoreError::Corrupt(format!(
        "{what} of {id} is gone; `memoryos check` lists what is damaged"
    ))
}

#[cfg(test)]
mod tests;
