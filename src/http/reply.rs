//! Answers: JSON bodies, credits in headers, and what the log is told of them.

use bytes::buf::Chain;
use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use serde::Serialize;

use crate::app::Failure;
use crate::domain::time::Timestamp;
use crate::domain::usage::Balance;
use crate::store::Debited;

use super::error::ApiError;
use super::json::{self, Json, object};

/// The warning of a body or a list of warnings under a quarter of the plan's credits.
pub(crate) const LOW_CREDITS: &str = "Low credits - less than 25% remaining";

/// The header names of what a request cost.
const COST: HeaderName = HeaderName::from_static("x-credits-cost");
const LIMIT: HeaderName = HeaderName::from_static("x-credits-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-credits-remaining");
const RESET: HeaderName = HeaderName::from_static("x-credits-reset");

/// Room for the headers of an answer, so that it does not grow one by one.
const HEADERS: usize = 16;

/// Most digits of a number of 64 bits.
const DIGITS_MAX: usize = 20;

/// Room for the JSON of most answers, likewise.
const JSON_BYTES: usize = 768;

/// How a handler ends: an answer, or what the client is told instead.
pub(crate) type Answer = Result<Reply, ApiError>;

/// An answer that was not yet given to the connection.
#[derive(Debug)]
pub(crate) struct Reply(Response<Bytes>);

/// The body of an answer: what stands before it, and the rest. They are sent as they are, never copied together.
pub(crate) type Text = Full<Chain<Chain<Bytes, Bytes>, Bytes>>;

/// What stands before the body that a response has, in two parts; an extension of it.
#[derive(Clone, Debug, Default)]
struct Front(Bytes, Bytes);

/// Returns the whole body of a response.
pub(super) fn whole<B>(mut response: Response<B>) -> (http::response::Parts, Text)
where
    B: Body<Data = Bytes> + Unpin,
{
    let Front(first, second) = response.extensions_mut().remove().unwrap_or_default();
    let (parts, mut body) = response.into_parts();
    // All of ours are one part, and there.
    let rest = body.frame().now_or_never().flatten().and_then(Result::ok);
    let rest = rest.and_then(|frame| frame.into_data().ok());
    let text = first.chain(second).chain(rest.unwrap_or_default());
    (parts, Full::new(text))
}

impl Reply {
    /// Makes an answer of JSON text.
    pub(super) fn json_text(status: StatusCode, body: impl Into<Bytes>) -> Self {
        let mut response = Response::new(body.into());
        *response.status_mut() = status;
        response.headers_mut().reserve(HEADERS);
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        Self(response)
    }

    /// Makes an answer of a value.
    ///
    /// # Errors
    ///
    /// A 500 if the value has no JSON form, which no type of ours has.
    pub(super) fn json<T: Serialize>(status: StatusCode, value: &T) -> Answer {
        Ok(Self::json_text(status, to_json(value)?))
    }

    /// Makes an answer of the object `rest` with `"name": [items]` at its front. The items are not copied.
    pub(super) fn list(status: StatusCode, name: &str, items: Bytes, rest: &str) -> Self {
        let mut end = String::with_capacity(rest.len().saturating_add(1));
        end.push(']');
        follow(&mut end, rest);
        let mut reply = Self::json_text(status, end);
        let start = Bytes::from(format!("{{\"{name}\":["));
        reply.0.extensions_mut().insert(Front(start, items));
        reply
    }

    /// Makes an answer of a value that writes itself.
    pub(super) fn written(status: StatusCode, value: &impl Json) -> Self {
        Self::json_text(status, json::text(value))
    }

    /// Says in headers what the request cost and what is left.
    #[must_use]
    pub(super) fn metered(mut self, debited: &Debited, now: Timestamp) -> Self {
        for (name, value) in credit_headers(debited.cost, &debited.balance, now) {
            self.0.headers_mut().insert(name, value);
        }
        self
    }

    /// Sets a header.
    #[must_use]
    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers_mut().insert(name, value);
        self
    }

    pub(super) fn into_response(self) -> Response<Bytes> {
        self.0
    }
}

/// Returns the JSON text of a value.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<String, ApiError> {
    let no_form =
        |error: &dyn std::fmt::Display| Failure::Internal(format!("no JSON form: {error}"));
    let mut json = Vec::with_capacity(JSON_BYTES);
    serde_json::to_writer(&mut json, value).map_err(|error| no_form(&error))?;
    Ok(String::from_utf8(json).map_err(|error| no_form(&error))?)
}

/// Puts `"name":` and the parts of `raw` at the front of the object `rest`: stored JSON goes out without being
/// parsed.
pub(crate) fn splice(name: &str, raw: &[&str], rest: &str) -> String {
    let bytes = raw.iter().map(|part| part.len()).sum::<usize>();
    let room = bytes.saturating_add(rest.len()).saturating_add(64);
    let mut body = String::with_capacity(room);
    body.push_str("{\"");
    body.push_str(name);
    body.push_str("\":");
    body.extend(raw.iter().copied());
    follow(&mut body, rest);
    body
}

/// Goes on with an object that has begun with a member: with the members of the object `rest`, to its end.
fn follow(body: &mut String, rest: &str) {
    match rest.strip_prefix('{') {
        Some("}") | None => body.push('}'),
        Some(members) => {
            body.push(',');
            body.push_str(members);
        }
    }
}

/// Returns the `X-Credits-*` headers.
pub(crate) fn credit_headers(
    cost: u64,
    balance: &Balance,
    now: Timestamp,
) -> [(HeaderName, HeaderValue); 4] {
    let [cost, limit, remaining, reset] = numbers([
        cost,
        balance.credits_limit,
        balance.credits_remaining,
        now.seconds_until(balance.reset),
    ]);
    [
        (COST, cost),
        (LIMIT, limit),
        (REMAINING, remaining),
        (RESET, reset),
    ]
}

/// Returns these numbers as values of headers, which share one text: `HeaderValue::from` allocates twice for each.
fn numbers<const N: usize>(numbers: [u64; N]) -> [HeaderValue; N] {
    let mut text = String::with_capacity(DIGITS_MAX.saturating_mul(N));
    let ends = numbers.map(|number| {
        text.push_str(itoa::Buffer::new().format(number));
        text.len()
    });
    let mut text = Bytes::from(text);
    let mut begin = 0;
    ends.map(|end| {
        let digits = text.split_to(end.saturating_sub(begin));
        begin = end;
        // Digits are always a value.
        HeaderValue::from_maybe_shared(digits).unwrap_or(HeaderValue::from_static("0"))
    })
}

/// The part of a metered body that tells what the call cost.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct CreditInfo {
    /// Credits left after this call.
    pub credits_remaining: u64,
    /// Credits that this call cost.
    pub credits_used: u64,
    /// There when less than a quarter of the plan's credits is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<&'static str>,
}

impl Json for CreditInfo {
    fn write(&self, out: &mut String) {
        object!(out, self, credits_remaining, credits_used; warning);
    }
}

impl CreditInfo {
    pub(super) fn of(debited: &Debited) -> Self {
        Self {
            credits_remaining: debited.balance.credits_remaining,
            credits_used: debited.cost,
            warning: low_credits(&debited.balance),
        }
    }
}

/// Returns the warning for a balance under a quarter of the plan's credits.
pub(crate) fn low_credits(balance: &Balance) -> Option<&'static str> {
    balance.credits_low().then_some(LOW_CREDITS)
}

/// The room for memories, as an add or a delete leaves it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct MemoryRoom {
    /// Memories held.
    pub current_count: u64,
    /// Memories of the plan.
    pub limit: u64,
    /// Memories that can still be added.
    pub remaining: u64,
}

impl Json for MemoryRoom {
    fn write(&self, out: &mut String) {
        object!(out, self, current_count, limit, remaining);
    }
}

impl MemoryRoom {
    pub(super) fn of(balance: &Balance) -> Self {
        Self {
            current_count: balance.memory_count,
            limit: balance.memory_limit,
            remaining: balance.memory_remaining,
        }
    }
}

/// Where a page of numbered pages lies.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Pagination {
    /// The page, from 1.
    pub page: u64,
    /// Most entries of a page.
    pub limit: u64,
    /// Entries in all.
    pub total: u64,
    /// Pages in all; 0 for no entries.
    pub pages: u64,
}

impl Pagination {
    pub(super) fn new(page: u64, limit: u64, total: u64) -> Self {
        Self {
            page,
            limit,
            total,
            pages: total.div_ceil(limit.max(1)),
        }
    }
}

/// Returns `part` of `whole` in percent, rounded half up to one decimal; 0 of nothing.
pub(crate) fn percent(part: u64, whole: u64) -> f64 {
    tenths_of_percent(part, whole).map_or(0.0, |tenths| f64::from(tenths) / 10.0)
}

/// Returns `part` of `whole` in tenths of a percent, rounded half up. `None` of nothing.
pub(crate) fn tenths_of_percent(part: u64, whole: u64) -> Option<u32> {
    let whole = u128::from(whole);
    let doubled = u128::from(part).saturating_mul(2_000).saturating_add(whole);
    let tenths = doubled.checked_div(whole.saturating_mul(2))?;
    Some(u32::try_from(tenths).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_half_up_to_one_decimal() {
        for (part, whole, expected) in [
            (7, 8, 875),
            (1, 3, 333),
            (2, 3, 667),
            (1, 2_000, 1), // 0.05 % is half of a tenth
            (1, 2_001, 0),
            (9_967, 10_000, 997), // 99.67
            (100, 100, 1_000),
            (110, 100, 1_100),
        ] {
            assert_eq!(
                tenths_of_percent(part, whole),
                Some(expected),
                "{part}/{whole}"
            );
        }
        assert_eq!(tenths_of_percent(0, 0), None);
        assert_eq!(percent(7, 8).to_string(), "87.5");
    }

    #[test]
    fn a_list_is_sent_in_parts_that_are_one_object() {
        let items = Bytes::from_static(b"1,2");
        for (rest, expected) in [
            (r#"{"b":2}"#, r#"{"a":[1,2],"b":2}"#),
            ("{}", r#"{"a":[1,2]}"#),
        ] {
            let reply = Reply::list(StatusCode::OK, "a", items.clone(), rest);
            let (_, body) = whole(reply.into_response().map(Full::new));
            assert_eq!(body.size_hint().exact(), Some(expected.len() as u64));
            let all = body.collect().now_or_never().unwrap().unwrap().to_bytes();
            assert_eq!(all, expected);
        }
    }

    #[test]
    fn numbers_share_a_text_and_are_themselves() {
        let all = numbers([0, 7, 10, u64::MAX]);
        assert_eq!(all, ["0", "7", "10", "18446744073709551615"]);
    }

    #[test]
    fn splicing_makes_one_object() {
        assert_eq!(
            splice("a", &["[", "1]"], r#"{"b":2}"#),
            r#"{"a":[1],"b":2}"#
        );
        assert_eq!(splice("a", &["[1]"], "{}"), r#"{"a":[1]}"#);
    }
}
