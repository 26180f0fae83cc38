//! Queries on PostgreSQL.

use sqlx::{FromRow, PgPool};
use telemetry_model::{DeviceId, MetricName, Order, Reading, ReadingQuery};

use super::micros::Micros;
use crate::{
    error::{Error, Result},
    storage::rows::{self, ValueColumns},
};

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
