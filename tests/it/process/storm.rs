//! Many clients over real connections at the same balance, the same place, the same name.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::{ADMIN, Answer, Process, count, memory, storm};

fn server() -> (tempfile::TempDir, Process) {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[], &[("ADMIN_KEY", ADMIN)]);
    (data, process)
}

/// Ends a storm: everything agrees while the server runs, and it stops well.
fn clears(process: Process) {
    let found = process.client().as_admin("GET", "/admin/check", None);
    assert_eq!(found.expect(200).body["problems"], json!([]));
    process.stop();
}

fn credits(process: &Process, key: &str) -> Value {
    let answer = process.client().with_key(key, "GET", "/credits", None);
    answer.expect(200).body
}

#[test]
fn a_hundred_credits_are_a_hundred_reads_and_fifty_adds() {
    let (_data, process) = server();
    let key = process.client().sign_up("reads@example.com", "Free");
    let answers: Vec<Answer> = storm(&process, 64, |_, client| {
        [0; 3].map(|_| client.with_key(&key, "GET", "/memory", None))
    })
    .into_iter()
    .flatten()
    .collect();
    assert_eq!((count(&answers, 200), count(&answers, 402)), (100, 92));
    let last = answers.iter().filter(|a| a.status == 402);
    assert!(
        last.clone()
            .all(|a| a.header("x-credits-cost") == Some("0"))
    );
    // Each debit left another balance: none was lost, none was made twice.
    let left: BTreeSet<_> = answers
        .iter()
        .filter(|a| a.status == 200)
        .map(|a| a.body["credit_info"]["credits_remaining"].as_u64())
        .collect();
    assert_eq!(left.len(), 100);
    assert_eq!(credits(&process, &key)["credits_used_this_cycle"], 100);

    let key = process.client().sign_up("adds@example.com", "Free");
    let answers = storm(&process, 64, |n, client| {
        client.with_key(
            &key,
            "POST",
            "/memory",
            Some(&memory(&format!("topic {n}"))),
        )
    });
    assert_eq!((count(&answers, 201), count(&answers, 402)), (50, 14));
    let credits = credits(&process, &key);
    assert_eq!(credits["credits_remaining"], 0);
    assert_eq!(credits["memory_usage"]["current_count"], 50);
    clears(process);
}

#[test]
fn writes_beyond_the_bound_are_refused_at_once() {
    // Shows that where one write may wait for the disk, the others are told to come again, and cost nothing.
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(
        data.path(),
        &["--waiting-writes-max", "1"],
        &[("ADMIN_KEY", ADMIN)],
    );
    let key = process.client().sign_up("bound@example.com", "Pro");
    let answers: Vec<Answer> = storm(&process, 64, |n, client| {
        [0; 4].map(|_| client.with_key(&key, "POST", "/memory", Some(&memory(&n.to_string()))))
    })
    .into_iter()
    .flatten()
    .collect();
    let (added, refused) = (count(&answers, 201), count(&answers, 503));
    assert_eq!(added + refused, 256);
    assert!(added > 0 && refused > 0, "{added} added, {refused} refused");
    for answer in answers.iter().filter(|answer| answer.status == 503) {
        assert_eq!(answer.code(), "overloaded");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    let credits = credits(&process, &key);
    assert_eq!(credits["credits_used_this_cycle"], 2 * added);
    assert_eq!(credits["memory_usage"]["current_count"], added);
    clears(process);
}

#[test]
fn the_last_place_is_given_once() {
    let (_data, process) = server();
    let mut client = process.client();
    let key = client.sign_up("slots@example.com", "Pro");
    for n in 0..99 {
        client
            .with_key(&key, "POST", "/memory", Some(&memory(&n.to_string())))
            .expect(201);
    }
    client
        .as_admin(
            "PUT",
            "/admin/user/slots@example.com/plan",
            Some(&json!({"plan": "Free"})),
        )
        .expect(200);
    let answers = storm(&process, 64, |_, client| {
        client.with_key(&key, "POST", "/memory", Some(&memory("last")))
    });
    assert_eq!((count(&answers, 201), count(&answers, 402)), (1, 63));
    let refused = answers.iter().filter(|a| a.status == 402);
    assert!(
        refused
            .clone()
            .all(|a| matches!(a.code(), "memory_limit_exceeded" | "out_of_credits"))
    );
    assert!(refused.clone().any(|a| a.code() == "memory_limit_exceeded"));
    let credits = credits(&process, &key);
    assert_eq!(credits["memory_usage"]["current_count"], 100);
    assert_eq!(credits["credits_used_this_cycle"], 200);
    clears(process);
}

#[test]
fn racing_revokes_leave_a_key() {
    let (_data, process) = server();
    for keys in 2..=16usize {
        let email = format!("revokes{keys}@example.com");
        let mut client = process.client();
        let mut secrets = vec![client.sign_up(&email, "Free")];
        while secrets.len() < keys {
            let made = client.with_key(&secrets[0], "POST", "/apikey/new", None);
            secrets.push(made.expect(201).str("api_key"));
        }
        let answers = storm(&process, 16, |n, client| {
            // Each key revokes itself, its neighbour, or one far away.
            let (by, which) = (n % keys, (n * n + n / 3) % keys);
            let path = format!("/apikey/{}", secrets[which]);
            (which, client.with_key(&secrets[by], "DELETE", &path, None))
        });
        for (_, answer) in &answers {
            match (answer.status, answer.code()) {
                (200, _) | (400, "last_active_key") | (401, "key_revoked") => {}
                _ => panic!("{}", answer.text),
            }
        }
        let revoked: BTreeSet<usize> = answers
            .iter()
            .filter(|(_, a)| a.status == 200)
            .map(|(which, _)| *which)
            .collect();
        let active = secrets
            .iter()
            .filter(|key| client.with_key(key, "GET", "/credits", None).status == 200)
            .count();
        assert!(active >= 1, "{keys} keys: none is left");
        assert_eq!(active, keys - revoked.len());
        let path = format!("/admin/users?q={email}");
        let listed = client.as_admin("GET", &path, None).expect(200);
        let listed = listed.body["users"][0]["api_keys"]
            .as_array()
            .unwrap()
            .len();
        assert_eq!(listed, active);
    }
    clears(process);
}

#[test]
fn one_email_is_one_account() {
    let (_data, process) = server();
    for round in 0..4 {
        let answers = storm(&process, 32, |n, client| {
            let name: String = format!("ana{round}")
                .chars()
                .enumerate()
                .map(|(i, c)| {
                    if n >> i & 1 == 1 {
                        c.to_ascii_uppercase()
                    } else {
                        c
                    }
                })
                .collect();
            let body = json!({"email": format!("{name}@Example.com")}).to_string();
            client.call("POST", "/signup", &[], Some(&body))
        });
        assert_eq!((count(&answers, 201), count(&answers, 409)), (1, 31));
        let made = answers.iter().find(|a| a.status == 201).unwrap();
        assert_eq!(made.str("account_id"), format!("ana{round}@example.com"));
        assert_eq!(credits(&process, &made.str("api_key"))["status"], "active");
    }
    let users = process.client().as_admin("GET", "/admin/users?q=ana", None);
    assert_eq!(users.body["total_users"], 4);
    clears(process);
}

#[test]
fn counts_stay_exact_while_they_are_synced() {
    let (_data, process) = server();
    let key = process.client().sign_up("sync@example.com", "Premium");
    let running = AtomicUsize::new(32);
    let syncs = std::thread::scope(|scope| {
        let syncs = scope.spawn(|| {
            let mut client = process.client();
            let mut syncs = 0;
            while running.load(Ordering::Acquire) > 0 || syncs == 0 {
                let answer = client.as_admin("POST", "/admin/sync-memory-counts", None);
                assert_eq!(answer.expect(200).body["corrected"], json!([]));
                syncs += 1;
            }
            syncs
        });
        storm(&process, 32, |n, client| {
            for round in 0..12 {
                let body = memory(&format!("{n} {round}"));
                let made = client.with_key(&key, "POST", "/memory", Some(&body));
                let id = made.expect(201).body["entry"]["id"]
                    .as_str()
                    .unwrap()
                    .to_owned();
                if round % 2 == 0 {
                    let path = format!("/memory/{id}");
                    client.with_key(&key, "DELETE", &path, None).expect(200);
                }
            }
            running.fetch_sub(1, Ordering::Release);
        });
        syncs.join().unwrap()
    });
    println!("synced {syncs} times beside the writers");
    let list = process
        .client()
        .with_key(&key, "GET", "/memory?limit=100", None);
    assert_eq!(list.body["pagination"]["total"], 192);
    let credits = credits(&process, &key);
    assert_eq!(credits["memory_usage"]["current_count"], 192);
    assert_eq!(credits["credits_used_this_cycle"], 32 * 12 * 2 + 1);
    let keys = process.client().with_key(&key, "GET", "/apikey/list", None);
    assert_eq!(keys.body["api_keys"][0]["memory_count"], 192);
    let health = process.client().call("GET", "/health", &[], None);
    assert_eq!(health.body["metrics"]["memory_entries"], 192);
    clears(process);
}

#[test]
fn one_idempotency_key_is_one_effect() {
    let (_data, process) = server();
    let key = process.client().sign_up("once@example.com", "Pro");
    for round in 1..=4 {
        let body = memory(&format!("once {round}")).to_string();
        let name = format!("storm-{round}");
        let headers = [("X-API-KEY", key.as_str()), ("Idempotency-Key", &name)];
        let answers = storm(&process, 64, |_, client| {
            client.call("POST", "/memory", &headers, Some(&body))
        });
        let replayed = |a: &&Answer| a.header("idempotent-replayed") == Some("true");
        let made: Vec<_> = answers.iter().filter(|a| a.status == 201).collect();
        let fresh = made.iter().filter(|a| !replayed(a)).count();
        assert_eq!(fresh, 1, "effects in round {round}");
        assert!(made.iter().all(|a| a.text == made[0].text));
        assert_eq!(made.len() + count(&answers, 409), 64);
        for answer in answers.iter().filter(|a| a.status == 409) {
            assert_eq!(answer.code(), "idempotency_in_flight");
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
        let again = process
            .client()
            .call("POST", "/memory", &headers, Some(&body));
        assert_eq!(again.text, made[0].text);
        assert!(replayed(&&again));
        let credits = credits(&process, &key);
        assert_eq!(credits["credits_used_this_cycle"], 2 * round);
        assert_eq!(credits["memory_usage"]["current_count"], round);
    }
    clears(process);
}
