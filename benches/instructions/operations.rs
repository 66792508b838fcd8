//! Runs one operation many times, for valgrind to count its instructions; see `README.md`.
//!
//! The threads that are counted are the process's second and third, whatever the store starts, and do nothing
//! but the operation: the one so often, the other twice as often. What they differ by has no start-up in it,
//! and nothing of other threads.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a bench that fails may panic"
)]

#[path = "../service/mod.rs"]
mod service;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use http::{Method, StatusCode};
use memoryos::domain::memory::MemoryId;
use memoryos::domain::time::Timestamp;
use memoryos::store::PageStart;
use service::{BODY, PAGE, START, Service};
use tokio::runtime::{Builder, Runtime};

/// Operations before those that are counted, so that caches and buffers are as they will be.
const WARM_UP: u64 = 200;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Does the operation once. `n` never comes again.
async fn once(service: &Service, operation: &str, n: u64) {
    let get = |path| service.request(0, Method::GET, path, "");
    match operation {
        "authenticate" => {
            let account = &service.accounts[usize::try_from(n).unwrap() % service.accounts.len()];
            service.app.authenticate(&account.secret).unwrap();
        }
        "debit" => service.debit(0).await,
        "page20" => {
            let account = service.accounts[0].principal.account;
            // Read from the tree: the first page itself is kept, as `request_page` has it.
            let newest = PageStart::Before(MemoryId::from_bytes([0xFF; 16]));
            let page = service.store.page(account, newest, PAGE);
            assert_eq!(page.unwrap().count, PAGE);
        }
        "add" => service.add_unflushed(1, n).await,
        "request_credits" => {
            service.answer(get("/credits"), StatusCode::OK).await;
        }
        "request_page" => {
            service
                .answer(get("/memory?limit=20"), StatusCode::OK)
                .await;
        }
        "request_add" => {
            // A millisecond later each, so that ids are as a server gives them.
            let micros = START.micros() + i64::try_from(n * 1_000).unwrap();
            service.clock.set(Timestamp::from_micros(micros));
            let request = service.request(1, Method::POST, "/memory", BODY);
            service.answer(request, StatusCode::CREATED).await;
        }
        _ => panic!("no such operation: {operation}"),
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Starts a thread that waits for what it is to do.
fn worker() -> (Sender<Job>, JoinHandle<()>) {
    let (sender, jobs) = channel::<Job>();
    let thread = std::thread::spawn(move || jobs.into_iter().for_each(|job| job()));
    (sender, thread)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [operation, count, directory] = &arguments[..] else {
        panic!("instructions OPERATION COUNT EMPTY_DIRECTORY");
    };
    let count: u64 = count.parse().unwrap();
    let workers = [worker(), worker()];
    let set_up = runtime();
    let service = set_up.block_on(async {
        let service = Service::make(Path::new(directory)).await;
        for n in 0..WARM_UP {
            once(&service, operation, n).await;
        }
        Arc::new(service)
    });
    let mut from = WARM_UP;
    for ((jobs, thread), times) in workers.into_iter().zip([count, 2 * count]) {
        let (service, operation) = (Arc::clone(&service), operation.clone());
        let job = Box::new(move || {
            runtime().block_on(async {
                for n in from..from + times {
                    once(&service, &operation, n).await;
                }
            });
        });
        jobs.send(job).unwrap();
        drop(jobs);
        thread.join().unwrap();
        from += times;
    }
}
