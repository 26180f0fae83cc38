//! A range of time cut into buckets.

use std::time::Duration;

use crate::{Invalid, TimeRange, Timestamp};

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// The widths that people read easily; beyond, the last one doubles.
const WIDTHS: [i64; 25] = [
    SECOND,
    2 * SECOND,
    5 * SECOND,
    10 * SECOND,
    15 * SECOND,
    30 * SECOND,
    MINUTE,
    2 * MINUTE,
    5 * MINUTE,
    10 * MINUTE,
    15 * MINUTE,
    30 * MINUTE,
    HOUR,
    2 * HOUR,
    3 * HOUR,
    6 * HOUR,
    12 * HOUR,
    DAY,
    2 * DAY,
    7 * DAY,
    14 * DAY,
    28 * DAY,
    91 * DAY,
    182 * DAY,
    364 * DAY,
];

/// Buckets that lie side by side and cover a range. The first may begin before it, the last may end
/// after it; only what lies within the range counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    range: TimeRange,
    /// Where each bucket begins, and where the last one ends.
    edges: Vec<Timestamp>,
    width: Option<Duration>,
}

impl Grid {
    /// The most buckets there may be.
    pub const MAX_BUCKETS: usize = 10_000;

    /// Buckets of equal width, at least a second, that begin at its multiples since 1970.
    pub fn of_width(range: TimeRange, width: Duration) -> Result<Self, Invalid> {
        if width < Duration::from_secs(1) {
            return Err(Invalid::new("bucket_width", "must be at least one second"));
        }
        let micros = i64::try_from(width.as_micros()).unwrap_or(i64::MAX);
        let buckets = buckets(range, micros);
        if buckets > Self::MAX_BUCKETS as u64 {
            return Err(too_many("bucket_width", buckets, "choose a larger width"));
        }
        Ok(Self::multiples(range, micros))
    }

    /// At most so many buckets (at least 2), of the smallest easy width that suffices.
    pub fn of_at_most(range: TimeRange, most: usize) -> Result<Self, Invalid> {
        if !(2..=Self::MAX_BUCKETS).contains(&most) {
            let reason = format!("must be 2 to {} for buckets, is {most}", Self::MAX_BUCKETS);
            return Err(Invalid::new("max_points", reason));
        }
        let [.., longest] = WIDTHS;
        let doubled = std::iter::successors(Some(longest), |width| width.checked_mul(2)).skip(1);
        let suffices = |width: &i64| buckets(range, *width) <= most as u64;
        let width = WIDTHS.into_iter().chain(doubled).find(suffices).unwrap_or(i64::MAX);
        Ok(Self::multiples(range, width))
    }

    /// Buckets that begin and end at these edges, which must ascend and cover the range; ends early
    /// if there are too many.
    pub fn of_edges(
        range: TimeRange,
        edges: impl Iterator<Item = Timestamp>,
    ) -> Result<Self, Invalid> {
        let edges: Vec<_> = edges.take(Self::MAX_BUCKETS + 2).collect();
        if edges.len() > Self::MAX_BUCKETS + 1 {
            let buckets = edges.len() as u64 - 1;
            return Err(too_many("calendar_unit", buckets, "choose a longer one"));
        }
        Ok(Self { range, edges, width: None })
    }

    fn multiples(range: TimeRange, width: i64) -> Self {
        let first = range.start.micros().div_euclid(width);
        let last = (range.end.micros() - 1).div_euclid(width) + 1;
        // What lies beyond all time is cut to it.
        let edge = |n: i64| {
            let micros = n.saturating_mul(width);
            let micros = micros.clamp(Timestamp::MIN.micros(), Timestamp::MAX.micros());
            Timestamp::from_micros(micros).unwrap_or(Timestamp::MAX)
        };
        let edges = (first..=last).map(edge).collect();
        Self { range, edges, width: Some(Duration::from_micros(width.unsigned_abs())) }
    }

    /// What counts.
    pub fn range(&self) -> TimeRange {
        self.range
    }

    /// Where each bucket begins, and where the last one ends.
    pub fn edges(&self) -> &[Timestamp] {
        &self.edges
    }

    /// The width of all buckets, if they have one.
    pub fn width(&self) -> Option<Duration> {
        self.width
    }

    /// How many buckets there are.
    pub fn buckets(&self) -> usize {
        self.edges.len().saturating_sub(1)
    }

    /// From where to where a bucket reaches.
    pub fn bucket(&self, n: usize) -> TimeRange {
        let edge = |n: usize, beyond| self.edges.get(n).copied().unwrap_or(beyond);
        TimeRange { start: edge(n, self.range.start), end: edge(n + 1, self.range.end) }
    }

    /// The part of a bucket that lies within the range.
    pub fn covered(&self, n: usize) -> TimeRange {
        let TimeRange { start, end } = self.bucket(n);
        TimeRange { start: start.max(self.range.start), end: end.min(self.range.end) }
    }

    /// In which bucket an instant of the range lies.
    pub fn position(&self, time: Timestamp) -> usize {
        self.edges.partition_point(|edge| *edge <= time).saturating_sub(1)
    }
}

/// How many multiples of a width touch the range.
fn buckets(range: TimeRange, width: i64) -> u64 {
    let first = range.start.micros().div_euclid(width);
    let last = (range.end.micros() - 1).div_euclid(width);
    last.abs_diff(first) + 1
}

fn too_many(field: &str, buckets: u64, remedy: &str) -> Invalid {
    let most = Grid::MAX_BUCKETS;
    let reason =
        format!("gives {buckets} or more buckets, more than {most}: {remedy} or a shorter range");
    Invalid::new(field, reason)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(from_s: i64, to_s: i64) -> TimeRange {
        let at = |s: i64| Timestamp::from_micros(s * SECOND).unwrap();
        TimeRange::new(at(from_s), at(to_s)).unwrap()
    }

    #[test]
    fn too_many_or_too_narrow_buckets_are_refused() {
        let day = range(0, 86_400);
        assert_eq!(Grid::of_width(day, Duration::from_mins(1)).unwrap().buckets(), 1440);
        for width in [Duration::ZERO, Duration::from_millis(999), Duration::from_secs(8)] {
            assert_eq!(Grid::of_width(day, width).unwrap_err().field, "bucket_width");
        }
        let all = TimeRange { start: Timestamp::MIN, end: Timestamp::MAX };
        let cut = Grid::of_width(all, Duration::MAX).unwrap();
        assert_eq!(cut.edges(), [Timestamp::MIN, Timestamp::EPOCH, Timestamp::MAX]);
        assert_eq!(Grid::of_at_most(all, 2).unwrap().buckets(), 2);
        for most in [0, 1, 10_001] {
            assert_eq!(Grid::of_at_most(day, most).unwrap_err().field, "max_points");
        }
    }

    #[test]
    fn widths_are_easy_to_read() {
        for (range, most, width_s) in [
            (range(0, 86_400), 500, 300),
            (range(0, 30 * 86_400), 500, 7200),
            (range(0, 60), 500, 1),
            (range(29, 90), 2, 60),
            (range(0, 100 * 365 * 86_400), 30, 4 * 364 * 86_400),
        ] {
            let grid = Grid::of_at_most(range, most).unwrap();
            assert_eq!(grid.width(), Some(Duration::from_secs(width_s)));
        }
    }

    proptest! {
        #[test]
        fn each_instant_lies_in_the_one_bucket_that_holds_it(
            start in -10_i64.pow(10)..10_i64.pow(10), length in 1..10_i64.pow(9), most in 2..500_usize,
            share in 0.0..1.0_f64,
        ) {
            let range = range(start, start + length);
            let grid = Grid::of_at_most(range, most).unwrap();
            prop_assert!(grid.buckets() <= most);
            let first = grid.bucket(0);
            let last = grid.bucket(grid.buckets() - 1);
            prop_assert!(first.start <= range.start && range.start < first.end);
            prop_assert!(last.start < range.end && range.end <= last.end);
            let within = Duration::from_secs(length.unsigned_abs()).mul_f64(share);
            let time = range.start.plus(within).min(range.end.minus(Duration::from_micros(1)));
            let bucket = grid.covered(grid.position(time));
            prop_assert!(bucket.start <= time && time < bucket.end);
        }
    }
}
