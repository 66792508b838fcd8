//! A receiver's URL, as the operator configured it.

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use http::uri::Scheme;

use crate::domain::webhook::EndpointId;

use super::guard;

/// Longest URL.
const URL_BYTES_MAX: usize = 2_048;

/// A receiver. `Debug` and `Display` leave out the query, which may hold a token.
#[derive(Clone)]
pub struct Endpoint {
    id: EndpointId,
    is_https: bool,
    host: String,
    port: u16,
    authority: String,
    path_and_query: String,
    shown: String,
}

/// Why a URL is no endpoint: the second half of a sentence that begins with the setting. Never the URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It is no URL with a scheme and a host.
    #[error("is not like https://hooks.example.com/memoryos")]
    Malformed,
    /// It has a user or a password.
    #[error(
        "has a user or a password in it; take it out, and check the signature to know who calls"
    )]
    UserInfo,
    /// It is `http`, or another scheme.
    #[error("is not https; http is for receivers of your own, with --webhook-allow-private")]
    Scheme,
    /// The address is not one of the public internet.
    #[error("names a {0} address; --webhook-allow-private (WEBHOOK_ALLOW_PRIVATE) allows that")]
    Address(&'static str),
}

impl Endpoint {
    /// Takes a URL. With `allow_private` it may be `http`, and name an address that is not public. What a
    /// host name stands for is looked at for each delivery.
    ///
    /// # Errors
    ///
    /// [`EndpointError`]
    pub fn parse(text: &str, allow_private: bool) -> Result<Self, EndpointError> {
        let malformed = EndpointError::Malformed;
        // A fragment is never sent; `Uri` would drop it and say nothing.
        if text.len() > URL_BYTES_MAX || text.contains('#') {
            return Err(malformed);
        }
        let uri: Uri = text.parse().map_err(|_| malformed)?;
        let authority = uri.authority().ok_or(malformed)?;
        if authority.as_str().contains('@') {
            return Err(EndpointError::UserInfo);
        }
        let scheme = uri.scheme().ok_or(malformed)?;
        let is_https = *scheme == Scheme::HTTPS;
        let is_allowed_http = allow_private && *scheme == Scheme::HTTP;
        if !is_https && !is_allowed_http {
            return Err(EndpointError::Scheme);
        }
        let host = authority.host();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        // A port that is no number is none to `Uri`.
        let written = authority.as_str().strip_prefix(authority.host());
        let port = match (written, authority.port_u16()) {
            (Some(""), _) => Some(if is_https { 443 } else { 80 }),
            (_, port) => port.filter(|port| *port != 0),
        };
        let port = port.ok_or(malformed)?;
        if host.is_empty() {
            return Err(malformed);
        }
        if let (Ok(address), false) = (host.parse::<IpAddr>(), allow_private)
            && let Some(kind) = guard::refusal(address)
        {
            return Err(EndpointError::Address(kind));
        }
        let path_and_query = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            id: EndpointId::of_url(&uri.to_string()),
            is_https,
            host: host.to_owned(),
            port,
            authority: authority.as_str().to_owned(),
            path_and_query: path_and_query.to_owned(),
            shown: format!("{scheme}://{authority}{}", uri.path()),
        })
    }

    /// Returns its name inside.
    #[must_use]
    pub const fn id(&self) -> EndpointId {
        self.id
    }

    /// Says whether it is called over TLS.
    #[must_use]
    pub const fn is_https(&self) -> bool {
        self.is_https
    }

    /// Returns the host, an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Returns host and port as they were written: the header `Host`.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Returns what the request names: path and query.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        &self.path_and_query
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_shown_without_its_query() {
        let endpoint = Endpoint::parse("https://Hooks.example.com/in?token=t", false).unwrap();
        assert!(endpoint.is_https());
        assert_eq!(
            (endpoint.host(), endpoint.port()),
            ("Hooks.example.com", 443)
        );
        assert_eq!(endpoint.path_and_query(), "/in?token=t");
        assert_eq!(endpoint.to_string(), "https://Hooks.example.com/in");
        assert!(!format!("{endpoint:?}").contains("token"));
        let endpoint = Endpoint::parse("http://[::1]:8080", true).unwrap();
        assert!(!endpoint.is_https());
        assert_eq!((endpoint.host(), endpoint.port()), ("::1", 8_080));
        assert_eq!(endpoint.authority(), "[::1]:8080");
        assert_eq!(endpoint.path_and_query(), "/");
    }

    #[test]
    fn two_urls_are_two_endpoints() {
        let id = |url| Endpoint::parse(url, false).unwrap().id();
        assert_eq!(id("https://a.example/x"), id("https://a.example/x"));
        assert_ne!(id("https://a.example/x"), id("https://a.example/x?1"));
    }

    #[test]
    fn what_may_not_be_called_is_refused() {
        use EndpointError::{Address, Malformed, Scheme, UserInfo};
        let cases = [
            ("", Malformed),
            ("hooks.example.com", Malformed),
            ("/in", Malformed),
            ("https://", Malformed),
            ("https:///in", Malformed),
            ("https://a.example:0/", Malformed),
            ("https://a.example:99999/", Malformed),
            ("https://a.example:/", Malformed),
            ("https://a.example/ b", Malformed),
            ("https://a.example/#part", Malformed),
            ("https://user@a.example/", UserInfo),
            ("https://user:secret@a.example/", UserInfo),
            ("http://a.example/", Scheme),
            ("ftp://a.example/", Scheme),
            ("https://127.0.0.1/", Address("loopback")),
            ("https://[::ffff:127.0.0.1]/", Address("loopback")),
            ("https://169.254.169.254/", Address("link-local")),
        ];
        for (text, error) in cases {
            assert_eq!(Endpoint::parse(text, false).unwrap_err(), error, "{text}");
        }
        let long = format!("https://a.example/{}", "x".repeat(URL_BYTES_MAX));
        assert_eq!(Endpoint::parse(&long, true).unwrap_err(), Malformed);
        // The flag opens http and private addresses, and nothing else.
        for text in [
            "http://a.example/",
            "https://127.0.0.1/",
            "http://10.0.0.1:99/",
        ] {
            assert!(Endpoint::parse(text, true).is_ok(), "{text}");
        }
        for text in ["ftp://a.example/", "http://user@a.example/"] {
            assert!(Endpoint::parse(text, true).is_err(), "{text}");
        }
    }
}
