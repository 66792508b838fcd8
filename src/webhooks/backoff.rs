//! When a webhook that was not delivered is sent again.

use std::time::Duration;

use crate::domain::time::Timestamp;

/// Waits after the first failures; after the last of them it is always that long.
const DELAYS: [Duration; 6] = [
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(2 * 60),
    Duration::from_secs(10 * 60),
    Duration::from_secs(3_600),
    Duration::from_secs(6 * 3_600),
];
/// How long after the event it is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(3 * 24 * 3_600);
/// The most that chance adds to a wait, in parts of it.
const JITTER_PART: u32 = 5;

/// How long to wait after each failure, and how long in all.
#[derive(Clone, Debug)]
pub struct Schedule {
    delays: Vec<Duration>,
    give_up_after: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            delays: DELAYS.to_vec(),
            give_up_after: GIVE_UP_AFTER,
        }
    }
}

impl Schedule {
    /// Makes a schedule that never waits, for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn at_once() -> Self {
        Self {
            delays: vec![Duration::ZERO],
            give_up_after: GIVE_UP_AFTER,
        }
    }

    /// Returns when an event of the time `event_at` is sent again that has failed `failures` times, the
    /// last time at `now`. `None`: it is given up, since that would be more than three days after it.
    ///
    /// `jitter` is drawn by the caller: of 65,535, how much of a fifth is added to the wait, so that what
    /// failed together does not come back together.
    #[must_use]
    pub fn next(
        &self,
        event_at: Timestamp,
        failures: u32,
        now: Timestamp,
        jitter: u16,
    ) -> Option<Timestamp> {
        let nth = usize::try_from(failures)
            .unwrap_or(usize::MAX)
            .saturating_sub(1);
        let delay = *self.delays.get(nth).or(self.delays.last())?;
        let added = delay
            .saturating_mul(u32::from(jitter))
            .checked_div(u32::from(u16::MAX).saturating_mul(JITTER_PART))
            .unwrap_or_default();
        let next = now.plus(delay.saturating_add(added));
        (next <= event_at.plus(self.give_up_after)).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(from: Timestamp, to: Timestamp) -> i64 {
        (to.micros() - from.micros()) / 1_000_000
    }

    #[test]
    fn waits_grow_and_end_after_three_days() {
        let event_at = Timestamp::from_micros(1_767_225_600_000_000);
        let schedule = Schedule::default();
        let (mut now, mut waits) = (event_at, Vec::new());
        while let Some(next) =
            schedule.next(event_at, 1 + u32::try_from(waits.len()).unwrap(), now, 0)
        {
            waits.push(seconds(now, next));
            now = next;
        }
        // 10 s, 30 s, 2 min, 10 min, 1 h, then each 6 h as long as that is within 72 h.
        assert_eq!(waits[..5], [10, 30, 120, 600, 3_600]);
        assert_eq!(waits[5..], [21_600; 11]);
        assert!(seconds(event_at, now) > 66 * 3_600);
    }

    #[test]
    fn chance_adds_up_to_a_fifth() {
        let at = Timestamp::from_micros(0);
        let wait = |failures, jitter| {
            let next = Schedule::default().next(at, failures, at, jitter);
            seconds(at, next.unwrap())
        };
        assert_eq!((wait(1, 0), wait(1, u16::MAX)), (10, 12));
        assert_eq!((wait(5, 0), wait(5, u16::MAX / 2 + 1)), (3_600, 3_960));
        assert_eq!(wait(1_000, u16::MAX), 25_920);
    }

    #[test]
    fn what_was_sent_late_is_still_tried_but_not_again() {
        // The server was off for four days: the one attempt that was made is the last.
        let at = Timestamp::from_micros(0);
        let now = at.plus_seconds(4 * 86_400);
        assert_eq!(Schedule::default().next(at, 1, now, 0), None);
        assert_eq!(Schedule::at_once().next(at, 7, at, 9), Some(at));
    }
}
