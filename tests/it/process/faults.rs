//! A bad disk below the real process: writes and flushes that fail, lie, hang, or find no space; a process
//! that is stopped for a while; a clock that is set.
//!
//! The faults are put below the process by a library for `LD_PRELOAD`; `tests/faults/shim.rs` says how.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{ADMIN, Answer, Client, PATIENCE, Process, memory, run, storm};

/// A number of the control file, by its place.
#[derive(Debug, Clone, Copy)]
struct Slot(u64);

impl Slot {
    const WRITES: Self = Self(0);
    const SYNCS: Self = Self(1);
    const WRITE_FROM: Self = Self(2);
    const WRITE_UNTIL: Self = Self(3);
    const SYNC_FROM: Self = Self(4);
    const SYNC_UNTIL: Self = Self(5);
    const ERRNO: Self = Self(6);
    const SYNC_MODE: Self = Self(7);
    const WRITE_MODE: Self = Self(8);
    const HANG: Self = Self(9);
    const CLOCK_AHEAD: Self = Self(10);
    const LOG_ONLY: Self = Self(11);
    const HANG_FROM: Self = Self(12);
    /// Flushes that hung.
    const HELD: Self = Self(13);
}

/// What can go wrong once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// A write fails, and nothing of it is there.
    Write,
    /// A write fails half way.
    HalfWrite,
    /// A flush fails without having been tried.
    Sync,
    /// A flush that was done is reported as failed.
    LyingSync,
}

/// The faults below one process.
#[derive(Debug)]
struct Faults {
    directory: tempfile::TempDir,
    control: File,
}

impl Faults {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let control = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(directory.path().join("control"))
            .unwrap();
        control.set_len(4_096).unwrap();
        Self { directory, control }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn get(&self, slot: Slot) -> u64 {
        let mut bytes = [0; 8];
        let at = 8 * slot.0;
        self.control.read_exact_at(&mut bytes, at).unwrap();
        u64::from_le_bytes(bytes)
    }

    fn set(&self, slot: Slot, value: u64) {
        let at = 8 * slot.0;
        self.control.write_all_at(&value.to_le_bytes(), at).unwrap();
    }

    /// Makes the `n`th write or flush from now on fail; 0 is the next one.
    fn arm(&self, fault: Fault, n: u64, errno: i32) {
        self.set(Slot::ERRNO, errno.unsigned_abs().into());
        self.set(Slot::WRITE_MODE, (fault == Fault::HalfWrite).into());
        self.set(Slot::SYNC_MODE, (fault == Fault::LyingSync).into());
        let (counter, from, until) = match fault {
            Fault::Write | Fault::HalfWrite => (Slot::WRITES, Slot::WRITE_FROM, Slot::WRITE_UNTIL),
            Fault::Sync | Fault::LyingSync => (Slot::SYNCS, Slot::SYNC_FROM, Slot::SYNC_UNTIL),
        };
        let number = self.get(counter) + n;
        self.set(from, number);
        self.set(until, number + 1);
    }

    /// Lets all be well. Says whether the fault has hit.
    fn disarm(&self) -> bool {
        let hit = |counter, from, until| self.get(until) > 0 && self.get(counter) > self.get(from);
        let has_hit = hit(Slot::WRITES, Slot::WRITE_FROM, Slot::WRITE_UNTIL)
            || hit(Slot::SYNCS, Slot::SYNC_FROM, Slot::SYNC_UNTIL);
        self.set(Slot::WRITE_UNTIL, 0);
        self.set(Slot::SYNC_UNTIL, 0);
        has_hit
    }

    /// Makes every flush, or every write and flush, fail until [`Self::disarm`].
    fn break_disk(&self, errno: i32, writes_too: bool) {
        self.set(Slot::ERRNO, errno.unsigned_abs().into());
        self.set(Slot::WRITE_MODE, 0);
        self.set(Slot::SYNC_MODE, 0);
        self.set(Slot::WRITE_FROM, 0);
        self.set(Slot::WRITE_UNTIL, if writes_too { u64::MAX } else { 0 });
        self.set(Slot::SYNC_FROM, 0);
        self.set(Slot::SYNC_UNTIL, u64::MAX);
    }

    /// Sets the process's time of day ahead, or behind.
    fn set_clock(&self, seconds: i64) {
        let nanos = seconds * 1_000_000_000;
        self.set(Slot::CLOCK_AHEAD, nanos.cast_unsigned());
    }

    fn start(&self, args: &[&str]) -> Process {
        let (control, root) = (self.directory.path().join("control"), self.data());
        let env = [
            ("ADMIN_KEY", ADMIN),
            ("LD_PRELOAD", shim()),
            ("FAULTS_FILE", control.to_str().unwrap()),
            ("FAULTS_ROOT", root.to_str().unwrap()),
        ];
        let process = Process::start(&root, args, &env);
        assert!(self.get(Slot::SYNCS) > 0, "the faults are not below it");
        process
    }
}

/// The library, which cargo builds beside the tests; by itself, if only this test was asked for.
fn shim() -> &'static str {
    static SHIM: OnceLock<String> = OnceLock::new();
    SHIM.get_or_init(|| {
        let built = Path::new(env!("CARGO_BIN_EXE_memoryos"))
            .with_file_name("examples")
            .join("libfaults.so");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--locked", "--quiet", "--example", "faults"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        let output = build.output().unwrap();
        assert!(output.status.success() && built.exists(), "{output:?}");
        built.to_str().unwrap().to_owned()
    })
}

/// Waits until the service takes writes; panics at a deadline.
fn wait_until_healthy(client: &mut Client) {
    let until = Instant::now() + PATIENCE;
    while client.call("GET", "/health", &[], None).status != 200 {
        assert!(Instant::now() < until, "it does not heal");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_sound(data: &Path) {
    let (code, report, errors) = run(&["check", "--data-dir", data.to_str().unwrap()], &[]);
    assert_eq!(code, 0, "{report}{errors}");
}

/// What an account shows, without paying for it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    plan: String,
    used: i64,
    held: i64,
    active_keys: usize,
    accounts: i64,
    topic: String,
}

/// An account with a memory to be changed, and what the faults are tried on.
struct World {
    email: String,
    key: String,
    memory: String,
    serial: u64,
}

/// One write route: what is sent, and what becomes of the state.
struct Route {
    name: &'static str,
    method: &'static str,
    path: String,
    admin: bool,
    headers: Vec<(&'static str, String)>,
    body: Option<Value>,
    /// The next look, if nothing was done.
    unchanged: State,
    /// The next look, if it was done.
    after: State,
}

impl World {
    fn new(client: &mut Client) -> Self {
        let email = "bo@example.com".to_owned();
        let key = client.sign_up(&email, "Pro");
        let made = client.with_key(&key, "POST", "/memory", Some(&memory("t0")));
        let memory = made.expect(201).body["entry"]["id"]
            .as_str()
            .unwrap()
            .to_owned();
        Self {
            email,
            key,
            memory,
            serial: 0,
        }
    }

    fn set_plan(&self, client: &mut Client, plan: &str) {
        let path = format!("/admin/user/{}/plan", self.email);
        let answer = client.as_admin("PUT", &path, Some(&json!({"plan": plan})));
        answer.expect(200);
    }

    /// Looks at the account. The read is paid for, and both are on the disk when this returns.
    fn state(&self, client: &mut Client) -> State {
        let path = format!("/memory/{}", self.memory);
        let read = client.with_key(&self.key, "GET", &path, None).expect(200);
        let credits = client
            .with_key(&self.key, "GET", "/credits", None)
            .expect(200);
        let plan = credits.str("plan");
        // A write of nothing, whose flush takes the read's debit along.
        self.set_plan(client, &plan);
        let keys = client
            .with_key(&self.key, "GET", "/apikey/list", None)
            .expect(200);
        let health = client.call("GET", "/health", &[], None).expect(200);
        State {
            plan,
            used: credits.body["total_credits_used"].as_i64().unwrap(),
            held: credits.body["memory_usage"]["current_count"]
                .as_i64()
                .unwrap(),
            active_keys: keys.body["api_keys"].as_array().unwrap().len(),
            accounts: health.body["metrics"]["total_users"].as_i64().unwrap(),
            topic: read.body["memory"]["topic"].as_str().unwrap().to_owned(),
        }
    }

    /// Returns a write route and what it makes of the state. `None` after the last one.
    fn route(&mut self, client: &mut Client, which: usize) -> Option<Route> {
        self.serial += 1;
        let serial = self.serial;
        let mut post = |path, body: &Value| {
            let made = client.with_key(&self.key, "POST", path, Some(body));
            made.expect(201)
        };
        let spare = match which {
            4 => post("/memory", &memory("gone")).body["entry"]["id"]
                .as_str()
                .unwrap()
                .to_owned(),
            7 => post("/apikey/new", &json!({})).str("key_id"),
            _ => String::new(),
        };
        let mut after = self.state(client);
        // The next look costs a credit too.
        after.used += 1;
        let mut route = Route {
            name: "",
            method: "POST",
            path: "/memory".to_owned(),
            admin: false,
            headers: Vec::new(),
            body: Some(memory("new")),
            unchanged: after.clone(),
            after: after.clone(),
        };
        let added = State {
            used: after.used + 2,
            held: after.held + 1,
            ..after.clone()
        };
        match which {
            0 => (route.name, route.after) = ("add", added),
            1 => {
                (route.name, route.after) = ("add with an idempotency key", added);
                route.headers = vec![("Idempotency-Key", format!("k{serial}"))];
            }
            2 => {
                (route.name, route.after) = ("add in pieces", added);
                let mut long = memory("long");
                long["input"] = json!("x".repeat(20_000));
                route.body = Some(long);
            }
            3 => {
                route.name = "change";
                (route.method, route.path) = ("PATCH", format!("/memory/{}", self.memory));
                route.body = Some(json!({"topic": format!("t{serial}")}));
                route.after.topic = format!("t{serial}");
                route.after.used += 2;
            }
            4 => {
                route.name = "delete";
                (route.method, route.path, route.body) =
                    ("DELETE", format!("/memory/{spare}"), None);
                route.after.held -= 1;
            }
            5 => {
                (route.name, route.path) = ("sign-up", "/signup".to_owned());
                route.body = Some(json!({"email": format!("n{serial}@example.com")}));
                route.after.accounts += 1;
            }
            6 => {
                (route.name, route.path) = ("new key", "/apikey/new".to_owned());
                route.body = Some(json!({}));
                route.after.active_keys += 1;
            }
            7 => {
                route.name = "revoke";
                (route.method, route.path, route.body) =
                    ("DELETE", format!("/apikey/{spare}"), None);
                route.after.active_keys -= 1;
            }
            8 => {
                let plan = if after.plan == "Pro" {
                    "Premium"
                } else {
                    "Pro"
                };
                route.name = "plan";
                (route.method, route.admin) = ("PUT", true);
                route.path = format!("/admin/user/{}/plan", self.email);
                route.body = Some(json!({"plan": plan}));
                plan.clone_into(&mut route.after.plan);
            }
            9 => {
                route.name = "recount";
                route.admin = true;
                "/admin/sync-memory-counts".clone_into(&mut route.path);
                route.body = Some(json!({}));
            }
            _ => return None,
        }
        Some(route)
    }

    fn send(&self, client: &mut Client, route: &Route) -> Answer {
        let mut headers = vec![if route.admin {
            ("X-ADMIN-KEY", ADMIN)
        } else {
            ("X-API-KEY", self.key.as_str())
        }];
        headers.extend(
            route
                .headers
                .iter()
                .map(|(name, value)| (*name, value.as_str())),
        );
        let body = route.body.as_ref().map(Value::to_string);
        if route.path == "/signup" {
            headers.clear();
        }
        client.call(route.method, &route.path, &headers, body.as_deref())
    }
}

/// Tries one fault on one write. Returns whether it has hit anything.
fn try_fault(
    faults: &Faults,
    client: &mut Client,
    world: &World,
    route: &Route,
    (fault, n, errno): (Fault, u64, i32),
) -> bool {
    let what = format!("{} with {fault:?} {n}, errno {errno}", route.name);
    faults.arm(fault, n, errno);
    let answer = world.send(client, route);
    let has_hit = faults.disarm();
    wait_until_healthy(client);
    let seen = world.state(client);
    match answer.status {
        200 | 201 => assert_eq!(seen, route.after, "{what}: {}", answer.text),
        503 => {
            let seconds = answer.header("retry-after").unwrap();
            assert!(seconds.parse::<u64>().unwrap() > 0);
            assert_eq!(answer.code(), "storage_unavailable", "{what}");
            assert!(has_hit, "{what}: refused without a fault");
            let may_be_there = answer.body["outcome"] == "unknown";
            assert!(
                seen == route.unchanged || (may_be_there && seen == route.after),
                "{what}: {}\n{seen:#?}\nis not {:#?}\nnor {:#?}",
                answer.text,
                route.unchanged,
                route.after,
            );
        }
        status => panic!("{what}: {status} {}", answer.text),
    }
    if !route.headers.is_empty() {
        // Sent again it is one memory and one debit, whatever became of the first.
        let again = world.send(client, route).expect(201);
        let replayed = again.header("idempotent-replayed") == Some("true");
        assert_eq!(replayed, seen.held == route.after.held, "{what}");
        let mut once = route.after.clone();
        once.used += 1;
        assert_eq!(world.state(client), once, "{what}: sent again");
    }
    has_hit
}

/// Shows, for every write route, every fault and the first, second, ... write or flush that it hits: the
/// answer tells the truth, nothing is half there or charged twice, and the service heals by itself.
#[test]
fn every_write_survives_every_fault() {
    let faults = Faults::new();
    let process = faults.start(&["--min-free-mib", "0"]);
    let mut client = process.client();
    let mut world = World::new(&mut client);
    let all = [
        Fault::Write,
        Fault::HalfWrite,
        Fault::Sync,
        Fault::LyingSync,
    ];
    let (mut tried, mut hits, mut which) = (0u64, 0u64, 0);
    while let Some(first) = world.route(&mut client, which) {
        let mut route = Some(first);
        for fault in all {
            for n in 0.. {
                let errno = [libc::EIO, libc::ENOSPC][usize::try_from(n % 2).unwrap()];
                let this = route
                    .take()
                    .or_else(|| world.route(&mut client, which))
                    .unwrap();
                let has_hit = try_fault(&faults, &mut client, &world, &this, (fault, n, errno));
                tried += 1;
                hits += u64::from(has_hit);
                if !has_hit {
                    break;
                }
                assert!(n < 20, "{}: {fault:?} hits for ever", this.name);
            }
        }
        which += 1;
    }
    // Each of nine routes writes once and flushes once; a recount that finds nothing writes nothing.
    assert!(hits >= 36, "{hits} faults hit something");
    let last = world.state(&mut client);
    let log = process.kill();
    let anew = log.matches("the database was opened anew").count();
    assert!(anew >= 36, "opened anew {anew} times");
    println!("{which} routes, {tried} faults of which {hits} hit, opened anew {anew} times");
    let process = faults.start(&["--min-free-mib", "0"]);
    let mut after = last.clone();
    after.used += 1;
    assert_eq!(world.state(&mut process.client()), after);
    process.stop();
    is_sound(&faults.data());
}

/// Asserts that an addition whose outcome was unknown is there with its debit, or neither is; between the
/// two looks there was nothing else, and the second costs a credit.
#[track_caller]
fn is_there_whole_or_not(before: &State, after: &State) {
    let added = after.held - before.held;
    assert!((0..=1).contains(&added), "{after:?}");
    assert_eq!(after.used, before.used + 1 + 2 * added);
}

/// Calls that a service without a disk answers: writes are refused, reads are free, `/health` is 503.
fn serves_reads_only(client: &mut Client, world: &World, status: u16) {
    let health = client.call("GET", "/health", &[], None).expect(503);
    assert_eq!(health.body["status"], "unhealthy");
    let path = format!("/memory/{}", world.memory);
    for (method, path, body) in [
        ("POST", "/memory", Some(memory("x"))),
        ("PATCH", path.as_str(), Some(json!({"topic": "x"}))),
        ("DELETE", path.as_str(), None),
        ("POST", "/apikey/new", Some(json!({}))),
    ] {
        let refused = client.with_key(&world.key, method, path, body.as_ref());
        assert_eq!(refused.status, status, "{method} {path}: {}", refused.text);
        assert_eq!(refused.code(), "storage_unavailable");
        assert!(
            refused
                .header("retry-after")
                .unwrap()
                .parse::<u64>()
                .unwrap()
                > 0
        );
        assert_eq!(refused.body["outcome"], Value::Null);
    }
    for path in [path.as_str(), "/memory?limit=5", "/stats"] {
        let read = client.with_key(&world.key, "GET", path, None).expect(200);
        assert_eq!(read.header("x-credits-cost"), Some("0"), "{path}");
    }
}

/// Shows what a disk does that stays broken for a while, with flushes or with writes that fail: what was
/// acknowledged is there, reads go on, and writes do again once it is well, also across a kill.
#[test]
fn a_broken_disk_serves_reads_and_heals() {
    let faults = Faults::new();
    let process = faults.start(&[]);
    let mut client = process.client();
    let world = World::new(&mut client);
    for (errno, writes_too) in [(libc::EIO, false), (libc::ENOSPC, true)] {
        let before = world.state(&mut client);
        faults.break_disk(errno, writes_too);
        let failed = client.with_key(&world.key, "POST", "/memory", Some(&memory("lost?")));
        assert_eq!(failed.expect(503).body["outcome"], "unknown");
        serves_reads_only(&mut client, &world, 503);
        assert!(
            process
                .log
                .wait_for("cannot be opened anew yet", PATIENCE)
                .is_some()
        );
        faults.disarm();
        wait_until_healthy(&mut client);
        is_there_whole_or_not(&before, &world.state(&mut client));
    }
    let before = world.state(&mut client);
    faults.break_disk(libc::EIO, true);
    let failed = client.with_key(&world.key, "POST", "/memory", Some(&memory("lost?")));
    failed.expect(503);
    process.kill();
    assert!(faults.data().join("UNSYNCED").exists());
    faults.disarm();
    let process = faults.start(&[]);
    assert!(!faults.data().join("UNSYNCED").exists());
    is_there_whole_or_not(&before, &world.state(&mut process.client()));
    process.stop();
    is_sound(&faults.data());
}

/// Shows that a database that was closed and cannot be opened anew is tried again: meanwhile every request is
/// answered with 503 and none is kept waiting for it, and then all is there.
#[test]
fn a_database_that_does_not_open_is_tried_again() {
    let faults = Faults::new();
    let process = faults.start(&[]);
    let mut client = process.client();
    let world = World::new(&mut client);
    let before = world.state(&mut client);
    faults.set(Slot::LOG_ONLY, 1);
    faults.break_disk(libc::EIO, false);
    let failed = client.with_key(&world.key, "POST", "/memory", Some(&memory("lost?")));
    assert_eq!(failed.expect(503).body["outcome"], "unknown");
    let told = process.log.wait_for("cannot be opened anew yet", PATIENCE);
    assert!(told.is_some());
    let path = format!("/memory/{}", world.memory);
    for _ in 0..20 {
        let read = client.with_key(&world.key, "GET", &path, None).expect(503);
        assert_eq!(read.code(), "storage_unavailable");
        assert!(read.header("retry-after").is_some());
    }
    faults.disarm();
    wait_until_healthy(&mut client);
    is_there_whole_or_not(&before, &world.state(&mut client));
    let log = process.stop();
    assert!(!log.contains("restore a backup"), "{log}");
    is_sound(&faults.data());
}

/// Shows that a disk that hangs while the database is opened anew ends the process too.
#[test]
fn a_hang_while_it_is_opened_anew_ends_the_process() {
    let faults = Faults::new();
    let process = faults.start(&[]);
    let mut client = process.client();
    let world = World::new(&mut client);
    let before = world.state(&mut client);
    faults.arm(Fault::Sync, 0, libc::EIO);
    faults.set(Slot::HANG_FROM, faults.get(Slot::SYNCS) + 3);
    let failed = client.with_key(&world.key, "POST", "/memory", Some(&memory("lost?")));
    failed.expect(503);
    let (status, log) = process.ended(PATIENCE);
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("has not ended for"), "{log}");
    faults.disarm();
    faults.set(Slot::HANG_FROM, 0);
    let process = faults.start(&[]);
    is_there_whole_or_not(&before, &world.state(&mut process.client()));
    process.stop();
    is_sound(&faults.data());
}

/// Shows that a data directory that is moved away stops writes, and that they go on when it is back.
#[test]
fn a_directory_that_is_gone_takes_no_writes() {
    let faults = Faults::new();
    let process = faults.start(&[]);
    let mut client = process.client();
    let world = World::new(&mut client);
    let away = faults.directory.path().join("away");
    std::fs::rename(faults.data(), &away).unwrap();
    let until = Instant::now() + PATIENCE;
    while client.call("GET", "/health", &[], None).status == 200 {
        assert!(Instant::now() < until, "it is not seen");
    }
    serves_reads_only(&mut client, &world, 503);
    std::fs::rename(&away, faults.data()).unwrap();
    wait_until_healthy(&mut client);
    let added = client.with_key(&world.key, "POST", "/memory", Some(&memory("again")));
    added.expect(201);
    process.stop();
    is_sound(&faults.data());
}

/// Shows that writes stop while there is less space than `--min-free-mib`, with 507.
#[test]
fn little_free_space_is_507() {
    let data = tempfile::tempdir().unwrap();
    let env = [("ADMIN_KEY", ADMIN)];
    let process = Process::start(data.path(), &["--min-free-mib", "0"], &env);
    let world = World::new(&mut process.client());
    process.stop();
    // A TiB, which no machine that runs this has.
    let process = Process::start(data.path(), &["--min-free-mib", "1048576"], &env);
    serves_reads_only(&mut process.client(), &world, 507);
    let refused = process.client().call("POST", "/signup", &[], Some("{}"));
    refused.expect(507);
    process.stop();
}

/// A small file system of its own, unmounted when it is dropped. `None` without the right to mount.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(mib: u32) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(directory.path());
        let output = mount.output().ok()?;
        if !output.status.success() {
            println!("NOT COVERED: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        Some(Self(directory))
    }

    fn ballast(&self) -> PathBuf {
        self.0.path().join("ballast")
    }

    /// Takes all the space that is left but `leave` bytes.
    fn fill(&self, leave: u64) {
        let free = rustix::fs::statvfs(self.0.path()).unwrap();
        let free = free.f_bavail * free.f_frsize;
        let bytes = usize::try_from(free.saturating_sub(leave)).unwrap();
        std::fs::write(self.ballast(), vec![1; bytes]).unwrap();
    }

    fn make_space(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Shows on a real small disk that is full: with a reserve writes stop before it, without one the database
/// meets it; nothing acknowledged is gone, and writes go on by themselves once there is space.
#[test]
fn a_full_disk_is_survived() {
    for reserve in ["16", "0"] {
        let Some(disk) = SmallDisk::mount(64) else {
            // `a_broken_disk_serves_reads_and_heals` fails writes with ENOSPC all the same.
            return;
        };
        let data = disk.0.path().join("data");
        let args = ["--min-free-mib", reserve];
        let process = Process::start(&data, &args, &[("ADMIN_KEY", ADMIN)]);
        let mut client = process.client();
        let world = World::new(&mut client);
        let mut acknowledged: Vec<String> = Vec::new();
        for round in 0..3 {
            disk.fill(if reserve == "0" { 0 } else { 12 << 20 });
            let until = Instant::now() + PATIENCE;
            // Some writes may still fit into what the database has reserved.
            loop {
                let mut long = memory("long");
                long["input"] = json!("x".repeat(50_000));
                let answer = client.with_key(&world.key, "POST", "/memory", Some(&long));
                match answer.status {
                    201 => {
                        acknowledged.push(answer.body["entry"]["id"].as_str().unwrap().to_owned());
                    }
                    503 | 507 => {
                        assert_eq!(answer.code(), "storage_unavailable");
                        assert!(answer.header("retry-after").is_some());
                        break;
                    }
                    status => panic!("{status} {}", answer.text),
                }
                assert!(Instant::now() < until, "the disk does not fill");
            }
            if reserve != "0" {
                serves_reads_only(&mut client, &world, 507);
            }
            disk.make_space();
            wait_until_healthy(&mut client);
            let added = client.with_key(&world.key, "POST", "/memory", Some(&memory("again")));
            acknowledged.push(
                added.expect(201).body["entry"]["id"]
                    .as_str()
                    .unwrap()
                    .to_owned(),
            );
            for id in &acknowledged {
                let path = format!("/memory/{id}");
                client.with_key(&world.key, "GET", &path, None).expect(200);
            }
            println!(
                "reserve {reserve}, round {round}: {} memories",
                acknowledged.len()
            );
        }
        process.kill();
        let process = Process::start(&data, &args, &[]);
        let mut client = process.client();
        for id in &acknowledged {
            let path = format!("/memory/{id}");
            client.with_key(&world.key, "GET", &path, None).expect(200);
        }
        process.stop();
        is_sound(&data);
    }
}

/// Shows that a flush that hangs ends the process with a line that says why, and that what was
/// acknowledged before is there.
#[test]
fn a_hanging_flush_ends_the_process() {
    let faults = Faults::new();
    let process = faults.start(&[]);
    let mut client = process.client();
    let world = World::new(&mut client);
    let before = world.state(&mut client);
    faults.set(Slot::HANG, 1);
    let mut late = process.client();
    let key = world.key.clone();
    let writer = std::thread::spawn(move || {
        let body = memory("late").to_string();
        late.try_call("POST", "/memory", &[("X-API-KEY", &key)], Some(&body))
    });
    let (status, log) = process.ended(PATIENCE);
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("a flush has not ended for 10 s"), "{log}");
    assert!(log.contains("the disk hangs"), "{log}");
    if let Ok(answer) = writer.join().unwrap() {
        answer.expect(503);
    }
    faults.set(Slot::HANG, 0);
    let process = faults.start(&[]);
    is_there_whole_or_not(&before, &world.state(&mut process.client()));
    process.stop();
    is_sound(&faults.data());
}

/// Shows that a disk that keeps the flush of one who writes alone waiting keeps nobody else waiting: who connects meanwhile is
/// answered, however many they are.
#[test]
fn who_writes_alone_waits_for_the_disk_alone() {
    let faults = Faults::new();
    let process = faults.start(&["--workers", "2"]);
    let mut client = process.client();
    let world = World::new(&mut client);
    let mut add = move || client.with_key(&world.key, "POST", "/memory", Some(&memory("alone")));
    for _ in 0..20 {
        add().expect(201);
    }
    faults.set(Slot::HANG, 1);
    let writer = std::thread::spawn(add);
    let deadline = Instant::now() + PATIENCE;
    while faults.get(Slot::HELD) == 0 {
        assert!(Instant::now() < deadline, "nothing was flushed");
        std::thread::yield_now();
    }
    let mut others: Vec<Client> = (0..4).map(|_| process.client()).collect();
    for other in &mut others {
        let answer = other.try_call("GET", "/health", &[], None);
        answer.unwrap().expect(200);
    }
    faults.set(Slot::HANG, 0);
    writer.join().unwrap().expect(201);
    process.stop();
    is_sound(&faults.data());
}

/// Shows that a process that was stopped for 20 s with a flush under way, and a clock that was set meanwhile,
/// is no hung disk.
#[test]
fn a_stopped_process_goes_on() {
    let faults = Faults::new();
    let process = faults.start(&[]);
    let mut client = process.client();
    let world = World::new(&mut client);
    let before = world.state(&mut client);
    faults.set(Slot::HANG, 1);
    let flushes = faults.get(Slot::SYNCS);
    let mut late = process.client();
    let key = world.key.clone();
    let writer =
        std::thread::spawn(move || late.with_key(&key, "POST", "/memory", Some(&memory("late"))));
    process.signal(libc::SIGSTOP);
    // What is shown is that nothing happens however long it is: there is no event to wait for.
    std::thread::sleep(Duration::from_secs(20));
    faults.set_clock(3_600);
    faults.set(Slot::HANG, 0);
    process.signal(libc::SIGCONT);
    writer.join().unwrap().expect(201);
    assert!(faults.get(Slot::SYNCS) > flushes);
    let mut after = before.clone();
    (after.held, after.used) = (before.held + 1, before.used + 3);
    assert_eq!(world.state(&mut client), after);
    let log = process.stop();
    assert!(!log.contains("has not ended"), "{log}");
    is_sound(&faults.data());
}

/// Shows that a cycle's credits are granted once, whatever the clock does: steps of a second, an hour and
/// 40 days, both ways, across a cycle's end, under load and across a kill.
#[test]
fn a_clock_that_is_set_grants_nothing_twice() {
    const HOUR: i64 = 3_600;
    const DAY: i64 = 24 * HOUR;
    let faults = Faults::new();
    let mut process = faults.start(&[]);
    let email = "bo@example.com";
    let key = process.client().sign_up(email, "Free");
    let same_plan = |client: &mut Client| {
        let path = format!("/admin/user/{email}/plan");
        client
            .as_admin("PUT", &path, Some(&json!({"plan": "Free"})))
            .expect(200);
    };
    let reset = |client: &mut Client| {
        let credits = client.with_key(&key, "GET", "/credits", None).expect(200);
        let reset: chrono::DateTime<chrono::Utc> = credits.str("reset_date").parse().unwrap();
        // The real time is at most some seconds later when the clock is set.
        (reset - chrono::Utc::now()).num_seconds()
    };
    let spend = |process: &Process| {
        let answers = storm(process, 16, |_, client| {
            let reads = (0..10).map(|_| client.with_key(&key, "GET", "/memory?limit=1", None));
            reads.collect::<Vec<_>>()
        });
        let answers: Vec<Answer> = answers.into_iter().flatten().collect();
        let refused = super::count(&answers, 402);
        let paid = super::count(&answers, 200);
        assert_eq!(paid + refused, 160);
        same_plan(&mut process.client());
        paid
    };
    assert_eq!(spend(&process), 100);
    for (seconds, granted) in [
        (1, 0),
        (-1, 0),
        (HOUR, 0),
        (-HOUR, 0),
        (-40 * DAY, 0),
        (40 * DAY, 100),
        (0, 0),
        (40 * DAY + HOUR, 0),
        (-40 * DAY, 0),
    ] {
        faults.set_clock(seconds);
        assert_eq!(spend(&process), granted, "the clock is {seconds} s ahead");
    }
    process.kill();
    process = faults.start(&[]);
    assert_eq!(spend(&process), 0, "40 days behind, after a kill");
    // To the end of the cycle that was granted last, from the time that it began with.
    let end = reset(&mut process.client());
    faults.set_clock(end - 60);
    assert_eq!(spend(&process), 0, "a minute before the end");
    faults.set_clock(end + 1);
    assert_eq!(spend(&process), 100, "past the end");
    faults.set_clock(end - 60);
    assert_eq!(spend(&process), 0, "before it again");
    faults.set_clock(end + 60);
    assert_eq!(spend(&process), 0, "past it again");
    // Across the next end and back again and again while everybody spends.
    let end = reset(&mut process.client());
    let (done, paid) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                faults.set_clock(end - 60);
                faults.set_clock(end + 60);
            }
        });
        for _ in 0..3 {
            paid.fetch_add(u64::try_from(spend(&process)).unwrap(), Ordering::Relaxed);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(paid.into_inner(), 100);
    let credits = process
        .client()
        .with_key(&key, "GET", "/credits", None)
        .expect(200);
    assert_eq!(credits.body["total_credits_used"], 400);
    process.stop();
    is_sound(&faults.data());
}

/// Shows that a file that may not grow is a failed write like any other, not the end of the process.
#[test]
fn a_file_size_limit_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let process = Process::start(&data, &[], &[("ADMIN_KEY", ADMIN)]);
    let world = World::new(&mut process.client());
    process.stop();
    let served = super::memoryos(&["--port", "0", "--data-dir", data.to_str().unwrap()], &[]);
    let mut limited = Command::new("bash");
    // 2 MiB for each file.
    limited.args(["-c", "ulimit -f 2048; exec \"$@\"", "bash"]);
    limited.arg(served.get_program()).args(served.get_args());
    limited
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut process = Process::of(limited);
    process.address = process.wait_for_address(PATIENCE).unwrap();
    let mut client = process.client();
    let mut long = memory("long");
    long["input"] = json!("x".repeat(50_000));
    let mut acknowledged = 0;
    let refused = loop {
        let answer = client.with_key(&world.key, "POST", "/memory", Some(&long));
        if answer.status != 201 {
            break answer;
        }
        acknowledged += 1;
        assert!(acknowledged < 1_000, "no file grew past the limit");
    };
    assert_eq!(refused.expect(503).code(), "storage_unavailable");
    process.kill();
    let process = Process::start(&data, &[], &[("ADMIN_KEY", ADMIN)]);
    let held = world.state(&mut process.client()).held;
    // One from before, and the refused one's outcome is unknown.
    assert!(
        (acknowledged + 1..=acknowledged + 2).contains(&held),
        "{acknowledged}, {held}"
    );
    process.stop();
    is_sound(&data);
}

/// Shows that whatever the binary makes can be read by its owner alone.
#[test]
fn what_it_makes_is_its_owners() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let process = Process::start(&data, &[], &[("ADMIN_KEY", ADMIN)]);
    process
        .client()
        .as_admin("POST", "/admin/backup", None)
        .expect(201);
    process.stop();
    let mut folders = vec![data];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        assert_eq!(
            folder.metadata().unwrap().permissions().mode() & 0o77,
            0,
            "{folder:?}"
        );
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let mode = path.metadata().unwrap().permissions().mode();
                assert_eq!(mode & 0o77, 0, "{path:?}");
                files += 1;
            }
        }
    }
    assert!(files >= 5, "{files}");
}
