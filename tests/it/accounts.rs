//! `/signup`, `/login`, `/credits`: who an account is and what it has left.

use memoryos::domain::plan::Plan;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{LOW, Options, Server, assert_fields, assert_time};

const SIGNUP_FIELDS: [&str; 6] = [
    "message",
    "api_key",
    "account_id",
    "key_id",
    "user",
    "warning",
];

#[tokio::test(flavor = "multi_thread")]
async fn sign_up_answers_with_every_field() {
    // Shows the whole answer of a sign-up with an e-mail, trimmed and in lower case, and of each plan.
    let server = Server::spawn().await;
    let plans = [
        ("Free", 100, 100),
        ("Pro", 10_000, 2_000),
        ("Premium", 100_000, 1_000_000),
    ];
    for (plan, credits, memories) in plans {
        let body = json!({"email": format!(" Bo.{plan}@Example.COM\t"), "plan": plan});
        let made = server.anonymous().post("/signup", &body).await.ok(201);
        let made = made.unmetered();
        assert_fields(&made.json, &SIGNUP_FIELDS);
        assert_eq!(made.json["message"], "Account created successfully");
        assert_eq!(
            made.json["warning"],
            "Save your API key securely. You will not be able to see it again."
        );
        let email = format!("bo.{}@example.com", plan.to_lowercase());
        assert_eq!(made.json["account_id"], email);
        let key = made.json["api_key"].as_str().unwrap();
        assert!(key.len() == 32 && key.bytes().all(|b| b.is_ascii_alphanumeric()));
        let id = made.json["key_id"].as_str().unwrap();
        assert!(id.starts_with("key_") && id.len() == 16, "{id}");
        assert_eq!(
            made.json["user"],
            json!({"plan": plan, "credits_remaining": credits, "memory_limit": memories,
                   "reset_date": "2026-02-15T12:00:00.000000+00:00",
                   "created_at": "2026-01-15T12:00:00.000000+00:00"})
        );
        assert_eq!(made.header("cache-control"), Some("no-store"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_up_takes_nothing_as_free_without_an_email() {
    // Shows that an empty body, {}, and optional fields given as null are the same: Free, no e-mail.
    let server = Server::spawn().await;
    let nobody = server.anonymous();
    for body in ["", "{}", r#"{"email":null,"plan":null,"api_key":null}"#] {
        let made = nobody.send(Method::POST, "/signup", body).await.ok(201);
        assert_eq!(made.json["user"]["plan"], "Free");
        let id = made.json["account_id"].as_str().unwrap();
        assert!(id.starts_with("acct_") && id.len() == 31, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_up_refuses_bad_fields() {
    // Shows each reason for a 400, and that none of them makes an account.
    let server = Server::spawn().await;
    let nobody = server.anonymous();
    let long = format!("a@{}.com", "b".repeat(250));
    let emails = [
        "",
        "   ",
        "bo",
        "a@b",
        "@b.c",
        "a@",
        "a@b@c.d",
        "a b@c.d",
        "a\u{7}@c.d",
        "a@b .c",
        &long,
    ];
    for email in emails {
        let answer = nobody.post("/signup", &json!({"email": email})).await;
        answer.bad_field("email");
    }
    let local = format!("{}@b.cd", "a".repeat(65));
    let answer = nobody.post("/signup", &json!({"email": local})).await;
    answer.bad_field("email");
    let answer = nobody.post("/signup", &json!({"email": 5})).await;
    answer.bad_field("email");
    for (plan, name) in [
        (json!("Gold"), "Gold"),
        (json!("free"), "free"),
        (json!(""), ""),
        (json!(7), "7"),
    ] {
        let answer = nobody.post("/signup", &json!({"plan": plan})).await;
        answer.refused(400, "invalid_plan", &format!("Invalid plan: {name}"));
    }
    let answer = nobody.post("/signup", &json!({"api_key": "mine"})).await;
    answer.bad_field("api_key");
    let answer = nobody.post("/signup", &json!({"emial": "a@b.c"})).await;
    answer.bad_field("emial");
    let health = nobody.get("/health").await.ok(200);
    assert_eq!(health.json["metrics"]["total_users"], 0);
    let longest = format!("{}@b.cd", "a".repeat(64));
    nobody
        .post("/signup", &json!({"email": longest}))
        .await
        .ok(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_email_has_one_account() {
    // Shows that a second sign-up with an e-mail in another case is refused and shows no key.
    let server = Server::spawn().await;
    server.account_of("bo@example.com", Plan::FREE).await;
    for email in ["bo@example.com", "BO@Example.com", " bo@EXAMPLE.com "] {
        let answer = server
            .anonymous()
            .post("/signup", &json!({"email": email}))
            .await;
        let answer = answer.refused(409, "user_exists", "User already exists");
        assert_fields(&answer.json, &["error", "code", "message", "request_id"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_up_can_be_closed() {
    // Shows that a plan that is not open is refused, and every plan when sign-up is closed.
    let open = Options {
        signup_plans: vec![Plan::FREE],
        ..Options::default()
    };
    let server = Server::spawn_with(open).await;
    let answer = server
        .anonymous()
        .post("/signup", &json!({"plan": "Pro"}))
        .await;
    assert_eq!(
        (answer.status, &answer.json["code"]),
        (403, &json!("plan_not_open"))
    );
    server.account(Plan::FREE).await;
    let closed = Options {
        signup_plans: Vec::new(),
        ..Options::default()
    };
    let server = Server::spawn_with(closed).await;
    for plan in ["Free", "Pro"] {
        let answer = server
            .anonymous()
            .post("/signup", &json!({"plan": plan}))
            .await;
        assert_eq!(
            (answer.status, &answer.json["code"]),
            (403, &json!("signup_closed"))
        );
    }
    let answer = server
        .anonymous()
        .post("/signup", &json!({"plan": "X"}))
        .await;
    answer.refused(400, "invalid_plan", "Invalid plan: X");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_not_read_at_sign_up() {
    // Shows that a revoked key, a wrong admin key and doubled headers change nothing on open routes.
    let server = Server::spawn().await;
    let odd = server
        .key("nonsense")
        .with("x-api-key", "other")
        .with("x-admin-key", "wrong")
        .with("authorization", "Bearer third");
    odd.get("/").await.ok(200);
    odd.get("/health").await.ok(200);
    odd.post("/signup", &json!({})).await.ok(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn login_says_who_a_key_is() {
    // Shows that a key in a header, in the body, or the same in both is told whose it is, for free.
    let server = Server::spawn().await;
    let bo = server.account_of("bo@example.com", Plan::PRO).await;
    let in_body = json!({"api_key": bo.key});
    let bearer = server
        .anonymous()
        .with("authorization", &format!("Bearer {}", bo.key));
    let answers = [
        bo.send(Method::POST, "/login", "").await,
        bo.post("/login", &json!({})).await,
        bo.post("/login", &json!({"api_key": ""})).await,
        bo.post("/login", &json!({"api_key": null})).await,
        bo.post("/login", &in_body).await,
        bearer.post("/login", &in_body).await,
        server.anonymous().post("/login", &in_body).await,
    ];
    for answer in answers {
        let answer = answer.ok(200).unmetered();
        assert_eq!(
            answer.json,
            json!({
                "message": "Login successful", "account_id": "bo@example.com", "plan": "Pro",
                "key": {
                    "api_key": bo.masked(), "key_id": bo.key_id, "plan": "Pro",
                    "description": "Initial account creation",
                    "created_at": "2026-01-15T12:00:00.000000+00:00", "last_activity": null,
                    "status": "active", "is_current": true, "credits_remaining": 10_000,
                    "credits_used_this_cycle": 0, "memory_count": 0, "plan_cap": null,
                    "scopes": ["memory:read", "memory:write", "keys", "account"],
                    "credits_per_cycle": null, "expires_at": null, "rotated_to": null,
                    "ended_at": null,
                }
            })
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn login_refuses_what_is_no_key_or_two() {
    // Shows 401 without a key and with a wrong or revoked one, and 400 for two that differ.
    let server = Server::spawn().await;
    let (bo, revoked) = (server.account(Plan::FREE).await, server.revoked_key().await);
    let nobody = server.anonymous();
    for body in [json!({}), json!({"api_key": null}), json!({"api_key": ""})] {
        let answer = nobody.post("/login", &body).await;
        let answer = answer.refused(401, "missing_credentials", "Authentication required");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    let answer = nobody.post("/login", &json!({"api_key": "wrong"})).await;
    answer.refused(401, "invalid_key", "Invalid API key");
    let answer = nobody
        .post("/login", &json!({"api_key": revoked.key}))
        .await;
    answer.refused(401, "key_revoked", "Invalid API key");
    let answer = bo.post("/login", &json!({"api_key": revoked.key})).await;
    answer.refused(400, "ambiguous_credentials", "Ambiguous credentials");
    bo.post("/login", &json!({"api_key": 1}))
        .await
        .bad_field("api_key");
    bo.post("/login", &json!({"password": "x"}))
        .await
        .bad_field("password");
}

#[tokio::test(flavor = "multi_thread")]
async fn login_of_a_capped_key_tells_its_own_plan() {
    // Shows that `plan` is what this key has, as the contract says for capped keys.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PREMIUM).await;
    let made = bo
        .post("/apikey/new", &json!({"plan": "Pro"}))
        .await
        .ok(201);
    let answer = server.made(&made).post("/login", &json!({})).await.ok(200);
    assert_eq!(answer.json["plan"], "Pro");
    assert_eq!(answer.json["key"]["plan"], "Pro");
}

#[tokio::test(flavor = "multi_thread")]
async fn credits_of_a_new_account() {
    // Shows every field of /credits for an account that has done nothing.
    let server = Server::spawn().await;
    let bo = server.account_of("bo@example.com", Plan::FREE).await;
    let answer = bo.get("/credits").await.ok(200).unmetered();
    assert_eq!(
        answer.json,
        json!({
            "account_id": "bo@example.com", "api_key": bo.masked(), "key_id": bo.key_id,
            "plan": "Free", "credits_remaining": 100, "credits_limit": 100,
            "percent_remaining": 100.0, "days_until_reset": 31,
            "reset_date": "2026-02-15T12:00:00.000000+00:00", "warnings": [],
            "credits_used_this_cycle": 0, "total_credits_used": 0, "last_activity": null,
            "status": "active",
            "memory_usage": {"current_count": 0, "limit": 100, "percent_used": 0.0,
                             "remaining": 100},
        })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn credits_warn_at_exact_numbers() {
    // Shows that 25 of 100 is no warning, 24 is one, and 0 is two.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    bo.spend(75).await;
    let answer = bo.get("/credits").await.ok(200);
    assert_eq!(answer.json["credits_remaining"], 25);
    assert_eq!(answer.json["warnings"], json!([]));
    server.clock.advance(90_000);
    bo.spend(1).await;
    let answer = bo.get("/credits").await.ok(200);
    assert_eq!(answer.json["warnings"], json!([LOW]));
    assert_eq!(answer.json["percent_remaining"], 24.0);
    assert_eq!(answer.json["credits_used_this_cycle"], 76);
    assert_eq!(answer.json["total_credits_used"], 76);
    assert_eq!(
        answer.json["last_activity"],
        "2026-01-16T13:00:00.000000+00:00"
    );
    // 29 days and 23 hours are 29 whole days.
    assert_eq!(answer.json["days_until_reset"], 29);
    bo.spend(24).await;
    let answer = bo.get("/credits").await.ok(200);
    assert_eq!(answer.json["warnings"], json!([LOW, "Out of credits"]));
    assert_eq!(answer.json["percent_remaining"], 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn percentages_round_half_up() {
    // Shows 99.65 % as 99.7, 99.64 % as 99.6 and one memory of 2,000 (0.05 %) as 0.1.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    bo.add("one").await;
    bo.spend(33).await;
    let answer = bo.get("/credits").await.ok(200);
    assert_eq!(answer.json["credits_remaining"], 9_965);
    assert_eq!(answer.json["percent_remaining"], 99.7);
    assert_eq!(
        answer.json["memory_usage"],
        json!({"current_count": 1, "limit": 2_000, "percent_used": 0.1, "remaining": 1_999})
    );
    bo.spend(1).await;
    let answer = bo.get("/credits").await.ok(200);
    assert_eq!(answer.json["percent_remaining"], 99.6);
}

#[tokio::test(flavor = "multi_thread")]
async fn credits_warn_of_full_memories() {
    // Shows that 90 of 100 is no warning, 91 is one, 100 is two, and that a downgrade leaves no
    // negative room.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    let nearly = "Memory usage over 90% - consider upgrading plan";
    let full = "Memory limit reached - cannot add more memories";
    for n in 0..90 {
        bo.add(&n.to_string()).await;
    }
    let path = format!("/admin/user/{}/plan", bo.key_id);
    let set = async |name| {
        server
            .admin()
            .put(&path, &json!({"plan": name}))
            .await
            .ok(200)
    };
    set("Free").await;
    let warnings = async || {
        let answer = bo.get("/credits").await.ok(200);
        let list = answer.json["warnings"].as_array().unwrap().clone();
        let of_memory = |w: &Value| w.as_str().unwrap().starts_with("Memory");
        (
            Value::Array(list.into_iter().filter(of_memory).collect()),
            answer.json["memory_usage"].clone(),
        )
    };
    assert_eq!(warnings().await.0, json!([]));
    bo.add("91st").await;
    assert_eq!(warnings().await.0, json!([nearly]));
    for n in 0..9 {
        bo.add(&n.to_string()).await;
    }
    let (list, usage) = warnings().await;
    assert_eq!(list, json!([nearly, full]));
    assert_eq!(
        usage,
        json!({"current_count": 100, "limit": 100, "percent_used": 100.0, "remaining": 0})
    );
    set("Pro").await;
    for n in 0..10 {
        bo.add(&n.to_string()).await;
    }
    set("Free").await;
    let (list, usage) = warnings().await;
    assert_eq!(list, json!([nearly, full]));
    assert_eq!(
        usage,
        json!({"current_count": 110, "limit": 100, "percent_used": 110.0, "remaining": 0})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn credits_of_a_capped_key_are_its_own() {
    // Shows the key's plan, its share of what was spent and held, and never more than the account has.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    let made = bo
        .post("/apikey/new", &json!({"plan": "Free"}))
        .await
        .ok(201);
    let capped = server.made(&made);
    bo.add("by the account").await;
    capped.add("by the key").await;
    capped.spend(3).await;
    let answer = capped.get("/credits").await.ok(200);
    for (name, value) in [
        ("plan", json!("Free")),
        ("credits_limit", json!(100)),
        ("credits_remaining", json!(95)),
        ("credits_used_this_cycle", json!(5)),
        ("percent_remaining", json!(95.0)),
        ("key_id", json!(capped.key_id)),
        ("account_id", json!(bo.account_id)),
    ] {
        assert_eq!(answer.json[name], value, "{name}");
    }
    assert_eq!(
        answer.json["memory_usage"],
        json!({"current_count": 1, "limit": 100, "percent_used": 1.0, "remaining": 99})
    );
    assert_time(&answer.json["reset_date"]);
    assert_eq!(bo.credits().await, 9_993);
    // The account's pool is the only source: when it has less, so has the key.
    let mut spenders = Vec::new();
    for _ in 0..16 {
        let bo = bo.clone();
        spenders.push(tokio::spawn(async move { bo.spend(619).await }));
    }
    for spender in spenders {
        spender.await.unwrap();
    }
    assert_eq!(bo.credits().await, 89);
    assert_eq!(capped.credits().await, 89);
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_sign_ups_give_one_account() {
    // Shows that of 32 sign-ups with one e-mail at once one is answered with a key.
    let server = Server::spawn().await;
    let mut racers = tokio::task::JoinSet::new();
    for n in 0..32 {
        let nobody = server.anonymous();
        let email = if n % 2 == 0 {
            "bo@example.com"
        } else {
            "BO@Example.com"
        };
        racers.spawn(async move {
            nobody
                .post("/signup", &json!({"email": email}))
                .await
                .status
        });
    }
    let mut statuses = racers.join_all().await;
    statuses.sort_unstable();
    assert_eq!(statuses, [vec![201], vec![409; 31]].concat());
    let health = server.anonymous().get("/health").await.ok(200);
    assert_eq!(health.json["metrics"]["total_users"], 1);
    assert_eq!(health.json["metrics"]["active_api_keys"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_account_warns_its_capped_keys() {
    // Shows that a capped key never has more room than the account: full is full.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    let made = bo
        .post("/apikey/new", &json!({"plan": "Free"}))
        .await
        .ok(201);
    let capped = server.made(&made);
    for n in 0..100 {
        bo.add(&n.to_string()).await;
    }
    let path = format!("/admin/user/{}/plan", bo.key_id);
    server
        .admin()
        .put(&path, &json!({"plan": "Free"}))
        .await
        .ok(200);
    let answer = capped.get("/credits").await.ok(200);
    assert_eq!(answer.json["memory_usage"]["remaining"], 0);
    let full = "Memory limit reached - cannot add more memories";
    assert!(
        answer.json["warnings"]
            .as_array()
            .unwrap()
            .contains(&json!(full))
    );
    let answer = capped.post("/memory", &crate::harness::memory("t")).await;
    let answer = answer.refused(402, "memory_limit_exceeded", "Memory limit exceeded");
    assert_eq!(answer.json["scope"], "key");
}
