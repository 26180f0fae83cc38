//! Questions about the history on SQLite: the same answers as PostgreSQL's.

use std::time::Duration;

use sqlx::{QueryBuilder, Sqlite as Db, SqlitePool, error::DatabaseError, pool::PoolConnection};
use telemetry_model::{
    DeviceId, Grid, MetricName, Point, Reading, Selection, Series, Summary, TimeRange, Timestamp,
};
use tokio::time::Instant;

use crate::{
    error::{Error, Result},
    storage::{
        PATIENCE, Scan, TOO_LONG,
        rows::{self, SummaryRow, ValueColumns},
    },
};

/// After how many of its steps SQLite asks whether to go on.
const STEPS: i32 = 100_000;

/// A connection whose next statements are interrupted when they have taken too long together.
async fn patient(pool: &SqlitePool) -> Result<PoolConnection<Db>> {
    within(pool, PATIENCE).await
}

async fn within(pool: &SqlitePool, patience: Duration) -> Result<PoolConnection<Db>> {
    let mut connection = pool.acquire().await?;
    let began = Instant::now();
    let goes_on = move || began.elapsed() < patience;
    connection.lock_handle().await?.set_progress_handler(STEPS, goes_on);
    Ok(connection)
}

/// A statement that was interrupted is one that asked for too much.
fn costly(error: sqlx::Error) -> Error {
    match error.as_database_error().and_then(DatabaseError::code) {
        Some(code) if code == "9" => TOO_LONG,
        _ => error.into(),
    }
}

/// Finds the readings of each bucket by the index. The sum is scaled as on PostgreSQL.
const SUMMARIZE: &str = "
    WITH numbers AS (
        SELECT time, coalesce(number, CAST(integer AS REAL)) AS value
        FROM readings
        WHERE device_id = (SELECT id FROM devices WHERE device_id = ?1)
          AND metric_id = (SELECT id FROM metrics WHERE name = ?2)
          AND (number IS NOT NULL OR integer IS NOT NULL)
    ), buckets AS (
        SELECT key AS bucket, max(value, ?3) AS start,
               min(lead(value) OVER (ORDER BY key), ?4) AS finish
        FROM json_each(?5)
    )
    SELECT bucket, count(*), min(value), max(value),
           sum(CASE WHEN abs(value) < 1e-295 THEN 0.0 ELSE value / 1099511627776.0 END),
           (SELECT value FROM numbers WHERE time >= start AND time < finish
            ORDER BY time LIMIT 1),
           (SELECT value FROM numbers WHERE time >= start AND time < finish
            ORDER BY time DESC LIMIT 1)
    FROM buckets CROSS JOIN numbers ON time >= start AND time < finish
    GROUP BY bucket ORDER BY bucket";

pub(super) async fn summarize(
    pool: &SqlitePool,
    series: &Series,
    grid: &Grid,
) -> Result<Vec<Summary>> {
    let edges: Vec<_> = grid.edges().iter().map(|edge| edge.micros().to_string()).collect();
    let rows: Vec<SummaryRow> = sqlx::query_as(SUMMARIZE)
        .bind(series.device.as_str())
        .bind(series.metric.as_str())
        .bind(grid.range().start.micros())
        .bind(grid.range().end.micros())
        .bind(format!("[{}]", edges.join(",")))
        .fetch_all(&mut *patient(pool).await?)
        .await
        .map_err(costly)?;
    rows::summaries(rows)
}

const POINTS: &str = "
    SELECT time, coalesce(number, CAST(integer AS REAL))
    FROM readings
    WHERE device_id = (SELECT id FROM devices WHERE device_id = ?1)
      AND metric_id = (SELECT id FROM metrics WHERE name = ?2)
      AND time >= ?3 AND time < ?4 AND (number IS NOT NULL OR integer IS NOT NULL)
    ORDER BY time LIMIT ?5";

pub(super) async fn points(
    pool: &SqlitePool,
    series: &Series,
    range: TimeRange,
    limit: usize,
) -> Result<Vec<Point>> {
    let rows: Vec<(i64, f64)> = sqlx::query_as(POINTS)
        .bind(series.device.as_str())
        .bind(series.metric.as_str())
        .bind(range.start.micros())
        .bind(range.end.micros())
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *patient(pool).await?)
        .await
        .map_err(costly)?;
    rows.into_iter().map(|(time, value)| point(time, value)).collect()
}

const POINT_BEFORE: &str = "
    SELECT time, coalesce(number, CAST(integer AS REAL))
    FROM readings
    WHERE device_id = (SELECT id FROM devices WHERE device_id = ?1)
      AND metric_id = (SELECT id FROM metrics WHERE name = ?2)
      AND time < ?3 AND (number IS NOT NULL OR integer IS NOT NULL)
    ORDER BY time DESC LIMIT 1";

pub(super) async fn point_before(
    pool: &SqlitePool,
    series: &Series,
    time: Timestamp,
) -> Result<Option<Point>> {
    let row: Option<(i64, f64)> = sqlx::query_as(POINT_BEFORE)
        .bind(series.device.as_str())
        .bind(series.metric.as_str())
        .bind(time.micros())
        .fetch_optional(&mut *patient(pool).await?)
        .await
        .map_err(costly)?;
    row.map(|(time, value)| point(time, value)).transpose()
}

fn point(time: i64, value: f64) -> Result<Point> {
    Ok(Point { time: rows::timestamp(time)?, value })
}

pub(super) async fn series(
    pool: &SqlitePool,
    selection: &Selection,
    after: Option<&Series>,
    limit: usize,
) -> Result<Vec<Series>> {
    let mut select = QueryBuilder::<Db>::new(
        "SELECT d.device_id, m.name
         FROM devices d
         JOIN device_metrics dm ON dm.device_id = d.id
         JOIN metrics m ON m.id = dm.metric_id
         WHERE (d.device_id, m.name) > (",
    );
    select.push_bind(after.map_or("", |after| after.device.as_str())).push(", ");
    select.push_bind(after.map_or("", |after| after.metric.as_str())).push(")");
    let devices = selection.devices().iter().map(DeviceId::as_str);
    push_names(&mut select, " AND d.device_id IN (", devices);
    let metrics = selection.metrics().iter().map(MetricName::as_str);
    push_names(&mut select, " AND m.name IN (", metrics);
    select.push(" ORDER BY d.device_id, m.name LIMIT ");
    select.push_bind(i64::try_from(limit).unwrap_or(i64::MAX));
    let select = select.build_query_as::<(String, String)>().persistent(false);
    let rows = select.fetch_all(&mut *patient(pool).await?).await.map_err(costly)?;
    rows.iter().map(|(device, metric)| rows::series(device, metric)).collect()
}

/// Limits a query to some names; none means all.
fn push_names<'a>(
    select: &mut QueryBuilder<Db>,
    condition: &str,
    names: impl ExactSizeIterator<Item = &'a str>,
) {
    if names.len() == 0 {
        return;
    }
    select.push(condition);
    let mut list = select.separated(", ");
    for name in names {
        list.push_bind(name.to_owned());
    }
    select.push(")");
}

const SCAN: &str = "
    SELECT time, time_source, number, integer, flag, text
    FROM readings
    WHERE device_id = (SELECT id FROM devices WHERE device_id = ?1)
      AND metric_id = (SELECT id FROM metrics WHERE name = ?2)
      AND time >= ?3 AND time < ?4
    ORDER BY time LIMIT ?5";

type ScanRow = (i64, i16, Option<f64>, Option<i64>, Option<bool>, Option<String>);

/// Series by series, which costs no more here than all at once.
pub(super) async fn scan(pool: &SqlitePool, scan: Scan<'_>) -> Result<Vec<(usize, Reading)>> {
    let Scan { series, mut from, start, end, limit } = scan;
    let mut connection = patient(pool).await?;
    let mut readings = Vec::new();
    for (place, series) in series.iter().enumerate() {
        let left = limit.saturating_sub(readings.len());
        if left == 0 {
            break;
        }
        let rows: Vec<ScanRow> = sqlx::query_as(SCAN)
            .bind(series.device.as_str())
            .bind(series.metric.as_str())
            .bind(from.micros())
            .bind(end.micros())
            .bind(i64::try_from(left).unwrap_or(i64::MAX))
            .fetch_all(&mut *connection)
            .await
            .map_err(costly)?;
        for (time, time_source, number, integer, flag, text) in rows {
            let value = ValueColumns { number, integer, flag, text };
            let metric = series.metric.clone();
            readings.push((place, rows::reading_of(metric, time, time_source, value)?));
        }
        from = start;
    }
    Ok(readings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_takes_too_long_is_stopped() {
        let pool = SqlitePool::connect("sqlite::memory:").await.unwrap();
        let mut connection = within(&pool, Duration::ZERO).await.unwrap();
        let endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
                       SELECT count(*) FROM n";
        let stopped = sqlx::query(endless).execute(&mut *connection).await;
        assert!(matches!(stopped.map_err(costly), Err(Error::TooCostly(_))));
    }
}
