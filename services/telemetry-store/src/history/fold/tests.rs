//! Against the same sums, made the obvious way with all readings in hand.

use std::time::Duration;

use proptest::prelude::*;
use telemetry_model::Timestamp;

use super::*;

const ALL: [Aggregate; 9] = [
    Aggregate::Min,
    Aggregate::Max,
    Aggregate::Avg,
    Aggregate::First,
    Aggregate::Last,
    Aggregate::Stddev,
    Aggregate::TimeWeightedAvg,
    Aggregate::Increase,
    Aggregate::Rate,
];

fn at(ms: u64) -> Timestamp {
    Timestamp::EPOCH.plus(Duration::from_millis(ms))
}

/// Buckets of 10 s from `start` to `end`, both in ms.
fn grid(start: u64, end: u64) -> Grid {
    let range = TimeRange::new(at(start), at(end)).unwrap();
    Grid::of_width(range, Duration::from_secs(10)).unwrap()
}

/// Sums up the points within the range; the last one before it is known.
fn folded(grid: &Grid, wanted: &Wanted, points: &[Point]) -> Vec<Bucket> {
    let TimeRange { start, end } = grid.range();
    let before = points.iter().rfind(|point| point.time < start).copied();
    let mut fold = Fold::new(grid, wanted, before);
    let within = points.iter().filter(|point| (start..end).contains(&point.time));
    within.for_each(|point| fold.push(*point).unwrap());
    fold.finish()
}

fn points(points: &[(u64, f64)]) -> Vec<Point> {
    points.iter().map(|(ms, value)| Point { time: at(*ms), value: *value }).collect()
}

fn one(aggregate: Aggregate, grid: &Grid, of: &[(u64, f64)]) -> Vec<(usize, Values)> {
    let wanted = Wanted { aggregates: vec![aggregate], percentiles: vec![] };
    let buckets = folded(grid, &wanted, &points(of));
    buckets.into_iter().map(|bucket| (bucket.place, bucket.values)).collect()
}

#[test]
fn a_value_holds_until_the_next_one() {
    let mean = |grid: &Grid, of: &[(u64, f64)]| {
        let of = one(Aggregate::TimeWeightedAvg, grid, of).into_iter();
        of.map(|(n, values)| (n, values.time_weighted_avg.unwrap())).collect::<Vec<_>>()
    };
    // Nothing is carried in: the mean begins with the first reading.
    assert_eq!(mean(&grid(0, 20_000), &[(5_000, 1.0), (7_500, 3.0)]), [(0, 2.0)]);
    // What held before the range, and before the bucket, goes on; empty buckets do not break it.
    let carried = [(0, 8.0), (15_000, 4.0), (45_000, 0.0)];
    assert_eq!(mean(&grid(10_000, 50_000), &carried), [(0, 6.0), (3, 2.0)]);
    // The range ends within the bucket.
    assert_eq!(mean(&grid(10_000, 18_000), &carried), [(0, 6.5)]);
}

#[test]
fn counters_restart() {
    let grid = grid(10_000, 40_000);
    let counts = [(0, 7.0), (12_000, 10.0), (15_000, 2.0), (25_000, 2.0), (39_000, 5.0)];
    let increase = one(Aggregate::Increase, &grid, &counts).into_iter();
    let increase: Vec<_> = increase.map(|(_, values)| values.increase.unwrap()).collect();
    assert_eq!(increase, [3.0 + 2.0, 0.0, 3.0]);
    let rate = one(Aggregate::Rate, &grid, &counts[1..]);
    assert_eq!(rate[0].1.rate, Some(0.2), "the first of all counts nothing");
}

#[test]
fn extreme_values_are_borne() {
    let wanted = Wanted { aggregates: ALL.to_vec(), percentiles: vec![0.0, 90.0, 100.0] };
    let values = [(0, f64::MIN), (1000, f64::MAX), (2000, f64::MAX)];
    let buckets = folded(&grid(0, 10_000), &wanted, &points(&values));
    let [bucket] = &buckets[..] else { panic!("{buckets:?}") };
    assert!(bucket.values.avg.unwrap().is_finite());
    assert_eq!(bucket.values.stddev, None, "it is beyond all numbers");
    assert_eq!(bucket.values.percentiles, [f64::MIN, f64::MAX, f64::MAX]);
    for values in [[f64::MAX; 2], [5e-324; 2]] {
        let values = [(0, values[0]), (1000, values[1])];
        let avg = one(Aggregate::Avg, &grid(0, 10_000), &values)[0].1.avg;
        assert_eq!(avg, Some(values[0].1));
    }
}

#[test]
fn percentiles_lie_between_neighbours() {
    let of = |wanted: &[f64]| percentiles(&mut [40.0, 10.0, 30.0, 20.0], wanted);
    assert_eq!(of(&[0.0, 25.0, 50.0, 90.0, 100.0]), [10.0, 17.5, 25.0, 37.0, 40.0]);
    assert_eq!(percentiles(&mut [7.0], &[0.0, 99.0]), [7.0, 7.0]);
}

fn close(found: Option<f64>, expected: Option<f64>) -> bool {
    match (found, expected) {
        (Some(found), Some(expected)) => (found - expected).abs() <= 1e-9 * expected.abs().max(1.0),
        (found, expected) => found == expected,
    }
}

/// What the value is at each of some instants, one after the other, in a bucket.
fn mean_of_instants(bucket: TimeRange, points: &[Point]) -> Option<f64> {
    let ms = |time: Timestamp| time.micros() / 1000;
    let holds = |instant: i64| points.iter().rfind(|p| ms(p.time) <= instant).map(|p| p.value);
    let values: Vec<_> =
        (ms(bucket.start)..ms(bucket.end)).step_by(100).filter_map(holds).collect();
    let count = f64::from(u32::try_from(values.len()).unwrap());
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / count)
}

proptest! {
    #[test]
    fn equals_the_naive_one(
        // Tenths of a second, so that a mean over time can be taken instant by instant.
        mut times in prop::collection::btree_set(0..1000_u64, 0..60),
        values in prop::collection::vec((-1000..1000).prop_map(|n| f64::from(n) / 8.0), 60),
        start in 0..500_u64, length in 1..600_u64,
    ) {
        times.insert(start);
        let points: Vec<_> = times.iter().zip(&values)
            .map(|(tenths, value)| Point { time: at(tenths * 100), value: *value }).collect();
        let grid = grid(start * 100, (start + length) * 100);
        let wanted = Wanted { aggregates: ALL.to_vec(), percentiles: vec![0.0, 50.0, 95.0] };
        for Bucket { place: n, count, values: found } in folded(&grid, &wanted, &points) {
            let covered = grid.covered(n);
            let is_in = |point: &&Point| (covered.start..covered.end).contains(&point.time);
            let within: Vec<f64> = points.iter().filter(is_in).map(|point| point.value).collect();
            prop_assert_eq!(count, within.len() as u64);
            let number = f64::from(u32::try_from(count).unwrap());
            let avg = within.iter().sum::<f64>() / number;
            prop_assert!(close(found.avg, Some(avg)));
            prop_assert_eq!(found.first, within.first().copied());
            prop_assert_eq!(found.last, within.last().copied());
            prop_assert_eq!(found.min, within.iter().copied().reduce(f64::min));
            prop_assert_eq!(found.max, within.iter().copied().reduce(f64::max));
            let squares = within.iter().map(|value| (value - avg).powi(2)).sum::<f64>();
            let stddev = (count > 1).then(|| (squares / (number - 1.0)).sqrt());
            prop_assert!(close(found.stddev, stddev));
            let mean = mean_of_instants(covered, &points);
            prop_assert!(close(found.time_weighted_avg, mean), "{:?} {mean:?}", found);
            let grew = points.windows(2).filter(|pair| is_in(&&pair[1])).map(|pair| {
                let (from, to) = (pair[0].value, pair[1].value);
                if to >= from { to - from } else { to.max(0.0) }
            });
            let grew = grew.sum::<f64>();
            prop_assert!(close(found.increase, Some(grew)));
            let seconds = (covered.end.micros() - covered.start.micros()) / 100_000;
            let seconds = f64::from(u32::try_from(seconds).unwrap()) / 10.0;
            prop_assert!(close(found.rate, Some(grew / seconds)));
            let mut sorted = within.clone();
            sorted.sort_by(f64::total_cmp);
            let rank = (sorted.len() - 1) / 2;
            let median = f64::midpoint(sorted[rank], sorted[sorted.len() / 2]);
            prop_assert!(close(Some(found.percentiles[1]), Some(median)));
        }
    }
}
