//! A small store is sound; each damage is named.

use super::*;
use crate::domain::plan::Plan;
use crate::store::Options;
use crate::store::codec::encode;
use crate::store::schema::{KeyIntent, memory_key, op_key, replay_key};
use crate::store::testing::{NOW, add, change, new_key, sign_up};

/// A small store with something of everything in it, opened anew, so that nothing is under way.
struct Fixture {
    store: Store,
    _directory: tempfile::TempDir,
    /// Two keys, one of them revoked; a name; saved aggregates; a recorded answer.
    bo: AccountKey,
    /// No name, no memories.
    al: AccountKey,
    /// Bo's keys: the first, and the revoked one.
    keys: [(KeyHash, KeyId); 2],
    short: MemoryId,
    long: MemoryId,
}

impl Fixture {
    async fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path(), Options::default()).unwrap();
        let (first, second) = (new_key("first-key-of-bo"), new_key("second-key-of-bo"));
        let keys = [&first, &second].map(|key| (key.hash, key.id.clone()));
        let bo = sign_up(&store, Some("bo@example.com"), 1_000, first).await;
        let al = sign_up(&store, None, 2_000, new_key("key-of-al")).await;
        store.create_key(bo, second, Some(1), NOW).await.unwrap();
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
            .revoke_key(bo, &keys[1].1, "admin", false, NOW)
            .await
            .unwrap();
        store.delete_memory(bo, 1, gone, NOW).await.unwrap();
        add(&store, bo, 1, 6, 10).await;
        drop(store);
        let (store, opened) = Store::open(directory.path(), Options::default()).unwrap();
        assert_eq!(opened.settled, 0);
        Self {
            store,
            _directory: directory,
            bo,
            al,
            keys,
            short,
            long,
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
        let report = self.store.check().unwrap();
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
    let report = fixture.store.check().unwrap();
    assert_eq!(report.to_string(), "2 accounts, 3 keys, 5 memories: sound");
    // The fixture has what the other tests damage.
    let trees = &fixture.store.trees();
    for tree in [
        &trees.pieces,
        &trees.stats,
        &trees.stats_journal,
        &trees.replays,
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
        [format!("usage {bo}: 10001 credits used of 10000 granted")]
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
            format!("usage {bo}: a memory is newer than the last one it gave"),
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
            format!("usage {bo}: it counts 4 memories, 5 are there"),
            format!("usage {bo}: 1 intents are left that opening should have settled"),
            format!("usage {bo}: its key 1 counts 2 memories, 3 are there"),
        ]
    );
    let (hash, id) = &fixture.keys[1];
    let found = fixture.with_key(*hash, |key| key.revoked.as_mut().unwrap().share.held = 9);
    assert_eq!(
        found,
        [format!("keys {id}: it counts 9 memories, 2 are there")]
    );
    assert!(fixture.store.check().unwrap().is_sound());
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
    let usage = Usage::new(Plan::Free, NOW);
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
            format!("keys {second_id}: it counts 2 memories, 0 are there"),
        ]
    );
    let found = fixture.with_user(|user| user.active.clear());
    assert_eq!(
        found,
        [
            format!("keys {first_id}: it is not revoked and its account does not list it"),
            format!("usage {bo}: it has shares of the keys [1], active are []"),
        ]
    );
    let found = fixture.with_user(|user| {
        user.active.push(ActiveKey {
            no: 2,
            hash: *second,
        });
    });
    assert_eq!(
        found,
        [
            format!("users {bo}: its active key 2 is revoked"),
            format!("usage {bo}: it has shares of the keys [1], active are [1, 2]"),
        ]
    );
    let found = fixture.with_usage(|usage| usage.shares.clear());
    assert_eq!(
        found,
        [format!(
            "usage {bo}: it has shares of the keys [], active are [1]"
        )]
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
    let other = "its JSON has another category, type or success than its record";
    assert_eq!(found.first(), Some(&format!("memories {bo} {id}: {other}")));
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
    let found = fixture.store.check().unwrap();
    let found: Vec<_> = found.problems.iter().map(ToString::to_string).collect();
    let expected = [
        format!("pieces s {bo}: its owner names other pieces"),
        format!("pieces s {al}: its owner is not there"),
    ];
    assert_eq!(found, expected);
    fixture.store.inner().unwrap().recover().unwrap();
    let report = fixture.store.check().unwrap();
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
    let report = fixture.store.check().unwrap();
    let [problem] = report.problems.as_slice() else {
        panic!("{report}");
    };
    assert_eq!(
        problem.to_string(),
        "blobs 12: a value is in a file that is never synced"
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
    let report = fixture.store.check().unwrap();
    assert_eq!(
        (report.problems.len(), report.problems_total),
        (PROBLEMS_LISTED_MAX, 1_100)
    );
    let end = "\nand 100 more\n2 accounts, 3 keys, 5 memories: 1100 problems";
    assert!(report.to_string().ends_with(end));
}
