//! Backups made while others write, restored and compared; files that are not as they were written.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::*;
use crate::domain::event::Cause;
use crate::domain::key::KeyId;
use crate::domain::memory::MemoryId;
use crate::domain::plan::Plan;
use crate::store::archive::BACKUP_FORMAT;
use crate::store::directory::{BACKUPS_FOLDER, Making};
use crate::store::place::TargetError;
use crate::store::schema::{AccountRecord, AuditRow, Trees};
use crate::store::testing::{NOW, add, by, change, new_key, sign_up};
use crate::store::{
    ArchiveError, Erasure, KeyState, NameTaken, NewAccount, NewKey, OpError, OpenError, Options,
    ReplayRefusal, RestoreError, RestoreStep, Restored, restore,
};

/// Folders for a store, its backups and what is restored of them.
struct Folders(tempfile::TempDir);

impl Folders {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn open(&self, name: &str) -> Store {
        let (store, _) = Store::open(&self.path(name), Options::default()).unwrap();
        store
    }

    fn back_up(&self, store: &Store, name: &str) -> Backup {
        let path = self.path(name);
        store
            .back_up(&path, NOW, &mut |_, _| ControlFlow::Continue(()))
            .unwrap()
    }

    fn restore(&self, file: &str, to: &str) -> Result<Restored, RestoreError> {
        restore(&self.path(file), &self.path(to), NOW, &mut |_, _, _| {
            ControlFlow::Continue(())
        })
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// What a backup must bring back: every record of every tree but those that are derived anew.
fn facts(trees: &Trees) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let mut facts = Vec::new();
    for (name, tree) in [
        ("users", &trees.users),
        ("names", &trees.names),
        ("keys", &trees.keys),
        ("key_ids", &trees.key_ids),
        ("account_keys", &trees.account_keys),
        ("memories", &trees.memories),
        ("replays", &trees.replays),
        ("replay_times", &trees.replay_times),
        ("pieces", &trees.pieces),
        ("usage", &trees.usage),
        ("ledger", &trees.ledger),
        ("erased_ledger", &trees.erased_ledger),
        ("key_expiries", &trees.key_expiries),
        ("barred", &trees.barred),
        ("audit", &trees.audit),
    ] {
        for entry in tree {
            let (key, mut value) = entry.unwrap();
            if name == "pieces" && key.starts_with(b"s") {
                continue;
            }
            if name == "audit" {
                // What a restore itself puts there.
                let row: AuditRow = decode(&value).unwrap();
                if row.entry.action == "data.restored" {
                    continue;
                }
            }
            if name == "usage" {
                let mut usage: Usage = decode(&value).unwrap();
                usage.intents.clear();
                usage.stats_due = 0;
                usage.ledger.frozen = usage.ledger.gone();
                value = encode(&usage).unwrap().into();
            }
            facts.push((name, key.to_vec(), value.to_vec()));
        }
    }
    facts
}

fn sound(store: &Store) {
    let report = store.check(&|_| {}).unwrap();
    assert!(report.is_sound(), "{report}");
}

/// Fills a store with every kind of record: two accounts, a capped and a revoked key, long memories, changed
/// and deleted ones, recorded answers long and short.
async fn fill(store: &Store) -> (AccountKey, AccountKey) {
    let bo = sign_up(store, Some("bo@example.com"), 1_000, new_key("first")).await;
    let capped = NewKey {
        cap: Some(Plan::FREE),
        ..new_key("capped")
    };
    store
        .create_key(bo, capped, None, NOW, Cause::service())
        .await
        .unwrap();
    let third = store
        .create_key(bo, new_key("third"), None, NOW, Cause::service())
        .await
        .unwrap();
    let mut ids = Vec::new();
    for (n, (key_no, bytes)) in [(1, 10), (1, 30_000), (2, 10), (3, 20_000), (3, 10)]
        .into_iter()
        .enumerate()
    {
        ids.push(add(store, bo, key_no, n as u64 + 1, bytes).await);
    }
    store
        .revoke_key(bo, &third.id, false, NOW, by("admin"))
        .await
        .unwrap();
    change(store, bo, ids[0], 15_000).await;
    change(store, bo, ids[1], 10).await;
    store.delete_memory(bo, 1, ids[4], NOW).await.unwrap();
    store
        .change_plan(bo, Plan::PREMIUM, NOW, Cause::service())
        .await
        .unwrap();
    let nameless = sign_up(store, None, 2_000, new_key("other")).await;
    let ends = NewKey {
        expires_at: Some(NOW.plus_seconds(60)),
        ..new_key("ends")
    };
    store
        .create_key(nameless, ends, None, NOW, Cause::service())
        .await
        .unwrap();
    add(store, nameless, 1, 2, 10).await;
    // Rows of the ledger in both places, and some that are being moved.
    let inner = store.inner().unwrap();
    inner.move_ledger(bo).unwrap();
    change(store, bo, ids[0], 10).await;
    inner.swap_tail(bo, |usage| usage.ledger.freeze()).unwrap();
    inner.move_ledger(nameless).unwrap();
    store
        .suspend(nameless, true, NOW, by("admin"))
        .await
        .unwrap();
    sign_up(store, None, 3_000, new_key("idle")).await;
    let gone = sign_up(store, None, 4_000, new_key("gone")).await;
    add(store, gone, 1, 1, 10).await;
    let erasure = Erasure {
        by: None,
        account: gone,
        receipt: "rcpt_1".to_owned(),
        ledger_id: AccountKey([7; 16]),
        now: NOW,
        cause: by("admin"),
    };
    store.erase_account(erasure).await.unwrap();
    assert_eq!(store.trees().erased_ledger.len(), 2);
    (bo, nameless)
}

/// Shows that what is restored is what was backed up, record for record, sound, and that a backup of it is
/// the same bytes after the header; that names and keys are taken, and answers are given again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_restored_is_what_was_there() {
    let folders = Folders::new();
    let store = folders.open("data");
    let (bo, nameless) = fill(&store).await;
    let before = facts(&store.trees());
    let usage = store.usage(bo, NOW).unwrap();
    assert_eq!(
        store
            .inner()
            .unwrap()
            .usage(nameless)
            .unwrap()
            .intents
            .len(),
        1
    );
    let backup = tokio::task::block_in_place(|| folders.back_up(&store, "a.backup"));
    let contents = backup.contents;
    assert_eq!(
        (
            contents.accounts,
            contents.keys,
            contents.memories,
            contents.replays
        ),
        (3, 6, 5, 2)
    );
    let size = fs::metadata(folders.path("a.backup")).unwrap().len();
    assert_eq!(backup.file_bytes, size);
    drop(store);

    let restored = folders.restore("a.backup", "restored").unwrap();
    assert_eq!((restored.contents, restored.backed_up_at), (contents, NOW));
    assert_eq!(
        folders.names("restored"),
        ["FORMAT", "HIGH_WATER", "db", "lock"]
    );
    let store = folders.open("restored");
    sound(&store);
    assert!(facts(&store.trees()) == before);
    // As if a snapshot had just been taken: asking for aggregates counts nothing again.
    let head = store.inner().unwrap().stats_head(bo).unwrap().unwrap();
    assert_eq!((head.through, head.op), (usage.newest, usage.next_op - 1));
    assert_eq!(store.stats(bo).await.unwrap().total, 4);
    // All but the row that the restore itself put there.
    let (last, _) = store.trees().audit.last().unwrap().unwrap();
    store.trees().audit.remove(last).unwrap();
    let later = NOW.plus_seconds(60);
    let again = || {
        let path = folders.path("b.backup");
        store.back_up(&path, later, &mut |_, _| ControlFlow::Continue(()))
    };
    let second = tokio::task::block_in_place(again).unwrap();
    assert_eq!(second.contents.records, contents.records);
    let last = folders.path("c.backup");
    let again = || store.back_up(&last, NOW, &mut |_, _| ControlFlow::Continue(()));
    let third = tokio::task::block_in_place(again).unwrap();
    assert_eq!(third.contents, second.contents);
    let [a, b] = ["c.backup", "b.backup"].map(|name| fs::read(folders.path(name)).unwrap());
    assert!(a[..52] != b[..52] && a[52..] == b[52..]);

    let taken = store
        .create_account(NewAccount {
            account: AccountKey::new(9_000, 1),
            name: Some("bo@example.com".to_owned()),
            plan: Plan::FREE,
            key: new_key("new"),
            created_at: NOW,
            cause: Cause::service(),
        })
        .await;
    assert!(matches!(taken, Err(OpError::Refused(NameTaken::Name))));
    let state = |secret: &str| store.authenticate(&new_key(secret).hash, NOW).unwrap();
    assert!(matches!(state("capped"), Some(KeyState::Active(p)) if p.key_no == 2));
    assert!(matches!(state("third"), Some(KeyState::Revoked(p)) if p.account == bo));
    for account in [bo, nameless] {
        let replay = store.begin_replay(account, [7; 16], [8; 32], NOW).await;
        assert!(matches!(
            replay,
            Err(ReplayRefusal::Answered { status: 201, .. })
        ));
    }
    // Life goes on: ids and numbers go on from where they were.
    add(&store, bo, 1, 9, 10).await;
    drop(store);
    sound(&folders.open("restored"));
}

/// Shows that an empty store is backed up and restored too, and that a restored directory may have held old
/// backups, which stay.
#[test]
fn an_empty_store_comes_back() {
    let folders = Folders::new();
    folders.back_up(&folders.open("data"), "a.backup");
    let old = folders.path("restored").join(BACKUPS_FOLDER);
    fs::create_dir_all(&old).unwrap();
    fs::write(old.join("old.backup"), "old").unwrap();
    let restored = folders.restore("a.backup", "restored").unwrap();
    assert_eq!(restored.contents.records, 0);
    assert_eq!(
        folders.names("restored"),
        ["FORMAT", "HIGH_WATER", "backups", "db", "lock"]
    );
    assert_eq!(fs::read(old.join("old.backup")).unwrap(), b"old");
    sound(&folders.open("restored"));
}

/// Shows that a file with any byte changed, cut off anywhere or with something at its end is refused, and
/// that the directory is not even made.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_refused() {
    let folders = Folders::new();
    let store = folders.open("data");
    fill(&store).await;
    tokio::task::block_in_place(|| folders.back_up(&store, "a.backup"));
    let bytes = fs::read(folders.path("a.backup")).unwrap();
    let length = bytes.len();
    assert!(length > 1_000, "{length} bytes are too few to be changed");
    let refused = |changed: &[u8], what: String| {
        fs::write(folders.path("changed.backup"), changed).unwrap();
        let error = folders.restore("changed.backup", "new").expect_err(&what);
        let text = error.to_string();
        assert!(matches!(error, RestoreError::File(_)), "{what}: {text}");
        assert!(text.ends_with("; nothing was restored"), "{what}: {text}");
        assert!(!text.contains('\n') && !text.contains("bo@"), "{text}");
        assert!(!folders.path("new").exists(), "{what}");
    };
    // Both ends byte for byte, and 400 places between them; a fixed step walks through all of it.
    let ends = (0..80).chain(length - 180..length);
    let between = (0..400).map(|n: usize| 80 + n * 7_919 % (length - 260));
    for (n, at) in ends.chain(between).enumerate() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (n % 8);
        refused(&changed, format!("byte {at} of {length}"));
    }
    for cut in (0..60)
        .chain(length - 170..length)
        .chain((0..50).map(|n| n * length / 50))
    {
        refused(&bytes[..cut], format!("cut at {cut} of {length}"));
    }
    refused(&[&bytes[..], b"x"].concat(), "one byte more".to_owned());
    refused(&[&bytes[..], &bytes].concat(), "twice".to_owned());
    refused(b"PK not a backup at all", "another file".to_owned());
    assert_eq!(
        folders.restore("a.backup", "new").unwrap().backed_up_at,
        NOW
    );
}

/// Shows that a newer format is told as such, with the way out.
#[test]
fn a_newer_format_is_told() {
    use sha2::{Digest, Sha256};
    let folders = Folders::new();
    folders.back_up(&folders.open("data"), "a.backup");
    let mut bytes = fs::read(folders.path("a.backup")).unwrap();
    bytes[8..12].copy_from_slice(&(BACKUP_FORMAT + 1).to_be_bytes());
    let digest = Sha256::digest(&bytes[..20]);
    bytes[20..52].copy_from_slice(&digest);
    fs::write(folders.path("newer.backup"), bytes).unwrap();
    let error = folders.restore("newer.backup", "new").unwrap_err();
    let newer = matches!(
        &error,
        RestoreError::File(ArchiveError::NewerFormat {
            found: 3,
            known: 2,
            ..
        })
    );
    assert!(newer, "{error}");
    assert!(error.to_string().contains("use a newer release"), "{error}");
}

/// Shows that a directory with data, of somebody else or in use stays as it is, also when the file is good.
#[test]
fn a_directory_that_is_not_empty_is_refused() {
    let folders = Folders::new();
    let store = folders.open("data");
    folders.back_up(&store, "a.backup");
    let listing = folders.names("data");
    for in_use in [true, false] {
        let error = folders.restore("a.backup", "data").unwrap_err();
        let told = matches!(error, RestoreError::Target(TargetError::NotEmpty(_)));
        assert!(told, "in use {in_use}: {error}");
        assert_eq!(folders.names("data"), listing);
    }
    drop(store);
    fs::create_dir(folders.path("foreign")).unwrap();
    fs::write(folders.path("foreign").join("letter.txt"), "dear").unwrap();
    let error = folders.restore("a.backup", "foreign").unwrap_err();
    assert!(error.to_string().contains("is not empty"), "{error}");
    assert_eq!(folders.names("foreign"), ["letter.txt"]);
}

/// Shows that a restore that breaks off clears what it wrote, that one that was killed is told as such by a
/// start and an import, and that running it again finishes it.
#[test]
fn an_interrupted_restore_is_run_again() {
    let folders = Folders::new();
    let store = folders.open("data");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(fill(&store));
    folders.back_up(&store, "a.backup");
    let expected = facts(&store.trees());
    let mut steps = Vec::new();
    let stopped = restore(
        &folders.path("a.backup"),
        &folders.path("new"),
        NOW,
        &mut |step, _, _| {
            steps.push(step);
            match step {
                RestoreStep::Verifying => ControlFlow::Continue(()),
                RestoreStep::Writing => ControlFlow::Break(()),
            }
        },
    );
    assert!(matches!(stopped, Err(RestoreError::Stopped)));
    assert_eq!(steps, [RestoreStep::Verifying, RestoreStep::Writing]);
    assert_eq!(folders.names("new"), ["lock"]);

    // As a kill leaves it: the mark, half a database under it or in its place already.
    for half in ["restore.tmp/db", "db"] {
        let killed = folders.path("killed");
        fs::create_dir_all(killed.join(Making::Restore.mark())).unwrap();
        fs::create_dir_all(killed.join(half)).unwrap();
        fs::write(killed.join(half).join("conf"), "half").unwrap();
        let told = Store::open(&killed, Options::default()).unwrap_err();
        assert!(matches!(told, OpenError::UnfinishedRestore(_)), "{told}");
        assert!(
            told.to_string()
                .contains("run the same `memoryos restore` again")
        );
        let import = crate::store::target(&killed, &[0; 32]).unwrap_err();
        assert!(matches!(
            import,
            TargetError::Open(OpenError::UnfinishedRestore(_))
        ));
        folders.restore("a.backup", "killed").unwrap();
        let store = folders.open("killed");
        sound(&store);
        assert!(facts(&store.trees()) == expected);
        drop(store);
        fs::remove_dir_all(killed).unwrap();
    }
    let importing = folders.path("importing");
    fs::create_dir_all(importing.join(Making::Import.mark())).unwrap();
    let refused = folders.restore("a.backup", "importing").unwrap_err();
    assert!(
        refused.to_string().contains("unfinished import"),
        "{refused}"
    );
}

/// Shows that a backup of a store that stops its writes meanwhile, that is not wanted any more, or that finds
/// no space, ends with an error of its own and leaves nothing behind; and that it never overwrites.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_cannot_be_whole_is_none() {
    let folders = Folders::new();
    fs::create_dir(folders.path("out")).unwrap();
    let store = folders.open("data");
    let account = sign_up(&store, None, 1_000, new_key("k")).await;
    for n in 1..=5 {
        add(&store, account, 1, n, 10).await;
    }
    let path = folders.path("out").join("a.backup");
    let back_up = |step: &mut dyn FnMut(u64) -> ControlFlow<()>| {
        tokio::task::block_in_place(|| store.back_up(&path, NOW, &mut |done, _| step(done)))
    };
    let stopped = back_up(&mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(BackupError::Stopped)));
    assert_eq!(folders.names("out"), [""; 0]);
    store.set_reserve(u64::MAX);
    let full = back_up(&mut |_| ControlFlow::Continue(()));
    assert!(matches!(full, Err(BackupError::Full(_))), "{full:?}");
    assert_eq!(folders.names("out"), [""; 0]);
    store.set_reserve(0);
    fs::write(&path, "mine").unwrap();
    let exists = back_up(&mut |_| ControlFlow::Continue(()));
    assert!(matches!(exists, Err(BackupError::Exists(_))), "{exists:?}");
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    fs::remove_file(&path).unwrap();
    let nowhere = folders.path("nowhere").join("a.backup");
    let failed = tokio::task::block_in_place(|| {
        store.back_up(&nowhere, NOW, &mut |_, _| ControlFlow::Continue(()))
    });
    assert!(
        matches!(failed, Err(BackupError::File { .. })),
        "{failed:?}"
    );
    // At its last look everything is read, and nothing of it is proved to be on the disk.
    let failed = back_up(&mut |done| {
        if done == 5 {
            store.poison_for_test();
        }
        ControlFlow::Continue(())
    });
    let told = matches!(failed, Err(BackupError::Store(StoreError::Unavailable)));
    assert!(told, "{failed:?}");
    assert_eq!(folders.names("out"), [""; 0]);
}

/// Shows that what a reader would refuse is not written either: a memory whose piece is gone stops the backup.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_not_backed_up_in_silence() {
    let folders = Folders::new();
    let store = folders.open("data");
    let account = sign_up(&store, None, 1_000, new_key("k")).await;
    add(&store, account, 1, 1, 30_000).await;
    let pieces = &store.trees().pieces;
    let piece = pieces.scan_prefix(b"m").keys().nth(1).unwrap().unwrap();
    pieces.remove(piece).unwrap();
    let path = folders.path("a.backup");
    let failed = tokio::task::block_in_place(|| {
        store.back_up(&path, NOW, &mut |_, _| ControlFlow::Continue(()))
    });
    let text = failed.unwrap_err().to_string();
    assert!(
        text.contains(&account.anonymous_id()) && text.contains("memoryos check"),
        "{text}"
    );
    assert!(!path.exists());
}

/// Shows that two accounts with one name, which only somebody else can have written, are refused, and that
/// what was written by then is cleared away.
#[test]
fn a_name_that_comes_twice_is_refused() {
    let folders = Folders::new();
    let path = folders.path("twice.backup");
    let mut writer = Writer::start(fs::File::create(path).unwrap(), NOW).unwrap();
    for n in [1, 2] {
        let users = AccountRecord::new(Some("bo@example.com".to_owned()), NOW, vec![]);
        let usage = encode(&Usage::new(Plan::FREE, NOW)).unwrap();
        writer
            .put(Kind::Account, &[n; 16], &encode(&users).unwrap())
            .unwrap();
        writer.put(Kind::Usage, &[n; 16], &usage).unwrap();
    }
    writer.finish().unwrap();
    let error = folders.restore("twice.backup", "new").unwrap_err();
    assert!(matches!(error, RestoreError::Twice("a name")), "{error}");
    assert_eq!(folders.names("new"), ["lock"]);
}

/// Shows that a backup beside 8 writers who add, change, delete and make keys is sound when it is restored:
/// each account's counters fit its memories, and all that was acknowledged before it began is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_beside_writers_is_sound() {
    let folders = Folders::new();
    let store = folders.open("data");
    let mut accounts = Vec::new();
    for n in 0..8 {
        let key = new_key(&format!("key {n}"));
        accounts.push(sign_up(&store, None, 1_000 + n, key).await);
    }
    // As many rounds as it takes for each backup to meet writes.
    let rounds = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let acknowledged = Arc::new(std::sync::Mutex::new(Vec::<(AccountKey, MemoryId)>::new()));
    let mut writers = Vec::new();
    for (w, account) in accounts.iter().copied().enumerate() {
        let (store, rounds, stop) = (store.clone(), Arc::clone(&rounds), Arc::clone(&stop));
        let acknowledged = Arc::clone(&acknowledged);
        writers.push(tokio::spawn(async move {
            let mut n = 10;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                let bytes = if n % 5 == 0 { 20_000 } else { 20 };
                let kept = add(&store, account, 1, 2 * n, bytes).await;
                acknowledged.lock().unwrap().push((account, kept));
                let gone = add(&store, account, 1, 2 * n + 1, bytes).await;
                change(&store, account, gone, 9_000).await;
                store.delete_memory(account, 1, gone, NOW).await.unwrap();
                if n % 7 == 0 {
                    let key = new_key(&format!("writer {w} key {n}"));
                    let made = store
                        .create_key(account, key, None, NOW, Cause::service())
                        .await
                        .unwrap();
                    store
                        .revoke_key(account, &made.id, false, NOW, by("admin"))
                        .await
                        .unwrap();
                }
                let nobody = new_key(&format!("writer {w} account {n}"));
                sign_up(&store, None, 50_000 + n * 8 + w as u64, nobody).await;
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for round in 0..3 {
        let begun = rounds.load(Ordering::Relaxed) + 16;
        while rounds.load(Ordering::Relaxed) < begun {
            tokio::task::yield_now().await;
        }
        let before = acknowledged.lock().unwrap().clone();
        let (writing, path) = (store.clone(), folders.path(&format!("{round}.backup")));
        let made = tokio::task::spawn_blocking(move || {
            writing.back_up(&path, NOW, &mut |_, _| ControlFlow::Continue(()))
        });
        let made = made.await.unwrap().unwrap();
        let to = format!("restored {round}");
        let restored = tokio::task::block_in_place(|| {
            folders.restore(&format!("{round}.backup"), &to).unwrap()
        });
        assert_eq!(restored.contents, made.contents);
        let copy = folders.open(&to);
        sound(&copy);
        let health = copy.health();
        let totals = (health.memories, health.accounts);
        assert_eq!(totals, (made.contents.memories, made.contents.accounts));
        for (account, id) in before {
            assert!(
                copy.memory(account, id).unwrap().is_some(),
                "{id} is missing"
            );
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
}

/// Shows that after a restore an account's next event is told, although the log that came with it has one of the
/// same number: it was read when the log had gone on.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_after_a_restore_is_told() {
    let folders = Folders::new();
    let store = folders.open("data");
    let bo = sign_up(&store, None, 1_000, new_key("first")).await;
    let before = store
        .inner()
        .unwrap()
        .trees
        .users
        .get(bo.0)
        .unwrap()
        .unwrap();
    store.suspend(bo, true, NOW, by("admin")).await.unwrap();
    let told = store.audit_head().unwrap().no;
    // As if the account had been read before it was suspended.
    store.trees().users.insert(bo.0, before).unwrap();
    tokio::task::block_in_place(|| folders.back_up(&store, "a.backup"));
    folders.restore("a.backup", "restored").unwrap();
    let store = folders.open("restored");
    // The restore's own row.
    assert_eq!(store.audit_head().unwrap().no, told + 1);
    store.suspend(bo, true, NOW, by("admin")).await.unwrap();
    assert_eq!(store.audit_head().unwrap().no, told + 2);
    tokio::task::block_in_place(|| sound(&store));
}

/// Shows that a backup of format 1, of records from before the ledger, is restored sound: the counters are as
/// they were, and the ledger begins with them.
#[test]
fn a_backup_of_the_older_format_is_restored() {
    use sha2::{Digest, Sha256};
    let folders = Folders::new();
    let (path, account) = (folders.path("older.backup"), AccountKey([7; 16]));
    let older = |bytes: Vec<u8>| [vec![1], bytes].concat();
    let config = bincode::config::standard();
    let none: Option<String> = None;
    let users = (&none, NOW, vec![(1u32, [5u8; 32])]);
    let users = older(bincode::serde::encode_to_vec(users, config).unwrap());
    let end = crate::domain::cycle::boundary(NOW, 1);
    let share = (1u32, None::<u8>, 40u64, 90u64, 0u64, Some(NOW));
    let counters = (0u32, end, 10_000u64, 40u64, 90u64, 0u64, Some(NOW));
    let rest = (
        MemoryId::default(),
        1u64,
        2u32,
        0u64,
        vec![share],
        vec![(); 0],
    );
    let usage = (1u8, NOW, counters, rest);
    let usage = older(bincode::serde::encode_to_vec(usage, config).unwrap());
    let id = KeyId::generate().unwrap();
    let key = (
        account,
        1u32,
        &id,
        "masked",
        "described",
        NOW,
        &none,
        None::<()>,
    );
    let key = older(bincode::serde::encode_to_vec(key, config).unwrap());
    let mut writer = Writer::start(fs::File::create(&path).unwrap(), NOW).unwrap();
    writer.put(Kind::Account, &account.0, &users).unwrap();
    writer.put(Kind::Usage, &account.0, &usage).unwrap();
    writer.put(Kind::Key, &[5; 32], &key).unwrap();
    writer.finish().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[8..12].copy_from_slice(&1u32.to_be_bytes());
    let digest = Sha256::digest(&bytes[..20]);
    bytes[20..52].copy_from_slice(&digest);
    fs::write(&path, bytes).unwrap();
    folders.restore("older.backup", "restored").unwrap();
    let store = folders.open("restored");
    sound(&store);
    let usage = store.usage(account, NOW).unwrap();
    assert_eq!(
        (usage.granted, usage.used, usage.used_ever),
        (10_000, 40, 90)
    );
    let mut rows = Vec::new();
    let visit = |row: &crate::domain::ledger::LedgerRow| {
        rows.push((row.entry.name(), row.amount));
        ControlFlow::Continue(())
    };
    store.ledger(account, &usage, visit).unwrap();
    let opening = [
        ("opening", 10_000),
        ("opening_spent", -40),
        ("earlier_spent", -50),
    ];
    assert_eq!(rows, opening);
}
