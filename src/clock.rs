//! The only reader of wall time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

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
