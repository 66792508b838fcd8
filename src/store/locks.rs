//! Who may touch an account at the same time, and which of its writes are complete.
//!
//! Debits and adds hold an account's lock shared, so that they run side by side and meet only in the
//! compare-and-swap. Whatever reads first and writes several records after (a change, a delete, a key,
//! a plan, a recount) holds it alone; so does a debit that lost too many races. The locks are a fixed
//! number of stripes over all accounts; waiting holds no thread.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::HashSet;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::domain::account::AccountKey;

/// Power of two, so that a random byte pair picks one evenly.
const STRIPES: usize = 1_024;

#[derive(Debug, Default)]
struct Stripe {
    lock: Arc<RwLock<()>>,
    /// Writes that are complete but whose intents are still in the usage record.
    done: Mutex<HashSet<(AccountKey, u64)>>,
}

#[derive(Debug)]
pub(crate) struct AccountLocks(Vec<Stripe>);

/// Locks a mutex whose data is always whole, also after a panic of another holder.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AccountLocks {
    pub(super) fn new() -> Self {
        Self((0..STRIPES).map(|_| Stripe::default()).collect())
    }

    fn stripe(&self, account: AccountKey) -> Option<&Stripe> {
        let [.., a, b] = account.0;
        self.0
            .get(usize::from(u16::from_be_bytes([a, b])) % STRIPES)
    }

    /// Waits for the account, beside others who share it.
    pub(super) async fn shared(&self, account: AccountKey) -> Option<RwLockReadGuard<'_, ()>> {
        Some(self.stripe(account)?.lock.read().await)
    }

    /// Waits for the account alone.
    pub(super) async fn alone(&self, account: AccountKey) -> Option<OwnedRwLockWriteGuard<()>> {
        Some(Arc::clone(&self.stripe(account)?.lock).write_owned().await)
    }

    /// Waits for the account alone, on a thread that may block.
    ///
    /// # Panics
    ///
    /// On a thread of an async runtime, if somebody else holds the account.
    pub(super) fn alone_blocking(&self, account: AccountKey) -> Option<RwLockWriteGuard<'_, ()>> {
        let lock = &self.stripe(account)?.lock;
        Some(lock.try_write().unwrap_or_else(|_| lock.blocking_write()))
    }

    /// Says whether somebody waits for the account alone, while the caller shares it.
    #[cfg(test)]
    pub(super) fn is_waited_for(&self, account: AccountKey) -> bool {
        self.stripe(account).unwrap().lock.try_read().is_err()
    }

    /// Notes that a write is complete: the account's next swap drops its intent.
    pub(super) fn mark_done(&self, account: AccountKey, op: u64) {
        if let Some(stripe) = self.stripe(account) {
            lock(&stripe.done).insert((account, op));
        }
    }

    /// Says whether a write is complete.
    pub(super) fn is_done(&self, account: AccountKey, op: u64) -> bool {
        self.stripe(account)
            .is_some_and(|stripe| lock(&stripe.done).contains(&(account, op)))
    }

    /// Forgets writes whose intents are gone from the record.
    pub(super) fn forget(&self, account: AccountKey, ops: &[u64]) {
        if let (Some(stripe), false) = (self.stripe(account), ops.is_empty()) {
            let mut done = lock(&stripe.done);
            for op in ops {
                done.remove(&(account, *op));
            }
        }
    }
}
