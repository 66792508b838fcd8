//! The file that a backup is written to: there under its name only when it is whole and on the disk.
//!
//! It is written beside its place as `.NAME.tmp`, which is locked meanwhile, so that what a killed
//! process left can be told from what another one is writing.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::directory::sync_directory;

/// What the names of a server's backups start and end with.
const SERVERS: (&str, &str) = ("memoryos-", ".backup");
/// Bytes between two looks at the free space; less than any reserve.
const SPACE_LOOK_BYTES: u64 = 1 << 20;

/// A backup on its way to its place. Dropped before [`BackupFile::place`], it leaves nothing behind.
#[derive(Debug)]
pub(super) struct BackupFile {
    file: File,
    path: PathBuf,
    folder: PathBuf,
    /// `None` once it is in its place.
    temporary: Option<PathBuf>,
    reserve_bytes: u64,
    unlooked_bytes: u64,
    bytes: u64,
}

impl BackupFile {
    /// Begins a file that only its owner can read, and removes what killed backups left beside it. No more
    /// is written once the file system has no more free space than `reserve_bytes`.
    pub(super) fn create(path: &Path, reserve_bytes: u64) -> io::Result<Self> {
        let name = path.file_name().ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "it is no name of a file")
        })?;
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).to_owned();
        let temporary = format!(".{}.tmp", name.to_string_lossy());
        sweep(&folder, &temporary)?;
        let temporary = folder.join(temporary);
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        let begun = Self {
            file,
            path: path.to_owned(),
            folder,
            temporary: Some(temporary),
            reserve_bytes,
            unlooked_bytes: 0,
            bytes: 0,
        };
        begun.file.lock()?;
        begun.look_at_space()?;
        Ok(begun)
    }

    /// Makes the file durable and gives it its name, which nobody has. Returns its size in bytes.
    pub(super) fn place(mut self) -> io::Result<u64> {
        self.file.sync_all()?;
        if let Some(temporary) = &self.temporary {
            rename_new(temporary, &self.path)?;
        }
        self.temporary = None;
        sync_directory(&self.folder)?;
        Ok(self.bytes)
    }

    fn look_at_space(&self) -> io::Result<()> {
        let Ok(stat) = rustix::fs::statvfs(&self.folder) else {
            return Ok(());
        };
        if stat.f_bavail.saturating_mul(stat.f_frsize) > self.reserve_bytes {
            return Ok(());
        }
        Err(io::ErrorKind::StorageFull.into())
    }
}

impl Write for BackupFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.unlooked_bytes >= SPACE_LOOK_BYTES {
            self.look_at_space()?;
            self.unlooked_bytes = 0;
        }
        let written = self.file.write(bytes)?;
        let count = u64::try_from(written).unwrap_or(u64::MAX);
        self.unlooked_bytes = self.unlooked_bytes.saturating_add(count);
        self.bytes = self.bytes.saturating_add(count);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for BackupFile {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take()
            && let Err(error) = fs::remove_file(&temporary)
        {
            log::warn!("{} could not be removed: {error}", temporary.display());
        }
    }
}

/// Removes what killed backups of a server left in a folder.
pub(super) fn sweep_all(folder: &Path) -> io::Result<()> {
    sweep(folder, "")
}

/// Removes temporary files that no process is writing: this backup's, and those of servers' backups.
fn sweep(folder: &Path, own: &str) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let of = name
            .strip_prefix('.')
            .and_then(|name| name.strip_suffix(".tmp"));
        let (start, end) = SERVERS;
        let is_servers = of.is_some_and(|of| of.starts_with(start) && of.ends_with(end));
        if name != own && !is_servers {
            continue;
        }
        match File::open(&path).map(|file| (file.try_lock(), file)) {
            Ok((Ok(()), _file)) => {
                log::warn!("removing {name}, left by a backup that was interrupted");
                fs::remove_file(&path)?;
            }
            // Another process is writing it.
            Ok((Err(TryLockError::WouldBlock), _)) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok((Err(TryLockError::Error(error)), _)) | Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Renames a file to a name that nobody has, in one step where the file system knows how.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            if to.try_exists()? {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::rename(from, to)
        }
        outcome => Ok(outcome?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let mut names: Vec<_> = names
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Shows that a file is there under its name only when it is placed, for its owner alone, that a dropped
    /// one leaves nothing, and that a name that was taken meanwhile is not overwritten.
    #[test]
    fn a_backup_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.backup");
        let mut file = BackupFile::create(&path, 0).unwrap();
        file.write_all(b"half").unwrap();
        assert_eq!(names(folder.path()), [".a.backup.tmp"]);
        drop(file);
        assert_eq!(names(folder.path()), [""; 0]);
        let mut file = BackupFile::create(&path, 0).unwrap();
        file.write_all(b"whole").unwrap();
        assert_eq!(file.place().unwrap(), 5);
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let taken = BackupFile::create(&path, 0).unwrap().place().unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(names(folder.path()), ["a.backup"]);
    }

    /// Shows that what killed backups left goes, that what another one is writing stays, and that files of
    /// others stay.
    #[test]
    fn leftovers_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let left = [
            ".memoryos-1.backup.tmp",
            ".own.tmp",
            ".others.tmp",
            "memoryos-1.backup",
        ];
        for name in left {
            fs::write(folder.path().join(name), "half").unwrap();
        }
        let live = BackupFile::create(&folder.path().join("memoryos-2.backup"), 0).unwrap();
        let own = BackupFile::create(&folder.path().join("own"), 0).unwrap();
        let there = [
            ".memoryos-2.backup.tmp",
            ".others.tmp",
            ".own.tmp",
            "memoryos-1.backup",
        ];
        assert_eq!(names(folder.path()), there);
        let twice = BackupFile::create(&folder.path().join("own"), 0).unwrap_err();
        assert_eq!(twice.kind(), io::ErrorKind::AlreadyExists);
        drop((live, own));
    }

    /// Shows that writing stops at the reserve, at the beginning and on the way.
    #[test]
    fn the_reserve_is_left_free() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let full = BackupFile::create(&path, u64::MAX).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        let mut file = BackupFile::create(&path, 0).unwrap();
        file.reserve_bytes = u64::MAX;
        let chunk = vec![0; 1 << 20];
        file.write_all(&chunk).unwrap();
        let full = file.write_all(&chunk).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        drop(file);
        assert_eq!(names(folder.path()), [""; 0]);
    }
}
