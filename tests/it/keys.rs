//! `/apikey/new`, `/apikey/list`, `DELETE /apikey/{key}`.

use memoryos::domain::event::Cause;
use memoryos::domain::key::{KeyId, Secret};
use memoryos::domain::plan::Plan;
use memoryos::store::NewKey;
use serde_json::{Value, json};

use crate::harness::{Actor, Options, Server, assert_fields, at};

const REVOKE_DENIED: &str = "Permission denied - can only revoke your own API keys";

async fn mint(server: &Server, by: &Actor, body: Value) -> Actor {
    server.made(&by.post("/apikey/new", &body).await.ok(201))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_makes_a_key_of_its_account() {
    // Shows the whole answer, the defaults, and that one's own e-mail in any case is no other's.
    let server = Server::spawn().await;
    let bo = server.account_of("bo@example.com", Plan::PRO).await;
    let bodies = [
        json!({}),
        json!({"email": " BO@example.com", "description": null, "plan": null}),
        json!({"account_id": "bo@example.com"}),
        json!({"account_id": "Bo@Example.com"}),
    ];
    for body in bodies {
        let made = bo.post("/apikey/new", &body).await.ok(201).unmetered();
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
            ],
        );
        assert_eq!(made.json["message"], "API key generated successfully");
        assert_eq!(made.json["plan"], "Pro");
        assert_eq!(made.json["created_at"], "2026-01-15T12:00:00.000000+00:00");
        assert_eq!(made.json["account_id"], "bo@example.com");
        assert_eq!(
            made.json["warning"],
            "Save this API key now. You will not be able to see it again."
        );
        let key = server.made(&made);
        assert_eq!(key.key.len(), 32);
        assert_eq!(key.credits().await, 10_000);
    }
    let empty = bo.send(reqwest::Method::POST, "/apikey/new", "").await;
    empty.ok(201);
    let named = bo.post("/apikey/new", &json!({"description": "CI"})).await;
    assert_eq!(named.ok(201).json["description"], "CI");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_cannot_make_keys_for_others() {
    // Shows 403 for another e-mail or account, there or not, and 400 for bad fields.
    let server = Server::spawn().await;
    let bo = server.account_of("bo@example.com", Plan::PRO).await;
    let al = server.account_of("al@example.com", Plan::PRO).await;
    for body in [
        json!({"email": "al@example.com"}),
        json!({"email": "nobody@example.com"}),
        json!({"account_id": "al@example.com"}),
        json!({"account_id": "acct_nobody"}),
    ] {
        let answer = bo.post("/apikey/new", &body).await;
        assert_eq!(
            (answer.status, &answer.json["code"]),
            (403, &json!("permission_denied")),
            "{body}"
        );
    }
    let post = async |body| bo.post("/apikey/new", &body).await;
    post(json!({"email": "nonsense"})).await.bad_field("email");
    post(json!({"api_key": "x"})).await.bad_field("api_key");
    post(json!({"name": "x"})).await.bad_field("name");
    post(json!({"description": 1}))
        .await
        .bad_field("description");
    let long = "é".repeat(257);
    post(json!({"description": long}))
        .await
        .bad_field("description");
    post(json!({"description": "é".repeat(256)})).await.ok(201);
    let answer = post(json!({"plan": "Gold"})).await;
    answer.refused(400, "invalid_plan", "Invalid plan: Gold");
    let list = al.get("/apikey/list").await.ok(200);
    assert_eq!(list.json["total_keys"], 1);
    let nobody = server.anonymous().post("/apikey/new", &json!({})).await;
    nobody.refused(401, "missing_credentials", "Authentication required");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_makes_keys_and_accounts() {
    // Shows that an e-mail gets an account if it has none, an unknown account id 404, and neither 400.
    let server = Server::spawn().await;
    let admin = server.admin();
    let post = async |body| admin.post("/apikey/new", &body).await;
    let made = post(json!({"email": "New@Example.com", "plan": "Pro"}))
        .await
        .ok(201);
    assert_eq!(made.json["account_id"], "new@example.com");
    assert_eq!(made.json["plan"], "Pro");
    let first = server.made(&made);
    assert_eq!(first.get("/credits").await.json["credits_limit"], 10_000);
    let made = post(json!({"email": "free@example.com"})).await.ok(201);
    assert_eq!(made.json["plan"], "Free");
    // The same e-mail again: another key of the same account.
    let made = post(json!({"email": "new@example.com"})).await.ok(201);
    let second = server.made(&made);
    first.add("shared").await;
    let listed = second.get("/memory").await.ok(200);
    assert_eq!(listed.json["pagination"]["total"], 1);
    let made = post(json!({"account_id": "new@example.com", "plan": "Free"}))
        .await
        .ok(201);
    assert_eq!(made.json["plan"], "Free");
    let anonymous = server.account(Plan::FREE).await;
    let made = post(json!({"account_id": anonymous.account_id}))
        .await
        .ok(201);
    assert_eq!(made.json["account_id"], json!(anonymous.account_id));
    let answer = post(json!({"account_id": "acct_01ARZ3NDEKTSV4RRFFQ69G5FAV"})).await;
    answer.refused(404, "user_not_found", "User not found");
    let answer = post(json!({"account_id": "nobody@example.com"})).await;
    answer.refused(404, "user_not_found", "User not found");
    for body in [
        json!({}),
        json!({"email": null, "account_id": null, "plan": "Pro"}),
    ] {
        let answer = post(body).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert_eq!(
            answer.json["error"],
            "Email required when admin creates API key"
        );
    }
    let answer = post(json!({"email": "free@example.com", "plan": "Pro"})).await;
    assert_eq!(
        (answer.status, &answer.json["code"]),
        (409, &json!("plan_above_account"))
    );
    // Beside an API key the admin key counts.
    let both = first.with("x-admin-key", crate::harness::ADMIN_KEY);
    let answer = both
        .post("/apikey/new", &json!({"email": "free@example.com"}))
        .await;
    assert_eq!(answer.ok(201).json["account_id"], "free@example.com");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_is_never_above_its_maker() {
    // Shows caps equal, lower and above, what a capped key mints, and that the lower of cap and
    // account's plan counts at any time.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    let post = async |by: &Actor, body| by.post("/apikey/new", &body).await;
    let equal = mint(&server, &bo, json!({"plan": "Pro"})).await;
    let lower = mint(&server, &bo, json!({"plan": "Free"})).await;
    let answer = post(&bo, json!({"plan": "Premium"})).await;
    assert_eq!(
        (answer.status, &answer.json["code"]),
        (409, &json!("plan_above_account"))
    );
    let answer = post(&lower, json!({"plan": "Pro"})).await;
    assert_eq!(
        (answer.status, &answer.json["code"]),
        (409, &json!("plan_above_account"))
    );
    let by_default = mint(&server, &lower, json!({})).await;
    assert_eq!(by_default.get("/credits").await.json["credits_limit"], 100);
    let plan_of = async |key: &Actor| key.get("/credits").await.json["plan"].clone();
    assert_eq!(plan_of(&equal).await, "Pro");
    let path = format!("/admin/user/{}/plan", bo.account_id);
    let set = async |plan| {
        server
            .admin()
            .put(&path, &json!({"plan": plan}))
            .await
            .ok(200)
    };
    set("Premium").await;
    // The cap is kept although it was equal to the account's plan, also in keys minted by default.
    assert_eq!(plan_of(&bo).await, "Premium");
    assert_eq!(plan_of(&equal).await, "Pro");
    assert_eq!(plan_of(&by_default).await, "Free");
    let answer = post(&equal, json!({"plan": "Premium"})).await;
    assert_eq!(
        (answer.status, &answer.json["code"]),
        (409, &json!("plan_above_account"))
    );
    set("Free").await;
    assert_eq!(plan_of(&equal).await, "Free");
    // A capped key's own cap counts, not what the account has less of: Pro is above Free.
    let answer = post(&equal, json!({"plan": "Pro"})).await;
    assert_eq!(
        (answer.status, &answer.json["code"]),
        (409, &json!("plan_above_account"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_100_active_keys() {
    // Shows the limit, for the admin too, and that a revoked key makes room.
    let server = Server::spawn().await;
    let bo = server.account_of("bo@example.com", Plan::FREE).await;
    let mut spare = bo.clone();
    for _ in 0..99 {
        spare = mint(&server, &bo, json!({})).await;
    }
    let answer = bo.post("/apikey/new", &json!({})).await;
    assert_eq!(
        (answer.status, &answer.json["code"]),
        (409, &json!("key_limit_reached"))
    );
    let body = json!({"email": "bo@example.com"});
    let answer = server.admin().post("/apikey/new", &body).await;
    assert_eq!(
        (answer.status, &answer.json["code"]),
        (409, &json!("key_limit_reached"))
    );
    let list = bo.get("/apikey/list").await.ok(200);
    assert_eq!(list.json["total_keys"], 100);
    assert_eq!(list.json["api_keys"].as_array().unwrap().len(), 100);
    // Minting keys mints no credits.
    assert_eq!(bo.credits().await, 100);
    bo.delete(&format!("/apikey/{}", spare.key_id))
        .await
        .ok(200);
    mint(&server, &bo, json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_lists_its_keys() {
    // Shows every field, the order, is_current, what each key did, and revoked keys on demand.
    let server = Server::spawn().await;
    let bo = server.account_of("bo@example.com", Plan::PRO).await;
    server.clock.advance(1);
    let capped = mint(&server, &bo, json!({"plan": "Free", "description": "CI"})).await;
    server.clock.advance(1);
    let gone = mint(&server, &bo, json!({})).await;
    capped.add("one").await;
    capped.spend(1).await;
    gone.add("two").await;
    bo.delete(&format!("/apikey/{}", gone.key_id)).await.ok(200);
    let list = bo.get("/apikey/list?page=2").await.ok(200).unmetered();
    assert_eq!(
        list.json,
        json!({
            "account_id": "bo@example.com", "total_keys": 2, "api_keys": [
                {"api_key": bo.masked(), "key_id": bo.key_id, "plan": "Pro",
                 "description": "Initial account creation",
                 "created_at": "2026-01-15T12:00:00.000000+00:00", "last_activity": null,
                 "status": "active", "is_current": true, "credits_remaining": 9_995,
                 "credits_used_this_cycle": 0, "memory_count": 0, "plan_cap": null,
                 "scopes": ["memory:read", "memory:write", "keys", "account"],
                 "credits_per_cycle": null, "expires_at": null, "rotated_to": null,
                 "ended_at": null},
                {"api_key": capped.masked(), "key_id": capped.key_id, "plan": "Free",
                 "description": "CI", "created_at": "2026-01-15T12:00:01.000000+00:00",
                 "last_activity": "2026-01-15T12:00:02.000000+00:00",
                 "status": "active", "is_current": false, "credits_remaining": 97,
                 "credits_used_this_cycle": 3, "memory_count": 1, "plan_cap": "Free",
                 "scopes": ["memory:read", "memory:write", "keys", "account"],
                 "credits_per_cycle": null, "expires_at": null, "rotated_to": null,
                 "ended_at": null},
            ]
        })
    );
    let all = capped.get("/apikey/list?status=all").await.ok(200);
    assert_eq!(all.json["total_keys"], 3);
    let keys = all.json["api_keys"].as_array().unwrap();
    let of = |name: &str| keys.iter().map(|key| key[name].clone()).collect::<Vec<_>>();
    assert_eq!(of("key_id"), [&*bo.key_id, &capped.key_id, &gone.key_id]);
    assert_eq!(of("status"), ["active", "active", "inactive"]);
    assert_eq!(of("is_current"), [false, true, false]);
    assert_eq!(of("memory_count"), [0, 1, 1]);
    assert_eq!(of("credits_used_this_cycle"), [0, 3, 2]);
    assert_eq!(keys[2]["credits_remaining"], 0);
    let answer = bo.get("/apikey/list?status=dead").await;
    answer.bad_field("status");
    let answer = bo.get("/apikey/list?status=all&status=all").await;
    answer.bad_field("status");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_lists_keys_of_all_accounts() {
    // Shows account ids, pages, the order of accounts, and revoked keys on demand.
    let server = Server::spawn().await;
    let mut ids = Vec::new();
    for n in 0..3 {
        let email = format!("u{n}@example.com");
        let user = server.account_of(&email, Plan::FREE).await;
        let second = mint(&server, &user, json!({})).await;
        ids.extend([user.key_id.clone(), second.key_id]);
        server.clock.advance(1);
    }
    let admin = server.admin();
    let page = admin.get("/apikey/list?page=2&limit=4").await.ok(200);
    assert_fields(&page.json, &["total_keys", "api_keys", "pagination"]);
    assert_eq!(page.json["total_keys"], 6);
    assert_eq!(
        page.json["pagination"],
        json!({"page": 2, "limit": 4, "total": 6, "pages": 2})
    );
    let rows = page.json["api_keys"].as_array().unwrap();
    let found: Vec<_> = rows
        .iter()
        .map(|row| row["key_id"].as_str().unwrap())
        .collect();
    assert_eq!(found, ids[4..]);
    assert!(rows.iter().all(|row| row["account_id"] == "u2@example.com"));
    assert!(rows.iter().all(|row| row["is_current"] == false));
    assert_fields(
        &rows[0],
        &[
            "account_id",
            "api_key",
            "key_id",
            "plan",
            "plan_cap",
            "description",
            "scopes",
            "credits_per_cycle",
            "created_at",
            "expires_at",
            "last_activity",
            "status",
            "rotated_to",
            "ended_at",
            "is_current",
            "credits_remaining",
            "credits_used_this_cycle",
            "memory_count",
        ],
    );
    admin.delete(&format!("/apikey/{}", ids[0])).await.ok(200);
    let active = admin.get("/apikey/list").await.ok(200);
    let total = |answer: &crate::harness::Answer| answer.json["total_keys"].clone();
    assert_eq!(total(&active), 5);
    let all = admin
        .get("/apikey/list?status=all&limit=1000")
        .await
        .ok(200);
    assert_eq!(total(&all), 6);
    assert_eq!(all.json["pagination"]["limit"], 100);
    let found: Vec<_> = all.json["api_keys"].as_array().unwrap().clone();
    let found: Vec<_> = found
        .iter()
        .map(|row| row["key_id"].as_str().unwrap())
        .collect();
    assert_eq!(found, ids);
    let past = admin.get("/apikey/list?page=99999999999999999999999").await;
    assert_eq!(past.ok(200).json["api_keys"], json!([]));
    for query in ["page=0", "page=x", "limit=0", "limit=-1", "page=1&page=2"] {
        let answer = admin.get(&format!("/apikey/list?{query}")).await;
        answer.bad_field(query.split('=').next().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_revoked_by_itself_its_id_or_its_mask() {
    // Shows each form, percent-encoded too, the whole answer, the key refused at once, and that a
    // second time answers as the first.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let forms: [fn(&Actor) -> String; 4] = [
        |key| key.key.clone(),
        |key| key.key_id.clone(),
        Actor::masked,
        |key| {
            percent_encoding::percent_encode(
                key.masked().as_bytes(),
                percent_encoding::NON_ALPHANUMERIC,
            )
            .to_string()
        },
    ];
    for form in forms {
        let key = mint(&server, &bo, json!({})).await;
        key.get("/credits").await.ok(200);
        let path = format!("/apikey/{}", form(&key));
        let first = bo.delete(&path).await.ok(200).unmetered();
        let expected = json!({
            "message": "API key revoked successfully", "revoked_key": key.masked(),
            "key_id": key.key_id, "revoked_at": first.json["revoked_at"],
            "note": "Key is now inactive but usage history is preserved",
        });
        assert_eq!(first.json, expected);
        let answer = key.get("/credits").await;
        answer.refused(401, "key_revoked", "Invalid API key");
        server.clock.advance(60);
        let again = bo.delete(&path).await.ok(200);
        assert_eq!(again.json, first.json);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_others_cannot_be_revoked() {
    // Shows 403 for a full key of another account, 404 for its id and mask and for what is not there.
    let server = Server::spawn().await;
    let (bo, al) = (
        server.account(Plan::FREE).await,
        server.account(Plan::FREE).await,
    );
    let spare = mint(&server, &al, json!({})).await;
    let answer = bo.delete(&format!("/apikey/{}", spare.key)).await;
    answer.refused(403, "permission_denied", REVOKE_DENIED);
    let unknown = "A".repeat(32);
    let missing = [
        &*spare.key_id,
        &spare.masked(),
        &unknown,
        "key_aaaaaaaaaaaa",
        "x",
        "a...b",
    ];
    for name in missing {
        let answer = bo.delete(&format!("/apikey/{name}")).await;
        answer.refused(404, "key_not_found", "API key not found");
    }
    spare.get("/credits").await.ok(200);
    // Two that are not one's own are told as little when they are revoked already.
    al.delete(&format!("/apikey/{}", spare.key_id))
        .await
        .ok(200);
    let answer = bo.delete(&format!("/apikey/{}", spare.key_id)).await;
    answer.refused(404, "key_not_found", "API key not found");
    let answer = bo.delete("/apikey/%ff").await;
    answer.bad_field("key");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_active_key_stays() {
    // Shows that a user cannot lock itself out, that the admin can, and what the account is then.
    let server = Server::spawn().await;
    let bo = server.account_of("bo@example.com", Plan::FREE).await;
    let spare = mint(&server, &bo, json!({})).await;
    // One's own current key may go while another is active.
    spare
        .delete(&format!("/apikey/{}", spare.key))
        .await
        .ok(200);
    let path = format!("/apikey/{}", bo.key_id);
    let answer = bo.delete(&path).await;
    answer.refused(
        400,
        "last_active_key",
        "Cannot revoke your only active API key",
    );
    // A key that is revoked already can be revoked again: it is not the last active one.
    bo.delete(&format!("/apikey/{}", spare.key_id))
        .await
        .ok(200);
    server.admin().delete(&path).await.ok(200);
    let answer = bo.get("/credits").await;
    answer.refused(401, "key_revoked", "Invalid API key");
    let users = server.admin().get("/admin/users").await.ok(200);
    assert_eq!(users.json["users"][0]["status"], "inactive");
    assert_eq!(users.json["users"][0]["api_keys"], json!([]));
    assert_eq!(
        (&users.json["total_users"], &users.json["active_users"]),
        (&json!(1), &json!(0))
    );
    // The admin gives a new one, and the account is active again.
    let body = json!({"email": "bo@example.com"});
    mint(&server, &server.admin(), body).await;
    let users = server.admin().get("/admin/users").await.ok(200);
    assert_eq!(users.json["users"][0]["status"], "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mask_that_fits_two_is_refused() {
    // Shows 409 for a mask of two keys, made behind the server's back: by chance it never happens.
    let server = Server::spawn().await;
    let bo = server.account_of("bo@example.com", Plan::FREE).await;
    let account = server
        .store()
        .account_named("bo@example.com")
        .unwrap()
        .unwrap();
    for n in 0..2 {
        let key = NewKey {
            hash: Secret::new(format!("abcd1234{n}3456")).hash(),
            id: KeyId::generate().unwrap(),
            masked: "abcd1234...3456".to_owned(),
            description: "twin".to_owned(),
            cap: None,
            credits_cap: None,
            scopes: None,
            expires_at: None,
        };
        let (store, now) = (server.store(), at(crate::harness::START));
        store
            .create_key(account, key, None, now, Cause::service())
            .await
            .unwrap();
    }
    for by in [&bo, &server.admin()] {
        let answer = by.delete("/apikey/abcd1234...3456").await;
        assert_eq!(
            (answer.status, &answer.json["code"]),
            (409, &json!("ambiguous_key"))
        );
    }
    let list = bo.get("/apikey/list").await.ok(200);
    assert_eq!(list.json["total_keys"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_counts_follow_deletes_and_revocations() {
    // Shows that a key's count is what it stored and is still held, whoever deletes it.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    let key = mint(&server, &bo, json!({"plan": "Free"})).await;
    let counts = async || {
        let list = bo.get("/apikey/list?status=all").await.ok(200);
        let keys = list.json["api_keys"].as_array().unwrap().clone();
        keys.iter()
            .map(|key| key["memory_count"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    let (a, b) = (key.add("a").await, key.add("b").await);
    key.add("c").await;
    let own = bo.add("d").await;
    assert_eq!(counts().await, [1, 3]);
    bo.delete(&format!("/memory/{a}")).await.ok(200);
    key.delete(&format!("/memory/{own}")).await.ok(200);
    assert_eq!(counts().await, [0, 2]);
    bo.delete(&format!("/apikey/{}", key.key_id)).await.ok(200);
    assert_eq!(counts().await, [0, 2]);
    bo.delete(&format!("/memory/{b}")).await.ok(200);
    assert_eq!(counts().await, [0, 1]);
    let credits = bo.get("/credits").await.ok(200);
    assert_eq!(credits.json["memory_usage"]["current_count"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_revocations_leave_a_key() {
    // Shows that when each of 16 keys revokes another one at once, the account keeps an active key.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let mut keys = vec![bo.clone()];
    for _ in 0..15 {
        keys.push(mint(&server, &bo, json!({})).await);
    }
    let mut racers = tokio::task::JoinSet::new();
    for (n, key) in keys.iter().enumerate() {
        let (key, path) = (
            key.clone(),
            format!("/apikey/{}", keys[(n + 1) % 16].key_id),
        );
        racers.spawn(async move { key.delete(&path).await.status });
    }
    for status in racers.join_all().await {
        assert!([200, 400, 401].contains(&status), "{status}");
    }
    let users = server.admin().get("/admin/users").await.ok(200);
    let active = users.json["users"][0]["api_keys"].as_array().unwrap().len();
    assert!(active >= 1);
    assert_eq!(users.json["users"][0]["status"], "active");
    let mut working = 0;
    for key in &keys {
        working += usize::from(key.get("/credits").await.status == 200);
    }
    assert_eq!(working, active);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_of_an_earlier_cycle_used_nothing_in_this_one() {
    // Shows that use this cycle is of this cycle, for keys that are no more as well.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let key = mint(&server, &bo, json!({})).await;
    key.spend(3).await;
    bo.delete(&format!("/apikey/{}", key.key_id)).await.ok(200);
    let used = async || {
        let list = bo.get("/apikey/list?status=all").await.ok(200);
        list.json["api_keys"][1]["credits_used_this_cycle"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(used().await, 3);
    server.clock.set(at("2026-02-15T12:00:00Z"));
    assert_eq!(used().await, 0);
    bo.spend(1).await;
    assert_eq!(used().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_key_may_look_like_anything() {
    // Shows that a key that an operator chose in the form of a mask or of a key id is found by itself.
    for key in ["abcd1234...wxyz", "key_operators123"] {
        let options = Options {
            api_key: Some(key),
            ..Options::default()
        };
        let server = Server::spawn_with(options).await;
        let operator = server.key(key);
        let path = format!("/admin/user/{key}/plan");
        server
            .admin()
            .put(&path, &json!({"plan": "Pro"}))
            .await
            .ok(200);
        mint(&server, &operator, json!({})).await;
        operator.delete(&format!("/apikey/{key}")).await.ok(200);
        let answer = operator.get("/credits").await;
        answer.refused(401, "key_revoked", "Invalid API key");
    }
}
