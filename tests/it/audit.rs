//! The audit log over HTTP: what is a row, what is in it, who reads it.

use memoryos::domain::plan::Plan;
use memoryos::http::{Access, ENDPOINTS};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{ADMIN_KEY, Actor, Options, Server, assert_fields, assert_time};

/// All rows that a query asks for, the oldest first.
async fn rows_of(admin: &Actor, query: &str) -> Vec<Value> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/admin/audit?limit=100{query}{cursor}");
        let answer = admin.get(&path).await.ok(200).unmetered();
        rows.extend(answer.json["rows"].as_array().unwrap().clone());
        match answer.json["pagination"]["next_cursor"].as_str() {
            None => break,
            Some(next) => cursor = format!("&cursor={next}"),
        }
    }
    rows.reverse();
    rows
}

/// The rows of one action, the oldest first.
async fn rows(admin: &Actor, action: &str) -> Vec<Value> {
    let mut rows = rows_of(admin, "").await;
    rows.retain(|row| row["action"] == action);
    rows
}

fn actions(rows: &[Value]) -> Vec<&str> {
    rows.iter()
        .map(|row| row["action"].as_str().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_has_every_field() {
    // Shows the fields of a row, of the page and of the head, for a sign-up, and that nothing else is in it.
    let server = Server::spawn().await;
    let signed = server
        .anonymous()
        .post(
            "/signup",
            &json!({"email": "bo@example.com", "plan": "Pro"}),
        )
        .await
        .ok(201);
    let answer = server.admin().get("/admin/audit").await.ok(200).unmetered();
    assert_fields(&answer.json, &["rows", "pagination", "head"]);
    assert_eq!(
        answer.json["pagination"],
        json!({"limit": 50, "next_cursor": null})
    );
    let all = answer.json["rows"].as_array().unwrap();
    let newest_first = [
        "admin.granted",
        "admin.default_key",
        "key.created",
        "account.created",
    ];
    assert_eq!(actions(all), newest_first);
    for row in all {
        let fields = [
            "no",
            "at",
            "account_id",
            "actor",
            "action",
            "details",
            "reason",
            "request_id",
            "hash",
        ];
        assert_fields(row, &fields);
        assert_time(&row["at"]);
    }
    let row = &all[3];
    assert_eq!(row["details"], json!({"plan": "Pro"}));
    assert_eq!(row["account_id"], "bo@example.com");
    assert_eq!(
        (&row["no"], &row["actor"], &row["reason"]),
        (&json!(1), &json!("nobody"), &Value::Null)
    );
    assert_eq!(row["request_id"].as_str(), signed.header("x-request-id"));
    assert_eq!(all[2]["details"], json!({"key_id": signed.json["key_id"]}));
    let own = &all[0];
    assert_eq!(own["request_id"].as_str(), answer.header("x-request-id"));
    assert_eq!(own["account_id"], Value::Null);
    assert_eq!(answer.json["head"], json!({"no": 4, "hash": own["hash"]}));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_admin_request_is_a_row() {
    // Shows for every route that takes the admin key, with a request that fails later too, exactly one row with
    // the route's template and the request's id, by the admin.
    let server = Server::spawn().await;
    let admin = server.admin();
    let mut expected = Vec::new();
    for endpoint in ENDPOINTS {
        if !matches!(endpoint.access, Access::Admin | Access::KeyOrAdmin) {
            continue;
        }
        let path = endpoint
            .path
            .replace("{key}", "nobody")
            .replace("{id}", "nobody");
        let answer = admin.send(endpoint.method.clone(), &path, "").await;
        assert!(answer.status < 500, "{endpoint:?}: {}", answer.text);
        assert_ne!(answer.json["code"], "admin_required");
        let id = answer.header("x-request-id").unwrap().to_owned();
        expected.push((format!("{} {}", endpoint.method, endpoint.path), id));
    }
    assert!(expected.len() >= 9);
    let granted = rows(&admin, "admin.granted").await;
    let found: Vec<_> = granted
        .iter()
        .map(|row| {
            assert_eq!(
                (&row["actor"], &row["account_id"]),
                (&json!("admin"), &Value::Null)
            );
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (text(&row["details"]["route"]), text(&row["request_id"]))
        })
        .collect();
    assert_eq!(found[..expected.len()], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_account_does_is_a_row_by_its_key() {
    // Shows that keys made, kept and revoked by a user, and what an admin does to the account, are rows of the
    // account in order, by the key's id or the admin, each with the request that did it; another account's are not
    // among them, whichever name of the account is asked for.
    let server = Server::spawn().await;
    let admin = server.admin();
    let bo = server.account_of("bo@example.com", Plan::FREE).await;
    let al = server.account(Plan::FREE).await;
    let mut ids = Vec::new();
    let mut noted = |answer: &crate::harness::Answer| {
        ids.push(answer.header("x-request-id").unwrap().to_owned());
    };
    let kept = bo.delete(&format!("/apikey/{}", bo.key_id)).await;
    kept.headers.get("x-request-id").unwrap();
    assert_eq!(kept.status, 400, "{}", kept.text);
    noted(&kept);
    let made = bo.post("/apikey/new", &json!({})).await.ok(201);
    noted(&made);
    let second = server.made(&made);
    noted(
        &second
            .delete(&format!("/apikey/{}", bo.key_id))
            .await
            .ok(200),
    );
    let changed = admin
        .put(
            "/admin/user/bo@example.com/plan",
            &json!({"plan": "Premium"}),
        )
        .await
        .ok(200);
    noted(&changed);
    let last = admin
        .delete(&format!("/apikey/{}", second.key_id))
        .await
        .ok(200);
    noted(&last);
    let of = rows_of(&admin, "&account=bo%40example.com").await;
    let told: Vec<_> = of
        .iter()
        .skip(2)
        .map(|row| {
            (
                row["action"].as_str().unwrap(),
                row["actor"].as_str().unwrap(),
                &row["details"],
            )
        })
        .collect();
    let key = |actor: &Actor| json!({"key_id": actor.key_id});
    assert_eq!(
        told,
        [
            ("key.revoke_refused", &*bo.key_id, &key(&bo)),
            ("key.created", &*bo.key_id, &key(&second)),
            ("key.revoked", &*second.key_id, &key(&bo)),
            (
                "plan.changed",
                "admin",
                &json!({"from": "Free", "to": "Premium"})
            ),
            ("key.revoked", "admin", &key(&second)),
        ]
    );
    let requests: Vec<_> = of
        .iter()
        .skip(2)
        .map(|row| row["request_id"].as_str().unwrap())
        .collect();
    assert_eq!(requests, ids);
    assert!(of.iter().all(|row| row["account_id"] == "bo@example.com"));
    for name in ["BO%40Example.com", &bo.key_id, &bo.key, &second.key] {
        assert_eq!(
            rows_of(&admin, &format!("&account={name}")).await,
            of,
            "{name}"
        );
    }
    let others = rows_of(&admin, &format!("&account={}", al.account_id)).await;
    assert_eq!(actions(&others), ["account.created", "key.created"]);
    assert!(others.iter().all(|row| row["account_id"] == *al.account_id));
    let answer = admin.get("/admin/audit?account=nobody").await;
    answer.refused(404, "user_not_found", "User not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_kept_again_and_again_is_a_row_a_minute() {
    // Shows that a user who asks a hundred times for what is refused does not fill the disk.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    for _ in 0..100 {
        let kept = bo.delete(&format!("/apikey/{}", bo.key_id)).await;
        assert_eq!(kept.status, 400, "{}", kept.text);
    }
    assert_eq!(rows(&server.admin(), "key.revoke_refused").await.len(), 1);
    server.clock.advance(60);
    bo.delete(&format!("/apikey/{}", bo.key_id)).await.ok(400);
    assert_eq!(rows(&server.admin(), "key.revoke_refused").await.len(), 2);
}

/// Waits until there are so many rows of refused access, which are written behind the answers.
async fn refused_rows(admin: &Actor, count: usize) -> Vec<(String, u64)> {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let found = rows(admin, "admin.refused").await;
        if found.len() >= count || std::time::Instant::now() > until {
            return found
                .iter()
                .map(|row| {
                    assert_eq!(row["actor"], "nobody");
                    let route = row["details"]["route"].as_str().unwrap().to_owned();
                    (route, row["details"]["count"].as_u64().unwrap())
                })
                .collect();
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refused_requests_is_a_row_a_minute() {
    // Shows that the first request that is refused an admin's route is a row at once, that two hundred more in the
    // same minute, in whatever way they are refused, are one row with their number later, and that another route
    // counts for itself; a wrong admin key on a user's route counts too, a missing API key does not.
    let server = Server::spawn().await;
    let (admin, nobody) = (server.admin(), server.anonymous());
    let bo = server.account(Plan::FREE).await;
    nobody.get("/admin/users?q=1").await.ok(403);
    let users = |count| ("GET /admin/users".to_owned(), count);
    assert_eq!(refused_rows(&admin, 1).await, [users(1)]);
    for _ in 0..50 {
        nobody.get("/admin/users?q=2").await.ok(403);
        nobody
            .with("x-admin-key", "wrong")
            .get("/admin/users")
            .await
            .ok(403);
        bo.get("/admin/users").await.ok(403);
        let twice = nobody
            .with("x-admin-key", ADMIN_KEY)
            .with("x-admin-key", "wrong");
        twice.get("/admin/users").await.ok(400);
        nobody.get("/apikey/list").await.ok(401);
    }
    bo.with("x-admin-key", "wrong").get("/memory").await.ok(403);
    let memory = ("GET /memory".to_owned(), 1);
    assert_eq!(refused_rows(&admin, 2).await, [users(1), memory.clone()]);
    server.clock.advance(59);
    nobody.get("/admin/users").await.ok(403);
    assert_eq!(refused_rows(&admin, 2).await.len(), 2);
    server.clock.advance(1);
    nobody.get("/admin/users").await.ok(403);
    let all = refused_rows(&admin, 3).await;
    assert_eq!(all, [users(1), memory, users(202)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_admin_key_is_told_once_a_start() {
    // Shows one row at its first use after each start, that a key of one's own is none, and that the chain goes on
    // over restarts, with what was counted written at the stop.
    let mut server = Server::spawn().await;
    for _ in 0..3 {
        server.admin().get("/admin/users").await.ok(200);
    }
    server.anonymous().get("/admin/check").await.ok(403);
    server.anonymous().get("/admin/check").await.ok(403);
    assert_eq!(rows(&server.admin(), "admin.default_key").await.len(), 1);
    refused_rows(&server.admin(), 1).await;
    let before = server.store().audit_head().unwrap();
    server.restart().await;
    let all = rows_of(&server.admin(), "").await;
    let first_after = &all[usize::try_from(before.no).unwrap()];
    assert_eq!(first_after["action"], "admin.refused");
    assert_eq!(
        first_after["details"],
        json!({"route": "GET /admin/check", "count": 1})
    );
    assert_eq!(rows(&server.admin(), "admin.default_key").await.len(), 2);
    let head = server.store().verify_audit(&[before], |_| ()).unwrap();
    assert!(head.no > before.no);
    let own = Server::spawn_with(Options {
        admin_key: Some("an-admin-key-of-32-characters-ok"),
        ..Options::default()
    })
    .await;
    assert_eq!(actions(&rows_of(&own.admin(), "").await), ["admin.granted"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_back_between_two_starts_is_a_row() {
    // Shows that a start after the last row's time by more than a minute notes by how much.
    let mut server = Server::spawn().await;
    server.account(Plan::FREE).await;
    server.clock.advance(-7_200);
    server.restart().await;
    let steps = rows(&server.admin(), "clock.step").await;
    assert_eq!(steps.len(), 1);
    assert_eq!(
        (&steps[0]["details"], &steps[0]["actor"]),
        (&json!({"seconds": -7_200}), &json!("service"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_the_admins() {
    // Shows that nobody reads it without the admin key: no credential, a key of an account, a wrong admin key, and
    // that other methods are refused.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    for actor in [
        server.anonymous(),
        bo.clone(),
        server.revoked_key().await,
        bo.with("x-admin-key", "wrong"),
        bo.with("x-admin-key", ""),
    ] {
        let answer = actor
            .get(&format!("/admin/audit?account={}", bo.account_id))
            .await;
        let refused = answer.refused(403, "admin_required", "Admin access required");
        assert!(!refused.text.contains("account.created"));
    }
    let page = bo
        .with("origin", "http://evil.example")
        .with("x-admin-key", ADMIN_KEY);
    page.get("/admin/audit")
        .await
        .refused(403, "admin_disabled", "Admin access disabled");
    for method in [Method::POST, Method::DELETE, Method::PUT, Method::PATCH] {
        let answer = server
            .admin()
            .send(method, "/admin/audit", "{}")
            .await
            .ok(405);
        assert_eq!(answer.header("allow"), Some("GET, HEAD, OPTIONS"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_bounds() {
    // Shows pages by cursor while rows are added, the bounds of limit, from as a lower bound, and what is refused.
    let server = Server::spawn().await;
    let admin = server.admin();
    for _ in 0..3 {
        server.account(Plan::FREE).await;
        server.clock.advance(60);
    }
    let first = admin.get("/admin/audit?limit=4").await.ok(200);
    let numbers = |answer: &crate::harness::Answer| -> Vec<u64> {
        let rows = answer.json["rows"].as_array().unwrap();
        rows.iter().map(|row| row["no"].as_u64().unwrap()).collect()
    };
    assert_eq!(numbers(&first), [8, 7, 6, 5]);
    let cursor = first.json["pagination"]["next_cursor"].as_str().unwrap();
    let second = admin
        .get(&format!("/admin/audit?limit=4&cursor={cursor}"))
        .await
        .ok(200);
    assert_eq!(numbers(&second), [4, 3, 2, 1]);
    assert_eq!(second.json["pagination"]["next_cursor"], Value::Null);
    assert_eq!(second.json["head"]["no"], 9);
    let from = admin
        .get("/admin/audit?account=&from=2026-01-15T12:02:00Z")
        .await
        .ok(200);
    assert_eq!(numbers(&from), [10, 9, 8, 7, 6, 5]);
    let from = admin
        .get("/admin/audit?from=2026-01-15T14:03:00.000001%2B02:00")
        .await
        .ok(200);
    assert_eq!(numbers(&from), [0u64; 0]);
    let limit = admin.get("/admin/audit?limit=101").await.ok(200);
    assert_eq!(limit.json["pagination"]["limit"], 100);
    for query in [
        "limit=0",
        "limit=x",
        "from=yesterday",
        "from=",
        "cursor=",
        "cursor=x",
        "cursor=AAAA",
        "from=2026-01-15",
        "limit=1&limit=1",
        "account=%ff",
    ] {
        let answer = admin.get(&format!("/admin/audit?{query}")).await;
        answer.bad_field(query.split('=').next().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_holds_a_secret_an_address_or_a_memory() {
    // Shows for a busy server with words that are found again that no row has a key, an e-mail, a memory's or a
    // description's text or the admin key in it; the account's public id, which may be an e-mail, comes from its
    // record and not from the row.
    let server = Server::spawn().await;
    let admin = server.admin();
    let bo = server.account_of("needle.bo@example.com", Plan::PRO).await;
    let body = json!({"topic": "needle topic", "type": "note", "category": "work", "input": "needle in",
                      "output": "needle out", "success": true});
    for _ in 0..5 {
        bo.post("/memory", &body).await.ok(201);
        let made = bo
            .post("/apikey/new", &json!({"description": "needle description"}))
            .await
            .ok(201);
        bo.delete(&format!("/apikey/{}", server.made(&made).key))
            .await
            .ok(200);
        bo.get("/stats").await.ok(200);
    }
    bo.delete(&format!("/apikey/{}", bo.key)).await.ok(400);
    admin
        .get(&format!("/admin/users?q={}", "needle.bo"))
        .await
        .ok(200);
    let path = |name: &str| format!("/admin/user/{name}/plan");
    admin
        .put(&path("needle.bo@example.com"), &json!({"plan": "Free"}))
        .await
        .ok(200);
    admin
        .put(&path(&bo.key), &json!({"plan": "Pro"}))
        .await
        .ok(200);
    admin
        .post("/apikey/new", &json!({"email": "needle.al@example.com"}))
        .await
        .ok(201);
    bo.with("x-admin-key", "needle-wrong-key")
        .get(&format!("/memory/{}", bo.key))
        .await
        .ok(403);
    refused_rows(&admin, 1).await;
    let mut all = rows_of(&admin, "").await;
    assert!(all.len() > 20);
    for row in &mut all {
        row["account_id"].take();
        let text = row.to_string();
        for secret in ["needle", "@", &bo.key, ADMIN_KEY, &bo.masked()] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
    // What lies on the disk: the same, without the ids of accounts.
    server
        .store()
        .verify_audit(&[], |row| {
            let text = format!("{row:?}");
            assert!(
                !text.contains("needle") && !text.contains('@') && !text.contains(&bo.key),
                "{text}"
            );
        })
        .unwrap();
}
