//! The folder of a server's backups: how its own files are named, and which of them go.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::domain::time::Timestamp;

use super::archive::MAGIC;
use super::directory::sync_directory;

/// Why a server makes a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupCause {
    /// The admin asked for it: it is kept until somebody removes it.
    Asked,
    /// It was due: it goes when enough newer ones are there.
    Due,
}

impl BackupCause {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Asked => "memoryos-",
            Self::Due => "memoryos-auto-",
        }
    }
}

const SUFFIX: &str = ".backup";

/// A folder for backups. It need not exist.
#[derive(Clone, Debug)]
pub struct BackupFolder(PathBuf);

impl BackupFolder {
    /// Names a folder.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Returns the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the folder if it is not there, for its owner alone.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn make(&self) -> io::Result<()> {
        if self.0.is_dir() {
            return Ok(());
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)?;
        // Its name too has to be on the disk before a backup in it counts.
        let parent = self.0.parent().filter(|path| !path.as_os_str().is_empty());
        sync_directory(parent.unwrap_or(Path::new(".")))
    }

    /// Returns a name for a backup of that second, or of the first second after it that has none.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn free_name(&self, cause: BackupCause, at: Timestamp) -> io::Result<PathBuf> {
        let mut at = at;
        loop {
            let name = format!("{}{}{SUFFIX}", cause.prefix(), second(at));
            let path = self.0.join(name);
            if !path.try_exists()? {
                return Ok(path);
            }
            at = at.plus_seconds(1);
        }
    }

    /// Returns when the newest automatic backup up to `now` was made; `None` if there is none. One that is
    /// said to be of the future was made while the clock was wrong, and does not count.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn newest_due(&self, now: Timestamp) -> io::Result<Option<Timestamp>> {
        let mut times = self.due()?.into_iter().map(|(at, _)| at);
        Ok(times.by_ref().filter(|at| *at <= now).max())
    }

    /// Removes all automatic backups but the newest `keep`. Returns what it removed. Files with any other
    /// name stay, whatever they are.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn remove_old(&self, keep: usize, now: Timestamp) -> io::Result<Vec<PathBuf>> {
        let mut due = self.due()?;
        // Newest first; those of the future last.
        due.sort_by_key(|(at, _)| std::cmp::Reverse((*at <= now, *at)));
        let old: Vec<PathBuf> = due.into_iter().skip(keep).map(|(_, path)| path).collect();
        for path in &old {
            fs::remove_file(path)?;
        }
        Ok(old)
    }

    /// Returns the automatic backups with their times.
    fn due(&self) -> io::Result<Vec<(Timestamp, PathBuf)>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let at = name.to_str().and_then(due_at);
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if let Some(at) = at.filter(|_| is_file && begins_as_backup(&entry.path())) {
                found.push((at, entry.path()));
            }
        }
        Ok(found)
    }
}

/// Says whether a file begins as a backup does: another one of that name is not ours to remove.
fn begins_as_backup(path: &Path) -> bool {
    let mut start = [0; MAGIC.len()];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == *MAGIC
}

/// Returns a time as names have it: `20261122T191830Z`.
fn second(at: Timestamp) -> String {
    let text = at.to_string();
    let second = text.split_once('.').map_or(&*text, |(second, _)| second);
    let plain = |c: &char| !matches!(c, '-' | ':');
    second.chars().filter(plain).chain(['Z']).collect()
}

/// Returns the time in the name of an automatic backup; `None` if it is no such name.
fn due_at(name: &str) -> Option<Timestamp> {
    let text = name
        .strip_prefix(BackupCause::Due.prefix())?
        .strip_suffix(SUFFIX)?;
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let (year, month, day) = (date.get(..4)?, date.get(4..6)?, date.get(6..)?);
    let (hour, minute, seconds) = (time.get(..2)?, time.get(2..4)?, time.get(4..)?);
    let at = Timestamp::parse_rfc3339(&format!("{year}-{month}-{day}T{hour}:{minute}:{seconds}Z"))?;
    // Exactly as it would be written: no other name is ours.
    (second(at) == text).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::NOW;

    /// Shows the two names, that a second has one of each, and that only a name of ours has a time.
    #[test]
    fn names_tell_the_second() {
        let folder = tempfile::tempdir().unwrap();
        let backups = BackupFolder::new(folder.path().join("deep").join("er"));
        let name = |cause| {
            let path = backups.free_name(cause, NOW).unwrap();
            path.file_name().unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(name(BackupCause::Asked), "memoryos-20260101T000000Z.backup");
        let due = "memoryos-auto-20260101T000000Z.backup";
        assert_eq!(name(BackupCause::Due), due);
        backups.make().unwrap();
        fs::write(backups.path().join(due), "").unwrap();
        assert_eq!(
            name(BackupCause::Due),
            "memoryos-auto-20260101T000001Z.backup"
        );
        assert_eq!(due_at(due), Some(NOW));
        for other in [
            "memoryos-20260101T000000Z.backup",
            "memoryos-auto-20260101T000000Z.backup.old",
            "memoryos-auto-2026-01-01T000000Z.backup",
            "memoryos-auto-20260101T0000000Z.backup",
            "memoryos-auto-20260101T000000.5Z.backup",
            "memoryos-auto-20261301T000000Z.backup",
            "memoryos-auto-Z.backup",
            "memoryos-auto-é0260101T000000Z.backup",
        ] {
            assert_eq!(due_at(other), None, "{other}");
        }
    }

    /// Shows that the newest automatic ones stay, that nobody else's file goes, and that one of the future
    /// neither counts as the newest nor pushes out those of the past.
    #[test]
    fn the_newest_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let backups = BackupFolder::new(folder.path().to_owned());
        assert_eq!(backups.newest_due(NOW).unwrap(), None);
        let others = [
            "memoryos-20200101T000000Z.backup",
            "memoryos-auto-20200101T000000Z.backup",
            "notes.txt",
        ];
        for name in others {
            fs::write(folder.path().join(name), "").unwrap();
        }
        for hours in [1, -1, -2, -3, 0] {
            let at = NOW.plus_seconds(hours * 3_600);
            let path = backups.free_name(BackupCause::Due, at).unwrap();
            fs::write(path, MAGIC).unwrap();
        }
        assert_eq!(backups.newest_due(NOW).unwrap(), Some(NOW));
        assert_eq!(
            backups.newest_due(NOW.plus_seconds(-1)).unwrap(),
            Some(NOW.plus_seconds(-3_600))
        );
        let left = |keep| {
            backups.remove_old(keep, NOW).unwrap();
            let mut left: Vec<i64> = backups
                .due()
                .unwrap()
                .into_iter()
                .map(|(at, _)| (at.micros() - NOW.micros()) / 3_600_000_000)
                .collect();
            left.sort_unstable();
            left
        };
        assert_eq!(left(9), [-3, -2, -1, 0, 1]);
        assert_eq!(left(4), [-3, -2, -1, 0]);
        assert_eq!(left(2), [-1, 0]);
        for name in others {
            assert!(folder.path().join(name).exists(), "{name}");
        }
    }
}
