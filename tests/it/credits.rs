//! What requests cost, when they are refused for it, and when credits come back.

use memoryos::domain::plan::Plan;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Actor, Answer, LOW, Options, Server, assert_fields, at, memory};

const OUT: &str = "Your account has run out of credits. Please upgrade your plan or wait for your \
                   monthly reset.";
/// Seconds from the harness's start to the end of the first billing cycle.
const TO_RESET: u64 = 31 * 86_400;

async fn set_plan(server: &Server, whose: &Actor, plan: &str) -> Answer {
    let path = format!("/admin/user/{}/plan", whose.account_id);
    let set = server.admin().put(&path, &json!({"plan": plan})).await;
    set.ok(200)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_route_has_its_price() {
    // Shows the price of every route in headers, body and balance; free ones say nothing of credits.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    let path = format!("/memory/{}", bo.add("t").await);
    let spare = server.made(&bo.post("/apikey/new", &json!({})).await.ok(201));
    let spare_path = format!("/apikey/{}", spare.key_id);
    let body = memory("t");
    let requests: [(Method, &str, Value, u64); 15] = [
        (Method::GET, "/memory", Value::Null, 1),
        (Method::GET, "/memory?page=9", Value::Null, 1),
        (Method::GET, &path, Value::Null, 1),
        (Method::GET, "/stats", Value::Null, 1),
        (Method::GET, "/gpt-status", Value::Null, 1),
        (Method::POST, "/memory", body, 2),
        (Method::PATCH, &path, json!({"x": 1}), 2),
        (Method::DELETE, &path, Value::Null, 0),
        (Method::GET, "/", Value::Null, 0),
        (Method::GET, "/health", Value::Null, 0),
        (Method::GET, "/credits", Value::Null, 0),
        (Method::POST, "/login", json!({}), 0),
        (Method::POST, "/apikey/new", json!({}), 0),
        (Method::GET, "/apikey/list", Value::Null, 0),
        (Method::DELETE, &spare_path, Value::Null, 0),
    ];
    let mut left = bo.credits().await;
    for (method, path, body, price) in requests {
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let answer = bo.send(method.clone(), path, text).await;
        assert!(answer.status < 300, "{method} {path}: {}", answer.text);
        left -= price;
        assert_eq!(bo.credits().await, left, "{method} {path}");
        if price == 0 {
            answer.unmetered();
            continue;
        }
        assert_eq!(
            answer.metered(),
            [price, 10_000, left, TO_RESET],
            "{method} {path}"
        );
        assert_eq!(
            answer.json["credit_info"],
            json!({"credits_remaining": left, "credits_used": price})
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_costs_what_get_costs() {
    // Shows that HEAD debits, has GET's headers and no body, and is free where GET is.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let path = format!("/memory/{}", bo.add("t").await);
    let mut left = 98;
    for path in ["/memory", &*path, "/stats", "/gpt-status"] {
        let head = bo.head(path).await.ok(200);
        left -= 1;
        assert_eq!(head.text, "");
        assert_eq!(head.metered(), [1, 100, left, TO_RESET], "{path}");
        assert_eq!(head.header("content-type"), Some("application/json"));
    }
    for path in ["/", "/health", "/credits", "/apikey/list"] {
        assert_eq!(bo.head(path).await.ok(200).unmetered().text, "");
    }
    let refused = server.anonymous().head("/memory").await.ok(401);
    assert_eq!(
        (&*refused.text, refused.header("www-authenticate")),
        ("", Some("Bearer"))
    );
    assert_eq!(bo.credits().await, left);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_costs_nothing() {
    // Shows that every refusal of a metered route leaves the credits as they were.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let path = format!("/memory/{}", bo.add("t").await);
    let large = "x".repeat(65_537);
    let good = memory("t").to_string();
    let (twice, text) = (
        bo.with("x-api-key", &bo.key),
        bo.with("content-type", "text/plain"),
    );
    let odd_key = bo.with("idempotency-key", "a b");
    let wrong_admin = bo.with("x-admin-key", "wrong");
    let requests: [(&Actor, Method, &str, &str, u16); 19] = [
        (&bo, Method::GET, "/memory/", "", 404),
        (&bo, Method::PUT, "/memory", "", 405),
        (&twice, Method::GET, "/memory", "", 400),
        (&wrong_admin, Method::GET, "/stats", "", 403),
        (&bo, Method::POST, "/memory", &large, 413),
        (&text, Method::POST, "/memory", &good, 415),
        (&bo, Method::POST, "/memory", "", 400),
        (&bo, Method::POST, "/memory", "{", 400),
        (&bo, Method::POST, "/memory", "{}", 400),
        (&odd_key, Method::POST, "/memory", &good, 400),
        (&bo, Method::GET, "/memory?page=0", "", 400),
        (&bo, Method::GET, "/memory?cursor=x", "", 400),
        (&bo, Method::GET, "/memory?page=2000&limit=100", "", 400),
        (&bo, Method::GET, "/memory/nothing", "", 404),
        (&bo, Method::GET, "/memory/%ff", "", 400),
        (&bo, Method::PATCH, "/memory/nothing", r#"{"x":1}"#, 404),
        (&bo, Method::PATCH, &path, "{}", 400),
        (&text, Method::PATCH, &path, r#"{"x":1}"#, 415),
        (&bo, Method::PATCH, &path, r#"{"topic":null}"#, 400),
    ];
    for (by, method, path, body, status) in requests {
        let answer = by.send(method.clone(), path, body.to_owned()).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text);
        answer.unmetered();
        assert_eq!(bo.credits().await, 98, "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credits_it_is_402() {
    // Shows error, numbers and headers for each price, that one credit still buys a read but no write,
    // and that free routes go on.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let path = format!("/memory/{}", bo.add("t").await);
    bo.spend(97).await;
    let requests = async |left: u64| {
        let mut answers = vec![
            (2, bo.post("/memory", &memory("t")).await),
            (2, bo.patch(&path, &json!({"x": 1})).await),
        ];
        if left == 0 {
            for read in ["/memory", &path, "/stats", "/gpt-status"] {
                answers.push((1, bo.get(read).await));
            }
        }
        for (cost, answer) in answers {
            let answer = answer.refused(402, "out_of_credits", "Out of credits");
            assert_fields(
                &answer.json,
                &[
                    "error",
                    "code",
                    "message",
                    "request_id",
                    "credits_remaining",
                    "cost",
                    "reset_date",
                ],
            );
            assert_eq!(answer.json["message"], OUT);
            assert_eq!(answer.json["credits_remaining"], left);
            assert_eq!(answer.json["cost"], cost);
            assert_eq!(
                answer.json["reset_date"],
                "2026-02-15T12:00:00.000000+00:00"
            );
            assert_eq!(answer.metered(), [0, 100, left, TO_RESET]);
        }
    };
    requests(1).await;
    assert_eq!(bo.credits().await, 1);
    bo.spend(1).await;
    requests(0).await;
    let head = bo.head("/memory").await.ok(402);
    assert_eq!(head.metered(), [0, 100, 0, TO_RESET]);
    // What is not there is 404 before it is 402.
    bo.get("/memory/nothing")
        .await
        .refused(404, "not_found", "Memory not found");
    let answer = bo.patch("/memory/nothing", &json!({"x": 1})).await;
    answer.refused(404, "not_found", "Memory not found");
    bo.get("/memory?page=0").await.bad_field("page");
    bo.post("/memory", &json!({})).await.ok(400);
    bo.get("/credits").await.ok(200);
    bo.delete(&path).await.ok(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capped_keys_402_says_so() {
    // Shows that a capped key's refusals carry its own numbers and "scope": "key", and that the account
    // goes on.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    let made = bo
        .post("/apikey/new", &json!({"plan": "Free"}))
        .await
        .ok(201);
    let capped = server.made(&made);
    capped.spend(100).await;
    let answer = capped.get("/stats").await;
    let answer = answer.refused(402, "out_of_credits", "Out of credits");
    assert_eq!(answer.json["scope"], "key");
    assert_eq!(
        (&answer.json["cost"], &answer.json["credits_remaining"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(answer.metered(), [0, 100, 0, TO_RESET]);
    assert_eq!(bo.credits().await, 9_900);
    bo.spend(1).await;
    // The key's memories: its own limit, over several cycles.
    for month in 1..=3 {
        server
            .clock
            .set(at(&format!("2026-0{}-20T12:00:00Z", month + 1)));
        for n in 0..(if month == 3 { 10 } else { 45 }) {
            capped.add(&n.to_string()).await;
        }
    }
    bo.add("the account's own").await;
    let answer = capped.post("/memory", &memory("t")).await;
    let answer = answer.refused(402, "memory_limit_exceeded", "Memory limit exceeded");
    assert_eq!(answer.json["scope"], "key");
    assert_eq!(
        (
            &answer.json["current_count"],
            &answer.json["limit"],
            &answer.json["plan"]
        ),
        (&json!(100), &json!(100), &json!("Free"))
    );
    assert_eq!(answer.metered()[..3], [0, 100, 80]);
    // Pagination and total_memories are the account's.
    let listed = capped.get("/memory").await.ok(200);
    assert_eq!(listed.json["pagination"]["total"], 101);
    let own = capped.get("/credits").await.ok(200);
    assert_eq!(own.json["memory_usage"]["current_count"], 100);
    // A place that the account frees is the key's again.
    let last = listed.json["memories"][1]["id"].as_str().unwrap();
    bo.delete(&format!("/memory/{last}")).await.ok(200);
    let made = capped.post("/memory", &memory("t")).await.ok(201);
    assert_eq!(made.json["total_memories"], 101);
    assert_eq!(
        made.json["memory_usage"],
        json!({"current_count": 100, "limit": 100, "remaining": 0})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_limit_is_exact() {
    // Shows the original message at exactly 100, that credits are looked at first, and that neither
    // refusal costs anything.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    for n in 0..99 {
        bo.add(&n.to_string()).await;
    }
    set_plan(&server, &bo, "Free").await;
    let made = bo.post("/memory", &memory("100th")).await.ok(201);
    assert_eq!(
        made.json["memory_usage"],
        json!({"current_count": 100, "limit": 100, "remaining": 0})
    );
    let answer = bo.post("/memory", &memory("101st")).await;
    let answer = answer.refused(402, "memory_limit_exceeded", "Memory limit exceeded");
    assert_fields(
        &answer.json,
        &[
            "error",
            "code",
            "message",
            "request_id",
            "current_count",
            "limit",
            "plan",
        ],
    );
    assert_eq!(
        answer.json["message"],
        "Your Free plan allows 100 memories. You currently have 100. Please upgrade your plan to \
         add more memories."
    );
    assert_eq!(
        (
            &answer.json["current_count"],
            &answer.json["limit"],
            &answer.json["plan"]
        ),
        (&json!(100), &json!(100), &json!("Free"))
    );
    assert_eq!(answer.metered(), [0, 100, 98, TO_RESET]);
    bo.spend(97).await;
    let answer = bo.post("/memory", &memory("101st")).await;
    answer.refused(402, "out_of_credits", "Out of credits");
    assert_eq!(bo.credits().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn low_credits_are_told_in_every_metered_body() {
    // Shows that 25 left is no warning, and 24 is one, in the body and in credit_info.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let path = format!("/memory/{}", bo.add("t").await);
    bo.spend(72).await;
    let answer = bo.get("/memory").await.ok(200);
    assert_eq!(answer.metered()[2], 25);
    assert_eq!(answer.json["warning"], Value::Null);
    assert_eq!(answer.json["credit_info"]["warning"], Value::Null);
    let answers = [
        bo.get("/memory").await.ok(200),
        bo.get(&path).await.ok(200),
        bo.get("/stats").await.ok(200),
        bo.get("/gpt-status").await.ok(200),
        bo.post("/memory", &memory("t")).await.ok(201),
        bo.patch(&path, &json!({"x": 1})).await.ok(200),
    ];
    for answer in answers {
        assert_eq!(answer.json["warning"], LOW);
        assert_eq!(answer.json["credit_info"]["warning"], LOW);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cycles_are_counted_from_the_anchor() {
    // Shows an account of 31 January: new credits on 28 February and 31 March, at the very instant and
    // not before.
    let start = Options {
        start: "2026-01-31T10:30:00+00:00",
        ..Options::default()
    };
    let server = Server::spawn_with(start).await;
    let bo = server.account(Plan::FREE).await;
    bo.spend(100).await;
    let cases = [
        (
            "2026-02-28T10:29:59.999999Z",
            0,
            "2026-02-28T10:30:00.000000+00:00",
            0,
            100,
        ),
        (
            "2026-02-28T10:30:00Z",
            100,
            "2026-03-31T10:30:00.000000+00:00",
            31,
            100,
        ),
        (
            "2026-03-31T10:29:59Z",
            99,
            "2026-03-31T10:30:00.000000+00:00",
            0,
            101,
        ),
        (
            "2026-03-31T10:30:00Z",
            100,
            "2026-04-30T10:30:00.000000+00:00",
            30,
            102,
        ),
    ];
    for (now, left, reset, days, used_ever) in cases {
        server.clock.set(at(now));
        let answer = bo.get("/credits").await.ok(200);
        for (name, value) in [
            ("credits_remaining", json!(left)),
            ("credits_used_this_cycle", json!(100 - left)),
            ("reset_date", json!(reset)),
            ("days_until_reset", json!(days)),
            ("total_credits_used", json!(used_ever)),
        ] {
            assert_eq!(answer.json[name], value, "{name} at {now}");
        }
        let answer = bo.get("/gpt-status").await;
        assert_eq!(answer.status, if left == 0 { 402 } else { 200 }, "{now}");
        if days == 0 {
            // A part of a second is one: the header is rounded up.
            assert_eq!(answer.metered()[3], 1);
        }
    }
    // Months without a request grant once, not once a month.
    server.clock.set(at("2026-09-01T00:00:00Z"));
    let answer = bo.get("/credits").await.ok(200);
    assert_eq!(answer.json["credits_remaining"], 100);
    assert_eq!(
        answer.json["reset_date"],
        "2026-09-30T10:30:00.000000+00:00"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_steps_back_grants_nothing_twice() {
    // Shows that a cycle entered once stays entered: back and forth neither gives nor takes credits.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let capped = server.made(
        &bo.post("/apikey/new", &json!({"plan": "Free"}))
            .await
            .ok(201),
    );
    bo.spend(40).await;
    capped.spend(5).await;
    server.clock.set(at("2026-02-16T00:00:00Z"));
    bo.spend(10).await;
    for now in [
        "2026-02-01T00:00:00Z",
        "2026-02-16T00:00:00Z",
        "2025-01-01T00:00:00Z",
        "2026-03-15T11:59:59Z",
    ] {
        server.clock.set(at(now));
        assert_eq!(bo.credits().await, 90, "{now}");
        assert_eq!(capped.credits().await, 90, "{now}");
        let answer = bo.get("/credits").await.ok(200);
        assert_eq!(answer.json["credits_used_this_cycle"], 10);
        assert_eq!(
            answer.json["reset_date"],
            "2026-03-15T12:00:00.000000+00:00"
        );
    }
    server.clock.set(at("2025-01-01T00:00:00Z"));
    bo.spend(1).await;
    assert_eq!(bo.credits().await, 89);
    server.clock.set(at("2026-03-15T12:00:00Z"));
    assert_eq!(bo.credits().await, 100);
    let list = bo.get("/apikey/list").await.ok(200);
    assert_eq!(list.json["api_keys"][0]["credits_used_this_cycle"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_change_moves_credits_exactly() {
    // Shows upgrade, downgrade and the same plan in numbers: what was used, the anchor and the memories
    // stay.
    let server = Server::spawn().await;
    let bo = server.account_of("bo@example.com", Plan::FREE).await;
    bo.add("kept").await;
    bo.spend(58).await;
    server.clock.advance(86_400);
    let up = set_plan(&server, &bo, "Pro").await.unmetered();
    assert_eq!(
        up.json,
        json!({
            "message": "Plan updated to Pro", "account_id": "bo@example.com", "plan": "Pro",
            "previous_plan": "Free", "credits_remaining": 10_000, "memory_limit": 2_000,
            "reset_date": "2026-02-15T12:00:00.000000+00:00",
        })
    );
    let answer = bo.get("/credits").await.ok(200);
    for (name, value) in [
        ("plan", json!("Pro")),
        ("credits_remaining", json!(10_000)),
        ("credits_limit", json!(10_000)),
        ("credits_used_this_cycle", json!(60)),
        ("total_credits_used", json!(60)),
        ("percent_remaining", json!(100.0)),
    ] {
        assert_eq!(answer.json[name], value, "{name}");
    }
    bo.spend(10).await;
    let same = set_plan(&server, &bo, "Pro").await;
    assert_eq!(same.json["previous_plan"], "Pro");
    assert_eq!(same.json["credits_remaining"], 9_990);
    let down = set_plan(&server, &bo, "Free").await;
    assert_eq!(
        (&down.json["credits_remaining"], &down.json["memory_limit"]),
        (&json!(100), &json!(100))
    );
    bo.spend(30).await;
    let up = set_plan(&server, &bo, "Premium").await;
    assert_eq!(up.json["credits_remaining"], 100_000);
    bo.spend(1).await;
    set_plan(&server, &bo, "Pro").await;
    assert_eq!(bo.credits().await, 10_000);
    set_plan(&server, &bo, "Free").await;
    bo.spend(40).await;
    // A downgrade keeps what is left if that is less.
    set_plan(&server, &bo, "Pro").await;
    let mut spenders = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let bo = bo.clone();
        spenders.spawn(async move { bo.spend(995).await });
    }
    spenders.join_all().await;
    let down = set_plan(&server, &bo, "Free").await;
    assert_eq!(down.json["credits_remaining"], 50);
    let answer = bo.get("/credits").await.ok(200);
    assert_eq!(answer.json["memory_usage"]["current_count"], 1);
    assert_eq!(
        answer.json["credits_used_this_cycle"],
        60 + 10 + 30 + 1 + 40 + 9_950
    );
    // The next cycle is an ordinary one.
    server.clock.set(at("2026-02-15T12:00:00Z"));
    assert_eq!(bo.credits().await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_requests_spend_what_there_is() {
    // Shows that 160 reads at once of 100 credits are answered exactly 100 times.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..160 {
        let bo = bo.clone();
        racers.spawn(async move { bo.get("/gpt-status").await.status });
    }
    let mut statuses = racers.join_all().await;
    statuses.sort_unstable();
    assert_eq!(statuses, [vec![200; 100], vec![402; 60]].concat());
    assert_eq!(bo.credits().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_adds_spend_what_there_is() {
    // Shows that 64 adds at once of 100 credits make exactly 50 memories, and that 200 at once of an
    // account with room are all made: writers wait, they are not refused.
    let server = Server::spawn().await;
    for (plan, adds, made) in [(Plan::FREE, 64, 50), (Plan::PRO, 200, 200)] {
        let bo = server.account(plan).await;
        let mut racers = tokio::task::JoinSet::new();
        for n in 0..adds {
            let bo = bo.clone();
            racers.spawn(async move { bo.post("/memory", &memory(&n.to_string())).await });
        }
        let answers = racers.join_all().await;
        let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [vec![201; made], vec![402; adds - made]].concat());
        // Each saw another total, and the last one the count.
        let totals = answers
            .iter()
            .filter_map(|answer| answer.json["total_memories"].as_u64());
        let mut totals: Vec<_> = totals.collect();
        totals.sort_unstable();
        assert_eq!(
            totals,
            (1..=u64::try_from(made).unwrap()).collect::<Vec<_>>()
        );
        let credits = bo.get("/credits").await.ok(200);
        assert_eq!(credits.json["memory_usage"]["current_count"], made);
        assert_eq!(credits.json["credits_used_this_cycle"], 2 * made);
    }
}
