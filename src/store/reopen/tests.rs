//! A database that is opened anew while it is used.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::domain::account::AccountKey;
use crate::domain::event::Cause;
use crate::domain::json::Object;
use crate::domain::memory::{MemoryId, NewMemory};
use crate::domain::usage::Payer;
use crate::store::testing::{NOW, add, change, memory, new_key, sign_up};
use crate::store::{AddMemory, Added, OpError, Options, ReplayRefusal, StoreError, UpdateMemory};

async fn store() -> (tempfile::TempDir, Store, AccountKey) {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path(), Options::default()).unwrap();
    let account = sign_up(&store, Some("bo@example.com"), 1_000, new_key("a-key")).await;
    (directory, store, account)
}

/// The public id of the account's first key.
fn key_id(store: &Store, account: AccountKey) -> String {
    store.keys(account, NOW).unwrap()[0].id.to_string()
}

fn adding<'a>(
    account: AccountKey,
    key_id: &'a str,
    n: u64,
    memory: &'a NewMemory,
) -> AddMemory<'a> {
    AddMemory {
        account,
        payer: Payer::first(1),
        key_id,
        memory,
        id: MemoryId::new(NOW.millis() + n, 1 << 60),
        cost: 2,
        now: NOW,
        replay: None,
    }
}

/// Closes the store and checks what is on the disk.
fn is_sound(directory: &tempfile::TempDir, store: Store) -> bool {
    drop(store);
    let (store, _) = Store::open(directory.path(), Options::default()).unwrap();
    store.check(&|_| ()).unwrap().is_sound()
}

/// Credits used and memories held; the check that both are true is the caller's.
fn counters(store: &Store, account: AccountKey) -> (u64, u64) {
    let usage = store.usage(account, NOW).unwrap();
    (usage.used, usage.held)
}

/// Shows that writes are refused until the database is opened anew, that it is then the same, and that
/// nothing is done when there is no need.
#[tokio::test]
async fn a_failed_store_goes_on_where_it_stopped() {
    let (directory, store, account) = store().await;
    let id = add(&store, account, 1, 1, 10).await;
    assert_eq!(store.reopen().unwrap(), Reopened::NotNeeded);
    store.poison_for_test();
    let plan = crate::domain::plan::Plan::PREMIUM;
    let refused = store
        .change_plan(account, plan, NOW, Cause::service())
        .await;
    assert!(matches!(refused, Err(StoreError::Unavailable)));
    assert!(!store.health().writable);
    assert_eq!(store.reopen().unwrap(), Reopened::Settled(0));
    assert!(store.health().writable);
    assert!(!directory.path().join("UNSYNCED").exists());
    assert_eq!(counters(&store, account), (2, 1));
    assert!(store.memory(account, id).unwrap().is_some());
    change(&store, account, id, 20).await;
    assert_eq!(counters(&store, account), (4, 1));
    assert!(is_sound(&directory, store));
}

/// Shows that a file that is in the way of the trial write is told, and that nothing is closed for it.
#[tokio::test]
async fn a_disk_that_takes_no_writes_is_waited_for() {
    let (directory, store, account) = store().await;
    let id = add(&store, account, 1, 1, 10).await;
    let in_the_way = directory.path().join("write.tmp");
    std::fs::create_dir(&in_the_way).unwrap();
    store.poison_for_test();
    let Reopened::NotYet(why) = store.reopen().unwrap() else {
        panic!("it was opened");
    };
    assert!(why.contains("directory"), "{why}");
    assert!(store.memory(account, id).unwrap().is_some());
    // The end of the process would not lose the knowledge that the files need to be written again.
    assert!(directory.path().join("UNSYNCED").exists());
    std::fs::remove_dir(in_the_way).unwrap();
    assert_eq!(store.reopen().unwrap(), Reopened::Settled(0));
}

/// Shows that a request with an idempotency key that is being answered stays the only one across it.
#[tokio::test]
async fn a_request_in_flight_stays_in_flight() {
    let (_directory, store, account) = store().await;
    let replay = store.begin_replay(account, [7; 16], [8; 32], NOW).await;
    let replay = replay.unwrap();
    store.poison_for_test();
    store.reopen().unwrap();
    let second = store.begin_replay(account, [7; 16], [8; 32], NOW).await;
    assert!(matches!(second, Err(ReplayRefusal::InFlight)));
    drop(replay);
    let third = store.begin_replay(account, [7; 16], [8; 32], NOW).await;
    assert!(third.is_ok());
}

/// Shows that a panic after the debit undoes the debit, and that one before it leaves nothing locked.
#[tokio::test]
async fn a_panic_leaves_nothing_half_done() {
    let (directory, store, account) = store().await;
    let key_id = key_id(&store, account);
    let id = add(&store, account, 1, 1, 10).await;
    let panicking = store.clone();
    let task = tokio::spawn(async move {
        let memory = memory("a", 10);
        let respond = |_: &Added| -> String { panic!("a handler's mistake, on purpose") };
        let _ = panicking
            .add_memory(adding(account, &key_id, 2, &memory), respond)
            .await;
    });
    assert!(task.await.unwrap_err().is_panic());
    // The alarm rings for whoever opens it anew.
    store.failed().await;
    assert_eq!(store.reopen().unwrap(), Reopened::Settled(1));
    assert_eq!(counters(&store, account), (2, 1));
    let panicking = store.clone();
    let task = tokio::spawn(async move {
        let to = |_: Object<'_>| -> Result<_, std::convert::Infallible> {
            panic!("another, on purpose")
        };
        let update = UpdateMemory {
            account,
            payer: Payer::first(1),
            id,
            cost: 2,
            now: NOW,
        };
        let _ = panicking.update_memory(update, to).await;
    });
    assert!(task.await.unwrap_err().is_panic());
    assert!(store.health().writable);
    change(&store, account, id, 20).await;
    assert_eq!(counters(&store, account), (4, 1));
    assert!(is_sound(&directory, store));
}

/// Shows that what is acknowledged while the database is opened anew again and again is there, charged
/// once, and that what is refused is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn opening_anew_under_load_loses_nothing() {
    const ROUNDS: u64 = 30;
    let (directory, store, account) = store().await;
    let key_id = key_id(&store, account);
    let (stop, serial) = (AtomicBool::new(false), AtomicU64::new(0));
    let writer = async || {
        let (mut added, mut unknown) = (Vec::new(), 0u64);
        while !stop.load(Ordering::Relaxed) {
            let n = serial.fetch_add(1, Ordering::Relaxed);
            let memory = memory("a", 10);
            let id = std::sync::Mutex::new(String::new());
            let respond = |new: &Added| {
                *id.lock().unwrap() = new.entry.clone();
                String::new()
            };
            match store
                .add_memory(adding(account, &key_id, n, &memory), respond)
                .await
            {
                Ok(_) => added.push(id.into_inner().unwrap()),
                Err(OpError::Store(StoreError::OutcomeUnknown)) => unknown += 1,
                Err(OpError::Store(StoreError::Unavailable)) => store.opened().await,
                Err(error) => panic!("{error}"),
            }
            tokio::task::yield_now().await;
        }
        (added, unknown)
    };
    let breaker = async {
        for _ in 0..ROUNDS {
            let before = serial.load(Ordering::Relaxed);
            while serial.load(Ordering::Relaxed) < before + 20 {
                tokio::task::yield_now().await;
            }
            store.poison_for_test();
            let reopening = store.clone();
            let reopened = tokio::task::spawn_blocking(move || reopening.reopen());
            assert!(matches!(
                reopened.await.unwrap().unwrap(),
                Reopened::Settled(_)
            ));
        }
        stop.store(true, Ordering::Relaxed);
    };
    let writers = futures_util::future::join_all((0..16).map(|_| writer()));
    let (written, ()) = tokio::join!(writers, breaker);
    let added: Vec<&String> = written.iter().flat_map(|(added, _)| added).collect();
    let unknown: u64 = written.iter().map(|(_, unknown)| unknown).sum();
    let (used, held) = counters(&store, account);
    let acknowledged = u64::try_from(added.len()).unwrap();
    assert!(acknowledged > ROUNDS, "{acknowledged}");
    assert!(
        (acknowledged..=acknowledged + unknown).contains(&held),
        "{acknowledged} acknowledged, {unknown} unknown, {held} held"
    );
    assert_eq!(used, 2 * held);
    let page = store
        .page(account, crate::store::PageStart::Skip(0), 1_000_000)
        .unwrap();
    for entry in added {
        assert!(page.entries.contains(entry.as_str()), "{entry} is gone");
    }
    assert!(is_sound(&directory, store));
}
