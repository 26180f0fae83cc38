//! The deletion of a device on SQLite.

use sqlx::{SqliteConnection, SqlitePool};
use telemetry_model::{DeviceId, Timestamp};

use crate::{
    error::{Error, Result},
    storage::Deleted,
};

const COUNT: &str = "UPDATE log_heads SET deletions = deletions + 1 WHERE log_partition = ?1";

const AUDIT: &str = "
    INSERT INTO audit (at, actor, action, subject, number, readings, events, quarantined)
    VALUES (?1, ?2, 'delete_device', ?3, ?4, ?5, ?6, ?7)";

pub(super) async fn delete(
    pool: &SqlitePool,
    device: &DeviceId,
    who: &str,
    now: Timestamp,
) -> Result<Deleted> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    let partition = i32::from(device.partition().number());
    sqlx::query(COUNT).bind(partition).execute(&mut *tx).await?;
    let number = sqlx::query_scalar("SELECT id FROM devices WHERE device_id = ?1");
    let number: Option<i32> = number.bind(device.as_str()).fetch_optional(&mut *tx).await?;
    let number = number.ok_or_else(|| Error::UnknownDevice(device.clone()))?;
    let of_number = async |tx: &mut SqliteConnection, delete: &'static str| -> Result<u64> {
        Ok(sqlx::query(delete).bind(number).execute(tx).await?.rows_affected())
    };
    let readings = of_number(&mut tx, "DELETE FROM readings WHERE device_id = ?1").await?;
    let events = of_number(&mut tx, "DELETE FROM device_log WHERE device_id = ?1").await?;
    of_number(&mut tx, "DELETE FROM device_boots WHERE device_id = ?1").await?;
    of_number(&mut tx, "DELETE FROM device_metrics WHERE device_id = ?1").await?;
    let quarantined = sqlx::query("DELETE FROM quarantine WHERE device_id = ?1");
    let quarantined = quarantined.bind(device.as_str()).execute(&mut *tx).await?.rows_affected();
    of_number(&mut tx, "DELETE FROM devices WHERE id = ?1").await?;
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    sqlx::query(AUDIT)
        .bind(now.micros())
        .bind(who)
        .bind(device.as_str())
        .bind(number)
        .bind(count(readings))
        .bind(count(events))
        .bind(count(quarantined))
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(Deleted { readings, events, quarantined })
}
