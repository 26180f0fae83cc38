//! TimescaleDB: several connections, several replicas, arrays in, `NOTIFY` out.
//!
//! Rows go in as arrays, not by `COPY`, though PostgreSQL takes `COPY` faster: the driver leaves
//! Nagle's algorithm on, and the message that ends a `COPY` then waits for the server's delayed
//! acknowledgement of the rows, 44 ms each time. Measured over loopback, 20,000 messages: 88 ms an
//! append with two `COPY`s, of which 3 ms were work.

mod columns;
mod community;
pub(super) mod connect;
mod deletion;
mod devices;
mod feed;
mod history;
mod housekeeping;
mod lease;
mod ledger;
mod log;
mod micros;
mod prune;
mod quarantine;
mod reads;
pub(super) mod rollups;
mod tx;

use std::{borrow::Cow, time::Duration};

use async_trait::async_trait;
use service_kit::lifecycle::Lifecycle;
use sqlx::{Executor, PgPool};
use telemetry_model::{
    Account, Device, DeviceId, DeviceQuery, Grid, MetricName, Partition, Point, Positions,
    Presence, Reading, ReadingQuery, Selection, Sender, Series, Submission, Tally, TimeRange,
    Timestamp,
};
use tokio::{sync::broadcast, time::timeout};

use self::{community::Edition, micros::Micros, tx::PgTx};
use super::{
    Commit, Deleted, LogPage, LogQuery, LogRange, Policy, QuarantineQuery, Quarantined, Scan,
    Storage, Summaries,
    append::{self, Shared},
    events,
    names::Unknown,
};
use crate::{
    error::{Error, Result},
    presence::Evidence,
};

/// Beside the one that listens.
const CONNECTIONS: u32 = 8;
/// What is asked of the history has its own: it must not keep anybody else waiting.
const QUERIES: u32 = 4;
/// Commits a receiver may lag behind before it must look at the log by itself.
const COMMITS: usize = 1024;

/// What takes longer waits for a server that is gone without a word: no timeout of the server's own
/// reaches us then. A bridge does not wait longer either.
const PATIENCE: Duration = Duration::from_secs(25);

/// A TimescaleDB database.
#[derive(Debug)]
pub(super) struct Postgres {
    pool: PgPool,
    /// For questions about the history, which may take long, but not for ever.
    queries: PgPool,
    /// As it was at the start.
    edition: Edition,
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
        let queries = connect::queries(url, QUERIES)?;
        connect::check_version(&pool).await?;
        let edition = community::edition(&pool).await?;
        community::tell(edition, policy.compress_after);
        let commits = broadcast::Sender::new(COMMITS);
        let instance: String =
            sqlx::query_scalar("SELECT gen_random_uuid()::text").fetch_one(&pool).await?;
        let feed = feed::run(pool.clone(), instance.clone(), commits.clone(), background.token());
        background.spawn("commit feed", feed);
        let shared = Shared::new(policy);
        Ok(Self { pool, queries, edition, shared, policy, commits, instance })
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
        self.shared.names.learn(unknown.forgotten, devices, metrics)
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

/// Waits for an answer, but not for ever. What was committed all the same is a duplicate next time.
async fn answered<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    let gone = |_| Error::Unavailable("the database does not answer".into());
    timeout(PATIENCE, call).await.map_err(gone)?
}

#[async_trait]
impl Storage for Postgres {
    async fn append(&self, batch: &[Submission]) -> Result<Vec<Option<Tally>>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let tallies = answered(async {
            for _ in 0..append::ATTEMPTS {
                let batch = self.register_names(batch).await?;
                let tx = PgTx::begin(&self.pool, &self.instance).await?;
                if let Some(tallies) = append::append(tx, &self.shared, &batch).await? {
                    return Ok(tallies);
                }
            }
            Err(append::restless())
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

    async fn log_range(&self) -> Result<LogRange> {
        answered(log::range(&self.pool)).await
    }

    async fn log_after(&self, query: &LogQuery<'_>) -> Result<Option<LogPage>> {
        answered(log::after(&self.pool, query)).await
    }

    async fn log_since(&self, partitions: &[Partition], time: Timestamp) -> Result<Positions> {
        log::since(&self.pool, partitions, time).await
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

    async fn summarize(&self, series: &Series, grid: &Grid) -> Result<Summaries> {
        history::summarize(&self.queries, self.edition, series, grid).await
    }

    async fn points(&self, series: &Series, range: TimeRange, limit: usize) -> Result<Vec<Point>> {
        history::points(&self.queries, series, range, limit).await
    }

    async fn point_before(&self, series: &Series, time: Timestamp) -> Result<Option<Point>> {
        history::point_before(&self.queries, series, time).await
    }

    async fn series(
        &self,
        selection: &Selection,
        after: Option<&Series>,
        limit: usize,
    ) -> Result<Vec<Series>> {
        history::series(&self.queries, selection, after, limit).await
    }

    async fn scan(&self, scan: Scan<'_>) -> Result<Vec<(usize, Reading)>> {
        history::scan(&self.queries, scan).await
    }

    async fn delete_device(&self, device: &DeviceId, who: &str, now: Timestamp) -> Result<Deleted> {
        let deleted = deletion::delete(&self.pool, device, who, now).await?;
        self.shared.last_seen.forget(device);
        self.measure_quarantine().await?;
        Ok(deleted)
    }

    async fn prune(&self, now: Timestamp) -> Result<()> {
        let kept_house = housekeeping::run(&self.pool, &self.instance, now, self.policy).await;
        self.measure_quarantine().await?;
        kept_house
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
        self.queries.close().await;
        self.pool.close().await;
    }
}
