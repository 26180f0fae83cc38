//! Buckets that follow a calendar: where days, weeks, months and years begin in a time zone.

use jiff::{
    civil::{Date, Weekday},
    tz::TimeZone,
};
use telemetry_model::{Grid, Invalid, TimeRange, Timestamp};

/// What a bucket spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Unit {
    Day,
    /// From Monday on.
    Week,
    Month,
    Year,
}

/// The zone of this IANA name, out of the data that is part of the program: the same everywhere.
pub(crate) fn zone(name: &str) -> Result<TimeZone, Invalid> {
    if name.is_empty() {
        return Ok(TimeZone::UTC);
    }
    let unknown = |_| Invalid::new("time_zone", "is not an IANA time zone like Europe/Berlin");
    jiff::tz::db().get(name).map_err(unknown)
}

/// The calendar's buckets that hold a range.
pub(crate) fn grid(range: TimeRange, unit: Unit, zone: &TimeZone) -> Result<Grid, Invalid> {
    // At the ends of all time there is no midnight before, or none behind.
    let first = local_date(range.start, zone).and_then(|date| unit.begin(date));
    let mut next = first;
    let mut last = Timestamp::MIN;
    let edges = std::iter::from_fn(|| {
        if last >= range.end {
            return None;
        }
        let edge = next.and_then(|date| midnight(date, zone)).unwrap_or(match last {
            Timestamp::MIN => Timestamp::MIN,
            _ => Timestamp::MAX,
        });
        next = next.and_then(|date| unit.after(date));
        last = edge;
        Some(edge)
    });
    // A day that a zone skipped has no length.
    let mut before = None;
    let edges = edges.filter(move |edge| before.replace(*edge) != Some(*edge));
    Grid::of_edges(range, edges)
}

fn local_date(time: Timestamp, zone: &TimeZone) -> Option<Date> {
    let time = jiff::Timestamp::from_microsecond(time.micros()).ok()?;
    Some(zone.to_datetime(time).date())
}

/// The first instant of a day, which need not be at 0 h.
fn midnight(date: Date, zone: &TimeZone) -> Option<Timestamp> {
    let start = date.to_zoned_datetime(zone.clone()).and_then(|time| time.start_of_day()).ok()?;
    Some(start.timestamp().into())
}

impl Unit {
    /// When the unit that holds a day began.
    fn begin(self, date: Date) -> Option<Date> {
        match self {
            Self::Day => Some(date),
            Self::Week if date.weekday() == Weekday::Monday => Some(date),
            Self::Week => date.nth_weekday(-1, Weekday::Monday).ok(),
            Self::Month => Some(date.first_of_month()),
            Self::Year => Some(date.first_of_year()),
        }
    }

    /// When the next one begins.
    fn after(self, date: Date) -> Option<Date> {
        let span = match self {
            Self::Day => jiff::Span::new().days(1),
            Self::Week => jiff::Span::new().weeks(1),
            Self::Month => jiff::Span::new().months(1),
            Self::Year => jiff::Span::new().years(1),
        };
        date.checked_add(span).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The edges, in UTC.
    fn edges(unit: Unit, name: &str, from: &str, to: &str) -> Vec<String> {
        let at = |text| Timestamp::parse(text).unwrap();
        let range = TimeRange::new(at(from), at(to)).unwrap();
        let grid = grid(range, unit, &zone(name).unwrap()).unwrap();
        grid.edges().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn days_are_as_long_as_they_are() {
        for (name, from, to, expected) in [
            // 23 hours, then 25.
            (
                "Europe/Berlin",
                "2026-03-29T00:00:00+01:00",
                "2026-03-29T12:00:00+02:00",
                ["2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"],
            ),
            (
                "Europe/Berlin",
                "2026-10-25T03:00:00+01:00",
                "2026-10-25T04:00:00+01:00",
                ["2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"],
            ),
            (
                "America/New_York",
                "2026-11-01T12:00:00Z",
                "2026-11-01T13:00:00Z",
                ["2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"],
            ),
            // Half an hour more.
            (
                "Australia/Lord_Howe",
                "2026-04-05T00:00:00Z",
                "2026-04-05T01:00:00Z",
                ["2026-04-04T13:00:00Z", "2026-04-05T13:30:00Z"],
            ),
            // Clocks go forward at midnight, so that the day begins at 1 h.
            (
                "America/Sao_Paulo",
                "2018-11-04T12:00:00Z",
                "2018-11-04T13:00:00Z",
                ["2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"],
            ),
        ] {
            assert_eq!(edges(Unit::Day, name, from, to), expected, "{name}");
        }
        // 30 December was left out.
        let apia = edges(Unit::Day, "Pacific/Apia", "2011-12-29T12:00:00Z", "2011-12-30T12:00:00Z");
        let expected = ["2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"];
        assert_eq!(apia, expected);
    }

    #[test]
    fn units_begin_where_the_calendar_has_it() {
        let (from, to) = ("2027-01-01T12:00:00Z", "2027-01-02T00:00:00Z");
        for (unit, begin, end) in [
            (Unit::Day, "2027-01-01T00:00:00Z", "2027-01-02T00:00:00Z"),
            (Unit::Week, "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z"),
            (Unit::Month, "2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z"),
            (Unit::Year, "2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"),
        ] {
            assert_eq!(edges(unit, "", from, to), [begin, end], "{unit:?}");
        }
        let monday = edges(Unit::Week, "UTC", "2026-12-28T00:00:00Z", "2026-12-28T00:00:01Z");
        assert_eq!(monday, ["2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z"]);
    }

    #[test]
    fn the_ends_of_time_and_too_many_buckets_are_borne() {
        let all = TimeRange { start: Timestamp::MIN, end: Timestamp::MAX };
        let kiritimati = zone("Pacific/Kiritimati").unwrap();
        let niue = zone("Pacific/Niue").unwrap();
        for zone in [&kiritimati, &niue, &TimeZone::UTC] {
            let years = grid(all, Unit::Year, zone).unwrap();
            assert!(years.bucket(0).start <= all.start);
            assert!(years.bucket(years.buckets() - 1).end >= all.end);
            let error = grid(all, Unit::Month, zone).unwrap_err();
            assert_eq!(error.field, "calendar_unit");
        }
        assert_eq!(zone("Mars/Olympus").unwrap_err().field, "time_zone");
    }
}
