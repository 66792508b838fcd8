//! What is told of `/admin/users`, `/admin/user/{key}/plan`, `/admin/sync-memory-counts`,
//! `/admin/check`, `/admin/backup` and `/admin/webhooks`.

use http::StatusCode;
use serde_json::json;

use super::super::admin::{
    BackupJson, CheckJson, PlanChangedJson, SyncJson, UsersJson, WebhooksJson,
};
use super::super::error::Code;
use super::describe::Described;
use super::info::ADMIN;
use super::schemas::{fields, limit, page, plan, reason, text};

/// [`super::super::admin::users`]
pub(in crate::http) fn users() -> Described {
    Described::new(
        ADMIN,
        "listAccounts",
        "Lists accounts in pages, oldest first, each with its plan, its figures and its active keys, \
         masked. The totals count what q matches.",
    )
    .query("page", page(), "The page, from 1.")
    .query(
        "limit",
        limit(),
        "Accounts of a page; more than 100 is taken as 100.",
    )
    .query(
        "q",
        text("Any text.").build(),
        "Part of the account id or e-mail, in any case.",
    )
    .query(
        "email_prefix",
        text("Any text.").build(),
        "The beginning of the e-mail, in any case; the accounts then come by e-mail. Costs as much as what \
         matches, whatever else there is.",
    )
    .answers::<UsersJson>(
        StatusCode::OK,
        "A page of accounts.",
        json!({
            "total_users": 1,
            "active_users": 1,
            "pagination": {"page": 1, "limit": 50, "total": 1, "pages": 1},
            "users": [{
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
            }]
        }),
    )
}

/// [`super::super::admin::change_plan`]
pub(in crate::http) fn change_plan() -> Described {
    let (plan, schema) = plan();
    let mut described = Described::new(
        ADMIN,
        "changePlan",
        "Changes an account's plan. An upgrade grants the new plan's credits in full at once; a \
         downgrade leaves the lesser of what remained and the new plan's; the same plan changes \
         nothing. Memories and the cycle stay.",
    )
    .name_in_path(
        "The account: its account id (the e-mail), or one of its keys by id or in full.",
        "ada@example.com",
    )
    .takes(
        true,
        "PlanChange",
        fields(&["plan"], [("plan", plan), ("reason", reason())]),
        json!({"plan": "Pro"}),
    )
    .writes()
    .refuses(&[Code::InvalidPlan, Code::UserNotFound])
    .answers::<PlanChangedJson>(
        StatusCode::OK,
        "The account has the plan.",
        json!({
            "message": "Plan updated to Pro",
            "account_id": "ada@example.com",
            "plan": "Pro",
            "previous_plan": "Free",
            "credits_remaining": 10_000,
            "memory_limit": 2_000,
            "reset_date": "2026-02-28T09:15:00.000000+00:00"
        }),
    );
    described.schemas.push(schema);
    described
}

/// [`super::super::admin::sync`]
pub(in crate::http) fn sync() -> Described {
    Described::new(
        ADMIN,
        "syncMemoryCounts",
        "Counts every account's memories and corrects the counters that are wrong, exactly, even while \
         writes go on. Takes no fields.",
    )
    .takes(false, "SyncMemoryCounts", fields(&[], []), json!({}))
    .writes()
    .refuses(&[Code::InvalidField])
    .answers::<SyncJson>(
        StatusCode::OK,
        "The counters are right.",
        json!({
            "message": "Synced memory counts for 1 users",
            "total_users": 1,
            "corrected": [{"account_id": "ada@example.com", "was": 2, "is": 1}]
        }),
    )
}

/// [`super::super::admin::check`]
pub(in crate::http) fn check() -> Described {
    Described::new(
        ADMIN,
        "checkEverything",
        "Recounts everything and compares all that must agree, while writes go on; changes nothing. Holds up \
         one account at a time, about a second for each million memories of it. The answer comes when all \
         is read.",
    )
    .refuses(&[Code::CheckInProgress, Code::StorageUnavailable])
    .answers::<CheckJson>(
        StatusCode::OK,
        "What was found; `sound` says whether all is well.",
        json!({
            "success": true,
            "sound": false,
            "accounts": 1,
            "accounts_without_key": 0,
            "keys": 2,
            "memories": 1,
            "problems_total": 1,
            "problems": [{
                "tree": "usage",
                "key": "acct_01KG8Z4VQ6T2M9XC3R5H7N1BDE",
                "what": "it counts 2 memories, 1 are there"
            }],
            "seconds": 0.012
        }),
    )
}

/// [`super::super::admin::back_up`]
pub(in crate::http) fn back_up() -> Described {
    Described::new(
        ADMIN,
        "makeBackup",
        "Writes all data to a new file on the server, beside whatever else goes on; each account is in it as \
         it was at one moment. The answer comes when the file is on the disk. Takes no fields.",
    )
    .takes(false, "MakeBackup", fields(&[], []), json!({}))
    .writes()
    .refuses(&[Code::InvalidField, Code::BackupInProgress])
    .answers::<BackupJson>(
        StatusCode::CREATED,
        "The backup is on the disk.",
        json!({
            "message": "Backup written",
            "file": "memoryos-20260215T162031Z.backup",
            "bytes": 1_234,
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "accounts": 1,
            "keys": 2,
            "memories": 1,
            "created_at": "2026-02-15T16:20:31.512034+00:00",
            "seconds": 0.012
        }),
    )
}

/// [`super::super::admin::webhooks`]
pub(in crate::http) fn webhooks() -> Described {
    Described::new(
        ADMIN,
        "listWebhooks",
        "Says of each receiver of webhooks, which the operator sets with --webhook, what waits for it, what it \
         has taken since the server's start, and why the last attempt failed.",
    )
    .answers::<WebhooksJson>(
        StatusCode::OK,
        "The receivers, in the order of the configuration; none if no webhook is set.",
        json!({
            "webhooks": [{
                "url": "https://hooks.example.com/memoryos",
                "pending": 1,
                "next_attempt": "2026-02-15T16:20:41.512034+00:00",
                "delivered": 7,
                "given_up": 0,
                "dropped": 0,
                "last_error": {
                    "message": "it answered 503",
                    "at": "2026-02-15T16:20:31.512034+00:00"
                },
                "last_success": "2026-02-15T16:18:02.004711+00:00"
            }]
        }),
    )
}
