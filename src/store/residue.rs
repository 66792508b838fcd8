//! `memoryos check --residue`: whether anything in a data directory still holds a text.
//!
//! Two looks. The first reads the bytes of every file, whatever it is: sled's log keeps what was deleted until
//! it uses the place again. The second opens the database and looks through every key and value, since sled
//! cuts what the keys of a page have in common, and since a long value is in pieces; and through the records of
//! every backup, which are compressed.
//!
//! What neither sees is what a file's bytes do not show as one run and no record holds any more: a key's
//! beginning that was cut, or a text across two pieces of a deleted memory. A compaction leaves neither.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::archive::{Archive, MAGIC, ReadError};
use super::check::record_name;
use super::codec::unversioned;
use super::directory::{Contents, DataDirectory};
use super::error::{OpenError, StoreError};
use super::recovery::OnDamage;
use super::schema::part;
use super::sequence::Kind;
use super::{Options, Store};
use scan::Scan;
pub use scan::{ResidueText, ResidueTextError};

mod scan;

/// Bytes of a file that are read at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// Most lines of a report.
const LINES_MAX: usize = 200;
/// Most places of one file that a line names.
const PLACES_NAMED: usize = 5;
/// Records between two reports of how far it is.
const REPORT_RECORDS: u64 = 1_000;
/// Owner and revision: what the keys of the pieces of one value start with.
const VALUE_BYTES: usize = 41;

/// What a search is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResidueStep {
    /// Bytes of files.
    Files,
    /// Records of the database.
    Records,
    /// Records of a backup.
    Backup,
}

/// Where a text was found, and where it was looked for. Never holds the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResidueReport {
    /// Files whose bytes were read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records of the database.
    pub records: u64,
    /// Backups that were read, and the records in them.
    pub backups: u64,
    /// See `backups`.
    pub backup_records: u64,
    /// A line for each file, tree or backup that holds it, 200 at most.
    pub found: Vec<String>,
    /// How many more there are.
    pub unlisted: u64,
    /// A line for each file that could not be searched: nothing is proved about it.
    pub unread: Vec<String>,
}

impl ResidueReport {
    /// Says whether everything was searched and nothing found.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.found.is_empty() && self.unread.is_empty()
    }

    fn add(&mut self, line: String) {
        if self.found.len() < LINES_MAX {
            self.found.push(line);
        } else {
            self.unlisted = self.unlisted.saturating_add(1);
        }
    }
}

/// As the command says it, in one line.
impl std::fmt::Display for ResidueReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = if self.found.is_empty() {
            "not found"
        } else {
            "found"
        };
        write!(
            f,
            "{place} in {} files of {} bytes, {} records of the database",
            self.files, self.bytes, self.records
        )?;
        if self.backups > 0 {
            write!(
                f,
                ", {} records of {} backups",
                self.backup_records, self.backups
            )?;
        }
        if !self.unread.is_empty() {
            write!(f, "; {} could not be searched", self.unread.len())?;
        }
        Ok(())
    }
}

/// Why nothing was searched. Each is one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum ResidueError {
    /// There is no data.
    #[error("there is no data in {0}")]
    NoData(String),
    /// The directory or its database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A file's folder cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The folder.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The database cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sled::Error> for ResidueError {
    fn from(error: sled::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Looks for a text in the data directory of a stopped server. Opens the database as a check does: what a crash
/// left is settled, nothing else is changed.
///
/// # Errors
///
/// [`ResidueError`]
pub fn find_residue(
    path: &Path,
    options: Options,
    text: &ResidueText,
    progress: &mut dyn FnMut(ResidueStep, u64, u64),
) -> Result<ResidueReport, ResidueError> {
    if !super::holds_data(path) {
        return Err(ResidueError::NoData(path.display().to_string()));
    }
    // The files as the server left them: opening the database may write.
    let (directory, contents) = DataDirectory::take(path)?;
    if contents != Contents::Data {
        return Err(ResidueError::NoData(path.display().to_string()));
    }
    let mut search = Search {
        text,
        progress,
        report: ResidueReport::default(),
    };
    let files = files_below(path)?;
    let backups = search.files(path, &files);
    let (store, _) = Store::open_taken(directory, contents, options, OnDamage::PassOver)?;
    search.database(&store.inner()?.db)?;
    drop(store);
    for backup in backups {
        search.backup(path, &backup);
    }
    Ok(search.report)
}

/// A search under way.
struct Search<'a> {
    text: &'a ResidueText,
    progress: &'a mut dyn FnMut(ResidueStep, u64, u64),
    report: ResidueReport,
}

impl Search<'_> {
    /// Searches the bytes of files. Returns those that are backups.
    fn files(&mut self, folder: &Path, files: &[(PathBuf, u64)]) -> Vec<PathBuf> {
        let all = files
            .iter()
            .fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        let mut backups = Vec::new();
        for (path, _) in files {
            let name = named(folder, path);
            match self.file(path, all) {
                Ok((places, is_backup)) => {
                    self.report.files = self.report.files.saturating_add(1);
                    if !places.is_empty() {
                        self.report.add(format!("{name}: {}", bytes_named(&places)));
                    }
                    if is_backup {
                        backups.push(path.clone());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.report.unread.push(format!("{name}: {error}")),
            }
        }
        backups
    }

    fn file(&mut self, path: &Path, all: u64) -> io::Result<(BTreeSet<u64>, bool)> {
        let mut file = File::open(path)?;
        let mut scan = Scan::new(self.text);
        let mut chunk = vec![0; CHUNK_BYTES];
        let (mut is_first, mut is_backup) = (true, false);
        loop {
            let read = match file.read(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            let bytes = chunk.get(..read).unwrap_or_default();
            if std::mem::take(&mut is_first) {
                is_backup = bytes.starts_with(MAGIC);
            }
            if bytes.is_empty() {
                break;
            }
            if !scan.is_enough() {
                scan.feed(bytes);
            }
            let read = u64::try_from(read).unwrap_or(u64::MAX);
            self.report.bytes = self.report.bytes.saturating_add(read);
            (self.progress)(
                ResidueStep::Files,
                self.report.bytes,
                all.max(self.report.bytes),
            );
        }
        Ok((scan.places().clone(), is_backup))
    }

    /// Searches every record, whatever it is.
    fn database(&mut self, db: &sled::Db) -> Result<(), ResidueError> {
        for name in db.tree_names() {
            let tree = String::from_utf8_lossy(&name).into_owned();
            let mut records = Records::new(self.text);
            for entry in &db.open_tree(&name)? {
                let (key, value) = entry?;
                for place in records.look(tree == "pieces", &key, &value) {
                    let record = record_name(&tree, &key);
                    let line = match place {
                        // The record's name may be what was looked for.
                        Place::Key => format!("tree {tree}: a key"),
                        Place::Value => format!("tree {tree}: {record}"),
                    };
                    self.report.add(line);
                }
                self.report.records = self.report.records.saturating_add(1);
                if self.report.records.is_multiple_of(REPORT_RECORDS) {
                    (self.progress)(
                        ResidueStep::Records,
                        self.report.records,
                        self.report.records,
                    );
                }
            }
        }
        Ok(())
    }

    /// Searches a backup; one that cannot be read to its end proves nothing.
    fn backup(&mut self, folder: &Path, path: &Path) {
        let name = named(folder, path);
        let mut records = Records::new(self.text);
        let (mut hits, mut done) = (0u64, 0u64);
        let read = Archive::open(path)
            .map_err(ReadError::Archive)
            .and_then(|mut archive| {
                let all = archive.contents().records;
                archive.read(|kind, key, value, _| {
                    let found = records.look(kind == Kind::Piece, key, value);
                    hits = hits.saturating_add(u64::try_from(found.len()).unwrap_or(0));
                    done = done.saturating_add(1);
                    if done.is_multiple_of(REPORT_RECORDS) {
                        (self.progress)(ResidueStep::Backup, done, all);
                    }
                    Ok::<(), std::convert::Infallible>(())
                })
            });
        if hits > 0 {
            let records = if hits == 1 { "record" } else { "records" };
            self.report
                .add(format!("{name}: {hits} {records} of the backup"));
        }
        match read {
            Ok(()) => {
                self.report.backups = self.report.backups.saturating_add(1);
                self.report.backup_records = self.report.backup_records.saturating_add(done);
            }
            Err(ReadError::Archive(error)) => self.report.unread.push(format!("{name}: {error}")),
            Err(ReadError::Visitor(never)) => match never {},
        }
    }
}

/// What of a record holds the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Key,
    Value,
}

/// Looks through records in their order; pieces of one value are one text.
struct Records<'t> {
    text: &'t ResidueText,
    value: Option<([u8; VALUE_BYTES], Scan<'t>)>,
}

impl<'t> Records<'t> {
    const fn new(text: &'t ResidueText) -> Self {
        Self { text, value: None }
    }

    fn look(&mut self, is_piece: bool, key: &[u8], value: &[u8]) -> Vec<Place> {
        let mut found = Vec::new();
        if self.holds(key) {
            found.push(Place::Key);
        }
        let of_value = match part::<VALUE_BYTES>(key, 0) {
            Some(of) if is_piece => self.piece(of, value),
            _ => {
                self.value = None;
                self.holds(value)
            }
        };
        if of_value {
            found.push(Place::Value);
        }
        found
    }

    fn holds(&self, bytes: &[u8]) -> bool {
        let mut scan = Scan::new(self.text);
        scan.feed(bytes);
        !scan.places().is_empty()
    }

    /// Goes on with the value that the piece is of. Says whether the text ends in this piece.
    fn piece(&mut self, of: [u8; VALUE_BYTES], value: &[u8]) -> bool {
        let mut scan = match self.value.take() {
            Some((last, scan)) if last == of => scan,
            _ => Scan::new(self.text),
        };
        let before = scan.places().len();
        scan.feed(unversioned(value).unwrap_or(value));
        let found = scan.places().len() > before;
        self.value = Some((of, scan));
        found
    }
}

/// Every file below a folder and its bytes, by name. Follows links, once to each folder.
fn files_below(folder: &Path) -> Result<Vec<(PathBuf, u64)>, ResidueError> {
    let (mut files, mut seen) = (Vec::new(), HashSet::new());
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let failed = |source| ResidueError::File {
            path: folder.display().to_string(),
            source,
        };
        let own = fs::metadata(&folder).map_err(failed)?;
        if !seen.insert((own.dev(), own.ino())) {
            continue;
        }
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => folders.push(path),
                Ok(metadata) if metadata.is_file() => files.push((path, metadata.len())),
                // A pipe or a socket holds no text; a link that leads nowhere leads to none.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
    files.sort();
    Ok(files)
}

fn named(folder: &Path, path: &Path) -> String {
    path.strip_prefix(folder)
        .unwrap_or(path)
        .display()
        .to_string()
}

/// Names the first places in a file.
fn bytes_named(places: &BTreeSet<u64>) -> String {
    let first: Vec<String> = places
        .iter()
        .take(PLACES_NAMED)
        .map(u64::to_string)
        .collect();
    let at = format!("at byte {}", first.join(", "));
    match places.len().saturating_sub(first.len()) {
        0 => at,
        more => format!("{at} and {more} more"),
    }
}

#[cfg(test)]
mod tests;
