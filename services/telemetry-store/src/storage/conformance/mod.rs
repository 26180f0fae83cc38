//! The one suite that every storage passes: each case is written once and run on each backend.

mod accounts;
mod appends;
mod data_life;
mod deletion;
mod exports;
mod fleet;
mod history;
mod log;
mod operations;
mod partitions;
mod presence;
mod quarantine;
mod reads;
mod times;
mod upgrades;
mod views;

use std::{sync::Arc, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use service_kit::lifecycle::Lifecycle;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use telemetry_model::{
    DeviceClock, DeviceId, Event, EventKind, Measurement, MetricName, Reading, Sample, Timestamp,
    Value,
};
use tempfile::TempDir;

use super::{Fleet, Policy, Storage, migrate, open};

/// A fresh database and a storage on it.
struct Fresh {
    storage: Arc<dyn Storage>,
    url: SecretString,
    background: Lifecycle,
    _folder: Option<TempDir>,
    database: Option<TestDatabase>,
}

impl Fresh {
    async fn sqlite() -> Self {
        let folder = TempDir::new().unwrap();
        let url = format!("sqlite://{}/telemetry.db", folder.path().display());
        Self::open(url, Some(folder), None).await
    }

    async fn timescaledb() -> Self {
        let database = TestDatabase::create().await;
        Self::open(database.url.clone(), None, Some(database)).await
    }

    async fn community() -> Self {
        let database = TestDatabase::of_community().await;
        Self::open(database.url.clone(), None, Some(database)).await
    }

    async fn open(url: String, folder: Option<TempDir>, database: Option<TestDatabase>) -> Self {
        let (url, background) = (SecretString::from(url), Lifecycle::new());
        migrate(&url).await.unwrap();
        let storage = open(&url, POLICY, &background).await.unwrap();
        Self { storage, url, background, _folder: folder, database }
    }

    /// Closes the storage and opens the database anew, as a restarted process would.
    async fn reopen(&mut self) {
        self.storage.close().await;
        self.storage = open(&self.url, POLICY, &self.background).await.unwrap();
    }

    /// The same with other limits.
    async fn reopen_with(&mut self, fleet: Fleet) {
        self.storage.close().await;
        let policy = Policy { fleet, ..POLICY };
        self.storage = open(&self.url, policy, &self.background).await.unwrap();
    }

    async fn close(self) {
        self.background.stop();
        assert!(self.background.drained().await);
        self.storage.close().await;
        if let Some(database) = self.database {
            database.drop().await;
        }
    }

    /// The URL as the driver takes it, for cases that need a session beside the storage.
    fn database_url(&self) -> &str {
        self.url.expose_secret()
    }
}

/// An empty database on a test server.
struct TestDatabase {
    /// None for the Community edition's, which makes what is connected to, and lets nobody listen.
    server: Option<String>,
    name: String,
    url: String,
}

impl TestDatabase {
    async fn create() -> Self {
        let database = Self::named_on("TELEMETRY_TEST_POSTGRES_URL");
        let server = database.server.as_ref().unwrap();
        let mut connection = PgConnection::connect(server).await.unwrap();
        let create = format!("CREATE DATABASE {}", database.name);
        connection.execute(AssertSqlSafe(create)).await.unwrap();
        database
    }

    async fn of_community() -> Self {
        let database = Self { server: None, ..Self::named_on("TELEMETRY_TEST_COMMUNITY_URL") };
        // To be made may take longer than a pool waits.
        PgConnection::connect(&database.url).await.unwrap().close().await.unwrap();
        database
    }

    fn named_on(variable: &str) -> Self {
        let server = std::env::var(variable)
            .unwrap_or_else(|_| panic!("{variable} is not set: run tests/run"));
        let name = format!("telemetry_store_{:016x}", fastrand::u64(..));
        let url = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
        Self { server: Some(server), name, url }
    }

    async fn drop(self) {
        let Some(server) = self.server else { return };
        let mut connection = PgConnection::connect(&server).await.unwrap();
        let drop_it = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        connection.execute(AssertSqlSafe(drop_it)).await.unwrap();
    }
}

/// How long readings and the log are kept.
const KEPT: Duration = Duration::from_hours(10 * 24);
/// The quarantine is small enough to be filled.
const POLICY: Policy = Policy {
    readings: KEPT,
    compress_after: Duration::from_hours(2 * 24),
    rollups: KEPT,
    log: KEPT,
    quarantine: KEPT,
    quarantine_bytes: 100_000,
    offline_after: Duration::from_mins(3),
    fleet: Fleet { devices: 1_000_000, metrics: 10_000 },
};

/// Deletes what came before a time.
async fn prune_before(storage: &Arc<dyn Storage>, before: Timestamp) -> crate::Result<()> {
    storage.prune(before.plus(KEPT)).await
}

/// Stamps each case for each backend.
macro_rules! on_each_backend {
    ($($name:ident),+ $(,)?) => {
        mod sqlite { $(
            #[tokio::test]
            async fn $name() {
                let mut fresh = crate::storage::conformance::Fresh::sqlite().await;
                super::$name(&mut fresh).await;
                fresh.close().await;
            }
        )+ }
        mod timescaledb { $(
            #[tokio::test]
            async fn $name() {
                let mut fresh = crate::storage::conformance::Fresh::timescaledb().await;
                super::$name(&mut fresh).await;
                fresh.close().await;
            }
        )+ }
        mod community { $(
            #[tokio::test]
            async fn $name() {
                let mut fresh = crate::storage::conformance::Fresh::community().await;
                super::$name(&mut fresh).await;
                fresh.close().await;
            }
        )+ }
    };
}
use on_each_backend;

/// 2026-01-07T12:00:00Z plus so many seconds.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros((1_767_787_200 + seconds) * 1_000_000).unwrap()
}

fn device(id: &str) -> DeviceId {
    DeviceId::parse(id).unwrap()
}

fn metric(name: &str) -> MetricName {
    MetricName::parse(name).unwrap()
}

fn sample(clock: DeviceClock, values: &[(&str, Value)]) -> Sample {
    let measurement = |(name, value): &(&str, Value)| {
        let metric = metric(name);
        Measurement { metric, value: value.clone() }
    };
    Sample { clock, measurements: values.iter().map(measurement).collect() }
}

/// A telemetry event that says its time, received a second later.
fn telemetry(id: &str, seconds: i64, values: &[(&str, Value)]) -> Event {
    let samples = vec![sample(DeviceClock::Wall(at(seconds)), values)];
    Event {
        device: device(id),
        kind: EventKind::Telemetry,
        received: at(seconds + 1),
        samples,
        trace: None,
    }
}

fn heartbeat(id: &str, seconds: i64, samples: Vec<Sample>) -> Event {
    Event {
        device: device(id),
        kind: EventKind::Heartbeat,
        received: at(seconds),
        samples,
        trace: None,
    }
}

/// Everything stored of a device, oldest first.
async fn all(storage: &Arc<dyn Storage>, id: &str) -> Vec<Reading> {
    let range = telemetry_model::TimeRange { start: Timestamp::MIN, end: Timestamp::MAX };
    let query = telemetry_model::ReadingQuery {
        device: device(id),
        metrics: vec![],
        range,
        order: telemetry_model::Order::OldestFirst,
        after: None,
        limit: 100_000,
    };
    storage.readings(&query).await.unwrap()
}
