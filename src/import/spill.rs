//! The files into which `--skip-unowned` and `--skip-invalid` put what is left out.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A JSON list on its way to its file: written beside it, then moved there in one step. Dropped before
/// [`Spill::keep`], it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Spill {
    path: PathBuf,
    temporary: PathBuf,
    /// What to remove if the import fails.
    left: Option<PathBuf>,
}

impl Spill {
    /// Writes the entries, JSON values, beside the file.
    pub(super) fn write(path: &Path, entries: &[String]) -> io::Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".import.tmp");
        let temporary = path.with_file_name(name);
        let spill = Self {
            path: path.to_owned(),
            left: Some(temporary.clone()),
            temporary,
        };
        let mut file = File::create(&spill.temporary)?;
        file.write_all(list(entries).as_bytes())?;
        file.sync_all()?;
        Ok(spill)
    }

    /// Says whether the file is there already with just these entries, as after an interrupted import.
    pub(super) fn is_there(path: &Path, entries: &[String]) -> bool {
        fs::read(path).is_ok_and(|bytes| bytes == list(entries).as_bytes())
    }

    /// Moves the list to its file.
    pub(super) fn place(&mut self) -> io::Result<()> {
        fs::rename(&self.temporary, &self.path)?;
        self.left = Some(self.path.clone());
        let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Keeps the file: the import is complete.
    pub(super) fn keep(mut self) {
        self.left = None;
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        if let Some(left) = &self.left
            && let Err(error) = fs::remove_file(left)
        {
            log::warn!("{} could not be removed: {error}", left.display());
        }
    }
}

fn list(entries: &[String]) -> String {
    if entries.is_empty() {
        return "[]\n".to_owned();
    }
    format!("[\n{}\n]\n", entries.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("skipped.json");
        let entries = ["{\"a\":1}".to_owned(), "[]".to_owned()];
        let mut spill = Spill::write(&path, &entries).unwrap();
        assert!(!path.exists());
        spill.place().unwrap();
        assert!(Spill::is_there(&path, &entries) && !Spill::is_there(&path, &[]));
        drop(spill);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let mut spill = Spill::write(&path, &[]).unwrap();
        spill.place().unwrap();
        spill.keep();
        assert_eq!(fs::read_to_string(&path).unwrap(), "[]\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
