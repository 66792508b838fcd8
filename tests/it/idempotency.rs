//! `Idempotency-Key` on `POST /memory`.

use memoryos::domain::plan::Plan;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Actor, Answer, Server, memory};

async fn add(by: &Actor, key: &str, topic: &str) -> Answer {
    by.with("idempotency-key", key)
        .post("/memory", &memory(topic))
        .await
}

/// Asserts that `again` is the recorded `first`, for nothing.
#[track_caller]
fn assert_replay(again: &Answer, first: &Answer) {
    assert_eq!(again.status, first.status, "{}", again.text);
    assert_eq!(again.text, first.text);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.metered()[0], 0);
    assert_eq!(again.header("content-type"), Some("application/json"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_and_body_replay_the_answer() {
    // Shows that the recorded answer comes again after the memory was changed and deleted and without
    // credits, with the credits as they are now.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let first = add(&bo, "k-1", "t").await.ok(201);
    assert_eq!(first.header("idempotent-replayed"), None);
    assert_eq!(first.metered()[..3], [2, 100, 98]);
    let again = add(&bo, "k-1", "t").await;
    assert_replay(&again, &first);
    assert_eq!(again.metered()[..3], [0, 100, 98]);
    let path = format!("/memory/{}", first.json["entry"]["id"].as_str().unwrap());
    bo.patch(&path, &json!({"topic": "changed"})).await.ok(200);
    let again = add(&bo, "k-1", "t").await;
    assert_replay(&again, &first);
    assert_eq!(again.metered()[..3], [0, 100, 96]);
    bo.delete(&path).await.ok(200);
    assert_replay(&add(&bo, "k-1", "t").await, &first);
    bo.spend(96).await;
    let again = add(&bo, "k-1", "t").await;
    assert_replay(&again, &first);
    assert_eq!(again.metered()[..3], [0, 100, 0]);
    let listed = bo.get("/credits").await.ok(200);
    assert_eq!(listed.json["memory_usage"]["current_count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_outlives_a_restart() {
    // Shows that the record is on the disk, also of a memory that is stored in pieces.
    let mut server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let topic = "t";
    let mut body = memory(topic);
    body["output"] = json!("é".repeat(30_000));
    let first = bo
        .with("idempotency-key", "long")
        .post("/memory", &body)
        .await
        .ok(201);
    let short = add(&bo, "short", topic).await.ok(201);
    server.restart().await;
    let bo = server.key(&bo.key);
    let again = bo
        .with("idempotency-key", "long")
        .post("/memory", &body)
        .await;
    assert_replay(&again, &first);
    assert_replay(&add(&bo, "short", topic).await, &short);
    assert_eq!(bo.credits().await, 96);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_body_is_422() {
    // Shows that the bytes count: the same JSON written otherwise is another body. Nothing is debited.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    add(&bo, "k", "t").await.ok(201);
    let spaced = memory("t").to_string() + " ";
    let actor = bo.with("idempotency-key", "k");
    let answers = [
        add(&bo, "k", "other").await,
        actor.send(Method::POST, "/memory", spaced).await,
    ];
    for answer in answers {
        assert_eq!(
            (answer.status, &answer.json["code"]),
            (422, &json!("idempotency_key_reused"))
        );
        answer.unmetered();
    }
    assert_eq!(bo.credits().await, 98);
    // A body that is no memory is 400 before it is 422.
    let answer = actor.send(Method::POST, "/memory", "{}").await;
    assert_eq!(
        (answer.status, &answer.json["code"]),
        (400, &json!("invalid_memory"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_1_to_255_visible_characters() {
    // Shows the bounds, and that other routes do not look at the header.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let long = "k".repeat(256);
    for key in ["", "a b", "a\tb", "é", &long] {
        let answer = add(&bo, key, "t").await;
        assert_eq!(
            (answer.status, &answer.json["code"]),
            (400, &json!("invalid_idempotency_key")),
            "{key:?}"
        );
    }
    let twice = bo.with("idempotency-key", "a");
    let answer = add(&twice, "a", "t").await;
    assert_eq!(answer.json["code"], "invalid_idempotency_key");
    add(&bo, &long[1..], "t").await.ok(201);
    add(&bo, "!~", "t").await.ok(201);
    let odd = bo.with("idempotency-key", "a b");
    odd.post("/apikey/new", &json!({})).await.ok(201);
    odd.post("/login", &json!({})).await.ok(200);
    odd.get("/memory").await.ok(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_never_replayed() {
    // Shows that /signup and /apikey/new make another secret each time, whatever the header says.
    let server = Server::spawn().await;
    let bo = server
        .account(Plan::FREE)
        .await
        .with("idempotency-key", "k");
    let mut shown = std::collections::HashSet::new();
    for path in ["/signup", "/signup", "/apikey/new", "/apikey/new"] {
        let made = bo.post(path, &json!({})).await.ok(201);
        assert_eq!(made.header("idempotent-replayed"), None);
        assert!(shown.insert(made.json["api_key"].as_str().unwrap().to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_belong_to_an_account() {
    // Shows that two accounts can use one key, and that two keys of an account share it.
    let server = Server::spawn().await;
    let (bo, al) = (
        server.account(Plan::FREE).await,
        server.account(Plan::FREE).await,
    );
    let first = add(&bo, "k", "t").await.ok(201);
    let other = add(&al, "k", "t").await.ok(201);
    assert_ne!(first.json["entry"]["id"], other.json["entry"]["id"]);
    let made = bo.post("/apikey/new", &json!({})).await.ok(201);
    assert_replay(&add(&server.made(&made), "k", "t").await, &first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_lives_24_hours() {
    // Shows a replay just before, and a new memory 24 hours after; then the new answer is the recorded
    // one.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let first = add(&bo, "k", "t").await.ok(201);
    server.clock.advance(86_399);
    assert_replay(&add(&bo, "k", "t").await, &first);
    assert_eq!(add(&bo, "k", "other").await.status, 422);
    server.clock.advance(1);
    let second = add(&bo, "k", "other").await.ok(201);
    assert_eq!(second.header("idempotent-replayed"), None);
    assert_ne!(second.json["entry"]["id"], first.json["entry"]["id"]);
    assert_replay(&add(&bo, "k", "other").await, &second);
    assert_eq!(bo.credits().await, 96);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_at_once_makes_one_memory() {
    // Shows that of 64 requests with one key one is debited, and the others are replays or told to wait.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let bo = bo.clone();
        racers.spawn(async move { add(&bo, "k", "t").await });
    }
    let answers = racers.join_all().await;
    let is_first = |a: &&Answer| a.status == 201 && a.header("idempotent-replayed").is_none();
    let firsts: Vec<_> = answers.iter().filter(is_first).collect();
    assert_eq!(firsts.len(), 1);
    for answer in &answers {
        if answer.status == 409 {
            assert_eq!(answer.json["code"], "idempotency_in_flight");
            assert_eq!(answer.header("retry-after"), Some("1"));
        } else if !std::ptr::eq(answer, firsts[0]) {
            assert_replay(answer, firsts[0]);
        }
    }
    assert_eq!(bo.credits().await, 98);
    let listed = bo.get("/memory").await.ok(200);
    assert_eq!(listed.json["pagination"]["total"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_not_recorded() {
    // Shows that a key whose request was refused is free: for the same body after an upgrade, and for
    // another body.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let answer = bo
        .with("idempotency-key", "a")
        .post("/memory", &json!({}))
        .await;
    answer.ok(400);
    add(&bo, "a", "t").await.ok(201);
    bo.spend(98).await;
    for key in ["b", "c"] {
        let answer = add(&bo, key, "t").await;
        answer.refused(402, "out_of_credits", "Out of credits");
    }
    let path = format!("/admin/user/{}/plan", bo.account_id);
    server
        .admin()
        .put(&path, &json!({"plan": "Pro"}))
        .await
        .ok(200);
    let made = add(&bo, "b", "t").await.ok(201);
    assert_eq!(made.header("idempotent-replayed"), None);
    let made = add(&bo, "c", "another").await.ok(201);
    assert_eq!(made.json["entry"]["topic"], Value::from("another"));
}
