//! A crash between any two steps of any operation: the steps that had not happened are taken back by
//! hand, the store is opened anew, and what it makes of it is compared with before and after.

use super::*;
use crate::domain::account::AccountKey;
use crate::domain::event::Cause;
use crate::domain::memory::MemoryId;
use crate::domain::plan::Operation;
use crate::domain::plan::Plan;
use crate::domain::scope::{Scope, Scopes};
use crate::domain::usage::Payer;
use crate::domain::usage::{Refusal, Usage};
use crate::store::codec::encode;
use crate::store::schema::{ActiveKey, AuditRow, replay_key};
use crate::store::testing::{NOW, add, by, change, memory, new_key, sign_up};
use crate::store::{
    AddMemory, Adjust, KeyChange, KeyRefusal, KeyState, NameTaken, NewKey, OpError, OpenError,
    Options, ReplayRefusal, Store, Successor,
};

/// A store with one account on Pro, and the way to crash it.
struct Crash {
    directory: tempfile::TempDir,
    store: Option<Store>,
    account: AccountKey,
}

type Records = Vec<(sled::IVec, sled::IVec)>;

impl Crash {
    async fn prepare() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path(), Options::default()).unwrap();
        let account = sign_up(&store, Some("bo@example.com"), 1_000, new_key("first-key")).await;
        Self {
            directory,
            store: Some(store),
            account,
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn trees(&self) -> crate::store::schema::Trees {
        self.store().trees()
    }

    fn usage(&self) -> Usage {
        self.store().inner().unwrap().usage(self.account).unwrap()
    }

    /// Opens the store anew, holds it sound, and returns how many writes it had to settle.
    fn reopen(&mut self) -> u64 {
        self.store = None;
        let began = std::time::Instant::now();
        let (store, opened) = loop {
            match Store::open(self.directory.path(), Options::default()) {
                // A thread of the one before still holds it.
                Err(OpenError::Locked(_)) if began.elapsed().as_secs() < 60 => {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                opened => break opened.unwrap(),
            }
        };
        let report = store.check(&|_| ()).unwrap();
        assert!(report.is_sound(), "{report}");
        assert_eq!(
            store.inner().unwrap().usage(self.account).unwrap().intents,
            []
        );
        self.store = Some(store);
        opened.settled
    }

    /// What of the usage a crash must leave as it was, or as it became.
    fn counters(&self) -> (u64, u64, u64, u64, u64, u64) {
        let usage = self.usage();
        let share = usage.share(1).unwrap();
        (
            usage.granted,
            usage.used,
            usage.used_ever,
            usage.held,
            share.used,
            share.held,
        )
    }

    fn entry(&self, id: MemoryId) -> Option<String> {
        self.store().memory(self.account, id).unwrap()
    }
}

fn all(tree: &sled::Tree) -> Records {
    tree.iter().map(|entry| entry.unwrap()).collect()
}

/// Puts a tree back to what it was.
fn restore(tree: &sled::Tree, records: &Records) {
    tree.clear().unwrap();
    for (key, value) in records {
        tree.insert(key, value).unwrap();
    }
}

/// Shows that an add is undone whole up to its last step, its recorded answer too, and kept from there on.
#[tokio::test]
async fn an_add_is_there_whole_or_not_at_all() {
    for steps in 1..=5 {
        let mut crash = Crash::prepare().await;
        let before = crash.counters();
        // The second of the fixture's memories has an Idempotency-Key; 30 KB make five pieces.
        let id = add(crash.store(), crash.account, 1, 2, 30_000).await;
        let after = crash.counters();
        assert_eq!((after.1, after.3), (before.1 + 2, before.3 + 1));
        assert_eq!(crash.usage().intents.len(), 1);
        let trees = crash.trees().clone();
        if steps < 5 {
            trees.memories.clear().unwrap();
        }
        if steps < 4 {
            let last = trees
                .pieces
                .scan_prefix(b"m")
                .keys()
                .last()
                .unwrap()
                .unwrap();
            trees.pieces.remove(last).unwrap();
        }
        if steps < 3 {
            for key in trees.pieces.scan_prefix(b"m").keys() {
                trees.pieces.remove(key.unwrap()).unwrap();
            }
        }
        if steps < 2 {
            trees
                .replays
                .remove(replay_key(crash.account, [7; 16]))
                .unwrap();
        }
        drop(trees);
        let settled = crash.reopen();
        let again = crash
            .store()
            .begin_replay(crash.account, [7; 16], [8; 32], NOW)
            .await;
        if steps < 5 {
            assert_eq!((settled, crash.counters()), (1, before), "{steps} steps");
            assert_eq!(crash.entry(id), None);
            assert!(again.is_ok(), "the answer of an undone add was kept");
        } else {
            assert_eq!((settled, crash.counters()), (0, after));
            assert!(crash.entry(id).unwrap().len() > 30_000);
            let entry = crash.entry(id);
            assert!(
                matches!(again, Err(ReplayRefusal::Answered { status: 201, body }) if Some(&body) == entry.as_ref())
            );
        }
    }
}

/// Shows that a change gives the old memory back with its price, or is complete, in every mix of sizes.
#[tokio::test]
async fn a_change_is_there_whole_or_not_at_all() {
    for (old_bytes, new_bytes) in [(10, 20), (10, 30_000), (30_000, 10), (30_000, 20_000)] {
        for head_written in [false, true] {
            let mut crash = Crash::prepare().await;
            let id = add(crash.store(), crash.account, 1, 1, old_bytes).await;
            // A snapshot counts it, so that the change writes to the journal.
            crash
                .store()
                .inner()
                .unwrap()
                .swap_usage(crash.account, |usage| {
                    usage.stats_due = 0;
                    Ok::<_, Refusal>(())
                })
                .unwrap();
            crash
                .store()
                .inner()
                .unwrap()
                .save_stats(crash.account)
                .unwrap();
            let (before, old) = (crash.counters(), crash.entry(id).unwrap());
            let trees = crash.trees().clone();
            let (heads, pieces) = (all(&trees.memories), all(&trees.pieces));
            change(crash.store(), crash.account, id, new_bytes).await;
            let (after, new) = (crash.counters(), crash.entry(id).unwrap());
            assert_eq!(trees.stats_journal.iter().count(), 1);
            // The old pieces were not yet removed.
            for (key, value) in &pieces {
                trees.pieces.insert(key, value).unwrap();
            }
            if !head_written {
                restore(&trees.memories, &heads);
            }
            drop(trees);
            let settled = crash.reopen();
            let categories = crash.store().stats(crash.account).await.unwrap().categories;
            let names: Vec<_> = categories.keys().map(String::as_str).collect();
            if head_written {
                assert_eq!((settled, crash.counters()), (0, after));
                assert_eq!((crash.entry(id).unwrap(), names), (new, vec!["b"]));
            } else {
                assert_eq!((settled, crash.counters()), (1, before));
                assert_eq!((crash.entry(id).unwrap(), names), (old, vec!["a"]));
            }
        }
    }
}

/// Shows that a delete whose place was freed is finished, also for a memory of a revoked key.
#[tokio::test]
async fn a_delete_is_finished() {
    for steps in 1..=3 {
        let mut crash = Crash::prepare().await;
        let second = crash
            .store()
            .create_key(
                crash.account,
                new_key("second-key"),
                None,
                NOW,
                Cause::service(),
            )
            .await;
        let second = second.unwrap();
        let id = add(crash.store(), crash.account, 2, 1, 30_000).await;
        crash
            .store()
            .revoke_key(crash.account, &second.id, false, NOW, by("admin"))
            .await
            .unwrap();
        let trees = crash.trees().clone();
        let (heads, pieces, keys) = (all(&trees.memories), all(&trees.pieces), all(&trees.keys));
        crash
            .store()
            .delete_memory(crash.account, 1, id, NOW)
            .await
            .unwrap();
        let after = crash.counters();
        if steps < 3 {
            restore(&trees.pieces, &pieces);
        }
        if steps < 2 {
            restore(&trees.memories, &heads);
            restore(&trees.keys, &keys);
        }
        drop(trees);
        assert_eq!(crash.reopen(), u64::from(steps < 2));
        assert_eq!((crash.counters(), crash.entry(id)), (after, None));
        let row = crash.store().key_by_id(&second.id, NOW).unwrap().unwrap();
        assert_eq!(row.share.held, 0);
        assert_eq!(crash.trees().pieces.scan_prefix(b"m").count(), 0);
    }
}

/// Shows that a sign-up without its last step leaves nothing, so that the name is free again.
#[tokio::test]
async fn a_sign_up_is_there_whole_or_not_at_all() {
    for steps in 1..=5 {
        let mut crash = Crash::prepare().await;
        let key = new_key("key-of-al");
        let (hash, id) = (key.hash, key.id.clone());
        let al = sign_up(crash.store(), Some("al@example.com"), 2_000, key).await;
        let name = Some("al@example.com".to_owned());
        let trees = crash.trees().clone();
        let intent = KeyIntent::SignUp {
            name,
            hash,
            id: id.clone(),
        };
        trees
            .key_intents
            .insert(op_key(al, 0), encode(&intent).unwrap())
            .unwrap();
        if steps < 5 {
            trees.users.remove(al.0).unwrap();
        }
        if steps < 4 {
            trees.usage.remove(al.0).unwrap();
        }
        if steps < 3 {
            trees.keys.remove(hash.0).unwrap();
            trees.key_ids.remove(id.as_str()).unwrap();
        }
        if steps < 2 {
            trees.names.remove("al@example.com").unwrap();
        }
        drop(trees);
        assert_eq!(crash.reopen(), 1);
        let is_there = steps == 5;
        let named = crash.store().account_named("al@example.com").unwrap();
        assert_eq!(named, is_there.then_some(al));
        assert_eq!(
            crash.store().authenticate(&hash, NOW).unwrap().is_some(),
            is_there
        );
        assert_eq!(crash.store().health().accounts, 1 + u64::from(is_there));
        if !is_there {
            sign_up(
                crash.store(),
                Some("al@example.com"),
                3_000,
                new_key("another"),
            )
            .await;
        }
    }
}

/// Shows that a new key without its last step leaves nothing, and that the key can be made again.
#[tokio::test]
async fn a_new_key_is_there_whole_or_not_at_all() {
    for steps in 1..=4 {
        let mut crash = Crash::prepare().await;
        let key = new_key("second-key");
        let (hash, id) = (key.hash, key.id.clone());
        let trees = crash.trees().clone();
        let (users, usage) = (all(&trees.users), all(&trees.usage));
        crash
            .store()
            .create_key(crash.account, key.clone(), Some(1), NOW, Cause::service())
            .await
            .unwrap();
        let intent = KeyIntent::Mint {
            no: 2,
            hash,
            id: id.clone(),
        };
        trees
            .key_intents
            .insert(op_key(crash.account, 2), encode(&intent).unwrap())
            .unwrap();
        if steps < 4 {
            restore(&trees.users, &users);
        }
        if steps < 3 {
            restore(&trees.usage, &usage);
        }
        if steps < 2 {
            trees.keys.remove(hash.0).unwrap();
        }
        drop(trees);
        assert_eq!(crash.reopen(), 1);
        let is_there = steps == 4;
        assert_eq!(
            crash.store().authenticate(&hash, NOW).unwrap().is_some(),
            is_there
        );
        let again = crash
            .store()
            .create_key(crash.account, key, Some(1), NOW, Cause::service())
            .await;
        if is_there {
            assert!(matches!(again, Err(OpError::Refused(KeyRefusal::Exists))));
        } else {
            assert_eq!(again.unwrap().share.used, 0);
        }
    }
}

/// Shows that a revocation happened once the account's record says so, and not before.
#[tokio::test]
async fn a_revocation_is_there_whole_or_not_at_all() {
    for steps in 1..=4 {
        let mut crash = Crash::prepare().await;
        let key = new_key("second-key");
        let (hash, id) = (key.hash, key.id.clone());
        crash
            .store()
            .create_key(crash.account, key, Some(1), NOW, Cause::service())
            .await
            .unwrap();
        add(crash.store(), crash.account, 2, 1, 10).await;
        // Nothing of the add is under way any more.
        crash
            .store()
            .debit(
                crash.account,
                Payer::first(2),
                (Operation::ReadMemory, 1),
                NOW,
            )
            .await
            .unwrap();
        let trees = crash.trees().clone();
        let (users, usage, keys) = (all(&trees.users), all(&trees.usage), all(&trees.keys));
        crash
            .store()
            .revoke_key(crash.account, &id, false, NOW, by("admin"))
            .await
            .unwrap();
        let intent = KeyIntent::Revoke {
            no: 2,
            hash,
            at: NOW,
            by: Some("admin".to_owned()),
        };
        trees
            .key_intents
            .insert(op_key(crash.account, 2), encode(&intent).unwrap())
            .unwrap();
        if steps < 4 {
            restore(&trees.usage, &usage);
        }
        if steps < 3 {
            restore(&trees.keys, &keys);
        }
        if steps < 2 {
            restore(&trees.users, &users);
        }
        drop(trees);
        assert_eq!(crash.reopen(), 1);
        let state = crash.store().authenticate(&hash, NOW).unwrap().unwrap();
        assert_eq!(matches!(state, KeyState::Revoked(_)), steps > 1);
        let row = crash.store().key_by_id(&id, NOW).unwrap().unwrap();
        assert_eq!(row.ended_at, (steps > 1).then_some(NOW));
        assert_eq!(
            (row.share.used, row.share.held),
            (3, 1),
            "the share moves whole"
        );
        assert_eq!(crash.usage().shares.len(), if steps > 1 { 1 } else { 2 });
    }
}

impl Crash {
    /// What the audit log says of this action, in order: details and reason.
    fn audited(&self, action: &str) -> Vec<(String, Option<String>)> {
        let rows = self.trees().audit.iter().values();
        let rows = rows.map(|row| decode::<AuditRow>(&row.unwrap()).unwrap().entry);
        rows.filter(|row| row.action == action)
            .map(|row| (row.details, row.reason))
            .collect()
    }
}

fn for_reason() -> Cause {
    Cause {
        reason: Some("ticket 4711".to_owned()),
        ..by("admin")
    }
}

/// Shows that credits given or taken without a recorded answer are given back or taken away again, in the
/// ledger and in the audit log too, and that with one they stay, and so does the answer.
#[tokio::test]
async fn an_adjustment_is_there_whole_or_not_at_all() {
    for amount in [50, -50] {
        for steps in 1..=3 {
            let mut crash = Crash::prepare().await;
            let before = crash.counters();
            let (store, account) = (crash.store().clone(), crash.account);
            let replay = store
                .begin_replay(account, [7; 16], [8; 32], NOW)
                .await
                .unwrap();
            if steps < 3 {
                let inner = store.inner().unwrap();
                let begin =
                    |usage: &mut Usage| usage.begin_adjust(amount, [7; 16], NOW, for_reason());
                let begin = |usage: &mut Usage| begin(usage).map(|intent| intent.op);
                let op = inner.swap_usage(account, begin).unwrap();
                if steps == 2 {
                    inner
                        .record_replay(account, &replay, op, 200, "done", NOW)
                        .unwrap();
                }
            } else {
                let adjust = Adjust {
                    account,
                    amount,
                    now: NOW,
                    cause: for_reason(),
                    replay: &replay,
                };
                let body = store.adjust(adjust, |_| "done".to_owned()).await.unwrap();
                assert_eq!(body, "done");
                // Nothing of it waits for another write of the account.
                assert_eq!(crash.usage().intents, []);
            }
            drop((replay, store));
            let settled = crash.reopen();
            let again = crash
                .store()
                .begin_replay(account, [7; 16], [8; 32], NOW)
                .await;
            let mut told = vec![(format!("{{\"amount\":{amount}}}"), for_reason().reason)];
            if steps == 1 {
                told.push((format!("{{\"amount\":{}}}", -amount), None));
                assert_eq!((settled, crash.counters()), (1, before), "{amount}");
                assert!(again.is_ok());
            } else {
                let after = (before.0.strict_add_signed(amount), before.1);
                let found = crash.counters();
                assert_eq!((settled, (found.0, found.1)), (0, after), "{amount}");
                assert!(
                    matches!(again, Err(ReplayRefusal::Answered { status: 200, body }) if body == "done")
                );
            }
            assert_eq!(crash.audited("credits.adjusted"), told);
        }
    }
}

/// Shows that an older answer under the same key, which has expired, is not taken for the adjustment's own.
#[tokio::test]
async fn an_expired_answer_is_not_the_adjustments_own() {
    let mut crash = Crash::prepare().await;
    let (store, account) = (crash.store().clone(), crash.account);
    let replay = store
        .begin_replay(account, [7; 16], [8; 32], NOW)
        .await
        .unwrap();
    let adjust = Adjust {
        account,
        amount: 50,
        now: NOW,
        cause: for_reason(),
        replay: &replay,
    };
    store.adjust(adjust, |_| "done".to_owned()).await.unwrap();
    drop(replay);
    let before = crash.counters();
    let later = NOW.plus_seconds(24 * 3_600);
    let replay = store
        .begin_replay(account, [7; 16], [8; 32], later)
        .await
        .unwrap();
    let inner = store.inner().unwrap();
    let begin = |usage: &mut Usage| usage.begin_adjust(50, [7; 16], later, for_reason());
    inner.swap_usage(account, begin).unwrap();
    drop((replay, inner, store));
    assert_eq!((crash.reopen(), crash.counters()), (1, before));
}

/// Shows that what was given and then spent is not taken away again, so that nobody owes credits.
#[tokio::test]
async fn credits_given_and_spent_are_not_taken_back() {
    let mut crash = Crash::prepare().await;
    let (store, account) = (crash.store().clone(), crash.account);
    let inner = store.inner().unwrap();
    let begin = |usage: &mut Usage| usage.begin_adjust(50, [7; 16], NOW, for_reason());
    inner.swap_usage(account, begin).unwrap();
    let all = (Operation::ReadMemory, 10_030);
    store
        .debit(account, Payer::first(1), all, NOW)
        .await
        .unwrap();
    drop((inner, store));
    assert_eq!(crash.reopen(), 1);
    let counters = crash.counters();
    assert_eq!((counters.0, counters.1), (10_030, 10_030));
}

/// Shows that an account is at its old e-mail or at its new one after a crash at any step, that the other
/// is free, and that the log has the move if it happened.
#[tokio::test]
async fn a_move_to_another_email_is_there_whole_or_not_at_all() {
    const OLD: &str = "bo@example.com";
    const NEW: &str = "bo@example.org";
    for from in [Some(OLD), None] {
        for steps in 1..=4 {
            let mut crash = Crash::prepare().await;
            let account = match from {
                Some(_) => crash.account,
                None => sign_up(crash.store(), None, 2_000, new_key("key-of-al")).await,
            };
            let old = crash.store().account_id(account).unwrap();
            let trees = crash.trees();
            let (users, audit) = (all(&trees.users), all(&trees.audit));
            let index = all(&trees.audit_accounts);
            let changed = crash.store().rename(account, NEW, NOW, for_reason()).await;
            assert!(changed.unwrap());
            let intent = KeyIntent::Rename {
                from: from.map(str::to_owned),
                to: NEW.to_owned(),
            };
            let key = op_key(account, 0);
            trees
                .key_intents
                .insert(key, encode(&intent).unwrap())
                .unwrap();
            if steps < 4
                && let Some(old) = from
            {
                trees.names.insert(old, encode(&account).unwrap()).unwrap();
            }
            if steps < 3 {
                restore(&trees.users, &users);
                restore(&trees.audit, &audit);
                restore(&trees.audit_accounts, &index);
            }
            if steps < 2 {
                trees.names.remove(NEW).unwrap();
            }
            drop(trees);
            assert_eq!(crash.reopen(), 1);
            let moved = steps >= 3;
            let (has, free) = if moved { (NEW, &*old) } else { (&*old, NEW) };
            assert_eq!(
                crash.store().account_id(account).unwrap(),
                has,
                "{steps} steps"
            );
            assert_eq!(crash.store().account_named(has).unwrap(), Some(account));
            assert_eq!(crash.store().account_named(free).unwrap(), None);
            assert_eq!(crash.trees().key_intents.iter().count(), 0);
            let told = crash.audited("account.email_changed");
            let once = ("{}".to_owned(), for_reason().reason);
            assert_eq!(told, if moved { vec![once] } else { vec![] });
            if free.contains('@') {
                sign_up(crash.store(), Some(free), 3_000, new_key("another")).await;
            }
        }
    }
}

/// Shows that a move which lost its race leaves nothing, and what an account has already is no change.
#[tokio::test]
async fn a_move_to_an_email_that_is_taken_changes_nothing() {
    let mut crash = Crash::prepare().await;
    let al = sign_up(
        crash.store(),
        Some("al@example.com"),
        2_000,
        new_key("key-of-al"),
    )
    .await;
    let taken = crash
        .store()
        .rename(al, "bo@example.com", NOW, for_reason())
        .await;
    assert!(matches!(taken, Err(OpError::Refused(NameTaken::Name))));
    let same = crash
        .store()
        .rename(al, "al@example.com", NOW, for_reason())
        .await;
    assert!(!same.unwrap());
    assert_eq!(crash.trees().key_intents.iter().count(), 0);
    assert_eq!(crash.audited("account.email_changed"), []);
    assert_eq!(crash.reopen(), 0);
    assert_eq!(
        crash.store().account_named("al@example.com").unwrap(),
        Some(al)
    );
    let bo = crash.store().account_named("bo@example.com").unwrap();
    assert_eq!(bo, Some(crash.account));
}

/// Shows that keys are refused after a crash at any step once the account's record says so, and not before;
/// and let in again likewise.
#[tokio::test]
async fn a_suspension_is_there_whole_or_not_at_all() {
    for suspended in [true, false] {
        for steps in 1..=3 {
            let mut crash = Crash::prepare().await;
            let account = crash.account;
            if !suspended {
                let first = crash
                    .store()
                    .suspend(account, true, NOW, for_reason())
                    .await;
                assert!(first.unwrap());
            }
            let trees = crash.trees();
            let (users, audit) = (all(&trees.users), all(&trees.audit));
            let index = all(&trees.audit_accounts);
            let barred = all(&trees.barred);
            let later = NOW.plus_seconds(60);
            let changed = crash
                .store()
                .suspend(account, suspended, later, for_reason())
                .await;
            assert!(changed.unwrap());
            let bytes = encode(&KeyIntent::Bar).unwrap();
            trees.key_intents.insert(op_key(account, 0), bytes).unwrap();
            if steps < 3 {
                restore(&trees.barred, &barred);
            }
            if steps < 2 {
                restore(&trees.users, &users);
                restore(&trees.audit, &audit);
                restore(&trees.audit_accounts, &index);
            }
            drop(trees);
            assert_eq!(crash.reopen(), 1);
            let row = crash.store().account(account, NOW).unwrap().unwrap();
            let is_out = suspended == (steps > 1);
            assert_eq!((row.suspended, row.active), (is_out, true), "{steps} steps");
            let hash = new_key("first-key").hash;
            let state = crash.store().authenticate(&hash, NOW).unwrap().unwrap();
            assert_eq!(matches!(state, KeyState::Suspended(_)), is_out);
            assert_eq!(row.standing_since == later, steps > 1);
        }
    }
}

/// Shows that an error between two steps stops all writes, so that nothing goes on from half of one.
#[tokio::test]
async fn an_interrupted_write_stops_writes() {
    let crash = Crash::prepare().await;
    drop(crash.store().inner().unwrap().steps());
    let refused = crash
        .store()
        .add_memory(
            AddMemory {
                account: crash.account,
                payer: Payer::first(1),
                key_id: "key_000000000000",
                memory: &memory("a", 10),
                id: MemoryId::new(1, 1),
                cost: 2,
                now: NOW,
                replay: None,
            },
            |added| added.entry.clone(),
        )
        .await;
    assert!(matches!(
        refused,
        Err(OpError::Store(StoreError::Unavailable))
    ));
    assert_eq!(crash.counters().3, 0);
    let read = crash
        .store()
        .debit(
            crash.account,
            Payer::first(1),
            (Operation::ReadMemory, 1),
            NOW,
        )
        .await
        .unwrap();
    assert_eq!((read.cost, read.balance.credits_used), (0, 0));
}

/// Shows that a recount finds what is wrong, says so, and that the corrected store is sound.
#[tokio::test]
async fn a_recount_corrects_every_counter() {
    let mut crash = Crash::prepare().await;
    let second = crash
        .store()
        .create_key(
            crash.account,
            new_key("second-key"),
            None,
            NOW,
            Cause::service(),
        )
        .await;
    add(crash.store(), crash.account, 1, 1, 10).await;
    add(crash.store(), crash.account, 2, 3, 10).await;
    let second = second.unwrap().id;
    crash
        .store()
        .revoke_key(crash.account, &second, false, NOW, by("admin"))
        .await
        .unwrap();
    assert_eq!(crash.store().recount(crash.account).await.unwrap(), None);
    crash
        .store()
        .inner()
        .unwrap()
        .swap_usage(crash.account, |usage| {
            usage.held = 9;
            usage.shares[0].held = 5;
            Ok::<_, Refusal>(())
        })
        .unwrap();
    let hash = new_key("second-key").hash;
    let mut record = crash
        .store()
        .inner()
        .unwrap()
        .key_record(&hash)
        .unwrap()
        .unwrap();
    record.retired.as_mut().unwrap().share.held = 7;
    crash
        .trees()
        .keys
        .insert(hash.0, encode(&record).unwrap())
        .unwrap();
    assert_eq!(
        crash.store().recount(crash.account).await.unwrap(),
        Some((9, 2))
    );
    let active = crash
        .store()
        .inner()
        .unwrap()
        .account_record(crash.account)
        .unwrap()
        .active;
    assert_eq!(
        active,
        [ActiveKey {
            no: 1,
            hash: new_key("first-key").hash,
            lineage: 1,
        }]
    );
    crash.reopen();
}

/// Shows that a full disk refuses writes before anything is changed, that reads go on free of charge, and
/// that writes go on by themselves once there is space.
#[tokio::test]
async fn a_full_disk_stops_writes_until_there_is_space() {
    let mut crash = Crash::prepare().await;
    let id = add(crash.store(), crash.account, 1, 1, 10).await;
    let before = crash.counters();
    crash.store().set_reserve(u64::MAX);
    // The store looks at the disk every few milliseconds.
    while crash.store().health().writable {
        tokio::task::yield_now().await;
    }
    let plan = crash
        .store()
        .change_plan(crash.account, Plan::PREMIUM, NOW, Cause::service())
        .await;
    assert!(matches!(plan, Err(StoreError::Full)));
    let deleted = crash.store().delete_memory(crash.account, 1, id, NOW).await;
    assert!(matches!(deleted, Err(OpError::Store(StoreError::Full))));
    let read = crash
        .store()
        .debit(
            crash.account,
            Payer::first(1),
            (Operation::ReadMemory, 1),
            NOW,
        )
        .await
        .unwrap();
    assert_eq!((read.cost, crash.counters()), (0, before));
    crash.store().set_reserve(1);
    while !crash.store().health().writable {
        tokio::task::yield_now().await;
    }
    crash
        .store()
        .delete_memory(crash.account, 1, id, NOW)
        .await
        .unwrap();
    assert_eq!(
        crash
            .store()
            .debit(
                crash.account,
                Payer::first(1),
                (Operation::ReadMemory, 1),
                NOW
            )
            .await
            .unwrap()
            .cost,
        1
    );
    assert_eq!(crash.reopen(), 0);
    assert_eq!(crash.counters().3, before.3 - 1);
}

/// Shows that a rotation happened once the account's record says so, and not before, with grace and without,
/// and that no counter knows of it either way.
#[tokio::test]
async fn a_rotation_is_there_whole_or_not_at_all() {
    for (steps, grace) in (1..=5).flat_map(|steps| [(steps, 0), (steps, 60)]) {
        let mut crash = Crash::prepare().await;
        let account = crash.account;
        let end = NOW.plus_seconds(90);
        let old = NewKey {
            expires_at: Some(end),
            ..new_key("second-key")
        };
        let new = new_key("third-key");
        let (old_hash, hash, id) = (old.hash, new.hash, new.id.clone());
        let made = crash
            .store()
            .create_key(account, old, Some(1), NOW, Cause::service());
        let old_id = made.await.unwrap().id;
        add(crash.store(), account, 2, 1, 10).await;
        let read = (Operation::ReadMemory, 1);
        let debit = crash.store().debit(account, Payer::first(2), read, NOW);
        debit.await.unwrap();
        let before = crash.usage().shares;
        let trees = crash.trees().clone();
        let (users, usage, keys) = (all(&trees.users), all(&trees.usage), all(&trees.keys));
        let ends = all(&trees.key_expiries);
        let rotate = async |crash: &Crash, new: &NewKey| {
            let successor = Successor {
                hash: new.hash,
                id: new.id.clone(),
                masked: new.masked.clone(),
                grace_seconds: grace,
            };
            let (store, cause) = (crash.store(), by("admin"));
            let rotated = store.rotate_key(account, &old_id, successor, None, NOW, cause);
            rotated.await.map(drop)
        };
        rotate(&crash, &new).await.unwrap();
        let intent = KeyIntent::Rotate {
            no: 3,
            hash,
            id: id.clone(),
            old: old_hash,
            at: NOW,
            until: NOW.plus_seconds(i64::from(grace)),
            by: Some("admin".to_owned()),
        };
        let intent = encode(&intent).unwrap();
        trees
            .key_intents
            .insert(op_key(account, 3), intent)
            .unwrap();
        let successor = trees.keys.get(hash.0).unwrap().unwrap();
        if steps < 5 {
            restore(&trees.keys, &keys);
            trees.keys.insert(hash.0, successor).unwrap();
        }
        if steps < 4 {
            restore(&trees.users, &users);
        }
        if steps < 3 {
            restore(&trees.usage, &usage);
        }
        if steps < 2 {
            restore(&trees.keys, &keys);
            restore(&trees.key_expiries, &ends);
            trees.key_ids.remove(id.as_str()).unwrap();
        }
        drop(trees);
        assert_eq!(crash.reopen(), 1);
        assert_eq!(crash.usage().shares, before, "{steps} steps");
        let is_done = steps > 3;
        let of_new = crash.store().authenticate(&hash, NOW).unwrap();
        assert_eq!(of_new.is_some(), is_done, "{steps} steps");
        let row = crash.store().key_by_id(&old_id, NOW).unwrap().unwrap();
        let until = if is_done && grace > 0 {
            NOW.plus_seconds(60)
        } else {
            end
        };
        assert_eq!(row.expires_at, Some(until), "{steps} steps");
        assert_eq!(row.successor, is_done.then_some(id));
        assert_eq!(row.ended_at, (is_done && grace == 0).then_some(NOW));
        let active = 2 + u64::from(is_done && grace > 0);
        assert_eq!(crash.store().health().active_keys, active);
        let again = rotate(&crash, &new).await;
        match again {
            Ok(()) => assert!(!is_done),
            Err(OpError::Refused(KeyRefusal::Rotated)) => assert!(is_done),
            Err(error) => panic!("{error}"),
        }
        let late = crash.store().sweep_expired_keys(NOW.plus_seconds(90)).await;
        assert_eq!(late.unwrap(), 1 + u64::from(grace > 0));
        crash.reopen();
    }
}

/// Shows that a change of a key happened once its event is in the account's record, and not before.
#[tokio::test]
async fn a_change_of_a_key_is_there_whole_or_not_at_all() {
    for steps in 1..=4 {
        let mut crash = Crash::prepare().await;
        let (account, key) = (crash.account, new_key("second-key"));
        let (hash, id) = (key.hash, key.id.clone());
        let made = crash
            .store()
            .create_key(account, key, Some(1), NOW, Cause::service());
        made.await.unwrap();
        let trees = crash.trees().clone();
        let (users, usage, keys) = (all(&trees.users), all(&trees.usage), all(&trees.keys));
        let event_no = crash
            .store()
            .inner()
            .unwrap()
            .account_record(account)
            .unwrap();
        let event_no = event_no.events.last_no + 1;
        let (end, scopes) = (NOW.plus_seconds(9), [Scope::Keys].into_iter().collect());
        let change = KeyChange {
            description: Some("changed".to_owned()),
            scopes: Some(scopes),
            expires_at: Some(Some(end)),
            credits_cap: Some(Some(7)),
        };
        let (store, cause) = (crash.store(), by("admin"));
        let changed = store.change_key(account, &id, change, None, NOW, cause);
        changed.await.unwrap();
        let intent = KeyIntent::Change {
            hash,
            event_no,
            description: "changed".to_owned(),
            scopes,
            expires_at: Some(end),
            credits_cap: Some(7),
        };
        let intent = encode(&intent).unwrap();
        trees
            .key_intents
            .insert(op_key(account, 2), intent)
            .unwrap();
        if steps < 4 {
            restore(&trees.usage, &usage);
        }
        if steps < 3 {
            restore(&trees.keys, &keys);
            trees.key_expiries.clear().unwrap();
        }
        if steps < 2 {
            restore(&trees.users, &users);
        }
        drop(trees);
        assert_eq!(crash.reopen(), 1);
        let row = crash.store().key_by_id(&id, NOW).unwrap().unwrap();
        let found = (row.description.as_str(), row.scopes, row.expires_at);
        let (changed, as_made) = (("changed", scopes, Some(end)), ("test", Scopes::ALL, None));
        assert_eq!(found, if steps > 1 { changed } else { as_made });
        assert_eq!(row.share.credits_cap, (steps > 1).then_some(7));
    }
}

/// Shows that the end of a key whose time has come is finished, and that its share moves whole.
#[tokio::test]
async fn an_expiry_is_there_whole_or_not_at_all() {
    for steps in 1..=5 {
        let mut crash = Crash::prepare().await;
        let (account, end) = (crash.account, NOW.plus_seconds(9));
        let key = NewKey {
            expires_at: Some(end),
            ..new_key("second-key")
        };
        let (hash, id) = (key.hash, key.id.clone());
        let made = crash
            .store()
            .create_key(account, key, Some(1), NOW, Cause::service());
        made.await.unwrap();
        add(crash.store(), account, 2, 1, 10).await;
        let read = (Operation::ReadMemory, 1);
        let debit = crash.store().debit(account, Payer::first(2), read, NOW);
        debit.await.unwrap();
        let trees = crash.trees().clone();
        let (users, usage, keys) = (all(&trees.users), all(&trees.usage), all(&trees.keys));
        let ends = all(&trees.key_expiries);
        assert_eq!(crash.store().sweep_expired_keys(end).await.unwrap(), 1);
        let intent = KeyIntent::Expire {
            no: 2,
            hash,
            at: end,
        };
        let intent = encode(&intent).unwrap();
        trees
            .key_intents
            .insert(op_key(account, 2), intent)
            .unwrap();
        if steps < 5 {
            restore(&trees.key_expiries, &ends);
        }
        if steps < 4 {
            restore(&trees.usage, &usage);
        }
        if steps < 3 {
            restore(&trees.keys, &keys);
        }
        if steps < 2 {
            restore(&trees.users, &users);
        }
        drop(trees);
        assert_eq!(crash.reopen(), 1);
        let row = crash.store().key_by_id(&id, NOW).unwrap().unwrap();
        assert_eq!(
            (row.ended_at, row.expired),
            ((steps > 1).then_some(end), steps > 1)
        );
        assert_eq!((row.share.used, row.share.held), (3, 1), "{steps} steps");
        let left = crash.store().sweep_expired_keys(end).await.unwrap();
        assert_eq!(left, u64::from(steps == 1));
        assert_eq!(crash.usage().shares.len(), 1);
        assert!(crash.trees().key_expiries.is_empty());
        crash.reopen();
    }
}
