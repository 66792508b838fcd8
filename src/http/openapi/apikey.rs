//! What is told of `/apikey/new`, `/apikey/list` and `/apikey/{key}`.

use http::StatusCode;
use serde_json::json;
use utoipa::openapi::{ObjectBuilder, Type};

use super::super::apikey::{CreatedKeyJson, KeyListJson, RevokedKeyJson};
use super::super::error::Code;
use super::describe::Described;
use super::info::KEYS;
use super::schemas::{fields, limit, page, plan, reason, text};

/// [`super::super::apikey::create`]
pub(in crate::http) fn create() -> Described {
    let (plan, schema) = plan();
    let mut described = Described::new(
        KEYS,
        "createApiKey",
        "Makes a key for the caller's account, shown this once; as the admin for the account named, \
         made if the e-mail is new. A plan caps the key for ever; without one it follows its account. \
         A capped key makes keys up to its own plan.",
    )
    .takes(
        false,
        "NewApiKey",
        fields(
            &[],
            [
                (
                    "email",
                    text("Whose key; one's own account unless as the admin.")
                        .max_length(Some(254))
                        .build()
                        .into(),
                ),
                (
                    "account_id",
                    text("Instead of email, for the same.").build().into(),
                ),
                ("plan", plan),
                (
                    "description",
                    text("What the key is for.")
                        .max_length(Some(256))
                        .build()
                        .into(),
                ),
                ("reason", reason()),
            ],
        ),
        json!({"description": "laptop"}),
    )
    .writes()
    .refuses(&[
        Code::InvalidField,
        Code::InvalidPlan,
        Code::PermissionDenied,
        Code::UserNotFound,
        Code::PlanAboveAccount,
        Code::KeyLimitReached,
    ])
    .answers::<CreatedKeyJson>(
        StatusCode::CREATED,
        "The key. Keep it: it cannot be shown again.",
        json!({
            "message": "API key generated successfully",
            "api_key": "EXAMPLEz3hJ8tN5kV0gW2aS6xD9eQ1fU",
            "key_id": "key_9bTq3MwE7hLp",
            "plan": "Free",
            "description": "laptop",
            "created_at": "2026-02-01T10:00:00.000000+00:00",
            "warning": "Save this API key now. You will not be able to see it again.",
            "account_id": "ada@example.com"
        }),
    );
    described.schemas.push(schema);
    described
}

/// [`super::super::apikey::list`]
pub(in crate::http) fn list() -> Described {
    let status = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(["active", "all"]))
        .default(Some("active".into()))
        .build();
    Described::new(
        KEYS,
        "listApiKeys",
        "Lists the account's keys, masked, oldest first, all in one answer. The admin gets every \
         account's in pages, oldest account first, each with its account_id.",
    )
    .query(
        "status",
        status,
        "active for the active keys only, all for the revoked ones too.",
    )
    .query("page", page(), "The page, from 1; for the admin only.")
    .query(
        "limit",
        limit(),
        "Keys of a page, 100 at most: more is taken as 100; for the admin only.",
    )
    .answers::<KeyListJson>(
        StatusCode::OK,
        "The keys. A user's answer has account_id, the admin's has pagination.",
        json!({
            "account_id": "ada@example.com",
            "total_keys": 1,
            "api_keys": [{
                "api_key": "EXAMPLEq...C6dF",
                "key_id": "key_4fJ8sKq0ZbXy",
                "plan": "Free",
                "description": "Initial account creation",
                "created_at": "2026-01-31T09:15:00.000000+00:00",
                "last_activity": "2026-02-15T16:20:31.512034+00:00",
                "status": "active",
                "is_current": true,
                "credits_remaining": 97,
                "credits_used_this_cycle": 3,
                "memory_count": 1
            }]
        }),
    )
}

/// [`super::super::apikey::revoke`]
pub(in crate::http) fn revoke() -> Described {
    Described::new(
        KEYS,
        "revokeApiKey",
        "Revokes a key for ever. No request that starts after the answer succeeds with it. Its use \
         stays in the account's figures. Revoking it again answers as the first time did. A user \
         cannot revoke the last active key; the admin can.",
    )
    .name_in_path(
        "The key's id, as lists show it; the key itself or its masked form work too. Prefer the id: \
         a key in a path can end up in the logs of what is between you and the server.",
        "key_9bTq3MwE7hLp",
    )
    .query(
        "reason",
        text("1 to 256 characters.").build(),
        "Why, for the audit log; for the admin only.",
    )
    .writes()
    .refuses(&[
        Code::LastActiveKey,
        Code::PermissionDenied,
        Code::KeyNotFound,
        Code::AmbiguousKey,
    ])
    .answers::<RevokedKeyJson>(
        StatusCode::OK,
        "The key is revoked.",
        json!({
            "message": "API key revoked successfully",
            "revoked_key": "EXAMPLEz...Q1fU",
            "key_id": "key_9bTq3MwE7hLp",
            "revoked_at": "2026-02-02T08:30:00.000000+00:00",
            "note": "Key is now inactive but usage history is preserved"
        }),
    )
}
