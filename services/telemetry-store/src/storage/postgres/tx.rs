//! The statements of an append on PostgreSQL.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use sqlx::{Executor, FromRow, PgPool, Transaction};
use telemetry_model::{Partition, ProcessId, Standing, Value};

use super::{columns::ReadingColumns, devices, ledger, micros::Micros, quarantine};
use crate::{
    clock_repair::Boot,
    error::Result,
    storage::{
        append::{AppendTx, Head, Identity, LogRow, Row},
        ledger::Entry,
        placing::BootChanges,
        presence::Found,
        quarantine::Kept,
        rows::{self, ValueColumns},
    },
};

/// The SQLSTATE of a unique violation.
const UNIQUE_VIOLATION: &str = "23505";
/// Where a pooler stands between, what was set for the session may be another's. An acknowledgement
/// means committed and synced; what is late may go into any number of compressed readings.
pub(super) const BEGIN: &str = "BEGIN; SET LOCAL synchronous_commit = on;
    SET LOCAL timescaledb.max_tuples_decompressed_per_dml_transaction = 0";
/// The channel on which replicas tell each other of commits.
pub(super) const CHANNEL: &str = "telemetry_commits";

/// An open transaction.
#[derive(Debug)]
pub(super) struct PgTx<'a> {
    tx: Transaction<'static, sqlx::Postgres>,
    instance: &'a str,
}

impl<'a> PgTx<'a> {
    pub(super) async fn begin(pool: &PgPool, instance: &'a str) -> Result<Self> {
        Ok(Self { tx: pool.begin_with(BEGIN).await?, instance })
    }

    async fn save_boots(&mut self, BootChanges { saved, gone }: &BootChanges) -> Result<()> {
        if !saved.is_empty() {
            sqlx::query(SAVE_BOOTS)
                .bind(saved.iter().map(|(device, _)| *device).collect::<Vec<_>>())
                .bind(saved.iter().map(|(_, b)| b.number).collect::<Vec<_>>())
                .bind(saved.iter().map(|(_, b)| Micros(b.booted.micros())).collect::<Vec<_>>())
                .bind(saved.iter().map(|(_, b)| b.first_uptime_ms).collect::<Vec<_>>())
                .bind(saved.iter().map(|(_, b)| b.last_uptime_ms).collect::<Vec<_>>())
                .execute(&mut *self.tx)
                .await?;
        }
        if !gone.is_empty() {
            sqlx::query(FORGET_BOOTS)
                .bind(gone.iter().map(|(device, _)| *device).collect::<Vec<_>>())
                .bind(gone.iter().map(|(_, number)| *number).collect::<Vec<_>>())
                .execute(&mut *self.tx)
                .await?;
        }
        Ok(())
    }
}

#[derive(FromRow)]
struct StoredRow {
    device_id: i32,
    metric_id: i32,
    time: Micros,
    number: Option<f64>,
    integer: Option<i64>,
    flag: Option<bool>,
    text: Option<String>,
}

/// The time bounds let TimescaleDB leave out the chunks that cannot matter.
const STORED: &str = "
    SELECT r.device_id, r.metric_id, r.time, r.number, r.integer, r.flag, r.text
    FROM unnest($1::integer[], $2::integer[], $3::timestamptz[]) AS asked (device_id, metric_id, time)
    JOIN readings r USING (device_id, metric_id, time)
    WHERE r.time BETWEEN $4 AND $5";

const BOOTS: &str = "
    SELECT device_id, boot, booted, first_uptime_ms, last_uptime_ms
    FROM device_boots WHERE device_id = ANY($1)";

const SAVE_BOOTS: &str = "
    INSERT INTO device_boots (device_id, boot, booted, first_uptime_ms, last_uptime_ms)
    SELECT * FROM unnest($1::integer[], $2::integer[], $3::timestamptz[], $4::bigint[], $5::bigint[])
    ON CONFLICT (device_id, boot) DO UPDATE SET last_uptime_ms = excluded.last_uptime_ms";

const FORGET_BOOTS: &str = "
    DELETE FROM device_boots USING unnest($1::integer[], $2::integer[]) AS gone (device, number)
    WHERE device_id = gone.device AND boot = gone.number";

#[async_trait]
impl AppendTx for PgTx<'_> {
    async fn lock_accounts(&mut self, processes: &[ProcessId]) -> Result<Vec<(ProcessId, u64)>> {
        ledger::lock(&mut self.tx, processes).await
    }

    async fn lock_heads(&mut self, partitions: &[Partition]) -> Result<Vec<Head>> {
        let heads: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT head, deletions FROM log_heads WHERE log_partition = ANY($1)
             ORDER BY log_partition FOR UPDATE",
        )
        .bind(numbers(partitions))
        .fetch_all(&mut *self.tx)
        .await?;
        if heads.len() != partitions.len() {
            return Err(rows::corrupt("a log has no head"));
        }
        let head = |(position, deletions)| Head { position, deletions };
        Ok(heads.into_iter().map(head).collect())
    }

    async fn boots(&mut self, devices: &[i32]) -> Result<Vec<(i32, Boot)>> {
        let boots: Vec<(i32, i32, Micros, i64, i64)> =
            sqlx::query_as(BOOTS).bind(devices).fetch_all(&mut *self.tx).await?;
        let boot = |(device, number, Micros(booted), first_uptime_ms, last_uptime_ms)| {
            let booted = rows::timestamp(booted)?;
            Ok((device, Boot { number, booted, first_uptime_ms, last_uptime_ms }))
        };
        boots.into_iter().map(boot).collect()
    }

    async fn stored(&mut self, identities: &[Identity]) -> Result<HashMap<Identity, Value>> {
        let times = || identities.iter().map(|id| id.time.micros());
        let (Some(first), Some(last)) = (times().min(), times().max()) else {
            return Ok(HashMap::new());
        };
        let stored: Vec<StoredRow> = sqlx::query_as(STORED)
            .bind(identities.iter().map(|id| id.device).collect::<Vec<_>>())
            .bind(identities.iter().map(|id| id.metric).collect::<Vec<_>>())
            .bind(times().map(Micros).collect::<Vec<_>>())
            .bind(Micros(first))
            .bind(Micros(last))
            .fetch_all(&mut *self.tx)
            .await?;
        let entry = |row: StoredRow| {
            let StoredRow { device_id, metric_id, time, number, integer, flag, text } = row;
            let time = rows::timestamp(time.0)?;
            let identity = Identity { device: device_id, metric: metric_id, time };
            Ok((identity, ValueColumns { number, integer, flag, text }.value()?))
        };
        stored.into_iter().map(entry).collect()
    }

    async fn insert_readings(&mut self, rows: &[Row<'_>]) -> Result<bool> {
        let columns = ReadingColumns::of(rows);
        self.tx.execute("SAVEPOINT readings").await?;
        let inserted = columns.insert(&mut self.tx).await;
        match inserted {
            Ok(()) => {
                self.tx.execute("RELEASE SAVEPOINT readings").await?;
                Ok(true)
            }
            Err(sqlx::Error::Database(error))
                if error.code().as_deref() == Some(UNIQUE_VIOLATION) =>
            {
                self.tx.execute("ROLLBACK TO SAVEPOINT readings").await?;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn insert_log(&mut self, rows: &[LogRow]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let partitions: Vec<_> = rows.iter().map(|row| row.cursor.partition).collect();
        sqlx::query(
            "INSERT INTO device_log (received, position, device_id, log_partition, event)
             SELECT * FROM unnest($1::timestamptz[], $2::bigint[], $3::integer[],
                                  $4::smallint[], $5::bytea[])",
        )
        .bind(rows.iter().map(|row| Micros(row.received.micros())).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.cursor.position).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.device).collect::<Vec<_>>())
        .bind(numbers(&partitions))
        .bind(rows.iter().map(|row| row.record.as_slice()).collect::<Vec<_>>())
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    async fn save(
        &mut self,
        heads: &BTreeMap<Partition, i64>,
        boots: &BootChanges,
        device_metrics: &[(i32, i32)],
    ) -> Result<()> {
        sqlx::query(
            "UPDATE log_heads SET head = new.head
             FROM unnest($1::smallint[], $2::bigint[]) AS new (log_partition, head)
             WHERE log_heads.log_partition = new.log_partition AND log_heads.head <> new.head",
        )
        .bind(numbers(&heads.keys().copied().collect::<Vec<_>>()))
        .bind(heads.values().copied().collect::<Vec<_>>())
        .execute(&mut *self.tx)
        .await?;
        self.save_boots(boots).await?;
        if !device_metrics.is_empty() {
            sqlx::query(
                "INSERT INTO device_metrics (device_id, metric_id)
                 SELECT * FROM unnest($1::integer[], $2::integer[]) ON CONFLICT DO NOTHING",
            )
            .bind(device_metrics.iter().map(|(device, _)| *device).collect::<Vec<_>>())
            .bind(device_metrics.iter().map(|(_, metric)| *metric).collect::<Vec<_>>())
            .execute(&mut *self.tx)
            .await?;
        }
        Ok(())
    }

    async fn insert_quarantine(&mut self, kept: &[Kept<'_>]) -> Result<()> {
        quarantine::insert(&mut self.tx, kept).await
    }

    async fn save_accounts(&mut self, entries: &BTreeMap<&str, Entry<'_>>) -> Result<()> {
        ledger::save(&mut self.tx, entries).await
    }

    async fn standings(&mut self, devices: &[i32]) -> Result<Vec<Found>> {
        devices::standings(&mut self.tx, devices).await
    }

    async fn save_standings(&mut self, standings: &[(i32, Standing)]) -> Result<()> {
        devices::save_standings(&mut self.tx, standings).await
    }

    async fn commit(mut self, partitions: &[Partition]) -> Result<()> {
        if !partitions.is_empty() {
            let numbers: Vec<_> = partitions.iter().map(|p| p.number().to_string()).collect();
            sqlx::query("SELECT pg_notify($1, $2)")
                .bind(CHANNEL)
                .bind(format!("{} {}", self.instance, numbers.join(",")))
                .execute(&mut *self.tx)
                .await?;
        }
        self.tx.commit().await?;
        Ok(())
    }
}

fn numbers(partitions: &[Partition]) -> Vec<i16> {
    let number = |partition: &Partition| i16::try_from(partition.number());
    partitions.iter().map(|p| number(p).expect("a partition number is below 32")).collect()
}
