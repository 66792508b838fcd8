//! `memoryos backup` and `memoryos restore`: what they say, what a kill leaves, a backup beside many writers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use super::{ADMIN, PATIENCE, Process, memory, memoryos, run, storm};
use crate::backups::make_large;

/// Every name below a folder.
fn listing(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    found
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn back_up(file: &Path, data: &Path) -> (i32, String, String) {
    run(&["backup", text(file), "--data-dir", text(data)], &[])
}

fn restore(file: &Path, data: &Path) -> (i32, String, String) {
    run(&["restore", text(file), "--data-dir", text(data)], &[])
}

fn check(data: &Path) {
    let (code, report, errors) = run(&["check", "--data-dir", text(data)], &[]);
    assert_eq!(code, 0, "{report}{errors}");
}

/// Starts a command and kills it when `event` happens. Returns whether it was still running.
fn kill_when(args: &[&str], event: impl Fn() -> bool) -> bool {
    let mut child = memoryos(args, &[]).spawn().unwrap();
    let until = Instant::now() + PATIENCE;
    while !event() && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < until, "nothing happens");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap().code().is_none()
}

/// Shows the way that the README names, with its words: back up, restore, serve; a file for its owner alone,
/// that no backup overwrites; directories in use or not empty refused with the way out.
#[test]
fn a_backup_is_restored_by_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let (data, file) = (folder.path().join("data"), folder.path().join("a.backup"));
    let (code, _, errors) = back_up(&file, &data);
    assert_eq!(code, 1);
    assert!(errors.contains("there is no data in"), "{errors}");
    assert!(!data.exists() && !file.exists());

    let process = Process::start(&data, &[], &[("ADMIN_KEY", ADMIN)]);
    let key = process.client().sign_up("bo@example.com", "Pro");
    let made = process
        .client()
        .with_key(&key, "POST", "/memory", Some(&memory("kept")));
    let entry = made.expect(201).body["entry"].clone();
    let (code, _, errors) = back_up(&file, &data);
    assert_eq!(code, 1);
    for words in ["in use", "POST /admin/backup"] {
        assert!(errors.contains(words), "{errors}");
    }
    let online = process
        .client()
        .as_admin("POST", "/admin/backup", None)
        .expect(201);
    let online = data.join("backups").join(online.str("file"));
    process.stop();

    let (code, told, errors) = back_up(&file, &data);
    assert_eq!(code, 0, "{errors}");
    let words: Vec<&str> = told.split_whitespace().collect();
    assert!(
        words.windows(2).any(|pair| pair == ["memories", "1"]),
        "{told}"
    );
    assert!(!errors.contains('%') && !errors.contains('\r'), "{errors}");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let [one, two] = [&online, &file].map(|path| fs::read(path).unwrap());
    assert!(one[52..] == two[52..], "online and offline differ");
    let (code, _, errors) = back_up(&file, &data);
    assert_eq!(code, 1);
    assert!(
        errors.contains("exists already; name a new file"),
        "{errors}"
    );
    assert_eq!(fs::read(&file).unwrap(), two);

    let (code, _, errors) = restore(&file, &data);
    assert_eq!(code, 1);
    assert!(errors.contains("holds data already"), "{errors}");
    let to = folder.path().join("restored");
    let mut damaged = two.clone();
    damaged[two.len() / 2] ^= 1;
    let bad = folder.path().join("bad.backup");
    fs::write(&bad, damaged).unwrap();
    let (code, _, errors) = restore(&bad, &to);
    assert_eq!(code, 1);
    assert_eq!(errors.trim().lines().count(), 1, "{errors}");
    assert!(errors.contains("is damaged") && !to.exists(), "{errors}");
    let (code, _, errors) = restore(&folder.path().join("none.backup"), &to);
    assert!(code == 1 && errors.contains("cannot read"), "{errors}");
    let (code, told, errors) = restore(&file, &to);
    assert_eq!(code, 0, "{errors}");
    assert!(told.contains("restored into"), "{told}");
    check(&to);
    let process = Process::start(&to, &[], &[]);
    let list = process.client().with_key(&key, "GET", "/memory", None);
    assert_eq!(list.expect(200).body["memories"], json!([entry]));
    process.stop();
}

/// Shows that a backup killed at any moment leaves no file under its name, or a whole one, that the next one
/// clears away what it left, and that the data is as it was.
#[test]
fn a_killed_backup_leaves_nothing_that_matters() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    make_large(&data, 20_000);
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    let mut killed = 0;
    for bytes in [0, 1, 100_000, 400_000] {
        let file = out.join(format!("at-{bytes}.backup"));
        let temporary = out.join(format!(".at-{bytes}.backup.tmp"));
        let args = ["backup", text(&file), "--data-dir", text(&data)];
        let is_there = || fs::metadata(&temporary).is_ok_and(|found| found.len() >= bytes);
        if kill_when(&args, is_there) && !file.exists() {
            assert!(temporary.exists(), "killed before it began");
            killed += 1;
        }
        if !file.exists() {
            let (code, _, errors) = back_up(&file, &data);
            assert_eq!(code, 0, "{errors}");
            assert!(
                errors.contains("left by a backup that was interrupted"),
                "{errors}"
            );
        }
        assert!(!temporary.exists());
        let to = folder.path().join(format!("restored-{bytes}"));
        let (code, told, errors) = restore(&file, &to);
        assert_eq!(code, 0, "{errors}");
        assert!(told.contains("20000"), "{told}");
    }
    assert!(killed > 0, "no backup was killed on its way");
    check(&data);
}

/// Shows that a restore killed at any moment is refused by a start, and finished by running it again.
#[test]
fn a_killed_restore_is_run_again() {
    let folder = tempfile::tempdir().unwrap();
    let (data, file) = (folder.path().join("data"), folder.path().join("a.backup"));
    make_large(&data, 20_000);
    let (code, _, errors) = back_up(&file, &data);
    assert_eq!(code, 0, "{errors}");
    let to = |n: usize| folder.path().join(format!("to-{n}"));
    let marked = |n: usize| to(n).join("restore.tmp").exists();
    let written = |n: usize| {
        let log = to(n).join("restore.tmp/db/db");
        fs::metadata(log).is_ok_and(|found| found.len() > 2_000_000)
    };
    let moved = |n: usize| to(n).join("db").exists();
    let events: [&dyn Fn(usize) -> bool; 3] = [&marked, &written, &moved];
    let mut killed = 0;
    for (n, event) in events.iter().enumerate() {
        let args = ["restore", text(&file), "--data-dir", text(&to(n))].map(str::to_owned);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        if !kill_when(&args, || event(n)) {
            // It was faster than the kill.
            check(&to(n));
            continue;
        }
        killed += 1;
        if to(n).join("FORMAT").exists() {
            // Between its last two steps: it is complete.
            assert!(moved(n));
        } else {
            let serving = ["--port", "0", "--data-dir", text(&to(n))].map(str::to_owned);
            let serving: Vec<&str> = serving.iter().map(String::as_str).collect();
            let (code, _, errors) = run(&serving, &[]);
            assert_eq!(code, 1);
            assert!(errors.contains("unfinished restore"), "{errors}");
            let (code, _, errors) = restore(&file, &to(n));
            assert_eq!(code, 0, "{errors}");
        }
        assert!(!to(n).join("restore.tmp").join("db").exists());
        check(&to(n));
    }
    assert!(killed > 0, "no restore was killed on its way");
    // What is refused stays as it is, name by name.
    let before = listing(&data);
    assert_eq!(restore(&file, &data).0, 1);
    assert_eq!(listing(&data), before);
}

/// Shows that a backup of the real process beside 16 writers brings back all that was acknowledged before it
/// began, sound.
#[test]
fn a_backup_beside_a_storm_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let process = Process::start(&data, &[], &[("ADMIN_KEY", ADMIN)]);
    let key = process.client().sign_up("storm@example.com", "Premium");
    let seen = storm(&process, 16, |n, client| {
        let mut kept = Vec::new();
        for round in 0..20 {
            let topic = format!("{n} {round}");
            let made = client
                .with_key(&key, "POST", "/memory", Some(&memory(&topic)))
                .expect(201);
            let id = made.body["entry"]["id"].as_str().unwrap().to_owned();
            let path = format!("/memory/{id}");
            match round % 4 {
                0 => drop(client.with_key(&key, "DELETE", &path, None).expect(200)),
                1 => {
                    let to = json!({"output": "changed"});
                    client.with_key(&key, "PATCH", &path, Some(&to)).expect(200);
                    kept.push(id);
                }
                _ => kept.push(id),
            }
            if n == 0 && round % 5 == 4 {
                // This writer's own, all acknowledged, are what it must find again.
                let made = client.as_admin("POST", "/admin/backup", None).expect(201);
                return (kept, Some(made.str("file")));
            }
        }
        (kept, None)
    });
    process.stop();
    let (own, file) = seen.into_iter().find(|(_, file)| file.is_some()).unwrap();
    let to = folder.path().join("restored");
    let (code, _, errors) = restore(&data.join("backups").join(file.unwrap()), &to);
    assert_eq!(code, 0, "{errors}");
    check(&to);
    let process = Process::start(&to, &[], &[]);
    let mut client = process.client();
    assert!(!own.is_empty());
    for id in own {
        client
            .with_key(&key, "GET", &format!("/memory/{id}"), None)
            .expect(200);
    }
    let credits = client.with_key(&key, "GET", "/credits", None).expect(200);
    let counted = credits.body["memory_usage"]["current_count"]
        .as_u64()
        .unwrap();
    let mut listed = 0;
    let mut page = 1;
    loop {
        let path = format!("/memory?limit=100&page={page}");
        let answer = client.with_key(&key, "GET", &path, None).expect(200);
        let found = answer.body["memories"].as_array().unwrap().len();
        listed += found;
        page += 1;
        if found < 100 {
            break;
        }
    }
    assert_eq!(u64::try_from(listed).unwrap(), counted);
    process.stop();
}

/// Shows that `serve --every 24h --keep 7` makes a backup that is due at its start, and says so.
#[test]
fn a_server_backs_up_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("out"));
    let args = ["--every", "24h", "--keep", "7", "--backup-dir", text(&out)];
    let process = Process::start(&data, &args, &[]);
    let line = process.log.wait_for("backed up to", PATIENCE).unwrap();
    assert!(line.contains("memoryos-auto-"), "{line}");
    let log = process.stop();
    assert!(
        log.contains("a backup every 1440 minutes, the newest 7 kept"),
        "{log}"
    );
    let made = listing(&out);
    assert_eq!(made.len(), 1);
    let (code, _, errors) = restore(&made[0], &folder.path().join("restored"));
    assert_eq!(code, 0, "{errors}");
}
