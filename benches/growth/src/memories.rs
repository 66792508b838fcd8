//! An account with more and more memories: latency, memory, disk, start-up.

use rustix::process::Signal;

use crate::client::Connection;
use crate::load::{self, Manners, Writers};
use crate::requests::{self, BODY_BYTES, Mixer};
use crate::results::{Collector, Growth, Operation, Settings, Size};
use crate::server::{Launcher, Server, copy, disk};
use crate::{FILL_CONNECTIONS, Failure, pause, start_of};

/// Most memories of one answer; what a walk over all of them asks for.
const WALK_LIMIT: u64 = 100;
/// Cursors that are asked for again and again.
const CURSORS_WARM: usize = 32;

/// A server with one account that has some memories.
struct Subject {
    server: Server,
    connection: Connection,
    key: String,
    /// The next memory's number: no two are the same.
    next: u64,
    /// Where pages begin, spread over the account.
    cursors: Vec<String>,
    mixer: Mixer,
    size: Size,
}

pub async fn run(launcher: &Launcher, settings: &Settings) -> Result<Growth, Failure> {
    let base = settings.memories.iter().position(|&size| size == 1_000);
    let base = base.ok_or_else(|| Failure("1,000 memories must be among the sizes".to_owned()))?;
    let last = settings.memories.len() - 1;
    let mut subjects = Vec::new();
    for (at, &size) in settings.memories.iter().enumerate() {
        subjects.push(prepare(launcher, size, at == last).await?);
    }
    for subject in &mut subjects {
        // Only now: the server closes a connection that has long been idle.
        subject.connection = subject.server.connect().await?;
        subject.walk().await?;
        pause(1_000).await;
        subject.size.after_reads = subject.server.resident()?;
    }
    let mut operations = read_in_turn(&mut subjects, settings, base).await?;
    eprintln!("  writes at each size in turn");
    operations.extend(write_in_turn(&mut subjects, settings, base).await?);
    let mut sizes = Vec::new();
    for (at, subject) in subjects.into_iter().enumerate() {
        sizes.push(finish(launcher, subject, at == last).await?);
    }
    Ok(Growth {
        base: settings.memories[base],
        sizes,
        operations,
    })
}

fn name(size: u64) -> String {
    format!("memories-{size}")
}

/// Fills an account, and starts its server anew.
async fn prepare(launcher: &Launcher, count: u64, is_largest: bool) -> Result<Subject, Failure> {
    eprintln!("an account with {count} memories");
    let (server, _) = launcher.start(&name(count), &[]).await?;
    let key = crate::sign_up(&server, 0).await?;
    let (for_fill, what) = (key.clone(), name(count));
    let request = move |number| requests::add_memory(number, &for_fill);
    let took = load::fill(&server, &what, FILL_CONNECTIONS, count, request, |_| Ok(())).await?;
    pause(2_000).await;
    let mut size = Size {
        size: count,
        fill_seconds: took.as_secs_f64(),
        after_fill: server.resident()?,
        disk: disk(&server.directory)?,
        body_bytes: count * BODY_BYTES as u64,
        ..Size::default()
    };
    let mut next = count;
    if is_largest {
        next += freeze(launcher, &server, &key, count).await?;
    }
    size.stops_ms.push(server.stop().await?.as_secs_f64() * 1e3);
    let (server, took) = launcher.start(&name(count), &[]).await?;
    size.starts
        .push(start_of("SIGTERM after the fill", took, &server)?);
    pause(2_000).await;
    size.after_restart = server.resident()?;
    Ok(Subject {
        connection: server.connect().await?,
        mixer: Mixer::new(count),
        cursors: Vec::new(),
        server,
        key,
        next,
        size,
    })
}

/// Stops the process in the midst of writes and copies its files: what a SIGKILL at this moment would leave,
/// while the same process can still be asked to end by SIGTERM. Returns how many memories came meanwhile.
async fn freeze(
    launcher: &Launcher,
    server: &Server,
    key: &str,
    count: u64,
) -> Result<u64, Failure> {
    let writers = write_on(server, key, count).await?;
    server.signal(Signal::STOP)?;
    let copied = copy(&server.directory, &launcher.directory("frozen"));
    server.signal(Signal::CONT)?;
    copied?;
    let seen = writers.stop().await?;
    match seen.failures.into_iter().next() {
        None => Ok(seen.accepted.len() as u64),
        Some(failure) => Err(failure),
    }
}

/// Starts 64 writers and lets them write for half a second.
async fn write_on(server: &Server, key: &str, from: u64) -> Result<Writers, Failure> {
    let key = key.to_owned();
    let request = move |_, number| requests::add_memory(from + number, &key);
    let writers = Writers::start(server, FILL_CONNECTIONS, Manners::Rude, request).await?;
    pause(500).await;
    Ok(writers)
}

impl Subject {
    /// Reads every memory, 100 an answer, and keeps where the pages begin.
    async fn walk(&mut self) -> Result<(), Failure> {
        let expected = self.next;
        let mut path = format!("/memory?limit={WALK_LIMIT}");
        let mut seen = 0;
        loop {
            let request = requests::get(&path, &self.key);
            self.connection.expect(200, &request).await?;
            let page = self.connection.json()?;
            seen += page["memories"].as_array().map_or(0, Vec::len) as u64;
            let Some(cursor) = page["pagination"]["next_cursor"].as_str() else {
                break;
            };
            // A page of 20 is asked for at each of them.
            if seen + 20 <= expected {
                self.cursors.push(cursor.to_owned());
            }
            path = format!("/memory?limit={WALK_LIMIT}&cursor={cursor}");
        }
        if seen != expected {
            return Err(Failure(format!(
                "{expected} memories were stored, {seen} are there"
            )));
        }
        if self.cursors.is_empty() {
            // Too few for a second page of 100.
            let request = requests::get("/memory?limit=20&page=2", &self.key);
            self.connection.expect(200, &request).await?;
            let cursor = self.connection.json()?["pagination"]["next_cursor"].clone();
            self.cursors.extend(cursor.as_str().map(str::to_owned));
        }
        Ok(())
    }

    fn add(&mut self) -> Vec<u8> {
        self.next += 1;
        requests::add_memory(self.next - 1, &self.key)
    }
}

#[derive(Clone, Copy)]
enum Read {
    FirstPage,
    DeepPage,
    NewDeepPage,
    Stats,
    Credits,
}

const READS: [Read; 5] = [
    Read::FirstPage,
    Read::DeepPage,
    Read::NewDeepPage,
    Read::Stats,
    Read::Credits,
];

impl Read {
    const fn name(self) -> &'static str {
        match self {
            Self::FirstPage => "page 1",
            Self::DeepPage => "deep cursor page, one of 32",
            Self::NewDeepPage => "deep cursor page, any",
            Self::Stats => "/stats",
            Self::Credits => "/credits",
        }
    }

    fn request(self, subject: &mut Subject, number: usize) -> Vec<u8> {
        let path = match self {
            Self::FirstPage => "/memory?limit=20".to_owned(),
            Self::DeepPage => {
                let warm = CURSORS_WARM.min(subject.cursors.len());
                let at = (number % warm) * subject.cursors.len() / warm;
                format!("/memory?limit=20&cursor={}", subject.cursors[at])
            }
            Self::NewDeepPage => {
                let at = subject.mixer.below(subject.cursors.len());
                format!("/memory?limit=20&cursor={}", subject.cursors[at])
            }
            Self::Stats => "/stats".to_owned(),
            Self::Credits => "/credits".to_owned(),
        };
        requests::get(&path, &subject.key)
    }
}

/// Asks every size's server in turn, request by request. A round has all operations, so that the rounds of
/// each are spread over time, and connections of its own, so that chance places threads anew.
async fn read_in_turn(
    subjects: &mut [Subject],
    settings: &Settings,
    base: usize,
) -> Result<Vec<Operation>, Failure> {
    let mut collectors = READS.map(|what| Collector::new(what.name(), subjects.len()));
    for round in 0..=settings.rounds {
        eprintln!(
            "  reads at each size in turn: round {round} of {}",
            settings.rounds
        );
        for subject in &mut *subjects {
            subject.connection = subject.server.connect().await?;
        }
        for (collector, what) in collectors.iter_mut().zip(READS) {
            // The first warms up.
            if round > 0 {
                collector.begin_round();
            }
            for number in 0..settings.requests_per_round {
                for at in turn(number, subjects.len()) {
                    let subject = &mut subjects[at];
                    let request = what.request(subject, number);
                    let answer = subject.connection.expect(200, &request).await?;
                    collector.add(at, answer.took);
                }
            }
        }
    }
    let finish = |collector: Collector| collector.finish(&settings.memories, base);
    Ok(collectors.map(finish).into())
}

/// Writes to every size's server in turn, and asks for what a write makes anew.
async fn write_in_turn(
    subjects: &mut [Subject],
    settings: &Settings,
    base: usize,
) -> Result<Vec<Operation>, Failure> {
    let names = ["POST", "page 1 after a POST", "/stats after a POST"];
    let mut collectors = names.map(|name| Collector::new(name, subjects.len()));
    for round in 0..=settings.rounds {
        if round > 0 {
            collectors.iter_mut().for_each(Collector::begin_round);
        }
        for subject in &mut *subjects {
            subject.connection = subject.server.connect().await?;
        }
        for number in 0..settings.writes_per_round {
            for at in turn(number, subjects.len()) {
                let subject = &mut subjects[at];
                let add = subject.add();
                let page = requests::get("/memory?limit=20", &subject.key);
                let stats = requests::get("/stats", &subject.key);
                let asked = [(201, add), (200, page), (200, stats)];
                for (collector, (status, request)) in collectors.iter_mut().zip(asked) {
                    let answer = subject.connection.expect(status, &request).await?;
                    collector.add(at, answer.took);
                }
            }
        }
    }
    Ok(collectors
        .map(|collector| collector.finish(&settings.memories, base))
        .into())
}

/// The order in which the sizes are asked: another one goes first each time.
pub fn turn(number: usize, sizes: usize) -> impl Iterator<Item = usize> {
    (0..sizes).map(move |at| (number + at) % sizes)
}

/// Ends and starts the server in every way, if it is the largest.
async fn finish(launcher: &Launcher, subject: Subject, is_largest: bool) -> Result<Size, Failure> {
    let Subject {
        mut server,
        connection,
        key,
        next,
        mut size,
        ..
    } = subject;
    drop(connection);
    let directory = name(size.size);
    if is_largest {
        eprintln!("starts of {} memories", size.size);
        let writers = write_on(&server, &key, next).await?;
        server.kill().await?;
        // The rest of the writers fail now, and shall.
        let at_least = next + writers.accepted() as u64;
        drop(writers);
        let (killed, took) = launcher.start(&directory, &[]).await?;
        let after = "SIGKILL under write load, soon after a start";
        size.starts.push(start_of(after, took, &killed)?);
        expect_total(&killed, &key, at_least).await?;
        server = killed;
        for _ in 0..2 {
            size.stops_ms.push(server.stop().await?.as_secs_f64() * 1e3);
            let (restarted, took) = launcher.start(&directory, &[]).await?;
            size.starts
                .push(start_of("SIGTERM again", took, &restarted)?);
            server = restarted;
        }
        let (frozen, took) = launcher.start("frozen", &[]).await?;
        let after = "SIGKILL under write load after the fill";
        size.starts.push(start_of(after, took, &frozen)?);
        expect_total(&frozen, &key, size.size).await?;
        frozen.stop().await?;
    }
    size.stops_ms.push(server.stop().await?.as_secs_f64() * 1e3);
    Ok(size)
}

/// Fails if what was acknowledged before a kill is not there.
async fn expect_total(server: &Server, key: &str, at_least: u64) -> Result<(), Failure> {
    let mut connection = server.connect().await?;
    let request = requests::get("/memory?limit=1", key);
    connection.expect(200, &request).await?;
    let total = connection.json()?["pagination"]["total"].as_u64();
    match total {
        Some(total) if total >= at_least => Ok(()),
        _ => Err(Failure(format!(
            "{at_least} memories were acknowledged before a kill, {total:?} are there after it"
        ))),
    }
}
