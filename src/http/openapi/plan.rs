//! What is told of `/plans`.

use http::StatusCode;
use serde_json::json;

use super::super::plan::PlansJson;
use super::describe::Described;
use super::info::SYSTEM;

/// [`super::super::plan::list`]
pub(in crate::http) fn list() -> Described {
    Described::new(
        SYSTEM,
        "listPlans",
        "Lists the plans, from the least to the most, and what each operation costs. The operator sets both.",
    )
    .answers::<PlansJson>(
        StatusCode::OK,
        "The plans and the prices.",
        json!({
            "plans": [
                {
                    "name": "Free",
                    "credits": 100,
                    "memories": 100,
                    "requests_per_minute": null,
                    "price": null,
                    "open": true
                },
                {
                    "name": "Team",
                    "credits": 50_000,
                    "memories": 20_000,
                    "requests_per_minute": 600,
                    "price": "$29/month",
                    "open": false
                }
            ],
            "prices": {
                "list_memories": 1,
                "read_memory": 1,
                "stats": 1,
                "gpt_status": 1,
                "add_memory": 2,
                "update_memory": 2
            }
        }),
    )
}
