//! Credentials: from headers to who calls, as a value. Nothing here rejects.

use http::HeaderMap;
use http::header::{AUTHORIZATION, FORWARDED, HOST, HeaderName, ORIGIN};

use crate::app::{AdminProof, App, Caller, Failure};
use crate::domain::key::Secret;

use super::error::{ApiError, Code};

/// Whom a route is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody; credentials are not read.
    Open,
    /// A key's account.
    Key,
    /// A key's account; the key may also come in the body.
    KeyHereOrInBody,
    /// A key's account, or the admin for anybody's.
    KeyOrAdmin,
    /// The admin.
    Admin,
}

/// Headers besides `Forwarded` and `X-Forwarded-*` that tell of a proxy.
const PROXIES: [&str; 5] = [
    "via",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
];
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const ADMIN_KEY: HeaderName = HeaderName::from_static("x-admin-key");

/// Says who calls.
pub(crate) fn caller(app: &App, access: Access, headers: &HeaderMap) -> Result<Caller, ApiError> {
    if access == Access::Open {
        return Ok(Caller::Nobody);
    }
    let key = api_key(headers)?;
    let admin_key = single(headers, &ADMIN_KEY)?;
    if let Some(admin_key) = admin_key {
        let proof = AdminProof {
            key: secret(admin_key),
            is_local: is_local(headers),
        };
        app.authenticate_admin(&proof)?;
        if matches!(access, Access::Admin | Access::KeyOrAdmin) {
            return Ok(Caller::Admin);
        }
    }
    match (access, key) {
        (Access::Admin, _) => Err(app.missing_admin_key().into()),
        (Access::KeyHereOrInBody, None) => Ok(Caller::Nobody),
        (_, None) => Err(Failure::MissingCredentials.into()),
        (_, Some(key)) => Ok(Caller::Key(app.authenticate(&key)?)),
    }
}

/// Says whether there is an admin key that is not empty.
pub(super) fn has_admin_key(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(&ADMIN_KEY).iter();
    values.any(|value| !value.as_bytes().trim_ascii().is_empty())
}

/// Returns the API key that the headers carry.
pub(crate) fn api_key(headers: &HeaderMap) -> Result<Option<Secret>, ApiError> {
    let key = single(headers, &API_KEY)?.filter(|value| !value.is_empty());
    let bearer = single(headers, &AUTHORIZATION)?
        .and_then(bearer)
        .filter(|v| !v.is_empty());
    match (key, bearer) {
        (Some(key), Some(bearer)) if key != bearer => Err(ambiguous(
            "X-API-KEY and Authorization carry different keys. Send one of them.",
        )),
        (Some(key), _) | (None, Some(key)) => Ok(Some(secret(key))),
        (None, None) => Ok(None),
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(ambiguous(&format!(
            "The header {name} was sent twice. Send it once."
        )));
    }
    Ok(first.map(|value| value.as_bytes().trim_ascii()))
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let scheme = value.get(..6)?;
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return None;
    }
    match value.get(6) {
        None => Some(&[]),
        Some(b' ') => Some(value.get(6..)?.trim_ascii()),
        Some(_) => None, // another scheme that begins alike
    }
}

/// Bytes that are no text are no key either: they become a text that no key can be.
fn secret(bytes: &[u8]) -> Secret {
    Secret::new(String::from_utf8_lossy(bytes))
}

/// Says whether the request comes straight from this machine and from no page in a browser.
fn is_local(headers: &HeaderMap) -> bool {
    let relayed = headers.contains_key(ORIGIN)
        || headers.contains_key(FORWARDED)
        || headers.keys().any(|name| {
            let name = name.as_str();
            name.starts_with("x-forwarded-") || PROXIES.contains(&name)
        });
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    !relayed && hosts.next().is_none() && host.is_some_and(is_loopback_host)
}

/// Says whether a `Host` names this machine: `localhost`, `127.x.x.x` or `[::1]`, with any port.
fn is_loopback_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

pub(super) fn ambiguous(message: &str) -> ApiError {
    ApiError::new(
        Code::AmbiguousCredentials,
        "Ambiguous credentials",
        message.to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_is_one_scheme_in_any_case() {
        assert_eq!(bearer(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bearer   abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"Bearer"), Some(&b""[..]));
        assert_eq!(bearer(b"Basic abc"), None);
        assert_eq!(bearer(b"Bearerabc"), None);
    }

    #[test]
    fn only_this_machine_is_local() {
        for host in [
            "localhost",
            "LOCALHOST:5000",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:80",
            "[::1]",
        ] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in [
            "",
            "example.com",
            "localhost.evil.com",
            "127.0.0.1.evil.com",
            "10.0.0.1",
            "[::2]",
        ] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }
}
