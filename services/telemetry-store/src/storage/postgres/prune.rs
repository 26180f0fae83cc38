//! Retention on PostgreSQL: whole chunks are dropped, by one replica at a time.
//!
//! Dropping a chunk waits for everyone who reads it, for ever if someone forgot to end a
//! transaction, and every append waits for the heads of the log. So the two are never held
//! together: first the horizon is moved past what is in the chunk (too early does no harm), then the
//! chunk is dropped in a transaction that gives up soon, provided that nothing was added meanwhile.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Executor, FromRow, PgConnection, PgPool};
use telemetry_model::Timestamp;

use super::{lease::Lease, micros::Micros};
use crate::error::Result;

/// Shorter than `deadlock_timeout`: if an append adds to the chunk, it is not the one to give up.
/// To look through a large chunk may take longer than a statement of a request may.
pub(super) const PATIENCE: &str =
    "SET LOCAL lock_timeout = '500ms'; SET LOCAL statement_timeout = 0";

/// The oldest chunk of a table, if all of it is past its retention. The name is quoted.
const OLDEST_CHUNK: &str = "
    SELECT format('%I.%I', chunk_schema, chunk_name) AS name, range_start, range_end
    FROM timescaledb_information.chunks
    WHERE hypertable_name = $1 AND range_end <= $2
    ORDER BY range_end LIMIT 1";

#[derive(FromRow)]
struct Chunk {
    name: String,
    range_start: Micros,
    range_end: Micros,
}

/// The newest position of each partition in a chunk of the log.
const POSITIONS: &str = "
    SELECT log_partition, max(position) FROM device_log
    WHERE received >= $1 AND received < $2 GROUP BY log_partition";

/// Locks the heads in the order in which appends do.
const RAISE_HORIZONS: &str = "
    WITH gone AS (
        SELECT log_partition, new.position
        FROM unnest($1::smallint[], $2::bigint[]) AS new (log_partition, position)
        JOIN log_heads USING (log_partition)
        ORDER BY log_partition FOR UPDATE OF log_heads
    )
    UPDATE log_heads SET horizon = greatest(horizon, gone.position)
    FROM gone WHERE log_heads.log_partition = gone.log_partition";

/// Drops the chunks of a table that are past its retention.
pub(super) async fn prune(
    pool: &PgPool,
    lease: &Lease<'_>,
    table: &'static str,
    before: Timestamp,
) -> Result<()> {
    let mut chunks = 0;
    let dropped = loop {
        match lease.step(drop_oldest(pool, table, before)).await {
            Ok(true) => chunks += 1,
            end => break end,
        }
    };
    if chunks > 0 {
        tracing::info!(table, chunks, "dropped what is past its retention");
    }
    dropped.map(|_| ())
}

/// Drops the oldest chunk; false if there is none to drop now.
async fn drop_oldest(pool: &PgPool, table: &str, before: Timestamp) -> Result<bool> {
    let oldest: Option<Chunk> = sqlx::query_as(OLDEST_CHUNK)
        .bind(table)
        .bind(Micros(before.micros()))
        .fetch_optional(pool)
        .await?;
    let Some(chunk) = oldest else { return Ok(false) };
    let is_log = table == "device_log";
    let expected = if is_log { expire(pool, &chunk).await? } else { BTreeMap::new() };

    let mut tx = pool.begin().await?;
    tx.execute(PATIENCE).await?;
    if is_log {
        // Reading it goes on, adding to it does not.
        tx.execute(AssertSqlSafe(format!("LOCK TABLE {} IN SHARE MODE", chunk.name))).await?;
        if positions(&mut tx, &chunk).await? != expected {
            return Ok(false);
        }
    }
    // This one only: an older one may have been made meanwhile.
    sqlx::query("SELECT drop_telemetry_chunks($1, older_than => $2, newer_than => $3)")
        .bind(table)
        .bind(chunk.range_end)
        .bind(chunk.range_start)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(true)
}

/// Moves the horizon past all that is in a chunk, and answers that.
async fn expire(pool: &PgPool, chunk: &Chunk) -> Result<BTreeMap<i16, i64>> {
    let mut tx = pool.begin().await?;
    tx.execute("SET LOCAL statement_timeout = 0").await?;
    let gone = positions(&mut tx, chunk).await?;
    sqlx::query(RAISE_HORIZONS)
        .bind(gone.keys().copied().collect::<Vec<_>>())
        .bind(gone.values().copied().collect::<Vec<_>>())
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(gone)
}

async fn positions(connection: &mut PgConnection, chunk: &Chunk) -> Result<BTreeMap<i16, i64>> {
    let positions: Vec<(i16, i64)> = sqlx::query_as(POSITIONS)
        .bind(chunk.range_start)
        .bind(chunk.range_end)
        .fetch_all(connection)
        .await?;
    Ok(positions.into_iter().collect())
}
