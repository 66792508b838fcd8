//! MemoryOS: started, filled over HTTP, counted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde::Deserialize;

use crate::http::{Answer, Client};
use crate::process::{self, Server};
use crate::wrk::Request;
use crate::{CREDITS, Load, ROOM};

/// Connections that fill it.
const FILLERS: usize = 32;

/// A running server that is filled.
#[derive(Debug)]
pub struct MemoryOs {
    /// Port on 127.0.0.1.
    pub port: u16,
    scripts: PathBuf,
    keys: Vec<String>,
    files: Files,
    /// The process.
    pub server: Server,
}

/// What wrk reads.
#[derive(Debug)]
struct Files {
    keys: PathBuf,
    hot_key: PathBuf,
    memory: PathBuf,
}

#[derive(Deserialize)]
struct SignedUp {
    api_key: String,
}

#[derive(Deserialize)]
struct Credits {
    memory_usage: MemoryUsage,
}

#[derive(Deserialize)]
struct MemoryUsage {
    current_count: u64,
}

impl MemoryOs {
    /// Starts the binary on a new data directory in `directory` and fills it: the accounts of the load, and one more
    /// for the hot account.
    pub fn start(binary: &Path, directory: &Path, load: &Load) -> Result<Self> {
        let port = process::free_port()?;
        let plans = directory.join("plans.toml");
        let plan = format!(
            "[[plan]]\nname = \"Bench\"\ncredits = {CREDITS}\nmemories = {ROOM}\nopen = true\n"
        );
        fs::write(&plans, plan)?;
        let mut command = Command::new(binary);
        // No setting but these, whatever the environment says.
        command.env_clear().env("RUST_LOG", "warn");
        command.args(["serve", "--rate-limits", "off", "--host", "127.0.0.1"]);
        command.arg("--port").arg(port.to_string());
        command.arg("--plans").arg(&plans);
        command.arg("--data-dir").arg(directory.join("memoryos"));
        let log = directory.join("memoryos.log");
        let healthy = || {
            let answer =
                Client::connect(port).and_then(|mut c| c.send("GET", "/health", None, None));
            answer.is_ok_and(|answer| answer.status == 200)
        };
        let server = Server::start("MemoryOS", &mut command, Signal::TERM, &log, healthy)?;
        let keys = fill(port, load).with_context(|| server.log())?;
        let files = Files {
            keys: directory.join("keys"),
            hot_key: directory.join("hot-key"),
            memory: directory.join("memory.json"),
        };
        let (hot, spread) = keys.split_last().context("no account")?;
        fs::write(&files.keys, spread.join("\n") + "\n")?;
        fs::write(&files.hot_key, format!("{hot}\n"))?;
        fs::write(&files.memory, &load.memory)?;
        Ok(MemoryOs {
            port,
            scripts: load.scripts.clone(),
            keys,
            files,
            server,
        })
    }

    /// A GET with keys of all accounts in turn, at random.
    #[must_use]
    pub fn get(&self, path: &'static str) -> Request {
        Request {
            scripts: self.scripts.clone(),
            port: self.port,
            keys: self.files.keys.clone(),
            call: ("GET", path),
            body: None,
        }
    }

    /// A POST of a memory to all accounts, at random.
    #[must_use]
    pub fn post(&self) -> Request {
        Request {
            call: ("POST", "/memory"),
            body: Some(self.files.memory.clone()),
            ..self.get("/memory")
        }
    }

    /// A POST of a memory to one account.
    #[must_use]
    pub fn post_hot(&self) -> Request {
        Request {
            keys: self.files.hot_key.clone(),
            ..self.post()
        }
    }

    /// One answer to a GET of one account.
    pub fn sample(&self, path: &str) -> Result<Answer> {
        let key = self.keys.first().context("no account")?;
        // The first request of a key differs from later ones by its `last_activity`.
        let mut client = Client::connect(self.port)?;
        client.send("GET", "/stats", Some(key), None)?;
        client.send("GET", path, Some(key), None)
    }

    /// One answer to a POST of a memory to one account.
    pub fn sample_post(&self) -> Result<Answer> {
        let key = self.keys.first().context("no account")?;
        let memory = fs::read_to_string(&self.files.memory)?;
        Client::connect(self.port)?.send("POST", "/memory", Some(key), Some(&memory))
    }

    /// How many memories the accounts say that they hold.
    pub fn count(&self) -> Result<u64> {
        let mut client = Client::connect(self.port)?;
        let mut total = 0;
        for key in &self.keys {
            process::check_interrupted()?;
            let credits: Credits = client.json("GET", "/credits", Some(key), None)?;
            total += credits.memory_usage.current_count;
        }
        Ok(total)
    }
}

/// Signs up the accounts and one more, and gives each its memories; returns their keys.
fn fill(port: u16, load: &Load) -> Result<Vec<String>> {
    let numbers: Vec<_> = (0..=load.accounts).collect();
    let shares: Vec<_> = numbers.chunks(numbers.len().div_ceil(FILLERS)).collect();
    thread::scope(|scope| {
        let threads = shares
            .iter()
            .map(|share| scope.spawn(|| fill_share(port, share, load)));
        let threads: Vec<_> = threads.collect();
        let mut keys = Vec::new();
        for thread in threads {
            let Ok(share) = thread.join() else {
                bail!("a filling thread panicked");
            };
            keys.extend(share?);
        }
        Ok(keys)
    })
}

fn fill_share(port: u16, numbers: &[usize], load: &Load) -> Result<Vec<String>> {
    let mut client = Client::connect(port)?;
    let mut keys = Vec::new();
    for number in numbers {
        // All addresses are equally long, and so are the answers that have them.
        let body = format!(r#"{{"email":"bench-{number:06}@example.com"}}"#);
        let account: SignedUp = client.json("POST", "/signup", None, Some(&body))?;
        keys.push(account.api_key);
    }
    // Round about the accounts, as they would come.
    for _ in 0..load.memories_each {
        for key in &keys {
            process::check_interrupted()?;
            let answer = client.send("POST", "/memory", Some(key), Some(&load.memory))?;
            if answer.status != 201 {
                let body = String::from_utf8_lossy(&answer.body).into_owned();
                bail!("POST /memory: {} {body}", answer.status);
            }
        }
    }
    Ok(keys)
}
