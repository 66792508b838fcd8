//! The ledger's tree: rows moved out of the usage that carries them, and rows read from both.
//!
//! Rows that are due are frozen in the usage by a swap, written to the tree, and dropped from the usage by
//! another. Between any two of these they are in both under the same number, with the same content.

use crate::domain::account::AccountKey;
use crate::domain::ledger::LedgerRow;
use crate::domain::usage::Usage;

use super::codec::{decode, encode};
use super::schema::op_key;
use super::swap::SwapError;
use super::{Inner, Store, StoreError};

impl Store {
    /// Calls `visit` with every row of an account's ledger, oldest first. Costs a step for each row.
    ///
    /// Beside debits it shows each row as it was at some moment during the call.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a record cannot be read.
    pub fn ledger(
        &self,
        account: AccountKey,
        visit: impl FnMut(LedgerRow),
    ) -> Result<(), StoreError> {
        self.inner()?.ledger(account, visit)
    }
}

impl Inner {
    /// As [`Store::ledger`].
    pub(super) fn ledger(
        &self,
        account: AccountKey,
        mut visit: impl FnMut(LedgerRow),
    ) -> Result<(), StoreError> {
        // First: a row that is moved meanwhile is then in both.
        let tail = self.usage(account)?.ledger;
        let mut last = 0;
        for row in self.trees.ledger.scan_prefix(account.0).values() {
            let row: LedgerRow = decode(&row?)?;
            last = row.no;
            visit(row);
        }
        for row in tail.rows.into_iter().filter(|row| row.no > last) {
            visit(row);
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
            let mut usage: Usage = decode(current.ok_or(StoreError::NoAccount)?)?;
            let result = change(&mut usage);
            Ok((Some(encode(&usage)?), result))
        })
        .map_err(|error: SwapError<_>| StoreError::of_swap(error))
    }
}
