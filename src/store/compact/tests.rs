//! Compaction: what it keeps, what it gives back, and what a crash at each of its steps leaves.

use std::collections::BTreeMap;

use super::*;
use crate::domain::account::AccountKey;
use crate::domain::event::Cause;
use crate::domain::usage::Usage;
use crate::store::testing::{NOW, add, add_text, change, close, copy_directory, new_key, sign_up};
use crate::store::{ResidueText, find_residue};

/// What was written to a memory that is deleted before the compaction.
const DELETED: &str = "a sentence that was deleted";

type Records = BTreeMap<(String, Vec<u8>), Vec<u8>>;

/// Two accounts with everything that a store can hold, closed.
async fn data(path: &Path) {
    let (store, _) = Store::open(path, Options::default()).unwrap();
    let account = sign_up(&store, Some("bo@example.com"), 1_000, new_key("first-key")).await;
    let other = sign_up(&store, None, 2_000, new_key("other-key")).await;
    let first = store.keys(account, NOW).unwrap().remove(0).id;
    store
        .create_key(account, new_key("second-key"), None, NOW, Cause::service())
        .await
        .unwrap();
    for n in 1..30 {
        // The second one has a recorded answer.
        add(&store, account, 1 + u32::from(n % 2 == 0), n, 50).await;
    }
    let long = add(&store, account, 1, 40, 20_000).await;
    {
        // Aggregates are saved, and what changes afterwards is in their journal.
        let inner = store.inner().unwrap();
        let due = |usage: &mut Usage| {
            usage.stats_due = 0;
            Ok(())
        };
        inner
            .swap_usage::<_, std::convert::Infallible>(account, due)
            .unwrap();
        inner.save_stats(account).unwrap();
    }
    change(&store, account, long, 15_000).await;
    for n in 50..60 {
        let id = add_text(&store, account, n, DELETED).await;
        store.delete_memory(account, 1, id, NOW).await.unwrap();
    }
    store
        .revoke_key(account, &first, false, NOW, Cause::service())
        .await
        .unwrap();
    add(&store, other, 1, 70, 9_000).await;
    close(store).await;
}

/// Every record of every tree but the counter, which each open counts up. The store must be sound.
fn records(path: &Path) -> Records {
    let (store, _) = Store::open(path, Options::default()).unwrap();
    let report = store.check(&|_| ()).unwrap();
    assert!(report.is_sound(), "{report}");
    let db = store.inner().unwrap().db.clone();
    let mut records = Records::new();
    for name in db.tree_names() {
        if name == high_water::TREE.as_bytes() {
            continue;
        }
        let tree = String::from_utf8(name.to_vec()).unwrap();
        for entry in &db.open_tree(name).unwrap() {
            let (key, value) = entry.unwrap();
            records.insert((tree.clone(), key.to_vec()), value.to_vec());
        }
    }
    records
}

fn compact_whole(path: &Path) -> Compacted {
    compact(path, Options::default(), &mut |_, _, _| {
        ControlFlow::Continue(())
    })
    .unwrap()
}

fn is_clean(path: &Path) -> bool {
    let text = ResidueText::parse(DELETED).unwrap();
    find_residue(path, Options::default(), &text, &mut |_, _, _| ())
        .unwrap()
        .is_clean()
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Shows that a compaction keeps every record, and that whatever a crash at any of its steps leaves opens with every
/// record too, and leaves nothing of the deleted once it is compacted.
#[tokio::test]
async fn a_crash_at_each_step_keeps_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    data(&path).await;
    let whole = records(&path);
    let accounts = whole.keys().filter(|(tree, _)| tree == "users").count();
    assert_eq!(accounts, 2);
    assert!(whole.keys().any(|(tree, _)| tree == "replays"));
    assert!(whole.keys().any(|(tree, _)| tree == "stats_journal"));
    assert!(!is_clean(&path), "the deleted is not in the files before");
    let listed = names(&path);

    let mut images = Vec::new();
    let mut copy = |step: CompactStep, done: u64, all: u64| {
        let image = folder.path().join(format!("{step:?}-{done}-{all}"));
        if !image.exists() {
            copy_directory(&path, &image);
            images.push((step, image));
        }
        ControlFlow::Continue(())
    };
    let compacted = compact(&path, Options::default(), &mut copy).unwrap();
    assert!(is_clean(&path), "the deleted is in the files afterwards");
    assert_eq!(records(&path), whole);
    assert_eq!(names(&path), listed);
    assert_eq!(compacted.records, whole.len() as u64 + 1);
    assert_eq!(compacted.backups, 0);

    // What no moment of the above shows: the new one in its place, the mark and the sweep still to come or half done.
    let (_, moved) = images
        .iter()
        .find(|(step, _)| *step == CompactStep::Moving)
        .unwrap();
    let (_, replaced) = images
        .iter()
        .find(|(step, _)| *step == CompactStep::Removing)
        .unwrap();
    let unmarked = folder.path().join("unmarked");
    copy_directory(moved, &unmarked);
    fs::rename(unmarked.join("compact.tmp/db"), unmarked.join("db")).unwrap();
    let half_removed = folder.path().join("half-removed");
    copy_directory(replaced, &half_removed);
    fs::remove_file(half_removed.join("compact.tmp/old/db")).unwrap();
    images.push((CompactStep::Removing, unmarked));
    images.push((CompactStep::Removing, half_removed));

    let mut seen = Vec::new();
    for (step, image) in images {
        let at_start = names(&image);
        let has_database = at_start.iter().any(|name| name == "db");
        assert_eq!(has_database, step != CompactStep::Moving, "{image:?}");
        assert_eq!(records(&image), whole, "{image:?}");
        assert_eq!(names(&image), listed, "{image:?}");
        compact_whole(&image);
        assert!(is_clean(&image), "{image:?}");
        assert_eq!(records(&image), whole, "{image:?}");
        seen.push(step);
    }
    seen.dedup();
    let steps = [
        CompactStep::Measuring,
        CompactStep::Writing,
        CompactStep::Comparing,
        CompactStep::Replacing,
        CompactStep::Moving,
        CompactStep::Removing,
    ];
    assert_eq!(seen, steps);
}

/// Shows that a compaction that is stopped, has no room, or finds the directory in use or empty changes nothing.
#[tokio::test]
async fn what_is_refused_or_stopped_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    data(&path).await;
    let (whole, listed) = (records(&path), names(&path));
    for step in [
        CompactStep::Measuring,
        CompactStep::Writing,
        CompactStep::Comparing,
    ] {
        let stop = &mut |now, _, _| {
            if now == step {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let stopped = compact(&path, Options::default(), stop);
        assert!(matches!(stopped, Err(CompactError::Stopped)), "{stopped:?}");
        assert_eq!(names(&path), listed);
    }
    let go_on = &mut |_, _, _| ControlFlow::Continue(());
    let full = Options {
        reserve_bytes: u64::MAX / 2,
        ..Options::default()
    };
    let refused = compact(&path, full, go_on).unwrap_err().to_string();
    assert!(
        refused.contains("nothing was changed: make room"),
        "{refused}"
    );
    let none = compact(&folder.path().join("none"), Options::default(), go_on).unwrap_err();
    assert!(
        none.to_string().starts_with("there is no data in"),
        "{none}"
    );
    assert!(!folder.path().join("none").exists());
    let (store, _) = Store::open(&path, Options::default()).unwrap();
    let in_use = compact(&path, Options::default(), go_on);
    assert!(matches!(
        in_use,
        Err(CompactError::Open(OpenError::Locked(_)))
    ));
    drop(store);
    assert_eq!(names(&path), listed);
    assert_eq!(records(&path), whole);
}

/// Shows that space is given back, that what interrupted commands left goes and a backup stays, and that a
/// directory without a database is not taken for one whose compaction was interrupted.
#[tokio::test]
async fn space_and_left_overs_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    data(path).await;
    {
        let (store, _) = Store::open(path, Options::default()).unwrap();
        let spare = store.inner().unwrap().db.open_tree("spare").unwrap();
        for n in 0..20_000u32 {
            spare.insert(n.to_be_bytes(), vec![7; 500]).unwrap();
        }
        for n in 0..20_000u32 {
            spare.remove(n.to_be_bytes()).unwrap();
        }
    }
    let backups = path.join(BACKUPS_FOLDER);
    fs::create_dir(&backups).unwrap();
    for name in ["kept.backup", ".memoryos-auto-x.backup.tmp"] {
        fs::write(backups.join(name), DELETED).unwrap();
    }
    fs::write(path.join("write.tmp"), DELETED).unwrap();
    fs::create_dir(path.join("restore.tmp")).unwrap();
    let compacted = compact_whole(path);
    let Compacted {
        before_bytes,
        after_bytes,
        ..
    } = compacted;
    // How much of the 10 MB is left before it is chance: sled cuts its file off behind the last segment in use.
    assert!(
        before_bytes > after_bytes && after_bytes < 3 << 20,
        "{compacted:?}"
    );
    assert_eq!(compacted.backups, 1);
    assert_eq!(names(&backups), ["kept.backup"]);
    let left = names(path);
    assert!(!left.iter().any(|name| name.contains("tmp")), "{left:?}");
    assert!(!is_clean(path), "the backup holds it");
    fs::remove_file(backups.join("kept.backup")).unwrap();
    assert!(is_clean(path));

    fs::remove_dir_all(path.join("db")).unwrap();
    fs::create_dir_all(path.join("compact.tmp/db")).unwrap();
    let gone = Store::open(path, Options::default());
    assert!(matches!(gone, Err(OpenError::NoDatabase(_))), "{gone:?}");
}

/// Shows that a new database that differs, or that lost its end, is not taken: a record changed, gone, too many,
/// and a whole tree.
#[test]
fn a_database_that_differs_is_found() {
    let (old, new) = (temporary(), temporary());
    let folder = tempfile::tempdir().unwrap();
    let (directory, _) = DataDirectory::take(folder.path()).unwrap();
    let differs = |old: &sled::Db, new: &sled::Db| {
        let mut work = Work {
            directory: &directory,
            options: Options::default(),
            progress: &mut |_, _, _| ControlFlow::Continue(()),
            all: 0,
        };
        match work.compare(old, new) {
            Ok(()) => None,
            Err(CompactError::Differs(tree)) => Some(tree),
            Err(other) => panic!("{other}"),
        }
    };
    for db in [&old, &new] {
        for n in 0..10u8 {
            db.open_tree("numbers").unwrap().insert([n], &[n]).unwrap();
        }
    }
    assert_eq!(differs(&old, &new), None);
    let numbers = new.open_tree("numbers").unwrap();
    for change in [
        (3, Some(vec![4])),
        (9, None),
        (0, None),
        (10, Some(vec![10])),
    ] {
        let (key, value) = change;
        match value {
            Some(value) => numbers.insert([key], value).unwrap(),
            None => numbers.remove([key]).unwrap(),
        };
        assert_eq!(differs(&old, &new).as_deref(), Some("numbers"), "{key}");
        match old.open_tree("numbers").unwrap().get([key]).unwrap() {
            Some(value) => numbers.insert([key], value).unwrap(),
            None => numbers.remove([key]).unwrap(),
        };
        assert_eq!(differs(&old, &new), None);
    }
    old.open_tree("more").unwrap();
    assert_eq!(differs(&old, &new).as_deref(), Some("list of trees"));
}

fn temporary() -> sled::Db {
    sled::Config::new().temporary(true).open().unwrap()
}

/// Shows that the copy has counted beyond what the old database ever had: a mark it would fail to reach is refused.
#[tokio::test]
async fn the_high_water_mark_is_reached() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    data(path).await;
    let before = high_water::read(path).unwrap();
    compact_whole(path);
    let after = high_water::read(path).unwrap();
    assert!(after > before, "{before} {after}");
    let _: AccountKey = Store::open(path, Options::default())
        .unwrap()
        .0
        .accounts_after(None, 1)
        .unwrap()[0];
}
