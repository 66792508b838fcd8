//! More and more writers: what is accepted, what is refused and how soon, and what memory that takes.

use std::time::{Duration, Instant};

use crate::load::{Manners, Seen, Writers};
use crate::requests;
use crate::results::{Overload, Settings, Step, median, percentile, sorted};
use crate::server::{Launcher, Resident, SLOW_DISK, Server};
use crate::{Failure, load};

/// Many, since each waits for the disk, and that may be slow.
const SIGN_UPS_AT_ONCE: usize = 500;
/// Accounts that are written to.
const ACCOUNTS: u64 = 2_000;
/// Memories that take more than the page cache of 64 MiB.
const CACHE_FILLED: u64 = 100_000;
/// Load before it is measured.
const WARM_UP: Duration = Duration::from_millis(500);
const SAMPLE_EVERY: Duration = Duration::from_millis(50);
/// The bound of waiting writes where it is set.
const LOW_BOUND: usize = 64;
/// More connections than the 2,048 writes that may wait by default.
const MANY: usize = 6_000;
/// The least that such a run lasts: many of its flushes.
const SLOW_SECONDS: f64 = 8.0;

pub async fn run(launcher: &Launcher, settings: &Settings) -> Result<Overload, Failure> {
    let mut overload = Overload {
        accounts: ACCOUNTS as usize,
        ..Overload::default()
    };
    let (server, _) = launcher.start("overload", &[]).await?;
    let keys = sign_up(&server).await?;
    fill_cache(&server, &keys).await?;
    let mut runs: Vec<Vec<Run>> = settings
        .overload_connections
        .iter()
        .map(|_| Vec::new())
        .collect();
    for round in 0..settings.overload_rounds {
        let order: Vec<usize> = if round % 2 == 0 {
            (0..runs.len()).collect()
        } else {
            (0..runs.len()).rev().collect()
        };
        for at in order {
            let connections = settings.overload_connections[at];
            let run = measure(&server, &keys, connections, Manners::Rude, settings).await?;
            runs[at].push(run);
        }
    }
    for (connections, runs) in settings.overload_connections.iter().zip(runs) {
        overload.steps.push(step("", *connections, runs));
    }
    server.stop().await?;
    with_low_bound(launcher, settings, &mut overload).await?;
    with_slow_disk(launcher, settings, &mut overload).await?;
    Ok(overload)
}

async fn sign_up(server: &Server) -> Result<Vec<String>, Failure> {
    let keys = std::rc::Rc::<std::cell::RefCell<Vec<String>>>::default();
    let kept = keys.clone();
    let answered = move |connection: &crate::client::Connection| {
        let key = crate::key_in(connection)?;
        kept.borrow_mut()
            .push(String::from_utf8_lossy(&key).into_owned());
        Ok(())
    };
    load::fill(
        server,
        "accounts",
        SIGN_UPS_AT_ONCE,
        ACCOUNTS,
        requests::sign_up,
        answered,
    )
    .await?;
    Ok(keys.take())
}

/// Writes more than the page cache holds, so that what memory rises by later is not the cache's.
async fn fill_cache(server: &Server, keys: &[String]) -> Result<(), Failure> {
    let keys = keys.to_vec();
    let request =
        move |number: u64| requests::add_memory(number, &keys[number as usize % keys.len()]);
    load::fill(server, "memories", 64, CACHE_FILLED, request, |_| Ok(())).await?;
    Ok(())
}

/// One number of connections, once.
struct Run {
    seen: Seen,
    resident_before: Resident,
    seconds: f64,
    resident_max: Resident,
    cpu: Duration,
}

async fn measure(
    server: &Server,
    keys: &[String],
    connections: usize,
    manners: Manners,
    settings: &Settings,
) -> Result<Run, Failure> {
    let resident_before = server.resident()?;
    let keys = keys.to_vec();
    let request = move |who: usize, number| requests::add_memory(number, &keys[who % keys.len()]);
    let writers = Writers::start(server, connections, manners, request).await?;
    tokio::time::sleep(WARM_UP).await;
    writers.forget();
    let (started, cpu) = (Instant::now(), server.cpu()?);
    let mut resident_max = Resident::default();
    while started.elapsed().as_secs_f64() < settings.overload_seconds {
        tokio::time::sleep(SAMPLE_EVERY).await;
        resident_max = resident_max.max(server.resident()?);
    }
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), server.cpu()? - cpu);
    let seen = writers.take();
    let rest = writers.stop().await?;
    if let Some(failure) = seen.failures.into_iter().chain(rest.failures).next() {
        return Err(failure);
    }
    let seen = Seen {
        failures: Vec::new(),
        accepted: seen.accepted,
        refused: seen.refused,
        without_retry_after: seen.without_retry_after,
    };
    let rate = seen.accepted.len() as f64 / seconds;
    eprintln!(
        "  {connections} writers: {rate:.0} a second, {} refused",
        seen.refused.len()
    );
    Ok(Run {
        seen,
        resident_before,
        seconds,
        resident_max,
        cpu,
    })
}

fn step(name: &str, connections: usize, runs: Vec<Run>) -> Step {
    let mut step = Step {
        name: name.to_owned(),
        connections,
        ..Step::default()
    };
    let (mut accepted, mut refused, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for run in runs {
        let seen = run.seen;
        let rate = |count: usize| count as f64 / run.seconds;
        step.accepted_per_second.push(rate(seen.accepted.len()));
        step.refused_per_second.push(rate(seen.refused.len()));
        step.refused += seen.refused.len() as u64;
        step.without_retry_after += seen.without_retry_after;
        step.resident_max = step.resident_max.max(run.resident_max);
        let rise = run.resident_max.all.saturating_sub(run.resident_before.all);
        step.resident_rise = step.resident_rise.max(rise);
        cpu.push(run.cpu.as_secs_f64() * 1e6 / seen.accepted.len().max(1) as f64);
        accepted.extend(seen.accepted);
        refused.extend(seen.refused);
    }
    let millis =
        |micros: Vec<u32>| sorted(micros.into_iter().map(|us| f64::from(us) / 1e3).collect());
    let (accepted, refused) = (millis(accepted), millis(refused));
    step.p50_ms = percentile(&accepted, 0.5);
    step.p99_ms = percentile(&accepted, 0.99);
    step.refused_p50_ms = percentile(&refused, 0.5);
    step.refused_p99_ms = percentile(&refused, 0.99);
    step.cpu_us = median(&cpu);
    step
}

/// Lowers the bound of waiting writes, so that it is reached.
async fn with_low_bound(
    launcher: &Launcher,
    settings: &Settings,
    overload: &mut Overload,
) -> Result<(), Failure> {
    const FLAG: &str = "--waiting-writes-max";
    let help = std::process::Command::new(&launcher.binary)
        .args(["serve", "--help"])
        .output()?;
    if !String::from_utf8_lossy(&help.stdout).contains(FLAG) {
        let why = format!("a run with a low bound of waiting writes: the binary has no {FLAG}");
        eprintln!("  LACKING: {why}");
        overload.lacking.push(why);
        return Ok(());
    }
    let flags = [FLAG.to_owned(), LOW_BOUND.to_string()];
    let (server, _) = launcher.start("overload-low", &flags).await?;
    let keys = sign_up(&server).await?;
    for (manners, how) in [
        (Manners::Rude, "at once again"),
        (Manners::Polite, "after Retry-After"),
    ] {
        for connections in [64, 256, 1_024] {
            let run = measure(&server, &keys, connections, manners, settings).await?;
            let name = format!("bound of {LOW_BOUND}; refused ones ask {how}");
            overload.refusals.push(step(&name, connections, vec![run]));
        }
    }
    server.stop().await?;
    Ok(())
}

/// Makes each fdatasync slow, so that more writes wait than the default bound lets.
async fn with_slow_disk(
    launcher: &Launcher,
    settings: &Settings,
    overload: &mut Overload,
) -> Result<(), Failure> {
    let traced = std::process::Command::new("strace")
        .args([
            "-D",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "--seccomp-bpf",
            "true",
        ])
        .output();
    let lacking = match traced {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(why) = lacking {
        let why = format!(
            "a run with a slow disk and the default bound of waiting writes: strace does not do it: {why}"
        );
        eprintln!("  LACKING: {why}");
        overload.lacking.push(why);
        return Ok(());
    }
    let flags = ["--connections-max".to_owned(), (MANY + 100).to_string()];
    let (mut server, _) = launcher.start_on_slow_disk("overload-slow", &flags).await?;
    let keys = sign_up(&server).await?;
    slowed(&server, &keys, settings, overload).await?;
    // To close the database in order takes minutes on such a disk.
    server.kill().await?;
    Ok(())
}

async fn slowed(
    server: &Server,
    keys: &[String],
    settings: &Settings,
    overload: &mut Overload,
) -> Result<(), Failure> {
    let mut settings = settings.clone();
    settings.overload_seconds = settings.overload_seconds.max(SLOW_SECONDS);
    for (manners, how) in [
        (Manners::Rude, "at once again"),
        (Manners::Polite, "after Retry-After"),
    ] {
        let run = measure(server, keys, MANY, manners, &settings).await?;
        let name = format!(
            "fdatasync takes {} ms more, default bound of 2,048; refused ones ask {how}",
            SLOW_DISK.as_millis()
        );
        overload.refusals.push(step(&name, MANY, vec![run]));
    }
    Ok(())
}
