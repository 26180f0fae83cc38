//! What becomes of the buckets without readings.

use telemetry_model::Grid;

use super::{Bucket, Values};

/// What becomes of the buckets without readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fill {
    /// They are left out.
    Omit,
    /// They have no values.
    Null,
    /// They have the values of the one before.
    Previous,
    /// Their values lie on a line between those of the ones on both sides.
    Linear,
}

impl Fill {
    /// Puts the buckets of a grid in that hold no readings.
    pub(super) fn fill(self, found: Vec<Bucket>, grid: &Grid) -> Vec<Bucket> {
        if self == Self::Omit {
            return found;
        }
        let mut filled: Vec<Bucket> = Vec::with_capacity(grid.buckets());
        let mut before: Option<Bucket> = None;
        for after in found {
            for n in filled.len()..after.place {
                filled.push(self.between(before.as_ref(), n, Some(&after), grid));
            }
            filled.push(after.clone());
            before = Some(after);
        }
        for n in filled.len()..grid.buckets() {
            filled.push(self.between(before.as_ref(), n, None, grid));
        }
        filled
    }

    fn between(
        self,
        before: Option<&Bucket>,
        n: usize,
        after: Option<&Bucket>,
        grid: &Grid,
    ) -> Bucket {
        let values = match (self, before, after) {
            (Self::Previous, Some(before), _) => {
                Values { increase: None, rate: None, ..before.values.clone() }
            }
            (Self::Linear, Some(before), Some(after)) => {
                let start = |n| grid.bucket(n).start.micros();
                let whole = start(after.place) - start(before.place);
                let share = ratio(start(n) - start(before.place), whole);
                line(&before.values, &after.values, share)
            }
            _ => Values::default(),
        };
        Bucket { place: n, count: 0, values }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share need not be exact")]
fn ratio(part: i64, whole: i64) -> f64 {
    part as f64 / whole as f64
}

/// Nothing grows where nothing was read: increases still add up.
fn line(from: &Values, to: &Values, share: f64) -> Values {
    // Not by their difference, which may overflow.
    let between = |from: f64, to: f64| from * (1.0 - share) + to * share;
    let both = |from: Option<f64>, to: Option<f64>| Some(between(from?, to?));
    let percentiles = from.percentiles.iter().zip(&to.percentiles);
    Values {
        min: both(from.min, to.min),
        max: both(from.max, to.max),
        avg: both(from.avg, to.avg),
        first: both(from.first, to.first),
        last: both(from.last, to.last),
        stddev: both(from.stddev, to.stddev),
        time_weighted_avg: both(from.time_weighted_avg, to.time_weighted_avg),
        percentiles: percentiles.map(|(from, to)| between(*from, *to)).collect(),
        increase: None,
        rate: None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use telemetry_model::{TimeRange, Timestamp};

    use super::*;

    fn filled(fill: Fill, found: &[(usize, f64)]) -> Vec<(u64, Option<f64>)> {
        let end = Timestamp::EPOCH.plus(Duration::from_secs(6));
        let range = TimeRange::new(Timestamp::EPOCH, end).unwrap();
        let grid = Grid::of_width(range, Duration::from_secs(1)).unwrap();
        let bucket = |(place, avg): &(usize, f64)| Bucket {
            place: *place,
            count: 7,
            values: Values { avg: Some(*avg), ..Values::default() },
        };
        let filled = fill.fill(found.iter().map(bucket).collect(), &grid);
        filled.into_iter().map(|bucket| (bucket.count, bucket.values.avg)).collect()
    }

    #[test]
    fn gaps_are_filled_as_asked() {
        let found = [(1, 10.0), (4, 40.0)];
        let (one, two) = ((7, Some(10.0)), (7, Some(40.0)));
        let none = (0, None);
        let is = |value| (0, Some(value));
        assert_eq!(filled(Fill::Omit, &found), [one, two]);
        assert_eq!(filled(Fill::Null, &found), [none, one, none, none, two, none]);
        let previous = [none, one, is(10.0), is(10.0), two, is(40.0)];
        assert_eq!(filled(Fill::Previous, &found), previous);
        assert_eq!(filled(Fill::Linear, &found), [none, one, is(20.0), is(30.0), two, none]);
        assert_eq!(filled(Fill::Previous, &[]), [none; 6]);
    }
}
