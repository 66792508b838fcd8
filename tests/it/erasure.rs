//! `DELETE /account` and `DELETE /admin/user/{key}`: what goes, who may, what is refused, races.

use http::Method;
use memoryos::domain::event::Cause;
use memoryos::domain::key::{KeyId, Secret};
use memoryos::domain::plan::Plan;
use memoryos::domain::scope::{Scope, Scopes};
use memoryos::store::NewKey;
use serde_json::{Value, json};

use crate::harness::{Actor, Answer, Options, START, Server, assert_fields, assert_time, at};

const TEXT: &str = "what only Bo knows";

async fn erase(actor: &Actor, path: &str, body: &Value) -> Answer {
    let actor = actor.with("content-type", "application/json");
    actor.send(Method::DELETE, path, body.to_string()).await
}

fn memory() -> Value {
    json!({
        "topic": "t", "type": "k", "category": "c", "input": TEXT, "output": "o", "success": true
    })
}

/// Holds that an answer is a receipt of these counts, and returns its id.
fn receipt(answer: &Answer, memories: u64, keys: u64, answers: u64) -> String {
    assert_fields(&answer.json, &["message", "deleted", "receipt_id", "at"]);
    let deleted = &answer.json["deleted"];
    assert_fields(
        deleted,
        &["memories", "keys", "recorded_answers", "ledger_rows_kept"],
    );
    assert_eq!(deleted["memories"], memories);
    assert_eq!(deleted["keys"], keys);
    assert_eq!(deleted["recorded_answers"], answers);
    assert!(deleted["ledger_rows_kept"].as_u64() > Some(0), "{deleted}");
    assert_time(&answer.json["at"]);
    let id = answer.json["receipt_id"].as_str().unwrap();
    assert!(id.starts_with("rcpt_") && id.len() == 31, "{id}");
    id.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_erases_itself_and_nobody_else() {
    // Shows that an account goes whole with its receipt; that another tenant keeps everything; and that a new sign-up
    // with the address finds nothing of the old.
    let mut server = Server::spawn().await;
    let bo = server.account_of("bo@example.com", Plan::PRO).await;
    let al = server.account_of("al@example.com", Plan::PRO).await;
    let second = server.made(
        &bo.post("/apikey/new", &json!({"description": TEXT}))
            .await
            .ok(201),
    );
    for owner in [&bo, &al] {
        let retried = owner.with("idempotency-key", "once");
        retried.post("/memory", &memory()).await.ok(201);
        owner.post("/memory", &memory()).await.ok(201);
    }
    let before = al.get("/memory").await.ok(200).json["memories"].clone();
    let body = json!({"confirm": " BO@Example.com "});
    let done = erase(&second, "/account", &body).await.ok(200);
    let first = receipt(&done, 2, 2, 1);
    for key in [&bo, &second] {
        for path in ["/credits", "/memory", "/stats", "/apikey/list"] {
            let refused = key.get(path).await;
            assert_eq!(
                (refused.status, &refused.json["code"]),
                (401, &json!("invalid_key"))
            );
        }
    }
    let again = erase(&bo, "/account", &body).await;
    assert_eq!(again.status, 401);
    let listed = server.admin().get("/admin/users").await.ok(200);
    assert_eq!(listed.json["total_users"], 1);
    assert_eq!(al.get("/memory").await.ok(200).json["memories"], before);
    let checked = server.admin().get("/admin/check").await.ok(200);
    assert_eq!(checked.json["problems"], json!([]));
    assert_eq!(checked.json["memories"], 2);

    let fresh = server.account_of("bo@example.com", Plan::FREE).await;
    let credits = fresh.get("/credits").await.ok(200);
    assert_eq!(credits.json["total_credits_used"], 0);
    assert_eq!(credits.json["memory_usage"]["current_count"], 0);
    let none = fresh.get("/memory").await.ok(200);
    assert_eq!(none.json["memories"], json!([]));
    let retried = fresh.with("idempotency-key", "once");
    retried.post("/memory", &memory()).await.ok(201);
    server.restart().await;
    assert_eq!(bo_again(&server, &bo).await.status, 401);
    let fresh = server.key(&fresh.key);
    let body = json!({"confirm": "bo@example.com"});
    let done = erase(&fresh, "/account", &body).await.ok(200);
    assert_ne!(receipt(&done, 1, 1, 1), first);
}

/// Shows that a key in grace erases nothing, whatever it confirms, and is told so as where it would manage keys; and
/// that its successor erases the account.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_grace_erases_nothing() {
    let server = Server::spawn().await;
    let old = server.account_of("bo@example.com", Plan::FREE).await;
    let path = format!("/apikey/{}/rotate", old.key_id);
    let made = old.post(&path, &json!({"grace_seconds": 60})).await.ok(201);
    let new = server.made(&made);
    let managing = old.post("/apikey/new", &json!({})).await;
    managing.refused(403, "insufficient_scope", "Insufficient scope");
    for confirm in ["bo@example.com", "al@example.com"] {
        let refused = erase(&old, "/account", &json!({"confirm": confirm})).await;
        let refused = refused.refused(403, "insufficient_scope", "Insufficient scope");
        assert_eq!(refused.json["required_scope"], "account");
        assert_eq!(
            refused.json["message"],
            "This needs the scope account, which the key lacks. Use a key that has it."
        );
    }
    old.get("/credits").await.ok(200);
    let body = json!({"confirm": "bo@example.com"});
    receipt(&erase(&new, "/account", &body).await.ok(200), 0, 2, 0);
    assert_eq!(old.get("/credits").await.status, 401);
}

async fn bo_again(server: &Server, bo: &Actor) -> Answer {
    server.key(&bo.key).get("/credits").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_erases_an_account_by_any_of_its_names() {
    // Shows the admin's way by account id, key id and key; an account without an e-mail; and who is not there.
    let server = Server::spawn().await;
    let admin = server.admin();
    let named = server.account_of("bo@example.com", Plan::FREE).await;
    let by_id = server.account(Plan::FREE).await;
    let by_key_id = server.account(Plan::FREE).await;
    let by_key = server.account(Plan::FREE).await;
    let targets = [
        (named.account_id.clone(), &named),
        (by_id.account_id.clone(), &by_id),
        (by_key_id.key_id.clone(), &by_key_id),
        (by_key.key.clone(), &by_key),
    ];
    for (target, owner) in targets {
        let path = format!("/admin/user/{target}");
        let body = json!({"confirm": owner.account_id, "reason": "ticket 4711"});
        let done = erase(&admin, &path, &body).await.ok(200);
        receipt(&done, 0, 1, 0);
        assert_eq!(owner.get("/credits").await.status, 401);
        let gone = erase(&admin, &path, &body).await;
        gone.refused(404, "user_not_found", "User not found");
    }
    assert_eq!(
        admin.get("/admin/users").await.ok(200).json["total_users"],
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_erases_nothing() {
    // Shows each bad body, named; missing and wrong credentials; one tenant's key with the other's id; a route that is
    // not there; and that everything is still there afterwards.
    let server = Server::spawn().await;
    let bo = server.account_of("bo@example.com", Plan::FREE).await;
    let al = server.account_of("al@example.com", Plan::FREE).await;
    bo.post("/memory", &memory()).await.ok(201);
    let path = "/admin/user/bo@example.com";
    let right = json!({"confirm": "bo@example.com"});
    for confirm in [
        json!("al@example.com"),
        json!(""),
        json!(7),
        json!(null),
        json!(true),
    ] {
        let body = json!({"confirm": confirm, "reason": "r"});
        erase(&server.admin(), path, &body)
            .await
            .bad_field("confirm");
        erase(&bo, "/account", &json!({"confirm": confirm}))
            .await
            .bad_field("confirm");
    }
    erase(&al, "/account", &right).await.bad_field("confirm");
    erase(&bo, "/account", &json!({}))
        .await
        .bad_field("confirm");
    let extra = json!({"confirm": "bo@example.com", "reason": "mine"});
    erase(&bo, "/account", &extra).await.bad_field("reason");
    for reason in [
        json!("two\nlines"),
        json!(null),
        json!(""),
        json!("  "),
        json!(1),
        json!("x".repeat(257)),
    ] {
        let body = json!({"confirm": "bo@example.com", "reason": reason});
        erase(&server.admin(), path, &body)
            .await
            .bad_field("reason");
    }
    let empty = bo.with("content-type", "application/json");
    let empty = empty.send(Method::DELETE, "/account", "").await;
    assert_eq!(
        (empty.status, &empty.json["code"]),
        (400, &json!("missing_body"))
    );
    let body = json!({"confirm": "bo@example.com", "reason": "r"});
    for (actor, path, status) in [
        (server.anonymous(), "/account", 401),
        (server.key("nobody's-key-0123456789"), "/account", 401),
        (server.admin(), "/account", 401),
        (server.anonymous(), path, 403),
        (bo.clone(), path, 403),
        (server.anonymous().with("x-admin-key", "wrong"), path, 403),
    ] {
        let refused = erase(&actor, path, &body).await;
        assert_eq!(refused.status, status, "{path}: {}", refused.json);
    }
    let unknown = erase(&server.admin(), "/admin/user/no@example.com", &body).await;
    unknown.refused(404, "user_not_found", "User not found");
    for method in [Method::GET, Method::POST] {
        let wrong = bo.send(method, "/account", "").await;
        assert_eq!(wrong.status, 405);
    }
    let list = bo.get("/memory").await.ok(200);
    assert_eq!(list.json["memories"][0]["input"], TEXT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_the_scope_erases_nothing() {
    // Shows 403 insufficient_scope, naming the scope, for a key with every other scope; and that this one is enough.
    let server = Server::spawn().await;
    let bo = server.account_of("bo@example.com", Plan::FREE).await;
    let scoped = async |scopes: Scopes| {
        let secret = Secret::generate().unwrap();
        let key = NewKey {
            hash: secret.hash(),
            id: KeyId::generate().unwrap(),
            masked: secret.masked(),
            description: String::new(),
            cap: None,
            credits_cap: None,
            scopes: Some(scopes),
            expires_at: None,
        };
        let store = server.store();
        let account = store.account_named("bo@example.com").unwrap().unwrap();
        let made = store.create_key(account, key, None, at(START), Cause::service());
        made.await.unwrap();
        server.key(secret.reveal())
    };
    let others = [Scope::MemoryRead, Scope::MemoryWrite, Scope::Keys];
    let key = scoped(others.into_iter().collect()).await;
    let body = json!({"confirm": "bo@example.com"});
    let refused = erase(&key, "/account", &body).await;
    assert_eq!(
        (refused.status, &refused.json["code"]),
        (403, &json!("insufficient_scope"))
    );
    assert!(
        refused.json.to_string().contains("account"),
        "{}",
        refused.json
    );
    bo.get("/credits").await.ok(200);
    let only = scoped([Scope::Account].into_iter().collect()).await;
    erase(&only, "/account", &body).await.ok(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn erasures_race_with_adds_and_sign_ups() {
    // Shows that of 64 erasures one has the receipt, that adds beside them are there or 401, that sign-ups with the
    // address are refused until it is free and then find an empty account.
    let server = Server::spawn_with(Options::default()).await;
    let bo = server.account_of("bo@example.com", Plan::PREMIUM).await;
    let al = server.account_of("al@example.com", Plan::PREMIUM).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..192 {
        let (bo, nobody) = (bo.clone(), server.anonymous());
        tasks.spawn(async move {
            let body = json!({"confirm": "bo@example.com", "email": "bo@example.com"});
            match n % 3 {
                0 => (
                    0,
                    erase(&bo, "/account", &json!({"confirm": body["confirm"]})).await,
                ),
                1 => (1, bo.post("/memory", &memory()).await),
                _ => (
                    2,
                    nobody
                        .post("/signup", &json!({"email": body["email"]}))
                        .await,
                ),
            }
        });
    }
    let (mut receipts, mut added, mut fresh) = (Vec::new(), 0, Vec::new());
    for (what, answer) in tasks.join_all().await {
        match (what, answer.status) {
            (0, 200) => receipts.push(answer.json["deleted"]["memories"].as_u64().unwrap()),
            (1, 201) => added += 1,
            (2, 201) => fresh.push(server.made(&answer)),
            (0 | 1, 401) | (2, 409) => {}
            _ => panic!("{what}: {} {}", answer.status, answer.json),
        }
    }
    assert_eq!(receipts, [added]);
    assert!(fresh.len() <= 1);
    for account in fresh {
        let list = account.get("/memory").await.ok(200);
        assert_eq!(list.json["memories"], json!([]));
    }
    let checked = server.admin().get("/admin/check").await.ok(200);
    assert_eq!(checked.json["problems"], json!([]));
    al.get("/credits").await.ok(200);
}
