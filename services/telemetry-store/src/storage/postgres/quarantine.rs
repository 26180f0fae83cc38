//! The quarantine on PostgreSQL.

use sqlx::{PgConnection, PgPool};
use telemetry_model::DeviceId;

use super::micros::Micros;
use crate::{
    error::Result,
    storage::quarantine::{Kept, QuarantineQuery, Quarantined, QuarantinedRow, kind_number},
};

const INSERT: &str = "
    INSERT INTO quarantine
        (received, topic, qos, device_id, kind, reason, field, detail, partial, payload)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";

pub(super) async fn insert(connection: &mut PgConnection, kept: &[Kept<'_>]) -> Result<()> {
    for Kept { topic, qos, refusal, partial } in kept {
        sqlx::query(INSERT)
            .bind(Micros(refusal.received.micros()))
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
    SELECT id, (extract(epoch FROM received) * 1000000)::bigint AS received_us,
           topic, qos, device_id, kind, reason, field, detail, partial, payload
    FROM quarantine
    WHERE ($1::text IS NULL OR device_id = $1) AND ($2::text IS NULL OR reason = $2)
      AND (cardinality($3::bigint[]) = 0 OR id = ANY($3)) AND ($4::bigint IS NULL OR id < $4)
      AND ($6::text[] IS NULL OR device_id ^@ ANY($6))
    ORDER BY id DESC LIMIT $5";

pub(super) async fn list(pool: &PgPool, query: &QuarantineQuery) -> Result<Vec<Quarantined>> {
    let rows: Vec<QuarantinedRow> = sqlx::query_as(LIST)
        .bind(query.device.as_ref().map(DeviceId::as_str))
        .bind(query.reason.as_deref())
        .bind(&query.ids)
        .bind(query.before)
        .bind(i64::try_from(query.limit).unwrap_or(i64::MAX))
        .bind(query.within.as_deref())
        .fetch_all(pool)
        .await?;
    rows.into_iter().map(TryInto::try_into).collect()
}

pub(super) async fn release(pool: &PgPool, ids: &[i64]) -> Result<()> {
    sqlx::query("DELETE FROM quarantine WHERE id = ANY($1)").bind(ids).execute(pool).await?;
    Ok(())
}

const SIZE: &str = "
    SELECT coalesce(sum(octet_length(payload) + octet_length(topic) + 256), 0)::bigint
    FROM quarantine";

pub(super) async fn size(pool: &PgPool) -> Result<i64> {
    Ok(sqlx::query_scalar(SIZE).fetch_one(pool).await?)
}
