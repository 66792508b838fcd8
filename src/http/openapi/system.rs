//! What is told of `/`, `/health`, `/openapi.json`, `/stats` and `/gpt-status`.

use http::StatusCode;
use serde_json::json;
use utoipa::ToSchema;
use utoipa::openapi::{ObjectBuilder, Type};

use super::super::system::{GptStatusJson, HealthJson, IndexJson, StatsJson};
use super::describe::Described;
use super::info::{MEMORIES, SYSTEM};
use crate::domain::plan::Operation;

/// [`super::super::system::index`]
pub(in crate::http) fn index() -> Described {
    Described::new(
        SYSTEM,
        "getIndex",
        "Names the service, its version and its routes.",
    )
    .answers::<IndexJson>(
        StatusCode::OK,
        "The service and its routes.",
        json!({
            "service": "MemoryOS-Clean",
            "status": "healthy",
            "version": env!("CARGO_PKG_VERSION"),
            "endpoints": ["GET / - This list", "GET /health - Health check"]
        }),
    )
}

/// An `OpenAPI` document, as far as a schema of it is of use here.
#[derive(ToSchema)]
#[schema(as = OpenApiDocument)]
#[expect(dead_code, reason = "only its schema is used")]
struct DocumentJson {
    openapi: String,
    info: serde_json::Map<String, serde_json::Value>,
    servers: Vec<serde_json::Map<String, serde_json::Value>>,
    paths: serde_json::Map<String, serde_json::Value>,
    components: serde_json::Map<String, serde_json::Value>,
    tags: Vec<serde_json::Map<String, serde_json::Value>>,
}

/// [`super::super::system::openapi`]
pub(in crate::http) fn openapi() -> Described {
    Described::new(
        SYSTEM,
        "getApiDescription",
        "This document: every route, status, header and field of the API, as OpenAPI 3.1.",
    )
    .query(
        "for",
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(["assistant"]))
            .build(),
        "`assistant`: only what a key does with memories, short enough for a GPT's Actions.",
    )
    .answers::<DocumentJson>(
        StatusCode::OK,
        "The description of the API.",
        json!({
            "openapi": "3.1.0",
            "info": {"title": "MemoryOS", "version": env!("CARGO_PKG_VERSION")},
            "servers": [{"url": "https://memory.example.com"}],
            "paths": {},
            "components": {},
            "tags": []
        }),
    )
}

/// [`super::super::system::health`]
pub(in crate::http) fn health() -> Described {
    let example = |status: &str, writable: bool| {
        json!({
            "status": status,
            "timestamp": "2026-02-15T16:20:31.512034+00:00",
            "response_time_ms": 0.021,
            "checks": {
                "database_readable": true,
                "database_writable": writable,
                "enough_free_space": true
            },
            "metrics": {
                "memory_entries": 1,
                "total_users": 1,
                "active_api_keys": 1,
                "database_size_bytes": 524_287,
                "uptime_seconds": 86_400
            },
            "version": env!("CARGO_PKG_VERSION"),
            "service": "MemoryOS-Clean"
        })
    };
    Described::new(
        SYSTEM,
        "getHealth",
        "Says how the service is, at a cost that does not grow with the data. degraded: writes go on, \
         but little free space is left.",
    )
    .answers::<HealthJson>(
        StatusCode::OK,
        "healthy or degraded.",
        example("healthy", true),
    )
    .answers::<HealthJson>(
        StatusCode::SERVICE_UNAVAILABLE,
        "unhealthy: writes are stopped.",
        example("unhealthy", false),
    )
}

/// [`super::super::system::stats`]
pub(in crate::http) fn stats() -> Described {
    Described::new(
        MEMORIES,
        "getStats",
        "Counts the account's memories: successes, categories, types, the newest one. Every count is \
         exact; at most 1,000 names each are listed, in byte order, and truncated says if there are \
         more.",
    )
    .costs(Operation::Stats)
    .answers::<StatsJson>(
        StatusCode::OK,
        "The counts.",
        json!({
            "total_memories": 8,
            "success_rate": "87.5%",
            "successful_entries": 7,
            "failed_entries": 1,
            "categories": {"go": 3, "rust": 5},
            "types": {"lesson": 8},
            "recent_activity": "Latest: Borrow checker (2026-02-15T16:20:31.512034+00:00)",
            "timestamp": "2026-02-15T16:21:00.000000+00:00",
            "credit_info": {"credits_remaining": 96, "credits_used": 1}
        }),
    )
}

/// [`super::super::system::gpt_status`]
pub(in crate::http) fn gpt_status() -> Described {
    Described::new(
        MEMORIES,
        "getGptStatus",
        "Tells a GPT in one call whether the service is well, how many memories the account holds and \
         when the newest was added.",
    )
    .costs(Operation::GptStatus)
    .answers::<GptStatusJson>(
        StatusCode::OK,
        "The service and the account.",
        json!({
            "system_status": "healthy",
            "memory_count": 1,
            "last_activity": "2026-02-15T16:20:31.512034+00:00",
            "api_accessible": true,
            "timestamp": "2026-02-15T16:21:00.000000+00:00",
            "message": "MemoryOS is operational and ready for GPT integration",
            "credit_info": {"credits_remaining": 95, "credits_used": 1}
        }),
    )
}
