//! The threads that connections live on.
//!
//! Each has a runtime of its own, so that all that a connection does is done on one thread: with threads that
//! share their work, each request woke another one to look for some, which took longer than many an answer.
//!
//! Where threads outnumber processors, a worker that is woken waits until the thread that runs has ended its turn:
//! see [`wait_for_turn`].

use std::cell::OnceCell;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// How long what was cut may hold up the end.
const CUT_WAIT: Duration = Duration::from_secs(1);

/// What a thread's load is more while it may block: so no connection is given to it.
const BLOCKED: usize = 1 << 31;

thread_local! {
    /// The load of the worker whose thread this is, if there are others.
    static LOAD: OnceCell<Arc<AtomicUsize>> = const { OnceCell::new() };
}

/// Threads with a runtime each; one that is the caller's if there are none of their own. Each has a `T`.
#[derive(Debug)]
pub(crate) struct Workers<T>(Vec<Worker<T>>);

#[derive(Debug)]
struct Worker<T> {
    runtime: Handle,
    own: T,
    /// Connections that live here, and requests of HTTP/2; [`BLOCKED`] more while the thread may block.
    load: Arc<AtomicUsize>,
    /// None of the caller's runtime.
    thread: Option<Thread>,
}

#[derive(Debug)]
struct Thread {
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl<T> Workers<T> {
    /// Starts so many threads, with what `make` makes for each. With none, everything runs on the caller's runtime:
    /// for tests, which move its clock.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub(crate) fn start(threads: usize, make: impl Fn() -> T) -> io::Result<Self> {
        if threads == 0 {
            let only = Worker {
                runtime: Handle::current(),
                own: make(),
                load: Arc::default(),
                thread: None,
            };
            return Ok(Self(vec![only]));
        }
        let start = |number| {
            let load = Arc::default();
            // One that is the only one never blocks: there would be nobody to take connections meanwhile.
            let own_load = (threads > 1).then(|| Arc::clone(&load));
            let (runtime, thread) = Thread::start(number, own_load)?;
            Ok(Worker {
                runtime,
                own: make(),
                load,
                thread: Some(thread),
            })
        };
        (1..=threads)
            .map(start)
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Runs a connection on the thread that has the fewest. `connect` makes it, of what that thread has.
    pub(crate) fn spawn<C>(&self, connect: impl FnOnce(&T) -> C)
    where
        C: Future<Output = ()> + Send + 'static,
    {
        let (worker, one) = loop {
            let loads = self.0.iter().map(|w| (w, w.load.load(Ordering::Relaxed)));
            let Some((worker, load)) = loads.min_by_key(|(_, load)| *load) else {
                return; // there is always one
            };
            // Not if it has changed: the thread may block now.
            if let Some(one) = One::after(load, &worker.load) {
                break (worker, one);
            }
        };
        let connection = connect(&worker.own);
        worker.runtime.spawn(async move {
            connection.await;
            drop(one);
        });
    }

    /// Cuts what is left on the threads, and waits a moment for them to end.
    pub(crate) async fn end(self) {
        let mut ending = Vec::new();
        for thread in self.0.into_iter().filter_map(|worker| worker.thread) {
            // A thread that is gone needs no word.
            let _ = thread.end.send(());
            ending.push(thread.ended);
        }
        let all = async {
            for ended in ending {
                let _ = ended.await;
            }
        };
        if tokio::time::timeout(CUT_WAIT, all).await.is_err() {
            log::warn!("a request that was cut is still at work");
        }
    }
}

impl Thread {
    fn start(number: usize, load: Option<Arc<AtomicUsize>>) -> io::Result<(Handle, Self)> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ending) = oneshot::channel();
        let (told, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                wait_for_turn();
                if let Some(load) = load {
                    LOAD.with(|own| drop(own.set(load)));
                }
                let _ = runtime.block_on(ending);
                runtime.shutdown_timeout(CUT_WAIT);
                drop(told);
            })?;
        Ok((handle, Self { end, ended }))
    }
}

/// Makes the calling thread one that takes a processor over from nobody when it is woken (`SCHED_BATCH`, sched(7)):
/// it begins when a processor is free, or at the end of the running thread's turn, a few milliseconds at most.
///
/// Otherwise the first of many bytes that a busy client or proxy on this machine sends stops that client: each
/// request then costs two switches of threads, and the other processor stands still meanwhile. So there are some
/// dozens of requests in a turn: half as many `GET /credits` again from `wrk` on the same two processors.
///
/// Neither the share of the processors nor the niceness changes, no privilege is needed, and what the system
/// refuses (a sandbox may) costs speed only.
#[expect(unsafe_code, reason = "no library has it without the niceness")]
fn wait_for_turn() {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread, and `none` is read during the call only.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const none) } != 0 {
        let why = io::Error::last_os_error();
        log::debug!("the system does not let a worker wait for its turn: {why}");
    }
}

/// One connection of a thread's load, or one request, until it is dropped.
pub(crate) struct One(Arc<AtomicUsize>);

impl One {
    /// Counts it, if the load is still what was seen.
    fn after(seen: usize, load: &Arc<AtomicUsize>) -> Option<Self> {
        let more = seen.saturating_add(1);
        load.compare_exchange(seen, more, Ordering::Relaxed, Ordering::Relaxed)
            .ok()
            .map(|_| Self(Arc::clone(load)))
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a request of the calling worker as a connection of its own: one of HTTP/2, whose connection others share.
pub(crate) fn one_more() -> Option<One> {
    LOAD.with(|load| {
        let load = load.get()?;
        load.fetch_add(1, Ordering::Relaxed);
        Some(One(Arc::clone(load)))
    })
}

/// The right of the calling thread to block: nobody waits for it but the one connection whose request it is at, and
/// while this lives no connection is given to it.
pub(crate) struct Alone(Arc<AtomicUsize>);

impl Drop for Alone {
    fn drop(&mut self) {
        self.0.fetch_sub(BLOCKED, Ordering::Relaxed);
    }
}

/// Gives the right to block to a worker that has one connection, if there are other workers. Only one worker at a time may
/// have it: the others take the connections that come.
pub(crate) fn alone() -> Option<Alone> {
    LOAD.with(|load| {
        let load = load.get()?;
        let blocked = BLOCKED.saturating_add(1);
        load.compare_exchange(1, blocked, Ordering::Relaxed, Ordering::Relaxed)
            .ok()
            .map(|_| Alone(Arc::clone(load)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_spread_and_each_stays_on_one_thread() {
        // Shows that as many connections live on one thread as on another, that one that ends makes room, and
        // that the end cuts those that are left.
        let workers = Workers::start(2, || ()).unwrap();
        let loads = || workers.0.iter().map(|w| w.load.load(Ordering::Relaxed));
        let mut open = Vec::new();
        for _ in 0..6 {
            let (close, closed) = oneshot::channel::<()>();
            let (says, said) = oneshot::channel();
            workers.spawn(|()| async move {
                let before = std::thread::current().id();
                let _ = closed.await;
                let _ = says.send(before == std::thread::current().id());
            });
            open.push((close, said));
        }
        assert_eq!(loads().collect::<Vec<_>>(), [3, 3]);
        let (close, said) = open.pop().unwrap();
        close.send(()).unwrap();
        assert_eq!(said.await, Ok(true));
        workers.end().await;
        for (_close, said) in open {
            assert!(said.await.is_err());
        }
    }

    #[tokio::test]
    async fn a_worker_blocks_for_its_only_connection_and_gets_no_other() {
        // Shows that a thread may block for the one connection that it has; that others go elsewhere while it does,
        // although it has fewer; and that it may not if there are two, if a second request shares the connection, if
        // it is the only thread, or none of the workers'.
        let says = async |threads, ask: fn() -> bool| {
            let workers = Workers::start(threads, || ()).unwrap();
            let (says, said) = oneshot::channel();
            workers.spawn(move |()| async move {
                let _ = says.send(ask());
            });
            let said = said.await;
            workers.end().await;
            said.unwrap()
        };
        assert!(says(2, || alone().is_some()).await);
        assert!(says(2, || alone().is_some_and(|_alone| alone().is_none())).await);
        assert!(says(2, || one_more().is_some_and(|_one| alone().is_none())).await);
        assert!(says(1, || alone().is_none()).await);
        assert!(alone().is_none());

        let workers = Workers::start(2, || ()).unwrap();
        let (blocking, blocks) = oneshot::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        workers.spawn(|()| async move {
            let alone = alone();
            let _ = blocking.send(alone.is_some());
            let _ = ended.recv();
        });
        assert_eq!(blocks.await, Ok(true));
        let mut others = Vec::new();
        for is_first in [true, false, false] {
            let (close, closed) = oneshot::channel::<()>();
            let (says, said) = oneshot::channel();
            workers.spawn(|()| async move {
                let is_alone = alone().is_some(); // no more when it says so
                let _ = says.send(is_alone);
                let _ = closed.await;
            });
            assert_eq!(said.await, Ok(is_first));
            others.push(close);
        }
        let loads = workers.0.iter().map(|w| w.load.load(Ordering::Relaxed));
        assert_eq!(loads.collect::<Vec<_>>(), [BLOCKED + 1, 3]);
        end.send(()).unwrap();
        drop(others);
        workers.end().await;
    }

    #[tokio::test]
    async fn workers_wait_for_their_turn() {
        // Shows that each thread has the policy that takes a processor over from nobody, and the caller's has its own.
        let policy = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let after_name = stat.rsplit(')').next().unwrap();
            after_name.split_whitespace().nth(38).unwrap().to_owned() // the 41st field: proc_pid_stat(5)
        };
        let workers = Workers::start(2, || ()).unwrap();
        for _ in 0..2 {
            let (says, said) = oneshot::channel();
            workers.spawn(|()| async move {
                let _ = says.send(policy());
                std::future::pending::<()>().await;
            });
            assert_eq!(said.await.as_deref(), Ok("3")); // SCHED_BATCH
        }
        assert_eq!(policy(), "0"); // SCHED_OTHER
        workers.end().await;
    }

    #[tokio::test]
    async fn without_threads_it_is_the_callers_runtime() {
        // Shows that a test's runtime, whose clock stands still, runs connections itself.
        let workers = Workers::start(0, || ()).unwrap();
        let (says, said) = oneshot::channel();
        workers.spawn(|()| async move {
            let _ = says.send(std::thread::current().id());
        });
        assert_eq!(said.await, Ok(std::thread::current().id()));
        workers.end().await;
    }
}
