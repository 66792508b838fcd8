//! What is noticed, and that nothing else is.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use super::*;
use crate::store::testing::{NOW, new_key, sign_up};
use crate::store::{Options, Store};

/// A closed store with an account, as a kill leaves it: without sled's snapshot.
async fn closed() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path(), Options::default()).unwrap();
    sign_up(&store, None, 1_000, new_key("a-key")).await;
    drop(store);
    remove_snapshots(directory.path());
    directory
}

fn remove_snapshots(directory: &Path) {
    for entry in fs::read_dir(directory.join("db")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

/// Flips a bit of the first record of the log, right behind the head of its segment.
fn flip(directory: &Path) {
    let log = directory.join("db/db");
    let mut bytes = fs::read(&log).unwrap();
    bytes[40] ^= 1;
    fs::write(log, bytes).unwrap();
}

fn open(directory: &Path) -> Result<u64, OpenError> {
    let (store, _) = Store::open(directory, Options::default())?;
    Ok(store.health().accounts)
}

/// Shows that a flipped bit early in the log, behind which sled drops everything, is noticed at each open
/// until a repair goes on with what is left, and not after it.
#[tokio::test]
async fn a_log_that_lost_its_end_is_refused() {
    let directory = closed().await;
    let path = directory.path();
    assert_eq!(open(path).unwrap(), 1);
    let directory = closed().await;
    let path = directory.path();
    flip(path);
    let marked = read(path).unwrap();
    for _ in 0..2 {
        let refused = open(path).unwrap_err();
        assert!(matches!(refused, OpenError::Lost(_)), "{refused}");
        let text = refused.to_string();
        assert!(text.contains("restore a backup"), "{text}");
        assert!(text.contains("memoryos check --repair"), "{text}");
        // Neither does a check that repairs nothing go on.
        let refused = Store::open_to_check(path, Options::default()).unwrap_err();
        assert!(matches!(refused, OpenError::Lost(_)), "{refused}");
        assert_eq!(read(path), Some(marked));
    }
    let (store, _) = Store::open_damaged(path, Options::default()).unwrap();
    assert_eq!(store.health().accounts, 0);
    assert!(read(path).unwrap() > marked);
    drop(store);
    assert_eq!(open(path).unwrap(), 0);
}

/// Shows that a file that is missing, torn or older is no reason to refuse, and is set anew.
#[tokio::test]
async fn a_mark_that_says_less_opens() {
    let directory = closed().await;
    let path = directory.path();
    let file = path.join(MARK_FILE);
    let whole = fs::read_to_string(&file).unwrap();
    let number = parse(&whole).unwrap();
    assert!(number >= 2, "{whole}");
    let older = Mark {
        folder: path.to_owned(),
        number: 1,
    };
    for text in [
        "",
        &whole[..whole.len() / 2],
        "99999999 00000000\n",
        "99999999\n",
        &older.text(),
    ] {
        fs::write(&file, text).unwrap();
        assert_eq!(open(path).unwrap(), 1, "{text:?}");
        assert!(read(path).unwrap() > number, "{text:?}");
    }
    fs::write(&file, [0xFF; 100]).unwrap();
    assert_eq!(open(path).unwrap(), 1);
    fs::remove_file(&file).unwrap();
    assert_eq!(open(path).unwrap(), 1);
    assert!(read(path).unwrap() > number);
}

/// Shows that the file never says more than the database has counted, and as much at a clean close.
#[tokio::test]
async fn the_mark_is_raised_at_open_and_close() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path(), Options::default()).unwrap();
    let opened = read(directory.path()).unwrap();
    assert_eq!(opened, 1);
    sign_up(&store, None, 1_000, new_key("a-key")).await;
    drop(store);
    assert_eq!(read(directory.path()), Some(2));
    // Nothing is written: only the open counts.
    open(directory.path()).unwrap();
    assert_eq!(read(directory.path()), Some(3));
}

/// Shows that after a failure the file stays as it is, and that the database opens again.
#[tokio::test]
async fn a_poisoned_store_raises_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path(), Options::default()).unwrap();
    sign_up(&store, None, 1_000, new_key("a-key")).await;
    store.poison_for_test();
    store.reopen().unwrap();
    assert_eq!(read(directory.path()), Some(2));
    store.poison_for_test();
    drop(store);
    assert_eq!(read(directory.path()), Some(2));
    assert_eq!(open(directory.path()).unwrap(), 1);
}

/// Shows that a directory that was only just restored is watched too.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_log_that_lost_its_end_is_refused() {
    let directory = closed().await;
    let (file, restored) = (
        directory.path().join("a.backup"),
        directory.path().join("new"),
    );
    let (store, _) = Store::open(directory.path(), Options::default()).unwrap();
    let go_on = &mut |_, _| ControlFlow::Continue(());
    tokio::task::block_in_place(|| store.back_up(&file, NOW, go_on)).unwrap();
    crate::store::restore(&file, &restored, NOW, &mut |_, _, _| {
        ControlFlow::Continue(())
    })
    .unwrap();
    remove_snapshots(&restored);
    assert_eq!(read(&restored), Some(1));
    flip(&restored);
    let refused = open(&restored).unwrap_err();
    assert!(matches!(refused, OpenError::Lost(_)), "{refused}");
}

/// Shows that the mark is raised while there are writes, and that a kill right after it is none the worse.
#[tokio::test]
async fn the_mark_is_raised_while_there_are_writes() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path(), Options::default()).unwrap();
    let started = std::time::Instant::now();
    let mut accounts = 0;
    while read(directory.path()) == Some(1) {
        assert!(started.elapsed().as_secs() < 60, "it was not raised");
        accounts += 1;
        let key = new_key(&format!("key-{accounts}"));
        sign_up(&store, None, 1_000 + accounts, key).await;
    }
    let killed = tempfile::tempdir().unwrap();
    fs::create_dir_all(killed.path().join("db/blobs")).unwrap();
    for file in ["FORMAT", "HIGH_WATER", "db/db", "db/conf"] {
        fs::copy(directory.path().join(file), killed.path().join(file)).unwrap();
    }
    assert_eq!(open(killed.path()).unwrap(), accounts);
}
