//! PostgreSQL: a cluster of its own, filled, and loaded by pgbench.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use rustix::process::Signal;

use crate::process::{self, Server};
use crate::results::Round;
use crate::{CREDITS, Load, ROOM};

const LIMIT: Duration = Duration::from_secs(120);

/// How clients reach a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Via {
    /// A Unix socket.
    Unix,
    /// TCP over 127.0.0.1.
    Tcp,
}

/// How the one statement is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Statement {
    /// A common table expression.
    Cte,
    /// A function in PL/pgSQL.
    Function,
}

/// A running cluster that is filled.
#[derive(Debug)]
pub struct Postgres {
    binaries: PathBuf,
    host: String,
    port: u16,
    script: PathBuf,
    load: Load,
    server: Server,
}

/// The user and group of the server: it refuses to run as root.
fn unprivileged() -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let id = |flag| -> Result<u32> {
        let text = process::run(Command::new("id").args([flag, "postgres"]), LIMIT);
        Ok(text.context("no user `postgres`")?.trim().parse()?)
    };
    Ok(Some((id("-u")?, id("-g")?)))
}

impl Postgres {
    /// Makes a cluster in `directory`, starts it and fills it.
    pub fn start(
        binaries: &Path,
        directory: &Path,
        load: &Load,
        via: Via,
        statement: Statement,
    ) -> Result<Self> {
        let user = unprivileged()?;
        let home = directory.join("postgres");
        fs::create_dir(&home)?;
        if let Some((uid, gid)) = user {
            chown(&home, Some(uid), Some(gid))?;
        }
        let command = |program: &str| {
            let mut command = Command::new(binaries.join(program));
            command.current_dir(&home).env("LC_ALL", "C.UTF-8");
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command
        };
        let data = home.join("data");
        let mut initdb = command("initdb");
        initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "-D"]);
        process::run(initdb.arg(&data), LIMIT)?;

        let port = process::free_port()?;
        let host = match via {
            Via::Unix => home.to_string_lossy().into_owned(),
            Via::Tcp => "127.0.0.1".to_owned(),
        };
        let mut server = command("postgres");
        server.arg("-D").arg(&data).arg("-p").arg(port.to_string());
        for setting in settings(&home, via) {
            server.args(["-c", &setting]);
        }
        let is_ready = binaries.join("pg_isready");
        let ready = || {
            let mut ready = Command::new(&is_ready);
            ready.args(["-q", "-h", &host, "-p", &port.to_string()]);
            process::run(&mut ready, LIMIT).is_ok()
        };
        // SIGINT is its fast shutdown; SIGTERM would wait for clients.
        let log = directory.join("postgres.log");
        let server = Server::start("PostgreSQL", &mut server, Signal::INT, &log, ready)?;
        let script = match statement {
            Statement::Cte => "add-cte.sql",
            Statement::Function => "add-function.sql",
        };
        let postgres = Postgres {
            binaries: binaries.to_owned(),
            script: load.scripts.join(script),
            load: load.clone(),
            host,
            port,
            server,
        };
        postgres.fill()?;
        Ok(postgres)
    }

    fn psql(&self) -> Command {
        let mut psql = Command::new(self.binaries.join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
        psql.args(["-h", &self.host, "-p", &self.port.to_string()]);
        psql.args(["-U", "postgres", "-d", "postgres"]);
        psql
    }

    fn fill(&self) -> Result<()> {
        let mut psql = self.psql();
        psql.args(["-v", &format!("accounts={}", self.load.accounts)]);
        psql.args(["-v", &format!("each={}", self.load.memories_each)]);
        psql.args(["-v", &format!("allotment={CREDITS}")]);
        psql.args(["-v", &format!("room={ROOM}")]);
        psql.args(["-v", &format!("body={}", self.load.memory)]);
        for file in ["schema.sql", "fill.sql", "function.sql"] {
            psql.arg("-f").arg(self.load.scripts.join(file));
        }
        process::run(&mut psql, LIMIT).context("filling PostgreSQL")?;
        Ok(())
    }

    /// How many memories are there.
    pub fn count(&self) -> Result<u64> {
        let mut psql = self.psql();
        psql.args(["-c", "SELECT count(*) FROM memories"]);
        Ok(process::run(&mut psql, LIMIT)?.trim().parse()?)
    }

    /// Runs pgbench to its end, and counts what it added.
    pub fn run(&self, clients: u64, seconds: u64) -> Result<Round> {
        let before = self.count()?;
        let mut pgbench = Command::new(self.binaries.join("pgbench"));
        pgbench.args(["-n", "-M", "prepared"]);
        pgbench.args(["-c", &clients.to_string()]);
        pgbench.args(["-j", &clients.min(2).to_string()]);
        pgbench.args(["-T", &seconds.to_string()]);
        pgbench.args(["-D", &format!("accounts={}", self.load.accounts)]);
        pgbench.args(["-D", &format!("body={}", self.load.memory)]);
        pgbench.arg("-f").arg(&self.script);
        pgbench.args(["-h", &self.host, "-p", &self.port.to_string()]);
        pgbench.args(["-U", "postgres", "postgres"]);
        let mut round = self.server.charged(|| {
            let output = process::run(&mut pgbench, Duration::from_secs(seconds) + LIMIT)?;
            // Backends are charged once they have ended.
            process::pause(Duration::from_millis(300))?;
            round(&output, seconds)
        })?;
        let added = self.count()? - before;
        if added != round.requests {
            let counted = round.requests;
            round.faults.push(format!(
                "PostgreSQL: {counted} transactions, but {added} memories"
            ));
        }
        Ok(round)
    }
}

/// Safe, and no slower than it must be: a cache that holds everything, and no checkpoint in a run.
fn settings(home: &Path, via: Via) -> Vec<String> {
    let addresses = match via {
        Via::Unix => "",
        Via::Tcp => "127.0.0.1",
    };
    vec![
        "synchronous_commit=on".to_owned(),
        "fsync=on".to_owned(),
        "shared_buffers=256MB".to_owned(),
        "wal_buffers=16MB".to_owned(),
        "max_wal_size=16GB".to_owned(),
        "checkpoint_timeout=1h".to_owned(),
        format!("listen_addresses={addresses}"),
        format!("unix_socket_directories={}", home.display()),
    ]
}

/// Reads what pgbench printed.
fn round(output: &str, seconds: u64) -> Result<Round> {
    let number = |name: &str| -> Result<f64> {
        let value = output.lines().find_map(|line| line.strip_prefix(name));
        let value = value.with_context(|| format!("pgbench printed no `{name}`: {output}"))?;
        let value = value.trim_start_matches([' ', ':', '=']);
        let end = value.find(|c: char| !c.is_ascii_digit() && c != '.');
        Ok(value[..end.unwrap_or(value.len())].parse()?)
    };
    let mut faults = Vec::new();
    if number("number of failed transactions")? > 0.0 {
        faults.push("pgbench: transactions failed".to_owned());
    }
    let requests = output
        .lines()
        .find_map(|line| line.strip_prefix("number of transactions actually processed: "))
        .context("pgbench printed no number of transactions")?;
    Ok(Round {
        per_second: number("tps")?,
        requests: requests.trim().parse()?,
        seconds: seconds as f64,
        bytes_per_answer: None,
        p50_ms: None,
        p99_ms: None,
        max_ms: None,
        cpu_us: None,
        flush_ms: None,
        faults,
    })
}

#[cfg(test)]
mod tests {
    use super::round;

    const OUTPUT: &str = "pgbench (15.18)
number of transactions actually processed: 1234
number of failed transactions: 0 (0.000%)
latency average = 0.812 ms
initial connection time = 4.021 ms
tps = 1230.500000 (without initial connection time)
";

    /// Shows that the figures of pgbench are found.
    #[test]
    fn pgbench_is_read() {
        let read = round(OUTPUT, 1).expect("readable");
        assert_eq!(read.requests, 1234);
        assert!((read.per_second - 1230.5).abs() < 1e-9);
        assert!(read.faults.is_empty());
    }
}
