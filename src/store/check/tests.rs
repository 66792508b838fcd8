//! A small store is sound; each damage is named.

use super::*;
use crate::domain::event::{Cause, EventKind};
use crate::domain::key::KeyId;
use crate::domain::ledger::LedgerRow;
use crate::domain::memory::MemoryId;
use crate::domain::plan::Plan;
use crate::domain::usage::Usage;
use crate::store::codec::{decode_borrowed, encode};
use crate::store::pieces::{self, Owner};
use crate::store::schema::{
    ActiveKey, AuditRow, KeyIntent, MemoryHead, account_key_key, memory_key, op_key, replay_key,
    replay_time_key,
};
use crate::store::stats::Delta;
use crate::store::testing::{NOW, add, by, change, new_key, sign_up};
use crate::store::{NewKey, Options};

/// A small store with something of everything in it, opened anew, so that nothing is under way.
pub(in crate::store) struct Fixture {
    pub store: Store,
    pub directory: tempfile::TempDir,
    /// Two keys, one of them revoked; a name; saved aggregates; a recorded answer; a ledger in both places.
    pub bo: AccountKey,
    /// No name, no memories; suspended.
    pub al: AccountKey,
    /// Bo's keys: the first, and the revoked one.
    pub keys: [(KeyHash, KeyId); 2],
    pub short: MemoryId,
    pub long: MemoryId,
    pub newest: MemoryId,
}

/// A key whose time will come.
fn ends(key: NewKey) -> NewKey {
    NewKey {
        expires_at: Some(NOW.plus_seconds(86_400)),
        ..key
    }
}

impl Fixture {
    pub(in crate::store) async fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path(), Options::default()).unwrap();
        let (first, second) = (new_key("first-key-of-bo"), new_key("second-key-of-bo"));
        let keys = [&first, &second].map(|key| (key.hash, key.id.clone()));
        let bo = sign_up(&store, Some("bo@example.com"), 1_000, first).await;
        let al = sign_up(&store, None, 2_000, new_key("key-of-al")).await;
        store
            .create_key(bo, ends(second), Some(1), NOW, Cause::service())
            .await
            .unwrap();
        let short = add(&store, bo, 1, 1, 10).await;
        let long = add(&store, bo, 1, 2, 30_000).await;
        let gone = add(&store, bo, 2, 3, 30_000).await;
        let grows = add(&store, bo, 2, 4, 10).await;
        let shrinks = add(&store, bo, 2, 5, 30_000).await;
        store
            .inner()
            .unwrap()
            .swap_usage::<_, std::convert::Infallible>(bo, |usage| {
                usage.stats_due = 0;
                Ok(())
            })
            .unwrap();
        store.inner().unwrap().save_stats(bo).unwrap();
        change(&store, bo, long, 20_000).await;
        change(&store, bo, grows, 30_000).await;
        change(&store, bo, shrinks, 10).await;
        store
            .revoke_key(bo, &keys[1].1, false, NOW, by("admin"))
            .await
            .unwrap();
        store.delete_memory(bo, 1, gone, NOW).await.unwrap();
        store.inner().unwrap().move_ledger(bo).unwrap();
        let newest = add(&store, bo, 1, 6, 10).await;
        store.suspend(al, true, NOW, by("admin")).await.unwrap();
        drop(store);
        let (store, opened) = Store::open(directory.path(), Options::default()).unwrap();
        assert_eq!(opened.settled, 0);
        Self {
            store,
            directory,
            bo,
            al,
            keys,
            short,
            long,
            newest,
        }
    }

    /// Puts another value under a key, checks, puts the old one back, returns what was found.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a test reads better without a borrow"
    )]
    fn damaged(&self, tree: &sled::Tree, key: &[u8], value: Option<Vec<u8>>) -> Vec<String> {
        let old = tree.get(key).unwrap();
        let set = |value: Option<&[u8]>| match value {
            Some(value) => drop(tree.insert(key, value).unwrap()),
            None => drop(tree.remove(key).unwrap()),
        };
        set(value.as_deref());
        let report = self.store.check(&|_| ()).unwrap();
        assert_eq!(report.is_sound(), report.problems.is_empty());
        set(old.as_deref());
        report.problems.iter().map(ToString::to_string).collect()
    }

    fn with_usage(&self, change: impl Fn(&mut Usage)) -> Vec<String> {
        let mut usage = self.store.inner().unwrap().usage(self.bo).unwrap();
        change(&mut usage);
        let bytes = Some(encode(&usage).unwrap());
        self.damaged(&self.store.trees().usage, &self.bo.0, bytes)
    }

    fn with_user(&self, change: impl Fn(&mut AccountRecord)) -> Vec<String> {
        let mut record = self.store.inner().unwrap().account_record(self.bo).unwrap();
        change(&mut record);
        let bytes = Some(encode(&record).unwrap());
        self.damaged(&self.store.trees().users, &self.bo.0, bytes)
    }

    fn with_key(&self, hash: KeyHash, change: impl Fn(&mut KeyRecord)) -> Vec<String> {
        let mut record = self
            .store
            .inner()
            .unwrap()
            .key_record(&hash)
            .unwrap()
            .unwrap();
        change(&mut record);
        let bytes = Some(encode(&record).unwrap());
        self.damaged(&self.store.trees().keys, &hash.0, bytes)
    }

    fn with_head(&self, id: MemoryId, change: impl Fn(&mut MemoryHead<'_>)) -> Vec<String> {
        let (memories, key) = (&self.store.trees().memories, memory_key(self.bo, id));
        let bytes = memories.get(key).unwrap().unwrap();
        let mut head: MemoryHead<'_> = decode_borrowed(&bytes).unwrap();
        change(&mut head);
        self.damaged(memories, &key, Some(encode(&head).unwrap()))
    }
}

/// Shows that everything the operations leave is sound, and how a report reads.
#[tokio::test]
async fn what_the_operations_leave_is_sound() {
    let fixture = Fixture::make().await;
    let report = fixture.store.check(&|_| ()).unwrap();
    assert_eq!(
        report.to_string(),
        "2 accounts, 3 keys, 5 memories, 6 ledger rows: sound"
    );
    // The fixture has what the other tests damage.
    let trees = &fixture.store.trees();
    for tree in [
        &trees.pieces,
        &trees.stats,
        &trees.stats_journal,
        &trees.replays,
        &trees.ledger,
        &trees.key_expiries,
        &trees.barred,
        &trees.audit,
        &trees.audit_accounts,
    ] {
        assert!(!tree.is_empty());
    }
}

/// Shows that counters which disagree with what is stored are named.
#[tokio::test]
async fn wrong_counters_are_named() {
    let fixture = Fixture::make().await;
    let bo = fixture.bo.anonymous_id();
    let found = fixture.with_usage(|usage| usage.held = 6);
    assert_eq!(
        found,
        [format!("usage {bo}: it counts 6 memories, 5 are there")]
    );
    let found = fixture.with_usage(|usage| usage.used = usage.granted + 1);
    assert_eq!(
        found,
        [
            format!("usage {bo}: 10001 credits used of 10000 granted"),
            format!("usage {bo}: 10001 credits used in the cycle, 18 ever"),
            format!("usage {bo}: 10001 credits used, 18 ever, but its keys used 18, 18 ever"),
            format!(
                "usage {bo}: it counts 10000 credits granted, 10001 used, 18 ever, but its ledger comes to 10000, 18, 18"
            ),
        ]
    );
    let found = fixture.with_usage(|usage| usage.shares[0].held = 0);
    assert_eq!(
        found,
        [format!(
            "usage {bo}: its key 1 counts 0 memories, 3 are there"
        )]
    );
    let found = fixture.with_usage(|usage| usage.newest = MemoryId::default());
    assert_eq!(
        found,
        [
            format!(
                "usage {bo}: {} is newer than the last memory it gave",
                fixture.newest
            ),
            format!("stats {bo}: it counts writes that the account has not made"),
        ]
    );
    let found = fixture.with_usage(|usage| usage.next_key_no = 2);
    assert_eq!(
        found,
        [format!(
            "usage {bo}: the number 2 of a key would be given again"
        )]
    );
    let found = fixture.with_usage(|usage| drop(usage.begin_delete(1, fixture.short, NOW)));
    assert_eq!(
        found,
        [
            format!("usage {bo}: 1 intents are left that opening should have settled"),
            format!("usage {bo}: it counts 4 memories, 5 are there"),
            format!("usage {bo}: its key 1 counts 2 memories, 3 are there"),
        ]
    );
    let (hash, id) = &fixture.keys[1];
    let found = fixture.with_key(*hash, |key| key.retired.as_mut().unwrap().share.held = 9);
    assert_eq!(
        found,
        [format!("keys {id}: it counts 9 memories, 2 are there")]
    );
    assert!(fixture.store.check(&|_| ()).unwrap().is_sound());
}

/// Shows that accounts, names and usage which do not belong together are named.
#[tokio::test]
async fn accounts_that_do_not_fit_are_named() {
    let fixture = Fixture::make().await;
    let (trees, bo) = (&fixture.store.trees(), fixture.bo.anonymous_id());
    let al = fixture.al.anonymous_id();
    let name = b"bo@example.com".as_slice();
    let found = fixture.damaged(&trees.names, name, None);
    assert_eq!(found, [format!("users {bo}: its name is not in names")]);
    let of_al = Some(encode(&fixture.al).unwrap());
    let found = fixture.damaged(&trees.names, name, of_al.clone());
    assert_eq!(
        found,
        [
            format!("users {bo}: its name is another account's in names"),
            format!("names {al}: a name points to an account with another name"),
        ]
    );
    let found = fixture.damaged(&trees.names, b"cy@example.com", of_al);
    assert_eq!(
        found,
        [format!(
            "names {al}: a name points to an account with another name"
        )]
    );
    let nobody = AccountKey::new(3_000, 9);
    let found = fixture.damaged(&trees.names, name, Some(encode(&nobody).unwrap()));
    assert_eq!(
        found,
        [
            format!("users {bo}: its name is another account's in names"),
            format!(
                "names {}: a name points to an account that is not there",
                nobody.anonymous_id()
            ),
        ]
    );
    let found = fixture.damaged(&trees.usage, &fixture.al.0, None);
    assert_eq!(found, [format!("users {al}: it has no usage")]);
    let usage = Usage::new(Plan::FREE, NOW);
    let found = fixture.damaged(&trees.usage, &nobody.0, Some(encode(&usage).unwrap()));
    assert_eq!(
        found,
        [format!(
            "usage {}: its account is not there",
            nobody.anonymous_id()
        )]
    );
    let found = fixture.damaged(&trees.usage, &fixture.al.0, Some(vec![9, 9]));
    assert_eq!(
        found,
        [format!("usage {al}: a record has the unknown version 9")]
    );
    let intent = KeyIntent::SignUp {
        name: None,
        hash: fixture.keys[0].0,
        id: fixture.keys[0].1.clone(),
    };
    let key = op_key(fixture.al, 1);
    let found = fixture.damaged(&trees.key_intents, &key, Some(encode(&intent).unwrap()));
    assert_eq!(
        found,
        [format!(
            "key_intents {al} 0000000000000001: an intent is left that opening should have settled"
        )]
    );
}

/// Shows that the four places of a key are compared, each with the others.
#[tokio::test]
async fn keys_that_do_not_fit_are_named() {
    let fixture = Fixture::make().await;
    let (trees, bo) = (&fixture.store.trees(), fixture.bo.anonymous_id());
    let [(first, first_id), (second, second_id)] = &fixture.keys;
    let found = fixture.damaged(&trees.key_ids, first_id.as_str().as_bytes(), None);
    assert_eq!(
        found,
        [format!(
            "keys {first_id}: its id does not find it in key_ids"
        )]
    );
    let of_second = Some(encode(second).unwrap());
    let found = fixture.damaged(
        &trees.key_ids,
        first_id.as_str().as_bytes(),
        of_second.clone(),
    );
    assert_eq!(
        found,
        [
            format!("keys {first_id}: its id does not find it in key_ids"),
            format!("key_ids {first_id}: it finds a key with another id"),
        ]
    );
    let number = account_key_key(fixture.bo, 2);
    let found = fixture.damaged(&trees.account_keys, &number, None);
    let missing = "its number does not find it in account_keys";
    assert_eq!(
        found,
        [
            format!("keys {second_id}: {missing}"),
            format!("usage {bo}: 18 credits used, 18 ever, but its keys used 12, 12 ever"),
            format!("ledger {bo} row 3: it is of the key 2, which is not there"),
            format!("usage {bo}: 2 memories were stored with the key 2, which is not there"),
        ]
    );
    let found = fixture.damaged(
        &trees.account_keys,
        &account_key_key(fixture.bo, 3),
        of_second,
    );
    assert_eq!(
        found,
        [
            format!("account_keys {bo} 00000003: it finds a key with another account or number"),
            format!("usage {bo}: the number 3 of a key would be given again"),
        ]
    );
    let found = fixture.with_user(|user| user.active.clear());
    assert_eq!(
        found,
        [
            format!("keys {first_id}: it is not revoked and its account does not list it"),
            format!("usage {bo}: it has shares of the lineages [1], active are []"),
        ]
    );
    let found = fixture.with_user(|user| {
        user.active.push(ActiveKey {
            no: 2,
            hash: *second,
            lineage: 2,
        });
    });
    assert_eq!(
        found,
        [
            format!("users {bo}: its active key 2 is revoked"),
            format!("usage {bo}: it has shares of the lineages [1], active are [1, 2]"),
        ]
    );
    let found = fixture.with_usage(|usage| usage.shares.clear());
    assert_eq!(
        found,
        [
            format!("usage {bo}: 18 credits used, 18 ever, but its keys used 6, 6 ever"),
            format!("usage {bo}: it has shares of the lineages [], active are [1]"),
        ]
    );
    let found = fixture.damaged(&trees.keys, &first.0, None);
    assert_eq!(
        found,
        [
            format!("users {bo}: its active key 1 has no record"),
            format!("key_ids {first_id}: it finds no key"),
            format!("account_keys {bo} 00000001: it finds no key"),
        ]
    );
    let found = fixture.with_key(*second, |key| key.account = fixture.al);
    assert_eq!(
        found,
        [
            format!("keys {second_id}: {missing}"),
            format!("keys {second_id}: its end counts writes that the account has not made"),
            format!("account_keys {bo} 00000002: it finds a key with another account or number"),
        ]
    );
}

/// Shows that memories and pieces which are not whole, or nobody's, are named.
#[tokio::test]
async fn memories_that_are_not_whole_are_named() {
    let fixture = Fixture::make().await;
    let (trees, bo, id) = (
        &fixture.store.trees(),
        fixture.bo.anonymous_id(),
        fixture.short,
    );
    let found = fixture.with_head(id, |head| head.json = "{");
    let not_json = "its JSON is not an object that the service takes";
    assert_eq!(found, [format!("memories {bo} {id}: {not_json}")]);
    let found = fixture.with_head(id, |head| head.json = r#"{"id":"mem_other"}"#);
    assert_eq!(
        found,
        [format!("memories {bo} {id}: its JSON has another id")]
    );
    let found = fixture.with_head(id, |head| head.success = false);
    let other = "its JSON has another category, type, time or success than its record";
    let names = "the saved aggregates come to 5 memories, a recount to 5, or they differ in names";
    assert_eq!(
        found,
        [
            format!("stats {bo}: {names}"),
            format!("memories {bo} {id}: {other}"),
        ]
    );
    for found in [
        fixture.with_head(id, |head| head.timestamp = head.timestamp.plus_seconds(1)),
        fixture.with_head(id, |head| {
            head.json = head
                .json
                .replace("\"timestamp\":\"2026", "\"timestamp\":\"2027")
                .leak();
        }),
    ] {
        assert_eq!(found, [format!("memories {bo} {id}: {other}")]);
    }
    let found = fixture.with_head(id, |head| {
        head.json = head
            .json
            .replace("\"key_id\":\"key_", "\"key_id\":\"key-")
            .leak();
    });
    let another = "its JSON names another key than its record";
    assert_eq!(found, [format!("memories {bo} {id}: {another}")]);
    let owner = Owner::memory(memory_key(fixture.bo, fixture.long));
    let mut long = trees.pieces.scan_prefix(owner.prefix()).keys();
    let piece = long.next().unwrap().unwrap();
    let long = fixture.long;
    let found = fixture.damaged(&trees.pieces, &piece, None);
    assert_eq!(
        found,
        [format!("memories {bo} {long}: a piece of {long} is gone")]
    );
    let mut other = piece.to_vec();
    other[40] ^= 0xFF;
    let found = fixture.damaged(&trees.pieces, &other, Some(vec![0]));
    assert_eq!(
        found,
        [format!(
            "pieces m {bo} {long}: its owner names other pieces"
        )]
    );
    let mut other = piece.to_vec();
    other[32] ^= 0xFF;
    let found = fixture.damaged(&trees.pieces, &other, Some(vec![0]));
    assert_eq!(found.len(), 1);
    assert!(found[0].ends_with("its owner is not there"), "{found:?}");
    let key = memory_key(AccountKey::new(3_000, 9), id);
    let bytes = trees
        .memories
        .get(memory_key(fixture.bo, id))
        .unwrap()
        .unwrap();
    let found = fixture.damaged(&trees.memories, &key, Some(bytes.to_vec()));
    let nobody = AccountKey::new(3_000, 9).anonymous_id();
    assert_eq!(
        found,
        [format!(
            "memories {nobody}: 1 memories of an account without usage"
        )]
    );
    let found = fixture.damaged(&trees.meta, b"large", Some(vec![0; VALUE_BYTES_MAX + 1]));
    assert_eq!(found, ["meta large: its value of 7601 bytes is too large"]);
}

/// Shows that recorded answers and saved aggregates are compared with what they are about.
#[tokio::test]
async fn answers_and_aggregates_that_do_not_fit_are_named() {
    let fixture = Fixture::make().await;
    let (trees, bo) = (&fixture.store.trees(), fixture.bo.anonymous_id());
    let answer = replay_key(fixture.bo, [7; 16]);
    let name = format!("{bo} {}", "07".repeat(16));
    let found = fixture.damaged(&trees.replay_times, &replay_time_key(NOW, answer), None);
    let never = "it is not in replay_times, so it would be kept for ever";
    assert_eq!(found, [format!("replays {name}: {never}")]);
    let piece = trees
        .pieces
        .scan_prefix(Owner::replay(answer).prefix())
        .keys();
    let piece = { piece }.next().unwrap().unwrap();
    let found = fixture.damaged(&trees.pieces, &piece, None);
    assert_eq!(found, [format!("replays {name}: a piece of it is gone")]);
    // A sweep that was interrupted: its time is still there, so the next sweep goes on.
    let found = fixture.damaged(&trees.replays, &answer, None);
    assert!(found.is_empty(), "{found:?}");
    let mut other = piece.to_vec();
    other[32] ^= 0xFF;
    let found = fixture.damaged(&trees.pieces, &other, Some(vec![0]));
    let gone = format!(
        "pieces r {bo} {}f8: its recorded answer is gone",
        "07".repeat(15)
    );
    assert_eq!(found, [gone]);
    let entry = trees.stats_journal.iter().next().unwrap().unwrap();
    let found = fixture.damaged(&trees.stats_journal, &entry.0, None);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with(&format!("stats {bo}: the saved aggregates")),
        "{found:?}"
    );
    let piece = trees
        .pieces
        .scan_prefix(Owner::stats(fixture.bo.0).prefix())
        .keys();
    let piece = { piece }.next().unwrap().unwrap();
    let found = fixture.damaged(&trees.pieces, &piece, None);
    assert_eq!(
        found,
        [format!("stats {bo}: saved aggregates are not whole")]
    );
    let found = fixture.damaged(&trees.stats_journal, &op_key(fixture.al, 1), {
        Some(encode(&Delta::default()).unwrap())
    });
    let al = fixture.al.anonymous_id();
    assert_eq!(
        found,
        [format!(
            "stats_journal {al} 0000000000000001: its account has no saved aggregates"
        )]
    );
}

/// Shows that a snapshot of aggregates which a crash interrupted is gone after the next start.
#[tokio::test]
async fn an_interrupted_snapshot_leaves_nothing() {
    let fixture = Fixture::make().await;
    let pieces = &fixture.store.trees().pieces;
    for account in [fixture.bo, fixture.al] {
        pieces::write(pieces, Owner::stats(account.0), 99, &[0; 9_000]).unwrap();
    }
    let (bo, al) = (fixture.bo.anonymous_id(), fixture.al.anonymous_id());
    let found = fixture.store.check(&|_| ()).unwrap();
    let found: Vec<_> = found.problems.iter().map(ToString::to_string).collect();
    let expected = [
        format!("pieces s {bo}: its owner names other pieces"),
        format!("pieces s {al}: its owner is not there"),
    ];
    assert_eq!(found, expected);
    let inner = fixture.store.inner().unwrap();
    inner.recover(crate::store::OnDamage::Stop).unwrap();
    let report = fixture.store.check(&|_| ()).unwrap();
    assert!(report.is_sound(), "{report}");
}

/// Shows that values in files of their own are named, and that a long list is cut but counted.
#[tokio::test]
async fn blobs_are_named_and_long_lists_are_cut() {
    let fixture = Fixture::make().await;
    let blobs = fixture
        .store
        .inner()
        .unwrap()
        .directory
        .database_path()
        .join("blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join("12"), "x").unwrap();
    let report = fixture.store.check(&|_| ()).unwrap();
    let [problem] = report.problems.as_slice() else {
        panic!("{report}");
    };
    assert_eq!(
        problem.to_string(),
        "blobs 12: a page is in a file of its own: `memoryos compact` takes it back into the log"
    );
    std::fs::remove_file(blobs.join("12")).unwrap();
    for n in 0..1_100u32 {
        fixture
            .store
            .trees()
            .key_ids
            .insert(n.to_be_bytes(), b"")
            .unwrap();
    }
    let report = fixture.store.check(&|_| ()).unwrap();
    assert_eq!(
        (report.problems.len(), report.problems_total),
        (PROBLEMS_LISTED_MAX, 1_100)
    );
    let end = "\nand 100 more\n2 accounts, 3 keys, 5 memories, 6 ledger rows: 1100 problems";
    assert!(report.to_string().ends_with(end));
}

/// Shows that what each counter may be, by itself and beside the keys', is checked.
#[tokio::test]
async fn rules_of_usage_are_checked() {
    let fixture = Fixture::make().await;
    let (bo, second_id) = (fixture.bo.anonymous_id(), &fixture.keys[1].1);
    let found = fixture.with_usage(|usage| usage.used_ever += 1);
    let sums = "18 credits used, 19 ever, but its keys used 18, 18 ever";
    let ledger =
        "it counts 10000 credits granted, 18 used, 19 ever, but its ledger comes to 10000, 18, 18";
    assert_eq!(
        found,
        [
            format!("usage {bo}: {sums}"),
            format!("usage {bo}: {ledger}")
        ]
    );
    let found = fixture.with_usage(|usage| usage.shares[0].used = 13);
    let more = "its key 1 used more in the cycle than ever";
    let sums = "18 credits used, 18 ever, but its keys used 19, 18 ever";
    assert_eq!(
        found,
        [format!("usage {bo}: {more}"), format!("usage {bo}: {sums}")]
    );
    let found = fixture.with_usage(|usage| usage.cycle_end = usage.cycle_end.plus_seconds(1));
    let cycle = "its cycle does not end where its months say";
    assert_eq!(found, [format!("usage {bo}: {cycle}")]);
    let found = fixture.with_usage(|usage| usage.held = 1_000_001);
    assert_eq!(
        found,
        [
            format!("usage {bo}: it holds 1000001, more than any plan ever had"),
            format!("usage {bo}: it counts 1000001 memories, 5 are there"),
        ]
    );
    let found = fixture.with_usage(|usage| usage.next_op = 4);
    assert_eq!(
        found,
        [
            format!("keys {second_id}: its end counts writes that the account has not made"),
            format!("usage {bo}: a memory is of write 10, its next write is 4"),
            format!("stats {bo}: it counts writes that the account has not made"),
            format!(
                "stats_journal {bo} 0000000000000006: it is of a write that the account has not made"
            ),
            format!(
                "stats_journal {bo} 0000000000000007: it is of a write that the account has not made"
            ),
            format!(
                "stats_journal {bo} 0000000000000008: it is of a write that the account has not made"
            ),
            format!(
                "stats_journal {bo} 0000000000000009: it is of a write that the account has not made"
            ),
        ]
    );
    let found = fixture.with_usage(|usage| {
        for _ in 0..2 {
            drop(usage.begin_change(crate::domain::usage::Payer::first(1), fixture.short, 0, NOW));
        }
        usage.intents.reverse();
        usage.next_op = 11;
    });
    assert_eq!(
        found,
        [
            format!("usage {bo}: 2 intents are left that opening should have settled"),
            format!("usage {bo}: its intents are not in the order of writes"),
            format!("usage {bo}: an intent is of a write not made yet"),
        ]
    );
    let found = fixture.with_key(fixture.keys[1].0, |key| {
        key.retired.as_mut().unwrap().cycle = 9;
    });
    assert_eq!(
        found,
        [
            format!("keys {second_id}: its end counts writes that the account has not made"),
            format!("usage {bo}: 18 credits used, 18 ever, but its keys used 12, 18 ever"),
        ]
    );
    let found = fixture.with_key(fixture.keys[1].0, |key| {
        key.retired.as_mut().unwrap().share.key_no = 1;
    });
    let another = "the counters kept with it are another key's";
    assert_eq!(found, [format!("keys {second_id}: {another}")]);
}

/// Shows that e-mails must be in the form that is unique, that a key is listed once, and that only an
/// admin leaves an account without a key.
#[tokio::test]
async fn rules_of_accounts_are_checked() {
    let fixture = Fixture::make().await;
    let bo = fixture.bo.anonymous_id();
    let found = fixture.with_user(|user| user.name = Some("Bo@example.com".to_owned()));
    assert_eq!(
        found,
        [
            format!("users {bo}: its e-mail is not in the form that is unique"),
            format!("users {bo}: its name is not in names"),
            format!("names {bo}: a name points to an account with another name"),
        ]
    );
    let found = fixture.with_user(|user| user.active.push(user.active[0]));
    assert_eq!(
        found,
        [format!("users {bo}: its active key 1 is listed twice")]
    );
    // Al's only key: revoked by itself, which nobody may, and by an admin.
    let rows = fixture.store.keys(fixture.al, NOW).unwrap();
    let (al, id) = (fixture.al.anonymous_id(), &rows[0].id);
    for (by, problems) in [("key_000000000000", 1), ("admin", 0)] {
        let trees = fixture.store.trees();
        fixture
            .store
            .revoke_key(fixture.al, id, true, NOW, super::super::testing::by(by))
            .await
            .unwrap();
        let report = fixture.store.check(&|_| ()).unwrap();
        assert_eq!(
            (report.problems_total, report.accounts_without_key),
            (problems, 1)
        );
        let none = "it has no active key, and no admin revoked one";
        if problems == 1 {
            assert_eq!(
                report.problems[0].to_string(),
                format!("users {al}: {none}")
            );
        } else {
            let totals = "2 accounts, 3 keys, 5 memories, 6 ledger rows, 1 accounts without a key (an admin revoked it): sound";
            assert_eq!(report.to_string(), totals);
        }
        // As it was, for the next round.
        let hash: KeyHash = decode(&trees.key_ids.get(id.as_str()).unwrap().unwrap()).unwrap();
        let mut record: KeyRecord = decode(&trees.keys.get(hash.0).unwrap().unwrap()).unwrap();
        record.revoked = None;
        let share = record.retired.take().unwrap().share;
        let mut usage = fixture.store.usage(fixture.al, NOW).unwrap();
        usage.shares.push(share);
        let mut user = fixture
            .store
            .inner()
            .unwrap()
            .account_record(fixture.al)
            .unwrap();
        user.active.push(ActiveKey {
            no: 1,
            hash,
            lineage: 1,
        });
        trees.keys.insert(hash.0, encode(&record).unwrap()).unwrap();
        trees
            .usage
            .insert(fixture.al.0, encode(&usage).unwrap())
            .unwrap();
        trees
            .users
            .insert(fixture.al.0, encode(&user).unwrap())
            .unwrap();
        fixture.store.forget_kept();
        assert!(fixture.store.check(&|_| ()).unwrap().is_sound());
    }
}

/// Shows that a recorded answer is compared with the memory that it names.
#[tokio::test]
async fn answers_are_compared_with_their_memories() {
    let fixture = Fixture::make().await;
    let (trees, bo) = (fixture.store.trees(), fixture.bo.anonymous_id());
    let key = replay_key(fixture.bo, [7; 16]);
    let name = format!("{bo} {}", "07".repeat(16));
    let bytes = trees.replays.get(key).unwrap().unwrap();
    let short = format!(r#"{{"entry":{{"id":"{}","x":[1]}},"y":2}}"#, fixture.short);
    let newer = format!(
        r#"{{"entry":{{"id":"{}"}}}}"#,
        MemoryId::from_bytes([0x77; 16])
    );
    let with = |body: &str, revision: u64| {
        let mut record: crate::store::schema::ReplayRecord<'_> = decode_borrowed(&bytes).unwrap();
        record.pieces = 0;
        record.body = body;
        record.revision = revision;
        let found = fixture.damaged(&trees.replays, &key, Some(encode(&record).unwrap()));
        // Its pieces are nobody's now.
        found
            .into_iter()
            .filter(|line| line.starts_with("replays"))
            .collect::<Vec<_>>()
    };
    assert_eq!(with(&short, 1), [""; 0]);
    let earlier = "it names a memory that an earlier write made";
    assert_eq!(with(&short, 2), [format!("replays {name}: {earlier}")]);
    let unknown = "it names a memory that the account has not been given";
    assert_eq!(with(&newer, 1), [format!("replays {name}: {unknown}")]);
    let not_made = "it answers a write that the account has not made";
    assert_eq!(with(&short, 11), [format!("replays {name}: {not_made}")]);
    let time = replay_time_key(NOW, key);
    let found = fixture.damaged(&trees.replay_times, &time, Some(vec![1, 1]));
    assert_eq!(found.len(), 1);
    assert!(
        found[0].ends_with("its value is not the empty one"),
        "{found:?}"
    );
    let found = fixture.damaged(&trees.replay_times, b"short", Some(vec![1]));
    assert_eq!(found, ["replay_times 73686f7274: its key is not 40 bytes"]);
}

/// Shows that every tree's records are decoded whole: another version, a record cut short, or one with
/// something behind it is named in each of them.
#[tokio::test]
async fn a_damaged_record_is_named_in_every_tree() {
    let fixture = Fixture::make().await;
    let trees = fixture.store.trees();
    let owner = Owner::memory(memory_key(fixture.bo, fixture.long)).prefix();
    let piece = trees
        .pieces
        .scan_prefix(owner)
        .keys()
        .next()
        .unwrap()
        .unwrap();
    let all: [(&str, &sled::Tree); 16] = [
        ("users", &trees.users),
        ("names", &trees.names),
        ("keys", &trees.keys),
        ("key_ids", &trees.key_ids),
        ("account_keys", &trees.account_keys),
        ("usage", &trees.usage),
        ("memories", &trees.memories),
        ("replays", &trees.replays),
        ("replay_times", &trees.replay_times),
        ("stats", &trees.stats),
        ("stats_journal", &trees.stats_journal),
        ("ledger", &trees.ledger),
        ("audit", &trees.audit),
        ("audit_accounts", &trees.audit_accounts),
        ("barred", &trees.barred),
        ("key_expiries", &trees.key_expiries),
    ];
    for (name, tree) in all {
        let (key, value) = tree.first().unwrap().unwrap();
        let newer = [&[9], value.get(1..).unwrap_or_default()].concat();
        let longer = [&value[..], &[0]].concat();
        let empty = Vec::new();
        for (damage, bytes) in [("newer", newer), ("longer", longer), ("empty", empty)] {
            if *bytes == *value {
                continue;
            }
            let found = fixture.damaged(tree, &key, Some(bytes));
            let named = found
                .iter()
                .any(|line| line.starts_with(&format!("{name} ")));
            assert!(named, "{name}, {damage}: {found:?}");
            // No e-mail in any of it.
            assert!(!found.iter().any(|line| line.contains('@')), "{found:?}");
        }
    }
    let found = fixture.damaged(&trees.pieces, &piece, Some(vec![2, 2]));
    assert!(
        found.iter().any(|line| line.starts_with("pieces m ")),
        "{found:?}"
    );
    assert!(fixture.store.check(&|_| ()).unwrap().is_sound());
}

/// Shows that a write under way is no alarm: what looks wrong is looked at again once nobody writes; and
/// that what is wrong still then is named.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_write_under_way_looks_like_is_no_problem() {
    let fixture = Fixture::make().await;
    let inner = fixture.store.inner().unwrap();
    let trees = fixture.store.trees();
    let name = b"bo@example.com";
    let claim = trees.names.get(name).unwrap().unwrap();
    for is_undone in [true, false] {
        let shared = inner.locks.shared(fixture.bo).await;
        assert!(!inner.locks.is_waited_for(fixture.bo));
        trees.names.remove(name).unwrap();
        let store = fixture.store.clone();
        let check = tokio::spawn(async move { store.check_beside_writes().await });
        while !inner.locks.is_waited_for(fixture.bo) {
            tokio::task::yield_now().await;
        }
        // It has seen the damage and waits. A second one is refused meanwhile.
        let second = fixture.store.check_beside_writes().await;
        assert!(matches!(second, Err(CheckRefusal::InProgress)));
        if is_undone {
            trees.names.insert(name, &claim).unwrap();
        }
        drop(shared);
        let report = check.await.unwrap().unwrap();
        let bo = fixture.bo.anonymous_id();
        let found: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
        if is_undone {
            assert_eq!(found, [""; 0]);
        } else {
            assert_eq!(found, [format!("users {bo}: its name is not in names")]);
        }
    }
}

/// Shows that intents of writes which are complete are no problem, as they stay until the next write.
#[tokio::test]
async fn intents_of_complete_writes_are_no_problem() {
    let fixture = Fixture::make().await;
    add(&fixture.store, fixture.bo, 1, 7, 10).await;
    let usage = fixture.store.usage(fixture.bo, NOW).unwrap();
    assert_eq!(usage.intents.len(), 1);
    let report = fixture.store.check_beside_writes().await.unwrap();
    assert!(report.is_sound(), "{report}");
}

/// Shows that a check ends without a report once writes are stopped, or nobody waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_ends_when_it_is_of_no_use() {
    let fixture = Fixture::make().await;
    let inner = fixture.store.inner().unwrap();
    let shared = inner.locks.shared(fixture.bo).await;
    let store = fixture.store.clone();
    let check = tokio::spawn(async move { store.check_beside_writes().await });
    while !inner.locks.is_waited_for(fixture.bo) {
        tokio::task::yield_now().await;
    }
    check.abort();
    assert!(check.await.unwrap_err().is_cancelled());
    // It holds the place of the one check until it has seen that.
    let refused = fixture.store.check_beside_writes().await;
    assert!(matches!(refused, Err(CheckRefusal::InProgress)));
    drop(shared);
    let report = loop {
        match fixture.store.check_beside_writes().await {
            Err(CheckRefusal::InProgress) => tokio::task::yield_now().await,
            outcome => break outcome.unwrap(),
        }
    };
    assert!(report.is_sound());
    fixture.store.poison_for_test();
    let stopped = fixture.store.check_beside_writes().await;
    assert!(matches!(
        stopped,
        Err(CheckRefusal::Store(StoreError::Unavailable))
    ));
}

/// Shows that aggregates in memory which a write has missed are named.
#[tokio::test]
async fn aggregates_in_memory_are_compared() {
    let fixture = Fixture::make().await;
    fixture.store.stats(fixture.bo).await.unwrap();
    let inner = fixture.store.inner().unwrap();
    assert!(fixture.store.check(&|_| ()).unwrap().is_sound());
    let facets = crate::store::memories::Facets {
        success: true,
        category: "a",
        kind: "k",
    };
    inner.stats.apply(fixture.bo, &Delta::added(facets));
    let found = fixture.store.check(&|_| ()).unwrap();
    let expected = format!(
        "stats {}: the aggregates in memory differ from a recount",
        fixture.bo.anonymous_id()
    );
    assert_eq!(found.problems[0].to_string(), expected);
}

/// Shows that the ledger is added up: a row that is gone, changed, twice with other content, of a key or a cycle
/// that is not there, and counters of a key that its rows do not come to.
#[tokio::test]
async fn a_ledger_that_does_not_add_up_is_named() {
    let fixture = Fixture::make().await;
    let (trees, bo) = (&fixture.store.trees(), fixture.bo.anonymous_id());
    let row = |no: u64| op_key(fixture.bo, no);
    let read =
        |no: u64| -> LedgerRow { decode(&trees.ledger.get(row(no)).unwrap().unwrap()).unwrap() };
    let with_row = |no: u64, at: u64, change: fn(&mut LedgerRow)| {
        let mut changed = read(no);
        change(&mut changed);
        fixture.damaged(&trees.ledger, &row(at), Some(encode(&changed).unwrap()))
    };
    let not = |spent: &str| {
        format!(
            "usage {bo}: it counts 10000 credits granted, 18 used, 18 ever, but its ledger comes to {spent}"
        )
    };
    let gone = fixture.damaged(&trees.ledger, &row(2), None);
    assert_eq!(
        gone,
        [format!(
            "ledger {bo} row 3: the rows from 2 up to it are gone"
        )]
    );
    let last = fixture.damaged(&trees.ledger, &row(4), None);
    let what = "the rows of its ledger from 4 to 4 are gone";
    assert_eq!(last, [format!("usage {bo}: {what}")]);
    let cheaper = with_row(2, 2, |row| row.amount += 1);
    let of_key = "its key 1 used 12 credits ever, by the rows of its ledger 11";
    assert_eq!(
        cheaper,
        [not("10000, 17, 17"), format!("usage {bo}: {of_key}")]
    );
    let dearer = with_row(1, 1, |row| row.amount += 1);
    assert_eq!(dearer, [not("10001, 18, 18")]);
    let earlier = with_row(1, 1, |row| row.cycle = 1);
    let to_come = "it is of the cycle 1, which is to come";
    let below = "its ledger leaves -18 credits in the cycle 0";
    assert_eq!(
        earlier,
        [
            format!("ledger {bo} row 1: {to_come}"),
            not("0, 18, 18"),
            format!("usage {bo}: {below}"),
        ]
    );
    let another = with_row(3, 3, |row| row.key_no = 1);
    let of_keys = |no, used, rows| {
        format!(
            "usage {bo}: its key {no} used {used} credits ever, by the rows of its ledger {rows}"
        )
    };
    assert_eq!(another, [of_keys(1, 12, 18), of_keys(2, 6, 0)]);
    let unknown = with_row(3, 3, |row| row.key_no = 9);
    let no_key = "it is of the key 9, which is not there";
    assert_eq!(unknown, [format!("ledger {bo} row 3: {no_key}")]);
    let sign = with_row(1, 1, |row| row.amount = -1);
    assert!(
        sign.contains(&format!("ledger {bo} row 1: a grant of -1 credits")),
        "{sign:?}"
    );
    // Row 5 is in the usage; a row in the tree is another one, also if it is the same.
    let twice = with_row(4, 5, |row| row.no = 5);
    let other = "the account's usage has another row for it";
    assert_eq!(twice, [format!("ledger {bo} row 5: {other}")]);
    let misplaced = with_row(4, 4, |row| row.no = 7);
    assert_eq!(
        misplaced,
        [
            format!("ledger {bo} row 4: its number is another than its key's"),
            format!("usage {bo}: {what}"),
        ]
    );
    let numbers = fixture.with_usage(|usage| usage.ledger.last_no += 1);
    let order = "its ledger's rows are not numbered in order";
    assert_eq!(numbers, [format!("usage {bo}: {order}")]);
    let nobody = op_key(AccountKey::new(3_000, 9), 1);
    let of_nobody = with_nobody(&fixture, &nobody, &read(1));
    assert!(of_nobody[0].ends_with("its account has no usage"));
    assert!(fixture.store.check(&|_| ()).unwrap().is_sound());
}

fn with_nobody(fixture: &Fixture, key: &[u8], row: &LedgerRow) -> Vec<String> {
    let tree = fixture.store.trees().ledger;
    fixture.damaged(&tree, key, Some(encode(row).unwrap()))
}

/// Shows that the audit log is followed from its first row to the last one written, and that the indexes of keys
/// that end and of suspended accounts are compared with the records.
#[tokio::test]
async fn the_audit_log_and_the_indexes_are_checked() {
    let fixture = Fixture::make().await;
    let (trees, al) = (&fixture.store.trees(), fixture.al.anonymous_id());
    let last = fixture.store.audit_head().unwrap().no;
    assert_eq!(last, 7);
    let key = |no: u64| no.to_be_bytes();
    let read = |no| -> AuditRow { decode(&trees.audit.get(key(no)).unwrap().unwrap()).unwrap() };
    let with_row = |no, change: fn(&mut AuditRow)| {
        let mut row = read(no);
        change(&mut row);
        fixture.damaged(&trees.audit, &key(no), Some(encode(&row).unwrap()))
    };
    let changed = with_row(3, |row| row.entry.actor.push('x'));
    assert_eq!(changed, ["audit row 3: the chain is broken here"]);
    // Whoever makes the hash right breaks the next row; and the last one is known.
    let rehashed = with_row(3, |row| row.entry.hash = [7; 32]);
    assert_eq!(
        rehashed,
        [
            "audit row 3: the chain is broken here",
            "audit row 4: the chain is broken here"
        ]
    );
    let end = with_row(7, |row| row.entry.hash = [7; 32]);
    assert_eq!(
        end,
        [
            "audit row 7: the chain is broken here",
            "audit row 7: its hash is another than the last one written"
        ]
    );
    let gone = fixture.damaged(&trees.audit, &key(2), None);
    let bo = fixture.bo.anonymous_id();
    let not_there = "its row is not in the audit log";
    assert_eq!(
        gone,
        [
            "audit row 3: the rows before it are gone".to_owned(),
            format!("audit_accounts {bo} row 2: {not_there}")
        ]
    );
    let cut = fixture.damaged(&trees.audit, &key(7), None);
    assert_eq!(
        cut,
        [
            "audit the end: the log ends with row 6, row 7 was written".to_owned(),
            format!("audit_accounts {al} row 7: {not_there}")
        ]
    );
    let entry = |account, no| op_key(account, no);
    let index = &trees.audit_accounts;
    let lacks = fixture.damaged(index, &entry(fixture.bo, 1), None);
    let what = "audit_accounts does not have it: its account's rows lack it";
    assert_eq!(lacks, [format!("audit row 1: {what}")]);
    let to_none = fixture.damaged(index, &entry(fixture.bo, 8), Some(vec![]));
    assert_eq!(to_none, [format!("audit_accounts {bo} row 8: {not_there}")]);
    let to_others = fixture.damaged(index, &entry(fixture.al, 1), Some(vec![]));
    let what = "its row is of another account, or of none";
    assert_eq!(to_others, [format!("audit_accounts {al} row 1: {what}")]);
    let (first, first_id) = &fixture.keys[0];
    let found = fixture.with_key(*first, |key| key.expires_at = Some(NOW));
    let what = "it ends, but is not in key_expiries: it would stay in its account's list";
    assert_eq!(found, [format!("keys {first_id}: {what}")]);
    let let_in = fixture.damaged(&trees.barred, &fixture.al.0, None);
    let what = "it is suspended, but not in barred: its keys are let in";
    assert_eq!(let_in, [format!("users {al}: {what}")]);
    let kept_out = fixture.damaged(&trees.barred, &fixture.bo.0, Some(vec![]));
    assert_eq!(
        kept_out,
        [format!("barred {bo}: its account is not suspended")]
    );
    let events = fixture.with_user(|user| {
        user.events
            .push(NOW, Cause::service(), EventKind::Suspended);
        user.events.last_no += 1;
    });
    let what = "the events that it carries are not numbered in order";
    assert_eq!(events, [format!("users {bo}: {what}")]);
}
