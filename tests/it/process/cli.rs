//! The command line: help, wrong settings, data directories that are not ours, signals, slow clients.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{ADMIN, PATIENCE, Process, memory, memoryos, read_answer, run};

/// Every file below a directory with its bytes.
fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.display().to_string();
        if path.is_dir() {
            found.push((name, Vec::new()));
            found.extend(contents(&path));
        } else {
            found.push((name, fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

/// Serves on that directory and a free port until it ends by itself.
fn serve(data: &Path) -> (i32, String) {
    let (code, _, errors) = run(&["--port", "0", "--data-dir", data.to_str().unwrap()], &[]);
    (code, errors)
}

#[test]
fn help_and_version_say_what_one_needs() {
    let (code, help, _) = run(&["--help"], &[]);
    assert_eq!(code, 0);
    for word in [
        "serve",
        "ADMIN_KEY",
        "ADMIN_KEY_FILE",
        "JAVLIN_API_KEY",
        "--data-dir",
        "DATA_DIR",
        "SIGNUP_PLANS",
        "5000",
        "curl",
        "RUST_LOG",
        "Exit codes",
    ] {
        assert!(help.contains(word), "--help does not mention {word}");
    }
    let (code, version, _) = run(&["--version"], &[]);
    assert_eq!(code, 0);
    let rest = version
        .trim()
        .strip_prefix(concat!("memoryos ", env!("CARGO_PKG_VERSION"), " ("))
        .and_then(|rest| rest.strip_suffix(')'));
    let commit = rest.unwrap_or_else(|| panic!("{version}"));
    let is_commit = commit.len() == 12 && commit.bytes().all(|b| b.is_ascii_hexdigit());
    assert!(is_commit || commit == "unknown", "{version}");
}

/// Arguments, environment, and the name that the error must hold.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);

#[test]
fn a_wrong_setting_ends_with_2_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (data_name, missing) = (data.to_str().unwrap(), folder.path().join("missing"));
    let empty = folder.path().join("empty");
    fs::write(&empty, "\n").unwrap();
    let (missing, empty) = (missing.to_str().unwrap(), empty.to_str().unwrap());
    let cases: &[Case<'_>] = &[
        (&["--signup-plans", "Free,Gold"], &[], "SIGNUP_PLANS"),
        (&[], &[("SIGNUP_PLANS", "Gold")], "SIGNUP_PLANS"),
        (&["--port", "70000"], &[], "--port"),
        (&[], &[("PORT", "http")], "--port"),
        (&[], &[("RUST_LOG", "verbose")], "RUST_LOG"),
        (&["--host", "no.such.host.invalid"], &[], "--host"),
        (&["--host", "256.1.1.1"], &[], "--host"),
        (&[], &[("HOST", "")], "HOST"),
        (
            &["--public-url", "https://me:secret@example.com"],
            &[],
            "PUBLIC_URL",
        ),
        (&["--cache-mib", "1"], &[], "--cache-mib"),
        (&["--idle-seconds", "0"], &[], "--idle-seconds"),
        (&["--no-such-flag"], &[], "--no-such-flag"),
        (&["--every", "24"], &[], "BACKUP_EVERY"),
        (&[], &[("BACKUP_EVERY", "daily")], "BACKUP_EVERY"),
        (&["--keep", "0"], &[], "--backup-keep"),
        (&["--public-url", "example"], &[], "PUBLIC_URL"),
        (
            &[],
            &[("JAVLIN_API_KEY", "default-key-change-me")],
            "JAVLIN_API_KEY",
        ),
        (&[], &[("JAVLIN_API_KEY", "short")], "JAVLIN_API_KEY"),
        (&[], &[("ADMIN_KEY_FILE", missing)], "ADMIN_KEY_FILE"),
        (&[], &[("ADMIN_KEY_FILE", empty)], "ADMIN_KEY_FILE"),
        (
            &[],
            &[("ADMIN_KEY", "a"), ("ADMIN_KEY_FILE", empty)],
            "ADMIN_KEY_FILE",
        ),
        (&[], &[("ADMIN_KEY", "two words")], "ADMIN_KEY"),
        (&[], &[("ADMIN_KEY_PREVIOUS", "old")], "ADMIN_KEY_PREVIOUS"),
        (
            &[],
            &[("ADMIN_KEY", "a"), ("ADMIN_KEY_PREVIOUS", "two words")],
            "ADMIN_KEY_PREVIOUS",
        ),
        (
            &[],
            &[("ADMIN_KEY", "a"), ("ADMIN_KEY_PREVIOUS_FILE", missing)],
            "ADMIN_KEY_PREVIOUS_FILE",
        ),
        (&["--rate-limits", "none"], &[], "--rate-limits"),
        (&[], &[("RATE_LIMITS", "0")], "--rate-limits"),
        (&["--limit-signup-hour=-1"], &[], "--limit-signup-hour"),
        (&[], &[("LIMIT_SIGNUP_DAY", "many")], "--limit-signup-day"),
        (
            &["--limit-signup-global", "1000001"],
            &[],
            "--limit-signup-global",
        ),
        (
            &[],
            &[("LIMIT_AUTH_FAILURES", "1.5")],
            "--limit-auth-failures",
        ),
        (&["--limit-free-routes", "x"], &[], "--limit-free-routes"),
        (
            &["--trusted-proxies", "10.0.0.0/33"],
            &[],
            "TRUSTED_PROXIES",
        ),
        (&[], &[("TRUSTED_PROXIES", "0.0.0.0/0")], "TRUSTED_PROXIES"),
    ];
    for (args, env, name) in cases {
        let mut all = vec!["--data-dir", data_name];
        if !args.contains(&"--port") && !env.iter().any(|(name, _)| *name == "PORT") {
            all.extend(["--port", "0"]);
        }
        all.extend(*args);
        let (code, _, errors) = run(&all, env);
        assert_eq!(code, 2, "{args:?} {env:?}: {errors}");
        assert!(errors.contains(name), "{args:?} {env:?}: {errors}");
        for secret in ["two words", "=short", "\"short\""] {
            assert!(!errors.contains(secret), "it prints a secret: {errors}");
        }
        assert!(!data.exists(), "{args:?} {env:?} made the data directory");
    }
}

/// Shows that limits are on unless they are turned off, which is a warning; that one can be set and another
/// turned off; and that the log tells of a limit that strikes, once.
#[test]
fn limits_are_on_by_default_and_off_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let sign_ups = |process: &Process, count: usize| {
        let mut client = process.client();
        let mut up = || client.call("POST", "/signup", &[], Some("{}")).status;
        (0..count).map(|_| up()).filter(|s| *s == 201).count()
    };
    let process = Process::start(&data, &[], &[("RATE_LIMITS", "on")]);
    assert_eq!(sign_ups(&process, 9), 5);
    let log = process.stop();
    assert!(log.contains("sign-up 5 an hour and 20 a day"), "{log}");
    let strikes = log.matches("rate limit signup-hour (5 in 3600 s) strikes");
    assert_eq!(strikes.count(), 1, "{log}");

    let process = Process::start(&data, &[], &[("RATE_LIMITS", "off")]);
    assert_eq!(sign_ups(&process, 30), 30);
    let log = process.stop();
    assert!(log.contains("WARN"), "{log}");
    assert!(log.contains("rate limits: all off"), "{log}");

    let args = ["--rate-limits", "on", "--limit-signup-day", "0"];
    let env = [
        ("LIMIT_SIGNUP_HOUR", "25"),
        ("TRUSTED_PROXIES", "10.1.0.0/16"),
    ];
    let process = Process::start(&data, &args, &env);
    assert_eq!(sign_ups(&process, 30), 25);
    let log = process.stop();
    assert!(log.contains("sign-up 25 an hour and off a day"), "{log}");
    assert!(log.contains("from proxies in 10.1.0.0/16"), "{log}");
}

/// Shows that the log at the start says which admin keys count, and never what they are.
#[test]
fn a_previous_admin_key_is_told_at_the_start() {
    const OLD: &str = "an-old-admin-key-that-is-long-enough";
    let folder = tempfile::tempdir().unwrap();
    let (data, file) = (folder.path().join("data"), folder.path().join("old"));
    fs::write(&file, format!("{OLD}\n")).unwrap();
    let file = file.to_str().unwrap();
    for (name, value, is_good, line) in [
        (
            "ADMIN_KEY_PREVIOUS",
            OLD,
            true,
            "and with ADMIN_KEY_PREVIOUS too",
        ),
        (
            "ADMIN_KEY_PREVIOUS_FILE",
            file,
            true,
            "and with ADMIN_KEY_PREVIOUS too",
        ),
        (
            "ADMIN_KEY_PREVIOUS",
            ADMIN,
            false,
            "ADMIN_KEY_PREVIOUS is the same",
        ),
        (
            "ADMIN_KEY_PREVIOUS",
            "admin-secret-key",
            false,
            "everybody knows it",
        ),
    ] {
        let process = Process::start(&data, &[], &[("ADMIN_KEY", ADMIN), (name, value)]);
        let mut client = process.client();
        let mut status = |key| {
            client
                .call("GET", "/admin/users", &[("X-ADMIN-KEY", key)], None)
                .status
        };
        assert_eq!(status(ADMIN), 200);
        assert_eq!(status(OLD), if is_good { 200 } else { 403 });
        assert_eq!(status("admin-secret-key"), 403);
        let log = process.stop();
        assert!(log.contains(line), "{log}");
        assert!(!log.contains(OLD) && !log.contains(ADMIN), "{log}");
    }
    // Off loopback a short one does not count.
    let args = ["--host", "0.0.0.0"];
    let env = [("ADMIN_KEY", ADMIN), ("ADMIN_KEY_PREVIOUS", &OLD[..31])];
    let process = Process::start(&data, &args, &env);
    let log = process.stop();
    assert!(
        log.contains("ADMIN_KEY_PREVIOUS does not count: it has under 32"),
        "{log}"
    );
}

#[test]
fn a_taken_port_leaves_the_data_alone() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let args = ["--port", &port, "--data-dir", data.to_str().unwrap()];
    let (code, _, errors) = run(&args, &[]);
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains(&format!("127.0.0.1:{port}")), "{errors}");
    assert!(!data.exists());
}

#[test]
fn a_data_directory_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[], &[]);
    let (code, errors) = serve(folder.path());
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains("in use by another"), "{errors}");
    process.client().sign_up("still@example.com", "Free");
    process.stop();
}

#[test]
fn what_is_not_ours_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let foreign = folder.path().join("photos");
    fs::create_dir_all(foreign.join("2024")).unwrap();
    fs::write(foreign.join("2024/cat.jpg"), [0, 1, 2]).unwrap();
    fs::write(foreign.join("lock"), "mine").unwrap();
    let not_format = folder.path().join("notes");
    fs::create_dir(&not_format).unwrap();
    fs::write(not_format.join("FORMAT"), "A4\n").unwrap();
    let newer = folder.path().join("newer");
    fs::create_dir(&newer).unwrap();
    fs::write(newer.join("FORMAT"), "memoryos 2\n").unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "text").unwrap();
    let before = contents(folder.path());
    for (data, words) in [
        (&foreign, ["photos", "no MemoryOS data directory"]),
        (&not_format, ["notes", "no MemoryOS data directory"]),
        (&newer, ["format 2", "newer release"]),
        (&file, ["file", "cannot use the data directory"]),
    ] {
        let (code, errors) = serve(data);
        assert_eq!(code, 1, "{errors}");
        for word in words {
            assert!(errors.contains(word), "{errors}");
        }
    }
    assert!(contents(folder.path()) == before, "a file was changed");
}

#[test]
fn the_start_says_what_an_operator_wants_to_know() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let process = Process::start(&data, &["--signup-plans", "Free"], &[("ADMIN_KEY", ADMIN)]);
    let address = process.address.to_string();
    let log = process.stop();
    let data_name = data.display().to_string();
    for words in [
        address.as_str(),
        env!("CARGO_PKG_VERSION"),
        data_name.as_str(),
        "made just now, on ",
        "0 accounts, 0 active keys, 0 memories",
        "MiB of cache",
        "admin: on, with ADMIN_KEY",
        "sign-up: open for Free",
        "stopped, everything is on the disk",
    ] {
        assert!(log.contains(words), "no {words:?} in\n{log}");
    }
    let process = Process::start(&data, &[], &[("SIGNUP_PLANS", "")]);
    let log = process.stop();
    for words in ["sign-up: closed", "default key", "set ADMIN_KEY"] {
        assert!(log.contains(words), "no {words:?} in\n{log}");
    }
    assert!(!log.contains("made just now"), "{log}");
}

#[test]
fn it_starts_right_after_sigkill() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[], &[]);
    let key = process.client().sign_up("a@example.com", "Free");
    let made = process
        .client()
        .with_key(&key, "POST", "/memory", Some(&memory("kept")))
        .expect(201);
    process.kill();
    let process = Process::start(folder.path(), &[], &[]);
    let list = process.client().with_key(&key, "GET", "/memory", None);
    assert_eq!(
        list.expect(200).body["memories"],
        json!([made.body["entry"]])
    );
    process.stop();
}

/// A request that has begun and whose body does not come.
fn half_a_request(process: &Process, key: &str) -> TcpStream {
    let mut stream = TcpStream::connect(process.address).unwrap();
    let head = format!(
        "POST /memory HTTP/1.1\r\nHost: a\r\nX-API-KEY: {key}\r\nContent-Length: 100\r\n\r\n{{\"topic\""
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

#[test]
fn sigterm_ends_within_the_drain_time_whatever_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["--drain-seconds", "3"];
    let process = Process::start(folder.path(), &args, &[]);
    let mut idle: Vec<_> = (0..8).map(|_| process.client()).collect();
    for client in &mut idle {
        client.call("GET", "/health", &[], None).expect(200);
    }
    let key = idle[0].sign_up("a@example.com", "Free");
    let silent = TcpStream::connect(process.address).unwrap();
    let slow = half_a_request(&process, &key);
    // Once this is answered, those before it were accepted.
    process
        .client()
        .call("GET", "/health", &[], None)
        .expect(200);
    let sent = Instant::now();
    process.signal(libc::SIGTERM);
    let (status, log) = process.ended(PATIENCE);
    let took = sent.elapsed();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(took < Duration::from_secs(3 + 3), "{took:?}\n{log}");
    assert!(log.contains("everything is on the disk"), "{log}");
    drop((idle, silent, slow));

    // With nothing but idle connections it does not wait for the drain time at all.
    let process = Process::start(folder.path(), &["--drain-seconds", "30"], &[]);
    let mut idle = process.client();
    idle.call("GET", "/health", &[], None).expect(200);
    let silent = TcpStream::connect(process.address).unwrap();
    // Half a header is no request under way either.
    let mut half = TcpStream::connect(process.address).unwrap();
    half.write_all(b"GET /hea").unwrap();
    process
        .client()
        .call("GET", "/health", &[], None)
        .expect(200);
    let sent = Instant::now();
    process.stop();
    assert!(sent.elapsed() < Duration::from_secs(10));
    drop((idle, silent, half));
}

#[test]
fn a_request_under_way_is_answered_before_the_end() {
    let folder = tempfile::tempdir().unwrap();
    // On one thread, so that who is answered knows that those before it were read.
    let process = Process::start(folder.path(), &["--workers", "1"], &[]);
    let key = process.client().sign_up("a@example.com", "Free");
    let mut stream = TcpStream::connect(process.address).unwrap();
    let body = memory("last").to_string();
    let (first, rest) = body.split_at(10);
    let head = format!(
        "POST /memory HTTP/1.1\r\nHost: a\r\nX-API-KEY: {key}\r\nContent-Length: {}\r\n\r\n{first}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    process
        .client()
        .call("GET", "/health", &[], None)
        .expect(200);
    process.signal(libc::SIGTERM);
    assert!(process.log.wait_for("stopping", PATIENCE).is_some());
    stream.write_all(rest.as_bytes()).unwrap();
    let answer = read_answer(&mut std::io::BufReader::new(stream)).expect("an answer");
    assert_eq!(answer.status, 201, "{}", answer.text);
    let (status, log) = process.ended(PATIENCE);
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn a_second_signal_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(
        folder.path(),
        &["--drain-seconds", "60", "--workers", "1"],
        &[],
    );
    let key = process.client().sign_up("a@example.com", "Free");
    let slow = half_a_request(&process, &key);
    process
        .client()
        .call("GET", "/health", &[], None)
        .expect(200);
    process.signal(libc::SIGTERM);
    assert!(process.log.wait_for("stopping", PATIENCE).is_some());
    let sent = Instant::now();
    process.signal(libc::SIGINT);
    let (status, log) = process.ended(PATIENCE);
    assert_ne!(status.code(), Some(0), "{log}");
    assert!(sent.elapsed() < Duration::from_secs(5));
    drop(slow);
}

/// Reads until the other side closes. Returns what came and how long it took.
fn until_closed(mut stream: TcpStream) -> (String, Duration) {
    let began = Instant::now();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes);
    if let Err(error) = end {
        // A reset closes too; silence until our own limit does not.
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::ConnectionReset,
            "not closed"
        );
    }
    (
        String::from_utf8_lossy(&bytes).into_owned(),
        began.elapsed(),
    )
}

#[test]
fn slow_clients_are_closed() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--idle-seconds", "2"], &[]);
    std::thread::scope(|scope| {
        for sent in [
            "",
            "GET /health HTTP/1.1\r\nHost: a\r\nX-Half: ",
            "PRI * HT",
            "GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            let address = process.address;
            scope.spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(sent.as_bytes()).unwrap();
                let (answer, took) = until_closed(stream);
                assert!(took < Duration::from_secs(15), "{sent:?} took {took:?}");
                let is_whole = sent.ends_with("\r\n\r\n");
                assert_eq!(answer.starts_with("HTTP/1.1 200"), is_whole, "{answer}");
            });
        }
    });
    process.stop();
}

#[test]
fn a_stalled_body_is_408_and_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[], &[]);
    let key = process.client().sign_up("a@example.com", "Free");
    let stream = half_a_request(&process, &key);
    let (answer, took) = until_closed(stream);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(took < Duration::from_secs(35), "{took:?}");
    let credits = process.client().with_key(&key, "GET", "/credits", None);
    assert_eq!(credits.body["credits_used_this_cycle"], 0);
    process.stop();
}

#[test]
fn headers_over_64_kib_are_431() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[], &[]);
    let long = "h".repeat(40 * 1024);
    process
        .client()
        .call("GET", "/health", &[("X-Long", &long)], None)
        .expect(200);
    let too_long = "h".repeat(80 * 1024);
    let mut stream = TcpStream::connect(process.address).unwrap();
    let head = format!("GET /health HTTP/1.1\r\nHost: a\r\nX-Long: {too_long}\r\n\r\n");
    // The server may close before it has read all of it.
    let _ = stream.write_all(head.as_bytes());
    let (answer, _) = until_closed(stream);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    // What is sent up to the limit and not a byte more is answered for certain.
    let mut stream = TcpStream::connect(process.address).unwrap();
    let exact = format!(
        "GET /health HTTP/1.1\r\nHost: a\r\nX-Long: {}",
        "h".repeat(64 * 1024)
    );
    stream.write_all(&exact.as_bytes()[..64 * 1024]).unwrap();
    let (answer, _) = until_closed(stream);
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    process.stop();
}

/// Takes the database of a data directory away.
type Lose = fn(&Path) -> std::io::Result<()>;

/// Shows that a data directory whose database was removed or emptied is refused by every command that opens
/// one, with the way out, and that nothing is made in its place.
#[test]
fn a_directory_whose_database_is_gone_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let losses: [(&str, Lose); 3] = [
        ("no-folder", |db| fs::remove_dir_all(db)),
        ("no-log", |db| fs::remove_file(db.join("db"))),
        ("empty-log", |db| fs::write(db.join("db"), "")),
    ];
    for (name, lose) in losses {
        let data = folder.path().join(name);
        let process = Process::start(&data, &[], &[]);
        process.client().sign_up("bo@example.com", "Free");
        process.stop();
        let db = data.join("db");
        for entry in fs::read_dir(&db).unwrap() {
            let path = entry.unwrap().path();
            if path
                .file_name()
                .unwrap()
                .as_encoded_bytes()
                .starts_with(b"snap.")
            {
                fs::remove_file(path).unwrap();
            }
        }
        lose(&db).unwrap();
        let before = contents(&data);
        let (path, file) = (data.to_str().unwrap(), folder.path().join("a.backup"));
        for args in [
            &["serve", "--port", "0", "--data-dir", path][..],
            &["check", "--data-dir", path],
            &["check", "--repair", "--data-dir", path],
            &["backup", "--data-dir", path, file.to_str().unwrap()],
        ] {
            let (code, _, errors) = run(args, &[]);
            assert_eq!(code, 1, "{args:?}: {errors}");
            for word in [path, "is gone", "restore a backup"] {
                assert!(errors.contains(word), "{args:?}: {errors}");
            }
        }
        assert!(contents(&data) == before, "{name}: a file was changed");
        assert!(!file.exists());
    }
}

/// Shows that a check makes no data directory of one that is none.
#[test]
fn a_check_of_an_empty_directory_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for lock in [false, true] {
        if lock {
            fs::write(folder.path().join("lock"), "").unwrap();
        }
        let before = contents(folder.path());
        for more in [&[][..], &["--repair"]] {
            let path = folder.path().to_str().unwrap();
            let (code, _, errors) = run(&[&["check", "--data-dir", path], more].concat(), &[]);
            assert_eq!(code, 1, "{errors}");
            assert!(errors.contains("there is no data in"), "{errors}");
        }
        assert!(contents(folder.path()) == before, "a file was made");
    }
}

/// Shows that an answer that cannot be written ends each command with 1 and says so, after it has done what it was
/// asked; that a reader who has seen enough ends none; and that a key that nobody got is an error in any case.
#[test]
fn an_answer_that_cannot_be_written_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let data = at("data");
    let server = Process::start(Path::new(&data), &[], &[]);
    server.client().sign_up("bo@example.com", "Free");
    server.stop();
    let (users, memories) = (at("users.json"), at("memory.json"));
    std::fs::write(&users, "{}").unwrap();
    std::fs::write(&memories, "[]").unwrap();
    let (bo, why) = ("bo@example.com", "--reason=why");
    let end = |stdout: Stdio, args: &[&str]| {
        let mut command = memoryos(args, &[("DATA_DIR", &data), ("RUST_LOG", "off")]);
        let output = command.stdout(stdout).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    for (n, name) in ["full", "closed"].into_iter().enumerate() {
        let stdout = || match name {
            "full" => Stdio::from(File::options().write(true).open("/dev/full").unwrap()),
            _ => Stdio::from(std::io::pipe().unwrap().1),
        };
        let (backup, restored, imported) = (
            at(&format!("{n}.backup")),
            at(&format!("restored{n}")),
            at(&format!("imported{n}")),
        );
        let commands: [&[&str]; 22] = [
            &["--help"],
            &["--version"],
            &["admin", "key", "new", "--help"],
            &["plans"],
            &["check"],
            &["check", "--repair"],
            &["check", "--residue", "nowhere at all"],
            &["audit", "verify"],
            &["audit", "export"],
            &["backup", &backup],
            &["restore", &backup, "--data-dir", &restored],
            &[
                "import",
                "--users",
                &users,
                "--memories",
                &memories,
                "--data-dir",
                &imported,
            ],
            &["compact"],
            &["admin", "users"],
            &["admin", "show", bo],
            &["admin", "keys", bo],
            &["admin", "statement", bo],
            &["admin", "history", bo],
            &["admin", "history", bo, "--csv"],
            &["admin", "credits", bo, "1", why],
            &["admin", "suspend", bo, why],
            &["admin", "sync"],
        ];
        let words =
            "memoryos: cannot write to standard output: No space left on device (os error 28)\n";
        let expected = match name {
            "full" => (Some(1), words.to_owned()),
            _ => (Some(0), String::new()),
        };
        for args in commands {
            assert_eq!(end(stdout(), args), expected, "{name}: {args:?}");
        }
        // They were done all the same.
        assert!(Path::new(&restored).join("FORMAT").is_file());
        let (code, errors) = end(stdout(), &["admin", "key", "new", "--account", bo]);
        assert!(
            code == Some(1) && errors.contains("nobody has it"),
            "{name}: {errors}"
        );
    }
    let (_, left, _) = run(&["admin", "users", "--data-dir", &data], &[]);
    assert_eq!(left, "bo@example.com\tFree\tsuspended\t102\t0\t3\n");
    // What is wrong cannot be said either.
    let mut command = memoryos(&["admin", "show", "nobody", "--data-dir", &data], &[]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let status = command.stderr(Stdio::from(full)).status().unwrap();
    assert_eq!(status.code(), Some(1));
}
