//! What is told of histories and statements of credits.

use http::StatusCode;
use serde_json::json;

use super::super::error::Code;
use super::super::ledger::{HistoryJson, StatementJson};
use super::describe::Described;
use super::info::{ACCOUNTS, ADMIN};
use super::schemas::text;

/// [`super::super::ledger::history`]
pub(in crate::http) fn history() -> Described {
    of_history(
        ACCOUNTS,
        "getCreditsHistory",
        "Adds up, for free, what credits came and went, by day, key or operation; as CSV with Accept: text/csv \
         or format=csv. The numbers are the account's, also for a capped key. Debits are kept by the hour.",
    )
}

/// [`super::super::ledger::admin_history`]
pub(in crate::http) fn admin_history() -> Described {
    of_history(
        ADMIN,
        "getAccountHistory",
        "Adds up what credits of an account came and went, by day, key or operation; as CSV with \
         Accept: text/csv or format=csv.",
    )
    .name_in_path(ACCOUNT, "ada@example.com")
    .refuses(&[Code::UserNotFound])
}

/// [`super::super::ledger::statement`]
pub(in crate::http) fn statement() -> Described {
    of_statement(
        ACCOUNTS,
        "getCreditsStatement",
        "The statement, for free, of a billing cycle: opening + granted + bonus + adjusted + plan_changes - \
         spent + refunded = closing. The numbers are the account's, also for a capped key. Credits do not carry \
         over: lapsed is what was left at the end.",
    )
}

/// [`super::super::ledger::admin_statement`]
pub(in crate::http) fn admin_statement() -> Described {
    of_statement(
        ADMIN,
        "getAccountStatement",
        "The statement of a billing cycle of an account, as its owner sees it.",
    )
    .name_in_path(ACCOUNT, "ada@example.com")
    .refuses(&[Code::UserNotFound])
}

const ACCOUNT: &str =
    "The account: its account id (the e-mail), or one of its keys by id or in full.";

fn of_history(tag: &'static str, id: &'static str, description: &'static str) -> Described {
    let moved = |spent: i64, count: u64| json!({"granted": 0, "spent": spent, "refunded": 0, "adjusted": 0, "count": count});
    let mut day = moved(80, 41);
    if let Some(day) = day.as_object_mut() {
        day.insert("day".to_owned(), "2026-02-15".into());
    }
    Described::new(tag, id, description)
        .query(
            "from",
            text("A date or a time.").build(),
            "The first instant: a date (UTC) or RFC 3339. Without it the start of the current billing cycle.",
        )
        .query(
            "to",
            text("A date or a time.").build(),
            "The first instant after it, at most 400 days later. Without it the end of the current billing cycle.",
        )
        .query("by", text("day, key or operation.").build(), "What makes a group; day if it is left out.")
        .query("format", text("json or csv.").build(), "Instead of the Accept header.")
        .answers::<HistoryJson>(
            StatusCode::OK,
            "The sums.",
            json!({
                "account_id": "ada@example.com",
                "by": "day",
                "from": "2026-01-31T09:15:00.000000+00:00",
                "to": "2026-02-28T09:15:00.000000+00:00",
                "total": moved(80, 41),
                "groups": [day]
            }),
        )
}

fn of_statement(tag: &'static str, id: &'static str, description: &'static str) -> Described {
    Described::new(tag, id, description)
        .query(
            "cycle",
            text("A whole number.").build(),
            "The billing cycle, counted from 0; the current one if it is left out.",
        )
        .answers::<StatementJson>(
            StatusCode::OK,
            "The statement.",
            json!({
                "account_id": "ada@example.com",
                "cycle": 0,
                "start": "2026-01-31T09:15:00.000000+00:00",
                "end": "2026-02-28T09:15:00.000000+00:00",
                "is_current": true,
                "opening": 0,
                "granted": 100,
                "bonus": 0,
                "adjusted": 0,
                "plan_changes": 0,
                "spent": 82,
                "refunded": 2,
                "closing": 20,
                "lapsed": 0
            }),
        )
}
