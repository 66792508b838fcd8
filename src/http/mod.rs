//! HTTP: warp, and nothing but warp. Every route is in [`ENDPOINTS`]; this is the way of a request:
//!
//! 1. [`trace`] gives it an id, catches panics, writes the log line and the headers of every answer.
//! 2. The warp filter takes it apart; [`paths`] finds its path, or it ends as 404.
//! 3. [`select`] finds the endpoint for its method, or makes a 405 with `Allow`.
//! 4. [`auth::caller`] says who calls, as a value, against the store's trees. Around it [`limits`] counts.
//! 5. [`request::read_body`] reads the body, if the endpoint has one.
//! 6. The handler checks path, query and fields, and calls a use case.
//!
//! After the path has matched nothing rejects: each step hands on a value or an error.

mod account;
mod admin;
mod admin_user;
mod apikey;
mod audit;
mod auth;
mod client;
mod context;
mod erasure;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod json;
mod ledger;
mod limits;
mod memory;
pub mod openapi;
#[doc(hidden)]
pub mod parts;
mod paths;
mod plan;
mod reply;
mod request;
mod rest;
mod system;
mod trace;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt, TryStreamExt};
use http::header::{ALLOW, HeaderValue};
use http::{HeaderMap, Method, Response};
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::path::FullPath;

use crate::app::{App, Caller, Failure};
use crate::domain::event::RequestId;
use crate::domain::plan::Prices;
use crate::domain::scope::Scope;

pub use auth::Access;
pub use error::{ApiError, Code};
pub(crate) use ledger::history_csv;
pub use rest::{Rest, SharedBody, keep_rest};
pub use trace::answer;

use limits::Admitted;
use paths::{Path, Paths};
use reply::{Answer, Reply};
use request::{BodyStream, Request};

type Handler = fn(App, Request) -> Pin<Box<dyn Future<Output = Answer> + Send>>;

/// One method of one path.
pub struct Endpoint {
    /// The method.
    pub method: Method,
    /// The path, names in braces.
    pub path: &'static str,
    /// Whom it is for.
    pub access: Access,
    /// What a key must be allowed to do; an admin may do all.
    pub scope: Option<Scope>,
    /// Whether it reads a body.
    pub has_body: bool,
    /// What it does; see [`Endpoint::summary_with_price`].
    pub summary: &'static str,
    /// The rest of what [`openapi`] tells of it.
    describe: fn() -> openapi::Described,
    handler: Handler,
}

impl Endpoint {
    /// Returns what it does and, if it is not free, what it costs: for the list at `/`.
    #[must_use]
    pub fn summary_with_price(&self, prices: &Prices) -> String {
        let summary = self.summary;
        match (self.describe)().operation.map_or(0, |o| prices.of(o)) {
            0 => summary.to_owned(),
            1 => format!("{summary} (1 credit)"),
            price => format!("{summary} ({price} credits)"),
        }
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// The handler `module::name` is described by `openapi::module::name`: a route without a description does
/// not compile.
macro_rules! endpoint {
    ($method:ident $path:literal $access:ident $(($scope:ident))? $body:literal
     $module:ident::$name:ident, $summary:literal) => {
        Endpoint {
            method: Method::$method,
            path: $path,
            access: Access::$access,
            scope: endpoint!(@scope $($scope)?),
            has_body: $body,
            summary: $summary,
            describe: openapi::$module::$name,
            handler: |app, request| Box::pin($module::$name(app, request)),
        }
    };
    (@scope) => {
        None
    };
    (@scope $scope:ident) => {
        Some(Scope::$scope)
    };
}

/// Every route of the service.
pub static ENDPOINTS: &[Endpoint] = &[
    endpoint!(GET "/" Open false system::index, "This list"),
    endpoint!(GET "/health" Open false system::health, "Health check"),
    endpoint!(GET "/openapi.json" Open false system::openapi, "Description of this API"),
    endpoint!(GET "/plans" Open false plan::list, "Plans and prices"),
    endpoint!(POST "/signup" Open true account::sign_up, "Create an account"),
    endpoint!(POST "/login" KeyHereOrInBody true account::login, "Say whose a key is"),
    endpoint!(GET "/credits" Key false account::credits, "Credits and room that are left"),
    endpoint!(GET "/credits/history" Key(Account) false ledger::history, "Credits that came and went"),
    endpoint!(GET "/credits/statement" Key(Account) false ledger::statement, "A cycle's statement"),
    endpoint!(DELETE "/account" Key(Account) true erasure::account, "Erase the account"),
    endpoint!(GET "/whoami" Key false account::whoami, "Say what a key is and may do"),
    endpoint!(POST "/apikey/new" KeyOrAdmin(Keys) true apikey::create, "Make an API key"),
    endpoint!(GET "/apikey/list" KeyOrAdmin(Keys) false apikey::list, "List API keys"),
    endpoint!(PATCH "/apikey/{key}" KeyOrAdmin(Keys) true apikey::change, "Change an API key"),
    endpoint!(DELETE "/apikey/{key}" KeyOrAdmin(Keys) false apikey::revoke, "Revoke an API key"),
    endpoint!(POST "/apikey/{key}/rotate" KeyOrAdmin(Keys) true apikey::rotate, "Rotate an API key"),
    endpoint!(GET "/memory" Key(MemoryRead) false memory::list, "List memories"),
    endpoint!(POST "/memory" Key(MemoryWrite) true memory::add, "Add a memory"),
    endpoint!(GET "/memory/{id}" Key(MemoryRead) false memory::read, "Read a memory"),
    endpoint!(PATCH "/memory/{id}" Key(MemoryWrite) true memory::update, "Change a memory"),
    endpoint!(DELETE "/memory/{id}" Key(MemoryWrite) false memory::delete, "Delete a memory"),
    endpoint!(GET "/stats" Key(MemoryRead) false system::stats, "Statistics of the memories"),
    endpoint!(GET "/gpt-status" Key(MemoryRead) false system::gpt_status, "Status for a GPT"),
    endpoint!(GET "/admin/users" Admin false admin::users, "List accounts (admin)"),
    endpoint!(PUT "/admin/user/{key}/plan" Admin true admin::change_plan, "Change a plan (admin)"),
    endpoint!(GET "/admin/user/{key}" Admin false admin_user::user, "One account and its keys (admin)"),
    endpoint!(DELETE "/admin/user/{key}" Admin true erasure::user, "Erase an account (admin)"),
    endpoint!(POST "/admin/user/{key}/credits" Admin true admin_user::adjust, "Give or take credits (admin)"),
    endpoint!(POST "/admin/user/{key}/suspend" Admin true admin_user::suspend, "Suspend an account (admin)"),
    endpoint!(POST "/admin/user/{key}/reactivate" Admin true admin_user::reactivate, "Let an account in again (admin)"),
    endpoint!(PUT "/admin/user/{key}/email" Admin true admin_user::change_email, "Change an e-mail (admin)"),
    endpoint!(GET "/admin/user/{key}/history" Admin false ledger::admin_history, "An account's credits (admin)"),
    endpoint!(GET "/admin/user/{key}/statement" Admin false ledger::admin_statement, "An account's statement (admin)"),
    endpoint!(POST "/admin/sync-memory-counts" Admin true admin::sync, "Recount memories (admin)"),
    endpoint!(POST "/admin/backup" Admin true admin::back_up, "Back up everything (admin)"),
    endpoint!(GET "/admin/check" Admin false admin::check, "Check everything (admin)"),
    endpoint!(GET "/admin/audit" Admin false audit::list, "Read the audit log (admin)"),
    endpoint!(GET "/admin/webhooks" Admin false admin::webhooks, "How webhooks go (admin)"),
];

/// Returns the filter of all routes. It never rejects: an unknown path is an answer too.
#[must_use]
pub fn routes(app: &App) -> BoxedFilter<(Response<Bytes>,)> {
    let (app, paths) = (app.clone(), Arc::new(Paths::new(app)));
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::path::full()
        .and(warp::method())
        .and(warp::header::headers_cloned())
        .and(query)
        .and(warp::body::stream().map(boxed_body))
        .map(
            move |full: FullPath, method, headers, query, body| -> Result<_, ApiError> {
                let (path, param) = paths.find(full.as_str()).ok_or_else(endpoint_not_found)?;
                let incoming = Incoming {
                    id: context::request_id(),
                    peer: context::peer(),
                    method,
                    headers: context::take_headers().unwrap_or(headers),
                    param: param.to_owned(),
                    query,
                    body,
                };
                context::log_path(path.template);
                let admitted = admit(&app, path, &incoming)?;
                // In a box: the filters around it hand it on by value.
                Ok(Box::pin(run(app.clone(), incoming, admitted)))
            },
        )
        .then(async |admitted: Result<_, ApiError>| {
            let answer = match admitted {
                Ok(running) => running.await,
                Err(error) => Err(error),
            };
            answer.map_or_else(unanswered, Reply::into_response)
        })
        .boxed()
}

/// What came in, before anything is known of it but its path.
struct Incoming {
    id: Option<RequestId>,
    peer: IpAddr,
    method: Method,
    headers: HeaderMap,
    param: String,
    query: String,
    body: BodyStream,
}

/// Finds the endpoint for the method, and says who calls.
fn admit(app: &App, path: &Path, incoming: &Incoming) -> Result<Admitted, ApiError> {
    let endpoint = select(path, &incoming.method)?;
    let admitted = limits::admit(app, endpoint, &path.limits, incoming)?;
    in_scope(endpoint, &admitted.caller)?;
    Ok(admitted)
}

fn boxed_body<B: Buf, E: 'static>(
    body: impl Stream<Item = Result<B, E>> + Send + 'static,
) -> BodyStream {
    body.map_ok(|mut part| {
        let length = part.remaining();
        part.copy_to_bytes(length)
    })
    .map_err(drop)
    .boxed()
}

/// Finds the endpoint of a path for a method.
fn select(path: &Path, method: &Method) -> Result<&'static Endpoint, ApiError> {
    let wanted = if method == Method::HEAD {
        &Method::GET
    } else {
        method
    };
    let found = path.limits.endpoint(wanted);
    found.ok_or_else(|| method_not_allowed(path.template))
}

/// Checks that a key may do what the endpoint does.
fn in_scope(endpoint: &Endpoint, caller: &Caller) -> Result<(), ApiError> {
    match (endpoint.scope, caller) {
        (Some(scope), Caller::Key(principal)) if !principal.scopes.contains(scope) => {
            Err(Failure::InsufficientScope(scope).into())
        }
        _ => Ok(()),
    }
}

fn method_not_allowed(path: &'static str) -> ApiError {
    let of_path = ENDPOINTS.iter().filter(|endpoint| endpoint.path == path);
    let mut allow: Vec<&str> = Vec::new();
    for endpoint in of_path {
        allow.push(endpoint.method.as_str());
        if endpoint.method == Method::GET {
            allow.push("HEAD");
        }
    }
    allow.push("OPTIONS");
    let allow = allow.join(", ");
    let message = format!("{path} takes {allow}.");
    let error = ApiError::new(Code::MethodNotAllowed, "Method not allowed", message);
    match HeaderValue::from_str(&allow) {
        Ok(allow) => error.with_header(ALLOW, allow),
        Err(_) => error,
    }
}

/// Reads the body and calls the handler.
async fn run(app: App, incoming: Incoming, admitted: Admitted) -> Answer {
    let sign_up = admitted.sign_up();
    let answer = run_admitted(&app, incoming, admitted).await;
    Admitted::settle(sign_up, &app, &answer);
    answer
}

async fn run_admitted(app: &App, incoming: Incoming, admitted: Admitted) -> Answer {
    let Admitted {
        endpoint, caller, ..
    } = admitted;
    context::log_caller(&caller);
    let Incoming {
        id,
        peer,
        headers,
        param,
        query,
        body,
        ..
    } = incoming;
    let body = if endpoint.has_body {
        request::read_body(&headers, body, app.settings().body_bytes_max).await?
    } else {
        Bytes::new()
    };
    let is_admin = matches!(caller, Caller::Admin);
    let request = Request {
        id,
        caller,
        peer,
        param,
        query,
        headers,
        body,
    };
    let answer = (endpoint.handler)(app.clone(), request).await;
    match answer {
        // No key of the admin's is wrong: the account that was asked for is gone.
        Err(error) if is_admin && error.code == Code::InvalidKey => {
            Err(Failure::UserNotFound.into())
        }
        answer => answer,
    }
}

/// An error as a response: [`trace`] renders it, for only there the request's id is known.
fn unanswered(error: ApiError) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = error.code.word_and_status().1;
    response.extensions_mut().insert(error);
    response
}

fn endpoint_not_found() -> ApiError {
    let mut paths: Vec<&str> = ENDPOINTS.iter().map(|endpoint| endpoint.path).collect();
    paths.dedup();
    ApiError::new(
        Code::EndpointNotFound,
        "Endpoint not found",
        "Check the path; a slash at its end makes it another one.",
    )
    .with("available_endpoints", paths)
}
