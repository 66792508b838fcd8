//! The threads that connections live on.
//!
//! Each has a runtime of its own, so that all that a connection does is done on one thread: with threads that
//! share their work, each request woke another one to look for some, which took longer than many an answer.
//!
//! Where threads outnumber processors, a worker that is woken waits until the thread that runs has ended its turn:
//! see [`wait_for_turn`].

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// How long what was cut may hold up the end.
const CUT_WAIT: Duration = Duration::from_secs(1);

/// Threads with a runtime each; one that is the caller's if there are none of their own. Each has a `T`.
#[derive(Debug)]
pub(crate) struct Workers<T>(Vec<Worker<T>>);

#[derive(Debug)]
struct Worker<T> {
    runtime: Handle,
    own: T,
    /// Connections that live here.
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
            return Ok(Self(vec![Worker::of(Handle::current(), make(), None)]));
        }
        let start = |number| {
            let (runtime, thread) = Thread::start(number)?;
            Ok(Worker::of(runtime, make(), Some(thread)))
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
        let load = |worker: &&Worker<T>| worker.load.load(Ordering::Relaxed);
        let Some(worker) = self.0.iter().min_by_key(load) else {
            return; // there is always one
        };
        let (one, connection) = (One::of(&worker.load), connect(&worker.own));
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

impl<T> Worker<T> {
    fn of(runtime: Handle, own: T, thread: Option<Thread>) -> Self {
        Self {
            runtime,
            own,
            load: Arc::default(),
            thread,
        }
    }
}

impl Thread {
    fn start(number: usize) -> io::Result<(Handle, Self)> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ending) = oneshot::channel();
        let (told, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                wait_for_turn();
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

/// One connection of a thread's load, until it is dropped.
struct One(Arc<AtomicUsize>);

impl One {
    fn of(load: &Arc<AtomicUsize>) -> Self {
        load.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(load))
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
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
                std::future::pending().await
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
