//! What a handler gets: a request whose path, method, caller and body were checked, in that order.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, TRANSFER_ENCODING,
};
use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;

use crate::app::{Caller, Principal};
use crate::domain::event::{Actor, Cause, RequestId, parse_reason};
use crate::domain::json::{self, Object};
use crate::domain::key::{BadEnd, parse_end};
use crate::domain::plan::{Plan, Plans};
use crate::domain::scope::{BadScopes, Scope, Scopes};
use crate::domain::time::Timestamp;

use super::error::{ApiError, Code};

/// Longest time between two parts of a body.
const BODY_IDLE: Duration = Duration::from_secs(10);
/// Longest time for a whole body.
const BODY_TOTAL: Duration = Duration::from_secs(30);

/// The stream of a request's body, as it comes from the connection.
pub(crate) type BodyStream = BoxStream<'static, Result<Bytes, ()>>;

/// A field that can be null to say something: `Some(None)` is that null, `None` a field that is not there.
pub(super) type Nullable<T> = Option<Option<T>>;

/// A request on its way to a handler.
pub(crate) struct Request {
    /// Its id; none but in tests that call the routes themselves.
    pub id: Option<RequestId>,
    /// Who calls.
    pub caller: Caller,
    /// Who is at the other end of the connection.
    pub peer: IpAddr,
    /// The part of the path that is a name, as it was sent.
    pub param: String,
    /// The query, as it was sent.
    pub query: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Request {
    /// Returns the account and key that call. Only for routes that need a key.
    pub(super) fn principal(&self) -> Result<&Principal, ApiError> {
        match &self.caller {
            Caller::Key(principal) => Ok(principal),
            Caller::Nobody | Caller::Admin => Err(crate::app::Failure::MissingCredentials.into()),
        }
    }

    /// Returns who does what the request does, and by which request; `reason` is an admin's.
    pub(super) fn cause(&self, reason: Option<String>) -> Cause {
        let actor = match &self.caller {
            Caller::Nobody => Actor::Nobody,
            Caller::Key(principal) => Actor::Key(principal.key_id.clone()),
            Caller::Admin => Actor::Admin,
        };
        Cause {
            actor,
            reason,
            request: self.id,
        }
    }

    /// Returns the admin's reason of a request without a body, from its query. For others there is no such
    /// parameter.
    pub(super) fn reason_param(&self) -> Result<Option<String>, ApiError> {
        match self.caller {
            Caller::Admin => self
                .query_param("reason")?
                .as_deref()
                .map(reason)
                .transpose(),
            Caller::Key(_) | Caller::Nobody => Ok(None),
        }
    }

    /// Takes the admin's reason from a body. For others there is no such field.
    pub(super) fn optional_reason(
        &self,
        fields: &mut Fields<'_>,
    ) -> Result<Option<String>, ApiError> {
        match self.caller {
            Caller::Admin => fields.string("reason")?.as_deref().map(reason).transpose(),
            Caller::Key(_) | Caller::Nobody => Ok(None),
        }
    }

    /// Returns the fields of the body; none of an empty one.
    pub(super) fn optional_fields(&self) -> Result<Fields<'_>, ApiError> {
        if self.body.is_empty() {
            Ok(Fields(Object::default()))
        } else {
            self.fields()
        }
    }

    /// Returns the fields of the body, which must be there.
    pub(super) fn fields(&self) -> Result<Fields<'_>, ApiError> {
        self.object().map(Fields)
    }

    /// Returns the body as an object, which must be there.
    pub(super) fn object(&self) -> Result<Object<'_>, ApiError> {
        if self.body.is_empty() {
            return Err(missing_body());
        }
        Ok(Object::parse(&self.body)?)
    }

    /// Returns the name in the path, percent-decoded.
    pub(super) fn path_param(&self, name: &str) -> Result<String, ApiError> {
        percent_decode_str(&self.param)
            .decode_utf8()
            .map(Cow::into_owned)
            .map_err(|_| ApiError::field(name, "The path must be percent-encoded UTF-8."))
    }

    /// Returns a query parameter. `None` if it is not there.
    pub(super) fn query_param(&self, name: &str) -> Result<Option<String>, ApiError> {
        let mut found = None;
        for pair in self.query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            // A name that is not UTF-8 is none of ours, and those are ignored.
            let is_plain = !key.contains(['%', '+']);
            if key != name && (is_plain || !decode_query(name, key).is_ok_and(|key| key == name)) {
                continue;
            }
            if found.is_some() {
                return Err(ApiError::field(
                    name,
                    "A query parameter may be given once.",
                ));
            }
            found = Some(decode_query(name, value)?);
        }
        Ok(found)
    }

    /// Returns a query parameter that is a whole number from 1 on.
    pub(super) fn positive_param(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.query_param(name)? else {
            return Ok(None);
        };
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse::<u64>() {
            Ok(number) if number >= 1 && digits => Ok(Some(number)),
            // More digits than the type holds: still a number.
            Err(_) if digits && text.bytes().any(|b| b != b'0') => Ok(Some(u64::MAX)),
            _ => Err(ApiError::field(
                name,
                "It must be a whole number from 1 on.",
            )),
        }
    }
}

fn reason(text: &str) -> Result<String, ApiError> {
    parse_reason(text).map_err(|bad| ApiError::field("reason", bad.to_string()))
}

fn decode_query(name: &str, text: &str) -> Result<String, ApiError> {
    percent_decode_str(&text.replace('+', " "))
        .decode_utf8()
        .map(Cow::into_owned)
        .map_err(|_| ApiError::field(name, "The query must be percent-encoded UTF-8."))
}

/// The fields of a body, taken out one by one; what is left at the end is refused by name.
pub(crate) struct Fields<'a>(Object<'a>);

impl Fields<'_> {
    /// Takes a field that must be a string if it is there.
    pub(super) fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        let as_string = |value| {
            let text = json::string(value).map(Cow::into_owned);
            text.ok_or_else(|| ApiError::field(name, "It must be a string."))
        };
        self.0.take_optional(name).map(as_string).transpose()
    }

    /// Takes a field that can be null to say something: `Some(None)` is that null.
    pub(super) fn nullable<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&RawValue) -> Result<T, ApiError>,
    ) -> Result<Nullable<T>, ApiError> {
        match self.0.take(name) {
            None => Ok(None),
            Some(value) if json::is_null(value) => Ok(Some(None)),
            Some(value) => read(value).map(|value| Some(Some(value))),
        }
    }

    /// Takes a field that must be a set of scopes if it is there.
    pub(super) fn scopes(&mut self, name: &str) -> Result<Option<Scopes>, ApiError> {
        let value = self.0.take_optional(name);
        value.map(|value| scopes(name, value)).transpose()
    }

    /// Says whether there are no fields.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the reason of an admin, which must be there.
    pub(super) fn reason(&mut self) -> Result<String, ApiError> {
        let text = self.string("reason")?;
        let missing =
            || ApiError::field("reason", "Say why: 1 to 256 characters, for the audit log.");
        text.ok_or_else(missing).and_then(|text| reason(&text))
    }

    /// Takes a field that must be a whole number if it is there.
    pub(super) fn integer(&mut self, name: &str) -> Result<Option<i64>, ApiError> {
        let as_integer = |value: &RawValue| {
            let number = value.get().parse::<i64>();
            number.map_err(|_| ApiError::field(name, "It must be a whole number."))
        };
        self.0.take_optional(name).map(as_integer).transpose()
    }

    /// Takes a field that must be a plan's name if it is there.
    pub(super) fn plan(
        &mut self,
        name: &str,
        plans: &'static Plans,
    ) -> Result<Option<Plan>, ApiError> {
        let Some(value) = self.0.take_optional(name) else {
            return Ok(None);
        };
        let text = json::string(value).ok_or_else(|| {
            ApiError::from(crate::domain::plan::UnknownPlan(shortened(value.get())))
        })?;
        Ok(Some(plans.get(&text).map_err(|error| {
            ApiError::from(crate::domain::plan::UnknownPlan(shortened(&error.0)))
        })?))
    }

    /// Refuses whatever was not taken.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        match self.0.first_name() {
            None => Ok(()),
            Some(name) => Err(ApiError::field(
                &shortened(name),
                "There is no such field here; leave it out.",
            )),
        }
    }
}

/// Returns the scopes that a value lists.
fn scopes(name: &str, value: &RawValue) -> Result<Scopes, ApiError> {
    let known = Scope::ALL.map(Scope::name).join(", ");
    let refused =
        |problem: &str| ApiError::field(name, format!("{problem} It must list some of: {known}."));
    let listed: Vec<String> =
        serde_json::from_str(value.get()).map_err(|_| refused("It is no list of strings."))?;
    let listed = listed.iter().map(String::as_str);
    Scopes::parse(listed).map_err(|bad| match bad {
        BadScopes::Unknown(text) => refused(&format!("There is no scope {:?}.", shortened(&text))),
        bad => refused(&bad.to_string()),
    })
}

/// Returns the whole number, 0 to `max`, that a value is.
pub(super) fn whole(name: &str, value: &RawValue, max: u64) -> Result<u64, ApiError> {
    let number = value.get().parse::<u64>();
    number.ok().filter(|number| *number <= max).ok_or_else(|| {
        let to = if max == u64::MAX {
            "on".to_owned()
        } else {
            format!("to {max}")
        };
        ApiError::field(name, format!("It must be a whole number from 0 {to}."))
    })
}

/// Returns the instant after `now` that a value is.
pub(super) fn future(name: &str, value: &RawValue, now: Timestamp) -> Result<Timestamp, ApiError> {
    let text = json::string(value).ok_or(BadEnd::NoTime);
    text.and_then(|text| parse_end(&text, now))
        .map_err(|bad| ApiError::field(name, bad.to_string()))
}

/// Cuts a long text of a client's for an error.
fn shortened(text: &str) -> String {
    if text.chars().count() <= 64 {
        return text.to_owned();
    }
    text.chars().take(63).chain(['…']).collect()
}

/// Reads a body of `bytes_max` at most, in time, and checks its media type.
pub(crate) async fn read_body(
    headers: &HeaderMap,
    body: BodyStream,
    bytes_max: usize,
) -> Result<Bytes, ApiError> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    if announced
        .and_then(|text| text.parse::<u64>().ok())
        .is_some_and(|n| exceeds(n, bytes_max))
    {
        return Err(too_large(bytes_max));
    }
    let mut collecting = Collecting::new(body, bytes_max);
    // A short one came with its headers, as a rule: no timer is set for it.
    let bytes = match collecting.all().now_or_never() {
        Some(all) => all,
        None => collecting.in_time().await,
    }?;
    let is_plain = |name: HeaderName, coding: &[u8]| {
        let values = headers.get_all(name);
        values
            .iter()
            .all(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(coding))
    };
    if !is_plain(CONTENT_ENCODING, b"identity") || !is_plain(TRANSFER_ENCODING, b"chunked") {
        return Err(ApiError::new(
            Code::UnsupportedMediaType,
            "Unsupported media type",
            "Send the body as it is, without compression.",
        ));
    }
    let is_json = headers.get_all(CONTENT_TYPE).iter().all(|value| {
        let essence = value
            .as_bytes()
            .split(|b| *b == b';')
            .next()
            .unwrap_or_default();
        essence
            .trim_ascii()
            .eq_ignore_ascii_case(b"application/json")
    });
    if !is_json {
        return Err(unsupported_media_type());
    }
    Ok(bytes)
}

/// A body of which some has come.
struct Collecting {
    body: BodyStream,
    bytes_max: usize,
    /// The only part so far: most bodies are one, which is not copied then.
    only: Option<Bytes>,
    /// All parts, once there were two.
    parts: BytesMut,
}

impl Collecting {
    fn new(body: BodyStream, bytes_max: usize) -> Self {
        Self {
            body,
            bytes_max,
            only: None,
            parts: BytesMut::new(),
        }
    }

    /// Waits for the rest of it; can be begun anew where it was left.
    async fn all(&mut self) -> Result<Bytes, ApiError> {
        while let Some(part) = self.body.next().await {
            self.add(part)?;
        }
        Ok(self.take())
    }

    /// Waits for the rest of it, no longer than a client may take for it.
    async fn in_time(&mut self) -> Result<Bytes, ApiError> {
        let rest = async {
            loop {
                match tokio::time::timeout(BODY_IDLE, self.body.next()).await {
                    Err(_) => return Err(too_slow()),
                    Ok(None) => return Ok(self.take()),
                    Ok(Some(part)) => self.add(part)?,
                }
            }
        };
        let in_time = tokio::time::timeout(BODY_TOTAL, rest).await;
        in_time.unwrap_or_else(|_| Err(too_slow()))
    }

    fn add(&mut self, part: Result<Bytes, ()>) -> Result<(), ApiError> {
        let part = part.map_err(|()| incomplete())?;
        let before = self.only.as_ref().map_or(self.parts.len(), Bytes::len);
        if before.saturating_add(part.len()) > self.bytes_max {
            return Err(too_large(self.bytes_max));
        }
        if before == 0 {
            self.only = Some(part);
            return Ok(());
        }
        if let Some(first) = self.only.take() {
            self.parts.extend_from_slice(&first);
        }
        self.parts.extend_from_slice(&part);
        Ok(())
    }

    fn take(&mut self) -> Bytes {
        let parts = std::mem::take(&mut self.parts);
        self.only.take().unwrap_or_else(|| parts.freeze())
    }
}

fn exceeds(bytes: u64, bytes_max: usize) -> bool {
    usize::try_from(bytes).map_or(true, |bytes| bytes > bytes_max)
}

pub(super) fn missing_body() -> ApiError {
    ApiError::new(
        Code::MissingBody,
        "No JSON data provided",
        "Send a JSON object as the request's body.",
    )
}

pub(super) fn unsupported_media_type() -> ApiError {
    ApiError::new(
        Code::UnsupportedMediaType,
        "Unsupported media type",
        "Send the body with Content-Type: application/json.",
    )
}

pub(super) fn incomplete() -> ApiError {
    ApiError::new(
        Code::InvalidJson,
        "Invalid JSON",
        "The body ended before it was complete.",
    )
}

pub(super) fn too_large(bytes_max: usize) -> ApiError {
    let message = format!("A body may have {bytes_max} bytes. Shorten it or split it in two.");
    ApiError::new(Code::BodyTooLarge, "Request body too large", message)
        .with("bytes_max", bytes_max)
}

pub(super) fn too_slow() -> ApiError {
    ApiError::new(
        Code::RequestTimeout,
        "Request timeout",
        "The body did not come in time. Nothing was changed or charged.",
    )
    .with_header(
        http::header::CONNECTION,
        http::HeaderValue::from_static("close"),
    )
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    /// A body of these parts; those before which `None` stands come later than asked for.
    fn body(parts: &[Option<&'static [u8]>]) -> BodyStream {
        let mut parts: std::collections::VecDeque<_> = parts.iter().copied().collect();
        stream::poll_fn(move |context| match parts.pop_front() {
            None => std::task::Poll::Ready(None),
            Some(Some(part)) => std::task::Poll::Ready(Some(Ok(Bytes::from_static(part)))),
            Some(None) => {
                context.waker().wake_by_ref();
                std::task::Poll::Pending
            }
        })
        .boxed()
    }

    async fn read(parts: &[Option<&'static [u8]>], bytes_max: usize) -> Result<Bytes, Code> {
        let read = read_body(&HeaderMap::new(), body(parts), bytes_max).await;
        read.map_err(|error| error.code)
    }

    #[tokio::test]
    async fn a_body_is_whole_however_it_comes() {
        // Shows that it is the same in one part, in many, with empty ones, and with waits anywhere; that the largest is taken
        // and one byte more is not; and that the only part is not copied.
        const WHOLE: &[u8] = b"abcdef";
        let ways: [&[Option<&[u8]>]; 7] = [
            &[Some(WHOLE)],
            &[Some(b"abc"), Some(b"def")],
            &[Some(b"a"), Some(b"b"), Some(b"cde"), Some(b"f")],
            &[Some(b""), Some(b"abcdef"), Some(b"")],
            &[None, Some(b"abcdef"), None],
            &[Some(b"ab"), None, Some(b"c"), None, Some(b""), Some(b"def")],
            &[None, Some(b"ab"), Some(b"cd"), None, Some(b"ef")],
        ];
        for parts in ways {
            assert_eq!(read(parts, 6).await.unwrap(), WHOLE, "{parts:?}");
            assert_eq!(read(parts, 5).await, Err(Code::BodyTooLarge), "{parts:?}");
        }
        assert_eq!(read(&[], 6).await.unwrap(), b"".as_slice());
        assert_eq!(read(&[None], 6).await.unwrap(), b"".as_slice());
        let only = read(&[Some(WHOLE)], 6).await.unwrap();
        assert_eq!(only.as_ptr(), WHOLE.as_ptr());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_too_slow_is_told() {
        // Shows that a body of which a part is there is given up after the idle time, and one that goes on for ever after the
        // whole time.
        let begun: &[u8] = b"{";
        let stalled = stream::iter([Ok(Bytes::from_static(begun))]).chain(stream::pending());
        let endless = stream::unfold((), |()| async {
            tokio::time::sleep(BODY_IDLE / 2).await;
            Some((Ok(Bytes::from_static(b" ")), ()))
        });
        for (slow, longest) in [(stalled.boxed(), BODY_IDLE), (endless.boxed(), BODY_TOTAL)] {
            let before = tokio::time::Instant::now();
            let read = read_body(&HeaderMap::new(), slow, 1_000).await;
            assert_eq!(read.map_err(|error| error.code), Err(Code::RequestTimeout));
            assert_eq!(before.elapsed(), longest);
        }
    }
}
