//! Billing cycles: calendar months counted from an account's anchor.

use chrono::Months;

use super::time::Timestamp;

/// The half-open span `[start, end)` in which one grant of credits is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BillingCycle {
    /// How many boundaries lie between the anchor and `start`.
    pub index: u32,
    /// The first instant that belongs to the cycle.
    pub start: Timestamp,
    /// The first instant that belongs to the next one.
    pub end: Timestamp,
}

/// Returns boundary `index`: `anchor` plus `index` calendar months in UTC.
///
/// Counted from the anchor and never from the boundary before it, and a day that a month lacks becomes
/// that month's last: an anchor on 31 January gives 28 February, then 31 March. An instant beyond the
/// calendar's end (the year 262142) becomes the end.
#[must_use]
pub fn boundary(anchor: Timestamp, index: u32) -> Timestamp {
    anchor
        .to_datetime()
        .checked_add_months(Months::new(index))
        .map_or(Timestamp::from_micros(i64::MAX), Timestamp::from)
}

/// Returns the billing cycle that holds `now` for an account anchored on `anchor`.
///
/// An instant on a boundary belongs to the cycle that starts there. An instant before the anchor
/// belongs to cycle 0, so that a clock that stepped back before a sign-up harms nobody.
///
/// # Examples
///
/// ```
/// use memoryos::domain::{cycle::billing_cycle, time::Timestamp};
///
/// let at = |text| Timestamp::parse_rfc3339(text).unwrap();
/// let cycle = billing_cycle(at("2026-01-31T10:00:00Z"), at("2026-03-01T00:00:00Z"));
/// assert_eq!(cycle.start, at("2026-02-28T10:00:00Z"));
/// assert_eq!(cycle.end, at("2026-03-31T10:00:00Z")); // back on the 31st
/// ```
#[must_use]
pub fn billing_cycle(anchor: Timestamp, now: Timestamp) -> BillingCycle {
    let mut index = months_between(anchor, now);
    // The calendar's estimate is exact or one too high, never too low: a boundary falls into the
    // month that its index names.
    while index > 0 && boundary(anchor, index) > now {
        index = index.saturating_sub(1);
    }
    BillingCycle {
        index,
        start: boundary(anchor, index),
        end: boundary(anchor, index.saturating_add(1)),
    }
}

/// Returns an anchor and the index of a cycle of it that ends exactly at `end`.
///
/// For accounts of which only the end of the running cycle is known. Going back one month is enough
/// unless that month lacks the day (31 March would become 28 February, and 28 March again): then two
/// months back has it, since no two short months follow each other, and the cycle is the second one.
/// An end that is itself a clamped day, 28 February, is taken as it is: later cycles end on the 28th.
/// At the calendar's very beginning, where there is no month before, the anchor is `end` itself.
///
/// # Examples
///
/// ```
/// use memoryos::domain::{cycle::{anchor_of_end, boundary}, time::Timestamp};
///
/// let end = Timestamp::parse_rfc3339("2026-03-31T10:00:00Z").unwrap();
/// let (anchor, index) = anchor_of_end(end);
/// assert_eq!(boundary(anchor, index + 1), end);
/// assert_eq!(anchor, Timestamp::parse_rfc3339("2026-01-31T10:00:00Z").unwrap());
/// ```
#[must_use]
pub fn anchor_of_end(end: Timestamp) -> (Timestamp, u32) {
    for index in 0..2u32 {
        let months = index.saturating_add(1);
        let anchor = end
            .to_datetime()
            .checked_sub_months(Months::new(months))
            .map(Timestamp::from);
        if let Some(anchor) = anchor
            && boundary(anchor, months) == end
        {
            return (anchor, index);
        }
    }
    (end, 0)
}

/// Returns how many calendar months `now`'s month lies after `anchor`'s; 0 if it lies before.
fn months_between(anchor: Timestamp, now: Timestamp) -> u32 {
    use chrono::Datelike;
    let (a, n) = (anchor.to_datetime(), now.to_datetime());
    let months = |d: &chrono::DateTime<chrono::Utc>| {
        i64::from(d.year())
            .saturating_mul(12)
            .saturating_add(i64::from(d.month0()))
    };
    u32::try_from(months(&n).saturating_sub(months(&a)).max(0)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn boundaries_are_clamped_to_the_month_and_counted_from_the_anchor() {
        let anchor = at("2025-01-31T12:00:00Z");
        let days: Vec<_> = (0..5)
            .map(|n| boundary(anchor, n).to_string()[..10].to_owned())
            .collect();
        assert_eq!(
            days,
            [
                "2025-01-31",
                "2025-02-28",
                "2025-03-31",
                "2025-04-30",
                "2025-05-31"
            ]
        );
        assert_eq!(
            boundary(at("2024-01-31T00:00:00Z"), 1),
            at("2024-02-29T00:00:00Z")
        );
    }

    #[test]
    fn a_boundary_belongs_to_the_cycle_it_starts() {
        let anchor = at("2025-01-31T12:00:00Z");
        let last = billing_cycle(
            anchor,
            Timestamp::from_micros(boundary(anchor, 1).micros() - 1),
        );
        assert_eq!((last.index, last.end), (0, at("2025-02-28T12:00:00Z")));
        let first = billing_cycle(anchor, boundary(anchor, 1));
        assert_eq!((first.index, first.start), (1, at("2025-02-28T12:00:00Z")));
        assert_eq!(first.end, at("2025-03-31T12:00:00Z"));
    }

    #[test]
    fn before_the_anchor_is_the_first_cycle() {
        let anchor = at("2025-06-15T00:00:00Z");
        let cycle = billing_cycle(anchor, at("2020-01-01T00:00:00Z"));
        assert_eq!((cycle.index, cycle.start), (0, anchor));
    }

    #[test]
    fn cycles_tile_time() {
        let anchor = at("2023-10-31T23:59:59.999999Z");
        let mut now = anchor;
        let mut before = billing_cycle(anchor, now);
        for _ in 0..4_000 {
            now = now.plus_seconds(9 * 3_600);
            let cycle = billing_cycle(anchor, now);
            assert!(cycle.start <= now && now < cycle.end);
            assert!(
                cycle == before || (cycle.start == before.end && cycle.index == before.index + 1)
            );
            before = cycle;
        }
    }

    #[test]
    fn an_anchor_is_found_for_every_end() {
        let mut end = at("2023-12-01T14:39:51.248738Z");
        for _ in 0..(4 * 366) {
            let (anchor, index) = anchor_of_end(end);
            assert_eq!(boundary(anchor, index + 1), end, "{end}");
            assert!(index <= 1 && anchor < end, "{end}");
            // The day after the end is in the next cycle, and the one before in this one.
            assert_eq!(billing_cycle(anchor, end).index, index + 1, "{end}");
            let before = Timestamp::from_micros(end.micros() - 1);
            assert_eq!(billing_cycle(anchor, before).index, index, "{end}");
            end = end.plus_seconds(86_400);
        }
        assert_eq!(
            anchor_of_end(at("2024-03-29T00:00:00Z")),
            (at("2024-02-29T00:00:00Z"), 0)
        );
        assert_eq!(
            anchor_of_end(at("2025-03-29T00:00:00Z")),
            (at("2025-01-29T00:00:00Z"), 1)
        );
    }
}
