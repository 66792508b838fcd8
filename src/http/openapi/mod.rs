//! The description of the API, `OpenAPI` 3.1: the contract's home in this project.
//!
//! | part | comes from |
//! | --- | --- |
//! | methods, paths, who may call, bodies | [`ENDPOINTS`], and nowhere else |
//! | what a handler takes, costs and answers | the function of its name in a module of its name here |
//! | schemas of answers | the types that are serialized |
//! | error codes, their examples and headers | [`Code::ALL`] and the errors themselves |
//! | what holds for every route | `conventions.md` |
//!
//! `tests/it/openapi.rs` compares all of it with real answers.

pub(super) mod account;
pub(super) mod admin;
pub(super) mod admin_user;
pub(super) mod apikey;
pub(super) mod audit;
mod describe;
pub(super) mod erasure;
mod errors;
mod info;
pub(super) mod ledger;
pub(super) mod memory;
pub(super) mod plan;
mod schemas;
pub(super) mod system;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;
use http::StatusCode;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{
    Components, ComponentsBuilder, OpenApiBuilder, PathItem, Paths, Ref, ResponsesBuilder, Server,
};

use crate::domain::plan::{Operation as Charged, Plans, Prices};

use super::auth::Access;
use super::error::Code;
use super::{ENDPOINTS, Endpoint};

pub(super) use describe::Described;
pub(super) use schemas::{AccountStatus, ActiveStatus, ScopeName, ServiceStatus};

/// Whom a document is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Everybody: it has every route.
    Everybody,
    /// An assistant that works with memories: it has what a key does with them, and no administration. A
    /// GPT's Actions take 30 routes, and no longer text than 100,000 characters.
    Assistant,
}

impl Audience {
    fn wants(self, endpoint: &Endpoint) -> bool {
        use crate::domain::scope::Scope::{MemoryRead, MemoryWrite};
        match self {
            Self::Everybody => true,
            Self::Assistant => {
                endpoint.access == Access::Key
                    && matches!(endpoint.scope, None | Some(MemoryRead | MemoryWrite))
            }
        }
    }
}

/// Returns the `OpenAPI` document for `audience`; `servers` names `public_url` if the operator set one, else the place
/// that the document came from. `plans` and `prices` are told of as they are.
#[must_use]
pub fn document(
    audience: Audience,
    public_url: Option<&str>,
    plans: &'static Plans,
    prices: &Prices,
) -> String {
    let mut paths = Paths::new();
    let mut components = fixed_components();
    for endpoint in ENDPOINTS.iter().filter(|e| audience.wants(e)) {
        let Some(method) = method(endpoint) else {
            log::error!("{endpoint:?} has a method that OpenAPI does not know");
            continue;
        };
        let described = (endpoint.describe)();
        for (name, schema) in &described.schemas {
            components
                .schemas
                .entry(name.clone())
                .or_insert_with(|| schema.clone());
        }
        let errors = errors::by_status(codes(endpoint, &described));
        for codes in errors.values() {
            components
                .responses
                .entry(errors::response_name(codes))
                .or_insert_with(|| errors::response(codes).into());
        }
        let item = PathItem::new(
            method,
            operation(endpoint, described, prices, &errors, audience),
        );
        match paths.paths.get_mut(endpoint.path) {
            Some(path) => path.merge_operations(item),
            None => drop(paths.paths.insert(endpoint.path.to_owned(), item)),
        }
    }
    let document = OpenApiBuilder::new()
        .info(info::info(plans, prices))
        .servers(Some([Server::new(public_url.unwrap_or("/"))]))
        .paths(paths)
        .components(Some(components))
        .tags(Some(info::tags()))
        .build();
    document.to_json().unwrap_or_else(|error| {
        log::error!("the API's description has no JSON form: {error}");
        "{}".to_owned()
    })
}

/// Returns the document as it is served.
///
/// It is made once: a process has one public URL, one table of plans and its prices. Only a process with
/// several servers, as in tests, makes it again for the others'.
pub(super) fn bytes(
    audience: Audience,
    public_url: Option<&str>,
    plans: &'static Plans,
    prices: &Prices,
) -> Bytes {
    type Of = (Option<String>, &'static Plans, Prices);
    static MADE: [OnceLock<(Of, Bytes)>; 2] = [OnceLock::new(), OnceLock::new()];
    let fresh = || Bytes::from(document(audience, public_url, plans, prices));
    let [everybody, assistant] = &MADE;
    let slot = match audience {
        Audience::Everybody => everybody,
        Audience::Assistant => assistant,
    };
    let of = || (public_url.map(str::to_owned), plans, *prices);
    let ((url, of_plans, of_prices), made) = slot.get_or_init(|| (of(), fresh()));
    if url.as_deref() == public_url && *of_plans == plans && of_prices == prices {
        made.clone()
    } else {
        fresh()
    }
}

/// Returns what does not depend on the routes.
fn fixed_components() -> Components {
    let mut components = ComponentsBuilder::new()
        .schema("Error", errors::schema())
        .schema("Memory", schemas::memory());
    for (name, header) in errors::headers() {
        components = components.header(name, header);
    }
    // They belong to no operation: nothing that is described answers so.
    for code in [Code::EndpointNotFound, Code::MethodNotAllowed] {
        components = components.response(errors::response_name(&[code]), errors::response(&[code]));
    }
    for code in Code::ALL {
        let (word, _) = code.word_and_status();
        components = components.example(word, errors::example(code));
    }
    for (name, scheme) in info::security_schemes() {
        components = components.security_scheme(name, scheme);
    }
    components.build()
}

fn method(endpoint: &Endpoint) -> Option<HttpMethod> {
    match endpoint.method.as_str() {
        "GET" => Some(HttpMethod::Get),
        "POST" => Some(HttpMethod::Post),
        "PUT" => Some(HttpMethod::Put),
        "PATCH" => Some(HttpMethod::Patch),
        "DELETE" => Some(HttpMethod::Delete),
        _ => None,
    }
}

/// Puts together what the table of routes and the handler's description say.
fn operation(
    endpoint: &Endpoint,
    described: Described,
    prices: &Prices,
    errors: &BTreeMap<StatusCode, Vec<Code>>,
    audience: Audience,
) -> Operation {
    let consequential = endpoint.method != http::Method::GET && !described.harmless;
    let price = described.operation.map(|operation| prices.of(operation));
    let mut responses = ResponsesBuilder::new();
    for answer in &described.answers {
        let status = answer.status.as_str();
        responses = responses.response(status, answer.response(price));
    }
    for (status, codes) in errors {
        // `/health` has an answer of its own for a status that is an error's elsewhere.
        if described
            .answers
            .iter()
            .all(|answer| answer.status != *status)
        {
            let name = errors::response_name(codes);
            responses = responses.response(status.as_str(), Ref::from_response_name(name));
        }
    }
    // A GPT's Actions take no headers of a route's own.
    let headers = audience == Audience::Everybody;
    let parameters = described.parameters(endpoint.path, headers);
    let mut operation = OperationBuilder::new()
        .tag(described.tag)
        .operation_id(Some(described.operation_id))
        .summary(Some(endpoint.summary_with_price(prices)))
        .description(Some(described.description))
        .securities(Some(security(endpoint.access)))
        .responses(responses.build())
        .extensions(Some(Extensions::from_iter([(
            "x-openai-isConsequential",
            consequential,
        )])));
    if !parameters.is_empty() {
        operation = operation.parameters(Some(parameters));
    }
    if endpoint.has_body {
        operation = operation.request_body(described.request.map(describe::Body::build));
    }
    operation.build()
}

/// Returns what a success of a route is charged as; `None` if it is free.
pub(super) fn charged_as(endpoint: &Endpoint) -> Option<Charged> {
    (endpoint.describe)().operation
}

/// Returns the codes of a route: those that follow from who may call, from the body and from the price,
/// and those that the handler names.
fn codes(endpoint: &Endpoint, described: &Described) -> Vec<Code> {
    let mut codes = vec![Code::Internal];
    if endpoint.access != Access::Open {
        codes.extend([
            Code::AmbiguousCredentials,
            Code::AdminRequired,
            Code::AdminDisabled,
            Code::RateLimited,
        ]);
        if endpoint.access != Access::Admin {
            codes.extend([
                Code::MissingCredentials,
                Code::InvalidKey,
                Code::KeyRevoked,
                Code::KeyExpired,
                Code::AccountSuspended,
            ]);
        }
        if endpoint.scope.is_some() {
            codes.push(Code::InsufficientScope);
        }
    }
    if endpoint.has_body {
        codes.extend([
            Code::BodyTooLarge,
            Code::UnsupportedMediaType,
            Code::RequestTimeout,
            Code::InvalidJson,
        ]);
        if described.request.as_ref().is_some_and(|body| body.required) {
            codes.push(Code::MissingBody);
        }
    }
    if described.takes_parameters() {
        codes.push(Code::InvalidField);
    }
    if described.operation.is_some() {
        codes.extend([Code::OutOfCredits, Code::Overloaded]);
    }
    if described.writes {
        codes.extend([
            Code::Overloaded,
            Code::StorageUnavailable,
            Code::StorageFull,
        ]);
    }
    codes.extend(described.refusals.iter().copied());
    codes
}

fn security(access: Access) -> Vec<SecurityRequirement> {
    let one = |name: &str| SecurityRequirement::new(name, Vec::<String>::new());
    let (key, admin) = (
        [one(info::API_KEY), one(info::BEARER)],
        one(info::ADMIN_KEY),
    );
    match access {
        Access::Open => Vec::new(),
        Access::Key => key.into(),
        // The key may come in the body: then no header is needed.
        Access::KeyHereOrInBody => [&key[..], &[SecurityRequirement::default()]].concat(),
        Access::KeyOrAdmin => [&key[..], &[admin]].concat(),
        Access::Admin => vec![admin],
    }
}

/// Returns the reference to a header of [`errors::headers`].
fn header_ref(name: &str) -> Ref {
    Ref::new(format!("#/components/headers/{name}"))
}
