//! A hundred thousand requests as nobody should send them, to the real process over real connections.
//!
//! Each is put together at random from a seed: method, path, headers, body, and how the bytes are sent.
//! `HOSTILE_REQUESTS` sets how many (100,000), `HOSTILE_SEED` repeats the choices of a run. Meanwhile one
//! honest client reads and counts what it is charged; at the end the books must be right, the store
//! sound, the log quiet, memory and file descriptors where they were.

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memoryos::http::ENDPOINTS;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use super::{ADMIN, Answer, Process, memory, read_answer, run};

/// Connections that send at the same time.
const SENDERS: usize = 6;
/// Of these, how many requests one is slow with: it sends them byte by byte, or never ends them.
const SLOW_EVERY: u32 = 200;
/// Longest wait for an answer.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// What resident memory may grow by after the warm-up, in KiB. Requests leave nothing behind but what few
/// of them store; the rest is the allocator's and sled's cache filling up.
const GROWTH_KIB_MAX: u64 = 48 * 1_024;

/// What all senders know.
struct Target {
    address: SocketAddr,
    /// A key of an account with credits, and one with none.
    key: String,
    poor: String,
    /// A secret that opens nothing; the log must not have it.
    stray: String,
    memory_id: String,
    key_id: String,
}

/// What came of it all.
#[derive(Default)]
struct Tally {
    sent: AtomicU64,
    answers: Mutex<std::collections::BTreeMap<u16, u64>>,
    /// Connections that ended without an answer, where one was due.
    cut: AtomicU64,
}

const METHODS: [&str; 12] = [
    "GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS", "CONNECT", "TRACE", "BREW", "get",
    "PRI",
];

const BITS: [&str; 22] = [
    "..",
    "//",
    "%00",
    "%2F",
    "%",
    "%zz",
    "%ff",
    "%F0%9F%98%80",
    "\u{e9}",
    "*",
    "?",
    "??",
    "&",
    ";",
    "\\",
    "~",
    "{}",
    "'",
    "<script>",
    "a",
    "%2e%2e%2f",
    "#x",
];

fn path(target: &Target, route: &str, rng: &mut StdRng) -> String {
    let name = match rng.random_range(0..9) {
        0 => target.memory_id.clone(),
        1 => target.key_id.clone(),
        2 => target.stray.clone(),
        3 => "a".repeat(rng.random_range(0..3_000)),
        4 => target.memory_id.to_lowercase(),
        5 => format!("{}...{}", &target.stray[..8], &target.stray[28..]),
        6 => "hostile%40example.com".to_owned(),
        _ => BITS.choose(rng).unwrap().repeat(rng.random_range(1..4)),
    };
    let mut path = route.replace("{key}", &name).replace("{id}", &name);
    match rng.random_range(0..40) {
        0 => path.push('/'),
        1 => path.insert_str(0, BITS.choose(rng).unwrap()),
        2 => {
            let at = rng.random_range(0..=path.len());
            let at = (0..=at)
                .rev()
                .find(|at| path.is_char_boundary(*at))
                .unwrap();
            path.insert_str(at, BITS.choose(rng).unwrap());
        }
        3 => path.insert_str(0, "http://localhost"),
        4 => path = path.to_uppercase(),
        5 => path = String::from("example.com:443"),
        _ => {}
    }
    for _ in 0..rng.random_range(0..3) {
        let name = [
            "page", "limit", "cursor", "q", "status", "api_key", "%70age", "",
        ];
        let value = [
            "1",
            "0",
            "-1",
            "99999999999999999999",
            "all",
            "%ff",
            "%",
            "a+b",
            &target.stray,
            "%00",
            "",
        ];
        path.push(if path.contains('?') { '&' } else { '?' });
        path.push_str(name.choose(rng).unwrap());
        path.push('=');
        path.push_str(value.choose(rng).unwrap());
    }
    path
}

/// A body, valid or not.
fn body(target: &Target, rng: &mut StdRng) -> Vec<u8> {
    match rng.random_range(0..16) {
        0 | 1 => Vec::new(),
        2 => b"{}".to_vec(),
        3 => memory("hostile").to_string().into_bytes(),
        4 => {
            let depth = rng.random_range(1..2_000);
            format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth)).into_bytes()
        }
        5 => format!("{{\"score\":1e{}}}", rng.random_range(0..4_000)).into_bytes(),
        6 => format!("{{\"n\":{}}}", "9".repeat(rng.random_range(1..3_000))).into_bytes(),
        7 => b"{\"topic\":\"\xff\xfe\"}".to_vec(),
        8 => vec![b'{'; rng.random_range(1..80_000)],
        9 => format!("{{\"{}\":1}}", "n".repeat(rng.random_range(1..60_000))).into_bytes(),
        10 => format!("{{\"api_key\":\"{}\"}}", target.stray).into_bytes(),
        11 => br#"{"topic":"a","\u0074opic":"b","x":"\ud800"}"#.to_vec(),
        12 => br#"{"email":"a b","plan":"Gold","description":1}"#.to_vec(),
        13 => {
            let mut text = memory("hostile").to_string().into_bytes();
            text.truncate(rng.random_range(0..text.len()));
            text
        }
        14 => {
            let mut text = memory("hostile").to_string().into_bytes();
            let at = rng.random_range(0..text.len());
            text[at] = rng.random();
            text
        }
        _ => (0..rng.random_range(0..600))
            .map(|_| rng.random())
            .collect(),
    }
}

fn credential(target: &Target, rng: &mut StdRng) -> Vec<String> {
    let stray = &target.stray;
    match rng.random_range(0..14) {
        0..=3 => vec![format!("X-API-KEY: {}", target.key)],
        4 => vec![format!("Authorization: Bearer {}", target.key)],
        5 => vec![format!("X-API-KEY: {}", target.poor)],
        6 => vec![format!("X-API-KEY: {stray}")],
        7 => vec![format!("X-ADMIN-KEY: {stray}")],
        8 => vec![
            format!("X-API-KEY: {}", target.key),
            format!("X-API-KEY: {stray}"),
        ],
        9 => vec![
            format!("X-API-KEY: {}", target.key),
            format!("Authorization: Bearer {stray}"),
        ],
        10 => vec![
            format!("Authorization: Basic {stray}"),
            "X-API-KEY:".to_owned(),
        ],
        11 => vec![format!(
            "X-API-KEY: {}",
            "k".repeat(rng.random_range(1..9_000))
        )],
        _ => Vec::new(),
    }
}

const ODDITIES: [&str; 34] = [
    "Expect: 100-continue",
    "Expect: 200-ok",
    "Range: bytes=0-1",
    "If-None-Match: *",
    "If-Match: \"x\"",
    "If-Modified-Since: yesterday",
    "Host: evil.example",
    "Host:",
    "Content-Encoding: gzip",
    "Content-Encoding: identity",
    "Content-Type: text/plain",
    "Content-Type: application/json; charset=utf-16",
    "Content-Type:",
    "Accept: text/html",
    "Accept-Encoding: br",
    "Connection: close",
    "Connection: upgrade",
    "Upgrade: h2c",
    "Upgrade: websocket",
    "HTTP2-Settings: AAMAAABkAAQAAP__",
    "Transfer-Encoding: gzip",
    "Transfer-Encoding: chunked, gzip",
    "TE: trailers",
    "X-Request-Id: mine",
    "X-Request-Id: \u{1}",
    "X-Forwarded-For: 127.0.0.1",
    "Forwarded: for=127.0.0.1",
    "Origin: https://evil.example",
    "Idempotency-Key: a b",
    "Idempotency-Key: ",
    "Cookie: a=b",
    "X-HTTP-Method-Override: DELETE",
    "Content-Length: 5",
    "Content-Length: -1",
];

/// The bytes of one request.
fn request(target: &Target, rng: &mut StdRng) -> Vec<u8> {
    let mut out = Vec::new();
    let endpoint = ENDPOINTS.choose(rng).unwrap();
    let method = match rng.random_range(0..6) {
        0 => METHODS.choose(rng).unwrap(),
        _ => endpoint.method.as_str(),
    };
    let version = match rng.random_range(0..60) {
        0 => ["HTTP/1.2", "HTTP/3", "http/1.1", "", "\u{e4}"]
            .choose(rng)
            .unwrap(),
        1..=3 => "HTTP/1.0",
        _ => "HTTP/1.1",
    };
    let path = path(target, endpoint.path, rng);
    let line = format!("{method} {path} {version}\r\n");
    out.extend(line.into_bytes());
    if rng.random_range(0..30) > 0 {
        out.extend(b"Host: localhost\r\n");
    }
    let mut headers = credential(target, rng);
    for _ in 0..rng.random_range(-3..3) {
        headers.push((*ODDITIES.choose(rng).unwrap()).to_owned());
    }
    match rng.random_range(0..120) {
        0 => headers.extend((0..rng.random_range(1..400)).map(|n| format!("X-H{n}: v"))),
        1 => headers.push(format!(
            "X-Big: {}",
            "b".repeat(rng.random_range(1..90_000))
        )),
        2 => headers.push("No colon here".to_owned()),
        3 => headers.push(" folded: line".to_owned()),
        4 => headers.push(format!(
            "Idempotency-Key: {}",
            "i".repeat(rng.random_range(1..400))
        )),
        _ => {}
    }
    for header in headers {
        out.extend(header.into_bytes());
        out.extend(b"\r\n");
    }
    if rng.random_range(0..60) == 0 {
        out.extend(b"X-Bytes: \xff\xc3\x28\r\n");
    }
    let body = body(target, rng);
    match rng.random_range(0..40) {
        0..=3 => {
            out.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            chunks(&body, rng, &mut out);
        }
        4 => {
            // Says another length than it has: what follows is cut off or is the next request.
            let said = rng.random_range(0..body.len() + 9);
            out.extend(format!("Content-Length: {said}\r\n\r\n").into_bytes());
            out.extend(&body);
        }
        5 => {
            let twice = format!(
                "Content-Length: {}\r\nContent-Length: 0\r\n\r\n",
                body.len()
            );
            out.extend(twice.into_bytes());
            out.extend(&body);
        }
        6 => {
            out.extend(b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n");
            chunks(&body, rng, &mut out);
        }
        7 => out.extend(b"Content-Length: 99999999999999999999999\r\n\r\n"),
        _ if body.is_empty() => out.extend(b"\r\n"),
        _ => {
            out.extend(format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes());
            out.extend(&body);
        }
    }
    if rng.random_range(0..100) == 0 {
        let at = rng.random_range(0..out.len());
        out[at] = rng.random();
    }
    out
}

fn chunks(body: &[u8], rng: &mut StdRng, out: &mut Vec<u8>) {
    let mut rest = body;
    while !rest.is_empty() {
        let (part, after) = rest.split_at(rng.random_range(1..=rest.len()));
        let size = match rng.random_range(0..30) {
            0 => "zz".to_owned(),
            1 => "fffffffffffffffff".to_owned(),
            2 => format!("{:x}", part.len() + 1),
            3 => format!("{:X};ext=\"x\"", part.len()),
            _ => format!("{:x}", part.len()),
        };
        out.extend(size.into_bytes());
        out.extend(b"\r\n");
        out.extend(part);
        out.extend(b"\r\n");
        rest = after;
    }
    match rng.random_range(0..6) {
        0 => out.extend(b"0\r\nX-Trailer: \xff\r\n\r\n"),
        1 => {} // never ends
        _ => out.extend(b"0\r\n\r\n"),
    }
}

/// Sends requests on connections of its own until there were enough. Returns what was wrong.
fn send(target: &Target, tally: &Tally, until: u64, rng: &mut StdRng) -> Result<(), String> {
    while tally.sent.load(Ordering::Relaxed) < until {
        let connection = TcpStream::connect(target.address).map_err(|e| e.to_string())?;
        connection.set_nodelay(true).unwrap();
        connection.set_read_timeout(Some(ANSWER_WAIT)).unwrap();
        connection.set_write_timeout(Some(ANSWER_WAIT)).unwrap();
        let mut reader = BufReader::new(connection.try_clone().unwrap());
        for _ in 0..rng.random_range(1..40) {
            let piped = if rng.random_range(0..10) == 0 {
                rng.random_range(2..5)
            } else {
                1
            };
            let requests: Vec<Vec<u8>> = (0..piped).map(|_| request(target, rng)).collect();
            tally.sent.fetch_add(piped, Ordering::Relaxed);
            let bytes = requests.concat();
            let is_slow = rng.random_range(0..SLOW_EVERY) == 0;
            if !write(&connection, &bytes, is_slow, rng) {
                tally.cut.fetch_add(1, Ordering::Relaxed);
            }
            // A request that is broken may eat the next one, or wait for more: nothing more comes then,
            // and the server has to answer or to close. What it must not do is to hang.
            let is_last =
                piped > 1 || rng.random_range(0..4) == 0 || is_slow || !is_plain(&requests[0]);
            // Few fall silent: each costs the time that a connection may idle.
            if is_last && !(is_slow && rng.random_range(0..40) == 0) {
                let _ = connection.shutdown(Shutdown::Write);
            }
            let goes_on = read_all(&mut reader, tally, target, is_last).map_err(|problem| {
                format!(
                    "{problem}\nafter {}",
                    bytes[..bytes.len().min(600)].escape_ascii()
                )
            })?;
            if is_last || !goes_on {
                break;
            }
        }
    }
    Ok(())
}

/// Says whether exactly one answer is due to these bytes, and the connection goes on after it.
fn is_plain(request: &[u8]) -> bool {
    let Some(end) = request.windows(4).position(|w| w == b"\r\n\r\n") else {
        return false;
    };
    let Ok(head) = std::str::from_utf8(&request[..end]) else {
        return false;
    };
    let lengths: Vec<_> = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .collect();
    let known = match lengths.as_slice() {
        [] => request.len() == end + 4,
        [(_, value)] => value.trim().parse() == Ok(request.len() - end - 4),
        _ => false,
    };
    let head = head.to_ascii_lowercase();
    known
        && head
            .lines()
            .next()
            .is_some_and(|line| line.ends_with(" http/1.1"))
        && ![
            "transfer-encoding",
            "expect",
            "upgrade",
            "connect ",
            "head ",
            "pri ",
        ]
        .iter()
        .any(|word| head.contains(word))
}

/// Writes, at once or byte by byte. Returns whether the server took it all.
fn write(mut connection: &TcpStream, bytes: &[u8], is_slow: bool, rng: &mut StdRng) -> bool {
    if !is_slow {
        return connection.write_all(bytes).is_ok();
    }
    let bytes = if rng.random() {
        bytes
    } else {
        &bytes[..rng.random_range(0..bytes.len())]
    };
    bytes.iter().take(400).all(|byte| {
        // Each byte a segment of its own, with room for another connection's in between.
        std::thread::yield_now();
        connection.write_all(&[*byte]).is_ok()
    })
}

/// Reads answers: one, or all until the connection ends. Returns whether the connection goes on.
fn read_all(
    reader: &mut BufReader<TcpStream>,
    tally: &Tally,
    target: &Target,
    to_the_end: bool,
) -> Result<bool, String> {
    if to_the_end {
        let mut bytes = Vec::new();
        match reader.read_to_end(&mut bytes) {
            Ok(_) => {}
            // The server closed while there was more to read for it.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => return Err(format!("no end: {error}")),
        }
        return answers(&bytes, tally, target).map(|()| false);
    }
    let Some(answer) = read_answer(reader) else {
        tally.cut.fetch_add(1, Ordering::Relaxed);
        return Ok(false);
    };
    tally.count(answer.status);
    is_sound(&answer, target)?;
    Ok(answer.header("connection") != Some("close"))
}

/// Looks at what came in one piece: answers of ours one after the other, with or without bodies (HEAD).
fn answers(mut bytes: &[u8], tally: &Tally, target: &Target) -> Result<(), String> {
    while !bytes.is_empty() {
        let Some(head) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
            // An HTTP/2 frame, or an answer that was cut: in neither is a status that we could count.
            return Ok(());
        };
        let Ok(text) = std::str::from_utf8(&bytes[..head]) else {
            return Ok(());
        };
        let Some(status) = text
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.get(2..5)?.parse().ok())
        else {
            return Ok(());
        };
        let headers: Vec<(String, String)> = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let rest = &bytes[head + 4..];
        let said = headers.iter().find(|(name, _)| name == "content-length");
        let length = said.map_or(0, |(_, value)| value.parse::<usize>().unwrap());
        let has_body = length > 0 && !rest.starts_with(b"HTTP/1.") && rest.len() >= length;
        let body = if has_body { &rest[..length] } else { &[] };
        tally.count(status);
        let text = String::from_utf8(body.to_vec()).map_err(|e| e.to_string())?;
        let answer = Answer {
            status,
            headers,
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
            text,
        };
        is_sound(&answer, target)?;
        bytes = &rest[body.len()..];
    }
    Ok(())
}

impl Tally {
    fn count(&self, status: u16) {
        *self.answers.lock().unwrap().entry(status).or_default() += 1;
    }
}

/// Checks one answer.
fn is_sound(answer: &Answer, target: &Target) -> Result<(), String> {
    let wrong = |what: &str| {
        Err(format!(
            "{what}: {} {:?} {}",
            answer.status, answer.headers, answer.text
        ))
    };
    if answer.status == 100 {
        return Ok(());
    }
    if answer.status >= 500 && !(answer.status == 503 || answer.status == 507) {
        return wrong("a fault of ours");
    }
    if answer.status >= 500 && answer.header("retry-after").is_none() {
        return wrong("no Retry-After");
    }
    let Some(id) = answer.header("x-request-id") else {
        // hyper's own, before there is a request: not HTTP, too long a path, too many headers.
        return if [400, 414, 431].contains(&answer.status) && answer.text.is_empty() {
            Ok(())
        } else {
            wrong("no X-Request-Id")
        };
    };
    for secret in [&target.key, &target.poor, &target.stray] {
        if answer.text.contains(secret.as_str()) {
            return wrong("a secret");
        }
    }
    if answer.text.is_empty() {
        return Ok(()); // HEAD, or 204
    }
    if answer.body.is_null() {
        return wrong("no JSON");
    }
    if answer.status >= 400
        && (answer.code().is_empty()
            || !answer.body["error"].is_string()
            || !answer.body["message"].is_string()
            || answer.body["request_id"] != id)
    {
        return wrong("not the form of an error");
    }
    Ok(())
}

/// Opens HTTP/2, or something like it, and sends garbage.
fn speak_http2(target: &Target, rng: &mut StdRng) {
    let Ok(mut connection) = TcpStream::connect(target.address) else {
        return;
    };
    connection.set_read_timeout(Some(ANSWER_WAIT)).unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut bytes = preface[..rng.random_range(1..=preface.len())].to_vec();
    if rng.random() {
        bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]); // its settings
    }
    bytes.extend((0..rng.random_range(0..200)).map(|_| rng.random::<u8>()));
    let _ = connection.write_all(&bytes);
    let _ = connection.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer);
}

/// What an honest client sees meanwhile. Returns what it was charged.
fn read_honestly(process: &Process, key: &str, stop: &AtomicBool) -> u64 {
    let mut client = process.client();
    let mut charged = 0;
    while !stop.load(Ordering::Relaxed) {
        let paths = ["/memory?limit=2", "/stats", "/gpt-status"];
        for path in paths {
            let answer = client.with_key(key, "GET", path, None).expect(200);
            charged += answer
                .header("x-credits-cost")
                .unwrap()
                .parse::<u64>()
                .unwrap();
        }
        let answer = client.with_key(key, "POST", "/memory", Some(&memory("honest")));
        charged += answer
            .expect(201)
            .header("x-credits-cost")
            .unwrap()
            .parse::<u64>()
            .unwrap();
        std::thread::yield_now();
        let pause = Instant::now();
        while pause.elapsed() < Duration::from_millis(20) && !stop.load(Ordering::Relaxed) {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
    charged
}

/// Resident memory in KiB and open file descriptors.
fn footprint(process: &Process) -> (u64, usize) {
    let proc = format!("/proc/{}", process.child.id());
    let status = std::fs::read_to_string(format!("{proc}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    (
        kib,
        std::fs::read_dir(format!("{proc}/fd")).unwrap().count(),
    )
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn storm_until(process: &Process, target: &Target, tally: &Tally, until: u64, seed: u64) {
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .zip(1u64..)
            .map(|(_, n)| {
                scope.spawn(move || {
                    let mut rng = StdRng::seed_from_u64(seed ^ (until << 8) ^ n);
                    for _ in 0..20 {
                        speak_http2(target, &mut rng);
                    }
                    send(target, tally, until, &mut rng)
                })
            })
            .collect();
        for sender in senders {
            if let Err(problem) = sender.join().unwrap() {
                panic!(
                    "HOSTILE_SEED={seed}: {problem}\n{}",
                    last_lines(&process.log.text())
                );
            }
        }
    });
}

fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log
        .lines()
        .rev()
        .filter(|l| !l.contains(" INFO "))
        .take(20)
        .collect();
    lines.join("\n")
}

/// Shows that no request, however broken, makes a 5xx, a panic, a leak or a wrong bill.
#[test]
fn a_hundred_thousand_hostile_requests_harm_nothing() {
    let seed = number("HOSTILE_SEED").unwrap_or_else(rand::random);
    let requests = number("HOSTILE_REQUESTS").unwrap_or(100_000);
    println!("HOSTILE_SEED={seed} HOSTILE_REQUESTS={requests}");
    let data = tempfile::tempdir().unwrap();
    let args = ["--cache-mib", "16", "--idle-seconds", "3"];
    let process = Process::start(data.path(), &args, &[("ADMIN_KEY", ADMIN)]);
    let mut client = process.client();
    let honest = client.sign_up("honest@example.com", "Premium");
    let key = client.sign_up("hostile@example.com", "Premium");
    let poor = client.sign_up("poor@example.com", "Free");
    for _ in 0..100 {
        client.with_key(&poor, "GET", "/stats", None).expect(200);
    }
    let made = client
        .with_key(&key, "POST", "/memory", Some(&memory("kept")))
        .expect(201);
    let target = Target {
        address: process.address,
        memory_id: made.body["entry"]["id"].as_str().unwrap().to_owned(),
        // One that none of the senders can revoke.
        key_id: client
            .with_key(&honest, "GET", "/credits", None)
            .str("key_id"),
        key,
        poor,
        stray: "STRAYstray0123456789STRAYstray01".to_owned(),
    };
    let (tally, stop) = (Tally::default(), AtomicBool::new(false));
    let began = Instant::now();
    let (charged, warm, end) = std::thread::scope(|scope| {
        let honest_client = scope.spawn(|| read_honestly(&process, &honest, &stop));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            storm_until(&process, &target, &tally, requests * 3 / 10, seed);
            let warm = footprint(&process);
            storm_until(&process, &target, &tally, requests, seed);
            (warm, footprint(&process))
        }));
        stop.store(true, Ordering::Relaxed);
        let charged = honest_client.join().unwrap();
        let (warm, end) = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (charged, warm, end)
    });
    println!(
        "{} requests in {:?}: answers {:?}, {} connections cut; {} KiB resident and {} descriptors after 30%, \
         {} KiB and {} at the end; {charged} credits of the honest client",
        tally.sent.load(Ordering::Relaxed),
        began.elapsed(),
        tally.answers.lock().unwrap(),
        tally.cut.load(Ordering::Relaxed),
        warm.0,
        warm.1,
        end.0,
        end.1,
    );
    assert!(
        end.0 <= warm.0 + GROWTH_KIB_MAX,
        "memory grew: {warm:?} to {end:?}"
    );
    assert!(
        end.1 <= warm.1 + 2 * SENDERS,
        "descriptors grew: {warm:?} to {end:?}"
    );
    let statuses = tally.answers.lock().unwrap().clone();
    for status in [200, 201, 204, 400, 401, 402, 403, 404, 405, 413, 415, 431] {
        assert!(
            requests < 20_000 || statuses.contains_key(&status),
            "no {status}: {statuses:?}"
        );
    }
    let mut client = process.client();
    let health = client.call("GET", "/health", &[], None).expect(200);
    assert_eq!(health.body["status"], "healthy");
    let credits = client
        .with_key(&honest, "GET", "/credits", None)
        .expect(200);
    assert_eq!(credits.body["credits_used_this_cycle"], charged);
    assert_eq!(credits.body["credits_remaining"], 100_000 - charged);
    let log = process.stop();
    for line in log.lines() {
        assert!(
            !line.contains(" ERROR ") && !line.contains("panic"),
            "HOSTILE_SEED={seed}: {line}"
        );
        for secret in [&honest, &target.key, &target.poor, &target.stray, ADMIN] {
            assert!(
                !line.contains(secret),
                "HOSTILE_SEED={seed}: {secret} in {line}"
            );
        }
    }
    let (code, out, err) = run(&["check", "--data-dir", data.path().to_str().unwrap()], &[]);
    assert_eq!(code, 0, "HOSTILE_SEED={seed}: {out}{err}");
}
