//! What is told of `DELETE /account` and `DELETE /admin/user/{key}`.

use http::StatusCode;
use serde_json::json;

use super::super::erasure::ErasedJson;
use super::super::error::Code;
use super::describe::Described;
use super::info::{ACCOUNTS, ADMIN};
use super::schemas::{fields, text};

/// [`super::super::erasure::account`]
pub(in crate::http) fn account() -> Described {
    let described = Described::new(
        ACCOUNTS,
        "eraseAccount",
        "Erases the account for good: memories, keys, e-mail, everything derived. The ledger keeps \
         amounts under a random id. From then on its keys answer 401. Backups made before keep what \
         they hold. A key that was rotated cannot do it: 403.",
    )
    .takes(
        true,
        "Erasure",
        fields(&["confirm"], [("confirm", confirm())]),
        json!({"confirm": "ada@example.com"}),
    );
    answered(described)
}

/// [`super::super::erasure::user`]
pub(in crate::http) fn user() -> Described {
    let described = Described::new(
        ADMIN,
        "eraseUser",
        "Erases an account for good, as DELETE /account does. The reason goes into the audit log, \
         which stays: leave names and addresses out of it.",
    )
    .name_in_path(
        "The account: its account id (the e-mail), or one of its keys by id or in full.",
        "ada@example.com",
    )
    .takes(
        true,
        "AdminErasure",
        fields(
            &["confirm", "reason"],
            [
                ("confirm", confirm()),
                (
                    "reason",
                    text("Why; 1 to 256 characters.")
                        .max_length(Some(256))
                        .build()
                        .into(),
                ),
            ],
        ),
        json!({"confirm": "ada@example.com", "reason": "asked for in ticket 4711"}),
    )
    .refuses(&[Code::UserNotFound]);
    answered(described)
}

fn confirm() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
    text("The account id, so that nobody erases by accident.")
        .build()
        .into()
}

fn answered(described: Described) -> Described {
    described
        .writes()
        .refuses(&[Code::InvalidField])
        .answers::<ErasedJson>(
            StatusCode::OK,
            "Nothing of the account is left, and that is on the disk.",
            json!({
                "message": "Account erased",
                "deleted": {
                    "memories": 12, "keys": 2, "recorded_answers": 1, "ledger_rows_kept": 9
                },
                "receipt_id": "rcpt_01M82396EX8WQPW4R9RNM7BFP2",
                "at": "2026-01-31T09:15:00.000000+00:00"
            }),
        )
}
