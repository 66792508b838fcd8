//! `memoryos admin`: what an admin does, on the data of a stopped server.

use std::path::Path;

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
