//! What can be derived comes back; what cannot is left byte for byte; a repair cut short is finished.

use super::*;
use crate::domain::key::KeyId;
use crate::domain::ledger::LedgerRow;
use crate::domain::memory::MemoryId;
use crate::store::check::CheckReport;
use crate::store::check::tests::Fixture;
use crate::store::schema::{memory_key, op_key, replay_key};
use crate::store::stats::Delta;
use crate::store::testing::NOW;
use crate::store::{OpenError, Options};

/// A mistake in a usage.
type Wrong = fn(&mut Usage);
type Records = Vec<(&'static str, sled::IVec, sled::IVec)>;

fn trees_of(trees: &Trees) -> [(&'static str, &sled::Tree); 19] {
    [
        ("users", &trees.users),
        ("names", &trees.names),
        ("keys", &trees.keys),
        ("key_ids", &trees.key_ids),
        ("account_keys", &trees.account_keys),
        ("usage", &trees.usage),
        ("memories", &trees.memories),
        ("pieces", &trees.pieces),
        ("replays", &trees.replays),
        ("replay_times", &trees.replay_times),
        ("stats", &trees.stats),
        ("stats_journal", &trees.stats_journal),
        ("key_intents", &trees.key_intents),
        ("ledger", &trees.ledger),
        ("audit", &trees.audit),
        ("audit_accounts", &trees.audit_accounts),
        ("barred", &trees.barred),
        ("key_expiries", &trees.key_expiries),
        ("outbox", &trees.outbox),
    ]
}

/// Every record of every tree.
fn records(trees: &Trees) -> Records {
    let mut all = Vec::new();
    for (name, tree) in trees_of(trees) {
        all.extend(tree.iter().map(|entry| {
            let (key, value) = entry.unwrap();
            (name, key, value)
        }));
    }
    all
}

fn restore(trees: &Trees, before: &Records) {
    for (name, tree) in trees_of(trees) {
        tree.clear().unwrap();
        for (_, key, value) in before.iter().filter(|(of, ..)| *of == name) {
            tree.insert(key, value).unwrap();
        }
    }
}

fn check(fixture: &Fixture) -> CheckReport {
    fixture.store.check(&|_| ()).unwrap()
}

/// Repairs, cut short before write number `steps`. Says whether it came to its end.
fn cut(fixture: &Fixture, steps: u32) -> bool {
    let inner = fixture.store.inner().unwrap();
    let mut repair = Repair {
        inner: &inner,
        repaired: &mut |_| (),
        progress: &|_| (),
        count: 0,
        steps_left: Some(steps),
    };
    match repair.run() {
        Ok(()) => true,
        Err(StoreError::Unavailable) => false,
        Err(error) => panic!("{error}"),
    }
}

fn repair(fixture: &Fixture) -> Vec<String> {
    let mut lines = Vec::new();
    let count = fixture
        .store
        .repair(&mut |line| lines.push(line.to_string()), &|_| ())
        .unwrap();
    assert_eq!(count, lines.len() as u64);
    lines
}

/// How a repair leaves what it mends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mended {
    /// Byte for byte as it was before the damage.
    AsBefore,
    /// Sound, but with something gone or newer.
    Sound,
}

/// Damages, repairs, and repairs again after a cut before each write; then puts everything back.
fn mends(fixture: &Fixture, mended: Mended, lines: &[String], damage: impl Fn(&Trees)) {
    let trees = fixture.store.trees();
    let before = records(&trees);
    damage(&trees);
    let damaged = records(&trees);
    let what = check(fixture);
    assert!(!what.is_sound(), "no damage: {lines:?}");
    assert_eq!(repair(fixture), lines, "{what}");
    let after = check(fixture);
    assert!(after.is_sound(), "{what}\nrepaired {lines:?}\n{after}");
    if mended == Mended::AsBefore {
        assert_eq!(records(&trees), before, "{lines:?}");
    }
    assert_eq!(repair(fixture), [""; 0], "the second repair of {what}");
    for steps in 0.. {
        restore(&trees, &damaged);
        let ended = cut(fixture, steps);
        repair(fixture);
        let after = check(fixture);
        assert!(after.is_sound(), "{what}\ncut at {steps}\n{after}");
        if mended == Mended::AsBefore {
            assert_eq!(records(&trees), before, "cut at {steps}: {lines:?}");
        }
        if ended {
            break;
        }
    }
    restore(&trees, &before);
}

/// Damages and sees that a repair writes nothing at all, and that all problems are there afterwards.
fn leaves(fixture: &Fixture, problems: u64, damage: impl Fn(&Trees)) {
    let trees = fixture.store.trees();
    let before = records(&trees);
    damage(&trees);
    let damaged = records(&trees);
    let what = check(fixture).to_string();
    assert_eq!(check(fixture).problems_total, problems, "{what}");
    assert_eq!(repair(fixture), [""; 0], "{what}");
    assert_eq!(records(&trees), damaged, "{what}");
    assert_eq!(check(fixture).to_string(), what);
    restore(&trees, &before);
    assert!(check(fixture).is_sound());
}

fn change<T>(tree: &sled::Tree, key: &[u8], change: impl FnOnce(&mut T))
where
    T: super::super::codec::Record + serde::Serialize + serde::de::DeserializeOwned,
{
    let mut record: T = decode(&tree.get(key).unwrap().unwrap()).unwrap();
    change(&mut record);
    tree.insert(key, encode(&record).unwrap()).unwrap();
}

/// Shows that names come back from accounts, and names of nobody go.
#[tokio::test]
async fn names_are_derived() {
    let fixture = Fixture::make().await;
    let (bo, al) = (fixture.bo.anonymous_id(), fixture.al.anonymous_id());
    let name = b"bo@example.com";
    let again = [format!(
        "names {bo}: a name finds the account that has it again"
    )];
    let gone = |id: &str| {
        [format!(
            "names {id}: a name was removed: the account that it finds is not called so"
        )]
    };
    let nobody = AccountKey::new(3_000, 9);
    mends(&fixture, Mended::AsBefore, &again, |trees| {
        trees.names.remove(name).unwrap();
    });
    for other in [fixture.al, nobody] {
        mends(&fixture, Mended::AsBefore, &again, |trees| {
            trees.names.insert(name, encode(&other).unwrap()).unwrap();
        });
    }
    for (other, id) in [(fixture.al, &al), (nobody, &nobody.anonymous_id())] {
        mends(&fixture, Mended::AsBefore, &gone(id), |trees| {
            let claim = encode(&other).unwrap();
            trees.names.insert(b"cy@example.com", claim).unwrap();
        });
    }
    // Two claim one e-mail, whoever `names` gives it to: nobody can tell which.
    for holder in [None, Some(fixture.al), Some(fixture.bo)] {
        leaves(&fixture, if holder.is_none() { 2 } else { 1 }, |trees| {
            change(&trees.users, &fixture.al.0, |al: &mut AccountRecord| {
                al.name = Some("bo@example.com".to_owned());
            });
            match holder {
                None => drop(trees.names.remove(name).unwrap()),
                Some(holder) => drop(trees.names.insert(name, encode(&holder).unwrap()).unwrap()),
            }
        });
    }
}

/// Shows that what finds keys comes back from the keys, and only where their account knows them.
#[tokio::test]
async fn key_indexes_are_derived() {
    let fixture = Fixture::make().await;
    let [(first, first_id), (second, second_id)] = &fixture.keys;
    let bo = fixture.bo.anonymous_id();
    let again = |id: &KeyId| [format!("keys {id}: key_ids and account_keys find it again")];
    for (hash, id, no) in [(first, first_id, 1), (second, second_id, 2)] {
        let other = if no == 1 { second } else { first };
        let number = account_key_key(fixture.bo, no);
        mends(&fixture, Mended::AsBefore, &again(id), |trees| {
            trees.key_ids.remove(id.as_str()).unwrap();
        });
        mends(&fixture, Mended::AsBefore, &again(id), |trees| {
            trees.account_keys.remove(number).unwrap();
        });
        mends(&fixture, Mended::AsBefore, &again(id), |trees| {
            trees
                .key_ids
                .insert(id.as_str(), encode(other).unwrap())
                .unwrap();
            trees
                .account_keys
                .insert(number, encode(other).unwrap())
                .unwrap();
        });
        mends(&fixture, Mended::AsBefore, &again(id), |trees| {
            trees.key_ids.insert(id.as_str(), vec![9]).unwrap();
        });
        let stray = "removed: no key stands behind it";
        let other_id = KeyId::parse("key_ABCDEFGHIJKL").unwrap();
        for found in [*hash, KeyHash([7; 32])] {
            let line = [format!("key_ids {other_id}: {stray}")];
            mends(&fixture, Mended::AsBefore, &line, |trees| {
                let found = encode(&found).unwrap();
                trees.key_ids.insert(other_id.as_str(), found).unwrap();
            });
            let line = [format!("account_keys {bo} 00000009: {stray}")];
            mends(&fixture, Mended::AsBefore, &line, |trees| {
                let number = account_key_key(fixture.bo, 9);
                trees
                    .account_keys
                    .insert(number, encode(&found).unwrap())
                    .unwrap();
            });
        }
    }
    // A key that is lost: what finds it is all that is left of it.
    leaves(&fixture, 3, |trees| {
        drop(trees.keys.remove(first.0).unwrap());
    });
    leaves(&fixture, 2, |trees| {
        drop(trees.keys.remove(second.0).unwrap());
    });
    leaves(&fixture, 3, |trees| {
        trees.keys.insert(second.0, vec![1, 2, 3]).unwrap();
    });
    // One that says it is another account's, which never gave that number.
    leaves(&fixture, 3, |trees| {
        change(&trees.keys, &second.0, |key: &mut KeyRecord| {
            key.account = fixture.al;
        });
    });
    // Two keys with one id.
    leaves(&fixture, 2, |trees| {
        change(&trees.keys, &second.0, |key: &mut KeyRecord| {
            key.id = first_id.clone();
        });
    });
}

/// Shows that the list of active keys and the shares follow the keys' records.
#[tokio::test]
async fn active_keys_are_derived() {
    let fixture = Fixture::make().await;
    let bo = fixture.bo.anonymous_id();
    let [(_, _), (second, _)] = fixture.keys;
    let listed = format!("users {bo}: its active keys were derived from its keys");
    let counters = format!("usage {bo}: its counters were derived anew");
    mends(
        &fixture,
        Mended::AsBefore,
        std::slice::from_ref(&listed),
        |trees| {
            change(&trees.users, &fixture.bo.0, |bo: &mut AccountRecord| {
                bo.active.clear();
            });
        },
    );
    mends(
        &fixture,
        Mended::AsBefore,
        std::slice::from_ref(&listed),
        |trees| {
            change(&trees.users, &fixture.bo.0, |bo: &mut AccountRecord| {
                bo.active.push(ActiveKey {
                    no: 2,
                    hash: second,
                    lineage: 1,
                });
                bo.active.push(bo.active[0]);
            });
        },
    );
    mends(&fixture, Mended::AsBefore, &[counters], |trees| {
        change(&trees.usage, &fixture.bo.0, |usage: &mut Usage| {
            usage.shares.push(crate::domain::usage::Share::new(2, None));
        });
    });
    // What a key has used is nowhere else than in its share.
    leaves(&fixture, 2, |trees| {
        change(&trees.usage, &fixture.bo.0, |usage: &mut Usage| {
            usage.shares.clear();
        });
    });
}

/// Shows that counts and the numbers that only grow are derived from what is there; credits are not.
#[tokio::test]
async fn counters_are_derived() {
    let fixture = Fixture::make().await;
    let bo = fixture.bo.anonymous_id();
    let second_id = &fixture.keys[1].1;
    let line = [format!("usage {bo}: its counters were derived anew")];
    let changes: [fn(&mut Usage); 6] = [
        |usage| usage.held = 7,
        |usage| usage.shares[0].held = 0,
        |usage| usage.newest = MemoryId::default(),
        |usage| usage.next_op = 3,
        |usage| usage.next_key_no = 2,
        |usage| usage.cycle_end = usage.cycle_end.plus_seconds(-1),
    ];
    for wrong in changes {
        mends(&fixture, Mended::AsBefore, &line, |trees| {
            change(&trees.usage, &fixture.bo.0, wrong);
        });
    }
    let held = [format!(
        "keys {second_id}: the memories that it counts were counted anew"
    )];
    mends(&fixture, Mended::AsBefore, &held, |trees| {
        let hash = fixture.keys[1].0;
        change(&trees.keys, &hash.0, |key: &mut KeyRecord| {
            key.retired.as_mut().unwrap().share.held = 9;
        });
    });
    // Beside the ledger too: neither is believed more than the other.
    let credits: [(u64, Wrong); 3] = [
        (2, |usage| usage.granted = 17),
        (2, |usage| usage.used_ever += 1),
        (1, |usage| usage.shares[0].used -= 1),
    ];
    for (problems, wrong) in credits {
        leaves(&fixture, problems, |trees| {
            change(&trees.usage, &fixture.bo.0, wrong);
        });
    }
    // A memory that cannot be read may be anybody's: its account is not counted.
    leaves(&fixture, 1, |trees| {
        let key = memory_key(fixture.bo, fixture.short);
        trees.memories.insert(key, vec![1]).unwrap();
    });
    leaves(&fixture, 2, |trees| {
        let key = memory_key(fixture.bo, fixture.short);
        trees.memories.insert(key, vec![1]).unwrap();
        change(&trees.usage, &fixture.bo.0, |usage: &mut Usage| {
            usage.held = 2;
        });
    });
}

/// Shows that writes and keys whose intents are still there are settled as at a start.
#[tokio::test]
async fn intents_are_settled() {
    let fixture = Fixture::make().await;
    let bo = fixture.bo.anonymous_id();
    let id = MemoryId::new(NOW.millis() + 50, 1);
    let settled = [format!(
        "usage {bo}: 1 writes that were under way were settled"
    )];
    mends(&fixture, Mended::Sound, &settled, |trees| {
        change(&trees.usage, &fixture.bo.0, |usage: &mut Usage| {
            usage
                .begin_add(crate::domain::usage::Payer::first(1), id, 2, None, NOW)
                .unwrap();
        });
    });
    mends(&fixture, Mended::Sound, &settled, |trees| {
        change(&trees.usage, &fixture.bo.0, |usage: &mut Usage| {
            usage.begin_delete(1, fixture.long, NOW).unwrap();
        });
    });
    let key = op_key(fixture.bo, 1);
    let line = [format!(
        "key_intents {bo} 0000000000000001: what it announces was settled"
    )];
    mends(&fixture, Mended::AsBefore, &line, |trees| {
        let (hash, id) = fixture.keys[0].clone();
        let intent = KeyIntent::SignUp {
            name: None,
            hash,
            id,
        };
        trees
            .key_intents
            .insert(key, encode(&intent).unwrap())
            .unwrap();
    });
    // A revocation that stopped after the account's record.
    let lines = [line[0].clone()];
    mends(&fixture, Mended::Sound, &lines, |trees| {
        let hash = fixture.keys[0].0;
        let intent = KeyIntent::Revoke {
            no: 1,
            hash,
            at: NOW,
            by: Some("admin".to_owned()),
        };
        trees
            .key_intents
            .insert(key, encode(&intent).unwrap())
            .unwrap();
        change(&trees.users, &fixture.bo.0, |bo: &mut AccountRecord| {
            bo.active.clear();
        });
    });
    leaves(&fixture, 1, |trees| {
        trees.key_intents.insert(key, vec![7]).unwrap();
    });
}

/// Shows that aggregates are counted anew, whatever is wrong with the saved ones.
#[tokio::test]
async fn aggregates_are_derived() {
    let fixture = Fixture::make().await;
    let (bo, al) = (fixture.bo.anonymous_id(), fixture.al.anonymous_id());
    let line = [format!("stats {bo}: the aggregates were counted anew")];
    let stats = Owner::stats(fixture.bo.0).prefix();
    let damages: [fn(&Trees, AccountKey, [u8; 33]); 6] = [
        |trees, _, _| drop(trees.stats_journal.pop_min().unwrap()),
        |trees, _, stats| {
            let piece = trees
                .pieces
                .scan_prefix(stats)
                .keys()
                .next()
                .unwrap()
                .unwrap();
            trees.pieces.remove(piece).unwrap();
        },
        |trees, bo, _| drop(trees.stats.insert(bo.0, vec![1]).unwrap()),
        |trees, bo, _| drop(trees.stats.remove(bo.0).unwrap()),
        |trees, bo, _| {
            change(&trees.stats, &bo.0, |head: &mut StatsHead| {
                head.through = MemoryId::from_bytes([0xFE; 16]);
            });
        },
        |trees, bo, _| {
            let delta = encode(&Delta::default()).unwrap();
            trees.stats_journal.insert(op_key(bo, 99), delta).unwrap();
        },
    ];
    for damage in damages {
        mends(&fixture, Mended::Sound, &line, |trees| {
            damage(trees, fixture.bo, stats);
        });
    }
    let line = [format!("stats {al}: the aggregates were counted anew")];
    mends(&fixture, Mended::Sound, &line, |trees| {
        let delta = encode(&Delta::default()).unwrap();
        trees
            .stats_journal
            .insert(op_key(fixture.al, 1), delta)
            .unwrap();
    });
    let nobody = AccountKey::new(3_000, 9);
    let id = nobody.anonymous_id();
    let lines = [
        format!("stats s {id}: removed: they are of no account"),
        format!("stats_journal {id} 0000000000000001: removed: it is of no account"),
    ];
    mends(&fixture, Mended::AsBefore, &lines, |trees| {
        let head = trees.stats.get(fixture.bo.0).unwrap().unwrap();
        trees.stats.insert(nobody.0, head).unwrap();
        let delta = encode(&Delta::default()).unwrap();
        trees
            .stats_journal
            .insert(op_key(nobody, 1), delta)
            .unwrap();
    });
}

/// Shows that pieces that nothing names and answers that cannot be given go, and that times come back.
#[tokio::test]
async fn pieces_and_answers_are_swept() {
    let fixture = Fixture::make().await;
    let (bo, long) = (fixture.bo.anonymous_id(), fixture.long);
    let owner = Owner::memory(memory_key(fixture.bo, long));
    let head = fixture
        .store
        .trees()
        .memories
        .get(memory_key(fixture.bo, long));
    let head = head.unwrap().unwrap();
    let (its, count) = {
        let head: MemoryHead<'_> = decode_borrowed(&head).unwrap();
        (head.revision, head.pieces)
    };
    for (revision, number) in [(99, 0), (its, count)] {
        let line = [format!(
            "pieces m {bo} {long}: removed from piece {number} on: no record names it"
        )];
        mends(&fixture, Mended::AsBefore, &line, |trees| {
            for number in [number, number + 1] {
                let key = [
                    &owner.prefix()[..],
                    &u64::to_be_bytes(revision),
                    &number.to_be_bytes(),
                ];
                trees.pieces.insert(key.concat(), versioned(b"x")).unwrap();
            }
        });
    }
    let answer = replay_key(fixture.bo, [7; 16]);
    let name = format!("{bo} {}", "07".repeat(16));
    let pieces_of = |trees: &Trees| {
        let prefix = Owner::replay(answer).prefix();
        trees
            .pieces
            .scan_prefix(prefix)
            .keys()
            .next()
            .unwrap()
            .unwrap()
    };
    let line = [format!(
        "replays {name}: removed: it cannot be given any more"
    )];
    mends(&fixture, Mended::Sound, &line, |trees| {
        trees.pieces.remove(pieces_of(trees)).unwrap();
    });
    let line = [format!(
        "replay_times {name}: the time of an answer was put back"
    )];
    let time = replay_time_key(NOW, answer);
    mends(&fixture, Mended::AsBefore, &line, |trees| {
        trees.replay_times.remove(time).unwrap();
    });
    let line = [format!(
        "pieces r {bo} {}: removed from piece 0 on: no record names it",
        "07".repeat(16)
    )];
    mends(&fixture, Mended::Sound, &line, |trees| {
        trees.replays.remove(answer).unwrap();
        trees.replay_times.remove(time).unwrap();
    });
    let line = ["replay_times 73686f7274: removed: no sweep can use it".to_owned()];
    mends(&fixture, Mended::AsBefore, &line, |trees| {
        trees.replay_times.insert(b"short", versioned(&[])).unwrap();
    });
    mends(
        &fixture,
        Mended::AsBefore,
        &[format!(
            "replay_times {}: its value is the empty one again",
            record_name("replay_times", &time)
        )],
        |trees| drop(trees.replay_times.insert(time, vec![1, 1]).unwrap()),
    );
    let nobody = replay_key(AccountKey::new(3_000, 9), [7; 16]);
    let line = [format!(
        "replays {}: removed: it cannot be given any more",
        record_name("replays", &nobody)
    )];
    mends(&fixture, Mended::AsBefore, &line, |trees| {
        let record = ReplayRecord {
            fingerprint: [1; 32],
            status: 201,
            recorded_at: NOW,
            revision: 1,
            pieces: 0,
            body: "{}",
        };
        trees
            .replays
            .insert(nobody, encode(&record).unwrap())
            .unwrap();
    });
    // An answer, or a memory, that cannot be read: its pieces may be its own.
    leaves(&fixture, 2, |trees| {
        drop(trees.replays.insert(answer, vec![1]).unwrap());
    });
    let key = memory_key(fixture.bo, long);
    leaves(&fixture, 2, |trees| {
        drop(trees.memories.insert(key, vec![1]).unwrap());
    });
}

/// Shows that lost and unreadable records stay as they are, and that a service does not start on them
/// while a check and a repair open them.
#[tokio::test]
async fn what_is_lost_stays_lost() {
    let fixture = Fixture::make().await;
    let (al, bo) = (fixture.al, fixture.bo);
    leaves(&fixture, 1, |trees| drop(trees.usage.remove(al.0).unwrap()));
    leaves(&fixture, 1, |trees| {
        drop(trees.usage.insert(al.0, vec![9, 9]).unwrap());
    });
    // Beside these two: he is in barred, and that is kept for whoever finds the record.
    leaves(&fixture, 3, |trees| drop(trees.users.remove(al.0).unwrap()));
    leaves(&fixture, 4, |trees| {
        drop(trees.users.insert(al.0, vec![1]).unwrap());
    });
    leaves(&fixture, 1, |trees| {
        let key = memory_key(AccountKey::new(3_000, 9), fixture.short);
        let memory = trees
            .memories
            .get(memory_key(bo, fixture.short))
            .unwrap()
            .unwrap();
        trees.memories.insert(key, memory).unwrap();
    });
    let Fixture {
        store, directory, ..
    } = fixture;
    let trees = store.trees();
    let name = b"bo@example.com";
    trees.usage.insert(al.0, vec![9, 9]).unwrap();
    trees.key_intents.insert(op_key(al, 1), vec![9]).unwrap();
    trees.names.remove(name).unwrap();
    drop((trees, store));
    let refused = Store::open(directory.path(), Options::default()).unwrap_err();
    assert!(matches!(refused, OpenError::Recovery { .. }), "{refused}");
    let (store, opened) = Store::open_damaged(directory.path(), Options::default()).unwrap();
    assert_eq!(opened.settled, 0);
    let mut lines = Vec::new();
    store
        .repair(&mut |line| lines.push(line.to_string()), &|_| ())
        .unwrap();
    let id = bo.anonymous_id();
    assert_eq!(
        lines,
        [format!(
            "names {id}: a name finds the account that has it again"
        )]
    );
    let report = store.check(&|_| ()).unwrap();
    let found: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
    let al = al.anonymous_id();
    assert_eq!(
        found,
        [
            format!("usage {al}: a record has the unknown version 9"),
            format!(
                "key_intents {al} 0000000000000001: an intent is left that opening should have settled"
            ),
        ]
    );
}

/// Shows that rows of a ledger which are gone are made up for, whichever they were, with what the counters say
/// and nothing else; that a row in two places is the usage's; that one which cannot be read, or a ledger
/// without a gap that does not add up, is left.
#[tokio::test]
async fn gaps_in_a_ledger_are_closed() {
    let fixture = Fixture::make().await;
    let bo = fixture.bo.anonymous_id();
    let row = |no| op_key(fixture.bo, no);
    let before = fixture.store.usage(fixture.bo, NOW).unwrap();
    let what =
        "rows of its ledger are gone: empty ones and what they came to were put in their place";
    let line = [format!("ledger {bo}: {what}")];
    for gone in [vec![1], vec![2], vec![4], vec![2, 3], vec![1, 2, 3, 4]] {
        mends(&fixture, Mended::Sound, &line, |trees| {
            for no in &gone {
                trees.ledger.remove(row(*no)).unwrap();
            }
        });
    }
    let trees = fixture.store.trees();
    trees.ledger.remove(row(2)).unwrap();
    repair(&fixture);
    let after = fixture.store.usage(fixture.bo, NOW).unwrap();
    assert_eq!(after.balance(), before.balance());
    assert_eq!(after.shares, before.shares);
    let own = |row: &LedgerRow| (row.no, row.entry.name(), row.amount);
    assert_eq!(
        after.ledger.rows.iter().map(own).collect::<Vec<_>>(),
        [(5, "debit", -2), (6, "opening_spent", -4)]
    );
    let empty: LedgerRow = decode(&trees.ledger.get(row(2)).unwrap().unwrap()).unwrap();
    assert_eq!(own(&empty), (2, "correction", 0));

    let fixture = Fixture::make().await;
    let row = |no| op_key(fixture.bo, no);
    let bo = fixture.bo.anonymous_id();
    let name = format!("ledger {bo} row 5");
    let line = [format!("{name}: it is what the account's usage says again")];
    mends(&fixture, Mended::AsBefore, &line, |trees| {
        let mut other: LedgerRow = decode(&trees.ledger.get(row(4)).unwrap().unwrap()).unwrap();
        other.no = 5;
        trees
            .ledger
            .insert(row(5), encode(&other).unwrap())
            .unwrap();
    });
    leaves(&fixture, 1, |trees| {
        trees.ledger.insert(row(2), vec![9]).unwrap();
    });
    leaves(&fixture, 1, |trees| {
        change(&trees.ledger, &row(1), |row: &mut LedgerRow| {
            row.amount += 1;
        });
    });
}

/// Shows that what finds keys that end and suspended accounts is made what their records say.
#[tokio::test]
async fn indexes_of_ends_and_of_suspended_accounts_are_derived() {
    let fixture = Fixture::make().await;
    let (al, bo) = (fixture.al.anonymous_id(), fixture.bo.anonymous_id());
    let again = [format!(
        "users {al}: it is in barred again, as its record says"
    )];
    mends(&fixture, Mended::AsBefore, &again, |trees| {
        trees.barred.remove(fixture.al.0).unwrap();
    });
    let removed = [format!(
        "barred {bo}: removed: its account is not suspended"
    )];
    mends(&fixture, Mended::AsBefore, &removed, |trees| {
        trees.barred.insert(fixture.bo.0, vec![]).unwrap();
    });
    let empty = [format!("barred {al}: its value is the empty one again")];
    mends(&fixture, Mended::AsBefore, &empty, |trees| {
        trees.barred.insert(fixture.al.0, vec![1]).unwrap();
    });
    let useless = ["key_expiries 01: removed: no sweep can use it".to_owned()];
    mends(&fixture, Mended::AsBefore, &useless, |trees| {
        trees.key_expiries.insert([1], vec![]).unwrap();
    });
    let [(hash, id), _] = &fixture.keys;
    let again = [format!("keys {id}: key_expiries has it again")];
    mends(&fixture, Mended::Sound, &again, |trees| {
        change(&trees.keys, &hash.0, |key: &mut KeyRecord| {
            key.expires_at = Some(NOW.plus_seconds(1));
        });
    });
}

/// Shows that the audit log's index by account is made anew from its rows, entry by entry.
#[tokio::test]
async fn the_index_of_the_audit_log_is_derived() {
    let fixture = Fixture::make().await;
    let (bo, al) = (fixture.bo, fixture.al);
    let entry = |account: AccountKey, no: u64| op_key(account, no);
    let again = ["audit row 1: audit_accounts has it again".to_owned()];
    mends(&fixture, Mended::AsBefore, &again, |trees| {
        trees.audit_accounts.remove(entry(bo, 1)).unwrap();
    });
    let all: Vec<String> = (1..=7)
        .map(|no| format!("audit row {no}: audit_accounts has it again"))
        .collect();
    mends(&fixture, Mended::AsBefore, &all, |trees| {
        trees.audit_accounts.clear().unwrap();
    });
    for (account, no) in [(bo, 8), (al, 1)] {
        let id = account.anonymous_id();
        let what = "removed: it leads to no row of its account";
        let gone = [format!("audit_accounts {id} row {no}: {what}")];
        mends(&fixture, Mended::AsBefore, &gone, |trees| {
            trees
                .audit_accounts
                .insert(entry(account, no), &[])
                .unwrap();
        });
    }
    let gone = ["audit_accounts 01 01: removed: it leads to no row of its account".to_owned()];
    mends(&fixture, Mended::AsBefore, &gone, |trees| {
        trees.audit_accounts.insert([1], vec![]).unwrap();
    });
    let id = bo.anonymous_id();
    let what = "its value is the empty one again";
    let empty = [format!("audit_accounts {id} row 1: {what}")];
    mends(&fixture, Mended::AsBefore, &empty, |trees| {
        trees.audit_accounts.insert(entry(bo, 1), vec![1]).unwrap();
    });
}
