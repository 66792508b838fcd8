//! Webhooks: what is sent, signed how, sent again when, and what it holds up, which is nothing.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use memoryos::config::WebhookConfig;
use memoryos::domain::plan::Plan;
use memoryos::webhooks::{Endpoint, Schedule};
use serde_json::{Value, json};

use crate::harness::receiver::{Receiver, Say, of};
use crate::harness::{Options, Server, WEBHOOK_SECRET, assert_fields};

/// Webhooks to receivers on this machine, sent again at once when they fail.
fn to(urls: &[String]) -> WebhookConfig {
    let endpoint = |url: &String| Endpoint::parse(url, true).unwrap();
    WebhookConfig {
        endpoints: urls.iter().map(endpoint).collect(),
        allow_private: true,
        schedule: Schedule::at_once(),
    }
}

async fn spawn(webhooks: WebhookConfig) -> Server {
    Server::spawn_with(Options {
        webhooks,
        ..Options::default()
    })
    .await
}

/// Asks how the first receiver does until `enough` is true of it.
async fn status_when(server: &Server, enough: impl Fn(&Value) -> bool) -> Value {
    let asked = Instant::now();
    loop {
        let answer = server.admin().get("/admin/webhooks").await.ok(200);
        let status = answer.json["webhooks"][0].clone();
        if enough(&status) {
            return status;
        }
        assert!(asked.elapsed() < Duration::from_secs(60), "{status}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

// Shows each event of keys and plans: its body, its headers, its signature, and that it comes once.
#[tokio::test]
async fn keys_and_plans_are_told_signed() {
    let receiver = Receiver::new([Say::Status(204)]);
    let server = spawn(to(&[receiver.url()])).await;
    let first = server.account_of("bo@example.com", Plan::FREE).await;
    let second = server.made(&first.post("/apikey/new", &json!({})).await.ok(201));
    first
        .delete(&format!("/apikey/{}", second.key_id))
        .await
        .ok(200);
    let path = "/admin/user/bo@example.com/plan";
    server
        .admin()
        .put(path, &json!({"plan": "Pro"}))
        .await
        .ok(200);
    // The same plan is no change.
    server
        .admin()
        .put(path, &json!({"plan": "Pro"}))
        .await
        .ok(200);

    let hooks = receiver.wait(|hooks| hooks.len() >= 4).await;
    for hook in &hooks {
        hook.assert_signed(WEBHOOK_SECRET);
        assert_eq!(hook.line, "POST /in?token=t-o-k-e-n HTTP/1.1");
        assert_eq!(hook.header("host"), format!("127.0.0.1:{}", receiver.port));
        assert!(hook.header("user-agent").starts_with("MemoryOS/"));
        // 2026-01-15T12:00:00Z, by the clock of the test.
        assert_eq!(hook.header("x-memoryos-timestamp"), "1768478400");
        assert_fields(
            &hook.body,
            &["id", "type", "created_at", "account_id", "data"],
        );
        assert!(hook.id().starts_with("evt_") && hook.id().len() == 30);
        assert_eq!(hook.body["created_at"], "2026-01-15T12:00:00.000000+00:00");
        assert_eq!(hook.body["account_id"], "bo@example.com");
    }
    let data = |kind| -> Vec<Value> {
        let hooks = of(&hooks, kind).into_iter();
        hooks.map(|hook| hook.body["data"].clone()).collect()
    };
    let mut created = data("key.created");
    created.sort_by_key(Value::to_string);
    let mut keys = [
        json!({"key_id": first.key_id}),
        json!({"key_id": second.key_id}),
    ];
    keys.sort_by_key(Value::to_string);
    assert_eq!(created, keys);
    assert_eq!(data("key.revoked"), [json!({"key_id": second.key_id})]);
    assert_eq!(data("plan.changed"), [json!({"from": "Free", "to": "Pro"})]);
    let status = status_when(&server, |status| status["pending"] == 0).await;
    assert_eq!(
        (&status["delivered"], receiver.hooks().len()),
        (&json!(4), 4)
    );
    // Of what happens besides, nothing is sent.
    assert_eq!(hooks.len(), 4);
}

// Shows that running out of credits is told twice, at a quarter and at nothing, once a cycle each.
#[tokio::test]
async fn credits_that_run_out_are_told_once_a_cycle() {
    let receiver = Receiver::new([Say::Status(200)]);
    let server = spawn(to(&[receiver.url()])).await;
    let account = server.account(Plan::FREE).await;
    account.spend(75).await;
    let status = status_when(&server, |status| status["pending"] == 0).await;
    assert_eq!(
        status["delivered"], 1,
        "a quarter is left, not less: only the key was told"
    );
    account.spend(25).await;
    account.get("/gpt-status").await.ok(402);
    let low = receiver.wait_for("credits.low", 1).await;
    let data = json!({"credits_remaining": 24, "credits_limit": 100});
    assert_eq!(low[0].body["data"], data);
    assert_eq!(low[0].body["account_id"], json!(account.account_id));
    let exhausted = receiver.wait_for("credits.exhausted", 1).await;
    let data = json!({"credits_remaining": 0, "credits_limit": 100});
    assert_eq!(exhausted[0].body["data"], data);
    // The next cycle tells anew.
    server.clock.advance(32 * 86_400);
    account.spend(76).await;
    receiver.wait_for("credits.low", 2).await;
    let status = status_when(&server, |status| status["pending"] == 0).await;
    assert_eq!(status["delivered"], 4);
}

// Shows that the account's room is told of when more than nine tenths of it are taken.
#[tokio::test]
async fn little_room_is_told_once() {
    let receiver = Receiver::new([Say::Status(200)]);
    let server = spawn(to(&[receiver.url()])).await;
    let account = server.account(Plan::PRO).await;
    for n in 0..90 {
        account.add(&n.to_string()).await;
    }
    let path = format!("/admin/user/{}/plan", account.key_id);
    server
        .admin()
        .put(&path, &json!({"plan": "Free"}))
        .await
        .ok(200);
    receiver.wait_for("plan.changed", 1).await;
    account.add("the 91st").await;
    account.add("the 92nd").await;
    let told = receiver.wait_for("memory.near_limit", 1).await;
    assert_eq!(
        told[0].body["data"],
        json!({"memory_count": 91, "memory_limit": 100})
    );
    let status = status_when(&server, |status| status["pending"] == 0).await;
    assert_eq!(status["delivered"], 3);
}

// Shows that whatever is not 2xx is sent again, under the same id and freshly signed, and that a redirect
// leads nowhere.
#[tokio::test]
async fn what_is_not_taken_is_sent_again() {
    let elsewhere = Receiver::new([Say::Status(200)]);
    let receiver = Receiver::new([
        Say::Status(500),
        Say::Status(404),
        Say::Redirect(elsewhere.url()),
        Say::Status(200),
    ]);
    let server = spawn(to(&[receiver.url()])).await;
    server.account(Plan::FREE).await;
    let hooks = receiver.wait_for("key.created", 4).await;
    let status = status_when(&server, |status| status["delivered"] == 1).await;
    for hook in &hooks {
        hook.assert_signed(WEBHOOK_SECRET);
        assert_eq!(hook.text, hooks[0].text);
    }
    assert_eq!((receiver.hooks().len(), elsewhere.hooks().len()), (4, 0));
    assert_eq!(status["pending"], 0);
    let message = &status["last_error"]["message"];
    assert_eq!(message, "it answered 307; redirects are not followed");
    assert_eq!(status["last_success"], "2026-01-15T12:00:00.000000+00:00");
}

// Shows that what waits of an account that was erased is sent still, and names it by no address any more.
#[tokio::test]
async fn events_of_an_erased_account_name_no_address() {
    let mut says = vec![Say::Status(500); 40];
    says.push(Say::Status(200));
    let receiver = Receiver::new(says);
    let server = spawn(to(&[receiver.url()])).await;
    let bo = server.account_of("bo@example.com", Plan::FREE).await;
    let body = json!({"confirm": "bo@example.com"}).to_string();
    let actor = bo.with("content-type", "application/json");
    let erased = actor.send(http::Method::DELETE, "/account", body).await;
    assert_eq!(erased.status, 200, "{}", erased.json);
    let before = receiver.hooks().len();
    status_when(&server, |status| status["pending"] == 0).await;
    let hooks = receiver.hooks();
    assert!(
        before < hooks.len() - 1,
        "all was sent before it was erased"
    );
    let last = &hooks[hooks.len() - 1].text;
    assert!(last.contains("acct_") && !last.contains('@'), "{last}");
}

// Shows that the waits are kept: before the 10 s nothing is sent, also by a server that was started anew.
#[tokio::test]
async fn waits_outlive_a_restart() {
    let receiver = Receiver::new([Say::Status(503)]);
    let mut server = spawn(WebhookConfig {
        schedule: Schedule::default(),
        ..to(&[receiver.url()])
    })
    .await;
    server.account(Plan::FREE).await;
    let failed = status_when(&server, |status| !status["last_error"].is_null()).await;
    assert_eq!(
        (&failed["pending"], &failed["delivered"]),
        (&json!(1), &json!(0))
    );
    let next = failed["next_attempt"].as_str().unwrap();
    assert!(
        ("2026-01-15T12:00:10"..="2026-01-15T12:00:12.1").contains(&next),
        "{next}"
    );
    receiver.say(Say::Status(200));
    server.restart().await;
    let waiting = status_when(&server, |_| true).await;
    assert_eq!(waiting["next_attempt"], failed["next_attempt"]);
    assert_eq!(receiver.hooks().len(), 1);
    server.clock.advance(13);
    let hooks = receiver.wait_for("key.created", 2).await;
    assert_eq!(hooks[0].id(), hooks[1].id());
    assert_eq!(hooks[1].header("x-memoryos-timestamp"), "1768478413");
    status_when(&server, |status| status["pending"] == 0).await;
}

// Shows that an event is given up three days after it happened.
#[tokio::test]
async fn what_nobody_takes_is_given_up() {
    let receiver = Receiver::new([Say::Status(500)]);
    let server = spawn(WebhookConfig {
        schedule: Schedule::default(),
        ..to(&[receiver.url()])
    })
    .await;
    server.account(Plan::FREE).await;
    status_when(&server, |status| !status["last_error"].is_null()).await;
    server.clock.advance(3 * 86_400);
    let status = status_when(&server, |status| status["given_up"] == 1).await;
    assert_eq!(
        (&status["pending"], &status["delivered"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(
        (&status["next_attempt"], receiver.hooks().len()),
        (&Value::Null, 2)
    );
}

// Shows that a receiver which never answers holds up no request and no other receiver, and is called by
// four deliveries at most.
#[tokio::test]
async fn a_silent_receiver_holds_nobody_up() {
    let silent = Receiver::new([Say::Nothing]);
    let quick = Receiver::new([Say::Status(200)]);
    let server = spawn(to(&[silent.url(), quick.url()])).await;
    let account = server.account(Plan::FREE).await;
    silent.wait(|hooks| !hooks.is_empty()).await;
    let begun = Instant::now();
    for _ in 0..12 {
        let made = account.post("/apikey/new", &json!({})).await.ok(201);
        let path = format!("/apikey/{}", made.json["key_id"].as_str().unwrap());
        account.delete(&path).await.ok(200);
    }
    quick.wait_for("key.created", 13).await;
    quick.wait_for("key.revoked", 12).await;
    // A delivery to the silent one takes 10 s; nobody has waited for one.
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(silent.wait(|hooks| hooks.len() >= 4).await.len(), 4);
    let status = status_when(&server, |_| true).await;
    assert_eq!(
        (&status["pending"], &status["delivered"]),
        (&json!(25), &json!(0))
    );
    // It answers at last, and gets the rest.
    silent.say(Say::Status(200));
    status_when(&server, |status| status["delivered"] == 25).await;
    server.stop().await;
}

// Shows that without the flag nothing is sent to this machine, by whatever name, and why is said.
#[tokio::test]
async fn private_receivers_are_not_called_without_the_flag() {
    let receiver = Receiver::new([Say::Status(200)]);
    for host in [
        "127.0.0.1",
        "localhost",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "0x7f.1",
    ] {
        let url = format!("http://{host}:{}/", receiver.port);
        let server = spawn(WebhookConfig {
            allow_private: false,
            schedule: Schedule::default(),
            ..to(&[url])
        })
        .await;
        server.account(Plan::FREE).await;
        let status = status_when(&server, |status| !status["last_error"].is_null()).await;
        let message = status["last_error"]["message"].as_str().unwrap();
        assert!(message.contains("loopback"), "{host}: {message}");
        assert!(
            message.contains("--webhook-allow-private"),
            "{host}: {message}"
        );
        assert_eq!(status["pending"], 1);
    }
    assert_eq!(receiver.hooks().len(), 0);
}

// Shows what the admin sees, and that nobody else does.
#[tokio::test]
async fn the_admin_sees_how_each_receiver_does() {
    let (one, two) = (
        Receiver::new([Say::Status(200)]),
        Receiver::new([Say::Status(410)]),
    );
    let server = spawn(WebhookConfig {
        schedule: Schedule::default(),
        ..to(&[one.url(), two.url()])
    })
    .await;
    let account = server.account(Plan::FREE).await;
    status_when(&server, |status| status["delivered"] == 1).await;
    two.wait_for("key.created", 1).await;
    let listed = loop {
        let listed = server
            .admin()
            .get("/admin/webhooks")
            .await
            .ok(200)
            .unmetered();
        if !listed.json["webhooks"][1]["last_error"].is_null() {
            break listed;
        }
    };
    assert_fields(&listed.json, &["webhooks"]);
    let fields = [
        "url",
        "pending",
        "next_attempt",
        "delivered",
        "given_up",
        "dropped",
        "last_error",
        "last_success",
    ];
    for (n, receiver) in [&one, &two].into_iter().enumerate() {
        let status = &listed.json["webhooks"][n];
        assert_fields(status, &fields);
        assert_eq!(
            status["url"],
            format!("http://127.0.0.1:{}/in", receiver.port)
        );
    }
    assert!(!listed.text.contains("t-o-k-e-n") && !listed.text.contains(WEBHOOK_SECRET));
    let failed = &listed.json["webhooks"][1];
    assert_eq!(failed["last_error"]["message"], "it answered 410");
    assert_eq!(
        (&failed["pending"], &failed["last_success"]),
        (&json!(1), &Value::Null)
    );

    for caller in [account, server.anonymous()] {
        caller
            .get("/admin/webhooks")
            .await
            .refused(403, "admin_required", "Admin access required");
    }
    server
        .admin()
        .post("/admin/webhooks", &json!({}))
        .await
        .ok(405);
    let none = Server::spawn().await;
    let listed = none.admin().get("/admin/webhooks").await.ok(200);
    assert_eq!(listed.json, json!({"webhooks": []}));
}

// Shows that a delivery under way at a stop is waited for and noted: it is not sent again afterwards.
#[tokio::test]
async fn a_stop_waits_for_deliveries_under_way() {
    let receiver = Receiver::new([Say::Nothing]);
    let mut server = spawn(to(&[receiver.url()])).await;
    server.account(Plan::FREE).await;
    receiver.wait(|hooks| !hooks.is_empty()).await;
    let address = server.address();
    let answering = receiver.clone();
    // Once nobody listens any more the stop has begun.
    let answer = tokio::task::spawn_blocking(move || {
        while TcpStream::connect(&address).is_ok() {
            std::thread::yield_now();
        }
        answering.say(Say::Status(200));
    });
    server.restart().await;
    answer.await.unwrap();
    let status = status_when(&server, |status| status["pending"] == 0).await;
    assert_eq!(
        (&status["delivered"], receiver.hooks().len()),
        (&json!(0), 1)
    );
}

// Shows that one who is taken out of the settings gets nothing more, and that another one keeps what waits.
#[tokio::test]
async fn a_receiver_that_is_taken_out_gets_nothing_more() {
    let (old, kept) = (
        Receiver::new([Say::Status(500)]),
        Receiver::new([Say::Status(500)]),
    );
    let mut server = spawn(WebhookConfig {
        schedule: Schedule::default(),
        ..to(&[old.url(), kept.url()])
    })
    .await;
    server.account(Plan::FREE).await;
    old.wait_for("key.created", 1).await;
    kept.wait_for("key.created", 1).await;
    kept.say(Say::Status(200));
    server.options_mut().webhooks = to(&[kept.url()]);
    server.restart().await;
    server.clock.advance(60);
    kept.wait_for("key.created", 2).await;
    status_when(&server, |status| status["pending"] == 0).await;
    assert_eq!(old.hooks().len(), 1);
    let report = server.store().check(&|_| ()).unwrap();
    assert!(report.is_sound(), "{report}");
}
