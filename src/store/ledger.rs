//! The ledger's tree: rows moved out of the usage that carries them, and rows read from both.
//!
//! Rows that are due are frozen in the usage by a swap, written to the tree, and dropped from the usage by
//! another. Between any two of these they are in both under the same number, with the same content.

use std::ops::ControlFlow;

use crate::domain::account::AccountKey;
use crate::domain::ledger::LedgerRow;
use crate::domain::usage::Usage;

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
        self.swap::<_, std::convert::Infallible>(&self.trees.usage, &account.0, |current| {
            let mut usage: Usage = decode(current.unwrap_or_default())?;
            let result = change(&mut usage);
            Ok((Some(encode(&usage)?), result))
        })
        .map_err(|error: SwapError<_>| StoreError::of_swap(error))
    }
}
