//! TimescaleDB: several connections, several replicas, arrays in, `NOTIFY` out.
//!
//! Rows go in as arrays, not by `COPY`, though PostgreSQL takes `COPY` faster: the driver leaves
//! Nagle's algorithm on, and the message that ends a `COPY` then waits for the server's delayed
//! acknowledgement of the rows, 44 ms each time. Measured over loopback, 20,000 messages: 88 ms an
//! append with two `COPY`s, of which 3 ms were work.

mod columns;
pub(super) mod connect;
mod devices;
mod feed;
mod ledger;
mod micros;
mod prune;
mod quarantine;
mod reads;
mod tx;

use std::time::Duration;

use async_trait::async_trait;
use service_kit::lifecycle::Lifecycle;
use sqlx::{Executor, PgPool};
use telemetry_model::{
    Account, Bucket, Cursor, Device, DeviceId, DeviceQuery, MetricName, Presence, Reading,
    ReadingQuery, Sender, Submission, SummaryQuery, Tally, Timestamp,
};
use tokio::{sync::broadcast, time::timeout};

use self::{micros::Micros, tx::PgTx};
use super::{
    Commit, LogRange, Policy, QuarantineQuery, Quarantined, Storage, Tail,
    append::{self, Shared},
    events,
    names::Unknown,
};
use crate::{
    error::{Error, Result},
    presence::Evidence,
};

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

    /// Sees to it that all names in a batch have numbers.
    async fn register_names(&self, batch: &[Submission]) -> Result<()> {
        match self.shared.names.resolve(&events(batch)) {
            Ok(_) => Ok(()),
            Err(unknown) => self.register(unknown).await,
        }
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
        let known: Vec<(String, i32)> =
            sqlx::query_as("SELECT device_id, id FROM devices WHERE device_id = ANY($1)")
                .bind(&ids)
                .fetch_all(&self.pool)
                .await?;
        let names: Vec<_> = unknown.metrics.iter().map(|name| name.as_str().to_owned()).collect();
        sqlx::query("INSERT INTO metrics (name) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING")
            .bind(&names)
            .execute(&self.pool)
            .await?;
        let metrics: Vec<(String, i32)> =
            sqlx::query_as("SELECT name, id FROM metrics WHERE name = ANY($1)")
                .bind(&names)
                .fetch_all(&self.pool)
                .await?;
        self.shared.names.learn(known, metrics)
    }
}

/// Waits for a write, but not for ever. What was committed all the same is a duplicate next time.
async fn answered<T>(write: impl Future<Output = Result<T>>) -> Result<T> {
    let gone = |_| Error::Unavailable("the database does not answer".into());
    timeout(PATIENCE, write).await.map_err(gone)?
}

#[async_trait]
impl Storage for Postgres {
    async fn append(&self, batch: &[Submission]) -> Result<Vec<Option<Tally>>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let tallies = answered(async {
            self.register_names(batch).await?;
            let tx = PgTx::begin(&self.pool, &self.instance).await?;
            append::append(tx, &self.shared, batch).await
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
        let device = devices::device(&self.pool, device).await?;
        Ok(device.map(|device| self.shared.last_seen.complete(device)))
    }

    async fn devices(&self, query: &DeviceQuery) -> Result<Vec<Device>> {
        let devices = devices::devices(&self.pool, query).await?;
        Ok(devices.into_iter().map(|device| self.shared.last_seen.complete(device)).collect())
    }

    async fn presence(&self) -> Result<Vec<(Presence, u64)>> {
        devices::count(&self.pool).await
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

    async fn flush_devices(&self, now: Timestamp) -> Result<()> {
        let notes = self.shared.last_seen.pending();
        if notes.is_empty() {
            self.shared.last_seen.written();
            return Ok(());
        }
        answered(devices::flush(&self.pool, &notes, now)).await?;
        self.shared.last_seen.written();
        Ok(())
    }

    async fn judge(&self, now: Timestamp) -> Result<()> {
        let known = &self.shared.presence;
        let listeners = devices::listeners(&self.pool).await?;
        let evidence = Evidence::of(now, known.offline_after, &listeners);
        known.consider(&evidence);
        loop {
            let devices = devices::candidates(&self.pool, &evidence).await?;
            if devices.is_empty() {
                return Ok(());
            }
            let changed = answered(async {
                let tx = PgTx::begin(&self.pool, &self.instance).await?;
                known.judge(tx, &evidence, &devices).await
            })
            .await?;
            // Another replica may have been faster.
            if changed.is_empty() {
                return Ok(());
            }
            self.commits.send(Commit::Devices(changed.into())).ok();
        }
    }

    async fn ping(&self) -> Result<()> {
        self.pool.execute("SELECT 1").await?;
        Ok(())
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}
