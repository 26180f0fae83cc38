//! Summaries: the same on each database, and the same as the obvious ones.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{Connection, Executor, PgConnection};
use telemetry_model::{Grid, Point, Series, Summary, TimeRange, Timestamp, Value};

use super::{Fresh, at, device, metric, on_each_backend, telemetry};
use crate::{
    history::{
        self, Aggregate, Fill, Values, Wanted,
        calendar::{self, Unit},
    },
    storage::testing::AppendEvents,
};

on_each_backend!(
    summaries_equal_a_naive_one,
    summaries_bear_extreme_values,
    both_ways_to_sum_up_agree,
    what_was_before_the_range_counts,
    days_of_a_zone,
    points_come_in_pages_and_backwards,
    shapes_keep_the_ends,
    late_readings_count,
    unknown_series_are_empty,
);

fn series() -> Series {
    Series { device: device("fern-1"), metric: metric("t") }
}

fn grid(start: i64, end: i64, width_s: u64) -> Grid {
    let range = TimeRange::new(at(start), at(end)).unwrap();
    Grid::of_width(range, Duration::from_secs(width_s)).unwrap()
}

async fn store(fresh: &Fresh, values: &[(i64, f64)]) {
    let event = |(seconds, value): &(i64, f64)| {
        telemetry("fern-1", *seconds, &[("t", Value::Number(*value)), ("u", Value::Number(-1.0))])
    };
    let events: Vec<_> = values.iter().map(event).collect();
    fresh.storage.append_events(&events).await.unwrap();
}

/// The summary, computed the obvious way.
fn naive(values: &[(i64, f64)], grid: &Grid) -> Vec<Summary> {
    let mut buckets: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for (seconds, value) in values {
        if (grid.range().start..grid.range().end).contains(&at(*seconds)) {
            buckets.entry(grid.position(at(*seconds))).or_default().push(*value);
        }
    }
    let summary = |(bucket, values): (usize, Vec<f64>)| Summary {
        bucket,
        count: values.len() as u64,
        min: values.iter().copied().fold(f64::INFINITY, f64::min),
        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        avg: values.iter().sum::<f64>() / f64::from(u32::try_from(values.len()).unwrap()),
        first: values[0],
        last: *values.last().unwrap(),
    };
    buckets.into_iter().map(summary).collect()
}

/// Eighths are exact, so that sums do not depend on their order.
fn random(count: usize, spread_s: i64) -> Vec<(i64, f64)> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut times: Vec<_> = (0..count).map(|_| random.i64(-spread_s..spread_s)).collect();
    times.sort_unstable();
    times.dedup();
    times.into_iter().map(|s| (s, f64::from(random.i32(-800..800)) / 8.0)).collect()
}

async fn summaries_equal_a_naive_one(fresh: &mut Fresh) {
    let values = random(500, 40_000_000);
    #[expect(clippy::cast_possible_truncation, reason = "whole numbers are sent as such")]
    let as_value = |value: f64| match value.fract() {
        0.0 => Value::Integer(value as i64),
        _ => Value::Number(value),
    };
    let event = |(seconds, value): &(i64, f64)| {
        let mut values = vec![("t", as_value(*value)), ("other", Value::Number(1e9))];
        values.push(("t.flag", Value::Flag(true)));
        telemetry("fern-1", *seconds, &values)
    };
    let events: Vec<_> = values.iter().map(event).collect();
    fresh.storage.append_events(&events).await.unwrap();
    let text = telemetry("fern-1", 50_000_000, &[("t", Value::text("not a number").unwrap())]);
    let flag = telemetry("fern-1", 50_000_001, &[("t", Value::Flag(true))]);
    fresh.storage.append_events(&[text, flag]).await.unwrap();

    for (start, end, width_s) in [
        (-40_000_000, 40_000_000, 86_400 * 30),
        (-1_000_000, 9_999_999, 86_400),
        (0, 20_000_000, 12_345),
        (49_000_000, 51_000_000, 86_400),
        (-40_000_000, 40_000_000, 9_000),
    ] {
        let grid = grid(start, end, width_s);
        let found = fresh.storage.summarize(&series(), &grid).await.unwrap().buckets;
        assert_eq!(found, naive(&values, &grid));
    }
}

/// Any finite number is a value: squares and sums of some are not.
async fn summaries_bear_extreme_values(fresh: &mut Fresh) {
    let cases: [(&[f64], f64); 5] = [
        (&[-1.5e300, 1.5e300], 0.0),
        (&[f64::MAX, f64::MAX, f64::MAX], f64::MAX),
        (&[f64::MIN, f64::MIN], f64::MIN),
        (&[5e-324, 5e-324], 5e-324),
        (&[1e-290, 3e-290], 2e-290),
    ];
    for (n, (values, avg)) in (0..).zip(cases) {
        let points: Vec<_> = (n * 60..).zip(values.iter().copied()).collect();
        store(fresh, &points).await;
        let grid = grid(n * 60, n * 60 + 60, 60);
        let summaries = fresh.storage.summarize(&series(), &grid).await.unwrap().buckets;
        let [summary] = summaries[..] else { panic!("{summaries:?}") };
        let bits = |value: f64| value.to_bits();
        assert_eq!((summary.first, summary.count), (values[0], values.len() as u64));
        assert_eq!(bits(summary.avg), bits(avg), "{values:?} gives {}", summary.avg);
    }
}

/// By the database, and by reading everything.
async fn both_ways_to_sum_up_agree(fresh: &mut Fresh) {
    use Aggregate::{Avg, First, Last, Max, Min, Stddev};
    store(fresh, &random(300, 1_000_000)).await;
    let grid = grid(-900_000, 1_100_000, 50_000);
    let mut wanted = Wanted { aggregates: vec![Min, Max, Avg, First, Last], percentiles: vec![] };
    let storage = &*fresh.storage;
    let (one, _) = history::buckets(storage, &series(), &grid, &wanted, Fill::Null).await.unwrap();
    wanted.aggregates.push(Stddev);
    let (mut other, _) =
        history::buckets(storage, &series(), &grid, &wanted, Fill::Null).await.unwrap();
    assert_eq!(one.len(), grid.buckets());
    for (one, other) in one.iter().zip(&mut other) {
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(one.values.avg.zip(other.values.avg).is_none_or(|(a, b)| close(a, b)));
        other.values.avg = one.values.avg;
        other.values.stddev = None;
        assert_eq!(one, other);
    }
}

/// What held before the range, and what a counter stood at, however long ago.
async fn what_was_before_the_range_counts(fresh: &mut Fresh) {
    use Aggregate::{Increase, Rate, TimeWeightedAvg};
    // The counter restarts in the second bucket; the third holds nothing.
    store(fresh, &[(-9_000_000, 8.0), (30, 16.0), (90, 4.0), (105, 6.0)]).await;
    let flag = telemetry("fern-1", -5, &[("t", Value::Flag(true))]);
    fresh.storage.append_events(&[flag]).await.unwrap();
    let wanted = Wanted {
        aggregates: vec![TimeWeightedAvg, Increase, Rate],
        percentiles: vec![0.0, 50.0, 75.0],
    };
    let grid = grid(0, 180, 60);
    let storage = &*fresh.storage;
    let (found, _) =
        history::buckets(storage, &series(), &grid, &wanted, Fill::Null).await.unwrap();
    let told = found.into_iter().map(|bucket| {
        let Values { time_weighted_avg, increase, rate, percentiles, .. } = bucket.values;
        (bucket.count, time_weighted_avg, increase, rate, percentiles)
    });
    let expected = [
        (1, Some(12.0), Some(8.0), Some(8.0 / 60.0), vec![16.0; 3]),
        (2, Some(10.5), Some(6.0), Some(6.0 / 60.0), vec![4.0, 5.0, 5.5]),
        (0, None, None, None, vec![]),
    ];
    assert_eq!(told.collect::<Vec<_>>(), expected);
}

async fn days_of_a_zone(fresh: &mut Fresh) {
    // A reading each half hour, beginning two days before.
    let days = [
        ("Europe/Berlin", "2026-03-29", 46),
        ("Europe/Berlin", "2026-10-25", 50),
        ("Europe/Berlin", "2026-06-01", 48),
        ("America/New_York", "2026-03-08", 46),
        ("America/New_York", "2026-11-01", 50),
        ("Australia/Lord_Howe", "2026-10-04", 47),
        ("Australia/Lord_Howe", "2026-04-05", 49),
        ("Asia/Kathmandu", "2026-01-01", 48),
    ];
    for (zone, day, readings) in days {
        let midnight = Timestamp::parse(&format!("{day}T00:00:00Z")).unwrap();
        let first = (midnight.micros() - at(0).micros()) / 1_000_000 - 2 * 86_400;
        let values: Vec<_> = (0..250).map(|n| (first + n * 1800, 1.0)).collect();
        store(fresh, &values).await;
        let range = TimeRange::new(at(first), at(first + 250 * 1800)).unwrap();
        let grid = calendar::grid(range, Unit::Day, &calendar::zone(zone).unwrap()).unwrap();
        let noon = midnight.plus(Duration::from_hours(12));
        let summaries = fresh.storage.summarize(&series(), &grid).await.unwrap().buckets;
        let day = summaries.iter().find(|summary| summary.bucket == grid.position(noon)).unwrap();
        assert_eq!(day.count, readings, "{zone}");
        assert_eq!(summaries.iter().map(|summary| summary.count).sum::<u64>(), 250);
    }
}

async fn points_come_in_pages_and_backwards(fresh: &mut Fresh) {
    let values = random(100, 1_000_000);
    store(fresh, &values).await;
    let flag = telemetry("fern-1", 2_000_000, &[("t", Value::Flag(true))]);
    fresh.storage.append_events(&[flag]).await.unwrap();
    let point = |(seconds, value): &(i64, f64)| Point { time: at(*seconds), value: *value };
    let expected: Vec<_> = values.iter().map(point).collect();
    let mut range = TimeRange::new(at(-1_000_000), at(3_000_000)).unwrap();
    let mut found = Vec::new();
    loop {
        let page = fresh.storage.points(&series(), range, 7).await.unwrap();
        let Some(last) = page.last() else { break };
        range.start = last.time.next();
        found.extend(page);
    }
    assert_eq!(found, expected);
    let series = &series();
    let before = |seconds| fresh.storage.point_before(series, at(seconds));
    assert_eq!(before(3_000_000).await.unwrap(), expected.last().copied(), "a flag is no number");
    assert_eq!(before(values[50].0).await.unwrap(), Some(expected[49]));
    assert_eq!(before(values[0].0).await.unwrap(), None);
}

async fn shapes_keep_the_ends(fresh: &mut Fresh) {
    let mut values: Vec<_> = (0..2_000).map(|n| (n, 1.0)).collect();
    values[700].1 = 50.0;
    store(fresh, &values).await;
    let range = TimeRange::new(at(10), at(1_990)).unwrap();
    let shape = history::shape(&*fresh.storage, &series(), range, 20).await.unwrap();
    assert_eq!(shape.len(), 20);
    assert_eq!((shape[0].time, shape[19].time), (at(10), at(1_989)));
    assert!(shape.iter().any(|point| point.value > 49.0), "the spike is there");
    let few = TimeRange::new(at(10), at(20)).unwrap();
    let shape = history::shape(&*fresh.storage, &series(), few, 20).await.unwrap();
    assert_eq!(shape.len(), 10, "what is not too much stays");
}

async fn late_readings_count(fresh: &mut Fresh) {
    let grid = grid(0, 120, 60);
    store(fresh, &[(10, 1.0), (70, 5.0)]).await;
    assert_eq!(fresh.storage.summarize(&series(), &grid).await.unwrap().buckets.len(), 2);
    store(fresh, &[(5, 3.0), (69, 4.0)]).await;
    let summaries = fresh.storage.summarize(&series(), &grid).await.unwrap().buckets;
    let told: Vec<_> = summaries.iter().map(|s| (s.count, s.avg, s.first, s.last)).collect();
    assert_eq!(told, [(2, 2.0, 3.0, 1.0), (2, 4.5, 4.0, 5.0)]);
}

async fn unknown_series_are_empty(fresh: &mut Fresh) {
    let storage = &*fresh.storage;
    let grid = grid(0, 10, 1);
    assert!(storage.summarize(&series(), &grid).await.unwrap().buckets.is_empty());
    assert!(storage.points(&series(), grid.range(), 10).await.unwrap().is_empty());
    assert_eq!(storage.point_before(&series(), at(0)).await.unwrap(), None);
    let wanted = Wanted { aggregates: vec![Aggregate::TimeWeightedAvg], percentiles: vec![50.0] };
    let (none, _) = history::buckets(storage, &series(), &grid, &wanted, Fill::Null).await.unwrap();
    assert_eq!(none.len(), 10);
    assert!(none.iter().all(|bucket| bucket.count == 0 && bucket.values == Values::default()));
    assert!(history::shape(storage, &series(), grid.range(), 10).await.unwrap().is_empty());
}

/// By the timeout of its session, which here somebody else anticipates.
#[tokio::test]
async fn what_takes_too_long_is_refused() {
    let fresh = Fresh::timescaledb().await;
    let connect = || PgConnection::connect(fresh.database_url());
    let (mut holding, mut cancelling) = (connect().await.unwrap(), connect().await.unwrap());
    holding.execute("BEGIN; LOCK TABLE readings").await.unwrap();
    let grid = &grid(0, 10, 1);
    let series = &series();
    let asking = fresh.storage.summarize(series, grid);
    let cancel = async {
        let waiting = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut cancelling).await.unwrap() == 0 {
        }
    };
    let (asked, ()) = tokio::join!(asking, cancel);
    assert!(matches!(asked, Err(crate::Error::TooCostly(_))), "{asked:?}");
    holding.close().await.unwrap();
    cancelling.close().await.unwrap();
    fresh.close().await;
}
