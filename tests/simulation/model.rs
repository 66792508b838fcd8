//! What MemoryOS promises, in its simplest form: plain maps, one caller at a time, nothing on a disk.
//!
//! Written from the HTTP contract. Nothing here asks the product's rules: plans, prices, cycles, caps and
//! limits are stated once more. What the product counts is derived here: the memories that an account or
//! a key holds are those in the list, and what a key has spent in a cycle carries the cycle's number.

use std::collections::BTreeMap;

use memoryos::domain::account::AccountKey;
use memoryos::domain::plan::Plan;
use serde_json::{Map, Value};

use crate::calendar::{DAY, Micros, cycle, months_after, text};

pub(crate) const READ: u64 = 1;
pub(crate) const WRITE: u64 = 2;
pub(crate) const KEYS_MAX: usize = 100;

/// Credits of a plan in a cycle, and its room for memories.
pub(crate) fn terms(plan: Plan) -> (u64, u64) {
    match plan.name() {
        "Free" => (100, 100),
        "Pro" => (10_000, 2_000),
        _ => (100_000, 1_000_000),
    }
}

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
    Suspended,
    TooFew(u64),
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
            (self.cycle, self.granted, self.used) = (cycle, terms(self.plan).0, 0);
        }
        self
    }

    pub(crate) fn end(&self) -> Micros {
        months_after(self.anchor, self.cycle + 1)
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
    pub cap: Option<Plan>,
    pub created: Micros,
    pub revoked: Option<Micros>,
    pub spent: Spent,
}

#[derive(Clone, Debug)]
pub(crate) struct Memory {
    pub id: String,
    /// Which key stored it.
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
    pub accounts: Vec<Account>,
}

impl Account {
    pub(crate) fn active(&self) -> usize {
        self.keys.iter().filter(|key| key.revoked.is_none()).count()
    }

    pub(crate) fn held(&self, key: usize) -> u64 {
        self.memories.iter().filter(|m| m.key == key).count() as u64
    }

    /// What a key has spent in the account's cycle as of `now`.
    pub(crate) fn used(&self, key: usize, now: Micros) -> u64 {
        let spent = self.keys[key].spent;
        if spent.cycle == self.money.rolled(now).cycle {
            spent.used
        } else {
            0
        }
    }

    /// What a key can do: what the account can, or, capped, the least of that and its plan's own.
    pub(crate) fn numbers(&self, key: usize, now: Micros) -> Numbers {
        let money = self.money.rolled(now);
        let (limit, room) = terms(money.plan);
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
        let Some(cap) = self.keys[key].cap else {
            return account;
        };
        let plan = cap.min(money.plan);
        let (limit, room) = terms(plan);
        let (used, held) = (self.used(key, now), self.held(key));
        Numbers {
            plan,
            limit,
            remaining: limit.saturating_sub(used).min(account.remaining),
            used,
            room,
            held,
            free: room.saturating_sub(held).min(account.free),
            capped: true,
            ..account
        }
    }

    pub(crate) fn affordable(&self, key: usize, cost: u64, now: Micros) -> Result<(), Refused> {
        if self.keys[key].revoked.is_some() {
            return Err(Refused::Revoked);
        }
        let numbers = self.numbers(key, now);
        if numbers.remaining < cost {
            return Err(Refused::OutOfCredits(numbers, cost));
        }
        Ok(())
    }

    pub(crate) fn debit(&mut self, key: usize, cost: u64, now: Micros) -> Result<Numbers, Refused> {
        self.affordable(key, cost, now)?;
        let used = self.used(key, now);
        self.touch(key, now);
        self.money.used += cost;
        self.money.ever += cost;
        let spent = &mut self.keys[key].spent;
        (spent.cycle, spent.used) = (self.money.cycle, used + cost);
        spent.ever += cost;
        Ok(self.numbers(key, now))
    }

    /// What also a debit that was given back leaves: the cycle entered and the time of the request.
    pub(crate) fn touch(&mut self, key: usize, now: Micros) {
        self.money = self.money.rolled(now);
        self.money.last = Some(now);
        self.keys[key].spent.last = Some(now);
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
        self.debit(key, WRITE, now)?;
        let mut entry = settled(sent.as_object().unwrap().clone());
        entry.insert("id".to_owned(), id.into());
        entry.insert("timestamp".to_owned(), text(now).into());
        entry.insert("key_id".to_owned(), self.keys[key].id.as_str().into());
        let entry = Value::Object(entry);
        let memory = Memory {
            id: id.to_owned(),
            key,
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
        let mut money = self.money.rolled(now);
        let left = money.granted - money.used;
        if amount < 0 && left < amount.unsigned_abs() {
            return Err(Refused::TooFew(left));
        }
        money.granted = money.granted.strict_add_signed(amount);
        self.money = money;
        Ok(money)
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
        self.debit(key, WRITE, now)?;
        let mut entry = settled(entry);
        entry.insert("updated_at".to_owned(), text(now).into());
        self.memories[at].entry = Value::Object(entry);
        Ok((self.memories[at].entry.clone(), self.numbers(key, now)))
    }

    pub(crate) fn delete(&mut self, key: usize, id: &str, now: Micros) -> Result<Numbers, Refused> {
        let at = self.find(id)?;
        if self.keys[key].revoked.is_some() {
            return Err(Refused::Revoked);
        }
        self.memories.remove(at);
        self.money = self.money.rolled(now);
        Ok(self.numbers(key, now))
    }

    pub(crate) fn change_plan(&mut self, plan: Plan, now: Micros) -> Plan {
        self.money = self.money.rolled(now);
        let money = &mut self.money;
        let before = money.plan;
        let left = money.granted - money.used;
        let (old, new) = (terms(before).0, terms(plan).0);
        if new > old {
            money.granted = money.used + new;
        } else if new < old {
            money.granted = money.used + left.min(new);
        }
        money.plan = plan;
        before
    }

    /// What a new key is capped by: `maker` is a key of the account, or nobody for the admin.
    pub(crate) fn cap(
        &self,
        maker: Option<usize>,
        asked: Option<Plan>,
    ) -> Result<Option<Plan>, Refused> {
        if maker.is_some_and(|key| self.keys[key].revoked.is_some()) {
            return Err(Refused::Revoked);
        }
        let makers = maker.and_then(|key| self.keys[key].cap);
        let own = makers.map_or(self.money.plan, |cap| cap.min(self.money.plan));
        if asked.is_some_and(|plan| plan > own) {
            return Err(Refused::AbovePlan(own));
        }
        if self.active() >= KEYS_MAX {
            return Err(Refused::TooManyKeys);
        }
        Ok(asked.or(makers))
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
        if self.active() == 1 {
            if !admin {
                return Err(Refused::LastKey);
            }
            self.emptied = true;
        }
        self.keys[key].revoked = Some(now);
        Ok(now)
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
