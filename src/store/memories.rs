//! Memories: added, paged, read, changed, deleted.
//!
//! Order of an add: usage (debit, count, intent), recorded answer, pieces, head. Of a change: usage
//! (debit, intent), journal, pieces, head, old pieces away. Of a delete: usage (place freed, intent),
//! the revoked key's count, journal, head away, pieces away. The log of the database is recovered as a
//! prefix, so after a crash each list is done up to some point, and the intent says how to go on.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::domain::account::AccountKey;
use crate::domain::json::Object;
use crate::domain::memory::{MemoryId, NewMemory, Stamp};
use crate::domain::time::Timestamp;
use crate::domain::usage::{Balance, Intent, KeyNo, Payer, Refusal, Share};

use super::codec::{decode_borrowed, encode};
use super::pieces::{self, INLINE_BYTES_MAX, Owner};
use super::replays::Replay;
use super::schema::{MemoryHead, Trees, memory_key, op_key, part};
use super::stats::Delta;
use super::swap::SwapError;
use super::usage::never_refused;
use super::{Inner, OpError, Ordering, Store, StoreError};

/// A memory to be added.
#[derive(Clone, Copy, Debug)]
pub struct AddMemory<'a> {
    /// Whose it will be.
    pub account: AccountKey,
    /// The key that adds it and pays.
    pub payer: Payer,
    /// That key's public id.
    pub key_id: &'a str,
    /// What the client sent.
    pub memory: &'a NewMemory,
    /// The id it gets, unless the account has given a later one.
    pub id: MemoryId,
    /// Credits.
    pub cost: u64,
    /// The time of the add.
    pub now: Timestamp,
    /// Where the answer is recorded, if the client sent an `Idempotency-Key`.
    pub replay: Option<&'a Replay>,
}

/// A memory to be changed.
#[derive(Clone, Copy, Debug)]
pub struct UpdateMemory {
    /// Whose it is.
    pub account: AccountKey,
    /// The key that changes it and pays.
    pub payer: Payer,
    /// Which it is.
    pub id: MemoryId,
    /// Credits.
    pub cost: u64,
    /// The time of the change.
    pub now: Timestamp,
}

/// What an add made.
#[derive(Clone, Debug)]
pub struct Added {
    /// The memory as clients get it.
    pub entry: String,
    /// The numbers after it.
    pub balance: Balance,
    /// Memories the account holds.
    pub total: u64,
}

/// What a change made.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The memory as clients get it.
    pub entry: String,
    /// The numbers after it.
    pub balance: Balance,
}

/// What a delete left.
#[derive(Clone, Debug)]
pub struct Deleted {
    /// The numbers after it, for the key that asked.
    pub balance: Balance,
}

/// Why a memory was not changed or deleted.
#[derive(Debug, thiserror::Error)]
pub enum UpdateRefusal<E: std::error::Error> {
    /// The account has no such memory.
    #[error("no such memory")]
    NotFound,
    /// The memory would not be one any more.
    #[error(transparent)]
    Invalid(E),
    /// The rules of usage say no.
    #[error(transparent)]
    Usage(Refusal),
}

/// Where a page starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageStart {
    /// At the newest memory but this many. Costs a step for each one skipped.
    Skip(usize),
    /// At the newest memory that is older than this one.
    Before(MemoryId),
}

/// Some memories, newest first.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The memories as clients get them, separated by commas.
    pub entries: String,
    /// How many they are.
    pub count: usize,
    /// The last one, if more follow.
    pub next: Option<MemoryId>,
}

impl Store {
    /// Adds a memory. `respond` makes the answer's body out of what was added, before anything of it
    /// is written, so that it can be recorded with it.
    ///
    /// # Errors
    ///
    /// [`Refusal`], credits before room; nothing was changed then.
    pub async fn add_memory(
        &self,
        add: AddMemory<'_>,
        respond: impl Fn(&Added) -> String,
    ) -> Result<(String, Balance), OpError<Refusal>> {
        let inner = self.inner()?;
        let ticket = inner.admit()?;
        let step = || inner.add_memory(&add, &respond);
        let (body, balance, stats_due) = inner.run_write(add.account, step).await?;
        ticket.commit().await?;
        if stats_due {
            self.save_stats_later(add.account);
        }
        Ok((body, balance))
    }

    /// Adds a memory as [`Self::add_memory`] does, without waiting for the disk, nor saving aggregates.
    /// For the benches, which compare the two: an answer given after this one could be lost.
    #[doc(hidden)]
    pub async fn add_memory_unflushed_for_bench(
        &self,
        add: AddMemory<'_>,
        respond: impl Fn(&Added) -> String,
    ) -> Result<(String, Balance), OpError<Refusal>> {
        let inner = self.inner()?;
        let step = || inner.add_memory(&add, &respond);
        let (body, balance, _) = inner.run_write(add.account, step).await?;
        Ok((body, balance))
    }

    /// Returns a page of an account's memories.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a record cannot be read.
    pub fn page(
        &self,
        account: AccountKey,
        start: PageStart,
        limit: usize,
    ) -> Result<Arc<Page>, StoreError> {
        let inner = self.look()?;
        let read = || inner.page(account, start, limit);
        match start {
            PageStart::Skip(0) => inner.newest.read(account, limit, read),
            PageStart::Skip(_) | PageStart::Before(_) => read().map(Arc::new),
        }
    }

    /// Returns an account's first page, `limit` memories long, if it need not be read for it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] while the database is being opened anew.
    pub fn kept_page(
        &self,
        account: AccountKey,
        limit: usize,
    ) -> Result<Option<Arc<Page>>, StoreError> {
        Ok(self.look()?.newest.kept(account, limit))
    }

    /// Returns a memory as clients get it. `None` if the account has no such memory.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the record cannot be read.
    pub fn memory(&self, account: AccountKey, id: MemoryId) -> Result<Option<String>, StoreError> {
        let inner = self.look()?;
        match inner.trees.memories.get(memory_key(account, id))? {
            Some(bytes) => inner.json_of(account, id, &bytes),
            None => Ok(None),
        }
    }

    /// Returns the newest memory as clients get it. `None` if the account holds none.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the record cannot be read.
    pub fn newest_memory(&self, account: AccountKey) -> Result<Option<String>, StoreError> {
        let page = self.inner()?.page(account, PageStart::Skip(0), 1)?;
        Ok((page.count > 0).then_some(page.entries))
    }

    /// Changes a memory. `change` sees it as it is, alone, and returns what it shall be.
    ///
    /// # Errors
    ///
    /// Every [`UpdateRefusal`]; nothing was changed then.
    pub async fn update_memory<E: std::error::Error>(
        &self,
        update: UpdateMemory,
        change: impl FnOnce(Object<'_>) -> Result<NewMemory, E>,
    ) -> Result<Changed, OpError<UpdateRefusal<E>>> {
        let inner = self.inner()?;
        let ticket = inner.admit()?;
        let account = update.account;
        let step = || inner.update_memory(&update, change);
        let (changed, stats_due) = inner.run_alone(account, step).await?;
        ticket.commit().await?;
        if stats_due {
            self.save_stats_later(account);
        }
        Ok(changed)
    }

    /// Deletes a memory. `lineage` is that of the key that asks, whose numbers are returned.
    ///
    /// # Errors
    ///
    /// [`UpdateRefusal::NotFound`] and [`UpdateRefusal::Usage`]; nothing was changed then.
    pub async fn delete_memory(
        &self,
        account: AccountKey,
        lineage: KeyNo,
        id: MemoryId,
        now: Timestamp,
    ) -> Result<Deleted, OpError<UpdateRefusal<Refusal>>> {
        let inner = self.inner()?;
        let ticket = inner.admit()?;
        let step = || inner.delete_memory(account, lineage, id, now);
        let (deleted, stats_due) = inner.run_alone(account, step).await?;
        ticket.commit().await?;
        if stats_due {
            self.save_stats_later(account);
        }
        Ok(deleted)
    }

    /// Counts an account's memories, alone, and corrects its counters. Returns the count before and
    /// the one found, if they differ.
    ///
    /// Holds up the account's writers while it counts, about a second for a million memories.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a record cannot be read or written.
    pub async fn recount(&self, account: AccountKey) -> Result<Option<(u64, u64)>, StoreError> {
        let inner = self.inner()?;
        let ticket = inner.admit()?;
        let alone = inner.locks.alone(account).await;
        let counting = Arc::clone(&inner);
        let corrected = tokio::task::spawn_blocking(move || {
            let outcome = counting.recount(account);
            drop(alone);
            outcome
        })
        .await
        .map_err(|_| StoreError::Corrupt("a recount was interrupted".to_owned()))??;
        ticket.commit().await?;
        Ok(corrected)
    }
}

impl Inner {
    /// Reads a page, newest first.
    fn page(
        &self,
        account: AccountKey,
        start: PageStart,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let first = memory_key(account, MemoryId::default());
        let (end, skip) = match start {
            PageStart::Before(id) => (memory_key(account, id), 0),
            PageStart::Skip(skip) => (memory_key(account, MemoryId::from_bytes([0xFF; 16])), skip),
        };
        let mut page = Page {
            entries: String::new(),
            count: 0,
            next: None,
        };
        let mut last = None;
        for entry in self.trees.memories.range(first..end).rev().skip(skip) {
            let (key, bytes) = entry?;
            if page.count >= limit {
                page.next = last;
                break;
            }
            let id = memory_id(&key)?;
            let head: MemoryHead<'_> = decode_borrowed(&bytes)?;
            let long;
            let json = if head.pieces == 0 {
                head.json
            } else {
                match self.json_of(account, id, &bytes)? {
                    Some(json) => long = json,
                    None => continue,
                }
                &long
            };
            if page.count > 0 {
                page.entries.push(',');
            }
            page.entries.push_str(json);
            page.count = page.count.saturating_add(1);
            last = Some(id);
        }
        Ok(page)
    }

    fn add_memory(
        &self,
        add: &AddMemory<'_>,
        respond: impl Fn(&Added) -> String,
    ) -> Result<(String, Balance, bool), SwapError<Refusal>> {
        let replay = add.replay.map(|replay| replay.key);
        let (intent, balance, total, stats_due) = self.swap_usage(add.account, |usage| {
            let begun = usage.begin_add(add.payer, add.id, add.cost, replay, add.now)?;
            Ok((
                begun.0,
                begun.1,
                usage.held,
                usage.next_op >= usage.stats_due,
            ))
        })?;
        let steps = self.steps();
        let stamp = Stamp {
            id: intent.memory,
            timestamp: add.now,
            key_id: add.key_id,
            updated_at: None,
        };
        let added = Added {
            entry: add.memory.entry_json(&stamp),
            balance,
            total,
        };
        let body = respond(&added);
        if let Some(replay) = add.replay {
            self.record_replay(add.account, replay, intent.op, 201, &body, add.now)?;
        }
        let head = MemoryHead {
            revision: intent.op,
            key_no: add.payer.lineage,
            timestamp: add.now,
            success: add.memory.success,
            category: &add.memory.category,
            kind: &add.memory.kind,
            pieces: 0,
            json: &added.entry,
        };
        self.write_memory(add.account, intent.memory, head)?;
        self.stats
            .apply(add.account, &Delta::added(head_facets(add.memory)));
        self.totals.memories.fetch_add(1, Ordering::Relaxed);
        self.locks.mark_done(add.account, intent.op);
        steps.complete();
        Ok((body, balance, stats_due))
    }

    fn update_memory<E: std::error::Error>(
        &self,
        update: &UpdateMemory,
        change: impl FnOnce(Object<'_>) -> Result<NewMemory, E>,
    ) -> Result<(Changed, bool), SwapError<UpdateRefusal<E>>> {
        let UpdateMemory {
            account,
            payer,
            id,
            cost,
            now,
        } = *update;
        let key = memory_key(account, id);
        let Some(bytes) = self.trees.memories.get(key)? else {
            return Err(SwapError::Refused(UpdateRefusal::NotFound));
        };
        let old: MemoryHead<'_> = decode_borrowed(&bytes)?;
        let json = self
            .json_of(account, id, &bytes)?
            .ok_or_else(|| pieces_gone(id))?;
        let mut object = Object::parse(json.as_bytes())
            .map_err(|error| StoreError::Corrupt(format!("{id} is not JSON: {error}")))?;
        let key_id = object.take("key_id").and_then(crate::domain::json::string);
        let memory = change(object).map_err(|e| SwapError::Refused(UpdateRefusal::Invalid(e)))?;
        let key_id = key_id.unwrap_or_default();
        let stamp = Stamp {
            id,
            timestamp: old.timestamp,
            key_id: &key_id,
            updated_at: Some(now),
        };
        let entry = memory.entry_json(&stamp);
        let (intent, balance, stats_due) = self
            .swap_usage(account, |usage| {
                let (intent, balance) = usage.begin_change(payer, id, cost, now)?;
                Ok((intent, balance, usage.next_op >= usage.stats_due))
            })
            .map_err(refused_by_usage)?;
        let steps = self.steps();
        let delta = Delta::changed(old.facets(), head_facets(&memory));
        self.journal(account, intent.op, id, &delta)?;
        let head = MemoryHead {
            revision: intent.op,
            success: memory.success,
            category: &memory.category,
            kind: &memory.kind,
            pieces: 0,
            json: &entry,
            ..old
        };
        self.write_memory(account, id, head)?;
        if old.pieces > 0 {
            pieces::remove_others(&self.trees.pieces, Owner::memory(key), Some(intent.op))?;
        }
        self.stats.apply(account, &delta);
        self.locks.mark_done(account, intent.op);
        steps.complete();
        Ok((Changed { entry, balance }, stats_due))
    }

    fn delete_memory(
        &self,
        account: AccountKey,
        lineage: KeyNo,
        id: MemoryId,
        now: Timestamp,
    ) -> Result<(Deleted, bool), SwapError<UpdateRefusal<Refusal>>> {
        let Some(bytes) = self.trees.memories.get(memory_key(account, id))? else {
            return Err(SwapError::Refused(UpdateRefusal::NotFound));
        };
        let head: MemoryHead<'_> = decode_borrowed(&bytes)?;
        let (intent, balance, stats_due) = self
            .swap_usage(account, |usage| {
                usage.balance_of(lineage)?;
                let intent = usage.begin_delete(head.key_no, id, now)?;
                Ok((
                    intent,
                    usage.balance_of(lineage)?,
                    usage.next_op >= usage.stats_due,
                ))
            })
            .map_err(refused_by_usage)?;
        let steps = self.steps();
        self.finish_delete(account, &intent)?;
        self.totals.memories.fetch_sub(1, Ordering::Relaxed);
        self.locks.mark_done(account, intent.op);
        steps.complete();
        Ok((Deleted { balance }, stats_due))
    }

    /// Does what is left of a delete whose place is freed. Done again after a crash, it ends the same.
    pub(super) fn finish_delete(
        &self,
        account: AccountKey,
        intent: &Intent,
    ) -> Result<(), StoreError> {
        let key = memory_key(account, intent.memory);
        let _writing = self.newest.writing(account);
        if let Some(bytes) = self.trees.memories.get(key)? {
            let head: MemoryHead<'_> = decode_borrowed(&bytes)?;
            self.release_for_revoked(account, head.key_no, intent.op)?;
            let delta = Delta::removed(head.facets());
            self.journal(account, intent.op, intent.memory, &delta)?;
            self.trees.memories.remove(key)?;
            self.stats.apply(account, &delta);
        }
        pieces::remove_others(&self.trees.pieces, Owner::memory(key), None)
    }

    pub(super) fn write_memory(
        &self,
        account: AccountKey,
        id: MemoryId,
        head: MemoryHead<'_>,
    ) -> Result<(), StoreError> {
        let _writing = self.newest.writing(account);
        write_memory(&self.trees, account, id, head)
    }

    /// Returns the JSON of a memory whose head was read. `None` if it was deleted meanwhile.
    pub(super) fn json_of(
        &self,
        account: AccountKey,
        id: MemoryId,
        head: &sled::IVec,
    ) -> Result<Option<String>, StoreError> {
        let found = self.json_and_head(account, id, head)?;
        Ok(found.map(|(json, _)| json))
    }

    /// Returns the JSON of a memory whose head was read, and the head that it belongs to: a newer one if
    /// the memory was changed meanwhile. `None` if it was deleted.
    pub(super) fn json_and_head(
        &self,
        account: AccountKey,
        id: MemoryId,
        head: &sled::IVec,
    ) -> Result<Option<(String, sled::IVec)>, StoreError> {
        let key = memory_key(account, id);
        let mut bytes = head.clone();
        loop {
            let head: MemoryHead<'_> = decode_borrowed(&bytes)?;
            if head.pieces == 0 {
                let json = head.json.to_owned();
                return Ok(Some((json, bytes)));
            }
            let owner = Owner::memory(key);
            if let Some(json) = pieces::read(&self.trees.pieces, owner, head.revision, head.pieces)?
            {
                let json = String::from_utf8(json).map_err(|_| pieces_gone(id))?;
                return Ok(Some((json, bytes)));
            }
            // A change took the pieces away after the head was read: the head names the new ones.
            let revision = head.revision;
            match self.trees.memories.get(key)? {
                None => return Ok(None),
                Some(newer) if head_revision(&newer)? == revision => return Err(pieces_gone(id)),
                Some(newer) => bytes = newer,
            }
        }
    }

    /// Says which revision of a memory is there. `None` if it is not.
    pub(super) fn memory_revision(
        &self,
        account: AccountKey,
        id: MemoryId,
    ) -> Result<Option<u64>, StoreError> {
        let bytes = self.trees.memories.get(memory_key(account, id))?;
        bytes.map(|bytes| head_revision(&bytes)).transpose()
    }

    /// Counts the memories of an account, in all and by key.
    pub(super) fn count_memories(
        &self,
        account: AccountKey,
    ) -> Result<(u64, std::collections::HashMap<KeyNo, u64>), StoreError> {
        let (mut total, mut by_key) = (0u64, std::collections::HashMap::<KeyNo, u64>::new());
        for bytes in self.trees.memories.scan_prefix(account.0).values() {
            let bytes = bytes?;
            let head: MemoryHead<'_> = decode_borrowed(&bytes)?;
            total = total.saturating_add(1);
            let count = by_key.entry(head.key_no).or_default();
            *count = count.saturating_add(1);
        }
        Ok((total, by_key))
    }

    fn recount(&self, account: AccountKey) -> Result<Option<(u64, u64)>, StoreError> {
        let (total, by_key) = self.count_memories(account)?;
        let held_by = |no: KeyNo| by_key.get(&no).copied().unwrap_or(0);
        // Before anything is written: without a usage the account is being erased, and its keys go.
        let before = self.usage(account)?;
        self.correct_revoked(account, held_by)?;
        let share_agrees = |share: &Share| held_by(share.key_no) == share.held;
        if before.held == total && before.shares.iter().all(share_agrees) {
            return Ok(None);
        }
        let swapped = self.swap_usage::<_, std::convert::Infallible>(account, |usage| {
            usage.held = total;
            for share in &mut usage.shares {
                share.held = held_by(share.key_no);
            }
            Ok(())
        });
        self.ended(swapped).map_err(never_refused)?;
        let change = total.wrapping_sub(before.held);
        self.totals.memories.fetch_add(change, Ordering::Relaxed);
        Ok((before.held != total).then_some((before.held, total)))
    }

    /// Notes a change for the saved aggregates, if they count the memory.
    fn journal(
        &self,
        account: AccountKey,
        op: u64,
        id: MemoryId,
        delta: &Delta<'_>,
    ) -> Result<(), StoreError> {
        if !delta.is_empty() && id <= self.stats_through(account)? {
            self.trees
                .stats_journal
                .insert(op_key(account, op), encode(delta)?)?;
        }
        Ok(())
    }
}

/// Writes a memory: its pieces first, if it is long, then its head.
pub(super) fn write_memory(
    trees: &Trees,
    account: AccountKey,
    id: MemoryId,
    mut head: MemoryHead<'_>,
) -> Result<(), StoreError> {
    let key = memory_key(account, id);
    if head.json.len() > INLINE_BYTES_MAX {
        let (owner, json) = (Owner::memory(key), head.json.as_bytes());
        head.pieces = pieces::write(&trees.pieces, owner, head.revision, json)?;
        head.json = "";
    }
    trees.memories.insert(key, encode(&head)?)?;
    Ok(())
}

/// What the aggregates count of a memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facets<'a> {
    pub success: bool,
    pub category: &'a str,
    pub kind: &'a str,
}

impl MemoryHead<'_> {
    pub(super) fn facets(&self) -> Facets<'_> {
        Facets {
            success: self.success,
            category: self.category,
            kind: self.kind,
        }
    }
}

pub(super) fn head_facets(memory: &NewMemory) -> Facets<'_> {
    Facets {
        success: memory.success,
        category: &memory.category,
        kind: &memory.kind,
    }
}

fn head_revision(bytes: &[u8]) -> Result<u64, StoreError> {
    Ok(decode_borrowed::<MemoryHead<'_>>(bytes)?.revision)
}

pub(super) fn memory_id(key: &[u8]) -> Result<MemoryId, StoreError> {
    part(key, 16)
        .map(MemoryId::from_bytes)
        .ok_or_else(|| StoreError::Corrupt("a key of the tree memories is not 32 bytes".to_owned()))
}

fn pieces_gone(id: MemoryId) -> StoreError {
    StoreError::Corrupt(format!("a piece of {id} is gone"))
}

fn refused_by_usage<E: std::error::Error>(
    error: SwapError<Refusal>,
) -> SwapError<UpdateRefusal<E>> {
    match error {
        SwapError::Refused(refusal) => SwapError::Refused(UpdateRefusal::Usage(refusal)),
        SwapError::Contended => SwapError::Contended,
        SwapError::Failed(error) => SwapError::Failed(error),
    }
}
