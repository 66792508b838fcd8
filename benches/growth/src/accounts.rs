//! A database with more and more accounts: latency, memory, disk, start-up.

use std::cell::RefCell;
use std::rc::Rc;

use crate::client::Connection;
use crate::memories::turn;
use crate::requests::{self, Mixer};
use crate::results::{Collector, Growth, Operation, Settings, Size};
use crate::server::{Launcher, Server, disk};
use crate::{FILL_CONNECTIONS, Failure, load, pause, start_of};

/// Accounts whose credits are read to see what memory that takes.
const READS: u64 = 200_000;

struct Subject {
    server: Server,
    connection: Connection,
    keys: Vec<[u8; 32]>,
    /// The next account's number.
    next: u64,
    mixer: Mixer,
    size: Size,
}

pub async fn run(launcher: &Launcher, settings: &Settings) -> Result<Growth, Failure> {
    let base = settings.accounts.iter().position(|&size| size == 1_000);
    let base = base.ok_or_else(|| Failure("1,000 accounts must be among the sizes".to_owned()))?;
    let mut subjects = Vec::new();
    for &count in &settings.accounts {
        subjects.push(prepare(launcher, count).await?);
    }
    for subject in &mut subjects {
        // Only now: the server closes a connection that has long been idle.
        subject.connection = subject.server.connect().await?;
        subject.read_many().await?;
        pause(1_000).await;
        subject.size.after_reads = subject.server.resident()?;
    }
    let operations = ask_in_turn(&mut subjects, settings, base).await?;
    let mut sizes = Vec::new();
    for subject in subjects {
        let mut size = subject.size;
        size.stops_ms
            .push(subject.server.stop().await?.as_secs_f64() * 1e3);
        sizes.push(size);
    }
    Ok(Growth {
        base: settings.accounts[base],
        sizes,
        operations,
    })
}

fn name(count: u64) -> String {
    format!("accounts-{count}")
}

/// Signs up accounts, and starts their server anew.
async fn prepare(launcher: &Launcher, count: u64) -> Result<Subject, Failure> {
    eprintln!("a database with {count} accounts");
    let (server, _) = launcher.start(&name(count), &[]).await?;
    let keys = Rc::<RefCell<Vec<[u8; 32]>>>::default();
    let kept = Rc::clone(&keys);
    let answered = move |connection: &Connection| {
        kept.borrow_mut().push(crate::key_in(connection)?);
        Ok(())
    };
    let (what, connections) = (name(count), FILL_CONNECTIONS);
    let took = load::fill(
        &server,
        &what,
        connections,
        count,
        requests::sign_up,
        answered,
    )
    .await?;
    pause(2_000).await;
    let mut size = Size {
        size: count,
        fill_seconds: took.as_secs_f64(),
        after_fill: server.resident()?,
        disk: disk(&server.directory)?,
        ..Size::default()
    };
    size.stops_ms.push(server.stop().await?.as_secs_f64() * 1e3);
    let (server, took) = launcher.start(&name(count), &[]).await?;
    size.starts
        .push(start_of("SIGTERM after the fill", took, &server)?);
    pause(2_000).await;
    size.after_restart = server.resident()?;
    Ok(Subject {
        connection: server.connect().await?,
        keys: keys.take(),
        next: count,
        mixer: Mixer::new(count),
        server,
        size,
    })
}

impl Subject {
    fn any_key(&mut self) -> String {
        let at = self.mixer.below(self.keys.len());
        String::from_utf8_lossy(&self.keys[at]).into_owned()
    }

    /// Reads the credits of accounts all over the database.
    async fn read_many(&mut self) -> Result<(), Failure> {
        for _ in 0..self.size.size.min(READS) {
            let request = requests::get("/credits", &self.any_key());
            self.connection.expect(200, &request).await?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Ask {
    Credits,
    Add,
    SignUp,
}

impl Ask {
    const fn name(self) -> &'static str {
        match self {
            Self::Credits => "/credits of any account",
            Self::Add => "POST to any account",
            Self::SignUp => "sign-up",
        }
    }

    fn request(self, subject: &mut Subject) -> Vec<u8> {
        let number = subject.next;
        match self {
            Self::Credits => requests::get("/credits", &subject.any_key()),
            Self::Add => requests::add_memory(number, &subject.any_key()),
            Self::SignUp => requests::sign_up(number),
        }
    }
}

/// Asks every size's server in turn, as in [`crate::memories`].
async fn ask_in_turn(
    subjects: &mut [Subject],
    settings: &Settings,
    base: usize,
) -> Result<Vec<Operation>, Failure> {
    const ALL: [Ask; 3] = [Ask::Credits, Ask::Add, Ask::SignUp];
    let mut collectors = ALL.map(|what| Collector::new(what.name(), subjects.len()));
    for round in 0..=settings.rounds {
        eprintln!(
            "  requests at each size in turn: round {round} of {}",
            settings.rounds
        );
        for subject in &mut *subjects {
            subject.connection = subject.server.connect().await?;
        }
        for (collector, what) in collectors.iter_mut().zip(ALL) {
            let (status, count) = match what {
                Ask::Credits => (200, settings.requests_per_round),
                Ask::Add | Ask::SignUp => (201, settings.writes_per_round),
            };
            // The first warms up.
            if round > 0 {
                collector.begin_round();
            }
            for number in 0..count {
                for at in turn(number, subjects.len()) {
                    let subject = &mut subjects[at];
                    let request = what.request(subject);
                    subject.next += 1;
                    let answer = subject.connection.expect(status, &request).await?;
                    collector.add(at, answer.took);
                }
            }
        }
    }
    let finish = |collector: Collector| collector.finish(&settings.accounts, base);
    Ok(collectors.map(finish).into())
}
