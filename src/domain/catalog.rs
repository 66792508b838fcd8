//! The catalog: the table of plans and the prices that a service runs with, and how an operator's new one
//! changes it.

use super::plan::{Plan, PlanNo, Plans, Prices, Row, Terms};

/// What an operator wants to sell: plans from the least to the most, without numbers, and prices.
/// Names are unique and there is one plan at least, which is for whoever reads it to see to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The plans.
    pub plans: Vec<Terms>,
    /// What operations cost.
    pub prices: Prices,
}

/// What a service sells: an offer that was applied, its plans numbered; or the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Catalog {
    /// The table of plans.
    pub plans: &'static Plans,
    /// What operations cost.
    pub prices: Prices,
    /// How often an offer was applied; 0 for the seed.
    pub generation: u32,
    /// The number of the next new plan. Numbers are never given twice.
    pub next_no: u16,
    /// The most memories that any plan ever had.
    pub memories_most: u64,
}

/// So many plans were made that there is no number for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no number left for another plan: 65535 were made in all")]
pub struct OutOfNumbers;

/// What an offer changes of one plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanChange {
    /// There is no plan of this name yet.
    New(Terms),
    /// The plan gets these terms.
    Changed(Plan, Terms),
    /// The plan goes.
    Removed(Plan),
}

/// What an offer changes of a catalog.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Of each plan that does not stay as it is: in the order of the offer, then those that go.
    pub plans: Vec<PlanChange>,
    /// Whether plans that stay come in another order.
    pub reordered: bool,
    /// Prices by name, before and after.
    pub prices: Vec<(&'static str, u64, u64)>,
}

impl Changes {
    /// Says whether everything stays as it is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the plans that go.
    pub fn removed(&self) -> impl Iterator<Item = Plan> {
        self.plans.iter().filter_map(|change| match change {
            PlanChange::Removed(plan) => Some(*plan),
            PlanChange::New(_) | PlanChange::Changed(..) => None,
        })
    }
}

impl Catalog {
    /// Returns what a service sells whose operator has applied nothing.
    #[must_use]
    pub const fn seed() -> Self {
        Self {
            plans: Plans::seed(),
            prices: Prices::SEED,
            generation: 0,
            next_no: 3,
            memories_most: 1_000_000,
        }
    }

    /// Says what the offer changes.
    #[must_use]
    pub fn changes(&self, offer: &Offer) -> Changes {
        let mut changes = Changes::default();
        let mut stays = Vec::new();
        for terms in &offer.plans {
            let Ok(plan) = self.plans.get(&terms.name) else {
                changes.plans.push(PlanChange::New(terms.clone()));
                continue;
            };
            stays.push(plan);
            if plan.terms() != terms {
                let change = PlanChange::Changed(plan, terms.clone());
                changes.plans.push(change);
            }
        }
        let goes = |plan: &Plan| !stays.contains(plan);
        let removed = self.plans.iter().filter(goes).map(PlanChange::Removed);
        changes.plans.extend(removed);
        changes.reordered = !stays.is_sorted();
        let prices = self.prices.rows().into_iter().zip(offer.prices.rows());
        changes.prices = prices
            .filter(|((_, before), (_, after))| before != after)
            .map(|((name, before), (_, after))| (name, before, after))
            .collect();
        changes
    }

    /// Returns the catalog after the offer is applied: plans that stay keep their numbers, new ones get numbers
    /// that no plan ever had, and those that go are kept aside under theirs.
    ///
    /// # Errors
    ///
    /// [`OutOfNumbers`]
    pub fn with(&self, offer: &Offer) -> Result<Self, OutOfNumbers> {
        let mut next_no = self.next_no;
        let mut rows = Vec::new();
        for terms in &offer.plans {
            let no = if let Ok(plan) = self.plans.get(&terms.name) {
                plan.no()
            } else {
                let no = PlanNo(next_no);
                next_no = next_no.checked_add(1).ok_or(OutOfNumbers)?;
                no
            };
            let terms = terms.clone();
            rows.push(Row { no, terms });
        }
        let removed = self.plans.iter().filter(|plan| {
            let is_it = |row: &Row| row.no == plan.no();
            !rows.iter().any(is_it)
        });
        let removed = removed.map(|plan| Row {
            no: plan.no(),
            terms: plan.terms().clone(),
        });
        let mut gone: Vec<Row> = self.plans.gone().iter().cloned().chain(removed).collect();
        gone.sort_by_key(|row| row.no);
        let most = offer.plans.iter().map(|terms| terms.memories_max).max();
        Ok(Self {
            plans: Plans::leaked(rows, gone),
            prices: offer.prices,
            generation: self.generation.saturating_add(1),
            next_no,
            memories_most: self.memories_most.max(most.unwrap_or(0)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(name: &'static str, credits: u64) -> Terms {
        Terms {
            name: name.into(),
            credits_per_cycle: credits,
            memories_max: 10,
            requests_per_minute: None,
            price: None,
            open: true,
        }
    }

    fn offer(plans: &[(&'static str, u64)]) -> Offer {
        Offer {
            plans: plans
                .iter()
                .map(|(name, credits)| terms(name, *credits))
                .collect(),
            prices: Prices::SEED,
        }
    }

    fn numbers(catalog: &Catalog) -> Vec<(&'static str, u16)> {
        catalog.plans.iter().map(|p| (p.name(), p.no().0)).collect()
    }

    #[test]
    fn numbers_stay_and_are_never_given_twice() {
        // Shows that a plan keeps its number wherever it stands, and that one that went leaves it to nobody,
        // not even to itself when it comes back.
        let first = offer(&[("Team", 5), ("Premium", 7), ("Free", 1)]);
        let first = Catalog::seed().with(&first).unwrap();
        assert_eq!(numbers(&first), [("Team", 3), ("Premium", 2), ("Free", 0)]);
        let second = first.with(&offer(&[("Free", 1), ("Gold", 2)])).unwrap();
        assert_eq!(numbers(&second), [("Free", 0), ("Gold", 4)]);
        let third = second.with(&offer(&[("Team", 5), ("Free", 1), ("Pro", 2)]));
        let third = third.unwrap();
        assert_eq!(numbers(&third), [("Team", 5), ("Free", 0), ("Pro", 6)]);
        let gone: Vec<_> = third.plans.gone().iter().map(|row| row.no.0).collect();
        assert_eq!((gone, third.generation), (vec![1, 2, 3, 4], 3));
        assert_eq!(third.plans.ever(PlanNo(3)).map(Plan::name), Some("Team"));
        assert_eq!(third.plans.by_no(PlanNo(3)), None);
        assert_eq!(third.memories_most, 1_000_000);
        let last = Catalog {
            next_no: u16::MAX,
            ..third
        };
        assert_eq!(last.with(&offer(&[("New", 1)])), Err(OutOfNumbers));
    }

    #[test]
    fn changes_are_what_is_not_the_same() {
        // Shows that the seed's own offer changes nothing, and each kind of change.
        let seed = Catalog::seed();
        let mut same = Offer {
            plans: seed.plans.iter().map(|plan| plan.terms().clone()).collect(),
            prices: seed.prices,
        };
        assert!(seed.changes(&same).is_empty());
        same.plans.reverse();
        assert_eq!(
            seed.changes(&same),
            Changes {
                reordered: true,
                ..Changes::default()
            }
        );
        let mut other = offer(&[("Team", 5), ("Free", 100)]);
        other.prices.stats = 0;
        let changes = seed.changes(&other);
        assert_eq!(
            changes.plans,
            [
                PlanChange::New(terms("Team", 5)),
                PlanChange::Changed(Plan::FREE, terms("Free", 100)),
                PlanChange::Removed(Plan::PRO),
                PlanChange::Removed(Plan::PREMIUM),
            ]
        );
        assert_eq!(
            (changes.reordered, changes.prices),
            (false, vec![("stats", 1, 0)])
        );
    }
}
