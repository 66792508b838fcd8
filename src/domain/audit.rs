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
}
