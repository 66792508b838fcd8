//! The audit log, read: pages of it, newest first, and the proof of the whole.

use std::ops::ControlFlow;

use crate::domain::account::AccountKey;
use crate::domain::audit::{AuditEntry, AuditHead, Chain, ChainBreak};
use crate::domain::time::Timestamp;

use super::audit::number;
use super::codec::decode;
use super::schema::{AuditRow, op_key, part};
use super::{Inner, Store, StoreError};

/// Rows that a page looks at, at most: it may end before it is full, and say where to go on.
const LOOKS_MAX: usize = 1_000;

/// Which rows are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct AuditFilter {
    /// Those of this account; of all, and of none, if `None`.
    pub account: Option<AccountKey>,
    /// Those of this time or later.
    pub from: Option<Timestamp>,
}

/// A row of the log as it is shown.
#[derive(Clone, Debug)]
pub struct AuditItem {
    /// The row.
    pub entry: AuditEntry,
    /// Its account's public id, as it is now; `None` if it tells of no account or of one that is gone.
    pub account_id: Option<String>,
}

/// Rows of the log, newest first.
#[derive(Clone, Debug)]
pub struct AuditPage {
    /// The rows.
    pub rows: Vec<AuditItem>,
    /// Where to go on: the number that the next rows are below. `None` if there are no more.
    pub next: Option<u64>,
    /// The end of the log, from before the rows were read.
    pub head: AuditHead,
}

/// Why the log is not what was written.
#[derive(Debug, thiserror::Error)]
pub enum AuditFault {
    /// The chain breaks.
    #[error(transparent)]
    Broken(#[from] ChainBreak),
    /// The chain holds, and is not the one that was seen before.
    #[error("row {0}: it is not the one whose hash was written down")]
    OtherThanNoted(u64),
    /// Rows are gone from the end.
    #[error("row {noted}: it was written down and is missing; the log ends with row {last}")]
    Cut {
        /// The row that was written down.
        noted: u64,
        /// The last one that is there.
        last: u64,
    },
    /// The database cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Returns rows below the number `before` (from the newest if `None`), newest first, `limit` at most.
    ///
    /// Costs the rows that it looks at, 1,000 at most, however long the log is and however deep it goes. With a
    /// filter a page may be short, or empty, and say where to go on.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a row cannot be read.
    pub fn audit_page(
        &self,
        filter: &AuditFilter,
        before: Option<u64>,
        limit: usize,
    ) -> Result<AuditPage, StoreError> {
        let inner = self.inner()?;
        let head = inner.audit_head();
        let first = match filter.from {
            Some(from) => inner.audit_first_from(from, head.no)?,
            None => 1,
        };
        let end = before.unwrap_or(u64::MAX).min(head.no.saturating_add(1));
        let mut page = AuditPage {
            rows: Vec::new(),
            next: None,
            head,
        };
        if first >= end {
            return Ok(page);
        }
        let mut looks = 0usize;
        let mut last = end;
        let is_full = |page: &AuditPage, looks| page.rows.len() >= limit || looks >= LOOKS_MAX;
        inner.audit_numbers(filter.account, first, end, |no| {
            if is_full(&page, looks) {
                page.next = Some(last);
                return Ok(ControlFlow::Break(()));
            }
            looks = looks.saturating_add(1);
            last = no;
            // Only an index that was damaged names rows that are not there, or are another account's.
            let Some(row) = inner.audit_row(no)? else {
                return Ok(ControlFlow::Continue(()));
            };
            let is_wanted = filter.account.is_none_or(|of| row.account == Some(of))
                && filter.from.is_none_or(|from| row.at >= from);
            if is_wanted {
                let account_id = match row.account {
                    Some(account) => inner.public_id(account)?,
                    None => None,
                };
                page.rows.push(AuditItem {
                    entry: row,
                    account_id,
                });
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(page)
    }

    /// Proves the log: every row there, in its place, with the hash that follows from the rows before it; and
    /// each of the heads `noted` the row that was seen then. `visit` is told of each row. Returns the head.
    ///
    /// # Errors
    ///
    /// [`AuditFault`], of the first row that is wrong.
    pub fn verify_audit(
        &self,
        noted: &[AuditHead],
        mut visit: impl FnMut(&AuditEntry),
    ) -> Result<AuditHead, AuditFault> {
        let inner = self.inner()?;
        let mut chain = Chain::new();
        let mut latest = Timestamp::from_micros(i64::MIN);
        for row in &inner.trees.audit {
            let (key, row) = row.map_err(StoreError::from)?;
            let key = number(&key)?;
            let row = match decode::<AuditRow>(&row) {
                Ok(row) => row,
                Err(error) => {
                    // A gap before it comes first.
                    let no = chain.no.saturating_add(1).min(key);
                    let what = if no == key {
                        error.to_string()
                    } else {
                        format!("it is missing; the next one is row {key}")
                    };
                    return Err(ChainBreak { no, what }.into());
                }
            };
            let entry = row.entry;
            chain.follow(key, &entry)?;
            latest = latest.max(entry.at);
            if row.latest != latest {
                let what = "by its time it is not found".to_owned();
                return Err(ChainBreak { no: chain.no, what }.into());
            }
            let mut of_row = noted.iter().filter(|head| head.no == chain.no);
            if of_row.any(|head| head.hash != chain.hash) {
                return Err(AuditFault::OtherThanNoted(chain.no));
            }
            visit(&entry);
        }
        let last = chain.no;
        let cut = noted.iter().map(|head| head.no).filter(|no| *no > last);
        match cut.min() {
            Some(noted) => Err(AuditFault::Cut { noted, last }),
            None => Ok(AuditHead {
                no: last,
                hash: chain.hash,
            }),
        }
    }
}

impl Inner {
    fn audit_row(&self, no: u64) -> Result<Option<AuditEntry>, StoreError> {
        let row = self.trees.audit.get(no.to_be_bytes())?;
        row.map(|row| Ok(decode::<AuditRow>(&row)?.entry))
            .transpose()
    }

    /// Returns the number of the first row of this time or later, of `last` rows; `last + 1` if there is none.
    fn audit_first_from(&self, from: Timestamp, last: u64) -> Result<u64, StoreError> {
        let (mut low, mut high) = (1, last.saturating_add(1));
        while low < high {
            let middle = low.midpoint(high);
            let row = self.trees.audit.get(middle.to_be_bytes())?;
            let row = row.map(|row| decode::<AuditRow>(&row)).transpose()?;
            // A row that is missing hides nothing: what is after it is looked at.
            if row.is_some_and(|row| row.latest < from) {
                low = middle.saturating_add(1);
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Visits the numbers of rows from `first` to below `end`, the last first, until `visit` breaks.
    fn audit_numbers(
        &self,
        account: Option<AccountKey>,
        first: u64,
        end: u64,
        mut visit: impl FnMut(u64) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError> {
        let keys: Box<dyn Iterator<Item = Result<u64, StoreError>>> = match account {
            Some(account) => {
                let range = op_key(account, first)..op_key(account, end);
                let keys = self.trees.audit_accounts.range(range).keys().rev();
                Box::new(keys.map(|key| {
                    let no = part(&key?, 16).map(u64::from_be_bytes);
                    no.ok_or_else(|| {
                        StoreError::Corrupt(
                            "a key of the tree audit_accounts is not 24 bytes".to_owned(),
                        )
                    })
                }))
            }
            None => Box::new((first..end).rev().map(Ok)),
        };
        for no in keys {
            if visit(no?)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}
