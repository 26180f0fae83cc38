//! The statements of an append on SQLite.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use sqlx::{Executor, QueryBuilder, Sqlite as Db, SqlitePool, Transaction};
use telemetry_model::{Partition, ProcessId, Standing, Value};

use super::{devices, ledger, quarantine};
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

/// Rows per statement: SQLite takes 32766 parameters.
const ROWS: usize = 4000;

/// An open transaction.
#[derive(Debug)]
pub(super) struct SqliteTx {
    tx: Transaction<'static, Db>,
}

impl SqliteTx {
    pub(super) async fn begin(writer: &SqlitePool) -> Result<Self> {
        Ok(Self { tx: writer.begin_with("BEGIN IMMEDIATE").await? })
    }

    async fn save_boots(&mut self, boots: &BootChanges) -> Result<()> {
        for (device, boot) in &boots.saved {
            sqlx::query(SAVE_BOOT)
                .bind(device)
                .bind(boot.number)
                .bind(boot.booted.micros())
                .bind(boot.first_uptime_ms)
                .bind(boot.last_uptime_ms)
                .execute(&mut *self.tx)
                .await?;
        }
        for (device, number) in &boots.gone {
            sqlx::query("DELETE FROM device_boots WHERE device_id = ?1 AND boot = ?2")
                .bind(device)
                .bind(number)
                .execute(&mut *self.tx)
                .await?;
        }
        Ok(())
    }
}

/// The boots of a list of devices, given as JSON.
const BOOTS: &str = "
    SELECT device_id, boot, booted, first_uptime_ms, last_uptime_ms
    FROM device_boots WHERE device_id IN (SELECT value FROM json_each(?1))";

const SAVE_BOOT: &str = "
    INSERT INTO device_boots (device_id, boot, booted, first_uptime_ms, last_uptime_ms)
    VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT DO UPDATE SET last_uptime_ms = excluded.last_uptime_ms";

type StoredRow = (i32, i32, i64, Option<f64>, Option<i64>, Option<bool>, Option<String>);

#[async_trait]
impl AppendTx for SqliteTx {
    async fn lock_accounts(&mut self, processes: &[ProcessId]) -> Result<Vec<(ProcessId, u64)>> {
        ledger::read(&mut self.tx, processes).await
    }

    async fn lock_heads(&mut self, partitions: &[Partition]) -> Result<Vec<Head>> {
        // There is one writer, so nothing needs a lock.
        let heads: Vec<(i64, i64, i64)> =
            sqlx::query_as("SELECT log_partition, head, deletions FROM log_heads")
                .fetch_all(&mut *self.tx)
                .await?;
        let head = |(partition, position, deletions)| (partition, Head { position, deletions });
        let heads: HashMap<_, _> = heads.into_iter().map(head).collect();
        let head = |p: &Partition| heads.get(&i64::from(p.number())).copied();
        let heads: Option<_> = partitions.iter().map(head).collect();
        heads.ok_or_else(|| rows::corrupt("a log has no head"))
    }

    async fn boots(&mut self, devices: &[i32]) -> Result<Vec<(i32, Boot)>> {
        let list: Vec<_> = devices.iter().map(ToString::to_string).collect();
        let boots: Vec<(i32, i32, i64, i64, i64)> = sqlx::query_as(BOOTS)
            .bind(format!("[{}]", list.join(",")))
            .fetch_all(&mut *self.tx)
            .await?;
        let boot = |(device, number, booted, first_uptime_ms, last_uptime_ms)| {
            let booted = rows::timestamp(booted)?;
            Ok((device, Boot { number, booted, first_uptime_ms, last_uptime_ms }))
        };
        boots.into_iter().map(boot).collect()
    }

    async fn stored(&mut self, identities: &[Identity]) -> Result<HashMap<Identity, Value>> {
        let mut all = HashMap::new();
        for chunk in identities.chunks(ROWS) {
            let mut select = QueryBuilder::<Db>::new(
                "SELECT device_id, metric_id, time, number, integer, flag, text FROM readings
                 WHERE (device_id, metric_id, time) IN (",
            );
            select.push_values(chunk, |mut row, id| {
                row.push_bind(id.device).push_bind(id.metric).push_bind(id.time.micros());
            });
            select.push(")");
            let select = select.build_query_as::<StoredRow>().persistent(false);
            for row in select.fetch_all(&mut *self.tx).await? {
                let (device, metric, time, number, integer, flag, text) = row;
                let identity = Identity { device, metric, time: rows::timestamp(time)? };
                let value = ValueColumns { number, integer, flag, text }.value()?;
                all.insert(identity, value);
            }
        }
        Ok(all)
    }

    async fn insert_readings(&mut self, rows: &[Row<'_>]) -> Result<bool> {
        self.tx.execute("SAVEPOINT readings").await?;
        let mut inserted = 0;
        for chunk in rows.chunks(ROWS) {
            let mut insert = QueryBuilder::<Db>::new(
                "INSERT INTO readings
                 (device_id, metric_id, time, time_source, number, integer, flag, text) ",
            );
            insert.push_values(chunk, |mut row, reading| {
                let (identity, value) = (reading.identity, &reading.measurement.value);
                row.push_bind(identity.device)
                    .push_bind(identity.metric)
                    .push_bind(identity.time.micros())
                    .push_bind(rows::time_source_number(reading.time_source))
                    .push_bind(if let Value::Number(n) = value { Some(*n) } else { None })
                    .push_bind(if let Value::Integer(n) = value { Some(*n) } else { None })
                    .push_bind(if let Value::Flag(flag) = value { Some(*flag) } else { None })
                    .push_bind(if let Value::Text(t) = value { Some(t.as_ref()) } else { None });
            });
            insert.push(" ON CONFLICT DO NOTHING");
            // The usual full statement is worth keeping prepared, the odd rest is not.
            let insert = insert.build().persistent(chunk.len() == ROWS);
            inserted += insert.execute(&mut *self.tx).await?.rows_affected();
        }
        let all = usize::try_from(inserted) == Ok(rows.len());
        if !all {
            self.tx.execute("ROLLBACK TO SAVEPOINT readings").await?;
        }
        self.tx.execute("RELEASE SAVEPOINT readings").await?;
        Ok(all)
    }

    async fn insert_log(&mut self, rows: &[LogRow]) -> Result<()> {
        for chunk in rows.chunks(ROWS) {
            let mut insert = QueryBuilder::<Db>::new(
                "INSERT INTO device_log (device_id, position, log_partition, received, event) ",
            );
            insert.push_values(chunk, |mut row, log| {
                row.push_bind(log.device)
                    .push_bind(log.cursor.position)
                    .push_bind(i32::from(log.cursor.partition.number()))
                    .push_bind(log.received.micros())
                    .push_bind(log.record.as_slice());
            });
            insert.build().persistent(false).execute(&mut *self.tx).await?;
        }
        Ok(())
    }

    async fn save(
        &mut self,
        heads: &BTreeMap<Partition, i64>,
        boots: &BootChanges,
        device_metrics: &[(i32, i32)],
    ) -> Result<()> {
        for (partition, head) in heads {
            sqlx::query("UPDATE log_heads SET head = ?2 WHERE log_partition = ?1")
                .bind(i32::from(partition.number()))
                .bind(head)
                .execute(&mut *self.tx)
                .await?;
        }
        self.save_boots(boots).await?;
        for chunk in device_metrics.chunks(ROWS) {
            let mut insert =
                QueryBuilder::<Db>::new("INSERT INTO device_metrics (device_id, metric_id) ");
            insert.push_values(chunk, |mut row, (device, metric)| {
                row.push_bind(device).push_bind(metric);
            });
            insert.push(" ON CONFLICT DO NOTHING");
            insert.build().persistent(false).execute(&mut *self.tx).await?;
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

    async fn commit(self, _partitions: &[Partition]) -> Result<()> {
        self.tx.commit().await?;
        Ok(())
    }
}
