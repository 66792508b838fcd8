//! `/signup`, `/login`, `/whoami`, `/credits`.

use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{App, Caller, Credits, Failure, SignUp, SignedUp};
use crate::domain::account::Email;
use crate::domain::key::Secret;
use crate::domain::plan::Plan;
use crate::domain::time::Timestamp;

use super::apikey::KeyJson;
use super::error::{ApiError, Code};
use super::json::{Json, object};
use super::limits::authenticate_body;
use super::reply::{Answer, Reply, low_credits, percent};
use super::request::{Fields, Request};

/// The sentence beside every secret that is shown.
const SHOWN_ONCE: &str = "Save your API key securely. You will not be able to see it again.";

/// Answer of `POST /signup`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SignedUp)]
pub(crate) struct SignUpJson {
    message: &'static str,
    /// The account's first key; shown this once.
    #[schema(min_length = 32, max_length = 32)]
    api_key: String,
    account_id: String,
    key_id: String,
    user: UserJson,
    warning: &'static str,
}

/// The new account.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NewUser)]
pub(crate) struct UserJson {
    plan: Plan,
    credits_remaining: u64,
    memory_limit: u64,
    #[schema(value_type = String, format = DateTime)]
    reset_date: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

/// Takes an e-mail out of a body.
pub(super) fn email_field(fields: &mut Fields<'_>) -> Result<Option<Email>, ApiError> {
    let text = fields.string("email")?;
    text.map(|text| Email::parse(&text))
        .transpose()
        .map_err(|error| ApiError::field("email", error.to_string()))
}

/// `POST /signup`.
pub(super) async fn sign_up(app: App, request: Request) -> Answer {
    let mut fields = request.optional_fields()?;
    if fields.string("api_key")?.is_some() {
        return Err(ApiError::field(
            "api_key",
            "The server makes the key; leave api_key out.",
        ));
    }
    let plan = fields
        .plan("plan", app.plans())?
        .unwrap_or_else(|| app.plans().least());
    let email = email_field(&mut fields)?;
    fields.finish()?;
    let SignedUp { account, secret } = app
        .sign_up(SignUp { email, plan }, request.cause(None))
        .await?;
    let key = account
        .keys
        .first()
        .map(|key| key.id.to_string())
        .unwrap_or_default();
    let balance = account.usage.balance();
    Reply::json(
        StatusCode::CREATED,
        &SignUpJson {
            message: "Account created successfully",
            api_key: secret.reveal().to_owned(),
            account_id: account.account_id,
            key_id: key,
            user: UserJson {
                plan: balance.plan,
                credits_remaining: balance.credits_remaining,
                memory_limit: balance.memory_limit,
                reset_date: balance.reset,
                created_at: account.created_at,
            },
            warning: SHOWN_ONCE,
        },
    )
}

/// Answer of `POST /login`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LoggedIn)]
pub(crate) struct LoginJson {
    message: &'static str,
    account_id: String,
    plan: Plan,
    key: KeyJson,
}

/// `POST /login`.
pub(super) async fn login(app: App, request: Request) -> Answer {
    let mut fields = request.optional_fields()?;
    let in_body = fields
        .string("api_key")?
        .filter(|key| !key.is_empty())
        .map(Secret::new);
    fields.finish()?;
    let in_header = super::auth::api_key(&request.headers)?;
    let principal = match (&request.caller, in_body) {
        (Caller::Key(principal), None) => principal.clone(),
        (Caller::Key(principal), Some(key)) => {
            if !in_header.is_some_and(|header| header.same_as(&key)) {
                return Err(ApiError::new(
                    Code::AmbiguousCredentials,
                    "Ambiguous credentials",
                    "The header and the body carry different keys. Send one of them.",
                ));
            }
            principal.clone()
        }
        (Caller::Nobody | Caller::Admin, Some(key)) => {
            authenticate_body(&app, &key, request.peer, &request.headers)?
        }
        (Caller::Nobody | Caller::Admin, None) => return Err(Failure::MissingCredentials.into()),
    };
    let (account, key) = app.who_is(&principal)?;
    // A capped key is told what it has itself.
    let plan = account.usage.balance_of_share(&key.share).plan;
    let key = KeyJson::of(&account, &key, Some(&principal.key_id));
    Reply::json(
        StatusCode::OK,
        &LoginJson {
            message: "Login successful",
            account_id: account.account_id,
            plan,
            key,
        },
    )
}

/// Answer of `GET /whoami`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WhoAmI)]
pub(crate) struct WhoAmIJson {
    account_id: String,
    plan: Plan,
    key: KeyJson,
}

/// `GET /whoami`.
pub(super) async fn whoami(app: App, request: Request) -> Answer {
    let principal = request.principal()?;
    let (account, key) = app.who_is(principal)?;
    let plan = account.usage.balance_of_share(&key.share).plan;
    let key = KeyJson::of(&account, &key, Some(&principal.key_id));
    Reply::json(
        StatusCode::OK,
        &WhoAmIJson {
            account_id: account.account_id,
            plan,
            key,
        },
    )
}

/// Answer of `GET /credits`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Credits)]
pub(crate) struct CreditsJson<'a> {
    account_id: String,
    /// The key, masked.
    api_key: &'a str,
    key_id: &'a str,
    plan: Plan,
    credits_remaining: u64,
    credits_limit: u64,
    percent_remaining: f64,
    days_until_reset: u64,
    #[schema(value_type = String, format = DateTime)]
    reset_date: Timestamp,
    warnings: Vec<&'static str>,
    credits_used_this_cycle: u64,
    total_credits_used: u64,
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    last_activity: Option<Timestamp>,
    #[schema(value_type = super::openapi::ActiveStatus)]
    status: &'static str,
    memory_usage: MemoryUsageJson,
}

/// How much room for memories is taken.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MemoryUsage)]
pub(crate) struct MemoryUsageJson {
    current_count: u64,
    limit: u64,
    percent_used: f64,
    remaining: u64,
}

impl Json for CreditsJson<'_> {
    fn write(&self, out: &mut String) {
        object!(
            out,
            self,
            account_id,
            api_key,
            key_id,
            plan,
            credits_remaining,
            credits_limit,
            percent_remaining,
            days_until_reset,
            reset_date,
            warnings,
            credits_used_this_cycle,
            total_credits_used,
            last_activity,
            status,
            memory_usage
        );
    }
}

impl Json for MemoryUsageJson {
    fn write(&self, out: &mut String) {
        object!(out, self, current_count, limit, percent_used, remaining);
    }
}

/// `GET /credits`.
pub(super) async fn credits(app: App, request: Request) -> Answer {
    let principal = request.principal()?;
    let Credits {
        account_id,
        balance,
        last_activity,
        now,
    } = app.credits(principal)?;
    let mut warnings: Vec<&'static str> = low_credits(&balance).into_iter().collect();
    if balance.credits_remaining == 0 {
        warnings.push("Out of credits");
    }
    if balance.memory_nearly_full() {
        warnings.push("Memory usage over 90% - consider upgrading plan");
    }
    if balance.memory_remaining == 0 {
        warnings.push("Memory limit reached - cannot add more memories");
    }
    Ok(Reply::written(
        StatusCode::OK,
        &CreditsJson {
            account_id,
            api_key: &principal.masked,
            key_id: principal.key_id.as_str(),
            plan: balance.plan,
            credits_remaining: balance.credits_remaining,
            credits_limit: balance.credits_limit,
            percent_remaining: percent(balance.credits_remaining, balance.credits_limit),
            days_until_reset: now.days_until(balance.reset),
            reset_date: balance.reset,
            warnings,
            credits_used_this_cycle: balance.credits_used,
            total_credits_used: balance.credits_used_ever,
            last_activity,
            status: "active",
            memory_usage: MemoryUsageJson {
                current_count: balance.memory_count,
                limit: balance.memory_limit,
                percent_used: percent(balance.memory_count, balance.memory_limit),
                remaining: balance.memory_remaining,
            },
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::super::json::assert_as_serde;
    use super::*;

    #[test]
    fn credits_are_written_as_serde_writes_them() {
        // Shows that no field is forgotten or misnamed, with and without what may be missing.
        let credits = |warnings, last_activity| CreditsJson {
            account_id: "al\"@example.com".to_owned(),
            api_key: "jav1234…",
            key_id: "key_1",
            plan: Plan::PREMIUM,
            credits_remaining: 1,
            credits_limit: 2,
            percent_remaining: 87.5,
            days_until_reset: 3,
            reset_date: Timestamp::from_micros(4),
            warnings,
            credits_used_this_cycle: 5,
            total_credits_used: 6,
            last_activity,
            status: "active",
            memory_usage: MemoryUsageJson {
                current_count: 7,
                limit: 8,
                percent_used: 0.0,
                remaining: 9,
            },
        };
        assert_as_serde(&credits(vec!["a", "b"], Some(Timestamp::from_micros(5))));
        assert_as_serde(&credits(Vec::new(), None));
    }
}
