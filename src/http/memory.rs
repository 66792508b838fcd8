//! `/memory` and `/memory/{id}`.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::app::{
    AddRequest, Answered, App, Failure, Listed, PageRequest, PageStart, Principal, UpdateRequest,
};
use crate::domain::memory::{MemoryId, NewMemory};
use crate::domain::plan::Operation;
use crate::domain::time::Timestamp;
use crate::store::{Added, Debited, Page};

use super::error::{ApiError, Code};
use super::json::{self, Json, object};
use super::reply::{Answer, CreditInfo, MemoryRoom, Reply, low_credits, splice, to_json};
use super::request::Request;

/// Memories of a page if nobody says.
const PAGE_DEFAULT: u64 = 50;
/// Most memories of a page; more is taken as this.
const PAGE_MAX: u64 = 100;
/// Most memories that pages may skip; deeper goes with a cursor, which costs the same at any depth.
const SKIP_MAX: u64 = 100_000;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Answer of `POST /memory`, but for `entry`, which is spliced in front.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AddedMemory, description = "Answer of `POST /memory`.")]
pub(crate) struct AddedJson {
    message: &'static str,
    /// Memories that the account holds.
    total_memories: u64,
    memory_usage: MemoryRoom,
    credit_info: CreditInfo,
    /// As in `credit_info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<&'static str>,
}

impl Json for AddedJson {
    fn write(&self, out: &mut String) {
        object!(
            out,
            self,
            message,
            total_memories,
            memory_usage,
            credit_info;
            warning
        );
    }
}

/// `POST /memory`.
pub(super) async fn add(app: App, request: Request) -> Answer {
    let principal = request.principal()?;
    let object = request.object()?;
    let memory = NewMemory::parse(object).map_err(Failure::InvalidMemory)?;
    let idempotency = idempotency_key(&request.headers)?.map(|key| (key, request.body.to_vec()));
    let cost = app.price(Operation::AddMemory);
    let respond = |added: &Added| added_body(added, cost);
    let answered = app
        .add_memory(
            principal,
            &AddRequest {
                memory,
                idempotency,
            },
            respond,
        )
        .await?;
    let Answered {
        status,
        body,
        cost,
        replayed,
        balance,
    } = answered;
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::CREATED);
    let reply = Reply::json_text(status, body).metered(&Debited { cost, balance }, app.now());
    Ok(if replayed {
        reply.header(REPLAYED, HeaderValue::from_static("true"))
    } else {
        reply
    })
}

/// Returns the body of the answer to an add.
pub(super) fn added_body(added: &Added, cost: u64) -> String {
    let debited = Debited {
        cost,
        balance: added.balance,
    };
    let rest = json::text(&AddedJson {
        message: "Memory entry added successfully",
        total_memories: added.total,
        memory_usage: MemoryRoom::of(&added.balance),
        credit_info: CreditInfo::of(&debited),
        warning: low_credits(&added.balance),
    });
    splice("entry", &[&added.entry], &rest)
}

/// Returns the client's `Idempotency-Key`.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let key = value
        .to_str()
        .ok()
        .filter(|key| (1..=255).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()));
    match (key, values.next()) {
        (Some(key), None) => Ok(Some(key.to_owned())),
        _ => Err(invalid_idempotency_key()),
    }
}

pub(super) fn invalid_idempotency_key() -> ApiError {
    ApiError::new(
        Code::InvalidIdempotencyKey,
        "Invalid idempotency key",
        "Send one Idempotency-Key of 1 to 255 visible ASCII characters.",
    )
}

/// Answer of `GET /memory`, but for `memories`, which is spliced in front.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MemoryPage, description = "Answer of `GET /memory`.")]
pub(crate) struct PageJson {
    pagination: MemoryPagination,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    credit_info: CreditInfo,
    /// As in `credit_info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<&'static str>,
}

/// Where a page of memories lies.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MemoryPagination {
    /// The page, from 1; null for a page that a cursor asked for.
    #[schema(required = true, minimum = 1)]
    page: Option<u64>,
    /// Most memories of the page.
    #[schema(minimum = 1, maximum = 100)]
    limit: u64,
    /// Memories that the account holds.
    total: u64,
    /// Pages in all; 0 for none.
    pages: u64,
    /// Goes on after this page; null at the end.
    #[schema(required = true)]
    next_cursor: Option<String>,
}

impl Json for PageJson {
    fn write(&self, out: &mut String) {
        object!(out, self, pagination, timestamp, credit_info; warning);
    }
}

impl Json for MemoryPagination {
    fn write(&self, out: &mut String) {
        object!(out, self, page, limit, total, pages, next_cursor);
    }
}

/// `GET /memory`.
pub(super) async fn list(app: App, request: Request) -> Answer {
    let principal = request.principal()?;
    let page = request.positive_param("page")?;
    let limit = request
        .positive_param("limit")?
        .unwrap_or(PAGE_DEFAULT)
        .min(PAGE_MAX);
    let (page, start) = match (request.query_param("cursor")?, page) {
        (Some(_), Some(_)) => {
            return Err(ApiError::field(
                "cursor",
                "Send a cursor or a page, not both.",
            ));
        }
        (Some(cursor), None) => (None, PageStart::Before(parse_cursor(principal, &cursor)?)),
        (None, page) => {
            let page = page.unwrap_or(1);
            let skip = page.saturating_sub(1).saturating_mul(limit);
            if skip > SKIP_MAX {
                return Err(ApiError::field(
                    "page",
                    "Pages reach 100,000 memories deep. Go on with cursor=, from next_cursor of \
                     the page before.",
                ));
            }
            (
                Some(page),
                PageStart::Skip(usize::try_from(skip).unwrap_or(usize::MAX)),
            )
        }
    };
    let limit_count = usize::try_from(limit).unwrap_or(usize::MAX);
    let listed = app
        .list_memories(
            principal,
            PageRequest {
                start,
                limit: limit_count,
            },
        )
        .await?;
    let rest = page_rest(principal, &listed, page, limit);
    let Listed { debited, now, .. } = listed;
    let entries = Bytes::from_owner(Entries(listed.page));
    Ok(Reply::list(StatusCode::OK, "memories", entries, &rest).metered(&debited, now))
}

/// The memories of a page that is kept, as bytes.
struct Entries(Arc<Page>);

impl AsRef<[u8]> for Entries {
    fn as_ref(&self) -> &[u8] {
        self.0.entries.as_bytes()
    }
}

/// Returns the body of the answer to `GET /memory` but for the memories; `page` is the page's number, if it has
/// one.
pub(super) fn page_rest(
    principal: &Principal,
    listed: &Listed,
    page: Option<u64>,
    limit: u64,
) -> String {
    let Listed {
        page: found,
        total,
        debited,
        now,
    } = listed;
    json::text(&PageJson {
        pagination: MemoryPagination {
            page,
            limit,
            total: *total,
            pages: total.div_ceil(limit.max(1)),
            next_cursor: found.next.map(|id| cursor(principal, id)),
        },
        timestamp: *now,
        credit_info: CreditInfo::of(debited),
        warning: low_credits(&debited.balance),
    })
}

/// A cursor is the last memory of a page, with a tag that ties it to the account.
pub(super) fn cursor(principal: &Principal, id: MemoryId) -> String {
    let bytes = [&id.to_bytes()[..], &cursor_tag(principal, id)].concat();
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn cursor_tag(principal: &Principal, id: MemoryId) -> [u8; 8] {
    let digest: [u8; 32] = Sha256::new()
        .chain_update(b"memoryos cursor 1")
        .chain_update(principal.account.0)
        .chain_update(id.to_bytes())
        .finalize()
        .into();
    let mut tag = [0; 8];
    for (to, from) in tag.iter_mut().zip(digest) {
        *to = from;
    }
    tag
}

pub(super) fn parse_cursor(principal: &Principal, text: &str) -> Result<MemoryId, ApiError> {
    let parse = || {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        let (id, tag) = bytes.split_first_chunk::<16>()?;
        let id = MemoryId::from_bytes(*id);
        (tag == cursor_tag(principal, id)).then_some(id)
    };
    parse().ok_or_else(|| {
        ApiError::field(
            "cursor",
            "Take it from next_cursor of a page of this account, as it is.",
        )
    })
}

/// Answer of `GET /memory/{id}`, but for `memory`, which is spliced in front.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ReadMemory, description = "Answer of `GET /memory/{id}`.")]
pub(crate) struct ReadJson {
    credit_info: CreditInfo,
    /// As in `credit_info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<&'static str>,
}

impl Json for ReadJson {
    fn write(&self, out: &mut String) {
        object!(out, self, credit_info; warning);
    }
}

/// `GET /memory/{id}`.
pub(super) async fn read(app: App, request: Request) -> Answer {
    let id = MemoryId::parse(&request.path_param("id")?);
    let (entry, debited) = app.read_memory(request.principal()?, id).await?;
    let rest = json::text(&ReadJson {
        credit_info: CreditInfo::of(&debited),
        warning: low_credits(&debited.balance),
    });
    let body = splice("memory", &[&entry], &rest);
    Ok(Reply::json_text(StatusCode::OK, body).metered(&debited, app.now()))
}

/// Answer of `PATCH /memory/{id}`, but for `entry`, which is spliced in front.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UpdatedMemory, description = "Answer of `PATCH /memory/{id}`.")]
pub(crate) struct UpdatedJson {
    message: &'static str,
    credit_info: CreditInfo,
    /// As in `credit_info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<&'static str>,
}

/// `PATCH /memory/{id}`.
pub(super) async fn update(app: App, request: Request) -> Answer {
    let principal = request.principal()?;
    NewMemory::check_change(request.object()?).map_err(Failure::InvalidMemory)?;
    let id = MemoryId::parse(&request.path_param("id")?).ok_or(Failure::MemoryNotFound)?;
    let change = request.object()?;
    let (changed, debited) = app
        .update_memory(principal, UpdateRequest { id, change })
        .await?;
    let rest = to_json(&UpdatedJson {
        message: "Memory entry updated successfully",
        credit_info: CreditInfo::of(&debited),
        warning: low_credits(&debited.balance),
    })?;
    let body = splice("entry", &[&changed.entry], &rest);
    Ok(Reply::json_text(StatusCode::OK, body).metered(&debited, app.now()))
}

/// Answer of `DELETE /memory/{id}`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeletedMemory)]
pub(crate) struct DeletedJson {
    message: &'static str,
    id: String,
    memory_usage: MemoryRoom,
}

/// `DELETE /memory/{id}`.
pub(super) async fn delete(app: App, request: Request) -> Answer {
    let text = request.path_param("id")?;
    let deleted = app
        .delete_memory(request.principal()?, MemoryId::parse(&text))
        .await?;
    Reply::json(
        StatusCode::OK,
        &DeletedJson {
            message: "Memory entry deleted successfully",
            id: text,
            memory_usage: MemoryRoom::of(&deleted.balance),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::super::json::assert_as_serde;
    use super::*;

    #[test]
    fn answers_are_written_as_serde_writes_them() {
        // Shows that no field is forgotten or misnamed, with and without what may be missing.
        for (warning, cursor) in [
            (None, None),
            (Some("low \"credits\""), Some("c".to_owned())),
        ] {
            let credit_info = || CreditInfo {
                credits_remaining: 1,
                credits_used: 2,
                warning,
            };
            assert_as_serde(&AddedJson {
                message: "added",
                total_memories: 3,
                memory_usage: MemoryRoom {
                    current_count: 4,
                    limit: 5,
                    remaining: 6,
                },
                credit_info: credit_info(),
                warning,
            });
            assert_as_serde(&PageJson {
                pagination: MemoryPagination {
                    page: warning.map(|_| 7),
                    limit: 8,
                    total: 9,
                    pages: 10,
                    next_cursor: cursor,
                },
                timestamp: Timestamp::from_micros(11),
                credit_info: credit_info(),
                warning,
            });
            assert_as_serde(&ReadJson {
                credit_info: credit_info(),
                warning,
            });
        }
    }
}
