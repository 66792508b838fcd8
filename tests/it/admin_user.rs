//! What an admin does with one account: credits, suspension, another e-mail address, its keys.

use memoryos::domain::plan::Plan;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Actor, Answer, Server, assert_fields, memory};

const OTHER: &str = "bo.new@example.org";

/// Where an account's credits are given and taken.
fn credits(of: &Actor) -> String {
    format!("/admin/user/{}/credits", of.account_id)
}

async fn adjust(admin: &Actor, key: &str, path: &str, amount: i64) -> Answer {
    let body = json!({"amount": amount, "reason": "an outage"});
    admin.with("idempotency-key", key).post(path, &body).await
}

fn why() -> Value {
    json!({"reason": "ticket 4711"})
}

fn email(address: &str) -> Value {
    json!({"email": address, "reason": "ticket 4711"})
}

async fn sound(server: &Server) {
    let report = server.store().check_beside_writes().await.unwrap();
    assert!(report.is_sound(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credits_are_given_and_taken() {
    // Shows every number of both, that they are of the running cycle, and that the next one begins as ever.
    let server = Server::spawn().await;
    let (admin, bo) = (server.admin(), server.account(Plan::FREE).await);
    bo.spend(3).await;
    let given = adjust(&admin, "a", &credits(&bo), 500)
        .await
        .ok(200)
        .unmetered();
    assert_eq!(
        given.json,
        json!({"message": "Credits given", "account_id": bo.account_id, "amount": 500,
               "reason": "an outage", "credits_remaining": 597, "credits_granted": 600,
               "reset_date": "2026-02-15T12:00:00.000000+00:00",
               "adjusted_at": "2026-01-15T12:00:00.000000+00:00"})
    );
    assert_eq!(given.header("idempotent-replayed"), None);
    let taken = adjust(&admin, "b", &credits(&bo), -597).await.ok(200);
    let numbers = ["message", "amount", "credits_remaining", "credits_granted"];
    let numbers = numbers.map(|name| taken.json[name].clone());
    assert_eq!(
        numbers,
        [json!("Credits taken"), json!(-597), json!(0), json!(3)]
    );
    let refused = bo.get("/gpt-status").await;
    refused.refused(402, "out_of_credits", "Out of credits");
    adjust(&admin, "c", &credits(&bo), 1).await.ok(200);
    assert_eq!(bo.credits().await, 1);
    server.clock.advance(31 * 86_400);
    assert_eq!(bo.credits().await, 100);
    sound(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_taken_than_is_left() {
    // Shows 409 with what is left, that nothing was changed, and that the refusal is not recorded.
    let server = Server::spawn().await;
    let (admin, bo) = (server.admin(), server.account(Plan::FREE).await);
    let refused = adjust(&admin, "a", &credits(&bo), -101).await;
    let refused = refused.refused(409, "insufficient_credits", "Insufficient credits");
    assert_eq!(refused.json["credits_remaining"], 100);
    assert_eq!(bo.credits().await, 100);
    adjust(&admin, "b", &credits(&bo), 1).await.ok(200);
    let again = adjust(&admin, "a", &credits(&bo), -101).await.ok(200);
    assert_eq!(again.json["credits_remaining"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adjustment_is_sent_twice_and_done_once() {
    // Shows the recorded answer, by any name of the account, 422 for another body, that another account's
    // and a client's own request under the same key are others, and that it outlives a restart, not a day.
    let mut server = Server::spawn().await;
    let (admin, bo) = (server.admin(), server.account(Plan::FREE).await);
    let al = server.account(Plan::FREE).await;
    let first = adjust(&admin, "k", &credits(&bo), 10).await.ok(200);
    server.clock.advance(60);
    let by_key = format!("/admin/user/{}/credits", bo.key_id);
    for path in [credits(&bo), by_key] {
        let again = adjust(&admin, "k", &path, 10).await;
        assert_eq!((again.status, &again.text), (200, &first.text));
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
    }
    let other = adjust(&admin, "k", &credits(&bo), 11).await;
    other.refused(422, "idempotency_key_reused", "Idempotency key reused");
    adjust(&admin, "k", &credits(&al), 10).await.ok(200);
    let own = bo.with("idempotency-key", "k");
    own.post("/memory", &memory("t")).await.ok(201);
    assert_eq!((bo.credits().await, al.credits().await), (108, 110));
    server.restart().await;
    let (admin, bo) = (server.admin(), server.key(&bo.key));
    let path = format!(
        "/admin/user/{}/credits",
        first.json["account_id"].as_str().unwrap()
    );
    let again = adjust(&admin, "k", &path, 10).await.ok(200);
    assert_eq!(again.text, first.text);
    assert_eq!(bo.credits().await, 108);
    server.clock.advance(86_400);
    adjust(&admin, "k", &path, 10).await.ok(200);
    assert_eq!(bo.credits().await, 118);
    sound(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_later_an_adjustment_still_stands() {
    // Shows that once the recorded answer is swept, a start does not take the adjustment for an unanswered one.
    let mut server = Server::spawn().await;
    let (admin, bo) = (server.admin(), server.account(Plan::FREE).await);
    adjust(&admin, "k", &credits(&bo), 50).await.ok(200);
    server.clock.advance(86_401);
    assert_eq!(
        server
            .store()
            .sweep_replays(memoryos::clock::Clock::Manual(server.clock.clone()).now())
            .await
            .unwrap(),
        1
    );
    server.restart().await;
    assert_eq!(server.key(&bo.key).credits().await, 150);
    sound(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adjustment_has_bounds() {
    // Shows each field's bounds on both sides, a key that is missing or bad, unknown accounts, and that
    // nothing came of any of it.
    let server = Server::spawn().await;
    let (admin, bo) = (server.admin(), server.account(Plan::FREE).await);
    let keyed = admin.with("idempotency-key", "k");
    let path = credits(&bo);
    let most = 1_000_000_000_000_i64;
    let bad_amounts = [
        json!(0),
        json!(most + 1),
        json!(-most - 1),
        json!(1.5),
        json!(1e3),
        json!("10"),
        json!(true),
        json!(null),
        json!(1e30),
        json!([1]),
    ];
    for amount in bad_amounts {
        let answer = keyed
            .post(&path, &json!({"amount": amount, "reason": "r"}))
            .await;
        answer.bad_field("amount");
    }
    let answer = keyed.post(&path, &json!({"reason": "r"})).await;
    answer.bad_field("amount");
    let long = "ä".repeat(257);
    for reason in [
        json!(""),
        json!("  "),
        json!(long),
        json!(7),
        json!(null),
        json!("a\nb"),
    ] {
        let answer = keyed
            .post(&path, &json!({"amount": 1, "reason": reason}))
            .await;
        answer.bad_field("reason");
    }
    let body = json!({"amount": 1, "reason": "r", "plan": "Pro"});
    keyed.post(&path, &body).await.bad_field("plan");
    let answer = keyed.send(Method::POST, &path, "").await;
    answer.refused(400, "missing_body", "No JSON data provided");
    let body = json!({"amount": 1, "reason": "r"});
    let missing = admin.post(&path, &body).await;
    let missing = missing.refused(400, "invalid_idempotency_key", "Invalid idempotency key");
    let message = missing.json["message"].as_str().unwrap();
    assert!(message.starts_with("This route needs"), "{message}");
    for key in ["", "a b", &"k".repeat(256)] {
        let answer = admin.with("idempotency-key", key).post(&path, &body).await;
        answer.refused(400, "invalid_idempotency_key", "Invalid idempotency key");
    }
    for name in ["nobody@example.com", "key_aaaaaaaaaaaa", "x"] {
        let path = format!("/admin/user/{name}/credits");
        let answer = adjust(&admin, "k", &path, 1).await;
        answer.refused(404, "user_not_found", "User not found");
    }
    assert_eq!(bo.credits().await, 100);
    let longest = json!({"amount": most, "reason": "ä".repeat(256)});
    let given = keyed.post(&path, &longest).await.ok(200);
    assert_eq!(given.json["credits_remaining"], most + 100);
    adjust(&admin, "back", &path, -most).await.ok(200);
    assert_eq!(bo.credits().await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_adjustments_are_exact() {
    // Shows that of 64 requests with one key one has an effect, and that corrections that race, with the
    // account's own debits beside them, never take what is not there.
    let server = Server::spawn().await;
    let (admin, bo) = (server.admin(), server.account(Plan::FREE).await);
    let path = credits(&bo);
    let mut twins = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (admin, path) = (admin.clone(), path.clone());
        twins.spawn(async move { adjust(&admin, "twin", &path, 7).await });
    }
    let (mut fresh, mut bodies) = (0, std::collections::BTreeSet::new());
    for answer in twins.join_all().await {
        match answer.status {
            200 if answer.header("idempotent-replayed").is_none() => fresh += 1,
            200 => {}
            _ => {
                answer.refused(409, "idempotency_in_flight", "Request in flight");
                continue;
            }
        }
        bodies.insert(answer.text);
    }
    assert_eq!((fresh, bodies.len(), bo.credits().await), (1, 1, 107));
    let mut racers = tokio::task::JoinSet::new();
    for n in 0..32 {
        let (admin, path, bo) = (admin.clone(), path.clone(), bo.clone());
        racers.spawn(async move {
            if n % 4 == 0 {
                return u64::from(bo.get("/gpt-status").await.status == 200);
            }
            let answer = adjust(&admin, &format!("race-{n}"), &path, -9).await;
            if answer.status == 200 {
                return 9;
            }
            answer.refused(409, "insufficient_credits", "Insufficient credits");
            0
        });
    }
    let spent: u64 = racers.join_all().await.into_iter().sum();
    assert_eq!(bo.credits().await, 107 - spent);
    assert!(107 - spent < 9, "{spent} of 107 taken");
    sound(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_account_is_kept_out_and_loses_nothing() {
    // Shows 403 on every route that needs a key, the answer again for the second time, the lists, the
    // sign-up that stays taken, and all that was there once it is let in again, after restarts too.
    let mut server = Server::spawn().await;
    let bo = server.account_of("bo@example.com", Plan::FREE).await;
    let second = server.made(&bo.post("/apikey/new", &json!({})).await.ok(201));
    let id = bo.add("t").await;
    let memory_path = format!("/memory/{id}");
    let admin = server.admin();
    let path = "/admin/user/bo@example.com";
    server.clock.advance(60);
    let suspended = admin.post(&format!("{path}/suspend"), &why()).await.ok(200);
    assert_eq!(
        suspended.json,
        json!({"message": "Account suspended", "account_id": "bo@example.com", "status": "suspended",
               "since": "2026-01-15T12:01:00.000000+00:00"})
    );
    server.clock.advance(60);
    let again = admin.post(&format!("{path}/suspend"), &why()).await.ok(200);
    assert_eq!(again.json, suspended.json);
    server.restart().await;
    let (admin, bo, second) = (server.admin(), server.key(&bo.key), server.key(&second.key));
    for key in [&bo, &second] {
        let mut answers = Vec::new();
        for read in [
            "/credits",
            "/memory",
            &memory_path,
            "/stats",
            "/gpt-status",
            "/apikey/list",
        ] {
            answers.push(key.get(read).await);
        }
        answers.push(key.post("/login", &json!({})).await);
        answers.push(
            server
                .anonymous()
                .post("/login", &json!({"api_key": key.key}))
                .await,
        );
        answers.push(key.post("/memory", &memory("t")).await);
        answers.push(key.patch(&memory_path, &json!({"x": 1})).await);
        answers.push(key.delete(&memory_path).await);
        answers.push(key.post("/apikey/new", &json!({})).await);
        answers.push(key.delete("/apikey/key_aaaaaaaaaaaa").await);
        for answer in answers {
            answer
                .refused(403, "account_suspended", "Account suspended")
                .unmetered();
        }
    }
    let list = admin.get("/admin/users").await.ok(200);
    let numbers = ["total_users", "active_users"].map(|name| list.json[name].as_u64());
    assert_eq!(numbers, [Some(1), Some(1)]);
    assert_eq!(list.json["users"][0]["status"], "suspended");
    assert_eq!(
        admin.get(path).await.ok(200).json["user"]["status"],
        "suspended"
    );
    let taken = server
        .anonymous()
        .post("/signup", &json!({"email": "BO@example.com"}))
        .await;
    taken.refused(409, "user_exists", "User already exists");
    // Cycles go on, and so does the admin.
    server.clock.advance(31 * 86_400);
    adjust(&admin, "k", &format!("{path}/credits"), 5)
        .await
        .ok(200);
    let back = admin
        .post(&format!("{path}/reactivate"), &why())
        .await
        .ok(200);
    assert_eq!(back.json["status"], "active");
    assert_eq!(back.json["message"], "Account reactivated");
    server.clock.advance(60);
    let again = admin
        .post(&format!("{path}/reactivate"), &why())
        .await
        .ok(200);
    assert_eq!(again.json, back.json);
    assert_eq!(bo.credits().await, 105);
    bo.get(&memory_path).await.ok(200);
    second.get("/credits").await.ok(200);
    server.restart().await;
    assert_eq!(server.key(&bo.key).credits().await, 104);
    sound(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_brings_all_of_it_back() {
    // Shows a suspension with its time, credits that were given with their recorded answer, and a move in
    // a server on a restored directory.
    let server = Server::spawn().await;
    let admin = server.admin();
    let bo = server.account_of("bo@example.com", Plan::FREE).await;
    let al = server.account_of("al@example.com", Plan::FREE).await;
    let path = "/admin/user/bo@example.com/suspend";
    let suspended = admin.post(path, &why()).await.ok(200);
    let given = adjust(&admin, "k", &credits(&al), 50).await.ok(200);
    let path = "/admin/user/al@example.com/email";
    admin.put(path, &email("al@example.org")).await.ok(200);
    let made = admin.post("/admin/backup", &json!({})).await.ok(201);
    let name = made.json["file"].as_str().unwrap();
    let file = server.data().join("backups").join(name);
    let folder = tempfile::tempdir().unwrap();
    let go_on = &mut |_, _, _| std::ops::ControlFlow::Continue(());
    memoryos::store::restore(
        &file,
        &folder.path().join("data"),
        crate::harness::at(crate::harness::START),
        go_on,
    )
    .unwrap();
    let server = Server::spawn_on(folder).await;
    let (admin, bo) = (server.admin(), server.key(&bo.key));
    let refused = bo.get("/credits").await;
    refused.refused(403, "account_suspended", "Account suspended");
    server.clock.advance(60);
    let path = "/admin/user/bo@example.com";
    let again = admin.post(&format!("{path}/suspend"), &why()).await.ok(200);
    assert_eq!(again.json, suspended.json);
    assert_eq!(server.key(&al.key).credits().await, 150);
    let path = "/admin/user/al@example.org/credits";
    let again = adjust(&admin, "k", path, 50).await.ok(200);
    assert_eq!(again.text, given.text);
    let path = "/admin/user/bo@example.com/reactivate";
    admin.post(path, &why()).await.ok(200);
    bo.get("/credits").await.ok(200);
    sound(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_without_a_key_is_suspended_too() {
    // Shows the state of an account that has no active key, before, while and after; a key made meanwhile
    // is refused; and that one which was never suspended can be "reactivated".
    let server = Server::spawn().await;
    let (admin, bo) = (server.admin(), server.account(Plan::FREE).await);
    let path = format!("/admin/user/{}", bo.account_id);
    let never = admin
        .post(&format!("{path}/reactivate"), &why())
        .await
        .ok(200);
    assert_eq!(never.json["since"], "2026-01-15T12:00:00.000000+00:00");
    admin
        .delete(&format!("/apikey/{}", bo.key_id))
        .await
        .ok(200);
    let status = async |what: &str| {
        let answer = admin.post(&format!("{path}/{what}"), &why()).await.ok(200);
        answer.json["status"].as_str().unwrap().to_owned()
    };
    assert_eq!(status("suspend").await, "suspended");
    let own = json!({"account_id": bo.account_id, "reason": "lost"});
    let made = server.made(&admin.post("/apikey/new", &own).await.ok(201));
    let refused = made.get("/credits").await;
    refused.refused(403, "account_suspended", "Account suspended");
    assert_eq!(status("reactivate").await, "active");
    assert_eq!(made.credits().await, 100);
    admin
        .delete(&format!("/apikey/{}?reason=leaked", made.key_id))
        .await
        .ok(200);
    assert_eq!(status("reactivate").await, "inactive");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_moves_to_another_email() {
    // Shows the answer, that keys, memories and credits stay, that the old address is free and the new one
    // taken, and all of it after a restart; an account without an e-mail gets one.
    let mut server = Server::spawn().await;
    let bo = server.account_of("bo@example.com", Plan::FREE).await;
    let anonymous = server.account(Plan::FREE).await;
    bo.add("t").await;
    let admin = server.admin();
    let moved = admin
        .put(
            "/admin/user/bo@example.com/email",
            &email(" BO.New@Example.org "),
        )
        .await;
    assert_eq!(
        moved.ok(200).json,
        json!({"message": "Email changed", "account_id": OTHER, "email": OTHER,
               "previous_account_id": "bo@example.com"})
    );
    let same = admin
        .put(&format!("/admin/user/{OTHER}/email"), &email(OTHER))
        .await
        .ok(200);
    assert_eq!(same.json["message"], "Email unchanged");
    assert_eq!(bo.get("/credits").await.ok(200).json["account_id"], OTHER);
    let gone = admin.get("/admin/user/bo@example.com").await;
    gone.refused(404, "user_not_found", "User not found");
    let taken = server
        .anonymous()
        .post("/signup", &json!({"email": OTHER}))
        .await;
    taken.refused(409, "user_exists", "User already exists");
    let fresh = server.account_of("bo@example.com", Plan::FREE).await;
    let back = admin
        .put(
            &format!("/admin/user/{OTHER}/email"),
            &email("bo@example.com"),
        )
        .await;
    back.refused(409, "user_exists", "User already exists");
    let path = format!("/admin/user/{}/email", anonymous.account_id);
    let named = admin.put(&path, &email("al@example.com")).await.ok(200);
    assert_eq!(
        named.json["previous_account_id"],
        json!(anonymous.account_id)
    );
    let gone = admin.put(&path, &email("al@example.org")).await;
    gone.refused(404, "user_not_found", "User not found");
    server.restart().await;
    let ids = [
        (&bo, OTHER, 98),
        (&fresh, "bo@example.com", 100),
        (&anonymous, "al@example.com", 100),
    ];
    for (actor, id, left) in ids {
        let answer = server.key(&actor.key).get("/credits").await.ok(200);
        assert_eq!(answer.json["account_id"], id);
        assert_eq!(answer.json["credits_remaining"], left);
    }
    sound(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_moves_have_one_winner() {
    // Shows that of two accounts and a sign-up that want one address, round after round, one has it, and
    // that who lost is where it was.
    let server = Server::spawn().await;
    let admin = server.admin();
    let mut names = ["bo@example.com".to_owned(), "al@example.com".to_owned()];
    for name in &names {
        server.account_of(name, Plan::FREE).await;
    }
    for round in 0..20 {
        let wanted = format!("wanted{round}@example.com");
        let moving = |name: &str| {
            let (admin, wanted) = (admin.clone(), wanted.clone());
            let path = format!("/admin/user/{name}/email");
            async move { admin.put(&path, &email(&wanted)).await }
        };
        let anonymous = server.anonymous();
        let signing = json!({"email": wanted});
        let (bo, al, new) = tokio::join!(
            moving(&names[0]),
            moving(&names[1]),
            anonymous.post("/signup", &signing)
        );
        let won = [bo.status == 200, al.status == 200, new.status == 201];
        assert_eq!(
            won.iter().filter(|won| **won).count(),
            1,
            "{bo:?} {al:?} {new:?}"
        );
        for answer in [bo, al, new]
            .into_iter()
            .filter(|answer| answer.status >= 300)
        {
            answer.refused(409, "user_exists", "User already exists");
        }
        for (name, won) in names.iter_mut().zip(won) {
            if won {
                name.clone_from(&wanted);
            }
            admin.get(&format!("/admin/user/{name}")).await.ok(200);
        }
    }
    sound(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_suspension_or_move_is_refused() {
    // Shows the fields' bounds, the reason that is needed, and unknown accounts.
    let server = Server::spawn().await;
    let (admin, bo) = (server.admin(), server.account(Plan::FREE).await);
    let path = format!("/admin/user/{}", bo.account_id);
    for what in ["suspend", "reactivate"] {
        let path = format!("{path}/{what}");
        admin.post(&path, &json!({})).await.bad_field("reason");
        admin
            .post(&path, &json!({"reason": " "}))
            .await
            .bad_field("reason");
        let extra = json!({"reason": "r", "until": "x"});
        admin.post(&path, &extra).await.bad_field("until");
        let unknown = admin.post(&format!("/admin/user/x/{what}"), &why()).await;
        unknown.refused(404, "user_not_found", "User not found");
        let answer = admin.send(Method::POST, &path, "").await;
        answer.refused(400, "missing_body", "No JSON data provided");
    }
    let path = format!("{path}/email");
    admin
        .put(&path, &json!({"email": "a@b.cd"}))
        .await
        .bad_field("reason");
    admin.put(&path, &why()).await.bad_field("email");
    for address in ["", "bo", "bo@example", "default", "a b@example.com"] {
        admin.put(&path, &email(address)).await.bad_field("email");
    }
    let unknown = admin.put("/admin/user/x/email", &email("a@b.cd")).await;
    unknown.refused(404, "user_not_found", "User not found");
    assert_eq!(
        bo.get("/credits").await.ok(200).json["account_id"],
        json!(bo.account_id)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_account_is_shown_with_its_keys() {
    // Shows the account as the list has it, active keys or all of them as their owner lists them, and names
    // that fit no account.
    let server = Server::spawn().await;
    let bo = server.account_of("bo@example.com", Plan::PRO).await;
    server.account(Plan::FREE).await;
    let gone = server.made(
        &bo.post("/apikey/new", &json!({"description": "old"}))
            .await
            .ok(201),
    );
    gone.add("t").await;
    bo.delete(&format!("/apikey/{}", gone.key_id)).await.ok(200);
    let admin = server.admin();
    let list = admin.get("/admin/users?q=bo").await.ok(200);
    for (query, name) in [("", "bo@example.com"), ("?status=all", &*bo.key_id)] {
        let shown = admin
            .get(&format!("/admin/user/{name}{query}"))
            .await
            .ok(200)
            .unmetered();
        assert_fields(&shown.json, &["user", "total_keys", "api_keys"]);
        assert_eq!(shown.json["user"], list.json["users"][0]);
        let mut own = bo.get(&format!("/apikey/list{query}")).await.ok(200).json;
        own["api_keys"][0]["is_current"] = json!(false);
        assert_eq!(shown.json["api_keys"], own["api_keys"]);
        assert_eq!(shown.json["total_keys"], own["total_keys"]);
    }
    let odd = admin.get("/admin/user/bo@example.com?status=revoked").await;
    odd.bad_field("status");
    let unknown = admin.get("/admin/user/al@example.com").await;
    unknown.refused(404, "user_not_found", "User not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_found_by_the_beginning_of_their_email() {
    // Shows order, totals and pages of a search by prefix, in any case, with q beside it; accounts without
    // an e-mail, the built-in one, and the part of an address are not found.
    let server = Server::spawn_with(crate::harness::Options {
        api_key: Some("operators-own-key-1"),
        ..crate::harness::Options::default()
    })
    .await;
    let admin = server.admin();
    for name in ["dea@b.com", "deb@a.com", "de@b.com", "dd@b.com", "df@b.com"] {
        server.account_of(name, Plan::FREE).await;
    }
    server.account(Plan::FREE).await;
    let key =
        admin.get("/admin/user/deb@a.com").await.ok(200).json["api_keys"][0]["key_id"].clone();
    admin
        .delete(&format!("/apikey/{}", key.as_str().unwrap()))
        .await
        .ok(200);
    let found = async |query: &str| {
        let json = admin
            .get(&format!("/admin/users?{query}"))
            .await
            .ok(200)
            .json;
        let users = json["users"].as_array().unwrap();
        let ids: Vec<_> = users
            .iter()
            .map(|u| u["account_id"].as_str().unwrap().to_owned())
            .collect();
        (
            ids,
            json["total_users"].as_u64().unwrap(),
            json["active_users"].as_u64().unwrap(),
        )
    };
    let (ids, total, active) = found("email_prefix=DE").await;
    assert_eq!(ids, ["de@b.com", "dea@b.com", "deb@a.com"]);
    assert_eq!((total, active), (3, 2));
    let (ids, total, _) = found("email_prefix=de&limit=1&page=2").await;
    assert_eq!((ids, total), (vec!["dea@b.com".to_owned()], 3));
    let (ids, total, _) = found("email_prefix=de&q=B.COM").await;
    assert_eq!((ids.len(), total), (2, 2));
    assert_eq!(found("email_prefix=b.com").await.1, 0);
    assert_eq!(found("email_prefix=default").await.1, 0);
    assert_eq!(found("email_prefix=acct_").await.1, 0);
    assert_eq!(found("email_prefix=").await.1, 7);
    admin
        .put("/admin/user/dea@b.com/email", &email("zz@b.com"))
        .await
        .ok(200);
    assert_eq!(found("email_prefix=de").await.0, ["de@b.com", "deb@a.com"]);
    admin
        .get("/admin/users?email_prefix=a&email_prefix=b")
        .await
        .bad_field("email_prefix");
}

#[tokio::test(flavor = "multi_thread")]
async fn none_of_it_is_for_a_key() {
    // Shows 403 for an API key, its own account included, without a credential, and for a wrong admin key;
    // and a reason, which is for the admin alone.
    let server = Server::spawn().await;
    let bo = server.account_of("bo@example.com", Plan::FREE).await;
    let wrong = server.anonymous().with("x-admin-key", "admin-secret-kez");
    let path = "/admin/user/bo@example.com";
    for caller in [
        &bo,
        &server.anonymous(),
        &wrong,
        &bo.with("x-admin-key", ""),
    ] {
        let caller = caller.with("idempotency-key", "k");
        let answers = [
            caller.get(path).await,
            caller.get("/admin/users?email_prefix=b").await,
            caller
                .post(
                    &format!("{path}/credits"),
                    &json!({"amount": 1, "reason": "r"}),
                )
                .await,
            caller.post(&format!("{path}/suspend"), &why()).await,
            caller.post(&format!("{path}/reactivate"), &why()).await,
            caller.put(&format!("{path}/email"), &email("a@b.cd")).await,
        ];
        for answer in answers {
            answer.refused(403, "admin_required", "Admin access required");
        }
    }
    let own = bo.post("/apikey/new", &json!({"reason": "r"})).await;
    own.bad_field("reason");
    assert_eq!(bo.credits().await, 100);
    assert_eq!(
        bo.get("/credits").await.ok(200).json["account_id"],
        "bo@example.com"
    );
    // The admin's is checked wherever it may be given.
    let admin = server.admin();
    let long = "r".repeat(257);
    let plan = json!({"plan": "Pro", "reason": long});
    admin
        .put(&format!("{path}/plan"), &plan)
        .await
        .bad_field("reason");
    let key = json!({"email": "bo@example.com", "reason": long});
    admin.post("/apikey/new", &key).await.bad_field("reason");
    let path = format!("/apikey/{}?reason={long}", bo.key_id);
    admin.delete(&path).await.bad_field("reason");
    bo.get("/credits").await.ok(200);
}
