//! The only reader of wall time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::Utc;

use crate::domain::time::Timestamp;

/// Tells the time: the system's, or one that a test sets.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The system's clock.
    #[default]
    System,
    /// A clock that stands still until somebody moves it.
    Manual(ManualClock),
}

/// A clock that a test moves. Clones share the time.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// Makes a clock that stands at `start`.
    #[must_use]
    pub fn new(start: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(start.micros())))
    }

    /// Moves the clock, backwards too.
    pub fn set(&self, to: Timestamp) {
        self.0.store(to.micros(), Ordering::SeqCst);
    }

    /// Moves the clock by seconds, back if negative.
    pub fn advance(&self, seconds: i64) {
        self.set(Timestamp::from_micros(self.0.load(Ordering::SeqCst)).plus_seconds(seconds));
    }
}

impl Clock {
    /// Returns the time.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that may ask the system"
    )]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => Timestamp::from(Utc::now()),
            Self::Manual(clock) => Timestamp::from_micros(clock.0.load(Ordering::SeqCst)),
        }
    }
}

/// Notices that wall time was set back: it is told the time now and then, beside one that never goes back.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepWatch {
    last: Option<(Duration, Timestamp)>,
}

impl StepWatch {
    /// Steps back up to so many seconds are none: clocks are corrected.
    pub const STEP_SECONDS_MIN: i64 = 60;

    /// Takes the time `wall`, at `elapsed` of a clock that never goes back. Returns by how many seconds wall
    /// time was set back since it was told last, below 0, if they are more than 60.
    ///
    /// A clock that stands still is not taken for one that was set back, and one that was set forward is not
    /// noticed at all.
    pub fn look(&mut self, elapsed: Duration, wall: Timestamp) -> Option<i64> {
        let (then, before) = self.last.replace((elapsed, wall))?;
        let passed = i64::try_from(elapsed.saturating_sub(then).as_micros()).unwrap_or(i64::MAX);
        let expected = before.micros().saturating_add(passed);
        let step = wall.micros().saturating_sub(expected).div_euclid(1_000_000);
        let is_back = wall < before && step < Self::STEP_SECONDS_MIN.saturating_neg();
        is_back.then_some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_is_noticed_once() {
        // Shows that the step is told exactly, once, and that small ones, a clock that stands still and one
        // that is set forward are none.
        let mut watch = StepWatch::default();
        let mut look = |elapsed: u64, wall: i64| {
            let wall = Timestamp::from_micros(wall * 1_000_000);
            watch.look(Duration::from_secs(elapsed), wall)
        };
        let told: Vec<_> = [
            (0, 1_000_000),
            (10, 1_000_010),
            (20, 1_000_010 - 50),  // 60 s back of what it should be
            (30, 1_000_010 - 101), // 61 s
            (40, 1_000_000 - 81),
            (50, 996_400),
            (60, 996_410),
            (70, 2_000_000),
            (80, 2_000_000),
            (9_000, 2_000_000),
            (9_010, 2_000_010),
        ]
        .into_iter()
        .map(|(elapsed, wall)| look(elapsed, wall))
        .collect();
        let none = None;
        let expected = [
            none,
            none,
            none,
            Some(-61),
            none,
            Some(-3_529),
            none,
            none,
            none,
            none,
            none,
        ];
        assert_eq!(told, expected);
    }
}
