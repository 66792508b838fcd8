//! A server under test: a process of its own in a directory of its own; gone with the value.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::client::Connection;
use crate::{Failure, requests};

const POLL: Duration = Duration::from_millis(1);
const START_MAX: Duration = Duration::from_secs(600);
const STOP_MAX: Duration = Duration::from_secs(120);

/// A directory that is removed with the value.
pub struct Workspace {
    pub path: PathBuf,
    pub keep: bool,
}

impl Workspace {
    pub fn make(path: PathBuf, keep: bool) -> Result<Self, Failure> {
        fs::create_dir_all(&path)
            .map_err(|error| Failure(format!("cannot make {}: {error}", path.display())))?;
        Ok(Self { path, keep })
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("kept: {}", self.path.display());
        } else if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("{} could not be removed: {error}", self.path.display());
        }
    }
}

/// How servers are started.
pub struct Launcher {
    pub binary: PathBuf,
    pub workspace: Workspace,
}

/// A disk whose `fdatasync` takes longer, by a tracer that stops the server at nothing else.
pub const SLOW_DISK: Duration = Duration::from_millis(500);

/// Resident memory of a process, in bytes, as `/proc/PID/status` tells it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Resident {
    /// `VmRSS`.
    pub all: u64,
    /// `RssAnon`: without the binary's own pages.
    pub anonymous: u64,
}

impl Resident {
    pub fn max(self, other: Self) -> Self {
        Self {
            all: self.all.max(other.all),
            anonymous: self.anonymous.max(other.anonymous),
        }
    }
}

/// Bytes of a directory.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Disk {
    /// Lengths of all files.
    pub bytes: u64,
    /// What the file system has set aside for them.
    pub allocated: u64,
}

pub struct Server {
    child: Child,
    pub address: SocketAddr,
    pub directory: PathBuf,
}

impl Launcher {
    pub fn directory(&self, name: &str) -> PathBuf {
        self.workspace.path.join(name)
    }

    /// Starts a server and waits for the first 200 of `/health`. Returns how long that was from the spawn.
    pub async fn start(
        &self,
        name: &str,
        settings: &[String],
    ) -> Result<(Server, Duration), Failure> {
        self.start_by(Command::new(&self.binary), name, settings)
            .await
    }

    /// The same on a disk that is slow: see [`SLOW_DISK`]. The tracer is no parent of the server: ids and
    /// signals are the server's own.
    pub async fn start_on_slow_disk(
        &self,
        name: &str,
        settings: &[String],
    ) -> Result<(Server, Duration), Failure> {
        let inject = format!("inject=fdatasync:delay_enter={}", SLOW_DISK.as_micros());
        let mut command = Command::new("strace");
        command
            .args(["-D", "-f", "-qq", "-o", "/dev/null", "--seccomp-bpf"])
            .args(["-e", "trace=fdatasync", "-e", &inject])
            .arg(&self.binary);
        self.start_by(command, name, settings).await
    }

    async fn start_by(
        &self,
        mut command: Command,
        name: &str,
        settings: &[String],
    ) -> Result<(Server, Duration), Failure> {
        let directory = self.directory(name);
        let plans = self.workspace.path.join("plans.toml");
        fs::write(&plans, requests::PLAN)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log_path = self.workspace.path.join(format!("{name}.log"));
        let log = File::create(&log_path)?;
        command
            .args(["serve", "--host", "127.0.0.1", "--idle-seconds", "3600"])
            .arg("--port")
            .arg(address.port().to_string())
            .arg("--data-dir")
            .arg(&directory)
            .arg("--plans")
            .arg(&plans)
            .args(settings)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("RATE_LIMITS", "off")
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let started = Instant::now();
        let child = command.spawn().map_err(|error| {
            Failure(format!(
                "cannot start {}: {error}",
                command.get_program().display()
            ))
        })?;
        let mut server = Server {
            child,
            address,
            directory,
        };
        match server.wait_healthy(started).await {
            Ok(took) => Ok((server, took)),
            Err(Failure(why)) => {
                let log = fs::read_to_string(&log_path).unwrap_or_default();
                Err(Failure(format!("{why}; its log:\n{log}")))
            }
        }
    }
}

impl Server {
    async fn wait_healthy(&mut self, started: Instant) -> Result<Duration, Failure> {
        let request = requests::health();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(Failure(format!("the server ended at its start: {status}")));
            }
            if started.elapsed() > START_MAX {
                return Err(Failure(format!("no /health in {START_MAX:?}")));
            }
            // It listens before it opens its data: a connection then waits to be accepted.
            if let Ok(mut connection) = Connection::open(self.address).await
                && let Ok(answer) = connection.ask(&request).await
                && answer.status == 200
            {
                return Ok(started.elapsed());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    pub async fn connect(&self) -> Result<Connection, Failure> {
        Connection::open_to_keep(self.address).await
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn resident(&self) -> Result<Resident, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let bytes = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
                .map(|kib| kib * 1024)
                .ok_or_else(|| Failure(format!("/proc/PID/status has no {name}")))
        };
        Ok(Resident {
            all: bytes("VmRSS")?,
            anonymous: bytes("RssAnon")?,
        })
    }

    /// User and system time that the process has had, all threads.
    pub fn cpu(&self) -> Result<Duration, Failure> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id()))?;
        let after = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 = after
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        // A tick is 10 ms on every Linux that runs this.
        Ok(Duration::from_millis(ticks * 10))
    }

    pub fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let pid = i32::try_from(self.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Failure("a process without an id".to_owned()))?;
        kill_process(pid, signal).map_err(|error| Failure(format!("kill: {error}")))
    }

    /// Stops the server as a supervisor does. Returns how long it took.
    pub async fn stop(mut self) -> Result<Duration, Failure> {
        let started = Instant::now();
        self.signal(Signal::TERM)?;
        let status = self.ended(started).await?;
        if !status.success() {
            return Err(Failure(format!(
                "after SIGTERM the server ended with {status}"
            )));
        }
        Ok(started.elapsed())
    }

    /// Kills the server.
    pub async fn kill(&mut self) -> Result<(), Failure> {
        self.signal(Signal::KILL)?;
        self.ended(Instant::now()).await?;
        Ok(())
    }

    async fn ended(&mut self, since: Instant) -> Result<std::process::ExitStatus, Failure> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if since.elapsed() > STOP_MAX {
                return Err(Failure(format!("the server has not ended in {STOP_MAX:?}")));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Errors: it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Adds up the files below a directory.
pub fn disk(directory: &Path) -> Result<Disk, Failure> {
    let mut sum = Disk::default();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // The database removes files of its own.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        if metadata.is_dir() {
            let below = disk(&entry.path())?;
            sum.bytes += below.bytes;
            sum.allocated += below.allocated;
        } else {
            sum.bytes += metadata.len();
            sum.allocated += metadata.blocks() * 512;
        }
    }
    Ok(sum)
}

/// Copies the files of a process that is stopped: what a kill at this moment would leave.
pub fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.metadata()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
