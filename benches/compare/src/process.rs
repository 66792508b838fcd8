//! Commands and servers that end with the run, however it ends.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::results::Round;

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Linux tells processor time in these, on every machine that Debian runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// How long a server gets to end after its signal.
const STOP_SECONDS: u64 = 30;

/// Makes Ctrl-C, SIGTERM and SIGHUP an error of whatever runs, so that the way out is the usual one.
pub fn watch_signals() -> Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&INTERRUPTED))?;
    }
    Ok(())
}

/// Whether one of those signals has come.
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Fails if one of those signals has come.
pub fn check_interrupted() -> Result<()> {
    if interrupted() {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleeps, and fails at once if a signal comes.
pub fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        check_interrupted()?;
        sleep(Duration::from_millis(10).min(end.saturating_duration_since(Instant::now())));
    }
    Ok(())
}

/// A command under way; dropping it ends it.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
    shown: String,
    end: Instant,
}

/// Starts a command in a process group of its own, so that Ctrl-C reaches only us. Its output must be short.
pub fn start(command: &mut Command, limit: Duration) -> Result<Running> {
    let shown = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.process_group(0).spawn();
    Ok(Running {
        child: Some(child.with_context(|| format!("cannot start {shown}"))?),
        shown,
        end: Instant::now() + limit,
    })
}

impl Running {
    /// Waits for the end of the command and returns what it printed on standard output.
    pub fn finish(mut self) -> Result<String> {
        let output = self.wait()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("{} failed ({}): {errors}{text}", self.shown, output.status);
        }
        Ok(text)
    }

    fn wait(&mut self) -> Result<Output> {
        loop {
            check_interrupted()?;
            let child = self.child.as_mut().context("already waited for")?;
            if child.try_wait()?.is_some() {
                break;
            }
            if Instant::now() > self.end {
                bail!("{} took too long and was ended", self.shown);
            }
            sleep(Duration::from_millis(10));
        }
        let child = self.child.take().context("already waited for")?;
        Ok(child.wait_with_output()?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command, limit: Duration) -> Result<String> {
    start(command, limit)?.finish()
}

/// A server; dropping it stops it, by a signal to its process id and by SIGKILL if that does not help.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    child: Child,
    signal: Signal,
    log: PathBuf,
}

impl Server {
    /// Starts a server that writes to `log` and waits until `ready` says so.
    pub fn start(
        name: &'static str,
        command: &mut Command,
        signal: Signal,
        log: &Path,
        ready: impl Fn() -> bool,
    ) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        command.stdin(Stdio::null());
        command.stdout(file.try_clone()?).stderr(file);
        let child = command.process_group(0).spawn();
        let child = child.with_context(|| format!("cannot start {name}"))?;
        let log = log.to_owned();
        let mut server = Server {
            name,
            child,
            signal,
            log,
        };
        let end = Instant::now() + Duration::from_secs(60);
        while !ready() {
            pause(Duration::from_millis(20))?;
            if server.child.try_wait()?.is_some() || Instant::now() > end {
                bail!("{name} did not come up; its log ends:\n{}", server.log());
            }
        }
        Ok(server)
    }

    /// Runs something, and puts what it cost the server into its round: processor time of all its threads, and of its
    /// children that have ended.
    pub fn charged(&self, run: impl FnOnce() -> Result<Round>) -> Result<Round> {
        let before = self.cpu_ticks()?;
        let mut round = run()?;
        let ticks = self.cpu_ticks()? - before;
        round.cpu_us = Some(ticks as f64 * 1e6 / TICKS_PER_SECOND / round.requests.max(1) as f64);
        Ok(round)
    }

    /// Fields 14 to 17 of `/proc/PID/stat`: user and system, its own and its children's.
    fn cpu_ticks(&self) -> Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = stat
            .rsplit_once(") ")
            .context("no name in /proc/PID/stat")?;
        let ticks = fields.split(' ').skip(11).take(4).map(str::parse::<u64>);
        Ok(ticks.sum::<Result<u64, _>>()?)
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, self.signal);
        }
        let end = Instant::now() + Duration::from_secs(STOP_SECONDS);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > end {
                eprintln!(
                    "{} did not stop in {STOP_SECONDS} s and is killed",
                    self.name
                );
                let _ = self.child.kill();
                break;
            }
            sleep(Duration::from_millis(10));
        }
        let _ = self.child.wait();
    }
}

/// A directory that is removed with everything in it.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Makes a new directory in `parent`.
    pub fn make(parent: &Path) -> Result<Self> {
        let path = parent.join(format!("memoryos-compare-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Directory(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// Finds a port of 127.0.0.1 that nobody listens on.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Finds a program by its path, or by its name in the `PATH`.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}
