//! Few points whose line looks like that of many: largest triangle three buckets, as the points come.

use telemetry_model::Point;

/// Thins out points. Holds two shares of them at a time.
///
/// All but the first and the last point are cut into shares of equal number. Of each share that
/// point is kept which spans the largest triangle with the one kept before it and the mean of the
/// next share.
#[derive(Debug)]
pub(crate) struct Lttb {
    total: usize,
    most: usize,
    seen: usize,
    kept: Vec<Point>,
    /// The shares that are complete or being filled; the point is chosen from the first.
    share: Vec<Point>,
    next: Vec<Point>,
    /// How many shares were begun.
    shares: usize,
}

impl Lttb {
    /// Of `total` points it keeps `most`, at least 3.
    pub(crate) fn new(total: usize, most: usize) -> Self {
        let (share, next) = (Vec::new(), Vec::new());
        Self { total, most, seen: 0, kept: Vec::new(), share, next, shares: 0 }
    }

    /// How many points a share holds, at most.
    pub(crate) fn share(total: usize, most: usize) -> usize {
        total.div_ceil(most.saturating_sub(2).max(1))
    }

    /// Takes the next point in the order of time.
    pub(crate) fn push(&mut self, point: Point) {
        let n = self.seen;
        self.seen += 1;
        if n == 0 || self.total <= self.most {
            self.kept.push(point);
            return;
        }
        if n >= self.end_of(self.shares) {
            self.choose();
            self.shares += 1;
        }
        self.next.push(point);
    }

    /// The points that were kept, oldest first.
    pub(crate) fn finish(mut self) -> Vec<Point> {
        let last = self.next.pop();
        // Fewer came than were counted: the last share has lost its end.
        if !self.next.is_empty() {
            self.choose();
        }
        self.next.extend(last);
        self.choose();
        self.kept.extend(last);
        self.kept
    }

    /// Before which point so many shares end; the last point is a share by itself.
    fn end_of(&self, shares: usize) -> usize {
        (shares * (self.total - 2) / (self.most - 2) + 1).min(self.total - 1)
    }

    /// Keeps a point of the share, now that the next one is complete.
    fn choose(&mut self) {
        if let (Some(left), Some(right)) = (self.kept.last().copied(), mean(&self.next)) {
            let (x, y) = (seconds(left) - right.0, right.1 - left.value);
            let area = |point: &Point| {
                let across = seconds(left) - seconds(*point);
                (x * (point.value - left.value) - across * y).abs()
            };
            let mut best: Option<(f64, Point)> = None;
            for point in &self.share {
                let area = area(point);
                if best.is_none_or(|(largest, _)| area > largest) {
                    best = Some((area, *point));
                }
            }
            self.kept.extend(best.map(|(_, point)| point));
        }
        self.share = std::mem::take(&mut self.next);
    }
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of this age are exact")]
fn seconds(point: Point) -> f64 {
    point.time.micros() as f64 / 1e6
}

/// The mean time and value.
#[expect(clippy::cast_precision_loss, reason = "a share is not so large")]
fn mean(points: &[Point]) -> Option<(f64, f64)> {
    let n = points.len() as f64;
    let sum = points.iter().map(|p| (seconds(*p) / n, p.value / n));
    sum.reduce(|a, b| (a.0 + b.0, a.1 + b.1))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use telemetry_model::Timestamp;

    use super::*;

    fn points(values: &[f64]) -> Vec<Point> {
        let point = |(n, value): (u64, &f64)| Point {
            time: Timestamp::EPOCH.plus(Duration::from_secs(n)),
            value: *value,
        };
        (0..).zip(values).map(point).collect()
    }

    fn thinned(points: &[Point], total: usize, most: usize) -> Vec<Point> {
        let mut lttb = Lttb::new(total, most);
        for point in points {
            lttb.push(*point);
        }
        lttb.finish()
    }

    /// The same, as its inventor wrote it down: with all points in hand.
    fn naive(points: &[Point], most: usize) -> Vec<Point> {
        let n = points.len();
        if n <= most {
            return points.to_vec();
        }
        let edge = |share: usize| (share * (n - 2) / (most - 2) + 1).min(n);
        let mut kept = vec![points[0]];
        for share in 0..most - 2 {
            let next = &points[edge(share + 1)..edge(share + 2).max(edge(share + 1) + 1)];
            let (x, y) = mean(next).unwrap();
            let a = kept[share];
            let area = |b: &Point| {
                let first = (seconds(a) - x) * (b.value - a.value);
                (first - (seconds(a) - seconds(*b)) * (y - a.value)).abs()
            };
            let shared = &points[edge(share)..edge(share + 1)];
            let best = shared.iter().rev().max_by(|a, b| area(a).total_cmp(&area(b))).unwrap();
            kept.push(*best);
        }
        kept.push(points[n - 1]);
        kept
    }

    #[test]
    fn a_spike_stays() {
        let mut values = vec![1.0; 10_000];
        values[5_003] = 9.0;
        let thinned = thinned(&points(&values), 10_000, 50);
        assert_eq!(thinned.len(), 50);
        assert!(thinned.iter().any(|point| point.value > 8.0));
    }

    #[test]
    fn fewer_points_than_counted_are_borne() {
        let points = points(&[1.0, 5.0, 2.0, 7.0, 3.0, 1.0, 0.0]);
        for came in 0..points.len() {
            let thinned = thinned(&points[..came], 100, 10);
            assert_eq!(thinned.first(), points[..came].first());
            assert_eq!(thinned.last(), points[..came].last());
            assert!(thinned.len() <= came);
        }
    }

    proptest! {
        #[test]
        fn equals_the_naive_one(
            values in prop::collection::vec((-100..100).prop_map(f64::from), 0..300),
            most in 3..60_usize,
        ) {
            let points = points(&values);
            prop_assert_eq!(thinned(&points, points.len(), most), naive(&points, most));
        }
    }
}
