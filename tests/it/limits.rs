//! Limits against abuse over HTTP, and the admin key's rotation.

use memoryos::app::RateLimits;
use memoryos::domain::plan::Plan;
use serde_json::{Value, json};

use crate::harness::{Actor, Answer, Options, Server, memory};

/// A server with these limits, behind proxies that the test's own address is one of.
async fn behind_a_proxy(rate_limits: RateLimits) -> Server {
    Server::spawn_with(Options {
        rate_limits,
        trusted_proxies: "127.0.0.0/8,10.0.0.0/8",
        ..Options::default()
    })
    .await
}

async fn limited(rate_limits: RateLimits) -> Server {
    Server::spawn_with(Options {
        rate_limits,
        ..Options::default()
    })
    .await
}

/// Somebody who comes through the proxy from this address.
fn from(server: &Server, address: &str) -> Actor {
    server.anonymous().with("x-forwarded-for", address)
}

async fn sign_up(actor: &Actor) -> Answer {
    actor.post("/signup", &json!({})).await
}

/// Asserts a 429 of this limit: body, headers, and that it is neither metered nor cached.
#[track_caller]
fn refused(answer: Answer, name: &str, quota: u32, window: u32, wait: u64) {
    let answer = answer
        .refused(429, "rate_limited", "Too many requests")
        .unmetered();
    let wait_text = wait.to_string();
    assert_eq!(answer.header("retry-after"), Some(&*wait_text));
    let policy = format!("\"{name}\";q={quota};w={window}");
    assert_eq!(answer.header("ratelimit-policy"), Some(&*policy));
    let state = format!("\"{name}\";r=0;t={wait}");
    assert_eq!(answer.header("ratelimit"), Some(&*state));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let exposed = answer.header("access-control-expose-headers").unwrap();
    assert!(exposed.contains("RateLimit, RateLimit-Policy"), "{exposed}");
    assert_eq!(answer.json["rate_limit"], name);
    assert_eq!(answer.json["retry_after"], wait);
    let message = answer.json["message"].as_str().unwrap();
    assert!(
        message.contains(&format!("{name} is {quota} ")),
        "{message}"
    );
    assert!(message.contains(&format!("{wait} s")), "{message}");
}

#[tokio::test]
async fn an_address_signs_up_five_times_an_hour() {
    // Shows the default limit with its exact headers, who is not touched by it, and when it is over.
    let server = limited(RateLimits::default()).await;
    let nobody = server.anonymous();
    let first = server.made(&sign_up(&nobody).await.ok(201));
    for _ in 0..4 {
        sign_up(&nobody).await.ok(201);
    }
    refused(sign_up(&nobody).await, "signup-hour", 5, 3_600, 720);
    server.clock.advance(719);
    refused(sign_up(&nobody).await, "signup-hour", 5, 3_600, 1);
    // Before the body is read: neither its media type nor its bytes matter.
    let odd = nobody.with("content-type", "text/plain");
    refused(
        odd.send(http::Method::POST, "/signup", "{").await,
        "signup-hour",
        5,
        3_600,
        1,
    );
    // After path and method.
    nobody
        .get("/signup")
        .await
        .refused(405, "method_not_allowed", "Method not allowed");
    nobody
        .send(http::Method::OPTIONS, "/signup", "")
        .await
        .ok(204);
    // Everything else goes on: open routes, credentials, and the admin, who makes accounts.
    nobody.get("/health").await.ok(200);
    first.get("/credits").await.ok(200);
    let body = json!({"email": "ana@example.com"});
    server.admin().post("/apikey/new", &body).await.ok(201);
    server.clock.advance(1);
    sign_up(&nobody).await.ok(201);
    refused(sign_up(&nobody).await, "signup-hour", 5, 3_600, 720);
}

#[tokio::test]
async fn a_sign_up_counts_if_it_made_or_told_something() {
    // Shows that a taken e-mail counts, since it tells that there is one, and that other refusals do not.
    let limits = RateLimits {
        signup_hour: 2,
        ..RateLimits::default()
    };
    let server = Server::spawn_with(Options {
        rate_limits: limits,
        signup_plans: vec![Plan::FREE],
        ..Options::default()
    })
    .await;
    let nobody = server.anonymous();
    let ana = json!({"email": "ana@example.com"});
    nobody.post("/signup", &ana).await.ok(201);
    for _ in 0..30 {
        nobody
            .post("/signup", &json!({"email": "no e-mail"}))
            .await
            .ok(400);
        nobody
            .post("/signup", &json!({"plan": "Pro"}))
            .await
            .ok(403);
        nobody
            .send(http::Method::POST, "/signup", "{")
            .await
            .ok(400);
    }
    nobody
        .post("/signup", &ana)
        .await
        .refused(409, "user_exists", "User already exists");
    refused(
        nobody.post("/signup", &ana).await,
        "signup-hour",
        2,
        3_600,
        1_800,
    );
}

#[tokio::test]
async fn an_address_signs_up_twenty_times_a_day_and_all_together_so_often() {
    // Shows the two other limits on sign-up, each alone, with their exact headers.
    let of_day = RateLimits {
        signup_day: 20,
        ..RateLimits::OFF
    };
    let server = behind_a_proxy(of_day).await;
    let one = from(&server, "198.51.100.1");
    for _ in 0..20 {
        sign_up(&one).await.ok(201);
    }
    refused(sign_up(&one).await, "signup-day", 20, 86_400, 4_320);
    sign_up(&from(&server, "198.51.100.2")).await.ok(201);

    let of_all = RateLimits {
        signup_global: 3,
        signup_hour: 2,
        ..RateLimits::OFF
    };
    let server = behind_a_proxy(of_all).await;
    for n in 0..3 {
        sign_up(&from(&server, &format!("198.51.100.{n}")))
            .await
            .ok(201);
    }
    // What all together may is no address's fault: it has both of its own left.
    let late = from(&server, "198.51.100.9");
    for _ in 0..5 {
        refused(sign_up(&late).await, "signup-global", 3, 3_600, 1_200);
    }
    server.clock.advance(2 * 1_200);
    sign_up(&late).await.ok(201);
    sign_up(&late).await.ok(201);
    refused(sign_up(&late).await, "signup-hour", 2, 3_600, 1_800);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_64_sign_ups_at_once_exactly_5_pass() {
    // Shows that a race gains nothing.
    let server = limited(RateLimits::default()).await;
    let all = (0..64).map(|_| {
        let actor = server.anonymous();
        tokio::spawn(async move { sign_up(&actor).await.status })
    });
    let mut statuses = Vec::new();
    for task in all.collect::<Vec<_>>() {
        statuses.push(task.await.unwrap());
    }
    let count = |status| statuses.iter().filter(|s| **s == status).count();
    assert_eq!((count(201), count(429)), (5, 59), "{statuses:?}");
    let users = server.admin().get("/admin/users").await.ok(200);
    assert_eq!(users.json["total_users"], 5);
}

#[tokio::test]
async fn addresses_are_the_sockets_unless_a_proxy_is_trusted() {
    // Shows that nobody who is not a trusted proxy names his own address, and who counts as whom behind one.
    let two = RateLimits {
        signup_hour: 2,
        ..RateLimits::OFF
    };
    let server = limited(two).await;
    for n in 0..2 {
        sign_up(&from(&server, &format!("198.51.100.{n}")))
            .await
            .ok(201);
    }
    for header in [
        "x-forwarded-for",
        "forwarded",
        "x-real-ip",
        "cf-connecting-ip",
    ] {
        let value = if header == "forwarded" {
            "for=198.51.100.9"
        } else {
            "198.51.100.9"
        };
        let spoofing = server.anonymous().with(header, value);
        refused(sign_up(&spoofing).await, "signup-hour", 2, 3_600, 1_800);
    }

    let server = behind_a_proxy(two).await;
    // Each line of these is one client, whatever it writes on the left.
    let clients: [[&str; 3]; 4] = [
        [
            "198.51.100.1",
            "9.9.9.9, 198.51.100.1:80",
            "198.51.100.1, 10.0.0.7",
        ],
        [
            "2001:db8:0:1::1",
            "[2001:db8:0:1:ffff::2]:443",
            "2001:db8:0:1:8000::",
        ],
        ["2001:db8:0:2::1", "2001:db8:0:2::2", "2001:db8:0:2::3"],
        [
            "198.51.100.2",
            "::ffff:198.51.100.2",
            "unknown, 198.51.100.2",
        ],
    ];
    for [first, second, third] in clients {
        sign_up(&from(&server, first)).await.ok(201);
        sign_up(&from(&server, second)).await.ok(201);
        refused(
            sign_up(&from(&server, third)).await,
            "signup-hour",
            2,
            3_600,
            1_800,
        );
    }
    // What cannot be believed counts as the proxy.
    let forwarded = |value: &str| server.anonymous().with("forwarded", value);
    sign_up(&from(&server, "198.51.100.3, unknown"))
        .await
        .ok(201);
    sign_up(&forwarded("for=198.51.100.4").with("x-forwarded-for", "198.51.100.5"))
        .await
        .ok(201);
    refused(
        sign_up(&forwarded("for=_hidden")).await,
        "signup-hour",
        2,
        3_600,
        1_800,
    );
    sign_up(&forwarded("for=\"[2001:db8:0:3::1]:80\";proto=https"))
        .await
        .ok(201);
}

#[tokio::test]
async fn a_right_credential_passes_while_others_are_guessed() {
    // Shows that 20 wrong credentials a minute are told so and more are 429, whatever kind they are; that a
    // right one from the same address always passes; and that a missing one is no guess.
    let server = limited(RateLimits::default()).await;
    let revoked = server.revoked_key().await;
    let right = server.account(Plan::FREE).await;
    let wrong = server.key("wrongWRONG0123456789wrongWRONG01");
    let no_admin = server.anonymous().with("x-admin-key", "wrong");
    let nobody = server.anonymous();
    let in_body = |key: &str| json!({"api_key": key});
    for _ in 0..5 {
        wrong
            .get("/memory")
            .await
            .refused(401, "invalid_key", "Invalid API key");
        revoked
            .get("/credits")
            .await
            .refused(401, "key_revoked", "Invalid API key");
        no_admin
            .get("/admin/users")
            .await
            .refused(403, "admin_required", "Admin access required");
        nobody.post("/login", &in_body("wrong")).await.refused(
            401,
            "invalid_key",
            "Invalid API key",
        );
    }
    let guesses = async || {
        [
            wrong.get("/memory").await,
            wrong.post("/memory", &memory("a")).await,
            revoked.get("/credits").await,
            no_admin.get("/admin/users").await,
            no_admin.get("/credits").await,
            right.with("x-admin-key", "wrong").get("/credits").await,
            nobody.post("/login", &in_body("wrong")).await,
            nobody.post("/login", &in_body(&revoked.key)).await,
            server.key("x").delete("/apikey/key_000000000000").await,
        ]
    };
    for answer in guesses().await {
        refused(answer, "auth-failures", 20, 60, 3);
    }
    // The right ones are not kept waiting: neither by key, in header or body, nor the admin's.
    for _ in 0..30 {
        right.get("/credits").await.ok(200);
        server.admin().get("/admin/users").await.ok(200);
    }
    right.get("/memory").await.ok(200);
    nobody.post("/login", &in_body(&right.key)).await.ok(200);
    // None sent, or two that differ: no guess, and answered as ever.
    for _ in 0..30 {
        nobody
            .get("/credits")
            .await
            .refused(401, "missing_credentials", "Authentication required");
        nobody
            .get("/admin/users")
            .await
            .refused(403, "admin_required", "Admin access required");
        let empty = server.anonymous().with("x-admin-key", "");
        empty
            .get("/admin/users")
            .await
            .refused(403, "admin_required", "Admin access required");
    }
    // Three seconds later one more is told that it is wrong.
    server.clock.advance(3);
    wrong
        .get("/memory")
        .await
        .refused(401, "invalid_key", "Invalid API key");
    refused(wrong.get("/memory").await, "auth-failures", 20, 60, 3);
    // Others' addresses have their own.
    let server = behind_a_proxy(RateLimits::default()).await;
    let wrong = server.key("wrong");
    for _ in 0..20 {
        wrong
            .with("x-forwarded-for", "2001:db8::1")
            .get("/credits")
            .await
            .ok(401);
    }
    let neighbour = wrong.with("x-forwarded-for", "2001:db8::2");
    refused(neighbour.get("/credits").await, "auth-failures", 20, 60, 3);
    wrong
        .with("x-forwarded-for", "2001:db8:0:1::1")
        .get("/credits")
        .await
        .ok(401);
}

#[tokio::test]
async fn free_routes_are_limited_for_each_account() {
    // Shows that an account's free requests are counted together over its keys and addresses, that what costs
    // credits goes on, and that its neighbour behind the same address does not notice.
    let three = RateLimits {
        free_routes: 3,
        ..RateLimits::OFF
    };
    let server = limited(three).await;
    let (ana, bo) = (
        server.account(Plan::FREE).await,
        server.account(Plan::FREE).await,
    );
    let id = ana.add("a").await;
    let second = server.made(&ana.post("/apikey/new", &json!({})).await.ok(201));
    ana.get("/credits").await.ok(200);
    // A key in the body is that account's request too.
    server
        .anonymous()
        .post("/login", &json!({"api_key": second.key}))
        .await
        .ok(200);
    let path = format!("/memory/{id}");
    for answer in [
        ana.get("/credits").await,
        second.get("/credits").await,
        second.get("/apikey/list").await,
        second.post("/login", &json!({})).await,
        ana.post("/apikey/new", &json!({})).await,
        ana.delete(&format!("/apikey/{}", second.key_id)).await,
        ana.delete(&path).await,
        server
            .anonymous()
            .post("/login", &json!({"api_key": ana.key}))
            .await,
    ] {
        refused(answer, "free-routes", 3, 60, 20);
    }
    assert_eq!(ana.head("/credits").await.status, 429);
    // Nothing of that was done, and metered requests are not counted.
    for _ in 0..5 {
        ana.get(&path).await.ok(200);
        second.get("/gpt-status").await.ok(200);
    }
    bo.get("/credits").await.ok(200);
    // The admin's are the operator's own.
    for _ in 0..10 {
        let keys = server.admin().get("/apikey/list?status=all").await.ok(200);
        assert_eq!(keys.json["total_keys"], 3);
    }
    server.clock.advance(20);
    assert_eq!(ana.credits().await, 100 - 2 - 10);
    refused(ana.get("/credits").await, "free-routes", 3, 60, 20);
}

#[tokio::test]
async fn limits_that_are_off_limit_nothing() {
    // Shows that all can be off, and each without the others.
    let server = Server::spawn().await;
    let (nobody, wrong) = (server.anonymous(), server.key("wrong"));
    for _ in 0..30 {
        sign_up(&nobody).await.ok(201);
        wrong.get("/credits").await.ok(401);
    }
    let only_day_off = RateLimits {
        signup_day: 0,
        signup_global: 0,
        signup_hour: 25,
        ..RateLimits::default()
    };
    let server = limited(only_day_off).await;
    for _ in 0..25 {
        sign_up(&server.anonymous()).await.ok(201);
    }
    refused(
        sign_up(&server.anonymous()).await,
        "signup-hour",
        25,
        3_600,
        144,
    );
}

#[tokio::test]
async fn both_admin_keys_are_right_while_one_replaces_the_other() {
    // Shows that the previous key does all that the key does, and that no other does.
    const OLD: &str = "the-old-admin-key-of-32-characters";
    const NEW: &str = "the-new-admin-key-of-32-characters";
    let server = Server::spawn_with(Options {
        admin_key: Some(NEW),
        admin_key_previous: Some(OLD),
        ..Options::default()
    })
    .await;
    let with = |key: &str| server.anonymous().with("x-admin-key", key);
    for key in [NEW, OLD] {
        with(key).get("/admin/users").await.ok(200);
        let body = json!({"email": format!("{}@example.com", &key[4..7])});
        with(key).post("/apikey/new", &body).await.ok(201);
    }
    let both = format!("{NEW}{OLD}");
    for wrong in ["admin-secret-key", &OLD[1..], &both, "wrong"] {
        let answer = with(wrong).get("/admin/users").await;
        answer.refused(403, "admin_required", "Admin access required");
    }
    let twice = with(OLD).with("x-admin-key", NEW).get("/admin/users").await;
    assert_eq!(
        (twice.status, &twice.json["code"]),
        (400, &Value::from("ambiguous_credentials"))
    );
}
