//! What becomes of data as it grows old: compressed, rolled up, deleted; and late data at any age.

use std::time::Duration;

use sqlx::{Connection, PgConnection, Row};
use telemetry_model::{Event, Grid, MetricName, Series, Summary, TimeRange, Value};

use super::{Fresh, KEPT, all, at, device, metric, on_each_backend, telemetry};
use crate::storage::{
    Summaries,
    postgres::rollups,
    testing::{AppendEvents, Appended},
};

on_each_backend!(late_data_at_any_age_is_right_at_once, duplicates_of_old_data_are_recognised);

const DAY: i64 = 24 * 60 * 60;
const HOUR: Duration = Duration::from_hours(1);
/// Midnight.
const START: i64 = -12 * 60 * 60;

fn reading(seconds: i64, value: i64) -> Event {
    telemetry("fern-1", seconds, &[("t", Value::Integer(value))])
}

/// Five days of a reading every ten minutes.
fn days() -> Vec<Event> {
    (0..5 * 144).map(|n| reading(START + n * 600, n % 7)).collect()
}

/// Buckets by hour as the readings say.
async fn summary(fresh: &Fresh) -> Vec<Summary> {
    let range = TimeRange::new(at(START), at(START + 5 * DAY)).unwrap();
    let series = Series { device: device("fern-1"), metric: metric("t") };
    fresh.storage.summarize(&series, &Grid::of_width(range, HOUR).unwrap()).await.unwrap().buckets
}

/// Ages all of it: it is rolled up, and but for the last days compressed, where that can be.
async fn age(fresh: &Fresh) {
    fresh.storage.prune(at(START + 6 * DAY)).await.unwrap();
}

async fn late_data_at_any_age_is_right_at_once(fresh: &mut Fresh) {
    fresh.storage.append_events(&days()).await.unwrap();
    age(fresh).await;
    assert_eq!(all(&fresh.storage, "fern-1").await.len(), 720);
    let before = summary(fresh).await;
    assert_eq!((before.len(), before[0].count), (120, 6));
    // Into the oldest chunk, which is compressed, and into one that is not.
    for (late, bucket) in [(START + 30, 0), (START + 4 * DAY + 30, 96)] {
        let added = fresh.storage.append_events(&[reading(late, 1000)]).await.unwrap();
        assert_eq!(added, [Appended { stored: 1, ..Appended::default() }]);
        let now = summary(fresh).await;
        assert_eq!((now[bucket].count, now[bucket].max), (7, 1000.0));
        age(fresh).await;
        assert_eq!(summary(fresh).await, now, "ageing changes nothing");
    }
    assert_eq!(all(&fresh.storage, "fern-1").await.len(), 722);
    // And then it is gone.
    fresh.storage.prune(at(START + 3 * DAY).plus(KEPT)).await.unwrap();
    let left = all(&fresh.storage, "fern-1").await;
    assert_eq!((left.len(), left[0].time), (289, at(START + 3 * DAY)));
}

async fn duplicates_of_old_data_are_recognised(fresh: &mut Fresh) {
    let events = days();
    fresh.storage.append_events(&events).await.unwrap();
    age(fresh).await;
    let again = fresh.storage.append_events(&events).await.unwrap();
    assert!(again.iter().all(|a| *a == Appended { duplicates: 1, ..Appended::default() }));
    let other: Vec<_> = (0..720).map(|n| reading(START + n * 600 + n % 2, 9)).collect();
    let added = fresh.storage.append_events(&other).await.unwrap();
    let sum = |count: fn(&Appended) -> u64| added.iter().map(count).sum::<u64>();
    assert_eq!((sum(|a| a.stored), sum(|a| a.conflicts)), (360, 360));
    assert_eq!(all(&fresh.storage, "fern-1").await.len(), 1080);
}

/// What the rollup by hour says, as a summary would.
async fn rolled_up(session: &mut PgConnection, name: &MetricName) -> Vec<Summary> {
    let rows = sqlx::query(
        "SELECT (extract(epoch FROM bucket - min(bucket) OVER ()) / 3600)::bigint AS place, count, sum / count AS avg,
                min, max, first, last
         FROM readings_1h WHERE metric_id = (SELECT id FROM metrics WHERE name = $1)
         ORDER BY bucket",
    );
    let rows = rows.bind(name.as_str()).fetch_all(session).await.unwrap();
    let bucket = |row: &sqlx::postgres::PgRow| Summary {
        bucket: usize::try_from(row.get::<i64, _>("place")).unwrap(),
        count: row.get::<i64, _>("count").unsigned_abs(),
        min: row.get("min"),
        max: row.get("max"),
        avg: row.get("avg"),
        first: row.get("first"),
        last: row.get("last"),
    };
    rows.iter().map(bucket).collect()
}

const COMPRESSED: &str = "
    SELECT count(*) FROM timescaledb_information.chunks
    WHERE hypertable_name = 'readings' AND is_compressed";

#[tokio::test]
async fn a_rollup_answers_only_for_what_it_has_right() {
    let fresh = Fresh::community().await;
    let mut session = PgConnection::connect(fresh.database_url()).await.unwrap();
    let pool = crate::storage::postgres::connect::pool(fresh.database_url(), 1).await.unwrap();
    let which = async |from: i64, to: i64, width| {
        let range = TimeRange::new(at(START + from), at(START + to)).unwrap();
        let mut edges = vec![range.start];
        while let Some(last) = edges.last().filter(|last| **last < range.end) {
            edges.push(last.plus(width));
        }
        let grid = Grid::of_edges(range, edges.into_iter()).unwrap();
        rollups::for_grid(&pool, &grid).await.unwrap().map(|(rollup, _)| rollup.name)
    };
    fresh.storage.append_events(&days()).await.unwrap();
    assert_eq!(which(0, DAY, HOUR).await, None, "nothing is rolled up yet");
    age(&fresh).await;
    let compressed: i64 = sqlx::query_scalar(COMPRESSED).fetch_one(&mut session).await.unwrap();
    assert_eq!(compressed, 4, "those that ended two days ago");
    assert_eq!(which(0, 5 * DAY, HOUR).await, Some("readings_1h"));
    assert_eq!(which(0, 5 * DAY, 24 * HOUR).await, Some("readings_1d"));
    assert_eq!(which(3600, 5 * DAY, 24 * HOUR).await, Some("readings_1h"), "days of another zone");
    assert_eq!(which(60, 5 * DAY, 90 * Duration::from_mins(1)).await, Some("readings_1m"));
    assert_eq!(which(1, 5 * DAY + 1, HOUR).await, None, "buckets that are none of its own");
    assert_eq!(rolled_up(&mut session, &metric("t")).await, summary(&fresh).await);

    // A range that cuts buckets: its ends come from the readings.
    let range = TimeRange::new(at(START + 130), at(START + 5 * DAY - 700)).unwrap();
    let series = Series { device: device("fern-1"), metric: metric("t") };
    let grid = Grid::of_width(range, 2 * HOUR).unwrap();
    let Summaries { buckets, rolled_up: helped } =
        fresh.storage.summarize(&series, &grid).await.unwrap();
    let counts: Vec<_> = buckets.iter().map(|bucket| bucket.count).collect();
    assert!(helped && counts.iter().sum::<u64>() == 720 - 2, "{counts:?}");
    assert_eq!((counts[0], counts[1], counts[59]), (11, 12, 11));
    let whole = Grid::of_edges(range, [range.start, range.end].into_iter()).unwrap();
    let whole = fresh.storage.summarize(&series, &whole).await.unwrap();
    assert!(!whole.rolled_up, "no bucket of a rollup ends there");

    // Late: only the readings know it, until it is rolled up.
    fresh.storage.append_events(&[reading(START + DAY + 30, 1000)]).await.unwrap();
    assert_eq!(which(0, 5 * DAY, HOUR).await, None);
    assert_eq!(which(0, DAY, HOUR).await, Some("readings_1h"), "what lies before is right");
    assert_eq!(which(2 * DAY, 5 * DAY, HOUR).await, Some("readings_1h"));
    age(&fresh).await;
    assert_eq!(which(0, 5 * DAY, HOUR).await, Some("readings_1h"));
    let now = summary(&fresh).await;
    assert_eq!((now[24].count, rolled_up(&mut session, &metric("t")).await), (7, now));

    // It outlives the readings, and what was dropped is not rolled up as nothing.
    fresh.storage.prune(at(START + 2 * DAY).plus(KEPT)).await.unwrap();
    assert_eq!(all(&fresh.storage, "fern-1").await[0].time, at(START + 2 * DAY));
    fresh.storage.prune(at(START + 2 * DAY).plus(KEPT)).await.unwrap();
    assert_eq!(which(0, 5 * DAY, HOUR).await, Some("readings_1h"));
    assert_eq!(rolled_up(&mut session, &metric("t")).await.len(), 120);
    // Nor does a late reading that is let in there take away what was rolled up before.
    fresh.storage.append_events(&[reading(START + 31, 5)]).await.unwrap();
    fresh.storage.prune(at(START + 2 * DAY).plus(KEPT)).await.unwrap();
    let left: Vec<_> = rolled_up(&mut session, &metric("t")).await;
    assert_eq!((left.len(), left.iter().map(|bucket| bucket.count).sum::<u64>()), (120, 721));
    pool.close().await;
    session.close().await.unwrap();
    fresh.close().await;
}

/// One value that is too large to be added up or squared would otherwise stop all rolling up.
#[tokio::test]
async fn rollups_bear_extreme_values() {
    let fresh = Fresh::community().await;
    let mut session = PgConnection::connect(fresh.database_url()).await.unwrap();
    let values = [f64::MAX, f64::MAX, f64::MIN, 1e200, 5e-324, 1.5];
    let event = |(n, value): (i64, &f64)| telemetry("fern-1", n, &[("t", Value::Number(*value))]);
    let events: Vec<_> = (0..).zip(&values).map(event).collect();
    fresh.storage.append_events(&events).await.unwrap();
    fresh.storage.prune(at(DAY)).await.unwrap();
    let [bucket] = rolled_up(&mut session, &metric("t")).await[..] else { panic!("one bucket") };
    assert_eq!((bucket.count, bucket.max, bucket.last), (6, f64::MAX, 1.5));
    assert!(!bucket.avg.is_finite(), "{bucket:?}");
    session.close().await.unwrap();
    fresh.close().await;
}
