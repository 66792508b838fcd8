//! What only the admin may do, and who that is.

use memoryos::domain::plan::Plan;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{ADMIN_KEY, Actor, Answer, Options, Server, assert_fields, memory};

const LONG_KEY: &str = "an-admin-key-of-32-characters-ok";

#[track_caller]
fn required(answer: Answer) {
    answer.refused(403, "admin_required", "Admin access required");
}

#[track_caller]
fn disabled(answer: Answer) {
    answer.refused(403, "admin_disabled", "Admin access disabled");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_listed_with_every_field() {
    // Shows an account with an e-mail and one without, in numbers, oldest first.
    let server = Server::spawn().await;
    let bo = server.account_of("Bo@Example.com", Plan::PRO).await;
    server.clock.advance(60);
    let anonymous = server.account(Plan::FREE).await;
    let gone = server.made(&bo.post("/apikey/new", &json!({})).await.ok(201));
    let kept = server.made(
        &bo.post("/apikey/new", &json!({"plan": "Free"}))
            .await
            .ok(201),
    );
    bo.delete(&format!("/apikey/{}", gone.key_id)).await.ok(200);
    bo.add("t").await;
    bo.spend(1).await;
    let answer = server.admin().get("/admin/users").await.ok(200).unmetered();
    assert_eq!(
        answer.json,
        json!({
            "total_users": 2, "active_users": 2,
            "pagination": {"page": 1, "limit": 50, "total": 2, "pages": 1},
            "users": [
                {"account_id": "bo@example.com", "email": "bo@example.com", "plan": "Pro",
                 "credits_remaining": 9_997, "credits_used_this_cycle": 3,
                 "total_credits_used": 3, "memory_count": 1, "memory_limit": 2_000,
                 "reset_date": "2026-02-15T12:00:00.000000+00:00",
                 "created_at": "2026-01-15T12:00:00.000000+00:00",
                 "last_activity": "2026-01-15T12:01:00.000000+00:00", "status": "active",
                 "api_keys": [bo.masked(), kept.masked()]},
                {"account_id": anonymous.account_id, "email": null, "plan": "Free",
                 "credits_remaining": 100, "credits_used_this_cycle": 0,
                 "total_credits_used": 0, "memory_count": 0, "memory_limit": 100,
                 "reset_date": "2026-02-15T12:01:00.000000+00:00",
                 "created_at": "2026-01-15T12:01:00.000000+00:00", "last_activity": null,
                 "status": "active", "api_keys": [anonymous.masked()]},
            ]
        })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_searched_and_paged() {
    // Shows q in any case on ids and e-mails, totals of what matches, pages and their bounds.
    let server = Server::spawn().await;
    let admin = server.admin();
    for n in 0..5 {
        let domain = if n % 2 == 0 { "even.com" } else { "odd.com" };
        server
            .account_of(&format!("user{n}@{domain}"), Plan::FREE)
            .await;
        server.clock.advance(1);
    }
    let anonymous = server.account(Plan::FREE).await;
    let first = admin.get("/apikey/list?limit=1").await.ok(200);
    let key = first.json["api_keys"][0]["key_id"]
        .as_str()
        .unwrap()
        .to_owned();
    admin.delete(&format!("/apikey/{key}")).await.ok(200);
    let found = async |query: &str| {
        let answer = admin.get(&format!("/admin/users?{query}")).await.ok(200);
        let users = answer.json["users"].as_array().unwrap();
        let ids = users
            .iter()
            .map(|user| user["account_id"].as_str().unwrap().to_owned());
        let numbers = ["total_users", "active_users"].map(|n| answer.json[n].as_u64().unwrap());
        (
            ids.collect::<Vec<_>>(),
            numbers,
            answer.json["pagination"].clone(),
        )
    };
    let (ids, numbers, pagination) = found("q=EVEN.com").await;
    assert_eq!(ids, ["user0@even.com", "user2@even.com", "user4@even.com"]);
    assert_eq!(numbers, [3, 2]);
    assert_eq!(
        pagination,
        json!({"page": 1, "limit": 50, "total": 3, "pages": 1})
    );
    let (ids, numbers, pagination) = found("q=even&limit=2&page=2").await;
    assert_eq!(ids, ["user4@even.com"]);
    assert_eq!(numbers, [3, 2]);
    assert_eq!(
        pagination,
        json!({"page": 2, "limit": 2, "total": 3, "pages": 2})
    );
    let (ids, ..) = found("q=user3%40odd").await;
    assert_eq!(ids, ["user3@odd.com"]);
    let (ids, ..) = found(&format!("q={}", anonymous.account_id.to_lowercase())).await;
    assert_eq!(ids, [&*anonymous.account_id]);
    let (ids, numbers, pagination) = found("q=nobody").await;
    assert_eq!((ids.len(), numbers), (0, [0, 0]));
    assert_eq!(pagination["pages"], 0);
    let (ids, numbers, _) = found("page=3&limit=3").await;
    assert_eq!((ids.len(), numbers), (0, [6, 5]));
    let (ids, ..) = found("page=99999999999999999999999&q=").await;
    assert_eq!(ids.len(), 0);
    let (_, _, pagination) = found("limit=101").await;
    assert_eq!(pagination["limit"], 100);
    for query in [
        "page=0",
        "page=x",
        "limit=0",
        "q=a&q=b",
        "limit=1&limit=1",
        "q=%ff",
    ] {
        let answer = admin.get(&format!("/admin/users?{query}")).await;
        answer.bad_field(query.split('=').next().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_gets_a_key_again_is_active_again() {
    // Shows that the total kept beside the records goes up again with the first key after none.
    let server = Server::spawn().await;
    let (admin, bo) = (server.admin(), server.account(Plan::FREE).await);
    server.account(Plan::FREE).await;
    let active = async || {
        let answer = admin.get("/admin/users?limit=1").await.ok(200);
        answer.json["active_users"].as_u64().unwrap()
    };
    admin
        .delete(&format!("/apikey/{}", bo.key_id))
        .await
        .ok(200);
    assert_eq!(active().await, 1);
    let own = json!({"account_id": bo.account_id});
    admin.post("/apikey/new", &own).await.ok(201);
    assert_eq!(active().await, 2);
    admin.post("/apikey/new", &own).await.ok(201);
    assert_eq!(active().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_changed_by_any_name_of_the_account() {
    // Shows key, key id, account id and e-mail in another case; each changes the account.
    let server = Server::spawn().await;
    let admin = server.admin();
    let bo = server.account_of("bo@example.com", Plan::FREE).await;
    let anonymous = server.account(Plan::FREE).await;
    let capped = server.made(
        &bo.post("/apikey/new", &json!({"plan": "Free"}))
            .await
            .ok(201),
    );
    let cases = [
        (&bo, bo.key.clone(), "Pro"),
        (&bo, bo.key_id.clone(), "Premium"),
        (&bo, "bo@example.com".to_owned(), "Pro"),
        (&bo, "BO@Example.COM".to_owned(), "Free"),
        (&bo, capped.key_id.clone(), "Pro"),
        (&anonymous, anonymous.account_id.clone(), "Pro"),
    ];
    for (whose, name, plan) in cases {
        let path = format!("/admin/user/{name}/plan");
        let answer = admin.put(&path, &json!({"plan": plan})).await.ok(200);
        assert_fields(
            &answer.json,
            &[
                "message",
                "account_id",
                "plan",
                "previous_plan",
                "credits_remaining",
                "memory_limit",
                "reset_date",
            ],
        );
        assert_eq!(answer.json["message"], format!("Plan updated to {plan}"));
        assert_eq!(answer.json["account_id"], json!(whose.account_id));
        assert_eq!(answer.json["plan"], plan);
        assert_eq!(whose.get("/credits").await.json["plan"], plan);
    }
    assert_eq!(capped.get("/credits").await.json["plan"], "Free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_plan_change_is_refused() {
    // Shows 404, the original sentence for no plan, and the order of the two.
    let server = Server::spawn().await;
    let admin = server.admin();
    let bo = server.account(Plan::FREE).await;
    let path = format!("/admin/user/{}/plan", bo.key_id);
    for name in ["nobody@example.com", "key_aaaaaaaaaaaa", "x", &bo.masked()] {
        let answer = admin
            .put(&format!("/admin/user/{name}/plan"), &json!({"plan": "Pro"}))
            .await;
        answer.refused(404, "user_not_found", "User not found");
    }
    for body in [json!({}), json!({"plan": null})] {
        let answer = admin.put(&path, &body).await;
        answer.refused(400, "invalid_plan", "Plan required");
    }
    let answer = admin.put(&path, &json!({"plan": "pro"})).await;
    answer.refused(400, "invalid_plan", "Invalid plan: pro");
    let answer = admin
        .put("/admin/user/nobody/plan", &json!({"plan": "X"}))
        .await;
    answer.refused(400, "invalid_plan", "Invalid plan: X");
    let answer = admin
        .put(&path, &json!({"plan": "Pro", "credits": 5}))
        .await;
    answer.bad_field("credits");
    let answer = admin.send(Method::PUT, &path, "").await;
    answer.refused(400, "missing_body", "No JSON data provided");
    required(bo.put(&path, &json!({"plan": "Pro"})).await);
    assert_eq!(bo.credits().await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_are_synced() {
    // Shows the answer when every count is right, with and without a body, while writers go on.
    let server = Server::spawn().await;
    let admin = server.admin();
    let bo = server.account(Plan::PRO).await;
    server.account(Plan::FREE).await;
    let expected = json!({"message": "Synced memory counts for 2 users", "total_users": 2,
                          "corrected": []});
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let bo = bo.clone();
        writers.spawn(async move {
            for n in 0..10 {
                let id = bo.add(&n.to_string()).await;
                if n % 2 == 0 {
                    bo.delete(&format!("/memory/{id}")).await.ok(200);
                }
            }
        });
    }
    while !writers.is_empty() {
        let answer = admin
            .send(Method::POST, "/admin/sync-memory-counts", "")
            .await;
        assert_eq!(answer.ok(200).json, expected);
        while let Some(writer) = writers.try_join_next() {
            writer.unwrap();
        }
    }
    let answer = admin.post("/admin/sync-memory-counts", &json!({})).await;
    assert_eq!(answer.ok(200).unmetered().json, expected);
    let credits = bo.get("/credits").await.ok(200);
    assert_eq!(credits.json["memory_usage"]["current_count"], 80);
    required(bo.post("/admin/sync-memory-counts", &json!({})).await);
}

/// What a server says to the default key, from near and from far.
async fn default_key_rules(host: &'static str) {
    let options = Options {
        host,
        ..Options::default()
    };
    let server = Server::spawn_with(options).await;
    let admin = server.admin();
    admin.get("/admin/users").await.ok(200);
    admin
        .with("host", "localhost:5000")
        .get("/admin/users")
        .await
        .ok(200);
    admin
        .with("host", "[::1]")
        .get("/admin/users")
        .await
        .ok(200);
    for (name, value) in [
        ("origin", "https://evil.example.com"),
        ("origin", "http://localhost:5000"),
        ("origin", "null"),
        ("forwarded", "for=1.2.3.4"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "localhost"),
        ("x-forwarded-proto", "https"),
        ("host", "evil.example.com"),
        ("host", "localhost.evil.example.com"),
        ("host", "10.0.0.1:5000"),
    ] {
        let relayed = admin.with(name, value);
        disabled(relayed.get("/admin/users").await);
        disabled(relayed.get("/apikey/list").await);
        disabled(
            relayed
                .post("/apikey/new", &json!({"email": "a@b.cd"}))
                .await,
        );
    }
    required(server.anonymous().get("/admin/users").await);
    required(
        server
            .anonymous()
            .with("x-admin-key", "admin-secret-kez")
            .get("/admin/users")
            .await,
    );
    required(
        server
            .anonymous()
            .with("x-admin-key", "")
            .get("/admin/users")
            .await,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_key_is_for_this_machine() {
    // Shows that the default key works on 127.0.0.1 and on a name that means loopback, and not from a
    // browser's page, a proxy or another host.
    default_key_rules("127.0.0.1").await;
    default_key_rules("localhost").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_key_is_for_this_machine_on_ipv6() {
    // Shows the same on ::1; a machine without IPv6 is asserted to have none.
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        let options = Options {
            host: "::1",
            ..Options::default()
        };
        assert!(Server::try_spawn(options).await.is_err());
        return;
    }
    default_key_rules("::1").await;
    default_key_rules("[::1]").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn off_loopback_there_is_no_admin_without_a_long_key() {
    // Shows that on 0.0.0.0 neither the default key nor a short one works, and one of 32 characters
    // does, from anywhere.
    for admin_key in [None, Some(ADMIN_KEY), Some(&LONG_KEY[1..])] {
        let options = Options {
            host: "0.0.0.0",
            admin_key,
            ..Options::default()
        };
        let server = Server::spawn_with(options).await;
        for actor in [
            server.admin(),
            server.anonymous().with("x-admin-key", ADMIN_KEY),
        ] {
            disabled(actor.get("/admin/users").await);
            disabled(actor.post("/admin/sync-memory-counts", &json!({})).await);
            disabled(actor.post("/admin/backup", &json!({})).await);
            disabled(
                actor
                    .put("/admin/user/x/plan", &json!({"plan": "Pro"}))
                    .await,
            );
            disabled(actor.post("/apikey/new", &json!({"email": "a@b.cd"})).await);
        }
        disabled(server.anonymous().get("/admin/users").await);
        // Everybody else is served.
        server.account(Plan::FREE).await.add("t").await;
    }
    let options = Options {
        host: "0.0.0.0",
        admin_key: Some(LONG_KEY),
        ..Options::default()
    };
    let server = Server::spawn_with(options).await;
    let far = server
        .admin()
        .with("origin", "https://x.example.com")
        .with("host", "memory.example.com");
    far.get("/admin/users").await.ok(200);
    required(
        server
            .anonymous()
            .with("x-admin-key", ADMIN_KEY)
            .get("/admin/users")
            .await,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_key_that_is_set_is_the_only_one() {
    // Shows that on loopback a short key will do, from anywhere, and that the default is then wrong; set
    // by hand to the default it counts as unset.
    let set = |admin_key| Options {
        admin_key: Some(admin_key),
        ..Options::default()
    };
    let server = Server::spawn_with(set("short")).await;
    server.admin().get("/admin/users").await.ok(200);
    server
        .admin()
        .with("x-forwarded-for", "1.2.3.4")
        .get("/admin/users")
        .await
        .ok(200);
    for wrong in [ADMIN_KEY, "", "shor", "short1", "SHORT"] {
        required(
            server
                .anonymous()
                .with("x-admin-key", wrong)
                .get("/admin/users")
                .await,
        );
    }
    let server = Server::spawn_with(set(ADMIN_KEY)).await;
    server.admin().get("/admin/users").await.ok(200);
    disabled(
        server
            .admin()
            .with("origin", "http://x")
            .get("/admin/users")
            .await,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_admin_key_is_refused_anywhere() {
    // Shows 403 beside a good API key on every route that reads keys, and that open routes do not.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let path = format!("/memory/{}", bo.add("t").await);
    for wrong in ["wrong", ""] {
        let odd = bo.with("x-admin-key", wrong);
        for read in [
            "/credits",
            "/memory",
            &path,
            "/stats",
            "/gpt-status",
            "/apikey/list",
        ] {
            required(odd.get(read).await);
        }
        required(odd.post("/login", &json!({})).await);
        required(odd.post("/memory", &memory("t")).await);
        required(odd.patch(&path, &json!({"x": 1})).await);
        required(odd.delete(&path).await);
        required(odd.post("/apikey/new", &json!({})).await);
        required(odd.delete(&format!("/apikey/{}", bo.key_id)).await);
        required(odd.get("/admin/users").await);
        odd.get("/").await.ok(200);
        odd.get("/health").await.ok(200);
        odd.post("/signup", &json!({})).await.ok(201);
    }
    assert_eq!(bo.credits().await, 98);
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_an_api_key_the_admin_key_counts_where_it_can() {
    // Shows that /apikey/* and /admin/* are the admin's then, and all else the account's.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let al = server.account_of("al@example.com", Plan::FREE).await;
    let both = bo.with("x-admin-key", ADMIN_KEY);
    let list = both.get("/apikey/list").await.ok(200);
    assert_eq!(list.json["total_keys"], 2);
    assert_eq!(list.json["account_id"], Value::Null);
    both.get("/admin/users").await.ok(200);
    both.delete(&format!("/apikey/{}", al.key)).await.ok(200);
    let credits = both.get("/credits").await.ok(200);
    assert_eq!(credits.json["account_id"], json!(bo.account_id));
    let login = both.post("/login", &json!({})).await.ok(200);
    assert_eq!(login.json["account_id"], json!(bo.account_id));
    let made = both.post("/memory", &memory("t")).await.ok(201);
    assert_eq!(made.json["entry"]["key_id"], json!(bo.key_id));
    // Alone it is nobody's where an account is asked for.
    for path in ["/credits", "/memory", "/stats"] {
        let answer = server.admin().get(path).await;
        answer.refused(401, "missing_credentials", "Authentication required");
    }
    let answer = server.admin().post("/login", &json!({})).await;
    answer.refused(401, "missing_credentials", "Authentication required");
    // A bad API key does not spoil the admin's request.
    let odd = server.key("wrong").with("x-admin-key", ADMIN_KEY);
    odd.get("/apikey/list").await.ok(200);
    let answer = odd.get("/credits").await;
    answer.refused(401, "invalid_key", "Invalid API key");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_key_has_the_account_default() {
    // Shows the account, that a restart makes no second one, and that once revoked it stays revoked.
    let options = Options {
        api_key: Some("operators-own-key-1"),
        ..Options::default()
    };
    let mut server = Server::spawn_with(options).await;
    let of =
        |server: &Server| -> (Actor, Actor) { (server.key("operators-own-key-1"), server.admin()) };
    let (operator, admin) = of(&server);
    let credits = operator.get("/credits").await.ok(200);
    assert_eq!(credits.json["account_id"], "default");
    assert_eq!(credits.json["plan"], "Premium");
    assert!(!credits.text.contains("operators-own-key-1"));
    operator.add("t").await;
    let users = admin.get("/admin/users?q=default").await.ok(200);
    assert_eq!(users.json["total_users"], 1);
    assert_eq!(users.json["users"][0]["email"], Value::Null);
    server.restart().await;
    let (operator, admin) = of(&server);
    let list = operator.get("/apikey/list?status=all").await.ok(200);
    assert_eq!(list.json["total_keys"], 1);
    let listed = operator.get("/memory").await.ok(200);
    assert_eq!(listed.json["pagination"]["total"], 1);
    // The admin addresses the account and the key as any other.
    let plan = json!({"plan": "Pro"});
    admin.put("/admin/user/default/plan", &plan).await.ok(200);
    let made = admin
        .post("/apikey/new", &json!({"account_id": "default"}))
        .await
        .ok(201);
    assert_eq!(made.json["account_id"], "default");
    admin.delete("/apikey/operators-own-key-1").await.ok(200);
    server.restart().await;
    let (operator, _) = of(&server);
    let answer = operator.get("/credits").await;
    answer.refused(401, "key_revoked", "Invalid API key");
    let other = server.made(&made);
    assert_eq!(other.get("/credits").await.ok(200).json["plan"], "Pro");
}
