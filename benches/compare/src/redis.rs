//! Redis: an append-only file that is flushed for every write, filled, and loaded by redis-benchmark.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::postgres::Via;
use crate::process::{self, Server};
use crate::results::Round;
use crate::{CREDITS, Load, ROOM};

const LIMIT: Duration = Duration::from_secs(120);

/// A running server that is filled.
#[derive(Debug)]
pub struct Redis {
    address: Vec<String>,
    script: String,
    load: Load,
    /// Operations a second by number of clients, of the last round: redis-benchmark takes a number, not a time.
    rates: RefCell<BTreeMap<u64, f64>>,
    server: Server,
}

impl Redis {
    /// Starts a server in `directory` and fills it.
    pub fn start(directory: &Path, load: &Load, via: Via) -> Result<Self> {
        let home = directory.join("redis");
        fs::create_dir(&home)?;
        let port = process::free_port()?.to_string();
        let socket = home.join("socket");
        let mut command = Command::new("redis-server");
        command.current_dir(&home).args(["--dir", "."]);
        command.args(["--appendonly", "yes", "--appendfsync", "always"]);
        command.args(["--save", "", "--auto-aof-rewrite-percentage", "0"]);
        command
            .args(["--bind", "127.0.0.1", "--unixsocket"])
            .arg(&socket);
        command.args(["--port", &port, "--daemonize", "no"]);
        let address = match via {
            Via::Unix => ["-s".to_owned(), socket.to_string_lossy().into_owned()].to_vec(),
            Via::Tcp => ["-h", "127.0.0.1", "-p", &port].map(str::to_owned).to_vec(),
        };
        let log = directory.join("redis.log");
        let ready = || {
            let ping = process::run(Command::new("redis-cli").args(&address).arg("ping"), LIMIT);
            ping.is_ok_and(|answer| answer.trim() == "PONG")
        };
        let server = Server::start("Redis", &mut command, Signal::TERM, &log, ready)?;
        let mut redis = Redis {
            address: address.clone(),
            script: String::new(),
            load: load.clone(),
            rates: RefCell::default(),
            server,
        };
        redis.fill()?;
        Ok(redis)
    }

    fn cli(&self, arguments: &[&str]) -> Result<String> {
        let mut cli = Command::new("redis-cli");
        cli.arg("-e").args(&self.address).args(arguments);
        Ok(process::run(&mut cli, LIMIT)?.trim().to_owned())
    }

    fn fill(&mut self) -> Result<()> {
        if self.cli(&["CONFIG", "GET", "appendfsync"])? != "appendfsync\nalways" {
            bail!("Redis does not flush always");
        }
        let text = |file: &str| fs::read_to_string(self.load.scripts.join(file));
        let (accounts, each) = (
            self.load.accounts.to_string(),
            self.load.memories_each.to_string(),
        );
        let (credits, room) = (CREDITS.to_string(), ROOM.to_string());
        let memory = &self.load.memory;
        let fill = text("fill.lua")?;
        let arguments = [
            "EVAL", &fill, "0", &accounts, &each, memory, &credits, &room,
        ];
        self.cli(&arguments).context("filling Redis")?;
        self.script = self.cli(&["SCRIPT", "LOAD", &text("add.lua")?])?;
        Ok(())
    }

    /// How many memories are there.
    pub fn count(&self) -> Result<u64> {
        let script = fs::read_to_string(self.load.scripts.join("count.lua"))?;
        let accounts = self.load.accounts.to_string();
        Ok(self.cli(&["EVAL", &script, "0", &accounts])?.parse()?)
    }

    /// Runs redis-benchmark for about so many seconds, and counts what it added.
    pub fn run(&self, clients: u64, seconds: u64) -> Result<Round> {
        let known = self.rates.borrow().get(&clients).copied();
        let rate = match known {
            Some(rate) => rate,
            None => self.requests(clients, 500 + 10 * clients)?.per_second,
        };
        let requests = format!("{:.0}", rate * seconds as f64).parse::<u64>()?;
        let before = self.count()?;
        let requests = || self.requests(clients, requests.max(clients));
        let mut round = self.server.charged(requests)?;
        self.rates.borrow_mut().insert(clients, round.per_second);
        let added = self.count()? - before;
        if added != round.requests {
            let asked = round.requests;
            let fault = format!("Redis: {asked} calls, but {added} memories");
            round.faults.push(fault);
        }
        Ok(round)
    }

    fn requests(&self, clients: u64, requests: u64) -> Result<Round> {
        let mut benchmark = Command::new("redis-benchmark");
        benchmark.args(&self.address).arg("--csv");
        benchmark.args(["-c", &clients.to_string()]);
        benchmark.args(["-n", &requests.to_string()]);
        benchmark.args(["-r", &self.load.accounts.to_string()]);
        benchmark.args(["EVALSHA", &self.script, "0", "__rand_int__"]);
        benchmark.arg(&self.load.memory);
        let output = process::run(&mut benchmark, Duration::from_secs(60) + LIMIT)?;
        round(&output, requests)
    }
}

/// Reads the last line of redis-benchmark's CSV: test, rps, avg, min, p50, p95, p99 and max in milliseconds. The test is the
/// whole command, with commas and quotes of its own: so it is read from the end.
fn round(output: &str, requests: u64) -> Result<Round> {
    let line = output.trim_end().lines().last().unwrap_or_default();
    let fields: Vec<_> = line.rsplit(',').take(7).collect();
    let numbers: Result<Vec<f64>, _> = fields
        .iter()
        .rev()
        .map(|field| field.trim_matches('"').parse())
        .collect();
    let numbers = numbers.with_context(|| format!("redis-benchmark printed {output}"))?;
    let &[per_second, _, _, p50, _, p99, max] = numbers.as_slice() else {
        bail!("redis-benchmark printed {output}");
    };
    Ok(Round {
        per_second,
        requests,
        seconds: requests as f64 / per_second,
        bytes_per_answer: None,
        p50_ms: Some(p50),
        p99_ms: Some(p99),
        max_ms: Some(max),
        cpu_us: None,
        flush_ms: None,
        faults: Vec::new(),
    })
}

/// The programs that it needs.
#[must_use]
pub fn programs() -> Vec<PathBuf> {
    ["redis-server", "redis-cli", "redis-benchmark"]
        .map(PathBuf::from)
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::round;

    /// Shows that the last seven fields are read, whatever stands before.
    #[test]
    fn csv_is_read_from_its_end() {
        let line = r#""EVALSHA 1 {"a":"b","c":1}","2000.50","0.4","0.1","0.3","0.9","1.5","7.0""#;
        let read = round(&format!("\"test\",\"rps\"\n{line}\n"), 100).expect("readable");
        assert!((read.per_second - 2000.5).abs() < 1e-9);
        assert_eq!((read.p50_ms, read.p99_ms), (Some(0.3), Some(1.5)));
    }
}
