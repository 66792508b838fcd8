//! What holds for every route: the order of checks, credentials, headers, the shape of errors.

use memoryos::domain::plan::Plan;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Actor, Answer, Server, assert_fields, assert_time, memory};

/// Every method that some route takes.
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];
/// Every path, with the methods it takes, as `Allow` tells them.
const PATHS: [(&str, &str); 29] = [
    ("/", "GET, HEAD, OPTIONS"),
    ("/health", "GET, HEAD, OPTIONS"),
    ("/openapi.json", "GET, HEAD, OPTIONS"),
    ("/signup", "POST, OPTIONS"),
    ("/login", "POST, OPTIONS"),
    ("/whoami", "GET, HEAD, OPTIONS"),
    ("/credits", "GET, HEAD, OPTIONS"),
    ("/credits/history", "GET, HEAD, OPTIONS"),
    ("/credits/statement", "GET, HEAD, OPTIONS"),
    ("/admin/user/x/history", "GET, HEAD, OPTIONS"),
    ("/admin/user/x/statement", "GET, HEAD, OPTIONS"),
    ("/account", "DELETE, OPTIONS"),
    ("/apikey/new", "POST, OPTIONS"),
    ("/apikey/list", "GET, HEAD, OPTIONS"),
    ("/apikey/some-key", "PATCH, DELETE, OPTIONS"),
    ("/apikey/some-key/rotate", "POST, OPTIONS"),
    ("/memory", "GET, HEAD, POST, OPTIONS"),
    ("/memory/some-id", "GET, HEAD, PATCH, DELETE, OPTIONS"),
    ("/stats", "GET, HEAD, OPTIONS"),
    ("/gpt-status", "GET, HEAD, OPTIONS"),
    ("/admin/users", "GET, HEAD, OPTIONS"),
    ("/admin/user/some-key", "GET, HEAD, DELETE, OPTIONS"),
    ("/admin/user/some-key/plan", "PUT, OPTIONS"),
    ("/admin/user/some-key/credits", "POST, OPTIONS"),
    ("/admin/user/some-key/suspend", "POST, OPTIONS"),
    ("/admin/user/some-key/reactivate", "POST, OPTIONS"),
    ("/admin/user/some-key/email", "PUT, OPTIONS"),
    ("/admin/sync-memory-counts", "POST, OPTIONS"),
    ("/admin/backup", "POST, OPTIONS"),
];
/// Paths that are not there.
const UNKNOWN: [&str; 16] = [
    "/nothing",
    "/memory/",
    "/memory/a/",
    "/memory/a/b",
    "//memory",
    "/memory//a",
    "/Memory",
    "/health/",
    "/signup/",
    "/apikey",
    "/apikey/",
    "/apikey/a/b",
    "/admin",
    "/admin/user/a/b",
    "/admin/user//plan",
    "/admin/user/a/plan/",
];

fn method(name: &str) -> Method {
    name.parse().unwrap()
}

/// Sorts the names of a header that is a list.
fn sorted(list: Option<&str>) -> Vec<String> {
    let mut names: Vec<_> = list
        .unwrap_or_default()
        .split(',')
        .map(|n| n.trim().to_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn the_first_check_that_fails_answers() {
    // Shows the order of checks: each request is wrong in all the ways that come after the one that is
    // told.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let path = format!("/memory/{}", bo.add("t").await);
    let keyed = bo.with("idempotency-key", "k");
    keyed.post("/memory", &memory("t")).await.ok(201);
    bo.spend(96).await;
    let large = "x".repeat(65_537);
    let good = memory("t").to_string();
    let other = memory("other").to_string();
    let nobody = server.anonymous();
    let text = |actor: &Actor| actor.with("content-type", "text/plain");
    let twice = text(&bo.with("x-api-key", &bo.key).with("x-admin-key", "wrong"));
    let wrong = text(&server.key("wrong"));
    let no_admin = text(&server.key("wrong").with("x-admin-key", "wrong"));
    let odd = bo.with("idempotency-key", "a b");
    let missing = "/memory/mem_01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let cases: [(&Actor, &str, &str, &str, u16, &str); 24] = [
        (&twice, "PUT", "/memory/", &large, 404, "endpoint_not_found"),
        (&twice, "PUT", "/memory", &large, 405, "method_not_allowed"),
        (
            &twice,
            "POST",
            "/memory",
            &large,
            400,
            "ambiguous_credentials",
        ),
        (&no_admin, "POST", "/memory", &large, 403, "admin_required"),
        (
            &text(&nobody),
            "POST",
            "/memory",
            &large,
            401,
            "missing_credentials",
        ),
        (&wrong, "POST", "/memory", &large, 401, "invalid_key"),
        (
            &wrong,
            "PUT",
            "/admin/user/%ff/plan",
            &large,
            403,
            "admin_required",
        ),
        (&text(&bo), "POST", "/memory", &large, 413, "body_too_large"),
        (
            &text(&bo),
            "PATCH",
            "/memory/%ff",
            &large,
            413,
            "body_too_large",
        ),
        (
            &text(&odd),
            "POST",
            "/memory",
            "{",
            415,
            "unsupported_media_type",
        ),
        (&odd, "POST", "/memory", "{", 400, "invalid_json"),
        (&odd, "POST", "/memory", "", 400, "missing_body"),
        (&bo, "PATCH", "/memory/%ff", "{", 400, "invalid_json"),
        (&keyed, "POST", "/memory", "{}", 400, "invalid_memory"),
        (
            &odd,
            "POST",
            "/memory",
            &good,
            400,
            "invalid_idempotency_key",
        ),
        (
            &keyed,
            "POST",
            "/memory",
            &other,
            422,
            "idempotency_key_reused",
        ),
        (&keyed, "POST", "/memory", &good, 201, ""),
        (&bo, "PATCH", missing, "{}", 400, "invalid_memory"),
        (
            &bo,
            "PATCH",
            "/memory/%ff",
            r#"{"x":1}"#,
            400,
            "invalid_field",
        ),
        (&bo, "PATCH", missing, r#"{"x":1}"#, 404, "not_found"),
        (&bo, "GET", missing, "", 404, "not_found"),
        (&bo, "GET", "/memory?page=x", "", 400, "invalid_field"),
        (&bo, "PATCH", &path, r#"{"x":1}"#, 402, "out_of_credits"),
        (&bo, "POST", "/memory", &good, 402, "out_of_credits"),
    ];
    for (by, name, path, body, status, code) in cases {
        let answer = by.send(method(name), path, body.to_owned()).await;
        let told = (
            answer.status,
            answer.json["code"].as_str().unwrap_or_default(),
        );
        assert_eq!(told, (status, code), "{name} {path} {}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_are_404_for_everybody() {
    // Shows 404 with the list of paths for any method and credential; a slash makes another path.
    let server = Server::spawn().await;
    let wrong = server.key("wrong").with("x-admin-key", "wrong");
    for path in UNKNOWN {
        for name in ["GET", "POST", "DELETE", "OPTIONS"] {
            let answer = wrong.send(method(name), path, "").await;
            let answer = answer.refused(404, "endpoint_not_found", "Endpoint not found");
            let paths = answer.json["available_endpoints"].as_array().unwrap();
            assert!(
                paths
                    .iter()
                    .any(|p| p.as_str().unwrap().contains("/memory"))
            );
            assert_eq!(answer.header("cache-control"), Some("no-store"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_methods_are_405_with_allow() {
    // Shows for every path which methods it takes, before credentials are looked at.
    let server = Server::spawn().await;
    let wrong = server.key("wrong").with("x-admin-key", "wrong");
    for (path, allow) in PATHS {
        for name in METHODS.into_iter().chain(["TRACE", "BREW"]) {
            if sorted(Some(allow)).contains(&name.to_owned()) {
                continue;
            }
            let answer = wrong.send(method(name), path, "").await;
            let answer = answer.refused(405, "method_not_allowed", "Method not allowed");
            assert_eq!(
                sorted(answer.header("allow")),
                sorted(Some(allow)),
                "{path}"
            );
        }
    }
    let head = wrong.head("/signup").await.ok(405);
    assert_eq!(head.text, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn options_is_free_on_known_paths() {
    // Shows the answer to a browser's preflight: no credential needed, the admin header never allowed.
    let server = Server::spawn().await;
    let page = server
        .anonymous()
        .with("origin", "https://app.example.com")
        .with("access-control-request-method", "POST");
    for (path, allow) in PATHS {
        let answer = page
            .send(Method::OPTIONS, path, "")
            .await
            .ok(204)
            .unmetered();
        assert_eq!(answer.text, "");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        assert_eq!(
            sorted(answer.header("allow")),
            sorted(Some(allow)),
            "{path}"
        );
        let methods = sorted(answer.header("access-control-allow-methods"));
        for name in METHODS {
            let takes = sorted(Some(allow)).contains(&name.to_owned());
            assert_eq!(methods.contains(&name.to_owned()), takes, "{name} {path}");
        }
        let allowed: Vec<_> = sorted(answer.header("access-control-allow-headers"));
        let allowed: Vec<_> = allowed
            .iter()
            .map(|name| name.to_ascii_lowercase())
            .collect();
        assert_eq!(
            allowed,
            [
                "authorization",
                "content-type",
                "idempotency-key",
                "x-api-key",
                "x-request-id"
            ]
        );
        assert!(answer.header("x-request-id").is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_the_common_headers() {
    // Shows request id, CORS and caching on answers of every kind.
    let server = Server::spawn().await;
    let bo = server
        .account(Plan::FREE)
        .await
        .with("x-request-id", "mine");
    let nobody = server.anonymous();
    let answers: [(Answer, Option<&str>); 12] = [
        (nobody.get("/").await.ok(200), None),
        (nobody.get("/health").await.ok(200), None),
        (nobody.get("/openapi.json").await.ok(200), None),
        (
            nobody.post("/signup", &json!({})).await.ok(201),
            Some("no-store"),
        ),
        (bo.get("/memory").await.ok(200), Some("no-store")),
        (bo.head("/memory").await.ok(200), Some("no-store")),
        (bo.get("/credits").await.ok(200), Some("no-store")),
        (
            bo.post("/memory", &memory("t")).await.ok(201),
            Some("no-store"),
        ),
        (
            bo.post("/memory", &json!({})).await.ok(400),
            Some("no-store"),
        ),
        (nobody.get("/memory").await.ok(401), Some("no-store")),
        (nobody.get("/nothing").await.ok(404), Some("no-store")),
        (nobody.get("/admin/users").await.ok(403), Some("no-store")),
    ];
    let mut seen = std::collections::HashSet::new();
    for (answer, caching) in answers {
        let id = answer.header("x-request-id").unwrap();
        assert!(id != "mine" && !id.is_empty());
        assert!(seen.insert(id.to_owned()), "{id} twice");
        assert_eq!(answer.header("cache-control"), caching);
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        let exposed = sorted(answer.header("access-control-expose-headers"));
        for name in [
            "X-Request-Id",
            "X-Credits-Cost",
            "X-Credits-Limit",
            "X-Credits-Remaining",
            "X-Credits-Reset",
            "Idempotent-Replayed",
            "Retry-After",
        ] {
            assert!(exposed.contains(&name.to_owned()), "{name}");
        }
        let is_401 = answer.status == 401;
        assert_eq!(
            answer.header("www-authenticate"),
            is_401.then_some("Bearer")
        );
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_comes_in_one_of_two_headers() {
    // Shows X-API-KEY and Bearer in any case, the same key in both, and that another scheme and an
    // empty key are no credential.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let nobody = server.anonymous();
    let bearer = |scheme: &str| nobody.with("authorization", &format!("{scheme} {}", bo.key));
    for actor in [
        bearer("Bearer"),
        bearer("bearer"),
        bearer("BEARER"),
        bo.with("authorization", &format!("Bearer {}", bo.key)),
        bo.with("authorization", "Basic dXNlcjpwYXNz"),
        bo.with("authorization", "Bearer"),
        bearer("Bearer").with("x-api-key", ""),
    ] {
        actor.get("/credits").await.ok(200);
    }
    for actor in [
        nobody.clone(),
        nobody.with("x-api-key", ""),
        nobody.with("x-api-key", "  "),
        nobody.with("authorization", "Bearer "),
        nobody.with("authorization", ""),
        bearer("Basic"),
        bearer("Token"),
        nobody.with("cookie", &format!("api_key={}", bo.key)),
    ] {
        let answer = actor.get("/credits").await;
        answer.refused(401, "missing_credentials", "Authentication required");
    }
    for actor in [
        server.key("wrong"),
        server.key(&bo.key[..31]),
        server.key(&format!("{}x", bo.key)),
        server.key(&bo.key_id),
        server.key(&bo.masked()),
        server.key(&"k".repeat(5_000)),
        server.key("ключ"),
        nobody.with("authorization", "Bearer a b"),
    ] {
        let answer = actor.get("/credits").await;
        answer.refused(401, "invalid_key", "Invalid API key");
    }
    let answer = server.revoked_key().await.get("/credits").await;
    answer.refused(401, "key_revoked", "Invalid API key");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_credentials_are_refused() {
    // Shows 400 for keys that differ and for each credential header sent twice, the same value too.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let bearer = format!("Bearer {}", bo.key);
    for actor in [
        bo.with("authorization", "Bearer another"),
        bo.with("x-api-key", &bo.key),
        bo.with("x-api-key", ""),
        bo.with("authorization", &bearer)
            .with("authorization", &bearer),
        bo.with("authorization", "Basic a")
            .with("authorization", "Basic b"),
        bo.with("x-admin-key", "admin-secret-key")
            .with("x-admin-key", "admin-secret-key"),
    ] {
        for path in ["/credits", "/memory", "/apikey/list", "/admin/users"] {
            let answer = actor.get(path).await;
            answer.refused(400, "ambiguous_credentials", "Ambiguous credentials");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_the_query_never_counts() {
    // Shows that no name of a query parameter authenticates, for accounts and for the admin.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let nobody = server.anonymous();
    for name in [
        "api_key",
        "key",
        "X-API-KEY",
        "x-api-key",
        "apikey",
        "access_token",
        "token",
    ] {
        let answer = nobody.get(&format!("/memory?{name}={}", bo.key)).await;
        answer.refused(401, "missing_credentials", "Authentication required");
    }
    for name in ["admin_key", "X-ADMIN-KEY", "x-admin-key"] {
        let answer = nobody
            .get(&format!("/admin/users?{name}=admin-secret-key"))
            .await;
        answer.refused(403, "admin_required", "Admin access required");
    }
    bo.get("/memory?api_key=other").await.ok(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_json() {
    // Shows which media types are taken, and that none is taken as JSON.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let good = memory("t").to_string();
    bo.send(Method::POST, "/memory", good.clone()).await.ok(201);
    for value in [
        "application/json",
        "application/json; charset=utf-8",
        "APPLICATION/JSON;charset=UTF-8",
    ] {
        let actor = bo.with("content-type", value);
        actor
            .send(Method::POST, "/memory", good.clone())
            .await
            .ok(201);
    }
    let packed = bo.with("content-encoding", "gzip");
    let answer = packed.send(Method::POST, "/memory", good.clone()).await;
    answer.refused(415, "unsupported_media_type", "Unsupported media type");
    for value in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "application/problem+json",
        "multipart/form-data; boundary=x",
        "json",
    ] {
        let actor = bo.with("content-type", value);
        let answer = actor.send(Method::POST, "/memory", good.clone()).await;
        assert_eq!(
            (answer.status, &answer.json["code"]),
            (415, &json!("unsupported_media_type")),
            "{value}"
        );
    }
    // Where no body is read its type does not matter.
    bo.with("content-type", "text/plain")
        .get("/memory")
        .await
        .ok(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_length_is_bounded_too() {
    // Shows that chunked bodies are counted as they come: 65,536 bytes are taken, one more is 413.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let chunked = async |bytes: usize| {
        let mut text = memory("t").to_string();
        text.push_str(&" ".repeat(bytes - text.len()));
        let parts: Vec<_> = text.as_bytes().chunks(10_000).map(<[u8]>::to_vec).collect();
        let parts = parts.into_iter().map(Ok::<_, std::io::Error>);
        let body = reqwest::Body::wrap_stream(futures_util::stream::iter(parts));
        bo.send(Method::POST, "/memory", body).await
    };
    chunked(65_536).await.ok(201);
    let answer = chunked(65_537).await;
    answer.refused(413, "body_too_large", "Request body too large");
    assert_eq!(bo.credits().await, 98);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_in_paths_are_percent_decoded() {
    // Shows that an id is found in any spelling of the path, and that what is no UTF-8 is 400.
    let server = Server::spawn().await;
    let bo = server.account_of("b+o@example.com", Plan::FREE).await;
    let id = bo.add("t").await;
    let encoded = id.replace('m', "%6d").replace('_', "%5F");
    bo.get(&format!("/memory/{encoded}")).await.ok(200);
    let change = json!({"x": 1});
    bo.patch(&format!("/memory/{encoded}"), &change)
        .await
        .ok(200);
    let admin = server.admin();
    let plan = json!({"plan": "Pro"});
    admin
        .put("/admin/user/b%2Bo%40example.com/plan", &plan)
        .await
        .ok(200);
    for name in ["%ff", "%C3", "a%80b"] {
        bo.get(&format!("/memory/{name}")).await.bad_field("id");
        bo.delete(&format!("/memory/{name}")).await.bad_field("id");
        bo.patch(&format!("/memory/{name}"), &change)
            .await
            .bad_field("id");
        bo.delete(&format!("/apikey/{name}")).await.bad_field("key");
        let key = format!("/apikey/{name}");
        bo.patch(&key, &json!({})).await.bad_field("key");
        bo.post(&format!("{key}/rotate"), &json!({}))
            .await
            .bad_field("key");
        let path = format!("/admin/user/{name}/plan");
        admin.put(&path, &plan).await.bad_field("key");
    }
    // An encoded slash does not part a path.
    let answer = bo.get("/memory/a%2Fb").await;
    answer.refused(404, "not_found", "Memory not found");
    bo.delete(&format!("/memory/{encoded}")).await.ok(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_objects() {
    // Shows that JSON that is no object is refused by every route that reads a body, and an empty body
    // by those that need one.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    let path = format!("/memory/{}", bo.add("t").await);
    let both = bo.with("x-admin-key", "admin-secret-key");
    let plan = format!("/admin/user/{}/plan", bo.key_id);
    let routes = [
        ("POST", "/signup", 201),
        ("POST", "/login", 200),
        ("POST", "/apikey/new", 400), // the admin has to say for whom
        ("POST", "/admin/sync-memory-counts", 200),
        ("POST", "/admin/backup", 201),
        ("POST", "/memory", 400),
        ("PATCH", &path, 400),
        ("PUT", &plan, 400),
    ];
    for (name, path, of_empty) in routes {
        for body in [
            "[]",
            "1",
            "\"x\"",
            "null",
            "true",
            "{",
            "{}}",
            r#"{"a":1,"a":1}"#,
        ] {
            let answer = both.send(method(name), path, body).await;
            answer.refused(400, "invalid_json", "Invalid JSON");
        }
        let answer = both.send(method(name), path, "").await.ok(of_empty);
        if path.starts_with("/memory") || path == plan {
            answer.refused(400, "missing_body", "No JSON data provided");
        }
    }
    let answer = both
        .post("/admin/sync-memory-counts", &json!({"all": true}))
        .await;
    answer.bad_field("all");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_and_health_are_open() {
    // Shows every field of both.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    bo.add("t").await;
    let nobody = server.anonymous();
    let index = nobody.get("/").await.ok(200);
    assert_fields(&index.json, &["service", "status", "version", "endpoints"]);
    assert_eq!(index.json["service"], "MemoryOS-Clean");
    assert_eq!(index.json["version"], env!("CARGO_PKG_VERSION"));
    assert!(
        index.json["endpoints"]
            .as_array()
            .is_some_and(|list| list.len() > 15)
    );
    let health = nobody.get("/health").await.ok(200);
    assert_fields(
        &health.json,
        &[
            "status",
            "timestamp",
            "response_time_ms",
            "checks",
            "metrics",
            "version",
            "service",
        ],
    );
    assert_time(&health.json["timestamp"]);
    assert!(health.json["response_time_ms"].is_number());
    let checks = health.json["checks"].as_object().unwrap();
    assert!(!checks.is_empty() && checks.values().all(Value::is_boolean));
    let metrics = &health.json["metrics"];
    assert_fields(
        metrics,
        &[
            "memory_entries",
            "total_users",
            "active_api_keys",
            "database_size_bytes",
            "uptime_seconds",
        ],
    );
    for name in ["memory_entries", "total_users", "active_api_keys"] {
        assert_eq!(metrics[name], 1, "{name}");
    }
    assert!(metrics["database_size_bytes"].as_u64().unwrap() > 0);
    assert!(metrics["uptime_seconds"].is_u64());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_far_too_large_still_gets_its_answer() {
    // Shows that a client that sends megabytes reads why it was refused, and is not just cut off.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let large = "x".repeat(4 << 20);
    for _ in 0..8 {
        let answer = bo.send(Method::POST, "/memory", large.clone()).await;
        answer.refused(413, "body_too_large", "Request body too large");
        let parts = large
            .as_bytes()
            .chunks(65_536)
            .map(<[u8]>::to_vec)
            .collect::<Vec<_>>();
        let parts = parts.into_iter().map(Ok::<_, std::io::Error>);
        let body = reqwest::Body::wrap_stream(futures_util::stream::iter(parts));
        let answer = bo.send(Method::POST, "/memory", body).await;
        answer.refused(413, "body_too_large", "Request body too large");
        let nobody = server.anonymous();
        nobody
            .send(Method::POST, "/memory", large.clone())
            .await
            .ok(401);
        nobody
            .send(Method::POST, "/nothing", large.clone())
            .await
            .ok(404);
        nobody
            .send(Method::PUT, "/memory", large.clone())
            .await
            .ok(405);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_request_ids_are_harmless() {
    // Shows that a client's id of any form changes nothing in the answer.
    let server = Server::spawn().await;
    for id in ["", "a b", "é", &"x".repeat(65), "fine-1"] {
        let answer = server
            .anonymous()
            .with("x-request-id", id)
            .get("/health")
            .await
            .ok(200);
        let own = answer.header("x-request-id").unwrap();
        assert!(
            own.len() == 26 && own.bytes().all(|b| b.is_ascii_alphanumeric()),
            "{own}"
        );
    }
}
