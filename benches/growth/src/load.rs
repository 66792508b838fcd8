//! Load: many connections that each ask, wait for the answer, and ask again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::Failure;
use crate::client::Connection;
use crate::server::Server;

/// Fewer than a listener's queue takes.
const OPENED_AT_ONCE: usize = 32;

/// Makes `count` requests over `connections` connections. `request` makes one of its number, and `answered`
/// sees the answer, which had this status. Returns how long it took.
pub async fn fill(
    server: &Server,
    what: &str,
    connections: usize,
    count: u64,
    request: impl Fn(u64) -> Vec<u8> + 'static,
    answered: impl Fn(&Connection) -> Result<(), Failure> + 'static,
) -> Result<Duration, Failure> {
    let started = Instant::now();
    let next = Rc::new(Cell::new(0u64));
    let (request, answered) = (Rc::new(request), Rc::new(answered));
    let mut tasks = JoinSet::new();
    for _ in 0..connections.min(usize::try_from(count).unwrap_or(usize::MAX)) {
        let mut connection = server.connect().await?;
        let (next, request, answered) = (next.clone(), request.clone(), answered.clone());
        tasks.spawn_local(async move {
            while next.get() < count {
                let number = next.replace(next.get() + 1);
                connection.expect(201, &request(number)).await?;
                answered(&connection)?;
            }
            Ok::<_, Failure>(())
        });
    }
    let mut told = Instant::now();
    while !tasks.is_empty() {
        match tokio::time::timeout(Duration::from_secs(5), tasks.join_next()).await {
            Ok(Some(ended)) => ended??,
            Ok(None) => break,
            Err(_) => {}
        }
        if told.elapsed() >= Duration::from_secs(5) {
            told = Instant::now();
            let (done, seconds) = (next.get(), started.elapsed().as_secs_f64());
            eprintln!(
                "  {what}: {done} of {count}, {:.0}/s",
                done as f64 / seconds
            );
        }
    }
    Ok(started.elapsed())
}

/// What a run of writers saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Microseconds of each 201.
    pub accepted: Vec<u32>,
    /// Microseconds of each 503 `overloaded`.
    pub refused: Vec<u32>,
    /// 503s without a `Retry-After`.
    pub without_retry_after: u64,
    /// Why writers ended before they were told to; unexpected unless the server was killed.
    pub failures: Vec<Failure>,
}

/// Writers that go on until they are told to stop, or the server dies.
pub struct Writers {
    tasks: JoinSet<()>,
    seen: Rc<RefCell<Seen>>,
    stop: Rc<Cell<bool>>,
}

/// What a writer does when it is refused.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    /// Asks again at once.
    Rude,
    /// Waits as long as `Retry-After` says.
    Polite,
}

impl Writers {
    /// Opens all connections first, so that none of the load is theirs.
    pub async fn start(
        server: &Server,
        connections: usize,
        manners: Manners,
        request: impl Fn(usize, u64) -> Vec<u8> + 'static,
    ) -> Result<Self, Failure> {
        let (seen, stop) = (Rc::<RefCell<Seen>>::default(), Rc::new(Cell::new(false)));
        let (next, request) = (Rc::new(Cell::new(0u64)), Rc::new(request));
        let mut opened = Vec::new();
        let mut opening = JoinSet::new();
        while opened.len() < connections {
            while opening.len() < OPENED_AT_ONCE && opened.len() + opening.len() < connections {
                opening.spawn_local(Connection::open_to_keep(server.address));
            }
            if let Some(connection) = opening.join_next().await {
                opened.push(connection??);
            }
        }
        let mut tasks = JoinSet::new();
        for (who, mut connection) in opened.into_iter().enumerate() {
            let (seen, stop) = (seen.clone(), stop.clone());
            let (next, request) = (next.clone(), request.clone());
            tasks.spawn_local(async move {
                while !stop.get() {
                    let number = next.replace(next.get() + 1);
                    let outcome = write(&mut connection, &request(who, number), &seen).await;
                    match outcome {
                        Ok(Some(wait)) if manners == Manners::Polite => {
                            tokio::time::sleep(Duration::from_secs(wait)).await;
                        }
                        Ok(_) => {}
                        Err(failure) => {
                            seen.borrow_mut().failures.push(failure);
                            return;
                        }
                    }
                }
            });
        }
        Ok(Self { tasks, seen, stop })
    }

    /// Forgets what was seen so far: the load has warmed up.
    pub fn forget(&self) {
        let failures = std::mem::take(&mut self.seen.borrow_mut().failures);
        *self.seen.borrow_mut() = Seen {
            failures,
            ..Seen::default()
        };
    }

    /// How many writes were answered with 201.
    pub fn accepted(&self) -> usize {
        self.seen.borrow().accepted.len()
    }

    /// Takes what was seen until now.
    pub fn take(&self) -> Seen {
        std::mem::take(&mut self.seen.borrow_mut())
    }

    /// Lets every request under way end. Returns what was seen since the last take.
    pub async fn stop(mut self) -> Result<Seen, Failure> {
        self.stop.set(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended?;
        }
        Ok(self.seen.take())
    }
}

/// Writes once. Returns how many seconds to wait if it was refused.
async fn write(
    connection: &mut Connection,
    request: &[u8],
    seen: &RefCell<Seen>,
) -> Result<Option<u64>, Failure> {
    let answer = connection.ask(request).await?;
    let micros = u32::try_from(answer.took.as_micros()).unwrap_or(u32::MAX);
    let mut seen = seen.borrow_mut();
    match answer.status {
        201 => {
            seen.accepted.push(micros);
            Ok(None)
        }
        503 if find_overloaded(connection.body()) => {
            seen.refused.push(micros);
            seen.without_retry_after += u64::from(answer.retry_after.is_none());
            Ok(Some(answer.retry_after.unwrap_or(1)))
        }
        status => Err(Failure(format!(
            "expected 201 or 503 overloaded, got {status}: {}",
            String::from_utf8_lossy(connection.body())
        ))),
    }
}

fn find_overloaded(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(body).is_ok_and(|body| body["code"] == "overloaded")
}
