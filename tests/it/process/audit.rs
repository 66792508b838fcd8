//! The audit log of the real process: over kill -9, tampered with, restored, and its heads in the log.

use std::path::Path;

use serde_json::Value;

use super::{ADMIN, Client, Process, run};

const ENV: &[(&str, &str)] = &[("ADMIN_KEY", ADMIN)];

fn verify(data: &Path, heads: &[&str]) -> (i32, String, String) {
    let mut args = vec!["audit", "verify", "--data-dir", data.to_str().unwrap()];
    for head in heads {
        args.extend(["--head", head]);
    }
    run(&args, &[])
}

/// The rows that are exported, a value each.
fn exported(data: &Path) -> Vec<Value> {
    let (code, out, errors) = run(
        &["audit", "export", "--data-dir", data.to_str().unwrap()],
        &[],
    );
    assert_eq!(code, 0, "{errors}");
    out.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The heads in a server's log.
fn heads(log: &str) -> Vec<&str> {
    log.lines()
        .filter_map(|line| Some(line.split_once("audit log: head ")?.1.trim()))
        .collect()
}

fn act(client: &mut Client, n: usize) {
    let key = client.sign_up(&format!("user{n}@example.com"), "Pro");
    for _ in 0..3 {
        client
            .with_key(&key, "POST", "/apikey/new", Some(&serde_json::json!({})))
            .expect(201);
    }
}

/// Opens a tree of the database behind the service's back.
fn with_audit(data: &Path, change: impl FnOnce(sled::Tree)) {
    let db = sled::open(data.join("db")).unwrap();
    change(db.open_tree("audit").unwrap());
    db.flush().unwrap();
}

/// Shows that after each of four kills the chain holds with the heads that were told before, that what was
/// answered is a row exactly once and in order, and that a stop tells the head that `verify` prints.
#[test]
fn the_chain_goes_on_over_kills() {
    let data = tempfile::tempdir().unwrap();
    let mut noted = Vec::new();
    for round in 0..4 {
        let process = Process::start(data.path(), &[], ENV);
        act(&mut process.client(), round);
        noted.extend(heads(&process.kill()).into_iter().map(str::to_owned));
    }
    assert_eq!(noted.len(), 4, "a head at each start");
    let process = Process::start(data.path(), &[], ENV);
    let (code, _, errors) = verify(data.path(), &[]);
    assert_eq!(code, 1);
    assert!(
        errors.contains("GET /admin/audit reads the log"),
        "{errors}"
    );
    let log = process.stop();
    let last = heads(&log).last().copied().unwrap().to_owned();
    noted.push(last.clone());
    let noted: Vec<&str> = noted.iter().map(String::as_str).collect();
    let (code, out, errors) = verify(data.path(), &noted);
    assert_eq!(code, 0, "{errors}");
    assert!(out.ends_with(&format!("head {last}\n")), "{out}");
    let rows = exported(data.path());
    assert_eq!(
        out.lines().next(),
        Some(&*format!("{} rows, the chain holds", rows.len()))
    );
    let mut accounts: Vec<&Value> = rows.iter().map(|row| &row["account"]).collect();
    accounts.dedup();
    assert_eq!(accounts.len(), 4);
    for account in accounts {
        let of = rows.iter().filter(|row| row["account"] == *account);
        let actions: Vec<_> = of.map(|row| row["action"].as_str().unwrap()).collect();
        let made = [
            "account.created",
            "key.created",
            "key.created",
            "key.created",
            "key.created",
        ];
        assert_eq!(actions, made);
    }
}

/// Shows what `verify` says, with code 1, of a byte that was flipped, a row that was removed, two that changed
/// places and rows that were cut off; and code 2 for a head that is none.
#[test]
fn tampering_is_named() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[], ENV);
    act(&mut process.client(), 0);
    let log = process.stop();
    let head = heads(&log).last().copied().unwrap().to_owned();
    let key = |no: u64| no.to_be_bytes();
    let expect = |heads: &[&str], expected: &str| {
        let (code, out, errors) = verify(data.path(), heads);
        assert_eq!((code, out.as_str()), (1, ""), "{errors}");
        assert!(errors.contains(expected), "{errors}");
    };
    let mut rows = Vec::new();
    with_audit(data.path(), |audit| {
        rows.extend((1..=5).map(|no| audit.get(key(no)).unwrap().unwrap()));
        let mut changed = rows[2].to_vec();
        let at = changed.windows(3).position(|part| part == b"key").unwrap();
        changed[at] ^= 1;
        audit.insert(key(3), changed).unwrap();
    });
    expect(&[], "audit log: row 3: its hash does not follow");
    with_audit(data.path(), |audit| {
        audit.remove(key(3)).unwrap();
    });
    expect(
        &[],
        "audit log: row 3: it is missing; the next one is row 4",
    );
    with_audit(data.path(), |audit| {
        audit.insert(key(2), &rows[2]).unwrap();
        audit.insert(key(3), &rows[1]).unwrap();
    });
    expect(&[], "audit log: row 2: row 3 is in its place");
    with_audit(data.path(), |audit| {
        audit.insert(key(2), &rows[1]).unwrap();
        audit.insert(key(3), &rows[2]).unwrap();
    });
    assert_eq!(verify(data.path(), &[&head]).0, 0);
    with_audit(data.path(), |audit| {
        audit.remove(key(5)).unwrap();
    });
    assert_eq!(verify(data.path(), &[]).0, 0);
    expect(
        &[&head],
        "row 5: it was written down and is missing; the log ends with row 4",
    );
    for none in ["5", "x:y", &head[..20]] {
        let (code, _, errors) = verify(data.path(), &[none]);
        assert_eq!(code, 2, "{errors}");
        assert!(errors.contains("--head"), "{errors}");
    }
    let (code, _, errors) = verify(&data.path().join("nowhere"), &[]);
    assert_eq!(code, 1);
    assert!(errors.contains("there is no data"), "{errors}");
}

/// Shows that a restored directory's log ends with the row of the restore, with the backup's time.
#[test]
fn a_restore_is_a_row() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(&data.path().join("data"), &[], ENV);
    act(&mut process.client(), 0);
    process.stop();
    let path = |name: &str| data.path().join(name).to_str().unwrap().to_owned();
    let (code, _, errors) = run(
        &["backup", &path("a.backup"), "--data-dir", &path("data")],
        &[],
    );
    assert_eq!(code, 0, "{errors}");
    let (code, out, errors) = run(
        &["restore", &path("a.backup"), "--data-dir", &path("new")],
        &[],
    );
    assert_eq!(code, 0, "{errors}");
    let rows = exported(&data.path().join("new"));
    let last = rows.last().unwrap();
    assert_eq!(
        (&last["action"], &last["actor"]),
        (&"data.restored".into(), &"operator".into())
    );
    let details: Value = serde_json::from_str(last["details"].as_str().unwrap()).unwrap();
    let made_at = details["made_at"].as_str().unwrap();
    assert!(
        out.contains(&format!("what was backed up at {made_at}")),
        "{out}"
    );
    let process = Process::start(&data.path().join("new"), &[], ENV);
    act(&mut process.client(), 1);
    process.stop();
    assert_eq!(verify(&data.path().join("new"), &[]).0, 0);
}
