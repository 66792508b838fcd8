//! A whole data directory written at once: for the import, which is the only one to do so.
//!
//! All or nothing. Order: `import.tmp` (from here on a start refuses the directory), the database under
//! `import.tmp/db`, flushed, closed and synced; its rename to `db`; the fingerprint in `IMPORTED`;
//! `FORMAT`, which makes the directory one; `import.tmp` away. A crash before `FORMAT` leaves the mark
//! without `FORMAT`: the next import clears what is there and begins anew. A crash after it leaves an
//! empty mark beside a complete directory, which harms nobody.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::domain::account::AccountKey;
use crate::domain::key::{KeyHash, KeyId};
use crate::domain::memory::{MemoryId, NewMemory, Stamp};
use crate::domain::time::Timestamp;
use crate::domain::usage::{KeyNo, Share, Usage};

use super::codec::encode;
use super::directory::{
    Contents, DataDirectory, IMPORT_MARK, IMPORTED_FILE, failed, sync_directory, sync_files_in,
};
use super::error::{OpenError, StoreError};
use super::keys::name_key;
use super::memories::{head_facets, write_memory};
use super::schema::{AccountRecord, ActiveKey, KeyRecord, MemoryHead, Revoked, Trees};
use super::stats::{Counts, write_snapshot};

/// Bytes of the page cache while a directory is written.
const CACHE_BYTES: u64 = 64 << 20;

/// What an import finds where it shall write.
#[derive(Debug)]
pub enum Target {
    /// A directory that this very import made, whatever was done with it since.
    Imported,
    /// Nothing, or what an import that was interrupted left.
    New(NewTarget),
}

/// A place for a new data directory. Nothing is written there before [`NewTarget::start`].
#[derive(Debug)]
pub struct NewTarget {
    path: PathBuf,
    /// `None` if the directory does not exist.
    held: Option<DataDirectory>,
    unfinished: bool,
}

/// Why nothing can be imported into a directory. Each is one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// It cannot be used at all: locked, somebody else's, of a newer format, not writable.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It holds data that another import, or a server, has made.
    #[error(
        "the data directory {0} is one already, made by a server or by another import; name an empty or a new \
         one with --data-dir, or remove it if a server has only just made it and nothing is in it"
    )]
    HoldsData(String),
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
    trees: Trees,
    db: sled::Db,
    put: HashMap<AccountKey, Put>,
    place: Place,
}

/// A data directory whose database is complete and on the disk, but which is not marked as one yet.
/// Dropped before [`Built::finish`], it is cleared away.
#[derive(Debug)]
pub struct Built {
    place: Place,
}

/// The directory while it is no data directory yet; clears it when it is dropped too early.
#[derive(Debug)]
struct Place {
    directory: DataDirectory,
    complete: bool,
}

/// Looks at what is in the way of an import with this fingerprint. Makes no directory.
///
/// # Errors
///
/// [`TargetError`]; nothing was changed then.
pub fn target(path: &Path, fingerprint: &[u8; 32]) -> Result<Target, TargetError> {
    let absent = NewTarget {
        path: path.to_owned(),
        held: None,
        unfinished: false,
    };
    if !path.try_exists().map_err(|error| failed(path, error))? {
        return Ok(Target::New(absent));
    }
    let (directory, contents) = DataDirectory::take(path)?;
    match contents {
        Contents::Nothing | Contents::UnfinishedImport => Ok(Target::New(NewTarget {
            held: Some(directory),
            unfinished: contents == Contents::UnfinishedImport,
            ..absent
        })),
        Contents::Data => {
            let made_by = match fs::read_to_string(path.join(IMPORTED_FILE)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
                text => text.map_err(|error| failed(path, error))?,
            };
            if made_by.trim() == hex(fingerprint) {
                Ok(Target::Imported)
            } else {
                Err(TargetError::HoldsData(directory.display()))
            }
        }
    }
}

impl NewTarget {
    /// Says whether an import into the directory was interrupted.
    #[must_use]
    pub const fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// Begins to write: marks the directory, clears what an interrupted import left.
    ///
    /// # Errors
    ///
    /// [`TargetError`], also if somebody else was faster; what is there stays then.
    pub fn start(self) -> Result<Bulk, TargetError> {
        let directory = match self.held {
            Some(directory) => directory,
            None => match DataDirectory::take(&self.path)? {
                (directory, Contents::Nothing) => directory,
                (directory, Contents::Data | Contents::UnfinishedImport) => {
                    return Err(TargetError::HoldsData(directory.display()));
                }
            },
        };
        let mark = directory.path().join(IMPORT_MARK);
        let begun = fs::create_dir_all(&mark).and_then(|()| sync_directory(directory.path()));
        begun.map_err(|error| failed(directory.path(), error))?;
        let place = Place {
            directory,
            complete: false,
        };
        place.clear().map_err(|error| place.failed(error))?;
        let db = place
            .directory
            .open_database_in(&place.database(), CACHE_BYTES)?;
        let trees = Trees::open(&db).map_err(|error| place.failed(io::Error::other(error)))?;
        Ok(Bulk {
            trees,
            db,
            put: HashMap::new(),
            place,
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
        write_memory(&self.trees, new.account, id, head)
    }

    /// Puts an account, once all its memories are put: counts what it holds, saves its aggregates.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written.
    pub fn put_account(&mut self, new: BulkAccount) -> Result<(), StoreError> {
        let account = new.account;
        let put = self.put.remove(&account).unwrap_or_default();
        let held_by = |no: KeyNo| put.by_key.get(&no).copied().unwrap_or(0);
        let mut usage = new.usage;
        usage.held = put.held;
        usage.newest = put.newest;
        usage.next_op = put.held.saturating_add(1);
        for share in &mut usage.shares {
            share.held = held_by(share.key_no);
        }
        if put.held > 0 {
            usage.stats_due =
                write_snapshot(&self.trees, account, &put.counts, put.newest, put.held)?;
        }
        let mut active = Vec::new();
        for key in new.keys {
            if key.revoked.is_none() {
                active.push(ActiveKey {
                    no: key.no,
                    hash: key.hash,
                });
            }
            let held = held_by(key.no);
            self.put_key(account, key, &usage, held)?;
        }
        self.trees.usage.insert(account.0, encode(&usage)?)?;
        if let Some(name) = &new.name {
            self.trees.names.insert(name.as_str(), encode(&account)?)?;
        }
        let record = AccountRecord {
            name: new.name,
            created_at: new.created_at,
            active,
        };
        self.trees.users.insert(account.0, encode(&record)?)?;
        Ok(())
    }

    fn put_key(
        &self,
        account: AccountKey,
        key: BulkKey,
        usage: &Usage,
        held: u64,
    ) -> Result<(), StoreError> {
        let revoked = key.revoked.map(|revoked| Revoked {
            at: revoked.at,
            by: revoked.by,
            cycle: usage.cycle,
            share: Share {
                held,
                ..revoked.share
            },
            last_op: usage.next_op.saturating_sub(1),
        });
        let record = KeyRecord {
            account,
            no: key.no,
            id: key.id,
            masked: key.masked,
            description: key.description,
            created_at: key.created_at,
            created_by: key.created_by,
            revoked,
        };
        self.trees.keys.insert(key.hash.0, encode(&record)?)?;
        name_key(&self.trees, &key.hash, &record)
    }

    /// Closes the database, makes it durable and moves it to its place.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; everything is cleared away then.
    pub fn build(self) -> Result<Built, OpenError> {
        let Self {
            trees, db, place, ..
        } = self;
        db.flush()
            .map_err(|error| place.failed(io::Error::other(error)))?;
        drop(trees);
        drop(db);
        let moved = || -> io::Result<()> {
            // With `fsync` on every file: it does not matter here what sled's flush is.
            sync_files_in(&place.database())?;
            fs::rename(place.database(), place.directory.database_path())?;
            sync_directory(&place.mark())?;
            sync_directory(place.directory.path())
        };
        moved().map_err(|error| place.failed(error))?;
        Ok(Built { place })
    }
}

impl Built {
    /// Notes which import made the directory and marks it as complete: the last step.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the directory is left unfinished then, for the next import to clear.
    pub fn finish(mut self, fingerprint: &[u8; 32]) -> Result<(), OpenError> {
        let place = &self.place;
        let noted = || -> io::Result<()> {
            let mut file = File::create(place.directory.path().join(IMPORTED_FILE))?;
            writeln!(file, "{}", hex(fingerprint))?;
            file.sync_all()?;
            sync_directory(place.directory.path())
        };
        noted().map_err(|error| place.failed(error))?;
        // From here on nothing is cleared away: after a failure the format may be on the disk or not.
        self.place.complete = true;
        self.place.directory.write_format()?;
        if let Err(error) = fs::remove_dir(self.place.mark()) {
            log::warn!("the empty folder {IMPORT_MARK} could not be removed: {error}");
        }
        Ok(())
    }
}

impl Place {
    fn mark(&self) -> PathBuf {
        self.directory.path().join(IMPORT_MARK)
    }

    /// Where the database is written.
    fn database(&self) -> PathBuf {
        self.mark().join("db")
    }

    fn failed(&self, error: io::Error) -> OpenError {
        failed(self.directory.path(), error)
    }

    /// Removes whatever an import has written, but the mark.
    fn clear(&self) -> io::Result<()> {
        let gone = |outcome: io::Result<()>| match outcome {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        };
        gone(fs::remove_dir_all(self.directory.database_path()))?;
        gone(fs::remove_dir_all(self.database()))?;
        gone(fs::remove_file(self.directory.path().join(IMPORTED_FILE)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.complete {
            return;
        }
        // The mark last: while it is there, nobody takes what is left for a data directory.
        let cleared = self.clear().and_then(|()| fs::remove_dir(self.mark()));
        if let Err(error) = cleared {
            log::warn!("what the import wrote could not be cleared away: {error}");
        }
    }
}

fn hex(bytes: &[u8; 32]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(64), |mut text, b| {
        // Writing to a string does not fail.
        let _ = write!(text, "{b:02x}");
        text
    })
}
