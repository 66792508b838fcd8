//! How operations are admitted and how they take turns.

use super::testing::{NOW, add, new_key, sign_up};
use super::*;
use crate::domain::event::Cause;
use crate::domain::plan::Operation;
use crate::domain::usage::{Payer, Refusal};

async fn store(options: Options) -> (tempfile::TempDir, Store, AccountKey) {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path(), options).unwrap();
    let account = sign_up(&store, None, 1_000, new_key("a-key")).await;
    (directory, store, account)
}

/// Shows that a step that lost every race is done alone, and is not refused.
#[tokio::test]
async fn a_lost_race_takes_the_lock() {
    let (_directory, store, account) = store(Options::default()).await;
    let mut tries = 0;
    let step = || {
        tries += 1;
        if tries == 1 {
            Err(SwapError::<Refusal>::Contended)
        } else {
            Ok("done")
        }
    };
    assert_eq!(
        store
            .inner()
            .unwrap()
            .run_shared(account, step)
            .await
            .unwrap(),
        "done"
    );
    assert_eq!(tries, 2);
}

/// Shows that a read is charged on the disk soon after, although a write of another account was flushed in between
/// and nothing comes after.
#[tokio::test]
async fn a_read_beside_a_write_is_written_soon() {
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
    let (_directory, store, reader) = store(Options::default()).await;
    let writer = sign_up(&store, None, 2_000, new_key("b-key")).await;
    let read = (Operation::ReadMemory, 1);
    let debited = store.debit(reader, Payer::first(1), read, NOW).await;
    assert_eq!(debited.unwrap().balance.credits_used, 1);
    add(&store, writer, 1, 1, 10).await;
    let inner = store.inner().unwrap();
    let in_tree = || {
        let bytes = inner.trees.usage.get(reader.0).unwrap().unwrap();
        usage::decode_usage(&bytes, inner.plans).unwrap().used
    };
    let started = std::time::Instant::now();
    while in_tree() == 0 {
        assert!(started.elapsed() < PATIENCE, "it is never written");
        std::thread::yield_now();
    }
    assert_eq!(in_tree(), 1);
}

/// Shows that a thousand swaps of one record by eight threads are a thousand swaps.
#[test]
fn racing_swaps_lose_nothing() {
    let db = sled::Config::new().temporary(true).open().unwrap();
    let count = |bytes: Option<&[u8]>| bytes.map_or(0, |bytes| codec::decode(bytes).unwrap());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut done = 0;
                while done < 1_000 {
                    let swapped = swap::swap::<_, Refusal>(&db, b"n", |current| {
                        Ok((Some(codec::encode(&(count(current) + 1u64))?), ()))
                    });
                    match swapped {
                        Ok(()) => done += 1,
                        Err(SwapError::Contended) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            });
        }
    });
    assert_eq!(count(db.get(b"n").unwrap().as_deref()), 8_000);
}

/// Shows that a write waits five seconds for its turn among an account's writes, and no longer.
#[tokio::test]
async fn a_busy_account_is_waited_for() {
    let (_directory, store, account) = store(Options::default()).await;
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    let busy = || Err::<(), _>(SwapError::Refused(Refusal::Busy));
    let refused = store.inner().unwrap().run_write(account, busy).await;
    assert!(matches!(
        refused,
        Err(OpError::Store(StoreError::Overloaded))
    ));
    assert_eq!(started.elapsed().as_secs(), 5);
    let mut tries = 0;
    let free_at_last = || {
        tries += 1;
        if tries < 10 {
            Err(SwapError::Refused(Refusal::Busy))
        } else {
            Ok(tries)
        }
    };
    assert_eq!(
        store
            .inner()
            .unwrap()
            .run_write(account, free_at_last)
            .await
            .unwrap(),
        10
    );
}

/// Shows that a write beyond those that may wait is refused before anything is changed.
#[tokio::test]
async fn too_many_waiting_writes_are_refused() {
    let options = Options {
        waiting_writes_max: 1,
        ..Options::default()
    };
    let (_directory, store, account) = store(options).await;
    let before = store.usage(account, NOW).unwrap();
    let inner = store.inner().unwrap();
    let ticket = inner.admit().unwrap();
    let refused = store
        .change_plan(
            account,
            crate::domain::plan::Plan::PREMIUM,
            NOW,
            Cause::service(),
        )
        .await;
    assert!(matches!(refused, Err(StoreError::Overloaded)));
    assert_eq!(store.usage(account, NOW).unwrap(), before);
    drop(ticket);
    add(&store, account, 1, 1, 10).await;
    assert_eq!(store.usage(account, NOW).unwrap().held, 1);
}

/// Shows that a sweep removes the answers that are a day old, pieces and all, and leaves the others, and
/// that a time whose answer was given anew is no reason to remove the new one.
#[tokio::test]
async fn a_sweep_removes_what_has_expired() {
    let (_directory, store, account) = store(Options::default()).await;
    let memory = testing::memory("a", 10);
    let hour = |n: i64| NOW.plus_seconds(n * 3_600);
    let answer = async |key: u8, at: i64, body: &str| {
        let begun = store.begin_replay(account, [key; 16], [8; 32], hour(at));
        let replay = begun.await.unwrap();
        let add = AddMemory {
            account,
            payer: crate::domain::usage::Payer::first(1),
            key_id: "key_000000000000",
            memory: &memory,
            id: crate::domain::memory::MemoryId::new(hour(at).millis(), 1),
            cost: 2,
            now: hour(at),
            replay: Some(&replay),
        };
        let body = body.to_owned();
        let respond = |_: &Added| body.clone();
        store.add_memory(add, respond).await.unwrap();
    };
    let again = async |key: u8, at: i64| {
        let replay = store.begin_replay(account, [key; 16], [8; 32], hour(at));
        match replay.await {
            Err(ReplayRefusal::Answered { body, .. }) => Some(body),
            Ok(_) => None,
            Err(error) => panic!("{error}"),
        }
    };
    let long = "x".repeat(20_000);
    answer(1, 0, &long).await;
    answer(2, 1, "second").await;
    assert_eq!(store.sweep_replays(hour(23)).await.unwrap(), 0);
    assert_eq!(again(1, 23).await.as_deref(), Some(long.as_str()));
    // Expired, and used anew before it was swept.
    answer(1, 24, "anew").await;
    assert_eq!(store.sweep_replays(hour(24)).await.unwrap(), 1);
    assert_eq!(again(1, 24).await.as_deref(), Some("anew"));
    assert_eq!(again(2, 24).await.as_deref(), Some("second"));
    assert_eq!(store.sweep_replays(hour(25)).await.unwrap(), 1);
    assert_eq!(again(2, 25).await, None);
    let trees = store.trees();
    assert_eq!((trees.replays.len(), trees.replay_times.len()), (1, 1));
    assert!(trees.pieces.is_empty());
    assert_eq!(store.sweep_replays(hour(48)).await.unwrap(), 1);
    assert!(trees.replays.is_empty() && trees.replay_times.is_empty());
}

/// Shows that a first start that died at any point before its database was on the disk is simply begun
/// again, and that from then on the database may not be missing.
#[test]
fn a_first_start_that_died_is_begun_again() {
    for files in [
        &["NEW"][..],
        &["NEW", "FORMAT.tmp"],
        &["NEW", "FORMAT"],
        &["NEW", "FORMAT", "db/db"],
    ] {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            let path = directory.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let text = if *file == "FORMAT" {
                "memoryos 1\n"
            } else {
                ""
            };
            std::fs::write(path, text).unwrap();
        }
        drop(Store::open(directory.path(), Options::default()).unwrap());
        assert!(!directory.path().join("NEW").exists(), "{files:?}");
        std::fs::remove_dir_all(directory.path().join("db")).unwrap();
        let refused = Store::open(directory.path(), Options::default()).unwrap_err();
        assert!(matches!(refused, OpenError::NoDatabase(_)), "{refused}");
    }
}
