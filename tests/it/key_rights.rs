//! What keys may do and give away: scopes, ends, caps, rotation, `/whoami`.

use memoryos::domain::plan::Plan;
use memoryos::http::{Access, ENDPOINTS};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Actor, Answer, Server, assert_fields, at, memory};

const SCOPES: [&str; 4] = ["memory:read", "memory:write", "keys", "account"];

async fn mint(server: &Server, by: &Actor, body: Value) -> Actor {
    server.made(&by.post("/apikey/new", &body).await.ok(201))
}

async fn rotate(by: &Actor, key: &Actor, body: &Value) -> Answer {
    by.post(&format!("/apikey/{}/rotate", key.key_id), body)
        .await
}

async fn change(by: &Actor, key: &Actor, body: Value) -> Answer {
    by.patch(&format!("/apikey/{}", key.key_id), &body).await
}

async fn whoami(key: &Actor) -> Value {
    key.get("/whoami").await.ok(200).unmetered().json
}

#[track_caller]
fn lacks(answer: Answer, scope: &str) {
    let answer = answer.refused(403, "insufficient_scope", "Insufficient scope");
    assert_eq!(answer.json["required_scope"], scope);
    assert!(answer.json["message"].as_str().unwrap().contains(scope));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_wants_its_scope() {
    // Shows, for every route of the table that has a scope, that a key with all the others is refused before
    // anything else of the request is looked at, that nothing is charged, and that one with it alone goes on.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    let mut routes = 0;
    for endpoint in ENDPOINTS {
        let Some(scope) = endpoint.scope else {
            let for_keys = endpoint.access == Access::Key;
            let open_to_all = ["/credits", "/whoami"].contains(&endpoint.path);
            assert!(!for_keys || open_to_all, "{endpoint:?} wants no scope");
            continue;
        };
        let others: Vec<_> = SCOPES.iter().filter(|s| **s != scope.name()).collect();
        let without = mint(&server, &bo, json!({ "scopes": others })).await;
        let with = mint(&server, &bo, json!({ "scopes": [scope.name()] })).await;
        let path = endpoint.path.replace("{id}", "x").replace("{key}", "x");
        let answer = without
            .send(endpoint.method.clone(), &path, "not JSON")
            .await;
        lacks(answer.unmetered(), scope.name());
        let answer = with.send(endpoint.method.clone(), &path, "not JSON").await;
        let code = answer.json["code"].clone();
        assert_ne!(code, "insufficient_scope", "{endpoint:?}");
        assert_ne!(answer.status, 401, "{endpoint:?}");
        routes += 1;
        for key in [&without, &with] {
            key.get("/credits").await.ok(200);
            key.post("/login", &json!({})).await.ok(200);
        }
    }
    assert!(routes >= 12, "{routes} routes have a scope");
    let writer = mint(&server, &bo, json!({"scopes": ["memory:write"]})).await;
    let id = writer.add("written").await;
    lacks(writer.get(&format!("/memory/{id}")).await, "memory:read");
    let seen = whoami(&writer).await;
    assert_eq!(seen["key"]["scopes"], json!(["memory:write"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoami_tells_a_key_what_it_is() {
    // Shows the whole answer, that two tenants see each its own, and who is refused.
    let server = Server::spawn().await;
    let bo = server.account_of("bo@example.com", Plan::PRO).await;
    let al = server.account_of("al@example.com", Plan::FREE).await;
    let small = json!({"description": "CI", "scopes": ["keys", "memory:read"], "plan": "Free",
        "expires_at": "2026-02-15T13:00:00+01:00", "credits_per_cycle": 40});
    let made = bo.post("/apikey/new", &small).await.ok(201);
    assert_eq!(made.json["scopes"], json!(["memory:read", "keys"]));
    assert_eq!(made.json["credits_per_cycle"], 40);
    assert_eq!(made.json["expires_at"], "2026-02-15T12:00:00.000000+00:00");
    let small = server.made(&made);
    let seen = whoami(&small).await;
    let expected = json!({
        "account_id": "bo@example.com", "plan": "Free",
        "key": {
            "api_key": small.masked(), "key_id": small.key_id, "plan": "Free", "plan_cap": "Free",
            "description": "CI", "scopes": ["memory:read", "keys"], "credits_per_cycle": 40,
            "created_at": "2026-01-15T12:00:00.000000+00:00",
            "expires_at": "2026-02-15T12:00:00.000000+00:00", "last_activity": null,
            "status": "active", "rotated_to": null, "ended_at": null, "is_current": true,
            "credits_remaining": 40, "credits_used_this_cycle": 0, "memory_count": 0,
        }
    });
    assert_eq!(seen, expected);
    let login = small.post("/login", &json!({})).await.ok(200);
    assert_eq!(login.json["key"], seen["key"]);
    let own = whoami(&al).await;
    assert_eq!(own["account_id"], "al@example.com");
    assert_eq!(own["key"]["scopes"], json!(SCOPES));
    let nobody = server.anonymous().get("/whoami").await;
    nobody.refused(401, "missing_credentials", "Authentication required");
    let admin = server.admin().get("/whoami").await;
    admin.refused(401, "missing_credentials", "Authentication required");
    let gone = server.revoked_key().await.get("/whoami").await;
    gone.refused(401, "key_revoked", "Invalid API key");
    let wrong = server.key("A".repeat(32).as_str()).get("/whoami").await;
    wrong.refused(401, "invalid_key", "Invalid API key");
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_keys_are_checked() {
    // Shows each bad value refused by its field's name, of new keys and of changes alike, and that nothing
    // came of it.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    let key = mint(&server, &bo, json!({"description": "as it was"})).await;
    let before = whoami(&key).await;
    let bad = [
        ("expires_at", json!("2026-01-15T12:00:00Z")),
        ("expires_at", json!("2025-01-15T12:00:00Z")),
        ("expires_at", json!("+10000-01-01T00:00:00Z")),
        ("expires_at", json!("9999-12-31T23:59:59-00:01")),
        ("expires_at", json!("tomorrow")),
        ("expires_at", json!("2026-02-30T00:00:00Z")),
        ("expires_at", json!(1_800_000_000)),
        ("scopes", json!([])),
        ("scopes", json!("keys")),
        ("scopes", json!(["Keys"])),
        ("scopes", json!(["keys", "keys"])),
        ("scopes", json!(["keys", 1])),
        ("scopes", json!({"keys": true})),
        ("credits_per_cycle", json!(-1)),
        ("credits_per_cycle", json!(1.5)),
        ("credits_per_cycle", json!("5")),
        ("credits_per_cycle", json!(true)),
        ("description", json!("d".repeat(257))),
        ("description", json!(7)),
        ("grace_seconds", json!(5)),
    ];
    for (field, value) in &bad {
        let body = json!({ *field: value });
        for answer in [
            bo.post("/apikey/new", &body).await,
            change(&bo, &key, body.clone()).await,
            change(&server.admin(), &key, body.clone()).await,
        ] {
            let answer = answer.bad_field(field);
            if *field == "scopes" {
                let message = answer.json["message"].as_str().unwrap();
                assert!(
                    SCOPES.iter().all(|scope| message.contains(scope)),
                    "{message}"
                );
            }
        }
    }
    for (value, max) in [(10_001, 10_000), (u64::MAX, 10_000)] {
        let body = json!({ "credits_per_cycle": value });
        for answer in [
            bo.post("/apikey/new", &body).await,
            change(&bo, &key, body.clone()).await,
        ] {
            let answer = answer.refused(409, "credits_above_own", "Credits above own");
            assert_eq!(answer.json["credits_max"], max);
        }
    }
    change(&bo, &key, json!({}))
        .await
        .refused(400, "invalid_field", "Nothing to change");
    change(&bo, &key, json!({"plan": "Free"}))
        .await
        .bad_field("plan");
    let path = format!("/apikey/{}", key.key_id);
    let empty = bo.send(Method::PATCH, &path, "").await;
    empty.refused(400, "missing_body", "No JSON data provided");
    for grace in [
        json!(-1),
        json!(604_801),
        json!(1.5),
        json!("60"),
        json!([]),
    ] {
        let body = json!({ "grace_seconds": grace });
        rotate(&bo, &key, &body).await.bad_field("grace_seconds");
    }
    rotate(&bo, &key, &json!({"seconds": 1}))
        .await
        .bad_field("seconds");
    assert_eq!(whoami(&key).await, before);
    assert_eq!(bo.get("/apikey/list").await.json["total_keys"], 2);
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
async fn a_rotation_keeps_everything_but_the_secret() {
    // Shows the whole answer, the counters before and after, both keys beside each other, and the end.
    let server = Server::spawn().await;
    let bo = server.account_of("bo@example.com", Plan::PRO).await;
    let body = json!({"description": "CI", "plan": "Free", "credits_per_cycle": 50,
        "scopes": ["memory:read", "memory:write", "keys"]});
    let old = mint(&server, &bo, body).await;
    let id = old.add("one").await;
    old.spend(3).await;
    let credits = async |key: &Actor| {
        let mut json = key.get("/credits").await.ok(200).json;
        for name in ["api_key", "key_id"] {
            json.as_object_mut().unwrap().remove(name);
        }
        json
    };
    let before = credits(&old).await;
    assert_eq!(
        (&before["credits_remaining"], &before["credits_limit"]),
        (&json!(45), &json!(50))
    );
    // An Idempotency-Key is ignored, as wherever a secret is shown once.
    let keyed = old.with("idempotency-key", "once");
    let made = rotate(&keyed, &old, &json!({"grace_seconds": 60}))
        .await
        .ok(201)
        .unmetered();
    assert_eq!(made.header("idempotent-replayed"), None);
    assert_fields(
        &made.json,
        &[
            "message",
            "api_key",
            "key_id",
            "plan",
            "description",
            "scopes",
            "credits_per_cycle",
            "expires_at",
            "created_at",
            "warning",
            "account_id",
            "rotated",
        ],
    );
    let new = server.made(&made);
    assert_eq!(
        (new.key.len(), new.account_id.as_str()),
        (32, "bo@example.com")
    );
    assert_eq!(
        made.json["rotated"],
        json!({"key_id": old.key_id, "api_key": old.masked(),
        "works_until": "2026-01-15T12:01:00.000000+00:00"})
    );
    assert_eq!(
        (credits(&old).await, credits(&new).await),
        (before.clone(), before)
    );
    new.get(&format!("/memory/{id}")).await.ok(200);
    old.get(&format!("/memory/{id}")).await.ok(200);
    let list = bo.get("/apikey/list").await.ok(200).json;
    assert_eq!(list["total_keys"], 3);
    for (row, key) in [(&list["api_keys"][1], &old), (&list["api_keys"][2], &new)] {
        assert_eq!(
            (&row["key_id"], &row["memory_count"]),
            (&json!(key.key_id), &json!(1))
        );
        assert_eq!(
            (&row["credits_used_this_cycle"], &row["credits_remaining"]),
            (&json!(7), &json!(43))
        );
    }
    let seen = whoami(&old).await;
    assert_eq!(seen["key"]["rotated_to"], new.key_id);
    assert_eq!(
        seen["key"]["expires_at"],
        "2026-01-15T12:01:00.000000+00:00"
    );
    assert_eq!(
        seen["key"]["scopes"],
        json!(["memory:read", "memory:write"])
    );
    // The old one manages no keys, and is not rotated or changed again by anybody.
    lacks(old.post("/apikey/new", &json!({})).await, "keys");
    lacks(old.get("/apikey/list").await, "keys");
    lacks(rotate(&old, &old, &json!({})).await, "keys");
    for by in [&bo, &new, &server.admin()] {
        let again = rotate(by, &old, &json!({"grace_seconds": 0})).await;
        again.refused(409, "key_rotated", "API key already rotated");
        let changed = change(by, &old, json!({"expires_at": null})).await;
        changed.refused(409, "key_rotated", "API key already rotated");
    }
    server.clock.set(at("2026-01-15T12:00:59+00:00"));
    old.get("/credits").await.ok(200);
    server.clock.set(at("2026-01-15T12:01:00+00:00"));
    old.get("/credits")
        .await
        .refused(401, "key_expired", "Invalid API key");
    new.get("/credits").await.ok(200);
    let list = new.get("/apikey/list").await.ok(200).json;
    assert_eq!(list["total_keys"], 2);
    let all = new.get("/apikey/list?status=all").await.ok(200).json;
    let ended = &all["api_keys"][1];
    assert_eq!(
        (&ended["status"], &ended["credits_remaining"]),
        (&json!("inactive"), &json!(0))
    );
    assert_eq!(ended["ended_at"], "2026-01-15T12:01:00.000000+00:00");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_leaked_is_replaced_at_once() {
    // Shows grace 0 for an account's only key, by itself and by the admin, the default of a day, and that the
    // old key's own end is kept.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let made = rotate(&bo, &bo, &json!({"grace_seconds": 0})).await.ok(201);
    assert_eq!(
        made.json["rotated"]["works_until"],
        "2026-01-15T12:00:00.000000+00:00"
    );
    bo.get("/credits")
        .await
        .refused(401, "key_revoked", "Invalid API key");
    let second = server.made(&made);
    assert_eq!(second.credits().await, 100);
    let admin = server.admin();
    for (name, body) in [
        (second.masked(), json!({"grace_seconds": 0})),
        (second.key.clone(), json!({})),
    ] {
        let path = format!("/apikey/{name}/rotate");
        let answer = admin.post(&path, &body).await;
        if name == second.key {
            answer.refused(409, "key_rotated", "API key already rotated");
        } else {
            let third = server.made(&answer.ok(201));
            assert_eq!(third.account_id, bo.account_id);
            let path = format!("/apikey/{}/rotate", third.key_id);
            let last = third.send(Method::POST, &path, "").await.ok(201);
            let until = &last.json["rotated"]["works_until"];
            assert_eq!(until, "2026-01-16T12:00:00.000000+00:00");
            let last = server.made(&last);
            let end = "2026-01-15T12:00:30+00:00";
            let ending = mint(&server, &last, json!({ "expires_at": end })).await;
            let next = rotate(&ending, &ending, &json!({})).await.ok(201);
            assert_eq!(next.json["expires_at"], "2026-01-15T12:00:30.000000+00:00");
            assert_eq!(next.json["rotated"]["works_until"], next.json["expires_at"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_tenants_keys_are_out_of_reach() {
    // Shows 404 for another account's id or mask and 403 for its key, on both routes; and who is nobody.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    let al = server.account(Plan::PRO).await;
    let before = whoami(&al).await;
    let change = json!({"description": "mine now"});
    for (name, status, code) in [
        (al.key_id.clone(), 404, "key_not_found"),
        (al.masked(), 404, "key_not_found"),
        (al.key.clone(), 403, "permission_denied"),
    ] {
        let (path, rotate) = (format!("/apikey/{name}"), format!("/apikey/{name}/rotate"));
        for answer in [
            bo.patch(&path, &change).await,
            bo.post(&rotate, &json!({})).await,
        ] {
            assert_eq!(
                (answer.status, &answer.json["code"]),
                (status, &json!(code))
            );
        }
    }
    let (path, rotate) = (
        format!("/apikey/{}", bo.key_id),
        format!("/apikey/{}/rotate", bo.key_id),
    );
    let revoked = server.revoked_key().await;
    for (by, status, code) in [
        (server.anonymous(), 401, "missing_credentials"),
        (server.key("nobody's"), 401, "invalid_key"),
        (revoked, 401, "key_revoked"),
        (bo.with("x-admin-key", "wrong"), 403, "admin_required"),
    ] {
        for answer in [
            by.patch(&path, &change).await,
            by.post(&rotate, &json!({})).await,
        ] {
            assert_eq!(
                (answer.status, &answer.json["code"]),
                (status, &json!(code))
            );
        }
    }
    assert_eq!(whoami(&al).await, before);
    assert_eq!(whoami(&bo).await["key"]["rotated_to"], Value::Null);
    let changed = server.admin().patch(&path, &change).await.ok(200);
    assert_eq!(
        (&changed.json["account_id"], &changed.json["description"]),
        (&json!(bo.account_id), &json!("mine now"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_gives_more_than_it_has() {
    // Shows that what is left open becomes the maker's own, and that scopes, plan, credits and end beyond it
    // are refused, for new keys, for changes of itself and of others, and for the rotation of a stronger one.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    let end = "2026-03-01T00:00:00.000000+00:00";
    let small = mint(
        &server,
        &bo,
        json!({"scopes": ["keys", "memory:read"], "plan": "Free",
        "credits_per_cycle": 30, "expires_at": end}),
    )
    .await;
    let child = small.post("/apikey/new", &json!({})).await.ok(201);
    assert_eq!(
        (
            &child.json["scopes"],
            &child.json["plan"],
            &child.json["credits_per_cycle"],
            &child.json["expires_at"]
        ),
        (
            &json!(["memory:read", "keys"]),
            &json!("Free"),
            &json!(30),
            &json!(end)
        )
    );
    // On the maker's counters: 30 credits are 30, whoever of the two spends them.
    let twin = server.made(&child);
    assert_eq!((small.credits().await, twin.credits().await), (30, 30));
    twin.get("/stats").await.ok(200);
    assert_eq!((small.credits().await, twin.credits().await), (29, 29));
    let beyond = [
        (
            json!({"scopes": ["memory:write"]}),
            403,
            "insufficient_scope",
        ),
        (
            json!({"expires_at": "2026-03-01T00:00:00.000001Z"}),
            409,
            "expiry_above_own",
        ),
        (json!({"credits_per_cycle": 31}), 409, "credits_above_own"),
    ];
    for (body, status, code) in &beyond {
        for answer in [
            small.post("/apikey/new", body).await,
            change(&small, &small, body.clone()).await,
        ] {
            assert_eq!(
                (answer.status, &answer.json["code"]),
                (*status, &json!(code)),
                "{body}"
            );
        }
    }
    let fewer = small
        .post("/apikey/new", &json!({"credits_per_cycle": 29}))
        .await;
    fewer.refused(409, "credits_above_own", "Credits above own");
    let plan = small.post("/apikey/new", &json!({"plan": "Pro"})).await;
    plan.refused(409, "plan_above_account", "Plan above account");
    for body in [
        json!({"expires_at": null}),
        json!({"credits_per_cycle": null}),
    ] {
        assert_eq!(change(&small, &small, body).await.status, 409);
    }
    lacks(
        rotate(&small, &bo, &json!({"grace_seconds": 0})).await,
        "memory:write",
    );
    bo.get("/credits").await.ok(200);
    // It may narrow, itself too, and give what it has.
    let less = json!({"credits_per_cycle": 0, "scopes": ["keys"]});
    let row = change(&small, &small, less).await.ok(200).unmetered().json;
    assert_eq!(
        (&row["credits_remaining"], &row["is_current"]),
        (&json!(0), &json!(true))
    );
    lacks(
        change(&small, &small, json!({"scopes": ["keys", "memory:read"]})).await,
        "memory:read",
    );
    let row = change(
        &bo,
        &small,
        json!({"credits_per_cycle": null, "expires_at": null,
        "scopes": ["memory:read"], "description": "wider"}),
    )
    .await
    .ok(200)
    .json;
    assert_eq!(
        (&row["credits_remaining"], &row["expires_at"]),
        (&json!(99), &Value::Null)
    );
    // The admin may give all that the account has.
    change(&server.admin(), &small, json!({"scopes": SCOPES}))
        .await
        .ok(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn credits_of_a_cycle_are_the_keys_own() {
    // Shows the key's numbers while only its credits are capped, its 402, that the room stays the account's,
    // and the next cycle.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    bo.add("bo's").await;
    let key = mint(&server, &bo, json!({"credits_per_cycle": 4})).await;
    let answer = key.post("/memory", &memory("own")).await.ok(201);
    assert_eq!(answer.metered()[..3], [2, 4, 2]);
    key.spend(1).await;
    let seen = key.get("/credits").await.ok(200).json;
    assert_eq!(
        (
            &seen["plan"],
            &seen["credits_limit"],
            &seen["credits_remaining"]
        ),
        (&json!("Pro"), &json!(4), &json!(1))
    );
    assert_eq!(seen["credits_used_this_cycle"], 3);
    assert_eq!(
        (
            &seen["memory_usage"]["limit"],
            &seen["memory_usage"]["current_count"]
        ),
        (&json!(2_000), &json!(2))
    );
    let poor = key.post("/memory", &memory("no more")).await;
    let poor = poor.refused(402, "out_of_credits", "Out of credits");
    assert_eq!(
        (&poor.json["scope"], &poor.json["credits_remaining"]),
        (&json!("key"), &json!(1))
    );
    assert_eq!(poor.metered()[..3], [0, 4, 1]);
    assert_eq!(bo.credits().await, 10_000 - 5);
    let next = server.made(
        &rotate(&key, &key, &json!({"grace_seconds": 0}))
            .await
            .ok(201),
    );
    assert_eq!(next.credits().await, 1);
    server.clock.set(at("2026-02-15T12:00:00+00:00"));
    assert_eq!(next.credits().await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_keeps_a_managing_key() {
    // Shows that a user's last key that manages keys for ever cannot be revoked, narrowed or made to end, what
    // the refusal says, and that the admin can revoke it but not make an account without one.
    let server = Server::spawn().await;
    let bo = server.account_of("bo@example.com", Plan::PRO).await;
    let path = format!("/apikey/{}", bo.key_id);
    let alone = bo.delete(&path).await;
    let error = "Cannot revoke your only active API key";
    alone.refused(400, "last_active_key", error);
    mint(
        &server,
        &bo,
        json!({"scopes": ["memory:read", "memory:write", "account"]}),
    )
    .await;
    let ending = mint(&server, &bo, json!({"expires_at": "2026-02-01T00:00:00Z"})).await;
    for by in [&bo, &ending] {
        let refused = by
            .delete(&path)
            .await
            .refused(400, "last_active_key", error);
        let message = refused.json["message"].as_str().unwrap();
        assert!(
            message.contains("the others lack the scope keys"),
            "{message}"
        );
        for body in [
            json!({"expires_at": "2026-01-20T00:00:00Z"}),
            json!({"scopes": ["memory:read"]}),
        ] {
            // Whoever bounds a key must have all that it has.
            let code = if by.key_id == bo.key_id {
                "last_managing_key"
            } else {
                "expiry_above_own"
            };
            let answer = change(by, &bo, body).await;
            assert_eq!((answer.status, &answer.json["code"]), (409, &json!(code)));
        }
    }
    let admin = server.admin();
    admin.delete(&path).await.ok(200);
    let restricted = [
        json!({"email": "new@example.com", "scopes": ["memory:read"]}),
        json!({"email": "new@example.com", "expires_at": "2026-02-01T00:00:00Z"}),
    ];
    for body in restricted {
        let answer = admin.post("/apikey/new", &body).await;
        answer.refused(409, "last_managing_key", "Last managing key");
    }
    let body = json!({"email": "new@example.com", "credits_per_cycle": 101});
    let answer = admin.post("/apikey/new", &body).await;
    let answer = answer.refused(409, "credits_above_own", "Credits above own");
    assert_eq!(answer.json["credits_max"], 100);
    let body = json!({"email": "new@example.com", "credits_per_cycle": 7});
    let new = mint(&server, &admin, body).await;
    assert_eq!(new.credits().await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_changes_at_once_a_manager_is_left() {
    // Shows, over HTTP, that keys which revoke, narrow and rotate each other at once leave one that manages,
    // and that no credit comes or goes with that.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let mut keys = vec![bo.clone()];
    for _ in 0..5 {
        keys.push(mint(&server, &bo, json!({})).await);
    }
    bo.spend(10).await;
    let tasks: Vec<_> = (0..24)
        .map(|n| {
            let (by, other) = (keys[n % 6].clone(), keys[(n * 5 + 1) % 6].clone());
            tokio::spawn(async move {
                let path = format!("/apikey/{}", other.key_id);
                match n % 3 {
                    0 => by.delete(&path).await,
                    1 => by.patch(&path, &json!({"scopes": ["memory:read"]})).await,
                    _ => rotate(&by, &other, &json!({"grace_seconds": n % 2})).await,
                }
            })
        })
        .collect();
    for task in tasks {
        let answer = task.await.unwrap();
        assert!(
            [200, 201, 400, 401, 403, 409].contains(&answer.status),
            "{}",
            answer.text
        );
    }
    let list = server.admin().get("/apikey/list").await.ok(200).json;
    let rows = list["api_keys"].as_array().unwrap();
    let manages = |row: &&Value| {
        row["scopes"].as_array().unwrap().contains(&json!("keys")) && row["expires_at"].is_null()
    };
    assert_ne!(rows.iter().filter(manages).count(), 0, "{list}");
    assert!(
        rows.iter().all(|row| row["credits_remaining"] == 90),
        "{list}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_is_refused_and_frees_its_place() {
    // Shows 401 from its end on, by any route, and that a hundred of them leave room for a new one.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let body = json!({"expires_at": "2026-01-15T12:00:10Z"});
    let mut ending = bo.clone();
    for _ in 0..99 {
        ending = mint(&server, &bo, body.clone()).await;
    }
    let full = bo.post("/apikey/new", &body).await;
    full.refused(409, "key_limit_reached", "API key limit reached");
    server.clock.set(at("2026-01-15T12:00:10+00:00"));
    for answer in [
        ending.get("/whoami").await,
        ending.get("/memory").await,
        ending.post("/login", &json!({})).await,
    ] {
        answer.refused(401, "key_expired", "Invalid API key");
    }
    let path = format!("/apikey/{}", ending.key_id);
    let changed = bo.patch(&path, &json!({"expires_at": null})).await;
    changed.refused(409, "key_not_active", "API key not active");
    let rotated = rotate(&bo, &ending, &json!({})).await;
    rotated.refused(409, "key_not_active", "API key not active");
    mint(&server, &bo, json!({})).await;
    let list = bo.get("/apikey/list").await.ok(200).json;
    assert_eq!(list["total_keys"], 2);
    let all = server.admin().get("/apikey/list").await.ok(200).json;
    assert_eq!(all["total_keys"], 2);
}
