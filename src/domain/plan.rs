//! Plans and prices, each in one table.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What an account has bought: credits for each billing cycle and room for memories.
///
/// Ordered from the least to the most.
// The order of the variants is stored on the disk: add new ones at the end and give them an order of
// their own.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
pub enum Plan {
    /// For trying the service out.
    Free,
    /// For one person or a small team.
    Pro,
    /// For a product with users of its own.
    Premium,
}

/// One row of the table of plans.
#[derive(Clone, Copy, Debug)]
struct Terms {
    name: &'static str,
    credits_per_cycle: u64,
    memories_max: u64,
}

impl Plan {
    /// Every plan, from the least to the most.
    pub const ALL: [Self; 3] = [Self::Free, Self::Pro, Self::Premium];

    const fn terms(self) -> Terms {
        match self {
            Self::Free => Terms {
                name: "Free",
                credits_per_cycle: 100,
                memories_max: 100,
            },
            Self::Pro => Terms {
                name: "Pro",
                credits_per_cycle: 10_000,
                memories_max: 2_000,
            },
            Self::Premium => Terms {
                name: "Premium",
                credits_per_cycle: 100_000,
                memories_max: 1_000_000,
            },
        }
    }

    /// Returns the credits granted at the start of each billing cycle.
    #[must_use]
    pub const fn credits_per_cycle(self) -> u64 {
        self.terms().credits_per_cycle
    }

    /// Returns how many memories an account on this plan may hold.
    #[must_use]
    pub const fn memories_max(self) -> u64 {
        self.terms().memories_max
    }

    /// Returns the plan's name as clients write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.terms().name
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no plan has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Invalid plan: {0}")]
pub struct UnknownPlan(pub String);

impl FromStr for Plan {
    type Err = UnknownPlan;

    fn from_str(name: &str) -> Result<Self, UnknownPlan> {
        Self::ALL
            .into_iter()
            .find(|plan| plan.name() == name)
            .ok_or_else(|| UnknownPlan(name.to_owned()))
    }
}

/// What a metered request does; it decides the price.
// Stored in the ledger: add new variants at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Operation {
    /// `GET /memory`.
    ListMemories,
    /// `GET /memory/{id}`.
    ReadMemory,
    /// `GET /stats`.
    Stats,
    /// `GET /gpt-status`.
    GptStatus,
    /// `POST /memory`.
    AddMemory,
    /// `PATCH /memory/{id}`.
    UpdateMemory,
}

impl Operation {
    /// Returns the price in credits. Whatever is no variant of this type is free.
    #[must_use]
    pub const fn price(self) -> u64 {
        match self {
            Self::ListMemories | Self::ReadMemory | Self::Stats | Self::GptStatus => 1,
            Self::AddMemory | Self::UpdateMemory => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_what_the_contract_sells() {
        let table: Vec<_> = Plan::ALL
            .iter()
            .map(|p| (p.name(), p.credits_per_cycle(), p.memories_max()))
            .collect();
        assert_eq!(
            table,
            [
                ("Free", 100, 100),
                ("Pro", 10_000, 2_000),
                ("Premium", 100_000, 1_000_000)
            ]
        );
        assert!(Plan::Free < Plan::Pro && Plan::Pro < Plan::Premium);
    }

    #[test]
    fn names_are_exact() {
        assert_eq!("Pro".parse(), Ok(Plan::Pro));
        assert_eq!("pro".parse::<Plan>(), Err(UnknownPlan("pro".to_owned())));
    }
}
