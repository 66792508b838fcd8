//! A load over HTTP, and what it came to.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process::{self, Running};
use crate::results::Round;

/// What to send, and whereto.
#[derive(Debug, Clone)]
pub struct Request {
    /// The folder of `requests.lua`.
    pub scripts: PathBuf,
    /// Port on 127.0.0.1.
    pub port: u16,
    /// File of keys; each request takes one at random.
    pub keys: PathBuf,
    /// Method and path.
    pub call: (&'static str, &'static str),
    /// File of the body, if there is one.
    pub body: Option<PathBuf>,
}

/// What `requests.lua` prints.
#[derive(Debug, Deserialize)]
struct Summary {
    requests: u64,
    duration_us: u64,
    bytes: u64,
    status: u64,
    connect: u64,
    read: u64,
    write: u64,
    timeout: u64,
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
}

/// Starts wrk.
pub fn start(request: &Request, threads: u64, connections: u64, seconds: u64) -> Result<Running> {
    let threads = threads.min(connections);
    let mut command = Command::new("wrk");
    command.args([
        format!("-t{threads}"),
        format!("-c{connections}"),
        format!("-d{seconds}s"),
    ]);
    command.args(["--timeout", "10s", "-s"]);
    command.arg(request.scripts.join("requests.lua"));
    command.arg(format!(
        "http://127.0.0.1:{}{}",
        request.port, request.call.1
    ));
    command.arg("--").arg(&request.keys);
    command.args([request.call.0, request.call.1]);
    command.args(request.body.iter().map(|path| Path::as_os_str(path)));
    process::start(&mut command, Duration::from_secs(seconds + 60))
}

/// Runs wrk to its end.
pub fn run(request: &Request, threads: u64, connections: u64, seconds: u64) -> Result<Round> {
    round(&start(request, threads, connections, seconds)?.finish()?)
}

/// Reads what wrk printed. Anything but 2xx, and any error of a socket, is a fault of the round.
pub fn round(output: &str) -> Result<Round> {
    let line = output.lines().rfind(|line| line.starts_with('{'));
    let summary: Summary = serde_json::from_str(line.context("wrk printed no result")?)?;
    let mut faults = Vec::new();
    let errors = [
        ("answers from 400 on", summary.status),
        ("failed connects", summary.connect),
        ("failed reads", summary.read),
        ("failed writes", summary.write),
        ("timeouts", summary.timeout),
    ];
    for (what, count) in errors.into_iter().filter(|(_, count)| *count > 0) {
        faults.push(format!("wrk: {count} {what}"));
    }
    if summary.requests == 0 {
        faults.push("wrk: no request was answered".to_owned());
    }
    let seconds = summary.duration_us as f64 / 1e6;
    Ok(Round {
        per_second: summary.requests as f64 / seconds,
        requests: summary.requests,
        seconds,
        bytes_per_answer: Some(summary.bytes as f64 / (summary.requests.max(1)) as f64),
        p50_ms: Some(summary.p50_us as f64 / 1e3),
        p99_ms: Some(summary.p99_us as f64 / 1e3),
        max_ms: Some(summary.max_us as f64 / 1e3),
        cpu_us: None,
        flush_ms: None,
        faults,
    })
}

#[cfg(test)]
mod tests {
    use super::round;

    fn printed(errors: &str) -> String {
        format!(
            "Running 1s test\n{{\"requests\": 2000, \"duration_us\": 1000000, \"bytes\": 4000, {errors}, \"connect\": 0, \
             \"write\": 0, \"timeout\": 0, \"p50_us\": 500, \"p99_us\": 1500, \"max_us\": 9000}}\n"
        )
    }

    /// Shows that a clean run has no fault, and that refused requests and failed sockets are faults.
    #[test]
    fn errors_are_faults() {
        let clean = round(&printed(r#""status": 0, "read": 0"#)).expect("readable");
        assert!((clean.per_second - 2000.0).abs() < 1e-9);
        assert_eq!(
            (clean.bytes_per_answer, clean.p99_ms),
            (Some(2.0), Some(1.5))
        );
        assert!(clean.faults.is_empty());
        let bad = round(&printed(r#""status": 7, "read": 1"#)).expect("readable");
        assert_eq!(
            bad.faults,
            ["wrk: 7 answers from 400 on", "wrk: 1 failed reads"]
        );
        assert!(round("unable to connect").is_err());
    }
}
