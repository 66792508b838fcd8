//! The threads that connections live on.
//!
//! Each has a runtime of its own, so that all that a connection does is done on one thread: with threads that
//! share their work, each request woke another one to look for some, which took longer than many an answer.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// How long what was cut may hold up the end.
const CUT_WAIT: Duration = Duration::from_secs(1);

/// Threads with a runtime each; none of their own if they are the caller's.
#[derive(Debug)]
pub(crate) struct Workers(Vec<Worker>);

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    /// Connections that live here.
    load: Arc<AtomicUsize>,
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Workers {
    /// Starts so many threads. With none, everything runs on the caller's runtime: for tests, which move its
    /// clock.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub(crate) fn start(threads: usize) -> io::Result<Self> {
        (1..=threads)
            .map(Worker::start)
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Runs a connection on the thread that has the fewest.
    pub(crate) fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let load = |worker: &&Worker| worker.load.load(Ordering::Relaxed);
        let Some(worker) = self.0.iter().min_by_key(load) else {
            tokio::spawn(connection);
            return;
        };
        let one = One::of(&worker.load);
        worker.runtime.spawn(async move {
            connection.await;
            drop(one);
        });
    }

    /// Cuts what is left on the threads, and waits a moment for them to end.
    pub(crate) async fn end(self) {
        let mut ending = Vec::new();
        for worker in self.0 {
            // A thread that is gone needs no word.
            let _ = worker.end.send(());
            ending.push(worker.ended);
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

impl Worker {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ending) = oneshot::channel();
        let (told, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                let _ = runtime.block_on(ending);
                runtime.shutdown_timeout(CUT_WAIT);
                drop(told);
            })?;
        Ok(Self {
            runtime: handle,
            load: Arc::default(),
            end,
            ended,
        })
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
        let workers = Workers::start(2).unwrap();
        let loads = || workers.0.iter().map(|w| w.load.load(Ordering::Relaxed));
        let mut open = Vec::new();
        for _ in 0..6 {
            let (close, closed) = oneshot::channel::<()>();
            let (says, said) = oneshot::channel();
            workers.spawn(async move {
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
    async fn without_threads_it_is_the_callers_runtime() {
        // Shows that a test's runtime, whose clock stands still, runs connections itself.
        let workers = Workers::start(0).unwrap();
        let (says, said) = oneshot::channel();
        workers.spawn(async move {
            let _ = says.send(std::thread::current().id());
        });
        assert_eq!(said.await, Ok(std::thread::current().id()));
        workers.end().await;
    }
}
