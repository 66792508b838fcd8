//! An instant: microseconds since the Unix epoch, UTC.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use chrono::{DateTime, Datelike, SecondsFormat, Timelike, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An instant in UTC with a resolution of one microsecond.
///
/// As JSON it is RFC 3339 with `+00:00` and six decimals, which sorts as text; in stored records it
/// is the signed number of microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// Microseconds in one second.
const MICROS_PER_SECOND: i64 = 1_000_000;
/// Microseconds in one day of UTC.
const MICROS_PER_DAY: u64 = 86_400_000_000;

impl Timestamp {
    /// Makes an instant from microseconds since the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Returns microseconds since the Unix epoch.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Returns whole milliseconds since the Unix epoch, 0 for instants before it.
    #[must_use]
    pub fn millis(self) -> u64 {
        u64::try_from(self.0.div_euclid(1_000)).unwrap_or(0)
    }

    /// Returns the instant `seconds` later (earlier if negative), clamped to what the type can hold.
    #[must_use]
    pub const fn plus_seconds(self, seconds: i64) -> Self {
        Self(
            self.0
                .saturating_add(seconds.saturating_mul(MICROS_PER_SECOND)),
        )
    }

    /// Returns the instant that much later, clamped to what the type can hold.
    #[must_use]
    pub fn plus(self, time: Duration) -> Self {
        let micros = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// Returns the whole seconds from `self` until `later`, rounded up; 0 if `later` has passed.
    #[must_use]
    pub fn seconds_until(self, later: Self) -> u64 {
        let micros = u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0);
        micros.div_ceil(MICROS_PER_SECOND.unsigned_abs())
    }

    /// Returns the whole days from `self` until `later`, rounded down; 0 if `later` has passed.
    #[must_use]
    pub fn days_until(self, later: Self) -> u64 {
        let micros = u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0);
        micros.div_euclid(MICROS_PER_DAY)
    }

    /// Returns the instant at which its day began, in UTC.
    #[must_use]
    pub fn day(self) -> Self {
        let day = i64::try_from(MICROS_PER_DAY).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(self.0.rem_euclid(day)))
    }

    /// Parses a date, `2026-01-31`, as the instant at which it begins in UTC. `None` if it is none.
    #[must_use]
    pub fn parse_date(text: &str) -> Option<Self> {
        let date = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
        Some(Self::from(date.and_time(chrono::NaiveTime::MIN).and_utc()))
    }

    /// Returns the same instant as chrono knows it; an instant out of chrono's range becomes its nearest bound.
    #[must_use]
    pub fn to_datetime(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).unwrap_or(if self.0 < 0 {
            DateTime::<Utc>::MIN_UTC
        } else {
            DateTime::<Utc>::MAX_UTC
        })
    }

    /// Parses RFC 3339 with any offset (`Z` included); what is finer than a microsecond is cut off.
    /// `None` if it is not RFC 3339.
    #[must_use]
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        DateTime::parse_from_rfc3339(text)
            .ok()
            .map(|at| Self(at.timestamp_micros()))
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(at: DateTime<Utc>) -> Self {
        Self(at.timestamp_micros())
    }
}

/// The bytes of an instant as text, all digits 0.
const TEXT: [u8; 32] = *b"0000-00-00T00:00:00.000000+00:00";

/// Writes a number into a span of digits, from its end.
fn put(text: &mut [u8], span: Range<usize>, mut number: u32) {
    for digit in text.get_mut(span).into_iter().flatten().rev() {
        *digit = b'0'.saturating_add(u8::try_from(number % 10).unwrap_or(0));
        number /= 10;
    }
}

impl Timestamp {
    /// Calls `with` with its text. Each answer has some of them: chrono takes six times as long.
    pub(crate) fn with_text<T>(self, with: impl FnOnce(&str) -> T) -> T {
        let at = self.to_datetime();
        let year = u32::try_from(at.year()).ok().filter(|year| *year <= 9_999);
        let Some(year) = year else {
            return with(&at.to_rfc3339_opts(SecondsFormat::Micros, false));
        };
        let mut text = TEXT;
        for (span, number) in [
            (0..4, year),
            (5..7, at.month()),
            (8..10, at.day()),
            (11..13, at.hour()),
            (14..16, at.minute()),
            (17..19, at.second()),
            (20..26, at.timestamp_subsec_micros()),
        ] {
            put(&mut text, span, number);
        }
        with(str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| f.write_str(text))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            self.with_text(|text| serializer.serialize_str(text))
        } else {
            serializer.serialize_i64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            Self::parse_rfc3339(&text).ok_or_else(|| serde::de::Error::custom("not RFC 3339"))
        } else {
            i64::deserialize(deserializer).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_utc_with_six_decimals_and_comes_back() {
        let at = Timestamp::parse_rfc3339("2025-01-20T15:30:00.000Z").unwrap();
        assert_eq!(at.to_string(), "2025-01-20T15:30:00.000000+00:00");
        let shifted = Timestamp::parse_rfc3339("2025-01-20T17:30:00.1234567+02:00").unwrap();
        assert_eq!(shifted.to_string(), "2025-01-20T15:30:00.123456+00:00");
        assert_eq!(
            Timestamp::parse_rfc3339(&shifted.to_string()),
            Some(shifted)
        );
        assert_eq!(Timestamp::parse_rfc3339("yesterday"), None);
    }

    #[test]
    fn text_is_what_chrono_writes() {
        // Shows that digits written by hand are chrono's, at every kind of edge, and outside of four-digit years.
        let micros = [
            i64::MIN,
            -62_167_219_200_000_001, // the last of the year -1
            -62_167_219_200_000_000, // the first of the year 0
            -1,
            0,
            951_782_400_000_000, // a leap day
            1_767_225_599_999_999,
            253_402_300_799_999_999, // the last of the year 9999
            253_402_300_800_000_000,
            i64::MAX,
        ];
        let spread = (0..1_000).map(|n| n * 250_000_000_000_123);
        for micros in micros.into_iter().chain(spread) {
            let at = Timestamp::from_micros(micros);
            let chronos = at
                .to_datetime()
                .to_rfc3339_opts(SecondsFormat::Micros, false);
            assert_eq!(at.to_string(), chronos, "{micros}");
        }
    }

    #[test]
    fn seconds_round_up_and_days_round_down() {
        let now = Timestamp::from_micros(0);
        assert_eq!(now.seconds_until(Timestamp::from_micros(1)), 1);
        assert_eq!(now.seconds_until(Timestamp::from_micros(1_000_000)), 1);
        assert_eq!(now.seconds_until(Timestamp::from_micros(-1)), 0);
        assert_eq!(now.days_until(now.plus_seconds(86_400)), 1);
        assert_eq!(now.days_until(now.plus_seconds(86_399)), 0);
    }
}
