//! The data directory: whose it is, which format it has, who uses it.
//!
//! ```text
//! data/FORMAT       "memoryos 1": written last when the directory is made
//! data/lock         locked while a process has the directory open
//! data/db/          sled's files
//! data/NEW          there from before FORMAT until the database of a first start is on the disk
//! data/HIGH_WATER   how far the database had counted when it was last flushed; see high_water.rs
//! data/import.tmp   there while an import is under way
//! data/restore.tmp  there while a restore is under way
//! data/compact.tmp  there while a compaction is under way; see compact.rs
//! data/IMPORTED     which import made the directory: the fingerprint of its files, in hex
//! data/backups/     the server's backups, unless the operator names another folder
//! data/UNSYNCED     there while what the files show may not be what the disk holds
//! ```

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::compact;
use super::error::OpenError;
use super::high_water::{self, HighWater, MARK_FILE, MARK_TEMPORARY};

/// The format of the data directory that this release writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

const FORMAT_FILE: &str = "FORMAT";
const LOCK_FILE: &str = "lock";
/// Longest wait for the lock.
const LOCK_WAIT: Duration = Duration::from_millis(500);
/// How often it is tried.
const LOCK_TICK: Duration = Duration::from_millis(5);
/// There while a directory may rightly have a format and no database yet.
const NEW_FILE: &str = "NEW";
/// How often, and after how long each time, a database that is still being closed is tried again.
const CLOSING_LOOKS: u32 = 500;
const CLOSING_TICK: Duration = Duration::from_millis(10);
pub(super) const DATABASE: &str = "db";
/// sled's log, in that folder.
const LOG_FILE: &str = "db";
/// The record that a start writes to prove the flush, that the high-water mark counts, and that `/health` reads.
pub(super) const PROBE: &str = "flush_probes";
/// The folder of a server's backups, unless another is named. It is no part of the data: a directory that
/// holds nothing else is an empty one.
pub const BACKUPS_FOLDER: &str = "backups";
/// Which import made the directory. A file and not a record: opening the database writes to it, and a
/// directory that an import refuses must stay as it is.
pub(super) const IMPORTED_FILE: &str = "IMPORTED";

/// There from a failed write until the files were written again; see [`DataDirectory::write_again`].
const UNSYNCED_FILE: &str = "UNSYNCED";
/// What is written to try whether a disk takes writes.
const TRIED_FILE: &str = "write.tmp";
const TRIED_BYTES: usize = 1 << 20;
/// How much of a file is written again at a time.
const AGAIN_BYTES: usize = 1 << 20;

/// What sort of file system a directory is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext2, ext3 or ext4.
    Ext,
    /// XFS.
    Xfs,
    /// Another, by its magic number; 0 if it does not say.
    Other(u64),
}

impl FileSystem {
    /// Says whether the store's durability was tested on it.
    #[must_use]
    pub const fn is_tested(self) -> bool {
        matches!(self, Self::Ext | Self::Xfs)
    }
}

impl std::fmt::Display for FileSystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ext => f.write_str("ext4"),
            Self::Xfs => f.write_str("xfs"),
            Self::Other(0x0102_1994) => f.write_str("tmpfs"),
            Self::Other(0x794c_7630) => f.write_str("overlayfs"),
            Self::Other(0x9123_683E) => f.write_str("btrfs"),
            Self::Other(0x6969) => f.write_str("nfs"),
            Self::Other(0x6573_5546) => f.write_str("fuse"),
            Self::Other(0x2FC1_2FC1) => f.write_str("zfs"),
            Self::Other(magic) => write!(f, "unknown ({magic:#x})"),
        }
    }
}

/// What a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contents {
    Nothing,
    Unfinished(Making),
    Data,
}

/// A command that makes a whole data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Making {
    Import,
    Restore,
}

impl Making {
    /// The folder that is there while the command is under way.
    pub(super) const fn mark(self) -> &'static str {
        match self {
            Self::Import => "import.tmp",
            Self::Restore => "restore.tmp",
        }
    }
}

/// How often the free space is looked at, in milliseconds; between two looks a disk takes less than the
/// default reserve.
const SPACE_LOOK_MS: u64 = 10;

/// The last look at the free space.
#[derive(Debug)]
struct Space {
    started: Instant,
    looked_ms: AtomicU64,
    enough: AtomicBool,
    gone: AtomicBool,
}

/// A data directory that this process has to itself.
#[derive(Debug)]
pub(super) struct DataDirectory {
    path: PathBuf,
    space: Space,
    /// Holds the lock until it is dropped.
    lock: File,
}

impl DataDirectory {
    /// Makes a directory that was taken ready to be opened: one that is none yet, and one whose compaction was
    /// interrupted. Says whether it is new.
    pub(super) fn make_ready(&self, contents: Contents) -> Result<bool, OpenError> {
        match contents {
            Contents::Unfinished(making) => Err(OpenError::of_unfinished(making, self.display())),
            Contents::Data => {
                compact::settle(&self.path).map_err(|error| failed(&self.path, error))?;
                Ok(false)
            }
            Contents::Nothing => {
                self.mark_new()?;
                self.write_format()?;
                Ok(true)
            }
        }
    }

    /// Takes the directory, whatever of ours it holds, and changes nothing in it but the lock.
    pub(super) fn take(path: &Path) -> Result<(Self, Contents), OpenError> {
        let failed = |source| failed(path, source);
        // Before anything is written: somebody else's directory stays as it is.
        inspect(path)?;
        fs::create_dir_all(path).map_err(failed)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK_FILE))
            .map_err(failed)?;
        lock_soon(&lock).map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::Locked(path.display().to_string()),
            TryLockError::Error(error) => failed(error),
        })?;
        // Again, now that nobody else can change it.
        let contents = inspect(path)?;
        Ok((
            Self {
                path: path.to_owned(),
                space: Space {
                    started: Instant::now(),
                    looked_ms: AtomicU64::new(0),
                    enough: AtomicBool::new(true),
                    gone: AtomicBool::new(false),
                },
                lock,
            },
            contents,
        ))
    }

    /// Opens the database, without the half-written snapshot that a kill during recovery leaves.
    /// Refuses a directory whose database is gone: an empty one in its place would be taken for the data.
    pub(super) fn open_database(&self, cache_bytes: u64) -> Result<sled::Db, OpenError> {
        let is_new = self.path.join(NEW_FILE).exists();
        if !is_new && !has_database(&self.database_path()).map_err(|e| failed(&self.path, e))? {
            return Err(OpenError::NoDatabase(self.display()));
        }
        self.open_database_in(&self.path.join(DATABASE), cache_bytes)
    }

    /// Opens a database in another folder of the directory.
    pub(super) fn open_database_in(
        &self,
        path: &Path,
        cache_bytes: u64,
    ) -> Result<sled::Db, OpenError> {
        remove_unfinished_snapshots(path).map_err(|error| failed(&self.path, error))?;
        // Every flush of the background thread collects garbage too: it stays on.
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes)
            .flush_every_ms(Some(500));
        let damaged = |reason: String| OpenError::Damaged {
            path: self.display(),
            reason,
        };
        // sled panics on some damage. Nothing of it is kept then.
        let open = || catch_unwind(AssertUnwindSafe(|| config.open()));
        let mut opened = open();
        for _ in 0..CLOSING_LOOKS {
            if !matches!(&opened, Ok(Err(sled::Error::Io(error))) if is_closing(error)) {
                break;
            }
            std::thread::sleep(CLOSING_TICK);
            opened = open();
        }
        match opened {
            Ok(Ok(db)) => Ok(db),
            Ok(Err(sled::Error::Io(error))) => Err(failed(&self.path, error)),
            Ok(Err(error)) => Err(damaged(error.to_string())),
            Err(_) => Err(damaged("its log is damaged".to_owned())),
        }
    }

    /// Notes, before there is a format, that the database is still to be made.
    fn mark_new(&self) -> Result<(), OpenError> {
        // A mark that is left was another database's.
        let marked = high_water::forget(&self.path)
            .and_then(|()| File::create(self.path.join(NEW_FILE)))
            .and_then(|file| file.sync_all())
            .and_then(|()| sync_directory(&self.path));
        marked.map_err(|error| failed(&self.path, error))
    }

    /// Notes that the database is made and on the disk: from now on it may not be missing.
    fn mark_made(&self) -> io::Result<()> {
        match fs::remove_file(self.path.join(NEW_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome.and_then(|()| sync_directory(&self.path)),
        }
    }

    /// Marks the directory as ours, of the current format. The last step of making one.
    pub(super) fn write_format(&self) -> Result<(), OpenError> {
        let write = || -> io::Result<()> {
            let temporary = self.path.join("FORMAT.tmp");
            let mut file = File::create(&temporary)?;
            writeln!(file, "memoryos {FORMAT}")?;
            file.sync_all()?;
            fs::rename(&temporary, self.path.join(FORMAT_FILE))?;
            sync_directory(&self.path)?;
            match self
                .path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
            {
                Some(parent) => sync_directory(parent),
                None => Ok(()),
            }
        };
        write().map_err(|error| failed(&self.path, error))
    }

    /// Makes the database's files and their names durable, once after they were made.
    fn sync_files(&self) -> io::Result<()> {
        sync_files_in(&self.path.join(DATABASE))?;
        sync_directory(&self.path)
    }

    /// Bytes of the database's files; 0 if they cannot be looked at.
    pub(super) fn database_bytes(&self) -> u64 {
        let entries = fs::read_dir(self.database_path()).into_iter().flatten();
        let sizes = entries.flatten().flat_map(|entry| entry.metadata());
        sizes.fold(0, |sum, file| sum.saturating_add(file.len()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn database_path(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    pub(super) fn display(&self) -> String {
        self.path.display().to_string()
    }

    pub(super) fn free_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.path).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Says whether there is more free space than `reserve_bytes`. Cheap: looks every 10 ms at most.
    pub(super) fn has_space(&self, reserve_bytes: u64) -> bool {
        let space = &self.space;
        let now = u64::try_from(space.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if now.saturating_sub(space.looked_ms.load(Ordering::Relaxed)) >= SPACE_LOOK_MS {
            space.looked_ms.store(now, Ordering::Relaxed);
            self.look_for_space(reserve_bytes);
        }
        space.enough.load(Ordering::Relaxed)
    }

    /// Says whether the directory was found removed, moved away or replaced when it was last looked at: what is
    /// written goes to files that nobody will find again.
    pub(super) fn is_gone(&self) -> bool {
        self.space.gone.load(Ordering::Relaxed)
    }

    fn look_for_itself(&self) {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let held = self.lock.metadata().map(identity);
        let found = fs::metadata(self.path.join(LOCK_FILE)).map(identity);
        let gone = !matches!((held, found), (Ok(held), Ok(found)) if held == found);
        if self.space.gone.swap(gone, Ordering::Relaxed) == gone {
            return;
        }
        let directory = self.display();
        if gone {
            log::error!("{directory} was removed or moved away: writes stop");
        } else {
            log::warn!("{directory} is there again: writes go on");
        }
    }

    /// Looks whether there is more free space than `reserve_bytes` now; 0 is always enough. And whether the
    /// directory is still there.
    pub(super) fn look_for_space(&self, reserve_bytes: u64) {
        self.look_for_itself();
        let is_enough = |free| free > reserve_bytes;
        let enough = reserve_bytes == 0 || self.free_bytes().is_none_or(is_enough);
        if self.space.enough.swap(enough, Ordering::Relaxed) == enough {
            return;
        }
        let directory = self.display();
        if enough {
            log::warn!("there is space again on the disk of {directory}: writes go on");
        } else {
            log::error!("the disk of {directory} is full: writes stop until it is not");
        }
    }

    /// Tries whether the disk takes writes, with a small file, and has more free space than `reserve_bytes`.
    pub(super) fn try_write(&self, reserve_bytes: u64) -> io::Result<()> {
        if self.free_bytes().is_some_and(|free| free <= reserve_bytes) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let path = self.path.join(TRIED_FILE);
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(&vec![0; TRIED_BYTES])?;
            file.sync_all()
        });
        let removed = fs::remove_file(&path);
        written.and(removed)
    }

    /// Remembers that the files need to be written again, as well as a disk that has failed can remember.
    pub(super) fn mark_unsynced(&self) {
        let marked = File::create(self.path.join(UNSYNCED_FILE))
            .and_then(|file| file.sync_all())
            .and_then(|()| sync_directory(&self.path));
        if let Err(error) = marked {
            log::warn!("{UNSYNCED_FILE} could not be written: {error}");
        }
    }

    pub(super) fn is_unsynced(&self) -> bool {
        self.path.join(UNSYNCED_FILE).exists()
    }

    pub(super) fn mark_synced(&self) -> Result<(), OpenError> {
        match fs::remove_file(self.path.join(UNSYNCED_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome.map_err(|error| failed(&self.path, error)),
        }
    }

    /// Writes each file of the closed database once more with what it shows, and syncs it: after a flush
    /// that failed, what is shown may be in memory only and is taken for written.
    pub(super) fn write_again(&self) -> Result<(), OpenError> {
        let folder = self.database_path();
        let write = || -> io::Result<()> {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.is_file() {
                    write_file_again(&path)?;
                }
            }
            sync_directory(&folder)
        };
        match write() {
            // Nothing was made yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome.map_err(|error| failed(&self.path, error)),
        }
    }

    pub(super) fn file_system(&self) -> FileSystem {
        let magic = rustix::fs::statfs(&self.path).map_or(0, |stat| stat.f_type);
        match u64::try_from(magic).unwrap_or(0) {
            0xEF53 => FileSystem::Ext,
            0x5846_5342 => FileSystem::Xfs,
            other => FileSystem::Other(other),
        }
    }
}

/// Says whether sled's log, or a snapshot of it, is in a folder: sled makes a new log where there is none.
fn has_database(path: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_snapshot = name.starts_with("snap.") && !name.ends_with(".generating");
        if is_snapshot || name == LOG_FILE && entry.metadata()?.len() > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

fn remove_unfinished_snapshots(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            log::warn!("removing {name}, left by a start that was interrupted");
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn write_file_again(path: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let (mut at, mut bytes) = (0u64, vec![0; AGAIN_BYTES]);
    loop {
        let read = file.read_at(&mut bytes, at)?;
        let Some(part) = bytes.get(..read).filter(|part| !part.is_empty()) else {
            return file.sync_all();
        };
        file.write_all_at(part, at)?;
        at = at.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
    }
}

/// Locks the file. Waits a moment for somebody who is just letting go of it: a process that was killed, or
/// the child of one that has not become another program yet.
fn lock_soon(lock: &File) -> Result<(), TryLockError> {
    let started = Instant::now();
    loop {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_WAIT => {
                std::thread::sleep(LOCK_TICK);
            }
            outcome => return outcome,
        }
    }
}

/// Says whether sled found its own lock taken. The directory's lock is ours by then, so it is the same
/// process that had the database open before: sled's threads free its lock a moment after the last
/// handle is dropped.
fn is_closing(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

// A flush of sled as it is published is none that outlives a loss of power: this holds the one in `vendor`.
const _: () = assert!(sled::FLUSH_SYNCS_DATA);

/// Makes the files of a database that was just opened durable.
pub(super) fn make_durable(
    db: &sled::Db,
    high_water: &mut HighWater,
    directory: &DataDirectory,
) -> Result<(), OpenError> {
    let path = directory.display();
    let damaged = |error| OpenError::of_database(directory.path(), error);
    let mark = high_water.raise().map_err(|source| OpenError::Recovery {
        path: path.clone(),
        source,
    })?;
    db.flush().map_err(damaged)?;
    directory
        .sync_files()
        .and_then(|()| directory.mark_made())
        .map_err(|error| failed(directory.path(), error))?;
    mark.write();
    Ok(())
}

/// Says whether a directory is a data directory, of any format. Opening another one would make it one.
#[must_use]
pub fn holds_data(path: &Path) -> bool {
    path.join(FORMAT_FILE).is_file()
}

/// Says what of ours the directory holds. Refuses what is not ours, or newer than this release.
pub(super) fn inspect(path: &Path) -> Result<Contents, OpenError> {
    let failed = |source| failed(path, source);
    let display = || path.display().to_string();
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contents::Nothing),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(
            entry
                .map_err(failed)?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    if names.iter().any(|name| name == FORMAT_FILE) {
        let text = fs::read_to_string(path.join(FORMAT_FILE)).map_err(failed)?;
        let found = text
            .trim()
            .strip_prefix("memoryos ")
            .and_then(|number| number.parse().ok());
        return match found {
            Some(found) if found > FORMAT => Err(OpenError::NewerFormat {
                path: display(),
                found,
                known: FORMAT,
            }),
            Some(_) => Ok(Contents::Data),
            None => Err(OpenError::Foreign(display())),
        };
    }
    for making in [Making::Import, Making::Restore] {
        if names.iter().any(|name| name == making.mark()) {
            return Ok(Contents::Unfinished(making));
        }
    }
    // What a first start that was interrupted can have left, what a mounted volume brings along, and the
    // backups of a directory whose data was moved away to be restored.
    let harmless = [
        LOCK_FILE,
        NEW_FILE,
        MARK_FILE,
        MARK_TEMPORARY,
        "FORMAT.tmp",
        "lost+found",
        BACKUPS_FOLDER,
    ];
    if names.iter().all(|name| harmless.contains(&name.as_str())) {
        return Ok(Contents::Nothing);
    }
    Err(OpenError::Foreign(display()))
}

/// Makes the files of a folder, and their names, durable.
pub(super) fn sync_files_in(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        File::open(&path)?.sync_all()?;
    }
    sync_directory(folder)
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub(super) fn failed(path: &Path, source: io::Error) -> OpenError {
    OpenError::Directory {
        path: path.display().to_string(),
        source,
    }
}
