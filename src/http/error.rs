//! What a client is told when a request is not done: one enum of codes, one shape of body.

use std::borrow::Cow;

use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value};

use crate::app::Failure;
use crate::domain::json::JsonError;
use crate::domain::memory::MemoryError;
use crate::domain::plan::UnknownPlan;
use crate::domain::usage::Balance;

/// The machine word of an error. Stable for ever: clients match on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// 404: no route has that path.
    EndpointNotFound,
    /// 405: the path has other methods.
    MethodNotAllowed,
    /// 400: two credentials that differ, or one sent twice.
    AmbiguousCredentials,
    /// 401: none was sent.
    MissingCredentials,
    /// 401: nobody's key.
    InvalidKey,
    /// 401: the key was revoked.
    KeyRevoked,
    /// 403: the admin key is missing, empty or wrong.
    AdminRequired,
    /// 403: no admin key is set on the server.
    AdminDisabled,
    /// 403: not for this caller.
    PermissionDenied,
    /// 413: more bytes than a body may have.
    BodyTooLarge,
    /// 415: not JSON.
    UnsupportedMediaType,
    /// 408: the body did not come in time.
    RequestTimeout,
    /// 400: JSON that cannot be taken.
    InvalidJson,
    /// 400: no body.
    MissingBody,
    /// 400: a field or query parameter.
    InvalidField,
    /// 400: not a memory.
    InvalidMemory,
    /// 400: no such plan, or none given.
    InvalidPlan,
    /// 400: not 1 to 255 visible ASCII characters.
    InvalidIdempotencyKey,
    /// 422: used with another body.
    IdempotencyKeyReused,
    /// 409: the first request is being answered.
    IdempotencyInFlight,
    /// 403: nobody can sign up.
    SignupClosed,
    /// 403: nobody can sign up for this plan.
    PlanNotOpen,
    /// 409: more than the account, or the key that asks, has.
    PlanAboveAccount,
    /// 409: the e-mail has an account.
    UserExists,
    /// 404: no such account.
    UserNotFound,
    /// 404: no such key.
    KeyNotFound,
    /// 409: 100 active keys.
    KeyLimitReached,
    /// 400: the account's only one that manages keys.
    LastActiveKey,
    /// 409: a masked form that fits two.
    AmbiguousKey,
    /// 404: no such memory.
    NotFound,
    /// 402: too few credits.
    OutOfCredits,
    /// 402: no room.
    MemoryLimitExceeded,
    /// 409: a backup is being made.
    BackupInProgress,
    /// 409: a check is running.
    CheckInProgress,
    /// 429: too many requests of a kind.
    RateLimited,
    /// 401: the key's time has come.
    KeyExpired,
    /// 403: an admin has suspended the account.
    AccountSuspended,
    /// 403: the key lacks a scope.
    InsufficientScope,
    /// 409: more credits of a cycle than can be given.
    CreditsAboveOwn,
    /// 409: the key would outlive the one that asks.
    ExpiryAboveOwn,
    /// 409: no key would be left that manages keys.
    LastManagingKey,
    /// 409: the key has a successor.
    KeyRotated,
    /// 409: the key was revoked or has expired.
    KeyNotActive,
    /// 409: fewer credits are left than should be taken.
    InsufficientCredits,
    /// 503: too many writes wait.
    Overloaded,
    /// 503: the disk failed.
    StorageUnavailable,
    /// 507: the disk is nearly full. The same word: a client does the same about it.
    StorageFull,
    /// 500: our fault.
    Internal,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 48] = [
        Self::EndpointNotFound,
        Self::MethodNotAllowed,
        Self::AmbiguousCredentials,
        Self::MissingCredentials,
        Self::InvalidKey,
        Self::KeyRevoked,
        Self::AdminRequired,
        Self::AdminDisabled,
        Self::PermissionDenied,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::RequestTimeout,
        Self::InvalidJson,
        Self::MissingBody,
        Self::InvalidField,
        Self::InvalidMemory,
        Self::InvalidPlan,
        Self::InvalidIdempotencyKey,
        Self::IdempotencyKeyReused,
        Self::IdempotencyInFlight,
        Self::SignupClosed,
        Self::PlanNotOpen,
        Self::PlanAboveAccount,
        Self::UserExists,
        Self::UserNotFound,
        Self::KeyNotFound,
        Self::KeyLimitReached,
        Self::LastActiveKey,
        Self::AmbiguousKey,
        Self::NotFound,
        Self::OutOfCredits,
        Self::MemoryLimitExceeded,
        Self::BackupInProgress,
        Self::CheckInProgress,
        Self::RateLimited,
        Self::KeyExpired,
        Self::AccountSuspended,
        Self::InsufficientScope,
        Self::CreditsAboveOwn,
        Self::ExpiryAboveOwn,
        Self::LastManagingKey,
        Self::KeyRotated,
        Self::KeyNotActive,
        Self::InsufficientCredits,
        Self::Overloaded,
        Self::StorageUnavailable,
        Self::StorageFull,
        Self::Internal,
    ];

    /// Returns the word and the status that goes with it.
    #[must_use]
    pub const fn word_and_status(self) -> (&'static str, StatusCode) {
        match self {
            Self::EndpointNotFound => ("endpoint_not_found", StatusCode::NOT_FOUND),
            Self::MethodNotAllowed => ("method_not_allowed", StatusCode::METHOD_NOT_ALLOWED),
            Self::AmbiguousCredentials => ("ambiguous_credentials", StatusCode::BAD_REQUEST),
            Self::MissingCredentials => ("missing_credentials", StatusCode::UNAUTHORIZED),
            Self::InvalidKey => ("invalid_key", StatusCode::UNAUTHORIZED),
            Self::KeyRevoked => ("key_revoked", StatusCode::UNAUTHORIZED),
            Self::AdminRequired => ("admin_required", StatusCode::FORBIDDEN),
            Self::AdminDisabled => ("admin_disabled", StatusCode::FORBIDDEN),
            Self::PermissionDenied => ("permission_denied", StatusCode::FORBIDDEN),
            Self::BodyTooLarge => ("body_too_large", StatusCode::PAYLOAD_TOO_LARGE),
            Self::UnsupportedMediaType => {
                ("unsupported_media_type", StatusCode::UNSUPPORTED_MEDIA_TYPE)
            }
            Self::RequestTimeout => ("request_timeout", StatusCode::REQUEST_TIMEOUT),
            Self::InvalidJson => ("invalid_json", StatusCode::BAD_REQUEST),
            Self::MissingBody => ("missing_body", StatusCode::BAD_REQUEST),
            Self::InvalidField => ("invalid_field", StatusCode::BAD_REQUEST),
            Self::InvalidMemory => ("invalid_memory", StatusCode::BAD_REQUEST),
            Self::InvalidPlan => ("invalid_plan", StatusCode::BAD_REQUEST),
            Self::InvalidIdempotencyKey => ("invalid_idempotency_key", StatusCode::BAD_REQUEST),
            Self::IdempotencyKeyReused => {
                ("idempotency_key_reused", StatusCode::UNPROCESSABLE_ENTITY)
            }
            Self::IdempotencyInFlight => ("idempotency_in_flight", StatusCode::CONFLICT),
            Self::SignupClosed => ("signup_closed", StatusCode::FORBIDDEN),
            Self::PlanNotOpen => ("plan_not_open", StatusCode::FORBIDDEN),
            Self::PlanAboveAccount => ("plan_above_account", StatusCode::CONFLICT),
            Self::UserExists => ("user_exists", StatusCode::CONFLICT),
            Self::UserNotFound => ("user_not_found", StatusCode::NOT_FOUND),
            Self::KeyNotFound => ("key_not_found", StatusCode::NOT_FOUND),
            Self::KeyLimitReached => ("key_limit_reached", StatusCode::CONFLICT),
            Self::LastActiveKey => ("last_active_key", StatusCode::BAD_REQUEST),
            Self::AmbiguousKey => ("ambiguous_key", StatusCode::CONFLICT),
            Self::NotFound => ("not_found", StatusCode::NOT_FOUND),
            Self::OutOfCredits => ("out_of_credits", StatusCode::PAYMENT_REQUIRED),
            Self::MemoryLimitExceeded => ("memory_limit_exceeded", StatusCode::PAYMENT_REQUIRED),
            Self::BackupInProgress => ("backup_in_progress", StatusCode::CONFLICT),
            Self::CheckInProgress => ("check_in_progress", StatusCode::CONFLICT),
            Self::RateLimited => ("rate_limited", StatusCode::TOO_MANY_REQUESTS),
            Self::KeyExpired => ("key_expired", StatusCode::UNAUTHORIZED),
            Self::AccountSuspended => ("account_suspended", StatusCode::FORBIDDEN),
            Self::InsufficientScope => ("insufficient_scope", StatusCode::FORBIDDEN),
            Self::CreditsAboveOwn => ("credits_above_own", StatusCode::CONFLICT),
            Self::ExpiryAboveOwn => ("expiry_above_own", StatusCode::CONFLICT),
            Self::LastManagingKey => ("last_managing_key", StatusCode::CONFLICT),
            Self::KeyRotated => ("key_rotated", StatusCode::CONFLICT),
            Self::KeyNotActive => ("key_not_active", StatusCode::CONFLICT),
            Self::InsufficientCredits => ("insufficient_credits", StatusCode::CONFLICT),
            Self::Overloaded => ("overloaded", StatusCode::SERVICE_UNAVAILABLE),
            Self::StorageUnavailable => ("storage_unavailable", StatusCode::SERVICE_UNAVAILABLE),
            Self::StorageFull => ("storage_unavailable", StatusCode::INSUFFICIENT_STORAGE),
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

/// A request that was not done, as the client is told.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// The machine word.
    pub code: Code,
    /// The short, stable text.
    pub error: Cow<'static, str>,
    /// What to do.
    pub message: Cow<'static, str>,
    /// The numbers that belong to the case.
    pub extra: Map<String, Value>,
    /// Headers that belong to the case.
    pub headers: Vec<(header::HeaderName, HeaderValue)>,
    /// The numbers behind a 402, for its `X-Credits-*` headers.
    pub balance: Option<Box<Balance>>,
}

impl ApiError {
    /// Says whether it is that somebody is not the admin.
    #[must_use]
    pub fn refuses_admin(&self) -> bool {
        matches!(self.code, Code::AdminRequired | Code::AdminDisabled)
    }

    /// Makes an error without numbers and headers of its own.
    #[must_use]
    pub fn new(
        code: Code,
        error: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        let mut headers = Vec::new();
        if code.word_and_status().1 == StatusCode::UNAUTHORIZED {
            headers.push((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        }
        Self {
            code,
            error: error.into(),
            message: message.into(),
            extra: Map::new(),
            headers,
            balance: None,
        }
    }

    /// Adds a number or a word of the case to the body.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    fn retry_after(self, seconds: &'static str) -> Self {
        self.with_header(header::RETRY_AFTER, HeaderValue::from_static(seconds))
    }

    /// Makes the error for a field or query parameter.
    #[must_use]
    pub fn field(name: &str, problem: impl Into<Cow<'static, str>>) -> Self {
        Self::new(
            Code::InvalidField,
            format!("Invalid field: {name}"),
            problem,
        )
        .with("field", name)
    }

    /// Returns the body.
    #[must_use]
    pub fn body(&self, request_id: &str) -> String {
        let (word, _) = self.code.word_and_status();
        let mut body = Map::new();
        body.insert("error".to_owned(), self.error.clone().into());
        body.insert("code".to_owned(), word.into());
        body.insert("message".to_owned(), self.message.clone().into());
        body.insert("request_id".to_owned(), request_id.into());
        body.extend(self.extra.clone());
        Value::Object(body).to_string()
    }
}

impl From<JsonError> for ApiError {
    fn from(error: JsonError) -> Self {
        Self::new(Code::InvalidJson, "Invalid JSON", error.to_string())
    }
}

impl From<UnknownPlan> for ApiError {
    fn from(error: UnknownPlan) -> Self {
        Self::new(
            Code::InvalidPlan,
            error.to_string(),
            "GET /plans lists the plans; send a name exactly as it is there.",
        )
    }
}

impl From<MemoryError> for ApiError {
    fn from(error: MemoryError) -> Self {
        let message = "Send a JSON object with topic, type, category, input and output as strings \
                       and success as true or false.";
        match &error {
            MemoryError::Missing(field) | MemoryError::Field { field, .. } => {
                let field = *field;
                Self::new(
                    Code::InvalidMemory,
                    format!("Invalid memory entry: {error}"),
                    message,
                )
                .with("field", field)
            }
            MemoryError::NothingToChange => Self::new(
                Code::InvalidMemory,
                format!("Invalid memory entry: {error}"),
                "Send the fields to replace; id, timestamp, updated_at and key_id cannot be set.",
            ),
            MemoryError::TooLarge(_) => Self::new(
                Code::BodyTooLarge,
                "Request body too large",
                "The memory would be too large with this change. Shorten it or split it in two.",
            ),
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::MissingCredentials
            | Failure::InvalidKey
            | Failure::KeyRevoked
            | Failure::KeyExpired
            | Failure::AccountSuspended
            | Failure::InsufficientScope(_)
            | Failure::AdminRequired
            | Failure::AdminDisabled
            | Failure::PermissionDenied(_) => of_credentials(&failure),
            Failure::OwnerRequired => Self::new(
                Code::InvalidField,
                "Email required when admin creates API key",
                "Send the email, or the account_id, of the account that the key is for.",
            )
            .with("field", "email"),
            Failure::InvalidMemory(error) => error.into(),
            Failure::InvalidPlan(error) => error.into(),
            Failure::PlanRequired => Self::new(
                Code::InvalidPlan,
                "Plan required",
                "Send {\"plan\": NAME}, with a name that GET /plans lists.",
            ),
            Failure::NotConfirmed => Self::field(
                "confirm",
                "It must be the account's id, as /login and the admin's list say it; nothing was erased.",
            ),
            Failure::IdempotencyKeyReused => Self::new(
                Code::IdempotencyKeyReused,
                "Idempotency key reused",
                "This Idempotency-Key was used with another body in the last 24 hours. Use a new \
                 one for a new request.",
            ),
            Failure::IdempotencyInFlight => Self::new(
                Code::IdempotencyInFlight,
                "Request in flight",
                "A request with this Idempotency-Key is being answered. Try again in a second.",
            )
            .retry_after("1"),
            Failure::SignupClosed
            | Failure::PlanNotOpen(_)
            | Failure::PlanAboveAccount(_)
            | Failure::UserExists
            | Failure::UserNotFound
            | Failure::KeyNotFound
            | Failure::KeyLimitReached
            | Failure::LastActiveKey { .. }
            | Failure::AmbiguousKey
            | Failure::MemoryNotFound => of_state(&failure),
            Failure::CreditsAboveOwn(_)
            | Failure::OutlivesMaker(_)
            | Failure::LastManagingKey
            | Failure::KeyRotated
            | Failure::KeyNotActive
            | Failure::TooFewCredits(_) => of_keys_and_credits(&failure),
            Failure::OutOfCredits { balance, cost } => out_of_credits(&balance, cost),
            Failure::MemoryLimitExceeded(balance) => memory_limit_exceeded(&balance),
            Failure::BackupInProgress => Self::new(
                Code::BackupInProgress,
                "Backup in progress",
                "A backup is being made; there is one at a time. Try again when it is done.",
            )
            .retry_after("30"),
            Failure::CheckInProgress => Self::new(
                Code::CheckInProgress,
                "Check in progress",
                "A check is running; there is one at a time. Try again when it is done.",
            )
            .retry_after("30"),
            Failure::RateLimited(exceeded) => super::limits::rate_limited(&exceeded),
            Failure::Overloaded => Self::new(
                Code::Overloaded,
                "Service overloaded",
                "Too many writes are waiting. Nothing was changed or charged. Try again soon.",
            )
            .retry_after("1"),
            Failure::StorageUnavailable { outcome_unknown } => storage_unavailable(outcome_unknown),
            Failure::StorageFull => Self::new(
                Code::StorageFull,
                "Storage full",
                "Little space is left on the server's disk, so that writes have stopped. Nothing was \
                 changed or charged; reads go on. Try again later.",
            )
            .retry_after("30"),
            Failure::Internal(detail) => {
                log::error!("internal error: {detail}");
                Self::internal()
            }
        }
    }
}

impl ApiError {
    /// Makes the error for a fault of ours.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(
            Code::Internal,
            "Internal server error",
            "Something went wrong on our side. Tell the operator the request_id.",
        )
    }
}

fn of_credentials(failure: &Failure) -> ApiError {
    let (code, error, message) = match failure {
        Failure::InvalidKey => (
            Code::InvalidKey,
            "Invalid API key",
            "No account has this key. Check that it was copied whole.",
        ),
        Failure::KeyRevoked => (
            Code::KeyRevoked,
            "Invalid API key",
            "This key was revoked. Use another key of the account.",
        ),
        Failure::KeyExpired => (
            Code::KeyExpired,
            "Invalid API key",
            "This key's time has come. Use another key of the account, or its successor.",
        ),
        Failure::AccountSuspended => (
            Code::AccountSuspended,
            "Account suspended",
            "The operator has suspended this account. Nothing of it is lost; ask the operator.",
        ),
        Failure::InsufficientScope(scope) => {
            return ApiError::new(
                Code::InsufficientScope,
                "Insufficient scope",
                format!(
                    "This needs the scope {scope}, which the key lacks. Use a key that has it."
                ),
            )
            .with("required_scope", scope.name());
        }
        Failure::AdminRequired => (
            Code::AdminRequired,
            "Admin access required",
            "Send the admin key in the X-ADMIN-KEY header.",
        ),
        Failure::AdminDisabled => (
            Code::AdminDisabled,
            "Admin access disabled",
            "The operator has to set ADMIN_KEY (32 characters or more) and start the server again.",
        ),
        Failure::PermissionDenied(error) => (
            Code::PermissionDenied,
            *error,
            "A key acts for its own account only. The admin can act for others.",
        ),
        _ => (
            Code::MissingCredentials,
            "Authentication required",
            "Send an API key in the X-API-KEY header, or as Authorization: Bearer.",
        ),
    };
    ApiError::new(code, error, message)
}

fn of_state(failure: &Failure) -> ApiError {
    let (code, error, message) = match failure {
        Failure::SignupClosed => (
            Code::SignupClosed,
            "Sign-up closed",
            "Ask the operator for an account.",
        ),
        Failure::PlanNotOpen(_) => (
            Code::PlanNotOpen,
            "Plan not open for sign-up",
            "Sign up for another plan, or ask the operator for this one.",
        ),
        Failure::PlanAboveAccount(_) => (
            Code::PlanAboveAccount,
            "Plan above account",
            "A key can have its account's plan or a lower one, and a capped key can make keys up \
             to its own.",
        ),
        Failure::UserExists => (
            Code::UserExists,
            "User already exists",
            "This e-mail has an account. Use one of its keys, or ask the operator for a new one.",
        ),
        Failure::UserNotFound => (
            Code::UserNotFound,
            "User not found",
            "No account has this id, e-mail or key.",
        ),
        Failure::KeyNotFound => (
            Code::KeyNotFound,
            "API key not found",
            "GET /apikey/list shows the keys of the account and their ids.",
        ),
        Failure::KeyLimitReached => (
            Code::KeyLimitReached,
            "API key limit reached",
            "An account has 100 active keys at most. Revoke one that is not used.",
        ),
        Failure::LastActiveKey { others: false } => (
            Code::LastActiveKey,
            "Cannot revoke your only active API key",
            "Make another key first with POST /apikey/new, or rotate this one with \
             {\"grace_seconds\": 0}.",
        ),
        Failure::LastActiveKey { others: true } => (
            Code::LastActiveKey,
            "Cannot revoke your only active API key",
            "It is the only one that manages keys: the others lack the scope keys, expire, or were \
             rotated. Make one that manages keys and does not expire first, or rotate this one with \
             {\"grace_seconds\": 0}.",
        ),
        Failure::AmbiguousKey => (
            Code::AmbiguousKey,
            "Ambiguous API key",
            "More than one key has this masked form. Use the key id.",
        ),
        _ => (
            Code::NotFound,
            "Memory not found",
            "No memory of this account has this id.",
        ),
    };
    let error = ApiError::new(code, error, message);
    match failure {
        Failure::PlanNotOpen(plan) => error.with("plan", plan.name()),
        Failure::PlanAboveAccount(own) => error.with("plan_max", own.name()),
        _ => error,
    }
}

fn of_keys_and_credits(failure: &Failure) -> ApiError {
    let (code, error, message) = match failure {
        Failure::CreditsAboveOwn(_) => (
            Code::CreditsAboveOwn,
            "Credits above own",
            "A key can have the credits of its plan, and of the key that asks, at most.",
        ),
        Failure::OutlivesMaker(_) => (
            Code::ExpiryAboveOwn,
            "Expiry above own",
            "A key cannot outlive the key that asks. Use one that lasts longer.",
        ),
        Failure::KeyRotated => (
            Code::KeyRotated,
            "API key already rotated",
            "This key has a successor; use or change that one. The old key ends by itself.",
        ),
        Failure::KeyNotActive => (
            Code::KeyNotActive,
            "API key not active",
            "This key was revoked or has expired. Make a new one with POST /apikey/new.",
        ),
        Failure::TooFewCredits(_) => (
            Code::InsufficientCredits,
            "Insufficient credits",
            "Fewer credits are left than should be taken. Nothing was changed.",
        ),
        _ => (
            Code::LastManagingKey,
            "Last managing key",
            "An account keeps one active key that has the scope keys and does not end. Make another \
             one first.",
        ),
    };
    let error = ApiError::new(code, error, message);
    match failure {
        Failure::CreditsAboveOwn(most) => error.with("credits_max", *most),
        Failure::OutlivesMaker(end) => error.with("expires_at_max", end.to_string()),
        Failure::TooFewCredits(balance) => {
            error.with("credits_remaining", balance.credits_remaining)
        }
        _ => error,
    }
}

fn storage_unavailable(outcome_unknown: bool) -> ApiError {
    let message = if outcome_unknown {
        "The disk failed during this write. Later it is there and charged, or neither. Check \
         before you send it again, or send it with an Idempotency-Key."
    } else {
        "The disk failed. Nothing was changed or charged. Try again in some seconds."
    };
    let error = ApiError::new(Code::StorageUnavailable, "Storage unavailable", message);
    let error = if outcome_unknown {
        error.with("outcome", "unknown")
    } else {
        error
    };
    error.retry_after("5")
}

fn out_of_credits(balance: &Balance, cost: u64) -> ApiError {
    ApiError::new(
        Code::OutOfCredits,
        "Out of credits",
        "Your account has run out of credits. Please upgrade your plan or wait for your monthly \
         reset.",
    )
    .with("credits_remaining", balance.credits_remaining)
    .with("cost", cost)
    .with("reset_date", balance.reset.to_string())
    .scoped(balance, balance.capped)
}

fn memory_limit_exceeded(balance: &Balance) -> ApiError {
    let (plan, limit, count) = (balance.plan, balance.memory_limit, balance.memory_count);
    let message = format!(
        "Your {plan} plan allows {limit} memories. You currently have {count}. Please upgrade your \
         plan to add more memories."
    );
    ApiError::new(Code::MemoryLimitExceeded, "Memory limit exceeded", message)
        .with("current_count", count)
        .with("limit", limit)
        .with("plan", plan.name())
        .scoped(balance, balance.room_capped)
}

impl ApiError {
    /// Adds whose numbers a 402 tells, and the numbers for its headers.
    fn scoped(mut self, balance: &Balance, is_keys: bool) -> Self {
        self.balance = Some(Box::new(*balance));
        if is_keys {
            self.with("scope", "key")
        } else {
            self
        }
    }
}
