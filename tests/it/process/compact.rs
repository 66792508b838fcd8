//! `memoryos compact` and `memoryos check --residue`: what they say, and what a kill leaves.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use serde_json::json;

use super::{ADMIN, PATIENCE, Process, memory, memoryos, run};
use crate::backups::make_large;

const TEXT: &str = "the seventeenth of \"May\"";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn compact(data: &Path) -> (i32, String, String) {
    run(&["compact", "--data-dir", text(data)], &[])
}

/// Looks for a text that is given on standard input.
fn residue(data: &Path, looked_for: &str) -> (i32, String, String) {
    let args = ["check", "--residue", "-", "--data-dir", text(data)];
    let mut command = memoryos(&args, &[("RUST_LOG", "trace")]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{looked_for}").unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    let [out, errors] = said;
    (output.status.code().unwrap(), out, errors)
}

/// Shows the way that the README names: a text is there, deleted and still in the files, compacted and nowhere; the
/// text itself in no output; and what is refused, with the way out.
#[test]
fn a_deleted_text_is_nowhere_after_a_compaction() {
    let data = tempfile::tempdir().unwrap();
    let (code, _, errors) = compact(data.path());
    assert_eq!(code, 1);
    assert!(errors.contains("there is no data in"), "{errors}");
    let process = Process::start(data.path(), &[], &[("ADMIN_KEY", ADMIN)]);
    let mut client = process.client();
    let key = client.sign_up("bo@example.com", "Pro");
    let mut body = memory("kept");
    client
        .with_key(&key, "POST", "/memory", Some(&body))
        .expect(201);
    body["output"] = json!(format!("Remember {TEXT}!"));
    let id = client.with_key(&key, "POST", "/memory", Some(&body));
    let id = id.expect(201).body["entry"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    for command in ["compact", "check"] {
        let mut args = vec![command, "--data-dir", text(data.path())];
        if command == "check" {
            args.extend(["--residue", "some text"]);
        }
        let (code, _, errors) = run(&args, &[]);
        assert_eq!(code, 1);
        assert!(errors.contains("in use by another"), "{errors}");
        assert!(errors.contains("stop the server first"), "{errors}");
    }
    let path = format!("/memory/{id}");
    process.stop();
    let (code, out, errors) = residue(data.path(), TEXT);
    assert_eq!(code, 1, "{out}{errors}");
    assert!(out.contains("found: tree memories: acct_"), "{out}");
    assert!(out.contains("found: db/db: at byte "), "{out}");
    assert!(
        !format!("{out}{errors}").contains("seventeenth"),
        "{out}{errors}"
    );

    let process = Process::start(data.path(), &[], &[("ADMIN_KEY", ADMIN)]);
    process
        .client()
        .with_key(&key, "DELETE", &path, None)
        .expect(200);
    process.stop();
    let (code, out, _) = residue(data.path(), TEXT);
    assert_eq!(code, 1, "{out}");
    assert!(!out.contains("found: tree"), "{out}");
    let (code, out, errors) = compact(data.path());
    assert_eq!(code, 0, "{out}{errors}");
    assert!(
        out.contains(" bytes before, ") && out.contains(" bytes now"),
        "{out}"
    );
    let (code, out, errors) = residue(data.path(), TEXT);
    assert_eq!(code, 0, "{out}{errors}");
    assert!(out.starts_with("not found in "), "{out}");
    // What is live stays, and an address is found however it is written.
    assert_eq!(residue(data.path(), "Bo@Example.COM").0, 1);

    for (args, why) in [
        (&["--residue", "abc"][..], "4 to 4096 bytes"),
        (&["--residue", "abcd", "--repair"], "cannot be used with"),
        (&["--residue"], "a value is required"),
    ] {
        let all = [&["check", "--data-dir", text(data.path())], args].concat();
        let (code, _, errors) = run(&all, &[]);
        assert_eq!(code, 2, "{errors}");
        assert!(errors.contains(why), "{errors}");
    }
    let process = Process::start(data.path(), &[], &[]);
    let list = process.client().with_key(&key, "GET", "/memory", None);
    let list = list.expect(200).body["memories"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0]["topic"], "kept");
    process.stop();
}

/// Shows that a compaction killed at any moment leaves a directory that is sound and whole at the next start, also
/// without a compaction in between, and that one run again ends it.
#[test]
fn a_killed_compaction_is_settled() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    make_large(&data, 20_000);
    let log = data.join("compact.tmp/db/db");
    let written = |bytes: u64| fs::metadata(&log).is_ok_and(|found| found.len() >= bytes);
    let begun = || data.join("compact.tmp").exists();
    let made_room = || data.join("compact.tmp/old").exists();
    let events: [&dyn Fn() -> bool; 5] = [
        &begun,
        &|| written(1),
        &|| written(2_000_000),
        &|| written(6_000_000),
        &made_room,
    ];
    let mut killed = 0;
    for event in events {
        let args = ["compact", "--data-dir", text(&data)];
        let mut child = memoryos(&args, &[]).spawn().unwrap();
        let until = Instant::now() + PATIENCE;
        while !event() && child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < until, "nothing happens");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        killed += usize::from(child.wait().unwrap().code().is_none());
        let (code, report, errors) = run(&["check", "--data-dir", text(&data)], &[]);
        assert_eq!(code, 0, "{report}{errors}");
        assert!(
            report.contains(" 20000 memories, ") && report.contains(": sound"),
            "{report}"
        );
        assert!(!begun(), "the next start leaves nothing of it");
    }
    assert!(killed > 0, "no compaction was killed on its way");
    let (code, out, errors) = compact(&data);
    assert_eq!(code, 0, "{out}{errors}");
    let (code, report, _) = run(&["check", "--data-dir", text(&data)], &[]);
    assert_eq!(code, 0, "{report}");
    assert!(report.contains(" 20000 memories, "), "{report}");
}

/// Shows that an erasure of 20,000 memories that a SIGKILL interrupts is finished by the next start: the account is
/// nowhere, another one whole, and after a compaction no file holds its texts.
#[test]
fn a_killed_erasure_is_finished_by_the_next_start() {
    let data = tempfile::tempdir().unwrap();
    make_large(data.path(), 20_000);
    let account = "large@example.com";
    let process = Process::start(data.path(), &[], &[("ADMIN_KEY", ADMIN)]);
    let mut client = process.client();
    let key = client.sign_up("bo@example.com", "Pro");
    client
        .with_key(&key, "POST", "/memory", Some(&memory("kept")))
        .expect(201);
    let path = format!("/admin/user/{account}");
    let body = json!({"confirm": account, "reason": "ticket 4711"});
    let erasing = std::thread::spawn({
        let (mut client, path, body) = (process.client(), path.clone(), body.to_string());
        let headers = [("X-ADMIN-KEY", ADMIN)];
        move || {
            client
                .try_call("DELETE", &path, &headers, Some(&body))
                .map(|answer| answer.status)
        }
    });
    let until = Instant::now() + PATIENCE;
    let listed = |client: &mut super::Client| {
        let users = client.as_admin("GET", "/admin/users", None).expect(200);
        users.body["total_users"].as_u64().unwrap()
    };
    while listed(&mut client) > 1 {
        assert!(Instant::now() < until, "it is not decided");
    }
    process.kill();
    let answered = erasing.join().unwrap();
    let process = Process::start(data.path(), &[], &[("ADMIN_KEY", ADMIN)]);
    let mut client = process.client();
    let settled = process.log.text().contains("settled");
    println!("answered {answered:?}, settled by the start: {settled}");
    // Or it was done, and killed before it could say so: either way nothing is left.
    assert_eq!(listed(&mut client), 1);
    let gone = client.as_admin("DELETE", &path, Some(&body));
    assert_eq!(gone.status, 404);
    let found = client.as_admin("GET", "/admin/check", None).expect(200);
    assert_eq!(
        (&found.body["sound"], &found.body["memories"]),
        (&json!(true), &json!(1))
    );
    let kept = client.with_key(&key, "GET", "/memory", None).expect(200);
    assert_eq!(kept.body["memories"].as_array().unwrap().len(), 1);
    process.stop();
    let (code, out, errors) = compact(data.path());
    assert_eq!(code, 0, "{out}{errors}");
    let (code, out, _) = residue(data.path(), "birthday");
    assert_eq!(code, 0, "{out}");
}
