//! Those who wait for the next flush. They gather without waking the thread that flushes for each of them.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::committer::Poisoned;
use super::locks::lock;

/// Somebody who waits, to be told how the flush ended.
#[derive(Debug)]
pub(super) struct Waiter {
    done: oneshot::Sender<Result<(), Poisoned>>,
    /// Where it waits, if it is a task.
    runtime: Option<Handle>,
}

/// Tells those who wait how the flush ended. The tasks of a runtime are told by one of its own: to wake each from
/// here would be a system call each.
pub(super) fn tell(mut batch: Vec<Waiter>, outcome: Result<(), Poisoned>) {
    while let Some(last) = batch.last() {
        let id = last.runtime.as_ref().map(Handle::id);
        let is_of = |waiter: &mut Waiter| waiter.runtime.as_ref().map(Handle::id) == id;
        let mut group: Vec<Waiter> = batch.extract_if(.., is_of).collect();
        let runtime = group.last_mut().and_then(|waiter| waiter.runtime.take());
        let tell_all = move || {
            for waiter in group {
                // One that is gone was a client that hung up; its write stands.
                let _ = waiter.done.send(outcome);
            }
        };
        match runtime {
            Some(runtime) => drop(runtime.spawn(async move { tell_all() })),
            None => tell_all(),
        }
    }
}

/// The queue of those who wait.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    state: Mutex<State>,
    called: Condvar,
}

#[derive(Debug)]
struct State {
    waiting: Vec<Waiter>,
    /// How many must wait for the thread to be woken.
    enough: usize,
    /// Nobody will come any more, once those who wait are served.
    closed: bool,
    /// Nobody is served any more.
    ended: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            waiting: Vec::new(),
            enough: usize::MAX,
            closed: false,
            ended: false,
        }
    }
}

/// What [`Waiters::gather`] has found.
pub(super) struct Gathered {
    /// In the order in which they came.
    pub(super) batch: Vec<Waiter>,
    /// Whether they were the last.
    pub(super) end: bool,
}

impl Waiters {
    /// Waits for the next flush, as a task of `runtime` if there is one.
    ///
    /// # Errors
    ///
    /// [`Poisoned`] if there will be none.
    pub(super) fn join(
        &self,
        runtime: Option<Handle>,
    ) -> Result<oneshot::Receiver<Result<(), Poisoned>>, Poisoned> {
        let (done, told) = oneshot::channel();
        let waiter = Waiter { done, runtime };
        let mut state = lock(&self.state);
        if state.ended {
            return Err(Poisoned);
        }
        state.waiting.push(waiter);
        let is_enough = state.waiting.len() >= state.enough;
        drop(state);
        if is_enough {
            self.called.notify_one();
        }
        Ok(told)
    }

    /// Says how many wait.
    pub(super) fn count(&self) -> usize {
        lock(&self.state).waiting.len()
    }

    /// Waits `idle` at most for the first, and from then on `more` at most until they are `enough`. Takes all
    /// who wait then; nobody if none came.
    pub(super) fn gather(&self, idle: Duration, enough: usize, more: Duration) -> Gathered {
        let mut state = self.wait(idle, 1);
        if !state.waiting.is_empty() && state.waiting.len() < enough {
            drop(state);
            state = self.wait(more, enough);
        }
        Gathered {
            end: state.closed && state.waiting.is_empty(),
            batch: std::mem::take(&mut state.waiting),
        }
    }

    fn wait(&self, longest: Duration, enough: usize) -> std::sync::MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        state.enough = enough;
        let too_few = |state: &mut State| state.waiting.len() < enough && !state.closed;
        let waited = self.called.wait_timeout_while(state, longest, too_few);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        // While the thread is busy nobody needs to wake it.
        state.enough = usize::MAX;
        state
    }

    /// Says that nobody will come any more.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.called.notify_one();
    }

    /// Says that nobody is served any more: those who wait are told so.
    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        state.ended = true;
        state.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn it_waits_for_enough_and_no_longer() {
        // Shows that a gathering ends with the last who is awaited, long before its time is up, and that it takes
        // all who are there.
        let waiters = Arc::new(Waiters::default());
        let joining = Arc::clone(&waiters);
        let began = Instant::now();
        let thread = std::thread::spawn(move || {
            let joined: Vec<_> = (0..5).map(|_| joining.join(None).unwrap()).collect();
            joined
        });
        let mut served = 0;
        while served < 5 {
            let gathered = waiters.gather(LONG, 5 - served, LONG);
            assert!(!gathered.end);
            served += gathered.batch.len();
            tell(gathered.batch, Ok(()));
        }
        for done in thread.join().unwrap() {
            assert_eq!(done.blocking_recv(), Ok(Ok(())));
        }
        assert!(began.elapsed() < LONG);
        assert_eq!(waiters.count(), 0);
    }

    #[test]
    fn who_waits_is_served_before_the_end() {
        // Shows that a queue which is closed gives out those who wait first, and waits for nobody.
        let waiters = Waiters::default();
        let done = waiters.join(None).unwrap();
        waiters.close();
        let last = waiters.gather(LONG, 10, LONG);
        assert_eq!((last.batch.len(), last.end), (1, false));
        let none = waiters.gather(LONG, 10, LONG);
        assert_eq!((none.batch.len(), none.end), (0, true));
        drop(last);
        assert!(done.blocking_recv().is_err());
    }

    #[tokio::test]
    async fn each_is_told_where_it_waits() {
        // Shows that tasks of two runtimes and one that is no task are all told, in one batch.
        let other = tokio::runtime::Builder::new_multi_thread().build().unwrap();
        let waiters = Waiters::default();
        let here = Some(Handle::current());
        let there = Some(other.handle().clone());
        let joined: Vec<_> = [&here, &there, &None, &there, &here]
            .map(|runtime| waiters.join(runtime.clone()).unwrap())
            .into();
        let gathered = waiters.gather(LONG, 5, LONG);
        assert_eq!(gathered.batch.len(), 5);
        tell(gathered.batch, Err(Poisoned));
        for told in joined {
            assert_eq!(told.await, Ok(Err(Poisoned)));
        }
        other.shutdown_background();
    }

    #[test]
    fn nobody_waits_for_a_thread_that_is_gone() {
        // Shows that whoever waits when it ends is told, and that nobody can wait from then on.
        let waiters = Waiters::default();
        let done = waiters.join(None).unwrap();
        waiters.end();
        assert!(done.blocking_recv().is_err());
        assert!(matches!(waiters.join(None), Err(Poisoned)));
    }
}
