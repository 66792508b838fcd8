//! The file of a backup: a header, one zstd stream of records, a footer.
//!
//! ```text
//! header    "MEMOSBAK"  format u32  time i64 (us)  SHA-256 of these 20 bytes
//! records   one zstd frame of: kind u8  key bytes u16  value bytes u16  key  value
//! footer    accounts, keys, memories, replays, records, bytes of the records, bytes of the frame: u64 each
//!           SHA-256 of the records  SHA-256 of the frame  SHA-256 of the footer so far
//!           bytes of the footer u32  "MEMOSEND"
//! ```
//!
//! Numbers are big-endian. The level, the window and the size of what the compressor is given at a time
//! are fixed and it is one thread, so that equal records are equal bytes after the header, from the
//! same release. The SHA-256 of the records names what was backed up, whatever compressed it; that of
//! the frame covers what a decompressor does not look at. None of them proves who wrote the file.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use sha2::{Digest, Sha256};

use crate::domain::time::Timestamp;

use super::codec::VALUE_BYTES_MAX;
use super::error::StoreError;
use super::place::hex;
use super::schema::part;
use super::sequence::{Kind, Pieces, Placed, Sequence};

/// The format of backups that this release writes, and the newest that it reads. Format 1 had neither
/// ledgers nor the audit log; it is read as one whose accounts begin their ledgers.
pub const BACKUP_FORMAT: u32 = 2;

pub(super) const MAGIC: &[u8; 8] = b"MEMOSBAK";
const END_MAGIC: &[u8; 8] = b"MEMOSEND";
/// Magic, format, time.
const NAMED_BYTES: usize = 20;
const HEADER_BYTES: usize = 52;
const COUNTERS: usize = 7;
/// Counters, two hashes.
const COUNTED_BYTES: usize = 120;
const FOOTER_BYTES: usize = 164;
/// zstd's own default: half as fast again would save a tenth.
const LEVEL: i32 = 3;
/// 2 MiB: what a reader keeps in memory, and the most that it agrees to.
const WINDOW_LOG: u32 = 21;
/// What the compressor is given at a time, and the buffers of reading.
const CHUNK_BYTES: usize = 128 << 10;
/// How many of those may wait for it: 32 MiB, an account of 50,000 memories.
const CHUNKS_WAITING: usize = 256;
/// Longest key: nothing in the store has one beyond 43 bytes.
const KEY_BYTES_MAX: usize = 64;

/// What is in a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackupContents {
    /// Accounts.
    pub accounts: u64,
    /// Keys, revoked ones included.
    pub keys: u64,
    /// Memories of all accounts.
    pub memories: u64,
    /// Answers recorded under an `Idempotency-Key`.
    pub replays: u64,
    /// Records of all kinds.
    pub records: u64,
    /// Bytes of the records, before compression.
    pub bytes: u64,
    /// SHA-256 of the records: the same for the same data, whenever it was backed up.
    pub sha256: [u8; 32],
}

/// As an operator reads it, in lines.
impl fmt::Display for BackupContents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  accounts  {:>10}", self.accounts)?;
        writeln!(f, "  API keys  {:>10}, revoked ones too", self.keys)?;
        writeln!(f, "  memories  {:>10}", self.memories)?;
        writeln!(f, "  replays   {:>10}", self.replays)?;
        write!(f, "  sha256    {}", self.sha256_hex())
    }
}

/// Why a file is not taken for a backup. Each is one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// It does not begin as one.
    #[error("{0} is no backup of MemoryOS")]
    Foreign(String),
    /// It was written by a newer release.
    #[error(
        "the backup {path} has format {found}, this release knows format {known} at most; use a newer release"
    )]
    NewerFormat {
        /// The file.
        path: String,
        /// The format found.
        found: u32,
        /// The newest format that this release reads.
        known: u32,
    },
    /// Its end is not there.
    #[error("the backup {0} is cut off or damaged at its end; use another one")]
    CutOff(String),
    /// Something in it is not as it was written.
    #[error("the backup {path} is damaged: {what}; use another one")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        what: String,
    },
}

/// Counts and hashes what passes through.
#[derive(Debug)]
struct Tally<T> {
    inner: T,
    bytes: u64,
    hash: Sha256,
}

impl<T> Tally<T> {
    fn new(inner: T) -> Self {
        Self {
            inner,
            bytes: 0,
            hash: Sha256::new(),
        }
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.bytes = self
            .bytes
            .saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.hash.update(bytes);
    }

    fn end(self) -> (T, u64, [u8; 32]) {
        (self.inner, self.bytes, self.hash.finalize().into())
    }
}

impl<T: Write> Write for Tally<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.passed(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Tally<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.passed(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// Why a record was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum PutError {
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] io::Error),
    /// The record does not belong there: a reader would refuse it.
    #[error(transparent)]
    Record(#[from] StoreError),
}

/// Compresses on a thread of its own what is written to it, so that who reads records under a lock waits
/// for neither the compressor nor the disk, unless [`CHUNKS_WAITING`] are ahead of them.
struct Compressor<W: Write> {
    chunks: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<io::Result<Tally<W>>>>,
}

impl<W: Write + Send + 'static> Compressor<W> {
    fn start(mut encoder: zstd::Encoder<'static, Tally<W>>) -> io::Result<Self> {
        let (chunks, waiting) = sync_channel::<Vec<u8>>(CHUNKS_WAITING);
        let compress = move || {
            for chunk in waiting {
                encoder.write_all(&chunk)?;
            }
            encoder.finish()
        };
        let thread = std::thread::Builder::new().name("compressor".to_owned());
        Ok(Self {
            chunks: Some(chunks),
            thread: Some(thread.spawn(compress)?),
        })
    }
}

impl<W: Write> Compressor<W> {
    /// Waits until everything is compressed and written, or tells what went wrong.
    fn end(&mut self) -> io::Result<Tally<W>> {
        drop(self.chunks.take());
        let ended = self.thread.take().map(JoinHandle::join);
        ended
            .and_then(Result::ok)
            .unwrap_or_else(|| Err(io::Error::other("the compressor has ended")))
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.chunks.as_ref().map(|to| to.send(bytes.to_vec()));
        if !matches!(sent, Some(Ok(()))) {
            // It ends before it was asked to only if it could not write.
            self.end()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Given up before its end, it leaves no thread behind that still writes.
impl<W: Write> Drop for Compressor<W> {
    fn drop(&mut self) {
        if self.thread.is_some() {
            drop(self.end());
        }
    }
}

/// A backup that is being written.
pub(super) struct Writer<W: Write> {
    out: BufWriter<Tally<Compressor<W>>>,
    sequence: Sequence,
    contents: BackupContents,
}

impl<W: Write + Send + 'static> Writer<W> {
    /// Writes the header.
    pub(super) fn start(mut out: W, at: Timestamp) -> io::Result<Self> {
        let named = [
            MAGIC.as_slice(),
            &BACKUP_FORMAT.to_be_bytes(),
            &at.micros().to_be_bytes(),
        ]
        .concat();
        out.write_all(&named)?;
        out.write_all(&Sha256::digest(&named))?;
        let mut encoder = zstd::Encoder::new(Tally::new(out), LEVEL)?;
        encoder.include_checksum(true)?;
        encoder.window_log(WINDOW_LOG)?;
        Ok(Self {
            // What the compressor is given at a time depends on this buffer only.
            out: BufWriter::with_capacity(CHUNK_BYTES, Tally::new(Compressor::start(encoder)?)),
            sequence: Sequence::default(),
            contents: BackupContents::default(),
        })
    }

    /// Writes a record. Returns the pieces that must follow.
    pub(super) fn put(
        &mut self,
        kind: Kind,
        key: &[u8],
        value: &[u8],
    ) -> Result<Option<Pieces>, PutError> {
        let placed = self.sequence.next(kind, key, value)?;
        self.contents.count(&placed);
        let pieces = placed.pieces();
        let length = |bytes: &[u8]| {
            let length = u16::try_from(bytes.len());
            length.map_err(|_| StoreError::Corrupt("a record is too large".to_owned()))
        };
        let (key_bytes, value_bytes) = (length(key)?, length(value)?);
        self.out.write_all(&[kind.number()])?;
        self.out.write_all(&key_bytes.to_be_bytes())?;
        self.out.write_all(&value_bytes.to_be_bytes())?;
        self.out.write_all(key)?;
        self.out.write_all(value)?;
        Ok(pieces)
    }

    /// Writes the footer and returns what was written to, with what is in it.
    pub(super) fn finish(mut self) -> Result<(W, BackupContents), PutError> {
        self.sequence.end()?;
        let tally = self
            .out
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        let (mut compressor, bytes, sha256) = tally.end();
        let (mut out, packed_bytes, packed_sha256) = compressor.end()?.end();
        let contents = BackupContents {
            bytes,
            sha256,
            ..self.contents
        };
        let footer = Footer {
            contents,
            packed_bytes,
            packed_sha256,
        };
        out.write_all(&footer.to_bytes())?;
        Ok((out, contents))
    }
}

impl BackupContents {
    /// Returns the SHA-256 in hexadecimal.
    #[must_use]
    pub fn sha256_hex(&self) -> String {
        hex(&self.sha256)
    }

    fn count(&mut self, placed: &Placed<'_>) {
        let counter = match placed {
            Placed::Account(..) => Some(&mut self.accounts),
            Placed::Key(_) => Some(&mut self.keys),
            Placed::Memory(_) => Some(&mut self.memories),
            Placed::Replay(_) => Some(&mut self.replays),
            Placed::Usage(_)
            | Placed::Piece
            | Placed::Ledger
            | Placed::ErasedLedger
            | Placed::Audit
            | Placed::Plan => None,
        };
        if let Some(counter) = counter {
            *counter = counter.saturating_add(1);
        }
        self.records = self.records.saturating_add(1);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Footer {
    contents: BackupContents,
    packed_bytes: u64,
    packed_sha256: [u8; 32],
}

impl Footer {
    fn to_bytes(self) -> Vec<u8> {
        let contents = self.contents;
        let counters: [u64; COUNTERS] = [
            contents.accounts,
            contents.keys,
            contents.memories,
            contents.replays,
            contents.records,
            contents.bytes,
            self.packed_bytes,
        ];
        let mut bytes: Vec<u8> = counters.into_iter().flat_map(u64::to_be_bytes).collect();
        bytes.extend(contents.sha256);
        bytes.extend(self.packed_sha256);
        let digest = Sha256::digest(&bytes);
        bytes.extend(digest);
        bytes.extend(u32::try_from(FOOTER_BYTES).unwrap_or(0).to_be_bytes());
        bytes.extend(END_MAGIC);
        bytes
    }

    /// Reads a footer. `None` unless every byte is as [`Footer::to_bytes`] wrote it.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let counter = |n: usize| part(bytes, n.checked_mul(8)?).map(u64::from_be_bytes);
        let footer = Self {
            contents: BackupContents {
                accounts: counter(0)?,
                keys: counter(1)?,
                memories: counter(2)?,
                replays: counter(3)?,
                records: counter(4)?,
                bytes: counter(5)?,
                sha256: part(bytes, COUNTED_BYTES.checked_sub(64)?)?,
            },
            packed_bytes: counter(6)?,
            packed_sha256: part(bytes, COUNTED_BYTES.checked_sub(32)?)?,
        };
        (footer.to_bytes() == bytes).then_some(footer)
    }
}

/// A backup that is being read.
#[derive(Debug)]
pub(super) struct Archive {
    path: String,
    file: File,
    at: Timestamp,
    footer: Footer,
}

/// Why reading ended before the end.
#[derive(Debug)]
pub(super) enum ReadError<E> {
    /// The file is not as it was written.
    Archive(ArchiveError),
    /// The visitor stopped.
    Visitor(E),
}

impl Archive {
    /// Opens a file and checks its two ends.
    pub(super) fn open(path: &Path) -> Result<Self, ArchiveError> {
        let display = path.display().to_string();
        let failed = |source| ArchiveError::File {
            path: display.clone(),
            source,
        };
        // Opening a pipe would wait for somebody to write to it.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return Err(ArchiveError::Foreign(display));
        }
        let mut file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut header = Vec::with_capacity(HEADER_BYTES);
        let wanted = u64::try_from(HEADER_BYTES).unwrap_or(0);
        (&file)
            .take(wanted)
            .read_to_end(&mut header)
            .map_err(failed)?;
        if !header.starts_with(MAGIC) {
            return Err(ArchiveError::Foreign(display));
        }
        let cut_off = || ArchiveError::CutOff(display.clone());
        let named = header.get(..NAMED_BYTES).ok_or_else(cut_off)?;
        let digest: [u8; 32] = part(&header, NAMED_BYTES).ok_or_else(cut_off)?;
        if *Sha256::digest(named) != digest {
            return Err(ArchiveError::Damaged {
                path: display,
                what: "its header does not fit its checksum".to_owned(),
            });
        }
        let found = part(named, 8).map(u32::from_be_bytes).ok_or_else(cut_off)?;
        if found == 0 {
            return Err(ArchiveError::Foreign(display));
        }
        if found > BACKUP_FORMAT {
            return Err(ArchiveError::NewerFormat {
                path: display,
                found,
                known: BACKUP_FORMAT,
            });
        }
        let at = part(named, 12)
            .map(i64::from_be_bytes)
            .ok_or_else(cut_off)?;
        let footer_bytes = u64::try_from(FOOTER_BYTES).unwrap_or(0);
        let footer_at = length
            .checked_sub(footer_bytes)
            .filter(|at| *at >= wanted)
            .ok_or_else(cut_off)?;
        file.seek(SeekFrom::Start(footer_at)).map_err(failed)?;
        let mut bytes = Vec::with_capacity(FOOTER_BYTES);
        (&file)
            .take(footer_bytes)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        let footer = Footer::parse(&bytes)
            .filter(|footer| wanted.checked_add(footer.packed_bytes) == Some(footer_at))
            .ok_or_else(cut_off)?;
        Ok(Self {
            path: display,
            file,
            at: Timestamp::from_micros(at),
            footer,
        })
    }

    /// Returns when the backup was taken.
    pub(super) const fn at(&self) -> Timestamp {
        self.at
    }

    /// Returns what the footer says is in it.
    pub(super) const fn contents(&self) -> BackupContents {
        self.footer.contents
    }

    /// Reads every record, in order and in its place, then holds the whole against the footer.
    ///
    /// What the visitor sees is not proved before the end.
    pub(super) fn read<E>(
        &mut self,
        mut visit: impl FnMut(Kind, &[u8], &[u8], Placed<'_>) -> Result<(), E>,
    ) -> Result<(), ReadError<E>> {
        let path = self.path.clone();
        let damaged = |what: String| {
            let path = path.clone();
            ReadError::Archive(ArchiveError::Damaged { path, what })
        };
        let unreadable = |error: io::Error| damaged(format!("it cannot be read on: {error}"));
        let start = u64::try_from(HEADER_BYTES).unwrap_or(0);
        self.file.seek(SeekFrom::Start(start)).map_err(unreadable)?;
        let packed = Tally::new((&self.file).take(self.footer.packed_bytes));
        let packed = BufReader::with_capacity(CHUNK_BYTES, packed);
        let mut decoder = zstd::Decoder::with_buffer(packed)
            .map_err(unreadable)?
            .single_frame();
        decoder.window_log_max(WINDOW_LOG).map_err(unreadable)?;
        let mut records = BufReader::with_capacity(CHUNK_BYTES, Tally::new(decoder));
        let mut sequence = Sequence::default();
        let mut seen = BackupContents::default();
        let (mut key, mut value) = (Vec::new(), Vec::new());
        while !records.fill_buf().map_err(unreadable)?.is_empty() {
            let kind = read_record(&mut records, &mut key, &mut value).map_err(unreadable)?;
            let kind = kind.ok_or_else(|| damaged("a record has no known kind".to_owned()))?;
            let placed = sequence.next(kind, &key, &value);
            let placed = placed.map_err(|error| damaged(error.to_string()))?;
            seen.count(&placed);
            visit(kind, &key, &value, placed).map_err(ReadError::Visitor)?;
        }
        sequence.end().map_err(|error| damaged(error.to_string()))?;
        let (decoder, bytes, sha256) = records.into_inner().end();
        let mut packed = decoder.finish();
        let rest = packed.fill_buf().map_err(unreadable)?.len();
        let (_, packed_bytes, packed_sha256) = packed.into_inner().end();
        let found = Footer {
            contents: BackupContents {
                bytes,
                sha256,
                ..seen
            },
            packed_bytes,
            packed_sha256,
        };
        if rest > 0 || found != self.footer {
            let what = "what is in it does not fit its checksums".to_owned();
            return Err(damaged(what));
        }
        Ok(())
    }
}

/// Reads a record into `key` and `value`. `None` if nothing has its kind.
fn read_record(
    from: &mut impl Read,
    key: &mut Vec<u8>,
    value: &mut Vec<u8>,
) -> io::Result<Option<Kind>> {
    let mut head = [0; 5];
    from.read_exact(&mut head)?;
    let [kind, a, b, c, d] = head;
    let lengths = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])].map(usize::from);
    let [key_bytes, value_bytes] = lengths;
    if key_bytes > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX {
        return Err(io::Error::other("a record is too large"));
    }
    key.resize(key_bytes, 0);
    value.resize(value_bytes, 0);
    from.read_exact(key)?;
    from.read_exact(value)?;
    Ok(Kind::of_number(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::plan::Plan;
    use crate::domain::usage::Usage;
    use crate::store::codec::encode;
    use crate::store::schema::AccountRecord;
    use crate::store::testing::NOW;

    /// The records of one account, framed.
    fn records() -> (Vec<u8>, BackupContents) {
        let users = AccountRecord::new(None, NOW, vec![]);
        let usage = Usage::new(Plan::FREE, NOW);
        let mut bytes = Vec::new();
        for (kind, value) in [
            (Kind::Account, encode(&users).unwrap()),
            (Kind::Usage, encode(&usage).unwrap()),
        ] {
            let length = u8::try_from(value.len()).unwrap();
            bytes.extend([kind.number(), 0, 16, 0, length]);
            bytes.extend([7; 16]);
            bytes.extend(value);
        }
        let contents = BackupContents {
            accounts: 1,
            records: 2,
            bytes: bytes.len() as u64,
            sha256: Sha256::digest(&bytes).into(),
            ..BackupContents::default()
        };
        (bytes, contents)
    }

    fn frame(bytes: &[u8], window_log: u32) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Writes a file around this frame whose checksums are all right, and reads it.
    fn read(frame: &[u8], contents: BackupContents) -> Result<u64, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.backup");
        let mut bytes = MAGIC.to_vec();
        bytes.extend(BACKUP_FORMAT.to_be_bytes());
        bytes.extend(NOW.micros().to_be_bytes());
        bytes.extend(Sha256::digest(&bytes));
        bytes.extend(frame);
        let footer = Footer {
            contents,
            packed_bytes: frame.len() as u64,
            packed_sha256: Sha256::digest(frame).into(),
        };
        bytes.extend(footer.to_bytes());
        std::fs::write(&path, bytes).unwrap();
        let mut read = 0;
        let mut archive = Archive::open(&path).map_err(|error| error.to_string())?;
        let outcome = archive.read(|_, _, _, _| {
            read += 1;
            Ok::<_, std::convert::Infallible>(())
        });
        match outcome {
            Ok(()) => Ok(read),
            Err(ReadError::Archive(error)) => Err(error.to_string()),
            Err(ReadError::Visitor(never)) => match never {},
        }
    }

    /// Shows that a file made by hand with right checksums is read, and refused if it wants more memory than
    /// ours do, has a second frame, counts that are wrong, or ends inside a record.
    #[test]
    fn right_checksums_are_not_enough() {
        let (bytes, contents) = records();
        assert_eq!(read(&frame(&bytes, WINDOW_LOG), contents), Ok(2));
        let hungry = read(&frame(&bytes, WINDOW_LOG + 1), contents).unwrap_err();
        assert!(hungry.contains("memory"), "{hungry}");
        let two = [frame(&bytes, WINDOW_LOG), frame(&bytes, WINDOW_LOG)].concat();
        assert!(read(&two, contents).is_err());
        let other = BackupContents {
            accounts: 2,
            ..contents
        };
        let wrong = read(&frame(&bytes, WINDOW_LOG), other).unwrap_err();
        assert!(wrong.contains("does not fit its checksums"), "{wrong}");
        for cut in 1..bytes.len() {
            let part = frame(&bytes[..cut], WINDOW_LOG);
            assert!(read(&part, contents).is_err(), "cut at {cut}");
        }
    }

    /// Shows that 64 MiB of nothing in a few kilobytes is refused at its first record.
    #[test]
    fn a_bomb_is_refused_at_its_first_record() {
        let frame = frame(&vec![0; 64 << 20], WINDOW_LOG);
        assert!(frame.len() < 64 << 10, "{} bytes are no bomb", frame.len());
        let refused = read(&frame, BackupContents::default()).unwrap_err();
        assert!(refused.contains("no known kind"), "{refused}");
    }
}
