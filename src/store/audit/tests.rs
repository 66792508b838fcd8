//! Rows exactly once, in order, wherever a crash cuts; what the proof finds; what pages show.

use std::path::Path;

use super::*;
use crate::domain::plan::Plan;
use crate::domain::usage::Usage;
use crate::store::testing::{NOW, new_key, sign_up};
use crate::store::{AuditFault, AuditFilter, Options};

fn open(path: &Path) -> Store {
    let (store, _) = Store::open(path, Options::default()).unwrap();
    store
}

fn rows(store: &Store) -> Vec<AuditRow> {
    let rows = store.trees().audit;
    rows.iter()
        .values()
        .map(|row| decode(&row.unwrap()).unwrap())
        .collect()
}

fn actions(store: &Store, account: AccountKey) -> Vec<(String, u64)> {
    let of = rows(store)
        .into_iter()
        .filter(|row| row.entry.account == Some(account));
    of.map(|row| (row.entry.action, row.event_no)).collect()
}

/// Proves the log, and that each account's index names its rows and no others.
fn sound(store: &Store) -> AuditHead {
    let mut indexed = Vec::new();
    let head = store.verify_audit(&[], |row| {
        if let Some(account) = row.account {
            indexed.push(op_key(account, row.no).to_vec());
        }
    });
    indexed.sort();
    let keys = store.trees().audit_accounts;
    let keys: Vec<_> = keys
        .iter()
        .keys()
        .map(|key| key.unwrap().to_vec())
        .collect();
    assert_eq!(keys, indexed);
    head.unwrap()
}

fn grant(n: u64) -> Event {
    let amount = i64::try_from(n).unwrap();
    Event {
        no: n,
        at: NOW,
        cause: Cause::service(),
        kind: EventKind::CreditsAdjusted { amount },
    }
}

/// Shows for a record with 40 events, that of an account and that of its usage, that wherever a crash cuts
/// handing them over each is a row once, and in order: `there` of them are in the log, `dropped` from the record.
#[tokio::test]
async fn a_crash_leaves_each_event_a_row_once() {
    for carrier in [Carrier::Account, Carrier::Usage] {
        for there in 0..=40u64 {
            // A batch is dropped once it is in the log whole, and the next begins after that.
            let begun = there.saturating_sub(1) / 16 * 16;
            let done = if there % 16 == 0 || there == 40 {
                there
            } else {
                begun
            };
            for dropped in [begun, done] {
                let directory = tempfile::tempdir().unwrap();
                let store = open(directory.path());
                let account = sign_up(&store, None, 1_000, new_key("a-key")).await;
                let other = sign_up(&store, None, 2_000, new_key("another")).await;
                let trees = store.trees();
                let mut head = Head::read(&trees.audit, OnDamage::Stop).unwrap();
                let mut tail = crate::domain::event::EventTail::default();
                let first = match carrier {
                    Carrier::Account => 3, // a sign-up is two events
                    _ => 1,
                };
                for n in first..first + 40 {
                    if n < first + there {
                        head.append(&trees, Some(account), carrier, &grant(n))
                            .unwrap();
                    }
                    if n >= first + dropped {
                        tail.events.push(grant(n));
                    }
                    tail.last_no = n;
                }
                if carrier == Carrier::Account {
                    let record = trees.users.get(account.0).unwrap().unwrap();
                    let mut record: AccountRecord = decode(&record).unwrap();
                    record.events = tail;
                    trees
                        .users
                        .insert(account.0, encode(&record).unwrap())
                        .unwrap();
                } else {
                    let mut usage: Usage = store.usage(account, NOW).unwrap();
                    usage.events = tail;
                    trees
                        .usage
                        .insert(account.0, encode(&usage).unwrap())
                        .unwrap();
                }
                // A row whose index entry was not written any more: the last one, whoever's it is.
                let owner = if there > 0 { account } else { other };
                let last = trees.audit_accounts.remove(op_key(owner, 4 + there));
                assert!(last.unwrap().is_some());
                drop((trees, store));
                let store = open(directory.path());
                sound(&store);
                let expected: Vec<_> = (first..first + 40)
                    .map(|n| ("credits.adjusted".to_owned(), n))
                    .collect();
                let mut found = actions(&store, account);
                found.retain(|(action, _)| action == "credits.adjusted");
                assert_eq!(found, expected, "{carrier:?} {there} {dropped}");
                let record = store.trees().users.get(account.0).unwrap().unwrap();
                let record: AccountRecord = decode(&record).unwrap();
                assert_eq!(record.events.events, []);
                assert_eq!(store.usage(account, NOW).unwrap().events.events, []);
            }
        }
    }
}

/// Shows that nothing is appended after a write has failed: what is not dropped yet must stay among the last
/// rows, or it would be there twice after the next start.
#[tokio::test]
async fn nothing_is_appended_after_a_failed_write() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let account = sign_up(&store, None, 1_000, new_key("a-key")).await;
    let before = store.audit_head().unwrap();
    let mut usage: Usage = store.usage(account, NOW).unwrap();
    usage
        .events
        .push(NOW, Cause::service(), EventKind::EmailChanged);
    let trees = store.trees();
    trees
        .usage
        .insert(account.0, encode(&usage).unwrap())
        .unwrap();
    store.forget_kept();
    store.poison_for_test();
    let inner = store.inner().unwrap();
    assert!(matches!(
        inner.hand_over(account),
        Err(StoreError::Unavailable)
    ));
    let refused = store.record_event(None, NOW, Cause::service(), EventKind::DefaultAdminKey);
    assert!(matches!(refused, Err(StoreError::Unavailable)));
    assert_eq!(
        (store.audit_head().unwrap(), trees.audit.len()),
        (before, 2)
    );
}

/// Shows that 64 events at once, of records and of none, make one chain in which each account's are in order
/// and each is there once.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn racing_events_are_one_chain() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut accounts = Vec::new();
    for n in 0..4 {
        accounts.push(sign_up(&store, None, 1_000 + n, new_key(&format!("key {n}"))).await);
    }
    let mut tasks = Vec::new();
    for n in 0..64usize {
        let (store, account) = (store.clone(), accounts[n % 4]);
        tasks.push(tokio::spawn(async move {
            let cause = Cause::service();
            match n / 4 % 4 {
                0 => {
                    let key = new_key(&format!("more {n}"));
                    drop(
                        store
                            .create_key(account, key, None, NOW, cause)
                            .await
                            .unwrap(),
                    );
                }
                1 => {
                    // Some are the plan that it has, and change nothing.
                    let plan = [Plan::FREE, Plan::PREMIUM][n / 16 % 2];
                    store.change_plan(account, plan, NOW, cause).await.unwrap();
                }
                2 => drop(
                    store
                        .suspend(account, n / 16 % 2 == 0, NOW, cause)
                        .await
                        .unwrap(),
                ),
                _ => store
                    .record_event(Some(account), NOW, cause, EventKind::EmailChanged)
                    .unwrap(),
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let head = sound(&store);
    for carrier in [Carrier::Account, Carrier::Usage] {
        for account in &accounts {
            let of = rows(&store)
                .into_iter()
                .filter(|row| row.carrier == carrier && row.entry.account == Some(*account));
            let numbers: Vec<_> = of.map(|row| row.event_no).collect();
            let last = u64::try_from(numbers.len()).unwrap();
            assert_eq!(numbers, (1..=last).collect::<Vec<_>>());
        }
    }
    let free = rows(&store)
        .into_iter()
        .filter(|row| row.carrier == Carrier::Nothing);
    assert_eq!(free.count(), 16);
    let made = rows(&store)
        .into_iter()
        .filter(|row| row.entry.action == "key.created");
    assert_eq!(made.count(), 4 + 16);
    drop(store);
    let store = open(directory.path());
    assert_eq!(sound(&store), head);
}

/// A log of ten rows, and two heads of it.
async fn ten_rows(path: &Path) -> (Store, Vec<AuditHead>) {
    let store = open(path);
    let mut heads = Vec::new();
    let account = sign_up(&store, Some("bo@example.com"), 1_000, new_key("a-key")).await;
    for n in 0..8 {
        let cause = Cause {
            reason: Some(format!("reason {n}")),
            ..Cause::operator()
        };
        store
            .record_event(Some(account), NOW, cause, EventKind::EmailChanged)
            .unwrap();
        heads.push(store.audit_head().unwrap());
    }
    (store, heads)
}

fn fault(store: &Store, noted: &[AuditHead]) -> Option<String> {
    let verified = store.verify_audit(noted, |_| ());
    verified.err().map(|fault| fault.to_string())
}

/// Shows that any bit of a row that changes what it says is found, and which row is named.
#[tokio::test]
async fn a_changed_bit_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = ten_rows(directory.path()).await;
    let audit = store.trees().audit;
    let key = 5u64.to_be_bytes();
    let row = audit.get(key).unwrap().unwrap();
    let before: AuditRow = decode(&row).unwrap();
    let mut found = 0;
    for bit in 0..row.len() * 8 {
        let mut changed = row.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        audit.insert(key, changed.clone()).unwrap();
        if let Some(fault) = fault(&store, &[]) {
            assert!(fault.starts_with("row 5: "), "{fault}");
            found += 1;
        } else {
            // Not part of the row: which event of its record it is.
            let after: AuditRow = decode(&changed).unwrap();
            let said = (before.entry.clone(), before.latest);
            assert_eq!((after.entry, after.latest), said);
            let origin = (before.carrier, before.event_no);
            assert_ne!((after.carrier, after.event_no), origin);
        }
    }
    assert!(found > row.len() * 8 - 20, "{found} of {}", row.len() * 8);
    audit.insert(key, row).unwrap();
    assert_eq!(fault(&store, &[]), None);
}

/// Shows that a removed row, two that changed places and a wrong key are found, and the first row is named.
#[tokio::test]
async fn rows_that_are_gone_or_moved_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = ten_rows(directory.path()).await;
    let audit = store.trees().audit;
    let get = |no: u64| audit.get(no.to_be_bytes()).unwrap().unwrap();
    let put = |no: u64, row: &sled::IVec| drop(audit.insert(no.to_be_bytes(), row).unwrap());
    let (four, five) = (get(4), get(5));
    audit.remove(4u64.to_be_bytes()).unwrap();
    let gone = "row 4: it is missing; the next one is row 5";
    assert_eq!(fault(&store, &[]).as_deref(), Some(gone));
    put(4, &five);
    put(5, &four);
    let moved = "row 4: row 5 is in its place";
    assert_eq!(fault(&store, &[]).as_deref(), Some(moved));
    put(4, &four);
    put(5, &five);
    assert_eq!(fault(&store, &[]), None);
    let one = get(1);
    audit.remove(1u64.to_be_bytes()).unwrap();
    assert!(
        fault(&store, &[])
            .unwrap()
            .starts_with("row 1: it is missing")
    );
    put(1, &one);
    audit.insert(b"short", four).unwrap();
    assert!(fault(&store, &[]).is_some());
}

/// Shows what a chain alone cannot: rows cut from the end, and a whole new chain, are found by a head that was
/// written down, and only by it.
#[tokio::test]
async fn a_noted_head_finds_a_cut_and_a_new_chain() {
    let directory = tempfile::tempdir().unwrap();
    let (store, heads) = ten_rows(directory.path()).await;
    let audit = store.trees().audit;
    assert_eq!(fault(&store, &heads), None);
    for no in 9..=10u64 {
        audit.remove(no.to_be_bytes()).unwrap();
    }
    assert_eq!(fault(&store, &[]), None);
    assert_eq!(fault(&store, &heads[..6]), None);
    let cut = "row 9: it was written down and is missing; the log ends with row 8";
    assert_eq!(fault(&store, &heads).as_deref(), Some(cut));
    let mut chain = crate::domain::audit::Chain::new();
    for row in rows(&store) {
        let mut row = AuditRow { ..row };
        if row.entry.no == 6 {
            row.entry.reason = Some("another".to_owned());
        }
        row.entry.hash = row.entry.hash_after(&chain.hash);
        chain.follow(row.entry.no, &row.entry).unwrap();
        audit
            .insert(row.entry.no.to_be_bytes(), encode(&row).unwrap())
            .unwrap();
    }
    assert_eq!(fault(&store, &[]), None);
    let verified = store.verify_audit(&heads[..6], |_| ());
    assert!(
        matches!(verified, Err(AuditFault::OtherThanNoted(6))),
        "{verified:?}"
    );
}

/// Shows that a log whose last row cannot be read stops a service, but not the proof, which names the row; and
/// that nothing is chained to it.
#[tokio::test]
async fn a_damaged_end_stops_a_service_and_not_the_proof() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = ten_rows(directory.path()).await;
    store
        .trees()
        .audit
        .insert(10u64.to_be_bytes(), &[9, 9])
        .unwrap();
    drop(store);
    let refused = Store::open(directory.path(), Options::default()).unwrap_err();
    assert!(refused.to_string().contains("unknown version"), "{refused}");
    let (store, _) = Store::open_to_check(directory.path(), Options::default()).unwrap();
    assert!(fault(&store, &[]).unwrap().starts_with("row 10: "));
    let refused = store.record_event(None, NOW, Cause::service(), EventKind::DefaultAdminKey);
    assert!(matches!(refused, Err(StoreError::Corrupt(_))));
    assert_eq!(store.trees().audit.len(), 10);
}

/// All pages of a filter, from the newest, and how many they were.
fn paged(store: &Store, filter: &AuditFilter, limit: usize) -> (Vec<u64>, usize) {
    let (mut numbers, mut before, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = store.audit_page(filter, before, limit).unwrap();
        assert!(page.rows.len() <= limit);
        numbers.extend(page.rows.iter().map(|row| row.entry.no));
        pages += 1;
        match page.next {
            None => return (numbers, pages),
            next => {
                assert!(before.is_none() || next < before);
                before = next;
            }
        }
    }
}

/// Shows pages of every filter beside a filter of all rows, over a clock that is set to and fro, with every size
/// of page, and after the index was derived anew.
#[tokio::test]
async fn pages_show_what_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    let mut accounts = vec![None];
    for n in 0..3 {
        let account = sign_up(&store, None, 1_000 + n, new_key(&format!("key {n}"))).await;
        accounts.push(Some(account));
    }
    let mut random = 7u64;
    for n in 0..200 {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let pick = usize::try_from(random >> 33).unwrap();
        // Time goes on, but for some rows that are far ahead or behind.
        let jump = [0, 0, 0, 500, -300][pick % 5];
        let at = NOW.plus_seconds(n + jump);
        let account = accounts[pick / 5 % 4];
        store
            .record_event(account, at, Cause::service(), EventKind::EmailChanged)
            .unwrap();
    }
    let all = rows(&store);
    for derived in [false, true] {
        if derived {
            store.trees().audit_accounts.clear().unwrap();
            drop(store);
            store = open(directory.path());
            sound(&store);
        }
        for account in &accounts {
            for from in [
                None,
                Some(-400),
                Some(0),
                Some(50),
                Some(199),
                Some(400),
                Some(9_999),
            ] {
                let filter = AuditFilter {
                    account: *account,
                    from: from.map(|seconds| NOW.plus_seconds(seconds)),
                };
                let wanted = all.iter().rev().map(|row| &row.entry).filter(|row| {
                    filter.account.is_none_or(|of| row.account == Some(of))
                        && filter.from.is_none_or(|from| row.at >= from)
                });
                let wanted: Vec<u64> = wanted.map(|row| row.no).collect();
                for limit in [1, 7, 100, 1_000] {
                    assert_eq!(
                        paged(&store, &filter, limit).0,
                        wanted,
                        "{filter:?} {limit}"
                    );
                }
            }
        }
    }
}

/// Shows that a page looks at 1,000 rows at most and says where to go on, and that an account's few rows among
/// many are found without looking at the others.
#[tokio::test]
async fn a_page_looks_at_a_bounded_number_of_rows() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let record = |account, at| {
        let kind = EventKind::EmailChanged;
        store
            .record_event(account, at, Cause::service(), kind)
            .unwrap();
    };
    let quiet = sign_up(&store, None, 1_000, new_key("a-key")).await;
    // Far ahead: whatever comes after it may be wanted.
    record(None, NOW.plus_seconds(1_000_000));
    for _ in 0..2_500 {
        record(None, NOW);
    }
    let filter = AuditFilter {
        account: None,
        from: Some(NOW.plus_seconds(1)),
    };
    let first = store.audit_page(&filter, None, 10).unwrap();
    assert_eq!((first.rows.len(), first.next), (0, Some(2_503 - 999)));
    assert_eq!(paged(&store, &filter, 10), (vec![3], 3));
    let filter = AuditFilter {
        account: Some(quiet),
        from: None,
    };
    assert_eq!(paged(&store, &filter, 10), (vec![2, 1], 1));
}

/// How long a row takes beside what an admin's request does otherwise. Not a test.
#[test]
#[ignore = "figures"]
#[expect(clippy::print_stdout, reason = "figures")]
fn figures_of_a_row() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let begun = std::time::Instant::now();
    for _ in 0..20_000 {
        let kind = EventKind::AdminGranted {
            route: "GET /admin/users".to_owned(),
        };
        let cause = Cause::by(crate::domain::event::Actor::Admin);
        store.record_event(None, NOW, cause, kind).unwrap();
    }
    println!("{:?} a row", begun.elapsed() / 20_000);
    let begun = std::time::Instant::now();
    sound(&store);
    println!("{:?} to prove 20,000", begun.elapsed());
}
