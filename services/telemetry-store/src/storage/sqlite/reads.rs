//! Queries on SQLite: the same answers as PostgreSQL's.

use sqlx::{FromRow, QueryBuilder, Sqlite as Db, SqlitePool};
use telemetry_model::{DeviceId, MetricName, Order, Reading, ReadingQuery};

use crate::{
    error::{Error, Result},
    storage::rows::{self, ValueColumns},
};

/// As SQLite takes a list.
pub(super) fn prefixes(within: &[String]) -> String {
    serde_json::Value::from(within).to_string()
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
