//! Questions about the history on PostgreSQL. Each finds its rows by the one index of readings, and
//! those of one series lie in it in the order of time.

use sqlx::{AssertSqlSafe, PgPool, error::DatabaseError};
use telemetry_model::{Grid, Point, Reading, Selection, Series, TimeRange, Timestamp};

use super::{
    community::Edition,
    micros::Micros,
    rollups::{self, Rollup},
};
use crate::{
    error::{Error, Result},
    storage::{
        Scan, Summaries, TOO_LONG,
        rows::{self, SummaryRow, ValueColumns},
    },
};

/// A statement that ran into the timeout is one that asked for too much.
fn costly(error: sqlx::Error) -> Error {
    match error.as_database_error().and_then(DatabaseError::code) {
        Some(code) if code == "57014" => TOO_LONG,
        _ => error.into(),
    }
}

/// Readings as what a rollup has of them: each a summary of itself. Not by `avg`, which fails on
/// values whose squares overflow, as `sum` does when the sum does; nor can numbers be divided that
/// the result would be too small for.
fn readings_between(start: &str, end: &str) -> String {
    format!(
        "SELECT time, 1 AS count, value AS min, value AS max,
                CASE WHEN abs(value) < 1e-295 THEN 0 ELSE value / 1099511627776 END AS scaled_sum,
                value AS first, time AS first_time, value AS last, time AS last_time
         FROM (SELECT time, coalesce(number, integer::double precision) AS value
               FROM readings
               WHERE device_id = (SELECT id FROM devices WHERE device_id = $1)
                 AND metric_id = (SELECT id FROM metrics WHERE name = $2)
                 AND time >= {start} AND time < {end}) AS numbers
         WHERE value IS NOT NULL"
    )
}

/// What a rollup says of its part of the range, from $6 to $7, and the readings before and after it.
fn rolled_up(rollup: Rollup) -> String {
    format!(
        "SELECT bucket AS time, count, min, max,
                CASE WHEN abs(sum) < 1e-295 THEN 0 ELSE sum / 1099511627776 END AS scaled_sum,
                first, first_time, last, last_time
         FROM {name}
         WHERE device_id = (SELECT id FROM devices WHERE device_id = $1)
           AND metric_id = (SELECT id FROM metrics WHERE name = $2)
           AND bucket >= $6 AND bucket < $7
         UNION ALL {before} UNION ALL {after}",
        name = rollup.name,
        before = readings_between("$3", "$6"),
        after = readings_between("$7", "$4"),
    )
}

/// Sums up what a relation has of a series, in buckets between edges. Searching them costs no more
/// than `time_bucket` does: 43,200 readings in 500 buckets took 75 ms either way.
fn summarize_from(source: &str) -> String {
    format!(
        "SELECT (width_bucket(time, $5) - 1)::bigint AS bucket, sum(count)::bigint, min(min), max(max),
                sum(scaled_sum), first(first, first_time), last(last, last_time)
         FROM ({source}) AS source GROUP BY 1 ORDER BY 1"
    )
}

/// From a rollup, if one is exact; a sum that was too large for it only the readings know.
pub(super) async fn summarize(
    pool: &PgPool,
    edition: Edition,
    series: &Series,
    grid: &Grid,
) -> Result<Summaries> {
    let rollup = match edition {
        Edition::Community => rollups::for_grid(pool, grid).await?,
        Edition::Unprepared | Edition::Apache => None,
    };
    if let Some((rollup, inner)) = rollup {
        let rows = summary_rows(pool, &rolled_up(rollup), series, grid, Some(inner)).await?;
        if rows.iter().all(|(.., scaled_sum, _, _)| scaled_sum.is_finite()) {
            return Ok(Summaries { buckets: rows::summaries(rows)?, rolled_up: true });
        }
    }
    let rows = summary_rows(pool, &readings_between("$3", "$4"), series, grid, None).await?;
    Ok(Summaries { buckets: rows::summaries(rows)?, rolled_up: false })
}

async fn summary_rows(
    pool: &PgPool,
    source: &str,
    series: &Series,
    grid: &Grid,
    inner: Option<TimeRange>,
) -> Result<Vec<SummaryRow>> {
    let edges: Vec<_> = grid.edges().iter().map(|edge| Micros(edge.micros())).collect();
    let mut query = sqlx::query_as(AssertSqlSafe(summarize_from(source)))
        .bind(series.device.as_str())
        .bind(series.metric.as_str())
        .bind(Micros(grid.range().start.micros()))
        .bind(Micros(grid.range().end.micros()))
        .bind(edges);
    if let Some(TimeRange { start, end }) = inner {
        query = query.bind(Micros(start.micros())).bind(Micros(end.micros()));
    }
    query.fetch_all(pool).await.map_err(costly)
}

const POINTS: &str = "
    SELECT time, coalesce(number, integer::double precision)
    FROM readings
    WHERE device_id = (SELECT id FROM devices WHERE device_id = $1)
      AND metric_id = (SELECT id FROM metrics WHERE name = $2)
      AND time >= $3 AND time < $4 AND (number IS NOT NULL OR integer IS NOT NULL)
    ORDER BY time LIMIT $5";

pub(super) async fn points(
    pool: &PgPool,
    series: &Series,
    range: TimeRange,
    limit: usize,
) -> Result<Vec<Point>> {
    let rows: Vec<(Micros, f64)> = sqlx::query_as(POINTS)
        .bind(series.device.as_str())
        .bind(series.metric.as_str())
        .bind(Micros(range.start.micros()))
        .bind(Micros(range.end.micros()))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(pool)
        .await
        .map_err(costly)?;
    rows.into_iter().map(|(time, value)| point(time, value)).collect()
}

const POINT_BEFORE: &str = "
    SELECT time, coalesce(number, integer::double precision)
    FROM readings
    WHERE device_id = (SELECT id FROM devices WHERE device_id = $1)
      AND metric_id = (SELECT id FROM metrics WHERE name = $2)
      AND time < $3 AND (number IS NOT NULL OR integer IS NOT NULL)
    ORDER BY time DESC LIMIT 1";

pub(super) async fn point_before(
    pool: &PgPool,
    series: &Series,
    time: Timestamp,
) -> Result<Option<Point>> {
    let row: Option<(Micros, f64)> = sqlx::query_as(POINT_BEFORE)
        .bind(series.device.as_str())
        .bind(series.metric.as_str())
        .bind(Micros(time.micros()))
        .fetch_optional(pool)
        .await
        .map_err(costly)?;
    row.map(|(time, value)| point(time, value)).transpose()
}

fn point(time: Micros, value: f64) -> Result<Point> {
    Ok(Point { time: rows::timestamp(time.0)?, value })
}

const SERIES: &str = "
    SELECT d.device_id, m.name
    FROM devices d
    JOIN device_metrics dm ON dm.device_id = d.id
    JOIN metrics m ON m.id = dm.metric_id
    WHERE (cardinality($1::text[]) = 0 OR d.device_id = ANY($1))
      AND (cardinality($2::text[]) = 0 OR m.name = ANY($2))
      AND d.device_id COLLATE \"C\" >= $3
      AND (d.device_id COLLATE \"C\" > $3 OR m.name COLLATE \"C\" > $4)
    ORDER BY d.device_id COLLATE \"C\", m.name COLLATE \"C\" LIMIT $5";

pub(super) async fn series(
    pool: &PgPool,
    selection: &Selection,
    after: Option<&Series>,
    limit: usize,
) -> Result<Vec<Series>> {
    let devices: Vec<_> = selection.devices().iter().map(|id| id.as_str().to_owned()).collect();
    let metrics: Vec<_> = selection.metrics().iter().map(|name| name.as_str().to_owned()).collect();
    let rows: Vec<(String, String)> = sqlx::query_as(SERIES)
        .bind(devices)
        .bind(metrics)
        .bind(after.map_or("", |after| after.device.as_str()))
        .bind(after.map_or("", |after| after.metric.as_str()))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(pool)
        .await
        .map_err(costly)?;
    rows.iter().map(|(device, metric)| rows::series(device, metric)).collect()
}

/// Sorted by the place of the series first, which the rows already are: what is left to sort is one
/// series at a time, of which the index gives no more than the limit.
const SCAN: &str = "
    SELECT s.n, r.time, r.time_source, r.number, r.integer, r.flag, r.text
    FROM (SELECT n, d.id AS device_id, m.id AS metric_id,
                 CASE n WHEN 1 THEN $3::timestamptz ELSE $4 END AS start
          FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS names (device, metric, n)
          JOIN devices d ON d.device_id = names.device
          JOIN metrics m ON m.name = names.metric
          ORDER BY n) AS s
    CROSS JOIN LATERAL (
        SELECT time, time_source, number, integer, flag, text
        FROM readings
        WHERE device_id = s.device_id AND metric_id = s.metric_id
          AND time >= s.start AND time >= $4 AND time < $5
        ORDER BY time LIMIT $6) AS r
    ORDER BY s.n, r.time LIMIT $6";

type ScanRow = (i64, Micros, i16, Option<f64>, Option<i64>, Option<bool>, Option<String>);

pub(super) async fn scan(pool: &PgPool, scan: Scan<'_>) -> Result<Vec<(usize, Reading)>> {
    let Scan { series, from, start, end, limit } = scan;
    let devices: Vec<_> = series.iter().map(|series| series.device.as_str()).collect();
    let metrics: Vec<_> = series.iter().map(|series| series.metric.as_str()).collect();
    let rows: Vec<ScanRow> = sqlx::query_as(SCAN)
        .bind(devices)
        .bind(metrics)
        .bind(Micros(from.micros()))
        .bind(Micros(start.micros()))
        .bind(Micros(end.micros()))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(pool)
        .await
        .map_err(costly)?;
    let reading = |(n, time, time_source, number, integer, flag, text): ScanRow| {
        let place = usize::try_from(n - 1).unwrap_or(usize::MAX);
        let found = series.get(place).ok_or_else(|| rows::corrupt("a series has no place"))?;
        let value = ValueColumns { number, integer, flag, text };
        let metric = found.metric.clone();
        Ok((place, rows::reading_of(metric, time.0, time_source, value)?))
    };
    rows.into_iter().map(reading).collect()
}
