//! What clients are told while the disk fails.

use http_body_util::BodyExt;
use memoryos::app::{AdminAccess, App, BackupSettings, RateLimits, Settings};
use memoryos::clock::Clock;
use memoryos::domain::plan::{Plan, Plans, Prices};
use memoryos::store::Store;
use serde_json::json;

use crate::harness::{Actor, Answer, Server, memory};

#[track_caller]
fn unavailable(answer: Answer) -> Answer {
    let answer = answer.refused(503, "storage_unavailable", "Storage unavailable");
    let seconds = answer.header("retry-after").expect("Retry-After");
    assert!(seconds.parse::<u64>().unwrap() > 0);
    answer.unmetered()
}

struct Failing {
    server: Server,
    bo: Actor,
    path: String,
}

/// A server whose disk has failed, with an account that holds one memory.
async fn failing() -> Failing {
    let server = Server::spawn().await;
    let bo = server.account_of("bo@example.com", Plan::FREE).await;
    let path = format!("/memory/{}", bo.add("t").await);
    server.store().poison_for_test();
    Failing { server, bo, path }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_refused_before_any_debit() {
    // Shows 503 for every write, that nothing is charged or changed, and no 409 for the key after.
    let Failing { server, bo, path } = failing().await;
    let admin = server.admin();
    let keyed = bo.with("idempotency-key", "k");
    let plan = format!("/admin/user/{}/plan", bo.account_id);
    let answers = [
        bo.post("/memory", &memory("t")).await,
        keyed.post("/memory", &memory("t")).await,
        keyed.post("/memory", &memory("t")).await,
        bo.patch(&path, &json!({"topic": "x"})).await,
        bo.delete(&path).await,
        bo.post("/apikey/new", &json!({})).await,
        server.anonymous().post("/signup", &json!({})).await,
        admin
            .post("/apikey/new", &json!({"email": "al@example.com"}))
            .await,
        admin.put(&plan, &json!({"plan": "Pro"})).await,
        admin.delete(&format!("/apikey/{}", bo.key_id)).await,
    ];
    for answer in answers {
        let answer = unavailable(answer);
        assert_eq!(answer.json["outcome"], serde_json::Value::Null);
    }
    let credits = bo.get("/credits").await.ok(200);
    assert_eq!(credits.json["credits_remaining"], 98);
    assert_eq!(credits.json["plan"], "Free");
    let read = bo.get(&path).await.ok(200);
    assert_eq!(read.json["memory"]["topic"], "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_request_comes_first() {
    // Shows that requests that would be refused anyway are told why, not that the disk failed.
    let Failing { server, bo, path } = failing().await;
    bo.post("/memory", &json!({})).await.ok(400);
    bo.patch(&path, &json!({})).await.ok(400);
    let nobody = server.anonymous();
    nobody.post("/memory", &memory("t")).await.ok(401);
    nobody.post("/signup", &json!({"plan": "X"})).await.ok(400);
    bo.post("/login", &json!({})).await.ok(200);
    bo.get("/apikey/list").await.ok(200);
    server.admin().get("/admin/users").await.ok(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_go_on_uncharged() {
    // Shows that metered reads of an account with credits cost nothing while the disk fails.
    let Failing {
        server: _server,
        bo,
        path,
    } = failing().await;
    for path in ["/memory", &path, "/stats", "/gpt-status"] {
        let answer = bo.get(path).await.ok(200);
        assert_eq!(answer.metered()[..3], [0, 100, 98], "{path}");
        assert_eq!(
            answer.json["credit_info"],
            json!({"credits_remaining": 98, "credits_used": 0}),
            "{path}"
        );
        assert_eq!(bo.head(path).await.ok(200).metered()[0], 0);
    }
    assert_eq!(bo.credits().await, 98);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_without_credits_reads_nothing_for_free() {
    // Shows that the exception is for accounts with credits left only.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let path = format!("/memory/{}", bo.add("t").await);
    bo.spend(98).await;
    server.store().poison_for_test();
    for path in ["/memory", &path, "/stats", "/gpt-status"] {
        let answer = bo.get(path).await;
        let answer = answer.refused(402, "out_of_credits", "Out of credits");
        assert_eq!(answer.metered()[..3], [0, 100, 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_unhealthy() {
    // Shows 503 with the figures still there, and the same word in /gpt-status.
    let Failing { server, bo, .. } = failing().await;
    let health = server.anonymous().get("/health").await.ok(503);
    assert_eq!(health.json["status"], "unhealthy");
    assert_eq!(health.json["metrics"]["memory_entries"], 1);
    let checks = health.json["checks"].as_object().unwrap();
    assert!(checks.values().any(|check| check == false));
    let status = bo.get("/gpt-status").await.ok(200);
    assert_eq!(status.json["system_status"], "unhealthy");
}

#[tokio::test]
async fn a_panic_in_a_handler_is_500() {
    // Shows that a panic becomes an answer like any other, and that the next request is served.
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path(), memoryos::store::Options::default()).unwrap();
    let settings = Settings {
        plans: Plans::seed(),
        prices: Prices::SEED,
        signup_plans: Vec::new(),
        admin: AdminAccess::Disabled,
        body_bytes_max: 65_536,
        public_url: None,
        backups: BackupSettings::asked_only(directory.path().join("backups")),
        rate_limits: RateLimits::OFF,
        trusted_proxies: Vec::new(),
        webhooks: Vec::new(),
    };
    let app = App::new(store, Clock::System, settings);
    let broken = tower::service_fn(|_: http::Request<()>| async { panic!("on purpose") });
    let request = http::Request::get("/memory").body(()).unwrap();
    let peer = std::net::IpAddr::from([127, 0, 0, 1]);
    let Ok(answer) = memoryos::http::answer(app, broken, request, peer).await;
    assert_eq!(answer.status(), 500);
    assert!(answer.headers().contains_key("x-request-id"));
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["code"], "internal");
    assert!(!body.to_string().contains("on purpose"), "{body}");
}
