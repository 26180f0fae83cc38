//! The quarantine on SQLite.

use sqlx::{SqliteConnection, SqlitePool};
use telemetry_model::DeviceId;

use super::reads::prefixes;
use crate::{
    error::Result,
    storage::quarantine::{Kept, QuarantineQuery, Quarantined, QuarantinedRow, kind_number},
};

const INSERT: &str = "
    INSERT INTO quarantine
        (received, topic, qos, device_id, kind, reason, field, detail, partial, payload)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

pub(super) async fn insert(connection: &mut SqliteConnection, kept: &[Kept<'_>]) -> Result<()> {
    for Kept { topic, qos, refusal, partial } in kept {
        sqlx::query(INSERT)
            .bind(refusal.received.micros())
            .bind(topic)
            .bind(i16::from(*qos))
            .bind(refusal.device.as_ref().map(DeviceId::as_str))
            .bind(refusal.kind.map(kind_number))
            .bind(&refusal.reason)
            .bind(&refusal.field)
            .bind(&refusal.detail)
            .bind(partial)
            .bind(&refusal.payload)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

const LIST: &str = "
    SELECT id, received AS received_us,
           topic, qos, device_id, kind, reason, field, detail, partial, payload
    FROM quarantine
    WHERE (?1 IS NULL OR device_id = ?1) AND (?2 IS NULL OR reason = ?2)
      AND (?3 = '[]' OR id IN (SELECT value FROM json_each(?3))) AND (?4 IS NULL OR id < ?4)
      AND (?6 IS NULL OR EXISTS (
          SELECT 1 FROM json_each(?6) WHERE substr(device_id, 1, length(value)) = value))
    ORDER BY id DESC LIMIT ?5";

pub(super) async fn list(
    readers: &SqlitePool,
    query: &QuarantineQuery,
) -> Result<Vec<Quarantined>> {
    let rows: Vec<QuarantinedRow> = sqlx::query_as(LIST)
        .bind(query.device.as_ref().map(DeviceId::as_str))
        .bind(query.reason.as_deref())
        .bind(json(&query.ids))
        .bind(query.before)
        .bind(i64::try_from(query.limit).unwrap_or(i64::MAX))
        .bind(query.within.as_deref().map(prefixes))
        .fetch_all(readers)
        .await?;
    rows.into_iter().map(TryInto::try_into).collect()
}

pub(super) async fn release(writer: &SqlitePool, ids: &[i64]) -> Result<()> {
    sqlx::query("DELETE FROM quarantine WHERE id IN (SELECT value FROM json_each(?1))")
        .bind(json(ids))
        .execute(writer)
        .await?;
    Ok(())
}

fn json(ids: &[i64]) -> String {
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    format!("[{}]", ids.join(","))
}

const SIZE: &str = "
    SELECT coalesce(sum(octet_length(payload) + octet_length(topic) + 256), 0) FROM quarantine";

pub(super) async fn size(readers: &SqlitePool) -> Result<i64> {
    Ok(sqlx::query_scalar(SIZE).fetch_one(readers).await?)
}
