//! `DELETE /account`, `DELETE /admin/user/{key}`: an account is erased.

use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{App, Receipt, Target};
use crate::domain::time::Timestamp;

use super::error::ApiError;
use super::reply::{Answer, Reply};
use super::request::{Fields, Request};

/// Answer of `DELETE /account` and `DELETE /admin/user/{key}`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AccountErased)]
pub(crate) struct ErasedJson {
    message: &'static str,
    deleted: DeletedJson,
    /// The audit log has it with the event `account.erased`.
    receipt_id: String,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
}

/// What went.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeletedCounts)]
pub(crate) struct DeletedJson {
    memories: u64,
    /// API keys, revoked ones too.
    keys: u64,
    /// Answers recorded under an Idempotency-Key.
    recorded_answers: u64,
    /// Rows of the ledger that stay, with amount, operation, cycle and hour, under a random id.
    ledger_rows_kept: u64,
}

/// `DELETE /account`.
pub(super) async fn account(app: App, request: Request) -> Answer {
    let principal = request.principal()?;
    let mut fields = request.fields()?;
    let confirm = confirmation(&mut fields)?;
    fields.finish()?;
    let cause = request.cause(None);
    reply(app.erase_account(principal, &confirm, cause).await?)
}

/// `DELETE /admin/user/{key}`.
pub(super) async fn user(app: App, request: Request) -> Answer {
    let mut fields = request.fields()?;
    let confirm = confirmation(&mut fields)?;
    let reason = fields.reason()?;
    fields.finish()?;
    let target = Target::parse(request.path_param("key")?);
    let cause = request.cause(Some(reason));
    reply(app.erase_user(&target, &confirm, cause).await?)
}

fn confirmation(fields: &mut Fields<'_>) -> Result<String, ApiError> {
    let confirm = fields.string("confirm")?;
    confirm.ok_or_else(|| {
        ApiError::field(
            "confirm",
            "Send the account's id in it; nothing was erased.",
        )
    })
}

fn reply(receipt: Receipt) -> Answer {
    let erased = receipt.erased;
    Reply::json(
        StatusCode::OK,
        &ErasedJson {
            message: "Account erased",
            deleted: DeletedJson {
                memories: erased.memories,
                keys: erased.keys,
                recorded_answers: erased.recorded_answers,
                ledger_rows_kept: erased.ledger_rows_kept,
            },
            receipt_id: receipt.id,
            at: receipt.at,
        },
    )
}
