//! Retention on SQLite: rows are deleted some at a time, so that appends need not wait long for the
//! one writer. For the same reason nothing is looked for on its connection.

use std::collections::BTreeMap;

use sqlx::SqlitePool;
use telemetry_model::Timestamp;

use super::ledger;
use crate::{error::Result, storage::Policy};

/// How many rows one transaction deletes.
const ROWS: i64 = 10_000;

/// The last of the next rows of the log, in the order of its key, that are past their retention.
const LAST_OF_NEXT: &str = "
    SELECT device_id, position FROM (
        SELECT device_id, position FROM device_log
        WHERE (device_id, position) > (?1, ?2) AND received < ?3
        ORDER BY device_id, position LIMIT ?4)
    ORDER BY device_id DESC, position DESC LIMIT 1";

const DELETE_LOG: &str = "
    DELETE FROM device_log
    WHERE (device_id, position) > (?1, ?2) AND (device_id, position) <= (?3, ?4) AND received < ?5
    RETURNING log_partition, position";

/// Every device and metric that has readings, each a leap to its oldest: to look for old readings
/// by their time would be to read them all.
const DELETE_READINGS: &str = "
    DELETE FROM readings WHERE (device_id, metric_id, time) IN (
        SELECT r.device_id, r.metric_id, r.time
        FROM device_metrics AS known CROSS JOIN readings AS r
          ON r.device_id = known.device_id AND r.metric_id = known.metric_id
        WHERE r.time < ?1 LIMIT ?2)";

pub(super) async fn prune(
    readers: &SqlitePool,
    writer: &SqlitePool,
    now: Timestamp,
    policy: Policy,
) -> Result<()> {
    let (readings_before, log_before) = (now.minus(policy.readings), now.minus(policy.log));
    let (mut after, mut events) = ((0, 0), 0);
    while let Some(last) = last_of_next(readers, after, log_before).await? {
        events += delete_log(writer, after, last, log_before).await?;
        after = last;
    }
    let mut readings = 0;
    loop {
        let delete = sqlx::query(DELETE_READINGS).bind(readings_before.micros()).bind(ROWS);
        let deleted = delete.execute(writer).await?.rows_affected();
        readings += deleted;
        if deleted == 0 {
            break;
        }
    }
    let messages = sqlx::query("DELETE FROM quarantine WHERE received < ?1")
        .bind(now.minus(policy.quarantine).micros())
        .execute(writer)
        .await?
        .rows_affected();
    if events > 0 || readings > 0 || messages > 0 {
        tracing::info!(readings, events, messages, "deleted what is past its retention");
    }
    ledger::fold(writer, now.minus(policy.quarantine)).await
}

async fn last_of_next(
    readers: &SqlitePool,
    after: (i64, i64),
    before: Timestamp,
) -> Result<Option<(i64, i64)>> {
    let last = sqlx::query_as(LAST_OF_NEXT)
        .bind(after.0)
        .bind(after.1)
        .bind(before.micros())
        .bind(ROWS)
        .fetch_optional(readers)
        .await?;
    Ok(last)
}

/// Deletes a stretch of the log, and moves the horizon to what it has deleted. Answers how much.
async fn delete_log(
    writer: &SqlitePool,
    after: (i64, i64),
    last: (i64, i64),
    before: Timestamp,
) -> Result<usize> {
    let mut tx = writer.begin().await?;
    let deleted: Vec<(i64, i64)> = sqlx::query_as(DELETE_LOG)
        .bind(after.0)
        .bind(after.1)
        .bind(last.0)
        .bind(last.1)
        .bind(before.micros())
        .fetch_all(&mut *tx)
        .await?;
    let events = deleted.len();
    let mut horizons = BTreeMap::new();
    for (partition, position) in deleted {
        let horizon = horizons.entry(partition).or_insert(position);
        *horizon = position.max(*horizon);
    }
    for (partition, horizon) in horizons {
        sqlx::query("UPDATE log_heads SET horizon = max(horizon, ?2) WHERE log_partition = ?1")
            .bind(partition)
            .bind(horizon)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(events)
}
