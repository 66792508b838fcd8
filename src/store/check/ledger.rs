//! The ledger beside the counters, the audit log's chain and its index, and the indexes of keys that end and of
//! accounts that are not let in.

use std::collections::HashMap;

use crate::domain::account::AccountKey;
use crate::domain::audit::{AuditHead, GENESIS};
use crate::domain::event::EventTail;
use crate::domain::ledger::{Entry, LedgerRow, Sums, amount};
use crate::domain::usage::{KeyNo, Share, Usage};

use super::super::StoreError;
use super::super::codec::decode;
use super::super::locks::lock;
use super::super::schema::{AccountRecord, AuditRow, Standing, op_key, part};
use super::count::OwnKey;
use super::{Check, damage, exact, record_name};

/// What the rows of one account come to.
#[derive(Default)]
struct Added {
    sums: Sums,
    /// What is left of each billing cycle.
    balances: HashMap<u32, i64>,
    /// What each key has spent.
    by_key: HashMap<KeyNo, i64>,
    /// The cycle of the last row that stands for what was before the ledger, or for rows that were lost.
    opened: Option<u32>,
}

impl Added {
    fn count(&mut self, row: &LedgerRow, cycle: u32) {
        self.sums.count(row, cycle);
        if row.entry != Entry::EarlierSpent {
            let balance = self.balances.entry(row.cycle).or_default();
            *balance = balance.saturating_add(row.amount);
        }
        if !row.entry.is_grant() && row.key_no != 0 {
            let spent = self.by_key.entry(row.key_no).or_default();
            *spent = spent.saturating_sub(row.amount);
        }
        let opens = [Entry::Opening, Entry::OpeningSpent, Entry::EarlierSpent];
        if opens.contains(&row.entry) {
            self.opened = Some(row.cycle);
        }
    }
}

impl Check<'_> {
    /// Adds up an account's ledger and compares it with the counters; the account stands still.
    pub(super) fn ledger(
        &mut self,
        account: AccountKey,
        usage: &Usage,
        keys: &[OwnKey],
    ) -> Result<(), StoreError> {
        let id = account.anonymous_id();
        let tail = &usage.ledger;
        if !tail.is_numbered() {
            self.problem("usage", &id, "its ledger's rows are not numbered in order");
            return Ok(());
        }
        let (gone, mut added, mut expected) = (tail.gone(), Added::default(), 1);
        let mut is_whole = true;
        for entry in self.inner.trees.ledger.scan_prefix(account.0) {
            let (key, value) = entry?;
            self.report.ledger_rows = self.report.ledger_rows.saturating_add(1);
            let name = record_name("ledger", &key);
            let no = part(&key, 16).map_or(0, u64::from_be_bytes);
            let row = match decode::<LedgerRow>(&value) {
                Ok(row) if row.no == no && key.len() == 24 => row,
                Ok(_) => {
                    self.problem("ledger", name, "its number is another than its key's");
                    is_whole = false;
                    continue;
                }
                Err(error) => {
                    self.problem("ledger", name, error.to_string());
                    is_whole = false;
                    expected = no.saturating_add(1);
                    continue;
                }
            };
            if no > gone {
                let in_usage = tail.rows.iter().find(|row| row.no == no);
                if no > tail.frozen || in_usage != Some(&row) {
                    self.problem("ledger", name, "the account's usage has another row for it");
                }
                continue;
            }
            if no != expected {
                let what = format!("the rows from {expected} up to it are gone");
                self.problem("ledger", name, what);
                is_whole = false;
            }
            expected = no.saturating_add(1);
            self.row(account, &row, usage, keys);
            added.count(&row, usage.cycle);
        }
        if expected <= gone {
            let what = format!("the rows of its ledger from {expected} to {gone} are gone");
            self.problem("usage", &id, what);
            is_whole = false;
        }
        let in_tail = u64::try_from(tail.rows.len()).unwrap_or(u64::MAX);
        self.report.ledger_rows = self.report.ledger_rows.saturating_add(in_tail);
        for row in &tail.rows {
            self.row(account, row, usage, keys);
            added.count(row, usage.cycle);
        }
        if is_whole {
            self.compare_sums(account, usage, keys, &added);
        }
        Ok(())
    }

    /// Checks what holds of one row.
    fn row(&mut self, account: AccountKey, row: &LedgerRow, usage: &Usage, keys: &[OwnKey]) {
        let name = record_name("ledger", &op_key(account, row.no));
        if row.cycle > usage.cycle {
            let what = format!("it is of the cycle {}, which is to come", row.cycle);
            self.problem("ledger", &name, what);
        }
        if row.key_no != 0 && !keys.iter().any(|(no, _)| *no == row.key_no) {
            let what = format!("it is of the key {}, which is not there", row.key_no);
            self.problem("ledger", &name, what);
        }
        let has_sign = match row.entry {
            Entry::Debit(_) => row.amount <= 0,
            Entry::Grant | Entry::Bonus | Entry::Refund(_) => row.amount >= 0,
            Entry::PlanChange
            | Entry::Correction
            | Entry::Opening
            | Entry::OpeningSpent
            | Entry::EarlierSpent => true,
        };
        if !has_sign {
            let what = format!("a {} of {} credits", row.entry.name(), row.amount);
            self.problem("ledger", &name, what);
        }
    }

    /// Compares what the rows come to with the counters of the account and of each lineage.
    fn compare_sums(&mut self, account: AccountKey, usage: &Usage, keys: &[OwnKey], added: &Added) {
        let id = account.anonymous_id();
        if !added.sums.equal(usage) {
            let (granted, used, ever) = (usage.granted, usage.used, usage.used_ever);
            let sums = added.sums;
            let what = format!(
                "it counts {granted} credits granted, {used} used, {ever} ever, but its ledger comes to {}, {}, {}",
                sums.granted, sums.used, sums.used_ever
            );
            self.problem("usage", &id, what);
        }
        let is_known = |cycle: u32| added.opened.is_none_or(|opened| cycle > opened);
        let balances = added.balances.iter();
        let mut below: Vec<_> = balances
            .filter(|(cycle, left)| **left < 0 && is_known(**cycle))
            .collect();
        below.sort_unstable();
        for (cycle, left) in below {
            let what = format!("its ledger leaves {left} credits in the cycle {cycle}");
            self.problem("usage", &id, what);
        }
        let lineage_of = |no: KeyNo| {
            let key = keys.iter().find(|(its, _)| *its == no);
            key.and_then(|(_, record)| record.as_ref())
                .map(|record| record.lineage)
        };
        let mut by_lineage: HashMap<KeyNo, i64> = HashMap::new();
        for (no, spent) in &added.by_key {
            // A key that is not there, or cannot be read, is named elsewhere.
            let Some(lineage) = lineage_of(*no) else {
                return;
            };
            let sum = by_lineage.entry(lineage).or_default();
            *sum = sum.saturating_add(*spent);
        }
        for (no, record) in keys {
            let Some(record) = record else { continue };
            let retired = record.retired.as_ref().map(|end| &end.share);
            let Some(share) = retired.or_else(|| usage.share(*no)) else {
                continue;
            };
            let Share { used_ever, .. } = *share;
            let rows = by_lineage.get(no).copied().unwrap_or(0);
            let agrees = if added.opened.is_some() {
                rows <= amount(used_ever)
            } else {
                rows == amount(used_ever)
            };
            if !agrees {
                let what = format!(
                    "its key {no} used {used_ever} credits ever, by the rows of its ledger {rows}"
                );
                self.problem("usage", &id, what);
            }
        }
    }

    /// Says which ledgers are of accounts without usage; those of the others were added up with it.
    pub(super) fn ledger_owner(&mut self, key: &[u8], _: &sled::IVec) -> Result<(), StoreError> {
        let key: [u8; 24] = exact(key)?;
        let account: [u8; 16] = exact(key.get(..16).unwrap_or_default())?;
        if self.inner.trees.usage.contains_key(account)? {
            return Ok(());
        }
        Err(damage("its account has no usage"))
    }

    /// Checks that events which a record carries are in order.
    pub(super) fn events(&mut self, tree: &'static str, account: AccountKey, tail: &EventTail) {
        let mut no = tail.last_no;
        let follows = tail.events.iter().rev().all(|event| {
            let is_next = event.no == no && no > 0;
            no = no.saturating_sub(1);
            is_next
        });
        if !follows {
            let what = "the events that it carries are not numbered in order";
            self.problem(tree, account.anonymous_id(), what);
        }
    }

    /// Checks that the index of accounts that are not let in has an account if its standing says so.
    pub(super) fn standing(
        &mut self,
        account: AccountKey,
        record: &AccountRecord,
    ) -> Result<(), StoreError> {
        let is_barred = self.inner.trees.barred.contains_key(account.0)?;
        if record.standing != Standing::Good && !is_barred {
            let what = "it is suspended, but not in barred: its keys are let in";
            self.problem("users", account.anonymous_id(), what);
        }
        Ok(())
    }

    pub(super) fn barred(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
        let account = AccountKey(exact(key)?);
        empty(value)?;
        match self.account_record(account)? {
            Some(record) if record.standing == Standing::Good => {
                Err(damage("its account is not suspended"))
            }
            Some(_) => Ok(()),
            None => Err(damage("its account is not there")),
        }
    }

    /// An entry whose key ends at another time, or is over, is removed by the sweep at its time.
    pub(super) fn key_expiry(
        _: &mut Self,
        key: &[u8],
        value: &sled::IVec,
    ) -> Result<(), StoreError> {
        exact::<28>(key)?;
        empty(value)
    }

    /// Walks the audit log: its numbers, its chain, the end that the store knows, and that the index by account has
    /// each row. Rows are only ever added, by one at a time: no lock is needed.
    pub(super) fn audit(&mut self) -> Result<(), StoreError> {
        let AuditHead {
            no: last,
            hash: head,
        } = self.inner.audit_head();
        let (mut records, mut no, mut hash) = (0, 0u64, GENESIS);
        for entry in &self.inner.trees.audit {
            let (key, value) = entry?;
            self.walked("audit", &mut records)?;
            let expected = no.saturating_add(1);
            let number = part(&key, 0).filter(|_| key.len() == 8);
            no = number.map_or(expected, u64::from_be_bytes);
            self.look("audit", &key, &value, |check, key, value| {
                let row: AuditRow = decode(value)?;
                let before = std::mem::replace(&mut hash, row.entry.hash);
                exact::<8>(key)?;
                let name = record_name("audit", key);
                if row.entry.no != no {
                    check.problem("audit", &name, "its number is another than its key's");
                }
                if no != expected {
                    check.problem("audit", &name, "the rows before it are gone");
                } else if row.entry.hash_after(&before) != row.entry.hash {
                    check.problem("audit", &name, "the chain is broken here");
                }
                if let Some(account) = row.entry.account
                    && !check.is_indexed(account, no)?
                {
                    let what = "audit_accounts does not have it: its account's rows lack it";
                    check.problem("audit", &name, what);
                }
                Ok(())
            })?;
            if no == last && hash != head {
                let name = record_name("audit", &key);
                self.problem(
                    "audit",
                    name,
                    "its hash is another than the last one written",
                );
            }
            self.confirmed()?;
        }
        if no < last {
            let what = format!("the log ends with row {no}, row {last} was written");
            self.problem("audit", "the end", what);
            self.confirmed()?;
        }
        Ok(())
    }
}

impl Check<'_> {
    /// Says whether the index has a row of an account.
    fn is_indexed(&self, account: AccountKey, no: u64) -> Result<bool, StoreError> {
        let index = &self.inner.trees.audit_accounts;
        let key = op_key(account, no);
        if index.contains_key(key)? {
            return Ok(true);
        }
        // A row that was just appended gets its entry before anybody else appends.
        let _appending = lock(&self.inner.audit);
        Ok(index.contains_key(key)?)
    }

    /// Checks that an entry of the audit log's index leads to a row of its account.
    pub(super) fn audit_entry(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
        let key: [u8; 24] = exact(key)?;
        empty(value)?;
        let (account, no) = (part(&key, 0).map(AccountKey), part::<8>(&key, 16));
        let row = self.inner.trees.audit.get(no.unwrap_or_default())?;
        match row.map(|row| decode::<AuditRow>(&row)) {
            None => Err(damage("its row is not in the audit log")),
            Some(Ok(row)) if row.entry.account != account => {
                Err(damage("its row is of another account, or of none"))
            }
            // One that cannot be read is named in `audit`.
            Some(_) => Ok(()),
        }
    }
}

fn empty(value: &[u8]) -> Result<(), StoreError> {
    if value.is_empty() {
        Ok(())
    } else {
        Err(damage("its value is not empty"))
    }
}
