//! The watchdog: notices a flush that does not end, which no error tells of.
//!
//! It counts ticks of its own and reads no clock: a process that was stopped for an hour has missed the
//! ticks of that hour, and a step of the time of day moves none. Only a disk that really keeps a flush
//! waiting, or a database that waits for itself, lets ten ticks go by.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// One tick.
const TICK: Duration = Duration::from_secs(1);
/// Ticks that a flush, or another wait for the disk, may take.
pub(super) const TICKS_MAX: u32 = 10;

/// The flush under way, as the committer tells it to the watchdog.
#[derive(Debug, Default)]
pub(super) struct Flushing(AtomicU64);

impl Flushing {
    /// A flush begins or ends: odd while one is under way.
    pub(super) fn turn(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// How long the same flush has been under way, in ticks.
#[derive(Debug, Default)]
struct Watch {
    seen: u64,
    ticks: u32,
}

impl Watch {
    /// Looks at the flush; says whether it has taken too long.
    fn tick(&mut self, flush: u64, ticks_max: u32) -> bool {
        if flush.is_multiple_of(2) || flush != self.seen {
            *self = Self {
                seen: flush,
                ticks: 0,
            };
            return false;
        }
        self.ticks = self.ticks.saturating_add(1);
        self.ticks > ticks_max
    }
}

/// Runs something that waits for the disk, under a watchdog of its own that lets it take `ticks_max`.
pub(super) fn watched<T>(
    what: &'static str,
    ticks_max: u32,
    on_hung: fn(),
    work: impl FnOnce() -> T,
) -> std::io::Result<T> {
    let flushing = Arc::new(Flushing::default());
    let (stop, stopped) = channel();
    start(Arc::clone(&flushing), stopped, ticks_max, move || {
        log::error!("{what} has not ended for {ticks_max} s");
        on_hung();
    })?;
    flushing.turn();
    let done = work();
    drop(stop);
    Ok(done)
}

/// Starts the watchdog. It ends with `stop`'s other end, or after it has called `on_hung`.
pub(super) fn start(
    flushing: Arc<Flushing>,
    stop: Receiver<()>,
    ticks_max: u32,
    on_hung: impl FnOnce() + Send + 'static,
) -> std::io::Result<()> {
    let watch = move || {
        let mut watch = Watch::default();
        while stop.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            if watch.tick(flushing.now(), ticks_max) {
                on_hung();
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("watchdog".to_owned())
        .spawn(watch)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shows that one flush of eleven ticks is too long, and that many short ones never are.
    #[test]
    fn only_a_flush_that_stays_is_hung() {
        let flushing = Flushing::default();
        let mut watch = Watch::default();
        for _ in 0..100 {
            flushing.turn();
            assert!(!watch.tick(flushing.now(), TICKS_MAX));
            flushing.turn();
            assert!(!watch.tick(flushing.now(), TICKS_MAX));
        }
        flushing.turn();
        let hung: Vec<bool> = (0..12)
            .map(|_| watch.tick(flushing.now(), TICKS_MAX))
            .collect();
        // The first look only sees that it is there.
        assert_eq!(hung.iter().position(|hung| *hung), Some(11));
        flushing.turn();
        assert!(!watch.tick(flushing.now(), TICKS_MAX));
    }
}
