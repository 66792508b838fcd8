//! `/admin/user/{key}` and what is under it, but for the plan.

use http::{HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{AccountRow, AdjustRequest, Adjusted, App, Moved, Target};
use crate::domain::time::Timestamp;
use crate::domain::usage::ADJUST_MAX;

use super::account::email_field;
use super::admin::AccountJson;
use super::apikey::{KeyJson, revoked_too};
use super::error::{ApiError, Code};
use super::memory::{REPLAYED, idempotency_key};
use super::reply::{Answer, Reply, to_json};
use super::request::Request;

/// Answer of `GET /admin/user/{key}`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AccountWithKeys)]
pub(crate) struct UserWithKeysJson {
    user: AccountJson,
    total_keys: u64,
    /// Oldest first.
    api_keys: Vec<KeyJson>,
}

/// `GET /admin/user/{key}`.
pub(super) async fn user(app: App, request: Request) -> Answer {
    let revoked_too = revoked_too(&request)?;
    let (account, keys) = app.user(&target(&request)?, revoked_too).await?;
    let api_keys = keys.iter().map(|key| KeyJson::of(&account, key, None));
    let api_keys: Vec<_> = api_keys.collect();
    Reply::json(
        StatusCode::OK,
        &UserWithKeysJson {
            total_keys: u64::try_from(api_keys.len()).unwrap_or(u64::MAX),
            api_keys,
            user: account.into(),
        },
    )
}

/// Answer of `POST /admin/user/{key}/credits`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CreditsAdjusted)]
pub(crate) struct AdjustedJson {
    message: &'static str,
    account_id: String,
    /// Credits given; below 0 if they were taken.
    amount: i64,
    reason: String,
    /// Credits left in the running cycle.
    credits_remaining: u64,
    /// Credits granted in the running cycle, by the plan and by admins.
    credits_granted: u64,
    /// When the cycle ends, and with it what is left of these credits.
    #[schema(value_type = String, format = DateTime)]
    reset_date: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    adjusted_at: Timestamp,
}

/// `POST /admin/user/{key}/credits`.
pub(super) async fn adjust(app: App, request: Request) -> Answer {
    let mut fields = request.fields()?;
    let amount = fields.integer("amount")?;
    let reason = fields.reason()?;
    fields.finish()?;
    let amount = amount
        .filter(|amount| (1..=ADJUST_MAX).contains(&amount.unsigned_abs()))
        .ok_or_else(|| {
            let bounds = "It must be a whole number, not 0, of 1000000000000 at most; below 0 takes credits.";
            ApiError::field("amount", bounds)
        })?;
    let target = target(&request)?;
    let key = idempotency_key(&request.headers)?.ok_or_else(missing_idempotency_key)?;
    let cause = request.cause(Some(reason.clone()));
    let respond = |adjusted: &Adjusted<'_>| {
        let balance = adjusted.usage.balance();
        let body = to_json(&AdjustedJson {
            message: if amount < 0 {
                "Credits taken"
            } else {
                "Credits given"
            },
            account_id: adjusted.account_id.clone(),
            amount,
            reason,
            credits_remaining: balance.credits_remaining,
            credits_granted: adjusted.usage.granted,
            reset_date: balance.reset,
            adjusted_at: adjusted.at,
        });
        body.unwrap_or_else(|_| "{}".to_owned())
    };
    let wanted = AdjustRequest {
        target,
        amount,
        idempotency: (key, request.body.to_vec()),
    };
    let recorded = app.adjust_credits(&wanted, cause, respond).await?;
    let status = StatusCode::from_u16(recorded.status).unwrap_or(StatusCode::OK);
    let reply = Reply::json_text(status, recorded.body);
    Ok(if recorded.replayed {
        reply.header(REPLAYED, HeaderValue::from_static("true"))
    } else {
        reply
    })
}

fn missing_idempotency_key() -> ApiError {
    ApiError::new(
        Code::InvalidIdempotencyKey,
        "Invalid idempotency key",
        "This route needs an Idempotency-Key of 1 to 255 visible ASCII characters, so that a request \
         which is sent again gives or takes nothing twice.",
    )
}

/// Answer of `POST /admin/user/{key}/suspend` and `/reactivate`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AccountStanding)]
pub(crate) struct StandingJson {
    message: &'static str,
    account_id: String,
    #[schema(value_type = super::openapi::AccountStatus)]
    status: &'static str,
    /// Since when it is suspended, or is not; the sign-up if it never was.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
}

/// `POST /admin/user/{key}/suspend`.
pub(super) async fn suspend(app: App, request: Request) -> Answer {
    let account = stand(&app, &request, true).await?;
    standing("Account suspended", account)
}

/// `POST /admin/user/{key}/reactivate`.
pub(super) async fn reactivate(app: App, request: Request) -> Answer {
    let account = stand(&app, &request, false).await?;
    standing("Account reactivated", account)
}

async fn stand(app: &App, request: &Request, suspended: bool) -> Result<AccountRow, ApiError> {
    let mut fields = request.fields()?;
    let reason = fields.reason()?;
    fields.finish()?;
    let cause = request.cause(Some(reason));
    Ok(app.suspend(&target(request)?, suspended, cause).await?)
}

fn standing(message: &'static str, account: AccountRow) -> Answer {
    Reply::json(
        StatusCode::OK,
        &StandingJson {
            message,
            status: account.status(),
            since: account.standing_since,
            account_id: account.account_id,
        },
    )
}

/// Answer of `PUT /admin/user/{key}/email`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EmailChanged)]
pub(crate) struct MovedJson {
    message: &'static str,
    /// The e-mail, which is the account id from now on.
    account_id: String,
    previous_account_id: String,
    email: String,
}

/// `PUT /admin/user/{key}/email`.
pub(super) async fn change_email(app: App, request: Request) -> Answer {
    let mut fields = request.fields()?;
    let email = email_field(&mut fields)?;
    let reason = fields.reason()?;
    fields.finish()?;
    let email = email.ok_or_else(|| ApiError::field("email", "Send the new e-mail address."))?;
    let cause = request.cause(Some(reason));
    let Moved {
        previous_account_id,
        account_id,
        changed,
    } = app.change_email(&target(&request)?, &email, cause).await?;
    Reply::json(
        StatusCode::OK,
        &MovedJson {
            message: if changed {
                "Email changed"
            } else {
                "Email unchanged"
            },
            email: account_id.clone(),
            account_id,
            previous_account_id,
        },
    )
}

fn target(request: &Request) -> Result<Target, ApiError> {
    Ok(Target::parse(request.path_param("key")?))
}
