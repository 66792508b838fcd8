//! What is told of `/apikey/new`, `/apikey/list`, `/apikey/{key}` and `/apikey/{key}/rotate`.

use http::StatusCode;
use serde_json::json;
use utoipa::openapi::{
    ArrayBuilder, KnownFormat, ObjectBuilder, OneOfBuilder, RefOr, Schema, SchemaFormat, Type,
};

use super::super::apikey::{CreatedKeyJson, KeyJson, KeyListJson, RevokedKeyJson};
use super::super::error::Code;
use super::describe::Described;
use super::info::KEYS;
use crate::domain::scope::Scope;

use super::schemas::{fields, limit, page, plan, reason, text};

/// How a key is named in a path.
const NAME: &str = "The key's id, as lists show it; the key itself or its masked form work too. Prefer the id: \
                    a key in a path can end up in the logs of what is between you and the server.";

/// [`super::super::apikey::create`]
pub(in crate::http) fn create() -> Described {
    let (plan, schema) = plan();
    let mut described = Described::new(
        KEYS,
        "createApiKey",
        "Makes a key for the caller's account, shown this once; as the admin for the account named, \
         made if the e-mail is new. Scopes, plan, credits and end are the caller's own unless less is asked \
         for; more is refused.",
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
                ("scopes", scopes()),
                ("expires_at", expires_at()),
                ("credits_per_cycle", credits()),
                ("reason", reason()),
            ],
        ),
        json!({"description": "laptop", "scopes": ["memory:read"]}),
    )
    .writes()
    .refuses(&[
        Code::InvalidField,
        Code::InvalidPlan,
        Code::PermissionDenied,
        Code::InsufficientScope,
        Code::UserNotFound,
        Code::PlanAboveAccount,
        Code::CreditsAboveOwn,
        Code::ExpiryAboveOwn,
        Code::LastManagingKey,
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
            "scopes": ["memory:read"],
            "credits_per_cycle": null,
            "expires_at": null,
            "created_at": "2026-02-01T10:00:00.000000+00:00",
            "warning": "Save this API key now. You will not be able to see it again.",
            "account_id": "ada@example.com"
        }),
    );
    described.schemas.push(schema);
    described
}

fn scopes() -> RefOr<Schema> {
    let name = text("A scope.").enum_values(Some(Scope::ALL.map(Scope::name)));
    ArrayBuilder::new()
        .items(name.build())
        .min_items(Some(1))
        .max_items(Some(Scope::ALL.len()))
        .unique_items(true)
        .description(Some("What the key may do."))
        .build()
        .into()
}

fn or_null(schema: impl Into<RefOr<Schema>>, description: &str) -> RefOr<Schema> {
    let null = ObjectBuilder::new().schema_type(Type::Null).build();
    let either = OneOfBuilder::new().item(schema).item(null);
    RefOr::T(Schema::OneOf(either.description(Some(description)).build()))
}

fn expires_at() -> RefOr<Schema> {
    let time = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
        .build();
    or_null(
        time,
        "From when on the key is refused: in the future, before the year 10000. As null: of a new key, when \
         the caller's ends; in a change, never.",
    )
}

fn credits() -> RefOr<Schema> {
    let whole = ObjectBuilder::new().schema_type(Type::Integer);
    or_null(
        whole.minimum(Some(0)).build(),
        "Most credits that the key, with those it is rotated into, spends in a cycle. As null: of a new key, \
         as the caller's; in a change, those of its plan.",
    )
}

/// [`super::super::apikey::change`]
pub(in crate::http) fn change() -> Described {
    Described::new(
        KEYS,
        "changeApiKey",
        "Changes description, scopes, end or credits of a key. What is left out stays. Nobody can give a key \
         more than the key that asks has, and the account keeps one that manages keys and does not end.",
    )
    .name_in_path(NAME, "key_9bTq3MwE7hLp")
    .takes(
        true,
        "ApiKeyChange",
        fields(
            &[],
            [
                (
                    "description",
                    text("What the key is for.")
                        .max_length(Some(256))
                        .build()
                        .into(),
                ),
                ("scopes", scopes()),
                ("expires_at", expires_at()),
                ("credits_per_cycle", credits()),
            ],
        ),
        json!({"credits_per_cycle": 50}),
    )
    .writes()
    .refuses(&[
        Code::InvalidField,
        Code::PermissionDenied,
        Code::InsufficientScope,
        Code::KeyNotFound,
        Code::AmbiguousKey,
        Code::KeyRotated,
        Code::KeyNotActive,
        Code::PlanAboveAccount,
        Code::CreditsAboveOwn,
        Code::ExpiryAboveOwn,
        Code::LastManagingKey,
    ])
    .answers::<KeyJson>(
        StatusCode::OK,
        "The key as it is now; as the admin with its account_id.",
        json!({
            "api_key": "EXAMPLEz...Q1fU",
            "key_id": "key_9bTq3MwE7hLp",
            "plan": "Free",
            "plan_cap": null,
            "description": "laptop",
            "scopes": ["memory:read"],
            "credits_per_cycle": 50,
            "created_at": "2026-02-01T10:00:00.000000+00:00",
            "expires_at": null,
            "last_activity": null,
            "status": "active",
            "rotated_to": null,
            "ended_at": null,
            "is_current": false,
            "credits_remaining": 50,
            "credits_used_this_cycle": 0,
            "memory_count": 0
        }),
    )
}

/// [`super::super::apikey::rotate`]
pub(in crate::http) fn rotate() -> Described {
    let grace = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(0))
        .maximum(Some(604_800))
        .default(Some(86_400.into()))
        .description(Some("For how long the old key still works; 0 revokes it."))
        .build();
    Described::new(
        KEYS,
        "rotateApiKey",
        "Gives a key a successor, shown this once, with its description, scopes, caps, end and counters. The \
         old one works for grace_seconds more, or until its own end, but manages keys no more and is not \
         rotated again. For a key that leaked: grace_seconds 0.",
    )
    .name_in_path(NAME, "key_4fJ8sKq0ZbXy")
    .takes(
        false,
        "Rotation",
        fields(&[], [("grace_seconds", grace.into())]),
        json!({"grace_seconds": 3600}),
    )
    .writes()
    .refuses(&[
        Code::InvalidField,
        Code::PermissionDenied,
        Code::InsufficientScope,
        Code::KeyNotFound,
        Code::AmbiguousKey,
        Code::KeyRotated,
        Code::KeyNotActive,
        Code::PlanAboveAccount,
        Code::CreditsAboveOwn,
        Code::ExpiryAboveOwn,
        Code::KeyLimitReached,
    ])
    .answers::<CreatedKeyJson>(
        StatusCode::CREATED,
        "The successor. Keep it: it cannot be shown again.",
        json!({
            "message": "API key rotated successfully",
            "api_key": "EXAMPLEw5rB7cJ2nH4yL8uM1oT3iP6kA",
            "key_id": "key_7nRk2VdX5cWm",
            "plan": "Free",
            "description": "Initial account creation",
            "scopes": ["memory:read", "memory:write", "keys", "account"],
            "credits_per_cycle": null,
            "expires_at": null,
            "created_at": "2026-02-02T08:30:00.000000+00:00",
            "warning": "Save this API key now. You will not be able to see it again.",
            "account_id": "ada@example.com",
            "rotated": {
                "key_id": "key_4fJ8sKq0ZbXy",
                "api_key": "EXAMPLEq...C6dF",
                "works_until": "2026-02-02T09:30:00.000000+00:00"
            }
        }),
    )
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
        "active for the active keys only, all for those that were revoked or have expired too.",
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
                "plan_cap": null,
                "description": "Initial account creation",
                "scopes": ["memory:read", "memory:write", "keys", "account"],
                "credits_per_cycle": null,
                "created_at": "2026-01-31T09:15:00.000000+00:00",
                "expires_at": null,
                "last_activity": "2026-02-15T16:20:31.512034+00:00",
                "status": "active",
                "rotated_to": null,
                "ended_at": null,
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
         stays in the account's figures. Revoking it again answers as the first time did. A user cannot \
         revoke the last active key that manages keys and does not end; the admin can.",
    )
    .name_in_path(NAME, "key_9bTq3MwE7hLp")
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
