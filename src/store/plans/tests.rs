//! Catalogs applied, cut short, damaged, backed up; and what they do to accounts that are there.

use std::ops::ControlFlow;
use std::path::Path;

use super::*;
use crate::domain::account::AccountKey;
use crate::domain::event::Cause;
use crate::domain::plan::Operation;
use crate::domain::usage::{Payer, Refusal};
use crate::store::testing::{NOW, add, by, new_key, sign_up};
use crate::store::{Backup, NewKey, OpError, OpenError, Options, restore};

const DAY: i64 = 86_400;

fn open(path: &Path) -> Store {
    Store::open(path, Options::default()).unwrap().0
}

/// Plans by name, credits and memories.
fn offer(plans: &[(&'static str, u64, u64)]) -> Offer {
    let terms = |(name, credits, memories): &(&'static str, u64, u64)| Terms {
        name: (*name).into(),
        credits_per_cycle: *credits,
        memories_max: *memories,
        requests_per_minute: Some(60),
        price: Some("$9/month".into()),
        open: true,
    };
    Offer {
        plans: plans.iter().map(terms).collect(),
        prices: Prices {
            add_memory: 3,
            stats: 0,
            ..Prices::SEED
        },
    }
}

/// Applies as a command does: on a thread that may block.
fn apply(store: &Store, offer: &Offer) -> Result<Catalog, ApplyError> {
    std::thread::scope(|scope| scope.spawn(|| store.apply(offer)).join().unwrap())
}

fn table(store: &Store) -> Vec<(u16, &'static str, u64, u64)> {
    let plans = store.catalog().plans.iter();
    plans
        .map(|p| (p.no().0, p.name(), p.credits_per_cycle(), p.memories_max()))
        .collect()
}

fn sound(store: &Store) {
    let report = store.check(&|_| {}).unwrap();
    assert!(report.is_sound(), "{report}");
}

/// An account on Pro with a key that Free caps.
async fn account(store: &Store) -> AccountKey {
    let bo = sign_up(store, Some("bo@example.com"), 1_000, new_key("first")).await;
    let capped = NewKey {
        cap: Some(Plan::FREE),
        ..new_key("capped")
    };
    store
        .create_key(bo, capped, None, NOW, Cause::service())
        .await
        .unwrap();
    bo
}

#[tokio::test]
async fn an_applied_catalog_counts_from_the_next_opening_on() {
    // Shows what a lower plan does: room and caps at once, credits with the next cycle, and nothing is lost.
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    assert!(store.is_untouched().unwrap());
    let bo = account(&store).await;
    assert!(!store.is_untouched().unwrap());
    for n in 1..=3 {
        add(&store, bo, 1, n, 10).await;
    }
    let lower = offer(&[("Free", 5, 1), ("Team", 70, 2), ("Pro", 40, 2)]);
    let changes = store.catalog().changes(&lower);
    assert_eq!(changes.removed().collect::<Vec<_>>(), [Plan::PREMIUM]);
    let applied = apply(&store, &lower).unwrap();
    // This process goes on with the table that it has.
    assert_eq!(store.catalog(), Catalog::seed());
    assert_eq!(store.usage(bo, NOW).unwrap().plan(), Plan::PRO);
    drop(store);
    let store = open(folder.path());
    assert_eq!(store.catalog(), applied);
    assert!(store.catalog().changes(&lower).is_empty());
    assert_eq!(
        table(&store),
        [(0, "Free", 5, 1), (3, "Team", 70, 2), (1, "Pro", 40, 2)]
    );
    assert_eq!(store.catalog().prices, lower.prices);
    let terms = store.catalog().plans.least().terms();
    assert_eq!(
        (terms.requests_per_minute, terms.price.as_deref()),
        (Some(60), Some("$9/month"))
    );
    let usage = store.usage(bo, NOW).unwrap();
    let balance = usage.balance();
    assert_eq!((balance.plan.name(), balance.memory_limit), ("Pro", 2));
    assert_eq!((usage.granted, usage.used, usage.held), (10_000, 6, 3));
    assert_eq!(
        (balance.credits_remaining, balance.memory_remaining),
        (9_994, 0)
    );
    let refused = usage.clone().begin_add(
        Payer::first(1),
        crate::domain::memory::MemoryId::new(9, 9),
        3,
        None,
        NOW,
    );
    assert!(matches!(refused, Err(Refusal::MemoryLimit(b)) if b.memory_count == 3));
    assert_eq!(usage.balance_of(2).unwrap().credits_remaining, 5);
    // The debit that enters the next cycle is granted by the new terms.
    let next = NOW.plus_seconds(32 * DAY);
    store
        .debit(bo, Payer::first(1), (Operation::ListMemories, 1), next)
        .await
        .unwrap();
    let usage = store.usage(bo, next).unwrap();
    assert_eq!((usage.granted, usage.used, usage.used_ever), (40, 1, 7));
    // It holds more than any plan has now, and that is no damage.
    sound(&store);
}

#[tokio::test]
async fn a_plan_in_use_cannot_go() {
    // Shows that an account, or a key's cap, keeps a plan; who uses it; that nothing is written.
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let bo = account(&store).await;
    let al = sign_up(&store, None, 2_000, new_key("of al")).await;
    let uses = store.plan_uses().unwrap();
    let on = |no: u16| uses.get(&PlanNo(no)).map(|u| (u.accounts, u.keys));
    assert_eq!((on(0), on(1), on(2)), (Some((0, 1)), Some((2, 0)), None));
    let refused = |plans: &[(&'static str, u64, u64)]| match apply(&store, &offer(plans)) {
        Err(ApplyError::InUse(why)) => (why.name, why.accounts, why.keys),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&[("Free", 1, 1)]), ("Pro".to_owned(), 2, 0));
    assert_eq!(refused(&[("Pro", 1, 1)]), ("Free".to_owned(), 0, 1));
    assert_eq!(store.trees().plans.iter().count(), 0);
    // Once nobody has it, it can go; a revoked key still tells what capped it.
    let capped = store.keys(bo, NOW).unwrap()[1].clone();
    store
        .revoke_key(bo, &capped.id, false, NOW, by("admin"))
        .await
        .unwrap();
    apply(&store, &offer(&[("Pro", 1, 1)])).unwrap();
    drop(store);
    let store = open(folder.path());
    assert_eq!(table(&store), [(1, "Pro", 1, 1)]);
    let row = store.keys(bo, NOW).unwrap()[1].clone();
    let usage = store.usage(bo, NOW).unwrap();
    assert_eq!(usage.cap_of(&row.share).map(Plan::name), Some("Free"));
    // Its name may come back, its number does not.
    apply(&store, &offer(&[("Free", 9, 9), ("Pro", 1, 1)])).unwrap();
    drop(store);
    let store = open(folder.path());
    assert_eq!(table(&store), [(3, "Free", 9, 9), (1, "Pro", 1, 1)]);
    assert_eq!(store.usage(al, NOW).unwrap().plan().name(), "Pro");
    sound(&store);
}

#[tokio::test]
async fn an_apply_that_was_cut_short_changes_nothing() {
    // Shows, for a crash after each step of an apply, that one catalog stands whole, and that the next apply is
    // not misled by what was left.
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (
        offer(&[("Free", 1, 1), ("Old", 2, 2)]),
        offer(&[("Free", 3, 3), ("A", 4, 4), ("B", 5, 5)]),
    );
    let third = offer(&[("Free", 6, 6), ("C", 7, 7)]);
    let store = open(folder.path());
    apply(&store, &first).unwrap();
    drop(store);
    let store = open(folder.path());
    let before: Vec<_> = store.trees().plans.iter().map(Result::unwrap).collect();
    let old = table(&store);
    // What an apply writes, in the order in which the log has it.
    let mut written = store.trees().plans.watch_prefix([]);
    apply(&store, &second).unwrap();
    let soon = std::time::Duration::from_millis(100);
    let mut steps = Vec::new();
    while let Ok(event) = written.next_timeout(soon) {
        steps.push(match event {
            sled::Event::Insert { key, value } => (key, Some(value)),
            sled::Event::Remove { key } => (key, None),
        });
    }
    drop((written, store));
    let store = open(folder.path());
    let new = table(&store);
    // Rows in, head in, old rows out.
    assert_eq!(steps.len(), (3 + 3) + 1 + (2 + 2));
    drop(store);
    for done in 0..=steps.len() {
        let store = open(folder.path());
        let tree = store.trees().plans;
        tree.clear().unwrap();
        for (key, value) in &before {
            tree.insert(key, value).unwrap();
        }
        for (key, value) in &steps[..done] {
            match value {
                Some(value) => drop(tree.insert(key, value).unwrap()),
                None => drop(tree.remove(key).unwrap()),
            }
        }
        drop((tree, store));
        let store = open(folder.path());
        let expected = if done <= 6 { &old } else { &new };
        assert_eq!(table(&store), *expected, "after {done} steps");
        sound(&store);
        let applied = apply(&store, &third).unwrap();
        drop(store);
        let store = open(folder.path());
        assert_eq!(store.catalog(), applied, "after {done} steps");
        let generations: std::collections::BTreeSet<_> = store
            .trees()
            .plans
            .iter()
            .keys()
            .map(|key| key.unwrap()[..4].to_vec())
            .collect();
        assert_eq!(generations.len(), 2, "rows of one generation, and the head");
    }
}

#[tokio::test]
async fn a_backup_brings_the_catalog_back() {
    // Shows that plans, prices and numbers come back, byte for byte, and that the copy backs up as the same.
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let store = open(&path("a"));
    account(&store).await;
    let plans = offer(&[("Free", 5, 1), ("Pro", 40, 2), ("Team", 70, 7)]);
    apply(&store, &plans).unwrap();
    drop(store);
    let back_up = |store: &Store, name: &str| -> Backup {
        std::thread::scope(|scope| {
            let made = || store.back_up(&path(name), NOW, &mut |_, _| ControlFlow::Continue(()));
            scope.spawn(made).join().unwrap().unwrap()
        })
    };
    let store = open(&path("a"));
    let first = back_up(&store, "a.backup");
    restore(&path("a.backup"), &path("b"), NOW, &mut |_, _, _| {
        ControlFlow::Continue(())
    })
    .unwrap();
    let copy = open(&path("b"));
    assert_eq!(copy.catalog(), store.catalog());
    assert_eq!(
        table(&copy),
        [(0, "Free", 5, 1), (1, "Pro", 40, 2), (3, "Team", 70, 7)]
    );
    assert_eq!(copy.catalog().prices, plans.prices);
    let all = |store: &Store| {
        store
            .trees()
            .plans
            .iter()
            .map(Result::unwrap)
            .collect::<Vec<_>>()
    };
    assert_eq!(all(&copy), all(&store));
    // The restore is a row of the audit log.
    let second = back_up(&copy, "b.backup").contents;
    assert_eq!(second.records, first.contents.records + 1);
    sound(&copy);
}

#[tokio::test]
async fn a_damaged_catalog_is_named() {
    // Shows that a service does not start on plans that cannot be read, and that a check says so.
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    account(&store).await;
    apply(&store, &offer(&[("Free", 5, 1), ("Pro", 40, 2)])).unwrap();
    let generation = 1;
    let row = store
        .trees()
        .plans
        .remove(plan_key(generation, PlanNo(0)))
        .unwrap()
        .unwrap();
    drop(store);
    let refused = Store::open(folder.path(), Options::default()).map(drop);
    assert!(
        matches!(&refused, Err(OpenError::Recovery { source, .. })
            if source.to_string().contains("the table of plans: a plan is missing")),
        "{refused:?}"
    );
    let (store, _) = Store::open_to_check(folder.path(), Options::default()).unwrap();
    let report = store.check(&|_| {}).unwrap();
    let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        ["plans head: the table of plans: a plan is missing"]
    );
    store
        .trees()
        .plans
        .insert(plan_key(generation, PlanNo(0)), row)
        .unwrap();
    drop(store);
    sound(&open(folder.path()));
}

#[tokio::test]
async fn a_database_opened_anew_keeps_the_processs_table() {
    // Shows that the table that handles point to stays the same one after a failure of the disk.
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    apply(&store, &offer(&[("Solo", 5, 1)])).unwrap();
    drop(store);
    let store = open(folder.path());
    let plan = store.catalog().plans.least();
    store.poison_for_test();
    store.reopen().unwrap();
    let bo = crate::store::NewAccount {
        account: AccountKey::new(1, 1),
        name: None,
        plan,
        key: new_key("k"),
        created_at: NOW,
        cause: Cause::service(),
    };
    let account = bo.account;
    store.create_account(bo).await.unwrap();
    let usage = store.usage(account, NOW).unwrap();
    assert!(std::ptr::eq(usage.plans, plan.plans()));
    // A price of nothing debits nothing, also with nothing left.
    store
        .debit(account, Payer::first(1), (Operation::ListMemories, 5), NOW)
        .await
        .unwrap();
    assert_eq!(
        store
            .debit(account, Payer::first(1), (Operation::ListMemories, 0), NOW)
            .await
            .unwrap()
            .cost,
        0
    );
    let out = store
        .debit(account, Payer::first(1), (Operation::ListMemories, 1), NOW)
        .await;
    assert!(matches!(
        out,
        Err(OpError::Refused(Refusal::OutOfCredits(_)))
    ));
}
