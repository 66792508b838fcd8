//! `/credits/history` and `/credits/statement`: what came and went, for its owner and an admin.

use memoryos::domain::event::Cause;
use memoryos::domain::key::{KeyId, Secret};
use memoryos::domain::plan::Plan;
use memoryos::domain::scope::{Scope, Scopes};
use memoryos::store::NewKey;
use serde_json::{Value, json};

use crate::harness::{Actor, START, Server, assert_fields, at};

const DAY: i64 = 86_400;

/// Opening plus what came, less what went, is what is left; of the current cycle what the account has.
async fn adds_up(whose: &Actor, statement: &Value) {
    let of = |name: &str| statement[name].as_i64().unwrap();
    let came = of("opening") + of("granted") + of("bonus") + of("adjusted") + of("plan_changes");
    assert_eq!(
        came - of("spent") + of("refunded"),
        of("closing"),
        "{statement}"
    );
    if statement["is_current"] == true {
        assert_eq!(of("closing").unsigned_abs(), whose.credits().await);
        assert_eq!(of("lapsed"), 0);
    } else {
        assert_eq!(of("lapsed"), of("closing"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_comes_to_what_is_left() {
    // Shows every field of two cycles' statements: a plan changed, credits spent, the rest lapsed; and that
    // cycles to come, and what is no number, are refused.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    bo.add("t").await;
    bo.get("/stats").await.ok(200);
    let body = json!({"plan": "Pro"});
    let plan = format!("/admin/user/{}/plan", bo.account_id);
    server.admin().put(&plan, &body).await.ok(200);
    bo.spend(7).await;
    let answer = bo.get("/credits/statement").await.ok(200).unmetered();
    let fields = [
        "account_id",
        "cycle",
        "start",
        "end",
        "is_current",
        "opening",
        "granted",
        "bonus",
        "adjusted",
        "plan_changes",
        "spent",
        "refunded",
        "closing",
        "lapsed",
    ];
    assert_fields(&answer.json, &fields);
    let statement = answer.json;
    assert_eq!(statement["account_id"], bo.account_id.as_str());
    assert_eq!(
        (&statement["granted"], &statement["spent"]),
        (&json!(100), &json!(10))
    );
    assert_eq!(statement["plan_changes"], 9_903);
    adds_up(&bo, &statement).await;
    server.clock.advance(40 * DAY);
    bo.add("t").await;
    let next = bo.get("/credits/statement").await.ok(200).json;
    assert_eq!((&next["cycle"], &next["opening"]), (&json!(1), &json!(0)));
    assert_eq!(
        (&next["granted"], &next["spent"]),
        (&json!(10_000), &json!(2))
    );
    adds_up(&bo, &next).await;
    let over = bo.get("/credits/statement?cycle=0").await.ok(200).json;
    assert_eq!(
        (&over["end"], &over["lapsed"]),
        (&next["start"], &json!(9_993))
    );
    adds_up(&bo, &over).await;
    for cycle in ["2", "-1", "x", "", "4294967296", "%2b1"] {
        let path = format!("/credits/statement?cycle={cycle}");
        bo.get(&path).await.bad_field("cycle");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_grouped_and_bounded() {
    // Shows the three groupings with their sums, the half-open span, and each parameter refused.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let named = json!({"description": "=cmd, \"x\""});
    let second = server.made(&bo.post("/apikey/new", &named).await.ok(201));
    bo.add("t").await;
    server.clock.advance(DAY);
    second.get("/stats").await.ok(200);
    let by_day = bo.get("/credits/history").await.ok(200).unmetered().json;
    assert_fields(
        &by_day,
        &["account_id", "by", "from", "to", "total", "groups"],
    );
    let total = json!({"granted": 100, "spent": 3, "refunded": 0, "adjusted": 0, "count": 3});
    assert_eq!((&by_day["total"], &by_day["by"]), (&total, &json!("day")));
    let days = by_day["groups"].as_array().unwrap();
    assert_eq!((days.len(), &days[1]["spent"]), (2, &json!(1)));
    let later = days[1]["day"].as_str().unwrap();
    let first = days[0]["day"].as_str().unwrap();
    let span = format!("/credits/history?from={first}&to={later}");
    let one = bo.get(&span).await.ok(200).json;
    assert_eq!(
        (&one["groups"][0], one["groups"].as_array().unwrap().len()),
        (&days[0], 1)
    );
    let by_key = bo.get("/credits/history?by=key").await.ok(200).json;
    let keys = by_key["groups"].as_array().unwrap();
    assert_eq!(
        (&keys[0]["key_id"], &keys[0]["granted"]),
        (&Value::Null, &json!(100))
    );
    assert_eq!(keys[1]["key_id"], bo.key_id.as_str());
    assert_eq!(keys[2]["key_id"], second.key_id.as_str());
    assert_eq!(
        (&keys[2]["description"], &keys[2]["spent"]),
        (&named["description"], &json!(1))
    );
    let by_operation = bo.get("/credits/history?by=operation").await.ok(200).json;
    let names: Vec<_> = by_operation["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|g| &g["operation"])
        .collect();
    assert_eq!(names, ["add_memory", "grant", "stats"]);
    for (query, field) in [
        ("from=yesterday", "from"),
        ("to=2026-02-30", "to"),
        ("from=2026-01-02&to=2026-01-01", "to"),
        ("from=2024-01-01&to=2026-01-01", "to"),
        ("by=month", "by"),
        ("format=xml", "format"),
        ("by=day&by=key", "by"),
    ] {
        bo.get(&format!("/credits/history?{query}"))
            .await
            .bad_field(field);
    }
    bo.get("/credits/history?from=2026-01-01&to=2027-02-05")
        .await
        .ok(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_safe_to_open() {
    // Shows the header line, the quoting, that a description is no formula, and both ways to ask for it.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let named = json!({"description": "=cmd, \"x\""});
    let second = server.made(&bo.post("/apikey/new", &named).await.ok(201));
    second.get("/stats").await.ok(200);
    let accepts = bo.with("accept", "text/csv");
    let answer = accepts.get("/credits/history?by=key").await.ok(200);
    let kind = answer.header("content-type").unwrap();
    assert_eq!(kind, "text/csv; charset=utf-8; header=present");
    let id = &second.key_id;
    let expected = format!(
        "key_id,description,granted,spent,refunded,adjusted,count\r\n,,100,0,0,0,1\r\n{id},\"'=cmd, \"\"x\"\"\",0,1,0,0,1\r\n"
    );
    assert_eq!(answer.text, expected);
    let asked = bo.get("/credits/history?by=key&format=csv").await.ok(200);
    assert_eq!(asked.text, expected);
    let json = accepts.get("/credits/history?format=json").await.ok(200);
    assert_eq!(json.json["by"], "day");
    let either = bo.with("accept", "application/json, text/csv");
    assert_eq!(
        either.get("/credits/history").await.ok(200).json["by"],
        "day"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_anothers_ledger() {
    // Shows who is let in: an own key with the scope, capped or not, and the admin; and that everybody sees
    // one account's numbers only.
    let server = Server::spawn().await;
    let (bo, al) = (
        server.account(Plan::FREE).await,
        server.account(Plan::FREE).await,
    );
    bo.spend(5).await;
    let capped = server.made(
        &bo.post("/apikey/new", &json!({"plan": "Free"}))
            .await
            .ok(201),
    );
    for path in ["/credits/history", "/credits/statement"] {
        let spent = |json: &Value| match path {
            "/credits/history" => json["total"]["spent"].clone(),
            _ => json["spent"].clone(),
        };
        assert_eq!(spent(&bo.get(path).await.ok(200).json), 5, "{path}");
        assert_eq!(spent(&capped.get(path).await.ok(200).json), 5, "{path}");
        assert_eq!(spent(&al.get(path).await.ok(200).json), 0, "{path}");
        assert_eq!(server.anonymous().get(path).await.status, 401);
        assert_eq!(server.key("nobody's").get(path).await.status, 401);
        assert_eq!(server.revoked_key().await.get(path).await.status, 401);
        let last = path.rsplit('/').next().unwrap();
        let of = |name: &str| format!("/admin/user/{name}/{last}");
        for name in [&bo.account_id, &bo.key_id] {
            let seen = server.admin().get(&of(name)).await.ok(200);
            assert_eq!(spent(&seen.json), 5, "{path}");
            assert_eq!(seen.json["account_id"], bo.account_id.as_str());
        }
        let unknown = server.admin().get(&of("nobody@example.com")).await;
        assert_eq!(
            (unknown.status, unknown.json["code"].as_str()),
            (404, Some("user_not_found"))
        );
        for other in [&bo, &al, &server.anonymous()] {
            let status = other.get(&of(&bo.account_id)).await.status;
            assert!([401, 403].contains(&status), "{status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_the_scope_is_told_so() {
    // Shows the refusal of a key that may do everything else.
    let server = Server::spawn().await;
    server.account_of("bo@example.com", Plan::FREE).await;
    let scopes: Scopes = Scope::ALL
        .into_iter()
        .filter(|s| *s != Scope::Account)
        .collect();
    let store = server.store();
    let account = store.account_named("bo@example.com").unwrap().unwrap();
    let secret = Secret::new("a-key-that-may-do-everything-else");
    let new = NewKey {
        hash: secret.hash(),
        id: KeyId::generate().unwrap(),
        masked: secret.masked(),
        description: String::new(),
        cap: None,
        credits_cap: None,
        scopes: Some(scopes),
        expires_at: None,
    };
    let now = at(START);
    let made = store.create_key(account, new, None, now, Cause::service());
    made.await.unwrap();
    let key = server.key("a-key-that-may-do-everything-else");
    for path in ["/credits/history", "/credits/statement"] {
        let answer = key.get(path).await;
        assert_eq!(
            (answer.status, &answer.json["code"]),
            (403, &json!("insufficient_scope"))
        );
        assert!(answer.text.contains("account"), "{}", answer.text);
    }
    key.get("/credits").await.ok(200);
}
