//! The catalog that the database remembers: the plans and prices that were applied last.
//!
//! A catalog is a record for each plan, those that went too, under a generation of its own, and a head that
//! names the generation. The head is written last: after a crash on the way the earlier catalog stands,
//! and rows of another generation are nobody's. Without a head it is the seed's.
//!
//! It is changed while nothing else uses the store, and counts from the next opening on: a process has one
//! table of plans for its life.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::catalog::{Catalog, Offer, OutOfNumbers};
use crate::domain::plan::{Plan, PlanNo, Plans, Prices, Row, Terms};

use super::codec::{Record, decode, encode};
use super::recovery::OnDamage;
use super::schema::{PLANS_HEAD, Trees, part, plan_key};
use super::usage::decode_usage;
use super::{Inner, Ordering, Store, StoreError};

/// The head of the catalog.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PlansHead {
    pub generation: u32,
    /// How many plans there are, those that went too.
    pub plans: u16,
    pub next_no: u16,
    pub memories_most: u64,
    /// By name, so that a price that comes later needs no other format.
    pub prices: Vec<(String, u64)>,
}

/// A plan of the catalog.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PlanRow {
    /// Its place from the least to the most; `None` if it went.
    pub rank: Option<u16>,
    pub name: String,
    pub credits_per_cycle: u64,
    pub memories_max: u64,
    pub requests_per_minute: Option<u32>,
    pub price: Option<String>,
    pub open: bool,
}

impl Record for PlansHead {}
impl Record for PlanRow {}

/// Who is on a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanUse {
    /// Accounts that have it.
    pub accounts: u64,
    /// Active keys that it caps.
    pub keys: u64,
}

/// Why an offer was not applied; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A plan that is used would go.
    #[error(transparent)]
    InUse(#[from] PlanInUse),
    /// There is no number for a new plan.
    #[error(transparent)]
    OutOfNumbers(#[from] OutOfNumbers),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A plan that would go is used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the plan {name} cannot go: {accounts} accounts are on it, and it caps {keys} active keys; leave it in the \
     file, or move them to another plan first (PUT /admin/user/{{key}}/plan, DELETE /apikey/{{key}})"
)]
pub struct PlanInUse {
    /// The plan.
    pub name: String,
    /// Accounts that have it.
    pub accounts: u64,
    /// Active keys that it caps.
    pub keys: u64,
}

impl Store {
    /// Returns the catalog that the store was opened with.
    #[must_use]
    pub fn catalog(&self) -> Catalog {
        self.0.catalog
    }

    /// Says whether no catalog was ever applied and there is no account.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be read.
    pub fn is_untouched(&self) -> Result<bool, StoreError> {
        let accounts = self.inner()?.totals.accounts.load(Ordering::Relaxed);
        Ok(self.0.catalog.generation == 0 && accounts == 0)
    }

    /// Counts who is on each plan. Reads every account's usage; what cannot be read is not counted.
    ///
    /// # Errors
    ///
    /// [`StoreError::Database`] if the database cannot be read.
    pub fn plan_uses(&self) -> Result<BTreeMap<PlanNo, PlanUse>, StoreError> {
        let inner = self.inner()?;
        let mut uses: BTreeMap<PlanNo, PlanUse> = BTreeMap::new();
        inner.write_reads()?;
        for bytes in inner.trees.usage.iter().values() {
            let Ok(usage) = decode_usage(&bytes?, inner.plans) else {
                continue;
            };
            let of = uses.entry(usage.plan).or_default();
            of.accounts = of.accounts.saturating_add(1);
            for cap in usage.shares.iter().filter_map(|share| share.cap) {
                let of = uses.entry(cap).or_default();
                of.keys = of.keys.saturating_add(1);
            }
        }
        Ok(uses)
    }

    /// Returns the first plan that the offer takes away although it is used.
    ///
    /// # Errors
    ///
    /// As [`Self::plan_uses`].
    pub fn plan_in_use(&self, offer: &Offer) -> Result<Option<PlanInUse>, StoreError> {
        let uses = self.plan_uses()?;
        let changes = self.catalog().changes(offer);
        let found = changes.removed().find_map(|plan| {
            let PlanUse { accounts, keys } = *uses.get(&plan.no())?;
            Some(PlanInUse {
                name: plan.name().to_owned(),
                accounts,
                keys,
            })
        });
        Ok(found)
    }

    /// Makes the offer the catalog that the database remembers, on the disk. It counts from the next opening
    /// on: nothing else may use the store meanwhile, and the caller closes it. Blocks.
    ///
    /// # Errors
    ///
    /// [`ApplyError`]; after a [`ApplyError::Store`] the earlier catalog stands, or this one, whole.
    ///
    /// # Panics
    ///
    /// On a thread of an async runtime.
    pub fn apply(&self, offer: &Offer) -> Result<Catalog, ApplyError> {
        let inner = self.inner()?;
        let _ticket = inner.admit()?;
        if let Some(refusal) = self.plan_in_use(offer)? {
            return Err(refusal.into());
        }
        let before = self.catalog();
        let catalog = before.with(offer)?;
        let flushed = || {
            let flushed = inner.committer.flushed_blocking();
            flushed.map_err(|_| StoreError::OutcomeUnknown)
        };
        // What an attempt that was cut short has left would be taken for this one's.
        remove_others(&inner.trees, before.generation)?;
        write(&inner.trees, &catalog)?;
        flushed()?;
        remove_others(&inner.trees, catalog.generation)?;
        flushed()?;
        Ok(catalog)
    }
}

impl Inner {
    /// Reads the catalog. One that is damaged ends a start; a check goes on with the seed and names it.
    pub(super) fn read_catalog(trees: &Trees, damage: OnDamage) -> Result<Catalog, StoreError> {
        match read(trees) {
            Err(StoreError::Corrupt(what)) if damage != OnDamage::Stop => {
                log::warn!("the plans cannot be read, those of the seed are used: {what}");
                Ok(Catalog::seed())
            }
            outcome => Ok(outcome?.unwrap_or(Catalog::seed())),
        }
    }
}

/// Reads the catalog. `None` if none was applied.
fn read(trees: &Trees) -> Result<Option<Catalog>, StoreError> {
    let Some((head, Table { rows, gone })) = read_table(trees)? else {
        return Ok(None);
    };
    let mut prices = Prices::SEED;
    for (name, price) in &head.prices {
        if let Some(named) = prices.named(name) {
            *named = *price;
        }
    }
    Ok(Some(Catalog {
        plans: Plans::leaked(rows, gone),
        prices,
        generation: head.generation,
        next_no: head.next_no,
        memories_most: head.memories_most,
    }))
}

/// Reads the head and the plans, and holds them against each other.
pub(super) fn read_table(trees: &Trees) -> Result<Option<(PlansHead, Table)>, StoreError> {
    let Some(head) = trees.plans.get(PLANS_HEAD)? else {
        return Ok(None);
    };
    let head: PlansHead = decode(&head)?;
    let mut rows = Vec::new();
    for entry in trees.plans.scan_prefix(head.generation.to_be_bytes()) {
        let (key, value) = entry?;
        let no = part(&key, 4).map(u16::from_be_bytes);
        let no = no.ok_or_else(|| damaged("a plan has no number"))?;
        rows.push((PlanNo(no), decode(&value)?));
    }
    let table = table_of(&head, rows)?;
    Ok(Some((head, table)))
}

/// The plans of a catalog, from the least to the most, and those that went.
pub(super) struct Table {
    pub rows: Vec<Row>,
    pub gone: Vec<Row>,
}

/// Puts the plans in their order, and refuses what no apply has written.
pub(super) fn table_of(
    head: &PlansHead,
    rows: Vec<(PlanNo, PlanRow)>,
) -> Result<Table, StoreError> {
    if rows.len() != usize::from(head.plans) {
        return Err(damaged("a plan is missing"));
    }
    if rows.iter().any(|(no, _)| no.0 >= head.next_no) {
        return Err(damaged("a plan has a number that was not given yet"));
    }
    let (mut ranked, mut gone) = (BTreeMap::new(), Vec::new());
    for (no, row) in rows {
        let rank = row.rank;
        let row = Row {
            no,
            terms: Terms {
                name: row.name.into(),
                credits_per_cycle: row.credits_per_cycle,
                memories_max: row.memories_max,
                requests_per_minute: row.requests_per_minute,
                price: row.price.map(Into::into),
                open: row.open,
            },
        };
        match rank {
            None => gone.push(row),
            Some(rank) => {
                if ranked.insert(rank, row).is_some() {
                    return Err(damaged("two plans have one place"));
                }
            }
        }
    }
    let rows: Vec<Row> = ranked.into_values().collect();
    let mut names: Vec<_> = rows.iter().map(|row| &row.terms.name).collect();
    names.sort();
    if rows.is_empty() || names.windows(2).any(|pair| pair.first() == pair.last()) {
        return Err(damaged("there is no plan, or two have one name"));
    }
    let mut prices = Prices::SEED;
    if head
        .prices
        .iter()
        .any(|(name, _)| prices.named(name).is_none())
    {
        return Err(damaged("a price has no known name"));
    }
    Ok(Table { rows, gone })
}

fn damaged(what: &str) -> StoreError {
    StoreError::Corrupt(format!("the table of plans: {what}"))
}

/// Writes a catalog: the rows, then the head.
fn write(trees: &Trees, catalog: &Catalog) -> Result<(), StoreError> {
    let mut written = 0u16;
    let mut put = |no: PlanNo, rank: Option<u16>, terms: &Terms| -> Result<(), StoreError> {
        let row = PlanRow {
            rank,
            name: terms.name.to_string(),
            credits_per_cycle: terms.credits_per_cycle,
            memories_max: terms.memories_max,
            requests_per_minute: terms.requests_per_minute,
            price: terms.price.as_ref().map(ToString::to_string),
            open: terms.open,
        };
        written = written.saturating_add(1);
        let key = plan_key(catalog.generation, no);
        trees.plans.insert(key, encode(&row)?)?;
        Ok(())
    };
    for (rank, plan) in (0..).zip(catalog.plans.iter()) {
        put(Plan::no(plan), Some(rank), plan.terms())?;
    }
    for row in catalog.plans.gone() {
        put(row.no, None, &row.terms)?;
    }
    let prices = catalog.prices.rows();
    let head = PlansHead {
        generation: catalog.generation,
        plans: written,
        next_no: catalog.next_no,
        memories_most: catalog.memories_most,
        prices: prices
            .map(|(name, price)| (name.to_owned(), price))
            .to_vec(),
    };
    trees.plans.insert(PLANS_HEAD, encode(&head)?)?;
    Ok(())
}

/// Removes the rows of every generation but one.
fn remove_others(trees: &Trees, generation: u32) -> Result<(), StoreError> {
    for key in trees.plans.iter().keys() {
        let key = key?;
        if *key != *PLANS_HEAD && !key.starts_with(&generation.to_be_bytes()) {
            trees.plans.remove(key)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
