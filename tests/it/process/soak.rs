//! Churn for a while: memories are added, changed, read and deleted, so that as many are held at the end as
//! soon after the start. What must stay flat is memory and files.
//!
//! `SOAK_SECONDS` sets how long (10). Each client rests after a request so that it works 70% of the time.
//! From 300 s on it asserts that resident memory and files have stopped growing; a shorter run only that
//! every count is exact at its end, since sled's files grow to a plateau first.
//!
//! `RECOVERY_MEMORIES` sets how many memories are there when a process is killed to see how long the next start
//! takes (10,000).

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{ADMIN, Client, Process, memory, run};

const CLIENTS: usize = 16;
/// Memories that each client holds.
const HELD: usize = 500;
/// Resting time for each part of working time: 0.43 makes it 70% work.
const REST: f64 = 0.43;
const SECONDS_FOR_FLAT: u64 = 300;
/// Memories that an account adds before its plan is renewed.
const ADDS_OF_PLAN: u64 = 50_000;

/// What one look at the process finds.
#[derive(Debug, Clone, Copy)]
struct Sample {
    second: u64,
    requests: u64,
    resident_kib: u64,
    file_kib: u64,
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            second,
            requests,
            resident_kib,
            file_kib,
        } = self;
        write!(
            f,
            "after {second} s: {requests} requests, {resident_kib} KiB resident, {file_kib} KiB of files"
        )
    }
}

fn resident_kib(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.child.id())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn file_kib(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => file_kib(&entry.path()),
        // It may be gone by now.
        metadata => metadata.map_or(0, |metadata| metadata.len() / 1_024),
    });
    sizes.sum()
}

/// One client with an account of its own, whose plan it has renewed when its credits are gone.
struct Churner {
    client: Client,
    email: String,
    key: String,
    held: VecDeque<String>,
    worked: Duration,
}

impl Churner {
    fn new(process: &Process, number: usize) -> Self {
        let mut client = process.client();
        let email = format!("soak{number}@example.com");
        let key = client.sign_up(&email, "Premium");
        Self {
            client,
            email,
            key,
            held: VecDeque::new(),
            worked: Duration::ZERO,
        }
    }

    /// Sends a request until it is not refused for want of credits; rests after it.
    fn call(&mut self, method: &str, path: &str, body: Option<&Value>, status: u16) -> Value {
        loop {
            let started = Instant::now();
            let answer = self.client.with_key(&self.key, method, path, body);
            let took = started.elapsed();
            self.worked += took;
            std::thread::sleep(took.mul_f64(REST));
            if answer.status != 402 {
                return answer.expect(status).body;
            }
            for plan in ["Free", "Premium"] {
                let path = format!("/admin/user/{}/plan", self.email);
                let plan = json!({"plan": plan});
                self.client.as_admin("PUT", &path, Some(&plan)).expect(200);
            }
        }
    }

    fn turn(&mut self, serial: u64) {
        let mut new = memory("churn");
        // Some are long, so that pieces come and go too.
        let length = if serial.is_multiple_of(50) {
            20_000
        } else {
            300
        };
        new["input"] = json!("x".repeat(length));
        let added = self.call("POST", "/memory", Some(&new), 201);
        let id = added["entry"]["id"].as_str().unwrap();
        self.held.push_back(id.to_owned());
        let change = json!({"topic": format!("changed {serial}")});
        self.call("PATCH", &format!("/memory/{id}"), Some(&change), 200);
        self.call("GET", "/memory?limit=20", None, 200);
        if self.held.len() > HELD {
            let oldest = self.held.pop_front().unwrap();
            self.call("DELETE", &format!("/memory/{oldest}"), None, 200);
        }
    }
}

type Measure = fn(&Sample) -> u64;

/// The largest value of a part of the samples.
fn largest(samples: &[Sample], value: Measure) -> u64 {
    samples.iter().map(value).max().unwrap_or(0)
}

/// Shows that memory and files stay flat while as much is deleted as is added, and that counts stay exact.
#[test]
fn churn_keeps_memory_and_files_flat() {
    let seconds = super::crash::number("SOAK_SECONDS").unwrap_or(10);
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(
        data.path(),
        &[],
        &[
            ("ADMIN_KEY", ADMIN),
            ("RUST_LOG", "warn,memoryos::server=info"),
        ],
    );
    let requests = AtomicU64::new(0);
    let started = Instant::now();
    let end = started + Duration::from_secs(seconds);
    let mut samples = Vec::new();
    let held: Vec<(Churner, Duration)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (process, requests) = (&process, &requests);
                scope.spawn(move || {
                    let mut churner = Churner::new(process, number);
                    let began = Instant::now();
                    let mut serial = 0;
                    while Instant::now() < end {
                        churner.turn(serial);
                        serial += 1;
                        requests.fetch_add(4, Ordering::Relaxed);
                    }
                    (churner, began.elapsed())
                })
            })
            .collect();
        while Instant::now() < end {
            std::thread::sleep(Duration::from_secs(1).min(end - Instant::now().min(end)));
            let sample = Sample {
                second: started.elapsed().as_secs(),
                requests: requests.load(Ordering::Relaxed),
                resident_kib: resident_kib(&process),
                file_kib: file_kib(data.path()),
            };
            if samples.len() % 60 == 59 {
                println!("{sample}");
            }
            samples.push(sample);
        }
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let (mut worked, mut passed) = (Duration::ZERO, Duration::ZERO);
    for (mut churner, took) in held {
        worked += churner.worked;
        passed += took;
        let credits = churner.call("GET", "/credits", None, 200);
        assert_eq!(credits["memory_usage"]["current_count"], churner.held.len());
        let path = format!("/memory?limit=1&page={}", churner.held.len());
        let oldest = churner.call("GET", &path, None, 200);
        assert_eq!(oldest["memories"][0]["id"], churner.held[0]);
    }
    println!(
        "{CLIENTS} clients, {:.0}% of the time at work; {}",
        100.0 * worked.as_secs_f64() / passed.as_secs_f64(),
        samples.last().unwrap(),
    );
    if seconds >= SECONDS_FOR_FLAT {
        let (_, later) = samples.split_at(samples.len() / 3);
        let (middle, last) = later.split_at(later.len() / 2);
        let values: [(&str, Measure); 2] = [
            ("resident memory", |s| s.resident_kib),
            ("files", |s| s.file_kib),
        ];
        for (name, value) in values {
            let (before, after) = (largest(middle, value), largest(last, value));
            println!("{name}: at most {before} KiB in the middle third, {after} KiB in the last");
            assert!(
                after <= before + before / 4 + 8_192,
                "{name} grows: {before} to {after} KiB"
            );
        }
    }
    process.stop();
    let (code, report, errors) = run(&["check", "--data-dir", data.path().to_str().unwrap()], &[]);
    assert_eq!(code, 0, "{report}{errors}");
}

/// Shows that a start after a kill finds everything, and prints how long it takes.
#[test]
fn a_start_after_a_kill_finds_everything() {
    let memories = super::crash::number("RECOVERY_MEMORIES").unwrap_or(10_000);
    let data = tempfile::tempdir().unwrap();
    let env = [
        ("ADMIN_KEY", ADMIN),
        ("RUST_LOG", "warn,memoryos::server=info"),
    ];
    let process = Process::start(data.path(), &[], &env);
    let each = memories.div_ceil(u64::try_from(CLIENTS).unwrap());
    let started = Instant::now();
    super::storm(&process, CLIENTS, |number, client| {
        let email = format!("many{number}@example.com");
        let key = client.sign_up(&email, "Premium");
        let body = memory("many");
        for n in 0..each {
            if n % ADDS_OF_PLAN == ADDS_OF_PLAN - 1 {
                for plan in ["Free", "Premium"] {
                    let path = format!("/admin/user/{email}/plan");
                    client
                        .as_admin("PUT", &path, Some(&json!({"plan": plan})))
                        .expect(200);
                }
            }
            client
                .with_key(&key, "POST", "/memory", Some(&body))
                .expect(201);
        }
    });
    let adding = started.elapsed();
    process.kill();
    let files = file_kib(data.path());
    let started = Instant::now();
    let process = Process::start(data.path(), &[], &env);
    let took = started.elapsed();
    let health = process
        .client()
        .call("GET", "/health", &[], None)
        .expect(200);
    let there = each * u64::try_from(CLIENTS).unwrap();
    assert_eq!(health.body["metrics"]["memory_entries"], there);
    println!(
        "{there} memories added in {adding:.1?}, {} MiB of files; killed; the next start took {took:.2?}",
        files / 1_024,
    );
    process.stop();
}
