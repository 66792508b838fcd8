//! The database under `vendor`, whose leaves are split and merged otherwise than in the crate as published: it holds what
//! was put into it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

#[path = "../../vendor/sled/src/pagecache/draining.rs"]
mod draining;
// By itself as well: within the database two writes seldom meet where the file ends.
#[path = "../../vendor/sled/src/pagecache/growth.rs"]
mod growth;

type LogOffset = u64;

fn pwrite_all(file: &File, bytes: &[u8], offset: LogOffset) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Compares a tree with the model: all of it, both ways, and from a key on.
fn is_as_the_model(tree: &sled::Tree, model: &Model, from: &[u8]) {
    let pairs = |found: sled::Result<(sled::IVec, sled::IVec)>| {
        let (key, value) = found.unwrap();
        (key.to_vec(), value.to_vec())
    };
    let owned = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
    assert!(tree.iter().map(pairs).eq(model.iter().map(owned)));
    assert!(
        tree.iter()
            .rev()
            .map(pairs)
            .eq(model.iter().rev().map(owned))
    );
    let (found, expected) = (tree.range(from..), model.range(from.to_vec()..));
    assert!(found.map(pairs).eq(expected.map(owned)));
    let (found, expected) = (tree.range(..from).rev(), model.range(..from.to_vec()).rev());
    assert!(found.map(pairs).eq(expected.map(owned)));
}

#[test]
fn it_holds_what_was_put_into_it_in_any_order() {
    // Shows that keys that ascend within accounts, random keys of any length, removals in either order and values that
    // are replaced leave what a map has, also once it is opened anew, with a cache that holds a part of it.
    for seed in 0..6 {
        let folder = tempfile::tempdir().unwrap();
        let config = sled::Config::new()
            .path(folder.path())
            .cache_capacity(1 << 20);
        let mut random = StdRng::seed_from_u64(seed);
        let mut model = Model::new();
        let mut next = 0_u64;
        for round in 0..4 {
            let db = config.open().unwrap();
            let tree = db.open_tree("tree").unwrap();
            is_as_the_model(&tree, &model, b"");
            for _ in 0..5_000 {
                next += random.random_range(1..1_000);
                let key = match random.random_range(0..10) {
                    // As memories are: an account, then what ascends.
                    0..6 => {
                        let account = [random.random_range(0..20_u8); 16];
                        [&account[..], &next.to_be_bytes()].concat()
                    }
                    6 => (0..random.random_range(0..40))
                        .map(|_| random.random())
                        .collect(),
                    // One that is there, or next to it.
                    _ => {
                        let from = vec![random.random::<u8>(); 20];
                        let found = model.range(from..).next();
                        found.map_or_else(Vec::new, |(key, _)| key.clone())
                    }
                };
                // The first rounds grow, the last empties.
                if random.random_range(0..10) < if round < 3 { 2 } else { 8 } {
                    let removed = tree.remove(&key).unwrap().map(|value| value.to_vec());
                    assert_eq!(removed, model.remove(&key));
                } else {
                    let value = vec![random.random(); random.random_range(0..400)];
                    let before = tree.insert(&key, value.as_slice()).unwrap();
                    let before = before.map(|value| value.to_vec());
                    assert_eq!(before, model.insert(key, value));
                }
            }
            let from = vec![random.random(); 10];
            is_as_the_model(&tree, &model, &from);
            db.flush().unwrap();
        }
    }
}

/// A value that tells whether it is whole: its key, how often the key was written, and bytes that follow from both.
fn value_of(key: u8, times: u32) -> Vec<u8> {
    let times = times.to_be_bytes();
    let length = 40 + usize::from(times[3]) * 2;
    let rest = std::iter::repeat_n(key ^ times[3], length);
    [key].into_iter().chain(times).chain(rest).collect()
}

/// The key and the number in a value, if every byte of it is as [`value_of`] made it.
fn whole(value: &[u8]) -> (u8, u32) {
    let times = u32::from_be_bytes(value[1..5].try_into().unwrap());
    assert_eq!(value, value_of(value[0], times));
    (value[0], times)
}

#[test]
fn a_value_is_whole_for_as_long_as_somebody_has_it() {
    // Shows that versions of a leaf share their values and lose none: threads race for the keys of a few leaves, by
    // inserts, swaps and removals, beside others that keep what they have read, flushes, and pages that are moved and
    // read anew.
    const KEYS: u8 = 40;
    const TIMES: u32 = 3_000;
    let folder = tempfile::tempdir().unwrap();
    let config = sled::Config::new()
        .path(folder.path())
        .cache_capacity(1 << 16);
    let db = config.open().unwrap();
    let others = db.open_tree("others").unwrap();
    let (done, begin) = (AtomicBool::new(false), Barrier::new(7));
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4_u8)
            .map(|writer| {
                let (db, others, begin) = (&db, &others, &begin);
                scope.spawn(move || {
                    begin.wait();
                    // Each has keys of its own among those of the others.
                    for times in 1..=TIMES {
                        for key in (writer..KEYS).step_by(4).skip(usize::from(times % 2 == 0)) {
                            let next = value_of(key, times);
                            let before = match (times + u32::from(key)) % 5 {
                                0 => db.remove([key]).unwrap(),
                                1 => {
                                    let before = db.get([key]).unwrap();
                                    let swapped =
                                        db.compare_and_swap([key], before.clone(), Some(next));
                                    swapped.unwrap().unwrap();
                                    before
                                }
                                _ => db.insert([key], next).unwrap(),
                            };
                            assert!(before.is_none_or(|value| whole(&value).0 == key));
                        }
                        // Fills the cache, so that leaves are paged out.
                        let filler = u64::from(times) << 8 | u64::from(writer);
                        others
                            .insert(filler.to_be_bytes(), vec![writer; 300])
                            .unwrap();
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                begin.wait();
                let mut had: Vec<(u8, sled::IVec)> = Vec::new();
                while !done.load(Ordering::Acquire) {
                    for (key, value) in had.drain(..) {
                        assert_eq!(whole(&value).0, key);
                    }
                    let pairs = db.iter().map(Result::unwrap);
                    had.extend(pairs.map(|(key, value)| (key[0], value)));
                }
            });
        }
        // Buffers of the log are sealed while others write into them.
        scope.spawn(|| {
            begin.wait();
            while !done.load(Ordering::Acquire) {
                db.flush().unwrap();
            }
        });
        let join = std::thread::ScopedJoinHandle::join;
        let ended: Vec<_> = writers.into_iter().map(join).collect();
        done.store(true, Ordering::Release);
        for writer in ended {
            writer.unwrap();
        }
    });
    let held = |db: &sled::Db| -> Vec<(u8, u32)> {
        db.iter().map(|pair| whole(&pair.unwrap().1)).collect()
    };
    let expected: Vec<_> = (0..KEYS)
        .filter_map(|key| {
            // The last round is one that leaves out the first key of each writer.
            let last = if key < 4 { TIMES - 1 } else { TIMES };
            let is_removed = (last + u32::from(key)) % 5 == 0;
            (!is_removed).then_some((key, last))
        })
        .collect();
    assert_eq!(held(&db), expected);
    db.flush().unwrap();
    drop((others, db));
    assert_eq!(held(&config.open().unwrap()), expected);
}

/// The bytes on the disk of accounts whose keys ascend, and those of the values alone.
fn on_disk_of_ascending_keys() -> (u64, u64) {
    let folder = tempfile::tempdir().unwrap();
    let db = sled::Config::new().path(folder.path()).open().unwrap();
    let (accounts, each, bytes) = (50_u8, 800_u64, 300_u16);
    for n in 0..each {
        for account in 0..accounts {
            let key = [&[account; 16][..], &n.to_be_bytes()].concat();
            db.insert(key, vec![account; usize::from(bytes)]).unwrap();
        }
    }
    db.flush().unwrap();
    let values = u64::from(accounts) * each * u64::from(bytes);
    (db.size_on_disk().unwrap(), values)
}

#[test]
fn keys_that_ascend_fill_their_leaves() {
    // Shows that a database of ascending keys is a good deal smaller than with leaves that are half empty, where it is
    // three times its values and more. A thread that is held up at a bad moment makes the file longer, never shorter:
    // so the shortest of a few counts.
    let made = (0..4).map(|_| on_disk_of_ascending_keys());
    let (on_disk, values) = made.min().unwrap();
    assert!(on_disk < values * 3, "{on_disk} bytes for {values}");
}

#[test]
fn the_log_grows_ahead_of_its_writes() {
    // Shows that the file is as long after a flush as it was before, but for one flush in many: it grows by 256 KiB at a
    // time.
    let folder = tempfile::tempdir().unwrap();
    let db = sled::Config::new().path(folder.path()).open().unwrap();
    let lengths: BTreeSet<u64> = (0..1_000_u64)
        .map(|key| {
            db.insert(key.to_be_bytes(), vec![1; 5_000]).unwrap();
            db.flush().unwrap();
            std::fs::metadata(folder.path().join("db")).unwrap().len()
        })
        .collect();
    assert!(lengths.iter().all(|length| length % (256 << 10) == 0));
    assert!(lengths.len() > 10 && lengths.len() < 100, "{lengths:?}");
}

#[test]
fn no_zero_is_written_over_a_message() {
    // Shows that eight threads that write where the file ends, each at a place of its own, all find what they wrote there,
    // also when the file was cut off behind them.
    let (threads, writes, segment) = (8, 1_500_u64, 512 << 10);
    let bytes = 1_000_u16;
    let file = tempfile::tempfile().unwrap();
    let growth = growth::Growth::default();
    let next = AtomicU64::new(0);
    let block = |n: u64| vec![u8::try_from(n % 255).unwrap() + 1; bytes.into()];
    let place = |n: u64| n * u64::from(bytes);
    for round in 1..=4 {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= round * writes {
                            return;
                        }
                        growth.reach(&file, segment, place(n + 1)).unwrap();
                        pwrite_all(&file, &block(n), place(n)).unwrap();
                    }
                });
            }
        });
        // Threads that found nothing to do took a number all the same.
        next.store(round * writes, Ordering::Relaxed);
        for n in 0..round * writes {
            let mut found = vec![0; bytes.into()];
            file.read_exact_at(&mut found, place(n)).unwrap();
            assert_eq!(found, block(n), "block {n} in round {round}");
        }
        let end = place(round * writes);
        growth.cut(end);
        file.set_len(end).unwrap();
    }
}

#[test]
fn segments_are_drained_when_too_little_is_live() {
    // Shows the rule: nothing while half of the bytes are live, then the emptiest, and no more of them than need be.
    let drained = |live: &[usize]| draining::to_drain(live.iter().copied().enumerate(), 100);
    assert_eq!(drained(&[]), [0; 0]);
    assert_eq!(drained(&[50, 50]), [0; 0]);
    assert_eq!(drained(&[1, 100, 49]), [0; 0]);
    assert_eq!(drained(&[1, 100, 48]), [0]);
    assert_eq!(drained(&[40, 30, 20, 60, 60]), [2, 1]);
    assert_eq!(drained(&[49]), [0]);
    assert_eq!(drained(&[0, 0, 100]), [0]);
}

/// The length of the log, and the bytes that are live in it, after values that stay were written between others that are
/// replaced over and over.
fn log_of_changes() -> (u64, u64) {
    let folder = tempfile::tempdir().unwrap();
    let db = sled::Config::new().path(folder.path()).open().unwrap();
    let [stays, changes] = ["stays", "changes"].map(|name| db.open_tree(name).unwrap());
    let (keys, bytes) = (4_000_u32, 1_000_u16);
    let value = vec![1; bytes.into()];
    for n in 0..keys {
        stays.insert(n.to_be_bytes(), value.clone()).unwrap();
        for key in (0..8_u8).cycle().take(40) {
            changes.insert([key], value.clone()).unwrap();
        }
    }
    db.flush().unwrap();
    let log = std::fs::metadata(folder.path().join("db")).unwrap();
    (log.len(), u64::from(keys) * u64::from(bytes))
}

#[test]
fn the_log_stays_short_under_changes() {
    // Shows that the space of what was replaced is used again, also where a part of each segment stays live; it is three and
    // a half times what is live if no segment is drained. The shortest of a few counts, as above.
    let (log, live) = (0..3).map(|_| log_of_changes()).min().unwrap();
    assert!(log < live * 3, "{log} bytes for {live}");
}

#[test]
fn a_leaf_that_was_not_split_in_time_stays_in_the_log() {
    // Shows that a page as long as 27 of the longest values, ten more than a leaf has when it is split, goes to no file of its
    // own, which nothing frees after a kill; and that one which is longer still is there when the database is opened again.
    let folder = tempfile::tempdir().unwrap();
    let config = sled::Config::new().path(folder.path());
    let files = || {
        let files = std::fs::read_dir(folder.path().join("blobs")).unwrap();
        files.count()
    };
    let [late, later] = [27, 40].map(|values| vec![7; values * 7_600]);
    let db = config.open().unwrap();
    db.insert("late", late.as_slice()).unwrap();
    db.flush().unwrap();
    assert_eq!(files(), 0);
    db.insert("later", later.as_slice()).unwrap();
    db.flush().unwrap();
    assert_eq!(files(), 1);
    drop(db);
    let db = config.open().unwrap();
    assert_eq!(db.get("late").unwrap().unwrap(), late);
    assert_eq!(db.get("later").unwrap().unwrap(), later);
}
