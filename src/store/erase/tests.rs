//! An erasure: what goes and what stays, a crash between any two of its steps, races with everything else.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use super::*;
use crate::domain::event::Actor;
use crate::domain::key::Secret;
use crate::domain::ledger::Entry;
use crate::domain::plan::Operation;
use crate::domain::usage::{Payer, Usage};
use crate::store::codec::versioned;
use crate::store::testing::{
    NOW, add, add_text, change, close, copy_directory, memory, new_key, sign_up,
};
use crate::store::{
    AddMemory, KeyState, NewKey, Options, ResidueText, Successor, compact, find_residue,
};

const EMAIL: &str = "bo@example.com";
const TEXT: &str = "what only Bo knows";
const DESCRIPTION: &str = "the laptop of Bo";
/// Under which the ledger is kept.
const LEDGER_ID: AccountKey = AccountKey([0xE5; 16]);

type Records = BTreeMap<(String, Vec<u8>), Vec<u8>>;

fn open(path: &Path) -> Store {
    Store::open(path, Options::default()).unwrap().0
}

/// Two accounts with everything that a store can hold: the one that goes, and another.
async fn fill(store: &Store) -> (AccountKey, AccountKey) {
    let account = sign_up(store, Some(EMAIL), 1_000, new_key("first-key")).await;
    let other = sign_up(store, Some("al@example.com"), 2_000, new_key("other-key")).await;
    let first = store.keys(account, NOW).unwrap().remove(0).id;
    let second = NewKey {
        description: DESCRIPTION.to_owned(),
        expires_at: Some(NOW.plus_seconds(1_000_000)),
        ..new_key("second-key")
    };
    let of_second = second.id.clone();
    let cause = Cause::service;
    store
        .create_key(account, second, None, NOW, cause())
        .await
        .unwrap();
    let third = new_key("third-key");
    store
        .create_key(account, third, None, NOW, cause())
        .await
        .unwrap();
    for owner in [account, other] {
        for n in 1..8 {
            // The second one has a recorded answer.
            add(store, owner, 1, n, 50).await;
        }
        let long = add(store, owner, 1, 40, 15_000).await;
        let inner = store.inner().unwrap();
        let due = |usage: &mut Usage| {
            usage.stats_due = 0;
            Ok(())
        };
        inner
            .swap_usage::<_, std::convert::Infallible>(owner, due)
            .unwrap();
        inner.save_stats(owner).unwrap();
        change(store, owner, long, 9_000).await;
    }
    add_text(store, account, 50, TEXT).await;
    add(store, account, 2, 60, 50).await;
    store
        .revoke_key(account, &of_second, true, NOW, cause())
        .await
        .unwrap();
    assert_ne!(first, of_second);
    // What a crash leaves of an answer and of a key, in the middle of making them.
    let answer = [account.0, [0xA7; 16]].concat().try_into().unwrap();
    let trees = store.trees();
    let time = replay_time_key(NOW, answer);
    trees.replay_times.insert(time, versioned(&[])).unwrap();
    let end = expiry_key(NOW.plus_seconds(5), account, 9);
    trees.key_expiries.insert(end, &[]).unwrap();
    (account, other)
}

fn erasure(account: AccountKey) -> Erasure {
    Erasure {
        by: None,
        account,
        receipt: "rcpt_1".to_owned(),
        ledger_id: LEDGER_ID,
        now: NOW,
        cause: Cause {
            actor: Actor::Admin,
            ..Cause::service()
        },
    }
}

/// Every record but those of the counter that each open counts up.
fn records(store: &Store) -> Records {
    let db = store.inner().unwrap().db.clone();
    let mut records = Records::new();
    for name in db.tree_names() {
        let tree = String::from_utf8(name.to_vec()).unwrap();
        if tree == "meta" {
            continue;
        }
        for entry in &db.open_tree(name).unwrap() {
            let (key, value) = entry.unwrap();
            records.insert((tree.clone(), key.to_vec()), value.to_vec());
        }
    }
    records
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// What in a store still leads to an account, but for the audit log.
fn traces(store: &Store, account: AccountKey) -> Vec<String> {
    let secret = |key: &str| Secret::new(key).hash().0.to_vec();
    let hints = [
        account.0.to_vec(),
        EMAIL.as_bytes().to_vec(),
        TEXT.as_bytes().to_vec(),
        DESCRIPTION.as_bytes().to_vec(),
        secret("first-key"),
        secret("second-key"),
        secret("third-key"),
    ];
    records(store)
        .into_iter()
        .filter(|((tree, key), value)| {
            // The audit log and its index name the account by its internal id, and by nothing else.
            let of_log = tree == "audit" || tree == "audit_accounts";
            let hints = if of_log { &hints[1..] } else { &hints };
            hints
                .iter()
                .any(|hint| holds(key, hint) || holds(value, hint))
        })
        .map(|((tree, key), _)| format!("{tree} {key:?}"))
        .collect()
}

/// The records that are another account's.
fn of(records: &Records, account: AccountKey) -> Records {
    let is_its = |(key, value): &(&(String, Vec<u8>), &Vec<u8>)| {
        key.0 != "audit" && (holds(&key.1, &account.0) || holds(value, &account.0))
    };
    let of = records.iter().filter(is_its);
    of.map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn is_sound(store: &Store) {
    let report = store.check(&|_| ()).unwrap();
    assert!(report.is_sound(), "{report}");
}

/// The amounts of a ledger, by entry.
fn amounts(rows: &[LedgerRow]) -> Vec<(u64, Entry, i64, u32)> {
    rows.iter()
        .map(|row| (row.no, row.entry, row.amount, row.cycle))
        .collect()
}

fn kept(store: &Store) -> Vec<LedgerRow> {
    let tree = store.trees().erased_ledger;
    let rows = tree.scan_prefix(LEDGER_ID.0).values();
    rows.map(|row| decode(&row.unwrap()).unwrap()).collect()
}

fn ledger(store: &Store, account: AccountKey) -> Vec<LedgerRow> {
    let mut rows = Vec::new();
    let usage = store.inner().unwrap().usage(account).unwrap();
    let visit = |row: &LedgerRow| {
        rows.push(row.clone());
        ControlFlow::Continue(())
    };
    store.ledger(account, &usage, visit).unwrap();
    rows
}

/// Holds that an account is gone whole: nothing leads to it, its ledger's amounts are kept and say no more, its
/// event is in the log once, and the other account is as it was.
fn is_gone(store: &Store, account: AccountKey, before: &[LedgerRow], other: &Records) {
    assert_eq!(traces(store, account), [""; 0]);
    let rows = kept(store);
    assert_eq!(amounts(&rows), amounts(before));
    for row in &rows {
        assert_eq!((row.key_no, row.request), (0, None));
        assert_eq!(row.at.micros() % 3_600_000_000, 0);
    }
    let log = store.trees().audit;
    let log: Vec<_> = log
        .iter()
        .values()
        .map(|row| {
            decode::<crate::store::schema::AuditRow>(&row.unwrap())
                .unwrap()
                .entry
        })
        .filter(|entry| entry.action == "account.erased")
        .collect();
    assert_eq!(log.len(), 1);
    assert_eq!(log[0].account, Some(account));
    assert!(log[0].details.contains("rcpt_1"), "{}", log[0].details);
    let name = other.keys().find(|(tree, _)| tree == "users").unwrap();
    let whose = AccountKey(name.1.clone().try_into().unwrap());
    assert_eq!(&of(&records(store), whose), other);
    let health = store.health();
    assert_eq!(
        (health.accounts, health.active_keys, health.memories),
        (1, 1, 8)
    );
    let state = store
        .authenticate(&Secret::new("first-key").hash(), NOW)
        .unwrap();
    assert!(state.is_none(), "{state:?}");
    is_sound(store);
}

/// Shows that a key which was rotated since it was let in erases nothing, and that its successor does.
#[tokio::test]
async fn a_rotated_key_erases_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (account, _) = fill(&store).await;
    let first = store.keys(account, NOW).unwrap().remove(0).id;
    let successor = Successor {
        hash: Secret::new("successor").hash(),
        id: KeyId::generate().unwrap(),
        masked: "succ...ssor".to_owned(),
        grace_seconds: 60,
    };
    store
        .rotate_key(account, &first, successor, None, NOW, Cause::service())
        .await
        .unwrap();
    let before = records(&store);
    let by = |no: KeyNo| Erasure {
        by: Some(no),
        ..erasure(account)
    };
    let refused = store.erase_account(by(1)).await;
    assert!(matches!(
        refused,
        Err(OpError::Refused(EraseRefusal::Rotated))
    ));
    assert_eq!(records(&store), before);
    store.erase_account(by(4)).await.unwrap();
    assert!(store.account(account, NOW).unwrap().is_none());
}

/// Shows that an account goes whole and another stays byte for byte; what is counted; that the address can sign up
/// again and finds nothing of the old; and that after a compaction no file holds what was in it.
#[tokio::test]
async fn an_account_goes_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (account, other) = fill(&store).await;
    let rows = ledger(&store, account);
    let before = of(&records(&store), other);
    assert!(!traces(&store, account).is_empty());
    let erased = store.erase_account(erasure(account)).await.unwrap();
    let expected = Erased {
        memories: 10,
        keys: 3,
        recorded_answers: 1,
        ledger_rows_kept: rows.len() as u64,
    };
    assert_eq!(erased, expected);
    is_gone(&store, account, &rows, &before);
    let again = store.erase_account(erasure(account)).await;
    assert!(
        matches!(again, Err(OpError::Refused(EraseRefusal::NotThere))),
        "{again:?}"
    );

    let fresh = sign_up(&store, Some(EMAIL), 3_000, new_key("fresh-key")).await;
    let row = store.account(fresh, NOW).unwrap().unwrap();
    assert_eq!(
        (row.usage.held, row.usage.used_ever, row.keys.len()),
        (0, 0, 1)
    );
    assert_eq!(store.account_named(EMAIL).unwrap(), Some(fresh));
    is_sound(&store);
    store.erase_account(erasure(fresh)).await.unwrap();
    close(store).await;
    let find = |text: &str| {
        let text = ResidueText::parse(text).unwrap();
        find_residue(folder.path(), Options::default(), &text, &mut |_, _, _| ()).unwrap()
    };
    let texts = [EMAIL, TEXT, DESCRIPTION];
    for text in texts {
        assert!(
            !find(text).is_clean(),
            "{text} is in the files until they are compacted"
        );
    }
    let go_on = &mut |_, _, _| ControlFlow::Continue(());
    compact(folder.path(), Options::default(), go_on).unwrap();
    for text in texts {
        assert_eq!(find(text).found, [""; 0]);
    }
}

/// Shows that a crash before the deciding step leaves the account whole, and one after any other step leaves it gone
/// whole: after each record of the sweep, one by one, too.
#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "one after the other, as the steps are"
)]
async fn a_crash_at_each_step_is_settled() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base");
    let (account, other) = {
        let store = open(&base);
        let accounts = fill(&store).await;
        close(store).await;
        accounts
    };
    let (rows, whole, others) = {
        let store = open(&base);
        (
            ledger(&store, account),
            of(&records(&store), account),
            of(&records(&store), other),
        )
    };
    let mut number = 0;
    let mut crashed = |steps: &dyn Fn(&Arc<Inner>)| {
        number += 1;
        let path = folder.path().join(number.to_string());
        copy_directory(&base, &path);
        let store = open(&path);
        steps(&store.inner().unwrap());
        drop(store);
        let store = open(&path);
        assert!(store.trees().erasures.is_empty());
        store
    };
    let intent = |inner: &Arc<Inner>| {
        let name = Some(EMAIL.to_owned());
        let ledger_id = LEDGER_ID;
        let intent = encode(&ErasureIntent { name, ledger_id }).unwrap();
        inner.move_ledger(account).unwrap();
        inner.trees.erasures.insert(account.0, intent).unwrap();
    };
    let mark = |inner: &Arc<Inner>| {
        intent(inner);
        let swapped = inner.swap_account::<EraseRefusal>(account, |record| {
            record.standing = Standing::Erasing;
            let kind = EventKind::Erased {
                receipt: "rcpt_1".to_owned(),
                memories: 10,
                keys: 3,
                ledger_rows_kept: 1,
            };
            record.events.push(NOW, Cause::service(), kind);
        });
        swapped.unwrap();
    };
    let store = crashed(&intent);
    let left = of(&records(&store), account);
    let usage = ("usage".to_owned(), account.0.to_vec());
    let same = |left: &Records, tree: &str| {
        let of = |records: &Records| -> Vec<_> {
            let of = records.iter().filter(|((name, _), _)| name == tree);
            of.map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        assert_eq!(of(left), of(&whole), "{tree}");
    };
    for tree in [
        "users", "names", "memories", "pieces", "keys", "replays", "stats",
    ] {
        same(&left, tree);
    }
    assert!(left.contains_key(&usage));
    assert_eq!(amounts(&ledger(&store, account)), amounts(&rows));
    let active = store
        .authenticate(&Secret::new("first-key").hash(), NOW)
        .unwrap();
    assert!(matches!(active, Some(KeyState::Active(_))));
    is_sound(&store);
    drop(store);

    let gone = |store: Store| is_gone(&store, account, &rows, &others);
    gone(crashed(&mark));
    gone(crashed(&|inner| {
        mark(inner);
        inner.bar(account, Standing::Erasing).unwrap();
    }));
    gone(crashed(&|inner| {
        mark(inner);
        inner.bar(account, Standing::Erasing).unwrap();
        inner.hand_over(account).unwrap();
    }));
    gone(crashed(&|inner| {
        mark(inner);
        inner.bar(account, Standing::Erasing).unwrap();
        // Appended to the log, and not yet dropped from the record.
        let marked = inner.trees.users.get(account.0).unwrap().unwrap();
        inner.hand_over(account).unwrap();
        inner.trees.users.insert(account.0, marked).unwrap();
    }));
    gone(crashed(&|inner| {
        mark(inner);
        inner.bar(account, Standing::Erasing).unwrap();
        inner.hand_over(account).unwrap();
        inner.trees.users.remove(account.0).unwrap();
    }));
    let mut at_end = false;
    for removed in 0.. {
        let is_end = std::cell::Cell::new(false);
        gone(crashed(&|inner| {
            mark(inner);
            inner.take_out(account).unwrap();
            let mut left = removed;
            is_end.set(inner.sweep(account, LEDGER_ID, &mut left).unwrap());
        }));
        if is_end.get() {
            at_end = removed > 20;
            break;
        }
    }
    assert!(at_end, "fewer records than the account has");
    gone(crashed(&|inner| {
        mark(inner);
        inner.take_out(account).unwrap();
        assert!(inner.sweep(account, LEDGER_ID, &mut 1_000).unwrap());
        inner.trees.names.remove(EMAIL).unwrap();
    }));
}

/// Shows that of 64 erasures one does it, beside as many adds, each of which is done or refused as a key's that is
/// nobody's; and that a check at the same time finds nothing wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn erasures_race_with_adds_and_a_check() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (account, other) = fill(&store).await;
    let key_id = store.keys(account, NOW).unwrap().remove(0).id;
    let mut erasures = tokio::task::JoinSet::new();
    let mut adds = tokio::task::JoinSet::new();
    let checking = tokio::spawn({
        let store = store.clone();
        async move {
            for _ in 0..10 {
                let report = store.check_beside_writes().await.unwrap();
                assert!(report.is_sound(), "{report}");
            }
        }
    });
    let listing = tokio::spawn({
        let store = store.clone();
        async move {
            for _ in 0..200 {
                let all = crate::store::AccountFilter::default();
                store.accounts(&all, 0, 10, NOW).unwrap();
                store.all_keys(true, 0, 10, NOW).unwrap();
                match store.recount(account).await {
                    Ok(None) | Err(StoreError::NoAccount) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    });
    for n in 0..64 {
        let (of_erasure, of_add, key_id) = (store.clone(), store.clone(), key_id.clone());
        adds.spawn(async move {
            let memory = memory("race", 7_000);
            let add = AddMemory {
                account,
                payer: Payer::first(1),
                key_id: key_id.as_str(),
                memory: &memory,
                id: crate::domain::memory::MemoryId::new(NOW.millis() + 1_000 + n, 1),
                cost: 2,
                now: NOW,
                replay: None,
            };
            of_add.add_memory(add, |_| String::new()).await.map(drop)
        });
        erasures.spawn(async move { of_erasure.erase_account(erasure(account)).await });
    }
    let (mut done, mut added) = (Vec::new(), 0u64);
    for outcome in erasures.join_all().await {
        match outcome {
            Ok(erased) => done.push(erased),
            Err(OpError::Refused(EraseRefusal::NotThere)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    for outcome in adds.join_all().await {
        match outcome {
            Ok(()) => added += 1,
            Err(OpError::Store(StoreError::NoAccount)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    checking.await.unwrap();
    listing.await.unwrap();
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].memories, 10 + added);
    assert_eq!(traces(&store, account), [""; 0]);
    is_sound(&store);
    let what = (Operation::ReadMemory, 1);
    store
        .debit(other, Payer::first(1), what, NOW)
        .await
        .unwrap();
    let gone = store.debit(account, Payer::first(1), what, NOW).await;
    assert!(
        matches!(gone, Err(OpError::Store(StoreError::NoAccount))),
        "{gone:?}"
    );
}

/// Shows that an erasure whose caller has gone, or that the disk interrupted, is gone on with; that meanwhile its keys
/// are nobody's, its address is taken, no list has it, and another account is served.
#[tokio::test]
async fn what_is_begun_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (account, other) = fill(&store).await;
    let rows = ledger(&store, account);
    let before = of(&records(&store), other);
    let inner = store.inner().unwrap();
    let (_, sweep) = inner.begin_erasure(&erasure(account)).unwrap();
    // Somebody works on it: nobody else does.
    assert_eq!(store.finish_erasures().await.unwrap(), 0);
    drop(sweep);
    for key in ["first-key", "third-key"] {
        let state = store.authenticate(&Secret::new(key).hash(), NOW).unwrap();
        assert!(state.is_none(), "{state:?}");
    }
    assert_eq!(store.account_named(EMAIL).unwrap(), None);
    let listed = store
        .accounts(&crate::store::AccountFilter::default(), 0, 10, NOW)
        .unwrap();
    assert_eq!((listed.total, listed.rows.len()), (1, 1));
    let taken = crate::store::NewAccount {
        account: AccountKey::new(5_000, 9),
        name: Some(EMAIL.to_owned()),
        plan: crate::domain::plan::Plan::FREE,
        key: new_key("too-early"),
        created_at: NOW,
        cause: Cause::service(),
    };
    assert!(store.create_account(taken).await.is_err());
    // Whatever else an account is gone through for writes nothing of it again.
    assert!(!inner.sweep(account, LEDGER_ID, &mut 10).unwrap());
    let left = records(&store);
    let recounted = store.recount(account).await;
    assert!(
        matches!(recounted, Err(StoreError::NoAccount)),
        "{recounted:?}"
    );
    let far = NOW.plus_seconds(2_000_000);
    assert_eq!(store.sweep_expired_keys(far).await.unwrap(), 0);
    let same = |((tree, _), _): &(&(String, Vec<u8>), &Vec<u8>)| tree != "key_expiries";
    let now = records(&store);
    assert!(now.iter().filter(same).eq(left.iter().filter(same)));
    is_sound(&store);
    assert_eq!(store.finish_erasures().await.unwrap(), 1);
    assert_eq!(store.finish_erasures().await.unwrap(), 0);
    drop(inner);
    is_gone(&store, account, &rows, &before);
}
