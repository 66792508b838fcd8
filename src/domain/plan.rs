//! Plans and prices: tables of data. The seed's are here; an operator's come from a file.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize, Serializer};

/// The number of a plan: what records hold of it. Never given to another plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PlanNo(pub u16);

impl fmt::Display for PlanNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a plan gives, as an operator writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Its name as clients write it; no other plan of the table has it. A plan is known by it: one with another
    /// name is another plan.
    pub name: Cow<'static, str>,
    /// Credits granted at the start of each billing cycle.
    pub credits_per_cycle: u64,
    /// How many memories an account may hold.
    pub memories_max: u64,
    /// Requests a minute to routes that cost nothing; `None` for the server's own limit.
    pub requests_per_minute: Option<u32>,
    /// What it costs, in words, such as `$9/month`: shown, never computed with.
    pub price: Option<Cow<'static, str>>,
    /// Whether anybody can sign up for it, unless the operator's settings say otherwise.
    pub open: bool,
}

/// A plan of a table: its terms under its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The plan's number.
    pub no: PlanNo,
    /// What it gives.
    pub terms: Terms,
}

/// The table of plans, from the least to the most. A process has one for its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plans {
    rows: Cow<'static, [Row]>,
    /// Plans that went, for what still names them: revoked keys.
    gone: Cow<'static, [Row]>,
}

static SEED: Plans = Plans {
    rows: Cow::Borrowed(&SEED_ROWS),
    gone: Cow::Borrowed(&[]),
};

static SEED_ROWS: [Row; 3] = [
    row_of_seed(0, "Free", 100, 100),
    row_of_seed(1, "Pro", 10_000, 2_000),
    row_of_seed(2, "Premium", 100_000, 1_000_000),
];

const fn row_of_seed(no: u16, name: &'static str, credits: u64, memories: u64) -> Row {
    Row {
        no: PlanNo(no),
        terms: Terms {
            name: Cow::Borrowed(name),
            credits_per_cycle: credits,
            memories_max: memories,
            requests_per_minute: None,
            price: None,
            open: true,
        },
    }
}

impl Plans {
    /// Returns the table of a service whose operator has set none.
    #[must_use]
    pub const fn seed() -> &'static Self {
        &SEED
    }

    /// Makes a table for the life of the process, of plans from the least to the most and of those that went.
    /// Names and numbers are unique, which is the caller's to see to.
    #[must_use]
    pub fn leaked(rows: Vec<Row>, gone: Vec<Row>) -> &'static Self {
        Box::leak(Box::new(Self {
            rows: rows.into(),
            gone: gone.into(),
        }))
    }

    /// Returns the plans, from the least to the most.
    #[must_use]
    pub fn iter(&'static self) -> impl DoubleEndedIterator<Item = Plan> {
        self.rows.iter().enumerate().map(move |(rank, row)| Plan {
            plans: self,
            row,
            rank,
        })
    }

    /// Returns the rows of plans that went, in the order of their numbers.
    #[must_use]
    pub fn gone(&'static self) -> &'static [Row] {
        &self.gone
    }

    /// Returns the plan with this name, written exactly so.
    ///
    /// # Errors
    ///
    /// [`UnknownPlan`] if no plan has it.
    pub fn get(&'static self, name: &str) -> Result<Plan, UnknownPlan> {
        self.iter()
            .find(|plan| plan.name() == name)
            .ok_or_else(|| UnknownPlan(name.to_owned()))
    }

    /// Returns the plan with this number, if there is one.
    #[must_use]
    pub fn by_no(&'static self, no: PlanNo) -> Option<Plan> {
        self.iter().find(|plan| plan.no() == no)
    }

    /// Returns the plan that has, or had, this number. One that went is below all others.
    #[must_use]
    pub fn ever(&'static self, no: PlanNo) -> Option<Plan> {
        let gone = || {
            let row = self.gone.iter().find(|row| row.no == no)?;
            Some(Plan {
                plans: self,
                row,
                rank: 0,
            })
        };
        self.by_no(no).or_else(gone)
    }

    /// Returns the lowest plan: what an account gets if nobody says.
    #[must_use]
    pub fn least(&'static self) -> Plan {
        self.iter().next().unwrap_or(Plan::FREE)
    }

    /// Returns the highest plan.
    #[must_use]
    pub fn most(&'static self) -> Plan {
        self.iter().next_back().unwrap_or(Plan::PREMIUM)
    }

    /// Returns the names in the table's order, for an operator who wrote another.
    #[must_use]
    pub fn names(&'static self) -> String {
        let names: Vec<&str> = self.iter().map(Plan::name).collect();
        names.join(", ")
    }
}

/// What an account has bought: credits for each billing cycle and room for memories. One row of the
/// table of plans, to be passed around.
///
/// Ordered as in the table, from the least to the most. Plans of two tables are not to be compared.
#[derive(Clone, Copy)]
pub struct Plan {
    plans: &'static Plans,
    row: &'static Row,
    rank: usize,
}

impl Plan {
    /// Of the seed: for trying the service out.
    pub const FREE: Self = Self::of_seed(&SEED_ROWS[0], 0);
    /// Of the seed: for one person or a small team.
    pub const PRO: Self = Self::of_seed(&SEED_ROWS[1], 1);
    /// Of the seed: for a product with users of its own.
    pub const PREMIUM: Self = Self::of_seed(&SEED_ROWS[2], 2);

    const fn of_seed(row: &'static Row, rank: usize) -> Self {
        Self {
            plans: &SEED,
            row,
            rank,
        }
    }

    /// Returns the table that it is a row of.
    #[must_use]
    pub const fn plans(self) -> &'static Plans {
        self.plans
    }

    /// Returns what it gives.
    #[must_use]
    pub const fn terms(self) -> &'static Terms {
        &self.row.terms
    }

    /// Returns the plan's number.
    #[must_use]
    pub const fn no(self) -> PlanNo {
        self.row.no
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
    pub fn name(self) -> &'static str {
        &self.terms().name
    }
}

impl PartialEq for Plan {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Plan {}

impl PartialOrd for Plan {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Plan {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.rank, self.no()).cmp(&(other.rank, other.no()))
    }
}

impl Hash for Plan {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.rank, self.no()).hash(state);
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// By its name, as answers show it. A record holds the number instead.
impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl utoipa::PartialSchema for Plan {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, Type};
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(
                "A plan's name, written exactly so; `GET /plans` lists them.",
            ))
            .examples([Plan::FREE.name()])
            .build()
            .into()
    }
}

impl utoipa::ToSchema for Plan {}

/// A name that no plan has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Invalid plan: {0}")]
pub struct UnknownPlan(pub String);

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

/// What each operation costs, in credits. Whatever is no [`Operation`] is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Prices {
    /// `GET /memory`.
    pub list_memories: u64,
    /// `GET /memory/{id}`.
    pub read_memory: u64,
    /// `GET /stats`.
    pub stats: u64,
    /// `GET /gpt-status`.
    pub gpt_status: u64,
    /// `POST /memory`.
    pub add_memory: u64,
    /// `PATCH /memory/{id}`.
    pub update_memory: u64,
}

impl Prices {
    /// The prices of a service whose operator has set none.
    pub const SEED: Self = Self {
        list_memories: 1,
        read_memory: 1,
        stats: 1,
        gpt_status: 1,
        add_memory: 2,
        update_memory: 2,
    };

    /// Returns the price of an operation.
    #[must_use]
    pub const fn of(&self, operation: Operation) -> u64 {
        match operation {
            Operation::ListMemories => self.list_memories,
            Operation::ReadMemory => self.read_memory,
            Operation::Stats => self.stats,
            Operation::GptStatus => self.gpt_status,
            Operation::AddMemory => self.add_memory,
            Operation::UpdateMemory => self.update_memory,
        }
    }
}

impl Prices {
    /// Returns each price under its name.
    #[must_use]
    pub const fn rows(&self) -> [(&'static str, u64); 6] {
        [
            ("list_memories", self.list_memories),
            ("read_memory", self.read_memory),
            ("stats", self.stats),
            ("gpt_status", self.gpt_status),
            ("add_memory", self.add_memory),
            ("update_memory", self.update_memory),
        ]
    }

    /// Returns the price with this name, to be set. `None` if there is none.
    pub fn named(&mut self, name: &str) -> Option<&mut u64> {
        match name {
            "list_memories" => Some(&mut self.list_memories),
            "read_memory" => Some(&mut self.read_memory),
            "stats" => Some(&mut self.stats),
            "gpt_status" => Some(&mut self.gpt_status),
            "add_memory" => Some(&mut self.add_memory),
            "update_memory" => Some(&mut self.update_memory),
            _ => None,
        }
    }
}

impl Default for Prices {
    fn default() -> Self {
        Self::SEED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_what_the_contract_sells() {
        // Shows the seed's table: names, numbers, terms, and the order of the handles.
        let table: Vec<_> = Plans::seed()
            .iter()
            .map(|p| (p.no().0, p.name(), p.credits_per_cycle(), p.memories_max()))
            .collect();
        assert_eq!(
            table,
            [
                (0, "Free", 100, 100),
                (1, "Pro", 10_000, 2_000),
                (2, "Premium", 100_000, 1_000_000)
            ]
        );
        let handles = [Plan::FREE, Plan::PRO, Plan::PREMIUM];
        assert_eq!(Plans::seed().iter().collect::<Vec<_>>(), handles);
        assert!(Plan::FREE < Plan::PRO && Plan::PRO < Plan::PREMIUM);
        for plan in handles {
            assert_eq!(Plans::seed().by_no(plan.no()), Some(plan));
        }
        assert_eq!(Plans::seed().by_no(PlanNo(3)), None);
    }

    #[test]
    fn names_are_exact() {
        assert_eq!(Plans::seed().get("Pro"), Ok(Plan::PRO));
        assert_eq!(Plans::seed().get("pro"), Err(UnknownPlan("pro".to_owned())));
    }
}
