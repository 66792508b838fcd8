//! Memories: added, listed, read, changed, deleted.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::domain::json::Object;
use crate::domain::memory::{MemoryId, NewMemory};
use crate::domain::plan::Operation;
use crate::domain::time::Timestamp;
use crate::domain::usage::{Balance, Usage};
use crate::store::{
    AddMemory, Added, Changed, Debited, Deleted, OpError, Page, PageStart, Principal,
    ReplayRefusal, UpdateMemory, UpdateRefusal,
};

use super::{App, Failure, random_bits};

/// Pages that start this deep are read on a thread that may block.
const DEEP_SKIP: usize = 1_000;

/// A memory that a client wants to add.
#[derive(Debug)]
pub struct AddRequest {
    /// The memory.
    pub memory: NewMemory,
    /// The client's `Idempotency-Key`, and the body's bytes that it stands for.
    pub idempotency: Option<(String, Vec<u8>)>,
}

/// The answer to an add: its own, or the one recorded before.
#[derive(Debug)]
pub struct Answered {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: String,
    /// Credits debited: 0 for a recorded answer.
    pub cost: u64,
    /// Whether it was recorded before.
    pub replayed: bool,
    /// The numbers as of now.
    pub balance: Balance,
}

/// What page is asked for.
#[derive(Clone, Copy, Debug)]
pub struct PageRequest {
    /// Where it starts.
    pub start: PageStart,
    /// How many memories.
    pub limit: usize,
}

/// A page and what it cost.
#[derive(Debug)]
pub struct Listed {
    /// The page.
    pub page: Arc<Page>,
    /// Memories the account holds.
    pub total: u64,
    /// What it cost.
    pub debited: Debited,
    /// The time of the answer.
    pub now: Timestamp,
}

/// A change that a client wants.
#[derive(Debug)]
pub struct UpdateRequest<'a> {
    /// The memory.
    pub id: MemoryId,
    /// The fields to replace.
    pub change: Object<'a>,
}

impl App {
    /// Adds a memory. `respond` makes the answer's body.
    ///
    /// # Errors
    ///
    /// [`Failure::IdempotencyKeyReused`], [`Failure::IdempotencyInFlight`], [`Failure::OutOfCredits`],
    /// [`Failure::MemoryLimitExceeded`].
    pub async fn add_memory(
        &self,
        principal: &Principal,
        request: &AddRequest,
        respond: impl Fn(&Added) -> String,
    ) -> Result<Answered, Failure> {
        let now = self.now();
        let replay = match &request.idempotency {
            None => None,
            Some((key, body)) => {
                let (key, fingerprint) = idempotency_hashes("POST /memory", key, body);
                match self
                    .store()
                    .begin_replay(principal.account, key, fingerprint, now)
                    .await
                {
                    Ok(replay) => Some(replay),
                    Err(ReplayRefusal::Answered { status, body }) => {
                        return self.replayed(principal, status, body, now);
                    }
                    Err(ReplayRefusal::InFlight) => return Err(Failure::IdempotencyInFlight),
                    Err(ReplayRefusal::Reused) => return Err(Failure::IdempotencyKeyReused),
                    Err(ReplayRefusal::Store(error)) => return Err(error.into()),
                }
            }
        };
        let cost = self.price(Operation::AddMemory);
        let add = AddMemory {
            account: principal.account,
            payer: principal.payer(),
            key_id: principal.key_id.as_str(),
            memory: &request.memory,
            id: MemoryId::new(now.millis(), random_bits()),
            cost,
            now,
            replay: replay.as_ref(),
        };
        match self.store().add_memory(add, respond).await {
            Ok((body, balance)) => Ok(Answered {
                status: 201,
                body,
                cost,
                replayed: false,
                balance,
            }),
            Err(OpError::Refused(refusal)) => Err(Failure::of_usage(refusal, cost)),
            Err(OpError::Store(error)) => Err(error.into()),
        }
    }

    fn replayed(
        &self,
        principal: &Principal,
        status: u16,
        body: String,
        now: Timestamp,
    ) -> Result<Answered, Failure> {
        let balance = self.store().see_usage(principal.account, now, |usage| {
            usage.balance_of(principal.lineage)
        })?;
        let balance = balance.map_err(|r| Failure::of_usage(r, 0))?;
        Ok(Answered {
            status,
            body,
            cost: 0,
            replayed: true,
            balance,
        })
    }

    /// Returns a page of memories, newest first.
    ///
    /// # Errors
    ///
    /// [`Failure::OutOfCredits`].
    pub async fn list_memories(
        &self,
        principal: &Principal,
        request: PageRequest,
    ) -> Result<Listed, Failure> {
        let now = self.now();
        let PageRequest { start, limit } = request;
        let kept = match start {
            PageStart::Skip(0) => self.store().kept_page(principal.account, limit)?,
            PageStart::Skip(_) | PageStart::Before(_) => None,
        };
        // What is kept is no work: its debit alone says whether it can be paid.
        let (page, held) = if let Some(page) = kept {
            (page, None)
        } else {
            let held = self.affordable(principal, Operation::ListMemories, now)?;
            (self.read_page(principal, request, held).await?, Some(held))
        };
        let debited = self.debit(principal, Operation::ListMemories, now).await?;
        let held = match held {
            Some(held) => held,
            None if debited.balance.room_capped => {
                let held = |usage: &Usage| usage.held;
                self.store().see_usage(principal.account, now, held)?
            }
            None => debited.balance.memory_count,
        };
        Ok(Listed {
            total: agreed_total(start, &page, held),
            page,
            debited,
            now,
        })
    }

    /// Reads a page of an account that holds so many memories.
    async fn read_page(
        &self,
        principal: &Principal,
        request: PageRequest,
        held: u64,
    ) -> Result<Arc<Page>, Failure> {
        let PageRequest { start, limit } = request;
        let account = principal.account;
        match start {
            // A page past the end is empty without a walk over all that is skipped.
            PageStart::Skip(skip) if u64::try_from(skip).is_ok_and(|skip| skip > held) => {
                Ok(Arc::default())
            }
            PageStart::Skip(skip) if skip > DEEP_SKIP => {
                self.blocking(move |store| store.page(account, start, limit))
                    .await
            }
            PageStart::Skip(_) | PageStart::Before(_) => {
                Ok(self.store().page(account, start, limit)?)
            }
        }
    }

    /// Returns a memory as clients get it.
    ///
    /// # Errors
    ///
    /// [`Failure::MemoryNotFound`], [`Failure::OutOfCredits`].
    pub async fn read_memory(
        &self,
        principal: &Principal,
        id: Option<MemoryId>,
    ) -> Result<(String, Debited), Failure> {
        let id = id.ok_or(Failure::MemoryNotFound)?;
        let entry = self
            .store()
            .memory(principal.account, id)?
            .ok_or(Failure::MemoryNotFound)?;
        let debited = self
            .debit(principal, Operation::ReadMemory, self.now())
            .await?;
        Ok((entry, debited))
    }

    /// Changes a memory.
    ///
    /// # Errors
    ///
    /// [`Failure::MemoryNotFound`], [`Failure::InvalidMemory`], [`Failure::OutOfCredits`].
    pub async fn update_memory(
        &self,
        principal: &Principal,
        request: UpdateRequest<'_>,
    ) -> Result<(Changed, Debited), Failure> {
        let body_max = self.settings().body_bytes_max;
        let cost = self.price(Operation::UpdateMemory);
        let update = UpdateMemory {
            account: principal.account,
            payer: principal.payer(),
            id: request.id,
            cost,
            now: self.now(),
        };
        let change = |entry: Object<'_>| NewMemory::changed(entry, request.change, body_max);
        let changed =
            self.store()
                .update_memory(update, change)
                .await
                .map_err(|error| match error {
                    OpError::Refused(UpdateRefusal::NotFound) => Failure::MemoryNotFound,
                    OpError::Refused(UpdateRefusal::Invalid(error)) => {
                        Failure::InvalidMemory(error)
                    }
                    OpError::Refused(UpdateRefusal::Usage(refusal)) => {
                        Failure::of_usage(refusal, cost)
                    }
                    OpError::Store(error) => error.into(),
                })?;
        let debited = Debited {
            cost,
            balance: changed.balance,
        };
        Ok((changed, debited))
    }

    /// Deletes a memory, free of charge.
    ///
    /// # Errors
    ///
    /// [`Failure::MemoryNotFound`].
    pub async fn delete_memory(
        &self,
        principal: &Principal,
        id: Option<MemoryId>,
    ) -> Result<Deleted, Failure> {
        let id = id.ok_or(Failure::MemoryNotFound)?;
        let (account, key_no) = (principal.account, principal.lineage);
        self.store()
            .delete_memory(account, key_no, id, self.now())
            .await
            .map_err(|error| match error {
                OpError::Refused(UpdateRefusal::NotFound) => Failure::MemoryNotFound,
                OpError::Refused(UpdateRefusal::Invalid(r) | UpdateRefusal::Usage(r)) => {
                    Failure::of_usage(r, 0)
                }
                OpError::Store(error) => error.into(),
            })
    }

    /// Refuses a read that cannot be paid before any work is done for it; the debit itself comes after. Returns
    /// how many memories the account holds.
    pub(super) fn affordable(
        &self,
        principal: &Principal,
        operation: Operation,
        now: Timestamp,
    ) -> Result<u64, Failure> {
        let cost = self.price(operation);
        let (balance, held) = self.store().see_usage(principal.account, now, |usage| {
            (usage.balance_of(principal.lineage), usage.held)
        })?;
        let balance = balance.map_err(|r| Failure::of_usage(r, cost))?;
        if balance.credits_remaining < cost {
            return Err(Failure::OutOfCredits { balance, cost });
        }
        Ok(held)
    }
}

/// Returns how many memories an account holds by its counter and by a page of them, which were read one after the
/// other while others may have written: as the page shows, where it shows it.
fn agreed_total(start: PageStart, page: &Page, held: u64) -> u64 {
    let PageStart::Skip(skipped) = start else {
        return held;
    };
    let shown = u64::try_from(skipped.saturating_add(page.count)).unwrap_or(u64::MAX);
    match page.next {
        Some(_) => held.max(shown.saturating_add(1)),
        // An empty page past the end tells nothing of where that is.
        None if page.count == 0 && skipped > 0 => held,
        None => shown,
    }
}

/// Hashes an `Idempotency-Key` to the name of its record, and operation and body to a fingerprint.
pub(super) fn idempotency_hashes(operation: &str, key: &str, body: &[u8]) -> ([u8; 16], [u8; 32]) {
    let mut name = [0; 16];
    for (to, from) in name.iter_mut().zip(Sha256::digest(key.as_bytes())) {
        *to = from;
    }
    let mut fingerprint = Sha256::new();
    fingerprint.update(operation.as_bytes());
    fingerprint.update([0]);
    fingerprint.update(body);
    (name, fingerprint.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_never_contradicts_its_page() {
        // Shows that a page and the total beside it agree, whatever was written between the two.
        let page = |count, more: bool| Page {
            entries: String::new(),
            count,
            next: more.then(|| MemoryId::new(1, 1)),
        };
        for (start, page, held, total) in [
            (PageStart::Skip(0), page(6, false), 7, 6),
            (PageStart::Skip(0), page(8, false), 7, 8),
            (PageStart::Skip(0), page(20, false), 21, 20),
            (PageStart::Skip(0), page(20, true), 20, 21),
            (PageStart::Skip(0), page(20, true), 50, 50),
            (PageStart::Skip(0), page(0, false), 1, 0),
            (PageStart::Skip(20), page(3, false), 22, 23),
            (PageStart::Skip(40), page(0, false), 22, 22),
            (
                PageStart::Before(MemoryId::new(1, 1)),
                page(3, false),
                22,
                22,
            ),
        ] {
            assert_eq!(
                agreed_total(start, &page, held),
                total,
                "{start:?} {page:?}"
            );
        }
    }
}
