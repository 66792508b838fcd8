//! `memoryos admin`: what an admin does, on the data of a stopped server.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::{ADMIN, Process, run};

/// Runs a command on a data directory. Returns exit code, output and errors.
fn admin(data: &Path, args: &[&str]) -> (i32, String, String) {
    let data = data.to_str().unwrap();
    let all = [&["admin"], args, &["--data-dir", data]].concat();
    run(&all, &[("RUST_LOG", "warn")])
}

/// Runs a command that succeeds and says nothing but its answer.
#[track_caller]
fn done(data: &Path, args: &[&str]) -> String {
    let (code, out, errors) = admin(data, args);
    assert_eq!((code, &*errors), (0, ""), "{args:?}: {out}");
    out
}

/// Runs a command that ends with that code, and with that in its error.
#[track_caller]
fn refused(data: &Path, args: &[&str], code: i32, words: &str) {
    let (found, out, errors) = admin(data, args);
    assert_eq!((found, &*out), (code, ""), "{args:?}: {errors}");
    assert!(errors.contains(words), "{args:?}: {errors}");
}

/// Signs up. Returns the key and its id.
fn sign_up(server: &Process, email: &str) -> (String, String) {
    let body = json!({"email": email}).to_string();
    let made = server
        .client()
        .call("POST", "/signup", &[], Some(&body))
        .expect(201);
    (made.str("api_key"), made.str("key_id"))
}

fn credits(server: &Process, key: &str) -> (u16, Value) {
    let answer = server.client().with_key(key, "GET", "/credits", None);
    (answer.status, answer.body)
}

/// Shows that a user who lost all keys gets one, printed alone, that works from the next start on; that keys
/// are listed and revoked; and what an argument that is wrong and an account that is not there end with.
#[test]
fn a_user_who_lost_all_keys_gets_one() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Process::start(&data, &[], &[]);
    let (_, lost) = sign_up(&server, "bo@example.com");
    server.stop();
    let said = done(&data, &["key", "revoke", &lost, "--reason", "lost"]);
    assert_eq!(said, format!("{lost} is revoked\n"));
    assert_eq!(
        done(&data, &["users"]),
        "bo@example.com\tFree\tinactive\t100\t0\t0\n"
    );
    let args = [
        "key",
        "new",
        "--account",
        "BO@example.com",
        "--description",
        "new\nphone",
    ];
    let (code, secret, beside) = admin(&data, &args);
    assert_eq!(code, 0, "{beside}");
    let secret = secret.strip_suffix('\n').unwrap();
    assert!(
        secret.len() == 32 && secret.bytes().all(|b| b.is_ascii_alphanumeric()),
        "{secret}"
    );
    assert!(
        beside.contains("cannot be shown again") && !beside.contains(secret),
        "{beside}"
    );
    let keys = done(&data, &["keys", "bo@example.com", "--all"]);
    let rows: Vec<Vec<&str>> = keys
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    let shown: Vec<_> = rows
        .iter()
        .map(|row| (row[0] == lost, row[1], row[4]))
        .collect();
    let expected = [
        (true, "inactive", "Initial account creation"),
        (false, "active", "new phone"),
    ];
    assert_eq!(shown, expected, "{keys}");
    assert_eq!(done(&data, &["keys", "bo@example.com"]).lines().count(), 1);
    refused(&data, &["keys", "al@example.com"], 1, "User not found");
    refused(
        &data,
        &["key", "new", "--account", "al@example.com"],
        1,
        "User not found",
    );
    refused(
        &data,
        &["key", "revoke", "key_aaaaaaaaaaaa"],
        1,
        "API key not found",
    );
    refused(&data, &["key", "revoke", secret], 2, "KEY_ID");
    let long = "d".repeat(257);
    let args = [
        "key",
        "new",
        "--account",
        "bo@example.com",
        "--description",
        &long,
    ];
    refused(&data, &args, 2, "--description");
    let server = Process::start(&data, &[], &[]);
    let (status, shown) = credits(&server, secret);
    assert_eq!(
        (status, &shown["account_id"]),
        (200, &json!("bo@example.com"))
    );
    server.stop();
}

/// Shows plan, credits, suspension and e-mail: what each says, that the server then does so, that taking too
/// much changes nothing, and that a key makes an adjustment safe to run again.
#[test]
fn an_operator_does_what_an_admin_does() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Process::start(&data, &[], &[]);
    let (key, key_id) = sign_up(&server, "bo@example.com");
    sign_up(&server, "al@example.com");
    server.stop();
    let bo = "bo@example.com";
    let why = ["--reason", "ticket 4711"];
    let with = |args: &[&'static str]| -> String { done(&data, &[args, &why].concat()) };
    assert_eq!(
        with(&["plan", "bo@example.com", "Pro"]),
        "bo@example.com is on Pro, was on Free; 10000 credits left\n"
    );
    assert_eq!(
        with(&["credits", "bo@example.com", "500"]),
        "bo@example.com has 10500 credits left\n"
    );
    assert_eq!(
        with(&["credits", "bo@example.com", "-10400"]),
        "bo@example.com has 100 credits left\n"
    );
    let once = ["credits", "bo@example.com", "5", "--idempotency-key", "k"];
    assert_eq!(with(&once), "bo@example.com has 105 credits left\n");
    assert_eq!(
        with(&once),
        "bo@example.com has 105 credits left, as said before\n"
    );
    let other = [
        "credits",
        bo,
        "6",
        "--idempotency-key",
        "k",
        "--reason",
        "r",
    ];
    refused(&data, &other, 1, "Idempotency key reused");
    refused(
        &data,
        &["credits", bo, "-106", "--reason", "r"],
        1,
        "Insufficient credits",
    );
    let said = with(&["suspend", "bo@example.com"]);
    assert!(
        said.starts_with("bo@example.com is suspended since 20"),
        "{said}"
    );
    assert_eq!(with(&["suspend", "bo@example.com"]), said);
    let (code, made, beside) = admin(&data, &["key", "new", "--account", bo]);
    assert!(
        code == 0 && made.len() == 33 && beside.contains("suspended"),
        "{beside}"
    );
    let server = Process::start(&data, &[], &[]);
    let (status, refusal) = credits(&server, &key);
    assert_eq!(
        (status, &refusal["code"]),
        (403, &json!("account_suspended"))
    );
    // The directory is the server's while it runs.
    refused(&data, &["users"], 1, "stop the server first");
    server.kill();
    let said = with(&["reactivate", "bo@example.com"]);
    assert!(
        said.starts_with("bo@example.com is active since 20"),
        "{said}"
    );
    assert_eq!(
        with(&["email", "bo@example.com", "Bo@Example.ORG"]),
        "bo@example.com is bo@example.org now\n"
    );
    let taken = ["email", "bo@example.org", "al@example.com", "--reason", "r"];
    refused(&data, &taken, 1, "User already exists");
    let found = done(&data, &["users", "--email-prefix", "BO"]);
    assert_eq!(found, "bo@example.org\tPro\tactive\t105\t0\t2\n");
    let server = Process::start(&data, &[], &[("ADMIN_KEY", ADMIN)]);
    let (status, shown) = credits(&server, &key);
    let shown = ["account_id", "plan", "credits_remaining"].map(|name| shown[name].clone());
    assert_eq!(
        (status, shown),
        (200, [json!("bo@example.org"), json!("Pro"), json!(105)])
    );
    let shown = server
        .client()
        .as_admin("GET", &format!("/admin/user/{key_id}"), None);
    assert_eq!(shown.expect(200).body["total_keys"], 2);
    server.stop();
    let (code, out, _) = run(&["check", "--data-dir", data.to_str().unwrap()], &[]);
    assert_eq!(code, 0, "{out}");
}

/// Shows that what an operator did is in the audit log as such, with its reason.
#[test]
fn what_an_operator_does_is_audited() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Process::start(&data, &[], &[]);
    let (_, key) = sign_up(&server, "bo@example.com");
    let (_, other) = sign_up(&server, "cy@example.com");
    server.stop();
    let bo = "bo@example.com";
    let (key, other) = (key.as_str(), other.as_str());
    let done_so: [(&[&str], &str); 10] = [
        (&["plan", bo, "Pro"], "plan.changed"),
        (&["credits", bo, "5"], "credits.adjusted"),
        (&["suspend", bo], "account.suspended"),
        (&["reactivate", bo], "account.reactivated"),
        (&["email", bo, "al@example.com"], "account.email_changed"),
        (
            &["key", "new", "--account", "al@example.com"],
            "key.created",
        ),
        (
            &["key", "change", key, "--scopes", "memory:read,keys"],
            "key.changed",
        ),
        (
            &["key", "rotate", other, "--grace-seconds", "0"],
            "key.rotated",
        ),
        (&["sync"], "memoryos admin sync"),
        (
            &["erase", "al@example.com", "--confirm", "AL@example.com"],
            "account.erased",
        ),
    ];
    for (n, (args, _)) in done_so.iter().enumerate() {
        let reason = format!(" ticket {n} ");
        let (code, _, errors) = admin(&data, &[args, &["--reason", &reason][..]].concat());
        assert_eq!(code, 0, "{errors}");
    }
    let db = sled::open(data.join("db")).unwrap();
    let rows = db.open_tree("audit").unwrap();
    let rows: Vec<String> = rows
        .iter()
        .values()
        .map(|row| String::from_utf8_lossy(&row.unwrap()).into_owned())
        .filter(|row| row.contains("operator"))
        .collect();
    // The rotation at once made a key and revoked one besides.
    assert_eq!(rows.len(), done_so.len() + 2, "{rows:?}");
    for (n, (_, action)) in done_so.iter().enumerate() {
        let reason = format!("ticket {n}");
        let mut of = rows.iter().filter(|row| row.contains(&reason));
        assert!(of.any(|row| row.contains(action)), "{action}: {rows:?}");
    }
    for row in &rows {
        assert!(
            row.contains("ticket ") && !row.contains("example.com"),
            "{row:?}"
        );
    }
}

/// What became of the adjustments of one round: their keys and amounts.
#[derive(Default)]
struct Sent {
    done: Vec<(String, i64)>,
    unknown: Vec<(String, i64)>,
}

/// Gives and takes credits, one request after the other, until the server is gone.
fn adjust(server: &Process, name: &str, answered: &AtomicUsize) -> Sent {
    let (mut client, mut sent) = (server.client(), Sent::default());
    for n in 0.. {
        let (key, amount) = (format!("{name}-{n}"), if n % 2 == 0 { 3 } else { -2 });
        match try_adjust(&mut client, &key, amount) {
            Ok(status) => {
                assert_eq!(status, 200);
                sent.done.push((key, amount));
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(super::NoAnswer::NotSent) => break,
            Err(super::NoAnswer::Unknown) => {
                sent.unknown.push((key, amount));
                break;
            }
        }
    }
    sent
}

fn try_adjust(client: &mut super::Client, key: &str, amount: i64) -> Result<u16, super::NoAnswer> {
    let body = json!({"amount": amount, "reason": "storm"}).to_string();
    let headers = [("X-ADMIN-KEY", ADMIN), ("Idempotency-Key", key)];
    let path = "/admin/user/bo@example.com/credits";
    let answer = client.try_call("POST", path, &headers, Some(&body))?;
    Ok(answer.status)
}

/// Shows that credits are given and taken once each while the server is killed: those that were answered,
/// and those that were not, once they are sent again; and that a suspension and a move that were answered
/// hold.
#[test]
fn adjustments_survive_kills_exactly_once() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let env = [("ADMIN_KEY", ADMIN)];
    let mut server = Process::start(&data, &[], &env);
    let (key, _) = sign_up(&server, "bo@example.com");
    let (al, _) = sign_up(&server, "al0@example.com");
    let mut expected = 100;
    for round in 0..6 {
        let answered = AtomicUsize::new(0);
        let sent = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|n| {
                    let (server, answered) = (&server, &answered);
                    let name = format!("r{round}-{n}");
                    scope.spawn(move || adjust(server, &name, answered))
                })
                .collect();
            while answered.load(Ordering::Relaxed) < 60 {
                assert!(writers.iter().any(|writer| !writer.is_finished()));
                std::thread::yield_now();
            }
            let mut admin = server.client();
            let al_is = format!("/admin/user/al{round}@example.com");
            let what = if round % 2 == 0 {
                "suspend"
            } else {
                "reactivate"
            };
            let why = json!({"reason": "storm"});
            let path = format!("{al_is}/{what}");
            admin.as_admin("POST", &path, Some(&why)).expect(200);
            let to = json!({"email": format!("al{}@example.com", round + 1), "reason": "storm"});
            let path = format!("{al_is}/email");
            admin.as_admin("PUT", &path, Some(&to)).expect(200);
            server.signal(libc::SIGKILL);
            let sent = writers.into_iter().map(|writer| writer.join().unwrap());
            sent.collect::<Vec<_>>()
        });
        server.ended(super::PATIENCE);
        server = Process::start(&data, &[], &env);
        let mut client = server.client();
        for sent in sent {
            for (_, amount) in &sent.done {
                expected += amount;
            }
            for (key, amount) in &sent.unknown {
                assert_eq!(try_adjust(&mut client, key, *amount), Ok(200));
                expected += amount;
            }
        }
        let (_, shown) = credits(&server, &key);
        assert_eq!(shown["credits_remaining"], expected, "round {round}");
        let al_is = format!("/admin/user/al{}@example.com", round + 1);
        let shown = client.as_admin("GET", &al_is, None).expect(200);
        let (status, _) = credits(&server, &al);
        let suspended = shown.body["user"]["status"] == "suspended";
        assert_eq!((suspended, status == 403), (round % 2 == 0, round % 2 == 0));
    }
    server.stop();
    let (code, out, _) = run(&["check", "--data-dir", data.to_str().unwrap()], &[]);
    assert_eq!(code, 0, "{out}");
}

/// Signs up and adds a memory. Returns the account's key and its id.
fn with_a_memory(server: &Process, email: &str) -> (String, String) {
    let (key, id) = sign_up(server, email);
    let body = super::memory("kept");
    let added = server
        .client()
        .with_key(&key, "POST", "/memory", Some(&body));
    added.expect(201);
    (key, id)
}

/// Shows that an account, its statement and its history are shown as the admin's routes show them, and what there
/// is none of.
#[test]
fn an_operator_sees_what_an_admin_sees() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Process::start(&data, &[], &[("ADMIN_KEY", ADMIN)]);
    let (_, id) = with_a_memory(&server, "bo@example.com");
    let mut client = server.client();
    let user = "/admin/user/bo@example.com";
    let asked = json!({"amount": -8, "reason": "given twice"}).to_string();
    let headers = [("X-ADMIN-KEY", ADMIN), ("Idempotency-Key", "k")];
    let path = format!("{user}/credits");
    client
        .call("POST", &path, &headers, Some(&asked))
        .expect(200);
    let mut ask = |path: &str| client.as_admin("GET", &format!("{user}{path}"), None);
    let shown = ask("").expect(200).body["user"].clone();
    let stated = ask("/statement").expect(200).body;
    let tables = ["day", "key", "operation"].map(|by| {
        let path = format!("/history?format=csv&by={by}");
        (by, ask(&path).expect(200).text)
    });
    server.stop();
    let bo = "bo@example.com";
    // A name and a value a line; those that a route has too are the same.
    let same = |text: &str, route: &Value, names: &[&str]| {
        let lines: Vec<_> = text.lines().filter_map(|l| l.split_once('\t')).collect();
        for name in names {
            let (_, value) = lines.iter().find(|(n, _)| n == name).unwrap();
            let plain = route[name].as_str().map(str::to_owned);
            assert_eq!(*value, plain.unwrap_or_else(|| route[name].to_string()));
        }
        lines.len()
    };
    let text = done(&data, &["show", bo]);
    let names = [
        "account_id",
        "email",
        "plan",
        "status",
        "created_at",
        "last_activity",
        "credits_remaining",
        "credits_used_this_cycle",
        "total_credits_used",
        "reset_date",
        "memory_count",
        "memory_limit",
    ];
    assert_eq!(same(&text, &shown, &names), names.len() + 3, "{text}");
    assert!(
        text.contains("credits_remaining\t90\n") && text.contains("\nactive_keys\t1\n"),
        "{text}"
    );
    let text = done(&data, &["statement", bo, "--cycle", "0"]);
    assert_eq!(done(&data, &["statement", bo]), text);
    let names = [
        "account_id",
        "cycle",
        "start",
        "end",
        "is_current",
        "opening",
        "granted",
        "bonus",
        "adjusted",
        "plan_changes",
        "spent",
        "refunded",
        "closing",
        "lapsed",
    ];
    assert_eq!(same(&text, &stated, &names), names.len(), "{text}");
    assert!(
        text.contains("adjusted\t-8\n") && text.contains("closing\t90\n"),
        "{text}"
    );
    for (by, table) in &tables {
        let text = done(&data, &["history", bo, "--by", by, "--csv"]);
        assert_eq!(text, *table, "{by}");
    }
    assert_eq!(
        done(&data, &["history", bo, "--by", "key"]),
        format!(
            "-\t\t100\t0\t0\t-8\t2\n{id}\tInitial account creation\t0\t2\t0\t0\t1\ntotal\t\t100\t2\t0\t-8\t3\n"
        )
    );
    let none = ["history", bo, "--from", "2020-01-01", "--to", "2020-02-01"];
    assert_eq!(done(&data, &none), "total\t0\t0\t0\t0\t0\n");
    for command in ["show", "statement", "history"] {
        refused(&data, &[command, "al@example.com"], 1, "User not found");
    }
    let wrong: [(&[&str], &str); 6] = [
        (&["statement", bo, "--cycle", "1"], "--cycle: the current"),
        (&["statement", bo, "--cycle", "x"], "--cycle"),
        (&["history", bo, "--by", "week"], "--by"),
        (&["history", bo, "--from", "yesterday"], "--from must be"),
        (&["history", bo, "--to", "2020-01-01"], "--to must not be"),
        (&["history", bo, "--from", "2020-01-01"], "400 days"),
    ];
    for (args, words) in wrong {
        refused(&data, args, 2, words);
    }
}

/// Shows that a key gets a successor, printed alone, on its counters; and what is refused: a key that has ended, and
/// what would leave an account without a key that manages keys.
#[test]
fn an_operator_rotates_and_changes_keys() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Process::start(&data, &[], &[]);
    let (old, id) = with_a_memory(&server, "bo@example.com");
    server.stop();
    let why = ["--reason", "leaked"];
    let with = |args: &[&str]| admin(&data, &[args, &why].concat());
    let (code, secret, beside) = with(&["key", "rotate", &id, "--grace-seconds", "0"]);
    assert_eq!(code, 0, "{beside}");
    let secret = secret.strip_suffix('\n').unwrap().to_owned();
    assert!(
        secret.len() == 32 && secret.bytes().all(|b| b.is_ascii_alphanumeric()),
        "{secret}"
    );
    let new = beside.split(' ').next().unwrap().to_owned();
    assert_eq!(
        beside,
        format!("{new} of bo@example.com; it cannot be shown again\n{id} is revoked\n")
    );
    // The successor spends what its line has left.
    let server = Process::start(&data, &[], &[]);
    let (status, refusal) = credits(&server, &old);
    assert_eq!((status, &refusal["code"]), (401, &json!("key_revoked")));
    let (status, shown) = credits(&server, &secret);
    let shown = ["key_id", "credits_remaining"].map(|name| shown[name].clone());
    assert_eq!((status, shown), (200, [json!(new), json!(98)]));
    server.stop();
    refused(&data, &["key", "rotate", &id, why[0], why[1]], 1, "rotated");
    // An account keeps a key that manages keys and does not end, also from an operator.
    for bound in [
        ["--scopes", "memory:read"],
        ["--expires-at", "2100-01-01T00:00:00Z"],
    ] {
        let args = [&["key", "change", &new][..], &bound, &why].concat();
        refused(&data, &args, 1, "Last managing key");
    }
    let (code, out, _) = run(&["check", "--data-dir", data.to_str().unwrap()], &[]);
    assert_eq!(code, 0, "{out}");
}

/// Shows that a key is made with bounds and changed, what it may do then, and what wrong arguments end with.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of wrong arguments")]
fn an_operator_bounds_keys() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Process::start(&data, &[], &[]);
    let (secret, _) = sign_up(&server, "bo@example.com");
    server.stop();
    let why = ["--reason", "leaked"];
    let with = |args: &[&str]| admin(&data, &[args, &why].concat());
    let (code, made, beside) = with(&[
        "key",
        "new",
        "--account",
        "bo@example.com",
        "--scopes",
        "memory:read,memory:write",
        "--expires-at",
        "2100-01-01T00:00:00Z",
        "--credits-per-cycle",
        "7",
        "--plan",
        "Free",
    ]);
    assert_eq!(code, 0, "{beside}");
    let other = beside.split(' ').next().unwrap();
    let changed = |args: &[&str]| {
        let all = [&["key", "change", other][..], args, &why].concat();
        done(&data, &all)
    };
    assert_eq!(
        changed(&["--description", "a\tb"]),
        format!(
            "{other}\tscopes memory:read,memory:write\texpires_at 2100-01-01T00:00:00.000000+00:00\t\
             credits_per_cycle 7\ta b\n"
        )
    );
    let args = [
        "--scopes",
        "account",
        "--expires-at",
        "never",
        "--credits-per-cycle",
        "none",
    ];
    assert_eq!(
        changed(&args),
        format!("{other}\tscopes account\texpires_at never\tcredits_per_cycle none\ta b\n")
    );
    let (code, _, beside) = with(&["key", "rotate", other]);
    assert!(code == 0 && beside.contains("works until 20"), "{beside}");
    let server = Process::start(&data, &[], &[]);
    let answer = server
        .client()
        .with_key(made.trim_end(), "GET", "/memory", None);
    assert_eq!((answer.status, answer.code()), (403, "insufficient_scope"));
    server.stop();
    let nobody = "key_aaaaaaaaaaaa";
    let wrong: [(&[&str], i32, &str); 10] = [
        (&["rotate", nobody], 1, "API key not found"),
        (
            &["change", nobody, "--description", "x"],
            1,
            "API key not found",
        ),
        (&["rotate", &secret], 2, "KEY_ID"),
        (
            &["rotate", nobody, "--grace-seconds", "604801"],
            2,
            "--grace-seconds",
        ),
        (&["change", nobody], 2, "nothing to change"),
        (&["change", nobody, "--scopes", "all"], 2, "--scopes"),
        (
            &["change", nobody, "--scopes", "keys,keys"],
            2,
            "listed twice",
        ),
        (
            &["change", nobody, "--expires-at", "2020-01-01T00:00:00Z"],
            2,
            "in the future",
        ),
        (
            &["change", nobody, "--credits-per-cycle", "some"],
            2,
            "--credits-per-cycle",
        ),
        (
            &["new", "--account", "bo@example.com", "--plan", "Gold"],
            2,
            "Gold",
        ),
    ];
    for (args, code, words) in wrong {
        let all = [&["key"], args, &why].concat();
        refused(&data, &all, code, words);
    }
    refused(&data, &["key", "rotate", nobody], 2, "--reason");
    refused(
        &data,
        &["key", "change", nobody, "--description", "x"],
        2,
        "--reason",
    );
    let (code, out, _) = run(&["check", "--data-dir", data.to_str().unwrap()], &[]);
    assert_eq!(code, 0, "{out}");
}

/// Shows that an account is erased only if its id is said twice, and is gone then; and that counts are made anew.
#[test]
fn an_operator_erases_an_account() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Process::start(&data, &[], &[]);
    let (key, _) = with_a_memory(&server, "bo@example.com");
    sign_up(&server, "al@example.com");
    server.stop();
    let (bo, al) = ("bo@example.com", "al@example.com");
    let why = ["--reason", "ticket 4711"];
    let erase = |confirm: &[&'static str]| [&["erase", bo], confirm, &why].concat();
    refused(&data, &erase(&["--confirm", al]), 2, "--confirm");
    refused(&data, &erase(&[]), 2, "--confirm");
    refused(&data, &["erase", bo, "--confirm", bo], 2, "--reason");
    let nobody = ["erase", "cy@example.com", "--confirm", "cy@example.com"];
    refused(&data, &[&nobody[..], &why].concat(), 1, "User not found");
    assert_eq!(done(&data, &["users"]).lines().count(), 2);
    let said = done(&data, &erase(&["--confirm", bo]));
    assert!(
        said.starts_with("rcpt_")
            && said.contains(
                ": 1 memories, 1 keys, 0 recorded answers; 2 rows of the ledger are kept"
            ),
        "{said}"
    );
    refused(&data, &erase(&["--confirm", bo]), 1, "User not found");
    assert_eq!(
        done(&data, &["users"]),
        "al@example.com\tFree\tactive\t100\t0\t1\n"
    );
    assert_eq!(done(&data, &["sync"]), "1 accounts counted, 0 corrected\n");
    let server = Process::start(&data, &[], &[]);
    let (status, refusal) = credits(&server, &key);
    assert_eq!((status, &refusal["code"]), (401, &json!("invalid_key")));
    server.stop();
}

/// Shows what each argument that is wrong ends with, and that nothing came of it.
#[test]
fn a_wrong_argument_ends_with_2_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Process::start(&data, &[], &[]);
    sign_up(&server, "bo@example.com");
    server.stop();
    let bo = "bo@example.com";
    let wrong: [(&[&str], &str); 9] = [
        (&["credits", bo, "0", "--reason", "r"], "AMOUNT"),
        (&["credits", bo, "1000000000001", "--reason", "r"], "AMOUNT"),
        (&["credits", bo, "1.5", "--reason", "r"], "AMOUNT"),
        (&["credits", bo, "1"], "--reason"),
        (&["credits", bo, "1", "--reason", " "], "--reason"),
        (
            &[
                "credits",
                bo,
                "1",
                "--reason",
                "r",
                "--idempotency-key",
                "a b",
            ],
            "--idempotency-key",
        ),
        (&["plan", bo, "Gold"], "Gold"),
        (&["email", bo, "bo", "--reason", "r"], "NEW"),
        (&["suspend", bo], "--reason"),
    ];
    for (args, words) in wrong {
        refused(&data, args, 2, words);
    }
    let users = done(&data, &["users"]);
    assert_eq!(users, "bo@example.com\tFree\tactive\t100\t0\t1\n");
}

/// Shows that a directory without data is not made one, and that the help teaches.
#[test]
fn a_directory_without_data_stays_without() {
    let folder = tempfile::tempdir().unwrap();
    refused(folder.path(), &["users"], 1, "there is no data in");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let (code, help, _) = run(&["admin", "--help"], &[]);
    assert_eq!(code, 0);
    for word in [
        "Examples:",
        "key new --account",
        "Stop the server first",
        "Exit codes",
        "suspend",
    ] {
        assert!(help.contains(word), "admin --help does not mention {word}");
    }
    for command in [
        "users",
        "show",
        "statement",
        "history",
        "erase",
        "sync",
        "keys",
        "key",
        "plan",
        "credits",
        "suspend",
        "reactivate",
        "email",
    ] {
        let (code, help, _) = run(&["admin", command, "--help"], &[]);
        assert!(
            code == 0 && help.contains("Usage: memoryos admin"),
            "{help}"
        );
    }
}
