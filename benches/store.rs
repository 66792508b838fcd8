//! What the store's operations cost, each beside the least that any program would have to do.
//!
//! Every group has its floor as one more bench, so that a ratio compares numbers of one run. See
//! `README.md` for the command, the figures and how far to trust them.

#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::print_stdout,
    clippy::semicolon_if_nothing_returned,
    reason = "a bench that fails may panic"
)]

use std::cell::Cell;
use std::fs::File;
use std::future::Future;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use memoryos::domain::account::AccountKey;
use memoryos::domain::event::Cause;
use memoryos::domain::json::Object;
use memoryos::domain::key::{KeyHash, KeyId, Secret};
use memoryos::domain::memory::{MemoryId, NewMemory};
use memoryos::domain::plan::{Operation, Plan, Prices};
use memoryos::domain::time::Timestamp;
use memoryos::domain::usage::Payer;
use memoryos::store::{AddMemory, KeyState, NewAccount, NewKey, Options, PageStart, Store};
use tokio::runtime::Runtime;

/// Accounts of the store, one key each; also how many share the debits of "many accounts".
const ACCOUNTS: u64 = 10_000;
/// Memories of the account whose pages are read.
const MEMORIES: u64 = 20_000;
/// Bytes of a memory's JSON, about.
const MEMORY_BYTES: usize = 300;
const PAGE: usize = 20;
/// Bytes of the file that the floor of a durable write overwrites.
const FLOOR_FILE_BYTES: usize = 8 << 20;
/// Operations of one account in a month: far fewer than the 100,000 credits of Premium allow, also at
/// the price of an add and with late starters of the month before.
const A_MONTH: u64 = 40_000;
const START: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

/// The time of an account's operation number `n`: a month later every [`A_MONTH`], so that no bench
/// runs out of credits.
fn time_of(n: u64) -> Timestamp {
    let months = i64::try_from(n / A_MONTH).unwrap();
    START.plus_seconds(months * 31 * 86_400)
}

/// A store with accounts, and a bare database beside it for the floors.
struct Bench {
    runtime: Runtime,
    store: Store,
    accounts: Vec<AccountKey>,
    keys: Vec<KeyHash>,
    /// A revoked key of the first account.
    revoked: KeyHash,
    /// Operations so far on the first account, on each of the others, and adds.
    counters: [AtomicU64; 3],
    bare: sled::Db,
    directory: PathBuf,
}

fn new_key(name: &str) -> NewKey {
    let secret = Secret::new(name);
    NewKey {
        hash: secret.hash(),
        id: KeyId::generate().unwrap(),
        masked: secret.masked(),
        description: "bench".to_owned(),
        cap: None,
        credits_cap: None,
        scopes: None,
        expires_at: None,
    }
}

fn memory() -> NewMemory {
    let input = "x".repeat(50);
    let json = format!(
        r#"{{"topic":"t","type":"note","input":"{input}","output":"o","success":true,"category":"c"}}"#
    );
    NewMemory::parse(Object::parse(json.as_bytes()).unwrap()).unwrap()
}

/// Runs `task(i)` for every `i`, 64 side by side. Every task must succeed.
async fn side_by_side<F: Future<Output = ()> + Send + 'static>(n: u64, task: impl Fn(u64) -> F) {
    let mut running = tokio::task::JoinSet::new();
    for i in 0..n {
        if running.len() >= 64 {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(task(i));
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
}

impl Bench {
    fn make(directory: PathBuf) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (store, _) = Store::open(&directory.join("store"), Options::default()).unwrap();
        let accounts: Vec<_> = (0..ACCOUNTS)
            .map(|i| AccountKey::new(i, u128::from(i) << 3))
            .collect();
        let keys: Vec<_> = (0..ACCOUNTS)
            .map(|i| new_key(&format!("key {i}")).hash)
            .collect();
        let second = new_key("the revoked key");
        let (revoked, revoked_id) = (second.hash, second.id.clone());
        runtime.block_on(async {
            side_by_side(ACCOUNTS, |i| {
                let (store, account) = (store.clone(), AccountKey::new(i, u128::from(i) << 3));
                async move {
                    let new = NewAccount {
                        account,
                        name: None,
                        plan: Plan::PREMIUM,
                        key: new_key(&format!("key {i}")),
                        created_at: START,
                        cause: Cause::service(),
                    };
                    store.create_account(new).await.unwrap();
                }
            })
            .await;
            store
                .create_key(accounts[0], second, None, START, Cause::service())
                .await
                .unwrap();
            let revoking =
                store.revoke_key(accounts[0], &revoked_id, false, START, Cause::service());
            revoking.await.unwrap();
        });
        let bare = sled::Config::new()
            .path(directory.join("bare"))
            .cache_capacity(Options::default().cache_bytes)
            .open()
            .unwrap();
        // As many records, with keys and values as long as those of the tree `keys`.
        for key in &keys {
            bare.insert(key.0, [7; 100].as_slice()).unwrap();
        }
        Self {
            runtime,
            store,
            accounts,
            keys,
            revoked,
            counters: Default::default(),
            bare,
            directory,
        }
    }

    /// Debits one read of the account and asserts that it was paid for.
    async fn debit(&self, account: AccountKey, n: u64) {
        let price = Prices::SEED.of(Operation::ListMemories);
        let debited = self
            .store
            .debit(
                account,
                Payer::first(1),
                (Operation::ReadMemory, price),
                time_of(n),
            )
            .await
            .unwrap();
        assert_eq!(debited.cost, price);
    }

    /// Adds one memory, number `n` of the account, and waits for the disk if it is `durable`.
    async fn add(&self, account: AccountKey, n: u64, durable: bool, memory: &NewMemory) {
        let add = AddMemory {
            account,
            payer: Payer::first(1),
            key_id: "key_000000000000",
            memory,
            id: MemoryId::new(START.millis() + n, 1 << 60),
            cost: Prices::SEED.of(Operation::AddMemory),
            now: time_of(n),
            replay: None,
        };
        let respond = |added: &memoryos::store::Added| added.entry.clone();
        let outcome = if durable {
            self.store.add_memory(add, respond).await
        } else {
            self.store
                .add_memory_unflushed_for_bench(add, respond)
                .await
        };
        let (body, _) = outcome.unwrap();
        assert!(body.len().abs_diff(MEMORY_BYTES) < 10, "{}", body.len());
    }
}

/// Runs `n` operations on `threads` threads and returns how long it took in all.
fn on_threads(threads: u64, n: u64, operation: impl Fn(u64) + Sync) -> Duration {
    let next = AtomicU64::new(0);
    let work = || {
        // In blocks, so that the counter is not what is measured.
        loop {
            let from = next.fetch_add(16, Ordering::Relaxed);
            if from >= n {
                return;
            }
            (from..n.min(from + 16)).for_each(&operation);
        }
    };
    let start = Instant::now();
    if threads == 1 {
        work();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
    }
    start.elapsed()
}

fn debit(group: &mut BenchmarkGroup<'_, WallTime>, bench: &Bench) {
    let usage = bench.bare.open_tree("usage").unwrap();
    // As long as the usage of an account with one key.
    for account in &bench.accounts {
        usage.insert(account.0, [0; 70].as_slice()).unwrap();
    }
    let swap = |account: AccountKey, n: u64| loop {
        let old = usage.get(account.0).unwrap().unwrap();
        let mut new = old.to_vec();
        new[..8].copy_from_slice(&n.to_be_bytes());
        if usage
            .compare_and_swap(account.0, Some(old), Some(new))
            .unwrap()
            .is_ok()
        {
            break;
        }
    };
    let [one, many, _] = &bench.counters;
    // Picks of the same accounts for both, in an order that is not the tree's.
    let pick = |n: u64| bench.accounts[usize::try_from(1 + (n * 7_919) % (ACCOUNTS - 1)).unwrap()];
    let swaps = AtomicU64::new(1);
    for threads in [1, 8] {
        group.bench_function(format!("one account, {threads} threads"), |b| {
            b.iter_custom(|n| {
                on_threads(threads, n, |_| {
                    let n = one.fetch_add(1, Ordering::Relaxed);
                    bench.runtime.block_on(bench.debit(bench.accounts[0], n));
                })
            });
        });
        group.bench_function(format!("floor: swap, one record, {threads} threads"), |b| {
            b.iter_custom(|n| {
                on_threads(threads, n, |_| {
                    swap(bench.accounts[0], swaps.fetch_add(1, Ordering::Relaxed));
                })
            });
        });
        group.bench_function(format!("many accounts, {threads} threads"), |b| {
            b.iter_custom(|n| {
                on_threads(threads, n, |_| {
                    let n = many.fetch_add(1, Ordering::Relaxed);
                    bench
                        .runtime
                        .block_on(bench.debit(pick(n), n / (ACCOUNTS - 1)));
                })
            });
        });
        group.bench_function(
            format!("floor: swap, many records, {threads} threads"),
            |b| {
                b.iter_custom(|n| {
                    on_threads(threads, n, |_| {
                        let n = swaps.fetch_add(1, Ordering::Relaxed);
                        swap(pick(n), n);
                    })
                });
            },
        );
    }
}

fn authenticate(group: &mut BenchmarkGroup<'_, WallTime>, bench: &Bench) {
    let at = Cell::new(0);
    let next = || {
        at.set((at.get() + 7_919) % bench.keys.len());
        &bench.keys[at.get()]
    };
    group.bench_function("hit", |b| {
        b.iter(|| {
            let state = bench.store.authenticate(next(), START).unwrap();
            assert!(matches!(state, Some(KeyState::Active(_))));
        });
    });
    let unknown: Vec<_> = (0..1_000)
        .map(|i| Secret::new(format!("unknown {i}")).hash())
        .collect();
    group.bench_function("miss", |b| {
        b.iter(|| {
            at.set((at.get() + 7) % unknown.len());
            assert!(
                bench
                    .store
                    .authenticate(&unknown[at.get()], START)
                    .unwrap()
                    .is_none()
            );
        });
    });
    group.bench_function("revoked", |b| {
        b.iter(|| {
            let state = bench.store.authenticate(&bench.revoked, START).unwrap();
            assert!(matches!(state, Some(KeyState::Revoked(_))));
        });
    });
    group.bench_function("floor: get", |b| {
        b.iter(|| assert_eq!(bench.bare.get(next().0).unwrap().unwrap().len(), 100));
    });
}

fn page(group: &mut BenchmarkGroup<'_, WallTime>, bench: &Bench) {
    let account = bench.accounts[1];
    let memory = memory();
    let tree = bench.bare.open_tree("memories").unwrap();
    let key = |n: u64| {
        [
            account.0,
            MemoryId::new(START.millis() + n, 1 << 60).to_bytes(),
        ]
        .concat()
    };
    bench.runtime.block_on(async {
        for n in 0..MEMORIES {
            bench.add(account, n, false, &memory).await;
            tree.insert(key(n), vec![b'x'; MEMORY_BYTES]).unwrap();
        }
        bench.store.flush().await.unwrap();
    });
    let read = |start| {
        let page = bench.store.page(account, start, PAGE).unwrap();
        assert!(page.count == PAGE && page.next.is_some());
        page
    };
    // A page that is read, and not the one that is kept since it was.
    let newest = MemoryId::from_bytes([0xFF; 16]);
    let deep = MemoryId::new(START.millis() + MEMORIES / 2, 1 << 60);
    let bytes = read(PageStart::Skip(0)).entries.clone();
    group.throughput(Throughput::Bytes(u64::try_from(bytes.len()).unwrap()));
    group.bench_function("newest", |b| b.iter(|| read(PageStart::Before(newest))));
    group.bench_function("newest, kept", |b| b.iter(|| read(PageStart::Skip(0))));
    group.bench_function("after a cursor in the middle", |b| {
        b.iter(|| read(PageStart::Before(deep)))
    });
    group.bench_function("floor: range in reverse", |b| {
        b.iter(|| {
            let range = tree.range(key(0)..key(MEMORIES / 2)).rev().take(PAGE);
            let bytes: usize = range.map(|entry| black_box(entry.unwrap()).1.len()).sum();
            assert_eq!(bytes, PAGE * MEMORY_BYTES);
        });
    });
    group.bench_function("floor: copy of the bytes", |b| {
        b.iter(|| black_box(&bytes).clone())
    });
}

/// Measures two things in turn and prints their medians. A shared disk can be ten times slower for some
/// seconds, so that benches one after the other compare two disks.
fn paired(name: &str, rounds: usize, operation: impl Fn(), floor: impl Fn()) {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (times, run) in times.iter_mut().zip([&operation as &dyn Fn(), &floor]) {
            let start = Instant::now();
            run();
            times.push(start.elapsed());
        }
    }
    let [operation, floor] = times.map(|mut times| {
        times.sort_unstable();
        times[rounds / 2]
    });
    let ratio = operation.as_secs_f64() / floor.as_secs_f64();
    println!(
        "{name} and its pwrite with fdatasync in turn: {operation:?} and {floor:?}, {ratio:.2}"
    );
}

fn add(group: &mut BenchmarkGroup<'_, WallTime>, bench: &Arc<Bench>) {
    let memory = Arc::new(memory());
    let next = |bench: &Bench| bench.counters[2].fetch_add(1, Ordering::Relaxed);
    // Accounts 2 to 65: one for each task that adds.
    let account = |task: u64| bench.accounts[usize::try_from(2 + task).unwrap()];
    group.bench_function("on the disk, 1 task", |b| {
        b.iter(|| {
            let adding = bench.add(account(0), next(bench), true, &memory);
            bench.runtime.block_on(adding);
        });
    });
    // Overwrites a file of full length, round and round: the least that a durable write can cost. One
    // that grows the file makes the file system write its own records too.
    let file = File::create(bench.directory.join("floor")).unwrap();
    file.write_all_at(&vec![0; FLOOR_FILE_BYTES], 0).unwrap();
    file.sync_all().unwrap();
    let record = vec![b'x'; 64 * MEMORY_BYTES];
    let end = AtomicU64::new(0);
    let write = |bytes: &[u8]| {
        let length = u64::try_from(bytes.len()).unwrap();
        let room = u64::try_from(FLOOR_FILE_BYTES).unwrap() - length;
        let at = end.fetch_add(length, Ordering::Relaxed) % room;
        file.write_all_at(bytes, at).unwrap();
        file.sync_data().unwrap();
    };
    group.bench_function("floor: pwrite and fdatasync of 1", |b| {
        b.iter(|| write(&record[..MEMORY_BYTES]));
    });
    let add_side_by_side = |n: u64| {
        bench.runtime.block_on(side_by_side(n, |i| {
            let (bench, memory) = (Arc::clone(bench), Arc::clone(&memory));
            let account = account(i % 64);
            async move { bench.add(account, next(&bench), true, &memory).await }
        }));
    };
    group.bench_function("on the disk, 64 tasks", |b| {
        b.iter_custom(|n| {
            let start = Instant::now();
            add_side_by_side(n);
            start.elapsed()
        });
    });
    group.bench_function("floor: pwrite and fdatasync of 64, each", |b| {
        b.iter_custom(|n| {
            let start = Instant::now();
            for _ in 0..n.div_ceil(64) {
                write(&record);
            }
            // Time for n of the records written, for the last group may be larger than asked.
            let written = u32::try_from(n.div_ceil(64) * 64).unwrap();
            start
                .elapsed()
                .mul_f64(f64::from(u32::try_from(n).unwrap()) / f64::from(written))
        });
    });
    group.bench_function("in memory only", |b| {
        b.iter(|| {
            let adding = bench.add(account(0), next(bench), false, &memory);
            bench.runtime.block_on(adding);
        });
    });
    let add_one = || {
        let adding = bench.add(account(0), next(bench), true, &memory);
        bench.runtime.block_on(adding);
    };
    paired("1 add", 500, add_one, || write(&record[..MEMORY_BYTES]));
    paired(
        "64 adds side by side",
        300,
        || add_side_by_side(64),
        || write(&record),
    );
    let tree = bench.bare.open_tree("adds").unwrap();
    let usage = bench.bare.open_tree("usage of adds").unwrap();
    usage.insert(account(0).0, [0; 70].as_slice()).unwrap();
    group.bench_function("floor: swap and insert", |b| {
        b.iter(|| {
            let n = end.fetch_add(1, Ordering::Relaxed);
            let old = usage.get(account(0).0).unwrap().unwrap();
            let mut new = old.to_vec();
            new[..8].copy_from_slice(&n.to_be_bytes());
            usage
                .compare_and_swap(account(0).0, Some(old), Some(new))
                .unwrap()
                .unwrap();
            let key = [account(0).0, u128::from(n).to_be_bytes()].concat();
            tree.insert(key, vec![b'x'; MEMORY_BYTES]).unwrap();
        });
    });
}

fn store(criterion: &mut Criterion) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let bench = Arc::new(Bench::make(directory.path().to_owned()));
    let mut group = criterion.benchmark_group("debit");
    debit(&mut group, &bench);
    group.finish();
    let mut group = criterion.benchmark_group("authenticate");
    authenticate(&mut group, &bench);
    group.finish();
    let mut group = criterion.benchmark_group("page of 20");
    page(&mut group, &bench);
    group.finish();
    let mut group = criterion.benchmark_group("add");
    add(&mut group, &bench);
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = store
}
criterion_main!(benches);
