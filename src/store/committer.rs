//! Group commit: one thread makes writes durable, many at a time.
//!
//! A write is applied in memory first and then waits here. The thread collects waiters, flushes the
//! database once, and tells them all. What a read debits does not wait, but marks the database dirty,
//! and the thread flushes that within [`TICK`]. Who writes alone flushes by itself: to hand it to the thread and back
//! takes about as long as a fast disk's flush.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::StoreError;
use super::high_water::{HighWater, Mark};
use super::locks::lock;
use super::usages::Usages;
use super::waiters::{self, Gathered, Waiters};
use super::watchdog::{self, Flushing, TICKS_MAX};
use crate::workers;

/// Longest time for which a debit without a write may stay in memory only, less the flush itself.
const TICK: Duration = Duration::from_millis(200);
/// Accounts whose reads are written before one flush: who writes waits for that.
const READS_SLICE: usize = 128;
/// Longest wait for more company before a flush.
const GATHER: Duration = Duration::from_micros(1_500);
/// So many who may come are not waited for: the flush for those who are there takes no longer than their coming.
const FEW: usize = 8;
/// So many flushes for one writer each show that it writes alone.
const LONE: u32 = 16;

/// Time between two raises of the high-water mark, while there are writes.
const MARK_EVERY: Duration = Duration::from_secs(5);

/// The flush failed, now or before: nothing more is made durable until the store is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Poisoned;

/// State that the committer shares with those who wait for it.
struct Shared {
    poisoned: AtomicBool,
    /// Remembers, for whoever opens the files next, that a write or flush of them has failed.
    remember: Box<dyn Fn() + Send + Sync>,
    /// Rung once when writes are stopped.
    alarm: Arc<Notify>,
    /// Held by who flushes.
    turn: Mutex<()>,
    /// Flushes of the thread since two came for one, or somebody found another one at it.
    lone_flushes: AtomicU32,
    flushing: Arc<Flushing>,
    dirty: AtomicBool,
    waiters: Waiters,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// The handle of the committer's thread. Dropping it flushes once more and ends the thread.
#[derive(Debug)]
pub(crate) struct Committer {
    db: sled::Db,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Ends the watchdog when it is dropped.
    _watchdog: Sender<()>,
}

impl Committer {
    /// Starts the thread on this database. When writes are stopped, `remember` is called before anybody is
    /// told, and `alarm` rings; `on_hung` is called if it is because a flush does not end.
    pub(super) fn start(
        db: sled::Db,
        mut high_water: HighWater,
        usages: Arc<Usages>,
        remember: Box<dyn Fn() + Send + Sync>,
        alarm: Arc<Notify>,
        on_hung: fn(),
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            poisoned: AtomicBool::new(false),
            remember,
            alarm,
            turn: Mutex::new(()),
            lone_flushes: AtomicU32::new(0),
            flushing: Arc::default(),
            dirty: AtomicBool::new(false),
            waiters: Waiters::default(),
        });
        let (state, own_db) = (Arc::clone(&shared), db.clone());
        let thread = std::thread::Builder::new()
            .name("committer".to_owned())
            .spawn(move || {
                let committing = AssertUnwindSafe(|| run(&db, &mut high_water, &usages, &state));
                if catch_unwind(committing).is_err() {
                    poison(&state, &"a flush panicked");
                }
                state.waiters.end();
            })?;
        let (end, ended) = channel();
        // Weak: nobody waits for that thread to end, and what is shared has the directory's lock.
        let state = Arc::downgrade(&shared);
        watchdog::start(Arc::clone(&shared.flushing), ended, TICKS_MAX, move || {
            // Nothing is written for it: that would hang as well. An error that the flush may yet have
            // is kept by Linux for whoever opens the files next.
            if let Some(state) = state.upgrade()
                && stop(&state, &"a flush has not ended for 10 s")
            {
                state.alarm.notify_one();
            }
            on_hung();
        })?;
        Ok(Self {
            db: own_db,
            shared,
            thread: Some(thread),
            _watchdog: end,
        })
    }

    /// Waits until everything that was written before the call is on the disk.
    pub(super) async fn flushed(&self) -> Result<(), Poisoned> {
        if let Some(outcome) = self.flush_here() {
            return outcome;
        }
        let told = self.shared.waiters.join(Handle::try_current().ok())?;
        told.await.unwrap_or(Err(Poisoned))
    }

    /// Flushes on the calling thread, if nobody else writes and that keeps nobody else waiting. Two who write would
    /// take turns, where one flush of the thread serves both.
    fn flush_here(&self) -> Option<Result<(), Poisoned>> {
        let lone_flushes = &self.shared.lone_flushes;
        if lone_flushes.load(Ordering::Relaxed) < LONE {
            return None;
        }
        // Given back last: one thread at a time blocks.
        let Ok(_turn) = self.shared.turn.try_lock() else {
            lone_flushes.store(0, Ordering::Relaxed);
            return None;
        };
        let _alone = workers::alone()?;
        // For the high-water mark, which the thread raises when something was written.
        self.mark_dirty();
        let flushing = AssertUnwindSafe(|| flush(&self.db, &self.shared, || Ok(())));
        let outcome = catch_unwind(flushing).unwrap_or_else(|_| {
            poison(&self.shared, &"a flush panicked");
            Err(Poisoned)
        });
        Some(outcome)
    }

    /// As [`Self::flushed`], on a thread that may block.
    pub(super) fn flushed_blocking(&self) -> Result<(), Poisoned> {
        let told = self.shared.waiters.join(None)?;
        told.blocking_recv().unwrap_or(Err(Poisoned))
    }

    /// Says that something was written which nobody waits for.
    pub(super) fn mark_dirty(&self) {
        self.shared.dirty.store(true, Ordering::Release);
    }

    /// Stops all further writes: the disk failed.
    pub(super) fn poison(&self, why: &dyn std::fmt::Display) {
        poison(&self.shared, why);
    }

    /// Stops all further writes and rings nobody.
    pub(super) fn poison_for_test(&self) {
        self.shared.poisoned.store(true, Ordering::Release);
    }

    /// Says whether writes are stopped.
    pub(super) fn is_poisoned(&self) -> bool {
        self.shared.poisoned.load(Ordering::Acquire)
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.shared.waiters.close();
        if let Some(thread) = self.thread.take() {
            // The thread does not panic; if it did, there is nothing left to save here.
            drop(thread.join());
        }
    }
}

fn poison(shared: &Shared, why: &dyn std::fmt::Display) {
    if stop(shared, why) {
        (shared.remember)();
        shared.alarm.notify_one();
    }
}

/// Stops writes; says whether they were not before.
fn stop(shared: &Shared, why: &dyn std::fmt::Display) -> bool {
    let is_first = !shared.poisoned.swap(true, Ordering::AcqRel);
    if is_first {
        log::error!("writes are stopped until the database is opened anew: {why}");
    }
    is_first
}

fn run(db: &sled::Db, high_water: &mut HighWater, usages: &Usages, shared: &Shared) {
    let mut expected: usize = 1;
    let mut reads = Reads::default();
    // Whether anything was written since the mark was raised, and when that was.
    let (mut unmarked, mut marked_at) = (false, Instant::now());
    loop {
        let enough = worth_a_wait(expected);
        let idle = reads.idle(usages);
        let Gathered { batch, end } = shared.waiters.gather(idle, enough, GATHER);
        // Cleared before the flush: what is marked from now on belongs to the next one.
        let dirty = shared.dirty.swap(false, Ordering::AcqRel) || usages.are_reads_due();
        unmarked |= dirty || !batch.is_empty();
        if dirty || end || !batch.is_empty() {
            let turn = lock(&shared.turn);
            let raises = unmarked && (end || marked_at.elapsed() >= MARK_EVERY);
            let mut mark = None;
            let outcome = flush(db, shared, || {
                mark = raises.then(|| raise(high_water)).flatten();
                reads.write(usages, end)
            });
            if outcome.is_err() {
                reads = Reads::default();
            }
            let served = batch.len();
            let left = shared.waiters.count();
            waiters::tell(batch, outcome);
            expected = served.saturating_add(left);
            let before = shared.lone_flushes.load(Ordering::Relaxed);
            let lone_flushes = lone_flushes(before, served, left);
            shared.lone_flushes.store(lone_flushes, Ordering::Relaxed);
            // Only now that the count is on the disk, and nobody waits.
            if let Some(mark) = mark.filter(|_| outcome.is_ok()) {
                shared.flushing.turn();
                mark.write();
                shared.flushing.turn();
                (unmarked, marked_at) = (false, Instant::now());
            }
            drop(turn);
        }
        if end {
            return;
        }
    }
}

/// How many to wait for, a moment at most, if so many may come: as many as the last time. A flush for each straggler costs
/// more than the wait for most of them, but the last ones come late.
fn worth_a_wait(expected: usize) -> usize {
    expected.saturating_sub(FEW).saturating_mul(4) / 5
}

/// How many flushes in a row have served one writer each, after one that has served so many, while others came.
fn lone_flushes(before: u32, served: usize, left: usize) -> u32 {
    match (served, left) {
        (0, 0) => before, // for nobody: what was read, or written by who flushed it
        (1, 0) => before.saturating_add(1),
        _ => 0,
    }
}

/// Counts up, if the database lets us: the flush that follows tells if it has failed.
fn raise(high_water: &mut HighWater) -> Option<Mark> {
    let raised = high_water.raise();
    raised
        .inspect_err(|error| log::warn!("the high-water mark could not be raised: {error}"))
        .ok()
}

/// When what reads have debited is written.
#[derive(Debug)]
struct Reads {
    written_at: Instant,
    /// Whether the last slice has left some.
    are_more: bool,
}

impl Default for Reads {
    fn default() -> Self {
        Self {
            written_at: Instant::now(),
            are_more: false,
        }
    }
}

impl Reads {
    /// How long to wait for somebody who writes.
    fn idle(&self, usages: &Usages) -> Duration {
        if self.are_more {
            Duration::ZERO
        } else if usages.are_reads_due() {
            TICK.saturating_sub(self.written_at.elapsed())
        } else {
            TICK
        }
    }

    /// Writes a slice of them, if it is time; all of them at the end.
    fn write(&mut self, usages: &Usages, end: bool) -> Result<(), StoreError> {
        if !end && !self.are_more && self.written_at.elapsed() < TICK {
            return Ok(());
        }
        let most = if end { usize::MAX } else { READS_SLICE };
        self.are_more = usages.write_reads(most)?;
        if !self.are_more {
            self.written_at = Instant::now();
        }
        Ok(())
    }
}

/// Runs `first` and flushes the database, under the eyes of the watchdog.
fn flush(
    db: &sled::Db,
    shared: &Shared,
    first: impl FnOnce() -> Result<(), StoreError>,
) -> Result<(), Poisoned> {
    if shared.poisoned.load(Ordering::Acquire) {
        return Err(Poisoned);
    }
    shared.flushing.turn();
    let outcome = first().and_then(|()| Ok(db.flush()?));
    shared.flushing.turn();
    outcome.map(drop).map_err(|error| {
        poison(shared, &error);
        Poisoned
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_not_waited_for_and_of_many_most() {
        // Shows the rule at its bounds: up to eight are flushed for at once, of 64 two thirds are awaited, and never all.
        let rule = [0, 1, 8, 9, 10, 16, 64, 128, 1_000].map(worth_a_wait);
        assert_eq!(rule, [0, 0, 0, 0, 1, 6, 44, 96, 793]);
    }

    #[test]
    fn two_at_one_flush_are_company() {
        // Shows that only a flush for one, while nobody came, counts; that one for nobody changes nothing; and that two,
        // or one who came meanwhile, begin the count anew.
        let after = [(1, 0), (0, 0), (2, 0), (1, 1), (0, 1)];
        let after = after.map(|(served, left)| lone_flushes(LONE, served, left));
        assert_eq!(after, [LONE + 1, LONE, 0, 0, 0]);
    }
}
