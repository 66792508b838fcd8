//! What an account's ledger tells its owner, and an admin.

use std::collections::HashMap;

use crate::domain::account::AccountKey;
use crate::domain::cycle::{billing_cycle, boundary};
use crate::domain::statement::{By, History, Statement};
use crate::domain::time::Timestamp;
use crate::domain::usage::KeyNo;
use crate::store::StoreError;

use super::{App, Failure, Target};

/// The longest span of a history, in days.
pub const HISTORY_DAYS_MAX: u64 = 400;

/// Which rows are wanted: those of `[from, to)`; without one of them, from the start or to the end of the current
/// billing cycle.
#[derive(Clone, Copy, Debug, Default)]
pub struct Span {
    /// The first instant.
    pub from: Option<Timestamp>,
    /// The first instant that is not wanted.
    pub to: Option<Timestamp>,
}

/// Why there is no such history or statement.
#[derive(Debug)]
pub enum LedgerRefusal {
    /// The span ends before it begins.
    Backwards,
    /// It is longer than [`HISTORY_DAYS_MAX`].
    TooLong,
    /// The cycle is to come; the current one is this.
    NoSuchCycle(u32),
    /// Anything else.
    Failed(Failure),
}

impl From<Failure> for LedgerRefusal {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<StoreError> for LedgerRefusal {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

/// Sums of a ledger over a span.
#[derive(Debug)]
pub struct HistoryOf {
    /// The account's public id.
    pub account_id: String,
    /// The first instant.
    pub from: Timestamp,
    /// The first instant that is not in it.
    pub to: Timestamp,
    /// The sums.
    pub history: History,
    /// Public id and description of each key, by its number.
    pub keys: HashMap<KeyNo, (String, String)>,
}

impl App {
    /// Returns the account that an admin means.
    ///
    /// # Errors
    ///
    /// [`Failure::UserNotFound`].
    pub fn account_meant(&self, target: &Target) -> Result<AccountKey, Failure> {
        self.target(target)?.ok_or(Failure::UserNotFound)
    }

    /// Adds up an account's ledger over a span.
    ///
    /// A row of debits that were rolled up is taken by the time of the first of them.
    ///
    /// # Errors
    ///
    /// [`LedgerRefusal`].
    pub async fn history(
        &self,
        account: AccountKey,
        span: Span,
        by: By,
    ) -> Result<HistoryOf, LedgerRefusal> {
        let now = self.now();
        let usage = self.store().usage(account, now)?;
        let from = span
            .from
            .unwrap_or_else(|| boundary(usage.anchor, usage.cycle));
        let to = span.to.unwrap_or(usage.cycle_end);
        if to < from {
            return Err(LedgerRefusal::Backwards);
        }
        let longest = HISTORY_DAYS_MAX.saturating_mul(86_400);
        if from.seconds_until(to) > longest {
            return Err(LedgerRefusal::TooLong);
        }
        let added = self.blocking(move |store| {
            let mut history = History::default();
            let first = billing_cycle(usage.anchor, from).index;
            store.ledger_since(account, &usage, first, |row| {
                if (from..to).contains(&row.at) {
                    history.count(row, by);
                }
            })?;
            let keys = match by {
                By::Key => store.key_names(account)?,
                By::Day | By::Operation => HashMap::new(),
            };
            Ok((history, keys))
        });
        let (history, keys) = added.await?;
        Ok(HistoryOf {
            account_id: self.store().account_id(account)?,
            from,
            to,
            history,
            keys,
        })
    }

    /// Returns the statement of a billing cycle, the current one if none is named, with the account's public id.
    ///
    /// # Errors
    ///
    /// [`LedgerRefusal`].
    pub async fn statement(
        &self,
        account: AccountKey,
        cycle: Option<u32>,
    ) -> Result<(String, Statement), LedgerRefusal> {
        let now = self.now();
        let usage = self.store().usage(account, now)?;
        let cycle = cycle.unwrap_or(usage.cycle);
        if cycle > usage.cycle {
            return Err(LedgerRefusal::NoSuchCycle(usage.cycle));
        }
        let added = self.blocking(move |store| {
            let mut statement = Statement::new(&usage, cycle);
            store.ledger_since(account, &usage, cycle, |row| statement.count(row))?;
            if !statement.agrees(&usage) {
                let id = account.anonymous_id();
                log::error!("the ledger of {id} does not come to its credits; run memoryos check");
            }
            Ok(statement)
        });
        let statement = added.await?;
        Ok((self.store().account_id(account)?, statement))
    }
}
