//! Queries on SQLite: the same answers as PostgreSQL's.

use sqlx::{FromRow, QueryBuilder, Sqlite as Db, SqlitePool};
use telemetry_model::{
    Bucket, Cursor, DeviceId, MetricName, Order, Partition, Reading, ReadingQuery, SummaryQuery,
};

use crate::{
    error::{Error, Result},
    storage::{
        LogRange, Tail,
        rows::{self, ValueColumns},
    },
};

pub(super) async fn log_range(pool: &SqlitePool, partition: Partition) -> Result<LogRange> {
    let (head, horizon) =
        sqlx::query_as("SELECT head, horizon FROM log_heads WHERE log_partition = ?1")
            .bind(i32::from(partition.number()))
            .fetch_one(pool)
            .await?;
    Ok(LogRange::new(partition, horizon, head))
}

/// One statement, so that the head and the events are of one moment.
const TAIL: &str = "
    SELECT heads.head, heads.horizon, log.position, log.event
    FROM log_heads AS heads LEFT JOIN (
        SELECT log_partition, position, event FROM device_log
        WHERE device_id = (SELECT id FROM devices WHERE device_id = ?2) AND position > ?3
        ORDER BY position LIMIT ?4
    ) AS log ON log.log_partition = heads.log_partition
    WHERE heads.log_partition = ?1
    ORDER BY log.position";

/// Head, horizon, and an event's position and record, if there is one.
type TailRow = (i64, i64, Option<i64>, Option<Vec<u8>>);

pub(super) async fn tail(
    pool: &SqlitePool,
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

pub(super) async fn metrics(
    pool: &SqlitePool,
    device: Option<&DeviceId>,
) -> Result<Vec<MetricName>> {
    let names: Vec<String> = match device {
        None => sqlx::query_scalar("SELECT name FROM metrics ORDER BY name"),
        Some(device) => sqlx::query_scalar(
            "SELECT m.name FROM devices d
             JOIN device_metrics dm ON dm.device_id = d.id JOIN metrics m ON m.id = dm.metric_id
             WHERE d.device_id = ?1 ORDER BY m.name",
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
    time: i64,
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
        rows::reading(&name, time, time_source, ValueColumns { number, integer, flag, text })
    }
}

pub(super) async fn latest(
    pool: &SqlitePool,
    device: &DeviceId,
    metrics: &[MetricName],
) -> Result<Vec<Reading>> {
    let mut select = QueryBuilder::<Db>::new(
        "SELECT m.name, r.time, r.time_source, r.number, r.integer, r.flag, r.text
         FROM devices d
         JOIN device_metrics dm ON dm.device_id = d.id
         JOIN metrics m ON m.id = dm.metric_id
         JOIN readings r ON r.device_id = dm.device_id AND r.metric_id = dm.metric_id
          AND r.time = (SELECT max(time) FROM readings
                        WHERE device_id = dm.device_id AND metric_id = dm.metric_id)
         WHERE d.device_id = ",
    );
    select.push_bind(device.as_str());
    push_metrics(&mut select, metrics);
    select.push(" ORDER BY m.name");
    let select = select.build_query_as::<ReadingRow>().persistent(false);
    select.fetch_all(pool).await?.into_iter().map(TryInto::try_into).collect()
}

pub(super) async fn readings(pool: &SqlitePool, query: &ReadingQuery) -> Result<Vec<Reading>> {
    let mut select = QueryBuilder::<Db>::new(
        "SELECT m.name, r.time, r.time_source, r.number, r.integer, r.flag, r.text
         FROM readings r JOIN metrics m ON m.id = r.metric_id
         WHERE r.device_id = (SELECT id FROM devices WHERE device_id = ",
    );
    select.push_bind(query.device.as_str()).push(") AND r.time >= ");
    select.push_bind(query.range.start.micros()).push(" AND r.time < ");
    select.push_bind(query.range.end.micros());
    push_metrics(&mut select, &query.metrics);
    if let Some(after) = &query.after {
        select.push(match query.order {
            Order::OldestFirst => " AND (r.time > ",
            Order::NewestFirst => " AND (r.time < ",
        });
        select.push_bind(after.time.micros()).push(" OR (r.time = ");
        select.push_bind(after.time.micros()).push(" AND m.name > ");
        select.push_bind(after.metric.as_str()).push("))");
    }
    select.push(match query.order {
        Order::OldestFirst => " ORDER BY r.time, m.name LIMIT ",
        Order::NewestFirst => " ORDER BY r.time DESC, m.name LIMIT ",
    });
    select.push_bind(i64::try_from(query.limit).unwrap_or(i64::MAX));
    let select = select.build_query_as::<ReadingRow>().persistent(false);
    select.fetch_all(pool).await?.into_iter().map(TryInto::try_into).collect()
}

/// Limits a query to some metrics; none means all.
fn push_metrics(select: &mut QueryBuilder<Db>, metrics: &[MetricName]) {
    if metrics.is_empty() {
        return;
    }
    select.push(" AND m.name IN (");
    let mut list = select.separated(", ");
    for metric in metrics {
        list.push_bind(metric.as_str().to_owned());
    }
    select.push(")");
}

#[derive(FromRow)]
struct BucketRow {
    start: i64,
    count: i64,
    min: f64,
    max: f64,
    scaled_sum: f64,
    first: f64,
    last: f64,
}

/// Division rounds towards zero, so what is before 1970 is moved down a bucket. The sum is scaled
/// as on PostgreSQL.
const SUMMARIZE: &str = "
    SELECT (time - ((time % ?5) + ?5) % ?5) AS start,
           count(*) AS count, min(value) AS min, max(value) AS max,
           sum(CASE WHEN abs(value) < 1e-295 THEN 0.0 ELSE value / 1099511627776.0 END)
               AS scaled_sum,
           first, last
    FROM (SELECT time, value,
                 first_value(value) OVER bucket AS first, last_value(value) OVER bucket AS last
          FROM (SELECT time, coalesce(number, CAST(integer AS REAL)) AS value
                FROM readings
                WHERE device_id = (SELECT id FROM devices WHERE device_id = ?1)
                  AND metric_id = (SELECT id FROM metrics WHERE name = ?2)
                  AND time >= ?3 AND time < ?4)
          WHERE value IS NOT NULL
          WINDOW bucket AS (PARTITION BY time - ((time % ?5) + ?5) % ?5 ORDER BY time
                            ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING))
    GROUP BY 1 ORDER BY 1";

pub(super) async fn summarize(pool: &SqlitePool, query: &SummaryQuery) -> Result<Vec<Bucket>> {
    let rows: Vec<BucketRow> = sqlx::query_as(SUMMARIZE)
        .bind(query.device.as_str())
        .bind(query.metric.as_str())
        .bind(query.range.start.micros())
        .bind(query.range.end.micros())
        .bind(query.width_micros())
        .fetch_all(pool)
        .await?;
    let bucket = |row: BucketRow| {
        let BucketRow { start, count, min, max, scaled_sum, first, last } = row;
        let (start, count) = (rows::timestamp(start)?, count.unsigned_abs());
        let avg = rows::mean(scaled_sum, count, min, max);
        Ok(Bucket { start, count, min, max, avg, first, last })
    };
    rows.into_iter().map(bucket).collect()
}
