//! The high-water mark: notices that something is gone which was on the disk.
//!
//! sled takes whatever it cannot read in its log for the torn end of a crash and cuts it off there, also
//! if it was one bit that a disk lost in the middle: the store would open, sound and with less in it. So
//! a counter in the database is counted up, the database is flushed, and only then is the number written
//! to `HIGH_WATER` beside it. A database that is opened and has counted less far than the file says has
//! lost what a flush had put on the disk; no crash does that. What was written after the mark is not
//! watched: the mark is raised at each open and clean close, and every 5 s while there are writes.
//!
//! The file is not synced: an older one watches less, and one that cannot be read watches nothing.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::codec::{decode, encode};
use super::directory::PROBE;
use super::error::{OpenError, StoreError};
use super::place::hex;
use super::recovery::OnDamage;

/// The file in the data directory: the number, a space, the first 8 hex digits of its SHA-256.
pub(super) const MARK_FILE: &str = "HIGH_WATER";
/// The same while it is written.
pub(super) const MARK_TEMPORARY: &str = "HIGH_WATER.tmp";
/// The tree of the counter.
pub(super) const TREE: &str = "meta";
/// Bytes of a number and its checksum, at most.
const MARK_BYTES_MAX: u64 = 64;
/// Characters of the checksum.
const CHECK_CHARS: usize = 8;

/// The counter of an open database.
#[derive(Debug)]
pub(super) struct HighWater {
    meta: sled::Tree,
    folder: PathBuf,
    number: u64,
}

/// How far a database has counted: to be written once a flush has put the count on the disk.
#[derive(Debug)]
#[must_use = "without it the file stays behind"]
pub(super) struct Mark {
    folder: PathBuf,
    number: u64,
}

impl HighWater {
    /// Holds the counter of a database, before anything is written to it, against the mark in `folder`.
    ///
    /// # Errors
    ///
    /// [`OpenError::Lost`] if it has counted less far, unless that is to be repaired.
    pub(super) fn look(db: &sled::Db, folder: &Path, damage: OnDamage) -> Result<u64, OpenError> {
        let damaged = |error| OpenError::of_database(folder, error);
        let marked = read(folder).unwrap_or(0);
        // A database that lost everything does not get its trees from a start that is refused.
        let is_there = db.tree_names().iter().any(|name| name == TREE.as_bytes());
        let record = if is_there {
            db.open_tree(TREE).and_then(|meta| meta.get(PROBE))
        } else {
            Ok(None)
        };
        let counted = match record.map_err(damaged)? {
            None => 0,
            // One record is damaged, not cut off: no reason to say that anything is gone.
            Some(bytes) => decode(&bytes).unwrap_or(marked),
        };
        if counted < marked {
            let path = folder.display().to_string();
            if damage != OnDamage::Repair {
                return Err(OpenError::Lost(path));
            }
            log::warn!(
                "the end of the log of {path} is gone, and with it writes that were on the disk: going on with \
                 what is left"
            );
        }
        // Never below the file, which may come back with a power cut: it is not synced.
        Ok(counted.max(marked))
    }

    /// Returns how far a database has counted; 0 if it does not say.
    pub(super) fn count(db: &sled::Db) -> Result<u64, StoreError> {
        let record = db.open_tree(TREE)?.get(PROBE)?;
        Ok(record.map_or(0, |bytes| decode(&bytes).unwrap_or(0)))
    }

    /// The counter in a tree, which has counted to `number`.
    pub(super) fn new(meta: sled::Tree, folder: &Path, number: u64) -> Self {
        Self {
            meta,
            folder: folder.to_owned(),
            number,
        }
    }

    /// Counts up in the database. The mark is to be written once that is flushed, and only then.
    pub(super) fn raise(&mut self) -> Result<Mark, StoreError> {
        let number = self.number.saturating_add(1);
        self.meta.insert(PROBE, encode(&number)?)?;
        self.number = number;
        Ok(Mark {
            folder: self.folder.clone(),
            number,
        })
    }
}

impl Mark {
    /// Writes the mark: what it says is on the disk. A failure leaves an older one, which is no error.
    pub(super) fn write(&self) {
        let write = || -> io::Result<()> {
            let temporary = self.folder.join(MARK_TEMPORARY);
            let mut file = File::create(&temporary)?;
            file.write_all(self.text().as_bytes())?;
            fs::rename(&temporary, self.folder.join(MARK_FILE))
        };
        if let Err(error) = write() {
            log::warn!("{MARK_FILE} could not be written: {error}");
        }
    }

    fn text(&self) -> String {
        let number = self.number.to_string();
        let check = check(&number);
        format!("{number} {check}\n")
    }
}

/// Removes the mark, where a new database is about to be made.
pub(super) fn forget(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(MARK_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Reads the mark; `None` if there is none that can be read.
pub(super) fn read(folder: &Path) -> Option<u64> {
    use io::Read;
    let mut text = String::new();
    let read = File::open(folder.join(MARK_FILE))
        .and_then(|file| file.take(MARK_BYTES_MAX).read_to_string(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            log::warn!("{MARK_FILE} cannot be read: {error}");
            return None;
        }
        Ok(_) => {}
    }
    let number = parse(&text);
    if number.is_none() {
        log::warn!("{MARK_FILE} is torn: whether the end of the log is gone cannot be told");
    }
    number
}

fn parse(text: &str) -> Option<u64> {
    let (number, found) = text.trim_end().split_once(' ')?;
    if found != check(number) {
        return None;
    }
    number.parse().ok()
}

fn check(number: &str) -> String {
    let digest: [u8; 32] = Sha256::digest(number.as_bytes()).into();
    hex(&digest).chars().take(CHECK_CHARS).collect()
}

#[cfg(test)]
mod tests;
