//! What is told of `/admin/user/{key}` and what is under it, but for the plan.

use http::StatusCode;
use serde_json::json;
use utoipa::openapi::{ObjectBuilder, RefOr, Required, Schema, Type};

use super::super::admin_user::{AdjustedJson, MovedJson, StandingJson, UserWithKeysJson};
use super::super::error::Code;
use super::describe::Described;
use super::info::ADMIN;
use super::schemas::{fields, reason, text};
use crate::domain::usage::ADJUST_MAX;

const TARGET: &str =
    "The account: its account id (the e-mail), or one of its keys by id or in full.";
const EXAMPLE: &str = "ada@example.com";

/// [`super::super::admin_user::user`]
pub(in crate::http) fn user() -> Described {
    let status = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(["active", "all"]))
        .default(Some("active".into()))
        .build();
    Described::new(
        ADMIN,
        "showAccount",
        "Shows one account as the list of accounts does, and its keys, masked, oldest first, all in one \
         answer.",
    )
    .name_in_path(TARGET, EXAMPLE)
    .query(
        "status",
        status,
        "active for the active keys only, all for the revoked ones too.",
    )
    .refuses(&[Code::UserNotFound])
    .answers::<UserWithKeysJson>(
        StatusCode::OK,
        "The account and its keys.",
        json!({
            "user": {
                "account_id": "ada@example.com",
                "email": "ada@example.com",
                "plan": "Free",
                "credits_remaining": 97,
                "credits_used_this_cycle": 3,
                "total_credits_used": 3,
                "memory_count": 1,
                "memory_limit": 100,
                "reset_date": "2026-02-28T09:15:00.000000+00:00",
                "created_at": "2026-01-31T09:15:00.000000+00:00",
                "last_activity": "2026-02-15T16:20:31.512034+00:00",
                "status": "active",
                "api_keys": ["EXAMPLEq...C6dF"]
            },
            "total_keys": 1,
            "api_keys": [{
                "api_key": "EXAMPLEq...C6dF",
                "key_id": "key_4fJ8sKq0ZbXy",
                "plan": "Free",
                "plan_cap": null,
                "description": "Initial account creation",
                "scopes": ["memory:read", "memory:write", "keys", "account"],
                "credits_per_cycle": null,
                "expires_at": null,
                "rotated_to": null,
                "ended_at": null,
                "created_at": "2026-01-31T09:15:00.000000+00:00",
                "last_activity": "2026-02-15T16:20:31.512034+00:00",
                "status": "active",
                "is_current": false,
                "credits_remaining": 97,
                "credits_used_this_cycle": 3,
                "memory_count": 1
            }]
        }),
    )
}

/// [`super::super::admin_user::adjust`]
pub(in crate::http) fn adjust() -> Described {
    let most = i64::try_from(ADJUST_MAX).unwrap_or(i64::MAX);
    let amount = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(most.saturating_neg()))
        .maximum(Some(most))
        .description(Some("Credits to give; below 0 to take. Not 0."))
        .build();
    Described::new(
        ADMIN,
        "adjustCredits",
        "Gives credits of the running cycle, or takes some that are left; at the cycle's end they go as all \
         credits do. Needs an Idempotency-Key header: the same request sent again gets the recorded answer \
         and gives nothing twice.",
    )
    .name_in_path(TARGET, EXAMPLE)
    .takes(
        true,
        "CreditsAdjustment",
        fields(
            &["amount", "reason"],
            [("amount", amount.into()), ("reason", reason())],
        ),
        json!({"amount": 500, "reason": "Outage of 14 February"}),
    )
    .writes()
    .refuses(&[
        Code::UserNotFound,
        Code::InsufficientCredits,
    ])
    .idempotent(Required::True)
    .answers::<AdjustedJson>(
        StatusCode::OK,
        "The credits are given, or taken.",
        json!({
            "message": "Credits given",
            "account_id": "ada@example.com",
            "amount": 500,
            "reason": "Outage of 14 February",
            "credits_remaining": 597,
            "credits_granted": 600,
            "reset_date": "2026-02-28T09:15:00.000000+00:00",
            "adjusted_at": "2026-02-15T16:20:31.512034+00:00"
        }),
    )
    .replays()
}

/// [`super::super::admin_user::suspend`]
pub(in crate::http) fn suspend() -> Described {
    let description = "Suspends an account: from the answer on each of its keys is refused with 403 \
         account_suspended. Nothing is lost; cycles go on, and its e-mail stays taken. Suspending it again \
         changes nothing.";
    let example = ("Account suspended", "suspended");
    standing("suspendAccount", description, "Suspension", example)
}

/// [`super::super::admin_user::reactivate`]
pub(in crate::http) fn reactivate() -> Described {
    let description = "Ends a suspension: the account's keys work again, with everything as it was. An \
         account that is not suspended stays as it is.";
    let example = ("Account reactivated", "active");
    standing("reactivateAccount", description, "Reactivation", example)
}

fn standing(
    id: &'static str,
    description: &'static str,
    body: &'static str,
    (message, status): (&str, &str),
) -> Described {
    Described::new(ADMIN, id, description)
        .name_in_path(TARGET, EXAMPLE)
        .takes(
            true,
            body,
            fields(&["reason"], [("reason", reason())]),
            json!({"reason": "Invoice 17 is two months overdue"}),
        )
        .writes()
        .refuses(&[Code::UserNotFound])
        .answers::<StandingJson>(
            StatusCode::OK,
            "The account as it is now.",
            json!({
                "message": message,
                "account_id": "ada@example.com",
                "status": status,
                "since": "2026-02-15T16:20:31.512034+00:00"
            }),
        )
}

/// [`super::super::admin_user::change_email`]
pub(in crate::http) fn change_email() -> Described {
    let email: RefOr<Schema> = text("The new e-mail address.")
        .max_length(Some(254))
        .build()
        .into();
    Described::new(
        ADMIN,
        "changeEmail",
        "Moves an account to another e-mail address, which is its account id from then on. Keys, memories and \
         credits stay. The old address, or acct_ id, names it no more; the address can sign up afresh.",
    )
    .name_in_path(TARGET, EXAMPLE)
    .takes(
        true,
        "EmailChange",
        fields(&["email", "reason"], [("email", email), ("reason", reason())]),
        json!({"email": "ada@example.org", "reason": "She asked, ticket 4711"}),
    )
    .writes()
    .refuses(&[Code::UserNotFound, Code::UserExists])
    .answers::<MovedJson>(
        StatusCode::OK,
        "The account has the address.",
        json!({
            "message": "Email changed",
            "account_id": "ada@example.org",
            "previous_account_id": "ada@example.com",
            "email": "ada@example.org"
        }),
    )
}
