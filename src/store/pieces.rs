//! Values too long for one record, kept in pieces under a revision.
//!
//! The pieces of a new revision are written first, then the record that names it is swapped in, then
//! the old pieces go: whoever finds the record finds all its pieces.

use super::codec::{unversioned, versioned};
use super::error::StoreError;
use super::schema::{join, part};

/// Largest text that stays in its own record, beside what else is in it.
pub(crate) const INLINE_BYTES_MAX: usize = 6_000;
/// Bytes of one piece.
const PIECE_BYTES: usize = 7_000;

/// What a long value belongs to: a tag and 32 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner([u8; 33]);

impl Owner {
    /// What the keys of all pieces of aggregates start with; an account follows.
    pub(super) const STATS_TAG: &[u8] = b"s";
    /// What the keys of pieces start with; an account follows each.
    pub(super) const TAGS: [&[u8]; 3] = [b"m", b"r", Self::STATS_TAG];

    /// The JSON of a memory, by its key in `memories`.
    pub(super) fn memory(key: [u8; 32]) -> Self {
        Self(join(*b"m", key))
    }

    /// The body of a recorded answer, by its key in `replays`.
    pub(super) fn replay(key: [u8; 32]) -> Self {
        Self(join(*b"r", key))
    }

    /// The aggregates of an account.
    pub(super) fn stats(account: [u8; 16]) -> Self {
        Self(join(*b"s", join::<16, 16, 32>(account, [0; 16])))
    }

    /// The prefix of all its pieces.
    pub(super) fn prefix(self) -> [u8; 33] {
        self.0
    }

    pub(super) fn piece(self, revision: u64, number: u16) -> [u8; 43] {
        join(
            self.0,
            join::<8, 2, 10>(revision.to_be_bytes(), number.to_be_bytes()),
        )
    }
}

/// Writes a value in pieces and returns how many.
pub(crate) fn write(
    tree: &sled::Tree,
    owner: Owner,
    revision: u64,
    value: &[u8],
) -> Result<u16, StoreError> {
    let mut count = 0u16;
    for piece in value.chunks(PIECE_BYTES) {
        tree.insert(owner.piece(revision, count), versioned(piece))?;
        count = count
            .checked_add(1)
            .ok_or_else(|| StoreError::Corrupt("a value has too many pieces".to_owned()))?;
    }
    Ok(count)
}

/// Reads a value of `count` pieces. `None` if one is gone: a newer revision took its place meanwhile.
pub(crate) fn read(
    tree: &sled::Tree,
    owner: Owner,
    revision: u64,
    count: u16,
) -> Result<Option<Vec<u8>>, StoreError> {
    let mut value = Vec::with_capacity(usize::from(count).saturating_mul(PIECE_BYTES));
    for number in 0..count {
        match tree.get(owner.piece(revision, number))? {
            Some(piece) => value.extend_from_slice(unversioned(&piece)?),
            None => return Ok(None),
        }
    }
    Ok(Some(value))
}

/// Returns the revision of a piece, from its key.
pub(crate) fn revision(key: &[u8]) -> Option<u64> {
    part(key, 33).map(u64::from_be_bytes)
}

/// Removes the pieces of every revision but `keep`.
pub(crate) fn remove_others(
    tree: &sled::Tree,
    owner: Owner,
    keep: Option<u64>,
) -> Result<(), StoreError> {
    for key in tree.scan_prefix(owner.0).keys() {
        let key = key?;
        if keep.is_none() || revision(&key) != keep {
            tree.remove(&key)?;
        }
    }
    Ok(())
}
