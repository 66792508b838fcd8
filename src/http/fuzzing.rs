//! Fuzz targets of what comes in over HTTP: credentials, paths, queries, bodies.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use serde_json::Value;

use crate::app::{AdminAccess, App, BackupSettings, Caller, Principal, RateLimits, Settings};
use crate::clock::{Clock, ManualClock};
use crate::domain::account::{AccountKey, Email};
use crate::domain::event::Cause;
use crate::domain::json::{self, Object};
use crate::domain::key::{KeyId, Secret};
use crate::domain::memory::{
    MemoryId, NAME_CHARS_MAX, NewMemory, Stamp, TAG_CHARS_MAX, TAGS_MAX, TOPIC_CHARS_MAX,
};
use crate::domain::plan::{Plan, Plans, Prices};
use crate::domain::time::Timestamp;
use crate::fuzzing::{Outcome, ensure};
use crate::store::{NewAccount, NewKey, Options, Store};

use super::auth::{self, Access};
use super::error::{ApiError, Code};
use super::memory::{cursor, idempotency_key, parse_cursor};
use super::request::Request;

/// The one key that there is; corpora send it.
const KEY: &str = "fuzzFUZZ0123456789fuzzFUZZ012345";
/// The admin key where one is set; corpora send it.
const ADMIN: &str = "an-admin-key-that-only-the-fuzzers-know";
/// Another account: none of its cursors may be good here.
const STRANGER: AccountKey = AccountKey([9; 16]);
/// 1 January 2026.
const NOW: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);
/// Who calls.
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Longest answer that tells of an error.
const ERROR_BYTES_MAX: usize = 2_048;

/// A service with one account, and the same with the default admin key.
struct Fixture {
    runtime: tokio::runtime::Runtime,
    app: App,
    default_admin: App,
    principal: Arc<Principal>,
}

/// Returns the fixture, made once for the process.
fn fixture() -> Result<&'static Fixture, String> {
    static FIXTURE: OnceLock<Result<Fixture, String>> = OnceLock::new();
    FIXTURE.get_or_init(make).as_ref().map_err(Clone::clone)
}

fn make() -> Result<Fixture, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let directory = new_directory();
    let cache_bytes = 8 << 20;
    let options = Options {
        cache_bytes,
        ..Options::default()
    };
    let (store, _) = Store::open(&directory, options).map_err(|error| error.to_string())?;
    let secret = Secret::new(KEY);
    let account = AccountKey::new(NOW.millis(), 7);
    let key = NewKey {
        hash: secret.hash(),
        id: KeyId::parse("key_fuzz00000000").ok_or("no key id")?,
        masked: secret.masked(),
        description: String::new(),
        cap: None,
        credits_cap: None,
        scopes: None,
        expires_at: None,
    };
    let new = NewAccount {
        account,
        name: Some("fuzz@example.com".to_owned()),
        plan: Plan::PREMIUM,
        key,
        created_at: NOW,
        cause: Cause::service(),
    };
    runtime
        .block_on(store.create_account(new))
        .map_err(|error| format!("{error:?}"))?;
    let app = |admin| {
        let settings = Settings {
            plans: Plans::seed(),
            prices: Prices::SEED,
            signup_plans: Vec::new(),
            admin,
            body_bytes_max: 65_536,
            public_url: None,
            backups: BackupSettings::asked_only(directory.join("backups")),
            rate_limits: RateLimits::OFF,
            trusted_proxies: Vec::new(),
            webhooks: Vec::new(),
        };
        let clock = Clock::Manual(ManualClock::new(NOW));
        App::new(store.clone(), clock, settings)
    };
    let app_set = app(AdminAccess::Key {
        current: Secret::new(ADMIN),
        previous: None,
    });
    let principal = app_set
        .authenticate(&secret)
        .map_err(|error| format!("{error:?}"))?;
    Ok(Fixture {
        default_admin: app(AdminAccess::LoopbackDefault),
        app: app_set,
        runtime,
        principal,
    })
}

/// Returns a directory of this process's. Nothing is left of a static at a process's end, so the next one
/// removes what others have left.
fn new_directory() -> std::path::PathBuf {
    const PREFIX: &str = "memoryos-fuzz-";
    let own = std::process::id().to_string();
    let all = std::env::temp_dir();
    for entry in std::fs::read_dir(&all).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(PREFIX))
            && (pid == own || !std::path::Path::new("/proc").join(pid).exists())
        {
            // Another process may be doing the same.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    all.join(format!("{PREFIX}{own}"))
}

/// The credential headers: lines `name: value`. Who calls follows from them, and nobody calls as someone
/// whose secret was not sent.
///
/// # Errors
///
/// What does not hold.
pub(crate) fn credentials(bytes: &[u8]) -> Outcome {
    let headers = headers(bytes);
    let values = |name: &str| headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let is_twice = |name: &str| values(name).count() > 1;
    match auth::api_key(&headers) {
        Ok(None) => ensure!(
            values("x-api-key").all(|value| value.trim_ascii().is_empty())
                && !values("authorization").any(|value| is_bearer_of(value, KEY)),
            "a key is overlooked"
        ),
        Ok(Some(key)) => {
            ensure!(!key.reveal().is_empty(), "an empty key is a credential");
            ensure!(
                !is_twice("x-api-key") && !is_twice("authorization"),
                "a header sent twice is taken"
            );
            ensure!(
                format!("{key:?}") == "Secret(hidden)",
                "Debug shows the key"
            );
            let shown = key.masked().chars().filter(|c| *c != '.').count();
            let chars = key.reveal().chars().count();
            ensure!(
                chars < 12 || shown.saturating_mul(2) <= chars,
                "the masked form shows {shown} of {chars} characters"
            );
        }
        Err(error) => of_constant_text(&error)?,
    }
    match idempotency_key(&headers) {
        Ok(None) => ensure!(!headers.contains_key("idempotency-key"), "overlooked"),
        Ok(Some(key)) => ensure!(
            (1..=255).contains(&key.len()) && !is_twice("idempotency-key"),
            "an idempotency key of {} bytes is taken",
            key.len()
        ),
        Err(error) => of_constant_text(&error)?,
    }
    let fixture = fixture()?;
    let sent = |name: &str, secret: &str| values(name).any(|value| holds(value, secret.as_bytes()));
    let is_relayed = headers.keys().any(|name| {
        ["origin", "forwarded"].contains(&name.as_str())
            || name.as_str().starts_with("x-forwarded-")
    });
    for (app, admin_key) in [
        (&fixture.app, ADMIN),
        (&fixture.default_admin, crate::app::DEFAULT_ADMIN_KEY),
    ] {
        for access in [
            Access::Open,
            Access::Key,
            Access::KeyHereOrInBody,
            Access::KeyOrAdmin,
            Access::Admin,
        ] {
            match auth::caller(app, access, &headers) {
                Ok(Caller::Nobody) => ensure!(
                    matches!(access, Access::Open | Access::KeyHereOrInBody),
                    "{access:?} is open to nobody in particular"
                ),
                Ok(Caller::Key(principal)) => ensure!(
                    principal.account == fixture.principal.account
                        && (sent("x-api-key", KEY) || sent("authorization", KEY)),
                    "an account without its key"
                ),
                Ok(Caller::Admin) => {
                    ensure!(
                        matches!(access, Access::Admin | Access::KeyOrAdmin)
                            && sent("x-admin-key", admin_key)
                            && !is_twice("x-admin-key"),
                        "an admin without the admin key, or for {access:?}"
                    );
                    ensure!(
                        admin_key == ADMIN || (!is_relayed && values("host").count() == 1),
                        "the default admin key through a proxy"
                    );
                }
                Err(error) => {
                    of_constant_text(&error)?;
                    let (word, status) = error.code.word_and_status();
                    ensure!(
                        [400, 401, 403].contains(&status.as_u16()),
                        "{word} for a credential"
                    );
                }
            }
        }
    }
    Ok(())
}

/// Returns the headers that lines `name: value` are; a line that could be none is left out.
fn headers(bytes: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // As many as the server takes.
    for line in bytes.split(|b| *b == b'\n').take(100) {
        let Some((name, value)) = line
            .iter()
            .position(|b| *b == b':')
            .and_then(|at| line.split_at_checked(at))
        else {
            continue;
        };
        let value = value.trim_ascii_start().strip_prefix(b":").unwrap_or(value);
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name),
            HeaderValue::from_bytes(value.trim_ascii()),
        ) {
            headers.append(name, value);
        }
    }
    headers
}

fn is_bearer_of(value: &[u8], key: &str) -> bool {
    let value = value.trim_ascii();
    value
        .strip_suffix(key.as_bytes())
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "))
}

fn holds(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

/// Says whether an error is in words of ours only: nothing of what was sent is in it.
fn of_constant_text(error: &ApiError) -> Outcome {
    let is_constant = match error.code {
        Code::AmbiguousCredentials => [
            "X-API-KEY and Authorization carry different keys. Send one of them.",
            "The header x-api-key was sent twice. Send it once.",
            "The header authorization was sent twice. Send it once.",
            "The header x-admin-key was sent twice. Send it once.",
        ]
        .contains(&error.message.as_ref()),
        // Their texts are literals.
        _ => matches!(error.message, std::borrow::Cow::Borrowed(_)) && error.extra.is_empty(),
    };
    ensure!(is_constant, "an error says more than it should: {error:?}");
    Ok(())
}

/// A request line: one byte for method and credential, then path and query. Every path gets an answer,
/// and ids in it are read in their one form only.
///
/// # Errors
///
/// What does not hold.
pub(crate) fn paths(bytes: &[u8]) -> Outcome {
    const METHODS: [&str; 8] = [
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW",
    ];
    let Some((choice, path)) = bytes.split_first() else {
        return Ok(());
    };
    let by = |divisor: u8| usize::from(choice.wrapping_shr(4).wrapping_rem(divisor));
    let method = METHODS.get(usize::from(choice & 7)).unwrap_or(&"GET");
    // The admin may do more than the next input should find done.
    let credential = match by(3) {
        1 => Some(("x-api-key", KEY)),
        2 if *method != "DELETE" => Some(("x-admin-key", ADMIN)),
        _ => None,
    };
    let Ok(uri) = Uri::try_from(path) else {
        return Ok(()); // hyper refuses it before there is a request
    };
    names(&uri)?;
    // A backup each time would be all that is done.
    let credential = credential.filter(|_| uri.path() != "/admin/backup");
    let answer = call(method, &uri, credential)?;
    answer.is_sound(&uri, credential.is_some())
}

/// Checks what is read out of the last part of a path.
fn names(uri: &Uri) -> Outcome {
    let param = uri.path().rsplit('/').next().unwrap_or_default();
    let request = request(param, "");
    let text = match request.path_param("id") {
        Ok(text) => text,
        Err(error) => {
            ensure!(error.code == Code::InvalidField, "{error:?}");
            return Ok(());
        }
    };
    if let Some(id) = MemoryId::parse(&text) {
        ensure!(id.to_string() == text, "two texts for one memory: {text}");
        ensure!(MemoryId::from_bytes(id.to_bytes()) == id, "bytes of {text}");
    }
    if let Some(id) = KeyId::parse(&text) {
        ensure!(id.as_str() == text, "two texts for one key: {text}");
    }
    if let Some(account) = AccountKey::parse_anonymous_id(&text) {
        ensure!(
            account.anonymous_id() == text,
            "two texts for one account: {text}"
        );
    }
    if let Ok(email) = Email::parse(&text) {
        let again = Email::parse(email.as_str());
        ensure!(again == Ok(email), "an e-mail is read in two ways: {text}");
    }
    if let Ok(plan) = Plans::seed().get(&text) {
        ensure!(plan.name() == text, "two texts for one plan: {text}");
    }
    if let Some(at) = Timestamp::parse_rfc3339(&text) {
        let again = Timestamp::parse_rfc3339(&at.to_string());
        // What lies beyond the year 9999 in UTC has no such text.
        ensure!(again.is_none_or(|again| again == at), "a time: {text}");
    }
    Ok(())
}

/// An answer, read whole.
struct Read {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    has_body: bool,
}

fn call(
    method: &str,
    uri: &Uri,
    credential: Option<(&'static str, &'static str)>,
) -> Result<Read, String> {
    let fixture = fixture()?;
    let mut request = http::Request::builder().method(method).uri(uri.clone());
    if uri.authority().is_none() {
        request = request.header(header::HOST, "localhost");
    }
    if let Some((name, value)) = credential {
        request = request.header(name, value);
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    fixture.runtime.block_on(async {
        let routes = warp::service(super::routes(&fixture.app));
        let Ok(response) = super::answer(fixture.app.clone(), routes, request, PEER).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?;
        Ok(Read {
            status: parts.status,
            headers: parts.headers,
            body: body.to_bytes(),
            has_body: method != "HEAD" && parts.status != StatusCode::NO_CONTENT,
        })
    })
}

impl Read {
    fn is_sound(&self, uri: &Uri, has_credential: bool) -> Outcome {
        let (status, path) = (self.status, uri.path());
        ensure!(status.as_u16() < 500, "{status} for {path}");
        ensure!(
            self.headers.contains_key("x-request-id"),
            "no X-Request-Id for {path}"
        );
        let is_open = ["/", "/health", "/openapi.json"].contains(&path);
        ensure!(
            has_credential || is_open || !status.is_success() || status == StatusCode::NO_CONTENT,
            "{status} for {path} without a credential"
        );
        ensure!(
            !path.ends_with('/') || path == "/" || status == StatusCode::NOT_FOUND,
            "{status} for {path}, which is another path"
        );
        for secret in [KEY, ADMIN] {
            ensure!(
                !holds(&self.body, secret.as_bytes()),
                "a secret in the answer for {path}"
            );
        }
        if !self.has_body {
            ensure!(self.body.is_empty(), "a body after all for {path}");
            return Ok(());
        }
        let body: Value =
            serde_json::from_slice(&self.body).map_err(|error| format!("{path}: {error}"))?;
        if !status.is_success() {
            for field in ["error", "code", "message", "request_id"] {
                ensure!(
                    body.get(field).is_some_and(Value::is_string),
                    "no {field} in the answer for {path}"
                );
            }
            ensure!(
                self.body.len() <= ERROR_BYTES_MAX,
                "an error of {} bytes",
                self.body.len()
            );
        }
        Ok(())
    }
}

fn request(param: &str, query: &str) -> Request {
    Request {
        peer: PEER,
        id: None,
        caller: Caller::Nobody,
        param: param.to_owned(),
        query: query.to_owned(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
    }
}

/// A query: values come out as they were encoded, numbers are numbers, and a cursor is good for its own
/// account only.
///
/// # Errors
///
/// What does not hold.
pub(crate) fn query(bytes: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Ok(()); // no URI has it
    };
    let asked = request("", text);
    for name in ["page", "limit", "cursor", "q", "status"] {
        match asked.query_param(name) {
            Ok(None) => {}
            Ok(Some(value)) => {
                let encoded = percent_encoding::utf8_percent_encode(
                    &value,
                    percent_encoding::NON_ALPHANUMERIC,
                );
                let again = request("", &format!("x=1&{name}={encoded}&y")).query_param(name);
                ensure!(
                    again.as_ref().is_ok_and(|again| *again == Some(value)),
                    "{name} does not come back"
                );
            }
            Err(error) => is_short(&error)?,
        }
        match asked.positive_param(name) {
            Ok(Some(number)) => {
                ensure!(number >= 1, "{name} is 0");
                let again = request("", &format!("{name}={number}")).positive_param(name);
                ensure!(
                    again.is_ok_and(|again| again == Some(number)),
                    "{name}={number} does not come back"
                );
            }
            Ok(None) => {}
            Err(error) => is_short(&error)?,
        }
    }
    let fixture = fixture()?;
    if let Ok(Some(sent)) = asked.query_param("cursor") {
        match parse_cursor(&fixture.principal, &sent) {
            Ok(id) => {
                let made = cursor(&fixture.principal, id);
                ensure!(made == sent, "two cursors for one place: {sent}");
                let stranger = Principal {
                    account: STRANGER,
                    ..(*fixture.principal).clone()
                };
                ensure!(
                    parse_cursor(&stranger, &sent).is_err(),
                    "a cursor is good for another account"
                );
            }
            Err(error) => is_short(&error)?,
        }
    }
    for (path, credential) in [
        ("/memory", ("x-api-key", KEY)),
        ("/apikey/list", ("x-api-key", KEY)),
        ("/admin/users", ("x-admin-key", ADMIN)),
    ] {
        if let Ok(uri) = Uri::try_from(format!("{path}?{text}")) {
            let answer = call("GET", &uri, Some(credential))?;
            answer.is_sound(&uri, true)?;
            ensure!(
                [200, 400, 402].contains(&answer.status.as_u16()),
                "{} for {uri}",
                answer.status
            );
        }
    }
    Ok(())
}

fn is_short(error: &ApiError) -> Outcome {
    let bytes = error.body("").len();
    ensure!(bytes <= ERROR_BYTES_MAX, "an error of {bytes} bytes");
    Ok(())
}

/// A body: what is taken as a memory keeps to every limit, comes back equal, and is taken again.
///
/// # Errors
///
/// What does not hold.
pub(crate) fn memory_body(bytes: &[u8]) -> Outcome {
    other_body(bytes)?;
    let object = match Object::parse(bytes) {
        Ok(object) => object,
        Err(error) => return is_short(&error.into()),
    };
    let sent: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    ensure!(
        depth(&sent) <= json::DEPTH_MAX.saturating_add(1),
        "nested {} levels deep",
        depth(&sent)
    );
    let memory = match NewMemory::parse(object) {
        Ok(memory) => memory,
        Err(error) => return is_short(&error.into()),
    };
    let stamp = Stamp {
        id: MemoryId::from_bytes([1; 16]),
        timestamp: NOW,
        key_id: "key_fuzz00000000",
        updated_at: None,
    };
    let entry = memory.entry_json(&stamp);
    let kept: Value = serde_json::from_str(&entry).map_err(|error| format!("{error}: {entry}"))?;
    within_limits(&kept)?;
    comes_back(&sent, &kept)?;
    ensure!(
        entry.len() <= bytes.len().saturating_add(512),
        "{} bytes became {}",
        bytes.len(),
        entry.len()
    );
    let kept_object = || Object::parse(entry.as_bytes()).map_err(|error| error.to_string());
    let sent_object = || Object::parse(bytes).map_err(|error| error.to_string());
    let again = NewMemory::parse(kept_object()?).map_err(|error| error.to_string())?;
    ensure!(
        again.entry_json(&stamp) == entry,
        "not taken again: {entry}"
    );
    // The same as a change of itself.
    let changed = NewMemory::changed(kept_object()?, sent_object()?, usize::MAX);
    let checked = NewMemory::check_change(sent_object()?);
    ensure!(
        changed.as_ref().err() == checked.as_ref().err(),
        "a change is checked in two ways: {checked:?}, {:?}",
        changed.err()
    );
    if let Ok(changed) = changed {
        let changed: Value =
            serde_json::from_str(&changed.entry_json(&stamp)).map_err(|error| error.to_string())?;
        for (name, value) in kept.as_object().into_iter().flatten() {
            ensure!(
                value.is_null() || changed.get(name) == Some(value),
                "a change to the same changes {name}"
            );
        }
    }
    Ok(())
}

/// A body of the other routes: fields are taken or refused in few words.
fn other_body(bytes: &[u8]) -> Outcome {
    let mut request = request("", "");
    request.body = Bytes::copy_from_slice(bytes);
    let mut fields = match request.optional_fields() {
        Ok(fields) => fields,
        Err(error) => return is_short(&error),
    };
    for name in ["email", "account_id", "description", "api_key"] {
        if let Err(error) = fields.string(name) {
            is_short(&error)?;
        }
    }
    if let Err(error) = fields.plan("plan", Plans::seed()) {
        is_short(&error)?;
    }
    fields.finish().or_else(|error| is_short(&error))
}

fn depth(value: &Value) -> usize {
    let inner = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(members) => members.values().map(depth).max(),
        _ => return 0,
    };
    inner.unwrap_or(0).saturating_add(1)
}

fn within_limits(kept: &Value) -> Outcome {
    let text = |name: &str| kept.get(name).and_then(Value::as_str).unwrap_or_default();
    for (name, chars_max) in [
        ("topic", TOPIC_CHARS_MAX),
        ("type", NAME_CHARS_MAX),
        ("category", NAME_CHARS_MAX),
    ] {
        let chars = text(name).chars().count();
        ensure!((1..=chars_max).contains(&chars), "{name} has {chars}");
        ensure!(text(name).trim() == text(name), "{name} is not trimmed");
    }
    for name in ["topic", "type", "category", "input", "output"] {
        ensure!(!text(name).contains('\0'), "NUL in {name}");
    }
    let tags = kept.get("tags").and_then(Value::as_array);
    ensure!(
        tags.is_some_and(|tags| tags.len() <= TAGS_MAX
            && tags.iter().all(|tag| tag
                .as_str()
                .is_some_and(|tag| tag.chars().count() <= TAG_CHARS_MAX))),
        "tags are {tags:?}"
    );
    ensure!(
        kept.get("success").is_some_and(Value::is_boolean)
            && kept.get("reviewed").is_some_and(Value::is_boolean)
            && kept.get("score").is_some_and(Value::is_i64)
            && kept.get("maxScore").is_some_and(Value::is_i64)
            && kept.get("api_key").is_none(),
        "a field has another type"
    );
    Ok(())
}

/// Compares what was sent with what is kept.
fn comes_back(sent: &Value, kept: &Value) -> Outcome {
    for (name, value) in sent.as_object().into_iter().flatten() {
        let found = kept.get(name);
        let is_equal = match name.as_str() {
            "id" | "timestamp" | "updated_at" | "key_id" => true,
            "topic" | "type" | "category" => {
                found.and_then(Value::as_str) == value.as_str().map(str::trim)
            }
            "score" | "maxScore" | "tags" | "reviewed" if value.is_null() => found.is_some(),
            // `-0`, which is a double to serde_json, is the integer 0.
            "score" | "maxScore" if value.as_f64() == Some(0.0) => {
                found.and_then(Value::as_i64) == Some(0)
            }
            _ => found == Some(value),
        };
        ensure!(is_equal, "{name} does not come back as it was sent");
    }
    Ok(())
}
