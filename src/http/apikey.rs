//! `/apikey/new`, `/apikey/list`, `/apikey/{key}`, `/apikey/{key}/rotate`.

use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{
    AccountRow, App, Caller, CreateKey, CreatedKey, KeyAddress, KeyChange, KeyLimits, KeyRow,
    OwnerName,
};
use crate::domain::key::{DESCRIPTION_CHARS_MAX, GRACE_SECONDS_DEFAULT, GRACE_SECONDS_MAX, KeyId};
use crate::domain::plan::Plan;
use crate::domain::scope::{Scope, Scopes};
use crate::domain::time::Timestamp;

use super::account::email_field;
use super::error::{ApiError, Code};
use super::reply::{Answer, Pagination, Reply};
use super::request::{Fields, Request, future, whole};

/// The sentence beside a key that is shown.
const SHOWN_ONCE: &str = "Save this API key now. You will not be able to see it again.";
/// Entries of a page if nobody says.
const PAGE_DEFAULT: u64 = 50;
/// Most entries of a page; more is taken as this.
const PAGE_MAX: u64 = 100;

/// A key as lists show it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub(crate) struct KeyJson {
    /// Whose it is; in the admin's list only.
    #[serde(skip_serializing_if = "Option::is_none")]
    account_id: Option<String>,
    /// The key, masked.
    api_key: String,
    key_id: String,
    /// What it has: its account's plan, or the lower one that caps it.
    plan: Plan,
    /// The plan that caps it; null if none does.
    #[schema(value_type = Option<String>, required = true)]
    plan_cap: Option<Plan>,
    description: String,
    /// What it may do now.
    #[schema(value_type = Vec<super::openapi::ScopeName>)]
    scopes: Vec<&'static str>,
    /// Most credits that it may spend in a cycle; null for its plan's.
    #[schema(required = true)]
    credits_per_cycle: Option<u64>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// From when on it is refused; null for never.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    expires_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    last_activity: Option<Timestamp>,
    #[schema(value_type = super::openapi::ActiveStatus)]
    status: &'static str,
    /// The id of its successor; null if it was not rotated.
    #[schema(required = true)]
    rotated_to: Option<String>,
    /// When it was revoked or expired; null while it is active.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    ended_at: Option<Timestamp>,
    /// Whether the request came with this key.
    is_current: bool,
    /// Credits that this key can still spend now.
    credits_remaining: u64,
    credits_used_this_cycle: u64,
    /// Memories stored with this key and still held.
    memory_count: u64,
}

impl KeyJson {
    pub(super) fn of(account: &AccountRow, key: &KeyRow, current: Option<&KeyId>) -> Self {
        let balance = account.usage.balance_of_share(&key.share);
        let is_active = key.ended_at.is_none();
        Self {
            account_id: None,
            api_key: key.masked.clone(),
            key_id: key.id.to_string(),
            plan: balance.plan,
            plan_cap: account.usage.cap_of(&key.share),
            description: key.description.clone(),
            scopes: names(key.scopes_now()),
            credits_per_cycle: key.share.credits_cap,
            created_at: key.created_at,
            expires_at: key.expires_at,
            last_activity: key.share.last_activity,
            status: if is_active { "active" } else { "inactive" },
            rotated_to: key.successor.as_ref().map(KeyId::to_string),
            ended_at: key.ended_at,
            is_current: current == Some(&key.id),
            credits_remaining: if is_active {
                balance.credits_remaining
            } else {
                0
            },
            credits_used_this_cycle: key.share.used,
            memory_count: key.share.held,
        }
    }
}

fn names(scopes: Scopes) -> Vec<&'static str> {
    scopes.iter().map(Scope::name).collect()
}

/// Answer of `POST /apikey/new`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CreatedApiKey)]
pub(crate) struct CreatedKeyJson {
    message: &'static str,
    /// The key; shown this once.
    #[schema(min_length = 32, max_length = 32)]
    api_key: String,
    key_id: String,
    plan: Plan,
    description: String,
    /// What it may do.
    #[schema(value_type = Vec<super::openapi::ScopeName>)]
    scopes: Vec<&'static str>,
    /// Most credits that it may spend in a cycle; null for its plan's.
    #[schema(required = true)]
    credits_per_cycle: Option<u64>,
    /// From when on it is refused; null for never.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    expires_at: Option<Timestamp>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    warning: &'static str,
    account_id: String,
    /// The key that was rotated; of a rotation only.
    #[serde(skip_serializing_if = "Option::is_none")]
    rotated: Option<RotatedKeyJson>,
}

/// The key that has a successor now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RotatedApiKey)]
pub(crate) struct RotatedKeyJson {
    key_id: String,
    /// The key, masked.
    api_key: String,
    /// From when on it is refused.
    #[schema(value_type = String, format = DateTime)]
    works_until: Timestamp,
}

impl CreatedKeyJson {
    fn of(message: &'static str, made: CreatedKey) -> Self {
        Self {
            message,
            api_key: made.secret.reveal().to_owned(),
            key_id: made.key.id.to_string(),
            plan: made.plan,
            scopes: names(made.key.scopes),
            credits_per_cycle: made.key.share.credits_cap,
            expires_at: made.key.expires_at,
            description: made.key.description,
            created_at: made.key.created_at,
            warning: SHOWN_ONCE,
            account_id: made.account_id,
            rotated: None,
        }
    }
}

/// Takes the description of a key.
fn description_field(fields: &mut Fields<'_>) -> Result<Option<String>, ApiError> {
    let description = fields.string("description")?;
    let chars = description.as_ref().map_or(0, |text| text.chars().count());
    if chars > DESCRIPTION_CHARS_MAX {
        return Err(ApiError::field(
            "description",
            "It may have 256 characters.",
        ));
    }
    Ok(description)
}

/// Takes what can be said of a new key, and changed of one: its end and its credits can be null there.
fn change_fields(fields: &mut Fields<'_>, now: Timestamp) -> Result<KeyChange, ApiError> {
    Ok(KeyChange {
        description: description_field(fields)?,
        scopes: fields.scopes("scopes")?,
        expires_at: fields.nullable("expires_at", |value| future("expires_at", value, now))?,
        credits_cap: fields.nullable("credits_per_cycle", |value| {
            whole("credits_per_cycle", value, u64::MAX)
        })?,
    })
}

/// `POST /apikey/new`.
pub(super) async fn create(app: App, request: Request) -> Answer {
    let mut fields = request.optional_fields()?;
    if fields.string("api_key")?.is_some() {
        return Err(ApiError::field(
            "api_key",
            "The server makes the key; leave api_key out.",
        ));
    }
    let email = email_field(&mut fields)?;
    let account_id = fields.string("account_id")?.map(account_id_form);
    let plan = fields.plan("plan", app.plans())?;
    let asked = change_fields(&mut fields, app.now())?;
    let reason = request.optional_reason(&mut fields)?;
    fields.finish()?;
    let owner = match (email, account_id) {
        (None, None) => None,
        (Some(email), None) => Some(OwnerName::Email(email)),
        (None, Some(id)) => Some(OwnerName::AccountId(id)),
        (Some(_), Some(_)) => {
            return Err(ApiError::field(
                "account_id",
                "Send the email or the account_id, not both.",
            ));
        }
    };
    let made = app
        .create_key(
            &request.caller,
            CreateKey {
                owner,
                plan,
                description: asked.description,
                limits: KeyLimits {
                    expires_at: asked.expires_at.flatten(),
                    scopes: asked.scopes,
                    credits_per_cycle: asked.credits_cap.flatten(),
                },
            },
            request.cause(reason),
        )
        .await?;
    let body = CreatedKeyJson::of("API key generated successfully", made);
    Reply::json(StatusCode::CREATED, &body)
}

/// `POST /apikey/{key}/rotate`.
pub(super) async fn rotate(app: App, request: Request) -> Answer {
    let address = KeyAddress::parse(request.path_param("key")?);
    let mut fields = request.optional_fields()?;
    let grace = fields.nullable("grace_seconds", |value| {
        whole("grace_seconds", value, GRACE_SECONDS_MAX.into())
    })?;
    let reason = request.optional_reason(&mut fields)?;
    fields.finish()?;
    let grace = grace.flatten().unwrap_or(GRACE_SECONDS_DEFAULT.into());
    let rotated = app
        .rotate_key(
            &request.caller,
            address,
            u32::try_from(grace).unwrap_or(u32::MAX),
            request.cause(reason),
        )
        .await?;
    let old = rotated.old;
    let body = CreatedKeyJson {
        rotated: Some(RotatedKeyJson {
            key_id: old.id.to_string(),
            api_key: old.masked,
            works_until: old.ended_at.or(old.expires_at).unwrap_or_else(|| app.now()),
        }),
        ..CreatedKeyJson::of("API key rotated successfully", rotated.successor)
    };
    Reply::json(StatusCode::CREATED, &body)
}

/// `PATCH /apikey/{key}`.
pub(super) async fn change(app: App, request: Request) -> Answer {
    let address = KeyAddress::parse(request.path_param("key")?);
    let mut fields = request.fields()?;
    if fields.is_empty() {
        return Err(ApiError::new(
            Code::InvalidField,
            "Nothing to change",
            "Send description, scopes, expires_at or credits_per_cycle.",
        ));
    }
    let change = change_fields(&mut fields, app.now())?;
    let reason = request.optional_reason(&mut fields)?;
    fields.finish()?;
    let changed = app.change_key(&request.caller, address, change, request.cause(reason));
    let (account, key) = changed.await?;
    let (account_id, current) = match &request.caller {
        Caller::Key(principal) => (None, Some(&principal.key_id)),
        Caller::Admin | Caller::Nobody => (Some(account.account_id.clone()), None),
    };
    Reply::json(
        StatusCode::OK,
        &KeyJson {
            account_id,
            ..KeyJson::of(&account, &key, current)
        },
    )
}

/// An account id that is an e-mail is one in any case, as the e-mail itself.
fn account_id_form(text: String) -> String {
    if text.contains('@') {
        text.trim().to_ascii_lowercase()
    } else {
        text
    }
}

/// Answer of `GET /apikey/list`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKeyList)]
pub(crate) struct KeyListJson {
    /// Whose keys they are; not in the admin's list.
    #[serde(skip_serializing_if = "Option::is_none")]
    account_id: Option<String>,
    total_keys: u64,
    api_keys: Vec<KeyJson>,
    /// In the admin's list only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pagination: Option<Pagination>,
}

/// `GET /apikey/list`.
pub(super) async fn list(app: App, request: Request) -> Answer {
    let revoked_too = revoked_too(&request)?;
    match &request.caller {
        Caller::Key(principal) => {
            let (account, keys) = app.keys_of(principal, revoked_too).await?;
            let current = Some(&principal.key_id);
            let api_keys: Vec<_> = keys
                .iter()
                .map(|key| KeyJson::of(&account, key, current))
                .collect();
            Reply::json(
                StatusCode::OK,
                &KeyListJson {
                    account_id: Some(account.account_id),
                    total_keys: u64::try_from(api_keys.len()).unwrap_or(u64::MAX),
                    api_keys,
                    pagination: None,
                },
            )
        }
        Caller::Admin | Caller::Nobody => {
            let (page, limit, skip) = page_and_limit(&request)?;
            let (keys, total) = app.all_keys(revoked_too, skip, limit).await?;
            let api_keys = keys.iter().map(|(account, key)| KeyJson {
                account_id: Some(account.account_id.clone()),
                ..KeyJson::of(account, key, None)
            });
            Reply::json(
                StatusCode::OK,
                &KeyListJson {
                    account_id: None,
                    total_keys: total,
                    api_keys: api_keys.collect(),
                    pagination: Some(Pagination::new(page, limit, total)),
                },
            )
        }
    }
}

/// Says whether a list of keys shall have the revoked ones too: `status`.
pub(super) fn revoked_too(request: &Request) -> Result<bool, ApiError> {
    match request.query_param("status")?.as_deref() {
        None | Some("active") => Ok(false),
        Some("all") => Ok(true),
        Some(_) => Err(ApiError::field("status", "It must be active or all.")),
    }
}

/// Returns `page`, `limit` and how many entries come before the page.
pub(super) fn page_and_limit(request: &Request) -> Result<(u64, u64, u64), ApiError> {
    let page = request.positive_param("page")?.unwrap_or(1);
    let limit = request
        .positive_param("limit")?
        .unwrap_or(PAGE_DEFAULT)
        .min(PAGE_MAX);
    Ok((page, limit, page.saturating_sub(1).saturating_mul(limit)))
}

/// Answer of `DELETE /apikey/{key}`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RevokedApiKey)]
pub(crate) struct RevokedKeyJson {
    message: &'static str,
    /// The key, masked.
    revoked_key: String,
    key_id: String,
    #[schema(value_type = String, format = DateTime)]
    revoked_at: Timestamp,
    note: &'static str,
}

/// `DELETE /apikey/{key}`.
pub(super) async fn revoke(app: App, request: Request) -> Answer {
    let address = KeyAddress::parse(request.path_param("key")?);
    let reason = request.reason_param()?;
    let revoked = app
        .revoke_key(&request.caller, address, request.cause(reason))
        .await?
        .key;
    Reply::json(
        StatusCode::OK,
        &RevokedKeyJson {
            message: "API key revoked successfully",
            revoked_key: revoked.masked,
            key_id: revoked.id.to_string(),
            revoked_at: revoked.ended_at.unwrap_or_else(|| app.now()),
            note: "Key is now inactive but usage history is preserved",
        },
    )
}
