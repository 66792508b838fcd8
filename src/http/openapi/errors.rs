//! Errors in the description: a sentence, an example and the headers for each code, and the one schema.

use std::collections::BTreeMap;

use http::StatusCode;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::example::{Example, ExampleBuilder};
use utoipa::openapi::{
    ArrayBuilder, Header, HeaderBuilder, KnownFormat, Object, ObjectBuilder, Ref, RefOr, Response,
    ResponseBuilder, SchemaFormat, Type,
};

use crate::app::{Exceeded, Failure, RateLimits, Rule};
use crate::domain::memory::MemoryError;
use crate::domain::plan::{Operation, Plan, Prices, UnknownPlan};
use crate::domain::scope::Scope;
use crate::domain::time::Timestamp;
use crate::domain::usage::Balance;

use super::super::error::{ApiError, Code};
use super::super::{auth, memory, request};
use super::header_ref;
use super::schemas::text;

/// Names a request.
pub(super) const REQUEST_ID: &str = "X-Request-Id";
/// Marks an answer that was recorded.
pub(super) const REPLAYED: &str = "Idempotent-Replayed";
/// What a request cost and what is left.
pub(super) const CREDITS: [&str; 4] = [
    "X-Credits-Cost",
    "X-Credits-Limit",
    "X-Credits-Remaining",
    "X-Credits-Reset",
];
const RETRY_AFTER: &str = "Retry-After";
const RATE_LIMIT: &str = "RateLimit";
const RATE_LIMIT_POLICY: &str = "RateLimit-Policy";
const AUTHENTICATE: &str = "WWW-Authenticate";
const ALLOW: &str = "Allow";

/// The request id in examples.
const EXAMPLE_ID: &str = "01KG8Z4VQ6T2M9XC3R5H7N1BDE";
/// 2026-02-28T09:15:00Z, when the cycle ends in examples.
const EXAMPLE_RESET: Timestamp = Timestamp::from_micros(1_772_270_100_000_000);

/// Returns every header that answers have.
pub(super) fn headers() -> Vec<(&'static str, Header)> {
    let whole = || {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(0))
            .build()
    };
    let words = || Object::with_type(Type::String);
    let header = |schema: Object, description: &str, example: &str| {
        let example = example
            .parse::<u64>()
            .map_or_else(|_| example.into(), serde_json::Value::from);
        HeaderBuilder::new()
            .schema(Some(schema))
            .description(Some(description))
            .example(Some(example))
            .build()
    };
    let [cost, limit, remaining, reset] = CREDITS;
    vec![
        (
            REQUEST_ID,
            header(
                words(),
                "Names this request, in the server's log too.",
                EXAMPLE_ID,
            ),
        ),
        (
            cost,
            header(
                whole(),
                "Credits debited by this request; 0 on a 402 and on a replay.",
                "1",
            ),
        ),
        (
            limit,
            header(whole(), "Credits of the plan in a billing cycle.", "100"),
        ),
        (
            remaining,
            header(whole(), "Credits left after this request.", "97"),
        ),
        (
            reset,
            header(
                whole(),
                "Seconds until the cycle ends, rounded up.",
                "2419200",
            ),
        ),
        (
            REPLAYED,
            header(
                words(),
                "`true` when this is the recorded answer to an earlier request with the same \
                 Idempotency-Key; absent otherwise.",
                "true",
            ),
        ),
        (
            RETRY_AFTER,
            header(whole(), "Seconds to wait before trying again.", "1"),
        ),
        (
            RATE_LIMIT_POLICY,
            header(
                words(),
                "The limit that was reached: its name, how many there may be (`q`), and in how many seconds \
                 (`w`).",
                "\"signup-hour\";q=5;w=3600",
            ),
        ),
        (
            RATE_LIMIT,
            header(
                words(),
                "The limit that was reached: how many are left (`r`), and in how many seconds there is one \
                 more (`t`).",
                "\"signup-hour\";r=0;t=720",
            ),
        ),
        (
            AUTHENTICATE,
            header(words(), "How to authenticate.", "Bearer"),
        ),
        (
            ALLOW,
            header(
                words(),
                "The methods that the path takes.",
                "GET, HEAD, POST, OPTIONS",
            ),
        ),
    ]
}

/// Says in a sentence when a code is the answer.
pub(super) const fn meaning(code: Code) -> &'static str {
    match code {
        Code::EndpointNotFound => "No route has this path; the body lists those there are.",
        Code::MethodNotAllowed => "The path takes other methods; `Allow` lists them.",
        Code::AmbiguousCredentials => "Two keys that differ, or a credential header sent twice.",
        Code::MissingCredentials => "No API key was sent.",
        Code::InvalidKey => "The API key is nobody's.",
        Code::KeyRevoked => "The API key was revoked.",
        Code::AdminRequired => "The admin key is missing, empty or wrong.",
        Code::AdminDisabled => "This server takes no admin key until its operator sets one.",
        Code::PermissionDenied => "Another account's; a key acts for its own only.",
        Code::BodyTooLarge => "The body is larger than 64 KiB, or what the operator set.",
        Code::UnsupportedMediaType => "The Content-Type is not application/json.",
        Code::RequestTimeout => "The body did not come in time.",
        Code::InvalidJson => "The body is no JSON object that can be taken.",
        Code::MissingBody => "The body is empty.",
        Code::InvalidField => "A field or parameter is wrong or unknown; `field` names it.",
        Code::InvalidMemory => "The body is no memory; `field` names what is missing or wrong.",
        Code::InvalidPlan => "No plan has this name, or none was given.",
        Code::InvalidIdempotencyKey => {
            "The Idempotency-Key is not 1 to 255 visible ASCII characters."
        }
        Code::IdempotencyKeyReused => "The Idempotency-Key was used with another body.",
        Code::IdempotencyInFlight => {
            "The first request with this Idempotency-Key is not answered yet."
        }
        Code::SignupClosed => "Nobody can sign up on this server.",
        Code::PlanNotOpen => "Nobody can sign up for this plan.",
        Code::PlanAboveAccount => "The plan is above the account's, or the key's that asks.",
        Code::UserExists => "The e-mail has an account.",
        Code::UserNotFound => "No such account.",
        Code::KeyNotFound => "No such key.",
        Code::KeyLimitReached => "The account has 100 active keys.",
        Code::LastActiveKey => "It is the account's only active key that manages keys.",
        Code::AmbiguousKey => "The masked form fits more than one key.",
        Code::NotFound => "No memory of this account has this id.",
        Code::OutOfCredits => "Too few credits are left. Nothing was debited.",
        Code::MemoryLimitExceeded => {
            "The plan has no room for another memory. Nothing was debited."
        }
        Code::BackupInProgress => "A backup is being made; there is one at a time.",
        Code::CheckInProgress => "A check is running; there is one at a time.",
        Code::RateLimited => {
            "Too many requests of a kind; `rate_limit` names the limit. Nothing was debited."
        }
        Code::KeyExpired => "The API key's time has come.",
        Code::AccountSuspended => "The operator has suspended the account.",
        Code::InsufficientScope => "The key lacks a scope; `required_scope` names it.",
        Code::CreditsAboveOwn => {
            "More credits of a cycle than the plan, or the key that asks, has."
        }
        Code::ExpiryAboveOwn => "The key would outlive the one that asks.",
        Code::LastManagingKey => {
            "No active key would be left that has the scope `keys` and does not end."
        }
        Code::KeyRotated => "The key has a successor already.",
        Code::KeyNotActive => "The key was revoked or has expired.",
        Code::InsufficientCredits => "Fewer credits are left than should be taken.",
        Code::Overloaded => "Too many writes wait. Nothing was changed.",
        Code::StorageUnavailable => {
            "The disk failed. Nothing was changed, unless `outcome` is `unknown`."
        }
        Code::StorageFull => "Little space is left on the disk. Nothing was changed; reads go on.",
        Code::Internal => "A fault of the server's.",
    }
}

/// The numbers behind the examples of a 402: a Free account that has spent all and holds all it may.
fn spent() -> Balance {
    let plan = Plan::FREE;
    Balance {
        plan,
        credits_limit: plan.credits_per_cycle(),
        credits_remaining: 0,
        credits_used: plan.credits_per_cycle(),
        credits_used_ever: plan.credits_per_cycle(),
        memory_limit: plan.memories_max(),
        memory_count: plan.memories_max(),
        memory_remaining: 0,
        reset: EXAMPLE_RESET,
        capped: false,
        room_capped: false,
    }
}

/// Makes an error with that code, by the code that makes it when it happens.
fn made(code: Code) -> ApiError {
    let failure = match code {
        Code::EndpointNotFound => return super::super::endpoint_not_found(),
        Code::MethodNotAllowed => return super::super::method_not_allowed("/memory"),
        Code::AmbiguousCredentials => {
            return auth::ambiguous("The header x-api-key was sent twice. Send it once.");
        }
        Code::BodyTooLarge => return request::too_large(65_536),
        Code::UnsupportedMediaType => return request::unsupported_media_type(),
        Code::RequestTimeout => return request::too_slow(),
        Code::InvalidJson => return request::incomplete(),
        Code::MissingBody => return request::missing_body(),
        Code::InvalidField => {
            return ApiError::field("page", "It must be a whole number from 1 on.");
        }
        Code::InvalidIdempotencyKey => return memory::invalid_idempotency_key(),
        Code::MissingCredentials => Failure::MissingCredentials,
        Code::InvalidKey => Failure::InvalidKey,
        Code::KeyRevoked => Failure::KeyRevoked,
        Code::AdminRequired => Failure::AdminRequired,
        Code::AdminDisabled => Failure::AdminDisabled,
        Code::PermissionDenied => {
            Failure::PermissionDenied("Permission denied - can only revoke your own API keys")
        }
        Code::InvalidMemory => Failure::InvalidMemory(MemoryError::Missing("topic")),
        Code::InvalidPlan => Failure::InvalidPlan(UnknownPlan("Gold".to_owned())),
        Code::IdempotencyKeyReused => Failure::IdempotencyKeyReused,
        Code::IdempotencyInFlight => Failure::IdempotencyInFlight,
        Code::SignupClosed => Failure::SignupClosed,
        Code::PlanNotOpen => Failure::PlanNotOpen(Plan::PREMIUM),
        Code::PlanAboveAccount => Failure::PlanAboveAccount(Plan::FREE),
        Code::UserExists => Failure::UserExists,
        Code::UserNotFound => Failure::UserNotFound,
        Code::KeyNotFound => Failure::KeyNotFound,
        Code::KeyLimitReached => Failure::KeyLimitReached,
        Code::LastActiveKey => Failure::LastActiveKey { others: false },
        Code::AmbiguousKey => Failure::AmbiguousKey,
        Code::NotFound => Failure::MemoryNotFound,
        Code::OutOfCredits => Failure::OutOfCredits {
            balance: spent(),
            cost: Prices::SEED.of(Operation::AddMemory),
        },
        Code::MemoryLimitExceeded => Failure::MemoryLimitExceeded(spent()),
        Code::BackupInProgress => Failure::BackupInProgress,
        Code::CheckInProgress => Failure::CheckInProgress,
        Code::RateLimited => Failure::RateLimited(Exceeded {
            rule: Rule::SignupHour,
            quota: RateLimits::default().signup_hour,
            wait_seconds: 720,
        }),
        Code::KeyExpired => Failure::KeyExpired,
        Code::AccountSuspended => Failure::AccountSuspended,
        Code::InsufficientScope => Failure::InsufficientScope(Scope::MemoryWrite),
        Code::CreditsAboveOwn => Failure::CreditsAboveOwn(100),
        Code::ExpiryAboveOwn => Failure::OutlivesMaker(EXAMPLE_RESET),
        Code::LastManagingKey => Failure::LastManagingKey,
        Code::KeyRotated => Failure::KeyRotated,
        Code::KeyNotActive => Failure::KeyNotActive,
        Code::InsufficientCredits => Failure::TooFewCredits(spent()),
        Code::Overloaded => Failure::Overloaded,
        Code::StorageUnavailable => Failure::StorageUnavailable {
            outcome_unknown: false,
        },
        Code::StorageFull => Failure::StorageFull,
        // Not through `Failure::Internal`, which would write to the log.
        Code::Internal => return ApiError::internal(),
    };
    failure.into()
}

/// Returns the example for a code: the body that a client gets. When it comes is told by the responses.
pub(super) fn example(code: Code) -> Example {
    let body = made(code).body(EXAMPLE_ID);
    ExampleBuilder::new()
        .value(serde_json::from_str(&body).ok())
        .build()
}

/// Sorts codes by the status that they come with, each once.
pub(super) fn by_status(codes: Vec<Code>) -> BTreeMap<StatusCode, Vec<Code>> {
    let mut sorted = BTreeMap::<StatusCode, Vec<Code>>::new();
    for code in codes {
        let of_status = sorted.entry(code.word_and_status().1).or_default();
        if !of_status.contains(&code) {
            of_status.push(code);
        }
    }
    sorted
}

/// Returns the name under which the response for codes of one status is kept: routes that can be refused
/// for the same reasons share it.
pub(super) fn response_name(codes: &[Code]) -> String {
    codes
        .iter()
        .map(|code| code.word_and_status().0)
        .collect::<Vec<_>>()
        .join(".")
}

/// Returns the response for codes of one status.
pub(super) fn response(codes: &[Code]) -> Response {
    let sentences: Vec<String> = codes
        .iter()
        .map(|code| format!("`{}`: {}", code.word_and_status().0, meaning(*code)))
        .collect();
    let examples = codes.iter().map(|code| {
        let (word, _) = code.word_and_status();
        let example = Ref::new(format!("#/components/examples/{word}"));
        (word, RefOr::<Example>::Ref(example))
    });
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Error")))
        .examples_from_iter(examples)
        .build();
    let mut response = ResponseBuilder::new()
        .description(sentences.join(" "))
        .header_ref(REQUEST_ID, header_ref(REQUEST_ID))
        .content("application/json", content);
    for error in codes.iter().map(|code| made(*code)) {
        if error.balance.is_some() {
            for name in CREDITS {
                response = response.header_ref(name, header_ref(name));
            }
        }
        for name in [
            RETRY_AFTER,
            RATE_LIMIT_POLICY,
            RATE_LIMIT,
            AUTHENTICATE,
            ALLOW,
        ] {
            let has = |(own, _): &(http::HeaderName, _)| own.as_str().eq_ignore_ascii_case(name);
            if error.headers.iter().any(has) {
                response = response.header_ref(name, header_ref(name));
            }
        }
    }
    response.build()
}

/// Returns the one schema of every error.
pub(super) fn schema() -> Object {
    let mut words = Code::ALL.map(|code| code.word_and_status().0).to_vec();
    // Two statuses of one word stand side by side.
    words.dedup();
    let whole = |description: &str| {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(0))
            .description(Some(description))
            .build()
    };
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .description(Some(
            "Why a request was not done, with the numbers of the case.",
        ))
        .property("error", text("Short, stable text.").build())
        .property(
            "code",
            text("The machine word. Stable for ever: match on it.")
                .enum_values(Some(words))
                .build(),
        )
        .property("message", text("What to do about it.").build())
        .property(
            "request_id",
            text("As in X-Request-Id; tell it to the operator.").build(),
        )
        .property(
            "field",
            text("The field or parameter that is wrong.").build(),
        )
        .property("credits_remaining", whole("Credits left (402)."))
        .property("cost", whole("What the request would have cost (402)."))
        .property(
            "reset_date",
            text("When the next cycle begins (402).")
                .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
                .build(),
        )
        .property("current_count", whole("Memories held (402)."))
        .property("limit", whole("Memories of the plan (402)."))
        .property("plan", text("The plan that the case is about.").build())
        .property(
            "plan_max",
            text("The highest plan that the key could have (409).").build(),
        )
        .property(
            "required_scope",
            text("The scope that the key lacks (403).").build(),
        )
        .property(
            "credits_max",
            whole("The most credits of a cycle that the key could have (409)."),
        )
        .property(
            "expires_at_max",
            text("The latest end that the key could have (409).").build(),
        )
        .property(
            "scope",
            text("`key` if the numbers are a capped key's, not the account's (402).")
                .enum_values(Some(["key"]))
                .build(),
        )
        .property(
            "outcome",
            text("`unknown` if the write may be there later (503).")
                .enum_values(Some(["unknown"]))
                .build(),
        )
        .property(
            "rate_limit",
            text("The limit that was reached (429).").build(),
        )
        .property(
            "retry_after",
            whole("Seconds to wait, as in Retry-After (429)."),
        )
        .property("bytes_max", whole("Bytes that a body may have (413)."))
        .property(
            "available_endpoints",
            ArrayBuilder::new()
                .items(text("A path.").build())
                .description(Some("Every path there is (404)."))
                .build(),
        )
        .required("error")
        .required("code")
        .required("message")
        .required("request_id")
        .build()
}
