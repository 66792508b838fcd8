//! The ledger's tree: rows moved out of the usage that carries them, and rows read from both.
//!
//! Rows that are due are frozen in the usage by a swap, written to the tree, and dropped from the usage by
//! another. Between any two of these they are in both under the same number, with the same content.

use std::collections::HashMap;
use std::ops::ControlFlow;

use crate::domain::account::AccountKey;
use crate::domain::ledger::{Entry, LedgerRow};
use crate::domain::usage::{KeyNo, Usage};

use super::codec::{decode, encode};
use super::schema::op_key;
use super::swap::SwapError;
use super::{Inner, Store, StoreError};

impl Store {
    /// Calls `visit` with every row of an account's ledger, oldest first, as they were at the moment at which
    /// `usage` was read: they come to its counters. Costs a step for each row; stops when `visit` says so.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a record cannot be read.
    pub fn ledger(
        &self,
        account: AccountKey,
        usage: &Usage,
        visit: impl FnMut(&LedgerRow) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.inner()?.ledger(account, usage, visit)
    }

    /// Returns the public id and the description of each key of an account, revoked ones too, by its number.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a record cannot be read.
    pub fn key_names(
        &self,
        account: AccountKey,
    ) -> Result<HashMap<KeyNo, (String, String)>, StoreError> {
        let inner = self.inner()?;
        let mut names = HashMap::new();
        for hash in inner.trees.account_keys.scan_prefix(account.0).values() {
            if let Some(key) = inner.key_record(&decode(&hash?)?)? {
                names.insert(key.no, (key.id.to_string(), key.description));
            }
        }
        Ok(names)
    }

    /// As [`Self::ledger`], newest first, and only as far back as there are rows of the billing cycle `cycle` or
    /// later ones. Costs a step for each of these rows, however many there are before.
    ///
    /// A row whose time is in that cycle, or later, is one of them.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a record cannot be read.
    pub fn ledger_since(
        &self,
        account: AccountKey,
        usage: &Usage,
        cycle: u32,
        mut visit: impl FnMut(&LedgerRow),
    ) -> Result<(), StoreError> {
        let inner = self.inner()?;
        // Cycles only grow from row to row, but for refunds: those are of the cycle of their debit.
        let is_before =
            |row: &LedgerRow| row.cycle < cycle && !matches!(row.entry, Entry::Refund(_));
        for row in usage.ledger.rows.iter().rev() {
            if is_before(row) {
                return Ok(());
            }
            visit(row);
        }
        let gone = op_key(account, usage.ledger.gone());
        let moved = inner.trees.ledger.range(op_key(account, 0)..=gone);
        for row in moved.values().rev() {
            let row: LedgerRow = decode(&row?)?;
            if is_before(&row) {
                return Ok(());
            }
            visit(&row);
        }
        Ok(())
    }
}

impl Inner {
    /// As [`Store::ledger`].
    fn ledger(
        &self,
        account: AccountKey,
        usage: &Usage,
        mut visit: impl FnMut(&LedgerRow) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        // What is in both, or moved meanwhile, is taken from the usage: it may have grown before it was moved.
        let gone = op_key(account, usage.ledger.gone());
        let moved = self.trees.ledger.range(op_key(account, 0)..=gone);
        for row in moved.values() {
            if visit(&decode(&row?)?).is_break() {
                return Ok(());
            }
        }
        for row in &usage.ledger.rows {
            if visit(row).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Moves the rows that are in an account's usage to their tree. Beside debits, and beside itself.
    pub(super) fn move_ledger(&self, account: AccountKey) -> Result<(), StoreError> {
        let rows = self.swap_tail(account, |usage| usage.ledger.freeze())?;
        let mut through = 0;
        for row in rows {
            through = row.no;
            self.trees
                .ledger
                .insert(op_key(account, row.no), encode(&row)?)?;
        }
        self.swap_tail(account, |usage| usage.ledger.moved(through))
    }

    /// Changes what a usage carries, and no counter of it.
    pub(super) fn swap_tail<T>(
        &self,
        account: AccountKey,
        change: impl Fn(&mut Usage) -> T,
    ) -> Result<T, StoreError> {
        self.change_usage::<_, std::convert::Infallible>(account, |usage| Ok(change(usage)))
            .map_err(|error: SwapError<_>| StoreError::of_swap(error))
    }
}
