//! The audit log's tree: events handed over, in order, from the records that carry them.
//!
//! One thread at a time appends. A record's events are appended and then dropped from it by a swap, a few
//! at a time; after a crash between the two, the log's last rows say which events they are of. So nobody
//! appends after a write has failed: what is not dropped yet must be among the last rows.

use std::collections::HashSet;

use crate::domain::account::AccountKey;
use crate::domain::audit::{AuditEntry, AuditHead, GENESIS};
use crate::domain::event::{Cause, Event, EventKind};
use crate::domain::time::Timestamp;

use super::codec::{decode, encode};
use super::locks::lock;
use super::recovery::OnDamage;
use super::schema::{AccountRecord, AuditRow, Carrier, Trees, op_key};
use super::{Inner, Store, StoreError};

/// Events of a record that are appended before they are dropped from it.
const BATCH: usize = 16;

/// The end of the log.
#[derive(Debug)]
pub(super) struct Head {
    /// Number of the last row; 0 if there is none.
    no: u64,
    /// Its hash.
    hash: [u8; 32],
    /// Its time; `None` if there is no row.
    at: Option<Timestamp>,
    /// The latest time of any row.
    latest: Timestamp,
    /// Events that are in the log and may still be in their records: those of the last rows on open, for a crash
    /// may have left them there, and those of a swap that failed.
    recent: HashSet<(AccountKey, Carrier, u64)>,
    /// Whether one of the last rows cannot be read: nothing can be chained to it.
    is_damaged: bool,
}

impl Head {
    /// Reads the end of the log.
    pub(super) fn read(audit: &sled::Tree, damage: OnDamage) -> Result<Self, StoreError> {
        let mut head = Self {
            no: 0,
            hash: GENESIS,
            at: None,
            latest: Timestamp::from_micros(i64::MIN),
            recent: HashSet::new(),
            is_damaged: false,
        };
        for (n, row) in audit.iter().rev().take(BATCH).enumerate() {
            let (key, row) = row?;
            let row = number(&key).and_then(|no| Ok((no, decode::<AuditRow>(&row)?)));
            let Some((no, row)) = damage.judge(row)? else {
                head.is_damaged = true;
                continue;
            };
            if n == 0 {
                (head.no, head.hash, head.at) = (no, row.entry.hash, Some(row.entry.at));
                head.latest = row.latest.max(row.entry.at);
            }
            if let Some(account) = row.entry.account {
                head.recent.insert((account, row.carrier, row.event_no));
            }
        }
        Ok(head)
    }

    /// Forgets which events of a record are in the log: none of them is in the record any more.
    fn forget(&mut self, account: AccountKey, carrier: Carrier) {
        self.recent
            .retain(|(of, by, _)| (*of, *by) != (account, carrier));
    }

    /// Appends the row of an event, then its account's index entry: one of which a crash left no row would be of
    /// whoever's row gets its number. The entry of the last row is put back on open.
    fn append(
        &mut self,
        trees: &Trees,
        account: Option<AccountKey>,
        carrier: Carrier,
        event: &Event,
    ) -> Result<(), StoreError> {
        if self.is_damaged {
            let damaged = "the last rows of the audit log cannot be read";
            return Err(StoreError::Corrupt(damaged.to_owned()));
        }
        let entry = AuditEntry::after((self.no, &self.hash), account, event);
        let (no, hash, at) = (entry.no, entry.hash, entry.at);
        let latest = self.latest.max(at);
        let row = AuditRow {
            entry,
            carrier,
            event_no: event.no,
            latest,
        };
        let row = encode(&row)?;
        trees.audit.insert(no.to_be_bytes(), row)?;
        if let Some(account) = account {
            trees.audit_accounts.insert(op_key(account, no), &[])?;
        }
        (self.no, self.hash, self.at, self.latest) = (no, hash, Some(at), latest);
        Ok(())
    }
}

/// Returns the number of a row from its key.
pub(super) fn number(key: &[u8]) -> Result<u64, StoreError> {
    let bytes = key.try_into().map(u64::from_be_bytes);
    bytes.map_err(|_| StoreError::Corrupt("a key of the tree audit is not 8 bytes".to_owned()))
}

/// Derives the index of rows by account if there is none, for a backup leaves it out; else the entry of the last
/// row, which a crash may have kept from being written.
pub(super) fn index_accounts(trees: &Trees, damage: OnDamage) -> Result<(), StoreError> {
    let wanted = if trees.audit_accounts.is_empty() {
        usize::MAX
    } else {
        1
    };
    for row in trees.audit.iter().rev().take(wanted) {
        let (key, row) = row?;
        let row = number(&key).and_then(|no| Ok((no, decode::<AuditRow>(&row)?)));
        if let Some((no, row)) = damage.judge(row)?
            && let Some(account) = row.entry.account
        {
            trees.audit_accounts.insert(op_key(account, no), &[])?;
        }
    }
    Ok(())
}

/// Puts what was done to a directory into the log of its database, which nobody else has open.
pub(super) fn record_in(
    trees: &Trees,
    at: Timestamp,
    cause: Cause,
    kind: EventKind,
) -> Result<(), StoreError> {
    let event = Event {
        no: 0,
        at,
        cause,
        kind,
    };
    Head::read(&trees.audit, OnDamage::Stop)?.append(trees, None, Carrier::Nothing, &event)
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
        let event = Event {
            no: 0,
            at,
            cause,
            kind,
        };
        inner.takes_writes()?;
        inner.append(&mut lock(&inner.audit), account, Carrier::Nothing, &event)?;
        inner.committer.mark_dirty();
        Ok(())
    }

    /// Returns the number and the hash of the audit log's last row; 0 and zeros if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`] while the database is being opened anew.
    pub fn audit_head(&self) -> Result<AuditHead, StoreError> {
        Ok(self.inner()?.audit_head())
    }

    /// Returns the time of the audit log's last row; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`] while the database is being opened anew.
    pub fn audit_last_at(&self) -> Result<Option<Timestamp>, StoreError> {
        let inner = self.inner()?;
        let at = lock(&inner.audit).at;
        Ok(at)
    }
}

impl Inner {
    pub(super) fn audit_head(&self) -> AuditHead {
        let head = lock(&self.audit);
        AuditHead {
            no: head.no,
            hash: head.hash,
        }
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
            drop_events(|| {
                self.swap_account::<std::convert::Infallible>(account, |account| {
                    account.events.moved(through);
                })
                .map_err(StoreError::of_swap)
            })?;
            head.forget(account, Carrier::Account);
        }
        loop {
            let events = self.usage(account)?.events.events;
            let Some(through) = self.pass_on(&mut head, account, Carrier::Usage, &events)? else {
                return Ok(());
            };
            drop_events(|| self.swap_tail(account, |usage| usage.events.moved(through)))?;
            head.forget(account, Carrier::Usage);
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
            let is_new = !head.recent.contains(&(account, carrier, event.no));
            if event.kind.is_audited() && is_new {
                self.append(head, Some(account), carrier, event)?;
                head.recent.insert((account, carrier, event.no));
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
        // Not the space that is left: what was admitted is brought to its end.
        if self.committer.is_poisoned() {
            return Err(StoreError::Unavailable);
        }
        let appended = head.append(&self.trees, account, carrier, event);
        if let Err(StoreError::Database(error @ sled::Error::Io(_))) = &appended {
            self.committer.poison(error);
        }
        appended
    }
}

/// Drops events from their record by `swap`. Until they are dropped nothing else may be appended, so a race
/// that was lost to debits is run again, for however long.
fn drop_events(mut swap: impl FnMut() -> Result<(), StoreError>) -> Result<(), StoreError> {
    loop {
        match swap() {
            Err(StoreError::Overloaded) => std::thread::yield_now(),
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests;
