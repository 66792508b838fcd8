//! The targets without a fuzzer: over the committed corpora, and over random changes of them.

use std::path::PathBuf;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::{TARGETS, run};

/// Inputs a target in `cargo test`; `FUZZ_ROUNDS` for more.
const ROUNDS: [(&str, u32); 6] = [
    ("credentials", 20_000),
    ("paths", 5_000),
    ("query", 1_500),
    ("memory_body", 20_000),
    ("import_files", 5_000),
    ("stored_records", 80_000),
];
/// Longest input: beyond it nothing new comes.
const BYTES_MAX: usize = 4_096;

/// What the formats are made of.
const WORDS: [&str; 44] = [
    "X-API-KEY: ",
    "Authorization: Bearer ",
    "X-ADMIN-KEY: ",
    "Idempotency-Key: ",
    "Host: localhost",
    "Origin: x",
    "\n",
    "\r\n",
    "%00",
    "%2F",
    "%",
    "%ff",
    "..",
    "//",
    "/",
    "?",
    "&",
    "=",
    "page=",
    "limit=",
    "cursor=",
    "18446744073709551616",
    "-1",
    "1e400",
    "-0",
    "null",
    "true",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\u0000",
    "\\ud800",
    "\"topic\":",
    "\"api_key\":",
    "\"tags\":",
    "\"plan\":",
    "\"Premium\"",
    "\n----\n",
    "NaN",
    "fuzzFUZZ0123456789fuzzFUZZ012345",
    "\u{e9}\u{1f600}",
    "acct_",
];

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

/// Shows that every input that was ever worth keeping is dealt with as it should be.
#[test]
fn every_input_of_the_corpora_holds() {
    for (target, function) in TARGETS {
        let corpus = corpus(target);
        assert!(
            (5..=120).contains(&corpus.len()),
            "{target}: {}",
            corpus.len()
        );
        for (path, bytes) in corpus {
            assert!(
                bytes.len() <= 2 * BYTES_MAX,
                "{} is too large",
                path.display()
            );
            assert_eq!(function(&bytes), Ok(()), "{}", path.display());
        }
    }
}

/// Changes an input in one place.
fn change(bytes: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
    let at = rng.random_range(0..=bytes.len());
    let to = rng.random_range(at..=bytes.len().min(at + 32));
    let from = rng.random_range(0..=other.len());
    let until = rng.random_range(from..=other.len().min(from + 64));
    match rng.random_range(0..8) {
        0 => bytes.insert(at, rng.random()),
        1 | 2 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
        3 => drop(bytes.drain(at..to)),
        4 => drop(bytes.splice(at..to, other[from..until].iter().copied())),
        5 => {
            let part = bytes[at..to].to_vec();
            for _ in 0..rng.random_range(1..=8) {
                drop(bytes.splice(at..at, part.iter().copied()));
            }
        }
        6 => bytes.truncate(at),
        _ => {
            let word = WORDS.choose(rng).unwrap_or(&"");
            drop(bytes.splice(at..to.min(at + 2), word.bytes()));
        }
    }
    bytes.truncate(BYTES_MAX);
}

/// Runs a target over so many random changes of its corpus; the seed is the target's name, so that each
/// run is the same one.
fn random_changes(target: &str) {
    #[expect(clippy::disallowed_methods, reason = "a setting of the tests alone")]
    let factor = std::env::var("FUZZ_ROUNDS")
        .ok()
        .and_then(|text| text.parse::<u32>().ok());
    let rounds = ROUNDS.iter().find(|(name, _)| *name == target).unwrap().1 * factor.unwrap_or(1);
    let seed = target
        .bytes()
        .fold(1, |seed: u64, b| seed * 31 % 1_000_003 + u64::from(b));
    let mut rng = StdRng::seed_from_u64(seed);
    let corpus = corpus(target);
    for round in 0..rounds {
        let (_, mut bytes) = corpus.choose(&mut rng).unwrap().clone();
        for _ in 0..rng.random_range(1..=6) {
            let (_, other) = corpus.choose(&mut rng).unwrap();
            change(&mut bytes, other, &mut rng);
        }
        let outcome = std::panic::catch_unwind(|| run(target, &bytes));
        assert!(
            matches!(outcome, Ok(Ok(()))),
            "{outcome:?} in round {round}; the input, for fuzz/corpus/{target}: {}",
            bytes.escape_ascii()
        );
    }
}

/// Shows that no random change of a credential header breaks what must hold.
#[test]
fn credentials_hold() {
    random_changes("credentials");
}

/// Shows the same of paths.
#[test]
fn paths_hold() {
    random_changes("paths");
}

/// Shows the same of queries.
#[test]
fn queries_hold() {
    random_changes("query");
}

/// Shows the same of bodies.
#[test]
fn memory_bodies_hold() {
    random_changes("memory_body");
}

/// Shows the same of the old program's files.
#[test]
fn import_files_hold() {
    random_changes("import_files");
}

/// Shows the same of what lies on the disk.
#[test]
fn stored_records_hold() {
    random_changes("stored_records");
}
