//! What an operator sells in a run: the seed's plans, or one of two files of plans that are applied in turn.

use memoryos::domain::catalog::{Catalog, Offer};
use memoryos::domain::plan::{Plan, Prices, Terms};

/// How many there are; 0 is the seed.
pub(crate) const OFFERS: usize = 3;

/// A plan: its name, credits of a cycle, room for memories.
type Sold = (&'static str, u64, u64);

/// The plans of each offer, from the least to the most. The three of the seed keep their places, so that the model
/// may compare plans of any two offers; a fourth comes and goes.
const PLANS: [&[Sold]; OFFERS] = [
    &[
        ("Free", 100, 100),
        ("Pro", 10_000, 2_000),
        ("Premium", 100_000, 1_000_000),
    ],
    &[
        ("Free", 60, 40),
        ("Pro", 20_000, 2_500),
        ("Premium", 90_000, 500_000),
        ("Team", 200_000, 2_000_000),
    ],
    &[
        ("Free", 150, 120),
        ("Pro", 8_000, 50),
        ("Premium", 120_000, 1_000_000),
    ],
];

/// Credits of a plan in a cycle, and its room for memories.
pub(crate) fn terms(offer: usize, plan: Plan) -> (u64, u64) {
    let mut sold = PLANS[offer].iter();
    let (_, credits, room) = sold.find(|(name, ..)| *name == plan.name()).unwrap();
    (*credits, *room)
}

/// The prices of an offer. Only their being whole is looked at: requests of a run cost what the seed says, which is
/// all that the model knows.
const fn prices(offer: usize) -> Prices {
    Prices {
        stats: offer as u64 + 1,
        update_memory: 2 * (offer as u64 + 1),
        ..Prices::SEED
    }
}

/// The offer as a file says it.
pub(crate) fn file(offer: usize) -> Offer {
    let plan = |(name, credits, room): &Sold| Terms {
        name: (*name).into(),
        credits_per_cycle: *credits,
        memories_max: *room,
        requests_per_minute: None,
        price: (offer > 0).then(|| format!("price of {offer}").into()),
        open: true,
    };
    Offer {
        plans: PLANS[offer].iter().map(plan).collect(),
        prices: prices(offer),
    }
}

/// What a catalog offers.
pub(crate) fn of(catalog: &Catalog) -> Offer {
    Offer {
        plans: catalog.plans.iter().map(|p| p.terms().clone()).collect(),
        prices: catalog.prices,
    }
}
