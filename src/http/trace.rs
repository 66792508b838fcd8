//! Around every request: its id, its log line, the headers that every answer has, and panics.

use std::convert::Infallible;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::time::Instant;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::Body;
use rand::RngExt;
use tower::Service;
use warp::Reply as _;

use crate::app::App;
use crate::domain::event::RequestId;
use crate::telemetry::REQUESTS;

use super::context;
use super::error::{ApiError, Code};
use super::reply::{Text, credit_headers, whole};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What a page of another origin may send. `X-ADMIN-KEY` is not among it.
const CORS_HEADERS: &str = "Content-Type, X-API-KEY, Authorization, Idempotency-Key, X-Request-Id";
/// What a page of another origin may read.
const CORS_EXPOSED: &str = "X-Request-Id, X-Credits-Cost, X-Credits-Limit, X-Credits-Remaining, \
                            X-Credits-Reset, Idempotent-Replayed, Retry-After, RateLimit, \
                            RateLimit-Policy";
/// Paths whose answers may be kept by caches.
const CACHEABLE: [&str; 3] = ["/", "/health", "/openapi.json"];

/// Answers one request with `routes`. It came over a connection with `peer`.
///
/// # Errors
///
/// Never: a request that fails is answered too.
pub async fn answer<S, B>(
    app: App,
    mut routes: S,
    mut request: Request<B>,
    peer: IpAddr,
) -> Result<Response<Text>, Infallible>
where
    S: Service<Request<B>, Response = warp::reply::Response, Error = Infallible>,
{
    let started = Instant::now();
    let id = RequestId::new(app.now().millis(), rand::rng().random());
    let request_id = id.to_string();
    let client_id = client_request_id(request.headers());
    let method = request.method().clone();
    name_host(&mut request);
    name_path(&mut request);
    let headers = std::mem::take(request.headers_mut());
    // Called inside, for a part of it runs before it is a future. It is pinned here, for whoever takes a future by
    // value has room for it twice, and all of that is moved with each request.
    let answering =
        pin!(AssertUnwindSafe(async move { routes.call(request).await }).catch_unwind());
    let (outcome, logged) = context::within(id, peer, headers, answering).await;
    let mut response = match outcome {
        Ok(Ok(response)) => response,
        // The panic's own message went to the log already.
        Err(_) => rendered(&app, &ApiError::internal(), &request_id),
    };
    let error = response.extensions_mut().remove::<ApiError>();
    let refusal = error
        .as_ref()
        .map_or("-", |error| error.code.word_and_status().0);
    if let Some(error) = &error {
        response = if method == Method::OPTIONS && error.code == Code::MethodNotAllowed {
            preflight(error)
        } else {
            rendered(&app, error, &request_id)
        };
    }
    finish_headers(&mut response, logged.path, &request_id);
    let (mut parts, mut body) = whole(response);
    if method == Method::HEAD {
        if let Some(bytes) = body.size_hint().exact() {
            parts.headers.insert(header::CONTENT_LENGTH, bytes.into());
        }
        body = Text::default();
    }
    log::info!(
        target: REQUESTS,
        "{method} {} {} {refusal} {}us id={request_id} key={} client_id={}",
        logged.path.unwrap_or("-"),
        parts.status.as_u16(),
        started.elapsed().as_micros(),
        logged.caller.as_str(),
        client_id.as_deref().unwrap_or("-"),
    );
    Ok(Response::from_parts(parts, body))
}

/// Returns the client's own request id, if it is 1 to 64 visible ASCII characters.
fn client_request_id(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(REQUEST_ID)?.to_str().ok()?;
    let is_fit = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    is_fit.then(|| text.to_owned())
}

/// HTTP/2, and a proxy's form of HTTP/1, name the host in the URI, and that one counts (RFC 9112, 3.2.2):
/// handlers find it in `Host`.
fn name_host<B>(request: &mut Request<B>) {
    let named = request
        .uri()
        .authority()
        .map(|authority| authority.as_str().to_owned());
    if let Some(host) = named.and_then(|host| HeaderValue::try_from(host).ok()) {
        request.headers_mut().insert(header::HOST, host);
    }
}

/// `CONNECT host:port`, or any method with a host alone, has no path (RFC 9112, 3.2.3); warp needs one, and
/// `*` is nobody's.
fn name_path<B>(request: &mut Request<B>) {
    if request.uri().path_and_query().is_none() {
        *request.uri_mut() = Uri::from_static("*");
    }
}

/// Returns the response that an error is.
fn rendered(app: &App, error: &ApiError, request_id: &str) -> warp::reply::Response {
    let mut response = Response::new(Bytes::from(error.body(request_id)));
    *response.status_mut() = error.code.word_and_status().1;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    for (name, value) in &error.headers {
        headers.insert(name.clone(), value.clone());
    }
    if let Some(balance) = &error.balance {
        headers.extend(credit_headers(0, balance, app.now()));
    }
    response.into_response()
}

/// Answers OPTIONS on a known path.
fn preflight(error: &ApiError) -> warp::reply::Response {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    for (name, value) in &error.headers {
        headers.insert(name.clone(), value.clone());
        if name == header::ALLOW {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, value.clone());
        }
    }
    let allowed = HeaderValue::from_static(CORS_HEADERS);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(
        header::ACCESS_CONTROL_MAX_AGE,
        HeaderValue::from_static("86400"),
    );
    response.into_response()
}

fn finish_headers(response: &mut warp::reply::Response, path: Option<&str>, request_id: &str) {
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, id);
    }
    if !path.is_some_and(|path| CACHEABLE.contains(&path)) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        HeaderValue::from_static("*"),
    );
    let exposed = HeaderValue::from_static(CORS_EXPOSED);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
}
