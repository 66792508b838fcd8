//! `/admin/audit`, and what the routes put into the log themselves.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::app::{App, AuditItem, Caller, Failure, Target};
use crate::domain::audit::{AuditHead, hex};
use crate::domain::event::RequestId;
use crate::domain::time::Timestamp;

use super::Endpoint;
use super::auth::Access;
use super::error::ApiError;
use super::reply::{Answer, Reply};
use super::request::Request;

/// Rows of a page if nobody says.
const PAGE_DEFAULT: u64 = 50;
/// Most rows of a page; more is taken as this.
const PAGE_MAX: u64 = 100;

/// Puts into the audit log whether somebody was let in as the admin.
pub(super) fn note_admin(
    app: &App,
    endpoint: &Endpoint,
    id: Option<RequestId>,
    caller: &Result<Caller, ApiError>,
) {
    match caller {
        Ok(Caller::Admin) => app.admin_let_in(format!("{endpoint:?}"), id),
        Err(error) if error.refuses_admin() || endpoint.access == Access::Admin => {
            app.admin_refused(format!("{endpoint:?}"));
        }
        _ => {}
    }
}

/// Answer of `GET /admin/audit`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditLog)]
pub(crate) struct AuditJson {
    /// The newest first.
    rows: Vec<AuditRowJson>,
    pagination: AuditPagination,
    head: AuditHeadJson,
}

/// A row of the audit log.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditRow)]
pub(crate) struct AuditRowJson {
    /// Its number: 1 for the first, without gaps.
    #[schema(minimum = 1)]
    no: u64,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// The account's public id, as it is now; null if it tells of none, or of one that is gone.
    #[schema(required = true)]
    account_id: Option<String>,
    /// Who did it: a key id, `admin`, `operator` (whoever runs commands on the machine), `service` (it
    /// came of itself) or `nobody` (a request without a credential).
    actor: String,
    /// What happened, such as `key.created`.
    action: String,
    /// What else is known of it. No secret, no e-mail, no memory.
    #[schema(value_type = Object)]
    details: Box<RawValue>,
    /// Why, in the admin's words; null if none were asked for.
    #[schema(required = true)]
    reason: Option<String>,
    /// The request that did it, as in its `X-Request-Id`; null if none did.
    #[schema(required = true)]
    request_id: Option<String>,
    /// SHA-256 over the row and the hash of the row before, in hexadecimal.
    hash: String,
}

/// Where to go on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditPagination {
    /// Most rows of a page.
    limit: u64,
    /// For the next, older rows; null if there are none. With account or from a page may be short, or empty,
    /// and not the last.
    #[schema(required = true)]
    next_cursor: Option<String>,
}

/// The end of the log. Whoever writes it down elsewhere can prove later that no row up to it was changed or
/// removed: `memoryos audit verify --head NO:HASH`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditHead)]
pub(crate) struct AuditHeadJson {
    /// Number of the last row; 0 if there is none.
    no: u64,
    /// Its hash.
    hash: String,
}

impl From<AuditHead> for AuditHeadJson {
    fn from(head: AuditHead) -> Self {
        Self {
            no: head.no,
            hash: head.hash_hex(),
        }
    }
}

impl AuditRowJson {
    fn new(item: AuditItem) -> Result<Self, ApiError> {
        let row = item.entry;
        let unreadable = |error: serde_json::Error| {
            Failure::Internal(format!("details of audit row {}: {error}", row.no))
        };
        Ok(Self {
            no: row.no,
            at: row.at,
            account_id: item.account_id,
            actor: row.actor,
            action: row.action,
            details: RawValue::from_string(row.details).map_err(unreadable)?,
            reason: row.reason,
            request_id: row.request.map(|id| id.to_string()),
            hash: hex(&row.hash),
        })
    }
}

/// `GET /admin/audit`.
pub(super) async fn list(app: App, request: Request) -> Answer {
    let limit = request.positive_param("limit")?.unwrap_or(PAGE_DEFAULT);
    let limit = limit.min(PAGE_MAX);
    let account = request.query_param("account")?.filter(|of| !of.is_empty());
    let from = match request.query_param("from")? {
        None => None,
        Some(text) => Some(Timestamp::parse_rfc3339(&text).ok_or_else(|| {
            ApiError::field(
                "from",
                "It must be a time in RFC 3339, such as 2026-01-31T09:15:00Z; a + in it is sent as %2B.",
            )
        })?),
    };
    let cursor = request.query_param("cursor")?;
    let before = cursor.as_deref().map(parse_cursor).transpose()?;
    let rows = usize::try_from(limit).unwrap_or(usize::MAX);
    let found = app
        .audit_log(account.map(Target::parse), from, before, rows)
        .await?;
    let rows: Result<Vec<_>, _> = found.rows.into_iter().map(AuditRowJson::new).collect();
    Reply::json(
        StatusCode::OK,
        &AuditJson {
            rows: rows?,
            pagination: AuditPagination {
                limit,
                next_cursor: found.next.map(cursor_below),
            },
            head: found.head.into(),
        },
    )
}

/// A cursor is the number of the last row that was looked at.
fn cursor_below(no: u64) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(no.to_be_bytes())
}

fn parse_cursor(text: &str) -> Result<u64, ApiError> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok();
    let no = bytes.and_then(|bytes| bytes.try_into().ok().map(u64::from_be_bytes));
    no.ok_or_else(|| {
        ApiError::field(
            "cursor",
            "Take it from next_cursor of a page of the audit log, as it is.",
        )
    })
}
