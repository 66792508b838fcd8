//! `/plans`.

use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::domain::plan::{Plan, Prices};

use super::reply::{Answer, Reply};
use super::request::Request;

/// Answer of `GET /plans`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Plans)]
pub(crate) struct PlansJson {
    /// From the least to the most.
    plans: Vec<PlanJson>,
    /// What each operation costs, in credits; what is not here is free.
    prices: Prices,
}

/// What a plan gives.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PlanTerms)]
pub(crate) struct PlanJson {
    name: &'static str,
    /// Credits of a billing cycle.
    credits: u64,
    /// How many memories an account may hold.
    memories: u64,
    /// Requests a minute to routes that are free; null for the server's own limit.
    #[schema(required = true)]
    requests_per_minute: Option<u32>,
    /// What it costs, in the operator's words; null if they said nothing.
    #[schema(required = true)]
    price: Option<&'static str>,
    /// Whether anybody can sign up for it.
    open: bool,
}

/// `GET /plans`.
pub(super) async fn list(app: App, _: Request) -> Answer {
    let open = &app.settings().signup_plans;
    let row = |plan: Plan| {
        let terms = plan.terms();
        PlanJson {
            name: plan.name(),
            credits: terms.credits_per_cycle,
            memories: terms.memories_max,
            requests_per_minute: terms.requests_per_minute,
            price: terms.price.as_deref(),
            open: open.contains(&plan),
        }
    };
    Reply::json(
        StatusCode::OK,
        &PlansJson {
            plans: app.plans().iter().map(row).collect(),
            prices: app.settings().prices,
        },
    )
}
