//! Where the limits against abuse stand in a request's way, and what a client is told by one.

use std::net::IpAddr;
use std::sync::Arc;

use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

use crate::app::{App, Caller, Exceeded, Origin, Principal, Rule};
use crate::domain::scope::Scope;

use super::audit::note_admin;
use super::auth::{self, Access};
use super::client;
use super::error::{ApiError, Code};
use super::reply::Answer;
use super::{ENDPOINTS, Endpoint, Incoming, openapi};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// The route that makes an account for anybody.
const SIGN_UP: &str = "/signup";

/// Which limit a method of a path has, besides that on wrong credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limited {
    /// None: it is open and costs next to nothing, or the admin's.
    Not,
    /// That on sign-ups.
    SignUp,
    /// That of an account on what it does not pay for. The admin's calls are not counted.
    FreeRoute,
}

/// The limits of one path's methods.
#[derive(Debug)]
pub(super) struct PathLimits(Vec<(&'static Endpoint, Limited)>);

impl PathLimits {
    pub(super) fn new(app: &App, path: &str) -> Self {
        let of_path = ENDPOINTS.iter().filter(|endpoint| endpoint.path == path);
        let limited = |endpoint: &Endpoint| match endpoint.access {
            Access::Open if endpoint.path == SIGN_UP => Limited::SignUp,
            Access::Open | Access::Admin => Limited::Not,
            Access::Key | Access::KeyHereOrInBody | Access::KeyOrAdmin => {
                match openapi::charged_as(endpoint).map_or(0, |operation| app.price(operation)) {
                    0 => Limited::FreeRoute,
                    _ => Limited::Not,
                }
            }
        };
        Self(
            of_path
                .map(|endpoint| (endpoint, limited(endpoint)))
                .collect(),
        )
    }

    /// Returns the endpoint of a method.
    pub(super) fn endpoint(&self, method: &Method) -> Option<&'static Endpoint> {
        let mut all = self.0.iter();
        all.find_map(|(endpoint, _)| (endpoint.method == *method).then_some(*endpoint))
    }

    fn of(&self, endpoint: &Endpoint) -> Limited {
        let mut all = self.0.iter();
        let found = all.find(|(own, _)| own.method == endpoint.method);
        found.map_or(Limited::Not, |(_, limited)| *limited)
    }
}

/// A request that may go on.
pub(super) struct Admitted {
    pub(super) endpoint: &'static Endpoint,
    pub(super) caller: Caller,
    /// From where, if a sign-up was counted.
    sign_up: Option<Origin>,
}

/// Says who calls, and counts the request where it is limited.
pub(super) fn admit(
    app: &App,
    endpoint: &'static Endpoint,
    limits: &PathLimits,
    incoming: &Incoming,
) -> Result<Admitted, ApiError> {
    let limited = limits.of(endpoint);
    let (peer, headers) = (incoming.peer, &incoming.headers);
    let mut sign_up = None;
    if limited == Limited::SignUp {
        let origin = origin(app, peer, headers);
        app.limits().take_sign_up(origin)?;
        sign_up = Some(origin);
    }
    let caller = auth::caller(app, endpoint.access, headers);
    note_admin(app, endpoint, incoming.id, &caller);
    let caller = caller.map_err(|error| failed(app, error, peer, headers))?;
    if let (Caller::Key(principal), Limited::FreeRoute) = (&caller, limited) {
        app.take_free_route(principal)?;
        if endpoint.scope == Some(Scope::Keys) && endpoint.method != Method::GET {
            app.limits().take_key_change(principal)?;
        }
    }
    Ok(Admitted {
        endpoint,
        caller,
        sign_up,
    })
}

impl Admitted {
    /// Uncounts a sign-up that neither made an account nor told of one. An unknown outcome counts.
    pub(super) fn settle(sign_up: Option<Origin>, app: &App, answer: &Answer) {
        let counts = match answer {
            Ok(_) => true,
            Err(error) => {
                matches!(error.code, Code::UserExists | Code::Internal)
                    || error.extra.contains_key("outcome")
            }
        };
        if let (Some(origin), false) = (sign_up, counts) {
            app.limits().give_back_sign_up(origin);
        }
    }

    /// Returns what [`Self::settle`] needs.
    pub(super) const fn sign_up(&self) -> Option<Origin> {
        self.sign_up
    }
}

/// Returns the account of a key that came in a body, as [`admit`] does for one in a header.
pub(super) fn authenticate_body(
    app: &App,
    key: &crate::domain::key::Secret,
    peer: IpAddr,
    headers: &HeaderMap,
) -> Result<Arc<Principal>, ApiError> {
    let principal = app
        .authenticate(key)
        .map_err(|failure| failed(app, failure.into(), peer, headers))?;
    app.take_free_route(&principal)?;
    Ok(principal)
}

/// Counts a credential that is wrong. It was looked up before: a right one is never kept waiting by others
/// that were wrong.
fn failed(app: &App, error: ApiError, peer: IpAddr, headers: &HeaderMap) -> ApiError {
    let is_guess = match error.code {
        Code::InvalidKey | Code::KeyRevoked | Code::KeyExpired => true,
        // An empty one is missing.
        Code::AdminRequired => auth::has_admin_key(headers),
        _ => false,
    };
    if !is_guess {
        return error;
    }
    match app.limits().take_auth_failure(origin(app, peer, headers)) {
        Ok(()) => error,
        Err(failure) => failure.into(),
    }
}

fn origin(app: &App, peer: IpAddr, headers: &HeaderMap) -> Origin {
    client::address(peer, headers, &app.settings().trusted_proxies).into()
}

/// Makes the error of a limit that is reached.
pub(super) fn rate_limited(exceeded: &Exceeded) -> ApiError {
    let Exceeded {
        rule,
        quota,
        wait_seconds: wait,
    } = *exceeded;
    let (name, window) = (rule.name(), rule.window_seconds());
    let limit = match rule {
        Rule::FreeRoutes => format!(
            "{quota} requests a minute that cost no credits, for each account. Requests that cost credits \
             go on."
        ),
        Rule::KeyChanges => format!("{quota} changes of an account's keys an hour."),
        Rule::SignupHour => format!("{quota} sign-ups an hour from one address."),
        Rule::SignupDay => format!("{quota} sign-ups a day from one address."),
        Rule::SignupGlobal => format!("{quota} sign-ups an hour from all addresses together."),
        Rule::AuthFailures => {
            format!(
                "{quota} wrong keys a minute from one address. A right key is let through at once."
            )
        }
    };
    let message = format!("The limit {name} is {limit} Try again in {wait} s.");
    let error = ApiError::new(Code::RateLimited, "Too many requests", message)
        .with("rate_limit", name)
        .with("retry_after", wait)
        .with_header(RETRY_AFTER, wait.into());
    // Structured fields: draft-ietf-httpapi-ratelimit-headers.
    [
        (
            RATE_LIMIT_POLICY,
            format!("\"{name}\";q={quota};w={window}"),
        ),
        (RATE_LIMIT, format!("\"{name}\";r=0;t={wait}")),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, HeaderValue::try_from(value).ok()?)))
    .fold(error, |error, (name, value)| error.with_header(name, value))
}
