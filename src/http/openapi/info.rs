//! What holds for the whole API: conventions, plans, prices, codes, credentials, groups.

use std::fmt::Write as _;

use utoipa::openapi::info::{Info, InfoBuilder, LicenseBuilder};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::tag::{Tag, TagBuilder};

use crate::domain::plan::{Plans, Prices};

use super::super::ENDPOINTS;
use super::super::error::Code;
use super::errors;

/// The scheme of an API key in its own header.
pub(super) const API_KEY: &str = "apiKey";
/// The scheme of an API key as a bearer token.
pub(super) const BEARER: &str = "bearer";
/// The scheme of the admin key.
pub(super) const ADMIN_KEY: &str = "adminKey";

/// The group of routes that tell of the service.
pub(super) const SYSTEM: &str = "system";
/// The group of routes for accounts and what they have left.
pub(super) const ACCOUNTS: &str = "accounts";
/// The group of routes for API keys.
pub(super) const KEYS: &str = "keys";
/// The group of routes for memories.
pub(super) const MEMORIES: &str = "memories";
/// The group of routes for the admin.
pub(super) const ADMIN: &str = "admin";

/// Returns title, version, licence and the conventions, with the tables of plans, prices and codes.
pub(super) fn info(plans: &'static Plans, prices: &Prices) -> Info {
    let license = LicenseBuilder::new()
        .name(env!("CARGO_PKG_LICENSE"))
        .identifier(Some(env!("CARGO_PKG_LICENSE")))
        .build();
    InfoBuilder::new()
        .title("MemoryOS")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(description(plans, prices)))
        .license(Some(license))
        .build()
}

/// Adds to the conventions what tables elsewhere in the program know.
fn description(plans: &'static Plans, prices: &Prices) -> String {
    let mut text = include_str!("conventions.md").to_owned();
    // Writing to a string cannot fail.
    let mut line = |arguments: std::fmt::Arguments<'_>| _ = text.write_fmt(arguments);
    line(format_args!(
        "\n## Plans\n\n| plan | credits each cycle | memories |\n| --- | --- | --- |\n"
    ));
    for plan in plans.iter() {
        let (credits, memories) = (plan.credits_per_cycle(), plan.memories_max());
        line(format_args!("| {plan} | {credits} | {memories} |\n"));
    }
    line(format_args!(
        "\n## Prices\n\nWhat is not listed is free.\n\n| route | credits |\n| --- | --- |\n"
    ));
    for endpoint in ENDPOINTS {
        let operation = (endpoint.describe)().operation;
        let price = operation.map_or(0, |operation| prices.of(operation));
        if price > 0 {
            line(format_args!(
                "| `{} {}` | {price} |\n",
                endpoint.method, endpoint.path
            ));
        }
    }
    line(format_args!(
        "\n## Codes\n\n| code | status | when |\n| --- | --- | --- |\n"
    ));
    for code in Code::ALL {
        let (word, status) = code.word_and_status();
        let meaning = errors::meaning(code);
        line(format_args!(
            "| `{word}` | {} | {meaning} |\n",
            status.as_u16()
        ));
    }
    text
}

/// Returns the groups of routes.
pub(super) fn tags() -> Vec<Tag> {
    let tag = |name, description| {
        TagBuilder::new()
            .name(name)
            .description(Some(description))
            .build()
    };
    vec![
        tag(MEMORIES, "Add, list, read, change and delete memories."),
        tag(ACCOUNTS, "Sign up, see whose a key is and what is left."),
        tag(KEYS, "Make, list and revoke API keys."),
        tag(SYSTEM, "The service and its figures."),
        tag(ADMIN, "For the operator, with the admin key."),
    ]
}

/// Returns the ways to prove who calls.
pub(super) fn security_schemes() -> [(&'static str, SecurityScheme); 3] {
    let in_header = |name: &str, description: &str| {
        SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(
            name,
            description,
        )))
    };
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API key as a bearer token."))
        .build();
    [
        (
            API_KEY,
            in_header("X-API-KEY", "An API key of 32 characters."),
        ),
        (BEARER, SecurityScheme::Http(bearer)),
        (
            ADMIN_KEY,
            in_header("X-ADMIN-KEY", "The admin key that the operator set."),
        ),
    ]
}
