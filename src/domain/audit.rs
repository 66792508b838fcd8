//! The audit log: rows chained by SHA-256, each to the one before.
//!
//! Whoever changes, removes or moves a row breaks the chain from there on. Whoever can write every file
//! can also make a whole new chain: so the log is tamper-evident to those who have written down a head,
//! and not tamper-proof.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::account::AccountKey;
use super::event::{Event, RequestId};
use super::time::Timestamp;

/// What the first row follows.
pub const GENESIS: [u8; 32] = [0; 32];

/// A row of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its number: 1 for the first, without gaps.
    pub no: u64,
    /// When it happened.
    pub at: Timestamp,
    /// To which account; `None` if to none.
    pub account: Option<AccountKey>,
    /// Who did it: a key id, `admin`, `operator`, `service`, `nobody`.
    pub actor: String,
    /// What happened.
    pub action: String,
    /// What else is known of it: a JSON object.
    pub details: String,
    /// Why, in the words of an admin.
    pub reason: Option<String>,
    /// By which request.
    pub request: Option<RequestId>,
    /// SHA-256 over the fields above and the hash of the row before.
    pub hash: [u8; 32],
}

impl AuditEntry {
    /// Returns the row of an event after the row `previous` with that hash.
    #[must_use]
    pub fn after(
        (no, previous): (u64, &[u8; 32]),
        account: Option<AccountKey>,
        event: &Event,
    ) -> Self {
        let mut entry = Self {
            no: no.saturating_add(1),
            at: event.at,
            account,
            actor: event.cause.actor.to_string(),
            action: event.kind.name().to_owned(),
            details: event.kind.details().to_string(),
            reason: event.cause.reason.clone(),
            request: event.cause.request,
            hash: GENESIS,
        };
        entry.hash = entry.hash_after(previous);
        entry
    }

    /// Returns the hash that the row must have after a row with the hash `previous`.
    ///
    /// The fields, each after its length in bytes as 64 bits big-endian: previous hash, number (64 bits
    /// big-endian), time (microseconds since the Unix epoch, likewise), account (16 bytes or none), actor,
    /// action, details, reason (nothing if there is none), request id (text, or nothing).
    #[must_use]
    pub fn hash_after(&self, previous: &[u8; 32]) -> [u8; 32] {
        let request = self.request.map(|id| id.to_string()).unwrap_or_default();
        let account = self.account.map(|account| account.0);
        let fields: [&[u8]; 9] = [
            previous,
            &self.no.to_be_bytes(),
            &self.at.micros().to_be_bytes(),
            account.as_ref().map_or(&[], |bytes| bytes.as_slice()),
            self.actor.as_bytes(),
            self.action.as_bytes(),
            self.details.as_bytes(),
            self.reason.as_deref().unwrap_or_default().as_bytes(),
            request.as_bytes(),
        ];
        let mut hash = Sha256::new();
        for field in fields {
            let length = u64::try_from(field.len()).unwrap_or(u64::MAX);
            hash.update(length.to_be_bytes());
            hash.update(field);
        }
        hash.finalize().into()
    }
}

/// The place in the log where rows stop being what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row {no}: {what}")]
pub struct ChainBreak {
    /// The first row that is wrong, or missing.
    pub no: u64,
    /// What is wrong with it.
    pub what: String,
}

/// The proof of a chain, row by row from the first.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    /// Number of the last row; 0 before the first.
    pub no: u64,
    /// Its hash; [`GENESIS`] before the first.
    pub hash: [u8; 32],
}

impl Chain {
    /// Begins before the first row.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            no: 0,
            hash: GENESIS,
        }
    }

    /// Takes the next row, which was found under the number `key`.
    ///
    /// # Errors
    ///
    /// [`ChainBreak`] if a row is missing before it, if it is another row, or if its hash does not follow
    /// from its fields and the row before.
    pub fn follow(&mut self, key: u64, row: &AuditEntry) -> Result<(), ChainBreak> {
        let no = self.no.saturating_add(1);
        let broken = |what: String| Err(ChainBreak { no, what });
        if key != no {
            return broken(format!("it is missing; the next one is row {key}"));
        }
        if row.no != no {
            return broken(format!("row {} is in its place", row.no));
        }
        if row.hash != row.hash_after(&self.hash) {
            return broken(
                "its hash does not follow from its fields and the row before".to_owned(),
            );
        }
        (self.no, self.hash) = (no, row.hash);
        Ok(())
    }
}

impl Default for Chain {
    fn default() -> Self {
        Self::new()
    }
}

/// A row's number and hash, written down by somebody outside: `NO:HASH`, as the log and `GET /admin/audit`
/// tell it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AuditHead {
    /// The row's number; 0 for a log without rows.
    pub no: u64,
    /// Its hash.
    pub hash: [u8; 32],
}

impl AuditHead {
    /// Parses `NO:HASH`, the hash in hexadecimal of any case. `None` if it is not that.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (no, hex) = text.trim().split_once(':')?;
        let is_number = !no.is_empty() && no.bytes().all(|b| b.is_ascii_digit());
        if !is_number || hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut hash = [0; 32];
        for (n, byte) in hash.iter_mut().enumerate() {
            let from = n.checked_mul(2)?;
            *byte = u8::from_str_radix(hex.get(from..from.checked_add(2)?)?, 16).ok()?;
        }
        Some(Self {
            no: no.parse().ok()?,
            hash,
        })
    }

    /// Returns the hash in hexadecimal, lower case.
    #[must_use]
    pub fn hash_hex(&self) -> String {
        hex(&self.hash)
    }
}

impl std::fmt::Display for AuditHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.no, hex(&self.hash))
    }
}

impl std::fmt::Debug for AuditHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// Returns a hash in hexadecimal, lower case.
#[must_use]
pub fn hex(hash: &[u8; 32]) -> String {
    use std::fmt::Write;
    hash.iter().fold(String::with_capacity(64), |mut text, b| {
        // Writing to a string does not fail.
        let _ = write!(text, "{b:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::{Cause, EventKind};

    fn event(kind: EventKind, reason: Option<&str>) -> Event {
        Event {
            no: 1,
            at: Timestamp::from_micros(7),
            cause: Cause {
                reason: reason.map(str::to_owned),
                ..Cause::service()
            },
            kind,
        }
    }

    #[test]
    fn every_field_is_in_the_hash() {
        // Shows that a change of any field, and of the row before, changes the hash.
        let row = AuditEntry::after((0, &GENESIS), None, &event(EventKind::Suspended, None));
        assert_eq!((row.no, row.hash), (1, row.hash_after(&GENESIS)));
        let changes: [fn(&mut AuditEntry); 8] = [
            |row| row.no += 1,
            |row| row.at = Timestamp::from_micros(8),
            |row| row.account = Some(AccountKey([0; 16])),
            |row| row.actor.push('x'),
            |row| row.action.push('x'),
            |row| row.details.push('x'),
            |row| row.reason = Some("x".to_owned()),
            |row| row.request = Some(RequestId::new(1, 1)),
        ];
        for change in changes {
            let mut other = row.clone();
            change(&mut other);
            assert_ne!(other.hash_after(&GENESIS), row.hash, "{other:?}");
        }
        assert_ne!(row.hash_after(&row.hash), row.hash);
    }

    #[test]
    fn a_byte_cannot_move_from_a_field_to_the_next() {
        let mut row = AuditEntry::after((0, &GENESIS), None, &event(EventKind::Suspended, None));
        (row.actor, row.action) = ("ab".to_owned(), "c".to_owned());
        let one = row.hash_after(&GENESIS);
        (row.actor, row.action) = ("a".to_owned(), "bc".to_owned());
        assert_ne!(row.hash_after(&GENESIS), one);
    }

    /// The first three rows of a log, by number.
    fn three() -> Vec<(u64, AuditEntry)> {
        let mut chain = Chain::new();
        let mut rows = Vec::new();
        for kind in [
            EventKind::Suspended,
            EventKind::Reactivated,
            EventKind::EmailChanged,
        ] {
            let row = AuditEntry::after((chain.no, &chain.hash), None, &event(kind, Some("why")));
            chain.follow(row.no, &row).unwrap();
            rows.push((row.no, row));
        }
        rows
    }

    fn first_break(rows: &[(u64, AuditEntry)]) -> Option<(u64, String)> {
        let mut chain = Chain::new();
        let broken = rows
            .iter()
            .find_map(|(key, row)| chain.follow(*key, row).err());
        broken.map(|ChainBreak { no, what }| (no, what))
    }

    #[test]
    fn a_chain_breaks_at_the_row_that_was_touched() {
        // Shows for each way to tamper which row is named: a changed one, a removed one, the first one
        // removed, two that changed places with and without their numbers.
        assert_eq!(first_break(&three()), None);
        let mut changed = three();
        changed[1].1.reason = Some("another".to_owned());
        assert_eq!(first_break(&changed).unwrap().0, 2);
        let mut removed = three();
        removed.remove(1);
        let missing = "it is missing; the next one is row 3".to_owned();
        assert_eq!(first_break(&removed), Some((2, missing)));
        let mut beheaded = three();
        beheaded.remove(0);
        assert_eq!(first_break(&beheaded).unwrap().0, 1);
        let mut swapped = three();
        let second = swapped[1].1.clone();
        swapped[1].1 = swapped[2].1.clone();
        swapped[2].1 = second;
        let in_place = "row 3 is in its place".to_owned();
        assert_eq!(first_break(&swapped), Some((2, in_place)));
        (swapped[1].1.no, swapped[2].1.no) = (2, 3);
        assert_eq!(first_break(&swapped).unwrap().0, 2);
    }

    #[test]
    fn a_head_is_a_number_and_a_hash() {
        // Shows that what is printed is read again, and that nothing else is.
        let head = AuditHead {
            no: 12,
            hash: three()[2].1.hash,
        };
        assert_eq!(AuditHead::parse(&format!(" {head}\n")), Some(head));
        assert_eq!(
            AuditHead::parse(&head.to_string().to_uppercase()),
            Some(head)
        );
        let hash = head.hash_hex();
        for text in [
            "",
            "12",
            ":",
            &hash,
            &format!("-1:{hash}"),
            &format!("+1:{hash}"),
            &format!("1:{}", &hash[1..]),
            &format!("1:{hash}0"),
            &format!("1:{}é", &hash[2..]),
        ] {
            assert_eq!(AuditHead::parse(text), None, "{text}");
        }
    }
}
