//! TimescaleDB: several connections, several replicas, arrays in, `NOTIFY` out.
//!
//! Rows go in as arrays, not by `COPY`, though PostgreSQL takes `COPY` faster: the driver leaves
//! Nagle's algorithm on, and the message that ends a `COPY` then waits for the server's delayed
//! acknowledgement of the rows, 44 ms each time. Measured over loopback, 20,000 messages: 88 ms an
//! append with two `COPY`s, of which 3 ms were work.

mod columns;
pub(super) mod connect;
mod feed;
mod ledger;
mod micros;
mod prune;
mod quarantine;
mod reads;
mod tx;

use std::{borrow::Cow, time::Duration};

use async_trait::async_trait;
use service_kit::lifecycle::Lifecycle;
use sqlx::{Executor, PgPool};
use telemetry_model::{
    Account, Bucket, Cursor, Device, DeviceId, MetricName, Reading, ReadingQuery, Sender,
    Submission, SummaryQuery, Tally, Timestamp,
};
use tokio::{sync::broadcast, time::timeout};

use self::{micros::Micros, tx::PgTx};
use super::{
    Commit, LogRange, Policy, QuarantineQuery, Quarantined, Storage, Tail,
    append::{self, Shared},
    events,
    names::Unknown,
};
use crate::error::{Error, Result};

/// One of them listens.
const CONNECTIONS: u32 = 9;
/// Commits a receiver may lag behind before it must look at the log by itself.
const COMMITS: usize = 1024;

/// A write that takes longer waits for a server that is gone without a word: no timeout of the
/// server's own reaches us then. A bridge does not wait longer either.
const PATIENCE: Duration = Duration::from_secs(25);

/// A TimescaleDB database.
#[derive(Debug)]
pub(super) struct Postgres {
    pool: PgPool,
    shared: Shared,
    policy: Policy,
    commits: broadcast::Sender<Commit>,
    /// Tells our notifications from those of other processes.
    instance: String,
}

impl Postgres {
    /// Opens a database whose schema must be up to date.
    pub(super) async fn open(url: &str, policy: Policy, background: &Lifecycle) -> Result<Self> {
        let pool = connect::pool(url, CONNECTIONS).await?;
        connect::check_version(&pool).await?;
        let commits = broadcast::Sender::new(COMMITS);
        let instance: String =
            sqlx::query_scalar("SELECT gen_random_uuid()::text").fetch_one(&pool).await?;
        let feed = feed::run(pool.clone(), instance.clone(), commits.clone(), background.token());
        background.spawn("commit feed", feed);
        Ok(Self { pool, shared: Shared::new(policy), policy, commits, instance })
    }

    /// Brings a database's schema up to date.
    pub(super) async fn migrate(url: &str) -> Result<()> {
        connect::migrate(url).await
    }

    /// Sees to it that all names in a batch have numbers; answers the batch without those for which there
    /// is no room.
    async fn register_names<'a>(&self, batch: &'a [Submission]) -> Result<Cow<'a, [Submission]>> {
        let names = &self.shared.names;
        let Err(unknown) = names.resolve(&events(batch)) else { return Ok(Cow::Borrowed(batch)) };
        self.look_up(&unknown).await?;
        let Err(mut new) = names.resolve(&events(batch)) else { return Ok(Cow::Borrowed(batch)) };
        let (devices, metrics): (i64, i64) =
            sqlx::query_as("SELECT (SELECT count(*) FROM devices), (SELECT count(*) FROM metrics)")
                .fetch_one(&self.pool)
                .await?;
        let beyond = self.shared.fleet.bound(&mut new, devices, metrics);
        self.register(new).await?;
        Ok(beyond.refuse(batch))
    }

    /// Learns the numbers of names that others have registered.
    async fn look_up(&self, unknown: &Unknown) -> Result<()> {
        let ids: Vec<_> = unknown.devices.keys().map(|id| id.as_str().to_owned()).collect();
        let devices: Vec<(String, i32)> =
            sqlx::query_as("SELECT device_id, id FROM devices WHERE device_id = ANY($1)")
                .bind(&ids)
                .fetch_all(&self.pool)
                .await?;
        let names: Vec<_> = unknown.metrics.iter().map(|name| name.as_str().to_owned()).collect();
        let metrics: Vec<(String, i32)> =
            sqlx::query_as("SELECT name, id FROM metrics WHERE name = ANY($1)")
                .bind(&names)
                .fetch_all(&self.pool)
                .await?;
        self.shared.names.learn(devices, metrics)
    }

    async fn register(&self, unknown: Unknown) -> Result<()> {
        let ids: Vec<_> = unknown.devices.keys().map(|id| id.as_str().to_owned()).collect();
        let first: Vec<_> = unknown.devices.values().map(|time| Micros(time.micros())).collect();
        sqlx::query(
            "INSERT INTO devices (device_id, first_seen, last_seen)
             SELECT id, first, first FROM unnest($1::text[], $2::timestamptz[]) AS new (id, first)
             ON CONFLICT DO NOTHING",
        )
        .bind(&ids)
        .bind(first)
        .execute(&self.pool)
        .await?;
        let names: Vec<_> = unknown.metrics.iter().map(|name| name.as_str().to_owned()).collect();
        sqlx::query("INSERT INTO metrics (name) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING")
            .bind(&names)
            .execute(&self.pool)
            .await?;
        self.look_up(&unknown).await
    }
}

/// Waits for a write, but not for ever. What was committed all the same is a duplicate next time.
async fn answered<T>(write: impl Future<Output = Result<T>>) -> Result<T> {
    let gone = |_| Error::Unavailable("the database does not answer".into());
    timeout(PATIENCE, write).await.map_err(gone)?
}

/// Locks the devices in one order: two replicas that write notes on the same ones cannot deadlock.
/// (An update alone locks in the order of its plan, whatever the order of the array.)
const FLUSH: &str = "
    WITH known AS (
        SELECT devices.id, new.seen, new.heartbeat, new.skew
        FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::bigint[])
             AS new (device_id, seen, heartbeat, skew)
        JOIN devices USING (device_id)
        ORDER BY devices.id FOR UPDATE OF devices
    )
    UPDATE devices SET last_seen = greatest(devices.last_seen, known.seen),
           last_heartbeat = greatest(devices.last_heartbeat, known.heartbeat),
           clock_skew_us = coalesce(known.skew, devices.clock_skew_us)
    FROM known WHERE devices.id = known.id";

#[async_trait]
impl Storage for Postgres {
    async fn append(&self, batch: &[Submission]) -> Result<Vec<Option<Tally>>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let tallies = answered(async {
            let batch = self.register_names(batch).await?;
            let tx = PgTx::begin(&self.pool, &self.instance).await?;
            append::append(tx, &self.shared, &batch).await
        })
        .await?;
        self.commits.send(Commit::of(batch)).ok();
        Ok(tallies)
    }

    async fn introduce(&self, sender: &Sender, first_held: u64) -> Result<u64> {
        answered(ledger::introduce(&self.pool, sender, first_held)).await
    }

    async fn accounts(&self) -> Result<Vec<Account>> {
        ledger::accounts(&self.pool).await
    }

    async fn quarantine(&self, query: &QuarantineQuery) -> Result<Vec<Quarantined>> {
        quarantine::list(&self.pool, query).await
    }

    async fn release(&self, ids: &[i64]) -> Result<()> {
        answered(quarantine::release(&self.pool, ids)).await?;
        self.measure_quarantine().await
    }

    async fn measure_quarantine(&self) -> Result<()> {
        self.shared.room.measured(quarantine::size(&self.pool).await?);
        Ok(())
    }

    fn commits(&self) -> broadcast::Receiver<Commit> {
        self.commits.subscribe()
    }

    async fn log_range(&self, device: &DeviceId) -> Result<LogRange> {
        reads::log_range(&self.pool, device.partition()).await
    }

    async fn tail(&self, device: &DeviceId, after: Cursor, limit: usize) -> Result<Tail> {
        reads::tail(&self.pool, device, after, limit).await
    }

    async fn device(&self, device: &DeviceId) -> Result<Option<Device>> {
        let device = reads::device(&self.pool, device).await?;
        Ok(device.map(|device| self.shared.last_seen.complete(device)))
    }

    async fn devices(
        &self,
        within: Option<&[String]>,
        after: Option<&DeviceId>,
        limit: usize,
    ) -> Result<Vec<Device>> {
        let devices = reads::devices(&self.pool, within, after, limit).await?;
        Ok(devices.into_iter().map(|device| self.shared.last_seen.complete(device)).collect())
    }

    async fn metrics(&self, device: Option<&DeviceId>) -> Result<Vec<MetricName>> {
        reads::metrics(&self.pool, device).await
    }

    async fn latest(&self, device: &DeviceId, metrics: &[MetricName]) -> Result<Vec<Reading>> {
        reads::latest(&self.pool, device, metrics).await
    }

    async fn readings(&self, query: &ReadingQuery) -> Result<Vec<Reading>> {
        reads::readings(&self.pool, query).await
    }

    async fn summarize(&self, query: &SummaryQuery) -> Result<Vec<Bucket>> {
        reads::summarize(&self.pool, query).await
    }

    async fn prune(&self, now: Timestamp) -> Result<()> {
        let pruned = prune::prune(&self.pool, now, self.policy).await;
        self.measure_quarantine().await?;
        pruned
    }

    async fn flush_devices(&self) -> Result<()> {
        let notes = self.shared.last_seen.pending();
        if notes.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = notes.iter().map(|(id, _)| id.as_str().to_owned()).collect();
        let seen: Vec<_> = notes.iter().map(|(_, note)| Micros(note.seen.micros())).collect();
        let heartbeats = notes.iter().map(|(_, note)| note.heartbeat.map(|t| Micros(t.micros())));
        let flush = sqlx::query(FLUSH)
            .bind(ids)
            .bind(seen)
            .bind(heartbeats.collect::<Vec<_>>())
            .bind(notes.iter().map(|(_, note)| note.skew_us()).collect::<Vec<_>>());
        answered(async { Ok(flush.execute(&self.pool).await?) }).await?;
        self.shared.last_seen.written(&notes);
        Ok(())
    }

    async fn ping(&self) -> Result<()> {
        self.pool.execute("SELECT 1").await?;
        Ok(())
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}
