//! What a crash leaves: a copy of the data directory's files, whole or with the end of the log torn.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::random::Random;

/// sled's log, in the data directory.
const LOG: &str = "db/db";
/// The store's high-water mark, which is only written behind a flush of what it counts.
const HIGH_WATER: &str = "HIGH_WATER";
/// Bytes of a segment of it.
const SEGMENT: usize = 512 << 10;

/// The files of a directory at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image(BTreeMap<PathBuf, Vec<u8>>);

impl Image {
    /// Copies a directory that may be written to meanwhile: two readings that are equal are the files as
    /// they were at a moment between the two.
    pub(crate) fn of(directory: &Path) -> Self {
        let mut last = Self::read(directory);
        loop {
            let next = Self::read(directory);
            if next == last {
                return next;
            }
            last = next;
        }
    }

    fn read(directory: &Path) -> Self {
        let (mut files, mut folders) = (BTreeMap::new(), vec![directory.to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(bytes) = fs::read(&path) {
                    // A file that is gone by now was sled's to remove.
                    files.insert(path.strip_prefix(directory).unwrap().to_owned(), bytes);
                }
            }
        }
        Self(files)
    }

    pub(crate) fn write(&self, directory: &Path) {
        for (path, bytes) in &self.0 {
            let path = directory.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        fs::create_dir_all(directory.join("db/blobs")).unwrap();
    }

    /// `self` is before an operation and `after` is after it: the log up to a random byte of what was
    /// written between the two, in the order of the log. What follows is as it was before, or zeros.
    /// Says how many bytes were written and how many of them are kept.
    pub(crate) fn torn(&self, after: &Self, random: &mut Random) -> (Self, usize, usize) {
        let mut image = after.clone();
        let old = self.0.get(Path::new(LOG)).cloned().unwrap_or_default();
        let log = image.0.get_mut(Path::new(LOG)).unwrap();
        let old_at = |at: usize| old.get(at).copied().unwrap_or(0);
        let mut written = Vec::new();
        for start in (0..log.len()).step_by(SEGMENT) {
            let end = (start + SEGMENT).min(log.len());
            if old.get(start..end) == Some(&log[start..end]) {
                continue;
            }
            let changed = |at: &usize| log[*at] != old_at(*at);
            let Some(first) = (start..end).find(changed) else {
                continue;
            };
            let last = (start..end).rfind(changed).unwrap();
            written.push((sequence(&log[start..end]), first, last + 1));
        }
        // Segments are used again, so their order in the file is not that of the log.
        written.sort_unstable();
        let total: usize = written.iter().map(|(_, first, end)| end - first).sum();
        // A share, so that a seed tears about the same although ids make lengths differ; often all of it.
        let kept = total * random.below(1_100).min(1_000) / 1_000;
        let zeros = random.chance(50);
        let mut left = kept;
        for (_, first, end) in written {
            let cut = end.min(first + left);
            left -= cut - first;
            for (at, byte) in log.iter_mut().enumerate().take(end).skip(cut) {
                *byte = if zeros { 0 } else { old_at(at) };
            }
        }
        // What follows the cut was flushed when `after` was taken; in a crash it had not been, nor had the mark.
        let mark = Path::new(HIGH_WATER);
        match self.0.get(mark) {
            Some(bytes) => image.0.insert(mark.to_owned(), bytes.clone()),
            None => image.0.remove(mark),
        };
        (image, total, kept)
    }
}

/// Where a segment is in the order of the log: the sequence number in its header, as sled 0.34 masks it.
fn sequence(segment: &[u8]) -> i64 {
    let bytes = segment.get(4..12).map(|b| b.try_into().unwrap());
    bytes.map_or(i64::MAX, |b| i64::from_le_bytes(b) ^ i64::MAX)
}
