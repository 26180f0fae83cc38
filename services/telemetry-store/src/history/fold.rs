//! Readings into buckets, one after the other: what no database is asked for.

use telemetry_model::{Grid, Point, TimeRange};

use super::{Aggregate, Bucket, Values, Wanted};
use crate::error::{Error, Result};

/// The most readings of a bucket that are held for percentiles.
const MAX_HELD: usize = 1_000_000;

/// By what values are divided, so that no sum and no difference of them overflows: a power of two,
/// so that it costs no digit.
const SCALE: f64 = 1_099_511_627_776.0;

/// Takes the numeric readings of a series in the order of time, and sums up each bucket.
#[derive(Debug)]
pub(super) struct Fold<'a> {
    grid: &'a Grid,
    wanted: &'a Wanted,
    /// The reading before the next one; at first the last one before the range.
    previous: Option<Point>,
    open: Option<Open>,
    done: Vec<Bucket>,
}

/// The bucket that is being filled.
#[derive(Debug)]
struct Open {
    place: usize,
    covered: TimeRange,
    count: u64,
    min: f64,
    max: f64,
    first: f64,
    /// Mean and sum of squared distances from it, scaled, as Welford has them.
    mean: f64,
    squares: f64,
    /// The value that holds, and since when; the sum of values times what they held, and what they
    /// held, both as shares of the bucket.
    holds: Option<(f64, i64)>,
    area: f64,
    held: f64,
    increase: f64,
    values: Vec<f64>,
}

impl<'a> Fold<'a> {
    /// `before` is the last reading before the range.
    pub(super) fn new(grid: &'a Grid, wanted: &'a Wanted, before: Option<Point>) -> Self {
        Self { grid, wanted, previous: before, open: None, done: Vec::new() }
    }

    /// Takes the next reading.
    pub(super) fn push(&mut self, point: Point) -> Result<()> {
        let is_in = |open: &Open| point.time < open.covered.end;
        if !self.open.as_ref().is_some_and(is_in) {
            self.close();
            let place = self.grid.position(point.time);
            let carried = self.previous.map(|previous| previous.value);
            self.open = Some(Open::new(place, self.grid.covered(place), point, carried));
        }
        if let Some(open) = &mut self.open {
            open.push(point, self.previous);
            if !self.wanted.percentiles.is_empty() {
                if open.values.len() >= MAX_HELD {
                    return Err(Error::TooCostly(
                        "percentiles of more than 1000000 readings: choose smaller buckets",
                    ));
                }
                open.values.push(point.value);
            }
        }
        self.previous = Some(point);
        Ok(())
    }

    /// The buckets with readings.
    pub(super) fn finish(mut self) -> Vec<Bucket> {
        self.close();
        self.done
    }

    fn close(&mut self) {
        self.done.extend(self.open.take().map(|open| open.close(self.wanted)));
    }
}

impl Open {
    fn new(place: usize, covered: TimeRange, first: Point, carried: Option<f64>) -> Self {
        Self {
            place,
            covered,
            count: 0,
            min: first.value,
            max: first.value,
            first: first.value,
            mean: 0.0,
            squares: 0.0,
            holds: carried.map(|value| (value, covered.start.micros())),
            area: 0.0,
            held: 0.0,
            increase: 0.0,
            values: Vec::new(),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 readings")]
    fn push(&mut self, point: Point, previous: Option<Point>) {
        let value = point.value;
        self.count += 1;
        (self.min, self.max) = (self.min.min(value), self.max.max(value));
        let scaled = value / SCALE;
        let distance = scaled - self.mean;
        self.mean += distance / self.count as f64;
        self.squares += distance * (scaled - self.mean);
        self.hold_until(point.time.micros());
        self.holds = Some((value, point.time.micros()));
        if let Some(Point { value: before, .. }) = previous {
            self.increase += if value >= before { value - before } else { value.max(0.0) };
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a share need not be exact")]
    fn hold_until(&mut self, time: i64) {
        if let Some((value, since)) = self.holds {
            let share = (time - since) as f64 / self.length() as f64;
            self.area += value * share;
            self.held += share;
        }
    }

    fn length(&self) -> i64 {
        self.covered.end.micros() - self.covered.start.micros()
    }

    #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 readings")]
    fn close(mut self, wanted: &Wanted) -> Bucket {
        self.hold_until(self.covered.end.micros());
        let last = self.holds.map(|(value, _)| value);
        let finite = |value: f64| Some(value).filter(|value| value.is_finite());
        let seconds = self.length() as f64 / 1e6;
        let stddev = match self.count {
            1 => None,
            count => finite((self.squares / (count - 1) as f64).sqrt() * SCALE),
        };
        let if_wanted = |aggregate, value: Option<f64>| value.filter(|_| wanted.has(aggregate));
        // Rounding must not carry a mean beyond what it is the mean of.
        let avg = (self.mean * SCALE).max(self.min).min(self.max);
        Bucket {
            place: self.place,
            count: self.count,
            values: Values {
                min: if_wanted(Aggregate::Min, Some(self.min)),
                max: if_wanted(Aggregate::Max, Some(self.max)),
                avg: if_wanted(Aggregate::Avg, Some(avg)),
                first: if_wanted(Aggregate::First, Some(self.first)),
                last: if_wanted(Aggregate::Last, last),
                stddev: if_wanted(Aggregate::Stddev, stddev),
                time_weighted_avg: if_wanted(
                    Aggregate::TimeWeightedAvg,
                    finite(self.area / self.held),
                ),
                percentiles: percentiles(&mut self.values, &wanted.percentiles),
                increase: if_wanted(Aggregate::Increase, finite(self.increase)),
                rate: if_wanted(Aggregate::Rate, finite(self.increase / seconds)),
            },
        }
    }
}

/// Exact, linear between neighbours.
#[expect(clippy::cast_precision_loss, reason = "there are not so many values")]
#[expect(clippy::cast_possible_truncation, reason = "a rank is smaller than the number of values")]
#[expect(clippy::cast_sign_loss, reason = "a rank is not negative")]
fn percentiles(values: &mut [f64], wanted: &[f64]) -> Vec<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let top = values.len().saturating_sub(1);
    let percentile = |percentile: &f64| {
        let rank = percentile / 100.0 * top as f64;
        let below = *values.get(rank.floor() as usize)?;
        let above = *values.get(rank.ceil() as usize)?;
        let share = rank - rank.floor();
        let exact = below + share * (above - below);
        Some(if exact.is_finite() { exact } else { below * (1.0 - share) + above * share })
    };
    wanted.iter().filter_map(percentile).collect()
}

#[cfg(test)]
mod tests;
