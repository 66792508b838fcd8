//! Measures how the server grows: latency, memory, disk and start-up by size, and what overload does to it.
//!
//! `benches/growth/README.md` tells how to run it and how to read what it writes.

mod accounts;
mod client;
mod load;
mod memories;
mod overload;
mod plot;
mod report;
mod requests;
mod results;
mod server;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use results::{Empty, Machine, Results, Settings, Start};
use server::{Launcher, Server, Workspace, disk};

/// Connections that fill.
pub const FILL_CONNECTIONS: usize = 64;
/// Starts on an empty directory.
const EMPTY_STARTS: usize = 7;

const HELP: &str = "\
Usage: benches/growth/run [OPTIONS]
       benches/growth/run render FILE.json

Measures how the server grows, and writes JSON, Markdown and SVG. `render` makes the
Markdown and the SVG of a JSON file anew.

  --quick               1,000 and 10,000 instead of a million, short rounds: to see that it works
  --only PARTS          some of empty,memories,accounts,overload
  --memories N          memories of the largest account [1000000]
  --accounts N          accounts of the largest database [1000000]
  --writers LIST        numbers of writers [1,8,64,128,256,512,1024,2048,4000]
  --rounds N            rounds of requests that are compared [5]
  --requests N          reads of each size in a round [200]
  --writes N            writes of each size in a round [100]
  --seconds N           of each number of writers [5]
  --overload-rounds N   [3]
  --dir DIR             where data directories are made; on a real disk [target/growth]
  --out DIR             where results go [benches/growth/results]
  --keep                leaves the data directories

MEMORYOS_BIN names a binary to measure instead of building one.";

/// Why it cannot go on, in a sentence.
#[derive(Debug)]
pub struct Failure(pub String);

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<tokio::task::JoinError> for Failure {
    fn from(error: tokio::task::JoinError) -> Self {
        Self(error.to_string())
    }
}

struct Arguments {
    settings: Settings,
    only: Vec<String>,
    directory: PathBuf,
    out: PathBuf,
    keep: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help") {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let outcome = match arguments.as_slice() {
        [command, file] if command == "render" => render_again(Path::new(file)),
        _ => parse(&arguments).and_then(|arguments| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let local = tokio::task::LocalSet::new();
            runtime.block_on(local.run_until(until_stopped(arguments)))
        }),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(why)) => {
            eprintln!("\nFAILED: {why}\nNo result was written.");
            ExitCode::FAILURE
        }
    }
}

fn root() -> PathBuf {
    env::var_os("GROWTH_ROOT").map_or_else(|| PathBuf::from("."), PathBuf::from)
}

fn parse(arguments: &[String]) -> Result<Arguments, Failure> {
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let (mut memories, mut accounts) = if quick {
        (10_000, 10_000)
    } else {
        (1_000_000, 1_000_000)
    };
    let mut settings = Settings {
        body_bytes: requests::BODY_BYTES,
        rounds: if quick { 3 } else { 5 },
        requests_per_round: if quick { 50 } else { 200 },
        writes_per_round: if quick { 20 } else { 100 },
        overload_connections: vec![1, 8, 64, 128, 256, 512, 1_024, 2_048, 4_000],
        overload_seconds: if quick { 1.0 } else { 5.0 },
        overload_rounds: if quick { 1 } else { 3 },
        ..Settings::default()
    };
    let mut parsed = Arguments {
        settings: Settings::default(),
        only: ["empty", "memories", "accounts", "overload"]
            .map(str::to_owned)
            .into(),
        directory: root().join("target/growth"),
        out: root().join("benches/growth/results"),
        keep: false,
    };
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        let mut value = || {
            let value = rest.next();
            value.ok_or_else(|| Failure(format!("{name} needs a value; see --help")))
        };
        match name.as_str() {
            "--quick" => {}
            "--keep" => parsed.keep = true,
            "--only" => parsed.only = value()?.split(',').map(str::to_owned).collect(),
            "--memories" => memories = number(name, value()?)?,
            "--accounts" => accounts = number(name, value()?)?,
            "--rounds" => settings.rounds = number(name, value()?)?,
            "--requests" => settings.requests_per_round = number(name, value()?)?,
            "--writes" => settings.writes_per_round = number(name, value()?)?,
            "--seconds" => settings.overload_seconds = number(name, value()?)?,
            "--writers" => {
                let list = value()?.split(',').map(|text| number(name, text));
                settings.overload_connections = list.collect::<Result<_, _>>()?;
            }
            "--overload-rounds" => settings.overload_rounds = number(name, value()?)?,
            "--dir" => parsed.directory = PathBuf::from(value()?),
            "--out" => parsed.out = PathBuf::from(value()?),
            _ => return Err(Failure(format!("{name} is no option; see --help"))),
        }
    }
    settings.memories = sizes([100, 1_000, 10_000], memories);
    settings.accounts = sizes([10, 1_000, 10_000], accounts);
    parsed.settings = settings;
    Ok(parsed)
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, Failure> {
    let number = value.replace(['_', ','], "").parse();
    number.map_err(|_| Failure(format!("{name} is {value}, which is no number that fits")))
}

/// The sizes up to the largest; 1,000 is always there, to compare with.
fn sizes(small: [u64; 3], largest: u64) -> Vec<u64> {
    let mut sizes = Vec::from(small);
    sizes.retain(|&size| size < largest || size == 1_000);
    sizes.push(largest);
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// Runs it, and drops it, servers and directories with it, when somebody wants it to end.
async fn until_stopped(arguments: Arguments) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        outcome = run(arguments) => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure("interrupted".to_owned())),
        _ = terminate.recv() => Err(Failure("terminated".to_owned())),
        _ = hang_up.recv() => Err(Failure("hung up".to_owned())),
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let started = Instant::now();
    let binary = env::var_os("MEMORYOS_BIN")
        .map(PathBuf::from)
        .ok_or_else(|| Failure("MEMORYOS_BIN is not set; start it by benches/growth/run".into()))?;
    let place = arguments
        .directory
        .join(format!("run-{}", std::process::id()));
    let launcher = Launcher {
        workspace: Workspace::make(place, arguments.keep)?,
        // What is measured stays the same file, also if somebody builds meanwhile.
        binary: arguments
            .directory
            .join(format!("run-{}/memoryos", std::process::id())),
    };
    fs::copy(&binary, &launcher.binary)
        .map_err(|error| Failure(format!("{}: {error}", binary.display())))?;
    let mut results = Results {
        machine: machine(&launcher)?,
        binary_bytes: fs::metadata(&launcher.binary)?.len(),
        settings: arguments.settings,
        ..Results::default()
    };
    let settings = results.settings.clone();
    let is_in = |part: &str| arguments.only.iter().any(|name| name == part);
    if is_in("empty") {
        results.empty = Some(empty(&launcher).await?);
    }
    if is_in("memories") {
        results.memories = Some(memories::run(&launcher, &settings).await?);
    }
    if is_in("accounts") {
        results.accounts = Some(accounts::run(&launcher, &settings).await?);
    }
    if is_in("overload") {
        eprintln!("more and more writers");
        results.overload = Some(overload::run(&launcher, &settings).await?);
    }
    results.machine.load_average_after = load_average();
    results.machine.took_seconds = started.elapsed().as_secs_f64();
    results.targets = report::targets(&results);
    write(&results, &arguments.out)
}

/// A server with nothing in it.
async fn empty(launcher: &Launcher) -> Result<Empty, Failure> {
    eprintln!("an empty server");
    let mut empty = Empty::default();
    for number in 0..EMPTY_STARTS {
        let (server, took) = launcher.start(&format!("empty-{number}"), &[]).await?;
        empty.start_ms.push(took.as_secs_f64() * 1e3);
        pause(2_000).await;
        empty.resident.push(server.resident()?);
        empty.disk = disk(&server.directory)?;
        empty.stop_ms.push(server.stop().await?.as_secs_f64() * 1e3);
    }
    Ok(empty)
}

/// Makes an account. Returns its key.
pub async fn sign_up(server: &Server, number: u64) -> Result<String, Failure> {
    let mut connection = server.connect().await?;
    connection.expect(201, &requests::sign_up(number)).await?;
    let key = key_in(&connection)?;
    Ok(String::from_utf8_lossy(&key).into_owned())
}

/// The key in the answer to a sign-up.
pub fn key_in(connection: &client::Connection) -> Result<[u8; 32], Failure> {
    let body = connection.json()?;
    let key = body["api_key"].as_str().map(str::as_bytes);
    key.and_then(|key| key.try_into().ok())
        .ok_or_else(|| Failure("a sign-up without a key of 32 characters".to_owned()))
}

pub async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// Says how a start went, and keeps it.
pub fn start_of(after: &str, took: Duration, server: &Server) -> Result<Start, Failure> {
    let start = Start {
        after: after.to_owned(),
        ms: took.as_secs_f64() * 1e3,
        disk_bytes: disk(&server.directory)?.bytes,
    };
    eprintln!("  start after {after}: {:.0} ms", start.ms);
    Ok(start)
}

/// What a command prints, or `?`.
fn output_of(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "?".to_owned(),
    }
}

fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}

fn machine(launcher: &Launcher) -> Result<Machine, Failure> {
    let root = root().display().to_string();
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':'))
            .map_or_else(|| "?".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let kib = field("/proc/meminfo", "MemTotal").replace(" kB", "");
    let commit = output_of("git", &["-C", &root, "rev-parse", "--short=12", "HEAD"]);
    let changed = output_of(
        "git",
        &["-C", &root, "status", "--porcelain", "benches/growth/src"],
    );
    let place = launcher.workspace.path.display().to_string();
    Ok(Machine {
        date: output_of("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
        version: output_of(&launcher.binary.display().to_string(), &["--version"]),
        bench_commit: if changed.is_empty() {
            commit
        } else {
            commit + "+"
        },
        processor: field("/proc/cpuinfo", "model name"),
        cores: std::thread::available_parallelism()?.get(),
        memory_bytes: kib.parse::<u64>().unwrap_or(0) * 1024,
        kernel: output_of("uname", &["-sr"]),
        file_system: output_of("stat", &["-f", "-c", "%T", &place]).replace("ext2/ext3", "ext4"),
        load_average_before: load_average(),
        ..Machine::default()
    })
}

/// Writes everything, and prints the table.
fn write(results: &Results, out: &Path) -> Result<(), Failure> {
    let day = results
        .machine
        .date
        .get(..10)
        .unwrap_or("unknown")
        .to_owned();
    let version = &results.machine.version;
    let commit = version
        .split_once('(')
        .map_or(version.as_str(), |(_, rest)| rest);
    let commit: String = commit.chars().filter(char::is_ascii_alphanumeric).collect();
    fs::create_dir_all(out)?;
    let path = out.join(format!("{day}-{commit}.json"));
    let json = serde_json::to_string_pretty(results)
        .map_err(|error| Failure(format!("the results are no JSON: {error}")))?;
    fs::write(&path, json + "\n")?;
    render(results, &path)
}

fn render_again(path: &Path) -> Result<(), Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| Failure(format!("{}: {error}", path.display())))?;
    let mut results: Results = serde_json::from_str(&text)
        .map_err(|error| Failure(format!("{}: {error}", path.display())))?;
    results.targets = report::targets(&results);
    render(&results, path)
}

fn render(results: &Results, path: &Path) -> Result<(), Failure> {
    let markdown = report::markdown(results);
    fs::write(path.with_extension("md"), &markdown)?;
    for (theme, name) in [(plot::LIGHT, "light"), (plot::DARK, "dark")] {
        let picture = path.with_extension(format!("{name}.svg"));
        plot::draw(results, &theme, &picture)?;
    }
    println!("{markdown}");
    eprintln!("written: {} and .md, .light.svg, .dark.svg", path.display());
    Ok(())
}
