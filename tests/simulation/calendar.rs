//! Calendar arithmetic of the model's own: days since 1970 and back, months, the text of a time.
//!
//! The algorithms are Howard Hinnant's `days_from_civil` and `civil_from_days`; nothing here is chrono's,
//! which is what the product uses.

pub(crate) const SECOND: i64 = 1_000_000;
pub(crate) const DAY: i64 = 86_400 * SECOND;

/// Microseconds since the epoch.
pub(crate) type Micros = i64;

/// The days since 1970-01-01 of a date.
pub(crate) fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The year, month and day of a day since 1970-01-01.
pub(crate) fn date(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = (mp + 2) % 12 + 1;
    let year = yoe + era * 400 + i64::from(month <= 2);
    (year, month, doy - (153 * mp + 2) / 5 + 1)
}

/// `n` calendar months after `anchor`, clamped to the month's last day.
pub(crate) fn months_after(anchor: Micros, n: i64) -> Micros {
    let (year, month, day) = date(anchor.div_euclid(DAY));
    let months = year * 12 + month - 1 + n;
    let (year, month) = (months.div_euclid(12), months.rem_euclid(12) + 1);
    let length = days(year + month / 12, month % 12 + 1, 1) - days(year, month, 1);
    days(year, month, day.min(length)) * DAY + anchor.rem_euclid(DAY)
}

/// The billing cycle that holds `now`: how many whole months after `anchor`; 0 before it.
pub(crate) fn cycle(anchor: Micros, now: Micros) -> i64 {
    let mut n = 0;
    while months_after(anchor, n + 12) <= now {
        n += 12;
    }
    while months_after(anchor, n + 1) <= now {
        n += 1;
    }
    n
}

/// RFC 3339 in UTC with six decimals.
pub(crate) fn text(at: Micros) -> String {
    let (year, month, day) = date(at.div_euclid(DAY));
    let of_day = at.rem_euclid(DAY);
    let (seconds, micros) = (of_day / SECOND, of_day % SECOND);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{micros:06}+00:00",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// Shows that the model's calendar is the calendar, by dates that everybody knows.
#[test]
fn the_calendar_is_right() {
    let at = |y, m, d| days(y, m, d) * DAY;
    assert_eq!(
        (days(1970, 1, 1), days(2000, 3, 1), days(2026, 1, 1)),
        (0, 11_017, 20_454)
    );
    for day in -200_000..200_000 {
        let (y, m, d) = date(day);
        assert_eq!(days(y, m, d), day);
    }
    let anchor = at(2024, 1, 31) + 5;
    let ends: Vec<_> = (0..6)
        .map(|n| date(months_after(anchor, n) / DAY))
        .collect();
    let expected = [
        (2024, 1, 31),
        (2024, 2, 29),
        (2024, 3, 31),
        (2024, 4, 30),
        (2024, 5, 31),
        (2024, 6, 30),
    ];
    assert_eq!(ends, expected);
    assert_eq!(date(months_after(at(2024, 12, 31), 2) / DAY), (2025, 2, 28));
    assert_eq!(cycle(anchor, at(2024, 2, 29) + 4), 0);
    assert_eq!(cycle(anchor, at(2024, 2, 29) + 5), 1);
    assert_eq!(cycle(anchor, at(2020, 1, 1)), 0);
    assert_eq!(cycle(anchor, at(2026, 1, 31) + 5), 24);
    assert_eq!(
        text(at(2026, 1, 15) + 45_296_000_007),
        "2026-01-15T12:34:56.000007+00:00"
    );
}
