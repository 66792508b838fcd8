//! Where a run took place.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::process;
use crate::results::Spread;

/// The machine of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor.
    pub processor: String,
    /// Cores that may be used.
    pub cores: usize,
    /// Memory in GiB.
    pub memory_gib: u64,
    /// Release of Linux.
    pub kernel: String,
    /// File system that holds all data.
    pub file_system: String,
}

const LIMIT: Duration = Duration::from_secs(10);

fn field(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_once(':'));
    value.map_or("unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

/// Looks at this machine. `data` is where all data will be: a file system in memory is refused, since no flush costs there.
pub fn look(data: &Path) -> Result<Machine> {
    let mut df = Command::new("df");
    let types = process::run(df.arg("--output=fstype").arg(data), LIMIT)?;
    let file_system = types.lines().nth(1).context("df says nothing")?.to_owned();
    if ["tmpfs", "ramfs"].contains(&file_system.as_str()) {
        bail!(
            "{} is in memory ({file_system}): give --dir a directory on a disk",
            data.display()
        );
    }
    let kib = field("/proc/meminfo", "MemTotal");
    let kib: u64 = kib.trim_end_matches(" kB").parse().unwrap_or(0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(Machine {
        processor: field("/proc/cpuinfo", "model name"),
        cores: std::thread::available_parallelism()?.get(),
        memory_gib: kib >> 20,
        kernel: kernel.trim().to_owned(),
        file_system,
    })
}

/// Milliseconds that a write of 4 KiB with its flush takes in `directory`: the median of 21, one after the other.
pub fn flush_ms(directory: &Path) -> Result<f64> {
    let path = directory.join("flush");
    let file = File::create(&path)?;
    let times = (0..21).map(|_| {
        let start = Instant::now();
        file.write_all_at(&[0; 4096], 0)?;
        file.sync_data()?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    });
    let times = times.collect::<Result<Vec<_>>>()?;
    fs::remove_file(path)?;
    Ok(Spread::of(times).context("no time")?.median)
}

/// The three load averages.
#[must_use]
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// The time, RFC 3339 in UTC.
pub fn now() -> Result<String> {
    let mut date = Command::new("date");
    date.args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]);
    Ok(process::run(&mut date, LIMIT)?.trim().to_owned())
}

/// First line of what a program says about its version; `wrk --version` says it and fails.
#[must_use]
pub fn version(program: &Path, flag: &str) -> String {
    let output = Command::new(program).arg(flag).output();
    let Ok(output) = output else {
        return "unknown".to_owned();
    };
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().unwrap_or("unknown").to_owned()
}
