//! A new data directory from a backup: nothing is written before the whole file was proved.
//!
//! How the directory is written all or nothing is in `place.rs`. What a backup leaves out is derived:
//! names and numbers of keys, which of them end when, which accounts are not let in, the times of recorded
//! answers, and a snapshot of the aggregates.

use std::ops::ControlFlow;
use std::path::Path;

use crate::domain::account::AccountKey;
use crate::domain::event::{Cause, EventKind};
use crate::domain::key::KeyHash;
use crate::domain::time::Timestamp;
use crate::domain::usage::Usage;

use super::archive::{Archive, ArchiveError, BackupContents, ReadError};
use super::audit::record_in;
use super::backup::BackupProgress;
use super::codec::{encode, versioned};
use super::directory::{Contents, Making, inspect};
use super::error::{OpenError, StoreError};
use super::keys::name_key;
use super::place::{Found, Site, TargetError, look};
use super::schema::{KeyRecord, Standing, Trees, expiry_key, replay_time_key};
use super::sequence::{Kind, Placed};
use super::stats::{Counts, WRITES_MIN, write_snapshot};

/// Records between two reports of how far it is.
const REPORT_RECORDS: u64 = 1_000;

/// Why nothing was restored. Each is one line for the operator; the directory is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file is no backup, or not as it was written.
    #[error("{0}; nothing was restored")]
    File(#[from] ArchiveError),
    /// The directory cannot be written to, or is not empty.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The new database failed.
    #[error("the new database cannot be written: {0}; nothing was restored")]
    Store(#[from] StoreError),
    /// Two accounts have the same name or key: no server has written that.
    #[error("{0} is in the backup twice; nothing was restored")]
    Twice(&'static str),
    /// The caller wanted no more of it.
    #[error("the restore was stopped; nothing was restored")]
    Stopped,
}

impl From<OpenError> for RestoreError {
    fn from(error: OpenError) -> Self {
        Self::Target(error.into())
    }
}

/// What was restored.
#[derive(Clone, Copy, Debug)]
pub struct Restored {
    /// When the backup was taken.
    pub backed_up_at: Timestamp,
    /// What was in it.
    pub contents: BackupContents,
}

/// What a restore is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreStep {
    /// The file is read and proved.
    Verifying,
    /// The database is written.
    Writing,
}

/// Makes a data directory of a backup. `directory` is empty or absent, or holds what an interrupted
/// restore left. `now` is the time of the row that the audit log gets. `progress` is asked for each step's; it is told records.
///
/// # Errors
///
/// [`RestoreError`]
pub fn restore(
    file: &Path,
    directory: &Path,
    now: Timestamp,
    progress: &mut dyn FnMut(RestoreStep, u64, u64) -> ControlFlow<()>,
) -> Result<Restored, RestoreError> {
    let mut archive = Archive::open(file)?;
    // Before the long look at the file, and without a trace in the directory.
    match inspect(directory)? {
        Contents::Nothing | Contents::Unfinished(Making::Restore) => {}
        Contents::Unfinished(other) => {
            return Err(OpenError::of_unfinished(other, directory.display().to_string()).into());
        }
        Contents::Data => {
            let display = directory.display().to_string();
            return Err(Making::Restore.refusal(display).into());
        }
    }
    let mut verifying = |done, all| progress(RestoreStep::Verifying, done, all);
    let mut told = Told::new(&archive, &mut verifying);
    read(&mut archive, |_, _, _, _| told.one())?;
    let target = match look(directory, Making::Restore)? {
        Found::New(target) => target,
        Found::Data(directory) => {
            return Err(Making::Restore.refusal(directory.display()).into());
        }
    };
    let mut writing = |done, all| progress(RestoreStep::Writing, done, all);
    let mut told = Told::new(&archive, &mut writing);
    let mut restoring = Restoring {
        site: target.open_site()?,
        account: None,
    };
    // Proved once more: it may have been changed since.
    read(&mut archive, |kind, key, value, placed| {
        restoring.put(kind, key, value, placed)?;
        told.one()
    })?;
    restoring.finish_account()?;
    let made_at = archive.at();
    let kind = EventKind::Restored { made_at };
    record_in(&restoring.site.trees, now, Cause::operator(), kind)?;
    restoring.site.build()?.complete()?;
    Ok(Restored {
        backed_up_at: archive.at(),
        contents: archive.contents(),
    })
}

fn read(
    archive: &mut Archive,
    visit: impl FnMut(Kind, &[u8], &[u8], Placed<'_>) -> Result<(), RestoreError>,
) -> Result<(), RestoreError> {
    archive.read(visit).map_err(|error| match error {
        ReadError::Archive(error) => error.into(),
        ReadError::Visitor(error) => error,
    })
}

/// How far a step is, told now and then.
struct Told<'p> {
    done: u64,
    all: u64,
    progress: BackupProgress<'p>,
}

impl<'p> Told<'p> {
    fn new(archive: &Archive, progress: BackupProgress<'p>) -> Self {
        Self {
            done: 0,
            all: archive.contents().records,
            progress,
        }
    }

    fn one(&mut self) -> Result<(), RestoreError> {
        self.done = self.done.saturating_add(1);
        if self.done.is_multiple_of(REPORT_RECORDS) || self.done == self.all {
            return match (self.progress)(self.done, self.all) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(RestoreError::Stopped),
            };
        }
        Ok(())
    }
}

/// The account whose records are being written.
struct Account {
    key: AccountKey,
    usage: Option<Usage>,
    counts: Counts,
}

/// A directory under way. Dropped, it is cleared away.
struct Restoring {
    site: Site,
    account: Option<Account>,
}

impl Restoring {
    fn put(
        &mut self,
        kind: Kind,
        key: &[u8],
        value: &[u8],
        placed: Placed<'_>,
    ) -> Result<(), RestoreError> {
        let trees = &self.site.trees;
        match placed {
            Placed::Account(account, record) => {
                if let Some(name) = &record.name {
                    let name_of = encode(&account)?;
                    let earlier = trees.names.insert(name.as_str(), name_of);
                    once("a name", earlier)?;
                }
                if record.standing != Standing::Good {
                    insert(&trees.barred, &account.0, &[])?;
                }
                insert(&trees.users, key, value)?;
                self.finish_account()?;
                self.account = Some(Account {
                    key: account,
                    usage: None,
                    counts: Counts::default(),
                });
            }
            Placed::Usage(usage) => {
                // Written with the account's end: it says when the aggregates are due.
                if let Some(account) = &mut self.account {
                    account.usage = Some(usage);
                }
            }
            Placed::Key(record) => put_key(trees, key, value, &record)?,
            Placed::Memory(head) => {
                if let Some(account) = &mut self.account {
                    account.counts.count(&head.facets());
                }
                insert(&trees.memories, key, value)?;
            }
            Placed::Replay(record) => {
                if let Ok(key) = key.try_into() {
                    let time = replay_time_key(record.recorded_at, key);
                    insert(&trees.replay_times, &time, &versioned(&[]))?;
                }
                insert(&trees.replays, key, value)?;
            }
            Placed::Ledger => insert(&trees.ledger, key, value)?,
            Placed::ErasedLedger => insert(&trees.erased_ledger, key, value)?,
            Placed::Audit => insert(&trees.audit, key, value)?,
            Placed::Plan => insert(&trees.plans, key, value)?,
            Placed::Piece => {
                debug_assert_eq!(kind, Kind::Piece, "nothing else is a piece");
                insert(&trees.pieces, key, value)?;
            }
        }
        Ok(())
    }

    /// Writes what is derived of an account, and its usage.
    fn finish_account(&mut self) -> Result<(), RestoreError> {
        let Some(account) = self.account.take() else {
            return Ok(());
        };
        let Some(mut usage) = account.usage else {
            return Ok(());
        };
        let trees = &self.site.trees;
        let op = usage.next_op.saturating_sub(1);
        usage.stats_due = if account.counts.total == 0 {
            usage.next_op.saturating_add(WRITES_MIN)
        } else {
            write_snapshot(trees, account.key, &account.counts, usage.newest, op)?
        };
        insert(&trees.usage, &account.key.0, &encode(&usage)?)
    }
}

fn put_key(
    trees: &Trees,
    hash: &[u8],
    value: &[u8],
    record: &KeyRecord,
) -> Result<(), RestoreError> {
    once("a key", trees.keys.insert(hash, value))?;
    let same_id = trees.key_ids.get(record.id.as_str());
    once("the id of a key", same_id)?;
    let hash = hash.try_into().map(KeyHash);
    let hash = hash.map_err(|_| StoreError::Corrupt("a key's hash is not 32 bytes".to_owned()))?;
    if let (Some(end), None) = (record.expires_at, &record.revoked) {
        let index = expiry_key(end, record.account, record.no);
        insert(&trees.key_expiries, &index, &[])?;
    }
    Ok(name_key(trees, &hash, record)?)
}

fn insert(tree: &sled::Tree, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
    tree.insert(key, value).map_err(StoreError::from)?;
    Ok(())
}

/// Refuses what was there before.
fn once<T>(what: &'static str, earlier: sled::Result<Option<T>>) -> Result<(), RestoreError> {
    match earlier.map_err(StoreError::from)? {
        None => Ok(()),
        Some(_) => Err(RestoreError::Twice(what)),
    }
}
