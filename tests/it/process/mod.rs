//! Tests of the real process: the binary is started, called over HTTP, signalled, killed.
//!
//! Nothing here sleeps for a while and hopes: every wait is for an event (a log line, an answer, an
//! exit) and ends with a failure at a deadline.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and one that is long tells what it has covered"
)]

mod admin;
mod audit;
mod backup;
mod check;
mod cli;
mod compact;
mod crash;
mod crash_money;
mod durable;
mod faults;
mod hostile;
mod plans;
mod secrecy;
mod soak;
mod storm;
mod webhooks;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for a process to start or to end. Generous: the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// The lines of a process's log, as they come.
#[derive(Debug, Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    grown: Condvar,
}

impl Log {
    /// Waits for a line that holds `text`. `None` when the log ended or the time is over without one.
    fn wait_for(&self, text: &str, longest: Duration) -> Option<String> {
        let until = Instant::now() + longest;
        let mut lines = self.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.0.iter().find(|line| line.contains(text)) {
                return Some(line.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if lines.1 || left.is_zero() {
                return None;
            }
            lines = self.grown.wait_timeout(lines, left).unwrap().0;
        }
    }

    fn text(&self) -> String {
        self.lines.lock().unwrap().0.join("\n")
    }
}

/// The binary under test: cargo's, or the one that `MEMORYOS_BIN` names.
fn binary() -> String {
    std::env::var("MEMORYOS_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_memoryos").to_owned())
}

/// A command of the binary under test, with a clean environment and without limits, unless `env` says so.
fn memoryos(args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary());
    command
        .args(args)
        .env_clear()
        .env("RATE_LIMITS", "off")
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs a command of the binary to its end. Returns exit code, output and errors.
fn run(args: &[&str], env: &[(&str, &str)]) -> (i32, String, String) {
    let output = memoryos(args, env).output().unwrap();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// A server that runs.
#[derive(Debug)]
struct Process {
    child: Child,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
    address: SocketAddr,
}

impl Process {
    /// Starts the server on a data directory and a free port, and waits until it listens.
    fn start(data: &Path, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut process = Self::spawn(data, args, env);
        process.address = process
            .wait_for_address(PATIENCE)
            .unwrap_or_else(|| panic!("it does not start:\n{}", process.log.text()));
        process
    }

    /// Starts the server and does not wait.
    fn spawn(data: &Path, args: &[&str], env: &[(&str, &str)]) -> Self {
        let data = data.to_str().unwrap();
        let all = [&["--port", "0", "--data-dir", data], args].concat();
        Self::of(memoryos(&all, env))
    }

    /// Starts a command that writes the server's log to its standard error.
    fn of(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Log::default());
        let (lines, to) = (
            BufReader::new(child.stderr.take().unwrap()).lines(),
            Arc::clone(&log),
        );
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                to.lines.lock().unwrap().0.push(line);
                to.grown.notify_all();
            }
            to.lines.lock().unwrap().1 = true;
            to.grown.notify_all();
        });
        Self {
            child,
            log,
            reader: Some(reader),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        }
    }

    /// Waits for the line that names the address.
    fn wait_for_address(&self, longest: Duration) -> Option<SocketAddr> {
        let line = self.log.wait_for("listens on http://", longest)?;
        let (_, address) = line.split_once("listens on http://")?;
        address.trim().parse().ok()
    }

    fn client(&self) -> Client {
        Client::new(self.address)
    }

    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: a signal to a process that this test started and has not waited for yet.
        #[expect(unsafe_code, reason = "std sends SIGKILL only")]
        let sent = unsafe { libc::kill(pid, signal) };
        assert_eq!(sent, 0);
    }

    /// Waits until the process ends by itself. Returns how, and its whole log.
    fn ended(mut self, longest: Duration) -> (ExitStatus, String) {
        let until = Instant::now() + longest;
        // The log's end is the process's end: the pipe closes with it.
        self.wait_for_log_end(until.saturating_duration_since(Instant::now()));
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "still runs:\n{}", self.log.text());
            std::thread::yield_now();
        };
        self.reader.take().unwrap().join().unwrap();
        (status, self.log.text())
    }

    fn wait_for_log_end(&self, longest: Duration) {
        let until = Instant::now() + longest;
        let mut lines = self.log.lines.lock().unwrap();
        while !lines.1 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            lines = self.log.grown.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// SIGKILL. Returns the log.
    fn kill(self) -> String {
        self.signal(libc::SIGKILL);
        self.ended(PATIENCE).1
    }

    /// SIGTERM, and exit code 0.
    fn stop(self) -> String {
        self.signal(libc::SIGTERM);
        let (status, log) = self.ended(PATIENCE);
        assert_eq!(status.code(), Some(0), "{log}");
        log
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A test failed before it ended the server. Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    text: String,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    #[track_caller]
    fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    #[track_caller]
    fn str(&self, field: &str) -> String {
        match self.body[field].as_str() {
            Some(text) => text.to_owned(),
            None => panic!("no {field} in {}", self.text),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoAnswer {
    /// The request never left.
    NotSent,
    /// It may have been done, or not.
    Unknown,
}

/// A connection that is kept alive; one request after the other.
#[derive(Debug)]
struct Client {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    const fn new(address: SocketAddr) -> Self {
        Self {
            address,
            stream: None,
        }
    }

    /// Sends a request and reads the answer.
    fn try_call(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Result<Answer, NoAnswer> {
        let mut stream = if let Some(stream) = self.stream.take() {
            stream
        } else {
            let stream = TcpStream::connect(self.address).map_err(|_| NoAnswer::NotSent)?;
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            BufReader::new(stream)
        };
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        for (name, value) in headers {
            request.extend([name, ": ", value, "\r\n"]);
        }
        if let Some(body) = body {
            let length = body.len().to_string();
            request.push_str("Content-Type: application/json\r\nContent-Length: ");
            request.extend([&length, "\r\n\r\n", body]);
        } else {
            request.push_str("\r\n");
        }
        stream
            .get_mut()
            .write_all(request.as_bytes())
            .map_err(|_| NoAnswer::Unknown)?;
        let answer = read_answer(&mut stream).ok_or(NoAnswer::Unknown)?;
        if answer.header("connection") != Some("close") {
            self.stream = Some(stream);
        }
        Ok(answer)
    }

    #[track_caller]
    fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Answer {
        match self.try_call(method, path, headers, body) {
            Ok(answer) => answer,
            Err(error) => panic!("{method} {path}: {error:?}"),
        }
    }

    /// Calls with an API key.
    #[track_caller]
    fn with_key(&mut self, key: &str, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let body = body.map(Value::to_string);
        self.call(method, path, &[("X-API-KEY", key)], body.as_deref())
    }

    /// Calls with the admin key.
    #[track_caller]
    fn as_admin(&mut self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let body = body.map(Value::to_string);
        self.call(method, path, &[("X-ADMIN-KEY", ADMIN)], body.as_deref())
    }

    /// Signs up and returns the key.
    #[track_caller]
    fn sign_up(&mut self, email: &str, plan: &str) -> String {
        let body = serde_json::json!({"email": email, "plan": plan}).to_string();
        self.call("POST", "/signup", &[], Some(&body))
            .expect(201)
            .str("api_key")
    }
}

/// The admin key that the tests set.
const ADMIN: &str = "an-admin-key-that-only-the-tests-know";

/// Reads one answer. `None` if the connection ends before it does.
fn read_answer(stream: &mut impl BufRead) -> Option<Answer> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let status = line.split(' ').nth(1)?.parse().ok()?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .map_or(0, |(_, value)| value.parse().unwrap());
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).ok()?;
    let text = String::from_utf8(bytes).unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    Some(Answer {
        status,
        headers,
        text,
        body,
    })
}

/// A memory that clients could send.
fn memory(topic: &str) -> Value {
    serde_json::json!({
        "topic": topic, "type": "note", "category": "test", "input": "in", "output": "out",
        "success": true,
    })
}

/// Runs `work` on that many threads that begin at once, each with a client of its own.
fn storm<T: Send>(
    process: &Process,
    clients: usize,
    work: impl Fn(usize, &mut Client) -> T + Sync,
) -> Vec<T> {
    let start = std::sync::Barrier::new(clients);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|number| {
                let (start, work) = (&start, &work);
                scope.spawn(move || {
                    let mut client = process.client();
                    // The connection is open before the race begins.
                    client.call("GET", "/health", &[], None).expect(200);
                    start.wait();
                    work(number, &mut client)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

/// How many of the answers have this status.
fn count(answers: &[Answer], status: u16) -> usize {
    answers.iter().filter(|a| a.status == status).count()
}
