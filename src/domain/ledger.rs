//! The ledger: a row for each credit that came or went.
//!
//! The sum of an account's rows is its counters, always: a row is put into the account's usage by the
//! very step that changes a counter, and moved to a tree of its own later. What was debited is rolled up
//! while its hour lasts, one row for each key and operation; whatever else happens has a row of its own.

use serde::{Deserialize, Serialize};

use super::event::RequestId;
use super::plan::Operation;
use super::time::Timestamp;
use super::usage::{KeyNo, Usage};

/// Rows in a usage with the most keys from which on they are moved out of it. With fewer keys there is room
/// for more, so that the debits of an hour stay one row for each key and operation; see [`rows_max`].
pub const TAIL_ROWS: usize = 12;
/// Length of the span in which debits are rolled up, in microseconds.
const HOUR_MICROS: i64 = 3_600_000_000;

/// Why credits came or went.
// Stored: add new variants at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Entry {
    /// A billing cycle began, or the account was made.
    Grant,
    /// The plan was changed: the difference to what had been granted.
    PlanChange,
    /// An admin gave credits.
    Bonus,
    /// An admin took credits, or gave back what was taken in error.
    Correction,
    /// A metered request.
    Debit(Operation),
    /// A debit whose request was never completed.
    Refund(Operation),
    /// What was granted in the cycle in which the ledger began; for accounts that are older than it.
    Opening,
    /// What was spent in that cycle before the ledger began.
    OpeningSpent,
    /// What was spent in the cycles before that one.
    EarlierSpent,
}

impl Entry {
    /// Returns its name as clients see it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Grant => "grant",
            Self::PlanChange => "plan_change",
            Self::Bonus => "bonus",
            Self::Correction => "correction",
            Self::Debit(_) => "debit",
            Self::Refund(_) => "refund",
            Self::Opening => "opening",
            Self::OpeningSpent => "opening_spent",
            Self::EarlierSpent => "earlier_spent",
        }
    }

    /// Says whether it changes what was granted, rather than what was spent.
    #[must_use]
    pub const fn is_grant(self) -> bool {
        matches!(
            self,
            Self::Grant | Self::PlanChange | Self::Bonus | Self::Correction | Self::Opening
        )
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRow {
    /// Its number within the account: 1 for the first, without gaps.
    pub no: u64,
    /// When; of a rolled-up row the first time.
    pub at: Timestamp,
    /// Index of the billing cycle.
    pub cycle: u32,
    /// The number of the key that paid; 0 if none did.
    pub key_no: KeyNo,
    /// Why.
    pub entry: Entry,
    /// Credits: above 0 what came, below 0 what went.
    pub amount: i64,
    /// How many requests are rolled up.
    pub count: u32,
    /// The id of the request, if it is one's alone.
    pub request: Option<RequestId>,
}

impl LedgerRow {
    /// Returns what is kept of the row when its account is erased: amount, entry, cycle, hour, and how many
    /// requests it was.
    #[must_use]
    pub fn anonymous(&self) -> Self {
        Self {
            at: Timestamp::from_micros(hour(self.at).saturating_mul(HOUR_MICROS)),
            key_no: 0,
            request: None,
            ..self.clone()
        }
    }

    /// Returns what stands for a row that is gone: nothing came or went.
    #[must_use]
    pub const fn lost(no: u64, cycle: u32, at: Timestamp) -> Self {
        Self {
            no,
            at,
            cycle,
            key_no: 0,
            entry: Entry::Correction,
            amount: 0,
            count: 0,
            request: None,
        }
    }

    /// Says whether a debit belongs into this row.
    fn takes(&self, of: &Self) -> bool {
        matches!(self.entry, Entry::Debit(_))
            && self.entry == of.entry
            && self.key_no == of.key_no
            && self.cycle == of.cycle
            && hour(self.at) == hour(of.at)
    }
}

/// Rows on their way to the ledger's tree, inside a usage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerTail {
    /// The number given last.
    pub last_no: u64,
    /// Rows up to this number stay as they are: they are being moved.
    pub frozen: u64,
    /// The rows, by number.
    pub rows: Vec<LedgerRow>,
}

impl LedgerTail {
    /// Adds a row; its number is given here. A debit may go into the row of its hour instead.
    pub fn push(&mut self, mut row: LedgerRow) {
        if row.amount == 0 {
            return;
        }
        let frozen = self.frozen;
        let open = self.rows.iter_mut().filter(|open| open.no > frozen);
        if let Some(open) = open.into_iter().find(|open| open.takes(&row)) {
            open.amount = open.amount.saturating_add(row.amount);
            open.count = open.count.saturating_add(row.count);
            return;
        }
        self.last_no = self.last_no.saturating_add(1);
        row.no = self.last_no;
        self.rows.push(row);
    }

    /// Says whether rows should be moved: there are `most` that are not, or some whose hour is over.
    #[must_use]
    pub fn is_due(&self, most: usize) -> bool {
        let mut open = self.rows.iter().filter(|row| row.no > self.frozen);
        let first = open.next().map(|row| hour(row.at));
        let (mut count, mut is_over) = (usize::from(first.is_some()), false);
        for row in open {
            count = count.saturating_add(1);
            is_over |= Some(hour(row.at)) != first;
        }
        is_over || count >= most
    }

    /// Returns the number of the last row that is gone from here: those up to it are in the tree alone.
    #[must_use]
    pub fn gone(&self) -> u64 {
        let first = self.rows.first();
        first.map_or(self.last_no, |row| row.no.saturating_sub(1))
    }

    /// Says whether the rows are numbered without a gap up to the number given last.
    #[must_use]
    pub fn is_numbered(&self) -> bool {
        let mut next = self.gone();
        let follows = self.rows.iter().all(|row| {
            next = next.saturating_add(1);
            row.no == next
        });
        let frozen = self.gone()..=self.last_no;
        follows && next == self.last_no && frozen.contains(&self.frozen)
    }

    /// Freezes every row. Returns them.
    pub fn freeze(&mut self) -> Vec<LedgerRow> {
        self.frozen = self.last_no;
        self.rows.clone()
    }

    /// Drops rows that are in the tree now.
    pub fn moved(&mut self, through: u64) {
        self.rows.retain(|row| row.no > through);
    }
}

/// What rows come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Credits granted in the cycle.
    pub granted: i64,
    /// Credits spent in the cycle.
    pub used: i64,
    /// Credits spent ever.
    pub used_ever: i64,
}

impl Sums {
    /// Counts a row for an account whose current cycle is `cycle`.
    pub fn count(&mut self, row: &LedgerRow, cycle: u32) {
        let is_now = row.cycle == cycle;
        if row.entry.is_grant() {
            if is_now {
                self.granted = self.granted.saturating_add(row.amount);
            }
            return;
        }
        self.used_ever = self.used_ever.saturating_sub(row.amount);
        if is_now && row.entry != Entry::EarlierSpent {
            self.used = self.used.saturating_sub(row.amount);
        }
    }

    /// Says whether they are the counters of a usage.
    #[must_use]
    pub fn equal(&self, usage: &Usage) -> bool {
        let same = |sum: i64, counter: u64| u64::try_from(sum) == Ok(counter);
        same(self.granted, usage.granted)
            && same(self.used, usage.used)
            && same(self.used_ever, usage.used_ever)
    }
}

/// Returns how many rows a usage with so many keys may carry: another one for every second key that it does not
/// have, of the most that it can.
#[must_use]
pub fn rows_max(keys: usize) -> usize {
    const KEYS_MAX: usize = 100;
    let spare = KEYS_MAX.saturating_sub(keys) >> 1;
    TAIL_ROWS.saturating_add(spare)
}

/// The hour that holds an instant, counted from the Unix epoch.
#[must_use]
pub const fn hour(at: Timestamp) -> i64 {
    at.micros().div_euclid(HOUR_MICROS)
}

/// Returns a number of credits as an amount. No account ever has 2^63 of them.
#[must_use]
pub fn amount(credits: u64) -> i64 {
    i64::try_from(credits).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(seconds: i64, key_no: KeyNo, entry: Entry, amount: i64) -> LedgerRow {
        LedgerRow {
            no: 0,
            at: Timestamp::from_micros(seconds * 1_000_000),
            cycle: 0,
            key_no,
            entry,
            amount,
            count: 1,
            request: None,
        }
    }

    const READ: Entry = Entry::Debit(Operation::ReadMemory);
    const ADD: Entry = Entry::Debit(Operation::AddMemory);

    #[test]
    fn debits_of_an_hour_are_one_row_and_nothing_else_is() {
        let mut tail = LedgerTail::default();
        for (seconds, key, entry, amount) in [
            (0, 1, READ, -1),
            (3_599, 1, READ, -1),
            (3_599, 2, READ, -1),
            (3_599, 1, ADD, -2),
            (3_600, 1, READ, -1),
            (10, 0, Entry::Grant, 100),
            (10, 0, Entry::Grant, 100),
            (10, 1, READ, 0),
        ] {
            tail.push(row(seconds, key, entry, amount));
        }
        let rows: Vec<_> = tail
            .rows
            .iter()
            .map(|r| (r.no, r.key_no, r.amount, r.count))
            .collect();
        assert_eq!(
            rows,
            [
                (1, 1, -2, 2),
                (2, 2, -1, 1),
                (3, 1, -2, 1),
                (4, 1, -1, 1),
                (5, 0, 100, 1),
                (6, 0, 100, 1)
            ]
        );
    }

    #[test]
    fn a_frozen_row_stays_as_it_is() {
        let mut tail = LedgerTail::default();
        tail.push(row(0, 1, READ, -1));
        let frozen = tail.freeze();
        tail.push(row(1, 1, READ, -1));
        assert_eq!(tail.rows[0], frozen[0]);
        assert_eq!(tail.rows.len(), 2);
        tail.moved(frozen[0].no);
        assert_eq!(tail.rows.len(), 1);
        assert_eq!((tail.rows[0].no, tail.last_no), (2, 2));
    }

    #[test]
    fn rows_are_due_when_many_or_old() {
        let mut tail = LedgerTail::default();
        assert!(!tail.is_due(TAIL_ROWS));
        for key in 1..12 {
            tail.push(row(0, key, READ, -1));
            assert!(!tail.is_due(TAIL_ROWS), "{key}");
        }
        let mut later = tail.clone();
        later.push(row(3_600, 1, READ, -1));
        tail.push(row(3_599, 12, READ, -1));
        assert!(tail.is_due(TAIL_ROWS) && later.is_due(TAIL_ROWS));
        tail.freeze();
        assert!(!tail.is_due(TAIL_ROWS));
    }

    #[test]
    fn sums_are_of_the_cycle_and_ever() {
        let mut sums = Sums::default();
        let mut late = row(0, 1, ADD, -2);
        late.cycle = 3;
        for row in [
            row(0, 0, Entry::Opening, 90),
            row(0, 1, Entry::OpeningSpent, -5),
            row(0, 1, Entry::EarlierSpent, -1_000),
            row(0, 1, READ, -1),
            row(0, 1, Entry::Refund(Operation::ReadMemory), 1),
            row(0, 0, Entry::Correction, -10),
            late,
        ] {
            sums.count(&row, 0);
        }
        assert_eq!((sums.granted, sums.used, sums.used_ever), (80, 5, 1_007));
    }
}
