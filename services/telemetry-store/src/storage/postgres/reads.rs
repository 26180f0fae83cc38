//! Queries on PostgreSQL.

use sqlx::{FromRow, PgPool};
use telemetry_model::{
    Bucket, Cursor, DeviceId, MetricName, Order, Partition, Reading, ReadingQuery, SummaryQuery,
};

use super::micros::Micros;
use crate::{
    error::{Error, Result},
    storage::{
        LogRange, Tail,
        rows::{self, ValueColumns},
    },
};

pub(super) async fn log_range(pool: &PgPool, partition: Partition) -> Result<LogRange> {
    let (head, horizon) =
        sqlx::query_as("SELECT head, horizon FROM log_heads WHERE log_partition = $1")
            .bind(i32::from(partition.number()))
            .fetch_one(pool)
            .await?;
    Ok(LogRange::new(partition, horizon, head))
}

/// One statement, so that the head and the events are of one moment.
const TAIL: &str = "
    SELECT heads.head, heads.horizon, log.position, log.event
    FROM log_heads AS heads LEFT JOIN LATERAL (
        SELECT position, event FROM device_log
        WHERE device_id = (SELECT id FROM devices WHERE device_id = $2)
          AND position > $3 AND position <= heads.head
        ORDER BY position LIMIT $4
    ) AS log ON true
    WHERE heads.log_partition = $1
    ORDER BY log.position";

/// Head, horizon, and an event's position and record, if there is one.
type TailRow = (i64, i64, Option<i64>, Option<Vec<u8>>);

pub(super) async fn tail(
    pool: &PgPool,
    device: &DeviceId,
    after: Cursor,
    limit: usize,
) -> Result<Tail> {
    let rows: Vec<TailRow> = sqlx::query_as(TAIL)
        .bind(i32::from(after.partition.number()))
        .bind(device.as_str())
        .bind(after.position)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(pool)
        .await?;
    let &(head, horizon, ..) = rows.first().ok_or_else(|| rows::corrupt("a log has no head"))?;
    let records = rows.into_iter().filter_map(|(_, _, position, event)| Some((position?, event?)));
    Tail::new(after, LogRange::new(after.partition, horizon, head), records, limit)
}

pub(super) async fn metrics(pool: &PgPool, device: Option<&DeviceId>) -> Result<Vec<MetricName>> {
    let names: Vec<String> = match device {
        None => sqlx::query_scalar("SELECT name FROM metrics ORDER BY name COLLATE \"C\""),
        Some(device) => sqlx::query_scalar(
            "SELECT m.name FROM devices d
             JOIN device_metrics dm ON dm.device_id = d.id JOIN metrics m ON m.id = dm.metric_id
             WHERE d.device_id = $1 ORDER BY m.name COLLATE \"C\"",
        )
        .bind(device.as_str()),
    }
    .fetch_all(pool)
    .await?;
    names.iter().map(|name| rows::metric_name(name)).collect()
}

#[derive(FromRow)]
struct ReadingRow {
    name: String,
    time: Micros,
    time_source: i16,
    number: Option<f64>,
    integer: Option<i64>,
    flag: Option<bool>,
    text: Option<String>,
}

impl TryFrom<ReadingRow> for Reading {
    type Error = Error;

    fn try_from(row: ReadingRow) -> Result<Self> {
        let ReadingRow { name, time, time_source, number, integer, flag, text } = row;
        rows::reading(&name, time.0, time_source, ValueColumns { number, integer, flag, text })
    }
}

const LATEST: &str = "
    SELECT m.name, r.time, r.time_source, r.number, r.integer, r.flag, r.text
    FROM devices d
    JOIN device_metrics dm ON dm.device_id = d.id
    JOIN metrics m ON m.id = dm.metric_id
    CROSS JOIN LATERAL (
        SELECT * FROM readings
        WHERE device_id = dm.device_id AND metric_id = dm.metric_id ORDER BY time DESC LIMIT 1
    ) AS r
    WHERE d.device_id = $1 AND (cardinality($2::text[]) = 0 OR m.name = ANY($2))
    ORDER BY m.name COLLATE \"C\"";

pub(super) async fn latest(
    pool: &PgPool,
    device: &DeviceId,
    metrics: &[MetricName],
) -> Result<Vec<Reading>> {
    let rows: Vec<ReadingRow> =
        sqlx::query_as(LATEST).bind(device.as_str()).bind(names(metrics)).fetch_all(pool).await?;
    rows.into_iter().map(TryInto::try_into).collect()
}

const OLDEST_FIRST: &str = "
    SELECT m.name, r.time, r.time_source, r.number, r.integer, r.flag, r.text
    FROM readings r JOIN metrics m ON m.id = r.metric_id
    WHERE r.device_id = (SELECT id FROM devices WHERE device_id = $1)
      AND (cardinality($2::text[]) = 0
           OR r.metric_id = ANY(ARRAY(SELECT id FROM metrics WHERE name = ANY($2))))
      AND r.time >= $3 AND r.time < $4
      AND ($5::timestamptz IS NULL OR r.time > $5 OR (r.time = $5 AND m.name COLLATE \"C\" > $6))
    ORDER BY r.time, m.name COLLATE \"C\" LIMIT $7";

const NEWEST_FIRST: &str = "
    SELECT m.name, r.time, r.time_source, r.number, r.integer, r.flag, r.text
    FROM readings r JOIN metrics m ON m.id = r.metric_id
    WHERE r.device_id = (SELECT id FROM devices WHERE device_id = $1)
      AND (cardinality($2::text[]) = 0
           OR r.metric_id = ANY(ARRAY(SELECT id FROM metrics WHERE name = ANY($2))))
      AND r.time >= $3 AND r.time < $4
      AND ($5::timestamptz IS NULL OR r.time < $5 OR (r.time = $5 AND m.name COLLATE \"C\" > $6))
    ORDER BY r.time DESC, m.name COLLATE \"C\" LIMIT $7";

pub(super) async fn readings(pool: &PgPool, query: &ReadingQuery) -> Result<Vec<Reading>> {
    // A page begins where the last one ended: the bound on time spares the chunks before it.
    let (mut start, mut end) = (query.range.start.micros(), query.range.end.micros());
    if let Some(after) = &query.after {
        match query.order {
            Order::OldestFirst => start = start.max(after.time.micros()),
            Order::NewestFirst => end = end.min(after.time.micros().saturating_add(1)),
        }
    }
    let sql = match query.order {
        Order::OldestFirst => OLDEST_FIRST,
        Order::NewestFirst => NEWEST_FIRST,
    };
    let rows: Vec<ReadingRow> = sqlx::query_as(sql)
        .bind(query.device.as_str())
        .bind(names(&query.metrics))
        .bind(Micros(start))
        .bind(Micros(end))
        .bind(query.after.as_ref().map(|after| Micros(after.time.micros())))
        .bind(query.after.as_ref().map(|after| after.metric.as_str()))
        .bind(i64::try_from(query.limit).unwrap_or(i64::MAX))
        .fetch_all(pool)
        .await?;
    rows.into_iter().map(TryInto::try_into).collect()
}

fn names(metrics: &[MetricName]) -> Vec<String> {
    metrics.iter().map(|metric| metric.as_str().to_owned()).collect()
}

#[derive(FromRow)]
struct BucketRow {
    start: Micros,
    count: i64,
    min: f64,
    max: f64,
    scaled_sum: f64,
    first: f64,
    last: f64,
}

/// Not by `avg`, which fails on values whose squares overflow, as `sum` does when the sum does; nor
/// can numbers be divided that the result would be too small for.
const SUMMARIZE: &str = "
    SELECT time_bucket($5::bigint * INTERVAL '1 microsecond', r.time,
                       TIMESTAMPTZ '1970-01-01 00:00:00Z') AS start,
           count(*) AS count, min(r.value) AS min, max(r.value) AS max,
           sum(CASE WHEN abs(r.value) < 1e-295 THEN 0 ELSE r.value / 1099511627776 END)
               AS scaled_sum,
           first(r.value, r.time) AS first, last(r.value, r.time) AS last
    FROM (SELECT time, coalesce(number, integer::double precision) AS value
          FROM readings
          WHERE device_id = (SELECT id FROM devices WHERE device_id = $1)
            AND metric_id = (SELECT id FROM metrics WHERE name = $2)
            AND time >= $3 AND time < $4) AS r
    WHERE r.value IS NOT NULL
    GROUP BY 1 ORDER BY 1";

pub(super) async fn summarize(pool: &PgPool, query: &SummaryQuery) -> Result<Vec<Bucket>> {
    let rows: Vec<BucketRow> = sqlx::query_as(SUMMARIZE)
        .bind(query.device.as_str())
        .bind(query.metric.as_str())
        .bind(Micros(query.range.start.micros()))
        .bind(Micros(query.range.end.micros()))
        .bind(query.width_micros())
        .fetch_all(pool)
        .await?;
    let bucket = |row: BucketRow| {
        let BucketRow { start, count, min, max, scaled_sum, first, last } = row;
        let (start, count) = (rows::timestamp(start.0)?, count.unsigned_abs());
        let avg = rows::mean(scaled_sum, count, min, max);
        Ok(Bucket { start, count, min, max, avg, first, last })
    };
    rows.into_iter().map(bucket).collect()
}
