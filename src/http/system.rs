//! `/`, `/health`, `/openapi.json`, `/stats`, `/gpt-status`.

use std::collections::BTreeMap;
use std::time::Instant;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::{App, HealthStatus, StatsReport};
use crate::domain::time::Timestamp;

use super::ENDPOINTS;
use super::error::ApiError;
use super::openapi::Audience;
use super::reply::{Answer, CreditInfo, Reply, low_credits, tenths_of_percent};
use super::request::Request;

/// The service's name, as the old one had it.
const SERVICE: &str = "MemoryOS-Clean";

/// Answer of `GET /`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Index)]
pub(crate) struct IndexJson {
    service: &'static str,
    #[schema(value_type = super::openapi::ServiceStatus)]
    status: &'static str,
    version: &'static str,
    endpoints: Vec<String>,
}

/// `GET /`.
pub(super) async fn index(app: App, _: Request) -> Answer {
    let prices = &app.settings().prices;
    let describe = |e: &super::Endpoint| {
        let summary = e.summary_with_price(prices);
        format!("{} {} - {summary}", e.method, e.path)
    };
    Reply::json(
        StatusCode::OK,
        &IndexJson {
            service: SERVICE,
            status: app.health().status.as_str(),
            version: env!("CARGO_PKG_VERSION"),
            endpoints: ENDPOINTS.iter().map(describe).collect(),
        },
    )
}

/// `GET /openapi.json`.
pub(super) async fn openapi(app: App, request: Request) -> Answer {
    let audience = match request.query_param("for")?.as_deref() {
        None => Audience::Everybody,
        Some("assistant") => Audience::Assistant,
        Some(_) => {
            return Err(ApiError::field(
                "for",
                "It must be assistant, or left out for every route.",
            ));
        }
    };
    let settings = app.settings();
    Ok(Reply::json_text(
        StatusCode::OK,
        super::openapi::bytes(
            audience,
            settings.public_url.as_deref(),
            settings.plans,
            &settings.prices,
        ),
    ))
}

/// Answer of `GET /health`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Health)]
pub(crate) struct HealthJson {
    #[schema(value_type = super::openapi::ServiceStatus)]
    status: &'static str,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    response_time_ms: f64,
    checks: BTreeMap<&'static str, bool>,
    metrics: MetricsJson,
    version: &'static str,
    service: &'static str,
}

/// Figures of the whole service.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HealthMetrics)]
pub(crate) struct MetricsJson {
    memory_entries: u64,
    total_users: u64,
    active_api_keys: u64,
    database_size_bytes: u64,
    uptime_seconds: u64,
}

/// `GET /health`.
pub(super) async fn health(app: App, _: Request) -> Answer {
    let started = Instant::now();
    let report = app.health();
    let status = match report.status {
        HealthStatus::Healthy | HealthStatus::Degraded => StatusCode::OK,
        HealthStatus::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
    };
    let checks = [
        ("database_readable", report.store.readable),
        ("database_writable", report.store.writable),
        ("enough_free_space", report.enough_space),
    ];
    let micros = u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX);
    Reply::json(
        status,
        &HealthJson {
            status: report.status.as_str(),
            timestamp: app.now(),
            response_time_ms: f64::from(micros) / 1_000.0,
            checks: checks.into_iter().collect(),
            metrics: MetricsJson {
                memory_entries: report.store.memories,
                total_users: report.store.accounts,
                active_api_keys: report.store.active_keys,
                database_size_bytes: report.store.database_bytes,
                uptime_seconds: report.uptime_seconds,
            },
            version: env!("CARGO_PKG_VERSION"),
            service: SERVICE,
        },
    )
}

/// Answer of `GET /stats`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Stats)]
pub(crate) struct StatsJson {
    total_memories: u64,
    /// Like `87.5%`; `0%` for no memories.
    success_rate: String,
    successful_entries: u64,
    failed_entries: u64,
    /// The first 1,000 categories in byte order, with how many memories have them.
    categories: BTreeMap<String, u64>,
    /// The first 1,000 types, likewise.
    types: BTreeMap<String, u64>,
    /// There, and true, when there are more names than are listed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    recent_activity: String,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    credit_info: CreditInfo,
    /// As in `credit_info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<&'static str>,
}

/// The fields of a memory that are told of the newest one.
#[derive(Debug, Default, Deserialize)]
struct Newest {
    topic: String,
    timestamp: String,
}

impl Newest {
    fn of(entry: Option<&str>) -> Option<Self> {
        serde_json::from_str(entry?).ok()
    }
}

/// `GET /stats`.
pub(super) async fn stats(app: App, request: Request) -> Answer {
    let report = app.stats(request.principal()?).await?;
    let StatsReport {
        stats,
        newest,
        debited,
        now,
    } = report;
    let rate = tenths_of_percent(stats.successes, stats.total).map_or_else(
        || "0%".to_owned(),
        |tenths| format!("{}.{}%", tenths / 10, tenths % 10),
    );
    let newest = Newest::of(newest.as_deref());
    let reply = Reply::json(
        StatusCode::OK,
        &StatsJson {
            total_memories: stats.total,
            success_rate: rate,
            successful_entries: stats.successes,
            failed_entries: stats.total.saturating_sub(stats.successes),
            categories: stats.categories,
            types: stats.types,
            truncated: stats.truncated,
            recent_activity: newest.map_or_else(
                || "No activity".to_owned(),
                |newest| format!("Latest: {} ({})", newest.topic, newest.timestamp),
            ),
            timestamp: now,
            credit_info: CreditInfo::of(&debited),
            warning: low_credits(&debited.balance),
        },
    )?;
    Ok(reply.metered(&debited, now))
}

/// Answer of `GET /gpt-status`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GptStatus)]
pub(crate) struct GptStatusJson {
    /// The status of `/health`.
    #[schema(value_type = super::openapi::ServiceStatus)]
    system_status: &'static str,
    memory_count: u64,
    /// When the newest memory was added.
    #[schema(format = DateTime, required = true)]
    last_activity: Option<String>,
    api_accessible: bool,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    message: &'static str,
    credit_info: CreditInfo,
    /// As in `credit_info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<&'static str>,
}

/// `GET /gpt-status`.
pub(super) async fn gpt_status(app: App, request: Request) -> Answer {
    let (memory_count, newest, debited, now) = app.gpt_status(request.principal()?).await?;
    let reply = Reply::json(
        StatusCode::OK,
        &GptStatusJson {
            system_status: app.health().status.as_str(),
            memory_count,
            last_activity: Newest::of(newest.as_deref()).map(|newest| newest.timestamp),
            api_accessible: true,
            timestamp: now,
            message: "MemoryOS is operational and ready for GPT integration",
            credit_info: CreditInfo::of(&debited),
            warning: low_credits(&debited.balance),
        },
    )?;
    Ok(reply.metered(&debited, now))
}
