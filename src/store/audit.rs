//! The audit log's tree: events handed over, in order, from the records that carry them.
//!
//! One thread at a time appends. A record's events are appended and then dropped from it by a swap, a few
//! at a time; after a crash between the two, the log's last rows say which events they are of.

use std::collections::HashSet;

use crate::domain::account::AccountKey;
use crate::domain::audit::{AuditEntry, GENESIS};
use crate::domain::event::{Cause, Event, EventKind};
use crate::domain::time::Timestamp;

use super::codec::{decode, encode};
use super::locks::lock;
use super::schema::{AccountRecord, AuditRow, Carrier};
use super::{Inner, Store, StoreError};

/// Events of a record that are appended before they are dropped from it.
const BATCH: usize = 16;

/// The end of the log.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Number of the last row; 0 if there is none.
    no: u64,
    /// Its hash.
    hash: [u8; 32],
    /// The events of the last rows, on open: a crash may have left them in their records.
    recent: HashSet<(AccountKey, Carrier, u64)>,
}

impl Head {
    /// Reads the end of the log.
    pub(super) fn read(audit: &sled::Tree) -> Result<Self, StoreError> {
        let mut head = Self {
            no: 0,
            hash: GENESIS,
            recent: HashSet::new(),
        };
        for row in audit.iter().values().rev().take(BATCH) {
            let row: AuditRow = decode(&row?)?;
            if head.no == 0 {
                (head.no, head.hash) = (row.entry.no, row.entry.hash);
            }
            if let Some(account) = row.entry.account {
                head.recent.insert((account, row.carrier, row.event_no));
            }
        }
        Ok(head)
    }
}

impl Store {
    /// Puts something into the audit log that changed no record. Durable within 500 ms.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if nothing can be written.
    pub fn record_event(
        &self,
        account: Option<AccountKey>,
        at: Timestamp,
        cause: Cause,
        kind: EventKind,
    ) -> Result<(), StoreError> {
        let inner = self.inner()?;
        inner.takes_writes()?;
        let event = Event {
            no: 0,
            at,
            cause,
            kind,
        };
        let mut head = lock(&inner.audit);
        inner.append(&mut head, account, Carrier::Nothing, &event)?;
        drop(head);
        inner.committer.mark_dirty();
        Ok(())
    }

    /// Returns the number and the hash of the audit log's last row; 0 and zeros if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`] while the database is being opened anew.
    pub fn audit_head(&self) -> Result<(u64, [u8; 32]), StoreError> {
        Ok(self.inner()?.audit_head())
    }
}

impl Inner {
    /// As [`Store::audit_head`].
    pub(super) fn audit_head(&self) -> (u64, [u8; 32]) {
        let head = lock(&self.audit);
        (head.no, head.hash)
    }

    /// Says that no record carries an event any more that is in the log: on open, once all are handed over.
    ///
    /// From then on the numbers of events tell nothing of the log: those of an account that was restored are
    /// given again, while the log that was backed up after it has the later ones.
    pub(super) fn all_handed_over(&self) {
        lock(&self.audit).recent.clear();
    }

    /// Moves the events that an account's records carry to where they are kept: those that are audited to the
    /// log, those that receivers of webhooks want to the outbox. Beside debits, and beside itself.
    pub(super) fn hand_over(&self, account: AccountKey) -> Result<(), StoreError> {
        let mut head = lock(&self.audit);
        loop {
            let Some(record) = self.trees.users.get(account.0)? else {
                return Ok(());
            };
            let record: AccountRecord = decode(&record)?;
            let events = record.events.events;
            let Some(through) = self.pass_on(&mut head, account, Carrier::Account, &events)? else {
                break;
            };
            self.swap_account::<std::convert::Infallible>(account, |account| {
                account.events.moved(through);
            })
            .map_err(StoreError::of_swap)?;
        }
        loop {
            let events = self.usage(account)?.events.events;
            let Some(through) = self.pass_on(&mut head, account, Carrier::Usage, &events)? else {
                return Ok(());
            };
            self.swap_tail(account, |usage| usage.events.moved(through))?;
        }
    }

    /// Passes on the first few events. Returns the number of the last; `None` if there are none.
    fn pass_on(
        &self,
        head: &mut Head,
        account: AccountKey,
        carrier: Carrier,
        events: &[Event],
    ) -> Result<Option<u64>, StoreError> {
        let mut through = None;
        for event in events.iter().take(BATCH) {
            let is_there = head.recent.contains(&(account, carrier, event.no));
            if event.kind.is_audited() && !is_there {
                self.append(head, Some(account), carrier, event)?;
            }
            self.enqueue(account, carrier, event)?;
            through = Some(event.no);
        }
        Ok(through)
    }

    fn append(
        &self,
        head: &mut Head,
        account: Option<AccountKey>,
        carrier: Carrier,
        event: &Event,
    ) -> Result<(), StoreError> {
        let entry = AuditEntry::after((head.no, &head.hash), account, event);
        let (no, hash) = (entry.no, entry.hash);
        let row = AuditRow {
            entry,
            carrier,
            event_no: event.no,
        };
        self.trees.audit.insert(no.to_be_bytes(), encode(&row)?)?;
        (head.no, head.hash) = (no, hash);
        Ok(())
    }
}
