//! What is told of `/admin/audit`.

use http::StatusCode;
use serde_json::json;

use super::super::audit::AuditJson;
use super::super::error::Code;
use super::describe::Described;
use super::info::ADMIN;
use super::schemas::{limit, text};

/// [`super::super::audit::list`]
pub(in crate::http) fn list() -> Described {
    Described::new(
        ADMIN,
        "readAuditLog",
        "Reads the audit log, newest first: who did what to keys, plans, credits and accounts, who was let in as \
         the admin and who was not, and what was done to the data as a whole. Rows are only ever added, each \
         chained by SHA-256 to the one before. Go on with cursor; it costs the same at any depth.",
    )
    .query(
        "account",
        text("An account id, an e-mail, or a key by id or in full.").build(),
        "Only rows of this account. An account that was erased goes by the id that the server's log has for \
         it (`acct_…`).",
    )
    .query(
        "from",
        text("A time in RFC 3339.").build(),
        "Only rows of this time or later.",
    )
    .query(
        "cursor",
        text("Opaque.").build(),
        "The next_cursor of a page, as it is. It outlives a restart.",
    )
    .query(
        "limit",
        limit(),
        "Rows of a page; more than 100 is taken as 100.",
    )
    .refuses(&[Code::UserNotFound])
    .answers::<AuditJson>(
        StatusCode::OK,
        "A page of the log.",
        json!({
            "rows": [{
                "no": 7,
                "at": "2026-02-15T16:20:31.512034+00:00",
                "account_id": "ada@example.com",
                "actor": "admin",
                "action": "plan.changed",
                "details": {"from": "Free", "to": "Pro"},
                "reason": null,
                "request_id": "01KG8Z4VQ6T2M9XC3R5H7N1BDE",
                "hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
            }],
            "pagination": {"limit": 50, "next_cursor": null},
            "head": {
                "no": 7,
                "hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
            }
        }),
    )
}
