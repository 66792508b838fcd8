//! Measures MemoryOS beside the others and writes what it came to as JSON.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use memoryos_compare::machine;
use memoryos_compare::measure::{Plan, Rounds, Side};
use memoryos_compare::memoryos::MemoryOs;
use memoryos_compare::postgres::{Postgres, Statement, Via};
use memoryos_compare::process::{self, Directory};
use memoryos_compare::redis::Redis;
use memoryos_compare::reference::Reference;
use memoryos_compare::results::{Measure, Results, Round, Row, Spread, WrkThreads};
use memoryos_compare::wrk::{self, Request};
use memoryos_compare::{Load, memory};

const HERE: &str = env!("CARGO_MANIFEST_DIR");

const PAGE: &str = "/memory?limit=20";
const CREDITS: &str = "/credits";
const HYPER: &str = "bare hyper 1 that answers as many bytes";
const POSTGRES: &str = "PostgreSQL, one statement, without HTTP";
const APPENDS: &str =
    "bare hyper 1 that appends each body to a file, on the disk before the answer";
const REDIS: &str = "Redis `appendfsync always`, one script, without HTTP";

const fn plan(
    id: &'static str,
    what: &'static str,
    against: &'static str,
    target: Option<f64>,
) -> Plan {
    Plan {
        id,
        what,
        against,
        measure: Measure::PerSecond,
        target,
    }
}

const fn p99(id: &'static str, what: &'static str) -> Plan {
    Plan {
        measure: Measure::P99,
        ..plan(id, what, "the same without writers", Some(5.0))
    }
}

/// Every row, in the order of the table.
const PLANS: [Plan; 14] = [
    plan(
        "page",
        "`GET /memory?limit=20`, 64 connections",
        HYPER,
        Some(0.70),
    ),
    plan(
        "credits",
        "`GET /credits`, 64 connections",
        HYPER,
        Some(0.75),
    ),
    plan(
        "post-64-postgres",
        "`POST /memory`, 64 connections",
        POSTGRES,
        Some(3.0),
    ),
    plan(
        "post-64-redis",
        "`POST /memory`, 64 connections",
        REDIS,
        Some(1.0),
    ),
    plan(
        "post-64-hyper",
        "`POST /memory`, 64 connections",
        APPENDS,
        None,
    ),
    plan(
        "post-8-postgres",
        "`POST /memory`, 8 connections",
        POSTGRES,
        Some(1.5),
    ),
    plan("post-8-redis", "`POST /memory`, 8 connections", REDIS, None),
    plan(
        "post-8-hyper",
        "`POST /memory`, 8 connections",
        APPENDS,
        None,
    ),
    plan(
        "post-1-postgres",
        "`POST /memory`, 1 connection",
        POSTGRES,
        Some(1.0),
    ),
    plan("post-1-redis", "`POST /memory`, 1 connection", REDIS, None),
    plan(
        "post-1-hyper",
        "`POST /memory`, 1 connection",
        APPENDS,
        None,
    ),
    plan(
        "hot",
        "`POST /memory` to one account, 64 connections",
        "the same to all accounts",
        Some(0.8),
    ),
    p99(
        "p99-64",
        "p99 of `GET /credits`, 64 connections, beside 64 writers",
    ),
    p99(
        "p99-8",
        "p99 of `GET /credits`, 8 connections, beside 64 writers",
    ),
];

/// Measures MemoryOS beside bare hyper, PostgreSQL and Redis.
#[derive(Parser)]
struct Options {
    /// Rounds of each side.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each round.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Rows to measure, by the beginning of their ids (page, credits, post-64, hot, p99 ...); all if left out.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The binary to measure.
    #[arg(long, env = "MEMORYOS_BIN")]
    memoryos: PathBuf,
    /// The bare hyper server.
    #[arg(long)]
    reference: PathBuf,
    /// Where data goes, in a directory that is removed at the end: on a disk, and open to the user `postgres`.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Folder of the JSON.
    #[arg(long, default_value_os_t = Path::new(HERE).join("results"))]
    out: PathBuf,
    /// The source differs from the commit that the binary names.
    #[arg(long)]
    dirty: bool,
    /// Accounts, each with one key.
    #[arg(long, default_value_t = 2000)]
    accounts: usize,
    /// Memories of each account before the first round.
    #[arg(long, default_value_t = 25)]
    memories_each: usize,
    /// Threads of wrk; if left out, the number with which the reference answers most.
    #[arg(long)]
    wrk_threads: Option<u64>,
    /// Where the programs of PostgreSQL are.
    #[arg(long, default_value = "/usr/lib/postgresql/15/bin")]
    postgres_bin: PathBuf,
    /// How pgbench reaches PostgreSQL.
    #[arg(long, value_enum, default_value_t = Via::Unix)]
    postgres_via: Via,
    /// How the statement is written.
    #[arg(long, value_enum, default_value_t = Statement::Cte)]
    postgres_statement: Statement,
    /// How redis-benchmark reaches Redis.
    #[arg(long, value_enum, default_value_t = Via::Tcp)]
    redis_via: Via,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all of it; whether every row was measured and is valid.
fn run(options: &Options) -> Result<bool> {
    process::watch_signals()?;
    let lacks = Lacks::look(options)?;
    let machine = machine::look(&options.dir)?;
    let (started, load_before) = (machine::now()?, machine::load_average());
    let (rows, wrk_threads) = Run::new(options, lacks)?.rows()?;
    let results = Results {
        started,
        ended: machine::now()?,
        command: command(std::env::args().skip(1)),
        rounds: options.rounds,
        seconds: options.seconds,
        accounts: options.accounts,
        memories_each: options.memories_each,
        wrk_threads,
        machine,
        load_average: [load_before, machine::load_average()],
        versions: versions(options),
        rows,
    };
    let path = write(&results, options)?;
    print(&results);
    println!("\nwritten: {}", path.display());
    let report = options.reference.with_file_name("report");
    println!(
        "next: {} {} --write README.md",
        report.display(),
        path.display()
    );
    Ok(results.rows.iter().all(|row| row.faults.is_empty()))
}

/// What is not on this machine.
struct Lacks {
    postgres: Option<String>,
    redis: Option<String>,
}

impl Lacks {
    /// Says what is missing, and what follows. Without wrk or the two binaries there is nothing to do.
    fn look(options: &Options) -> Result<Self> {
        let among = |programs: Vec<PathBuf>| {
            let missing = programs
                .into_iter()
                .map(|p| p.to_string_lossy().into_owned());
            let missing: Vec<_> = missing.filter(|p| process::find(p).is_none()).collect();
            (!missing.is_empty()).then(|| format!("no {}", missing.join(", ")))
        };
        let postgres = ["initdb", "postgres", "psql", "pg_isready", "pgbench"];
        let lacks = Lacks {
            postgres: among(
                postgres
                    .iter()
                    .map(|p| options.postgres_bin.join(p))
                    .collect(),
            ),
            redis: among(memoryos_compare::redis::programs()),
        };
        for why in lacks.postgres.iter().chain(&lacks.redis) {
            eprintln!(
                "LACKING: {why}; rows against it are not measured, and the exit code will be 1"
            );
        }
        let ours = [
            PathBuf::from("wrk"),
            options.memoryos.clone(),
            options.reference.clone(),
        ];
        if let Some(why) = among(ours.to_vec()) {
            bail!("LACKING: {why}; nothing can be measured");
        }
        Ok(lacks)
    }
}

/// What all groups of rows share. Dropped from the first to the last: servers before their directory.
struct Run<'a> {
    options: &'a Options,
    lacks: Lacks,
    memoryos: MemoryOs,
    load: Load,
    wrk_threads: Cell<u64>,
    directory: Directory,
}

impl<'a> Run<'a> {
    fn new(options: &'a Options, lacks: Lacks) -> Result<Self> {
        let directory = Directory::make(&options.dir)?;
        let load = Load {
            accounts: options.accounts,
            memories_each: options.memories_each,
            memory: memory(),
            scripts: Path::new(HERE).join("load"),
        };
        let (accounts, each) = (load.accounts, load.memories_each);
        eprintln!("MemoryOS gets {accounts} accounts with {each} memories each");
        let memoryos = MemoryOs::start(&options.memoryos, directory.path(), &load)?;
        Ok(Run {
            options,
            lacks,
            memoryos,
            load,
            wrk_threads: Cell::new(options.wrk_threads.unwrap_or(1)),
            directory,
        })
    }

    fn rounds(&self) -> Rounds<'_> {
        Rounds {
            directory: self.directory.path(),
            rounds: self.options.rounds,
            seconds: self.options.seconds,
        }
    }

    fn wanted(&self, id: &str) -> bool {
        let only = &self.options.only;
        only.is_empty() || only.iter().any(|start| id.starts_with(start))
    }

    /// The plan of a row that is wanted.
    fn plan(&self, id: &str) -> Option<Plan> {
        PLANS
            .into_iter()
            .find(|plan| plan.id == id && self.wanted(id))
    }

    /// Measures every row that is wanted. Reads first: writes make the database grow.
    fn rows(&self) -> Result<(Vec<Row>, WrkThreads)> {
        let wrk_threads = self.choose_threads()?;
        let mut rows = Vec::new();
        rows.extend(self.get("page", PAGE)?);
        rows.extend(self.get("credits", CREDITS)?);
        rows.extend(self.posts()?);
        rows.extend(self.hot()?);
        rows.extend(self.p99("p99-64", 64)?);
        rows.extend(self.p99("p99-8", 8)?);
        if rows.is_empty() {
            bail!("--only names no row");
        }
        Ok((rows, wrk_threads))
    }

    /// Takes as many threads of wrk as the reference answers most with.
    fn choose_threads(&self) -> Result<WrkThreads> {
        let mut tried = Vec::new();
        if self.options.wrk_threads.is_none() {
            let reference = self.reference(CREDITS)?;
            for threads in [1, 2, 1, 2] {
                let request = self.at(CREDITS, reference.port);
                let round = wrk::run(&request, threads, 64, self.options.seconds)?;
                eprintln!(
                    "wrk -t{threads} on the reference: {:.0}/s",
                    round.per_second
                );
                tried.push((threads, round.per_second));
            }
            let best = tried.iter().max_by(|a, b| a.1.total_cmp(&b.1));
            self.wrk_threads.set(best.context("none tried")?.0);
        }
        let threads = self.wrk_threads.get();
        Ok(WrkThreads { threads, tried })
    }

    fn reference(&self, path: &str) -> Result<Reference> {
        let like = self.memoryos.sample(path)?;
        if like.status != 200 {
            bail!("GET {path} answers {}", like.status);
        }
        let binary = &self.options.reference;
        Reference::start(binary, self.directory.path(), &like, None)
    }

    /// The same GET as MemoryOS gets, to another port.
    fn at(&self, path: &'static str, port: u16) -> Request {
        Request {
            port,
            ..self.memoryos.get(path)
        }
    }

    /// A load on MemoryOS, with what it cost.
    fn wrk(&self, request: &Request, connections: u64, seconds: u64) -> Result<Round> {
        let server = &self.memoryos.server;
        server.charged(|| self.uncharged(request, connections, seconds))
    }

    fn uncharged(&self, request: &Request, connections: u64, seconds: u64) -> Result<Round> {
        wrk::run(request, self.wrk_threads.get(), connections, seconds)
    }

    /// A GET beside the reference.
    fn get(&self, id: &str, path: &'static str) -> Result<Option<Row>> {
        let Some(plan) = self.plan(id) else {
            return Ok(None);
        };
        eprintln!("{}, beside {}", plan.what, plan.against);
        let reference = self.reference(path)?;
        let ours = self.memoryos.get(path);
        let theirs = self.at(path, reference.port);
        let sides = vec![
            Side::new("MemoryOS", |seconds| self.wrk(&ours, 64, seconds)),
            Side::new("bare hyper", |seconds| {
                let server = &reference.server;
                server.charged(|| self.uncharged(&theirs, 64, seconds))
            }),
        ];
        let measured = self.rounds().in_turn(sides)?;
        let [ours, theirs] = pair(measured)?;
        let mut row = plan.row(&ours, &theirs);
        let bytes = |rounds: &[Round]| {
            rounds
                .iter()
                .filter_map(|r| r.bytes_per_answer)
                .sum::<f64>()
        };
        let ratio = bytes(&row.ours) / bytes(&row.theirs);
        if row.faults.is_empty() && (ratio - 1.0).abs() > 0.01 {
            row.ratio = None;
            row.faults
                .push(format!("MemoryOS answered {ratio:.3} times the bytes"));
        }
        Ok(Some(row))
    }

    /// Memories that are sent to MemoryOS; what it answered must be there afterwards.
    fn post(&self, request: &Request, connections: u64, seconds: u64) -> Result<Round> {
        let before = self.memoryos.count()?;
        let mut round = self.wrk(request, connections, seconds)?;
        self.must_hold(before, &mut round)?;
        Ok(round)
    }

    fn must_hold(&self, before: u64, round: &mut Round) -> Result<()> {
        let added = self.memoryos.count()? - before;
        if added < round.requests {
            let answered = round.requests;
            let fault = format!("MemoryOS: {answered} answers, but {added} memories more");
            round.faults.push(fault);
        }
        Ok(())
    }

    /// POST beside the three that write, which run only meanwhile.
    fn posts(&self) -> Result<Vec<Row>> {
        let rows_of = |name: &str| {
            let ids = [64, 8, 1].map(|connections| format!("post-{connections}-{name}"));
            ids.iter().any(|id| self.wanted(id))
        };
        let lacks = &self.lacks;
        let postgres = started(rows_of("postgres"), lacks.postgres.as_ref(), || {
            self.postgres()
        });
        let redis = started(rows_of("redis"), lacks.redis.as_ref(), || self.redis());
        let hyper = started(rows_of("hyper"), None, || self.appending());
        process::check_interrupted()?;
        let mut rows = Vec::new();
        for connections in [64, 8, 1] {
            rows.extend(self.posts_at(connections, &postgres, &redis, &hyper)?);
        }
        Ok(rows)
    }

    fn postgres(&self) -> Result<Postgres> {
        eprintln!("PostgreSQL gets the same");
        let options = self.options;
        Postgres::start(
            &options.postgres_bin,
            self.directory.path(),
            &self.load,
            options.postgres_via,
            options.postgres_statement,
        )
    }

    fn redis(&self) -> Result<Redis> {
        eprintln!("Redis gets the same");
        Redis::start(self.directory.path(), &self.load, self.options.redis_via)
    }

    fn appending(&self) -> Result<Reference> {
        let like = self.memoryos.sample_post()?;
        if like.status != 201 {
            bail!("POST /memory answers {}", like.status);
        }
        let directory = self.directory.path();
        let file = directory.join("appended");
        Reference::start(&self.options.reference, directory, &like, Some(&file))
    }

    fn posts_at(
        &self,
        connections: u64,
        postgres: &Result<Postgres, String>,
        redis: &Result<Redis, String>,
        hyper: &Result<Reference, String>,
    ) -> Result<Vec<Row>> {
        let plans = ["postgres", "redis", "hyper"]
            .map(|name| self.plan(&format!("post-{connections}-{name}")));
        let Some(first) = plans.iter().flatten().next() else {
            return Ok(Vec::new());
        };
        eprintln!("{}, beside the others", first.what);
        let request = self.memoryos.post();
        let mut sides = vec![Side::new("MemoryOS", |seconds| {
            self.post(&request, connections, seconds)
        })];
        if let (Some(_), Ok(postgres)) = (plans[0], postgres) {
            sides.push(Side::new("PostgreSQL", |seconds| {
                postgres.run(connections, seconds)
            }));
        }
        if let (Some(_), Ok(redis)) = (plans[1], redis) {
            sides.push(Side::new("Redis", |seconds| {
                redis.run(connections, seconds)
            }));
        }
        if let (Some(_), Ok(hyper)) = (plans[2], hyper) {
            let request = Request {
                port: hyper.port,
                ..self.memoryos.post()
            };
            sides.push(Side::new("bare hyper", move |seconds| {
                let server = &hyper.server;
                server.charged(|| self.uncharged(&request, connections, seconds))
            }));
        }
        let mut measured = self.rounds().in_turn(sides)?.into_iter();
        let ours = measured.next().context("no side")?;
        let missing = [
            postgres.as_ref().err(),
            redis.as_ref().err(),
            hyper.as_ref().err(),
        ];
        let mut rows = Vec::new();
        for (plan, missing) in plans.into_iter().zip(missing) {
            let Some(plan) = plan else { continue };
            rows.push(match missing {
                Some(why) => plan.missing(why),
                None => plan.row(&ours, &measured.next().context("a side is gone")?),
            });
        }
        Ok(rows)
    }

    /// One account beside all.
    fn hot(&self) -> Result<Option<Row>> {
        let Some(plan) = self.plan("hot") else {
            return Ok(None);
        };
        eprintln!("{}, beside {}", plan.what, plan.against);
        let side = |name: &str, request: Request| {
            Side::new(name, move |seconds| self.post(&request, 64, seconds))
        };
        let sides = vec![
            side("one account", self.memoryos.post_hot()),
            side("all accounts", self.memoryos.post()),
        ];
        let [ours, theirs] = pair(self.rounds().in_turn(sides)?)?;
        Ok(Some(plan.row(&ours, &theirs)))
    }

    /// Readers with writers beside them, and without.
    fn p99(&self, id: &str, connections: u64) -> Result<Option<Row>> {
        let Some(plan) = self.plan(id) else {
            return Ok(None);
        };
        eprintln!("{}, and {}", plan.what, plan.against);
        let read = self.memoryos.get(CREDITS);
        let sides = vec![
            Side::new("with writers", |seconds| {
                self.read_beside_writers(&read, connections, seconds)
            }),
            Side::new("without writers", |seconds| {
                self.wrk(&read, connections, seconds)
            }),
        ];
        let [ours, theirs] = pair(self.rounds().in_turn(sides)?)?;
        Ok(Some(plan.row(&ours, &theirs)))
    }

    fn read_beside_writers(&self, read: &Request, connections: u64, seconds: u64) -> Result<Round> {
        let before = self.memoryos.count()?;
        let threads = self.wrk_threads.get();
        // They begin before the readers, and end after them.
        let writers = wrk::start(&self.memoryos.post(), threads, 64, seconds + 2)?;
        process::pause(Duration::from_millis(700))?;
        let mut round = self.uncharged(read, connections, seconds)?;
        let mut written = wrk::round(&writers.finish()?)?;
        self.must_hold(before, &mut written)?;
        let faults = written
            .faults
            .iter()
            .map(|fault| format!("writers: {fault}"));
        round.faults.extend(faults);
        eprintln!("      meanwhile {:.0} writes/s", written.per_second);
        Ok(round)
    }
}

/// A server if its rows are wanted, or why it is not there.
fn started<T>(
    wanted: bool,
    lack: Option<&String>,
    start: impl FnOnce() -> Result<T>,
) -> Result<T, String> {
    match lack {
        _ if !wanted => Err("not wanted".to_owned()),
        Some(why) => Err(why.clone()),
        None => start().map_err(|error| format!("{error:#}")),
    }
}

type Measured = Result<Vec<Round>>;

fn pair(measured: Vec<Measured>) -> Result<[Measured; 2]> {
    measured.try_into().map_err(|_| anyhow!("not two sides"))
}

fn versions(options: &Options) -> Vec<(String, String)> {
    let mut memoryos = machine::version(&options.memoryos, "--version");
    if options.dirty {
        memoryos.push_str(" with changes");
    }
    let postgres = machine::version(&options.postgres_bin.join("postgres"), "--version");
    let redis = machine::version(Path::new("redis-server"), "--version");
    let wrk = machine::version(Path::new("wrk"), "--version");
    vec![
        ("memoryos".to_owned(), memoryos),
        ("hyper".to_owned(), locked("hyper")),
        ("tokio".to_owned(), locked("tokio")),
        ("postgres".to_owned(), postgres),
        ("redis".to_owned(), redis),
        ("wrk".to_owned(), wrk),
    ]
}

/// The version of a crate in our `Cargo.lock`.
fn locked(name: &str) -> String {
    let lock = include_str!("../../Cargo.lock");
    let mut lines = lock
        .lines()
        .skip_while(|line| *line != format!("name = \"{name}\""));
    let version = lines.nth(1).and_then(|line| line.split('"').nth(1));
    version.unwrap_or("unknown").to_owned()
}

/// Writes `<date>-<commit>.json`.
fn write(results: &Results, options: &Options) -> Result<PathBuf> {
    let version = machine::version(&options.memoryos, "--version");
    let commit = version.split(['(', ')']).nth(1).unwrap_or("unknown");
    let dirty = if options.dirty { "-dirty" } else { "" };
    let date = results.started.split('T').next().unwrap_or_default();
    fs::create_dir_all(&options.out)?;
    let path = options.out.join(format!("{date}-{commit}{dirty}.json"));
    let json = serde_json::to_string_pretty(results)? + "\n";
    fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// What an operation costs both sides in processor time.
fn cpu(row: &Row) -> String {
    let median = |rounds: &[Round]| {
        let costs: Option<Vec<_>> = rounds.iter().map(|round| round.cpu_us).collect();
        Some(Spread::of(costs?)?.median)
    };
    let costs = median(&row.ours).zip(median(&row.theirs));
    costs.map_or(String::new(), |(ours, theirs)| {
        format!("cpu {ours:.0} us, theirs {theirs:.0} us")
    })
}

fn print(results: &Results) {
    println!(
        "\n{:<18} {:>7} {:>7} {:>7}  {:>7}",
        "row", "min", "median", "max", "target"
    );
    for row in &results.rows {
        let sign = match row.measure {
            Measure::PerSecond => ">=",
            Measure::P99 => "<=",
        };
        let target = row
            .target
            .map_or("none".to_owned(), |t| format!("{sign} {t:.2}"));
        let Some(ratio) = row.ratio else {
            println!("{:<18} NO RESULT: {}", row.id, row.faults.join("; "));
            continue;
        };
        let verdict = match row.met() {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "",
        };
        println!(
            "{:<18} {:>7.2} {:>7.2} {:>7.2}  {target:>7}  {verdict:<7}  {}",
            row.id,
            ratio.min,
            ratio.median,
            ratio.max,
            cpu(row)
        );
    }
    let [before, after] = &results.load_average;
    println!(
        "load average: {before} before, {after} after; {} cores",
        results.machine.cores
    );
}

/// The flags of this run, without the path of the reference: that is `run`'s, and of one machine.
fn command(flags: impl Iterator<Item = String>) -> String {
    let flags: Vec<String> = flags.collect();
    let reference = flags.iter().position(|flag| flag == "--reference");
    let is_kept = |at: usize| reference.is_none_or(|first| at != first && at != first + 1);
    let kept = flags.iter().enumerate().filter(|(at, _)| is_kept(*at));
    kept.map(|(_, flag)| flag.as_str())
        .collect::<Vec<_>>()
        .join(" ")
}
