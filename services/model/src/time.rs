//! Instants to the microsecond, as the databases keep them, and ranges of them.

use std::{fmt, time::Duration};

use crate::Invalid;

/// An instant, in microseconds since 1970-01-01T00:00:00Z, between the years 0001 and 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);
    /// The first instant there is: 0001-01-01T00:00:00Z.
    pub const MIN: Self = Self(-62_135_596_800_000_000);
    /// The last instant there is: 9999-12-30T22:00:00Z.
    pub const MAX: Self = Self(253_402_207_200_000_000);

    /// The instant so many microseconds after 1970, if it lies within the range.
    pub fn from_micros(micros: i64) -> Option<Self> {
        (Self::MIN.0..=Self::MAX.0).contains(&micros).then_some(Self(micros))
    }

    /// Microseconds since 1970.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Reads an RFC 3339 time; the field of the error is `time`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        text.parse::<jiff::Timestamp>()
            .map(Self::from)
            .map_err(|_| Invalid::new("time", "is not a time like 2026-01-07T12:00:00Z"))
    }

    /// The next instant there is.
    #[must_use]
    pub fn next(self) -> Self {
        self.plus(Duration::from_micros(1))
    }

    /// The instant so much later, at most [`Timestamp::MAX`].
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros_of(duration)).min(Self::MAX.0))
    }

    /// The instant so much earlier, at least [`Timestamp::MIN`].
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros_of(duration)).max(Self::MIN.0))
    }
}

fn micros_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl From<jiff::Timestamp> for Timestamp {
    /// Cuts what is finer than a microsecond.
    fn from(time: jiff::Timestamp) -> Self {
        Self(time.as_microsecond().clamp(Self::MIN.0, Self::MAX.0))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_microsecond(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        f.pad(&time.to_string())
    }
}

/// The instants from `start` on, before `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRange {
    /// The first instant in it.
    pub start: Timestamp,
    /// The first instant after it.
    pub end: Timestamp,
}

impl TimeRange {
    /// A range, which must not be empty.
    pub fn new(start: Timestamp, end: Timestamp) -> Result<Self, Invalid> {
        if start < end {
            Ok(Self { start, end })
        } else {
            Err(Invalid::new("end_time", format!("must be after start_time, which is {start}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_what_their_docs_say() {
        assert_eq!(Timestamp::MIN.to_string(), "0001-01-01T00:00:00Z");
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-30T22:00:00Z");
        assert_eq!(Timestamp::MAX.plus(Duration::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::from_micros(i64::MAX), None);
    }

    #[test]
    fn parses_to_the_microsecond() {
        let time = Timestamp::parse("2026-01-07T12:00:00.1234569+01:00").unwrap();
        assert_eq!(time.to_string(), "2026-01-07T11:00:00.123456Z");
        assert_eq!(Timestamp::parse("yesterday").unwrap_err().field, "time");
    }
}
