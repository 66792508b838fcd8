//! Backups over HTTP and by the clock, and what a new service makes of them.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "a test that overflows fails, as it should"
)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memoryos::domain::account::AccountKey;
use memoryos::domain::event::Cause;
use memoryos::domain::json::Object;
use memoryos::domain::key::{KeyId, Secret};
use memoryos::domain::memory::{MemoryId, NewMemory};
use memoryos::domain::plan::{Operation, Plan};
use memoryos::domain::usage::Payer;
use memoryos::domain::usage::{Share, Usage};
use memoryos::store::{
    self, BulkAccount, BulkKey, BulkMemory, Options as StoreOptions, Store, Target,
};
use serde_json::json;

use crate::harness::{Server, assert_fields, assert_time, at, memory};

const NOW: &str = "2026-01-15T12:00:00+00:00";

/// Returns the files in a folder, sorted; none if it is not there.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Restores a backup and holds what comes of it sound.
fn restored(file: &Path, to: &Path) -> Store {
    let go_on = &mut |_, _, _| std::ops::ControlFlow::Continue(());
    store::restore(file, to, at(NOW), go_on).unwrap();
    let (store, _) = Store::open(to, StoreOptions::default()).unwrap();
    let report = store.check(&|_| {}).unwrap();
    assert!(report.is_sound(), "{report}");
    store
}

/// Makes a data directory with one account on Premium, which holds `count` memories of about 300 bytes.
pub(crate) fn make_large(data: &Path, count: u64) -> AccountKey {
    let Target::New(target) = store::target(data, &[7; 32]).unwrap() else {
        panic!("{} is not empty", data.display());
    };
    let mut bulk = target.start().unwrap();
    let account = AccountKey::new(1_000, 5);
    let id = KeyId::generate().unwrap();
    for n in 0..count {
        // No two are alike, and none is noise: about what people write.
        let words = [
            "coffee", "meeting", "train", "invoice", "garden", "draft", "birthday",
        ];
        let word = |k: u32| {
            let mixed = n.wrapping_mul(2_654_435_761).rotate_left(k);
            words[usize::try_from(mixed % 7).unwrap()]
        };
        let text: Vec<String> = (0..20)
            .map(|k| format!("{} {}", word(k), n ^ (u64::from(k) << 9)))
            .collect();
        let json = json!({
            "topic": word(1), "type": "note", "category": word(2), "input": text.join(", "),
            "output": "noted", "success": n % 3 > 0,
        });
        let memory = NewMemory::parse(Object::parse(json.to_string().as_bytes()).unwrap()).unwrap();
        bulk.put_memory(BulkMemory {
            account,
            key_no: 1,
            key_id: id.as_str(),
            id: MemoryId::new(at(NOW).millis() + n, 1 << 60),
            timestamp: at(NOW),
            memory: &memory,
        })
        .unwrap();
    }
    let mut usage = Usage::new(Plan::PREMIUM, at(NOW));
    usage.next_key_no = 2;
    usage.shares.push(Share::new(1, None));
    let secret = Secret::new("0123456789abcdef0123456789abcdef");
    bulk.put_account(BulkAccount {
        account,
        name: Some("large@example.com".to_owned()),
        created_at: at(NOW),
        usage,
        keys: vec![BulkKey {
            no: 1,
            hash: secret.hash(),
            id,
            masked: secret.masked(),
            description: String::new(),
            created_at: at(NOW),
            created_by: None,
            revoked: None,
        }],
    })
    .unwrap();
    bulk.build().unwrap().finish(&[7; 32]).unwrap();
    account
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_makes_a_backup_that_brings_everything_back() {
    // Shows every field of the answer, the file under the data directory, who may not, and that what is
    // restored answers: memories, credits, revoked keys, recorded answers, taken e-mails.
    let server = Server::spawn().await;
    let bo = server.account_of("bo@example.com", Plan::PRO).await;
    let gone = server.made(&bo.post("/apikey/new", &json!({})).await.ok(201));
    bo.delete(&format!("/apikey/{}", gone.key_id)).await.ok(200);
    bo.add("t").await;
    let retried = bo.with("idempotency-key", "once");
    let first = retried.post("/memory", &memory("once")).await.ok(201);
    let folder = server.data().join("backups");
    for nobody in [&server.anonymous(), &bo] {
        let answer = nobody.post("/admin/backup", &json!({})).await;
        answer.refused(403, "admin_required", "Admin access required");
    }
    let admin = server.admin();
    let wrong = admin
        .post("/admin/backup", &json!({"file": "/tmp/x"}))
        .await;
    wrong.bad_field("file");
    assert_eq!(names(&folder), [""; 0]);

    let made = admin
        .post("/admin/backup", &json!({}))
        .await
        .ok(201)
        .unmetered();
    let fields = [
        "message",
        "file",
        "bytes",
        "sha256",
        "accounts",
        "keys",
        "memories",
        "created_at",
        "seconds",
    ];
    assert_fields(&made.json, &fields);
    assert_time(&made.json["created_at"]);
    let file = made.json["file"].as_str().unwrap();
    assert_eq!(file, "memoryos-20260115T120000Z.backup");
    assert_eq!(names(&folder), [file]);
    let numbers = ["accounts", "keys", "memories"].map(|name| made.json[name].as_u64().unwrap());
    assert_eq!(numbers, [1, 2, 2]);
    let size = std::fs::metadata(folder.join(file)).unwrap().len();
    assert_eq!(made.json["bytes"], size);
    // The second of the same second gets a name of its own, and holds the same, but for the row of the audit
    // log that tells of it.
    let again = admin
        .send(http::Method::POST, "/admin/backup", "")
        .await
        .ok(201);
    assert_eq!(again.json["file"], "memoryos-20260115T120001Z.backup");
    let same = ["accounts", "keys", "memories"].map(|name| again.json[name].as_u64().unwrap());
    assert_eq!(same, numbers);

    let credits = bo.get("/credits").await.ok(200).json;
    let list = bo.get("/memory").await.ok(200).json["memories"].clone();
    let other = tempfile::tempdir().unwrap();
    let data = other.path().join("data");
    drop(restored(&folder.join(file), &data));
    let other = Server::spawn_on(other).await;
    let bo = other.key(&bo.key);
    assert_eq!(bo.get("/credits").await.ok(200).json, credits);
    let retried = bo.with("idempotency-key", "once");
    let replayed = retried.post("/memory", &memory("once")).await.ok(201);
    assert_eq!(replayed.header("idempotent-replayed"), Some("true"));
    assert_eq!(replayed.text, first.text);
    assert_eq!(bo.get("/memory").await.ok(200).json["memories"], list);
    assert_eq!(bo.get("/stats").await.ok(200).json["total_memories"], 2);
    let revoked = other.key(&gone.key).get("/credits").await;
    revoked.refused(401, "key_revoked", "Invalid API key");
    let taken = json!({"email": "bo@example.com"});
    let taken = other.anonymous().post("/signup", &taken).await;
    taken.refused(409, "user_exists", "User already exists");
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_take_turns() {
    // Shows that of many at once each is made whole or refused with a time to wait, and that a failed disk
    // is told as such and leaves nothing behind.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    bo.add("t").await;
    let admin = server.admin();
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let admin = admin.clone();
        asked.spawn(async move { admin.post("/admin/backup", &json!({})).await });
    }
    let mut made = 0;
    while let Some(answer) = asked.join_next().await {
        let answer = answer.unwrap();
        if answer.status == 201 {
            made += 1;
            continue;
        }
        let refused = answer.refused(409, "backup_in_progress", "Backup in progress");
        assert_eq!(refused.header("retry-after"), Some("30"));
    }
    assert!(made > 0);
    let folder = server.data().join("backups");
    let files = names(&folder);
    assert_eq!(files.len(), made);
    server.store().poison_for_test();
    let answer = admin.post("/admin/backup", &json!({})).await.ok(503);
    assert_eq!(answer.json["code"], "storage_unavailable");
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert_eq!(names(&folder), files);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_makes_the_backups_that_are_due() {
    // Shows that a server with --backup-every makes one at its start, in the folder that was named, and that
    // a restart before the next is due makes none.
    let folder = tempfile::tempdir().unwrap();
    let named = folder.path().join("elsewhere");
    let mut server = Server::spawn_backing_up(named.clone(), Duration::from_secs(3_600)).await;
    let auto = |n: u32| format!("memoryos-auto-20260115T1{n}0000Z.backup");
    wait_for(|| names(&named) == [auto(2)]).await;
    server.restart().await;
    server.account(Plan::FREE).await;
    server.clock.advance(3_600);
    server.restart().await;
    wait_for(|| names(&named) == [auto(2), auto(3)]).await;
    assert_eq!(names(&server.data().join("backups")), [""; 0]);
}

/// Waits for an event that no answer tells of; fails after a minute.
async fn wait_for(event: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !event() {
        assert!(Instant::now() < until, "it did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Bytes of all files below a folder.
fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| match entry.metadata().unwrap() {
            found if found.is_dir() => size(&entry.path()),
            found => found.len(),
        })
        .sum()
}

fn seconds<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let begun = Instant::now();
    let done = work();
    (done, begun.elapsed().as_secs_f64())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints the README's figures; minutes, and only true of a release build"]
#[expect(clippy::print_stdout, reason = "the figures")]
async fn figures() {
    // The README's figures: time and size of a backup and a restore of 200,000 memories, the longest wait for
    // a debit meanwhile, and what a restore and a compaction give back after a mass deletion.
    let memories = 200_000;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    let account = make_large(&path("data"), memories);
    let go_on = || |_: u64, _: u64| std::ops::ControlFlow::Continue(());
    let (store, _) = Store::open(&path("data"), StoreOptions::default()).unwrap();
    let other = new_account(&store).await;
    let making = tokio::task::spawn_blocking({
        let (store, file) = (store.clone(), path("a.backup"));
        move || seconds(|| store.back_up(&file, at(NOW), &mut go_on()).unwrap())
    });
    let mut longest = [Duration::ZERO; 2];
    while !making.is_finished() {
        for (account, longest) in [account, other].into_iter().zip(&mut longest) {
            let asked = Instant::now();
            store
                .debit(
                    account,
                    Payer::first(1),
                    (Operation::ReadMemory, 1),
                    at(NOW),
                )
                .await
                .unwrap();
            *longest = asked.elapsed().max(*longest);
        }
    }
    let (backup, took) = making.await.unwrap();
    println!("longest debit meanwhile: {longest:?} (its account, another)");
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let report = |text: String| println!("{text}");
    report(format!(
        "backup of {memories} memories: {took:.2} s, {} of {}",
        mib(backup.file_bytes),
        mib(backup.contents.bytes)
    ));
    let to = path("restored");
    let (restored_of, took) = seconds(|| restored_unchecked(&path("a.backup"), &to));
    assert_eq!(restored_of, memories);
    report(format!("restore: {took:.2} s, {}", mib(size(&to))));

    // Nine in ten go, by 64 callers at a time.
    let ids: Vec<MemoryId> = (0..memories)
        .filter(|n| n % 10 > 0)
        .map(|n| MemoryId::new(at(NOW).millis() + n, 1 << 60))
        .collect();
    let mut tasks = tokio::task::JoinSet::new();
    for chunk in ids.chunks(ids.len().div_ceil(64)) {
        let (store, chunk) = (store.clone(), chunk.to_vec());
        tasks.spawn(async move {
            for id in chunk {
                store.delete_memory(account, 1, id, at(NOW)).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    let second = tokio::task::block_in_place(|| {
        store
            .back_up(&path("b.backup"), at(NOW), &mut go_on())
            .unwrap()
    });
    drop(store);
    let before = size(&path("data"));
    let after = path("after");
    drop(restored(&path("b.backup"), &after));
    report(format!(
        "after deleting nine in ten: {} before, {} restored, {} memories",
        mib(before),
        mib(size(&after)),
        second.contents.memories
    ));
    let go_on = &mut |_, _, _| std::ops::ControlFlow::Continue(());
    let compact = || store::compact(&path("data"), StoreOptions::default(), go_on).unwrap();
    let (compacted, took) = seconds(compact);
    report(format!(
        "compacted in {took:.2} s: {} before, {} after",
        mib(compacted.before_bytes),
        mib(compacted.after_bytes)
    ));
}

async fn new_account(store: &Store) -> AccountKey {
    let secret = Secret::new("another-key-0123456789");
    let new = store::NewAccount {
        account: AccountKey::new(2_000, 6),
        name: None,
        plan: Plan::PREMIUM,
        key: store::NewKey {
            hash: secret.hash(),
            id: KeyId::generate().unwrap(),
            masked: secret.masked(),
            description: String::new(),
            cap: None,
            credits_cap: None,
            scopes: None,
            expires_at: None,
        },
        created_at: at(NOW),
        cause: Cause::service(),
    };
    store.create_account(new).await.unwrap().account
}

fn restored_unchecked(file: &Path, to: &Path) -> u64 {
    let go_on = &mut |_, _, _| std::ops::ControlFlow::Continue(());
    store::restore(file, to, at(NOW), go_on)
        .unwrap()
        .contents
        .memories
}
