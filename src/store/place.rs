//! A whole data directory written at once, for import and restore: all or nothing.
//!
//! Order: the mark, `import.tmp` or `restore.tmp` (from here on a start refuses the directory), the
//! database under it, flushed, closed and synced; its rename to `db`; `HIGH_WATER`; `IMPORTED`, of an import;
//! `FORMAT`, which makes the directory one; the mark away. A crash before `FORMAT` leaves the mark
//! without `FORMAT`: the same command run again clears what is there and begins anew. A crash after it
//! leaves an empty mark beside a complete directory, which harms nobody.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::directory::{
    Contents, DataDirectory, IMPORTED_FILE, Making, failed, sync_directory, sync_files_in,
};
use super::error::OpenError;
use super::high_water::{self, HighWater};
use super::schema::Trees;

/// Bytes of the page cache while a directory is written.
const CACHE_BYTES: u64 = 64 << 20;

/// A place for a new data directory. Nothing is written there before [`NewTarget::start`].
#[derive(Debug)]
pub struct NewTarget {
    path: PathBuf,
    making: Making,
    /// `None` if the directory does not exist.
    held: Option<DataDirectory>,
    unfinished: bool,
}

/// Why no data directory can be made of a directory. Each is one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// It cannot be used at all: locked, somebody else's, of a newer format, not writable, half made by
    /// another command.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An import meets data that another import, or a server, has made.
    #[error(
        "the data directory {0} is one already, made by a server or by another import; name an empty or a new \
         one with --data-dir, or remove it if a server has only just made it and nothing is in it"
    )]
    HoldsData(String),
    /// A restore meets data.
    #[error(
        "the data directory {0} holds data already, and a restore replaces nothing; name an empty or a new one \
         with --data-dir, or move this one away"
    )]
    NotEmpty(String),
}

/// What is where a directory shall be made.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing, or what the same command left when it was interrupted.
    New(NewTarget),
    /// A data directory.
    Data(DataDirectory),
}

/// A new directory with its database open. Dropped before it is [`Built`], it is cleared away.
#[derive(Debug)]
pub(super) struct Site {
    pub trees: Trees,
    db: sled::Db,
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
    making: Making,
    complete: bool,
}

/// Looks at what is in the way of a new directory. Makes none.
pub(super) fn look(path: &Path, making: Making) -> Result<Found, TargetError> {
    let absent = NewTarget {
        path: path.to_owned(),
        making,
        held: None,
        unfinished: false,
    };
    if !path.try_exists().map_err(|error| failed(path, error))? {
        return Ok(Found::New(absent));
    }
    let (directory, contents) = DataDirectory::take(path)?;
    match contents {
        Contents::Unfinished(other) if other != making => {
            Err(OpenError::of_unfinished(other, directory.display()).into())
        }
        Contents::Nothing | Contents::Unfinished(_) => Ok(Found::New(NewTarget {
            held: Some(directory),
            unfinished: contents != Contents::Nothing,
            ..absent
        })),
        Contents::Data => Ok(Found::Data(directory)),
    }
}

impl NewTarget {
    /// Says whether the same command was interrupted here before.
    #[must_use]
    pub const fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// Begins to write: marks the directory, clears what an interrupted command left.
    pub(super) fn open_site(self) -> Result<Site, TargetError> {
        let making = self.making;
        let directory = match self.held {
            Some(directory) => directory,
            None => match DataDirectory::take(&self.path)? {
                (directory, Contents::Nothing) => directory,
                // Somebody else was faster.
                (directory, Contents::Data | Contents::Unfinished(_)) => {
                    return Err(making.refusal(directory.display()));
                }
            },
        };
        let mark = directory.path().join(making.mark());
        let begun = fs::create_dir_all(&mark).and_then(|()| sync_directory(directory.path()));
        begun.map_err(|error| failed(directory.path(), error))?;
        let place = Place {
            directory,
            making,
            complete: false,
        };
        place.clear().map_err(|error| place.failed(error))?;
        let db = place
            .directory
            .open_database_in(&place.database(), CACHE_BYTES)?;
        let trees = Trees::open(&db).map_err(|error| place.failed(io::Error::other(error)))?;
        Ok(Site { trees, db, place })
    }
}

impl Making {
    /// Returns the error for a directory that holds data.
    pub(super) const fn refusal(self, directory: String) -> TargetError {
        match self {
            Self::Import => TargetError::HoldsData(directory),
            Self::Restore => TargetError::NotEmpty(directory),
        }
    }
}

impl Site {
    /// Closes the database, makes it durable and moves it to its place.
    pub(super) fn build(self) -> Result<Built, OpenError> {
        let Self { trees, db, place } = self;
        // The last record: while it is there, all are.
        let mark = HighWater::new(trees.meta.clone(), place.directory.path(), 0)
            .raise()
            .map_err(|error| place.failed(io::Error::other(error)))?;
        db.flush()
            .map_err(|error| place.failed(io::Error::other(error)))?;
        drop(trees);
        drop(db);
        let moved = || -> io::Result<()> {
            // With `fsync` on every file: it does not matter here what sled's flush is.
            sync_files_in(&place.database())?;
            fs::rename(place.database(), place.directory.database_path())?;
            sync_directory(&place.mark())?;
            mark.write();
            sync_directory(place.directory.path())
        };
        moved().map_err(|error| place.failed(error))?;
        Ok(Built { place })
    }
}

impl Built {
    /// Notes which import made the directory and marks it as complete: the last step of an import.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the directory is left unfinished then, for the next import to clear.
    pub fn finish(self, fingerprint: &[u8; 32]) -> Result<(), OpenError> {
        let place = &self.place;
        let noted = || -> io::Result<()> {
            let mut file = File::create(place.directory.path().join(IMPORTED_FILE))?;
            writeln!(file, "{}", hex(fingerprint))?;
            file.sync_all()?;
            sync_directory(place.directory.path())
        };
        noted().map_err(|error| place.failed(error))?;
        self.complete()
    }

    /// Marks the directory as complete: the last step.
    pub(super) fn complete(mut self) -> Result<(), OpenError> {
        // From here on nothing is cleared away: after a failure the format may be on the disk or not.
        self.place.complete = true;
        self.place.directory.write_format()?;
        if let Err(error) = fs::remove_dir(self.place.mark()) {
            let mark = self.place.making.mark();
            log::warn!("the empty folder {mark} could not be removed: {error}");
        }
        Ok(())
    }
}

impl Place {
    fn mark(&self) -> PathBuf {
        self.directory.path().join(self.making.mark())
    }

    /// Where the database is written.
    fn database(&self) -> PathBuf {
        self.mark().join("db")
    }

    fn failed(&self, error: io::Error) -> OpenError {
        failed(self.directory.path(), error)
    }

    /// Removes whatever was written, but the mark.
    fn clear(&self) -> io::Result<()> {
        let gone = |outcome: io::Result<()>| match outcome {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        };
        gone(fs::remove_dir_all(self.directory.database_path()))?;
        gone(fs::remove_dir_all(self.database()))?;
        high_water::forget(self.directory.path())?;
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
            log::warn!("a half-made data directory could not be cleared away: {error}");
        }
    }
}

/// Returns bytes in hexadecimal, lower case.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(64), |mut text, b| {
        // Writing to a string does not fail.
        let _ = write!(text, "{b:02x}");
        text
    })
}
