//! SQLite: the embedded database of one process. One connection writes, several read.

mod deletion;
mod devices;
mod history;
mod ledger;
mod log;
mod prune;
mod quarantine;
mod reads;
mod tx;

use std::{borrow::Cow, str::FromStr, time::Duration};

use async_trait::async_trait;
use sqlx::{
    Executor, SqlitePool,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use telemetry_model::{
    Account, Device, DeviceId, DeviceQuery, Grid, Invalid, MetricName, Partition, Point, Positions,
    Presence, Reading, ReadingQuery, Selection, Sender, Series, Submission, Tally, TimeRange,
    Timestamp,
};
use tokio::sync::broadcast;

use self::tx::SqliteTx;
use super::{
    Commit, Deleted, LogPage, LogQuery, LogRange, Policy, QuarantineQuery, Quarantined, Scan,
    Storage, Summaries,
    append::{self, Shared},
    events,
    names::Unknown,
};
use crate::{error::Result, presence::Evidence};

pub(super) static MIGRATOR: Migrator = sqlx::migrate!("../../migrations/sqlite");

/// Commits a receiver may lag behind before it must look at the log by itself.
const COMMITS: usize = 1024;

fn options(url: &str) -> Result<SqliteConnectOptions> {
    let invalid = |error: sqlx::Error| Invalid::new("DATABASE_URL", error.to_string());
    let options = SqliteConnectOptions::from_str(url).map_err(invalid)?;
    // An acknowledgement means committed and synced.
    Ok(options
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(10))
        .pragma("cache_size", "-65536"))
}

/// A SQLite database.
#[derive(Debug)]
pub(super) struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
    /// For questions about the history, which may take long, but not for ever.
    queries: SqlitePool,
    shared: Shared,
    policy: Policy,
    commits: broadcast::Sender<Commit>,
}

impl Sqlite {
    /// Opens a database, makes it if it is not there, and brings its schema up to date.
    pub(super) async fn open(url: &str, policy: Policy) -> Result<Self> {
        let options = options(url)?;
        let pool = |connections| SqlitePoolOptions::new().max_connections(connections);
        let writer = pool(1).connect_with(options.clone()).await?;
        MIGRATOR.run(&writer).await?;
        let options = options.read_only(true);
        let readers = pool(4).connect_with(options.clone()).await?;
        let queries = pool(2).connect_with(options).await?;
        tracing::info!("sqlite: no compression or rollups, COMPRESS_AFTER is unused");
        let commits = broadcast::Sender::new(COMMITS);
        Ok(Self { writer, readers, queries, shared: Shared::new(policy), policy, commits })
    }

    /// Brings a database's schema up to date.
    pub(super) async fn migrate(url: &str) -> Result<()> {
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options(url)?).await?;
        MIGRATOR.run(&pool).await?;
        pool.close().await;
        Ok(())
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
                .fetch_one(&self.readers)
                .await?;
        let beyond = self.shared.fleet.bound(&mut new, devices, metrics);
        self.register(new).await?;
        Ok(beyond.refuse(batch))
    }

    /// Learns the numbers of names that were registered before we began.
    async fn look_up(&self, unknown: &Unknown) -> Result<()> {
        let (mut devices, mut metrics) = (Vec::new(), Vec::new());
        for device in unknown.devices.keys() {
            let id = sqlx::query_scalar("SELECT id FROM devices WHERE device_id = ?1");
            let id = id.bind(device.as_str()).fetch_optional(&self.readers).await?;
            devices.extend(id.map(|id| (device.as_str().to_owned(), id)));
        }
        for metric in &unknown.metrics {
            let id = sqlx::query_scalar("SELECT id FROM metrics WHERE name = ?1");
            let id = id.bind(metric.as_str()).fetch_optional(&self.readers).await?;
            metrics.extend(id.map(|id| (metric.as_str().to_owned(), id)));
        }
        self.shared.names.learn(unknown.forgotten, devices, metrics)
    }

    async fn register(&self, unknown: Unknown) -> Result<()> {
        let mut tx = self.writer.begin().await?;
        let (mut devices, mut metrics) = (Vec::new(), Vec::new());
        let forgotten = unknown.forgotten;
        for (device, first) in unknown.devices {
            // A conflict changes nothing, but makes the row be returned.
            let id = sqlx::query_scalar(
                "INSERT INTO devices (id, device_id, first_seen, last_seen)
                 VALUES (1 + max(coalesce((SELECT max(id) FROM devices), 0),
                                 coalesce((SELECT max(number) FROM audit), 0)), ?1, ?2, ?2)
                 ON CONFLICT (device_id) DO UPDATE SET device_id = device_id RETURNING id",
            )
            .bind(device.as_str())
            .bind(first.micros());
            devices.push((device.as_str().to_owned(), id.fetch_one(&mut *tx).await?));
        }
        for metric in unknown.metrics {
            let id = sqlx::query_scalar(
                "INSERT INTO metrics (name) VALUES (?1)
                 ON CONFLICT DO UPDATE SET name = name RETURNING id",
            )
            .bind(metric.as_str());
            metrics.push((metric.as_str().to_owned(), id.fetch_one(&mut *tx).await?));
        }
        tx.commit().await?;
        self.shared.names.learn(forgotten, devices, metrics)
    }
}

#[async_trait]
impl Storage for Sqlite {
    async fn append(&self, batch: &[Submission]) -> Result<Vec<Option<Tally>>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        for _ in 0..append::ATTEMPTS {
            let taken = self.register_names(batch).await?;
            let tx = SqliteTx::begin(&self.writer).await?;
            if let Some(tallies) = append::append(tx, &self.shared, &taken).await? {
                self.commits.send(Commit::of(batch)).ok();
                return Ok(tallies);
            }
        }
        Err(append::restless())
    }

    async fn introduce(&self, sender: &Sender, first_held: u64) -> Result<u64> {
        ledger::introduce(&self.writer, sender, first_held).await
    }

    async fn accounts(&self) -> Result<Vec<Account>> {
        ledger::accounts(&self.readers).await
    }

    async fn quarantine(&self, query: &QuarantineQuery) -> Result<Vec<Quarantined>> {
        quarantine::list(&self.readers, query).await
    }

    async fn release(&self, ids: &[i64]) -> Result<()> {
        quarantine::release(&self.writer, ids).await?;
        self.measure_quarantine().await
    }

    async fn measure_quarantine(&self) -> Result<()> {
        self.shared.room.measured(quarantine::size(&self.readers).await?);
        Ok(())
    }

    fn commits(&self) -> broadcast::Receiver<Commit> {
        self.commits.subscribe()
    }

    async fn log_range(&self) -> Result<LogRange> {
        log::range(&self.readers).await
    }

    async fn log_after(&self, query: &LogQuery<'_>) -> Result<Option<LogPage>> {
        log::after(&self.readers, query).await
    }

    async fn log_since(&self, partitions: &[Partition], time: Timestamp) -> Result<Positions> {
        log::since(&self.readers, partitions, time).await
    }

    async fn device(&self, device: &DeviceId) -> Result<Option<Device>> {
        let device = devices::device(&self.readers, device).await?;
        Ok(device.map(|device| self.shared.last_seen.complete(device)))
    }

    async fn devices(&self, query: &DeviceQuery) -> Result<Vec<Device>> {
        let devices = devices::devices(&self.readers, query).await?;
        Ok(devices.into_iter().map(|device| self.shared.last_seen.complete(device)).collect())
    }

    async fn presence(&self) -> Result<Vec<(Presence, u64)>> {
        devices::count(&self.readers).await
    }

    async fn metrics(&self, device: Option<&DeviceId>) -> Result<Vec<MetricName>> {
        reads::metrics(&self.readers, device).await
    }

    async fn latest(&self, device: &DeviceId, metrics: &[MetricName]) -> Result<Vec<Reading>> {
        reads::latest(&self.readers, device, metrics).await
    }

    async fn readings(&self, query: &ReadingQuery) -> Result<Vec<Reading>> {
        reads::readings(&self.readers, query).await
    }

    async fn summarize(&self, series: &Series, grid: &Grid) -> Result<Summaries> {
        let buckets = history::summarize(&self.queries, series, grid).await?;
        Ok(Summaries { buckets, rolled_up: false })
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
        let deleted = deletion::delete(&self.writer, device, who, now).await?;
        self.shared.last_seen.forget(device);
        self.measure_quarantine().await?;
        Ok(deleted)
    }

    async fn prune(&self, now: Timestamp) -> Result<()> {
        let pruned = prune::prune(&self.readers, &self.writer, now, self.policy).await;
        self.measure_quarantine().await?;
        pruned
    }

    async fn flush_devices(&self, now: Timestamp) -> Result<()> {
        let notes = self.shared.last_seen.pending();
        if notes.is_empty() {
            self.shared.last_seen.written();
            return Ok(());
        }
        devices::flush(&self.writer, &notes, now).await?;
        self.shared.last_seen.written();
        Ok(())
    }

    async fn judge(&self, now: Timestamp) -> Result<()> {
        let known = &self.shared.presence;
        let listeners = devices::listeners(&self.readers).await?;
        let evidence = Evidence::of(now, known.offline_after, &listeners);
        known.consider(&evidence);
        loop {
            let devices = devices::candidates(&self.readers, &evidence).await?;
            if devices.is_empty() {
                return Ok(());
            }
            let changed =
                known.judge(SqliteTx::begin(&self.writer).await?, &evidence, &devices).await?;
            // Another replica may have been faster.
            if changed.is_empty() {
                return Ok(());
            }
            self.commits.send(Commit::Devices(changed.into())).ok();
        }
    }

    async fn ping(&self) -> Result<()> {
        self.readers.execute("SELECT 1").await?;
        Ok(())
    }

    async fn close(&self) {
        self.queries.close().await;
        self.readers.close().await;
        self.writer.close().await;
    }
}
