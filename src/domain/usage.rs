//! Usage: what an account was granted, has spent and holds. The one state machine of the credits.
//!
//! Everything that must agree lives in this one value, so that one compare-and-swap changes it whole:
//! the account's counters, the share of each of its active keys, the intents of writes under way, the
//! ledger's newest rows, and what somebody wants to be told.
//! An intent is put in by the step that debits and says what to do if the process dies before the
//! memory itself is written; see [`Usage::undo`].

use serde::{Deserialize, Serialize};

use super::cycle::{BillingCycle, billing_cycle, boundary};
use super::event::{Cause, EventKind, EventTail, RequestId};
use super::ledger::{Entry, LedgerRow, LedgerTail, Sums, amount, rows_max};
use super::memory::MemoryId;
use super::plan::{Operation, Plan, PlanNo, Plans};
use super::time::Timestamp;

/// Most writes of one account that may be under way at once; more wait.
///
/// Bounded so that the record stays below what the store takes in one value. A write is under way for some
/// microseconds, not until it is on the disk: no more of them than processors are.
pub const INTENTS_MAX: usize = 24;

/// Most credits that an admin gives or takes at once.
pub const ADJUST_MAX: u64 = 1_000_000_000_000;

/// Most cycles in which nothing happened that the ledger gets grants of, before the one that is entered: a
/// year. Bounded so that the record stays far below what the store takes in one value.
const CYCLES_ENTERED_MAX: u32 = 11;

/// The number of a key within its account: 1 for the first, never given twice.
pub type KeyNo = u32;

/// Who pays for a request: a key, out of the share that it has together with those it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payer {
    /// The key.
    pub key_no: KeyNo,
    /// Its lineage: the first key of those that were rotated into each other up to this one.
    pub lineage: KeyNo,
}

/// The counters of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// What the account has bought; [`Self::plan`] has its terms.
    pub plan: PlanNo,
    /// The instant from which billing cycles are counted.
    pub anchor: Timestamp,
    /// Index of the billing cycle that the counters are of.
    pub cycle: u32,
    /// End of that cycle.
    pub cycle_end: Timestamp,
    /// Credits granted in this cycle. Never below `used`.
    pub granted: u64,
    /// Credits spent in this cycle.
    pub used: u64,
    /// Credits spent since the account was made.
    pub used_ever: u64,
    /// Memories held.
    pub held: u64,
    /// The last metered request.
    pub last_activity: Option<Timestamp>,
    /// The id given last. Ids only grow.
    pub newest: MemoryId,
    /// The number of the next write. Numbers only grow.
    pub next_op: u64,
    /// The number of the next key.
    pub next_key_no: KeyNo,
    /// The write from which on the saved aggregates are due to be saved again.
    pub stats_due: u64,
    /// The part of each active key.
    pub shares: Vec<Share>,
    /// Writes under way, oldest first.
    pub intents: Vec<Intent>,
    /// The newest rows of the ledger.
    pub ledger: LedgerTail,
    /// Events on their way out.
    pub events: EventTail,
    /// What has been told in this cycle: each warning once.
    pub told: Told,
    /// The table that the numbers of plans are of. No part of the record: whoever decodes one sets it.
    #[serde(skip, default = "Plans::seed")]
    pub plans: &'static Plans,
}

/// Which warnings were given in a cycle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// [`EventKind::CreditsLow`].
    pub low: bool,
    /// [`EventKind::CreditsExhausted`].
    pub exhausted: bool,
    /// [`EventKind::MemoryNearLimit`].
    pub near_limit: bool,
}

/// What of a usage only grows, or changes for a reason only; see [`Usage::mark`].
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    cycle: u32,
    granted: u64,
    used_ever: u64,
    newest: MemoryId,
    next_op: u64,
    next_key_no: KeyNo,
    tail: TailSums,
    is_whole: bool,
}

/// What the rows of the ledger that are in a usage come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TailSums {
    granted_now: i64,
    spent: i64,
}

/// What was done with one key, and with those that were rotated into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Which lineage: the number of its first key.
    pub key_no: KeyNo,
    /// The plan that caps the key, if it was made with one; [`Usage::cap_of`] has its terms.
    pub cap: Option<PlanNo>,
    /// The credits that the key may spend in a cycle, if fewer than its plan's.
    pub credits_cap: Option<u64>,
    /// Credits spent in this cycle.
    pub used: u64,
    /// Credits spent since the key was made.
    pub used_ever: u64,
    /// Memories stored with the key and still held.
    pub held: u64,
    /// The last metered request.
    pub last_activity: Option<Timestamp>,
}

impl Share {
    /// Returns the share of a key that has done nothing yet.
    #[must_use]
    pub fn new(key_no: KeyNo, cap: Option<Plan>) -> Self {
        Self {
            key_no,
            cap: cap.map(Plan::no),
            credits_cap: None,
            used: 0,
            used_ever: 0,
            held: 0,
            last_activity: None,
        }
    }

    /// Says whether the key has limits of its own.
    #[must_use]
    pub const fn is_capped(&self) -> bool {
        self.cap.is_some() || self.credits_cap.is_some()
    }
}

impl Payer {
    /// Returns the payer that a key is which was never rotated.
    #[must_use]
    pub const fn first(key_no: KeyNo) -> Self {
        Self {
            key_no,
            lineage: key_no,
        }
    }
}

/// A write that was debited and counted and whose memory is on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Number of the write.
    pub op: u64,
    /// Cycle in which it was debited.
    pub cycle: u32,
    /// The lineage that pays; for a delete, the one that stored the memory.
    pub key_no: KeyNo,
    /// The key of that lineage that pays; for a delete, the same number again.
    pub paid_by: KeyNo,
    /// The memory.
    pub memory: MemoryId,
    /// What is done to it.
    pub kind: IntentKind,
}

/// The kinds of writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IntentKind {
    /// A new memory. `replay` names the idempotency record written with it.
    Add {
        /// Credits debited.
        cost: u64,
        /// Key of the idempotency record, if the client sent an `Idempotency-Key`.
        replay: Option<[u8; 16]>,
    },
    /// A new revision of a memory; the revision's number is the write's.
    Change {
        /// Credits debited.
        cost: u64,
    },
    /// A memory is removed.
    Delete,
    /// Credits are given or taken by an admin; the answer is recorded under `replay`.
    Adjust {
        /// How many; below 0 if they are taken.
        amount: i64,
        /// Key of the idempotency record.
        replay: [u8; 16],
    },
}

/// Why the rules say no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Fewer credits than the price are left.
    #[error("out of credits")]
    OutOfCredits(Balance),
    /// No room for one more memory.
    #[error("memory limit exceeded")]
    MemoryLimit(Balance),
    /// The key has no share any more.
    #[error("the key was revoked")]
    KeyRevoked,
    /// Fewer credits are left than should be taken.
    #[error("fewer credits are left")]
    TooFewToTake(Balance),
    /// [`INTENTS_MAX`] writes are under way.
    #[error("too many writes of this account are under way")]
    Busy,
}

/// What an account, or a capped key, has: the numbers of every answer that shows credits or room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// The account's plan, or the lower one that caps the key.
    pub plan: Plan,
    /// Credits of `plan` in a cycle.
    pub credits_limit: u64,
    /// Credits that can still be spent in this cycle.
    pub credits_remaining: u64,
    /// Credits spent in this cycle.
    pub credits_used: u64,
    /// Credits the account has spent ever.
    pub credits_used_ever: u64,
    /// Memories of `plan`.
    pub memory_limit: u64,
    /// Memories held.
    pub memory_count: u64,
    /// Memories that can still be added.
    pub memory_remaining: u64,
    /// When the cycle ends.
    pub reset: Timestamp,
    /// Whether the numbers are a capped key's.
    pub capped: bool,
    /// Whether those of the memories are too: a cap on credits alone leaves the account's room.
    pub room_capped: bool,
}

impl Balance {
    /// Says whether less than a quarter of the plan's credits is left. Compares whole numbers.
    #[must_use]
    pub const fn credits_low(&self) -> bool {
        self.credits_remaining.saturating_mul(4) < self.credits_limit
    }

    /// Says whether more than nine tenths of the room for memories is taken. Compares whole numbers.
    #[must_use]
    pub const fn memory_nearly_full(&self) -> bool {
        self.memory_count.saturating_mul(10) > self.memory_limit.saturating_mul(9)
    }
}

impl Usage {
    /// Returns the usage of a new account: `plan`'s credits granted, the first cycle starting on `anchor`.
    #[must_use]
    pub fn new(plan: Plan, anchor: Timestamp) -> Self {
        let mut usage = Self {
            plan: plan.no(),
            anchor,
            cycle: 0,
            cycle_end: boundary(anchor, 1),
            granted: plan.credits_per_cycle(),
            used: 0,
            used_ever: 0,
            held: 0,
            last_activity: None,
            newest: MemoryId::default(),
            next_op: 1,
            next_key_no: 1,
            stats_due: 1_000,
            shares: Vec::new(),
            intents: Vec::new(),
            ledger: LedgerTail::default(),
            events: EventTail::default(),
            told: Told::default(),
            plans: plan.plans(),
        };
        usage.enter(Entry::Grant, amount(usage.granted), anchor, 0, None);
        usage
    }

    /// Begins the ledger of an account that is older than it: what there is so far becomes its first rows.
    pub fn open_ledger(&mut self, at: Timestamp) {
        let earlier = self.used_ever.saturating_sub(self.used);
        let less = |credits| amount(credits).saturating_neg();
        self.ledger = LedgerTail::default();
        self.enter(Entry::Opening, amount(self.granted), at, 0, None);
        self.enter(Entry::OpeningSpent, less(self.used), at, 0, None);
        self.enter(Entry::EarlierSpent, less(earlier), at, 0, None);
    }

    /// Puts into the ledger what is missing of the counters, its rows coming to `sums`: rows were lost.
    pub fn reconcile(&mut self, sums: &Sums, at: Timestamp) {
        let less = |counter, sum: i64| sum.saturating_sub(amount(counter));
        let granted = less(self.granted, sums.granted).saturating_neg();
        let used = less(self.used, sums.used);
        let earlier = less(self.used_ever, sums.used_ever).saturating_sub(used);
        self.enter(Entry::Opening, granted, at, 0, None);
        self.enter(Entry::OpeningSpent, used, at, 0, None);
        self.enter(Entry::EarlierSpent, earlier, at, 0, None);
    }

    /// Returns what the account has bought. The lowest plan for a number that no plan has: the store lets
    /// no such record through.
    #[must_use]
    pub fn plan(&self) -> Plan {
        self.plans
            .by_no(self.plan)
            .unwrap_or_else(|| self.plans.least())
    }

    /// Returns the plan that caps a key, if one does.
    #[must_use]
    pub fn cap_of(&self, share: &Share) -> Option<Plan> {
        let known = |no| self.plans.ever(no).unwrap_or_else(|| self.plans.least());
        share.cap.map(known)
    }

    /// Enters the cycle that holds `now`, if it is a later one: grants the plan's credits, once however
    /// many cycles have passed, and forgets what was spent. Returns the cycle entered.
    ///
    /// An earlier `now` changes nothing: a clock that steps back neither grants again nor takes away.
    pub fn roll_over(&mut self, now: Timestamp) -> Option<BillingCycle> {
        if now < self.cycle_end {
            return None;
        }
        let cycle = billing_cycle(self.anchor, now);
        if cycle.index <= self.cycle {
            return None;
        }
        let credits = self.plan().credits_per_cycle();
        // The cycles in between had the same plan, and nobody spent anything of them.
        let first = self.cycle.saturating_add(1);
        let first = first.max(cycle.index.saturating_sub(CYCLES_ENTERED_MAX));
        for index in first..=cycle.index {
            self.cycle = index;
            let start = boundary(self.anchor, index);
            self.enter(Entry::Grant, amount(credits), start, 0, None);
        }
        self.cycle_end = cycle.end;
        self.granted = credits;
        self.used = 0;
        self.told = Told::default();
        for share in &mut self.shares {
            share.used = 0;
        }
        Some(cycle)
    }

    /// Says whether rows of the ledger should be moved out.
    #[must_use]
    pub fn is_ledger_due(&self) -> bool {
        self.ledger.is_due(rows_max(self.shares.len()))
    }

    /// Returns the account's own numbers.
    #[must_use]
    pub fn balance(&self) -> Balance {
        let plan = self.plan();
        Balance {
            plan,
            credits_limit: plan.credits_per_cycle(),
            credits_remaining: self.remaining(),
            credits_used: self.used,
            credits_used_ever: self.used_ever,
            memory_limit: plan.memories_max(),
            memory_count: self.held,
            memory_remaining: plan.memories_max().saturating_sub(self.held),
            reset: self.cycle_end,
            capped: false,
            room_capped: false,
        }
    }

    /// Returns the numbers for a request with this key: the account's, or the key's own if it is capped.
    ///
    /// # Errors
    ///
    /// [`Refusal::KeyRevoked`] if the key has no share.
    pub fn balance_of(&self, key_no: KeyNo) -> Result<Balance, Refusal> {
        self.share(key_no)
            .map(|share| self.balance_of_share(share))
            .ok_or(Refusal::KeyRevoked)
    }

    /// Returns what one key can still do. An uncapped key can do what the account can.
    #[must_use]
    pub fn balance_of_share(&self, share: &Share) -> Balance {
        let account = self.balance();
        let mut own = account;
        if let Some(cap) = self.cap_of(share) {
            own.plan = cap.min(account.plan);
            own.credits_limit = own.plan.credits_per_cycle();
            own.memory_limit = own.plan.memories_max();
            own.memory_count = share.held;
            own.room_capped = true;
            let room = own.memory_limit.saturating_sub(share.held);
            own.memory_remaining = room.min(account.memory_remaining);
        }
        if let Some(cap) = share.credits_cap {
            own.credits_limit = cap.min(own.credits_limit);
        }
        if share.is_capped() {
            own.capped = true;
            own.credits_used = share.used;
            let left = own.credits_limit.saturating_sub(share.used);
            own.credits_remaining = left.min(account.credits_remaining);
        }
        own
    }

    /// Debits `cost` credits for a request of this payer. Returns the numbers after it.
    ///
    /// # Errors
    ///
    /// [`Refusal::OutOfCredits`] and [`Refusal::KeyRevoked`]; nothing is changed then but the cycle.
    pub fn debit(
        &mut self,
        payer: Payer,
        operation: Operation,
        cost: u64,
        now: Timestamp,
    ) -> Result<Balance, Refusal> {
        self.roll_over(now);
        let key_no = payer.lineage;
        let balance = self.balance_of(key_no)?;
        if balance.credits_remaining < cost {
            return Err(Refusal::OutOfCredits(balance));
        }
        self.used = self.used.saturating_add(cost);
        self.used_ever = self.used_ever.saturating_add(cost);
        self.last_activity = Some(now);
        if let Some(share) = self.share_mut(key_no) {
            share.used = share.used.saturating_add(cost);
            share.used_ever = share.used_ever.saturating_add(cost);
            share.last_activity = Some(now);
        }
        let spent = amount(cost).saturating_neg();
        self.enter(Entry::Debit(operation), spent, now, payer.key_no, None);
        if cost > 0 {
            self.tell_credits(now);
        }
        self.balance_of(key_no)
    }

    /// Begins to add a memory: debits, counts it, gives it an id at or after `proposed`.
    ///
    /// # Errors
    ///
    /// Every [`Refusal`], credits before room; nothing is changed then but the cycle.
    pub fn begin_add(
        &mut self,
        payer: Payer,
        proposed: MemoryId,
        cost: u64,
        replay: Option<[u8; 16]>,
        now: Timestamp,
    ) -> Result<(Intent, Balance), Refusal> {
        self.roll_over(now);
        self.room_for_intent()?;
        let key_no = payer.lineage;
        let balance = self.balance_of(key_no)?;
        if balance.credits_remaining < cost {
            return Err(Refusal::OutOfCredits(balance));
        }
        if balance.memory_remaining == 0 {
            return Err(Refusal::MemoryLimit(balance));
        }
        self.debit(payer, Operation::AddMemory, cost, now)?;
        self.newest = proposed.after(self.newest);
        self.held = self.held.saturating_add(1);
        if let Some(share) = self.share_mut(key_no) {
            share.held = share.held.saturating_add(1);
        }
        self.tell_room(now);
        let intent = self.push_intent(payer, self.newest, IntentKind::Add { cost, replay });
        Ok((intent, self.balance_of(key_no)?))
    }

    /// Begins to change a memory: debits. The new revision is the intent's number.
    ///
    /// # Errors
    ///
    /// [`Refusal::OutOfCredits`], [`Refusal::KeyRevoked`], [`Refusal::Busy`].
    pub fn begin_change(
        &mut self,
        payer: Payer,
        memory: MemoryId,
        cost: u64,
        now: Timestamp,
    ) -> Result<(Intent, Balance), Refusal> {
        self.room_for_intent()?;
        let balance = self.debit(payer, Operation::UpdateMemory, cost, now)?;
        Ok((
            self.push_intent(payer, memory, IntentKind::Change { cost }),
            balance,
        ))
    }

    /// Begins to delete a memory that `owner` stored: frees its place at once.
    ///
    /// # Errors
    ///
    /// [`Refusal::Busy`].
    pub fn begin_delete(
        &mut self,
        owner: KeyNo,
        memory: MemoryId,
        now: Timestamp,
    ) -> Result<Intent, Refusal> {
        self.roll_over(now);
        self.room_for_intent()?;
        self.release(owner);
        Ok(self.push_intent(Payer::first(owner), memory, IntentKind::Delete))
    }

    /// Begins to give credits, or to take some, in the cycle that holds `now`: they are of this cycle, as
    /// all credits are. The answer is recorded under `replay`; without it [`Self::undo`] takes it back.
    ///
    /// # Errors
    ///
    /// [`Refusal::TooFewToTake`], [`Refusal::Busy`]; nothing is changed then but the cycle.
    pub fn begin_adjust(
        &mut self,
        credits: i64,
        replay: [u8; 16],
        now: Timestamp,
        cause: Cause,
    ) -> Result<Intent, Refusal> {
        self.roll_over(now);
        self.room_for_intent()?;
        let size = credits.unsigned_abs();
        if credits < 0 && self.remaining() < size {
            return Err(Refusal::TooFewToTake(self.balance()));
        }
        self.granted = self.granted.saturating_add_signed(credits);
        let entry = if credits < 0 {
            Entry::Correction
        } else {
            Entry::Bonus
        };
        self.enter(entry, credits, now, 0, cause.request);
        if credits > 0 {
            self.told.low = self.balance().credits_low();
            self.told.exhausted = false;
        }
        let kind = EventKind::CreditsAdjusted { amount: credits };
        self.events.push(now, cause, kind);
        let kind = IntentKind::Adjust {
            amount: credits,
            replay,
        };
        Ok(self.push_intent(Payer::first(0), MemoryId::default(), kind))
    }

    /// Ends writes that are complete: their intents go.
    pub fn settle(&mut self, is_done: impl Fn(u64) -> bool) {
        self.intents.retain(|intent| !is_done(intent.op));
    }

    /// Undoes a write whose memory was never written: gives the credits back, frees the place, drops
    /// the intent. A delete is never undone, it is finished.
    ///
    /// What an adjustment gave and is spent already stays given.
    pub fn undo(&mut self, intent: &Intent) {
        match intent.kind {
            IntentKind::Add { cost, .. } => {
                self.refund(intent, Operation::AddMemory, cost);
                self.release(intent.key_no);
            }
            IntentKind::Change { cost } => self.refund(intent, Operation::UpdateMemory, cost),
            IntentKind::Adjust {
                amount: credits, ..
            } if intent.cycle == self.cycle => {
                let before = self.granted;
                let after = before.saturating_add_signed(credits.saturating_neg());
                self.granted = after.max(self.used);
                let back = amount(self.granted).saturating_sub(amount(before));
                let at = self.newest_row_time();
                self.enter(Entry::Correction, back, at, 0, None);
                // The audit log may have the other already: it tells of both.
                let kind = EventKind::CreditsAdjusted { amount: back };
                self.events.push(at, Cause::service(), kind);
            }
            IntentKind::Adjust { .. } | IntentKind::Delete => {}
        }
        self.settle(|op| op == intent.op);
    }

    /// Changes the plan, in the cycle that holds `now`. Returns the plan before.
    ///
    /// An upgrade grants the new plan's credits in full, and takes none that are there beyond them; a downgrade leaves the lesser of what remained
    /// and the new plan's; the same plan changes nothing. What was used stays.
    pub fn change_plan(&mut self, plan: Plan, now: Timestamp, cause: Cause) -> Plan {
        self.roll_over(now);
        let (previous, before) = (self.plan(), self.granted);
        let remaining = match plan.cmp(&previous) {
            std::cmp::Ordering::Equal => return previous,
            // What an admin has given stays.
            std::cmp::Ordering::Greater => plan.credits_per_cycle().max(self.remaining()),
            std::cmp::Ordering::Less => self.remaining().min(plan.credits_per_cycle()),
        };
        self.granted = self.used.saturating_add(remaining);
        self.plan = plan.no();
        let difference = amount(self.granted).saturating_sub(amount(before));
        self.enter(Entry::PlanChange, difference, now, 0, cause.request);
        self.told = Told {
            low: self.balance().credits_low(),
            exhausted: self.remaining() == 0,
            near_limit: self.balance().memory_nearly_full(),
        };
        let kind = EventKind::PlanChanged {
            from: previous.name().to_owned(),
            to: plan.name().to_owned(),
        };
        self.events.push(now, cause, kind);
        previous
    }

    /// Returns what a step may not turn back, for [`Self::broken_since`].
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark {
            cycle: self.cycle,
            granted: self.granted,
            used_ever: self.used_ever,
            newest: self.newest,
            next_op: self.next_op,
            next_key_no: self.next_key_no,
            tail: self.tail_sums(),
            is_whole: self.broken_rule().is_none(),
        }
    }

    /// Returns the rule that a step since the mark has broken, if it has broken one: a mistake of ours, and
    /// what it made must not be kept. A record that was broken before is not held against the step.
    #[must_use]
    pub fn broken_since(&self, mark: &Mark) -> Option<&'static str> {
        let same_cycle = self.cycle == mark.cycle;
        if self.cycle < mark.cycle {
            Some("a billing cycle began again")
        } else if !self.is_in_ledger_since(mark, same_cycle) {
            Some("the ledger does not say why the counters changed")
        } else if self.used_ever < mark.used_ever {
            Some("a debit was taken back")
        } else if self.newest < mark.newest
            || self.next_op < mark.next_op
            || self.next_key_no < mark.next_key_no
        {
            Some("a number would be given again")
        } else {
            self.broken_rule().filter(|_| mark.is_whole)
        }
    }

    fn is_in_ledger_since(&self, mark: &Mark, same_cycle: bool) -> bool {
        let tail = self.tail_sums();
        let since = |now: i64, then: i64| now.saturating_sub(then);
        let spent = since(amount(self.used_ever), amount(mark.used_ever));
        let granted = if same_cycle {
            since(tail.granted_now, mark.tail.granted_now)
                == since(amount(self.granted), amount(mark.granted))
        } else {
            tail.granted_now == amount(self.granted)
        };
        granted && since(tail.spent, mark.tail.spent) == spent
    }

    fn tail_sums(&self) -> TailSums {
        let mut sums = TailSums {
            granted_now: 0,
            spent: 0,
        };
        for row in &self.ledger.rows {
            if !row.entry.is_grant() {
                sums.spent = sums.spent.saturating_sub(row.amount);
            } else if row.cycle == self.cycle {
                sums.granted_now = sums.granted_now.saturating_add(row.amount);
            }
        }
        sums
    }

    fn broken_rule(&self) -> Option<&'static str> {
        let sum = |of: fn(&Share) -> u64| {
            let parts = self.shares.iter().map(of);
            parts.fold(0, u64::saturating_add)
        };
        if self.used > self.granted {
            Some("more credits are used than granted")
        } else if sum(|share| share.used) > self.used {
            Some("the keys used more credits than the account")
        } else if sum(|share| share.held) > self.held {
            Some("the keys hold more memories than the account")
        } else if self.intents.len() > INTENTS_MAX {
            Some("too many writes are under way")
        } else {
            None
        }
    }

    /// Returns the share of a key.
    #[must_use]
    pub fn share(&self, key_no: KeyNo) -> Option<&Share> {
        self.shares.iter().find(|share| share.key_no == key_no)
    }

    fn share_mut(&mut self, key_no: KeyNo) -> Option<&mut Share> {
        self.shares.iter_mut().find(|share| share.key_no == key_no)
    }

    const fn remaining(&self) -> u64 {
        self.granted.saturating_sub(self.used)
    }

    /// Puts a row into the ledger, of the running cycle.
    fn enter(
        &mut self,
        entry: Entry,
        amount: i64,
        at: Timestamp,
        key_no: KeyNo,
        request: Option<RequestId>,
    ) {
        self.ledger.push(LedgerRow {
            no: 0,
            at,
            cycle: self.cycle,
            key_no,
            entry,
            amount,
            count: 1,
            request,
        });
    }

    /// The time of what is done by no request: of the settling of a write that a crash interrupted.
    fn newest_row_time(&self) -> Timestamp {
        let newest = self.ledger.rows.iter().map(|row| row.at).max();
        newest.or(self.last_activity).unwrap_or(self.anchor)
    }

    fn tell_credits(&mut self, now: Timestamp) {
        let balance = self.balance();
        let (remaining, limit) = (balance.credits_remaining, balance.credits_limit);
        if balance.credits_low() && !self.told.low {
            self.told.low = true;
            let kind = EventKind::CreditsLow { remaining, limit };
            self.events.push(now, Cause::service(), kind);
        }
        if remaining == 0 && !self.told.exhausted {
            self.told.exhausted = true;
            let kind = EventKind::CreditsExhausted { limit };
            self.events.push(now, Cause::service(), kind);
        }
    }

    fn tell_room(&mut self, now: Timestamp) {
        let balance = self.balance();
        if balance.memory_nearly_full() && !self.told.near_limit {
            self.told.near_limit = true;
            let kind = EventKind::MemoryNearLimit {
                held: balance.memory_count,
                limit: balance.memory_limit,
            };
            self.events.push(now, Cause::service(), kind);
        }
    }

    fn refund(&mut self, intent: &Intent, operation: Operation, cost: u64) {
        let (key_no, this_cycle) = (intent.key_no, intent.cycle == self.cycle);
        self.ledger.push(LedgerRow {
            no: 0,
            at: self.newest_row_time(),
            cycle: intent.cycle,
            key_no: intent.paid_by,
            entry: Entry::Refund(operation),
            amount: amount(cost),
            count: 1,
            request: None,
        });
        self.used_ever = self.used_ever.saturating_sub(cost);
        if this_cycle {
            self.used = self.used.saturating_sub(cost);
        }
        if let Some(share) = self.share_mut(key_no) {
            share.used_ever = share.used_ever.saturating_sub(cost);
            if this_cycle {
                share.used = share.used.saturating_sub(cost);
            }
        }
    }

    fn release(&mut self, key_no: KeyNo) {
        self.held = self.held.saturating_sub(1);
        if let Some(share) = self.share_mut(key_no) {
            share.held = share.held.saturating_sub(1);
        }
    }

    fn room_for_intent(&self) -> Result<(), Refusal> {
        if self.intents.len() < INTENTS_MAX {
            Ok(())
        } else {
            Err(Refusal::Busy)
        }
    }

    fn push_intent(&mut self, payer: Payer, memory: MemoryId, kind: IntentKind) -> Intent {
        let intent = Intent {
            op: self.next_op,
            cycle: self.cycle,
            key_no: payer.lineage,
            paid_by: payer.key_no,
            memory,
            kind,
        };
        self.next_op = self.next_op.saturating_add(1);
        self.intents.push(intent.clone());
        intent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;
    const READ: Operation = Operation::ReadMemory;

    fn at(days: i64) -> Timestamp {
        Timestamp::parse_rfc3339("2026-01-01T00:00:00Z")
            .unwrap()
            .plus_seconds(days * DAY)
    }

    fn usage(plan: Plan, caps: &[Option<Plan>]) -> Usage {
        let mut usage = Usage::new(plan, at(0));
        for (no, cap) in (1..).zip(caps) {
            usage.shares.push(Share::new(no, *cap));
        }
        usage
    }

    #[test]
    fn a_debit_takes_all_or_nothing() {
        let mut usage = usage(Plan::FREE, &[None]);
        assert_eq!(
            usage
                .debit(Payer::first(1), READ, 99, at(1))
                .unwrap()
                .credits_remaining,
            1
        );
        let before = usage.clone();
        let refused = usage.debit(Payer::first(1), READ, 2, at(2)).unwrap_err();
        assert!(matches!(refused, Refusal::OutOfCredits(b) if b.credits_remaining == 1));
        assert_eq!(usage, before);
        assert_eq!(
            usage
                .debit(Payer::first(1), READ, 1, at(2))
                .unwrap()
                .credits_remaining,
            0
        );
        assert_eq!(
            usage.debit(Payer::first(9), READ, 0, at(2)),
            Err(Refusal::KeyRevoked)
        );
        assert_eq!(
            (usage.used, usage.used_ever, usage.last_activity),
            (100, 100, Some(at(2)))
        );
    }

    #[test]
    fn a_cycle_is_granted_once_whatever_the_clock_does() {
        let mut usage = usage(Plan::FREE, &[Some(Plan::FREE)]);
        usage.debit(Payer::first(1), READ, 100, at(30)).unwrap();
        assert_eq!(
            usage
                .debit(Payer::first(1), READ, 40, at(31))
                .unwrap()
                .credits_remaining,
            60
        );
        assert_eq!((usage.cycle, usage.used, usage.shares[0].used), (1, 40, 40));
        // Back across the boundary, and forth again.
        assert_eq!(
            usage
                .debit(Payer::first(1), READ, 10, at(30))
                .unwrap()
                .credits_remaining,
            50
        );
        assert_eq!(
            usage
                .debit(Payer::first(1), READ, 10, at(32))
                .unwrap()
                .credits_remaining,
            40
        );
        // Three cycles at once grant once.
        assert_eq!(usage.roll_over(at(130)).unwrap().index, 4);
        assert_eq!((usage.granted, usage.used, usage.used_ever), (100, 0, 160));
        assert_eq!(usage.roll_over(at(130)), None);
    }

    #[test]
    fn plans_change_as_the_contract_says() {
        let mut usage = usage(Plan::FREE, &[None]);
        usage.debit(Payer::first(1), READ, 40, at(1)).unwrap();
        assert_eq!(
            usage.change_plan(Plan::FREE, at(1), Cause::service()),
            Plan::FREE
        );
        assert_eq!(usage.balance().credits_remaining, 60);
        assert_eq!(
            usage.change_plan(Plan::PRO, at(1), Cause::service()),
            Plan::FREE
        );
        assert_eq!(
            (usage.balance().credits_remaining, usage.used),
            (10_000, 40)
        );
        usage.debit(Payer::first(1), READ, 9_950, at(1)).unwrap();
        usage.change_plan(Plan::FREE, at(1), Cause::service());
        assert_eq!((usage.balance().credits_remaining, usage.used), (50, 9_990));
        usage.change_plan(Plan::PREMIUM, at(1), Cause::service());
        usage.change_plan(Plan::FREE, at(1), Cause::service());
        assert_eq!(usage.balance().credits_remaining, 100);
        assert_eq!(usage.granted - usage.used, 100);
    }

    #[test]
    fn a_capped_key_has_limits_of_its_own_within_the_accounts() {
        let mut usage = usage(Plan::PRO, &[None, Some(Plan::FREE)]);
        assert_eq!(
            usage
                .debit(Payer::first(2), READ, 30, at(1))
                .unwrap()
                .credits_remaining,
            70
        );
        assert_eq!(
            usage
                .debit(Payer::first(1), READ, 9_960, at(1))
                .unwrap()
                .credits_remaining,
            10
        );
        let capped = usage.balance_of(2).unwrap();
        assert_eq!((capped.credits_remaining, capped.credits_limit), (10, 100));
        assert_eq!(
            (capped.plan, capped.credits_used, capped.capped),
            (Plan::FREE, 30, true)
        );
        // The account's downgrade lowers an uncapped key, never lifts a capped one.
        usage.change_plan(Plan::PREMIUM, at(1), Cause::service());
        assert_eq!(usage.balance_of(2).unwrap().credits_remaining, 70);
    }

    #[test]
    fn an_add_counts_and_its_undoing_leaves_no_trace() {
        let mut usage = usage(Plan::FREE, &[None]);
        usage.debit(Payer::first(1), READ, 10, at(0)).unwrap();
        let before = usage.clone();
        let id = MemoryId::new(at(0).millis(), 7);
        let (intent, balance) = usage
            .begin_add(Payer::first(1), id, 2, None, at(0))
            .unwrap();
        assert_eq!(
            (
                intent.memory,
                balance.memory_count,
                balance.credits_remaining
            ),
            (id, 1, 88)
        );
        assert_eq!(usage.intents, std::slice::from_ref(&intent));
        usage.undo(&intent);
        assert_eq!((usage.held, usage.used, usage.used_ever), (0, 10, 10));
        assert_eq!(
            (&usage.shares, &usage.intents),
            (&before.shares, &before.intents)
        );
    }

    #[test]
    fn an_undone_add_of_an_earlier_cycle_takes_nothing_from_this_one() {
        let mut usage = usage(Plan::FREE, &[None]);
        let (intent, _) = usage
            .begin_add(Payer::first(1), MemoryId::new(1, 1), 2, None, at(30))
            .unwrap();
        usage.debit(Payer::first(1), READ, 1, at(31)).unwrap();
        usage.undo(&intent);
        assert_eq!((usage.used, usage.used_ever, usage.held), (1, 1, 0));
    }

    #[test]
    fn credits_are_refused_before_room() {
        let mut usage = usage(Plan::FREE, &[None]);
        usage.held = 100;
        let add = |usage: &mut Usage| {
            usage.begin_add(Payer::first(1), MemoryId::new(1, 1), 2, None, at(1))
        };
        assert!(matches!(add(&mut usage), Err(Refusal::MemoryLimit(b)) if b.memory_count == 100));
        usage.used = 99;
        assert!(matches!(add(&mut usage), Err(Refusal::OutOfCredits(_))));
        assert_eq!((usage.used, usage.held, usage.intents.len()), (99, 100, 0));
    }

    #[test]
    fn a_delete_frees_the_place_of_the_key_that_stored() {
        let mut usage = usage(Plan::PRO, &[None, Some(Plan::FREE)]);
        let (add, _) = usage
            .begin_add(Payer::first(2), MemoryId::new(1, 1), 2, None, at(1))
            .unwrap();
        usage.settle(|op| op == add.op);
        let delete = usage.begin_delete(2, add.memory, at(1)).unwrap();
        assert_eq!((usage.held, usage.shares[1].held, usage.used), (0, 0, 2));
        assert_eq!(delete.kind, IntentKind::Delete);
    }

    #[test]
    fn intents_are_bounded() {
        let mut usage = usage(Plan::PRO, &[None]);
        for n in 0..INTENTS_MAX as u64 {
            usage
                .begin_add(Payer::first(1), MemoryId::new(n, 1), 2, None, at(1))
                .unwrap();
        }
        let used = usage.used;
        assert_eq!(
            usage.begin_delete(1, MemoryId::new(1, 1), at(1)),
            Err(Refusal::Busy)
        );
        assert_eq!(
            usage.begin_change(Payer::first(1), MemoryId::new(1, 1), 2, at(1)),
            Err(Refusal::Busy)
        );
        assert_eq!(usage.used, used);
        usage.settle(|op| op == 1);
        let delete = usage.begin_delete(1, MemoryId::new(1, 1), at(1)).unwrap();
        assert_eq!(delete.kind, IntentKind::Delete);
        assert_eq!(usage.intents.len(), INTENTS_MAX);
    }

    #[test]
    fn warnings_compare_whole_numbers() {
        let mut balance = usage(Plan::FREE, &[]).balance();
        balance.credits_remaining = 25;
        balance.memory_count = 90;
        assert!(!balance.credits_low() && !balance.memory_nearly_full());
        balance.credits_remaining = 24;
        balance.memory_count = 91;
        assert!(balance.credits_low() && balance.memory_nearly_full());
    }

    type Mistake = fn(&mut Usage);

    #[test]
    fn a_step_that_breaks_a_rule_is_seen() {
        // Shows each rule with a mistake that breaks it, and that honest steps break none.
        let now = at(0);
        let mut usage = usage(Plan::FREE, &[None]);
        let mark = usage.mark();
        usage.debit(Payer::first(1), READ, 2, now).unwrap();
        let (_, _) = usage
            .begin_add(Payer::first(1), MemoryId::new(5, 5), 2, None, now)
            .unwrap();
        usage.change_plan(Plan::PRO, now, Cause::service());
        assert_eq!(usage.broken_since(&mark), None);
        let mistakes: [(&str, Mistake); 10] = [
            ("more credits are used", |u| u.used = u.granted + 1),
            ("the keys used more", |u| u.shares[0].used = u.used + 1),
            ("the keys hold more", |u| u.held = 0),
            ("does not say why", |u| u.granted += 1),
            ("does not say why", |u| u.used_ever += 1),
            ("cycle began again", |u| u.cycle = 2),
            ("taken back", |u| {
                u.used_ever -= 1;
                let row = u.ledger.rows.iter_mut().find(|row| row.amount < 0);
                row.unwrap().amount += 1;
            }),
            ("given again", |u| u.next_op -= 1),
            ("given again", |u| u.newest = MemoryId::default()),
            ("given again", |u| u.next_key_no -= 1),
        ];
        usage.cycle = 3;
        for (words, mistake) in mistakes {
            let mark = usage.mark();
            let mut broken = usage.clone();
            mistake(&mut broken);
            let rule = broken.broken_since(&mark).unwrap_or_default();
            assert!(rule.contains(words), "{words:?} is not in {rule:?}");
        }
        // Broken before: the next step is not to blame, and the account goes on.
        usage.used = usage.granted + 1;
        let mark = usage.mark();
        usage.debit(Payer::first(1), READ, 0, now).unwrap();
        assert_eq!(usage.broken_since(&mark), None);
    }
}
