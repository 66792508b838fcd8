//! The usage record: read, debited, changed by compare-and-swap only.

use std::time::Duration;

use crate::domain::account::AccountKey;
use crate::domain::event::Cause;
use crate::domain::plan::{Operation, Plan, Plans};
use crate::domain::time::Timestamp;
use crate::domain::usage::{Balance, KeyNo, Payer, Refusal, Usage};

use super::codec::decode;
use super::swap::SwapError;
use super::usages::{Read, Written};
use super::{Inner, OpError, Store, StoreError};

/// Longest wait for a place among an account's writes under way.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// How often a waiting write looks again.
const BUSY_TICK: Duration = Duration::from_millis(5);

/// What a metered read has cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debited {
    /// Credits debited: the price, or 0 while the disk fails.
    pub cost: u64,
    /// The numbers after it.
    pub balance: Balance,
}

impl Store {
    /// Returns an account's usage as of `now`: a new cycle is shown although nothing is written.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be read, [`StoreError::Corrupt`] if there is none.
    pub fn usage(&self, account: AccountKey, now: Timestamp) -> Result<Usage, StoreError> {
        let mut usage = self.inner()?.usage(account)?;
        usage.roll_over(now);
        Ok(usage)
    }

    /// Shows `see` an account's usage as of `now`, as [`Self::usage`] returns it, without a copy of it.
    ///
    /// # Errors
    ///
    /// As [`Self::usage`].
    pub fn see_usage<T>(
        &self,
        account: AccountKey,
        now: Timestamp,
        see: impl FnOnce(&Usage) -> T,
    ) -> Result<T, StoreError> {
        self.look()?.see_usage(account, |usage| {
            if now < usage.cycle_end {
                return see(usage);
            }
            let mut usage = usage.clone();
            usage.roll_over(now);
            see(&usage)
        })
    }

    /// Debits a read: counted at once, durable within 500 ms. While the disk fails nothing is debited.
    ///
    /// # Errors
    ///
    /// [`Refusal::OutOfCredits`] or [`Refusal::KeyRevoked`]; nothing was debited then.
    pub async fn debit(
        &self,
        account: AccountKey,
        payer: Payer,
        (operation, cost): (Operation, u64),
        now: Timestamp,
    ) -> Result<Debited, OpError<Refusal>> {
        let inner = if let Ok(inner) = self.look() {
            inner
        } else {
            // The caller has read already: rather late than in vain.
            self.opened().await;
            self.look()?
        };
        if inner.takes_writes().is_ok() {
            let read = Read {
                payer,
                operation,
                cost,
                now,
            };
            let step = || inner.debit_read(account, read);
            match inner.run_shared(account, step).await {
                Ok(balance) => {
                    inner.committer.mark_dirty();
                    return Ok(Debited { cost, balance });
                }
                Err(OpError::Store(_)) if inner.committer.is_poisoned() => {}
                Err(error) => return Err(error),
            }
        }
        self.read_uncharged(account, payer.lineage, cost, now)
    }

    /// Answers for an account with credits left while nothing can be debited.
    fn read_uncharged(
        &self,
        account: AccountKey,
        lineage: KeyNo,
        cost: u64,
        now: Timestamp,
    ) -> Result<Debited, OpError<Refusal>> {
        let balance = self
            .usage(account, now)?
            .balance_of(lineage)
            .map_err(OpError::Refused)?;
        if balance.credits_remaining < cost {
            return Err(OpError::Refused(Refusal::OutOfCredits(balance)));
        }
        Ok(Debited { cost: 0, balance })
    }

    /// Changes an account's plan. Returns the plan before and the usage after.
    ///
    /// # Errors
    ///
    /// [`StoreError`] only; the rules refuse no plan.
    pub async fn change_plan(
        &self,
        account: AccountKey,
        plan: Plan,
        now: Timestamp,
        cause: Cause,
    ) -> Result<(Plan, Usage), StoreError> {
        let inner = self.inner()?;
        let ticket = inner.admit()?;
        let changed = inner
            .run_alone(account, || {
                inner.swap_usage::<_, Refusal>(account, |usage| {
                    Ok((usage.change_plan(plan, now, cause.clone()), usage.clone()))
                })
            })
            .await
            .map_err(never_refused)?;
        ticket.commit().await?;
        Ok(changed)
    }
}

impl Inner {
    pub(super) fn usage(&self, account: AccountKey) -> Result<Usage, StoreError> {
        self.see_usage(account, Usage::clone)
    }

    fn see_usage<T>(
        &self,
        account: AccountKey,
        see: impl FnOnce(&Usage) -> T,
    ) -> Result<T, StoreError> {
        self.usages.see(account, see)
    }

    /// Writes an account's usage, whatever there was.
    pub(super) fn put_usage(&self, account: AccountKey, usage: &Usage) -> Result<(), StoreError> {
        self.usages.put(account, usage)
    }

    /// Removes an account's usage.
    pub(super) fn remove_usage(&self, account: AccountKey) -> Result<(), StoreError> {
        self.usages.remove(account)
    }

    /// Changes an account's usage in one swap, and nothing besides.
    pub(super) fn change_usage<T, E>(
        &self,
        account: AccountKey,
        mut step: impl FnMut(&mut Usage) -> Result<T, SwapError<E>>,
    ) -> Result<T, SwapError<E>> {
        let step = |usage: &mut Usage| Ok((step(usage)?, Written::Now));
        self.stop_if_failed(self.usages.change(account, step))
    }

    /// Changes an account's usage in one swap, and drops the intents of writes that are complete. What the
    /// usage carries then and is due goes on from there.
    pub(super) fn swap_usage<T, E>(
        &self,
        account: AccountKey,
        step: impl FnMut(&mut Usage) -> Result<T, E>,
    ) -> Result<T, SwapError<E>> {
        self.step_usage(account, None, step)
    }

    /// As [`Self::swap_usage`] with a step that is the debit of a read: if it changes nothing besides, it is
    /// written soon, and intents stay.
    fn debit_read(&self, account: AccountKey, read: Read) -> Result<Balance, SwapError<Refusal>> {
        self.step_usage(account, Some(read), |usage| read.debit(usage))
    }

    fn step_usage<T, E>(
        &self,
        account: AccountKey,
        read: Option<Read>,
        mut step: impl FnMut(&mut Usage) -> Result<T, E>,
    ) -> Result<T, SwapError<E>> {
        let mut settled = Vec::new();
        let (mut cycle, mut rows_due, mut has_events) = (None, false, false);
        let changed = self.usages.change(account, |usage| {
            settled.clear();
            if read.is_none() {
                let intents = usage.intents.iter().map(|intent| intent.op);
                settled.extend(intents.filter(|op| self.locks.is_done(account, *op)));
                usage.settle(|op| settled.contains(&op));
            }
            let (before, mark) = (usage.cycle, usage.mark());
            let result = step(usage).map_err(SwapError::Refused)?;
            // Always on: what breaks a rule is never written.
            if let Some(rule) = usage.broken_since(&mark) {
                let id = account.anonymous_id();
                return Err(StoreError::Corrupt(format!("a step on {id}: {rule}")).into());
            }
            cycle = (usage.cycle != before).then_some(usage.cycle);
            (rows_due, has_events) = (usage.is_ledger_due(), !usage.events.events.is_empty());
            let written = match read {
                Some(read) if cycle.is_none() && !rows_due && !has_events => Written::Soon(read),
                _ => Written::Now,
            };
            Ok((result, written))
        });
        let result = self.stop_if_failed(changed)?;
        self.locks.forget(account, &settled);
        if let Some(cycle) = cycle {
            log::info!("billing cycle {cycle} began for {}", account.anonymous_id());
        }
        // The step is done: what goes wrong from here on is settled by a later one, or on open.
        let moved = match (rows_due, has_events) {
            (true, _) => self.move_ledger(account),
            (false, _) => Ok(()),
        };
        let handed = if has_events {
            self.hand_over(account)
        } else {
            Ok(())
        };
        for error in [moved, handed].into_iter().filter_map(Result::err) {
            log::warn!("{} carries on: {error}", account.anonymous_id());
        }
        Ok(result)
    }

    /// Runs a step that begins a write; waits while too many of the account are under way.
    pub(super) async fn run_write<T>(
        &self,
        account: AccountKey,
        mut step: impl FnMut() -> Result<T, SwapError<Refusal>>,
    ) -> Result<T, OpError<Refusal>> {
        let started = tokio::time::Instant::now();
        loop {
            match self.run_shared(account, &mut step).await {
                Err(OpError::Refused(Refusal::Busy)) => {}
                outcome => return outcome,
            }
            if started.elapsed() >= BUSY_WAIT {
                return Err(OpError::Store(StoreError::Overloaded));
            }
            tokio::time::sleep(BUSY_TICK).await;
        }
    }
}

/// Returns the usage record that the bytes are, its plans those of the table.
///
/// # Errors
///
/// [`StoreError::Corrupt`] if they are none, or hold the number of a plan that is not in the table.
pub(super) fn decode_usage(bytes: &[u8], plans: &'static Plans) -> Result<Usage, StoreError> {
    let mut usage: Usage = decode(bytes)?;
    let caps = usage.shares.iter().filter_map(|share| share.cap);
    if let Some(no) = caps
        .chain([usage.plan])
        .find(|no| plans.by_no(*no).is_none())
    {
        return Err(StoreError::Corrupt(format!("no plan has the number {no}")));
    }
    usage.plans = plans;
    Ok(usage)
}

/// As [`decode_usage`], of the record under a key. `None` if it is not there or is none.
pub(super) fn readable_usage(
    tree: &sled::Tree,
    account: AccountKey,
    plans: &'static Plans,
) -> Result<Option<Usage>, StoreError> {
    let bytes = tree.get(account.0)?;
    Ok(bytes.and_then(|bytes| decode_usage(&bytes, plans).ok()))
}

/// Turns the end of an operation that the rules cannot refuse into a fault.
pub(super) fn never_refused<E: std::error::Error>(error: OpError<E>) -> StoreError {
    match error {
        OpError::Store(error) => error,
        OpError::Refused(refusal) => StoreError::Corrupt(refusal.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::EventKind;
    use crate::domain::ledger::{Entry, LedgerRow, Sums, TAIL_ROWS};
    use crate::domain::memory::MemoryId;
    use crate::domain::plan::PlanNo;
    use crate::domain::usage::{INTENTS_MAX, Intent, IntentKind, Share};
    use crate::store::codec::{VALUE_BYTES_MAX, encode};
    use crate::store::keys::ACTIVE_KEYS_MAX;
    use crate::store::testing::NOW;

    /// As they were written while a plan was a variant of an enum.
    const USAGE_OF_VARIANTS: [u8; 115] = [
        1, 2, 253, 0, 128, 64, 140, 144, 142, 12, 0, 0, 253, 0, 192, 105, 198, 111, 147, 12, 0,
        252, 160, 134, 1, 0, 2, 2, 1, 1, 253, 0, 128, 64, 140, 144, 142, 12, 0, 254, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 2, 1, 251, 232, 3, 3, 1, 0, 0, 0, 0, 0, 2, 1, 0, 2, 2, 1,
        1, 253, 0, 128, 64, 140, 144, 142, 12, 0, 3, 1, 2, 0, 0, 0, 0, 1, 1, 0, 2, 254, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 2, 0,
    ];
    fn usage() -> Usage {
        let mut usage = Usage::new(Plan::PREMIUM, NOW);
        for (no, cap) in [(1, None), (2, Some(Plan::FREE)), (3, Some(Plan::PREMIUM))] {
            usage.shares.push(Share::new(no, cap));
        }
        let id = MemoryId::new(7, 7);
        usage.begin_add(Payer::first(2), id, 2, None, NOW).unwrap();
        usage
    }

    #[test]
    fn a_usage_from_before_the_ledger_is_read_with_one() {
        // Shows that a record of version 1, written while a plan was a variant of an enum, is read with the
        // same counters, and with a ledger that says the same.
        let read = decode_usage(&USAGE_OF_VARIANTS, Plans::seed()).unwrap();
        let caps: Vec<_> = read.shares.iter().map(|s| read.cap_of(s)).collect();
        assert_eq!(caps, [None, Some(Plan::FREE), Some(Plan::PREMIUM)]);
        let mut expected = usage();
        expected.open_ledger(NOW);
        assert_eq!((read.plan(), &read), (Plan::PREMIUM, &expected));
        let mut sums = Sums::default();
        for row in &read.ledger.rows {
            sums.count(row, read.cycle);
        }
        assert!(sums.equal(&read), "{sums:?}");
        let again = decode_usage(&encode(&read).unwrap(), Plans::seed()).unwrap();
        assert_eq!(again, read);
    }

    #[test]
    fn the_largest_usage_fits_into_one_value() {
        // Shows that a usage with every key, write under way, row and warning that it can have, and counters
        // beyond any business, is a value that the database keeps in its log.
        const MANY: u64 = 1 << 40;
        let keys = u32::try_from(ACTIVE_KEYS_MAX).unwrap();
        let mut usage = Usage::new(Plan::PREMIUM, NOW);
        (usage.granted, usage.used, usage.used_ever) = (MANY, MANY, MANY);
        (usage.held, usage.next_op, usage.stats_due) = (MANY, MANY, MANY);
        (usage.cycle, usage.next_key_no) = (1_000, 100_000 + keys);
        usage.last_activity = Some(NOW);
        for no in 0..keys {
            let mut share = Share::new(100_000 + no, Some(Plan::PREMIUM));
            (share.credits_cap, share.last_activity) = (Some(MANY), Some(NOW));
            (share.used, share.used_ever, share.held) = (MANY, MANY, 1_000_000);
            usage.shares.push(share);
        }
        for n in 0..INTENTS_MAX as u64 {
            usage.intents.push(Intent {
                op: MANY + n,
                cycle: 1_000,
                key_no: 100_000,
                paid_by: 100_001,
                memory: MemoryId::new(MANY, 7),
                kind: IntentKind::Add {
                    cost: 1_000,
                    replay: Some([7; 16]),
                },
            });
        }
        // As many as are there when they are moved, and those of other threads until they are gone.
        usage.ledger.last_no = MANY;
        usage.ledger.rows.clear();
        for n in 0..u32::try_from(TAIL_ROWS).unwrap() + 4 {
            usage.ledger.push(LedgerRow {
                key_no: 100_000 + n,
                amount: -1_000_000,
                count: 1_000_000,
                entry: Entry::Debit(Operation::AddMemory),
                ..LedgerRow::lost(0, 1_000, NOW)
            });
        }
        let (remaining, limit) = (MANY, MANY);
        usage.events.last_no = MANY;
        for kind in [
            EventKind::CreditsLow { remaining, limit },
            EventKind::CreditsExhausted { limit },
            EventKind::MemoryNearLimit { held: limit, limit },
        ] {
            usage.events.push(NOW, Cause::service(), kind);
        }
        let bytes = encode(&usage).unwrap().len();
        assert!(bytes <= VALUE_BYTES_MAX, "{bytes}");
    }

    #[test]
    fn a_number_that_no_plan_has_is_damage() {
        // Shows that an unknown number is refused, of the account and of a key.
        let refused = |usage: &Usage| {
            let error = decode_usage(&encode(usage).unwrap(), Plans::seed()).unwrap_err();
            assert!(error.to_string().contains("number 9"), "{error}");
        };
        let (mut of_account, mut of_key) = (usage(), usage());
        of_account.plan = PlanNo(9);
        of_key.shares[2].cap = Some(PlanNo(9));
        refused(&of_account);
        refused(&of_key);
    }
}
