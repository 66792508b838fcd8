//! What an account's ledger tells: sums by day, key or operation, and the statement of a billing cycle.

use std::collections::BTreeMap;

use super::ledger::{Entry, LedgerRow, amount};
use super::plan::Operation;
use super::time::Timestamp;
use super::usage::{KeyNo, Usage};

use super::cycle::boundary;

/// By what rows are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// The day, in UTC.
    #[default]
    Day,
    /// The key that paid.
    Key,
    /// The operation that was paid for; what was not paid for is under the name of its entry.
    Operation,
}

impl By {
    /// Every way.
    pub const ALL: [Self; 3] = [Self::Day, Self::Key, Self::Operation];

    /// Returns its name as clients write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Key => "key",
            Self::Operation => "operation",
        }
    }

    /// Returns the way with this name; `None` if there is none.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|by| by.name() == name)
    }
}

/// A group of rows. Ordered as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Those of a day: the instant at which it began, in UTC.
    Day(Timestamp),
    /// Those of a key; 0 for what no key paid for.
    Key(KeyNo),
    /// Those with a name.
    Named(&'static str),
}

/// What rows come to. Each is 0 or above, but for `adjusted`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Credits of billing cycles that began.
    pub granted: i64,
    /// Credits debited.
    pub spent: i64,
    /// Credits given back for requests that were never completed.
    pub refunded: i64,
    /// Bonuses, corrections and changes of plan; below 0 if more was taken than given.
    pub adjusted: i64,
    /// How many requests and changes these were.
    pub count: u64,
}

impl Moved {
    /// Counts a row.
    pub fn count(&mut self, row: &LedgerRow) {
        let add = |to: &mut i64, credits: i64| *to = to.saturating_add(credits);
        match row.entry {
            Entry::Grant | Entry::Opening => add(&mut self.granted, row.amount),
            Entry::PlanChange | Entry::Bonus | Entry::Correction => {
                add(&mut self.adjusted, row.amount);
            }
            Entry::Debit(_) | Entry::OpeningSpent => {
                add(&mut self.spent, row.amount.saturating_neg());
            }
            Entry::Refund(_) => add(&mut self.refunded, row.amount),
            Entry::EarlierSpent => return,
        }
        self.count = self.count.saturating_add(u64::from(row.count));
    }
}

/// Sums of rows, group by group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// All of it.
    pub total: Moved,
    /// The parts, in their order.
    pub groups: BTreeMap<Group, Moved>,
}

impl History {
    /// Counts a row. What was spent before the ledger began is of no day and is left out.
    pub fn count(&mut self, row: &LedgerRow, by: By) {
        if row.entry == Entry::EarlierSpent {
            return;
        }
        let group = match by {
            By::Day => Group::Day(row.at.day()),
            By::Key => Group::Key(row.key_no),
            By::Operation => Group::Named(match row.entry {
                Entry::Debit(operation) | Entry::Refund(operation) => name(operation),
                entry => entry.name(),
            }),
        };
        self.total.count(row);
        self.groups.entry(group).or_default().count(row);
    }
}

/// What came and went in a billing cycle: `opening + granted + bonus + adjusted + plan_changes - spent +
/// refunded = closing`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Index of the cycle.
    pub cycle: u32,
    /// Its first instant.
    pub start: Timestamp,
    /// The first instant of the next one.
    pub end: Timestamp,
    /// What there was before the first row: 0, for credits do not carry over, but in the cycle in which the
    /// account's ledger began.
    pub opening: i64,
    /// The plan's credits.
    pub granted: i64,
    /// What admins gave.
    pub bonus: i64,
    /// Corrections; below 0 if credits were taken.
    pub adjusted: i64,
    /// What changes of plan gave; below 0 if they took.
    pub plan_changes: i64,
    /// What requests cost.
    pub spent: i64,
    /// What was given back for requests that were never completed.
    pub refunded: i64,
    /// What is left; of the current cycle the account's credits.
    pub closing: i64,
    /// What was left at the end and is gone since: all of `closing` once the cycle is over.
    pub lapsed: i64,
    /// Whether it is the current cycle.
    pub is_current: bool,
}

impl Statement {
    /// Returns the statement of a cycle of this usage before any row.
    #[must_use]
    pub fn new(usage: &Usage, cycle: u32) -> Self {
        Self {
            cycle,
            start: boundary(usage.anchor, cycle),
            end: boundary(usage.anchor, cycle.saturating_add(1)),
            opening: 0,
            granted: 0,
            bonus: 0,
            adjusted: 0,
            plan_changes: 0,
            spent: 0,
            refunded: 0,
            closing: 0,
            lapsed: 0,
            is_current: cycle == usage.cycle,
        }
    }

    /// Counts a row, if it is of the cycle.
    pub fn count(&mut self, row: &LedgerRow) {
        if row.cycle != self.cycle {
            return;
        }
        let (sum, credits) = match row.entry {
            Entry::Grant => (&mut self.granted, row.amount),
            Entry::PlanChange => (&mut self.plan_changes, row.amount),
            Entry::Bonus => (&mut self.bonus, row.amount),
            Entry::Correction => (&mut self.adjusted, row.amount),
            Entry::Debit(_) => (&mut self.spent, row.amount.saturating_neg()),
            Entry::Refund(_) => (&mut self.refunded, row.amount),
            Entry::Opening | Entry::OpeningSpent => (&mut self.opening, row.amount),
            Entry::EarlierSpent => return,
        };
        *sum = sum.saturating_add(credits);
        self.closing = self.closing.saturating_add(row.amount);
        self.lapsed = if self.is_current { 0 } else { self.closing };
    }

    /// Says whether what is left is what the usage says, for the current cycle.
    #[must_use]
    pub fn agrees(&self, usage: &Usage) -> bool {
        !self.is_current || self.closing == amount(usage.granted.saturating_sub(usage.used))
    }
}

/// Returns an operation's name as clients see it.
#[must_use]
pub const fn name(operation: Operation) -> &'static str {
    match operation {
        Operation::ListMemories => "list_memories",
        Operation::ReadMemory => "read_memory",
        Operation::Stats => "stats",
        Operation::GptStatus => "gpt_status",
        Operation::AddMemory => "add_memory",
        Operation::UpdateMemory => "update_memory",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::plan::Plan;

    const ADD: Operation = Operation::AddMemory;

    fn rows() -> Vec<LedgerRow> {
        let at = |days: i64| Timestamp::from_micros(0).plus_seconds(days * 86_400 + 3_600);
        let row = |day, cycle, key_no, entry, amount| LedgerRow {
            key_no,
            entry,
            amount,
            count: 1,
            ..LedgerRow::lost(0, cycle, at(day))
        };
        vec![
            row(0, 0, 0, Entry::Opening, 100),
            row(0, 0, 0, Entry::OpeningSpent, -40),
            row(0, 0, 0, Entry::EarlierSpent, -900),
            row(1, 0, 1, Entry::Debit(ADD), -20),
            row(40, 1, 0, Entry::Grant, 100),
            row(40, 1, 2, Entry::Debit(Operation::ReadMemory), -30),
            row(41, 0, 1, Entry::Refund(ADD), 2),
            row(41, 1, 0, Entry::Bonus, 10),
            row(41, 1, 0, Entry::Correction, -5),
            row(42, 1, 0, Entry::PlanChange, 7),
        ]
    }

    #[test]
    fn what_came_less_what_went_is_what_is_left() {
        // Shows every sum of both cycles, and that what was left of the first has lapsed.
        let mut usage = Usage::new(Plan::FREE, Timestamp::from_micros(0));
        usage.cycle = 1;
        (usage.granted, usage.used) = (112, 30);
        let of = |cycle| {
            let mut statement = Statement::new(&usage, cycle);
            for row in &rows() {
                statement.count(row);
            }
            statement
        };
        let first = of(0);
        assert_eq!((first.opening, first.spent, first.refunded), (60, 20, 2));
        assert_eq!(
            (first.closing, first.lapsed, first.is_current),
            (42, 42, false)
        );
        let second = of(1);
        assert_eq!((second.opening, second.granted, second.bonus), (0, 100, 10));
        assert_eq!(
            (second.adjusted, second.plan_changes, second.spent),
            (-5, 7, 30)
        );
        assert_eq!(
            (second.closing, second.lapsed, second.is_current),
            (82, 0, true)
        );
        assert!(second.agrees(&usage));
        assert_eq!((second.start, first.end), (first.end, second.start));
    }

    #[test]
    fn groups_come_to_the_total() {
        // Shows each grouping, and that its parts come to the same total.
        let history = |by| {
            let mut history = History::default();
            for row in &rows() {
                history.count(row, by);
            }
            history
        };
        for by in [By::Day, By::Key, By::Operation] {
            let history = history(by);
            let mut sum = Moved::default();
            for part in history.groups.values() {
                sum.granted += part.granted;
                sum.spent += part.spent;
                sum.refunded += part.refunded;
                sum.adjusted += part.adjusted;
                sum.count += part.count;
            }
            assert_eq!(sum, history.total, "{by:?}");
        }
        let total = history(By::Day).total;
        assert_eq!((total.granted, total.spent), (200, 90));
        assert_eq!((total.refunded, total.adjusted, total.count), (2, 12, 9));
        let names: Vec<_> = history(By::Operation).groups.into_keys().collect();
        let expected = [
            "add_memory",
            "bonus",
            "correction",
            "grant",
            "opening",
            "opening_spent",
            "plan_change",
            "read_memory",
        ];
        assert_eq!(names, expected.map(Group::Named));
        assert_eq!(history(By::Key).groups[&Group::Key(1)].spent, 20);
        assert_eq!(history(By::Day).groups.len(), 5);
    }
}
