//! `memoryos check`, `--repair` and `GET /admin/check` on a real data directory that is damaged by hand.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::{ADMIN, Process, memory, run, storm};

const ENV: &[(&str, &str)] = &[("ADMIN_KEY", ADMIN)];

/// A data directory with two accounts, one of them named, and a memory of each size.
fn data() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[], ENV);
    let mut client = process.client();
    client.sign_up("bo@example.com", "Pro");
    let key = client.sign_up("al@example.com", "Pro");
    for length in [10, 20_000] {
        let body = sized(length);
        client
            .with_key(&key, "POST", "/memory", Some(&body))
            .expect(201);
    }
    process.stop();
    data
}

/// Opens a tree of the database behind the service's back.
fn with_tree(data: &Path, tree: &str, change: impl FnOnce(sled::Tree)) {
    let db = sled::open(data.join("db")).unwrap();
    change(db.open_tree(tree).unwrap());
    db.flush().unwrap();
}

/// A memory whose input has that many characters.
fn sized(length: usize) -> Value {
    let mut body = memory("sized");
    body["input"] = "x".repeat(length).into();
    body
}

/// Counts a writer as done, also when it fails: the checkers must end then.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

fn check(data: &Path, more: &[&str]) -> (i32, Vec<String>, String) {
    let data = data.to_str().unwrap();
    let (code, out, errors) = run(&[&["check", "--data-dir", data], more].concat(), &[]);
    (code, out.lines().map(str::to_owned).collect(), errors)
}

/// Shows the codes and the lines of a check, and that it changes nothing.
#[test]
fn a_check_names_each_problem_and_ends_with_1() {
    let data = data();
    let totals = "2 accounts, 2 keys, 2 memories, 3 ledger rows: ";
    let (code, lines, errors) = check(data.path(), &[]);
    assert_eq!(
        (code, lines),
        (0, vec![format!("{totals}sound")]),
        "{errors}"
    );
    with_tree(data.path(), "names", |names| {
        names.remove("bo@example.com").unwrap();
    });
    with_tree(data.path(), "meta", |meta| {
        meta.insert("large", vec![0; 7_601]).unwrap();
    });
    for _ in 0..2 {
        let (code, lines, errors) = check(data.path(), &[]);
        assert_eq!(code, 1);
        let [name, large, last] = lines.as_slice() else {
            panic!("{lines:?} {errors}");
        };
        assert!(name.starts_with("users acct_"), "{name}");
        assert!(name.ends_with(": its name is not in names"), "{name}");
        assert_eq!(large, "meta large: its value of 7601 bytes is too large");
        assert_eq!(*last, format!("{totals}2 problems"));
        assert!(!lines.concat().contains('@'), "an e-mail in {lines:?}");
    }
    let (code, _, errors) = check(data.path(), &["--mend"]);
    assert_eq!(code, 2, "{errors}");
    let (code, _, errors) = check(&data.path().join("nowhere"), &[]);
    assert_eq!(code, 1);
    assert!(errors.contains("there is no directory"), "{errors}");
    let process = Process::start(data.path(), &[], ENV);
    let (code, _, errors) = check(data.path(), &["--repair"]);
    assert_eq!(code, 1);
    assert!(errors.contains("GET /admin/check"), "{errors}");
    // The server that runs on it says the same, with the same words.
    let found = process.client().as_admin("GET", "/admin/check", None);
    let body = found.expect(200).body;
    assert_eq!(
        (&body["sound"], &body["success"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(body["problems_total"], 2);
    assert_eq!(body["problems"][0]["tree"], "users");
    assert_eq!(body["problems"][0]["what"], "its name is not in names");
    let log = process.stop();
    assert!(log.contains(&format!("{totals}2 problems")), "{log}");
}

/// Shows that a repair mends what can be derived, tells what it did and what it cannot do, warns before it
/// writes, and that a service starts on what was mended and not on what was not.
#[test]
fn a_repair_derives_what_it_can() {
    let data = data();
    with_tree(data.path(), "names", |names| {
        names.remove("bo@example.com").unwrap();
    });
    with_tree(data.path(), "pieces", |pieces| {
        pieces.insert([b'm'; 43], vec![1, 2]).unwrap();
    });
    let (code, lines, errors) = check(data.path(), &["--repair"]);
    assert_eq!(code, 0, "{lines:?} {errors}");
    let [warning, name, piece, count, totals] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    assert!(warning.contains("2 problems; repairing "), "{warning}");
    assert!(warning.contains("if you have no copy of it, stop this"));
    let again = ": a name finds the account that has it again";
    assert!(name.starts_with("repaired: names acct_") && name.ends_with(again));
    assert!(piece.starts_with("repaired: pieces m "), "{piece}");
    assert_eq!(count, "2 records repaired");
    assert_eq!(
        totals,
        "2 accounts, 2 keys, 2 memories, 3 ledger rows: sound"
    );
    let (code, lines, _) = check(data.path(), &["--repair"]);
    assert_eq!((code, lines.len()), (0, 1), "{lines:?}");

    with_tree(data.path(), "usage", |usage| {
        let (key, _) = usage.first().unwrap().unwrap();
        usage.insert(key, vec![9]).unwrap();
    });
    with_tree(data.path(), "names", |names| {
        names.remove("al@example.com").unwrap();
    });
    let (code, lines, _) = check(data.path(), &["--repair"]);
    assert_eq!(code, 1);
    assert!(lines[1].starts_with("repaired: names "), "{lines:?}");
    let lost = &lines[3];
    assert!(
        lost.starts_with("cannot be derived: usage acct_"),
        "{lines:?}"
    );
    assert!(lost.ends_with(": a record has the unknown version 9"));
    assert_eq!(
        lines[4],
        "2 accounts, 2 keys, 2 memories, 2 ledger rows: 1 problem"
    );
    let path = data.path().to_str().unwrap();
    let (code, _, errors) = run(&["--port", "0", "--data-dir", path], &[]);
    assert_eq!(code, 1);
    assert!(errors.contains("unknown version 9"), "{errors}");
}

/// Shows that checks beside 64 clients which write everything raise no false alarm; that there is one at a
/// time; and that every answer of a write is as it would be without them.
#[test]
fn checks_beside_64_clients_are_sound() {
    const ROUNDS: usize = 6;
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[], ENV);
    let shared = process.client().sign_up("shared@example.com", "Premium");
    let running = AtomicUsize::new(64);
    let (checks, refused) = std::thread::scope(|scope| {
        let checker = || {
            let mut client = process.client();
            let (mut checks, mut refused) = (0, 0);
            while running.load(Ordering::Acquire) > 0 || checks == 0 {
                let found = client.as_admin("GET", "/admin/check", None);
                if found.status == 409 {
                    assert_eq!(found.code(), "check_in_progress");
                    assert_eq!(found.header("retry-after"), Some("30"));
                    refused += 1;
                } else {
                    let body = found.expect(200).body;
                    assert_eq!(body["problems"], json!([]));
                    assert_eq!(
                        (&body["sound"], &body["problems_total"]),
                        (&json!(true), &json!(0))
                    );
                    checks += 1;
                }
            }
            (checks, refused)
        };
        let checkers = [scope.spawn(checker), scope.spawn(checker)];
        storm(&process, 64, |n, client| {
            let _done = Done(&running);
            write_everything(client, &shared, n, ROUNDS);
        });
        let said = checkers.map(|checker| checker.join().unwrap());
        said.iter()
            .fold((0, 0), |sum, own| (sum.0 + own.0, sum.1 + own.1))
    });
    println!("{checks} checks beside the writers, {refused} refused as one was running");
    let last = process.client().as_admin("GET", "/admin/check", None);
    let body = last.expect(200).body;
    assert_eq!(
        (&body["sound"], &body["accounts"]),
        (&json!(true), &json!(65))
    );
    assert_eq!(body["memories"], 64 * ROUNDS * 3);
    process.stop();
    let (code, lines, _) = check(data.path(), &[]);
    assert_eq!(code, 0, "{lines:?}");
}

/// Sign-up, keys, adds of both sizes, changes, deletes, reads, plans and replays of one client.
fn write_everything(client: &mut super::Client, shared: &str, n: usize, rounds: usize) {
    let mut own = client.sign_up(&format!("writer{n}@example.com"), "Premium");
    for round in 0..rounds {
        let made = client.with_key(&own, "POST", "/apikey/new", None);
        let next = made.expect(201).str("api_key");
        let gone = client.with_key(&next, "DELETE", &format!("/apikey/{own}"), None);
        gone.expect(200);
        own = next;
        let mut ids = Vec::new();
        for (key, length) in [
            (&own, 10),
            (&own, 20_000),
            (&own, 10),
            (&shared.to_owned(), 10),
        ] {
            let body = sized(length).to_string();
            let name = format!("{n}-{round}-{}", ids.len());
            let headers = [("X-API-KEY", key.as_str()), ("Idempotency-Key", &*name)];
            for _ in 0..2 {
                let added = client
                    .call("POST", "/memory", &headers, Some(&body))
                    .expect(201);
                if added.header("idempotent-replayed").is_none() {
                    let id = added.body["entry"]["id"].as_str().unwrap();
                    ids.push(id.to_owned());
                }
            }
        }
        let change = json!({"output": "y".repeat(9_000), "category": "changed"});
        let path = format!("/memory/{}", ids[0]);
        client
            .with_key(&own, "PATCH", &path, Some(&change))
            .expect(200);
        let path = format!("/memory/{}", ids[1]);
        client.with_key(&own, "DELETE", &path, None).expect(200);
        client.with_key(&own, "GET", "/stats", None).expect(200);
        let plan = json!({"plan": if round % 2 == 0 { "Pro" } else { "Premium" }});
        let path = format!("/admin/user/writer{n}@example.com/plan");
        client.as_admin("PUT", &path, Some(&plan)).expect(200);
    }
}
