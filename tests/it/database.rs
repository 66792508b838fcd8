//! The database under `vendor`, whose leaves are split and merged otherwise than in the crate as published: it holds what
//! was put into it.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

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

#[test]
fn keys_that_ascend_fill_their_leaves() {
    // Shows that a database of ascending keys is a good deal smaller than with leaves that are half empty, where it is
    // three times its values and more.
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
    let on_disk = db.size_on_disk().unwrap();
    assert!(on_disk < values * 3, "{on_disk} bytes for {values}");
}
