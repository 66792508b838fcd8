//! What MemoryOS promises, in its simplest form: plain maps, one caller at a time, nothing on a disk.
//!
//! Written from the HTTP contract. Nothing here asks the product's rules: plans, prices, cycles, caps and
//! limits are stated once more. What the product counts is derived here: the memories that an account or
//! a key holds are those in the list, and what a key has spent in a cycle carries the cycle's number.

use std::collections::BTreeMap;

use memoryos::domain::account::AccountKey;
use memoryos::domain::ledger::Entry;
use memoryos::domain::plan::{Operation, Plan};
use memoryos::domain::scope::{Scope, Scopes};
use serde_json::{Map, Value};

use crate::calendar::{DAY, Micros, cycle, months_after, text};
use crate::offer::terms;

pub(crate) const READ: u64 = 1;
pub(crate) const WRITE: u64 = 2;
pub(crate) const KEYS_MAX: usize = 100;

/// Why the service says no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    UnknownKey,
    Revoked,
    NoSuchMemory,
    BadChange,
    OutOfCredits(Numbers, u64),
    Full(Numbers),
    Reused,
    InFlight,
    UserExists,
    NoSuchUser,
    NoSuchKey,
    NotYours,
    NoOwner,
    AbovePlan(Plan),
    TooManyKeys,
    LastKey,
    Expired,
    Lacks(Scope),
    Outlives(Micros),
    AboveCredits(u64),
    Rotated,
    NotActive,
    LastManager,
    Suspended,
    TooFew(u64),
    NotConfirmed,
    /// What the service may never say here.
    Fault(String),
}

/// The numbers of every answer that shows credits or room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub plan: Plan,
    pub limit: u64,
    pub remaining: u64,
    pub used: u64,
    pub ever: u64,
    pub room: u64,
    pub held: u64,
    pub free: u64,
    pub reset: Micros,
    pub capped: bool,
}

/// What an account was granted and spent; small, so that a lost debit is undone by putting it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Money {
    /// Which offer's plans count now.
    pub offer: usize,
    pub plan: Plan,
    pub anchor: Micros,
    pub cycle: i64,
    pub granted: u64,
    pub used: u64,
    pub ever: u64,
    pub last: Option<Micros>,
}

impl Money {
    /// Enters the cycle that holds `now`, if it is a later one: one grant, however many have passed.
    pub(crate) fn rolled(mut self, now: Micros) -> Self {
        let cycle = cycle(self.anchor, now);
        if cycle > self.cycle {
            (self.cycle, self.granted, self.used) = (cycle, terms(self.offer, self.plan).0, 0);
        }
        self
    }

    pub(crate) fn end(&self) -> Micros {
        months_after(self.anchor, self.cycle + 1)
    }
}

/// What came and went, summed up by cycle, by the number of the key that paid (0 if none did), and by why.
/// Sums that are 0 are not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger(BTreeMap<(i64, usize, &'static str), i64>);

impl Ledger {
    pub(crate) fn enter(&mut self, cycle: i64, key_no: usize, entry: Entry, amount: i64) {
        let at = (cycle, key_no, sort(entry));
        let sum = self.0.entry(at).or_default();
        *sum += amount;
        if *sum == 0 {
            self.0.remove(&at);
        }
    }
}

/// Why credits came or went, in a word.
fn sort(entry: Entry) -> &'static str {
    match entry {
        Entry::Grant => "grant",
        Entry::PlanChange => "plan change",
        Entry::Bonus => "bonus",
        Entry::Correction => "correction",
        Entry::Debit(operation) => match operation {
            Operation::ListMemories => "list",
            Operation::ReadMemory => "read",
            Operation::Stats => "stats",
            Operation::GptStatus => "status",
            Operation::AddMemory => "add",
            Operation::UpdateMemory => "change",
        },
        Entry::Refund(Operation::AddMemory) => "refund of an add",
        Entry::Refund(Operation::UpdateMemory) => "refund of a change",
        // Never of an account that is as old as its ledger; no read is ever given back.
        Entry::Refund(_) | Entry::Opening | Entry::OpeningSpent | Entry::EarlierSpent => "never",
    }
}

/// What a key has spent: ever, and in the cycle with that number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spent {
    pub cycle: i64,
    pub used: u64,
    pub ever: u64,
    pub last: Option<Micros>,
}

#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub secret: String,
    pub id: String,
    pub description: &'static str,
    pub created: Micros,
    /// The first of the keys that were rotated into each other up to this one: it has what follows for all.
    pub lineage: usize,
    pub cap: Option<Plan>,
    pub credits: Option<u64>,
    pub spent: Spent,
    // Of each key itself:
    pub scopes: Scopes,
    pub expires: Option<Micros>,
    pub successor: Option<String>,
    /// When it was revoked, or ended by a sweep.
    pub revoked: Option<Micros>,
    /// Whether it was a sweep.
    pub expired: bool,
}

impl Key {
    /// When it ended, if it has, swept or not.
    pub(crate) fn ended(&self, now: Micros) -> Option<Micros> {
        self.revoked.or(self.expires.filter(|end| *end <= now))
    }

    /// Whether it manages keys and goes on doing so.
    fn manages(&self) -> bool {
        self.successor.is_none()
            && self.scopes.contains(Scope::Keys)
            && self.expires.is_none()
            && self.revoked.is_none()
    }
}

/// What a key has and can give away.
#[derive(Clone, Debug, PartialEq)]
struct Rights {
    offer: usize,
    scopes: Scopes,
    expires: Option<Micros>,
    cap: Option<Plan>,
    credits: Option<u64>,
}

impl Rights {
    /// The least of both caps on credits.
    fn most(&self) -> u64 {
        let plan = self.cap.map_or(u64::MAX, |plan| terms(self.offer, plan).0);
        plan.min(self.credits.unwrap_or(u64::MAX))
    }

    fn covers(&self, other: &Self) -> Result<(), Refused> {
        if let Some(scope) = other.scopes.iter().find(|s| !self.scopes.contains(*s)) {
            return Err(Refused::Lacks(scope));
        }
        if let Some(end) = self.expires
            && other.expires.unwrap_or(Micros::MAX) > end
        {
            return Err(Refused::Outlives(end));
        }
        if let Some(cap) = self.cap
            && other.cap.is_none_or(|plan| plan > cap)
        {
            return Err(Refused::AbovePlan(cap));
        }
        if other.most() > self.most() {
            return Err(Refused::AboveCredits(self.most()));
        }
        Ok(())
    }
}

/// A limit that can be set, taken away (`Some(None)`), or left as it is.
pub(crate) type Limit<T> = Option<Option<T>>;

/// What is asked of a new key, or to be changed of one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub plan: Option<Plan>,
    pub scopes: Option<Scopes>,
    pub expires: Limit<Micros>,
    pub credits: Limit<u64>,
    pub description: Option<&'static str>,
}

/// What a new key gets.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    /// The key whose counters it shares.
    pub pool: Option<usize>,
    pub cap: Option<Plan>,
    pub credits: Option<u64>,
    pub scopes: Scopes,
    pub expires: Option<Micros>,
}

#[derive(Clone, Debug)]
pub(crate) struct Memory {
    pub id: String,
    /// Which key stored it: the first of its lineage.
    pub key: usize,
    pub entry: Value,
}

/// An answer kept under an `Idempotency-Key`.
#[derive(Clone, Debug)]
pub(crate) struct Replay {
    pub at: Micros,
    pub sent: String,
    pub answer: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub name: AccountKey,
    pub id: String,
    pub email: Option<String>,
    pub created: Micros,
    pub money: Money,
    pub ledger: Ledger,
    pub keys: Vec<Key>,
    /// Oldest first.
    pub memories: Vec<Memory>,
    /// The last id given: ids only grow.
    pub newest: String,
    pub replays: BTreeMap<String, Replay>,
    /// As `replays`, of the admin's adjustments: names of their own.
    pub adjustments: BTreeMap<String, Replay>,
    /// Since when its keys are refused.
    pub suspended: Option<Micros>,
    /// Whether an admin took the last key; nobody else can.
    pub emptied: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    /// Which offer was applied last.
    pub offer: usize,
    pub accounts: Vec<Account>,
    /// Those that were erased, as they were.
    pub gone: Vec<Gone>,
}

/// An account that was erased.
#[derive(Clone, Debug)]
pub(crate) struct Gone {
    pub account: Account,
    /// How many rows of its ledger are kept, under a name that nobody knows.
    pub rows: u64,
}

impl Model {
    /// Sells what another offer says from now on.
    pub(crate) fn sell(&mut self, offer: usize) {
        self.offer = offer;
        for account in &mut self.accounts {
            account.money.offer = offer;
        }
    }
}

impl Account {
    pub(crate) fn active(&self) -> usize {
        self.keys.iter().filter(|key| key.revoked.is_none()).count()
    }

    /// Whether a key, or one of its lineage, still counts for the account.
    fn alive(&self, key: usize) -> bool {
        let lineage = self.keys[key].lineage;
        let mut keys = self.keys.iter();
        keys.any(|key| key.lineage == lineage && key.revoked.is_none())
    }

    /// How many lineages are alive.
    pub(crate) fn lineages(&self) -> usize {
        let first = |at: &usize| self.keys[*at].lineage == *at;
        let firsts = (0..self.keys.len()).filter(first);
        firsts.filter(|at| self.alive(*at)).count()
    }

    /// Whether a key manages keys and goes on doing so.
    pub(crate) fn managed(&self) -> bool {
        self.keys.iter().any(Key::manages)
    }

    pub(crate) fn active_at(&self, now: Micros) -> usize {
        self.keys
            .iter()
            .filter(|key| key.ended(now).is_none())
            .count()
    }

    pub(crate) fn held(&self, key: usize) -> u64 {
        let key = self.keys[key].lineage;
        self.memories.iter().filter(|m| m.key == key).count() as u64
    }

    /// The first key of a key's lineage.
    pub(crate) fn first(&self, key: usize) -> &Key {
        &self.keys[self.keys[key].lineage]
    }

    fn first_mut(&mut self, key: usize) -> &mut Key {
        let lineage = self.keys[key].lineage;
        &mut self.keys[lineage]
    }

    /// What a key has spent in the account's cycle as of `now`.
    pub(crate) fn used(&self, key: usize, now: Micros) -> u64 {
        let spent = self.first(key).spent;
        if spent.cycle == self.money.rolled(now).cycle {
            spent.used
        } else {
            0
        }
    }

    /// What a key can do: what the account can, or, capped, the least of that and its plan's own.
    pub(crate) fn numbers(&self, key: usize, now: Micros) -> Numbers {
        let money = self.money.rolled(now);
        let (limit, room) = terms(money.offer, money.plan);
        let held = self.memories.len() as u64;
        let account = Numbers {
            plan: money.plan,
            limit,
            remaining: money.granted - money.used,
            used: money.used,
            ever: money.ever,
            room,
            held,
            free: room.saturating_sub(held),
            reset: money.end(),
            capped: false,
        };
        let first = self.first(key);
        let (used, held) = (self.used(key, now), self.held(key));
        let mut numbers = account.clone();
        if let Some(cap) = first.cap {
            numbers.plan = cap.min(money.plan);
            (numbers.limit, numbers.room) = terms(money.offer, numbers.plan);
            numbers.held = held;
            numbers.free = numbers.room.saturating_sub(held).min(account.free);
        }
        if let Some(credits) = first.credits {
            numbers.limit = numbers.limit.min(credits);
        }
        if first.cap.is_some() || first.credits.is_some() {
            let left = numbers.limit.saturating_sub(used);
            numbers.remaining = left.min(account.remaining);
            (numbers.used, numbers.capped) = (used, true);
        }
        numbers
    }

    pub(crate) fn affordable(&self, key: usize, cost: u64, now: Micros) -> Result<(), Refused> {
        if !self.alive(key) {
            return Err(Refused::Revoked);
        }
        let numbers = self.numbers(key, now);
        if numbers.remaining < cost {
            return Err(Refused::OutOfCredits(numbers, cost));
        }
        Ok(())
    }

    pub(crate) fn debit(
        &mut self,
        key: usize,
        operation: Operation,
        cost: u64,
        now: Micros,
    ) -> Result<Numbers, Refused> {
        self.affordable(key, cost, now)?;
        let used = self.used(key, now);
        self.touch(key, now);
        self.money.used += cost;
        self.money.ever += cost;
        let cycle = self.money.cycle;
        let spent = &mut self.first_mut(key).spent;
        (spent.cycle, spent.used) = (cycle, used + cost);
        spent.ever += cost;
        self.enter(key + 1, Entry::Debit(operation), -(cost as i64));
        Ok(self.numbers(key, now))
    }

    /// Enters something of the running cycle into the ledger.
    pub(crate) fn enter(&mut self, key_no: usize, entry: Entry, amount: i64) {
        self.ledger.enter(self.money.cycle, key_no, entry, amount);
    }

    /// Enters the cycle that holds `now`, if it is a later one.
    pub(crate) fn roll(&mut self, now: Micros) {
        let before = self.money.cycle;
        self.money = self.money.rolled(now);
        // Also of those in which nothing happened; of the last eleven, if there are more.
        let now = self.money.cycle;
        for cycle in (before + 1).max(now - 11)..=now {
            let granted = self.money.granted as i64;
            self.ledger.enter(cycle, 0, Entry::Grant, granted);
        }
    }

    /// What also a debit that was given back leaves, but for its rows: the cycle entered and the time of the
    /// request.
    pub(crate) fn touch(&mut self, key: usize, now: Micros) {
        self.roll(now);
        self.money.last = Some(now);
        self.first_mut(key).spent.last = Some(now);
    }

    /// Adds a memory that was given `id`. Returns it, and the numbers after it.
    pub(crate) fn add(
        &mut self,
        key: usize,
        id: &str,
        sent: &Value,
        now: Micros,
    ) -> Result<(Value, Numbers), Refused> {
        self.affordable(key, WRITE, now)?;
        let numbers = self.numbers(key, now);
        if numbers.free == 0 {
            return Err(Refused::Full(numbers));
        }
        self.debit(key, Operation::AddMemory, WRITE, now)?;
        let mut entry = settled(sent.as_object().unwrap().clone());
        entry.insert("id".to_owned(), id.into());
        entry.insert("timestamp".to_owned(), text(now).into());
        entry.insert("key_id".to_owned(), self.keys[key].id.as_str().into());
        let entry = Value::Object(entry);
        let memory = Memory {
            id: id.to_owned(),
            key: self.keys[key].lineage,
            entry: entry.clone(),
        };
        self.memories.push(memory);
        id.clone_into(&mut self.newest);
        Ok((entry, self.numbers(key, now)))
    }

    /// The answer on record for an `Idempotency-Key`, if there is one that counts.
    pub(crate) fn replay(
        &self,
        name: &str,
        sent: &str,
        now: Micros,
    ) -> Result<Option<&str>, Refused> {
        recorded(&self.replays, name, sent, now)
    }

    /// Gives credits of the running cycle, or takes some that are left.
    pub(crate) fn adjust(&mut self, amount: i64, now: Micros) -> Result<Money, Refused> {
        let money = self.money.rolled(now);
        let left = money.granted - money.used;
        if amount < 0 && left < amount.unsigned_abs() {
            return Err(Refused::TooFew(left));
        }
        self.roll(now);
        self.money.granted = money.granted.checked_add_signed(amount).unwrap();
        self.enter(0, adjustment(amount), amount);
        Ok(self.money)
    }

    pub(crate) fn find(&self, id: &str) -> Result<usize, Refused> {
        let found = self.memories.iter().position(|memory| memory.id == id);
        found.ok_or(Refused::NoSuchMemory)
    }

    pub(crate) fn change(
        &mut self,
        key: usize,
        id: &str,
        change: &Value,
        now: Micros,
    ) -> Result<(Value, Numbers), Refused> {
        let at = self.find(id)?;
        let mut entry = self.memories[at].entry.as_object().unwrap().clone();
        for (name, value) in change.as_object().unwrap() {
            if !value.is_null() {
                entry.insert(name.clone(), value.clone());
            } else if entry.remove(name).is_some() && KNOWN.contains(&name.as_str()) {
                return Err(Refused::BadChange);
            }
        }
        if entry["topic"].as_str().is_none_or(|t| t.trim().is_empty()) {
            return Err(Refused::BadChange);
        }
        self.debit(key, Operation::UpdateMemory, WRITE, now)?;
        let mut entry = settled(entry);
        entry.insert("updated_at".to_owned(), text(now).into());
        self.memories[at].entry = Value::Object(entry);
        Ok((self.memories[at].entry.clone(), self.numbers(key, now)))
    }

    pub(crate) fn delete(&mut self, key: usize, id: &str, now: Micros) -> Result<Numbers, Refused> {
        let at = self.find(id)?;
        if !self.alive(key) {
            return Err(Refused::Revoked);
        }
        self.memories.remove(at);
        self.roll(now);
        Ok(self.numbers(key, now))
    }

    pub(crate) fn change_plan(&mut self, plan: Plan, now: Micros) -> Plan {
        self.roll(now);
        let money = &mut self.money;
        let (before, granted) = (money.plan, money.granted as i64);
        let left = money.granted - money.used;
        let (old, new) = (terms(money.offer, before).0, terms(money.offer, plan).0);
        if new > old {
            money.granted = money.used + new.max(left);
        } else if new < old {
            money.granted = money.used + left.min(new);
        }
        money.plan = plan;
        let difference = money.granted as i64 - granted;
        self.enter(0, Entry::PlanChange, difference);
        before
    }

    fn rights_of(&self, key: usize) -> Rights {
        let (own, first) = (&self.keys[key], self.first(key));
        Rights {
            offer: self.money.offer,
            scopes: own.scopes,
            expires: own.expires,
            cap: first.cap,
            credits: first.credits,
        }
    }

    /// What whoever asks can give: a key of the account, or nobody for the admin.
    fn rights(&self, by: Option<usize>, now: Micros) -> Result<Rights, Refused> {
        let Some(by) = by else {
            return Ok(Rights {
                offer: self.money.offer,
                scopes: Scopes::ALL,
                expires: None,
                cap: None,
                credits: None,
            });
        };
        let key = &self.keys[by];
        match key.revoked {
            Some(_) if !key.expired => return Err(Refused::Revoked),
            _ if key.ended(now).is_some() => return Err(Refused::Expired),
            _ => {}
        }
        if key.successor.is_some() || !key.scopes.contains(Scope::Keys) {
            return Err(Refused::Lacks(Scope::Keys));
        }
        Ok(self.rights_of(by))
    }

    /// Decides what a new key gets.
    pub(crate) fn give(
        &mut self,
        maker: Option<usize>,
        asked: &Asked,
        now: Micros,
    ) -> Result<Given, Refused> {
        let own = self.rights(maker, now)?;
        let wanted = Rights {
            offer: own.offer,
            scopes: asked.scopes.unwrap_or(own.scopes),
            expires: asked.expires.flatten().or(own.expires),
            cap: own.cap,
            credits: own.credits,
        };
        own.covers(&wanted)?;
        let plan = own
            .cap
            .map_or(self.money.plan, |cap| cap.min(self.money.plan));
        if asked.plan.is_some_and(|asked| asked > plan) {
            return Err(Refused::AbovePlan(plan));
        }
        let cap = asked.plan.or(own.cap);
        let credits = asked.credits.flatten();
        let least = cap.map_or(plan, |cap| cap.min(plan));
        let most = terms(self.money.offer, least).0;
        // Where the maker's credits are bounded, a key gets the maker's counters, or no credits.
        let pool = maker.filter(|_| own.credits.is_some() && credits != Some(0));
        if pool.is_some() {
            let other = credits.is_some_and(|credits| Some(credits) != own.credits);
            if other || cap != own.cap {
                return Err(Refused::AboveCredits(0));
            }
        } else if credits.is_some_and(|credits| credits > most) {
            return Err(Refused::AboveCredits(most));
        }
        self.make_room(now)?;
        Ok(Given {
            pool: pool.map(|maker| self.keys[maker].lineage),
            cap,
            credits: credits.or(own.credits),
            scopes: wanted.scopes,
            expires: wanted.expires,
        })
    }

    /// The key that would make room for another, if room must be made.
    pub(crate) fn makes_room(&self, now: Micros) -> Option<usize> {
        let over = |key: &Key| key.revoked.is_none() && key.ended(now).is_some();
        let full = self.active() >= KEYS_MAX;
        self.keys.iter().position(over).filter(|_| full)
    }

    fn make_room(&mut self, now: Micros) -> Result<(), Refused> {
        if self.active() < KEYS_MAX {
            return Ok(());
        }
        let over = self.makes_room(now).ok_or(Refused::TooManyKeys)?;
        self.expire(over);
        Ok(())
    }

    /// Ends a key whose time has come.
    pub(crate) fn expire(&mut self, key: usize) {
        let key = &mut self.keys[key];
        (key.revoked, key.expired) = (key.expires, true);
    }

    /// The key that is addressed, if it can be changed or rotated.
    fn target(&self, key: usize, now: Micros) -> Result<&Key, Refused> {
        match &self.keys[key] {
            key if key.successor.is_some() => Err(Refused::Rotated),
            key if key.ended(now).is_some() => Err(Refused::NotActive),
            key => Ok(key),
        }
    }

    /// Rotates a key, whose successor is to be entered then.
    pub(crate) fn rotate(
        &mut self,
        by: Option<usize>,
        key: usize,
        grace: u32,
        now: Micros,
    ) -> Result<(), Refused> {
        let own = self.rights(by, now)?;
        self.target(key, now)?;
        own.covers(&self.rights_of(key))?;
        if grace > 0 {
            self.make_room(now)?;
        }
        let until = now + Micros::from(grace) * crate::calendar::SECOND;
        let old = self.keys[key].clone();
        self.keys.push(Key {
            created: now,
            ..old.clone()
        });
        if grace == 0 {
            self.keys[key].revoked = Some(now);
        } else {
            self.keys[key].expires = Some(old.expires.map_or(until, |end| end.min(until)));
        }
        Ok(())
    }

    pub(crate) fn change_key(
        &mut self,
        by: Option<usize>,
        key: usize,
        asked: &Asked,
        now: Micros,
    ) -> Result<(), Refused> {
        let own = self.rights(by, now)?;
        let managed = self.target(key, now)?.manages();
        let has = self.rights_of(key);
        let gets = Rights {
            offer: has.offer,
            scopes: asked.scopes.unwrap_or(has.scopes),
            expires: asked.expires.unwrap_or(has.expires),
            credits: asked.credits.unwrap_or(has.credits),
            cap: has.cap,
        };
        if gets != has {
            own.covers(&has)?;
        }
        if has.covers(&gets).is_err() {
            own.covers(&gets)?;
        }
        let plan = has
            .cap
            .map_or(self.money.plan, |cap| cap.min(self.money.plan));
        let most = terms(self.money.offer, plan).0;
        if asked
            .credits
            .flatten()
            .is_some_and(|credits| credits > most)
        {
            return Err(Refused::AboveCredits(most));
        }
        let before = self.clone();
        let changed = &mut self.keys[key];
        (changed.scopes, changed.expires) = (gets.scopes, gets.expires);
        changed.description = asked.description.unwrap_or(changed.description);
        self.first_mut(key).credits = gets.credits;
        if managed && !self.managed() {
            *self = before;
            return Err(Refused::LastManager);
        }
        Ok(())
    }

    pub(crate) fn revoke(
        &mut self,
        key: usize,
        admin: bool,
        now: Micros,
    ) -> Result<Micros, Refused> {
        if let Some(at) = self.keys[key].revoked {
            return Ok(at);
        }
        let (last, managed) = (self.active() == 1, self.keys[key].manages());
        self.keys[key].revoked = Some(now);
        if (last || managed) && !self.managed() {
            if !admin {
                self.keys[key].revoked = None;
                return Err(Refused::LastKey);
            }
            self.emptied = true;
        }
        Ok(now)
    }
}

/// As what an adjustment is in the ledger.
pub(crate) fn adjustment(amount: i64) -> Entry {
    if amount > 0 {
        Entry::Bonus
    } else {
        Entry::Correction
    }
}

/// The answer on record under a name, if there is one that counts.
pub(crate) fn recorded<'a>(
    replays: &'a BTreeMap<String, Replay>,
    name: &str,
    sent: &str,
    now: Micros,
) -> Result<Option<&'a str>, Refused> {
    match replays.get(name).filter(|r| now < r.at + DAY) {
        None => Ok(None),
        Some(replay) if replay.sent == sent => Ok(Some(&replay.answer)),
        Some(_) => Err(Refused::Reused),
    }
}

/// The fields of a memory that cannot be taken away.
const KNOWN: [&str; 10] = [
    "topic", "type", "category", "input", "output", "success", "score", "maxScore", "tags",
    "reviewed",
];

/// A memory's own fields as they are kept: trimmed, with defaults, without what only the server sets.
fn settled(mut sent: Map<String, Value>) -> Map<String, Value> {
    let defaults = [
        ("score", 15.into()),
        ("maxScore", 25.into()),
        ("tags", Value::Array(Vec::new())),
        ("reviewed", false.into()),
    ];
    for (name, value) in defaults {
        sent.entry(name).or_insert(value);
    }
    for name in ["topic", "type", "category"] {
        let trimmed = sent[name].as_str().unwrap().trim().to_owned();
        sent[name] = trimmed.into();
    }
    sent
}
