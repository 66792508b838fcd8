//! What is told of `/signup`, `/login`, `/whoami` and `/credits`.

use http::StatusCode;
use serde_json::json;

use super::super::account::{CreditsJson, LoginJson, SignUpJson, WhoAmIJson};
use super::super::error::Code;
use super::describe::Described;
use super::info::ACCOUNTS;
use super::schemas::{fields, plan, text};

/// [`super::super::account::sign_up`]
pub(in crate::http) fn sign_up() -> Described {
    let (plan, schema) = plan();
    let mut described = Described::new(
        ACCOUNTS,
        "signUp",
        "Makes an account with its first API key, which is shown this once. Both fields are optional; \
         without a plan it is the lowest. The e-mail names the account: it is trimmed and lower-cased, and \
         has one account at most.",
    )
    .takes(
        false,
        "SignUp",
        fields(
            &[],
            [
                (
                    "email",
                    text("At most 254 bytes; names the account.")
                        .max_length(Some(254))
                        .build()
                        .into(),
                ),
                ("plan", plan),
            ],
        ),
        json!({"email": "ada@example.com", "plan": "Free"}),
    )
    .writes()
    .refuses(&[
        Code::InvalidField,
        Code::InvalidPlan,
        Code::SignupClosed,
        Code::PlanNotOpen,
        Code::UserExists,
        Code::RateLimited,
    ])
    .answers::<SignUpJson>(
        StatusCode::CREATED,
        "The account and its key. Keep the key: it cannot be shown again.",
        json!({
            "message": "Account created successfully",
            "api_key": "EXAMPLEq7mX2vK9pL4sT8wB1nR5yC6dF",
            "account_id": "ada@example.com",
            "key_id": "key_4fJ8sKq0ZbXy",
            "user": {
                "plan": "Free",
                "credits_remaining": 100,
                "memory_limit": 100,
                "reset_date": "2026-02-28T09:15:00.000000+00:00",
                "created_at": "2026-01-31T09:15:00.000000+00:00"
            },
            "warning": "Save your API key securely. You will not be able to see it again."
        }),
    );
    described.schemas.push(schema);
    described
}

/// [`super::super::account::login`]
pub(in crate::http) fn login() -> Described {
    Described::new(
        ACCOUNTS,
        "login",
        "Says whose a key is. The key comes in a header, or in the body as api_key; if in both, they \
         must be the same. It starts no session: send the key with every request.",
    )
    .takes(
        false,
        "Login",
        fields(&[], [("api_key", text("The API key.").build().into())]),
        json!({"api_key": "EXAMPLEq7mX2vK9pL4sT8wB1nR5yC6dF"}),
    )
    .harmless()
    .refuses(&[Code::InvalidField])
    .answers::<LoginJson>(
        StatusCode::OK,
        "The account and the key.",
        json!({
            "message": "Login successful",
            "account_id": "ada@example.com",
            "plan": "Free",
            "key": {
                "api_key": "EXAMPLEq...C6dF",
                "key_id": "key_4fJ8sKq0ZbXy",
                "plan": "Free",
                "plan_cap": null,
                "description": "Initial account creation",
                "scopes": ["memory:read", "memory:write", "keys", "account"],
                "credits_per_cycle": null,
                "created_at": "2026-01-31T09:15:00.000000+00:00",
                "expires_at": null,
                "last_activity": null,
                "status": "active",
                "rotated_to": null,
                "ended_at": null,
                "is_current": true,
                "credits_remaining": 100,
                "credits_used_this_cycle": 0,
                "memory_count": 0
            }
        }),
    )
}

/// [`super::super::account::whoami`]
pub(in crate::http) fn whoami() -> Described {
    Described::new(
        ACCOUNTS,
        "whoAmI",
        "Tells a key, for free and whatever its scopes, whose it is, what it may do and spend, when it ends, and \
         which key it was rotated into.",
    )
    .answers::<WhoAmIJson>(
        StatusCode::OK,
        "The account and the key.",
        json!({
            "account_id": "ada@example.com",
            "plan": "Free",
            "key": {
                "api_key": "EXAMPLEq...C6dF",
                "key_id": "key_4fJ8sKq0ZbXy",
                "plan": "Free",
                "plan_cap": null,
                "description": "Initial account creation",
                "scopes": ["memory:read", "memory:write", "keys", "account"],
                "credits_per_cycle": null,
                "created_at": "2026-01-31T09:15:00.000000+00:00",
                "expires_at": null,
                "last_activity": null,
                "status": "active",
                "rotated_to": null,
                "ended_at": null,
                "is_current": true,
                "credits_remaining": 100,
                "credits_used_this_cycle": 0,
                "memory_count": 0
            }
        }),
    )
}

/// [`super::super::account::credits`]
pub(in crate::http) fn credits() -> Described {
    Described::new(
        ACCOUNTS,
        "getCredits",
        "Tells, for free, the credits and the room for memories that are left, when the billing cycle \
         ends, and warns when either runs low. For a capped key the numbers are the key's.",
    )
    .answers::<CreditsJson<'_>>(
        StatusCode::OK,
        "What is left.",
        json!({
            "account_id": "ada@example.com",
            "api_key": "EXAMPLEq...C6dF",
            "key_id": "key_4fJ8sKq0ZbXy",
            "plan": "Free",
            "credits_remaining": 20,
            "credits_limit": 100,
            "percent_remaining": 20.0,
            "days_until_reset": 12,
            "reset_date": "2026-02-28T09:15:00.000000+00:00",
            "warnings": ["Low credits - less than 25% remaining"],
            "credits_used_this_cycle": 80,
            "total_credits_used": 80,
            "last_activity": "2026-02-15T16:20:31.512034+00:00",
            "status": "active",
            "memory_usage": {
                "current_count": 40, "limit": 100, "percent_used": 40.0, "remaining": 60
            }
        }),
    )
}
