//! Reading the log on SQLite: the same answers as PostgreSQL's.

use sqlx::{Connection, QueryBuilder, Sqlite as Db, SqliteConnection, SqlitePool};
use telemetry_model::{Partition, Positions, Timestamp};

use crate::{
    error::Result,
    storage::log::{self, LogPage, LogQuery, LogRange, PartitionPage},
};

pub(super) async fn range(pool: &SqlitePool) -> Result<LogRange> {
    let heads = sqlx::query_as("SELECT log_partition, horizon, head FROM log_heads");
    LogRange::new(heads.fetch_all(pool).await?)
}

/// In one transaction, so that heads and events are of one moment.
pub(super) async fn after(pool: &SqlitePool, query: &LogQuery<'_>) -> Result<Option<LogPage>> {
    let mut connection = pool.acquire().await?;
    let mut tx = connection.begin().await?;
    let heads: Vec<(i16, i64, i64)> =
        sqlx::query_as("SELECT log_partition, horizon, head FROM log_heads ORDER BY log_partition")
            .fetch_all(&mut *tx)
            .await?;
    let mut pages = Vec::with_capacity(query.partitions.len());
    for (number, horizon, head) in heads {
        let partition = log::partition(number)?;
        if !query.partitions.contains(&partition) {
            continue;
        }
        let is_new = head > query.after.get(partition);
        let records = if is_new { records(&mut tx, query, partition).await? } else { Vec::new() };
        pages.push(PartitionPage { partition, horizon, head, records });
    }
    LogPage::new(query, pages)
}

async fn records(
    connection: &mut SqliteConnection,
    query: &LogQuery<'_>,
    partition: Partition,
) -> Result<Vec<(i64, Vec<u8>)>> {
    let after = query.after.get(partition);
    let Some(devices) = query.devices else {
        let select = sqlx::query_as(
            "SELECT position, event FROM device_log
             WHERE log_partition = ?1 AND position > ?2 ORDER BY position LIMIT ?3",
        );
        let select = select.bind(log::number(partition)).bind(after).bind(query.sql_limit());
        return Ok(select.fetch_all(connection).await?);
    };
    let mut select = QueryBuilder::<Db>::new(
        "SELECT position, event FROM device_log
         WHERE device_id IN (SELECT id FROM devices WHERE device_id IN (",
    );
    let mut list = select.separated(", ");
    for device in devices.iter().filter(|device| device.partition() == partition) {
        list.push_bind(device.as_str());
    }
    select.push(")) AND position > ").push_bind(after);
    select.push(" ORDER BY position LIMIT ").push_bind(query.sql_limit());
    Ok(select.build_query_as().persistent(false).fetch_all(connection).await?)
}

const SINCE: &str = "
    SELECT coalesce(
        (SELECT position - 1 FROM device_log AS log
         WHERE log.log_partition = heads.log_partition AND received >= ?2
         ORDER BY position LIMIT 1),
        head)
    FROM log_heads AS heads WHERE log_partition = ?1";

pub(super) async fn since(
    pool: &SqlitePool,
    partitions: &[Partition],
    time: Timestamp,
) -> Result<Positions> {
    let mut positions = Positions::start();
    for partition in partitions {
        let position = sqlx::query_scalar(SINCE).bind(log::number(*partition)).bind(time.micros());
        positions.advance(*partition, position.fetch_one(pool).await?);
    }
    Ok(positions)
}
