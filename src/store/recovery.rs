//! On open: settles what a crash left, and derives the counters over all accounts.
//!
//! The database's log comes back as a prefix of what was written, so each operation is done up to one
//! of its steps. Its intent is its first step and goes with its last; what is found decides whether
//! the rest is done or the beginning undone.

use crate::domain::account::AccountKey;
use crate::domain::ledger::LedgerRow;
use crate::domain::usage::{Intent, IntentKind, Usage};

use super::codec::{decode, decode_borrowed};
use super::pieces::{self, Owner};
use super::schema::{
    AccountRecord, KeyIntent, ReplayRecord, Revoked, Standing, memory_key, op_key, part, replay_key,
};
use super::usage::decode_usage;
use super::{Inner, Ordering, StoreError};

/// What recovery does about a record that is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnDamage {
    /// Ends: a service must not go on from it.
    Stop,
    /// Leaves it, and what hangs on it, as it is.
    PassOver,
    /// Leaves it, and goes on although writes are gone that were on the disk.
    Repair,
}

impl OnDamage {
    /// Returns what was found, or `None` if it is damaged and passed over.
    pub(super) fn judge<T>(self, outcome: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match outcome {
            Err(StoreError::Corrupt(_) | StoreError::NoAccount) if self != Self::Stop => Ok(None),
            outcome => outcome.map(Some),
        }
    }
}

impl Inner {
    /// Settles every intent. Returns how many writes had to be finished or undone.
    pub(super) fn recover(&self, damage: OnDamage) -> Result<u64, StoreError> {
        let mut settled = self.recover_erasures(damage)?;
        settled = settled.saturating_add(self.recover_keys(damage)?);
        let mut memories = 0u64;
        for entry in &self.trees.usage {
            let (key, bytes) = entry?;
            if let Some((own, held)) = damage.judge(self.recover_usage(&key, &bytes))? {
                settled = settled.saturating_add(own);
                memories = memories.saturating_add(held);
            }
        }
        let (mut accounts, mut active_accounts, mut active_keys) = (0u64, 0u64, 0u64);
        for entry in &self.trees.users {
            let (key, bytes) = entry?;
            let Some(record) = damage.judge(decode::<AccountRecord>(&bytes))? else {
                continue;
            };
            if !record.events.events.is_empty()
                && let Some(account) = part(&key, 0).map(AccountKey)
            {
                damage.judge(self.hand_over(account))?;
            }
            accounts = accounts.saturating_add(1);
            active_accounts = active_accounts.saturating_add(u64::from(!record.active.is_empty()));
            let keys = u64::try_from(record.active.len()).unwrap_or(u64::MAX);
            active_keys = active_keys.saturating_add(keys);
        }
        self.all_handed_over();
        damage.judge(self.recover_stats())?;
        let barred = u64::try_from(self.trees.barred.len()).unwrap_or(u64::MAX);
        self.totals.barred.store(barred, Ordering::Release);
        self.totals.memories.store(memories, Ordering::Relaxed);
        self.totals.accounts.store(accounts, Ordering::Relaxed);
        self.totals
            .active_accounts
            .store(active_accounts, Ordering::Relaxed);
        self.totals
            .active_keys
            .store(active_keys, Ordering::Relaxed);
        self.db.flush()?;
        Ok(settled)
    }

    /// Settles what was under way in one usage. Returns how many writes were not complete, and how many
    /// memories the account holds.
    fn recover_usage(&self, key: &[u8], bytes: &[u8]) -> Result<(u64, u64), StoreError> {
        let account = AccountKey(part(key, 0).ok_or_else(|| bad_key("usage"))?);
        let mut usage = decode_usage(bytes, self.plans)?;
        let mut settled = 0;
        if !usage.intents.is_empty() {
            settled = self.recover_memories(account, &mut usage)?;
        }
        // Rows that were being moved are in both, or in the usage only: as they are, they are read once.
        let is_moving = |row: &LedgerRow| row.no <= usage.ledger.frozen;
        if usage.is_ledger_due() || usage.ledger.rows.iter().any(is_moving) {
            self.move_ledger(account)?;
        }
        if !usage.events.events.is_empty() {
            self.hand_over(account)?;
        }
        Ok((settled, usage.held))
    }

    /// Settles the writes of one account that were under way. Returns how many were not complete.
    pub(super) fn recover_memories(
        &self,
        account: AccountKey,
        usage: &mut Usage,
    ) -> Result<u64, StoreError> {
        let mut settled = 0u64;
        for intent in usage.intents.clone() {
            let complete = self.recover_memory(account, usage, &intent)?;
            usage.settle(|op| op == intent.op);
            settled = settled.saturating_add(u64::from(!complete));
        }
        // Last: should the process die again before it, all of the above is done once more and ends the same.
        self.put_usage(account, usage)?;
        Ok(settled)
    }

    /// Settles one write. Returns whether it was complete already.
    fn recover_memory(
        &self,
        account: AccountKey,
        usage: &mut Usage,
        intent: &Intent,
    ) -> Result<bool, StoreError> {
        let revision = self.memory_revision(account, intent.memory)?;
        let owner = Owner::memory(memory_key(account, intent.memory));
        match &intent.kind {
            IntentKind::Add { replay, .. } => {
                if revision.is_some() {
                    return Ok(true);
                }
                pieces::remove_others(&self.trees.pieces, owner, None)?;
                if let Some(replay) = replay {
                    self.remove_replay(account, *replay)?;
                }
                usage.undo(intent);
                Ok(false)
            }
            IntentKind::Change { .. } => {
                // The new head is there, or the old one is: either way the other's pieces go.
                pieces::remove_others(&self.trees.pieces, owner, revision)?;
                if revision == Some(intent.op) {
                    return Ok(true);
                }
                self.trees
                    .stats_journal
                    .remove(op_key(account, intent.op))?;
                usage.undo(intent);
                Ok(false)
            }
            IntentKind::Delete => {
                self.finish_delete(account, intent)?;
                Ok(revision.is_none())
            }
            IntentKind::Adjust { replay, .. } => {
                let key = replay_key(account, *replay);
                // Its own answer: an older one under the same key may be there that has expired.
                if let Some(bytes) = self.trees.replays.get(key)?
                    && decode_borrowed::<ReplayRecord<'_>>(&bytes)?.revision == intent.op
                {
                    return Ok(true);
                }
                usage.undo(intent);
                Ok(false)
            }
        }
    }

    /// Removes pieces of aggregates that no head names: a snapshot was under way, or had just taken the
    /// place of another. It has no intent, since nothing is lost with it; without this the pieces would
    /// stay until the account's next snapshot, which may never come.
    fn recover_stats(&self) -> Result<(), StoreError> {
        for key in self.trees.pieces.scan_prefix(Owner::STATS_TAG).keys() {
            let key = key?;
            let account = part(&key, Owner::STATS_TAG.len()).map(AccountKey);
            let account = account.ok_or_else(|| bad_key("pieces"))?;
            let named = self.stats_head(account)?.map(|head| head.op);
            if named.is_none() || pieces::revision(&key) != named {
                self.trees.pieces.remove(key)?;
            }
        }
        Ok(())
    }

    /// Settles sign-ups and keys that were being made or revoked.
    fn recover_keys(&self, damage: OnDamage) -> Result<u64, StoreError> {
        let mut settled = 0u64;
        for entry in &self.trees.key_intents {
            let (key, bytes) = entry?;
            let account = part(&key, 0).ok_or_else(|| bad_key("key_intents"));
            let recovered = account.and_then(|account| {
                let intent = decode(&bytes)?;
                self.recover_key(AccountKey(account), intent)
            });
            if damage.judge(recovered)?.is_some() {
                self.trees.key_intents.remove(key)?;
                settled = settled.saturating_add(1);
            }
        }
        Ok(settled)
    }

    pub(super) fn recover_key(
        &self,
        account: AccountKey,
        intent: KeyIntent,
    ) -> Result<(), StoreError> {
        let record: Option<AccountRecord> = self
            .trees
            .users
            .get(account.0)?
            .map(|bytes| decode(&bytes))
            .transpose()?;
        let is_active = |no| {
            record
                .as_ref()
                .is_some_and(|r| r.active.iter().any(|key| key.no == no))
        };
        match intent {
            KeyIntent::SignUp { name, hash, id } => {
                if record.is_none() {
                    self.undo_sign_up(account, name.as_deref(), &hash, &id)?;
                }
            }
            KeyIntent::Mint { no, hash, id } => {
                if !is_active(no) {
                    let mut usage = self.usage(account)?;
                    usage.shares.retain(|share| share.key_no != no);
                    self.put_usage(account, &usage)?;
                    self.remove_key(account, no, &hash, &id)?;
                }
            }
            KeyIntent::Revoke { no, hash, at, by } => {
                if !is_active(no) {
                    let expired = false;
                    self.retire_key(account, &hash, Revoked { at, by, expired })?;
                }
            }
            KeyIntent::Expire { no, hash, at } => {
                if !is_active(no) {
                    let (by, expired) = (None, true);
                    self.retire_key(account, &hash, Revoked { at, by, expired })?;
                }
            }
            KeyIntent::Rotate {
                no,
                hash,
                id,
                old,
                at,
                until,
                by,
            } => {
                if is_active(no) {
                    self.supersede(&old, &id, at, until, by.unwrap_or_default())?;
                } else {
                    self.remove_key(account, no, &hash, &id)?;
                }
            }
            KeyIntent::Change {
                hash,
                event_no,
                description,
                scopes,
                expires_at,
                credits_cap,
            } => {
                let is_done = |record: &AccountRecord| record.events.last_no >= event_no;
                if record.as_ref().is_some_and(is_done)
                    && let Some(mut key) = self.key_record(&hash)?
                {
                    (key.description, key.scopes, key.expires_at) =
                        (description, scopes, expires_at);
                    self.apply_change(&hash, &key, credits_cap)?;
                }
            }
            KeyIntent::Bar => {
                let standing = record.map_or(Standing::Good, |record| record.standing);
                self.bar(account, standing)?;
            }
            KeyIntent::Rename { from, to } => self.finish_rename(account, from.as_deref(), &to)?,
        }
        Ok(())
    }
}

fn bad_key(tree: &str) -> StoreError {
    StoreError::Corrupt(format!(
        "a key of the tree {tree} does not start with an account"
    ))
}

#[cfg(test)]
mod tests;
