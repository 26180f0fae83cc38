//! Retention on PostgreSQL: whole chunks are dropped, by one replica at a time.

use sqlx::PgPool;
use telemetry_model::Timestamp;

use super::micros::Micros;
use crate::error::Result;

/// Any number, the same in all replicas.
const LOCK: i64 = 0x7465_6c65_6d65_7472;

/// Where the newest chunk of the log that is to be dropped ends, if there is one.
const DROPPED_BEFORE: &str = "
    SELECT max(range_end) FROM timescaledb_information.chunks
    WHERE hypertable_name = 'device_log' AND range_end <= $1";

/// Positions up to here are about to be dropped. Must be known before they are.
const HORIZONS: &str = "
    UPDATE log_heads SET horizon = greatest(horizon, gone.position)
    FROM (SELECT log_partition, max(position) AS position FROM device_log
          WHERE received < $1 GROUP BY log_partition) AS gone
    WHERE log_heads.log_partition = gone.log_partition";

pub(super) async fn prune(pool: &PgPool, readings: Timestamp, log: Timestamp) -> Result<()> {
    let mut tx = pool.begin().await?;
    let alone: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)")
        .bind(LOCK)
        .fetch_one(&mut *tx)
        .await?;
    if !alone {
        return Ok(());
    }
    let before: Option<Micros> =
        sqlx::query_scalar(DROPPED_BEFORE).bind(Micros(log.micros())).fetch_one(&mut *tx).await?;
    if let Some(before) = before {
        sqlx::query(HORIZONS).bind(before).execute(&mut *tx).await?;
    }
    let mut dropped: Vec<String> = Vec::new();
    for (table, before) in [("device_log", log), ("readings", readings)] {
        dropped.extend::<Vec<String>>(
            sqlx::query_scalar("SELECT drop_chunks($1::regclass, older_than => $2)::text")
                .bind(table)
                .bind(Micros(before.micros()))
                .fetch_all(&mut *tx)
                .await?,
        );
    }
    tx.commit().await?;
    if !dropped.is_empty() {
        tracing::info!(chunks = dropped.len(), "dropped what is past its retention");
    }
    Ok(())
}
