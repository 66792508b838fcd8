//! What the parts of a request cost, and whole requests without a socket, each beside the least that any
//! program would have to do. See `README.md` for the command, the figures and how far to trust them.

#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::semicolon_if_nothing_returned,
    reason = "a bench that fails may panic"
)]

#[expect(dead_code, reason = "some of it is for the count of instructions")]
mod service;

use std::cell::Cell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use memoryos::app::{Listed, PageRequest, PageStart};
use memoryos::domain::json::Object;
use memoryos::domain::memory::{MemoryId, NewMemory, Stamp};
use memoryos::domain::time::Timestamp;
use memoryos::http::parts;
use memoryos::store::Added;
use serde::de::IgnoredAny;
use service::{BODY, PAGE, START, Service};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tower::ServiceExt;
use warp::Filter;

/// Metered requests of an account in a month: few enough for the credits of Premium, also at the price of an add.
const A_MONTH: u64 = 20_000;

struct Bench {
    runtime: Runtime,
    service: Service,
    /// Requests so far.
    count: Cell<u64>,
}

impl Bench {
    /// Moves the time on: by a millisecond for each request, and by a month before credits run out.
    fn tick(&self) {
        let n = self.count.get() + 1;
        self.count.set(n);
        let seconds = i64::try_from(n / A_MONTH).unwrap() * 31 * 86_400;
        let micros = START.micros() + i64::try_from(n).unwrap() * 1_000 + seconds * 1_000_000;
        self.service.clock.set(Timestamp::from_micros(micros));
    }
}

fn throughput(group: &mut BenchmarkGroup<'_, WallTime>, bytes: usize) {
    group.throughput(Throughput::Bytes(u64::try_from(bytes).unwrap()));
}

fn key(group: &mut BenchmarkGroup<'_, WallTime>, bench: &Bench) {
    let secrets = bench.service.accounts.iter().map(|one| &one.secret);
    let mut secrets = secrets.cycle();
    group.bench_function("hash", |b| b.iter(|| secrets.next().unwrap().hash()));
    group.bench_function("hash and look-up", |b| {
        b.iter(|| {
            let secret = secrets.next().unwrap();
            bench.service.app.authenticate(secret).unwrap()
        })
    });
    let text = bench.service.accounts[0].secret.reveal();
    group.bench_function("floor: SHA-256 of 32 bytes", |b| {
        b.iter(|| Sha256::digest(black_box(text)))
    });
}

fn json_in(group: &mut BenchmarkGroup<'_, WallTime>) {
    let body = Bytes::from_static(BODY.as_bytes());
    throughput(group, body.len());
    group.bench_function("a memory", |b| {
        b.iter(|| NewMemory::parse(Object::parse(black_box(&body)).unwrap()).unwrap())
    });
    group.bench_function("floor: skipped by serde_json", |b| {
        b.iter(|| serde_json::from_slice::<IgnoredAny>(black_box(&body)).unwrap())
    });
    group.bench_function("floor: copy of the bytes", |b| {
        b.iter(|| black_box(&body).to_vec())
    });
}

fn json_out(group: &mut BenchmarkGroup<'_, WallTime>, bench: &Bench) {
    let memory = NewMemory::parse(Object::parse(BODY.as_bytes()).unwrap()).unwrap();
    let stamp = Stamp {
        id: MemoryId::new(START.millis(), 1 << 60),
        timestamp: START,
        key_id: "key_ABCDEFGHIJ00",
        updated_at: None,
    };
    let entry = memory.entry_json(&stamp);
    group.bench_function("a memory", |b| {
        b.iter(|| black_box(&memory).entry_json(&stamp))
    });
    group.bench_function("floor: copy of a memory", |b| {
        b.iter(|| black_box(&entry).clone())
    });
    let listed = listed(bench);
    let added = Added {
        entry,
        balance: listed.debited.balance,
        total: listed.total,
    };
    let body = parts::added_body(&added, 2);
    group.bench_function("answer of an add, around the memory", |b| {
        b.iter(|| parts::added_body(black_box(&added), 2))
    });
    group.bench_function("floor: copy of that answer", |b| {
        b.iter(|| black_box(&body).clone())
    });
    let principal = &bench.service.accounts[0].principal;
    let limit = u64::try_from(PAGE).unwrap();
    let body = parts::page_rest(principal, &listed, limit);
    group.bench_function("answer with a page, around the memories", |b| {
        b.iter(|| parts::page_rest(principal, black_box(&listed), limit))
    });
    group.bench_function("floor: copy of it", |b| b.iter(|| black_box(&body).clone()));
}

/// The newest page, as the use case returns it.
fn listed(bench: &Bench) -> Listed {
    bench.tick();
    let page = PageRequest {
        start: PageStart::Skip(0),
        limit: PAGE,
    };
    let principal = &bench.service.accounts[0].principal;
    let listing = bench.service.app.list_memories(principal, page);
    bench.runtime.block_on(listing).unwrap()
}

fn cursor(group: &mut BenchmarkGroup<'_, WallTime>, bench: &Bench) {
    let principal = &bench.service.accounts[0].principal;
    let id = MemoryId::new(START.millis(), 1 << 60);
    let text = parts::cursor(principal, id);
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(&text).unwrap();
    group.bench_function("written", |b| {
        b.iter(|| parts::cursor(principal, black_box(id)))
    });
    group.bench_function("read", |b| {
        b.iter(|| parts::parse_cursor(principal, black_box(&text)).unwrap())
    });
    group.bench_function("floor: written without its hash", |b| {
        b.iter(|| BASE64_URL_SAFE_NO_PAD.encode(black_box(&bytes)))
    });
    group.bench_function("floor: read without its hash", |b| {
        b.iter(|| BASE64_URL_SAFE_NO_PAD.decode(black_box(&text)).unwrap())
    });
}

/// Measures a request to the service, and the same to a route of warp that reads the body and answers with as
/// many bytes.
fn request(
    group: &mut BenchmarkGroup<'_, WallTime>,
    bench: &Bench,
    (name, status): (&str, StatusCode),
    make: impl Fn() -> Request<Full<Bytes>>,
) {
    bench.tick();
    let answer = bench.runtime.block_on(bench.service.answer(make(), status));
    let bytes = answer.clone();
    let bare = warp::any()
        .and(warp::body::bytes())
        .map(move |_| Response::new(bytes.clone()))
        .boxed();
    group.bench_function(name, |b| {
        b.iter_custom(|n| {
            let start = Instant::now();
            bench.runtime.block_on(async {
                for _ in 0..n {
                    bench.tick();
                    bench.service.answer(make(), status).await;
                }
            });
            start.elapsed()
        })
    });
    group.bench_function(format!("floor: {name}, a bare route"), |b| {
        b.iter_custom(|n| {
            let start = Instant::now();
            bench.runtime.block_on(async {
                for _ in 0..n {
                    let answered = warp::service(bare.clone()).oneshot(make()).await.unwrap();
                    let body = answered.into_body().collect().await.unwrap().to_bytes();
                    assert_eq!(body.len(), answer.len());
                }
            });
            start.elapsed()
        })
    });
}

fn requests(criterion: &mut Criterion) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let bench = Bench {
        service: runtime.block_on(Service::make(directory.path())),
        runtime,
        count: Cell::new(0),
    };
    let mut group = criterion.benchmark_group("key");
    key(&mut group, &bench);
    group.finish();
    let mut group = criterion.benchmark_group("JSON in");
    json_in(&mut group);
    group.finish();
    let mut group = criterion.benchmark_group("JSON out");
    json_out(&mut group, &bench);
    group.finish();
    let mut group = criterion.benchmark_group("cursor");
    cursor(&mut group, &bench);
    group.finish();
    let mut group = criterion.benchmark_group("request");
    let service = &bench.service;
    let get = |path| move || service.request(0, Method::GET, path, "");
    let ok = StatusCode::OK;
    request(&mut group, &bench, ("GET credits", ok), get("/credits"));
    let page = get("/memory?limit=20");
    request(&mut group, &bench, ("GET memory, 20 of them", ok), page);
    let add = || service.request(1, Method::POST, "/memory", BODY);
    let created = StatusCode::CREATED;
    request(
        &mut group,
        &bench,
        ("POST memory, on the disk", created),
        add,
    );
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = requests
}
criterion_main!(benches);
