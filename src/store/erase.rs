//! Erasure: an account goes for good, and with it whatever it holds.
//!
//! One step decides: the account's record is marked as erasing, with the audit log's event. From then on
//! there is no account: its keys open nothing, its record and its usage go at once, and only its name stays
//! taken. Then, a bounded number of records at a time, go its memories, pieces, aggregates, recorded
//! answers, keys and ids of keys; the rows of its ledger are kept with amount, operation, cycle and hour only,
//! under a random id that nothing leads to. Last go its name and the entry in `erasures`, which a start that
//! finds it goes on from.
//!
//! The sweep holds no lock and needs none: whatever writes for an account changes its usage first, and there is
//! none any more.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::account::AccountKey;
use crate::domain::event::{Cause, EventKind};
use crate::domain::key::{KeyHash, KeyId};
use crate::domain::ledger::LedgerRow;
use crate::domain::time::Timestamp;
use crate::domain::usage::KeyNo;

use super::codec::{Record, decode, decode_borrowed, encode};
use super::locks::lock;
use super::pieces::Owner;
use super::recovery::OnDamage;
use super::schema::{
    AccountRecord, KeyRecord, ReplayRecord, Standing, expiry_key, op_key, part, replay_time_key,
};
use super::swap::SwapError;
use super::{Inner, OpError, Ordering, Store, StoreError};

/// Records that go at a time; after them others have their turn, and it is flushed.
const BATCH: usize = 1_000;
/// How often a sweep that has no place among the waiting writes asks for one again.
const OVERLOAD_TICK: Duration = Duration::from_millis(5);

/// What is to be erased.
#[derive(Clone, Debug)]
pub struct Erasure {
    /// Which account.
    pub account: AccountKey,
    /// The id of the receipt.
    pub receipt: String,
    /// The id, random and nobody's, under which the rows of the ledger are kept.
    pub ledger_id: AccountKey,
    /// When.
    pub now: Timestamp,
    /// The key that asks; `None` for the admin.
    pub by: Option<KeyNo>,
    /// Who, and why.
    pub cause: Cause,
}

/// What was erased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// Memories.
    pub memories: u64,
    /// Keys, revoked ones included.
    pub keys: u64,
    /// Answers recorded under an `Idempotency-Key`.
    pub recorded_answers: u64,
    /// Rows of the ledger that are kept, without anything that leads to the account.
    pub ledger_rows_kept: u64,
}

/// Why nothing was erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EraseRefusal {
    /// There is no such account, or it is being erased.
    #[error("there is no such account")]
    NotThere,
    /// The key that asks has a successor.
    #[error("the key that asks was rotated")]
    Rotated,
}

/// An erasure under way, in the tree `erasures`, by its account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ErasureIntent {
    /// The name that stays taken until the end.
    name: Option<String>,
    ledger_id: AccountKey,
}

impl Record for ErasureIntent {}

impl Store {
    /// Erases an account. Ends when nothing of it is left and that is on the disk; what of it is left then in
    /// the database's files goes with a compaction. Should it be dropped, or the process die, once it is decided it is
    /// finished by [`Self::finish_erasures`] or the next start.
    ///
    /// # Errors
    ///
    /// [`EraseRefusal`]. A [`StoreError`] on the way leaves an erasure that is decided to be finished later.
    pub async fn erase_account(&self, erasure: Erasure) -> Result<Erased, OpError<EraseRefusal>> {
        let inner = self.inner()?;
        let ticket = inner.admit()?;
        let account = erasure.account;
        let alone = inner.locks.alone(account).await;
        let deciding = Arc::clone(&inner);
        let begun = tokio::task::spawn_blocking(move || {
            let begun = deciding.begin_erasure(&erasure);
            drop(alone);
            begun
        });
        let begun = begun.await.map_err(interrupted)?;
        let (erased, sweep) = inner.ended(begun)?;
        ticket.commit().await?;
        sweep_erased(&inner, account, sweep).await?;
        Ok(erased)
    }

    /// Goes on with erasures that are decided and that nobody is working on. Returns how many it finished.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if they cannot be finished now.
    pub async fn finish_erasures(&self) -> Result<u64, StoreError> {
        let inner = self.inner()?;
        let mut finished = 0u64;
        for entry in &inner.trees.erasures {
            let (key, _) = entry?;
            let Some(account) = part(&key, 0).map(AccountKey) else {
                continue;
            };
            let alone = inner.locks.alone(account).await;
            let sweep = Sweep::begin(&inner, account);
            drop(alone);
            if let Some(sweep) = sweep {
                sweep_erased(&inner, account, sweep).await?;
                finished = finished.saturating_add(1);
            }
        }
        Ok(finished)
    }
}

/// The right to sweep an account: one at a time has it.
struct Sweep {
    inner: Arc<Inner>,
    account: AccountKey,
}

impl Sweep {
    fn begin(inner: &Arc<Inner>, account: AccountKey) -> Option<Self> {
        let is_first = lock(&inner.erasing).insert(account);
        is_first.then(|| Self {
            inner: Arc::clone(inner),
            account,
        })
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        lock(&self.inner.erasing).remove(&self.account);
    }
}

/// Removes what is left of an account, others having their turn in between.
async fn sweep_erased(
    inner: &Arc<Inner>,
    account: AccountKey,
    sweep: Sweep,
) -> Result<(), StoreError> {
    loop {
        // What is decided is finished, but not at the price of a full disk.
        let ticket = match inner.admit() {
            Ok(ticket) => ticket,
            Err(StoreError::Overloaded) => {
                tokio::time::sleep(OVERLOAD_TICK).await;
                continue;
            }
            Err(_) => return Err(StoreError::OutcomeUnknown),
        };
        let sweeping = Arc::clone(inner);
        let batch = tokio::task::spawn_blocking(move || sweeping.sweep_batch(account));
        let is_done = batch.await.map_err(interrupted)??;
        ticket.commit().await?;
        if is_done {
            drop(sweep);
            return Ok(());
        }
    }
}

fn interrupted(_: tokio::task::JoinError) -> StoreError {
    StoreError::Corrupt("an erasure was interrupted".to_owned())
}

impl Inner {
    /// Decides the erasure, and takes the account out of every list. The caller holds it alone.
    fn begin_erasure(
        self: &Arc<Self>,
        erasure: &Erasure,
    ) -> Result<(Erased, Sweep), SwapError<EraseRefusal>> {
        let account = erasure.account;
        let Some(record) = self.trees.users.get(account.0).map_err(StoreError::from)? else {
            return Err(SwapError::Refused(EraseRefusal::NotThere));
        };
        let record: AccountRecord = decode(&record)?;
        if record.standing == Standing::Erasing {
            return Err(SwapError::Refused(EraseRefusal::NotThere));
        }
        // Looked at by whoever holds the account alone: it may have been rotated since it was let in.
        if let Some(no) = erasure.by
            && let Some((_, key)) = self.key_numbered(account, no)?
            && key.successor.is_some()
        {
            return Err(SwapError::Refused(EraseRefusal::Rotated));
        }
        // Every row is in the tree from here on, and no event is left behind.
        self.move_ledger(account)?;
        self.hand_over(account)?;
        let count = |tree: &sled::Tree| -> Result<u64, StoreError> {
            let mut keys = tree.scan_prefix(account.0).keys();
            keys.try_fold(0u64, |sum, key| key.map(|_| sum.saturating_add(1)))
                .map_err(StoreError::from)
        };
        let erased = Erased {
            memories: self.usage(account)?.held,
            keys: count(&self.trees.account_keys)?,
            recorded_answers: count(&self.trees.replays)?,
            ledger_rows_kept: count(&self.trees.ledger)?,
        };
        let steps = self.steps();
        let intent = ErasureIntent {
            name: record.name.clone(),
            ledger_id: erasure.ledger_id,
        };
        let intent = encode(&intent)?;
        self.trees
            .erasures
            .insert(account.0, intent)
            .map_err(StoreError::from)?;
        let kind = EventKind::Erased {
            receipt: erasure.receipt.clone(),
            memories: erased.memories,
            keys: erased.keys,
            ledger_rows_kept: erased.ledger_rows_kept,
        };
        self.swap_account(account, |record| {
            record.standing = Standing::Erasing;
            record
                .events
                .push(erasure.now, erasure.cause.clone(), kind.clone());
        })?;
        // Before the lock is given back, so that nobody else takes it up.
        let sweep = Sweep::begin(self, account);
        let sweep = sweep.ok_or(SwapError::Refused(EraseRefusal::NotThere))?;
        self.take_out(account)?;
        let (active, totals) = (record.active.len(), &self.totals);
        let active_keys = u64::try_from(active).unwrap_or(u64::MAX);
        totals.accounts.fetch_sub(1, Ordering::Relaxed);
        totals
            .active_accounts
            .fetch_sub(u64::from(active > 0), Ordering::Relaxed);
        totals.active_keys.fetch_sub(active_keys, Ordering::Relaxed);
        totals
            .memories
            .fetch_sub(erased.memories, Ordering::Relaxed);
        steps.complete();
        Ok((erased, sweep))
    }

    /// Takes an account that is marked as erasing out of `users` and `usage`, once its event is in the log.
    fn take_out(&self, account: AccountKey) -> Result<(), StoreError> {
        self.bar(account, Standing::Erasing)?;
        self.hand_over(account)?;
        let remove = || self.trees.users.remove(account.0);
        self.names.write(account, remove)?;
        self.remove_usage(account)?;
        Ok(())
    }

    /// Removes the next records of an account that is erased, and at the end its entry in `erasures`. Returns
    /// whether that was the end. Done again, it ends the same.
    fn sweep_batch(&self, account: AccountKey) -> Result<bool, StoreError> {
        let Some(intent) = self.trees.erasures.get(account.0)? else {
            return Ok(true);
        };
        // As long as there is a record it is not decided, whatever else is there.
        if self.trees.users.contains_key(account.0)? {
            return Ok(true);
        }
        let intent: ErasureIntent = decode(&intent)?;
        let steps = self.steps();
        let mut left = BATCH;
        let is_done = self.sweep(account, intent.ledger_id, &mut left)?;
        if is_done {
            self.forget_account(account, intent.name.as_deref())?;
        }
        steps.complete();
        Ok(is_done)
    }

    /// Removes at most `left` records. Returns whether no more are there.
    fn sweep(
        &self,
        account: AccountKey,
        ledger_id: AccountKey,
        left: &mut usize,
    ) -> Result<bool, StoreError> {
        let trees = &self.trees;
        let remove = |tree: &sled::Tree, key: &[u8]| -> Result<(), StoreError> {
            tree.remove(key)?;
            Ok(())
        };
        self.remove_usage(account)?;
        let writing = self.newest.writing(account);
        for tree in [
            &trees.memories,
            &trees.stats,
            &trees.stats_journal,
            &trees.key_intents,
        ] {
            each(tree, &account.0, left, |key, _| remove(tree, key))?;
        }
        drop(writing);
        for tag in Owner::TAGS {
            let prefix = [tag, &account.0].concat();
            each(&trees.pieces, &prefix, left, |key, _| {
                remove(&trees.pieces, key)
            })?;
        }
        each(&trees.replays, &account.0, left, |key, value| {
            // One that cannot be read leaves its time, which is swept when it is a day old.
            if let (Ok(record), Ok(name)) =
                (decode_borrowed::<ReplayRecord<'_>>(value), key.try_into())
            {
                remove(
                    &trees.replay_times,
                    &replay_time_key(record.recorded_at, name),
                )?;
            }
            remove(&trees.replays, key)
        })?;
        each(&trees.account_keys, &account.0, left, |key, value| {
            if let Ok(hash) = decode::<KeyHash>(value) {
                self.sweep_key(account, &hash)?;
            }
            remove(&trees.account_keys, key)
        })?;
        each(&trees.ledger, &account.0, left, |key, value| {
            if let Ok(row) = decode::<LedgerRow>(value) {
                let row = row.anonymous();
                let kept = op_key(ledger_id, row.no);
                trees.erased_ledger.insert(kept, encode(&row)?)?;
            }
            remove(&trees.ledger, key)
        })?;
        Ok(*left > 0)
    }

    /// Removes a key's record and what finds it.
    fn sweep_key(&self, account: AccountKey, hash: &KeyHash) -> Result<(), StoreError> {
        let Some(record) = self.trees.keys.get(hash.0)? else {
            return Ok(());
        };
        if let Ok(record) = decode::<KeyRecord>(&record) {
            if record.account != account {
                return Ok(());
            }
            let id: &KeyId = &record.id;
            self.trees.key_ids.remove(id.as_str())?;
            if let Some(end) = record.expires_at {
                let index = expiry_key(end, account, record.no);
                self.trees.key_expiries.remove(index)?;
            }
        }
        self.remove_key_record(hash)
    }

    /// Gives the name of an account back of which nothing else is left, and ends its erasure.
    fn forget_account(&self, account: AccountKey, name: Option<&str>) -> Result<(), StoreError> {
        if let Some(name) = name
            && let Some(owner) = self.trees.names.get(name)?
            && decode::<AccountKey>(&owner)? == account
        {
            self.trees.names.remove(name)?;
        }
        self.forget_times(account)?;
        self.bar(account, Standing::Good)?;
        self.stats.forget(account);
        self.trees.erasures.remove(account.0)?;
        Ok(())
    }

    /// Removes what is listed by time and leads to no record any more: of an answer that a crash undid or that was
    /// recorded again a day later, of a key whose making or change a crash undid. Costs a step for each answer of
    /// the last day and each key that expires, whoever's they are: nothing finds them faster.
    fn forget_times(&self, account: AccountKey) -> Result<(), StoreError> {
        for tree in [&self.trees.replay_times, &self.trees.key_expiries] {
            for entry in tree.iter().keys() {
                let entry = entry?;
                if part(&entry, 8) == Some(account.0) {
                    tree.remove(entry)?;
                }
            }
        }
        Ok(())
    }

    /// Says whether what there is of an account is about to go.
    pub(super) fn is_erasing(&self, account: AccountKey) -> Result<bool, StoreError> {
        Ok(self.trees.erasures.contains_key(account.0)?)
    }

    /// On open: finishes the erasures that were decided, and forgets those that were not. Returns how many.
    pub(super) fn recover_erasures(&self, damage: OnDamage) -> Result<u64, StoreError> {
        let mut settled = 0u64;
        for entry in &self.trees.erasures {
            let (key, _) = entry?;
            if let Some(account) = part(&key, 0).map(AccountKey) {
                damage.judge(self.recover_erasure(account))?;
                settled = settled.saturating_add(1);
            }
        }
        Ok(settled)
    }

    fn recover_erasure(&self, account: AccountKey) -> Result<(), StoreError> {
        if let Some(record) = self.trees.users.get(account.0)? {
            let record: AccountRecord = decode(&record)?;
            if record.standing != Standing::Erasing {
                self.trees.erasures.remove(account.0)?;
                return Ok(());
            }
            self.take_out(account)?;
        }
        while !self.sweep_batch(account)? {}
        Ok(())
    }
}

/// Calls `work` with records of a tree whose keys have a prefix, as long as some are left to be done.
fn each(
    tree: &sled::Tree,
    prefix: &[u8],
    left: &mut usize,
    mut work: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    for entry in tree.scan_prefix(prefix).take(*left) {
        let (key, value) = entry?;
        work(&key, &value)?;
        *left = left.saturating_sub(1);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
