//! Gives the space of what was deleted back, and with it the last of its bytes: a new database with every
//! record there is takes the old one's place.
//!
//! sled keeps what was overwritten or deleted in its log until it happens to use the segment again, and gives
//! no space back. So every record of every tree is copied into a database under `compact.tmp`, which is
//! closed, opened again and compared with the old one record by record. Then the old one goes.
//!
//! Order: `compact.tmp/db` written, compared, counted beyond the high-water mark, flushed, closed, synced ·
//! the old `db` renamed to `compact.tmp/old` · `compact.tmp/db` renamed to `db` · `HIGH_WATER` ·
//! `compact.tmp` away. A crash before the first rename leaves the old database in its place, a crash between the
//! two renames leaves none there, and a crash behind the second the new one. [`settle`], which every open
//! calls, throws the new one away, finishes the rename, or throws the old one away.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::backup_file;
use super::directory::{
    BACKUPS_FOLDER, DATABASE, DataDirectory, failed, holds_data, sync_directory, sync_files_in,
};
use super::error::{OpenError, StoreError};
use super::high_water::{self, HighWater, Mark};
use super::{Options, Store};

/// The folder that is there while a compaction is under way.
const FOLDER: &str = "compact.tmp";
/// The old database, in that folder, once it has made room.
const OLD: &str = "old";
/// Records between two reports of how far it is.
const REPORT_RECORDS: u64 = 1_000;
/// Bytes that sled takes for each byte of keys and values that are put in their order (3.2 measured).
const BYTES_A_BYTE: u64 = 4;
/// Bytes that an empty database takes, and its snapshot.
const BYTES_AT_LEAST: u64 = 8 << 20;
/// What commands and failed writes can leave in a data directory, whole or in part.
const LEFT_OVERS: [&str; 5] = [
    "import.tmp",
    "restore.tmp",
    "write.tmp",
    "FORMAT.tmp",
    "HIGH_WATER.tmp",
];

/// What a compaction is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompactStep {
    /// The old database is read, to see what the new one will take.
    Measuring,
    /// The new database is written.
    Writing,
    /// The new database was closed and opened again, and is held against the old one.
    Comparing,
    /// The new database is complete and synced; the old one is still in its place.
    Replacing,
    /// The old database was moved away; no database is in the place.
    Moving,
    /// The new database is in its place; the old one is still there.
    Removing,
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Records of all trees.
    pub records: u64,
    /// Bytes of the database's files before.
    pub before_bytes: u64,
    /// And after.
    pub after_bytes: u64,
    /// Backups in the data directory, which hold what they held.
    pub backups: u64,
}

/// Why nothing was compacted. Each is one line for the operator; the data is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// There is nothing to compact.
    #[error("there is no data in {0}")]
    NoData(String),
    /// The directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The new database may not fit beside the old one.
    #[error(
        "the new database may take {needs} bytes beside the old one and {free} are free on the disk of {path}; \
         nothing was changed: make room, or `memoryos backup` to another disk and `memoryos restore` from it"
    )]
    Full {
        /// The directory.
        path: String,
        /// Bytes needed, and those that stay free.
        needs: u64,
        /// Bytes free.
        free: u64,
    },
    /// A database cannot be read or written.
    #[error("{0}; nothing was changed")]
    Store(#[from] StoreError),
    /// The new database does not hold what the old one does.
    #[error(
        "the new database differs from the old one in the tree {0}; nothing was changed: is the disk failing?"
    )]
    Differs(String),
    /// The caller wanted no more of it.
    #[error("the compaction was stopped; nothing was changed")]
    Stopped,
}

impl From<sled::Error> for CompactError {
    fn from(error: sled::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Is told the step, and how many of how many records are done in it, and says whether to go on. From
/// [`CompactStep::Replacing`] on it is only told.
pub type CompactProgress<'a> = &'a mut dyn FnMut(CompactStep, u64, u64) -> ControlFlow<()>;

/// Compacts the data of a stopped server, after it has settled what a crash left, as a start does.
///
/// # Errors
///
/// [`CompactError`]; the old database is in its place then, or the next open puts the new one there.
pub fn compact(
    path: &Path,
    options: Options,
    progress: CompactProgress<'_>,
) -> Result<Compacted, CompactError> {
    if !holds_data(path) {
        return Err(CompactError::NoData(path.display().to_string()));
    }
    let (store, _) = Store::open(path, options)?;
    // Holds the lock also while neither database is open.
    let directory = Arc::clone(&store.0.directory);
    let before_bytes = directory.database_bytes();
    let old = store.inner()?.db.clone();
    let mut work = Work {
        directory: &directory,
        options,
        progress,
        all: 0,
    };
    let needs = work.measure(&old)?;
    work.look_for_room(needs)?;
    let place = New::begin(&directory)?;
    let new = directory.open_database_in(&place.database(), options.cache_bytes)?;
    work.copy(&old, &new)?;
    new.flush()?;
    drop(new);
    let new = directory.open_database_in(&place.database(), options.cache_bytes)?;
    work.compare(&old, &new)?;
    drop(old);
    // The old one's last mark is written as it closes; the new one must have counted further.
    drop(store);
    let mark = count_beyond(&new, &directory)?;
    new.flush()?;
    drop(new);
    work.replace(place, &mark)?;
    let records = work.all;
    clear_left_overs(&directory);
    Ok(Compacted {
        records,
        before_bytes,
        after_bytes: directory.database_bytes(),
        backups: count_files(&directory.path().join(BACKUPS_FOLDER)),
    })
}

/// Brings a compaction that was interrupted to an end. Called with the directory's lock held, before its
/// database is opened.
pub(super) fn settle(directory: &Path) -> io::Result<()> {
    let folder = directory.join(FOLDER);
    if !folder.try_exists()? {
        return Ok(());
    }
    let database = directory.join(DATABASE);
    if !database.try_exists()? {
        let (old, new) = (folder.join(OLD), folder.join(DATABASE));
        if !old.try_exists()? {
            // No compaction leaves that: what has become of the database is for the open to say.
            return Ok(());
        }
        // The old one has made room, so the new one was complete and on the disk.
        let found = if new.try_exists()? { new } else { old };
        log::warn!("finishing a compaction that was interrupted");
        fs::rename(found, &database)?;
        sync_directory(&folder)?;
        sync_directory(directory)?;
    }
    // Whichever is in the place is complete; the other one is not wanted. Should it stay, nobody reads it.
    if let Err(error) = remove(&folder).and_then(|()| sync_directory(directory)) {
        log::warn!("{FOLDER}, left by a compaction, could not be removed: {error}");
    }
    Ok(())
}

/// A compaction under way.
struct Work<'a, 'p> {
    directory: &'a DataDirectory,
    options: Options,
    progress: CompactProgress<'p>,
    all: u64,
}

impl Work<'_, '_> {
    fn tell(&mut self, step: CompactStep, done: u64) -> Result<(), CompactError> {
        match (self.progress)(step, done, self.all.max(done)) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(CompactError::Stopped),
        }
    }

    fn tell_at_times(&mut self, step: CompactStep, done: u64) -> Result<(), CompactError> {
        if done.is_multiple_of(REPORT_RECORDS) {
            self.tell(step, done)?;
        }
        Ok(())
    }

    /// Counts the records. Returns how many bytes the new database may take.
    fn measure(&mut self, old: &sled::Db) -> Result<u64, CompactError> {
        let (mut records, mut bytes) = (0u64, 0u64);
        for name in old.tree_names() {
            for entry in &old.open_tree(&name)? {
                let (key, value) = entry?;
                let length = key.len().saturating_add(value.len());
                bytes = bytes.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
                records = records.saturating_add(1);
                self.tell_at_times(CompactStep::Measuring, records)?;
            }
        }
        self.all = records;
        self.tell(CompactStep::Measuring, records)?;
        let needs = bytes.saturating_mul(BYTES_A_BYTE);
        Ok(needs.saturating_add(BYTES_AT_LEAST))
    }

    /// Refuses to begin what may not fit; and, with no bytes, to go on when others have filled the disk.
    fn look_for_room(&self, bytes: u64) -> Result<(), CompactError> {
        let needs = bytes.saturating_add(self.options.reserve_bytes);
        match self.directory.free_bytes() {
            Some(free) if free <= needs => Err(CompactError::Full {
                path: self.directory.display(),
                needs,
                free,
            }),
            _ => Ok(()),
        }
    }

    fn copy(&mut self, old: &sled::Db, new: &sled::Db) -> Result<(), CompactError> {
        let mut records = 0u64;
        self.tell(CompactStep::Writing, records)?;
        for name in old.tree_names() {
            let (from, to) = (old.open_tree(&name)?, new.open_tree(&name)?);
            for entry in &from {
                let (key, value) = entry?;
                to.insert(key, value)?;
                records = records.saturating_add(1);
                if records.is_multiple_of(REPORT_RECORDS) {
                    self.look_for_room(0)?;
                    self.tell(CompactStep::Writing, records)?;
                }
            }
        }
        self.tell(CompactStep::Writing, records)
    }

    /// Holds the databases against each other, both ways.
    fn compare(&mut self, old: &sled::Db, new: &sled::Db) -> Result<(), CompactError> {
        let names = |db: &sled::Db| {
            let mut names = db.tree_names();
            names.sort();
            names
        };
        let differs = |name: &[u8]| {
            let name = String::from_utf8_lossy(name).into_owned();
            Err(CompactError::Differs(name))
        };
        if names(old) != names(new) {
            return differs(b"list of trees");
        }
        let mut records = 0u64;
        self.tell(CompactStep::Comparing, records)?;
        for name in names(old) {
            let (mut of_old, mut of_new) =
                (old.open_tree(&name)?.iter(), new.open_tree(&name)?.iter());
            loop {
                match (of_old.next().transpose()?, of_new.next().transpose()?) {
                    (None, None) => break,
                    (one, other) if one == other => {}
                    _ => return differs(&name),
                }
                records = records.saturating_add(1);
                self.tell_at_times(CompactStep::Comparing, records)?;
            }
        }
        self.tell(CompactStep::Comparing, records)
    }

    /// Puts the new database, which is closed, in the old one's place.
    fn replace(&mut self, mut place: New, mark: &Mark) -> Result<(), CompactError> {
        let all = self.all;
        let mut told = |step, done| {
            // Too late to stop.
            let _ = (self.progress)(step, done, all);
        };
        let (directory, database) = (place.directory.clone(), self.directory.database_path());
        let failed = |error| OpenError::Directory {
            path: directory.display().to_string(),
            source: error,
        };
        let synced = || -> io::Result<()> {
            sync_files_in(&place.database())?;
            sync_directory(&place.folder)?;
            sync_directory(&directory)
        };
        synced().map_err(failed)?;
        told(CompactStep::Replacing, 0);
        // From here on nothing is cleared away but by `settle`, which looks at what there is.
        place.moved = true;
        let moved = || -> io::Result<()> {
            fs::rename(&database, place.folder.join(OLD))?;
            sync_directory(&directory)?;
            sync_directory(&place.folder)
        };
        moved().map_err(failed)?;
        told(CompactStep::Moving, 0);
        let placed = || -> io::Result<()> {
            fs::rename(place.database(), &database)?;
            sync_directory(&place.folder)?;
            sync_directory(&directory)
        };
        placed().map_err(failed)?;
        mark.write();
        told(CompactStep::Removing, 0);
        let removed = remove(&place.folder).and_then(|()| sync_directory(&directory));
        removed.map_err(failed)?;
        told(CompactStep::Removing, all);
        Ok(())
    }
}

/// The folder of the new database. Dropped before the old one has made room, it is removed.
#[derive(Debug)]
struct New {
    directory: PathBuf,
    folder: PathBuf,
    moved: bool,
}

impl New {
    fn begin(directory: &DataDirectory) -> Result<Self, CompactError> {
        let new = Self {
            directory: directory.path().to_owned(),
            folder: directory.path().join(FOLDER),
            moved: false,
        };
        let begun = fs::create_dir(&new.folder).and_then(|()| sync_directory(&new.directory));
        begun.map_err(|error| failed(directory.path(), error))?;
        Ok(new)
    }

    fn database(&self) -> PathBuf {
        self.folder.join(DATABASE)
    }
}

impl Drop for New {
    fn drop(&mut self) {
        if self.moved {
            return;
        }
        if let Err(error) = remove(&self.folder) {
            log::warn!("{FOLDER} could not be removed: {error}");
        }
    }
}

/// Counts the new database further than the old one, which is closed, ever did.
fn count_beyond(new: &sled::Db, directory: &DataDirectory) -> Result<Mark, CompactError> {
    let copied = HighWater::count(new)?;
    let marked = high_water::read(directory.path()).unwrap_or(0);
    let meta = new.open_tree(high_water::TREE)?;
    let mut high_water = HighWater::new(meta, directory.path(), copied.max(marked));
    Ok(high_water.raise()?)
}

/// Removes what interrupted commands can have left, and with it whatever text is in it.
fn clear_left_overs(directory: &DataDirectory) {
    for name in LEFT_OVERS {
        if let Err(error) = remove(&directory.path().join(name)) {
            log::warn!("{name} could not be removed: {error}");
        }
    }
    match backup_file::sweep_all(&directory.path().join(BACKUPS_FOLDER)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!("unfinished backups could not be removed: {error}");
        }
        _ => {}
    }
}

/// Removes a file or a folder, if it is there.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

fn count_files(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.path().is_file()).count();
    u64::try_from(files).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
